"""The requests still to send: their number (`Budget`), or the times at which they are due (`Schedule`,
of the open loop).

Imported by the locustfile alone: gevent belongs in no other process.
"""

import contextlib
import ctypes
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from gevent import get_hub

from mpmkit.load.arrivals import arrivals
from mpmkit.load.profile import LoadProfile

clock = time.perf_counter_ns
NEVER = 1 << 62
READ, WRITE = 1, 2  # what gevent's loop.io watches for
TFD_TIMER_ABSTIME = 1

Waiter = Any  # a user's Client, whose file imports this one
Planned = tuple[int, int, int, bool]


class Budget:
    """How many requests this process may still send, after the seconds of the warm-up. Each process has its
    share of the total from the start (`share`), so the total is exact without a message between processes.
    on_measure is called when the warm-up is over."""

    def __init__(self, requests: int, warm_seconds: float, on_measure: Callable[[], None]) -> None:
        self.left = 0  # measured requests; 0 during the warm-up
        self.measuring = self.exhausted = False
        self._requests, self._on_measure = requests, on_measure
        self._warm_seconds, self._warm_until = warm_seconds, 0

    def claim(self) -> bool:
        """One measured request; False: all are claimed."""
        if not self.measuring:
            self.measuring, self.left = True, self._requests
        self.exhausted = not self.left
        self.left -= not self.exhausted
        return not self.exhausted

    def more(self) -> bool:
        """One more request, of the warm-up while it lasts. The open loop, whose warm-up ends at a due time, asks
        `claim`."""
        if not self.measuring:
            self._warm_until = self._warm_until or clock() + int(self._warm_seconds * 1e9)
            if clock() < self._warm_until:
                return True
            if self._requests:
                self._on_measure()
        return self.claim()


def share(total: int, index: int, of: int) -> int:
    """Part `index` (from 0) of `total` cut into `of` parts that differ by one at most."""
    return total // of + (index < total % of)


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
        self.fd = self._done(self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags))
        self._when = (ctypes.c_long * 4)()  # an interval, and a time: s, ns

    def _done(self, code: int) -> int:
        if code < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return code

    def set(self, ns: int) -> None:
        """Fire once, when time.perf_counter_ns() has come to `ns`; at once if that is past."""
        self._when[2], self._when[3] = divmod(max(1, ns), 1_000_000_000)
        self._done(self._libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, self._when, None))


class Schedule:
    """The due times of the open loop in this process, in ns of the clock, one after the other."""

    def __init__(self, profile: LoadProfile, index: int, of: int) -> None:
        self.origin = clock() + int(profile.warmup_seconds * 1e9)
        # Of a plan, for each request: (due, ns from the answer before it, line of the mix, whether it closes).
        self.taken: deque[Planned] = deque()  # the connection that was taken last
        self._coming = self.taken
        self._seconds = (
            self._plan(profile, index, of) if profile.plan else arrivals(profile, index, of)
        )
        self._next = self._draw()
        self._timer = Timer()
        self._watcher = get_hub().loop.io(self._timer.fd, READ)
        self._watcher.start(self._fire)
        self._waiting: list[tuple[int, int, Waiter]] = []  # a heap

    def _draw(self) -> int:
        return self.origin + int(next(self._seconds) * 1e9)

    def _plan(self, profile: LoadProfile, index: int, of: int) -> Iterator[float]:
        """The first due times of a file's connections, every of-th; then none for as long as a run may be."""
        assert profile.plan is not None
        until = profile.planned_seconds or float("inf")
        with open(profile.plan, encoding="ascii") as file:
            for text in islice(file, index, None, of):
                words = text.removesuffix(" close\n").split()
                rows = [[*map(float, word.split(",")), 0.0][:3] for word in words]
                last = len(words) if text.endswith(" close\n") else 0
                self._coming = deque(
                    (self.origin + int(due * 1e9), int(pause * 1e9), int(line) - 1, place == last)
                    for place, (due, line, pause) in enumerate(rows, 1)
                    if due < until
                )
                yield rows[0][0]
        self._coming = deque()
        while True:
            yield 1e9

    def take(self) -> int:
        """The next due time; the caller owns it, and `taken`: what a plan has on that connection."""
        due, self.taken = self._next, self._coming
        self._next = self._draw()
        return due

    def left_until(self, ns: int) -> int:
        """How many are due before `ns` and not taken yet; this takes them."""
        count = 0
        while self._next < ns:
            self.take()
            count += due_until(self.taken, ns) or 1
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
        self._watcher.stop()
        self._watcher.close()
        os.close(self._timer.fd)
