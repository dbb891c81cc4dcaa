# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what a policy promises holds, found by trying it in a sandbox of its own.

    policy → case (who launches what) → probe inside, /proc outside → claims → proofs

Here: launching the probe as any caller would, listening to it, looking at it from
outside, and judging. Not here: what would make anything hold. What is judged is taken
from the policy and its plan, and never from what the launch says it has done; that only
explains why something could not be tried.

    probe.py      runs inside and imports only the standard library
    caller.py     who launches, from which directory, and as what: a program, a bundle
    places.py     directories of a run, and those that a dead one has left
    private.py    a daemon of our own, for policies that no running one serves
    talk.py       one launch, and the conversation with the probe in it
    outside.py    what the kernel says of it outside
    claims.py     what the plan claims, against what was seen
    expects.py    the policy's own [[expect]], and who answers outside for them
    prove.py      all of it, for one policy after the other
"""
