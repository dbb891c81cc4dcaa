# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: which uid belongs to which activity, or bundle.

Here: giving out uids (= gids) of one range, and taking them back. Not here: becoming
a uid, deciding who may ask, or the activities' records in the run directory, which are
only read.

On disk, below STATE/identity (0700, its owner's alone)::

    lock         flock(2)ed for every look and change; the kernel lets go on SIGKILL
    map          header, ring of the latest changes, one number per uid
    uids/UID     the lease, JSON; this name existing is what "taken" means
    bundles/H    H = sha256 of a bundle lease's key: a second link to its uids/UID
    uses/UID/ID  activity ID runs under the bundle lease UID
    .new         what is being written; under the lock whoever finds it may drop it

Why a SIGKILL at any instant gives no uid twice: a lease is written whole to
``.new`` and then link(2)ed, which is atomic and refuses an existing name, so a uid
is either free or has a complete lease. Every change is announced in the map before
it is made, so that another process that trusted its memory would re-read too much
but never too little. What a killed process may leave is a lease without an activity,
and `Ledger.gc` takes that back.

Why there is no fsync for an instance lease: after a power loss no process runs, and
the first `Ledger` of the next boot (the map holds the boot id) drops every lease of
another boot. A bundle lease is for ever: file and directories are synced.

Why the number of system calls of a take does not depend on how many uids are taken:
each process holds all leases in memory. The map's sequence number says how many
changes others have made since, its ring which uids they were; only those are read
again. So quotas are exact across processes.

Why a used uid is not given again too early: the cursor goes round the whole range,
and the map holds per uid a generation and one bit, "used since it was last seen
clean". A uid with the bit set is given out only after a survey: no process of it in
/proc, no record of it in the run directory, no file of it below STATE/data. One
survey serves all free uids; a uid whose generation moved meanwhile stays dirty. At
the first opening in a boot everything is surveyed once, so a uid whose bit is clear
needs no look at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import itertools
import os
import pwd
import re
import stat
import struct
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ..errors import IdentityError, IsolauncherError, NotAllowed
from . import files, leases, leftovers, userdb
from .leases import InstalledBy, Lease, Mode

FIRST: Final = 70000
LAST: Final = 89999
QUOTA: Final = 64
ROOT_QUOTA: Final = 4096
BUNDLE_QUOTA: Final = 256

_MAX_KEY: Final = 1024
_MAX_NAME: Final = 256
_LOCK_PATIENCE_S: Final = 5.0
_NSS_AGE_S: Final = 600.0

_UID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)

