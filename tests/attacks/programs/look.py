# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Opens the paths it is given, lists the directories it is given (those with a /)."""

from __future__ import annotations

inside()

answers = {}
for path in sys.argv[1:]:
    if path.endswith("/"):
        try:
            answers[path] = sorted(os.listdir(path))
        except OSError as why:
            answers[path] = name_of(why.errno)
    else:
        answers[path] = opened(path)
say(answers)
