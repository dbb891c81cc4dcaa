# SPDX-License-Identifier: GPL-3.0-or-later
"""What administrators say, from files to the policy that governs a launch.

model        what can be said, and the table of all keys
trust        opens files that only their keepers can change
toml         TOML with lines and columns
check        one file against the language: a layer, or all its mistakes
load         directories and layers: PolicyStore
choose       which policy governs, and why
environment  what an activity's environment holds
reference    docs/policy.md, printed from the model
"""
