"""The control room's picture: one widget, drawn in the browser, that tells Python what was clicked.

    mpmkit.lab.control_room()                        event
    mpmkit.lab.control_room("worker", KeepAliveTimeout=15)
    mpmkit.lab.control_room("worker", "event")       two side by side, under the same load

Between kernel and browser there is one message a sample: the trait `frame`, some kilobytes of
letters and numbers. panel.js paints them on two canvases. What is chosen in the browser comes back
as small messages ({"do": "start"}), and `Panel.TOLD` is the list of them.

What is left behind, and by whom it is cleared away:

    the kernel ends, is restarted or killed     the launcher's lifeline ends the server
    the cell is run again                       `control_room` closes the rooms of its last run
    the tab is closed                           nobody says "here" for GONE seconds: the room stops
    the load's generator                        ends with its pipe, as the kernel does
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mpmkit.lab import theme
from mpmkit.lab.control_room import LOAD_SECONDS, Room
from mpmkit.lab.forms import FIRST
from mpmkit.lab.machine_caveats import not_headline
from mpmkit.launcher import LaunchError
from mpmkit.policy.states import LETTERS, WORDS

GONE = 45.0  # seconds without a word from any browser, after which nobody looks any more


class Panel(anywidget.AnyWidget):
    """One control room on the page. `room` is its model: use that from Python."""

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")

    status = traitlets.Dict().tag(sync=True)
    fields: Any = traitlets.List().tag(sync=True)
    load: Any = traitlets.List().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    palette = traitlets.Dict().tag(sync=True)

    def __init__(self, room: Room) -> None:
        self.room = room
        self.peers: list[Panel] = [self]  # rooms side by side get the same load, and one scale
        self.link = uuid.uuid4().hex
        self._setting = threading.RLock()
        self._views: dict[str, float] = {}
        self._looked_at = False
        super().__init__(palette=palette())
        self.on_msg(self._told)
        room.on_frame = self._new_frame
        self.refresh()

    def close(self) -> None:
        """Stop the server and take the widget from the page."""
        self.room.on_frame = None
        self.room.close()
        super().close()

    def refresh(self) -> None:
        """Show what is chosen and what runs."""
        with self._setting:
            self.status = {
                **self.room.status(),
                "linked": len(self.peers) > 1,
                "link": self.link,
                "events": self.room.events()[-40:],
            }
            self.fields = [field.plain() for field in self.room.fields()]
            self.load = [field.plain() for field in self.room.load_fields()]

    def say(self, text: str) -> None:
        """A line under the buttons; "" takes it away."""
        with self._setting:
            self.message = text

    # -- the room's thread --------------------------------------------------------------------------

    def _new_frame(self, frame: dict[str, Any]) -> None:
        if not frame:  # the server is gone
            self.refresh()
            return
        with self._setting:
            self.frame = {**frame, "status": self.room.status()}
        if self._looked_at and time.monotonic() - max(self._views.values(), default=0) > GONE:
            self._looked_at = False
            self.room._note("nobody is looking any more: the server is stopped")
            self._aside("stop")

    # -- what the browser says ------------------------------------------------------------------------

    def _told(self, _: Any, content: Any, __: Any) -> None:
        """A message of panel.js. Anything may come from a browser: what isn't known is refused."""
        content = content if isinstance(content, dict) else {}
        do = str(content.get("do"))
        if do not in self.TOLD:
            self.say(f"the control room doesn't know {do!r}")
            return
        try:
            self.TOLD[do](self, content)
        except (LaunchError, ValueError, TypeError, KeyError) as error:
            self.say(str(error) or repr(error))

    def _aside(self, do: str) -> None:
        """Start, stop and the like take a second: in a thread of their own, errors to the panel."""

        def act() -> None:
            self.say({"start": "starting …", "stop": "stopping …"}.get(do, ""))
            try:
                getattr(self.room, do)()
                self.say("")
            except (LaunchError, ValueError, OSError) as error:
                self.say(str(error))
            self.refresh()

        threading.Thread(target=act, name=f"mpmkit-{do}", daemon=True).start()

    def _choose(self, content: dict[str, Any]) -> None:
        self.room.choose(str(content["mpm"]))
        server = self.room.server
        other = server is not None and server.mpm != self.room.mpm
        self.say(
            f"{self.room.mpm} is chosen; Start ends {server.mpm} and begins it"
            if server and other
            else ""
        )
        self.refresh()

    def _set(self, content: dict[str, Any]) -> None:
        self.room.set(str(content["name"]), content.get("value"))
        self.refresh()

    def _load_set(self, content: dict[str, Any]) -> None:
        for panel in self.peers:
            panel.room.load_set(str(content["name"]), content.get("value"))
            panel.refresh()
        self._to_all(Room.renew_load)

    def _load(self, _: dict[str, Any]) -> None:
        self._to_all(Room.start_load)

    def _to_all(self, act: Callable[[Room], bool | None]) -> None:
        """Begin a load in each room, one after the other in a thread; False: there was nothing to do."""

        def run() -> None:
            for panel in self.peers:
                try:
                    if act(panel.room) is False:
                        continue
                    panel.say("")
                except (LaunchError, ValueError) as error:
                    panel.say(str(error))
                panel.refresh()

        threading.Thread(target=run, name=f"mpmkit-{act.__name__}", daemon=True).start()

    def _unload(self, _: dict[str, Any]) -> None:
        for panel in self.peers:
            panel._aside("stop_load")

    def _crowd(self, content: dict[str, Any]) -> None:
        for panel in self.peers:
            panel.room.crowd_size(int(content["count"]), float(content["think"]))
            panel.refresh()

    def _hello(self, content: dict[str, Any]) -> None:
        self._here(content)
        self.send({"history": self.room.history(), "events": self.room.events()[-40:]})

    def _here(self, content: dict[str, Any]) -> None:
        self._views[str(content.get("view"))] = time.monotonic()
        self._looked_at = True

    def _bye(self, content: dict[str, Any]) -> None:
        self._views.pop(str(content.get("view")), None)

    TOLD = {
        "start": lambda self, _: self._aside("start"),
        "stop": lambda self, _: self._aside("stop"),
        "graceful": lambda self, _: self._aside("graceful"),
        "restart": lambda self, _: self._aside("restart"),
        "choose": _choose,
        "set": _set,
        "load": _load,
        "load_set": _load_set,
        "unload": _unload,
        "crowd": _crowd,
        "hello": _hello,
        "here": _here,
        "bye": _bye,
    }


