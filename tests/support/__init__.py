# SPDX-License-Identifier: GPL-3.0-or-later
"""What several tests share: no test is in here."""
