# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that turn against their sandbox, and tests of what they do not get."""
