"""What processes have used so far, read from outside: CPU time and context switches, from /proc.

A process that ends takes its own counts with it; its CPU time lives on in its parent's, once that
has waited for it (`waited_for`, to a hundredth of a second). proc(5) has the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from mpmkit.measure.reference_servers import members

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Sums over all threads of some processes."""

    cpu_ns: int
    voluntary: int
    involuntary: int

    def __sub__(self, other: Usage) -> Usage:  # type: ignore[override]
        return Usage(*(a - b for a, b in zip(self, other, strict=True)))


def usage(pids: Iterable[int]) -> Usage:
    """What the threads of `pids` have used so far. Threads that have ended are not in it."""
    cpu = voluntary = involuntary = 0
    for pid in pids:
        for task in tasks(pid):
            try:
                cpu += _ran_for(task)
                with open(f"{task}/status") as file:
                    counts = switches(file.read())
            except OSError:
                continue
            voluntary += counts[0]
            involuntary += counts[1]
    return Usage(cpu, voluntary, involuntary)


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of `pids` so far, in ns, that of their children who ended and were waited for
    included. Threads that have ended are not in it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                total += waited_for(file.read()) * TICK_NS
            total += sum(map(_ran_for, tasks(pid)))
        except OSError:
            continue  # it ended meanwhile
    return total


class Meter:
    """CPU time of a server's process group for each request of a load, in µs.

    It starts with the first report of requests done, so neither the start nor the warm-up is in it,
    and looks once more at the end. What it costs is those two looks.
    """

    def __init__(self, group: int | None) -> None:
        """group: of the processes; None if it isn't known, and nothing is measured."""
        self.group = group
        self.begun: tuple[int, int] | None = None

    def progress(self, done: int) -> None:
        """So many requests are done; called while the load runs."""
        if self.begun is None and done > 0 and self.group is not None:
            self.begun = done, cpu_ns(members(self.group))

    def per_request(self, done: int) -> float | None:
        """The load is over after so many requests. None if there is nothing to divide by."""
        if self.begun is None or self.group is None or done <= self.begun[0]:
            return None
        used = cpu_ns(members(self.group)) - self.begun[1]
        return used / (done - self.begun[0]) / 1000 if used > 0 else None


def waited_for(stat: str) -> int:
    """CPU time of the children that a process waited for, in ticks, from its /proc/PID/stat."""
    # The name in parentheses may hold anything; cutime and cstime are the 16th and 17th field.
    fields = stat.rpartition(")")[2].split()
    return int(fields[13]) + int(fields[14])


def switches(status: str) -> tuple[int, int]:
    """(voluntary, involuntary) context switches of a /proc/PID/status."""
    found = dict(re.findall(r"^(\w+_ctxt_switches):\s*(\d+)$", status, re.MULTILINE))
    return int(found["voluntary_ctxt_switches"]), int(found["nonvoluntary_ctxt_switches"])


def tasks(pid: int) -> list[str]:
    """The folders of a process's threads; none if it has ended."""
    try:
        return [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _ran_for(task: str) -> int:
    with open(f"{task}/schedstat") as file:
        return int(file.read().split()[0])
