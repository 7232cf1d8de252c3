"""What is still to be sent: a number of requests (`Budget`), or the times at which they are due (`Schedule`,
of the open loop).

Imported by the locustfile alone: gevent belongs in no other process.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from gevent import get_hub

from mpmkit.load.arrivals import arrivals
from mpmkit.load.profile import LoadProfile
from mpmkit.load.timer import Timer

clock = time.perf_counter_ns
NEVER = 1 << 62
READ, WRITE = 1, 2  # what gevent's loop.io watches for


class Waiter(Protocol):
    """What the schedule and the monitor need of a user's client."""

    loop: Any
    waiting: bool
    due: int
    called: bool  # by the schedule

    def wait(self) -> None: ...
    def wake(self) -> None: ...
    def expire(self) -> None: ...
    def quiet(self) -> None: ...


class Budget:
    """How many requests may still be sent: first the warm-up, then the measured ones.

    `left` is this process's share in hand. A user that finds it empty calls `more()`. on_measure is
    called when the warm-up is over.

    The budget is exact over all users and all processes of ``--processes``: it lies, in tokens, in a
    pipe that Locust's forks inherit; the process that reads a token owns its share. The kernel makes the
    reading atomic, and a killed process can block no other.
    """

    TOKENS = 1_600
    """At most this many tokens for each phase: two phases fit into the smallest pipe, one page."""

    def __init__(self, on_measure: Callable[[], None]) -> None:
        self._on_measure = on_measure
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        self.reset(0, 0)

    def reset(self, warmup: int, requests: int) -> None:
        """Forget what was in hand. The sizes of the shares follow from the two totals alone, so
        processes that read the same pipe agree on them."""
        self.left = 0
        self.measuring = False
        self.exhausted = False
        self.warm_until = 0
        self.warm_seconds = 0.0
        warm, warm_shares = self._phase(warmup, b"wx")
        measured, measured_shares = self._phase(requests, b"mn")
        self._tokens = warm + measured  # a pipe is read in order: the warm-up comes first
        self._shares = warm_shares | measured_shares
        self._held = b""

    def _phase(self, total: int, letters: bytes) -> tuple[bytes, dict[int, int]]:
        """(tokens, what each is worth): equal shares, and a last one for the rest."""
        share = -(-total // self.TOKENS) or 1
        rest = total % share
        tokens = letters[:1] * (total // share) + (letters[1:] if rest else b"")
        return tokens, {letters[0]: share, letters[1]: rest}

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    def fill(self) -> None:
        """Put the tokens into the pipe, which is emptied before (a second test from Locust's page).
        Raises OSError if they don't fit, which the smallest of pipes would have to."""
        try:
            while os.read(self.read_end, 65_536):
                pass
        except BlockingIOError:
            pass
        written = os.write(self.write_end, self._tokens)
        if written != len(self._tokens):
            raise OSError("the pipe that holds the request budget is too small")

    def claim(self) -> bool:
        """One measured request, for the open loop, whose warm-up goes by time and not by count."""
        if self.left:
            self.left -= 1
            return True
        try:
            token = os.read(self.read_end, 1)
        except BlockingIOError:
            token = b""
        if not token:
            self.exhausted = True
            return False
        self.left = self._shares[token[0]] - 1
        return True

    def more(self) -> bool:
        """True when the caller may send one more request; it then owns it. False: all are
        claimed."""
        if not self.measuring and self._warming():
            return True
        if self.left:
            self.left -= 1
            return True
        try:
            token = self._held or os.read(self.read_end, 1)
        except BlockingIOError:
            token = b""
        self._held = b""
        if not token:
            self.exhausted = True
            return False
        if token in b"mn" and not self.measuring:
            # Requests of the warm-up come first, then its seconds, then what is measured.
            if self.warm_seconds and not self.warm_until:
                self.warm_until = clock() + int(self.warm_seconds * 1e9)
            if self._warming():
                self._held = token
                return True
            self._measure()
        self.left = self._shares[token[0]] - 1
        return True

    def _warming(self) -> bool:
        return clock() < self.warm_until

    def _measure(self) -> None:
        self.measuring = True
        self._on_measure()


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
