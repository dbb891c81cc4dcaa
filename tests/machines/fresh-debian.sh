#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Tries this checkout on a fresh Debian 12: a bare root from debootstrap, entered with
# systemd-nspawn (a chroot cannot do it: there CLONE_NEWUSER and pivot_root are refused).
#
#   fresh-debian.sh              make demo; again without network; make test
#   fresh-debian.sh COMMAND…     only that command, in /isolauncher
#
# WORKTREE=1 takes the files as they lie instead of a clean clone of what is committed.
# Exit status: the first command's that failed; 77 where this machine lacks a tool.
. "$(dirname "$0")/common.sh"
want systemd-nspawn git tar
make_work
root=$WORK/root
started=$SECONDS
bare_root "$root"
copy_checkout "$root"
say "bare root ready after $((SECONDS - started)) s"

step() {
    local from=$SECONDS status=0 what=$1
    shift
    say "$what"
    enter "$root" "$@" </dev/null || status=$?
    say "$what: exit $status after $((SECONDS - from)) s"
    if [ "$status" != 0 ]; then exit "$status"; fi
}

# Make is what README asks for; all else the Makefile must bring itself.
step "apt-get install make" -- sh -c \
    'apt-get update -q && apt-get install -y -q --no-install-recommends make'
if [ $# -gt 0 ]; then
    step "$*" -- "$@"
    exit
fi
step "make demo" -- make demo
step "make demo, no network" --private-network -- make demo
# Named: what a container lacks, whoever enters it. -rs says which tests that skips.
step "make test" -- make test ARGS=-rs
