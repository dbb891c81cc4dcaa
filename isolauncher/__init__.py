# SPDX-License-Identifier: GPL-3.0-or-later
"""Launches programs from a preloaded zygote, confined by a policy."""

__version__ = "0.1.0"
