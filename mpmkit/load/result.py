"""What a load measured. Imports neither locust nor gevent."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from mpmkit.load.histogram import Histogram
from mpmkit.load.profile import LoadProfile
from mpmkit.load.windows import Outcome, Tick, Window, windows
from mpmkit.measure.stats import knee

# Share of a core from which on a generator process is taken to be what limited the run: it hardly ever waits
# for an answer, so a faster server would not have shown as one.
GENERATOR_LIMIT = 0.9

SHOWN_PATHS = 12  # in the summary; a replayed log has hundreds

# Of a row: what a run has by the same name, and percentiles.
COLUMNS = (
    *("started_at", "path", "users", "requests", "failures", "qps", "mean_ms", "generator_cpu"),
    *("generator_wait", "run_queue", "generator_bound", "retries", "reconnects", "ended"),
)
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "p9999": 99.99, "max": 100}


@dataclass(repr=False)
class LoadRun(Outcome):
    """What one load measured.

    target, profile: the server, and the executed load.
    duration: seconds from the first request's start to the last one's end.
    ticks: reports during the run. paths: for a mix, the latencies of each path's good answers.
    processes_cpu, processes_wait: shares of the time (0 to 1) for which each generator process ran, and for which
        it was ready but waited for a CPU. run_queue: tasks ready to run per CPU,
        on average, from readings of /proc/stat; 1: every CPU had just one.
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
            self.histogram.merge(tick.latencies)

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
        return self.ended in ("requests", "duration")

    @property
    def generator_cpu(self) -> float:
        """Share of a core that a generator process used, on average; nan if not known."""
        return _mean(self.processes_cpu)

    @property
    def generator_wait(self) -> float:
        """Share of the time for which a generator process waited for a CPU, on average, or nan."""
        return _mean(self.processes_wait)

    @property
    def generator_bound(self) -> bool:
        """True if a generator process was as busy as a core allows: then `qps` is its limit, not the
        server's."""
        return any(cpu > GENERATOR_LIMIT for cpu in self.processes_cpu)

    @property
    def generator_starved(self) -> bool:
        """True if a generator process always had work and had to wait for a CPU: the limit was the
        machine that generator and server share."""
        used = zip(self.processes_cpu, self.processes_wait, strict=False)
        return not self.generator_bound and any(sum(one) > GENERATOR_LIMIT for one in used)

    def _windows(self, edges: Sequence[float]) -> list[Window]:
        return windows(self.ticks, edges, self.profile.level_at, max(1, len(self.processes_cpu)))

    @cached_property
    def seconds(self) -> list[Window]:
        """The run second by second."""
        last = max((tick.end for tick in self.ticks), default=0.0)
        found = self._windows([float(n) for n in range(math.ceil(last) + 1)])
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
        return {
            **{name: getattr(self, name) for name in COLUMNS},
            **{f"{name}_ms": self.latency_ms(percent) for name, percent in PERCENTILES.items()},
            "keep_alive": self.profile.keep_alive,
            "driver": "locust",
            "driver_version": self.version,
            "method": self.profile.specs[0].method,
            "processes": self.profile.processes,
            "errors": json.dumps(dict(sorted(self.errors.items()))),
            "duration_s": self.duration,
            "generator_starved": self.generator_starved if self.processes_wait else None,
            "seed": self.profile.seed,
        }

    def summary(self) -> str:
        """A few lines for people."""
        profile = self.profile
        good = f"{self.succeeded:,} good answers in {self.duration:.2f} s"
        lines = [self._requested(), f"{self.qps:,.0f} requests/s: {good}"]
        if self.succeeded:
            far = [p for p in (99.9, 99.99) if self.succeeded >= 1 / (1 - p / 100) - 1e-6]
            tail = "".join(f"p{p:g} {self.latency_ms(p):.3g}, " for p in (50, 99, *far))
            lines.append(f"latency ms: {tail}max {self.latency_ms(100):.3g}")
        for path, found in list(self.paths.items())[:SHOWN_PATHS]:
            p50, p99 = (found.percentile(percent) / 1e6 for percent in (50, 99))
            lines.append(f"  {path}: {len(found):,} good answers, p50 {p50:.3g}, p99 {p99:.3g}")
        what = "requests/s due" if profile.open_loop else "users"
        for one in self.stages:
            lines.append(f"  {one.begin:g} to {one.end:g} s, {one.load:,.0f} {what}: {one}")
        if knee := self.knee:
            beyond = "beyond it more load gains little"
            lines.append(f"  the knee is at {knee.load:,.0f} {what}: {beyond}")
        if profile.open_loop and self.duration > 0:
            lines.append(f"{self.requests:,} were due: {self.requests / self.duration:,.0f}/s")
        if self.late:
            after = "more than 1 ms after they were due; their latency counts from then"
            lines.append(f"{self.late:,} of {len(self.lag):,} requests were sent {after}")
        if self.background:
            lines.append(f"background: {_listed(sorted(self.background.items()))}")
        if self.failures:
            kinds = _listed(self.errors.most_common())
            lines.append(f"{self.failures:,} of {self.requests:,} requests failed: {kinds}")
        if profile.plan and (early := self.retries + self.reconnects):
            lines.append(
                f"{early:,} times the server closed a connection that the plan kept; what was still to be "
                "sent went on a new one"
            )
        elif self.retries:
            lines.append(f"{self.retries:,} requests met the server's close and were sent again")
        if not self.complete:
            lines.append(f"the run ended early: {self.ended}")
        return "\n".join(lines + self._limit_lines())

    def _requested(self) -> str:
        """What was requested, by how many, and in which way."""
        profile = self.profile
        way = "keep-alive" if profile.keep_alive else "new connection each"
        if profile.open_loop:
            rate = "stages" if profile.stages else f"{profile.rate:,g}/s"
            way += ", at planned times" if profile.plan else f", {profile.arrival} arrivals, {rate}"
            way += f" (seed {profile.seed})" * (profile.arrival == "poisson")
        return f"{profile.specs[0].method} {self.path}, {self.users} users, {way}"

    def _limit_lines(self) -> list[str]:
        """How near generator and machine were to their limits."""
        lines, note = [], ""
        if self.generator_bound:
            note = " - it was the bottleneck, the server may be faster"
        elif self.generator_starved:
            note = " - it always had to wait for a CPU: the machine is the limit"
        if self.processes_cpu:
            lines.append(f"generator: {self.generator_cpu:.0%} of a core per process{note}")
        if not math.isnan(self.run_queue):
            lines.append(f"machine: {self.run_queue:.1f} tasks ready to run per CPU")
        return lines

    def to_json(self) -> str:
        """The run as JSON: its profile and row, and its histograms, whole, by path, by second and by stage."""
        names = ("target", "background", "histogram", "lag", "paths")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain |= {"profile": asdict(self.profile), "row": known(self.row())}
        plain |= {
            name: [vars(one) for one in getattr(self, name)] for name in ("seconds", "stages")
        }
        return json.dumps(plain, default=Histogram.to_json)

    def __repr__(self) -> str:
        return f"<LoadRun {'; '.join(self.summary().splitlines())}>"


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else math.nan


def known(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no NaN: what is not known is None."""
    return {name: None if value != value else value for name, value in row.items()}


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts)
