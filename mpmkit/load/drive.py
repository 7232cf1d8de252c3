"""Running a load from Python: one call, one result type, several generators behind it.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

The generator always runs in a process of its own (Locust monkey-patches whatever process imports
it), in a session of its own (a Ctrl-C reaches us, and we end it with care), and holds one end of
a pipe whose other end only we hold: it ends when we do, however we end.

`mpmkit.load.drive` imports neither locust nor gevent nor pandas.
"""

from __future__ import annotations

import array
import bisect
import importlib.util
import json
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mpmkit.load import tls
from mpmkit.load.histogram import Histogram
from mpmkit.load.limits import Forecast, forecast, system
from mpmkit.load.pressure import Pressure
from mpmkit.load.profile import LoadProfile, ProfileError, target_of

if TYPE_CHECKING:
    import pandas

Progress = Callable[[int, float], None]
"""Called with (requests done, seconds since the first that counts), some four times a second."""

GENERATOR_LIMIT = 0.9
"""Share of a core from which on a generator process is taken to be what limited the run. Above it
the process hardly ever waits for an answer, so a faster server would not have shown as one."""

CEILING_LIMIT = 0.9
"""Share of what the generator was seen to do against the fastest server at hand, from which on the
generator is taken to be what limited the run."""

STARTUP = 30.0
"""Seconds granted to a generator for starting and ending, beside the profile's time limit."""

GRACE = 1.2
"""Seconds between asking a generator to end and killing it. With what Python needs to get there, a
Ctrl-C is over within two seconds."""

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


class LoadError(RuntimeError):
    """The generator could not run, or died. The text says what happened; `log` is what it
    printed."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run. `run` is what had been measured until then, or None."""

    def __init__(self, run: LoadRun | None) -> None:
        super().__init__("the load was interrupted")
        self.run = run


class HasUrl(Protocol):
    """What `run_load` needs of a server: where it listens."""

    @property
    def url(self) -> str: ...


class Tick(NamedTuple):
    """What one generator process got from one report to the next: seconds, failures, latencies."""

    begin: float
    end: float
    failures: Counter[str]
    latencies: Histogram | tuple[int, int]  # or where they stand among the run's raw ones


@dataclass
class Slot:
    """A stretch of a run: a second of it, or a stage.

    begin, end: seconds from the first request that counts. load: users (closed loop) or requests/s
    (open loop) that were due at its end. covered: seconds of it that the processes reported on.
    """

    begin: float
    end: float
    load: float = 0.0
    covered: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: Histogram = field(default_factory=Histogram)

    @property
    def requests(self) -> int:
        """Requests that ended in it, well or badly."""
        return len(self.latencies) + self.errors.total()

    @property
    def qps(self) -> float:
        """Good answers per second."""
        return len(self.latencies) / self.covered if self.covered > 0 else 0.0

    def latency_ms(self, percentile: float = 50) -> float:
        """As of a run, to within 0.1%; nan if nothing was answered well."""
        return self.latencies.percentile(percentile) / 1e6 if len(self.latencies) else math.nan


