"""The control room on a page: a form of ipywidgets, and a scoreboard with its history on canvases.

    mpmkit.lab.control_room("worker", KeepAliveTimeout=15)
    mpmkit.lab.control_room("worker", "event")       two side by side, under the same load

Between kernel and browser there is one message a sample: the trait `Board.frame`, some kilobytes of
letters and numbers, which panel.js paints. The browser reports that the room is looked at.

The launcher's lifeline ends the server with the kernel, `Frame` when the cell is run again. When the tab is
closed, no browser reports for GONE seconds: the server is stopped. The load ends with its pipe, as the kernel
does.
"""

import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from mpmkit.config.directives import MPMS, SPECS
from mpmkit.lab import theme
from mpmkit.lab.controls import Control, Frame, box, button, groups, mark, named, text
from mpmkit.lab.forms import BROWSERS, FILES, FIRST, NAMES, ROWS, DirectiveForm
from mpmkit.lab.replay import not_headline
from mpmkit.lab.room import Room
from mpmkit.lab.sweep_view import sweep_panel
from mpmkit.launcher import LaunchError

GONE = 45.0  # seconds without a report from any browser, after which the room is not looked at
ERRORS = (LaunchError, ValueError, TypeError, OSError)

BUTTONS = {
    "start": ("Start", "Start the chosen MPM with these directives"),
    "graceful": ("Graceful", "USR1: read the directives again; the old generation finishes"),
    "restart": ("Restart", "HUP: read the directives again; connections are cut"),
    "stop": ("Stop", "TERM: end the server, and the load"),
}
MORE_LOAD = "open loop, think time, a mix, idle holders"


class Board(anywidget.AnyWidget):
    """Scoreboard and history, painted by panel.js."""

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")

    status = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    palette = traitlets.Dict().tag(sync=True)


