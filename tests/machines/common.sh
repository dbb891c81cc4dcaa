# SPDX-License-Identifier: GPL-3.0-or-later
# Shared by the scripts beside it: a bare Debian 12 root, made once and kept as a tarball,
# a copy of this checkout for it, and a way in. Nothing on this machine is changed but
# CACHE and what is under WORK, which goes when the script ends.
set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${ISOLAUNCHER_TEST_CACHE:-/var/cache/isolauncher-test}
SUITE=bookworm
WORK=

say() { printf '== %s\n' "$*" >&2; }

want() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || {
            printf '%s: %s is not installed\n' "$0" "$tool" >&2
            exit 77
        }
    done
}

make_work() {
    # /var/tmp and not /tmp: a root with its packages is too large for a tmpfs.
    WORK=$(mktemp -d /var/tmp/isolauncher-machine.XXXXXX)
    trap 'leave' EXIT
}

leave() {
    local top
    rm -rf --one-file-system "$WORK"
    for top in "${GROUPS_MADE[@]}"; do
        find "$top" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

# nspawn with --keep-unit makes groups below the one it is started in, and leaves them.
# It gets one of its own in every hierarchy that it touches, removed with the rest.
GROUPS_MADE=()
make_groups() {
    local names path top
    while IFS=: read -r _ names path; do
        for top in "/sys/fs/cgroup/${names#name=}" /sys/fs/cgroup/unified; do
            # The top itself counts only where version 2 is mounted there, alone.
            if [ -e "$top$path/cgroup.procs" ] && mkdir "$top$path/${WORK##*/}"; then
                GROUPS_MADE+=("$top$path/${WORK##*/}")
                break
            fi
        done
    done < <(grep -E '^[0-9]+:(memory|pids|cpu|cpu,cpuacct|name=systemd|):' /proc/self/cgroup)
}

# The mirror this machine uses itself: a test machine may reach no other.
mirror() {
    local uri
    uri=$(sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p
            s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2>/dev/null \
        | sed -nE '\#/debian/?$#{p;q}') || true
    echo "${uri:-http://deb.debian.org/debian}"
}

# $1: directory to fill with a bare root.
bare_root() {
    local tarball="$CACHE/debian-$SUITE-$(dpkg --print-architecture).tar.gz" made
    if [ ! -e "$tarball" ]; then
        want debootstrap
        mkdir -p "$CACHE"
        made=$(mktemp -d "$WORK/bootstrap.XXXX")
        say "debootstrap $SUITE into $tarball, once"
        debootstrap --variant=minbase "$SUITE" "$made" "$(mirror)" >"$WORK/debootstrap.log" \
            || { tail -20 "$WORK/debootstrap.log" >&2; exit 1; }
        rm -f "$made"/var/cache/apt/archives/*.deb
        # Renamed into place when whole: an interrupted run must not leave half a root.
        tar -C "$made" --numeric-owner -czf "$tarball.$$" .
        mv "$tarball.$$" "$tarball"
        rm -rf "$made"
    fi
    mkdir -p "$1"
    tar -C "$1" --numeric-owner -xzf "$tarball"
    # The archive's own top has mktemp's 0700, with which nobody but root gets anywhere.
    chmod 0755 "$1"
    cat >"$1/etc/apt/sources.list" <<EOF
deb $(mirror) $SUITE main
deb $(mirror) $SUITE-updates main
deb $(mirror | sed -E 's#/debian/?$#/debian-security#') $SUITE-security main
EOF
    # Debian's installer writes it, debootstrap does not.
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$1/etc/hosts"
    # Downloads are kept between runs, outside the root.
    mkdir -p "$CACHE/archives/partial"
    printf '%s\n' 'Binary::apt::APT::Keep-Downloaded-Packages "true";' \
        'APT::Keep-Downloaded-Packages "true";' 'APT::Sandbox::User "root";' \
        >"$1/etc/apt/apt.conf.d/90keep"
    rm -f "$1/etc/apt/apt.conf.d/docker-clean"
    find /etc/apt -name '*.conf' -o -path '*apt.conf.d/*' -type f | while read -r file; do
        grep -hE '^[[:space:]]*Acquire::[a-z]+::[Pp]roxy' "$file" || true
    done >"$1/etc/apt/apt.conf.d/91proxy"
}

# $1: root. Puts a clean clone of what is committed at /isolauncher in it; or, with
# WORKTREE=1, the files as they lie here, without what git ignores.
copy_checkout() {
    mkdir "$1/isolauncher"
    if [ -n "${WORKTREE:-}" ]; then
        (cd "$CHECKOUT" && git -c safe.directory='*' ls-files -coz --exclude-standard \
            | tar --null --ignore-failed-read -T - -cf -) \
            | tar -C "$1/isolauncher" --no-same-owner -xf -
    else
        git -c safe.directory='*' clone -q --no-local "$CHECKOUT" "$1/isolauncher"
    fi
}

# $1: root; then options of systemd-nspawn, --, and the command to run in it.
enter() {
    local root=$1 options=() name
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    mkdir -p "$root/etc/isolauncher-test"
    # This machine's certificates, proxies and package index, since it may stand behind
    # a gate that has its own. Under names of their own: ca-certificates, when it is
    # installed, must be able to write its usual file.
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/isolauncher-test/ca.crt"
        for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE; do
            options+=("--setenv=$name=/etc/isolauncher-test/ca.crt")
        done
    fi
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
        PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_DEFAULT_TIMEOUT; do
        if [ -n "${!name:-}" ]; then options+=("--setenv=$name=${!name}"); fi
    done
    [ ${#GROUPS_MADE[@]} != 0 ] || make_groups
    # nspawn's own filter knows neither keyrings nor Landlock, it takes away the right to
    # set up a network, and it shows the controllers of version 1 read-only; a machine
    # has all of them. LANG and HOME are
    # those of a login on a bare machine.
    (for name in "${GROUPS_MADE[@]}"; do echo "$BASHPID" >"$name/cgroup.procs"; done
    exec systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --as-pid2 \
        --capability=CAP_NET_ADMIN --console=pipe --timezone=off \
        --resolv-conf=replace-host \
        --system-call-filter='@keyring landlock_create_ruleset landlock_add_rule
            landlock_restrict_self' \
        --bind="$CACHE/archives:/var/cache/apt/archives" \
        --setenv=LANG=C.UTF-8 --setenv=HOME=/root --setenv=DEBIAN_FRONTEND=noninteractive \
        --setenv=PIP_DISABLE_PIP_VERSION_CHECK=1 \
        --chdir=/isolauncher "${options[@]}" sh -c \
        'for group in /sys/fs/cgroup/*/cgroup.procs; do
            [ ! -e "$group" ] || mount -o remount,bind,rw "${group%/*}"; done; exec "$@"' \
        sh "$@")
}
