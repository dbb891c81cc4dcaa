# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for Sugar's DataStore: an activity has only its part of the Journal.

The real one takes every path of the person's for a document, hands out links to all
documents in one directory, and lets anybody find, change and delete anything. Here:

- an object exists for the activity only if it made it, or was launched with it, or if
  the policy says "all"; what another made is not told from what is not there. One that
  the person chose for it (chooser.py) exists to be read;
- a path is a file to be stored only if, opened beneath one of the activity's own
  directories and through no link, it is a regular file; a copy is what is stored;
- what is to be read is copied to the activity's ``instance``;
- properties that would lead the real one astray (it takes their names for names of
  files, and fails on every later search where a value is not what it expects) are
  refused.

Who made an object is a property of the object, `MADE_BY`, which only this module
writes. The real DataStore is spoken to over a connection of the person's own, one
question at a time, so that the person's own have to wait for no more than that.
Nothing here waits: copies are made in a thread, one after the other, so that there is
room for each that there seemed to be room for.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from gi.repository import Gio, GLib

from . import files
from .relay import DOCTYPE, Call, Relay, body_of, new_string

_Work = Generator[Any, Any, Any]

NAME = "org.laptop.sugar.DataStore"
PATH = "/org/laptop/sugar/DataStore"
MADE_BY = "isolauncher-made-by"

MAX_CREATED = 1000
"""Objects that one activity may make in one run."""
MAX_PENDING = 64
MAX_PROPERTIES = 128
MAX_PROPERTY_BYTES = 32 * 1024 * 1024
"""Of all objects' properties that one run writes: the shell reads them all at once."""
MAX_STORED = 8
"""Times the largest file that may be stored: what one run leaves in the Journal."""
TIMEOUT_MS = 300_000
LIMIT = 32768
"""As many as the real one finds at most (carquinyol.layoutmanager.MAX_QUERY_LIMIT)."""

_UID = re.compile(r"[0-9A-Za-z-]{1,64}")
_PROPERTY = re.compile(r"[^.:/][^:/]*(:[^/]*)?")
_MAX_NAME = 250
"""The DataStore makes a file of that name, and while it writes one with a dot before.

Of "title:text" it keeps "title" (carquinyol.metadatastore).
"""
_NUMBERS = ("timestamp", "creation_time", "filesize")
_NOT_ITS_OWN = ("uid", "checksum", "filesize", "ctime", MADE_BY)
"""Kept by the DataStore, or by us; "ctime" is a format to it, not a time, and what
comes of that it cannot store."""

_NOT_FOUND = "org.freedesktop.DBus.Python.ValueError"
_REFUSED = "org.freedesktop.DBus.Error.AccessDenied"
_INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
_LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
_UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"

INTROSPECTION = f"""{DOCTYPE}
<node name="{PATH}">
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg direction="out" type="s"/></method>
 </interface>
 <interface name="{NAME}">
  <method name="create">
   <arg direction="in" type="a{{sv}}" name="props"/>
   <arg direction="in" type="s" name="file_path"/>
   <arg direction="in" type="b" name="transfer_ownership"/>
   <arg direction="out" type="s"/>
  </method>
  <method name="update">
   <arg direction="in" type="s" name="uid"/>
   <arg direction="in" type="a{{sv}}" name="props"/>
   <arg direction="in" type="s" name="file_path"/>
   <arg direction="in" type="b" name="transfer_ownership"/>
  </method>
  <method name="find">
   <arg direction="in" type="a{{sv}}" name="query"/>
   <arg direction="in" type="as" name="properties"/>
   <arg direction="out" type="aa{{sv}}"/>
   <arg direction="out" type="u"/>
  </method>
  <method name="find_ids">
   <arg direction="in" type="a{{sv}}" name="query"/>
   <arg direction="out" type="as"/>
  </method>
  <method name="get_filename">
   <arg direction="in" type="s" name="uid"/>
   <arg direction="out" type="s"/>
  </method>
  <method name="get_properties">
   <arg direction="in" type="s" name="uid"/>
   <arg direction="out" type="a{{sv}}"/>
  </method>
  <method name="get_uniquevaluesfor">
   <arg direction="in" type="s" name="propertyname"/>
   <arg direction="in" type="a{{sv}}" name="query"/>
   <arg direction="out" type="as"/>
  </method>
  <method name="delete">
   <arg direction="in" type="s" name="uid"/>
  </method>
  <method name="mount">
   <arg direction="in" type="s" name="uri"/>
   <arg direction="in" type="a{{sv}}" name="options"/>
   <arg direction="out" type="s"/>
  </method>
  <method name="mounts"><arg direction="out" type="aa{{sv}}"/></method>
  <method name="unmount">
   <arg direction="in" type="s" name="mountpoint_id"/>
  </method>
  <signal name="Created"><arg type="s" name="uid"/></signal>
  <signal name="Updated"><arg type="s" name="uid"/></signal>
  <signal name="Deleted"><arg type="s" name="uid"/></signal>
  <signal name="Stopped"/>
  <signal name="Mounted"><arg type="a{{sv}}" name="descriptior"/></signal>
  <signal name="Unmounted"><arg type="a{{sv}}" name="descriptor"/></signal>
 </interface>
</node>"""


