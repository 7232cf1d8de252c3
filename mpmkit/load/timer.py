"""A timer of the kernel's as a file descriptor, for the open loop.

gevent's timers end with a whole millisecond of epoll, which is longer than a request takes; a
timerfd becomes readable within microseconds of its time. The standard library has it from Python
3.13 on; until then it comes from libc.
"""

from __future__ import annotations

import ctypes
import os

CLOCK_MONOTONIC = 1  # the clock of time.perf_counter_ns() on Linux
TFD_TIMER_ABSTIME = 1
NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    ]


class Timer:
    """Readable from the time set on. Raises OSError where the kernel has none to give."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._when = _Timespec(0, 0, 0, 0)

    def set(self, ns: int) -> None:
        """Fire once, when time.perf_counter_ns() has come to `ns`; at once if that is past."""
        self._when.s, self._when.ns = divmod(max(1, ns), 1_000_000_000)
        if self._libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, ctypes.byref(self._when), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def clear(self) -> None:
        """Take notice of its firing."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self.fd)
