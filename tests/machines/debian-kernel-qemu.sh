#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs a command in this checkout under Debian 12's own kernel (Linux 6.1), which a
# container cannot give: a bare root with the checkout, set up, as the disk of a qemu.
#
#   debian-kernel-qemu.sh COMMAND…    as root, in /isolauncher, without a network
#
# WORKTREE=1 takes the files as they lie instead of a clean clone of what is committed.
# The machine is emulated: KVM inside of a virtual machine is rarely whole. TIMEOUT:
# seconds, 1800 unless given.
# Exit status: the command's; 77 where this machine lacks a tool; 124 on a timeout; 125
# when the machine ended without one. Standard output and error come as one.
. "$(dirname "$0")/common.sh"
[ $# -gt 0 ] || { grep '^#' "$0" >&2; exit 2; }
arch=$(dpkg --print-architecture)
[ "$arch" = amd64 ] || { echo "$0: only for amd64" >&2; exit 77; }
want systemd-nspawn git tar qemu-system-x86_64 mke2fs
make_work
root=$WORK/root
kernel=$CACHE/debian-$SUITE-$arch-kernel

# With the kernel come kmod and initramfs-tools, which makes the initrd: the whole is
# kept, with the packages that `make tools` wants, since all of it takes a minute.
kernel_root() {
    local made=$kernel.$$
    if [ ! -d "$kernel" ]; then
        bare_root "$root"
        mkdir "$root/isolauncher"
        say "installing linux-image-$arch into $kernel, once"
        enter "$root" -- sh -ec '
            apt-get update -q
            apt-get install -y -q --no-install-recommends make linux-image-'"$arch"'
        ' >"$WORK/install.log" 2>&1 || { tail -20 "$WORK/install.log" >&2; exit 1; }
        mkdir -p "$made"
        cp "$root"/boot/vmlinuz-* "$made/vmlinuz"
        cp "$root"/boot/initrd.img-* "$made/initrd"
        # What the disk needs is in the initrd.
        rm -rf "$root"/usr/lib/modules/* "$root"/boot/* "$root/isolauncher"
        tar -C "$root" --numeric-owner -czf "$made/root.tar.gz" .
        mv "$made" "$kernel"
        rm -rf "$root"
    fi
    mkdir "$root"
    tar -C "$root" --numeric-owner -xzf "$kernel/root.tar.gz"
}

started=$SECONDS
kernel_root
copy_checkout "$root"
enter "$root" -- make tools </dev/null >"$WORK/setup.log" 2>&1 \
    || { tail -20 "$WORK/setup.log" >&2; exit 1; }

# PID 1 of the machine. The status goes out by the second serial line, since the first
# also carries whatever the kernel has to say.
cat >"$root/etc/isolauncher-test/init" <<'EOF'
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t securityfs securityfs /sys/kernel/security
dmesg -n 1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up 2>/dev/null
hostname isolauncher-test
cd /isolauncher
mapfile -d '' -t command </etc/isolauncher-test/command
setsid "${command[@]}" </dev/null
echo "$?" >/dev/ttyS1
sync
echo o >/proc/sysrq-trigger
while :; do read -rt 60 <> <(:); done
EOF
chmod 755 "$root/etc/isolauncher-test/init"
printf '%s\0' "$@" >"$root/etc/isolauncher-test/command"
rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
mke2fs -q -F -t ext4 -d "$root" -m 0 "$WORK/disk" 3G >/dev/null
say "machine made after $((SECONDS - started)) s"

started=$SECONDS
status=0
: >"$WORK/status"
timeout "${TIMEOUT:-1800}" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 2048 \
    -nodefaults -display none -no-reboot -serial stdio -serial "file:$WORK/status" \
    -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
    -drive "file=$WORK/disk,format=raw,if=virtio,cache=unsafe" \
    -append "root=/dev/vda rw console=ttyS0 quiet loglevel=3 panic=-1 \
init=/etc/isolauncher-test/init" </dev/null | tr -d '\r' || status=$?
say "machine ended after $((SECONDS - started)) s"
[ "$status" != 124 ] || exit 124
exit "$(tr -dc 0-9 <"$WORK/status" | grep . || echo 125)"