class Refused(Exception):
    """A D-Bus error to be answered with."""

    def __init__(self, text: str, name: str = _REFUSED) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of the Journal an activity has, and where its own files are.

    ``maker`` names the activity as the ledger does: ``system:ID`` or ``user:ID``.
    ``opened`` is the object that it was launched with. ``file_size`` in bytes.
    """

    documents: Literal["own", "opened", "all"]
    bundle_id: str
    activity_id: str
    maker: str
    opened: str | None
    file_size: int
    directories: files.Directories
    staging: str


@dataclass
class Journal:
    """A `relay.StandIn`. ``connect`` gives a connection to the person's session bus."""

    part: Part
    connect: Callable[[], Any]
    name: str = NAME
    unique: str = ":0.1"
    relay: Relay | None = None
    _bus: Any = None
    _created: int = 0
    _pending: int = 0
    _told: set[str] = field(default_factory=set)
    _chosen: set[str] = field(default_factory=set)
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _asked: deque[tuple[_Task, Ask]] = field(default_factory=deque)
    _asking: bool = False
    _aside: queue.SimpleQueue[tuple[_Task, Aside]] | None = None

    def call(self, call: Call) -> None:
        message = call.message
        interface, member = message.get_interface(), message.get_member()
        about = (interface, member, message.get_path())
        if about == ("org.freedesktop.DBus.Introspectable", "Introspect", PATH):
            call.reply(body_of(INTROSPECTION))
            return
        if interface == "org.freedesktop.DBus.Peer" and member == "Ping":
            call.reply()
            return
        work = _Methods.get(member)
        if message.get_path() != PATH or interface not in (NAME, None) or work is None:
            call.fail(_UNKNOWN, f"there is no method {member} here")
            return
        signature, method = work
        body = message.get_body()
        given = "()" if body is None else body.get_type_string()
        if given != signature:
            call.fail(_INVALID, f"{member} takes {signature}, not {given}")
            return
        if self._pending >= MAX_PENDING:
            call.fail(_LIMITS, "too many calls at a time")
            return
        self._pending += 1
        _Task(self, call, method(self, body)).step()

    def done(self) -> None:
        self._pending -= 1

    @property
    def is_busy(self) -> bool:
        return self._pending > 0

    def use(self, bus: Any) -> None:
        """Ask by this connection."""
        self._bus = bus

    def choose(self, uid: str) -> bool:
        """From now on it exists, to be read; False: it is none of the Journal's."""
        if not _UID.fullmatch(uid):
            return False  # a path: of a file on a medium
        self._chosen.add(uid)
        return True

    # Each is a generator: what it yields is done aside, and the result sent back in.

    def _create(self, body: Any) -> _Work:
        if self._created >= MAX_CREATED:
            raise Refused("this run has made enough objects", _LIMITS)
        self._created += 1
        properties = self._properties(body.get_child_value(0))
        properties[MADE_BY] = new_string(self.part.maker)
        path, transfer = (body.get_child_value(n).unpack() for n in (1, 2))

        def ask(staged: str) -> Ask:
            return Ask("create", body_of(properties, staged, bool(staged)))

        answer = yield from self._store("", properties, path, ask, transfer=transfer)
        return answer

    def _update(self, body: Any) -> _Work:
        uid = body.get_child_value(0).get_string()
        found = yield from self._must_be_more_than_chosen(uid)
        properties = self._properties(body.get_child_value(1))
        if MADE_BY in found:
            # Whoever changes it has not made it: opened once is not for ever.
            properties[MADE_BY] = found[MADE_BY]
        path, transfer = (body.get_child_value(n).unpack() for n in (2, 3))

        def ask(staged: str) -> Ask:
            return Ask("update", body_of(uid, properties, staged, bool(staged)))

        yield from self._store(uid, properties, path, ask, transfer=transfer)
        return None

    def _store(
        self,
        uid: str,
        properties: dict[str, Any],
        path: str,
        ask: Callable[[str], Ask],
        *,
        transfer: bool,
    ) -> _Work:
        """``ask`` with a copy of ``path``, as far as there is room; its answer."""
        text = sum(value.get_size() for value in properties.values())
        with ExitStack() as stack:
            staged, size = "", self._sizes.get(uid, (0, 0))[1]
            given = None
            if path:
                given = self.part.directories.find(path)
                if given is None:
                    raise Refused(_NO_FILE, _NOT_FOUND)
                stack.callback(given.close)
                size = os.fstat(given.fd).st_size
            self._see_room(uid, text, size)
            if given is not None:
                staged = yield from self._stage(given)
                stack.callback(_forget, staged)
            answer = yield ask(staged)
            if not uid:
                (uid,) = answer.unpack()
                self._told.add(uid)
            self._sizes[uid] = (text, size)
            if given is not None and transfer:
                given.unlink()
        return answer

    def _see_room(self, uid: str, text: int, size: int) -> None:
        """Refused, if this run would have written too much with this."""
        others = [both for known, both in self._sizes.items() if known != uid]
        if text + sum(t for t, _ in others) > MAX_PROPERTY_BYTES:
            raise Refused("this run has written enough properties", _LIMITS)
        if size + sum(s for _, s in others) > MAX_STORED * self.part.file_size:
            raise Refused("this run has stored enough", _LIMITS)

    def _delete(self, body: Any) -> _Work:
        uid = body.get_child_value(0).get_string()
        yield from self._must_be_more_than_chosen(uid)
        yield Ask("delete", body_of(uid))
        self._sizes.pop(uid, None)
        return None

    def _get_properties(self, body: Any) -> _Work:
        uid = body.get_child_value(0).get_string()
        found = yield from self._must_exist(uid)
        return body_of(_without(found))

    def _get_filename(self, body: Any) -> _Work:
        uid = body.get_child_value(0).get_string()
        yield from self._must_exist(uid)
        (path,) = (yield Ask("get_filename", body_of(uid))).unpack()
        if not path:
            return body_of("")
        try:
            inside = yield Aside(lambda: self._check_out(path))
        except files.Unfit as error:
            raise Refused(str(error), _LIMITS) from None
        return body_of(inside)

    def _find(self, body: Any) -> _Work:
        names = body.get_child_value(1).unpack()
        found, count = yield from self._search(body.get_child_value(0), names)
        return GLib.Variant("(aa{sv}u)", (found, count))

    def _find_ids(self, body: Any) -> _Work:
        found, _ = yield from self._search(body.get_child_value(0), ["uid"])
        return GLib.Variant("(as)", ([f["uid"].get_string() for f in found],))

    def _get_uniquevaluesfor(self, body: Any) -> _Work:
        if body.get_child_value(0).get_string() != "activity":
            raise Refused("only the values of 'activity' are known", _INVALID)
        found, _ = yield from self._search(GLib.Variant("a{sv}", {}), ["activity"])
        names = {f["activity"].unpack() for f in found if "activity" in f}
        return GLib.Variant("(as)", (sorted(str(name) for name in names),))

    def _mounts(self, body: Any) -> _Work:
        yield from ()
        return GLib.Variant("(aa{sv})", ([{"id": GLib.Variant("i", 1)}],))

    def _mount(self, body: Any) -> _Work:
        yield from ()
        return body_of("")

    def _unmount(self, body: Any) -> _Work:
        yield from ()
        return None

    def _must_exist(self, uid: str) -> _Work:
        """The object's properties, if it exists for the activity."""
        if _UID.fullmatch(uid):
            try:
                answer = yield Ask("get_properties", body_of(uid))
            except GLib.Error:
                pass
            else:
                properties = _children(answer.get_child_value(0))
                if self._exists(uid, properties):
                    self._told.add(uid)
                    return properties
        raise Refused("there is no such object", _NOT_FOUND)

    def _must_be_more_than_chosen(self, uid: str) -> _Work:
        """Of what the person has only chosen it takes a copy."""
        found = yield from self._must_exist(uid)
        if not self._is_its_own(uid, found):
            raise Refused("it was chosen to be read")
        return found

    def _exists(self, uid: str, properties: dict[str, Any]) -> bool:
        return uid in self._chosen or self._is_its_own(uid, properties)

    def _is_its_own(self, uid: str, properties: dict[str, Any]) -> bool:
        match self.part.documents:
            case "all":
                return True
            case "opened" if uid == self.part.opened:
                return True
        made_by = properties.get(MADE_BY)
        return made_by is not None and _text(made_by) == self.part.maker

    def _search(self, query: Any, names: list[str]) -> _Work:
        """(the objects found, with these properties; how many there are in all)."""
        wanted = _children(query)
        offset = _number(wanted.pop("offset", None), 0)
        limit = _number(wanted.pop("limit", None), LIMIT)
        wanted = _query(wanted)
        # First which there are: what they hold is asked only of what is shown.
        answer = yield Ask(
            "find", GLib.Variant("(a{sv}as)", (wanted, ["uid", MADE_BY]))
        )
        exist = [
            _text(one["uid"])
            for one in map(_children, _each(answer.get_child_value(0)))
            if "uid" in one and self._exists(_text(one["uid"]), one)
        ]
        shown = exist[offset : offset + limit]
        if not shown:
            return [], len(exist)
        again = {n: v for n, v in wanted.items() if n == "order_by"}
        known = set(shown)
        again["uid"] = GLib.Variant("as", shown)
        asked = [*names, "uid"] if names else []
        answer = yield Ask("find", GLib.Variant("(a{sv}as)", (again, asked)))
        found = [
            {k: v for k, v in _without(one).items() if not names or k in names}
            for one in map(_children, _each(answer.get_child_value(0)))
            # While it makes its index anew it answers with everything.
            if _text(one["uid"]) in known
        ]
        return found, len(exist)

    def _properties(self, given: Any) -> dict[str, Any]:
        """As the activity wants them, but whose they are; Refused if they do harm."""
        if given.n_children() > MAX_PROPERTIES:
            raise Refused("too many properties", _INVALID)
        kept = {}
        for name, value in _children(given).items():
            if not _is_property(name):
                raise Refused(f"{name[:64]!a} is no name of a property", _INVALID)
            plain = name.partition(":")[0]
            if plain not in _NOT_ITS_OWN:
                kept[plain] = _checked(plain, value)
        if self.part.documents != "all":
            # What opens it when it is clicked in the Journal, and as which instance.
            for name, own in (
                ("activity", self.part.bundle_id),
                ("activity_id", self.part.activity_id),
            ):
                if name in kept and _text(kept[name]) != "":
                    kept[name] = new_string(own)
        return kept

    def _stage(self, given: files.Given) -> _Work:
        """Where the DataStore may take a copy of the file from."""
        try:
            staged = yield Aside(
                lambda: files.stage(given, self.part.staging, self.part.file_size)
            )
        except files.Unfit as error:
            raise Refused(str(error), _NOT_FOUND) from None
        return staged

    def _check_out(self, path: str) -> str:
        """Copy what the DataStore hands out; its link to it is not kept."""
        try:
            return self.part.directories.check_out(path, self.part.file_size)
        finally:
            with suppress(OSError):
                os.unlink(path)

    def ask(self, task: _Task, wanted: Ask) -> None:
        self._asked.append((task, wanted))
        self._ask_next()

    def _ask_next(self) -> None:
        if self._asking or not self._asked:
            return
        self._asking = True
        task, wanted = self._asked.popleft()

        def answered(bus: Any, result: Any) -> None:
            reply, failed = None, None
            try:
                reply = bus.call_finish(result)
            except GLib.Error as error:
                failed = error
            self._asking = False
            # Who has waited comes before what this one asks next.
            self._ask_next()
            task.step(reply, failed)

        try:
            bus = self.bus()
        except GLib.Error as error:
            self._asking = False
            task.step(error=error)
            self._ask_next()
            return
        words = (NAME, PATH, NAME, wanted.method, wanted.values, None)
        bus.call(*words, Gio.DBusCallFlags.NONE, TIMEOUT_MS, None, answered)

    def aside(self, task: _Task, wanted: Aside) -> None:
        if self._aside is None:
            self._aside = queue.SimpleQueue()
            threading.Thread(
                target=_work_aside, args=(self._aside,), daemon=True
            ).start()
        self._aside.put((task, wanted))

    def get_ready(self) -> bool:
        """Connect ahead of the first question; who asks is told why it failed."""
        with suppress(GLib.Error):
            self.bus()
        return False

    def bus(self) -> Any:
        if self._bus is None or self._bus.is_closed():
            self._bus = self.connect()
            self._bus.signal_subscribe(
                NAME, NAME, None, PATH, None, Gio.DBusSignalFlags.NONE, self._signal
            )
        return self._bus

    def _signal(self, *told: Any) -> None:
        """Created, Updated, Deleted: of what exists for the activity, and of nothing
        else."""
        member, body = told[4], told[5]
        if body.get_type_string() != "(s)":
            return
        (uid,) = body.unpack()
        if member == "Deleted" and uid not in self._told:
            return
        if member in ("Created", "Updated") and uid not in self._told:
            _Task(self, None, self._tell_if_it_exists(member, uid)).step()
            return
        self._tell(member, uid)

    def _tell_if_it_exists(self, member: str, uid: str) -> _Work:
        try:
            yield from self._must_exist(uid)
        except Refused:
            return None
        self._tell(member, uid)
        return None

    def _tell(self, member: str, uid: str) -> None:
        if self.relay is not None:
            body = body_of(uid)
            self.relay.broadcast(self, PATH, NAME, member, body)


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks the real DataStore; yields its reply's body, raises GLib.Error."""

    method: str
    values: Any


