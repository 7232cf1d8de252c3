"""What a load measured, as a whole and by time.

Some four times a second each generator process reports its results since its last report. `Collector` adds up
those of all processes, on one machine or several. So one that dies loses only a quarter of a second.
"""

import array
import bisect
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from mpmkit.load.histogram import Histogram, unpack
from mpmkit.load.profile import LoadProfile
from mpmkit.measure.stats import knee

# Share of a core from which on a generator process is taken to have limited the run: it hardly ever waits for an
# answer, so a faster server would not have shown as one.
GENERATOR_LIMIT = 0.9
USUAL = ("requests", "duration")  # ends of a run that its profile set
SHOWN_PATHS = 12  # in the summary; a replayed log has hundreds

# Of a row: what a run has by the same name, and percentiles.
COLUMNS = (
    *("started_at", "path", "users", "requests", "failures", "qps", "mean_ms", "generator_cpu"),
    *("generator_wait", "run_queue", "generator_bound", "retries", "reconnects", "ended"),
)
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "p9999": 99.99, "max": 100}


class Tick(NamedTuple):
    """What one generator process got from one report to the next. values: latencies of good answers in ns.
    begin, end: seconds since `origin`, which is the time.monotonic() of its machine."""

    begin: float
    end: float
    failures: Counter[str]
    values: Sequence[int]
    origin: float = 0.0


OnTick = Callable[[Tick], None]
"""Called with what one generator process got in the last quarter of a second."""


class Outcome:
    """Results of `duration` seconds: `errors` by kind (docs/LOAD.md), good answers' latencies in `histogram`."""

    duration: float
    errors: Counter[str]
    histogram: Histogram

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return self.errors.total()

    @property
    def succeeded(self) -> int:
        """Requests with a good answer."""
        return len(self.histogram)

    @property
    def requests(self) -> int:
        """Those that ended, well or badly (the warm-up's do not count)."""
        return self.succeeded + self.failures

    @property
    def qps(self) -> float:
        """Good answers per second; 0 if there was none."""
        return self.succeeded / self.duration if self.duration > 0 else 0.0

    def latency_ms(self, percentile: float = 50) -> float:
        """The latency in ms that `percentile` (0 to 100) percent of the good answers did not
        exceed, to within 0.1%; nan if there was none. Raises ValueError outside 0 to 100."""
        return self.histogram.percentile(percentile) / 1e6

    def __str__(self) -> str:
        failed = f", {self.failures:,} failed" if self.errors else ""
        p50, p99 = self.latency_ms(50), self.latency_ms(99)
        return f"{self.qps:,.0f} requests/s, p50 {p50:.3g} ms, p99 {p99:.3g} ms{failed}"


@dataclass
class Window(Outcome):
    """A second of a run, or a stage. begin, end: seconds from the first request that counts. load: users (closed
    loop) or requests/s (open loop) due at its end. duration: seconds of it that the processes reported on."""

    begin: float
    end: float
    load: float = 0.0
    duration: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    histogram: Histogram = field(default_factory=Histogram)


def windows(
    ticks: Iterable[Tick], edges: Sequence[float], level: Callable[[float], float], sources: int
) -> list[Window]:
    """What fell between each two edges (seconds). A tick belongs to where its middle lies. level: users or rate
    that are due at a time. sources: how many processes the ticks came from."""
    made = [Window(begin, end, level(end - 1e-9)) for begin, end in itertools.pairwise(edges)]
    for tick in ticks:
        number = bisect.bisect(edges, (tick.begin + tick.end) / 2) - 1
        if 0 <= number < len(made):
            window = made[number]
            window.duration += (tick.end - tick.begin) / sources
            window.errors.update(tick.failures)
            window.histogram.record(tick.values)
    return made


