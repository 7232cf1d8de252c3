"""Generator and server on separate CPUs, and how busy each of the two was.

During the measurement a counting process runs on each CPU whenever nothing else does (the "looper" of
netperf; SCHED_IDLE). A CPU that sleeps between two requests has to be woken for each: on a virtual machine
that is work of the host, which appears as stolen time and varies from second to second. The CPU time
of the looper is exactly the idle time of its CPU.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple, Self

import psutil

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
    notes = () if apart else ((SAME_CORE if others else SHARED).format(first, server),)
    return Placement(first, server, notes)


def cpu_list(text: str) -> set[int]:
    """CPUs as the kernel writes them: 0-1,4 is 0, 1 and 4."""
    ends = re.findall(r"(\d+)-?(\d*)", text)
    return {n for first, last in ends for n in range(int(first), int(last or first) + 1)}


def here() -> Placement:
    """For the CPUs that this process may use."""
    files = {cpu: procfs.text_of(SIBLINGS.format(cpu)) for cpu in os.sched_getaffinity(0)}
    return place(files, lambda cpu: cpu_list(files[cpu]))


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
    pids, command = {}, [sys.executable, "-S", "-E", "-c", LOOPER]
    with contextlib.ExitStack() as stack:
        for cpu in set(cpus):
            looper = stack.enter_context(subprocess.Popen(command))  # waits for it
            stack.callback(looper.kill)
            pids[cpu] = looper.pid
            os.sched_setaffinity(looper.pid, {cpu})
            os.sched_setscheduler(looper.pid, os.SCHED_IDLE, os.sched_param(0))
        yield pids


class Spent(NamedTuple):
    """Seconds since some moment, or between two: of the clock, of the server's CPU, of the server's processes, of
    the generator, stolen from the server's CPU, and all that generator, server and idle CPUs make up."""

    seconds: float = 0.0
    server: float = 0.0
    group: float = 0.0
    generator: float = 0.0
    stolen: float = 0.0
    known: float = 0.0

    def plus(self, other: Self, times: float = 1.0) -> Self:
        """Added to `times` times the other; -1: what passed since then."""
        return type(self)(*(a + times * b for a, b in zip(self, other, strict=True)))

    def columns(self, good: float) -> dict[str, float]:
        """The columns of a row with so many good answers; zeros if no time passed."""
        names = ("x", "server_u", "group_u", "generator_u", "stolen", "budget")
        values = (good, *self[1:-1], self.known / (os.cpu_count() or 1))
        each = (max(0.0, value) / (self.seconds or 1.0) for value in values)
        return {"seconds": self.seconds, **dict(zip(names, each, strict=True))}


class Reader:
    """Reads what was spent so far, for each server. loopers: {CPU: process id}. groups: the servers' process
    groups. Which processes there are is looked up for the first reading: they neither come nor go."""

    def __init__(self, place: Placement, loopers: Mapping[int, int], groups: Iterable[int]) -> None:
        self._place, self._loopers, self._groups = place, loopers, [*groups]

    @cached_property
    def _pids(self) -> list[list[int]]:
        """Those of the generator, which are this process and its other children, then each server's."""
        me, others = os.getpid(), {*self._groups, *self._loopers.values()}
        mine = [pid for pid in (me, *procfs.children(me)) if pid not in others]
        return [mine, *map(procfs.members, self._groups)]

    def __call__(self) -> list[Spent]:
        """If the server's CPU is not the generator's, too, what is neither idle nor stolen there is the server's,
        softirq included: the kernel knows the looper's time exactly, and samples kinds of work by its tick."""
        times = psutil.cpu_times(percpu=True)
        idle = [one.idle + one.iowait for one in times]
        for number, looper in self._loopers.items():
            idle[number] += procfs.clock_ns(looper) / 1e9
        mine, *theirs = (sum(map(procfs.clock_ns, pids)) / 1e9 for pids in self._pids)
        server, now, alone = self._place.server, time.monotonic(), not self._place.shared
        stolen, rest = times[server].steal, sum(idle) + mine
        busy = now - idle[server] - stolen
        return [Spent(now, busy if alone else own, own, mine, stolen, rest + own) for own in theirs]


class OtherWork:
    """What the machine's CPUs do besides this process and all that it starts, from now on. The kernel's work for
    the network is left out: it has no owner. What the host takes (steal) counts."""

    MOST = 0.05  # of the machine's CPU time: beyond it a run is not to be recorded

    def __init__(self) -> None:
        self._began = self._seconds()

    @staticmethod
    def _seconds() -> tuple[float, float]:
        """(clock, CPU time of others, in seconds), each since some moment."""
        me, mine = psutil.Process(), 0.0
        for one in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                mine += sum(one.cpu_times()[:4])  # user, system, and of the children that ended
        whole = psutil.cpu_times()
        return time.monotonic(), whole.user + whole.nice + whole.system + whole.steal - mine

    def share(self) -> float:
        """Of the CPU time of all processors, 0 to 1."""
        passed, others = (b - a for a, b in zip(self._began, self._seconds(), strict=True))
        return min(1.0, max(0.0, others / (passed * (os.cpu_count() or 1)))) if passed else 0.0