@dataclass(frozen=True, slots=True)
class Aside:
    """Done in a thread; yields what it returns, raises what it raises."""

    work: Callable[[], Any]


class _Task:
    """Walks one method's generator from one thing to wait for to the next."""

    def __init__(self, journal: Journal, call: Call | None, work: _Work) -> None:
        self._journal = journal
        self._call = call
        self._work = work

    def step(self, value: Any = None, error: Exception | None = None) -> None:
        try:
            if error is None:
                wanted = self._work.send(value)
            else:
                wanted = self._work.throw(error)
        except StopIteration as end:
            body = end.value
            self._end(lambda call: call.reply(body))
        except Refused as refused:
            name, text = refused.name, str(refused)
            self._end(lambda call: call.fail(name, text))
        except GLib.Error as failed:
            name = Gio.dbus_error_get_remote_error(failed) or _FAILED
            # What the real one says may name what is none of the activity's business.
            self._end(lambda call: call.fail(name, "the DataStore could not do it"))
        except Exception as broken:
            text = f"{type(broken).__name__}: {broken}"
            sys.stderr.write(f"the Journal's mediator: {text}\n")
            self._end(lambda call: call.fail(_FAILED, "it could not be done"))
        else:
            self._wait(wanted)

    def _wait(self, wanted: Ask | Aside) -> None:
        match wanted:
            case Ask():
                self._journal.ask(self, wanted)
            case Aside():
                self._journal.aside(self, wanted)

    def _end(self, answer: Callable[[Call], None]) -> None:
        if self._call is not None:
            self._journal.done()
            answer(self._call)


