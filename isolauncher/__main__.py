# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m isolauncher`` is the command ``isolauncher``."""

from __future__ import annotations

import sys

from .cli.main import main

sys.exit(main())
