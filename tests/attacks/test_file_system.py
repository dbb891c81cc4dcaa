# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not in the view does not exist, and what is in it stays as it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import bundles
from support.attacks import NOWHERE, TIERS, attack, finish, script, source, unrefused
from support.daemons import Service

CALLERS = (12345, 0)
FIXED = frozenset(("EROFS", "EACCES", "EPERM", "ENOENT", "EXDEV", "EISDIR"))

# Devices that drop bytes or mix them in without counting them, terminals of its own,
# and the files of Linux' pressure alarms, which wake nobody but their writer.
WRITABLE = sorted(
    [f"/dev/{name}" for name in ("full", "null", "random", "urandom", "zero")]
    + ["/dev/pts/ptmx"]
    + [f"/proc/pressure/{name}" for name in ("cpu", "io", "memory")]
)
HOST = (
    "/etc/shadow /etc/gshadow /etc/sudoers /etc/ssh /etc/ssl/private "
    "/etc/resolv.conf /etc/crontab /etc/isolauncher /etc/default /etc/environment "
    "/root /root/.ssh /root/.bash_history /home /srv /opt /mnt /media /boot "
    "/lost+found /sys /sys/kernel /sys/fs/cgroup /run/user /run/systemd /run/dbus "
    "/run/docker.sock "
    "/run/isolauncher /run/lock /run/udev /var/lib /var/log /var/spool /var/mail "
    "/var/run /var/backups /var/lib/isolauncher /usr/../root /proc/../root "
    "/tmp/.X11-unix /tmp/.ICE-unix /dev/mem /dev/kmem /dev/port /dev/kmsg /dev/vda "
    "/dev/sda /dev/loop0 /dev/loop-control /dev/fuse /dev/kvm /dev/tty /dev/tty0 "
    "/dev/console /dev/ttyS0 /dev/vcs /dev/uinput /dev/input /dev/dri /dev/snd "
    "/dev/net/tun /dev/vhost-net /dev/vsock /dev/mqueue /dev/hugepages /dev/rtc0 "
    "/dev/userfaultfd /dev/mapper/control /dev/btrfs-control /dev/log /dev/initctl"
).split()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_the_rest_of_the_host_does_not_exist(
    daemon: Service, tier: str, uid: int
) -> None:
    other = daemon.script("other.py", "")
    hidden = [
        *HOST,
        other,
        str(daemon.state_dir),
        str(daemon.policies),
        str(daemon.run_dir),
        str(daemon.socket),
        str(daemon.top / "log"),
    ]
    done = attack(daemon, "look", *hidden, tier=tier, uid=uid)
    assert unrefused(done, NOWHERE) == {}


@pytest.fixture
def home(daemon: Service) -> Iterator[Path]:
    """A private home of uid 12345 with a secret, and a program that may be read."""
    place = daemon.top / "home" / "person"
    shutil.rmtree(place.parent, ignore_errors=True)
    (place / ".ssh").mkdir(parents=True, mode=0o700)
    (place / ".ssh" / "id_ed25519").write_text("secret")
    (place / "notes").write_text("secret")
    (place / "work").mkdir()
    (place / "work" / "look.py").write_text(source("look"))
    (place / "work" / "beside.py").write_text("secret")
    for path in (place, *place.rglob("*")):
        os.chown(path, 12345, 12345)
        path.chmod(0o700 if path.is_dir() else 0o600)
    (daemon.top / "home").chmod(0o755)
    return place


@pytest.mark.parametrize("tier", TIERS)
def test_of_a_private_home_there_is_only_the_way_to_the_program(
    daemon: Service, home: Path, tier: str
) -> None:
    hidden = [".ssh", ".ssh/id_ed25519", "notes", "work/beside.py", ".bashrc"]
    chain = [home.parent, home, home / "work"]
    done = daemon.run(
        "--tier",
        tier,
        "--",
        str(home / "work" / "look.py"),
        *(str(home / name) for name in hidden),
        *(f"{place}/" for place in chain),
        uid=12345,
    )
    assert done.status == 0, done.errors
    answers = json.loads(done.text)
    assert [answers[f"{place}/"] for place in chain] == [
        ["person"],
        ["work"],
        ["look.py"],
    ]
    assert unrefused({n: answers[str(home / n)] for n in hidden}, NOWHERE) == {}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_nothing_it_can_see_can_be_written_but_its_own_memory_files(
    daemon: Service, tier: str, uid: int
) -> None:
    watched = {p: os.stat(p) for p in ("/usr", "/etc/passwd", "/dev/null", "/dev/zero")}
    done = attack(daemon, "write", tier=tier, uid=uid)
    assert done["found"] == WRITABLE
    assert int(str(done["count"])) > 2000
    assert unrefused(done["refused"], FIXED) == {}  # type: ignore[arg-type]
    for path, before in watched.items():
        now = os.stat(path)
        assert (now.st_mode, now.st_uid, now.st_size) == (
            before.st_mode,
            before.st_uid,
            before.st_size,
        )