def _work_aside(waiting: queue.SimpleQueue[tuple[_Task, Aside]]) -> None:
    while True:
        task, wanted = waiting.get()
        value, error = None, None
        try:
            value = wanted.work()
        except Exception as caught:
            error = caught
        GLib.idle_add(_step_once, task, value, error)


def _step_once(task: _Task, value: Any, error: Exception | None) -> bool:
    task.step(value, error)
    return False


def _each(array: Any) -> Iterator[Any]:
    return (array.get_child_value(number) for number in range(array.n_children()))


def _children(dictionary: Any) -> dict[str, Any]:
    """An ``a{sv}`` with its values as they came."""
    found = {}
    for entry in _each(dictionary):
        value = entry.get_child_value(1).get_variant()
        found[entry.get_child_value(0).get_string()] = value
    return found


def _without(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name != MADE_BY}


def _text(value: Any) -> str:
    """A string or the bytes of one; "" for anything else."""
    kind = value.get_type_string()
    if kind == "s":
        return str(value.get_string())
    if kind == "ay":
        return bytes(value.get_data_as_bytes().get_data()).decode("utf-8", "replace")
    return ""


def _number(value: Any, default: int) -> int:
    if value is None or value.get_type_string() not in _INTEGERS:
        return default
    return min(max(int(value.unpack()), 0), LIMIT)


