# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws what model.py says, in Sugar's look.

A list of what is open, with who is confined and who is not; a list of activities with
the icons of what each may do; and for the one that is opened a sentence for each, with
a switch where something can be taken away.
"""

from __future__ import annotations

import logging
import threading

from gi.repository import Gio, GLib, Gtk, Pango
from jarabe.controlpanel.inlinealert import InlineAlert
from jarabe.controlpanel.sectionview import SectionView
from jarabe.model import bundleregistry
from sugar3 import profile
from sugar3.graphics import style
from sugar3.graphics.icon import Icon

from .model import Activity, NotInstalled, Sentence, Window
from .text import _

AGAIN_MS = 3000

_ICONS = {
    "network": "isolauncher-network",
    "documents": "activity-journal",
    "files": "user-documents",
    "screen": "computer",
    "sound": "speaker-100",
    "microphone": "media-audio-input",
    "camera": "camera",
    "devices": "drive",
    "programs": "isolauncher-programs",
    "memory": "isolauncher-memory",
    "storage": "media-flash-sd",
}
# By power, what its switch allows.
_ALLOW = {
    "network": _("Allow the network"),
    "documents": _("Allow what I give it"),
    "files": _("Allow other files"),
    "sound": _("Allow sounds"),
    "microphone": _("Allow listening"),
    "camera": _("Allow the camera"),
    "programs": _("Allow asking others"),
}
# Which of them are shown with the name: what a person would want to know at a glance.
_AT_A_GLANCE = (
    "network",
    "documents",
    "files",
    "sound",
    "microphone",
    "camera",
    "devices",
    "programs",
)

_PLAIN_BUTTON = b"""
button, button:hover, button:active, button:focus {
  background: transparent; border: none; box-shadow: none; padding: 0; color: black;
}
button:focus { outline: 2px solid #808080; }
"""


class ActivityPermissions(SectionView):
    def __init__(self, model, alerts=None):
        SectionView.__init__(self)
        self._model = model
        self._bundles = {}
        self._rows = {}
        self._looking = False
        self._shown_windows = None
        self.set_border_width(style.DEFAULT_SPACING * 2)
        self.set_spacing(style.DEFAULT_SPACING)

        self._alert = InlineAlert()
        self.pack_start(self._alert, False, False, 0)

        scrolled = Gtk.ScrolledWindow()
        scrolled.set_policy(Gtk.PolicyType.NEVER, Gtk.PolicyType.AUTOMATIC)
        self.pack_start(scrolled, True, True, 0)
        everything = Gtk.VBox(spacing=style.DEFAULT_SPACING)
        scrolled.add_with_viewport(everything)
        scrolled.get_child().modify_bg(
            Gtk.StateType.NORMAL, style.COLOR_WHITE.get_gdk_color()
        )

        self._open = _part(everything, _("Open now"))
        self._list = _part(everything, _("Installed"))
        scrolled.show_all()

        self._timer = 0
        self.connect("destroy", self.__destroy_cb)
        self.setup()

    def setup(self):
        registry = bundleregistry.get_registry()
        self._bundles = {one.get_bundle_id(): one for one in registry}
        try:
            found = self._model.activities(self._bundles.values())
        except NotInstalled:
            logging.exception("the control panel's section for isolauncher")
            self._say(_("isolauncher is not installed for Sugar: nothing is confined."))
            return
        for activity in found:
            row = _Row(activity, self.__switched_cb)
            self._rows[activity.bundle_id] = row
            self._list.pack_start(row, False, False, 0)
            row.show()
        self._timer = GLib.timeout_add(AGAIN_MS, self.__again_cb)
        self.__again_cb()

    def undo(self):
        """Nothing: what an administrator has said is in force."""

    def _say(self, text):
        self._alert.props.msg = GLib.markup_escape_text(text)
        self._alert.show()

    # What is open

    def __again_cb(self):
        if not self._looking:
            self._looking = True
            threading.Thread(target=self._look, daemon=True).start()
        return True

    def _look(self):
        """On a thread: the daemon may be slow to answer; the shell must not wait."""
        try:
            found = self._model.open_windows()
        except Exception as error:
            # Whatever it is, it is said where the windows would be.
            found = getattr(error, "message", None) or str(error)
        GLib.idle_add(self.__looked_cb, found)

    def __looked_cb(self, found):
        self._looking = False
        if self._timer and found != self._shown_windows:
            self._shown_windows = found
            if isinstance(found, str):
                logging.error("which windows are confined: %s", found)
            self._show_open(found)
        return False

    def _show_open(self, found):
        for child in self._open.get_children():
            child.destroy()
        if isinstance(found, str):
            self._open.pack_start(_grey(_("Error: %s") % found), False, False, 0)
        elif not found:
            self._open.pack_start(_grey(_("No activity is open.")), False, False, 0)
        else:
            for window in found:
                bundle = self._bundles.get(window.bundle_id)
                self._open.pack_start(_open_row(window, bundle), False, False, 0)
        self._open.show_all()

    def __destroy_cb(self, widget):
        if self._timer:
            GLib.source_remove(self._timer)
        self._timer = 0

    # What is taken away

    def __switched_cb(self, row, power, allowed):
        """``power`` "": what is taken already is taken anew, and nothing else."""
        taken = {*row.activity.taken} - {power} | (set() if allowed else {power})
        ordered = [s.power for s in row.activity.sentences if s.power in taken]
        row.set_busy(True)
        self._alert.hide()
        try:
            process = Gio.Subprocess.new(
                self._model.request(row.activity.bundle_id, ordered),
                Gio.SubprocessFlags.STDOUT_SILENCE | Gio.SubprocessFlags.STDERR_PIPE,
            )
        except GLib.Error as error:
            self._answered(row, 127, error.message)
            return
        process.communicate_utf8_async(None, None, self.__ended_cb, row)

    def __ended_cb(self, process, result, row):
        _done, _out, said = process.communicate_utf8_finish(result)
        status = process.get_exit_status() if process.get_if_exited() else 1
        self._answered(row, status, said or "")

    def _answered(self, row, status, said):
        if not self._timer:
            return  # the section was closed meanwhile
        if status != 0:
            logging.error("isolauncher restrict: %s", said)
            self._say(self._model.refusal(status, said))
        bundle = self._bundles[row.activity.bundle_id]
        row.show_activity(self._model.activity(bundle))
        row.set_busy(False)


class _Row(Gtk.VBox):
    """An activity: its name, the icons of what it has, and below more if asked for."""

    def __init__(self, activity: Activity, switched):
        Gtk.VBox.__init__(self, spacing=style.DEFAULT_PADDING)
        self.activity = activity
        self._switched = switched
        self._built = False

        self._button = Gtk.Button()
        self._button.set_relief(Gtk.ReliefStyle.NONE)
        _restyle(self._button)
        self._button.connect("clicked", self.__clicked_cb)
        self.pack_start(self._button, False, False, 0)

        self._more = Gtk.VBox(spacing=style.DEFAULT_PADDING)
        self._more.set_margin_start(style.STANDARD_ICON_SIZE + style.DEFAULT_SPACING)
        self._more.set_margin_bottom(style.DEFAULT_SPACING)
        self.pack_start(self._more, False, False, 0)
        self.show_activity(activity)

    def show_activity(self, activity: Activity):
        self.activity = activity
        child = self._button.get_child()
        if child is not None:
            child.destroy()
        self._button.add(self._headline(activity))
        self._button.get_accessible().set_name(activity.name)
        self._button.show_all()
        if self._built:
            self._build()

    def set_busy(self, busy: bool):
        self._more.set_sensitive(not busy)

    def open(self):
        self._build()
        self._more.show()
        self._arrow.props.icon_name = "go-up"

    def __clicked_cb(self, button):
        if self._more.get_visible():
            self._more.hide()
            self._arrow.props.icon_name = "go-down"
        else:
            self.open()

    def _headline(self, activity: Activity):
        box = Gtk.HBox(spacing=style.DEFAULT_SPACING)
        box.pack_start(_bundle_icon(activity.icon), False, False, 0)
        under = activity.problem and _("Nothing can be told of it.")
        if activity.policy:
            under = _("Policy: %s") % activity.policy
        box.pack_start(_name(activity.name, under), True, True, 0)
        for topic in _AT_A_GLANCE:
            if topic in activity.powers:
                level = max(
                    (s.level for s in activity.sentences if s.topic == topic),
                    key=("none", "some", "all").index,
                )
                box.pack_start(_power_icon(topic, level), False, False, 0)
        self._arrow = Icon(
            icon_name="go-up" if self._more.get_visible() else "go-down",
            pixel_size=style.SMALL_ICON_SIZE,
            stroke_color=style.COLOR_BUTTON_GREY.get_svg(),
            fill_color=style.COLOR_BUTTON_GREY.get_svg(),
        )
        box.pack_start(self._arrow, False, False, style.DEFAULT_PADDING)
        return box

    def _build(self):
        self._built = True
        for child in self._more.get_children():
            child.destroy()
        if self.activity.mend:
            self._more.pack_start(self._mending(), False, False, 0)
        elif self.activity.problem:
            self._more.pack_start(_grey(self.activity.problem), False, False, 0)
        for sentence in self.activity.sentences:
            self._more.pack_start(self._sentence(sentence), False, False, 0)
        if self.activity.origin and not self.activity.mend:
            self._more.pack_start(_grey(self.activity.origin), False, False, 0)
        for child in self._more.get_children():
            child.show_all()

    def _mending(self):
        box = Gtk.HBox(spacing=style.DEFAULT_SPACING)
        says = self.activity.problem or self.activity.origin
        box.pack_start(_label(says), True, True, 0)
        button = Gtk.Button(label=self.activity.mend)
        button.set_valign(Gtk.Align.CENTER)
        button.connect("clicked", self.__mend_cb)
        box.pack_start(button, False, False, 0)
        return box

    def _sentence(self, sentence: Sentence):
        box = Gtk.HBox(spacing=style.DEFAULT_SPACING)
        icon = _power_icon(sentence.topic, sentence.level)
        box.pack_start(icon, False, False, 0)
        none = sentence.level == "none"
        label = _grey(sentence.says) if none else _label(sentence.says)
        box.pack_start(label, True, True, 0)
        if sentence.power:
            check = Gtk.CheckButton(label=_ALLOW[sentence.power])
            check.set_active(not sentence.taken)
            check.set_sensitive(self.activity.changeable)
            check.connect("toggled", self.__toggled_cb, sentence.power)
            box.pack_start(check, False, False, 0)
        return box

    def __mend_cb(self, button):
        self._switched(self, "", True)

    def __toggled_cb(self, check, power):
        self._switched(self, power, check.get_active())


# ------------------------------------------------------------------------------- pieces


def _part(box, title):
    """A heading as Sugar's sections have it, and the room below."""
    separator = Gtk.HSeparator()
    box.pack_start(separator, False, False, 0)
    label = Gtk.Label(label=title)
    label.set_xalign(0)
    box.pack_start(label, False, False, 0)
    room = Gtk.VBox(spacing=style.DEFAULT_PADDING)
    room.set_border_width(style.DEFAULT_SPACING)
    box.pack_start(room, False, False, 0)
    return room


def _open_row(window: Window, bundle):
    box = Gtk.HBox(spacing=style.DEFAULT_SPACING)
    box.pack_start(_bundle_icon(bundle.get_icon() if bundle else None), False, False, 0)
    if window.verdict == "confined":
        emblem, under = "emblem-locked", _("Confined. Policy: %s") % window.policy
    elif window.verdict == "unconfined":
        emblem = "emblem-warning"
        under = _("Not confined: it can do whatever you can.")
    else:
        emblem = "emblem-question"
        under = _("Whether it is confined cannot be told now.")
    box.pack_start(_name(window.title, under), True, True, 0)
    safe = window.verdict == "confined"
    icon = Icon(
        icon_name=emblem,
        pixel_size=style.SMALL_ICON_SIZE,
        stroke_color=(style.COLOR_BUTTON_GREY if safe else style.COLOR_WHITE).get_svg(),
        fill_color="#FFFFFF" if safe else "#E32213",
    )
    box.pack_start(icon, False, False, style.DEFAULT_PADDING)
    return box


def _bundle_icon(file_name):
    icon = Icon(pixel_size=style.STANDARD_ICON_SIZE, xo_color=profile.get_color())
    if file_name:
        icon.props.file = file_name
    else:
        icon.props.icon_name = "application-x-generic"
    return icon


def _power_icon(topic, level):
    colours = {
        "none": (style.COLOR_PANEL_GREY, style.COLOR_WHITE),
        "some": (style.COLOR_BLACK, style.COLOR_WHITE),
        "all": (style.COLOR_BLACK, style.COLOR_BUTTON_GREY),
    }
    stroke, fill = colours[level]
    return Icon(
        icon_name=_ICONS[topic],
        pixel_size=style.SMALL_ICON_SIZE,
        stroke_color=stroke.get_svg(),
        fill_color=fill.get_svg(),
    )


def _name(name, under):
    box = Gtk.VBox()
    box.set_valign(Gtk.Align.CENTER)
    label = Gtk.Label()
    label.set_markup(f"<b>{GLib.markup_escape_text(name)}</b>")
    label.set_xalign(0)
    label.set_ellipsize(Pango.EllipsizeMode.END)
    box.pack_start(label, False, False, 0)
    if under:
        box.pack_start(_grey(under), False, False, 0)
    return box


def _grey(text):
    label = _label(text)
    label.modify_fg(Gtk.StateType.NORMAL, style.COLOR_BUTTON_GREY.get_gdk_color())
    return label


def _label(text):
    label = Gtk.Label(label=text)
    label.set_xalign(0)
    label.set_line_wrap(True)
    return label


def _restyle(button):
    provider = Gtk.CssProvider()
    provider.load_from_data(_PLAIN_BUTTON)
    context = button.get_style_context()
    context.add_provider(provider, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION + 1)