@dataclass(repr=False)
class LoadRun(Outcome):
    """What one load measured.

    target, profile: the server, and the executed load.
    duration: seconds from the first request's start to the last one's end.
    ticks: reports during the run. paths: for a mix, the latencies of each path's good answers.
    processes_cpu, processes_wait: shares of the time (0 to 1) for which each generator process ran, and for which
        it was ready but waited for a CPU.
    run_queue: tasks ready to run per CPU, on average, from /proc/stat; 1: every CPU had just one.
    retries: requests sent again because the server was closing the kept connection.
    reconnects: kept connections that the server closed after an announced last answer.
    ended: why: "requests", "duration", "interrupted", "time limit of ...", "gave up: ...", "1 of 2 generator
        processes died ...".
    background: results of idle holders, like {"idle opened": 500}. connections: number opened, including theirs.
    lag: open loop: ns from due to sent, for every request sent. late: those over 1 ms.
    """

    target: str
    profile: LoadProfile
    duration: float
    ticks: tuple[Tick, ...] = ()
    processes_cpu: tuple[float, ...] = ()
    retries: int = 0
    reconnects: int = 0
    ended: str = "requests"
    started_at: float = 0.0
    version: str = ""
    background: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    lag: Histogram = field(default_factory=Histogram)
    late: int = 0
    paths: dict[str, Histogram] = field(default_factory=dict)
    run_queue: float = math.nan
    processes_wait: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.errors = sum((tick.failures for tick in self.ticks), Counter())
        self.histogram = Histogram()
        for tick in self.ticks:
            self.histogram.record(tick.values)

    @property
    def users(self) -> int:
        """Concurrent clients."""
        return self.profile.users

    @property
    def path(self) -> str:
        """What was requested."""
        mix = self.profile.mix
        return f"a mix of {len(mix)}: {mix[0].path} ..." if mix else self.profile.path

    @property
    def complete(self) -> bool:
        """Whether the run reached the end set by its profile."""
        return self.ended in USUAL

    @property
    def generator_cpu(self) -> float:
        """Share of a core that a generator process used, on average; nan if not known."""
        return fmean(self.processes_cpu or [math.nan])

    @property
    def generator_wait(self) -> float:
        """Share of the time for which a generator process waited for a CPU, on average, or nan."""
        return fmean(self.processes_wait or [math.nan])

    @property
    def generator_bound(self) -> bool:
        """True if a generator process was as busy as a core allows: then `qps` is its limit."""
        return any(cpu > GENERATOR_LIMIT for cpu in self.processes_cpu)

    @property
    def generator_starved(self) -> bool:
        """True if a generator process always had work and had to wait for a CPU: the machine was the limit."""
        used = zip(self.processes_cpu, self.processes_wait, strict=False)
        return not self.generator_bound and any(sum(one) > GENERATOR_LIMIT for one in used)

    def _windows(self, edges: Sequence[float]) -> list[Window]:
        return windows(self.ticks, edges, self.profile.level_at, max(1, len(self.processes_cpu)))

    @cached_property
    def seconds(self) -> list[Window]:
        """The run second by second."""
        last = max((tick.end for tick in self.ticks), default=0.0)
        found = self._windows(list(map(float, range(math.ceil(last) + 1))))
        while found and not found[-1].requests:
            found.pop()
        return found

    @cached_property
    def stages(self) -> list[Window]:
        """The run by the stages of its profile; empty if it has none."""
        lengths = (stage.seconds for stage in self.profile.stages)
        return self._windows(list(itertools.accumulate(lengths, initial=0.0)))

    @property
    def knee(self) -> Window | None:
        """The stage beyond which more load gains little (`measure.stats.knee`); None if the
        stages do not reach it, or are fewer than three."""
        load = knee([one.load for one in self.stages], [one.qps for one in self.stages])
        return next((one for one in self.stages if one.load == load), None)

    @property
    def mean_ms(self) -> float:
        """Mean latency of the good answers in ms, or nan."""
        return self.histogram.mean / 1e6

    def row(self) -> dict[str, Any]:
        """The run as one tidy row; the columns are described in data/README.md."""
        profile, starved = self.profile, self.generator_starved if self.processes_wait else None
        return {
            **{name: getattr(self, name) for name in COLUMNS},
            **{f"{name}_ms": self.latency_ms(percent) for name, percent in PERCENTILES.items()},
            "keep_alive": profile.keep_alive, "driver": "locust", "driver_version": self.version,
            "method": profile.specs[0].method, "processes": profile.processes,
            "errors": json.dumps(dict(sorted(self.errors.items()))), "duration_s": self.duration,
            "generator_starved": starved, "seed": profile.seed,
        }  # fmt: skip

    def summary(self, end: str = "\n") -> str:
        """A few lines for people."""
        return end.join(self._lines())

    def _lines(self) -> Iterator[str]:
        profile = self.profile
        way = "keep-alive" if profile.keep_alive else "new connection each"
        if profile.open_loop:
            rate = "stages" if profile.stages else f"{profile.rate:,g}/s"
            way += ", at planned times" if profile.plan else f", {profile.arrival} arrivals, {rate}"
            way += f" (seed {profile.seed})" * (profile.arrival == "poisson")
        yield f"{profile.specs[0].method} {self.path}, {self.users} users, {way}"
        yield f"{self.qps:,.0f} requests/s: {self.succeeded:,} good answers in {self.duration:.2f} s"
        if self.succeeded:
            far = [p for p in (99.9, 99.99) if self.succeeded >= 1 / (1 - p / 100) - 1e-6]
            tail = "".join(f"p{p:g} {self.latency_ms(p):.3g}, " for p in (50, 99, *far))
            yield f"latency ms: {tail}max {self.latency_ms(100):.3g}"
        for path, found in itertools.islice(self.paths.items(), SHOWN_PATHS):
            p50, p99 = (found.percentile(percent) / 1e6 for percent in (50, 99))
            yield f"  {path}: {len(found):,} good answers, p50 {p50:.3g}, p99 {p99:.3g}"
        what = "requests/s due" if profile.open_loop else "users"
        for one in self.stages:
            yield f"  {one.begin:g} to {one.end:g} s, {one.load:,.0f} {what}: {one}"
        if knee := self.knee:
            yield f"  the knee is at {knee.load:,.0f} {what}: beyond it more load gains little"
        if profile.open_loop and self.duration > 0:
            yield f"{self.requests:,} were due: {self.requests / self.duration:,.0f}/s"
        if self.late:
            after = "more than 1 ms after they were due; their latency counts from then"
            yield f"{self.late:,} of {len(self.lag):,} requests were sent {after}"
        if self.background:
            yield f"background: {_listed(sorted(self.background.items()))}"
        if self.failures:
            failed = f"{self.failures:,} of {self.requests:,} requests failed"
            yield f"{failed}: {_listed(self.errors.most_common())}"
        if profile.plan and (early := self.retries + self.reconnects):
            closed = f"{early:,} times the server closed a connection that the plan kept"
            yield f"{closed}; what was still to be sent went on a new one"
        elif self.retries:
            yield f"{self.retries:,} requests met the server's close and were sent again"
        if not self.complete:
            yield f"the run ended early: {self.ended}"
        note = " - it was the bottleneck, the server may be faster" * self.generator_bound
        if self.generator_starved:
            note = " - it always had to wait for a CPU: the machine is the limit"
        if self.processes_cpu:
            yield f"generator: {self.generator_cpu:.0%} of a core per process{note}"
        if not math.isnan(self.run_queue):
            yield f"machine: {self.run_queue:.1f} tasks ready to run per CPU"

    def to_json(self) -> str:
        """The run as JSON: its profile and row, and its histograms, whole, by path, by second and by stage."""
        names = ("target", "background", "histogram", "lag", "paths")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain |= {"profile": asdict(self.profile), "row": known(self.row())}
        plain |= {"seconds": list(map(vars, self.seconds)), "stages": list(map(vars, self.stages))}
        return json.dumps(plain, default=Histogram.to_json)

    def __repr__(self) -> str:
        return f"<LoadRun {self.summary('; ')}>"


