# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs as the person: never as root, and with no right the person lacks."""
