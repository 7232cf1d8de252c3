"""The control room without its picture: what is chosen, what runs, what has been seen.

    room = Room("event", ThreadsPerChild=10)
    room.set("MaxRequestWorkers", "64")      # room.advice() says what httpd would correct
    room.start()
    room.start_load(users=50, keep_alive=True)
    room.crowd_size(100)
    room.snapshot()                          # one frame: values that become JSON
    room.graceful()                          # a new generation, with the directives set meanwhile
    room.close()

Nothing here draws; `panel.py` does. Widget callbacks may run on several threads at once, and the
watch and the load have threads of their own, so there are two locks: `_acting` lets one person at
a time start, stop or restart the server (that takes a second), `_lock` guards the values and is
held for moments only.

The directives lie in a file, as with httpd: start reads it, and graceful and restart read it again.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.config.directives import (
    MPMS,
    SPECS,
    DirectiveError,
    Directives,
    Note,
    Setting,
    Spec,
    check,
    from_keywords,
    misread,
)
from mpmkit.lab.clients import MOST, Crowd
from mpmkit.lab.forms import BESIDE, MORE, PARTS, Field, LoadForm
from mpmkit.launcher import LaunchError, ScoreboardView, Server, launch
from mpmkit.load.histogram import Histogram
from mpmkit.load.runner import LoadError, LoadInterrupted, LoadRun, Tick, run_load
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import Event, Recording, Sample

# The directives on the panel, in groups. Which of them an MPM knows, their bounds, defaults, units
# and meaning come from the table in directives.py.
GROUPS = (
    (
        "Processes and threads",
        (
            "StartServers",
            "MinSpareServers",
            "MaxSpareServers",
            "MinSpareThreads",
            "MaxSpareThreads",
            "ThreadsPerChild",
            "MaxRequestWorkers",
            "ServerLimit",
            "ThreadLimit",
            "MaxConnectionsPerChild",
            "AsyncRequestWorkerFactor",
        ),
    ),
    (
        "Connections",
        (
            "KeepAlive",
            "KeepAliveTimeout",
            "MaxKeepAliveRequests",
            "Timeout",
            "ListenBacklog",
            "GracefulShutdownTimeout",
        ),
    ),
)
NAMES = tuple(name for _, names in GROUPS for name in names)

# How far a slider goes where the table's bound is far beyond what a lab needs. The field beside the
# slider takes every number, also those that httpd corrects.
REACH = {
    "StartServers": 32,
    "MinSpareServers": 32,
    "MaxSpareServers": 64,
    "MinSpareThreads": 250,
    "MaxSpareThreads": 500,
    "ThreadsPerChild": 64,
    "MaxRequestWorkers": 512,
    "ServerLimit": 256,
    "ThreadLimit": 128,
    "MaxConnectionsPerChild": 1000,
    "AsyncRequestWorkerFactor": 8,
    "KeepAliveTimeout": 60,
    "MaxKeepAliveRequests": 500,
    "Timeout": 120,
    "ListenBacklog": 1024,
    "GracefulShutdownTimeout": 60,
}

# What the room serves, besides the samples: a script that waits, as for a database, and a file that
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

LOAD_SECONDS = 600.0  # a load that nobody stops ends by itself
PROBE_THINK = 0.25  # seconds between two questions of the probe: what a new client meets
RECENT = 5.0  # seconds of the probe's answers that its percentiles are made of
LIVE = 1.2  # seconds of the load's answers that its live percentiles are made of
EVENTS = 200


class Room:
    """One server, its load, and what is seen of them. All methods may be called from any thread.

    mpm         "prefork", "worker" or "event"
    directives  values to begin with, as for `mpmkit.launch`

    Raises DirectiveError for an MPM or a directive that does not exist.
    """

    def __init__(self, mpm: str = "event", **directives: Any) -> None:
        if mpm not in MPMS:
            raise DirectiveError(f"{mpm!r} is not an MPM; use one of {', '.join(MPMS)}")
        self._acting = threading.RLock()
        self._lock = threading.RLock()
        self._mpm = mpm
        self._words: dict[str, str] = {}
        self._server: Server | None = None
        self._running_with: Directives | None = None
        self._applied: dict[str, str] = {}
        self._watch: Watch | None = None
        self._probe: Crowd | None = None
        self._crowd: Crowd | None = None
        self._crowd_wanted = (0, 60.0)
        self._load: _Load | None = None
        self._form = LoadForm()
        self._told: list[Event] = []
        self._watched = 0  # events of the running watch that are in _told
        self._began = time.monotonic()
        self._message = ""
        self._closed = False
        self._home = tempfile.mkdtemp(prefix="mpmkit-room-")
        shutil.copytree(Path(mpmkit.__file__).with_name("htdocs"), self._root)
        (self._root / "slow.py").write_text(SLOW_SCRIPT)
        (self._root / "large.bin").write_bytes(bytes(LARGE))
        # Also when nobody closes the room: the folder goes with the object or the interpreter.
        self._tidy = weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        self._frame: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []
        self._waits: list[tuple[float, float]] = []  # (second, ms) of the probe's last answers
        self.on_frame: Callable[[dict[str, Any]], None] | None = None
        for setting in from_keywords(mpm, **directives):
            self._words[setting.name] = " ".join(setting.args)

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<control room: {self._server!r}>"
            if self._server
            else (f"<control room: {self._mpm}, stopped>")
        )

    # -- what is chosen ---------------------------------------------------------------------------

    @property
    def mpm(self) -> str:
        """The chosen MPM. A running server keeps its own until it is stopped and started."""
        return self._mpm

    def choose(self, mpm: str) -> None:
        """Another MPM, from the next start on. Raises DirectiveError if there is none of the name."""
        if mpm not in MPMS:
            raise DirectiveError(f"{mpm!r} is not an MPM; use one of {', '.join(MPMS)}")
        with self._lock:
            self._mpm = mpm

    def set(self, name: str, value: str | int | float | bool | None) -> None:
        """A directive's value, as words of a configuration line; None or "" for the default.

        A value httpd can't read is kept all the same: `advice` says what is wrong, and start
        refuses. Raises DirectiveError only for a directive that the panel does not have.
        """
        spec = SPECS.get(name.lower())
        if spec is None:
            raise DirectiveError(f"there is no directive {name!r}")
        if isinstance(value, bool):
            value = "On" if value else "Off"
        with self._lock:
            if value is None or str(value).strip() == "":
                self._words.pop(spec.name, None)
            else:
                self._words[spec.name] = str(value).strip()

    def settings(self) -> list[Setting]:
        """What was set, as far as the chosen MPM has such a directive."""
        with self._lock:
            return [
                Setting(name, (words,))
                for name, words in self._words.items()
                if self._mpm in SPECS[name.lower()].mpms
            ]

    def advice(self) -> tuple[Directives | None, dict[str, list[str]]]:
        """What httpd makes of the settings: effective directives (None if it would refuse them),
        and its messages by directive; those that belong to none are under ""."""
        said: dict[str, list[str]] = {}
        with self._lock:
            running = self._running_with if self._server_runs() else None
            if running is not None and running.mpm != self._mpm:
                running = None
        try:
            effective, notes = check(self._mpm, self.settings(), running=running)
        except DirectiveError as error:
            for problem in error.problems:
                said.setdefault(problem.directive, []).append(problem.text)
            return None, said
        for note in notes:
            said.setdefault(_about(note), []).append(str(note))
        return effective, said

    def fields(self) -> list[Field]:
        """The panel's directives for the chosen MPM, with values and httpd's messages."""
        effective, said = self.advice()
        defaults, _ = check(self._mpm)
        made = []
        for group, names in GROUPS:
            for name in names:
                spec = SPECS[name.lower()]
                if self._mpm not in spec.mpms:
                    continue
                value = self._words.get(name, "")
                words = (misread(name, value) if value else "", *said.get(name, ()))
                default = _written(getattr(defaults, spec.attribute))
                used = "" if effective is None else _written(getattr(effective, spec.attribute))
                made.append(
                    _field(
                        spec,
                        group,
                        self._mpm,
                        default,
                        value,
                        tuple(filter(None, words)),
                        used,
                        effective is None and name in said,
                    )
                )
        return made

    def unapplied(self) -> list[str]:
        """Directives changed since the running server read its file: graceful brings them in."""
        with self._lock:
            if not self._server_runs():
                return []
            now = {setting.name: setting.args[0] for setting in self.settings()}
            return sorted(
                name
                for name in now.keys() | self._applied.keys()
                if now.get(name) != self._applied.get(name)
            )

    # -- the server -------------------------------------------------------------------------------

    @property
    def server(self) -> Server | None:
        """The running server, or None."""
        return self._server if self._server_runs() else None

    def start(self) -> None:
        """Start the chosen MPM with the settings; a running server is stopped before.

        Raises DirectiveError for what httpd would refuse, LaunchError when it does not start.
        """
        with self._acting:
            if self._closed:
                raise LaunchError("this control room was closed; make another")
            effective, said = self.advice()
            if effective is None:
                raise DirectiveError("; ".join(text for texts in said.values() for text in texts))
            self._end_server()
            applied = self._write_conf()
            server = launch(self._mpm, conf=self._conf, document_root=self._root)
            with self._lock:
                self._server, self._running_with, self._applied = server, effective, applied
                self._began = time.monotonic()
                self._history.clear()
                self._waits.clear()
                self._told = [Event(0.0, "note", f"start {self._mpm}, pid {server.pid}")]
                self._watched = 0
                self._watch = Watch(server, on_sample=self._seen, on_end=self._ended)
                self._probe = Crowd(server.url, 1, think=PROBE_THINK, keep=False)
                count, think = self._crowd_wanted
                self._crowd = Crowd(server.url, count, think=think)
                watch = self._watch
            watch.start()

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
            effective, said = self.advice()
            if server.mpm != self._mpm:
                raise LaunchError(f"{word} cannot change the MPM: stop and start")
            if effective is None:
                raise DirectiveError("; ".join(text for texts in said.values() for text in texts))
            applied = self._write_conf()
            server.signal(word)
            with self._lock:
                self._running_with, self._applied = effective, applied
            self._note(word)

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
                self._note("stop")
            with self._lock:
                self._frame = {}

    def _ended(self) -> None:
        """The server ended without our doing: say so, and clear away what belonged to it."""
        server = self._server
        if server is not None:
            self._note(f"the server has ended with status {server._process.poll()}")
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
        settings = self.settings()
        self._conf.write_text("".join(f"{s.name} {s.args[0]}\n" for s in settings))
        return {setting.name: setting.args[0] for setting in settings}

    # -- the load ---------------------------------------------------------------------------------

    def load_set(self, name: str, value: Any) -> None:
        """One field of the load (`mpmkit.lab.forms`): text as on the panel, or what LoadProfile
        takes. Holds from the next `start_load` or `renew_load` on. Raises ProfileError for an
        unknown name only."""
        with self._lock:
            self._form.set(name, value)

    def load_fields(self) -> list[Field]:
        """The load's fields that apply now, with what is wrong with them."""
        with self._lock:
            return self._form.fields()

    def start_load(self, *, duration: float = LOAD_SECONDS, **fields: Any) -> None:
        """Locust's users against the running server, until `stop_load`.

        duration    seconds, at most 600
        fields      as for `load_set`: users=50, path="/slow.py", keep_alive=True, arrival="poisson",
                    rate=300, idle_holders=100; they stay on the form
        Raises LaunchError without a server, ProfileError for a bad value (nothing is changed then).
        """
        with self._acting:
            with self._lock:
                form = self._form.copy()
            for name, value in fields.items():
                form.set(name, value)
            profile = form.profile(min(duration, LOAD_SECONDS))
            with self._lock:
                for name, value in fields.items():
                    self._form.set(name, value)
            server = self.server
            if server is None:
                raise LaunchError("no server runs; start one before the load")
            self._end_load()
            load = _Load(server.url, profile, self._note)
            with self._lock:
                self._load = load
            share = profile.keep_share
            way = (
                "kept connections"
                if share == 1
                else "a new connection each"
                if not share
                else f"{share:.0%} kept connections"
            )
            more = form.told((MORE, PARTS, BESIDE))
            page = "a mix" if profile.mix else profile.path
            self._note(
                f"load: {profile.users} users, {page}, {way}" + (f", {more}" if more else "")
            )

    def renew_load(self) -> bool:
        """A load that runs goes on as the form says now; True if that was so. Without a load, or
        with a value on the form that is refused, nothing happens.

        Whether one runs is asked when it is our turn to act: a value that changes while the load
        before it is still on its way out must not be lost.
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
        """So many browsers, each with a kept connection; `think` seconds between two questions.

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
            return [[round(event.t, 1), event.kind, event.text] for event in self._told[-EVENTS:]]

    def status(self) -> dict[str, Any]:
        """What runs, for the panel's head."""
        with self._lock:
            server = self.server
            return {
                "mpm": self._mpm,
                "running": server is not None,
                "running_mpm": server.mpm if server else "",
                "pid": server.pid if server else 0,
                "url": server.url if server else "",
                "unapplied": self.unapplied(),
                "loading": self.loading,
                "load_more": self._form.told(),
                "began": round(self._began, 3),
                "browsers": self._crowd_wanted[0],
                "think": self._crowd_wanted[1],
            }

    def _note(self, text: str) -> None:
        with self._lock:
            self._take_events()
            self._told.append(Event(time.monotonic() - self._began, "note", text))
            del self._told[:-EVENTS]

    def _take_events(self) -> None:
        if self._watch is not None:
            new = self._watch.events[self._watched :]
            self._watched += len(new)
            self._told += new

    def _seen(self, sample: Sample, board: ScoreboardView) -> None:
        """The watch's callback: make a frame of what it saw."""
        probe, load = self._probe, self._load
        waits = self._waits
        if probe is not None:
            waits += [(sample.t, 1000 * seconds) for seconds in probe.take()]
            # While the probe waits, its wait so far is the best that is known of the answer.
            if (waiting := probe.longest_wait()) > PROBE_THINK:
                waits.append((sample.t, 1000 * waiting))
        while waits and waits[0][0] < sample.t - RECENT:
            waits.pop(0)
        newest = sorted(ms for _, ms in waits)
        if self._crowd is not None:
            self._crowd.take()
        figures: dict[str, float | None] = {
            "t": sample.t,
            "qps": sample.qps,
            "service_ms": sample.service_ms,
            "wait_p50_ms": newest[len(newest) // 2] if newest else None,
            "wait_ms": newest[int(0.99 * len(newest))] if newest else None,
            **(load.live() if load is not None and load.running else _Load.NOTHING),
            "processes": sample.processes,
            "threads": sample.threads,
            "idle": sample.idle,
            "busy": sample.busy,
            "reading": sample.reading,
            "writing": sample.writing,
            "keep_alive": sample.parked,
            "parked": sample.without_thread,
            "closing": sample.closing,
            "queue": sample.waiting,
            "pss_mb": sample.pss_mb,
        }
        figures = {
            name: None if value is None or value != value else round(value, 3)
            for name, value in figures.items()
        }
        letters = board.letters
        rows = [
            [
                row.slot,
                row.pid,
                row.generation,
                row.quiescing,
                row.not_accepting,
                letters[row.slot],
                row.keep_alive + row.write_completion + row.lingering_close,
            ]
            for row in board.snapshot.processes
            if row.pid
        ]
        frame = {
            "figures": figures,
            "rows": rows,
            "slots": board.process_limit,
            "threads": board.threads_per_child,
            "generation": sample.generation,
            "mpm": board.mpm,
            "accesses": sample.accesses,
        }
        with self._lock:
            frame["events"] = self.events()[-40:]
            self._frame = frame
            self._history.append(figures)
            del self._history[:-600]
            tell = self.on_frame
        if tell is not None:
            tell(frame)


class _Load:
    """`run_load` in a thread, with a way to stop it and what it gets meanwhile."""

    NOTHING = dict.fromkeys(
        ("load_qps", "load_failed", "load_p50_ms", "load_p95_ms", "load_p99_ms"), math.nan
    )

    def __init__(self, url: str, profile: Any, note: Callable[[str], None]) -> None:
        self.profile = profile
        self._note = note
        self._stop = threading.Event()
        self._ticks: list[Tick] = []
        self._thread = threading.Thread(
            target=self._run, args=(url,), name="mpmkit-load", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def live(self) -> dict[str, float]:
        """Good answers and failures per second and percentiles of latency, over about the last
        second; NaN for what is not known."""
        ticks = list(self._ticks)
        ticks = [tick for tick in ticks if tick.end > ticks[-1].end - LIVE]
        seconds = ticks[-1].end - ticks[0].begin if ticks else 0.0
        if seconds <= 0:
            return self.NOTHING
        found = Histogram()
        for tick in ticks:
            found.merge(tick.counted)
        told = {
            "load_qps": len(found) / seconds,
            "load_failed": sum(tick.failures.total() for tick in ticks) / seconds,
        }
        for percent in (50, 95, 99):
            told[f"load_p{percent}_ms"] = (
                found.percentile(percent) / 1e6 if len(found) else math.nan
            )
        return told

    def stop(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _tick(self, tick: Tick) -> None:
        self._ticks.append(tick)
        del self._ticks[:-10]

    def _progress(self, done: int, seconds: float) -> None:
        if self._stop.is_set():
            # What Ctrl-C does in the foreground: the generator is ended with care, and what it
            # measured comes along.
            raise KeyboardInterrupt

    def _run(self, url: str) -> None:
        run: LoadRun | None
        try:
            run = run_load(
                url, profile=self.profile, on_progress=self._progress, on_tick=self._tick
            )
        except LoadInterrupted as stopped:
            run = stopped.run
        except (LoadError, ValueError, OSError) as error:
            self._note(f"load: {error}")
            return
        if run is None or not run.requests:
            self._note("load: ended before its first answer")
            return
        failed = f", {run.failures:,} failed" if run.failures else ""
        bound = (
            ", the generator was the limit"
            if run.generator_bound
            else ", the machine, which the load shares with the server, was the limit"
            if run.generator_starved
            else ""
        )
        self._note(
            f"load ended: {run.qps:,.0f}/s, p50 {run.latency_ms(50):.3g} ms, "
            f"p99 {run.latency_ms(99):.3g} ms{failed}{bound}"
        )


# -- helpers --------------------------------------------------------------------------------------


def _about(note: Note) -> str:
    """The panel's directive that a note is about: its text begins with the name."""
    first = re.match(r"[A-Za-z]+", note.text)
    return first[0] if first and first[0] in NAMES else ""


def _written(value: Any) -> str:
    """A directive's value as it is written in a file."""
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, float):
        return f"{value:g}" if value >= 1 or value == 0 else f"{value * 1000:.0f}ms"
    return str(value)


def _field(
    spec: Spec,
    group: str,
    mpm: str,
    default: str,
    value: str,
    advice: tuple[str, ...],
    used: str,
    refused: bool,
) -> Field:
    kinds = {"On|Off": "switch", "time": "time", "factor": "factor"}
    kind = kinds.get(spec.takes, "number")
    low = 0.0 if spec.low is None else float(spec.low)
    if kind == "factor":
        low = 1.0
    high = spec.high_for(mpm)
    reach = float(min(REACH.get(spec.name, 1), high or math.inf))
    if advice:
        used = used if used != (value or default) else ""
    else:
        used = ""
    return Field(
        spec.name,
        group,
        kind,
        spec.unit,
        spec.doc,
        default,
        low,
        high,
        reach,
        0.5 if kind in ("time", "factor") else 1.0,
        value,
        advice,
        used,
        refused,
    )
