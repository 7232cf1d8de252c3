"""What a load measured: the one result type of every driver.

Figures come from raw latencies where they are at hand, else from histograms or the generator's own
table. Imports neither locust nor gevent nor pandas.
"""

from __future__ import annotations

import array
import bisect
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.load.histogram import Histogram
from mpmkit.load.profile import LoadProfile
from mpmkit.measure.stats import knee

if TYPE_CHECKING:
    import pandas

GENERATOR_LIMIT = 0.9
"""Share of a core from which on a generator process is taken to be what limited the run. Above it
the process hardly ever waits for an answer, so a faster server would not have shown as one."""

CEILING_LIMIT = 0.9
"""Share of what the generator was seen to do against the fastest server at hand, from which on the
generator is taken to be what limited the run."""


class Tick(NamedTuple):
    """What one generator process got from one report to the next: seconds, failures, latencies."""

    begin: float
    end: float
    failures: Counter[str]
    latencies: Histogram | tuple[int, int]  # or where they stand among the run's raw ones

    @property
    def counted(self) -> Histogram:
        """The latencies of a tick that came while the load ran."""
        return self.latencies if isinstance(self.latencies, Histogram) else Histogram()


OnTick = Callable[[Tick], None]
"""Called with what one generator process got in the last quarter of a second."""


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
    run_queue, steal: see `mpmkit.load.run_queue`. processes_wait: share of the time (0 to 1) that
        each generator process was ready to run and had to wait for a processor.
    ceiling: requests/s of the same load against the fastest server at hand, if it was measured.
    notes: what was foreseen (`mpmkit.load.preflight`).
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
        return (
            self.profile.path
            if not self.profile.mix
            else (f"a mix of {len(self.profile.mix)}: {self.profile.mix[0].path} ...")
        )

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
    def generator_wait(self) -> float:
        """Share of the time that a generator process waited for a processor, on average; nan if not
        known."""
        wait = self.processes_wait
        return sum(wait) / len(wait) if wait else math.nan

    @property
    def generator_bound(self) -> bool:
        """True if a generator process was as busy as a core allows, or the whole near its ceiling:
        then `qps` is its limit and says little about the server's."""
        return any(cpu > GENERATOR_LIMIT for cpu in self.processes_cpu) or (
            self.ceiling is not None and self.qps > CEILING_LIMIT * self.ceiling
        )

    @property
    def generator_starved(self) -> bool:
        """True if a generator process always had something to do, and had to wait for a processor
        to do it: the machine was the limit, which generator and server share."""
        return not self.generator_bound and any(
            cpu + wait > GENERATOR_LIMIT
            for cpu, wait in zip(self.processes_cpu, self.processes_wait, strict=False)
        )

    @property
    def histogram(self) -> Histogram:
        """The latencies of the good answers as counts; empty where only percentiles are known."""
        if self.counted is None:
            self.counted = Histogram(self.latencies_ns)
        return self.counted

    def _binned(self, edges: Sequence[float]) -> list[Slot]:
        """What fell between each two edges (seconds). A tick belongs to where its middle lies."""
        slots = [
            Slot(begin, end, self.profile.level_at(end - 1e-9))
            for begin, end in zip(edges, edges[1:], strict=False)
        ]
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
        """The stage beyond which more load brings little more (`measure.stats.knee`); None if the
        stages do not reach it, or are fewer than three."""
        load = knee([slot.load for slot in self.stages], [slot.qps for slot in self.stages])
        return next((slot for slot in self.stages if slot.load == load), None)

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
            "method": self.profile.specs[0].method,
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
            "p9999_ms": self.latency_ms(99.99),
            "max_ms": self.latency_ms(100),
            "generator_cpu": self.generator_cpu,
            "generator_wait": self.generator_wait,
            "run_queue": self.run_queue,
            "generator_bound": self.generator_bound,
            "generator_starved": self.generator_starved if self.processes_wait else None,
            "retries": self.retries,
            "reconnects": self.reconnects,
            "ended": self.ended,
            "seed": self.profile.seed,
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
            if self.profile.arrival == "poisson":
                way += f" (seed {self.profile.seed})"
        p50, p99, longest = (self.latency_ms(p) for p in (50, 99, 100))
        asked = f"{self.profile.specs[0].method} {self.path}, {self.users} users, {way}"
        lines = [
            f"{asked}, by {self.driver}",
            f"{self.qps:,.0f} requests/s: {self.succeeded:,} good answers in {self.duration:.2f} s",
        ]
        if self.succeeded:
            tail = "".join(
                f", p{p:g} {self.latency_ms(p):.3g}"
                for p in (99.9, 99.99)
                if self.succeeded >= 1 / (1 - p / 100) - 1e-6
            )
            lines.append(f"latency ms: p50 {p50:.3g}, p99 {p99:.3g}{tail}, max {longest:.3g}")
        for path, found in self.paths.items():
            if len(found):
                lines.append(
                    f"  {path}: {len(found):,} good answers, "
                    f"p50 {found.percentile(50) / 1e6:.3g}, "
                    f"p99 {found.percentile(99) / 1e6:.3g}"
                )
        what = "requests/s due" if self.profile.open_loop else "users"
        for slot in self.stages:
            lines.append(
                f"  {slot.begin:g} to {slot.end:g} s, {slot.load:,.0f} {what}: "
                f"{slot.qps:,.0f} requests/s, p50 {slot.latency_ms(50):.3g}, "
                f"p99 {slot.latency_ms(99):.3g}"
                + (f", {slot.errors.total():,} failed" if slot.errors else "")
            )
        knee = self.knee
        if knee is not None:
            lines.append(
                f"  the knee is at {knee.load:,.0f} {what}: beyond it more load does not pay"
            )
        if self.profile.open_loop and self.duration > 0:
            lines.append(f"{self.requests:,} were due: {self.requests / self.duration:,.0f}/s")
        if self.late:
            lines.append(
                f"{self.late:,} of {len(self.lag):,} requests were sent more than 1 ms "
                f"after they were due; their latency counts from then"
            )
        if self.background:
            lines.append(
                "beside the users: "
                + ", ".join(f"{count:,} {what}" for what, count in sorted(self.background.items()))
            )
        if self.failures:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.errors.most_common())
            lines.append(f"{self.failures:,} of {self.requests:,} requests failed: {kinds}")
        if self.retries:
            lines.append(f"{self.retries:,} requests met the server's close and were sent again")
        if not self.complete:
            lines.append(f"the run did not come to its end: {self.ended}")
        if not math.isnan(self.generator_cpu):
            lines.append(
                f"generator: {self.generator_cpu:.0%} of a core per process"
                + (
                    " - it was the bottleneck, the server may be faster"
                    if self.generator_bound
                    else " - it always had to wait for a processor: the machine is the limit"
                    if self.generator_starved
                    else ""
                )
            )
        if self.ceiling:
            lines.append(
                f"generator's ceiling: {self.ceiling:,.0f} requests/s, by what it did "
                f"against nginx; this run is at {self.qps / self.ceiling:.0%} of it"
            )
        if self.run_queue == self.run_queue:
            lines.append(
                f"machine: {self.run_queue:.1f} tasks ready to run a processor"
                + (f", {self.steal:.0%} of the time stolen" if self.steal >= 0.005 else "")
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The run as JSON: counts, the histogram, second by second; raw latencies are left out."""
        return json.dumps(
            {
                "version": 1,
                "driver": self.driver,
                "driver_version": self.version,
                "target": self.target,
                "profile": json.loads(self.profile.to_json()),
                "requests": self.requests,
                "errors": dict(self.errors),
                "duration": self.duration,
                "histogram": self.histogram.to_text(),
                "percentiles_ms": self.percentiles_ms,
                "processes_cpu": self.processes_cpu,
                "processes_wait": self.processes_wait,
                "retries": self.retries,
                "reconnects": self.reconnects,
                "ended": self.ended,
                "started_at": self.started_at,
                "background": dict(self.background),
                "connections": self.connections,
                "lag": self.lag.to_text(),
                "late": self.late,
                "paths": {path: found.to_text() for path, found in self.paths.items()},
                "run_queue": _or_none(self.run_queue),
                "steal": _or_none(self.steal),
                "ceiling": self.ceiling,
                "notes": self.notes,
                "seconds": [
                    [
                        slot.begin,
                        slot.begin + slot.covered,
                        dict(slot.errors),
                        slot.latencies.to_text(),
                    ]
                    for slot in self.seconds
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> LoadRun:
        """A run read back. Raises ValueError for anything but what `to_json` writes."""
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ValueError(f"version {data['version']!r}")
            sources = max(1, len(data["processes_cpu"]))
            return cls(
                driver=data["driver"],
                target=data["target"],
                profile=LoadProfile.from_json(json.dumps(data["profile"])),
                requests=data["requests"],
                errors=Counter(data["errors"]),
                duration=data["duration"],
                version=data["driver_version"],
                processes_cpu=tuple(data["processes_cpu"]),
                processes_wait=tuple(data["processes_wait"]),
                retries=data["retries"],
                reconnects=data["reconnects"],
                ended=data["ended"],
                started_at=data["started_at"],
                background=Counter(data["background"]),
                connections=data["connections"],
                lag=Histogram.from_text(data["lag"]),
                late=data["late"],
                ceiling=data["ceiling"],
                notes=tuple(data["notes"]),
                run_queue=math.nan if data["run_queue"] is None else data["run_queue"],
                steal=math.nan if data["steal"] is None else data["steal"],
                paths={path: Histogram.from_text(t) for path, t in data["paths"].items()},
                percentiles_ms={float(p): ms for p, ms in data["percentiles_ms"].items()},
                counted=Histogram.from_text(data["histogram"]),
                # Each second stands for all sources, so that it is covered but once.
                ticks=tuple(
                    Tick(b, b + (e - b) * sources, Counter(errors), Histogram.from_text(found))
                    for b, e, errors, found in data["seconds"]
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no load run: {error!r}") from None

    def __repr__(self) -> str:
        notes = f", {self.failures:,} FAILED {dict(self.errors)}" if self.failures else ""
        if not self.complete:
            notes += f", ended early: {self.ended}"
        if self.generator_bound:
            notes += ", generator-bound"
        if self.succeeded:
            notes = f", p50 {self.latency_ms(50):.3g} ms, p99 {self.latency_ms(99):.3g} ms" + notes
        return (
            f"<LoadRun {self.qps:,.0f} requests/s, {self.requests:,} requests, {self.users} "
            f"users, {'keep-alive' if self.keep_alive else 'new connections'}{notes}>"
        )


def _or_none(value: float) -> float | None:
    """Not a number is not JSON: what is not known is null."""
    return None if value != value else value