@dataclass(repr=False)
class LoadRun:
    """What one load measured.

    driver: which generator ran. target: where. profile: the load that it executed.
    requests: requests that ended, well or badly (the warm-up's do not count).
    errors: how many failed, by kind (see mpmkit.load.response for the kinds).
    duration: seconds from the first request's start to the last one's end.
    latencies_ns: one entry per good answer, in the order in which they came in each process; empty
        for generators that only give percentiles, and where they came from other machines.
    processes_cpu: share of a core that each generator process used, 0 to 1.
    retries: requests that crossed the server's closing of a kept connection and were sent again.
    reconnects: kept connections that the server closed after an answer, having said so.
    ended: why the run ended: "requests", "duration", "interrupted", "time limit of ...", "gave
        up: ...", "1 of 2 generator processes died", "disk: ...".
    timeline: (seconds, requests done) about four times a second.
    background: what idle holders and slow readers got, like {"idle opened": 500}.
    connections: how many were opened, those beside the users included; 0 if not known.
    lag: open loop: ns from due to sent, of every request that was sent. late: those over 1 ms.
    paths: for a mix, the latencies of each path.
    run_queue, steal: see `mpmkit.load.pressure`. processes_wait: share of the time (0 to 1) that
        each generator process was ready to run and had to wait for a processor.
    ceiling: requests/s of the same load against the fastest server at hand, if it was measured.
    notes: what was foreseen (`mpmkit.load.limits`).
    """

    driver: str
    target: str
    profile: LoadProfile
    requests: int
    errors: Counter[str]
    duration: float
    latencies_ns: array.array = field(default_factory=lambda: array.array("q"))
    processes_cpu: tuple[float, ...] = ()
    retries: int = 0
    reconnects: int = 0
    ended: str = "requests"
    started_at: float = 0.0
    timeline: tuple[tuple[float, int], ...] = ()
    version: str = ""
    percentiles_ms: dict[float, float] = field(default_factory=dict)
    background: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    lag: Histogram = field(default_factory=Histogram)
    late: int = 0
    paths: dict[str, Histogram] = field(default_factory=dict)
    run_queue: float = math.nan
    steal: float = math.nan
    processes_wait: tuple[float, ...] = ()
    ceiling: float | None = None
    notes: tuple[str, ...] = ()
    ticks: tuple[Tick, ...] = ()
    counted: Histogram | None = None
    _sorted: array.array | None = None

    @property
    def users(self) -> int:
        """Concurrent clients."""
        return self.profile.users

    @property
    def keep_alive(self) -> bool:
        """Whether connections were reused, by some of the users at least."""
        return bool(self.profile.keep_alive)

    @property
    def path(self) -> str:
        """What was asked for."""
        return self.profile.path if not self.profile.mix else (
            f"a mix of {len(self.profile.mix)}: {self.profile.mix[0].path} ...")

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return sum(self.errors.values())

    @property
    def succeeded(self) -> int:
        """Requests with a good answer."""
        return self.requests - self.failures

    @property
    def complete(self) -> bool:
        """Whether the run came to the end that its profile asked for."""
        return self.ended in ("requests", "duration")

    @property
    def qps(self) -> float:
        """Good answers per second, over the whole window; 0 if there was none."""
        return self.succeeded / self.duration if self.duration > 0 else 0.0

    @property
    def generator_cpu(self) -> float:
        """Share of a core that a generator process used, on average; nan if not known."""
        cpu = self.processes_cpu
        return sum(cpu) / len(cpu) if cpu else math.nan

    @property
    def generator_bound(self) -> bool:
        """True if a generator process was as busy as a core allows, or the whole near its ceiling:
        then `qps` is its limit and says little about the server's."""
        return any(cpu > GENERATOR_LIMIT for cpu in self.processes_cpu) or (
            self.ceiling is not None and self.qps > CEILING_LIMIT * self.ceiling)

    @property
    def generator_starved(self) -> bool:
        """True if a generator process always had something to do, and had to wait for a processor
        to do it: the machine was the limit, which generator and server share."""
        return not self.generator_bound and any(
            cpu + wait > GENERATOR_LIMIT for cpu, wait in
            zip(self.processes_cpu, self.processes_wait, strict=False))

    @property
    def histogram(self) -> Histogram:
        """The latencies of the good answers as counts; empty where only percentiles are known."""
        if self.counted is None:
            self.counted = Histogram(self.latencies_ns)
        return self.counted

    def _binned(self, edges: Sequence[float]) -> list[Slot]:
        """What fell between each two edges (seconds). A tick belongs to where its middle lies."""
        slots = [Slot(begin, end, self.profile.level_at(end - 1e-9))
                 for begin, end in zip(edges, edges[1:], strict=False)]
        sources = max(1, len(self.processes_cpu))
        for tick in self.ticks:
            number = bisect.bisect(edges, (tick.begin + tick.end) / 2) - 1
            if not 0 <= number < len(slots):
                continue
            slot = slots[number]
            slot.covered += (tick.end - tick.begin) / sources
            slot.errors.update(tick.failures)
            if isinstance(tick.latencies, Histogram):
                slot.latencies.merge(tick.latencies)
            else:
                slot.latencies.record(self.latencies_ns[slice(*tick.latencies)])
        return slots

    @property
    def seconds(self) -> list[Slot]:
        """The run second by second; empty for generators that don't tell."""
        last = max((tick.end for tick in self.ticks), default=0.0)
        found = self._binned([float(n) for n in range(math.ceil(last) + 1)]) if last else []
        while found and not found[-1].requests:
            found.pop()
        return found

    @property
    def stages(self) -> list[Slot]:
        """The run by the stages of its profile; empty if it has none."""
        edges = [0.0]
        for stage in self.profile.stages:
            edges.append(edges[-1] + stage.seconds)
        return self._binned(edges) if len(edges) > 1 else []

    @property
    def knee(self) -> Slot | None:
        """The last stage that paid: beyond it so many times the load brought less than the square
        root of that in answers (closed loop: twice the users, not 1.41 times; however large the
        steps), or not 95% of the requests that were due were answered (open loop). None if the
        stages do not reach it."""
        for before, slot in zip(self.stages, self.stages[1:], strict=False):
            if self.profile.open_loop:
                over = slot.qps < 0.95 * slot.load
            else:
                over = (slot.load > before.load and before.qps > 0
                        and slot.qps / before.qps < math.sqrt(slot.load / before.load))
            if over:
                return before
        return None

    def latency_ms(self, percentile: float = 50) -> float:
        """The latency in ms that `percentile` (0 to 100) percent of the good answers did not
        exceed.

        Exact where raw latencies are at hand (nearest rank: a latency that was observed); read off
        the generator's own table otherwise. nan if nothing is known. Raises ValueError outside
        0-100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile: must be 0 to 100, not {percentile!r}")
        if not len(self.latencies_ns) and self.counted:
            return self.counted.percentile(percentile) / 1e6
        if len(self.latencies_ns):
            if self._sorted is None or len(self._sorted) != len(self.latencies_ns):
                self._sorted = array.array("q", sorted(self.latencies_ns))
            # The small step back keeps 99.9 % of 1,000 from becoming 999.0000000001.
            rank = math.ceil(percentile * len(self._sorted) / 100 - 1e-9)
            return self._sorted[max(rank, 1) - 1] / 1e6
        above = [p for p in self.percentiles_ms if p >= percentile]
        return self.percentiles_ms[min(above)] if above else math.nan

    @property
    def mean_ms(self) -> float:
        """Mean latency of the good answers in ms, or nan."""
        if not len(self.latencies_ns) and self.counted:
            return self.counted.mean / 1e6
        count = len(self.latencies_ns)
        return sum(self.latencies_ns) / count / 1e6 if count else math.nan

    def row(self) -> dict[str, Any]:
        """The run as one tidy row; the columns are described in data/README.md."""
        return {
            "started_at": self.started_at,
            "driver": self.driver,
            "driver_version": self.version,
            "path": self.path,
            "method": self.profile.asks[0].method,
            "users": self.users,
            "keep_alive": self.keep_alive,
            "processes": self.profile.processes,
            "requests": self.requests,
            "failures": self.failures,
            "errors": json.dumps(dict(sorted(self.errors.items()))),
            "duration_s": self.duration,
            "qps": self.qps,
            "mean_ms": self.mean_ms,
            "p50_ms": self.latency_ms(50),
            "p90_ms": self.latency_ms(90),
            "p99_ms": self.latency_ms(99),
            "p999_ms": self.latency_ms(99.9),
            "max_ms": self.latency_ms(100),
            "generator_cpu": self.generator_cpu,
            "generator_bound": self.generator_bound,
            "retries": self.retries,
            "reconnects": self.reconnects,
            "ended": self.ended,
        }

    def to_frame(self) -> pandas.DataFrame:
        """The run as a frame of one tidy row."""
        import pandas

        frame = pandas.DataFrame([self.row()])
        frame["started_at"] = pandas.to_datetime(frame["started_at"], unit="s", utc=True)
        return frame

    def summary(self) -> str:
        """A few lines for people."""
        way = "keep-alive" if self.keep_alive else "new connection each"
        if 0 < self.profile.keep_share < 1:
            way = f"{self.profile.keep_share:.0%} keep-alive"
        if self.profile.open_loop:
            rate = "stages" if self.profile.stages else f"{self.profile.rate:,g}/s"
            way += f", {self.profile.arrival} arrivals, {rate}"
        p50, p99, longest = (self.latency_ms(p) for p in (50, 99, 100))
        asked = f"{self.profile.asks[0].method} {self.path}, {self.users} users, {way}"
        lines = [
            f"{asked}, by {self.driver}",
            f"{self.qps:,.0f} requests/s: {self.succeeded:,} good answers in {self.duration:.2f} s",
        ]
        if self.succeeded:
            tail = "".join(f", p{p:g} {self.latency_ms(p):.3g}" for p in (99.9, 99.99)
                           if self.succeeded >= 1 / (1 - p / 100) - 1e-6)
            lines.append(f"latency ms: p50 {p50:.3g}, p99 {p99:.3g}{tail}, max {longest:.3g}")
        for path, found in self.paths.items():
            if len(found):
                lines.append(f"  {path}: {len(found):,} good answers, "
                             f"p50 {found.percentile(50) / 1e6:.3g}, "
                             f"p99 {found.percentile(99) / 1e6:.3g}")
        what = "requests/s due" if self.profile.open_loop else "users"
        for slot in self.stages:
            lines.append(
                f"  {slot.begin:g} to {slot.end:g} s, {slot.load:,.0f} {what}: "
                f"{slot.qps:,.0f} requests/s, p50 {slot.latency_ms(50):.3g}, "
                f"p99 {slot.latency_ms(99):.3g}"
                + (f", {slot.errors.total():,} failed" if slot.errors else ""))
        knee = self.knee
        if knee is not None:
            lines.append(f"  the knee is at {knee.load:,.0f} {what}: beyond it more load does not pay")
        if self.late:
            lines.append(f"{self.late:,} of {len(self.lag):,} requests were sent more than 1 ms "
                         f"after they were due; their latency counts from then")
        if self.background:
            lines.append("beside the users: " + ", ".join(
                f"{count:,} {what}" for what, count in sorted(self.background.items())))
        if self.failures:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.errors.most_common())
            lines.append(f"{self.failures:,} of {self.requests:,} requests failed: {kinds}")
        if self.retries:
            lines.append(f"{self.retries:,} requests met the server's close and were sent again")
        if not self.complete:
            lines.append(f"the run did not come to its end: {self.ended}")
        if not math.isnan(self.generator_cpu):
            lines.append(f"generator: {self.generator_cpu:.0%} of a core per process"
                         + (" - it was the bottleneck, the server may be faster"
                            if self.generator_bound else
                            " - it always had to wait for a processor: the machine is the limit"
                            if self.generator_starved else ""))
        if self.ceiling:
            lines.append(f"generator's ceiling: {self.ceiling:,.0f} requests/s, by what it did "
                         f"against nginx; this run is at {self.qps / self.ceiling:.0%} of it")
        if self.run_queue == self.run_queue:
            lines.append(f"machine: {self.run_queue:.1f} tasks ready to run a processor"
                         + (f", {self.steal:.0%} of the time stolen" if self.steal >= 0.005 else ""))
        return "\n".join(lines)

    def to_json(self) -> str:
        """The run as JSON: counts, the histogram, second by second; raw latencies are left out."""
        return json.dumps({
            "version": 1, "driver": self.driver, "driver_version": self.version,
            "target": self.target, "profile": json.loads(self.profile.to_json()),
            "requests": self.requests, "errors": dict(self.errors), "duration": self.duration,
            "histogram": self.histogram.to_text(), "percentiles_ms": self.percentiles_ms,
            "processes_cpu": self.processes_cpu, "processes_wait": self.processes_wait,
            "retries": self.retries, "reconnects": self.reconnects, "ended": self.ended,
            "started_at": self.started_at, "background": dict(self.background),
            "connections": self.connections, "lag": self.lag.to_text(), "late": self.late,
            "paths": {path: found.to_text() for path, found in self.paths.items()},
            "run_queue": _or_none(self.run_queue), "steal": _or_none(self.steal),
            "ceiling": self.ceiling, "notes": self.notes,
            "seconds": [[slot.begin, slot.begin + slot.covered, dict(slot.errors),
                         slot.latencies.to_text()] for slot in self.seconds],
        })

    @classmethod
    def from_json(cls, text: str) -> LoadRun:
        """A run read back. Raises ValueError for anything but what `to_json` writes."""
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ValueError(f"version {data['version']!r}")
            sources = max(1, len(data["processes_cpu"]))
            return cls(
                driver=data["driver"], target=data["target"],
                profile=LoadProfile.from_json(json.dumps(data["profile"])),
                requests=data["requests"], errors=Counter(data["errors"]),
                duration=data["duration"], version=data["driver_version"],
                processes_cpu=tuple(data["processes_cpu"]),
                processes_wait=tuple(data["processes_wait"]), retries=data["retries"],
                reconnects=data["reconnects"], ended=data["ended"],
                started_at=data["started_at"], background=Counter(data["background"]),
                connections=data["connections"], lag=Histogram.from_text(data["lag"]),
                late=data["late"], ceiling=data["ceiling"], notes=tuple(data["notes"]),
                run_queue=math.nan if data["run_queue"] is None else data["run_queue"],
                steal=math.nan if data["steal"] is None else data["steal"],
                paths={path: Histogram.from_text(t) for path, t in data["paths"].items()},
                percentiles_ms={float(p): ms for p, ms in data["percentiles_ms"].items()},
                counted=Histogram.from_text(data["histogram"]),
                # Each second stands for all sources, so that it is covered but once.
                ticks=tuple(Tick(b, b + (e - b) * sources, Counter(errors),
                                 Histogram.from_text(found))
                            for b, e, errors, found in data["seconds"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no load run: {error!r}") from None

    def __repr__(self) -> str:
        notes = f", {self.failures:,} FAILED {dict(self.errors)}" if self.failures else ""
        if not self.complete:
            notes += f", ended early: {self.ended}"
        if self.generator_bound:
            notes += ", generator-bound"
        if self.succeeded:
            notes = (f", p50 {self.latency_ms(50):.3g} ms, p99 {self.latency_ms(99):.3g} ms"
                     + notes)
        return (f"<LoadRun {self.qps:,.0f} requests/s, {self.requests:,} requests, {self.users} "
                f"users, {'keep-alive' if self.keep_alive else 'new connections'}{notes}>")


def _or_none(value: float) -> float | None:
    """Not a number is not JSON: what is not known is null."""
    return None if value != value else value


def run_load(
    target: HasUrl | str,
    path: str | None = None,
    *,
    users: int | None = None,
    requests: int | None = None,
    duration: float | None = None,
    keep_alive: bool | None = None,
    driver: str = "locust",
    processes: int | None = None,
    timeout: float | None = None,
    expect_status: int | None = None,
    expect_length: int | None = None,
    warmup_requests: int | None = None,
    warmup_seconds: float | None = None,
    time_limit: float | None = None,
    profile: LoadProfile | None = None,
    on_progress: Progress | None = None,
    ceiling: float | None = None,
    **more: Any,
) -> LoadRun:
    """Put a load on a server and return what was measured.

    target: a server (anything with a `.url`) or ``http://127.0.0.1:PORT``, or https; loopback only,
        see `target_of`.
    driver: "locust", "ab" or "wrk" (which must be installed). One that cannot do what the profile
        says refuses, naming the fields.
    profile: a LoadProfile to start from; the other arguments change its fields, which are described
        there with their units and ranges (`more` takes those that have no argument here). Without
        one, `requests`, `duration` or `stages` must be given.
    on_progress: called in this thread with (requests done, seconds) while the load runs.
    ceiling: requests/s that the generator was seen to do at best with this load; a run near it is
        marked as bound by the generator.

    Raises ValueError for a bad target, driver or field (ProfileError), all problems at once, and
    for a load that this machine's limits do not allow, before anything starts; LoadError if the
    generator cannot run or dies, LoadInterrupted (a KeyboardInterrupt that carries what was
    measured) on Ctrl-C. A server that fails does not raise: see `failures`, `errors` and `ended` of
    the result.
    """
    given: dict[str, Any] = {
        "path": path, "users": users, "requests": requests, "duration": duration,
        "keep_alive": keep_alive, "processes": processes, "timeout": timeout,
        "expect_status": expect_status, "expect_length": expect_length,
        "warmup_requests": warmup_requests, "warmup_seconds": warmup_seconds,
        "time_limit": time_limit, **more,
    }
    base, load, foreseen = prepared(
        target, {name: value for name, value in given.items() if value is not None}, profile,
        driver)
    run = DRIVERS[driver](base, load, on_progress)
    run.notes = foreseen.notes
    run.ceiling = ceiling
    return run


def prepared(target: HasUrl | str, given: dict[str, Any], profile: LoadProfile | None,
             driver: str) -> tuple[str, LoadProfile, Forecast]:
    """(URL, profile, forecast) of a load, or ProfileError with everything that is wrong with it."""
    problems: list[str] = []
    place = load = None
    url = target if isinstance(target, str) else getattr(target, "url", target)
    try:
        place = target_of(url)
    except ValueError as error:
        problems.append(str(error))
    if driver not in DRIVERS:
        problems.append(f"driver: must be one of {', '.join(DRIVERS)}, not {driver!r}")
    try:
        unknown = sorted(set(given) - {field.name for field in fields(LoadProfile)})
        if profile is None and unknown:
            raise ProfileError(f"{', '.join(unknown)}: no such field in a load profile")
        load = profile.but(**given) if profile is not None else LoadProfile(**given)
    except ProfileError as error:
        problems.append(str(error))
    foreseen = Forecast((), ())
    if load is not None and driver in CANNOT:
        refused = [f"{name}: {why}" for name, why in CANNOT[driver](load)]
        problems += [f"{text}; use driver='locust'" for text in refused]
    if load is not None and load.ca_file is not None:
        try:
            tls.context(load.ca_file, False)
        except OSError as error:  # ssl.SSLError is one
            problems.append(f"ca_file: {load.ca_file}: {error.strerror or error}")
    if load is not None and place is not None:
        foreseen = forecast(load, place, system(), driver)
        problems += foreseen.problems
    if problems or load is None or place is None:
        raise ProfileError("; ".join(problems))
    return place.base, load, foreseen


# -- the generator's process ---------------------------------------------------------------------


class Generator:
    """A child process in a session of its own, which is gone when the `with` block is."""

    def __init__(self, argv: list[str], folder: Path, **how: Any) -> None:
        self.log_path = folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stderr=log, cwd=folder, start_new_session=True,
                **how)
        self.rusage: Any = None

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be
        reused."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_end(self, number: int) -> None:
        """Send a signal to all its processes and wait a moment for them to write what they have."""
        self._signal(number)
        until = time.monotonic() + GRACE
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)

    def log(self) -> str:
        """The end of what it printed on standard error."""
        with open(self.log_path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return file.read().decode(errors="replace").strip()

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def _kill(self) -> None:
        # Also after a regular end: whatever its leader left behind goes with it.
        self._signal(signal.SIGKILL)
        if self.process.returncode is None:
            _, status, self.rusage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)


def _last_words(log: str, lines: int = 3) -> str:
    errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
    said = errors or [line.strip() for line in log.splitlines() if line.strip()]
    return " | ".join(said[-lines:]) if said else "it said nothing"


# -- locust --------------------------------------------------------------------------------------


def _run_locust(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    if importlib.util.find_spec("locust") is None:
        raise LoadError("Locust is not installed for this Python; install it (pip install locust) "
                        "or use driver='ab'")
    with _scratch() as name:
        folder = Path(name)
        try:
            (folder / "profile.json").write_text(profile.to_json())
        except OSError as error:
            raise LoadError(f"cannot write in {name}: {error.strerror}; make room there, or set "
                            f"TMPDIR to another folder") from None
        pressure, told = Pressure(), []
        progress, progress_out = os.pipe()
        life_in, life = os.pipe()
        try:
            # Locust's own environment variables would change a run behind the profile's back.
            environ = {key: value for key, value in os.environ.items()
                       if not key.startswith(("LOCUST_", "MPMKIT_LOAD_"))}
            environ.update(MPMKIT_LOAD_RESULTS=name, MPMKIT_LOAD_PROGRESS_FD=str(progress_out),
                           MPMKIT_LOAD_LIFE_FD=str(life_in))
            how = {"env": environ, "stdout": subprocess.DEVNULL,
                   "pass_fds": (progress_out, life_in)}
            with Generator(_locust_argv(base, profile), folder, **how) as generator:
                os.close(progress_out)
                os.close(life_in)
                progress_out = life_in = -1
                try:
                    stopped = _watch(generator, progress, profile, on_progress, pressure, told)
                except KeyboardInterrupt:
                    generator.ask_to_end(signal.SIGTERM)
                    told += _left(progress)
                    raise LoadInterrupted(_gather(folder, base, profile, told)) from None
                except BaseException:
                    generator.ask_to_end(signal.SIGTERM)
                    raise
                if stopped:
                    generator.ask_to_end(signal.SIGTERM)
            told += _left(progress)
            run = _gather(folder, base, profile, told)
            if run is None:
                raise LoadError(
                    f"Locust ended with exit code {generator.process.returncode} and no result: "
                    f"{_last_words(generator.log())}", generator.log())
            if stopped:
                run.ended = stopped
            run.run_queue, run.steal = pressure.run_queue, pressure.steal
            return run
        finally:
            for fd in (progress, progress_out, life_in, life):
                if fd >= 0:
                    os.close(fd)


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
            "--loglevel", "WARNING", "--json-file", "locust",  # else it prints its tables
            "--host", base, "--load-profile", "@profile.json",
            # All users at once, unless a ramp is wanted: it would be part of what is measured.
            "--users", str(profile.clients),
            "--spawn-rate", f"{profile.clients / profile.ramp if profile.ramp else profile.clients}"]
    if profile.stages:
        argv += ["--stop-timeout", "5"]  # users that go may end their request first
    if profile.processes > 1:
        # Locust's default is every address of the machine and one fixed port for all runs on it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        argv += ["--processes", str(profile.processes),
                 "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
                 "--master-host", "127.0.0.1", "--master-port", port]
    return argv


def _scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="mpmkit-load-")
    except OSError as error:
        raise LoadError(f"cannot make a folder in {tempfile.gettempdir()}: {error.strerror}; set "
                        f"TMPDIR to another one") from None


def _left(progress: int) -> list[dict[str, Any]]:
    """Results that came through the pipe because the disk was full, and were not read yet."""
    data = b""
    while select.select([progress], [], [], 0)[0]:
        more = os.read(progress, 65_536)
        if not more:
            break
        data += more
    found = []
    for line in data.split(b"\n"):
        if line.startswith(b"= "):
            try:
                found.append(json.loads(line[2:]))
            except ValueError:
                pass  # its writer was killed over it
    return found


def _watch(generator: Generator, progress: int, profile: LoadProfile,
           on_progress: Progress | None, pressure: Pressure, told: list[dict[str, Any]]) -> str:
    """Wait for the generator's end and hand on its progress. Why it had to be stopped, or ""."""
    until = time.monotonic() + profile.time_limit + STARTUP
    done: dict[bytes, tuple[int, int]] = {}
    rest = b""
    while not generator.ended():
        if time.monotonic() > until:
            return f"time limit of {profile.time_limit:g} s (the generator did not end by itself)"
        # Reads as ended when the generator's last process is gone, so this also waits for that.
        if not select.select([progress], [], [], 0.1)[0]:
            continue
        data = os.read(progress, 65_536)
        if not data:
            time.sleep(0.005)
            continue
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            pressure.sample()
        for line in lines:
            if line.startswith(b"= "):
                told.append(json.loads(line[2:]))
                continue
            pid, count, ns = line.split()
            done[pid] = int(count), int(ns)
        if on_progress is not None and done and lines:
            on_progress(sum(count for count, _ in done.values()),
                        max(ns for _, ns in done.values()) / 1e9)
    return ""


