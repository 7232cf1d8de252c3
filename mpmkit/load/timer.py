"""A timer of the kernel's as a file descriptor, for the open loop.

gevent's timers end with a whole millisecond of epoll, which is longer than a request takes; a
timerfd becomes readable within microseconds of its time. The standard library has it from Python
3.13 on; until then it comes from libc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

TFD_TIMER_ABSTIME = 1


class Timer:
    """Readable from the time set on. Raises OSError where the kernel has none to give."""

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

    def clear(self) -> None:
        """Take notice of its firing."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