def _is_property(name: str) -> bool:
    short = len(name.encode()) <= _MAX_NAME
    return short and name.isprintable() and _PROPERTY.fullmatch(name) is not None


def _checked(name: str, value: Any) -> Any:
    """The value as the DataStore itself would keep it, if it would come back whole."""
    kind = value.get_type_string()
    if name == "preview" and kind in ("ay", "s"):
        return value
    if name in _NUMBERS:
        try:
            number = int(float(_text(value) if kind in ("s", "ay") else value.unpack()))
        except (TypeError, ValueError, OverflowError):
            number = -1
        if not 0 <= number < 2**31:
            raise Refused(f"property {name} is not a number of seconds", _INVALID)
        return GLib.Variant("i", number)
    if kind == "ay":
        data = bytes(value.get_data_as_bytes().get_data())
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(f"property {name} is not text", _INVALID) from None
        if "\0" in text:
            raise Refused(f"property {name} holds a NUL", _INVALID)
    elif kind in ("s", "o", "g"):
        text = value.get_string()
    elif kind in (*_INTEGERS, "b", "d"):
        text = str(int(value.unpack()) if kind == "b" else value.unpack())
    else:
        raise Refused(f"property {name} is of type {kind}", _INVALID)
    if name in _TERMS and len(text.encode()) > MAX_TERM:
        raise Refused(f"property {name} is too long", _INVALID)
    return value if kind == "s" else new_string(text)


