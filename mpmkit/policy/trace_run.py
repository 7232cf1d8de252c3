"""A process of a simulated pool; and the result of `simulate(mpm, trace=...)`, what a trace met."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from mpmkit.config.directives import Directives
from mpmkit.policy.states import BUSY_WRITE, DEAD, GRACEFUL, READY, ProcessRow

SERIES = ("t", "processes", "busy", "kept", "queue")


class Child:
    """A process of a simulated pool: `idle` and `busy` threads, its connections, `parked` ones (by their next
    request); `left`: new connections until it leaves (-1: any number), or in the simulation of seconds
    (simulator.py), passes until it is gone."""

    __slots__ = ("busy", "connections", "heir", "idle", "left", "listening", "parked", "quiescing",
                 "slot")  # fmt: skip

    def __init__(self, slot: int, threads: int, left: int) -> None:
        self.slot, self.idle, self.left = slot, threads, left
        self.busy = self.connections = 0
        self.quiescing = self.listening = False
        self.parked: set[int] = set()
        self.heir: Child | None = None  # takes over the slots of its threads (worker)


@lru_cache(maxsize=1 << 16)
def _row(slot: int, threads: int, busy: int, idle: int, leaving: bool, deaf: bool) -> ProcessRow:
    working, resting = (GRACEFUL, DEAD) if leaving else (BUSY_WRITE, READY)
    states = (bytes([working]) * busy + bytes([resting]) * idle).ljust(threads, bytes([DEAD]))
    return ProcessRow(slot, 1, quiescing=int(leaving), not_accepting=int(deaf), states=states)


def rows(slots: Sequence[Child | None], threads: int) -> tuple[ProcessRow, ...]:
    """The scoreboard that `maintenance.look` reads, from slot 0 on; threads: ThreadsPerChild."""
    return tuple(
        _row(slot, threads, one.busy, one.idle, one.quiescing, not one.listening)
        if one
        else ProcessRow(slot, states=bytes(threads))
        for slot, one in enumerate(slots)
    )


@dataclass(eq=False)
class TraceRun:
    """What a trace met under some directives. Averages are over time."""

    directives: Directives
    waits: array  # seconds each request waited for a worker, in the trace's order; inf: its client gave up
    peak_busy: int = 0  # the most workers busy at once, those held by kept connections included
    busy_p99: int = 0  # workers that were enough in 99% of the time
    mean_busy: float = 0.0
    mean_kept: float = 0.0  # kept connections; under prefork and worker each is a busy worker
    overflow: int = 0  # connections that found ListenBacklog full, each try counted
    forks: int = 0  # children forked after the start
    ends: int = 0  # children that ended before the run's end
    # Directive -> (second at which it first let a client wait, clients it let wait), by time.
    binds: dict[str, tuple[float, int]] = field(default_factory=dict)
    # Columns SERIES, a row for each second: `busy` and `queue` are the most within it.
    series: dict[str, array] = field(default_factory=dict)
    seconds: float = 0.0  # length of the run

    def bind(self, name: str, now: float) -> None:
        first, count = self.binds.get(name, (now, 0))
        self.binds[name] = (first, count + 1)

    @property
    def lost(self) -> int:
        """Requests given up."""
        return self.waits.count(math.inf)

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
