# SPDX-License-Identifier: GPL-3.0-or-later
"""What administrators say, from files to the policy that governs a launch.

model        what can be said, and the table of all keys
trust        opens files that only their keepers can change
toml         TOML with lines and columns
check        one file against the language: a layer, or all its mistakes
load         directories and layers: PolicyStore
choose       which policy governs, and why
words        what a policy allows, in plain sentences
restrict     what can be taken from an activity, and the file that takes it
keep         puts that file into its place
environment  what an activity's environment holds
reference    docs/policy.md, printed from the model
"""
