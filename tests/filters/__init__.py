# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of system calls: as rules, as a program, and in force."""