class Panel(Frame):
    """One control room on the page. `room` is its model: use that from Python."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room
        self.peers: list[Panel] = [self]  # rooms side by side get the same load, and one scale
        self.link = uuid.uuid4().hex
        self._setting = threading.RLock()
        self._showing: int | None = None  # the thread that shows the chosen MPM
        self._shown_at = float("inf")  # when a browser last said that it shows the room
        fields = {field.name: field for mpm in MPMS for field in DirectiveForm(mpm).fields()}
        self.directives = {name: Control(fields[name], self._set, live=True) for name in NAMES}
        self.load = {name: Control(row, self._load_set) for name, row in ROWS.items()}
        self._build()
        self.board.on_msg(self._reported)
        room.on_frame = self._new_frame
        self.refresh()

    def _build(self) -> None:
        """Make the widgets and put them in their places; panel.css has the layout."""
        self.choice = named("choices", ipywidgets.ToggleButtons(options=MPMS, value=self.room.mpm))
        self.choice.observe(self._chosen, "value")
        self.buttons = {
            do: button(do, name, partial(self.act, do), tip) for do, (name, tip) in BUTTONS.items()
        }
        self.state, self.message, self.events = map(text, ("state", "note", "log"))
        self.load_button = button("go", "Start load", self._load_clicked)
        tip = "Below: a curve over one of these directives, or over the load"
        self.sweep_button = button("curve", "Sweep", partial(self._try, self.sweep), tip)
        self.board = named("main", Board(palette=theme.palette() | {"caveat": not_headline()}))
        first, *more, browsers = groups(self.load.values())
        self.more = named("more", ipywidgets.Accordion([box("parts", *more)]))
        head = box("head", self.choice, *self.buttons.values(), self.sweep_button, self.state)
        load = box("load", first, self.load_button, browsers, self.more)
        side = box("side", *groups(self.directives.values()))
        self.children = [box("room", head, load, self.message, side, self.board, self.events)]

    def sweep(self) -> None:
        """Show a sweep panel below the room, which begins with its MPM, directives and page; or close it."""
        room, *before = self.children
        for panel in before:
            panel.close()
        given = {row.name: row.value for row in self.room.fields() if row.value}
        given |= {row.name: row.text for row in self.room.load_fields() if row.text in dict(FILES)}
        folder = Path(".." if Path("../data").is_dir() else ".", "data", "runs")
        added = [] if before else [sweep_panel(self.room.mpm, folder=folder, **given)]
        self.children = [room, *added]

    def close(self) -> None:
        """Stop the server and take the widgets from the page."""
        self.room.on_frame = None
        self.room.close()
        super().close()

    def refresh(self) -> None:
        """Show what is chosen and what runs."""
        with self._setting:
            status, load = self.room.status(), self.room.load_fields()
            self._show_status(status)
            now = {field.name: field for field in (*self.room.fields(), *load)}
            for name, control in (self.directives | self.load).items():
                control.show(now.get(name))
            wrong = sum(field.refused for field in load if field.group not in (FIRST, BROWSERS))
            more = f"{wrong} to correct" if wrong else status["load_summary"] or MORE_LOAD
            self.more.set_title(0, f"More: {more}")

    def _show_status(self, status: dict[str, Any]) -> None:
        """The head and the log. Lamp, buttons and log follow the server, not the clicks."""
        runs, running, chosen = status["running"], status["running_mpm"], status["mpm"]
        other, unapplied = runs and running != chosen, status["unapplied"]
        self._showing = threading.get_ident()
        self.choice.value = chosen
        self._showing = None
        self.buttons["start"].description = "Start again" if runs else "Start"
        for do in ("stop", "graceful", "restart"):
            self.buttons[do].disabled = not runs or (other and do != "stop")
        mark(self.buttons["graceful"], "due", unapplied)
        self.load_button.disabled = not runs
        whose = " (all)" if len(self.peers) > 1 else ""
        self.load_button.description = ("Stop load" if status["loading"] else "Start load") + whose
        mark(self.load_button, "on", status["loading"])
        said = f"{running} · pid {status['pid']} · {status['url'].removeprefix('http://')}"
        if other:
            said += f" · Start again ends it and starts {chosen}"
        elif unapplied:
            said += f" · {', '.join(unapplied)} set: Graceful brings it in"
        lamp = f"<i class='mk-lamp{' mk-lit' * runs}'></i>"
        self.state.value = lamp + escape(said if runs else "stopped")
        mark(self.state, "runs", runs)
        began = [panel.room.status()["began"] for panel in self.peers if panel.room.server]
        shift = status["began"] - min(began, default=status["began"])  # from the first room's start
        log = ""
        for t, kind, event in self.room.events()[-9:]:
            line, at = escape(event), f"{t + shift:.1f} s"
            log = f"<li class='mk-event-{kind}' title='{line}'><b>{at}</b>{line}" + log
        self.events.value = f"<ol>{log}</ol>"
        shown = {name: status[name] for name in ("mpm", "running", "running_mpm", "began")}
        self.board.status = {**shown, "linked": len(self.peers) > 1, "link": self.link}

    def say(self, line: str) -> None:
        """A line under the buttons; "" takes it away."""
        with self._setting:
            self.message.value = escape(line)

    def _new_frame(self, frame: dict[str, Any]) -> None:
        """The room's callback, in its thread; an empty frame: the server has ended."""
        if not frame:
            return self.refresh()
        with self._setting:
            self.board.frame = frame
            self._show_status(self.room.status())
        if time.monotonic() - self._shown_at > GONE:
            self._shown_at = float("inf")
            self.room.note("no browser shows this room any more: the server is stopped")
            self.act("stop")

    def _reported(self, _: Any, content: Any, __: Any) -> None:
        """A message of panel.js: the room is shown; "hello": by a view that has just been opened."""
        self._shown_at = time.monotonic()
        if content.get("do") == "hello":
            self.board.send({"history": self.room.history(), "events": self.room.events()})

    def act(self, do: str) -> None:
        """start, stop, graceful, restart or stop_load, in a thread. Errors are shown under the buttons."""
        self.say({"start": "starting …", "stop": "stopping …"}.get(do, ""))
        _in_thread(lambda: self._try(getattr(self.room, do), then=""))

    def _try(self, act: Callable[..., Any], *values: Any, then: str | None = None) -> None:
        """Do something, and show the error in words, or `then` if that is given; nothing after False."""
        try:
            if act(*values) is False:
                return
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

    def _load_clicked(self) -> None:
        self._to_all(Room.stop_load if self.room.loading else Room.start_load)

    def _to_all(self, act: Callable[[Room], Any]) -> None:
        """Do something in each room, one after the other."""
        _in_thread(*(partial(panel._try, act, panel.room, then="") for panel in self.peers))


def _in_thread(*acts: Callable[[], Any]) -> None:
    run = lambda: [act() for act in acts]  # noqa: E731
    threading.Thread(target=run, name="mpmkit-panel", daemon=True).start()


def control_room(*mpms: str, **directives: Any) -> Any:
    """A control room: choose an MPM and directives, start it, put a load on it, watch.

    mpms         one to begin with (default "event"), or several: rooms side by side whose load is
                 started, stopped and changed together
    directives   values to begin with, as for `mpmkit.launch`; with several MPMs, each takes those
                 that it has

    Returns the widget; `.room` is its model (with several: `.rooms`). Run the cell again, and the
    servers of its last run are stopped. Raises DirectiveError for what does not exist.
    """
    rooms = []
    for mpm in mpms or ("event",):
        others = [name for name, spec in SPECS.items() if len(mpms) > 1 and mpm not in spec.mpms]
        fitting = {name: one for name, one in directives.items() if name.lower() not in others}
        rooms.append(Room(mpm, **fitting))
    panels = list(map(Panel, rooms))
    if len(panels) == 1:
        return panels[0]
    for panel in panels:
        panel.peers, panel.link = panels, panels[0].link
        panel.refresh()
    row = named("rooms", ipywidgets.HBox(panels))
    row.rooms = rooms
    return row
