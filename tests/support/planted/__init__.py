# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon whose zygotes preload modules that a test has planted.

    daemon.py DIRECTORY [OPTION…]    zygote.py DIRECTORY

Every ``*.py`` of the directory stands at the end of the list of the set `python`.
"""
