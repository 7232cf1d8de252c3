"""The control room's model: what is chosen, what runs, what has been seen. It draws nothing.

    room = Room("event", ThreadsPerChild=10)
    room.set("MaxRequestWorkers", "64")      # room.fields() says what httpd would correct
    room.start()
    room.start_load(users=50, keep_alive=True)
    room.crowd_size(100)
    room.snapshot()                          # one frame: values that become JSON
    room.graceful()                          # a new generation, with the directives set meanwhile
    room.close()

Widget callbacks may run on several threads at once, and the watch and the load have threads of their
own, so there are two locks: `_acting` lets one thread at a time start, stop or restart the server (that
takes a second), `_lock` guards the values and is held for moments only.

The directives are in a file, as with httpd: start reads it, graceful and restart read it again.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.config.directives import Directives
from mpmkit.lab.clients import MOST, KeepAliveClients
from mpmkit.lab.forms import DirectiveForm, Field, check_mpm
from mpmkit.lab.frames import Probe, frame
from mpmkit.lab.load_form import LoadForm
from mpmkit.lab.running_load import RunningLoad
from mpmkit.launcher import LaunchError, ScoreboardView, Server, launch
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import Event, Recording, Sample

# What the room serves, apart from the samples: a script that waits, as for a database, and a file that
# a slow reader takes a while for.
LARGE = 5_000_000  # bytes: more than the sockets hold, so that a slow reader holds up its server
SLOW = 0.1  # seconds
SLOW_SCRIPT = f'''"""A script that waits {SLOW} s and holds its worker meanwhile."""

import time


def application(environ, start_response):
    time.sleep({SLOW})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\\n"]
'''


def write_pages(folder: Path) -> None:
    """Make the folder that a panel's servers serve."""
    shutil.copytree(Path(mpmkit.__file__).with_name("htdocs"), folder)
    (folder / "slow.py").write_text(SLOW_SCRIPT)
    (folder / "large.bin").write_bytes(bytes(LARGE))


LOAD_SECONDS = 600.0  # a load that is not stopped ends by itself
EVENTS = 200