@pytest.mark.parametrize("tier", TIERS)
def test_proc_shows_no_other_process_and_nothing_of_its_init(
    daemon: Service, tier: str
) -> None:
    assert daemon.process is not None
    host = []
    # The first numbers are taken inside, too: in a container ours may be as small.
    for pid in {daemon.process.pid, os.getpid(), os.getppid()} - {1, 2, 3}:
        host += [f"/proc/{pid}/{name}" for name in ("environ", "root", "cwd", "status")]
    done = attack(daemon, "process_files", *host, tier=tier)
    assert done["pids"] == [1, done["own"]]
    assert unrefused(done["host"], NOWHERE) == {}  # type: ignore[arg-type]
    refused = FIXED | {"ENOTDIR", "read EACCES", "read EPERM", "write EPERM"}
    assert unrefused(done["private"], refused) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("uid", CALLERS)
def test_no_call_changes_the_view_or_reaches_past_it(
    daemon: Service, tier: str, uid: int
) -> None:
    assert unrefused(attack(daemon, "roots", tier=tier, uid=uid)) == {}


def _writable(daemon: Service, name: str, uid: int, inner: str) -> tuple[str, Path]:
    """A directory that belongs to ``uid``, and a policy that lets it be written."""
    place = daemon.top / name
    place.mkdir(mode=0o755)
    # A directory of its group, or of another one: nothing else of it changes hands.
    os.chown(place, uid, uid and 4242)
    policy = daemon.policy(
        name,
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nwrite = ["{place}"]\n'
        f'[identity]\ninner-uid = "{inner}"\n',
    )
    return policy, place


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("inner", ["caller", "same"])
@pytest.mark.parametrize("uid", CALLERS)
def test_no_call_leaves_a_set_id_file_through_an_id_mapped_mount(
    daemon: Service, tier: str, uid: int, inner: str
) -> None:
    policy, place = _writable(daemon, f"writable-{tier}-{uid}-{inner}", uid, inner)
    done = attack(daemon, "set_id", str(place), tier=tier, uid=uid, policy=policy)
    assert unrefused(done["bits"]) == {}  # type: ignore[arg-type]
    refused = FIXED | {"EINVAL", "EOPNOTSUPP", "ENOTTY", "ENOSYS"}
    assert unrefused(done["attributes"], refused) == {}  # type: ignore[arg-type]
    assert set(done["fine"].values()) == {"ok"}  # type: ignore[attr-defined]
    assert done["list"] in ("ok", "EOPNOTSUPP")
    assert done["found"] == {}
    # And as the host sees it: nothing with a bit, everything the caller's.
    seen = {path: path.lstat() for path in place.rglob("*")}
    names = {path.name for path in seen}
    assert {"plain", "made", "directory", "fifo", "copied", "installed"} <= names
    for path, status in seen.items():
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert status.st_uid == uid, path
        assert status.st_gid == uid, path
        assert not stat.S_ISCHR(status.st_mode) or status.st_rdev == 0
        assert "security.capability" not in os.listxattr(path, follow_symlinks=False)


def test_files_in_a_written_directory_that_are_others_stay_theirs(
    daemon: Service,
) -> None:
    policy, place = _writable(daemon, "mixed", 12345, "caller")
    secret = place / "of-root"
    secret.write_text("secret")
    secret.chmod(0o600)
    script_ = daemon.script(
        "theirs.py",
        "import os, sys\n"
        "s = os.stat(sys.argv[1])\n"
        "print(s.st_uid, s.st_gid)\n"
        "for f in (lambda: open(sys.argv[1]), lambda: open(sys.argv[1], 'w'),\n"
        "          lambda: os.chmod(sys.argv[1], 0o777)):\n"
        "    try: f(); print('ok')\n"
        "    except OSError as e: print(e.errno)\n",
    )
    done = daemon.run("--policy", policy, "--", script_, str(secret), uid=12345)
    answers = done.text.split()
    # EOVERFLOW: an owner that the mount does not map cannot be written back.
    assert answers[:4] == ["65534", "65534", "13", "13"], done.errors
    assert answers[4] in (str(errno.EPERM), str(errno.EOVERFLOW))
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("uid", CALLERS)
def test_what_it_makes_in_anybodys_directory_is_its_callers_not_its_own_uids(
    daemon: Service, uid: int
) -> None:
    """Its own uid is another activity's one day, and would inherit the file."""
    place = daemon.top / f"everybodys-{uid}"
    place.mkdir()
    os.chown(place, 4711, 4711)
    place.chmod(0o777)
    policy = daemon.policy(
        place.name,
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nwrite = ["{place}"]\n',
    )
    make = daemon.script("make.py", "import sys; open(sys.argv[1], 'w').close()")
    done = daemon.run("--policy", policy, "--", make, str(place / "made"), uid=uid)
    assert done.status == 0, done.errors
    status = (place / "made").stat()
    assert (status.st_uid, status.st_gid) == (uid, uid)


