"""The control room's model: what is chosen, what runs, what has been seen. It draws nothing.

    room = Room("event", ThreadsPerChild=10)
    room.set("MaxRequestWorkers", "64")      # room.fields() says what httpd would correct
    room.start()
    room.load_set("users", 50)               # as on the page's form: all fields of a LoadProfile
    room.start_load()
    room.snapshot()                          # one frame: values that become JSON
    room.graceful()                          # a new generation, with the directives set meanwhile
    room.close()

Widgets, the watch and the load have threads of their own: `_acting` lets one thread at a time start, stop or
restart the server. The directives are in a file, as with httpd, which start, graceful and restart read.

A frame is what is seen of a moment: figures (of the server, the load and a probe, None for what is not known),
rows (of each process: slot, pid, generation, quiescing, not accepting, letters, connections without a thread),
and the scoreboard's shape.
"""

import contextlib
import math
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.lab.forms import BROWSERS, ROWS, DirectiveForm, Field, LoadForm
from mpmkit.launcher import LaunchError, ScoreboardView, Server, launch
from mpmkit.load.connections import KeepAliveClients
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import Tick, windows
from mpmkit.load.runner import LoadError, LoadInterrupted, LoadRun, run_load
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import Sample

# What the room serves, apart from the samples: a script that waits, as for a database, and a file that
# a slow reader takes a while for.
LARGE = 5_000_000  # bytes: more than the sockets hold, so that a slow reader holds up its server
SLOW_SCRIPT = '''"""A script that waits 0.1 s and holds its worker meanwhile."""

import time


def application(environ, start_response):
    time.sleep(0.1)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\\n"]
'''
LOAD_SECONDS = 600.0  # a load that is not stopped ends by itself
EVENTS = 40  # that a view shows
PROBE_THINK = 0.25  # seconds between two requests of the probe: what a new client meets
RECENT = 5.0  # seconds of the probe's answers that its percentiles are made of
LIVE = 1.2  # seconds of the load's answers that its live percentiles are made of

# What a frame has of the load.
OF_LOAD = ("load_qps", "load_failed", "load_p50_ms", "load_p95_ms", "load_p99_ms")


