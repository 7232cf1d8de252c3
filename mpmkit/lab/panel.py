"""The control room on a page: a form of ipywidgets, and a scoreboard with its history on canvases.

    mpmkit.lab.control_room()                        event
    mpmkit.lab.control_room("worker", KeepAliveTimeout=15)
    mpmkit.lab.control_room("worker", "event")       two side by side, under the same load

Between kernel and browser there is one message a sample: the trait `Board.frame`, some kilobytes of
letters and numbers, which panel.js paints. The browser reports that the room is looked at.

What ends what is left:

    the kernel ends, is restarted or killed     the launcher's lifeline ends the server
    the cell is run again                       `control_room` closes the rooms of its last run
    the tab is closed                           no browser reports for GONE seconds: the server is stopped
    the load's generator                        ends with its pipe, as the kernel does
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from mpmkit.config.directives import MPMS, SPECS
from mpmkit.lab import theme
from mpmkit.lab.cells import panels_of_this_run
from mpmkit.lab.clients import MOST
from mpmkit.lab.controls import Control
from mpmkit.lab.forms import NAMES, DirectiveForm, Field
from mpmkit.lab.load_form import FIRST, ROWS
from mpmkit.lab.machine_caveats import not_headline
from mpmkit.lab.room import Room
from mpmkit.launcher import LaunchError
from mpmkit.policy.states import LETTERS, WORDS

GONE = 45.0  # seconds without a report from any browser, after which the room is not looked at
ERRORS = (LaunchError, ValueError, TypeError, OSError)

BUTTONS = {
    "start": ("Start", "Start the chosen MPM with these directives"),
    "graceful": ("Graceful", "USR1: read the directives again; the old generation finishes"),
    "restart": ("Restart", "HUP: read the directives again; connections are cut"),
    "stop": ("Stop", "TERM: end the server, and the load"),
}
MORE_LOAD = "open loop, think time, a mix, slow readers, idle holders"
BROWSERS = Field(
    "browsers", "Browsers", "whole", "", "Clients of which each keeps its connection, sends a request, waits "
    "for so many seconds, and sends the next", "0", 0, MOST, 300, 1, "", label="number",
)  # fmt: skip
THINK = Field(
    "browser_think", "Browsers", "number", "s", "How long a browser waits between an answer and its next "
    "request", "60", 0.05, 3600, 60, 0.5, "", label="think, s",
)  # fmt: skip


class Board(anywidget.AnyWidget):
    """Scoreboard and history, painted by panel.js."""

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")

    status = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    palette = traitlets.Dict().tag(sync=True)


class Panel(ipywidgets.VBox):
    """One control room on the page. `room` is its model: use that from Python."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room
        self.peers: list[Panel] = [self]  # rooms side by side get the same load, and one scale
        self.link = uuid.uuid4().hex
        self._setting = threading.RLock()
        self._showing: int | None = None  # the thread that shows the chosen MPM
        self._views: dict[str, float] = {}
        self._looked_at = False
        self.board = Board(palette=palette())
        fields = {field.name: field for mpm in MPMS for field in DirectiveForm(mpm).fields()}
        self.directives = {name: Control(fields[name], self._set, live=True) for name in NAMES}
        self.load = {name: Control(row, self._load_set) for name, row in ROWS.items()}
        self.load |= {row.name: Control(row, self._browsers_set) for row in (BROWSERS, THINK)}
        self._build()
        self.board.on_msg(self._reported)
        room.on_frame = self._new_frame
        self.refresh()

    def _build(self) -> None:
        """Make the widgets and put them in their places; panel.css has the layout."""
        self.choice = ipywidgets.ToggleButtons(options=MPMS, value=self.room.mpm)
        self.choice.observe(self._chosen, "value")
        self.buttons = {
            do: ipywidgets.Button(description=text, tooltip=tooltip)
            for do, (text, tooltip) in BUTTONS.items()
        }
        for do, button in self.buttons.items():
            button.on_click(lambda _, do=do: self.act(do))
            button.add_class(f"mk-{do}")
        self.state, self.message, self.events = (ipywidgets.HTML() for _ in range(3))
        self.load_button = ipywidgets.Button(description="Start load")
        self.load_button.on_click(self._load_clicked)
        first, *more, browsers = _groups(self.load)
        self.more = ipywidgets.Accordion([_box("mk-parts", *more)])
        self.children = [
            _box(
                "mk-room",
                _box("mk-head", self.choice, *self.buttons.values(), self.state),
                _box("mk-load", first, self.load_button, browsers, self.more),
                self.message,
                _box("mk-side", *_groups(self.directives)),
                self.board,
                self.events,
            )
        ]
        names = {
            "mk-choices": self.choice, "mk-state": self.state, "mk-note": self.message,
            "mk-log": self.events, "mk-go": self.load_button, "mk-more": self.more, "mk-main": self.board,
        }  # fmt: skip
        for name, widget in names.items():
            widget.add_class(name)
        self.add_class("mk")

    def close(self) -> None:
        """Stop the server and take the widgets from the page."""
        self.room.on_frame = None
        self.room.close()
        for child in self.children:
            _close(child)
        super().close()

    def refresh(self) -> None:
        """Show what is chosen and what runs."""
        with self._setting:
            status = self.room.status()
            self._show_status(status)
            for controls, fields in (
                (self.directives, self.room.fields()),
                (self.load, [*self.room.load_fields(), *_browsers(status)]),
            ):
                now = {field.name: field for field in fields}
                for name, control in controls.items():
                    control.show(now.get(name))
            wrong = sum(f.refused for f in self.room.load_fields() if f.group != FIRST)
            more = f"{wrong} to correct" if wrong else status["load_summary"] or MORE_LOAD
            self.more.set_title(0, f"More: {more}")

    def _show_status(self, status: dict[str, Any]) -> None:
        """The head and the log. Lamp, buttons and log follow the server, not the clicks."""
        runs, running, chosen = status["running"], status["running_mpm"], status["mpm"]
        other = runs and running != chosen
        self._showing = threading.get_ident()
        self.choice.value = chosen
        self._showing = None
        self.buttons["start"].description = "Start anew" if runs else "Start"
        self.buttons["stop"].disabled = not runs
        for do in ("graceful", "restart"):
            self.buttons[do].disabled = not runs or other
        _mark(self.buttons["graceful"], "mk-due", bool(status["unapplied"]))
        self.load_button.disabled = not runs
        whose = " (all)" if len(self.peers) > 1 else ""
        self.load_button.description = ("Stop load" if status["loading"] else "Start load") + whose
        _mark(self.load_button, "mk-on", status["loading"])
        text = f"{running} · pid {status['pid']} · {status['url'].removeprefix('http://')}"
        if other:
            text += f" · Start anew ends it and starts {chosen}"
        elif status["unapplied"]:
            text += f" · {', '.join(status['unapplied'])} set: Graceful brings it in"
        lamp = f"<i class='mk-lamp{' mk-lit' * runs}'></i>"
        self.state.value = lamp + escape(text if runs else "stopped")
        _mark(self.state, "mk-runs", runs)
        began = [panel.room.status()["began"] for panel in self.peers if panel.room.server]
        shift = status["began"] - min(began, default=status["began"])
        self.events.value = _log(self.room.events()[-9:], shift)
        self.board.status = {
            **{name: status[name] for name in ("mpm", "running", "running_mpm", "began")},
            "linked": len(self.peers) > 1,
            "link": self.link,
        }

    def say(self, text: str) -> None:
        """A line under the buttons; "" takes it away."""
        with self._setting:
            self.message.value = escape(text)

    # -- what happens in the room -------------------------------------------------------------------

    def _new_frame(self, frame: dict[str, Any]) -> None:
        """The room's callback, in its thread; an empty frame: the server has ended."""
        if not frame:
            self.refresh()
            return
        with self._setting:
            self.board.frame = frame
            self._show_status(self.room.status())
        if self._looked_at and time.monotonic() - max(self._views.values(), default=0) > GONE:
            self._looked_at = False
            self.room.note("no browser shows this room any more: the server is stopped")
            self.act("stop")

    def _reported(self, _: Any, content: Any, __: Any) -> None:
        """A message of panel.js: a view of the room was opened, is there, or is closed."""
        content = content if isinstance(content, dict) else {}
        do, view = (str(content.get(key)) for key in ("do", "view"))
        if do == "bye":
            self._views.pop(view, None)
        elif do in ("hello", "here"):
            self._views[view] = time.monotonic()
            self._looked_at = True
        if do == "hello":
            self.board.send({"history": self.room.history(), "events": self.room.events()[-40:]})

    # -- what a reader does -------------------------------------------------------------------------

    def act(self, do: str) -> None:
        """start, stop, graceful, restart or stop_load, in a thread: they may take a second. Errors
        are shown under the buttons."""

        def run() -> None:
            self.say({"start": "starting …", "stop": "stopping …"}.get(do, ""))
            self._try(getattr(self.room, do), then="")

        threading.Thread(target=run, name=f"mpmkit-{do}", daemon=True).start()

    def _try(self, act: Callable[..., Any], *values: Any, then: str | None = None) -> None:
        """Do something and show what came of it: the error in words, or `then` if that is given."""
        try:
            act(*values)
        except ERRORS as error:
            then = str(error) or repr(error)
        if then is not None:
            self.say(then)
        self.refresh()

    def _chosen(self, change: Any) -> None:
        if self._showing != threading.get_ident():  # a reader's click, not what a frame shows
            self._try(self.room.choose, change.new, then="")

    def _set(self, name: str, value: str) -> None:
        self._try(self.room.set, name, value)

    def _load_set(self, name: str, value: str) -> None:
        for panel in self.peers:
            panel._try(panel.room.load_set, name, value)
        self._to_all(Room.renew_load)

    def _load_clicked(self, _: Any = None) -> None:
        if not self.room.loading:
            self._to_all(Room.start_load)
        else:
            for panel in self.peers:
                panel.act("stop_load")

    def _to_all(self, act: Callable[[Room], bool | None]) -> None:
        """Start a load in each room, one after the other in a thread; False: there was nothing to do."""

        def run() -> None:
            for panel in self.peers:
                try:
                    if act(panel.room) is False:
                        continue
                    panel.say("")
                except ERRORS as error:
                    panel.say(str(error))
                panel.refresh()

        threading.Thread(target=run, name=f"mpmkit-{act.__name__}", daemon=True).start()

    def _browsers_set(self, name: str, value: str) -> None:
        for panel in self.peers:
            panel._try(panel._crowd, name, value, then="")

    def _crowd(self, name: str, value: str) -> None:
        status = self.room.status()
        count, think = status["browsers"], status["think"]
        if name == BROWSERS.name:
            count = int(value or BROWSERS.default)
        else:
            think = float(value or THINK.default)
        self.room.crowd_size(count, think)