def _gather(folder: Path, base: str, profile: LoadProfile,
            told: Iterable[dict[str, Any]] = ()) -> LoadRun | None:
    """Merge what the generator's processes wrote. None if none did."""
    parts = [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*.json"))]
    for part in parts:
        for name, suffix, code in (("raw", "ns", "q"), ("which", "which", "B"), ("lags", "lag", "q")):
            part[name] = array.array(code)
            part[name].frombytes((folder / f"{part['pid']}.{suffix}").read_bytes())
    return merged([*parts, *told], base, profile, profile.processes)


def merged(parts: list[dict[str, Any]], base: str, profile: LoadProfile,
           expected: int) -> LoadRun | None:
    """One run out of what `expected` generator processes measured (`State.result`), here or on
    other machines. None if nothing came."""
    if not parts:
        return None
    # On one machine the monotonic clock is the same for all; between machines, only the time is.
    same = len({part["boot"] for part in parts}) == 1

    def at(part: dict[str, Any], ns: int) -> float:
        return ns / 1e9 if same else part["started_at"] + (ns - part["started_ns"]) / 1e9

    started = [part for part in parts if part["started_ns"]]
    began = min((at(part, part["started_ns"]) for part in started), default=0.0)
    last = max((at(part, part["last_end_ns"]) for part in started if part["last_end_ns"]),
               default=began)
    latencies = array.array("q")
    errors: Counter[str] = Counter()
    background: Counter[str] = Counter()
    counted, lag = Histogram(), Histogram()
    paths: dict[str, Histogram] = {}
    timeline: list[tuple[float, str, int]] = []
    ticks: list[Tick] = []
    all_raw = all("raw" in part for part in parts)
    for part in parts:
        errors.update(part["failures"])
        background.update(part["background"])
        raw = part.get("raw")
        if raw is None:
            counted.merge(Histogram.from_text(part["histogram"]))
            lag.merge(Histogram.from_text(part["lag"]))
            for path, text in part["paths"].items():
                paths.setdefault(path, Histogram()).merge(Histogram.from_text(text))
        else:
            if not all_raw:
                counted.record(raw)
            lag.record(part["lags"])
            if part["which"]:
                for number, path in enumerate(part["asks"]):
                    paths.setdefault(path, Histogram()).record(
                        [ns for ns, which in zip(raw, part["which"], strict=False)
                         if which == number])
        offset = at(part, part["started_ns"]) - began if part["started_ns"] else 0.0
        base_index, ok_before, before = len(latencies), 0, 0.0
        failed_before: Counter[str] = Counter()
        seconds = {int(n): Histogram.from_text(text) for n, text in
                   part.get("seconds", {}).items()} if raw is None else {}
        for ns, done, ok, failed in part["timeline"]:
            end = ns / 1e9
            timeline.append((offset + end, part["place"], done))
            # The histogram of a whole second stands with the first of its ticks.
            found = (seconds.pop(ns // 1_000_000_000, Histogram()) if raw is None else
                     (base_index + ok_before, base_index + ok))
            ticks.append(Tick(offset + before, offset + end, Counter(failed) - failed_before,
                              found))
            ok_before, before, failed_before = ok, end, Counter(failed)
        if raw is not None and all_raw:
            latencies += raw
    counts: dict[str, int] = {}
    summed = []
    for when, place, done in sorted(timeline):
        counts[place] = done
        summed.append((when, sum(counts.values())))
    reasons = [part["ended"] for part in parts]
    unusual = [reason for reason in reasons if reason not in ("requests", "duration")]
    if len(parts) < expected:
        unusual.append(f"{expected - len(parts)} of {expected} generator processes died")
    succeeded = len(latencies) if all_raw else len(counted)
    return LoadRun(
        driver="locust", target=base, profile=profile,
        requests=succeeded + errors.total(), errors=errors, duration=max(0.0, last - began),
        latencies_ns=latencies, counted=None if all_raw else counted,
        processes_cpu=tuple(
            min(1.0, (part["cpu_user"] + part["cpu_system"])
                / max(1e-9, (part["finished_ns"] - part["started_ns"]) / 1e9)) for part in started),
        processes_wait=tuple(min(1.0, part["run_queue_wait"]) for part in started),
        retries=sum(part["retries"] for part in parts),
        reconnects=sum(part["reconnects"] for part in parts),
        ended=unusual[0] if unusual else reasons[0],
        started_at=min((part["started_at"] for part in started), default=time.time()),
        timeline=tuple(summed), version=parts[0]["locust"], background=background,
        connections=sum(part["connections"] for part in parts), lag=lag,
        late=sum(part["late"] for part in parts), paths=paths, ticks=tuple(ticks))


# -- ab ------------------------------------------------------------------------------------------


def _only_locust(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    """(field, why) of everything that neither ab nor wrk has."""
    for name, why in (
        ("mix", "asks for one path"), ("stages", "has one load from begin to end"),
        ("arrival", "is a closed loop"), ("think_time", "never pauses"),
        ("requests_per_connection", "leaves closing to the server"),
        ("ramp", "starts all clients at once"), ("slow_readers", "has no other clients"),
        ("idle_holders", "has no other clients"), ("expect_body", "does not look at bodies"),
        ("ca_file", "checks no certificate"), ("events", "has no events"),
    ):
        if getattr(profile, name) != LoadProfile.__dataclass_fields__[name].default:
            yield name, why
    if 0 < profile.keep_share < 1:
        yield "keep_alive", "keeps all connections or none"


def _ab_cannot(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    for name, why in _only_locust(profile):
        yield name, f"ab {why}"
    if profile.processes != 1:
        yield "processes", "ab is one process"
    if not 200 <= profile.expect_status < 300:
        yield "expect_status", "ab only tells 2xx from the rest"
    if (profile.requests or profile.users) < profile.users:
        yield "requests", "ab wants at least one request per user"


def _wrk_cannot(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    for name, why in _only_locust(profile):
        yield name, f"wrk {why}"
    if profile.requests is not None:
        yield "requests", "wrk stops by time only, give duration"
    if profile.warmup_requests:
        yield "warmup_requests", "wrk stops by time only, give warmup_seconds"
    if profile.expect_status >= 400:
        yield "expect_status", "wrk counts every answer from 400 on as failed"
    if profile.expect_length is not None:
        yield "expect_length", "wrk does not look at bodies"


CANNOT: dict[str, Callable[[LoadProfile], Iterable[tuple[str, str]]]] = {
    "ab": _ab_cannot,
    "wrk": _wrk_cannot,
}
"""What a driver cannot do of a profile: (field, why)."""


def _run_ab(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    """The same load by ab: one process, HTTP/1.0 (also with keep-alive), times in microseconds, and
    percentiles instead of single latencies."""
    program = shutil.which("ab")
    if program is None:
        raise LoadError("ab is not installed; install it (Debian, Ubuntu: apt-get install "
                        "apache2-utils) or use driver='locust'")
    with _scratch() as name:
        folder = Path(name)
        if profile.warmup_requests:
            warm = max(profile.users, profile.warmup_requests)
            _ab(program, base, profile.but(requests=warm, duration=None), folder, None)
        if profile.warmup_seconds:
            _ab(program, base, profile.but(requests=None, duration=profile.warmup_seconds),
                folder, None)
        return _ab(program, base, profile, folder, on_progress)


def _ab(program: str, base: str, profile: LoadProfile, folder: Path,
        on_progress: Progress | None) -> LoadRun:
    csv_path, out_path = folder / "percentiles.csv", folder / "out"
    csv_path.unlink(missing_ok=True)
    argv = [program, "-r", "-c", str(profile.users), "-s", str(math.ceil(profile.timeout)),
            "-e", str(csv_path)]
    if profile.duration is not None:
        argv += ["-t", str(math.ceil(profile.duration))]  # sets -n, so -n must follow it
    argv += ["-n", str(profile.requests or 5_000_000)]
    if profile.keep_alive:
        argv.append("-k")
    if profile.method == "HEAD":
        argv.append("-i")
    pressure = Pressure()
    if profile.method == "POST":
        (folder / "body").write_text(profile.body)
        argv += ["-p", str(folder / "body")]
    for header in profile.headers:
        argv += ["-H", ": ".join(header)]
    argv.append(base + profile.path)
    started_at, began = time.time(), time.monotonic()
    interrupted = stopped = ""
    told = 0
    with open(out_path, "wb") as out:
        with Generator(argv, folder, stdout=out) as generator:
            try:
                until = began + profile.time_limit
                while not generator.ended():
                    time.sleep(0.02)
                    pressure.sample()
                    if time.monotonic() > until:
                        stopped = f"time limit of {profile.time_limit:g} s"
                        generator.ask_to_end(signal.SIGINT)  # on which ab prints what it has
                        break
                    if on_progress is not None:
                        said = re.findall(r"Completed (\d+) requests", generator.log())
                        if said and int(said[-1]) != told:
                            told = int(said[-1])
                            on_progress(told, time.monotonic() - began)
            except KeyboardInterrupt:
                interrupted = "interrupted"
                generator.ask_to_end(signal.SIGINT)
    text = out_path.read_text(errors="replace")
    run = parse_ab(text, csv_path.read_text() if csv_path.exists() else "", base, profile)
    if run is not None:
        usage = generator.rusage
        run.started_at = started_at
        run.run_queue, run.steal = pressure.run_queue, pressure.steal
        if usage is not None and run.duration > 0:
            run.processes_cpu = (min(1.0, (usage.ru_utime + usage.ru_stime) / run.duration),)
        run.ended = interrupted or stopped or run.ended
        if on_progress is not None and not interrupted:
            on_progress(run.requests, run.duration)
    if interrupted:
        raise LoadInterrupted(run)
    if run is None:
        raise LoadError(f"ab ended with exit code {generator.process.returncode} and no result: "
                        f"{_last_words(generator.log(), 1)}", generator.log())
    return run


def parse_ab(text: str, csv_text: str, base: str, profile: LoadProfile) -> LoadRun | None:
    """A LoadRun from what ab printed and its file of percentiles (-e). None if it printed no
    result.

    ab counts an answer whose length differs from the first one's as failed, and counts answers that
    are not 2xx apart; those usually have another length too, so they are not counted twice here.
    What went wrong with a connection it does not tell: "connect", "receive" and "exception" are its
    own words.
    """
    def number(label: str) -> float | None:
        match = re.search(rf"^{label}:\s+([\d.]+)", text, re.MULTILINE)
        return float(match[1]) if match else None

    requests, rate = number("Complete requests"), number("Requests per second")
    if not requests or not rate:
        return None
    errors: Counter[str] = Counter()
    split = re.search(r"\(Connect: (\d+), Receive: (\d+), Length: (\d+), Exceptions: (\d+)\)", text)
    connect, receive, length, exceptions = map(int, split.groups()) if split else (0, 0, 0, 0)
    not_2xx = int(number("Non-2xx responses") or 0)
    expected = profile.expect_length
    if expected is not None and int(number("Document Length") or 0) != expected:
        # All that agreed with the first answer disagree with what was expected.
        length = int(requests) - length
    left = int(requests)
    for kind, count in (("status", not_2xx), ("length", length - not_2xx), ("connect", connect),
                        ("receive", receive), ("exception", exceptions)):
        # A refused connection counts as several failures with ab, but it is one request.
        if (count := min(left, count)) > 0:
            errors[kind] = count
            left -= count
    table: dict[float, float] = {}
    for line in csv_text.splitlines()[1:]:
        percent, _, ms = line.partition(",")
        try:
            table[float(percent)] = float(ms)
        except ValueError:
            continue
    longest = re.search(r"^\s*100%\s+(\d+)", text, re.MULTILINE)
    if longest:
        table.setdefault(100.0, float(longest[1]))
    version = re.search(r"ApacheBench, Version ([\d.]+)", text)
    return LoadRun(
        driver="ab", target=base, profile=profile, requests=int(requests), errors=errors,
        duration=requests / rate, percentiles_ms=table if left else {},
        ended="requests" if requests == profile.requests else "duration",
        version=version[1] if version else "")


# -- wrk -----------------------------------------------------------------------------------------

WRK_SCRIPT = """\
-- Written by mpmkit.load.drive.
wrk.method = %(method)s
wrk.body = %(body)s
%(headers)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("MPMKIT %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests,
    summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
  for _, p in ipairs({%(steps)s}) do
    io.write(string.format("MPMKIT-P %%g %%d\\n", p, latency:percentile(p)))
  end
  io.write(string.format("MPMKIT-P 100 %%d\\n", latency.max))
end
"""

WRK_STEPS = (1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)


def _lua(text: str) -> str:
    """A Lua string of any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def _run_wrk(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    """The same load by wrk: HTTP/1.1, one thread per process asked for, by time only. Latency is
    from the sending of a request to the end of its answer; connecting is not part of it."""
    program = shutil.which("wrk")
    if program is None:
        raise LoadError("wrk is not installed; install it (Debian, Ubuntu: apt-get install wrk) "
                        "or use driver='locust'")
    with _scratch() as name:
        folder = Path(name)
        headers = list(profile.headers)
        if not profile.keep_alive:
            headers.append(("Connection", "close"))
        (folder / "script.lua").write_text(WRK_SCRIPT % {
            "method": _lua(profile.method),
            "body": _lua(profile.body) if profile.method == "POST" else "nil",
            "headers": "\n".join(f"wrk.headers[{_lua(name)}] = {_lua(value)}"
                                 for name, value in headers),
            "steps": ", ".join(map(str, WRK_STEPS)),
        })
        if profile.warmup_seconds:
            _wrk(program, base, profile.but(duration=profile.warmup_seconds), folder, None)
        return _wrk(program, base, profile, folder, on_progress)


def _wrk(program: str, base: str, profile: LoadProfile, folder: Path,
         on_progress: Progress | None) -> LoadRun:
    seconds = max(1, round(profile.duration or 1))  # wrk takes whole seconds only
    argv = [program, f"-t{profile.processes}", f"-c{profile.users}", f"-d{seconds}s",
            "--timeout", f"{math.ceil(profile.timeout)}s", "-s", str(folder / "script.lua"),
            base + profile.path]
    started_at, began = time.time(), time.monotonic()
    interrupted = stopped = ""
    pressure = Pressure()
    out_path = folder / "out"
    with open(out_path, "wb") as out, Generator(argv, folder, stdout=out) as generator:
        try:
            while not generator.ended():
                time.sleep(0.02)
                pressure.sample()
                passed = time.monotonic() - began
                if passed > min(profile.time_limit, seconds + STARTUP):
                    stopped = f"time limit of {profile.time_limit:g} s"
                    generator.ask_to_end(signal.SIGINT)
                    break
                if on_progress is not None and int(passed / 0.25) != int((passed - 0.02) / 0.25):
                    on_progress(0, passed)  # wrk counts to itself until its end
        except KeyboardInterrupt:
            interrupted = "interrupted"
            generator.ask_to_end(signal.SIGINT)
    run = parse_wrk(out_path.read_text(errors="replace"), base, profile)
    if run is not None:
        usage = generator.rusage
        run.started_at = started_at
        run.run_queue, run.steal = pressure.run_queue, pressure.steal
        if usage is not None and run.duration > 0:
            used = (usage.ru_utime + usage.ru_stime) / run.duration / profile.processes
            run.processes_cpu = (min(1.0, used),) * profile.processes
        run.ended = interrupted or stopped or run.ended
        if on_progress is not None and not interrupted:
            on_progress(run.requests, run.duration)
    if interrupted:
        raise LoadInterrupted(run)
    if run is None:
        said = generator.log() + "\n" + out_path.read_text(errors="replace")
        raise LoadError(f"wrk ended with exit code {generator.process.returncode} and no result: "
                        f"{_last_words(said.strip(), 1)}", said)
    return run


def parse_wrk(text: str, base: str, profile: LoadProfile) -> LoadRun | None:
    """A LoadRun from the lines that our script had wrk print. None if they are not there.

    wrk counts a read error for a connection that ended between two answers as well as within one;
    the first kind loses no request, and it does not tell them apart: they stand as reconnects.
    """
    match = re.search(r"^MPMKIT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
    if not match:
        return None
    requests, micros, connect, read, write, status, timeout = map(int, match.groups())
    errors = Counter({kind: count for kind, count in (
        ("connect", connect), ("reset", write), ("status", status), ("timeout", timeout)) if count})
    version = re.search(r"^wrk (\S+)", text, re.MULTILINE)
    table = {float(p): int(us) / 1e3 for p, us in
             re.findall(r"^MPMKIT-P ([\d.]+) (\d+)$", text, re.MULTILINE)}
    return LoadRun(
        driver="wrk", target=base, profile=profile,
        # Only answers are requests to wrk; what failed without one is added.
        requests=requests + connect + write + timeout, errors=errors, duration=micros / 1e6,
        reconnects=read, percentiles_ms=table if requests > status else {}, ended="duration",
        version=version[1] if version else "")


DRIVERS: dict[str, Callable[[str, LoadProfile, Progress | None], LoadRun]] = {
    "locust": _run_locust,
    "ab": _run_ab,
    "wrk": _run_wrk,
}
