"""CPU time and context switches of processes, by their threads. By /proc: psutil counts ticks of 10 ms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mpmkit.measure.procfs import numbers, ran_for, tasks


class Usage(NamedTuple):
    """CPU time and context switches, summed over all threads of some processes."""

    cpu_ns: int
    voluntary: int
    involuntary: int

    def __sub__(self, other: Usage) -> Usage:  # type: ignore[override]
        return Usage(*(a - b for a, b in zip(self, other, strict=True)))


def usage(pids: Iterable[int]) -> Usage:
    """What the threads of `pids` have used so far. Threads that have ended are not in it."""
    cpu, switches = 0, Counter[str]()
    for task in (task for pid in pids for task in tasks(pid)):
        cpu += ran_for(task)
        switches.update(numbers(f"{task}/status"))
    return Usage(cpu, switches["voluntary_ctxt_switches"], switches["nonvoluntary_ctxt_switches"])
