"""Generator and server on CPUs of their own, and how busy each of the two was.

A process keeps the CPUs of the thread that started it: a launch on one CPU pins the server with all its
children, a load its generator.

While it is measured, a process that counts runs on each CPU whenever nothing else does (the "looper" of
netperf; SCHED_IDLE). A CPU that falls asleep between two requests has to be woken for each: on a virtual machine
that is work of the host, which appears as stolen time and differs from one second to the next. And the CPU time
of the looper is the idle time of its CPU, exactly.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from mpmkit.load.windows import Tick
from mpmkit.measure import procfs

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
SHARED = (
    "one CPU (CPU {1}) for generator and server: only the CPU time of the server's own processes is counted, "
    "not the kernel's work for its network, and the generator disturbs its caches. Take µs from a machine "
    "with two CPUs"
)
SAME_CORE = (
    "CPUs {0} and {1} are SMT siblings, two threads of one core: the generator slows the server down. Ratios "
    "within a block hold, µs are too high"
)


class Placement(NamedTuple):
    """CPUs by their numbers, and what a reader should know of them."""

    generator: int
    server: int
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether there is one CPU for both."""
        return self.generator == self.server

    def __str__(self) -> str:
        return f"generator on CPU {self.generator}, server on CPU {self.server}"


def place(cpus: Iterable[int], siblings: Callable[[int], set[int]]) -> Placement:
    """The first CPU for the generator, for the server the first one of another core, or else the last.
    siblings: the CPUs that are threads of the same core as this one. Pure."""
    first, *others = sorted(set(cpus))
    apart = [cpu for cpu in others if cpu not in siblings(first)]
    server = (apart or others[-1:] or [first])[0]
    note = SHARED if not others else "" if apart else SAME_CORE
    return Placement(first, server, (note.format(first, server),) if note else ())


def cpu_list(text: str) -> set[int]:
    """CPUs as the kernel writes them: 0-1,4 is 0, 1 and 4."""
    ends = [part.partition("-") for part in text.strip().split(",") if part]
    return {n for first, _, last in ends for n in range(int(first), int(last or first) + 1)}


def here() -> Placement:
    """For the CPUs that this process may use."""

    def siblings(cpu: int) -> set[int]:
        with contextlib.suppress(OSError), open(SIBLINGS.format(cpu)) as file:
            return cpu_list(file.read())
        return {cpu}

    return place(os.sched_getaffinity(0), siblings)


@contextlib.contextmanager
def pinned(start: Callable[[], AbstractContextManager[Any]], cpus: Placement) -> Iterator[Any]:
    """A server on its CPU, while this thread, and what it starts, runs on the generator's."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpus.server})
        with start() as server:
            os.sched_setaffinity(0, {cpus.generator})
            yield server
    finally:
        os.sched_setaffinity(0, before)


LOOPER = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def loopers(cpus: Iterable[int]) -> Iterator[dict[int, int]]:
    """Keep these CPUs awake: {CPU: process id of its looper}. They end with this process."""
    started: dict[int, subprocess.Popen[bytes]] = {}
    before = os.sched_getaffinity(0)
    try:
        for cpu in set(cpus):
            os.sched_setaffinity(0, {cpu})
            started[cpu] = subprocess.Popen([sys.executable, "-S", "-E", "-c", LOOPER])
            os.sched_setscheduler(started[cpu].pid, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(0, before)
        yield {cpu: looper.pid for cpu, looper in started.items()}
    finally:
        os.sched_setaffinity(0, before)
        for looper in started.values():
            looper.kill()
            looper.wait()


# -- how busy ------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """Seconds until now: the clock; idle time of all CPUs; idle and stolen time of the server's CPU; CPU
    time of the server's processes and of the generator's, this one included."""

    clock: float
    idle: float
    off: float
    stolen: float
    server: float
    generator: float


def generator_pids(others: set[int]) -> list[int]:
    """This process and its children without the others: what makes the load and counts it."""
    return [p for p in (os.getpid(), *procfs.children(os.getpid())) if p not in others]


def off_times(server: int, loopers: Mapping[int, int]) -> tuple[float, float, float]:
    """Seconds until now: idle time of all CPUs, and idle and stolen time of the server's."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    idle = [one.idle + one.iowait for one in times]
    for cpu, looper in loopers.items():
        idle[cpu] += procfs.clock_ns(looper) / 1e9
    return sum(idle), idle[server], times[server].steal


class Readings:
    """Reads the machine whenever the generator reports, so that answers and the CPU time for them are of
    the same moments. `tick` is for `run_load`."""

    def __init__(self, server: int, cpus: Placement, loopers: Mapping[int, int] = {}) -> None:
        """server: the process group of the server. loopers: {CPU: process id}, if there are any."""
        self.server, self.cpus, self._loopers = server, cpus, loopers
        self.seen: list[tuple[Tick, Reading]] = []
        self._generator: list[int] = []

    def tick(self, tick: Tick) -> None:
        """The generator has reported."""
        if not self._generator:
            self._generator = generator_pids({self.server, *self._loopers.values()})
        groups = (procfs.members(self.server), self._generator)
        spent = [procfs.cpu_ns(pids) / 1e9 for pids in groups]
        idle, *off = off_times(self.cpus.server, self._loopers)
        self.seen.append((tick, Reading(time.monotonic(), idle, *off, *spent)))

    def window(self, begin: float, end: float) -> dict[str, Any]:
        """The columns of a stretch of the load, in its seconds; zeros if there were fewer than two reports.
        What is neither idle nor stolen on the server's CPU is the server's, softirq included: the kernel
        knows the time of the looper exactly, and samples kinds of work by its tick."""
        inside = [(tick, reading) for tick, reading in self.seen if begin <= tick.end <= end]
        if len(inside) < 2:
            figures = ("seconds", "x", "server_u", "group_u", "generator_u", "stolen", "budget")
            return {"requests": 0, "failures": 0, **dict.fromkeys(figures, 0.0)}
        (first, old), *later = inside
        last, new = later[-1]
        spent = [b - a for a, b in zip(old, new, strict=True)]
        seconds, idle, off, stolen, server, generator = spent
        busy = server if self.cpus.shared else max(0.0, seconds - off - stolen)
        failures = sum(tick.failures.total() for tick, _ in later)
        good = sum(len(tick.latencies) for tick, _ in later)
        return {
            "requests": good + failures,
            "failures": failures,
            "seconds": seconds,
            "x": good / (last.end - first.end),
            "server_u": busy / seconds,
            "group_u": server / seconds,
            "generator_u": generator / seconds,
            "stolen": stolen / seconds,
            "budget": (idle + server + generator) / seconds / (os.cpu_count() or 1),
        }
