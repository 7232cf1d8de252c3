"""How crowded the machine was while a load ran: runnable tasks and stolen time, from /proc.

The generator, the servers and everything else take turns on the same processors. Two figures say
how much they had to wait: how many tasks were ready to run, for each processor (`procs_running` of
/proc/stat, looked at a few times a second), and the share of the time that the host gave to other
guests (`steal`). Reading takes some ten microseconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from mpmkit.measure.procfs import MachineTimes, machine_times


@dataclass
class Pressure:
    """Readings from `begin` on, one by each `sample`.

    run_queue: tasks ready to run for each processor, our own look at them left out; nan if not
    known. 1 means that every processor had just one to run. steal: 0 to 1, nan if not known.
    """

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    first: MachineTimes | None = None
    last: MachineTimes | None = None
    waiting: list[int] = field(default_factory=list)

    def sample(self, reading: MachineTimes | None = None) -> None:
        """Take a reading (or the one given). A system without /proc/stat gives none."""
        reading = reading or machine_times()
        if reading.total:
            self.first = self.first or reading
            self.last = reading
            self.waiting.append(max(0, reading.running - 1))

    @property
    def run_queue(self) -> float:
        if not self.waiting:
            return float("nan")
        return sum(self.waiting) / len(self.waiting) / self.cores

    @property
    def steal(self) -> float:
        if self.first is None or self.last is None:
            return float("nan")
        stolen = self.last.steal_since(self.first)
        return float("nan") if stolen is None else stolen
