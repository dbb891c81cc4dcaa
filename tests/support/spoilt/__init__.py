# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon whose kernel can be told to refuse, to pretend, or to pause at a call.

    board.py    the memory that test, daemon, zygote, init and stem share
    kernel.py   the recording kernel that looks there before every call
    plans.py    plans that the real kernel refuses at a step
    zygote.py   the zygote's script with that kernel (the twin of bootstrap.py)
    daemon.py   ``isolauncher daemon`` with that kernel and those zygotes

A test uses `support.spoiling`, the other end of the board.
"""