# magic, boot id, first, last | sequence, cursor, surveys: the second part is written
# alone, the first only with a whole new file.
_FIXED: Final = struct.Struct("<8s16sII")
_MOVING: Final = struct.Struct("<QII")
_NUMBER: Final = struct.Struct("<I")
_MAGIC: Final = b"isoledg1"
_HEADER: Final = 64
_RING: Final = 1024
_NUMBERS_AT: Final = _HEADER + 4 * _RING


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What gc did about one uid, or why it left it.

    ``pid`` is the process that stands in the way, 0 if none does.
    """

    uid: int
    activity_id: str
    what: Literal["released", "kept"]
    why: str
    pid: int = 0


class Ledger:
    """The uids ``first``..``last`` of one state directory; ``first`` is never given.

    It may be used from several threads, and any number of processes may have one
    for the same directory.
    """

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        *,
        first: int = FIRST,
        last: int = LAST,
        quota: int = QUOTA,
        root_quota: int = ROOT_QUOTA,
        bundle_quota: int = BUNDLE_QUOTA,
        userdb_dir: Path | None = None,
    ) -> None:
        if not 0 < first < last < 2**31:
            raise IdentityError(
                f"{first}-{last} is no range of uids",
                code="identity-range",
                hint="give a first and a larger last number, such as 70000-89999",
            )
        self.first = first
        self.last = last
        self._quota = quota
        self._root_quota = root_quota
        self._bundle_quota = bundle_quota
        self._state = state_dir.absolute()
        self._uids = range(first + 1, last + 1)
        self._records = run_dir / "activities"
        self._data = self._state / "data"
        self._userdb = userdb_dir
        self._mutex = threading.Lock()
        self._boot = _boot_id()
        self._taker = (0, 0)
        self._held: dict[int, Lease] = {}
        self._uses: dict[int, dict[str, Lease]] = {}
        self._by_activity: dict[str, Lease] = {}
        self._by_key: dict[tuple[int, str, str], int] = {}
        self._running: Counter[int] = Counter()
        self._bound: Counter[int] = Counter()
        self._corrupt: dict[int, str] = {}
        self._strays: tuple[str, ...] = ()
        self._numbers: array[int] = array("I")
        self._sequence: int = 0
        self._cursor: int = 0
        self._surveys: int = 0
        self._in_the_way: dict[int, str] = {}
        # Whose name service was asked, by its place in the range; and who has a name.
        self._asked = bytearray(last - first + 1)
        self._others: dict[int, str] = {}
        self._nss_since = 0.0
        self._nss_stamp: tuple[tuple[int, int, int], ...] = ()
        self._map_fd = -1
        self._stale = False
        self._open_fds: list[int] = []
        self.directory = self._state / "identity"
        try:
            self._open()
        except OSError as error:
            self.close()
            raise self._trouble("opened", error) from error
        except BaseException:
            self.close()
            raise

    # The four calls of a launcher.

    def take(
        self,
        *,
        mode: Mode,
        caller_uid: int,
        caller_name: str,
        activity_id: str,
        bundle_key: str | None = None,
        installed_by: InstalledBy = "user",
    ) -> Lease:
        """A uid for this activity, or IdentityError; nothing is taken then."""
        if self.first <= caller_uid <= self.last:
            raise NotAllowed(
                f"uid {caller_uid} is an activity's and launches nothing",
                code="caller-is-activity",
            )
        if not leases.ID.fullmatch(activity_id):
            raise IdentityError(
                f"{activity_id[:80]!r} is no activity id",
                code="identity-bad-id",
                hint="1 to 64 of 0-9 a-z A-Z _",
            )
        if (mode == "bundle") != bool(bundle_key) or len(bundle_key or "") > _MAX_KEY:
            raise IdentityError(
                f"a lease of mode {mode} was asked for with the bundle key "
                f"{(bundle_key or '')[:80]!r}",
                code="identity-bad-key",
                hint=f"bundle wants one of 1 to {_MAX_KEY} characters, instance none",
            )
        wanted = Lease(
            uid=0,
            gid=0,
            mode=mode,
            key=bundle_key or "",
            installed_by=installed_by if mode == "bundle" else "",
            caller_uid=caller_uid,
            caller_name=caller_name[:_MAX_NAME],
            activity_id=activity_id,
            created=time.time(),
            boot_id=self._boot,
            taker_pid=self._myself()[0],
            taker_start=self._myself()[1],
        )
        try:
            with self._mutex:
                return self._take(wanted)
        except OSError as error:
            raise self._trouble("changed", error) from error

    def prepare(self) -> None:
        """Looks at the uid the next take will choose, so that it finds it ready.

        For a launcher with nothing else to do: asking for the uid's names is half
        the cost of a take, and a survey where one is due is more.
        """
        try:
            with self._mutex:
                self._age_nss()
                for surveyed in (False, True):
                    with self._locked():
                        self._refresh()
                        try:
                            uid = self._choose(surveyed=surveyed)
                        except IdentityError:
                            return  # the take that needs one says why there is none
                    if uid is None:
                        self._survey()
                        continue
                    if not self._asked[uid - self.first]:
                        self._ask_nss(uid)
                    return
        except OSError as error:
            raise self._trouble("read", error) from error

    def release(self, uid: int, activity_id: str) -> bool:
        """Gives back; False if this activity did not hold it (any more).

        A bundle lease stays bound to its key; only the use of it ends.
        """
        try:
            with self._mutex, self._locked():
                self._refresh()
                lease = self._by_activity.get(activity_id)
                if lease is None or lease.uid != uid:
                    return False
                self._drop(lease)
                return True
        except OSError as error:
            raise self._trouble("changed", error) from error

    def pass_on(self, uid: int, holder: str, activity_id: str) -> None:
        """Whoever held an instance lease gives it to an activity, unused."""
        try:
            with self._mutex, self._locked():
                self._refresh()
                lease = self._by_activity.get(holder)
                if lease is None or lease.uid != uid or lease.mode != "instance":
                    raise IdentityError(
                        f"uid {uid} is not held by {holder}",
                        code="identity-not-held",
                        hint="an administrator may have taken it back (gc)",
                    )
                if activity_id in self._by_activity:
                    raise IdentityError(
                        f"activity {activity_id} already has a uid",
                        code="identity-activity-known",
                        hint="stop it first, or choose another id",
                    )
                self._announce(uid, cursor=self._cursor, number=self._number(uid))
                new = replace(lease, activity_id=activity_id)
                self._write(new, str(uid), self._uids_fd, over=True)
                self._unindex(uid)
                self._index(new)
        except OSError as error:
            raise self._trouble("changed", error) from error

    def find(self, activity_id: str) -> Lease | None:
        try:
            with self._mutex, self._locked():
                self._refresh()
                return self._by_activity.get(activity_id)
        except OSError as error:
            raise self._trouble("read", error) from error

    def leases(self) -> tuple[Lease, ...]:
        """By uid; a bundle lease once per activity, or once with none."""
        try:
            with self._mutex, self._locked():
                self._refresh()
                found: list[Lease] = []
                for uid in sorted(self._held):
                    uses = self._uses.get(uid)
                    found += uses.values() if uses else [self._held[uid]]
                return tuple(found)
        except OSError as error:
            raise self._trouble("read", error) from error

    def problems(self) -> tuple[str, ...]:
        """One sentence for each unusable file; its uid is never given out."""
        try:
            with self._mutex, self._locked():
                self._refresh()
                return (
                    *self._strays,
                    *(self._corrupt[u] for u in sorted(self._corrupt)),
                )
        except OSError as error:
            raise self._trouble("read", error) from error

    def gc(
        self,
        running: Callable[[str], bool],
        *,
        bundles: Callable[[Lease], bool] | None = None,
        discard_corrupt: bool = False,
    ) -> tuple[Collected, ...]:
        """Takes back what no activity holds any more, and says so for each.

        An instance lease goes if ``running`` denies its activity, the process that
        took it is gone (or is this one, which then knows best), and no process has
        the uid. ``running`` must not call the ledger. Bundle leases go only if
        ``bundles`` names them and nothing runs under them. Unusable files are removed
        with ``discard_corrupt``, and only if no process or file has the uid.
        """
        try:
            with self._mutex:
                return self._gc(running, bundles, discard_corrupt)
        except OSError as error:
            raise self._trouble("cleaned", error) from error

    def close(self) -> None:
        for fd in self._open_fds:
            os.close(fd)
        self._open_fds.clear()
        if self._map_fd >= 0:
            os.close(self._map_fd)
            self._map_fd = -1

    # Taking.

    def _take(self, wanted: Lease) -> Lease:
        surveyed = False
        while True:
            self._age_nss()
            with self._locked():
                self._refresh()
                known = self._by_activity.get(wanted.activity_id)
                if known is not None:
                    raise IdentityError(
                        f"activity {wanted.activity_id} already has uid {known.uid}",
                        code="identity-activity-known",
                        hint="stop it first, or choose another id",
                    )
                self._check_quota(wanted)
                if wanted.mode == "bundle":
                    bound = self._by_key.get(leases.key(wanted))
                    if bound is not None:
                        return self._use(self._held[bound], wanted)
                    self._refuse_lost_binding(wanted)
                uid = self._choose(surveyed=surveyed)
                if uid is not None and self._asked[uid - self.first]:
                    return self._grant(uid, wanted)
            # Both may be slow (a directory server; many processes), so neither
            # happens under the lock; what was chosen is chosen again afterwards.
            if uid is None:
                self._survey()
                surveyed = True
            else:
                self._ask_nss(uid)

    def _choose(self, *, surveyed: bool) -> int | None:
        """The next uid of the round; None: a survey may free some."""
        after = max(self._cursor, self.first)
        for uid in itertools.chain(
            range(after + 1, self.last + 1), range(self.first + 1, after + 1)
        ):
            if uid in self._held or uid in self._corrupt:
                continue
            if uid in self._others:
                continue
            if not self._numbers[uid - self.first] & 1:
                return uid
            if not surveyed:
                return None
        corrupt = sum(self.first < uid <= self.last for uid in self._corrupt)
        waiting = sorted(self._in_the_way.items())
        detail = f"; {waiting[0][0]}: {waiting[0][1]}" if waiting else ""
        raise IdentityError(
            f"no uid is free in {self.first + 1}-{self.last}: {len(self._held)} taken, "
            f"{corrupt} with an unusable file, {len(self._others)} other people's, "
            f"{len(waiting)} not purged yet{detail}",
            code="identity-exhausted",
            hint="stop activities, run 'isolauncher identity gc', or widen the range",
        )

    def _check_quota(self, wanted: Lease) -> None:
        caller = wanted.caller_uid
        limit = self._quota if caller else self._root_quota
        if self._running[caller] >= limit:
            raise IdentityError(
                f"uid {caller} has {self._running[caller]} activities, and its limit "
                f"is {limit}",
                code="identity-quota",
                hint="stop one (isolauncher ps, isolauncher stop), or let root raise "
                "the quota",
            )
        limit = self._bundle_quota if caller else self._root_quota
        if (
            wanted.mode == "bundle"
            and leases.key(wanted) not in self._by_key
            and self._bound[caller] >= limit
        ):
            raise IdentityError(
                f"uid {caller} has constant uids for {self._bound[caller]} bundles, "
                f"and its limit is {limit}",
                code="identity-quota",
                hint="let root take back unused ones (isolauncher identity gc "
                "--bundle KEY) or raise the quota",
            )

    def _refuse_lost_binding(self, wanted: Lease) -> None:
        """A key with a link but no lease that we could read gets no second uid."""
        name = leases.digest(wanted)
        try:
            os.stat(name, dir_fd=self._bundles_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        path = self.directory / "bundles" / name
        raise IdentityError(
            f"the constant uid of {wanted.key!r} cannot be read from {path}",
            code="identity-corrupt",
            hint="restore the file, or give the bundle a new uid: "
            "isolauncher identity gc --corrupt",
        )

    def _grant(self, uid: int, wanted: Lease) -> Lease:
        lease = replace(wanted, uid=uid, gid=uid)
        number = self._numbers[uid - self.first]
        self._announce(uid, cursor=uid, number=((number | 1) + 2) & 0xFFFFFFFF)
        if lease.mode == "instance":
            self._write(lease, str(uid), self._uids_fd)
            self._index(lease)
            self._name(lease)
            return lease
        bound = replace(lease, activity_id="")
        # uids/ before bundles/: were it the other way, a SIGKILL between them would
        # leave a key that points at a uid somebody else may take.
        self._write(bound, str(uid), self._uids_fd, durable=True)
        os.link(
            str(uid),
            leases.digest(bound),
            src_dir_fd=self._uids_fd,
            dst_dir_fd=self._bundles_fd,
        )
        os.fsync(self._bundles_fd)
        self._index(bound)
        return self._use(bound, wanted)

    def _use(self, bound: Lease, wanted: Lease) -> Lease:
        lease = replace(wanted, uid=bound.uid, gid=bound.gid)
        number = self._number(lease.uid)
        self._announce(
            lease.uid, cursor=self._cursor, number=((number | 1) + 2) & 0xFFFFFFFF
        )
        with contextlib.suppress(FileExistsError):
            os.mkdir(str(lease.uid), 0o700, dir_fd=self._uses_fd)
        fd = files.open_dir(str(lease.uid), self._uses_fd)
        try:
            self._write(lease, lease.activity_id, fd)
        finally:
            os.close(fd)
        self._index_use(lease)
        self._name(lease)
        return lease

    def _name(self, lease: Lease) -> None:
        if self._userdb is None:
            return
        try:
            userdb.write(self._userdb, lease, str(self._state))
        except OSError as error:
            # The record also tells another ledger that this uid is ours.
            self._drop(lease)
            raise IdentityError(
                f"uid {lease.uid} cannot be given a name in {self._userdb}: "
                f"{error.strerror}",
                code="identity-userdb",
                hint="make the directory writable for root, or configure none",
            ) from error

    # Giving back.

    def _drop(self, lease: Lease) -> None:
        """Ends an instance lease, or one use of a bundle lease."""
        self._announce(lease.uid, cursor=self._cursor, number=self._number(lease.uid))
        if lease.mode == "bundle":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{lease.uid}/{lease.activity_id}", dir_fd=self._uses_fd)
            self._unindex_use(lease)
            return
        # The name goes first: whoever is killed in between leaves a lease that gc
        # sees, not a name that nobody owns.
        if self._userdb is not None:
            userdb.remove(self._userdb, lease.uid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(str(lease.uid), dir_fd=self._uids_fd)
        self._unindex(lease.uid)

    def _unbind(self, lease: Lease) -> None:
        """Ends a bundle lease nothing runs under."""
        self._announce(lease.uid, cursor=self._cursor, number=self._number(lease.uid))
        if self._userdb is not None:
            userdb.remove(self._userdb, lease.uid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leases.digest(lease), dir_fd=self._bundles_fd)
        os.fsync(self._bundles_fd)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(str(lease.uid), dir_fd=self._uses_fd)
        os.unlink(str(lease.uid), dir_fd=self._uids_fd)
        os.fsync(self._uids_fd)
        self._unindex(lease.uid)

    def _gc(
        self,
        running: Callable[[str], bool],
        bundles: Callable[[Lease], bool] | None,
        discard_corrupt: bool,
    ) -> tuple[Collected, ...]:
        with self._locked():
            self._refresh()
            self._reload()
            before = dict(self._by_activity)
            idle = {
                lease.uid
                for lease in self._held.values()
                if lease.mode == "bundle" and bundles is not None and bundles(lease)
            }
        gone = {a: lease for a, lease in before.items() if not running(a)}
        # Scanned after the list was made, outside the lock; a lease that changed
        # meanwhile is left alone.
        alive = leftovers.in_proc(self._uids)
        done: list[Collected] = []

        def note(
            lease: Lease, what: Literal["released", "kept"], why: str, pid: int = 0
        ) -> None:
            done.append(
                Collected(
                    uid=lease.uid,
                    activity_id=lease.activity_id,
                    what=what,
                    why=why,
                    pid=pid,
                )
            )

        with self._locked():
            self._refresh()
            for activity, lease in sorted(gone.items()):
                if self._by_activity.get(activity) != lease or running(activity):
                    continue
                taker = (lease.taker_pid, lease.taker_start)
                if (
                    lease.boot_id == self._boot
                    and taker != self._myself()
                    and _start_of(lease.taker_pid) == lease.taker_start
                ):
                    pid = lease.taker_pid
                    note(lease, "kept", f"process {pid} took it and lives", pid)
                elif lease.mode == "instance" and lease.uid in alive:
                    pid = alive[lease.uid]
                    note(lease, "kept", f"process {pid} runs as it", pid)
                else:
                    self._drop(lease)
                    note(lease, "released", "its activity is gone")
            for uid in sorted(idle):
                bound = self._held.get(uid)
                if bound is None or bound.mode != "bundle":
                    continue
                if self._uses.get(uid):
                    note(bound, "kept", f"{len(self._uses[uid])} activities run as it")
                elif uid in alive:
                    note(bound, "kept", f"process {alive[uid]} runs as it")
                else:
                    self._unbind(bound)
                    note(bound, "released", f"{bound.key!r} has no uid any more")
            self._mend_links()
            if discard_corrupt:
                done += self._discard(alive)
            done += self._sweep_userdb()
        return tuple(done)

    def _mend_links(self) -> None:
        """The second link of a bundle lease whose taker was killed before making it."""
        for lease in self._held.values():
            if lease.mode == "bundle":
                with contextlib.suppress(FileExistsError):
                    os.link(
                        str(lease.uid),
                        leases.digest(lease),
                        src_dir_fd=self._uids_fd,
                        dst_dir_fd=self._bundles_fd,
                    )
                    os.fsync(self._bundles_fd)

    def _discard(self, alive: dict[int, int]) -> list[Collected]:
        owners = leftovers.in_data(self._uids, self._data)
        done: list[Collected] = []
        for uid, problem in sorted(self._corrupt.items()):
            why = ""
            if uid in alive:
                why = f"process {alive[uid]} runs as it"
            elif uid in owners:
                why = f"{owners[uid]} is its"
            if not why:
                self._announce(uid, cursor=self._cursor, number=self._number(uid) | 1)
                files.remove_tree(str(uid), self._uids_fd)
                files.remove_tree(str(uid), self._uses_fd)
                if self._userdb is not None:
                    userdb.remove(self._userdb, uid)
                self._unindex(uid)
            done.append(
                Collected(
                    uid=uid,
                    activity_id="",
                    what="kept" if why else "released",
                    why=why or problem,
                )
            )
        bound = {leases.digest(le) for le in self._held.values() if le.mode == "bundle"}
        kept = {
            os.stat(str(uid), dir_fd=self._uids_fd, follow_symlinks=False).st_ino
            for uid in self._corrupt
        }
        for name in sorted(os.listdir(self._bundles_fd)):
            info = os.stat(name, dir_fd=self._bundles_fd, follow_symlinks=False)
            if name not in bound and info.st_ino not in kept:
                files.remove_tree(name, self._bundles_fd)
                path = self.directory / "bundles" / name
                done.append(
                    Collected(
                        uid=0,
                        activity_id="",
                        what="released",
                        why=f"{path} led nowhere",
                    )
                )
        return done

    def _sweep_userdb(self) -> list[Collected]:
        if self._userdb is None or not self._userdb.is_dir():
            return []
        done: list[Collected] = []
        found = userdb.uids(self._userdb)
        for uid in sorted(found - self._held.keys() - self._corrupt.keys()):
            if self.first < uid <= self.last and self._record_of(uid) != "other":
                userdb.remove(self._userdb, uid)
                done.append(
                    Collected(
                        uid=uid,
                        activity_id="",
                        what="released",
                        why=f"its name in {self._userdb} had no lease",
                    )
                )
        return done

    # What is left of earlier owners.

    def _survey(self) -> None:
        """Clears the "used" bit of every free uid that nothing is left of."""
        with self._locked():
            self._refresh()
            before = list(self._numbers)
        dirty = self._leftovers()
        with self._locked():
            self._refresh()
            self._in_the_way = {}
            for index, number in enumerate(before):
                uid = self.first + index
                # Equal: nobody took it since before the look, so the look holds.
                if self._numbers[index] != number or uid in self._held:
                    continue
                if uid in dirty:
                    self._in_the_way[uid] = dirty[uid]
                elif number & 1:
                    self._numbers[index] = number - 1
            self._surveys = (self._surveys + 1) & 0xFFFFFFFF
            self._write_moving()
            os.pwrite(self._map_fd, self._numbers.tobytes(), _NUMBERS_AT)

    def _leftovers(self) -> dict[int, str]:
        return leftovers.found(self._uids, self._records, self._data)

    # Names of this machine.

    def _age_nss(self) -> None:
        """Forgets all answers when one of the files changes or the eldest is old."""
        stamp = tuple(
            _stamp(path) for path in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")
        )
        now = time.monotonic()
        if stamp != self._nss_stamp or now - self._nss_since > _NSS_AGE_S:
            self._asked = bytearray(len(self._asked))
            self._others.clear()
            self._nss_stamp = stamp
            self._nss_since = now

    def _ask_nss(self, uid: int) -> None:
        """Both directions cost 0.1 ms with files, seconds with a slow directory.

        A name service that cannot answer looks like one without such a name: the C
        library's answer is all that Python passes on.
        """
        names: list[str] = []
        with contextlib.suppress(KeyError):
            names.append(pwd.getpwuid(uid).pw_name)
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(uid).gr_name)
        record = self._record_of(uid)
        if record == "other":
            names.append("another ledger's activity")
        ours = {f"isolauncher-{uid}"} if record == "ours" else set()
        self._asked[uid - self.first] = True
        others = [name for name in names if name not in ours]
        if others:
            self._others[uid] = others[0]

    def _record_of(self, uid: int) -> Literal["none", "ours", "other"]:
        if self._userdb is None:
            return "none"
        return userdb.whose(self._userdb, uid, str(self._state))

    # The directory and the map.

    def _open(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True, mode=0o755)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)
        self._dir_fd = self._keep(files.open_dir(self.directory, None))
        info = os.fstat(self._dir_fd)
        if info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise IdentityError(
                f"{self.directory} belongs to uid {info.st_uid} with mode "
                f"{stat.S_IMODE(info.st_mode):o}, and others could change the ledger",
                code="identity-unsafe-directory",
                hint=f"it must be uid {os.geteuid()}'s with mode 700",
            )
        self._lock_fd = self._keep(
            os.open(
                "lock",
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._dir_fd,
            )
        )
        for name in ("uids", "bundles", "uses"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._dir_fd)
        self._uids_fd = self._keep(files.open_dir("uids", self._dir_fd))
        self._bundles_fd = self._keep(files.open_dir("bundles", self._dir_fd))
        self._uses_fd = self._keep(files.open_dir("uses", self._dir_fd))
        with self._locked():
            files.remove_tree(".new", self._dir_fd)
            header = self._open_map()
            if header != (self._boot, self.first, self.last):
                self._rebuild(new_boot=header is None or header[0] != self._boot)
            else:
                self._reload()

    def _keep(self, fd: int) -> int:
        self._open_fds.append(fd)
        return fd

    def _open_map(self) -> tuple[str, int, int] | None:
        """(boot id, first, last), or None: none that can be used."""
        if self._map_fd >= 0:
            os.close(self._map_fd)
            self._map_fd = -1
        try:
            self._map_fd = os.open(
                "map", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._dir_fd
            )
        except FileNotFoundError:
            return None
        header = os.pread(self._map_fd, _HEADER, 0)
        if len(header) != _HEADER or not header.startswith(_MAGIC):
            return None
        _, boot, first, last = _FIXED.unpack_from(header)
        size = _NUMBERS_AT + 4 * (last - first + 1)
        if not first < last or os.fstat(self._map_fd).st_size != size:
            return None
        self._sequence, self._cursor, self._surveys = _MOVING.unpack_from(
            header, _FIXED.size
        )
        self._read_numbers(last - first + 1)
        return (boot.hex(), first, last)

    def _rebuild(self, *, new_boot: bool) -> None:
        """A new map, by rename: whoever has the old one sees that it has no name.

        In a new boot nothing runs: leases of single activities and uses go.
        """
        if new_boot:
            self._forget_last_boot()
        self._reload(map_too=False)
        self._mend_links()
        try:
            dirty = self._leftovers()
        except IdentityError:
            # An unreadable record of an activity: let every uid wait for a survey,
            # which then says which record it is.
            dirty = dict.fromkeys(range(self.first, self.last + 1), "")
        self._numbers = array(
            "I",
            (
                int(uid in dirty or uid in self._held)
                for uid in range(self.first, self.last + 1)
            ),
        )
        if not self.first <= self._cursor <= self.last:
            self._cursor = self.first
        self._sequence = self._surveys = 0
        content = (
            _FIXED.pack(_MAGIC, bytes.fromhex(self._boot), self.first, self.last)
            + _MOVING.pack(self._sequence, self._cursor, self._surveys)
        ).ljust(_NUMBERS_AT, b"\0") + self._numbers.tobytes()
        self._write_new(content, durable=True)
        os.rename(".new", "map", src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        if self._open_map() != (self._boot, self.first, self.last):
            raise IdentityError(
                f"{self.directory / 'map'} does not hold what was written to it",
                code="identity-corrupt",
                hint="look after the disk",
            )

    def _forget_last_boot(self) -> None:
        for uid in os.listdir(self._uses_fd):
            fd = files.open_dir(uid, self._uses_fd)
            try:
                for name in os.listdir(fd):
                    if self._is_of_last_boot(name, fd):
                        os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        for name in os.listdir(self._uids_fd):
            if _UID.fullmatch(name) and self._is_of_last_boot(name, self._uids_fd):
                if self._userdb is not None:
                    userdb.remove(self._userdb, int(name))
                os.unlink(name, dir_fd=self._uids_fd)

    def _is_of_last_boot(self, name: str, directory: int) -> bool:
        try:
            lease = self._read(name, directory)
        except leases.Unusable:
            # A power loss leaves what was never synced empty or as zeros. A bundle
            # lease was synced before it had a name.
            return _is_torn(name, directory)
        # A bundle lease without activity is the binding itself, and outlives boots.
        return bool(lease.activity_id) and lease.boot_id != self._boot

    def _refresh(self) -> None:
        """What others changed since our last look; a few system calls if nothing."""
        if self._stale:
            self._reload()
        if os.fstat(self._map_fd).st_nlink == 0:
            header = self._open_map()
            if header != (self._boot, self.first, self.last):
                raise IdentityError(
                    f"another process now uses {self.directory} with another range "
                    f"than {self.first}-{self.last}",
                    code="identity-range-changed",
                    hint="restart this one with the same configuration",
                )
            self._reload()
            return
        moving = self._read_map(_MOVING.size, _FIXED.size)
        sequence, self._cursor, surveys = _MOVING.unpack(moving)
        if surveys != self._surveys:
            self._surveys = surveys
            self._read_numbers(self.last - self.first + 1)
        missed = sequence - self._sequence
        if missed == 0:
            return
        if not 0 < missed <= _RING:
            self._reload()
            return
        ring = array("I", self._read_map(4 * _RING, _HEADER))
        changed = {ring[n % _RING] for n in range(self._sequence + 1, sequence + 1)}
        self._sequence = sequence
        for uid in changed:
            # All before the first is read: an activity may have moved between them.
            self._unindex(uid)
        for uid in changed:
            if self.first <= uid <= self.last:
                at = _NUMBERS_AT + 4 * (uid - self.first)
                self._numbers[uid - self.first] = _NUMBER.unpack(self._read_map(4, at))[
                    0
                ]
            self._load(uid)

    def _announce(self, uid: int, *, cursor: int, number: int) -> None:
        """Before the change, so that a kill in between costs others one look."""
        self._sequence += 1
        self._cursor = cursor
        at = _HEADER + 4 * (self._sequence % _RING)
        os.pwrite(self._map_fd, _NUMBER.pack(uid), at)
        self._write_moving()
        if self.first <= uid <= self.last and number != self._number(uid):
            at = _NUMBERS_AT + 4 * (uid - self.first)
            os.pwrite(self._map_fd, _NUMBER.pack(number), at)
            self._numbers[uid - self.first] = number

    def _write_moving(self) -> None:
        moving = _MOVING.pack(self._sequence, self._cursor, self._surveys)
        os.pwrite(self._map_fd, moving, _FIXED.size)

    def _number(self, uid: int) -> int:
        return self._numbers[uid - self.first] if self.first <= uid <= self.last else 0

    def _read_numbers(self, count: int) -> None:
        self._numbers = array("I", self._read_map(4 * count, _NUMBERS_AT))

    def _read_map(self, size: int, at: int) -> bytes:
        content = os.pread(self._map_fd, size, at)
        if len(content) != size:
            raise IdentityError(
                f"{self.directory / 'map'} was cut short",
                code="identity-corrupt",
                hint="remove it; the next one who opens the ledger makes it anew",
            )
        return content

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        pause = 0.0001
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise IdentityError(
                        f"{self.directory / 'lock'} has been held for "
                        f"{_LOCK_PATIENCE_S:.0f} s by process {self._holder()}",
                        code="identity-busy",
                        hint="let that process go on, or end it",
                    ) from None
            # flock(2) has no time limit, and a launch must not hang on a process
            # that somebody stopped.
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)
        try:
            yield
        except IsolauncherError:
            raise
        except BaseException:
            # Stopped halfway, so that memory and disk may differ.
            self._stale = True
            raise
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _holder(self) -> str:
        inode = str(os.fstat(self._lock_fd).st_ino)
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                    return words[4]
        return "(unknown)"

    # Lease files and what of them is in memory.

    def _write(
        self,
        lease: Lease,
        name: str,
        directory: int,
        *,
        durable: bool = False,
        over: bool = False,
    ) -> None:
        """``over``: in the place of the lease that is there."""
        self._write_new(leases.content(lease), durable=durable)
        if over:
            os.rename(".new", name, src_dir_fd=self._dir_fd, dst_dir_fd=directory)
        else:
            try:
                os.link(".new", name, src_dir_fd=self._dir_fd, dst_dir_fd=directory)
            finally:
                os.unlink(".new", dir_fd=self._dir_fd)
        if durable:
            os.fsync(directory)

    def _write_new(self, content: bytes, *, durable: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(".new", flags, 0o600, dir_fd=self._dir_fd)
        except FileExistsError:
            # Not truncated: its other link may be a lease already.
            files.remove_tree(".new", self._dir_fd)
            fd = os.open(".new", flags, 0o600, dir_fd=self._dir_fd)
        try:
            files.write_all(fd, content)
            if durable:
                os.fsync(fd)
        except OSError:
            os.unlink(".new", dir_fd=self._dir_fd)
            raise
        finally:
            os.close(fd)

    def _reload(self, *, map_too: bool = True) -> None:
        """Everything from disk: at opening, for gc, or after too many changes."""
        if map_too:
            moving = self._read_map(_MOVING.size, _FIXED.size)
            self._sequence, self._cursor, self._surveys = _MOVING.unpack(moving)
            self._read_numbers(self.last - self.first + 1)
        for table in (self._held, self._uses, self._by_activity, self._by_key):
            table.clear()
        self._running.clear()
        self._bound.clear()
        self._corrupt.clear()
        self._stale = False
        strays: list[str] = []
        for name in sorted(os.listdir(self._uids_fd)):
            if _UID.fullmatch(name):
                self._load(int(name))
            else:
                path = self.directory / "uids" / name
                strays.append(f"{path} is no lease; remove it")
        self._strays = tuple(strays)

    def _load(self, uid: int) -> None:
        """One uid from disk."""
        self._unindex(uid)
        try:
            lease = self._read(str(uid), self._uids_fd)
            if lease.uid != uid:
                raise leases.Unusable(f"it is the lease of uid {lease.uid}")
            if lease.mode == "instance" and not lease.activity_id:
                raise leases.Unusable("it names no activity")
            if lease.mode == "instance" and lease.activity_id in self._by_activity:
                raise leases.Unusable(f"activity {lease.activity_id} has two leases")
            if lease.mode == "bundle" and leases.key(lease) in self._by_key:
                raise leases.Unusable(f"{lease.key!r} has two leases")
            uses = self._read_uses(lease) if lease.mode == "bundle" else []
        except FileNotFoundError:
            return
        except leases.Unusable as problem:
            path = self.directory / "uids" / str(uid)
            self._corrupt[uid] = (
                f"{path} cannot be used: {problem}; uid {uid} is not given out until "
                "the file is restored or removed by 'isolauncher identity gc "
                "--corrupt'"
            )
            return
        self._index(lease)
        for use in uses:
            self._index_use(use)

    def _read_uses(self, bound: Lease) -> list[Lease]:
        try:
            fd = files.open_dir(str(bound.uid), self._uses_fd)
        except FileNotFoundError:
            return []
        try:
            found: list[Lease] = []
            for name in sorted(os.listdir(fd)):
                try:
                    use = self._read(name, fd)
                except FileNotFoundError:
                    continue
                if (use.uid, leases.key(use), use.activity_id) != (
                    bound.uid,
                    leases.key(bound),
                    name,
                ) or use.activity_id in self._by_activity:
                    raise leases.Unusable(
                        f"uses/{bound.uid}/{name} does not belong to it"
                    )
                found.append(use)
            return found
        finally:
            os.close(fd)

    def _read(self, name: str, directory: int) -> Lease:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(name, flags, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise leases.Unusable(f"{name} is no regular file") from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise leases.Unusable(f"{name} is no regular file")
            content = os.read(fd, leases.MAX_BYTES + 1)
        finally:
            os.close(fd)
        if len(content) > leases.MAX_BYTES:
            raise leases.Unusable(f"{name} is larger than {leases.MAX_BYTES} bytes")
        return leases.parse(content)

    def _index(self, lease: Lease) -> None:
        self._held[lease.uid] = lease
        if lease.mode == "bundle":
            self._by_key[leases.key(lease)] = lease.uid
            self._bound[lease.caller_uid] += 1
        else:
            self._by_activity[lease.activity_id] = lease
            self._running[lease.caller_uid] += 1

    def _index_use(self, lease: Lease) -> None:
        self._uses.setdefault(lease.uid, {})[lease.activity_id] = lease
        self._by_activity[lease.activity_id] = lease
        self._running[lease.caller_uid] += 1

    def _unindex(self, uid: int) -> None:
        self._corrupt.pop(uid, None)
        lease = self._held.pop(uid, None)
        if lease is None:
            return
        for use in tuple(self._uses.get(uid, {}).values()):
            self._unindex_use(use)
        self._uses.pop(uid, None)
        if lease.mode == "bundle":
            del self._by_key[leases.key(lease)]
            self._bound[lease.caller_uid] -= 1
        else:
            del self._by_activity[lease.activity_id]
            self._running[lease.caller_uid] -= 1

    def _unindex_use(self, lease: Lease) -> None:
        if self._uses.get(lease.uid, {}).pop(lease.activity_id, None) is not None:
            del self._by_activity[lease.activity_id]
            self._running[lease.caller_uid] -= 1

    def _myself(self) -> tuple[int, int]:
        pid = os.getpid()
        if self._taker[0] != pid:
            self._taker = (pid, _start_of(pid) or 0)
        return self._taker

    def _trouble(self, verb: str, error: OSError) -> IdentityError:
        return IdentityError(
            f"the ledger in {self.directory} cannot be {verb}: {error}",
            code="identity-state",
            hint="is the disk full or read-only, and does root run this?",
        )


def stored_range(state_dir: Path) -> tuple[int, int] | None:
    """The range a state directory is used with; None: none yet."""
    try:
        with open(state_dir / "identity" / "map", "rb") as file:
            header = file.read(_FIXED.size)
    except FileNotFoundError:
        return None
    if len(header) != _FIXED.size or not header.startswith(_MAGIC):
        return None
    _, _, first, last = _FIXED.unpack(header)
    return (first, last)


def _is_torn(name: str, directory: int) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    try:
        info = os.fstat(fd)
        return (
            stat.S_ISREG(info.st_mode)
            and info.st_nlink == 1
            and info.st_size <= leases.MAX_BYTES
            and not os.read(fd, leases.MAX_BYTES).strip(b"\0")
        )
    finally:
        os.close(fd)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return (0, 0, 0)
    return (info.st_ino, info.st_mtime_ns, info.st_size)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def _start_of(pid: int) -> int | None:
    """When a process began; None if it is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])
