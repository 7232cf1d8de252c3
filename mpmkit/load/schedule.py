"""The times at which the open loop's requests are due (`Schedule`), and a timer that is exact enough for them.

Imported by the locustfile alone: gevent belongs in no other process.
"""

import contextlib
import ctypes
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice, repeat
from typing import Any

from gevent import get_hub

from mpmkit.load.arrivals import arrivals
from mpmkit.load.profile import LoadProfile

clock = time.perf_counter_ns
NEVER = 1 << 62
READ, WRITE = 1, 2  # what gevent's loop.io watches for
TFD_TIMER_ABSTIME = 1

Waiter = Any  # a user's Client, whose file imports this one
# A request of a plan: (due, ns from the answer before it, line of the mix, whether it closes).
Planned = tuple[int, int, int, bool]
Due = tuple[int, deque[Planned]]  # a due time, and what a plan has on its connection


def due_until(planned: Iterable[Planned], ns: int) -> int:
    """How many of a connection's requests are due before `ns`."""
    return sum(due < ns for due, *_ in planned)


class Timer:
    """A timer of the kernel's as a file descriptor, readable from the time set on. Raises OSError without one.

    gevent's timers end with a whole millisecond of epoll, which is longer than a request takes; a timerfd becomes
    readable within microseconds. The standard library has it from Python 3.13 on; until then it comes from libc.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The clock of time.perf_counter_ns() on Linux.
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._when = (ctypes.c_long * 4)()  # an interval, and a time: s, ns

    def set(self, ns: int) -> None:
        """Fire once, when time.perf_counter_ns() has come to `ns`; at once if that is past."""
        self._when[2], self._when[3] = divmod(max(1, ns), 1_000_000_000)
        self._libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, self._when, None)


class Schedule:
    """The due times of the open loop in this process, in ns of the clock, one after the other."""

    def __init__(self, profile: LoadProfile, index: int, of: int) -> None:
        self.origin = clock() + int(profile.warmup_seconds * 1e9)
        times, none = arrivals(profile, index, of), deque[Planned]()
        self._coming: Iterator[Due] = ((self.origin + int(s * 1e9), none) for s in times)
        if profile.plan:
            self._coming = self._plan(profile, index, of)
        self._next = next(self._coming)
        self._timer = Timer()
        self._watcher = get_hub().loop.io(self._timer.fd, READ)
        self._watcher.start(self._fire)
        self._waiting: list[tuple[int, int, Waiter]] = []  # a heap

    def _plan(self, profile: LoadProfile, index: int, of: int) -> Iterator[Due]:
        """A file's connections, every of-th; then none for as long as a run may be."""
        assert profile.plan is not None
        until = profile.planned_seconds or float("inf")
        with open(profile.plan, encoding="ascii") as file:
            for text in islice(file, index, None, of):
                words = text.removesuffix(" close\n").split()
                rows = [[*map(float, word.split(",")), 0.0][:3] for word in words]
                last = len(words) if text.endswith(" close\n") else 0
                planned = deque(
                    (self.origin + int(due * 1e9), int(pause * 1e9), int(line) - 1, place == last)
                    for place, (due, line, pause) in enumerate(rows, 1)
                    if due < until
                )
                yield self.origin + int(rows[0][0] * 1e9), planned
        yield from repeat((NEVER, deque()))

    def take(self) -> Due:
        """The next one; the caller owns it."""
        found, self._next = self._next, next(self._coming)
        return found

    def left_until(self, ns: int) -> int:
        """How many are due before `ns` and not taken yet; this takes them."""
        count = 0
        while self._next[0] < ns:
            count += due_until(self.take()[1], ns) or 1
        return count

    def wait(self, due: int, client: Waiter) -> None:
        """Come back at the due time."""
        heappush(self._waiting, (due, id(client), client))
        if self._waiting[0][2] is client:
            self._timer.set(due)
        client.due = NEVER
        client.quiet()
        client.called = False
        while not client.called:
            client.wait()

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer.fd, 8)
        waiting, soon = self._waiting, clock() + 20_000
        while waiting and waiting[0][0] <= soon:
            client = heappop(waiting)[2]
            client.called = True
            client.wake()
        if waiting:
            self._timer.set(waiting[0][0])

    def close(self) -> None:
        self._watcher.close()
        os.close(self._timer.fd)