class Room:
    """One server, its load, and what is seen of them. All methods may be called from any thread.

    mpm         "prefork", "worker" or "event"
    directives  values to begin with, as for `mpmkit.launch`

    Raises DirectiveError for an MPM or a directive that does not exist.
    """

    def __init__(self, mpm: str = "event", **directives: Any) -> None:
        self._acting = threading.RLock()
        self._lock = threading.RLock()
        self._form = DirectiveForm(mpm, **directives)
        self._load_form = LoadForm()
        self._server: Server | None = None
        self._running_with: Directives | None = None
        self._applied: dict[str, str] = {}
        self._watch: Watch | None = None
        self._probe: Probe | None = None
        self._crowd: KeepAliveClients | None = None
        self._crowd_wanted = (0, 60.0)
        self._load: RunningLoad | None = None
        self._events: list[Event] = []
        self._watched = 0  # events of the running watch that are in _events
        self._began = time.monotonic()
        self._closed = False
        self._home = tempfile.mkdtemp(prefix="mpmkit-room-")
        write_pages(self._root)
        # Also when the room is not closed: the folder goes with the object or the interpreter.
        self._tidy = weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        self._frame: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []
        self.on_frame: Callable[[dict[str, Any]], None] | None = None

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<control room: {self._server or f'{self.mpm}, stopped'!s}>"

    # -- what is chosen ---------------------------------------------------------------------------

    @property
    def mpm(self) -> str:
        """The chosen MPM. A running server keeps its own until it is stopped and started."""
        return self._form.mpm

    def choose(self, mpm: str) -> None:
        """Another MPM, from the next start on. Raises DirectiveError if it does not exist."""
        with self._lock:
            self._form.mpm = check_mpm(mpm)

    def set(self, name: str, value: str | float | bool | None) -> None:
        """A directive's value, as words of a configuration line; None or "" for the default.

        A value that httpd cannot read is kept: its field says what is wrong, and start refuses it.
        Raises DirectiveError only for a directive that does not exist.
        """
        with self._lock:
            self._form.set(name, value)

    def fields(self) -> list[Field]:
        """The directives of the chosen MPM, with values and httpd's messages."""
        with self._lock:
            return self._form.fields(self._running_with if self._server_runs() else None)

    def unapplied(self) -> list[str]:
        """Directives changed since the running server read its file: graceful brings them in. None
        while another MPM is chosen: that takes a start."""
        with self._lock:
            if not self._server_runs() or self._server.mpm != self.mpm:  # type: ignore[union-attr]
                return []
            changed = self._form.words().items() ^ self._applied.items()
            return sorted({name for name, _ in changed})

    # -- the server -------------------------------------------------------------------------------

    @property
    def server(self) -> Server | None:
        """The running server, or None."""
        return self._server if self._server_runs() else None

    def start(self) -> None:
        """Start the chosen MPM with the directives. A running server is stopped first; a load that
        ran on it goes on with the new one.

        Raises DirectiveError for what httpd would refuse, LaunchError when it does not start.
        """
        with self._acting:
            if self._closed:
                raise LaunchError("this control room was closed; make another")
            effective, loaded = self._form.checked(), self.loading
            self._end_server()
            applied = self._write_conf()
            server = launch(self.mpm, conf=self._conf, document_root=self._root)
            with self._lock:
                self._server, self._running_with, self._applied = server, effective, applied
                self._began = time.monotonic()
                self._history.clear()
                self._events = [Event(0.0, "note", f"start {self.mpm}, pid {server.pid}")]
                self._watched = 0
                self._watch = Watch(server, on_sample=self._seen, on_end=self._ended)
                self._probe = Probe(server.url)
                count, think = self._crowd_wanted
                self._crowd = KeepAliveClients(server.url, count, think=think)
                watch = self._watch
            watch.start()
            if loaded and not any(field.refused for field in self.load_fields()):
                self.start_load()

    def graceful(self) -> None:
        """USR1: the file is read again, a new generation starts, the old one finishes."""
        self._signal("graceful")

    def restart(self) -> None:
        """HUP: the file is read again, all children are ended, a new generation starts."""
        self._signal("restart")

    def _signal(self, word: str) -> None:
        with self._acting:
            server = self.server
            if server is None:
                raise LaunchError(f"no server runs; start one before {word}")
            if server.mpm != self.mpm:
                raise LaunchError(f"{word} cannot change the MPM: stop and start")
            effective = self._form.checked(self._running_with)
            applied = self._write_conf()
            server.signal(word)
            with self._lock:
                self._running_with, self._applied = effective, applied
            self.note(word)

    def stop(self) -> None:
        """TERM, and the load ends, too. Without a server nothing happens."""
        with self._acting:
            self._end_server()

    def close(self) -> None:
        """Stop everything for good; nothing of the room is left. Twice does nothing."""
        with self._acting:
            self._closed = True
            self._end_server()
            self._tidy()

    def _end_server(self) -> None:
        self._end_load()
        with self._lock:
            server, watch = self._server, self._watch
            crowds = [crowd for crowd in (self._probe, self._crowd) if crowd is not None]
            self._server = self._watch = self._probe = self._crowd = None
        if watch is not None:
            watch.close()
        for crowd in crowds:
            crowd.close()
        if server is not None:
            ran = server.running
            server.stop()
            if ran:
                self.note("stop")
            with self._lock:
                self._frame = {}

    def _ended(self) -> None:
        """The server ended without our doing: say so, and clear away what belonged to it."""
        server = self._server
        if server is not None:
            self.note(f"the server has ended with status {server._process.poll()}")
            # Not in this thread: it is the watch's, and stopping waits for the load's.
            threading.Thread(target=self._clear_away, args=(server,), daemon=True).start()

    def _clear_away(self, server: Server) -> None:
        with self._acting:
            if self._server is server:
                self._end_server()
        if self.on_frame is not None:
            self.on_frame({})

    def _server_runs(self) -> bool:
        return self._server is not None and self._server.running

    @property
    def _conf(self) -> Path:
        return Path(self._home) / "httpd.conf"

    @property
    def _root(self) -> Path:
        return Path(self._home) / "htdocs"

    def _write_conf(self) -> dict[str, str]:
        words = self._form.words()
        self._conf.write_text("".join(f"{name} {value}\n" for name, value in words.items()))
        return words

    # -- the load ---------------------------------------------------------------------------------

    def load_set(self, name: str, value: Any) -> None:
        """One field of the load: text as on the form, or what LoadProfile takes. Holds from the next
        `start_load` or `renew_load` on. Raises ProfileError for an unknown name only."""
        with self._lock:
            self._load_form.set(name, value)

    def load_fields(self) -> list[Field]:
        """The load's fields that apply now, with what is wrong with them."""
        with self._lock:
            return self._load_form.fields()

    def start_load(self, *, duration: float = LOAD_SECONDS, **fields: Any) -> None:
        """Locust's users against the running server, until `stop_load`.

        duration    seconds, at most 600
        fields      as for `load_set`: users=50, path="/slow.py", keep_alive=True, arrival="poisson",
                    rate=300, idle_holders=100; they stay on the form
        Raises LaunchError without a server, ProfileError for a bad value (nothing is changed then).
        """
        with self._acting:
            with self._lock:
                form = self._load_form.copy()
            for name, value in fields.items():
                form.set(name, value)
            profile = form.profile(min(duration, LOAD_SECONDS))
            with self._lock:
                self._load_form = form
            server = self.server
            if server is None:
                raise LaunchError("no server runs; start one before the load")
            self._end_load()
            load = RunningLoad(server.url, profile, self.note)
            with self._lock:
                self._load = load
            connections = {0.0: "a new connection each", 1.0: "kept connections"}.get(
                profile.keep_share, f"{profile.keep_share:.0%} kept connections"
            )
            page = "a mix" if profile.mix else profile.path
            parts = (f"{profile.users} users", page, connections, form.summary())
            self.note(f"load: {', '.join(filter(None, parts))}")

    def renew_load(self) -> bool:
        """A load that runs goes on as the form says now; True if that was so. Without a load, or
        with a value on the form that is refused, nothing happens.

        Whether a load runs is looked up under the lock: a value that changes while the load before it
        is still ending must not be lost.
        """
        with self._acting:
            if not self.loading or any(field.refused for field in self.load_fields()):
                return False
            self.start_load()
            return True

    def stop_load(self) -> None:
        """End the load; what it measured becomes an event. Without a load nothing happens."""
        with self._acting:
            self._end_load()

    def _end_load(self) -> None:
        if self._load is not None:
            self._load.stop()
            with self._lock:
                self._load = None

    @property
    def loading(self) -> bool:
        """Whether a load runs."""
        load = self._load
        return load is not None and load.running

    def crowd_size(self, count: int, think: float | None = None) -> None:
        """So many browsers, each with a kept connection; `think` seconds between two requests.

        The number holds for the next server, too. Raises ValueError out of range.
        """
        with self._lock:
            think = self._crowd_wanted[1] if think is None else think
            if not 0 <= count <= MOST:
                raise ValueError(f"browsers: must be 0 to {MOST}, not {count!r}")
            if not 0.05 <= think <= 3600:
                raise ValueError(f"think: must be 0.05 to 3600 seconds, not {think!r}")
            self._crowd_wanted = (int(count), float(think))
            if self._crowd is not None:
                self._crowd.think = think
                self._crowd.resize(int(count))

    # -- what is seen -----------------------------------------------------------------------------

    def recording(self) -> Recording | None:
        """What was seen of the running server, to draw or keep; None without one."""
        watch = self._watch
        return watch.recording() if watch is not None else None

    def snapshot(self) -> dict[str, Any]:
        """The newest frame: plain values, ready for JSON. Empty when no server runs."""
        with self._lock:
            return dict(self._frame)

    def history(self) -> list[dict[str, Any]]:
        """The frames' figures so far, for a view that opens late."""
        with self._lock:
            return list(self._history)

    def events(self) -> list[list[Any]]:
        """[second, kind, text] of the last events."""
        with self._lock:
            self._take_events()
            return [[round(event.t, 1), event.kind, event.text] for event in self._events[-EVENTS:]]

    def status(self) -> dict[str, Any]:
        """What is chosen and what runs, as plain values."""
        with self._lock:
            server = self.server
            return {
                "mpm": self.mpm,
                "running": server is not None,
                "running_mpm": server.mpm if server else "",
                "pid": server.pid if server else 0,
                "url": server.url if server else "",
                "unapplied": self.unapplied(),
                "loading": self.loading,
                "load_summary": self._load_form.summary(),
                "began": round(self._began, 3),
                "browsers": self._crowd_wanted[0],
                "think": self._crowd_wanted[1],
            }

    def note(self, text: str) -> None:
        """An event in words, at the present time."""
        with self._lock:
            self._take_events()
            self._events.append(Event(time.monotonic() - self._began, "note", text))
            del self._events[:-EVENTS]

    def _take_events(self) -> None:
        if self._watch is not None:
            new = self._watch.events[self._watched :]
            self._watched += len(new)
            self._events += new

    def _seen(self, sample: Sample, board: ScoreboardView) -> None:
        """The watch's callback: make a frame of what it saw."""
        if self._crowd is not None:
            self._crowd.take()
        made = frame(sample, board, self._load, self._probe)
        with self._lock:
            made["events"] = self.events()[-40:]
            self._frame = made
            self._history.append(made["figures"])
            del self._history[:-600]
            tell = self.on_frame
        if tell is not None:
            tell(made)
