# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the Journal's window: what is chosen there, an activity may read.

The activity asks for the chooser and the shell shows it, with the whole Journal in it,
in a window of the shell's own. What comes back is one object, or that there is none.
The activity learns only of its own choosers, by names that nobody else knows; that an
object was chosen is taken from whoever was asked to show the window, and from nobody
else. Everything else that the Journal's window offers is refused.

It is no boundary on a display that lets programs type into each other's windows.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gi.repository import Gio, GLib

from .relay import DOCTYPE, Call, Relay

NAME = "org.laptop.Journal"
PATH = "/org/laptop/Journal"
MAX_OPEN = 3
"""At a time: the shell does not tell of one that goes with its activity's window."""
MAX_IN_ALL = 100
TIMEOUT_MS = 30_000

_DRIVER = "org.freedesktop.DBus"
_FILTER = re.compile(r"[A-Za-z0-9_.+/-]{0,255}")
_KINDS = ("mime_by_activity", "generic_mime", "activity")
"""sugar3.graphics.objectchooser's."""
_METHODS = {"ChooseObject": "(is)", "ChooseObjectWithFilter": "(issb)"}
_SIGNALS = {"ObjectChooserResponse": "(ss)", "ObjectChooserCancelled": "(s)"}
_REFUSED = f"{_DRIVER}.Error.AccessDenied"
_INVALID = f"{_DRIVER}.Error.InvalidArgs"
_LIMITS = f"{_DRIVER}.Error.LimitsExceeded"

INTROSPECTION = f"""{DOCTYPE}
<node name="{PATH}">
 <interface name="{NAME}">
  <method name="ChooseObject">
   <arg direction="in" type="i" name="parent_xid"/>
   <arg direction="in" type="s" name="what_filter"/>
   <arg direction="out" type="s"/>
  </method>
  <method name="ChooseObjectWithFilter">
   <arg direction="in" type="i" name="parent_xid"/>
   <arg direction="in" type="s" name="what_filter"/>
   <arg direction="in" type="s" name="filter_type"/>
   <arg direction="in" type="b" name="show_preview"/>
   <arg direction="out" type="s"/>
  </method>
  <signal name="ObjectChooserResponse">
   <arg type="s" name="chooser_id"/><arg type="s" name="object_id"/>
  </signal>
  <signal name="ObjectChooserCancelled"><arg type="s" name="chooser_id"/></signal>
 </interface>
</node>"""


@dataclass
class Chooser:
    """A `relay.StandIn`. ``connect`` gives a connection to the person's session bus.

    ``chosen`` is told of each object, and says whether it can be given.
    """

    connect: Callable[[], Any]
    chosen: Callable[[str], bool]
    name: str = NAME
    unique: str = ":0.3"
    relay: Relay | None = None
    _bus: Any = None
    _count: int = 0
    _asking: int = 0
    _open: dict[tuple[str, str], str] = field(default_factory=dict)

    def call(self, call: Call) -> None:
        message = call.message
        about = (message.get_path(), message.get_interface(), message.get_member())
        if about == (PATH, "org.freedesktop.DBus.Introspectable", "Introspect"):
            call.reply(GLib.Variant("(s)", (INTROSPECTION,)))
            return
        path, interface, member = about
        if path != PATH or interface not in (NAME, None) or member not in _METHODS:
            call.fail(_REFUSED, "of the Journal's window there is the chooser alone")
            return
        values = _checked(member, message.get_body())
        if values is None:
            call.fail(_INVALID, f"{member} takes {_METHODS[member]} of a known kind")
        elif len(self._open) + self._asking >= MAX_OPEN or self._count >= MAX_IN_ALL:
            call.fail(_LIMITS, "too many choosers")
        else:
            self._show(call, member, values)

    def _show(self, call: Call, member: str, values: Any) -> None:
        self._count += 1
        asked = Gio.DBusMessage.new_method_call(NAME, PATH, NAME, member)
        asked.set_flags(Gio.DBusMessageFlags.NO_AUTO_START)
        asked.set_body(values)

        def answered(bus: Any, result: Any) -> None:
            self._asking -= 1
            try:
                answer = bus.send_message_with_reply_finish(result)
                answer.to_gerror()
                (shown,) = answer.get_body().unpack()
                sender = answer.get_sender()
            except (GLib.Error, AttributeError, TypeError, ValueError):
                call.fail(f"{_DRIVER}.Error.Failed", "the chooser could not be shown")
                return
            ours = self._open[sender, str(shown)] = secrets.token_hex(16)
            call.reply(GLib.Variant("(s)", (ours,)))

        try:
            bus = self.bus()
        except GLib.Error:
            call.fail(f"{_DRIVER}.Error.Failed", "there is no session bus any more")
            return
        self._asking += 1
        flags = Gio.DBusSendMessageFlags.NONE
        bus.send_message_with_reply(asked, flags, TIMEOUT_MS, None, answered)

    def bus(self) -> Any:
        if self._bus is None or self._bus.is_closed():
            self._bus = bus = self.connect()
            none = Gio.DBusSignalFlags.NONE
            # Before anything is asked: what is chosen comes after.
            bus.signal_subscribe(NAME, NAME, None, PATH, None, none, self._signal)
            bus.signal_subscribe(
                *(_DRIVER, _DRIVER, "NameOwnerChanged", None, NAME, none, self._gone)
            )
        return self._bus

    def _signal(self, *told: Any) -> None:
        sender, member, body = told[1], told[4], told[5]
        if body.get_type_string() != _SIGNALS.get(member):
            return
        shown, *chosen = body.unpack()
        ours = self._open.pop((sender, shown), None)
        if ours is None:
            return  # another's
        if chosen and self.chosen(*chosen):
            self._tell("ObjectChooserResponse", ours, *chosen)
            return
        if chosen:
            sys.stderr.write("what was chosen is not in the Journal, and not given\n")
        self._tell("ObjectChooserCancelled", ours)

    def _gone(self, *told: Any) -> None:
        """The shell has ended, and its windows with it."""
        _, old, _ = told[5].unpack()
        for key in [key for key in self._open if key[0] == old]:
            self._tell("ObjectChooserCancelled", self._open.pop(key))

    def _tell(self, member: str, *words: str) -> None:
        if self.relay is not None:
            body = GLib.Variant(_SIGNALS[member], words)
            self.relay.broadcast(self, PATH, NAME, member, body)


def _checked(member: str, body: Any) -> Any:
    """The arguments as the shell takes them; None for others."""
    if body is None or body.get_type_string() != _METHODS[member]:
        return None
    window, what, *more = body.unpack()
    if not _FILTER.fullmatch(what) or (more and more[0] not in _KINDS):
        return None
    return GLib.Variant(_METHODS[member], (max(window, 0), what, *more))
