# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a value until the process ends, which then takes nothing of it apart.

To give back what the zygote has made writes to every page that it lies on, and in a
child each of them is copied for that: hundreds, before the program's first line or
after its last.
"""

from __future__ import annotations

import ctypes


def keep(value: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
