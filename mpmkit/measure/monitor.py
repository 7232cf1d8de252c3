"""Watch a running server, mpmkit's or a real httpd: what its processes and threads do, a few times a second.

    run = mpmkit.watch(server, seconds=12)             once a second for 12 seconds
    with mpmkit.lab.watch(server) as run:              or for as long as the block takes
        mpmkit.run_load(server, "/index.html", users=200)
    print(run.event_log())

A server of `mpmkit.launch` gets no request: its scoreboard and /proc are read, in about a millisecond. A real
httpd is asked for its status page (`?auto`): the worker that answers is subtracted.
"""

import base64
import http.client
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self
from urllib.parse import unquote_to_bytes, urlsplit

from mpmkit.launcher import LaunchError, ScoreboardView, Server
from mpmkit.measure import procfs
from mpmkit.measure.recording import NAN, Event, Recording, Sample, ScoreboardSnapshot
from mpmkit.policy.states import LETTERS

EVERY = 0.35  # seconds between samples: about three a second
MEMORY_EVERY = 2.0  # seconds between readings of memory, at least
MEMORY_SHARE = 0.01  # of a core that reading memory may take
KEEP = 36_000  # samples kept: some three hours
FIRST_ANSWER = 10.0  # seconds in which a status page must come the first time
_Counts = dict[str, float]  # fields of a Sample


class _Look(NamedTuple):
    """What one look finds, before it is compared with the one before."""

    children: list[int]  # their pids; empty if nothing but the URL is known
    counts: _Counts
    duration_ms: float = NAN  # of all requests together
    lines: Sequence[str] = ()  # new ones of the error log
    board: ScoreboardView | None = None


def _counts(letters: str, held: Sequence[int], idle: int, busy: int, **more: float) -> _Counts:
    """Of connections without a thread (kept alive, writing, closing), and of workers: fields of a Sample."""
    keep_alive, writing, closing = held
    count = Counter(letters)
    return {
        "workers": idle + busy, "idle": idle, "busy": busy, "without_thread": sum(held),
        "threads": len(letters) - count[LETTERS[0]], "reading": count["R"], "parked": count["K"] + keep_alive,
        "closing": count["C"] + closing, "writing": count["W"] + count["L"] + writing, **more,
    }  # fmt: skip


