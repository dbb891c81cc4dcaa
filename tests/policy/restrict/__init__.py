# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking powers from single activities, as `isolauncher restrict` does."""
