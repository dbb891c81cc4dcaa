# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for Telepathy's account manager: for the activity nobody has an account.

Every Sugar activity asks at its start for the person's accounts, and ends if there is
nobody to ask (sugar3.presence.connectionmanager). Its one way to ask, the properties of
account objects, gives out passwords as well, and a filter cannot tell one property from
another. So an activity that its policy gives nothing of Telepathy finds no account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gi.repository import GLib

from .relay import DOCTYPE, Call

NAME = "org.freedesktop.Telepathy.AccountManager"
PATH = "/org/freedesktop/Telepathy/AccountManager"
_PROPERTIES = {
    "Interfaces": "as",
    "ValidAccounts": "ao",
    "InvalidAccounts": "ao",
    "UsableAccounts": "ao",
    "UnusableAccounts": "ao",
    "SupportedAccountProperties": "as",
}

_LISTED = "".join(
    f'<property name="{name}" type="{kind}" access="read"/>'
    for name, kind in _PROPERTIES.items()
)
INTROSPECTION = f"""{DOCTYPE}
<node name="{PATH}">
 <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg direction="in" type="s"/><arg direction="in" type="s"/>
   <arg direction="out" type="v"/>
  </method>
  <method name="GetAll">
   <arg direction="in" type="s"/><arg direction="out" type="a{{sv}}"/>
  </method>
 </interface>
 <interface name="{NAME}">
  {_LISTED}
 </interface>
</node>"""


@dataclass
class NoAccounts:
    """A `relay.StandIn`."""

    name: str = NAME
    unique: str = ":0.2"

    def call(self, call: Call) -> None:
        message = call.message
        about = (message.get_path(), message.get_interface(), message.get_member())
        given = () if message.get_body() is None else message.get_body().unpack()
        answer = self._answer(about, given)
        if answer is None:
            call.fail("org.freedesktop.DBus.Error.UnknownMethod", "not here")
        else:
            call.reply(answer)

    def _answer(self, about: tuple[str, str, str], given: tuple[Any, ...]) -> Any:
        if about[0] != PATH:
            return None
        match about[1:], given:
            case ("org.freedesktop.DBus.Introspectable", "Introspect"), ():
                return GLib.Variant("(s)", (INTROSPECTION,))
            case ("org.freedesktop.DBus.Peer", "Ping"), ():
                return GLib.Variant("()", ())
            case ("org.freedesktop.DBus.Properties", "Get"), (_, name):
                if name in _PROPERTIES:
                    empty = GLib.Variant(_PROPERTIES[name], [])
                    return GLib.Variant("(v)", (empty,))
            case ("org.freedesktop.DBus.Properties", "GetAll"), (_,):
                everything = {n: GLib.Variant(t, []) for n, t in _PROPERTIES.items()}
                return GLib.Variant("(a{sv})", (everything,))
        return None
