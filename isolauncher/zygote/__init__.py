# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that has already imported, and how its children become programs.

`preload` imports, `state` proves fitness, `handover` makes a child like a cold start,
`program` runs what was asked for. `bootstrap` and `stem` own the process itself:
what is forked when, and with which powers.
"""