def palette() -> dict[str, Any]:
    """Colours and words for the browser, for a light page and a dark one."""
    return {
        "mpms": {"light": theme.LIGHT, "dark": theme.DARK},
        "letters": {
            name: {letter: theme.letter_colour(letter, name) for letter in LETTERS}
            for name in theme.THEMES
        },
        "words": dict(zip(LETTERS, WORDS, strict=True)),
        "first": FIRST,
        "load_seconds": LOAD_SECONDS,
        "mind": not_headline(),
    }


# Panels by the cell that made them: cell id -> (one id for each run of the cell, its panels).
_made: dict[str, tuple[str, list[Panel]]] = {}


def control_room(*mpms: str, **directives: Any) -> Any:
    """A control room: choose an MPM and directives, start it, put a load on it, watch.

    mpms         one to begin with (default "event"), or several: rooms side by side whose load is
                 started, stopped and changed together
    directives   values to begin with, as for `mpmkit.launch`; with several MPMs, each takes those
                 that it has

    Returns the widget; `.room` is its model (with several: `.rooms`). Run the cell again, and the
    servers of its last run are stopped. Raises DirectiveError for what does not exist.
    """
    from mpmkit.config.directives import SPECS

    cell, run = _cell()
    before, panels = _made.get(cell, ("", []))
    if before != run:
        for panel in panels:
            panel.close()
        panels = []
    made = []
    for mpm in mpms or ("event",):
        fitting = {
            name: value
            for name, value in directives.items()
            if len(mpms) < 2 or name.lower() not in SPECS or mpm in SPECS[name.lower()].mpms
        }
        made.append(Panel(Room(mpm, **fitting)))
    if cell:
        _made[cell] = (run, panels + made)
    if len(made) == 1:
        return made[0]
    for panel in made:
        panel.peers, panel.link = made, made[0].link
        panel.refresh()
    import ipywidgets

    box = ipywidgets.HBox(made, layout=ipywidgets.Layout(width="100%"))
    for panel in made:
        panel.layout.flex = "1 1 0"
        panel.layout.min_width = "0"
    box.rooms = [panel.room for panel in made]
    return box


def _cell() -> tuple[str, str]:
    """(the id of the cell that runs, an id of this run of it); ("", "") where there is none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return "", ""
    try:
        parent = kernel.get_parent()
        return str(parent["metadata"]["cellId"]), str(parent["header"]["msg_id"])
    except (AttributeError, KeyError, TypeError):
        return "", ""
