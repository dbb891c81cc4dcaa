# SPDX-License-Identifier: GPL-3.0-or-later
"""Which uid is whose: given to one activity, and to nobody else while a trace is left.

ledger     gives uids of a range, and takes them back; what is on disk, and why no
           SIGKILL gives one twice
leases     what a lease says, as an object and as its file
leftovers  processes, records and files of those who had a uid before
userdb     a uid's name on this machine, for nss-systemd(8)
passwd     /etc/passwd and its like, as an activity sees them
files      descriptors of directories, and what is in them
"""