class Home:
    """A temporary folder with the pages that a panel's servers serve (`pages`). It is removed by `remove`,
    or with its owner, or with the interpreter."""

    def __init__(self, owner: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mpmkit-lab-"))
        self.pages = self.folder / "htdocs"
        shutil.copytree(Path(mpmkit.__file__).with_name("htdocs"), self.pages)
        (self.pages / "slow.py").write_text(SLOW_SCRIPT)
        (self.pages / "large.bin").write_bytes(bytes(LARGE))
        self.remove = weakref.finalize(owner, shutil.rmtree, self.folder, ignore_errors=True)


class Probe(KeepAliveClients):
    """A client that opens a connection for each request, and how long its last requests took."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 1, think=PROBE_THINK, keep=False)
        self._seen: list[tuple[float, float]] = []  # (second, ms)

    def percentiles(self, now: float) -> dict[str, float]:
        """What a new client meets, in ms; nothing as long as nothing is known."""
        # While the probe waits, its wait so far is the best that is known of the answer.
        ended = [*self.take(), *(wait for wait in self.waits() if wait > PROBE_THINK)]
        self._seen += [(now, 1000 * seconds) for seconds in ended]
        self._seen = [one for one in self._seen if one[0] >= now - RECENT]
        ms = sorted(one for _, one in self._seen)
        return {"wait_p50_ms": ms[len(ms) // 2], "wait_ms": ms[int(0.99 * len(ms))]} if ms else {}


class RunningLoad(threading.Thread):
    """`run_load` in a thread: it can be stopped, and what it gets is seen while it runs. note: is called with
    a line of text when the load has ended, or could not run."""

    running = property(threading.Thread.is_alive)

    def __init__(self, url: str, profile: LoadProfile, note: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.profile, self._url, self._note = profile, url, note
        self._ending, self._ticks = False, list[Tick]()
        self.start()

    def live(self) -> dict[str, float]:
        """Answers and failures per second and percentiles of the last second, as far as they are known."""
        ticks = self._ticks
        end = ticks[-1].end if ticks else 0.0
        (now,) = windows(ticks, (end - LIVE, end), lambda _: 0.0, 1)
        if not now.duration:
            return {}
        values = (now.qps, now.failures / now.duration, *map(now.latency_ms, (50, 95, 99)))
        return dict(zip(OF_LOAD, values, strict=True))

    def stop(self) -> None:
        self._ending = True
        if threading.current_thread() is not self:
            self.join()

    def _tick(self, tick: Tick) -> None:
        self._ticks = [*self._ticks[-9:], tick]
        if self._ending:
            # As Ctrl-C in the foreground: the generator ends with care, and what it measured comes along.
            raise KeyboardInterrupt

    def run(self) -> None:
        run: LoadRun | None
        try:
            run = run_load(self._url, profile=self.profile, on_tick=self._tick)
        except LoadInterrupted as stopped:
            run = stopped.run
        except (LoadError, ValueError, OSError) as error:
            return self._note(f"load: {error}")
        if run is None or not run.requests:
            return self._note("load: ended before its first answer")
        limit = "generator" if run.generator_bound else "machine" * run.generator_starved
        self._note(f"load ended: {run}" + (limit and f", the {limit} was the limit"))


class Room(DirectiveForm, contextlib.AbstractContextManager):
    """One server, its load, and what is seen of them. All methods may be called from any thread.

    It is the form of its directives: `choose` another MPM for the next start, `set` a directive. directives:
    values to begin with, as for `mpmkit.launch`. Raises DirectiveError for an MPM or a directive that does not
    exist.
    """

    def __init__(self, mpm: str = "event", **directives: Any) -> None:
        super().__init__(mpm, **directives)
        self._acting = threading.RLock()
        self._resizing = threading.Lock()
        self._load_form = LoadForm()
        self._server: Server | None = None
        self._applied: dict[str, str] = {}
        self._watch: Watch | None = None  # of the last start: it keeps the events
        self._probe: Probe | None = None
        self._crowd: KeepAliveClients | None = None
        self._load: RunningLoad | None = None
        self._began = time.monotonic()
        self._home = Home(self)
        self._frame: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []
        self.on_frame: Callable[[dict[str, Any]], None] | None = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<control room: {self._server or f'{self.mpm}, stopped'!s}>"

    # -- the server -------------------------------------------------------------------------------

    def unapplied(self) -> list[str]:
        """Directives that graceful would bring in: changed since a running server of this MPM read its file."""
        if (server := self.server) is None or server.mpm != self.mpm:
            return []
        return sorted({name for name, _ in self.words().items() ^ self._applied.items()})

    @property
    def server(self) -> Server | None:
        """The running server, or None."""
        server = self._server
        return server if server is not None and server.running else None

    def start(self) -> None:
        """Start the chosen MPM with the directives. A running server is stopped first; a load that ran on it
        goes on with the new one. Raises DirectiveError for what httpd would refuse, LaunchError when it does
        not start."""
        with self._acting:
            if not self._home.remove.alive:
                raise LaunchError("this control room was closed; make another")
            (effective, _), loaded = self.checked(), self.loading
            self.stop()
            server = launch(self.mpm, conf=self._write_conf(), document_root=self._home.pages)
            self._server, self.effective = server, effective
            self._began = time.monotonic()
            self._history.clear()
            self._watch = Watch(server, on_sample=self._seen, on_end=self._ended)
            self.note(f"start {self.mpm}, pid {server.pid}")
            self._probe, self._crowd = Probe(server.url), KeepAliveClients(server.url)
            self._resize_crowd()
            self._watch.start()
            if loaded:
                with contextlib.suppress(ValueError):  # what the form says now is refused
                    self.start_load()

    def restart(self) -> None:
        """HUP: as `graceful`, but the old generation is ended first."""
        self.graceful("restart")

    def graceful(self, word: str = "graceful") -> None:
        """USR1: the file is read again, a new generation starts, the old one finishes."""
        with self._acting:
            server = self.server
            if server is None:
                raise LaunchError(f"no server runs; start one before {word}")
            if server.mpm != self.mpm:
                raise LaunchError(f"{word} cannot change the MPM: stop and start")
            effective, _ = self.checked(self.effective)
            self._write_conf()
            server.signal(word)
            self.effective = effective
            self.note(word)

    def stop(self) -> None:
        """TERM, and the load ends, too. Without a server nothing happens."""
        with self._acting:
            self.stop_load()
            server, probe, crowd = self._server, self._probe, self._crowd
            self._server = self.effective = self._probe = self._crowd = None
            for one in (self._watch, probe, crowd):
                if one is not None:
                    one.close()
            if server is not None:
                ran = server.running
                server.stop()
                if ran:
                    self.note("stop")
                self._frame = {}

    def close(self) -> None:
        """Stop everything for good; nothing of the room is left. Twice does nothing."""
        with self._acting:
            self.stop()
            self._home.remove()

    def _ended(self) -> None:
        """The server ended without our doing: say so, and clear away what belonged to it."""

        def clear_away() -> None:
            with self._acting:
                if self._server is server:
                    self.stop()
            if self.on_frame is not None:
                self.on_frame({})

        if (server := self._server) is not None:
            self.note(f"the server has ended with status {server._process.poll()}")
            # Not in this thread: it is the watch's, and stopping waits for the load's.
            threading.Thread(target=clear_away, daemon=True).start()

    def _write_conf(self) -> Path:
        self._applied = self.words()
        conf = self._home.folder / "httpd.conf"
        conf.write_text("".join(f"{name} {value}\n" for name, value in self._applied.items()))
        return conf

    # -- the load ---------------------------------------------------------------------------------

    def load_set(self, name: str, value: Any) -> None:
        """One field of the load: text as on the form, or what LoadProfile takes. Holds from the next
        `start_load` or `renew_load` on; the browsers' at once. Raises ProfileError for an unknown name only."""
        self._load_form.set(name, value)
        if ROWS[name].group == BROWSERS:
            self._resize_crowd()

    def load_fields(self) -> list[Field]:
        """The load's fields that apply now, with what is wrong with them."""
        return self._load_form.fields()

    def start_load(self) -> None:
        """Locust's users against the running server, as the form says, until `stop_load`, or for 600 s. Raises
        LaunchError without a server, ValueError for a bad value (nothing is changed then)."""
        with self._acting:
            profile, server = self._load_form.profile(LOAD_SECONDS), self.server
            if server is None:
                raise LaunchError("no server runs; start one before the load")
            self.stop_load()
            self._load = RunningLoad(server.url, profile, self.note)
            way = "kept connections" if profile.keep_alive else "a new connection each"
            what = f"{profile.users} users, {'a mix' if profile.mix else profile.path}, {way}"
            self.note(", ".join(filter(None, (f"load: {what}", self._load_form.summary()))))

    def renew_load(self) -> bool:
        """A load that runs goes on as the form says now; True if that was so. Without a load, with one as the
        form says, or with a value that is refused, nothing happens."""
        # Looked up under the lock: a value that changes while the load before it is ending must not be lost.
        with self._acting, contextlib.suppress(ValueError):
            load = self._load
            if load and load.running and self._load_form.profile(LOAD_SECONDS) != load.profile:
                self.start_load()
                return True
        return False

    def stop_load(self) -> None:
        """End the load; what it measured becomes an event. Without a load nothing happens."""
        with self._acting:
            if self._load is not None:
                self._load.stop()
                self._load = None

    @property
    def loading(self) -> bool:
        """Whether a load runs."""
        return (load := self._load) is not None and load.running

    def _resize_crowd(self) -> None:
        """Browsers as the form says, if that can be."""
        with contextlib.suppress(ValueError), self._resizing:
            count, think = self._load_form.browsers()
            if self._crowd is not None:
                self._crowd.think_for(think)
                self._crowd.resize(count)

    # -- what is seen -----------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The newest frame: plain values, ready for JSON. Empty when no server runs."""
        return self._frame

    def history(self) -> list[dict[str, Any]]:
        """The frames' figures so far, for a view that opens late."""
        return list(self._history)

    def events(self) -> list[list[Any]]:
        """[second, kind, text] of the last events since the last start."""
        seen = self._watch.events[-EVENTS:] if self._watch is not None else ()
        return [[round(event.t, 1), event.kind, event.text] for event in seen]

    def status(self) -> dict[str, Any]:
        """What is chosen and what runs, as plain values."""
        mpm, pid, url = (one.mpm, one.pid, one.url) if (one := self.server) else ("", 0, "")
        runs = {"running": bool(mpm), "running_mpm": mpm, "pid": pid, "url": url}
        load = {"loading": self.loading, "load_summary": self._load_form.summary()}
        own = {"mpm": self.mpm, "unapplied": self.unapplied(), "began": round(self._began, 3)}
        return own | runs | load

    def note(self, text: str) -> None:
        """An event in words, at the present time."""
        if self._watch is not None:
            self._watch.note(text)

    def _seen(self, sample: Sample, board: ScoreboardView) -> None:
        """The watch's callback: make a frame of what it saw, with the load's and the probe's figures."""
        load, probe = self._load, self._probe
        seen = dict.fromkeys((*OF_LOAD, "wait_p50_ms", "wait_ms"), math.nan)
        seen |= sample._asdict()
        seen |= load.live() if load is not None and load.running else {}
        seen |= probe.percentiles(sample.t) if probe is not None else {}
        figures = {name: None if v != v else round(v, 3) for name, v in seen.items()}
        letters, rows = board.letters, []
        for row in filter(lambda row: row.pid, board.snapshot.processes):
            held = row.keep_alive + row.write_completion + row.lingering_close
            own = [row.slot, row.pid, row.generation, row.quiescing, row.not_accepting]
            rows.append([*own, letters[row.slot], held])
        self._frame = made = {
            "figures": figures, "rows": rows, "generation": sample.generation, "mpm": board.mpm,
            "slots": board.process_limit, "threads": board.threads_per_child, "events": self.events(),
        }  # fmt: skip
        self._history = [*self._history[-599:], figures]
        if (tell := self.on_frame) is not None:
            tell(made)