def _box(name: str, *children: Any) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(name)
    return box


def _mark(widget: Any, name: str, on: bool) -> None:
    (widget.add_class if on else widget.remove_class)(name)


def _groups(controls: dict[str, Control]) -> list[ipywidgets.Box]:
    """The controls' rows, in a box a group with its heading."""
    made = []
    for group in dict.fromkeys(control.group for control in controls.values()):
        rows = [control.widget for control in controls.values() if control.group == group]
        made.append(_box("mk-part", ipywidgets.HTML(f"<h4>{escape(group)}</h4>"), *rows))
    return made


def _close(widget: Any) -> None:
    """Close a widget and all that it shows."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def _browsers(status: dict[str, Any]) -> list[Field]:
    """The two fields of the browsers, with their values."""
    values = (f"{status['browsers']}", f"{status['think']:g}")
    return [
        field._replace(value=value if value != field.default else "")
        for field, value in zip((BROWSERS, THINK), values, strict=True)
    ]


def _log(events: list[list[Any]], shift: float) -> str:
    """The newest events first; `shift` seconds lie between the first room's start and this one's."""
    lines = [
        f"<li class='mk-event-{kind}' title='{escape(text)}'><b>{t + shift:.1f} s</b>{escape(text)}"
        for t, kind, text in reversed(events)
    ]
    return f"<ol>{''.join(lines)}</ol>"


def palette() -> dict[str, Any]:
    """Colours and words for the browser, for a light page and a dark one."""
    return {
        "mpms": {"light": theme.LIGHT, "dark": theme.DARK},
        "letters": {
            name: {letter: theme.letter_colour(letter, name) for letter in LETTERS}
            for name in theme.THEMES
        },
        "words": dict(zip(LETTERS, WORDS, strict=True)),
        "caveat": not_headline(),
    }


def control_room(*mpms: str, **directives: Any) -> Any:
    """A control room: choose an MPM and directives, start it, put a load on it, watch.

    mpms         one to begin with (default "event"), or several: rooms side by side whose load is
                 started, stopped and changed together
    directives   values to begin with, as for `mpmkit.launch`; with several MPMs, each takes those
                 that it has

    Returns the widget; `.room` is its model (with several: `.rooms`). Run the cell again, and the
    servers of its last run are stopped. Raises DirectiveError for what does not exist.
    """
    panels, made = panels_of_this_run(), []
    for mpm in mpms or ("event",):
        fitting = {
            name: value
            for name, value in directives.items()
            if len(mpms) < 2 or name.lower() not in SPECS or mpm in SPECS[name.lower()].mpms
        }
        made.append(Panel(Room(mpm, **fitting)))
    panels += made
    if len(made) == 1:
        return made[0]
    for panel in made:
        panel.peers, panel.link = made, made[0].link
        panel.refresh()
    box = ipywidgets.HBox(made)
    box.add_class("mk-rooms")
    box.rooms = [panel.room for panel in made]
    return box
