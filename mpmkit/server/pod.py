"""The pipe of death: how a parent tells children to leave.

    one byte          one child of this generation leaves when it is done (idle maintenance)
    end of file       all of this generation leave when they are done

The parent holds the writing end, every child of the generation the reading end. A byte goes to exactly one
reader, whichever is waiting, so "retire one idle child" needs no choice of a victim. The end of file comes when
the parent closes its end (a graceful restart or stop) or is killed: children never outlive their parent.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from contextlib import suppress


class PipeOfDeath:
    """One per generation. Raises OSError when no pipe can be made."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def retire_one(self) -> None:
        with suppress(BlockingIOError):  # 64 Ki requests to leave are waiting already
            os.write(self._write, b"!")

    def close(self) -> None:
        """In the parent: ask this whole generation to leave."""
        for fd in (self._read, self._write):
            if fd >= 0:
                os.close(fd)
        self._read = self._write = -1

    def only_read(self) -> None:
        """A child must not hold the writing end, or it would never see its own end of file."""
        os.close(self._write)
        self._write = -1

    def fileno(self) -> int:
        return self._read

    def called(self) -> bool:
        """Is it this child's turn to leave? Takes the byte, if there is one. Never blocks."""
        try:
            os.read(self._read, 1)
        except BlockingIOError:
            return False
        return True

    def wait(self, other: int, seconds: float | None = None) -> bool:
        """Wait until it is this child's turn to leave, or descriptor `other` is readable.

        False: `seconds` have passed without either."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.register(other, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)]
            if not ready:
                return False
            if other in ready or self.called():
                return True


F_SETSIG = 10  # Linux; the fcntl module has no name for it before 3.13


def end_with(lifeline: int) -> int:
    """A pipe that its owner never writes to: at its end of file, when the owner is gone, this process gets
    SIGTERM from the kernel, however busy it is. By O_ASYNC on an open file description of its own (opening
    /proc/self/fd/N makes one), which owns the signal. Returns the descriptor that it takes."""
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with suppress(BlockingIOError):
        if not os.read(own, 1):  # the owner was gone before
            os.kill(os.getpid(), signal.SIGTERM)
    return own
