"""A run by time: the ticks of its reports, and the windows shown to a reader."""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mpmkit.load.histogram import Histogram


class Tick(NamedTuple):
    """What one generator process got from one report to the next. values: latencies of good answers in ns.
    begin, end: seconds since `origin`, which is the time.monotonic() of its machine."""

    begin: float
    end: float
    failures: Counter[str]
    values: Sequence[int]
    origin: float = 0.0

    @property
    def latencies(self) -> Histogram:
        """The latencies of the good answers."""
        return Histogram(self.values)


OnTick = Callable[[Tick], None]
"""Called with what one generator process got in the last quarter of a second."""


class Outcome:
    """Results of the requests of `duration` seconds: `errors` by kind (docs/LOAD.md), and a `histogram` of the
    good answers' latencies."""

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
    """A stretch of a run: a second of it, or a stage. begin, end: seconds from the first request that counts.
    load: users (closed loop) or requests/s (open loop) that were due at its end. duration: seconds of it that
    the processes reported on."""

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
            window.histogram.merge(tick.latencies)
    return made
