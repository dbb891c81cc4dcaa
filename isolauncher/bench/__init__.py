# SPDX-License-Identifier: GPL-3.0-or-later
"""Launches measured: how soon, how many, at what cost in memory; ours and others'.

Here is what is measured and how; how it is shown is in cli/bench.py. The daemons that
are measured are started for the purpose, in directories of their own, and ended again:
neither this machine's daemon nor its ledger nor its administrator's policies are
touched. Nothing here is on the way of a launch.

    figures.py     times and what is said of them
    machine.py     what the figures depend on
    scripts.py     what every contender runs: fixed lists of imports, then one byte
    daemons.py     daemons of our own, and when they are at rest
    contenders.py  all ways to start the script that are compared
    forkserver.py  one of them, in a process of its own
    reference.c    the same isolation made on demand by a C program, with
    lines.py       the plan as it reads it,
    planned.py     made by this machine's daemon, and
    reference.py   which is built, proved to be the same by the verifier, and spoken to
    forks.py       children that are forked without a program of their own
    talk.py        programs that are spoken to; patience.py: and for how long
    turns.py       one contender after the other, so that what disturbs falls on all
    lacks.py       what was not measured, and why
    latency.py · throughput.py · memory.py · sharing.py · windows.py   what is measured
    alive.py       activities that stay until they have been looked at
    whole.py       all of it in one run; quick.py: the short one
    tables.py      the figures for a person; plot.py: pictures
"""