class _Scoreboard:
    """A server of `mpmkit.launch`, by its scoreboard. Raises LaunchError if it has stopped."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.mpm, self.pid, self.port = server.mpm, server.pid, server.port
        self._logged = 0
        server.scoreboard()

    def running(self) -> bool:
        return self.server.running

    def look(self) -> _Look:
        board, log = self.server.scoreboard(), self.server.error_log()
        rows = [row for row in board.snapshot.processes if row.pid]
        lines, self._logged = log_lines(log[self._logged :]), len(log)
        held = [(row.keep_alive, row.write_completion, row.lingering_close) for row in rows]
        counts = _counts(
            "".join(board.letters.values()), [*map(sum, zip((0, 0, 0), *held, strict=True))],
            board.counts.idle, board.counts.busy, processes=len(rows), accesses=board.accesses,
            generation=board.snapshot.generation,
        )  # fmt: skip
        duration = sum(row.duration for row in board.workers) / 1e6
        return _Look([row.pid for row in rows], counts, duration, lines, board)


class StatusPage:
    """A server of another make, by its status page. A user and a password in its URL are sent as Basic
    authentication. Raises OSError if the page doesn't come."""

    def __init__(self, server: Any, patience: float) -> None:
        url = server if isinstance(server, str) else server.url
        self.pid: int = getattr(server, "pid", 0)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a server; write http://host:port")
        path = parts.path if parts.path.strip("/") else "/server-status"
        who, _, place = parts.netloc.rpartition("@")
        self.page = f"{parts.scheme}://{place}{path}?auto"
        sent = base64.b64encode(unquote_to_bytes(who)).decode()
        self.headers = {"Authorization": f"Basic {sent}"} if who else {}
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.mpm = self.read(FIRST_ANSWER).get("ServerMPM", "")  # httpd 2.2 does not say
        self.patience = patience

    def running(self) -> bool:
        return not self.pid or procfs.alive(self.pid)

    def read(self, patience: float) -> dict[str, str]:
        why = "is not a status page; is SetHandler server-status configured?"
        try:
            request = urllib.request.Request(self.page, headers=self.headers)
            with urllib.request.urlopen(request, timeout=patience) as reply:
                text = reply.read().decode("latin-1")
            auto = dict(re.findall(r"^([^:\n]*):[ \t]*(.*?)\s*$", text, re.M))
            if "Scoreboard" in auto:
                return auto
        except urllib.error.HTTPError as error:
            error.close()
            words = ("put USER:PASSWORD@ before the host", "give the right password")
            remedy = f"; {words[bool(self.headers)]}, or allow it from here (Require local)"
            why = f"answers {error.code}, not a status page{remedy * (error.code in (401, 403))}"
        except TimeoutError:
            why = f"gives no answer within {patience:g} s; every worker may be busy"
        except http.client.HTTPException as error:
            why = f"does not answer in HTTP: {error!r}"
        except OSError as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            why = f"cannot be reached: {reason}"
        raise OSError(f"{self.page} {why}")

    def look(self) -> _Look:
        children = procfs.children(self.pid) if self.pid else []
        known = {"processes": float(len(children))} if self.pid else {}
        try:
            auto = self.read(self.patience)
            idle, busy = int(auto["IdleWorkers"]), int(auto["BusyWorkers"])
            kinds = ("KeepAlive", "Writing", "Closing")
            held = [int(auto.get(f"ConnsAsync{kind}", 0)) for kind in kinds]
            names = ("ParentServerMPMGeneration", "Total Accesses", "Total Duration")
            generation, accesses, ms = (float(auto.get(name, NAN)) for name in names)
        except (OSError, KeyError, ValueError):
            return _Look(children, known)  # every worker is busy: the page does not come
        letters = auto["Scoreboard"].replace("W", "_", 1)  # one answers us
        more = {"generation": generation, "accesses": accesses}
        counts = _counts(letters, held, idle + 1, max(0, busy - 1), **more)
        one_each = counts["threads"] if self.mpm == "prefork" else NAN
        counts["processes"] = float(auto.get("Processes", one_each))
        return _Look(children, counts | known, ms)


def log_lines(text: str) -> list[str]:
    """The messages of an error log that an operator should see, without date and pid."""
    levels = "notice|warn|error|crit|alert|emerg"
    line = rf"(?m)^\[[^\]\n]+\] \[\w+:(?:{levels})\] \[pid \d+(?::tid \d+)?\] (.*)"
    return re.findall(line, text)