def test_kept_data_is_later_but_a_link_planted_in_a_written_directory_leads_nowhere(
    daemon: Service,
) -> None:
    """CVE-2024-42472's kind, for files.write: the next launch follows no such link."""
    policy, place = _writable(daemon, "planted", 12345, "caller")
    inner = place / "inner"
    inner.mkdir()
    os.chown(inner, 12345, 12345)
    target = daemon.top / "theirs"
    target.mkdir(mode=0o755)
    os.chown(target, 12345, 12345)
    (target / "precious").write_text("precious")
    os.chown(target / "precious", 12345, 12345)
    deeper = daemon.policy(
        "deeper",
        f'version = 1\n[match]\ncallers = ["*"]\n[files]\nwrite = ["{inner}"]\n',
    )
    plant = daemon.script(
        "plant.py",
        f"import os\nos.rmdir({str(inner)!r})\nos.symlink({str(target)!r},"
        f" {str(inner)!r})\n",
    )
    done = daemon.run("--policy", policy, "--", plant, uid=12345)
    assert done.status == 0, done.errors
    assert inner.is_symlink()
    follow = daemon.script(
        "follow.py",
        f"import os\nfor p in ({str(inner)!r}, {str(target)!r}):\n"
        "    try: print(os.listdir(p))\n"
        "    except OSError as e: print(e.errno)\n",
    )
    done = daemon.run("--policy", deeper, "--", follow, uid=12345)
    assert done.text.split() == ["2", "2"], done.text
    assert done.report is not None
    assert "link in a directory" in str(done.report["skipped"])


LED = {
    "/": "it holds everything",
    "/etc": "it holds passwords",
    "/etc/passwd": "every activity has its own",
    "/tmp": "every activity has its own",
    "/proc/self": "lies in /proc, which every activity has anew",
    "/sys/kernel": "lies in /sys, which every activity has anew",
    "STATE": "is isolauncher's own",
    "nowhere": "nowhere: No such file or directory",
    "link": "too many symbolic links",
}


@pytest.mark.parametrize("target", LED)
def test_a_link_in_a_policy_leads_no_further_than_a_path_may(
    daemon: Service, target: str
) -> None:
    """What no policy may name is not shown by another name, and that is reported."""
    with bundles.system_directory() as place:
        link = place / "link"
        link.symlink_to(target.replace("STATE", str(daemon.state_dir)))
        read = daemon.policy("led", f'version = 1\n[files]\nread = ["...", "{link}"]\n')
        done = daemon.run("--policy", read, "--", "ls", "/", "/tmp")
        assert done.status == 0, done.errors
        assert done.report is not None
        assert LED[target] in str(done.report["skipped"])
        # It is the sandbox's own that is seen.
        assert done.text.endswith("\n/tmp:\n"), done.text
        assert "home" not in done.text


@pytest.mark.parametrize("tier", TIERS)
def test_dev_shm_promises_noexec_and_tmp_and_memfd_do_not(
    daemon: Service, tier: str
) -> None:
    done = attack(daemon, "noexec", tier=tier)
    shm = done["/dev/shm"]
    assert isinstance(shm, dict)
    # The loader says so itself, with a status of its own.
    assert shm.pop("loader") == "status 127"
    assert set(shm.values()) <= {"EACCES", "EPERM"}, shm
    assert set(done["/tmp"].values()) == {"ok"}  # type: ignore[attr-defined]
    # docs/threat-model.md says so: memory can hold code.
    assert done["memfd"] == "ok"


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_memory_files_fill_up_at_their_size_and_count(
    daemon: Service, place: str
) -> None:
    policy = daemon.policy(
        "small",
        'version = 1\n[match]\ncallers = ["*"]\n[files]\ntmp = "8M"\n'
        '[limits]\nfile-size = "4M"\n',
    )
    free = os.statvfs("/tmp").f_bavail
    done = attack(daemon, "fill", place, policy=policy)
    assert done["hole"] == dict.fromkeys(("truncate", "pwrite", "allocate"), "EFBIG")
    assert done["bytes"] == done["names"] == "ENOSPC"
    assert 7 << 20 <= int(str(done["total"])) <= 8 << 20
    assert int(str(done["count"])) <= 4096
    assert done["size"] == 8 << 20
    assert os.statvfs("/tmp").f_bavail > free // 2


