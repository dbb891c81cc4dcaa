# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a launch when its kernel refuses, pretends or is interrupted."""
