# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies: files, layers, choice, environment, and the command that checks them."""