class Watch(Recording):
    """Watches one server until it is closed or the server ends; a context manager.

    server      from `mpmkit.launch`; or an object with `url` and `pid` whose status page is at /server-status;
                or the URL of a server or of its status page
    every       seconds between samples, 0.01 or more
    on_sample   called in the watching thread with each Sample and its ScoreboardView (None without a scoreboard)
    on_end      called there when the server has ended, unless the watch was closed before

    It may be read at any time, from any thread. Raises ValueError for a shorter `every`, LaunchError
    for a launched server that has stopped, OSError for a URL without a status page.
    """

    def __init__(
        self, server: Server | Any, *, every: float = EVERY,
        on_sample: Callable[[Sample, Any], None] | None = None, on_end: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        if every < 0.01:
            raise ValueError(f"every: must be 0.01 s or more, not {every!r}: it would be a load")
        self._reader: _Scoreboard | StatusPage
        ours = isinstance(server, Server)
        self._reader = _Scoreboard(server) if ours else StatusPage(server, max(every, 0.2))
        super().__init__(self._reader.mpm)
        self.every, self.on_sample, self.on_end = every, on_sample, on_end
        self._began = time.monotonic()
        self._last = _Look([], {"generation": 0})
        self._memory, self._memory_at = NAN, 0.0  # and when to read it again
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self.go_on, name="mpmkit-watch", daemon=True)

    def start(self) -> Self:
        """Take the first sample now, the others in a thread."""
        self.look()
        self._thread.start()
        return self

    def close(self) -> None:
        """Take a last sample and stop. Twice does nothing."""
        if not self._stop.is_set():
            self._stop.set()
            if self._thread.is_alive() and threading.current_thread() is not self._thread:
                self._thread.join()
            self.look()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.close()

    def go_on(self, seconds: float = math.inf) -> None:
        """Look at the full multiples of `every`, for so many seconds: any but the last is left out if late."""
        number = 1
        while number * self.every <= seconds + 1e-9:
            if self._stop.wait(max(0.0, number * self.every - self.now)):
                return
            if not self._reader.running():
                if self.on_end is not None and not self._stop.is_set():
                    self.on_end()
                return
            self.look()  # one that fails while the server runs is one look missed
            number = max(number + 1, int(min(self.now, seconds + 1e-9) / self.every))

    @property
    def now(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self._began

    def note(self, text: str, kind: str = "note") -> None:
        """Add your own event: what you did to the server, and when."""
        self.events.append(Event(self.now, kind, text))

    def capture(self, label: str) -> ScoreboardSnapshot:
        """Keep a snapshot of the scoreboard as it is now, and note the moment. Raises ValueError for a
        server of another make, LaunchError for one that has stopped."""
        if isinstance(self._reader, StatusPage):
            raise ValueError("only a server of mpmkit.launch has a scoreboard to capture")
        snapshot = ScoreboardSnapshot.of(self._reader.server.scoreboard(), label, self.now)
        self.snapshots.append(snapshot)
        self.note(label)
        return snapshot

    def until(self, condition: Callable[[Sample], Any], seconds: float = 30.0) -> Sample:
        """Wait for a sample that fulfils the condition, and return it. Raises TimeoutError."""
        end = self.now + seconds
        while not condition(sample := self.last):
            if self.now > end:
                raise TimeoutError(f"not within {seconds:g} s; the last sample: {sample}")
            time.sleep(self.every / 4)
        return sample

    def recording(self) -> Recording:
        """The record so far, without the server: it can be drawn, saved and read again."""
        with self._lock:
            return Recording(self.mpm, self.samples[:], self.events[:], self.snapshots[:])

    def look(self) -> Sample | None:
        """One sample, now; None when the server has ended."""
        waiting = procfs.listen_queue(self._reader.port)  # before we stand in it ourselves
        try:
            look = self._reader.look()
        except (LaunchError, OSError, ValueError):
            return None
        with self._lock:
            sample = self._sample(look, waiting, now := self.now)
            self.events += [Event(now, *one) for one in self._differences(look)]
            self._last = look
            self.samples.append(sample)
            del self.samples[:-KEEP], self.events[:-KEEP]
        if self.on_sample is not None:
            self.on_sample(sample, look.board)
        return sample

    def _sample(self, look: _Look, waiting: float, now: float) -> Sample:
        accesses = look.counts.get("accesses", NAN)
        since, spent = self._last.counts.get("accesses", NAN), self._last.duration_ms
        if accesses < since:  # a restart begins counting at zero again
            since = spent = 0
        done = accesses - since
        qps = done / (now - (self.samples[-1].t if self.samples else 0))
        service = (look.duration_ms - spent) / done if done else NAN
        if now >= self._memory_at and self._reader.pid:
            began = time.thread_time()
            self._memory = procfs.pss_mb([self._reader.pid, *look.children])
            took = time.thread_time() - began
            self._memory_at = now + max(MEMORY_EVERY, took / MEMORY_SHARE)
        given = {"waiting": waiting, "qps": qps, "service_ms": service, "pss_mb": self._memory}
        return Sample(round(now, 3), **look.counts, **given)

    def _differences(self, look: _Look) -> Iterator[tuple[str, str]]:
        there, before = set(look.children), set(self._last.children)
        one, many = ("a child", "children") if self.mpm == "prefork" else ("a process", "processes")
        for kind, pids in (("forked", there - before), ("ended", before - there)):
            if pids:
                yield kind, f"{kind} {one if len(pids) == 1 else f'{len(pids)} {many}'}"
        generation = look.counts.get("generation", NAN)
        if generation == generation and generation != self._last.counts.get("generation"):
            yield "generation", f"generation {generation:.0f}"
        yield from (("log", line) for line in look.lines)


def watch(server: Any, seconds: float | None = None, *, every: float = 1.0) -> Watch:
    """Record a server's pool for `seconds` from now, or without `seconds` in a `with` block. Raises as `Watch`,
    and ValueError for negative seconds."""
    if seconds is not None and seconds < 0:
        raise ValueError(f"seconds: must be 0 or more, not {seconds!r}")
    run = Watch(server, every=every)
    if seconds is not None:
        run.look()
        run.go_on(seconds)
    return run
