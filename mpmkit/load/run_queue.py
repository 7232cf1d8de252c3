"""How crowded the machine was while a load ran: runnable tasks and stolen time, from /proc.

The generator, the servers and everything else take turns on the same processors. Two figures say
how much they had to wait: how many tasks were ready to run, for each processor (`procs_running` of
/proc/stat, looked at a few times a second), and the share of the time that the host gave to other
guests (`steal`). Reading takes some ten microseconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Look:
    """One reading: processor ticks of all kinds, those stolen, and the tasks ready to run."""

    total: int
    steal: int
    running: int


def look(text: str | None = None) -> Look | None:
    """What /proc/stat (or its text) says; None where there is none."""
    if text is None:
        try:
            with open("/proc/stat") as file:
                text = file.read()
        except OSError:
            return None
    total = steal = running = 0
    for line in text.splitlines():
        name, *words = line.split()
        if name == "cpu":
            # The eighth is steal; the two after it are counted within the first.
            ticks = [int(word) for word in words[:8]]
            total, steal = sum(ticks), ticks[7] if len(ticks) > 7 else 0
        elif name == "procs_running":
            running = int(words[0])
    return Look(total, steal, running) if total else None


@dataclass
class Pressure:
    """Readings from `begin` on, one by each `sample`.

    run_queue: tasks ready to run for each processor, our own look at them left out; nan if not
    known. 1 means that every processor had just one to run. steal: 0 to 1, nan if not known.
    """

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    first: Look | None = None
    last: Look | None = None
    waiting: list[int] = field(default_factory=list)

    def sample(self, reading: Look | None = None) -> None:
        """Take a reading (or the one given)."""
        reading = reading or look()
        if reading is None:
            return
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
        if self.first is None or self.last is None or self.last.total <= self.first.total:
            return float("nan")
        return (self.last.steal - self.first.steal) / (self.last.total - self.first.total)
