"""What a trace met under some directives: the result of `simulate(mpm, trace=...)`."""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mpmkit.config.directives import Directives

SERIES = ("t", "processes", "busy", "kept", "queue")


@dataclass(eq=False)
class TraceRun:
    """What a trace met under some directives.

    waits       seconds each request waited for a worker, in the trace's order; inf: its client gave up
    peak_busy   the most workers that were busy at once, those held by kept connections included
    busy_p99    workers that were enough in 99% of the time; mean_busy, mean_kept: averages over time, the
                latter of the kept connections (under prefork and worker each is one of the busy workers)
    overflow    connections that found ListenBacklog full, each try counted; lost: requests given up
    forks, ends children forked after the start, and children that ended before the run's end
    binds       directive -> (second at which it first let a client wait, clients it let wait), by time
    series      columns SERIES, a row for each second: `busy` and `queue` are the most within it
    seconds     length of the run
    """

    directives: Directives
    waits: array
    peak_busy: int = 0
    busy_p99: int = 0
    mean_busy: float = 0.0
    mean_kept: float = 0.0
    overflow: int = 0
    lost: int = 0
    forks: int = 0
    ends: int = 0
    binds: dict[str, tuple[float, int]] = field(default_factory=dict)
    series: dict[str, array] = field(default_factory=dict)
    seconds: float = 0.0

    def cause(self, children: Iterable[Any], slot_free: bool) -> str:
        """The directive that lets a client wait, while there are these children (`idle`, `quiescing`)."""
        d, serving = self.directives, [child for child in children if not child.quiescing]
        if any(child.idle > 0 for child in serving):
            return "AsyncRequestWorkerFactor"
        if len(serving) >= d.MaxRequestWorkers // d.ThreadsPerChild:
            return "MaxRequestWorkers"
        if len(serving) >= d.process_limit or not slot_free:
            # event alone has slots beyond its workers
            return "ServerLimit" if d.mpm == "event" else "MaxRequestWorkers"
        return "MinSpareThreads" if d.threaded else "MinSpareServers"

    def bind(self, name: str, now: float) -> None:
        """A directive lets one more client wait."""
        first, count = self.binds.get(name, (now, 0))
        self.binds[name] = (first, count + 1)

    @property
    def waited(self) -> float:
        """Share of the requests that waited for a worker, 0 to 1."""
        return self.waited_longer(0.0)

    def waited_longer(self, seconds: float) -> float:
        """Share of the requests that waited longer than that."""
        return sum(wait > seconds for wait in self.waits) / max(1, len(self.waits))

    def wait_quantile(self, share: float) -> float:
        """Seconds within which that share of all requests had a worker; nan without requests."""
        ordered = sorted(self.waits)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan

    @property
    def peak_processes(self) -> int:
        """The most children at once."""
        return int(max(self.series["processes"], default=0))

    def __repr__(self) -> str:
        peak = f"{len(self.waits):,} requests, peak of {self.peak_busy} busy workers"
        return f"<TraceRun of {self.directives.mpm}: {peak}, {self.waited:.1%} waited>"