def _query(asked: dict[str, Any]) -> dict[str, Any]:
    """What of a query the real one can take: it rebuilds its index where it fails."""
    kept = {}
    for name, value in asked.items():
        kind = value.get_type_string()
        if name in _TERMS:
            plain = value.unpack()
            one = isinstance(plain, str | int)
            texts = [plain] if one else plain if isinstance(plain, list) else []
            texts = [str(t) for t in texts if isinstance(t, str | int)]
            if any(len(text.encode()) > MAX_TERM for text in texts):
                raise Refused(f"{name} is too long", _INVALID)
            if texts:
                kept[name] = (
                    GLib.Variant("s", texts[0]) if one else GLib.Variant("as", texts)
                )
        elif name in _NUMBERS:
            kept[name] = _range(name, value.unpack())
        elif name == "query" and kind == "s":
            kept[name] = GLib.Variant("s", value.get_string()[:1000])
        elif name == "order_by" and kind in ("as", "av"):
            first = [word for word in value.unpack() if word in _ORDERS][:1]
            if first:
                kept[name] = GLib.Variant("as", first)
    return kept


def _range(name: str, plain: Any) -> Any:
    try:
        if isinstance(plain, dict):
            ends = {k: int(plain[k]) for k in ("start", "end") if k in plain}
            if "start" in ends or "end" in ends:
                start, end = ends.get("start", 0), ends.get("end", 2**62)
                return GLib.Variant("(xx)", (start, end))
        elif isinstance(plain, tuple | list):
            start, end = map(int, plain)
            return GLib.Variant("(xx)", (start, end))
        else:
            return GLib.Variant("(xx)", (int(plain), int(plain)))
    except (TypeError, ValueError, OverflowError, GLib.Error):
        pass
    raise Refused(f"{name} is not a range of numbers", _INVALID)


def _forget(staged: str) -> None:
    """Gone already, if the DataStore has it now."""
    if staged:
        with suppress(FileNotFoundError):
            os.unlink(staged)


_NO_FILE = "there is no such file of the activity's own"
_FAILED = "org.freedesktop.DBus.Error.Failed"
_INTEGERS = ("y", "n", "q", "i", "u", "x", "t")
MAX_TERM = 200
"""Bytes: the index takes terms of up to 245, with a prefix (Xapian)."""
_TERMS = ("uid", "activity", "activity_id", "mime_type", "keep", "project_id")
_ORDERS = tuple(
    sign + name
    for sign in "+-"
    for name in ("timestamp", "title", "filesize", "creation_time")
)
_Method = Callable[[Journal, Any], _Work]
_Methods: dict[str, tuple[str, _Method]] = {
    "create": ("(a{sv}sb)", Journal._create),
    "update": ("(sa{sv}sb)", Journal._update),
    "find": ("(a{sv}as)", Journal._find),
    "find_ids": ("(a{sv})", Journal._find_ids),
    "get_filename": ("(s)", Journal._get_filename),
    "get_properties": ("(s)", Journal._get_properties),
    "get_uniquevaluesfor": ("(sa{sv})", Journal._get_uniquevaluesfor),
    "delete": ("(s)", Journal._delete),
    "mount": ("(sa{sv})", Journal._mount),
    "mounts": ("()", Journal._mounts),
    "unmount": ("(s)", Journal._unmount),
}
