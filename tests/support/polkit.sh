#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the words on standard input, a line each, by pkexec as the user games, whom a rule
# of a real polkitd lets run `isolauncher restrict` without being asked. Prints each
# line's status. The system bus and all of /etc that is written to are this script's own.
#
#     unshare --mount polkit.sh DIRECTORY INSTALL-SECTION
set -euo pipefail
top=$1 install=$2
mount --make-rprivate /
mkdir -p "$top"/{rules,etc,dest} /run/dbus /etc/polkit-1/rules.d
made=
if [ ! -e /etc/isolauncher ]; then mkdir /etc/isolauncher; made=/etc/isolauncher; fi
chmod -R a+rX "$top"
"$install" --destdir "$top/dest"
cp -r /usr/share/polkit-1/actions "$top/actions"
cp "$top"/dest/usr/share/polkit-1/actions/* "$top/actions/"
cat > "$top/rules/10-games.rules" <<'END'
polkit.addRule(function (action, subject) {
    if (action.id == "org.sugarlabs.isolauncher.restrict" && subject.user == "games") {
        return polkit.Result.YES;
    }
});
END
chmod 644 "$top/rules/10-games.rules"
mount --bind "$top/actions" /usr/share/polkit-1/actions
mount --bind "$top/rules" /etc/polkit-1/rules.d
mount --bind "$top/etc" /etc/isolauncher
mount -t tmpfs tmpfs /run/dbus
exec 3< <(exec dbus-daemon --system --nofork --nopidfile --print-address 2>/dev/null)
bus=$!
leave() {
    kill "$bus" ${polkit:+"$polkit"}
    wait
    umount /etc/isolauncher
    if [ -n "$made" ]; then rmdir "$made"; fi
}
trap leave EXIT
read -r _ <&3
/usr/lib/polkit-1/polkitd --no-debug > "$top/polkitd.log" 2>&1 &
polkit=$!
gdbus wait --system --timeout 20 org.freedesktop.PolicyKit1
while read -r user words; do
    status=0
    # shellcheck disable=SC2086
    setpriv --reuid="$user" --regid=nogroup --clear-groups env -i PATH=/usr/bin:/bin \
        LANG=C.UTF-8 pkexec --disable-internal-agent $words </dev/null >> "$top/said" 2>&1 || status=$?
    echo "$status"
done