def known(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no NaN: what is not known is None."""
    return {name: None if value != value else value for name, value in row.items()}


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts)


class Collector:
    """The sum of the reports of `expected` generator processes."""

    def __init__(self, target: str, profile: LoadProfile, expected: int) -> None:
        self.target, self.profile, self.expected = target, profile, expected
        self.last: dict[str, dict[str, Any]] = {}  # by process
        self.ticks: list[tuple[float, Tick]] = []  # with the time at which its process began
        self.lag, self.paths = Histogram(), defaultdict[str, Histogram](Histogram)
        self.background: Counter[str] = Counter()
        self.requests, self.seconds = 0, 0.0

    def add(self, report: dict[str, Any]) -> Tick | None:
        """One report; what is new in it, with its time in the process's own seconds. The last report of all is
        {"background": ...}, what background clients got."""
        if "background" in report:
            self.background = Counter(report["background"])
            return None
        failures, found = Counter(report["failures"]), array.array("q")
        for path, text in report["paths"].items():
            part = unpack(text)
            found += part
            if self.profile.mix:
                self.paths[path].record(part)
        self.lag.record(unpack(report["lag"]))
        begin = self.last.get(report["process"], {"end": 0.0})["end"]
        tick = Tick(begin, report["end"], failures, found, report["origin"])
        self.ticks.append((report["started_at"], tick))
        self.last[report["process"]] = report
        self.requests += len(found) + failures.total()
        self.seconds = max(self.seconds, report["end"])
        return tick

    def run(self, why: str = "") -> LoadRun | None:
        """The result until now, if a process has reported. why: what ended the run, where they cannot say it."""
        parts = list(self.last.values())
        if not parts:
            return None
        started = [part for part in parts if part["started_at"]]
        began = min((part["started_at"] for part in started), default=0.0)
        last = max((part["started_at"] + part["last_end"] for part in started), default=began)
        names = ("late", "retries", "reconnects", "connections")
        total = {name: sum(part[name] for part in parts) for name in names}
        total["connections"] += self.background["idle opened"]
        shifts = ((tick, at - began) for at, tick in self.ticks)
        ticks = (tick._replace(begin=tick.begin + by, end=tick.end + by) for tick, by in shifts)
        cpu, wait = (tuple(part[name] for part in started) for name in ("cpu", "wait"))
        reasons = [part["ended"] for part in parts if part["ended"]]
        reasons.sort(key=USUAL.__contains__)  # unusual ones first
        missing = self.expected - len(reasons)
        if missing and not set(reasons) - set(USUAL):
            lost = ", ".join(part["process"] for part in parts if not part["ended"])
            died = f"{missing} of {self.expected} generator processes died" + (
                lost and f" ({lost})"
            )
            reasons = [why or f"{died}; what they did last is lost"]
        return LoadRun(
            self.target, self.profile, max(0.0, last - began), tuple(ticks), started_at=began,
            processes_cpu=cpu, processes_wait=wait, paths=self.paths, lag=self.lag, background=self.background,
            ended=reasons[0], version=parts[0]["version"], **total,
        )  # fmt: skip
