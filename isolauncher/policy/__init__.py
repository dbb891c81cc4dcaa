# SPDX-License-Identifier: GPL-3.0-or-later
"""What administrators say, from files to the policy that governs a launch.

model        what can be said, and the table of all keys
trust        opens files that only their keepers can change
toml         TOML with lines and columns
check        one file against the language: a layer, or all its mistakes
reserved     which paths of this machine no policy shows
bus          what can be said of the session bus, and what is never granted
attempts     what a policy's own test can try
load         directories and layers: PolicyStore
choose       which policy governs, and why
wishes       what a bundle asks for, held against its policy
bitfrost     Bitfrost's names for rights, and what each comes to
words        what a policy allows, in plain sentences
restrict     what can be taken from an activity, and the file that takes it
keep         puts that file into its place
environment  what an activity's environment holds
audit        what a policy opens, and how much that is as a figure
quote        names, sizes and values in a line for a reader
schema       the language for editors, as a JSON schema
reference    docs/policy.md, printed from the model
"""