def test_a_file_larger_than_the_limit_ends_in_sigxfsz(daemon: Service) -> None:
    policy = daemon.policy(
        "short",
        'version = 1\n[match]\ncallers = ["*"]\n[limits]\nfile-size = "64K"\n',
    )
    text = "import os, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL);"
    text += "os.write(os.open('/tmp/f', os.O_CREAT | os.O_WRONLY), b'x' * 65537);"
    text += "os.write(os.open('/tmp/f', os.O_WRONLY | os.O_APPEND), b'x')"
    large = daemon.script("large.py", text)
    done = daemon.run("--policy", policy, "--", large, uid=12345)
    assert done.status == 128 + 25, done.errors
    assert done.report is not None
    assert done.report["exit"] == {"status": 153, "signal": 25}


# ------------------------------------------------------------- ways in by descriptor


def test_a_stream_that_leads_out_of_the_view_is_refused(daemon: Service) -> None:
    program = script(daemon, "look")
    pidfd = os.pidfd_open(os.getpid())
    event = os.eventfd(0)
    path = os.open("/etc/shadow", os.O_PATH)
    tree = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    streams = {"pidfd": pidfd, "event": event, "path": path}
    try:
        for name, fd in streams.items():
            done = daemon.run("--", program, stdin=fd, uid=0)
            assert done.status == 125, (name, done.text)
            assert "[request-bad-stream]" in done.errors, (name, done.errors)
        # A namespace is a regular file as far as fstat says; it must not be one here.
        done = daemon.run("--", program, stdin=tree, uid=0)
        assert done.status == 125, done.text
        assert "[request-bad-stream]" in done.errors
    finally:
        for fd in (*streams.values(), tree):
            os.close(fd)


def test_a_directory_of_the_host_passed_over_a_socket_opens_nothing_more(
    daemon: Service,
) -> None:
    body = """
import os, socket
own = socket.socket(fileno=os.dup(0))
_, fds, _, _ = socket.recv_fds(own, 16, 2)
root, file = fds
def tried(path, flags, **keywords):
    try:
        os.close(os.open(path, flags, **keywords))
        return "ok"
    except OSError as e:
        return e.errno
print(tried("etc/shadow", os.O_RDONLY, dir_fd=root),
      tried("etc", os.O_RDONLY, dir_fd=root),
      tried("tmp/left", os.O_CREAT | os.O_WRONLY, dir_fd=root),
      tried(f"/proc/self/fd/{root}/etc/shadow", os.O_RDONLY),
      tried(f"/proc/self/fd/{file}", os.O_RDWR))
"""
    open_to_all = daemon.top / "open-to-all"
    open_to_all.write_text("theirs")
    open_to_all.chmod(0o666)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        file = os.open(open_to_all, os.O_RDONLY)
        socket.send_fds(ours, [b"d"], [root, file])
        os.close(root)
        os.close(file)
        done = daemon.run(
            "--", daemon.script("passed.py", body), stdin=theirs.fileno(), uid=0
        )
    assert done.status == 0, done.errors
    assert done.text.split() == ["13"] * 5


def test_a_file_as_a_stream_cannot_be_opened_again_with_more_rights(
    daemon: Service,
) -> None:
    given = daemon.top / "given"
    given.write_text("given")
    given.chmod(0o666)
    body = """
import os
def tried(f, *a):
    try:
        f(*a)
        return "ok"
    except OSError as e:
        return e.errno
print(os.read(0, 9), tried(os.open, "/proc/self/fd/0", os.O_RDWR), tried(os.open,
      "/dev/stdin", os.O_WRONLY), tried(os.write, 0, b"x"), tried(os.fchmod, 0, 0o777),
      tried(os.truncate, "/proc/self/fd/0", 0),
      tried(os.link, "/proc/self/fd/0", "/tmp/linked"))
"""
    with open(given, "rb") as stream:
        done = daemon.run(
            "--", daemon.script("again.py", body), stdin=stream.fileno(), uid=12345
        )
    assert done.text.split()[0] == "b'given'", done.errors
    assert set(done.text.split()[1:]) <= {"13", "9", "1", "30", "18"}, done.text
    assert (given.read_text(), stat.S_IMODE(given.stat().st_mode)) == ("given", 0o666)


def test_descriptors_the_client_leaks_do_not_come_along(daemon: Service) -> None:
    body = "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])"
    leak = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        done = finish_leaky(daemon, body, leak)
    finally:
        os.close(leak)
    assert done == "['0', '1', '2']"


def finish_leaky(daemon: Service, body: str, leak: int) -> str:
    done = daemon.run(
        "--",
        daemon.script("leaky.py", body),
        uid=12345,
        prepare=lambda: os.set_inheritable(leak, True),
    )
    assert done.status == 0, done.errors
    return done.text.strip()


__all__ = ["finish"]
