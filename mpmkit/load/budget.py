"""What is still to be sent: a number of requests (`Budget`), or the times at which they are due (`Schedule`,
of the open loop).

Imported by the locustfile alone: gevent belongs in no other process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gevent import get_hub

from mpmkit.load.arrivals import arrivals
from mpmkit.load.profile import LoadProfile
from mpmkit.load.timer import Timer

clock = time.perf_counter_ns
NEVER = 1 << 62
READ, WRITE = 1, 2  # what gevent's loop.io watches for


Waiter = Any
"""A user's client, as its `UserSocket` (which imports this file) has it."""


class Budget:
    """How many requests this process may still send: first the warm-up's, then the measured ones.

    Each process has its share of the total from the start (`share`), so the total is exact without a word
    between processes. on_measure is called when the warm-up is over.
    """

    def __init__(
        self, warmup: int, requests: int, warm_seconds: float, on_measure: Callable[[], None]
    ) -> None:
        self.left = 0  # measured requests; 0 during the warm-up
        self.measuring = False
        self.exhausted = False
        self._warmup, self._requests = warmup, requests
        self._warm_seconds, self._warm_until = warm_seconds, 0
        self._on_measure = on_measure

    def claim(self) -> bool:
        """One measured request, for the open loop, whose warm-up goes by time and not by count."""
        if not self.measuring:
            self.measuring, self.left = True, self._requests
        self.exhausted = not self.left
        self.left -= not self.exhausted
        return not self.exhausted

    def more(self) -> bool:
        """True when the caller may send one more request; it then owns it. False: all are
        claimed."""
        if not self.measuring:
            if self._warmup:
                self._warmup -= 1
                return True
            # Requests of the warm-up come first, then its seconds, then what is measured.
            if self._warm_seconds and not self._warm_until:
                self._warm_until = clock() + int(self._warm_seconds * 1e9)
            if clock() < self._warm_until:
                return True
            if self._requests:
                self._on_measure()
        return self.claim()


def share(total: int, index: int, of: int) -> int:
    """Part `index` (from 0) of `total` cut into `of` parts that differ by one at most."""
    return total // of + (index < total % of)


class Schedule:
    """The due times of the open loop in this process, in ns of the clock, one after the other."""

    def __init__(self, profile: LoadProfile, index: int, of: int) -> None:
        self.origin = clock() + int(profile.warmup_seconds * 1e9)
        self._seconds: Iterator[float] = arrivals(profile, index, of)
        self._next = self._draw()
        self.timer = Timer()
        self.watcher = get_hub().loop.io(self.timer.fd, READ)
        self.watcher.start(self._fire)
        self.waiting: deque[tuple[int, Waiter]] = deque()

    def _draw(self) -> int:
        return self.origin + int(next(self._seconds) * 1e9)

    def take(self) -> int:
        """The next due time; the caller owns it."""
        due, self._next = self._next, self._draw()
        return due

    def left_until(self, ns: int) -> int:
        """How many are due before `ns` and not taken yet; this takes them."""
        count = 0
        while self._next < ns:
            self._next = self._draw()
            count += 1
        return count

    def wait(self, due: int, client: Waiter) -> None:
        """Come back at the due time. Times are taken in their order, so who comes last waits
        longest."""
        self.waiting.append((due, client))
        if len(self.waiting) == 1:
            self.timer.set(due)
        client.due = NEVER
        client.quiet()
        client.called = False
        while not client.called:
            client.wait()

    def _fire(self) -> None:
        self.timer.clear()
        waiting, soon = self.waiting, clock() + 20_000
        while waiting and waiting[0][0] <= soon:
            client = waiting.popleft()[1]
            client.called = True
            client.wake()
        if waiting:
            self.timer.set(waiting[0][0])

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.close()
        self.timer.close()
