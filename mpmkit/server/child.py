"""A child process of the server: its inputs and its end.

Each MPM derives its own `Child` and defines `child_main`; the rest of a child's life is in server/pool.py.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass

from mpmkit.config.directives import Directives, Note
from mpmkit.server.core import Service
from mpmkit.server.listen import Listener
from mpmkit.server.pod import PipeOfDeath
from mpmkit.server.process import takes_turns
from mpmkit.server.scoreboard import Scoreboard

# Exit statuses of a child (mpm_common.h, but for CHILD_FAILED).
OK = 0
CHILD_FAILED = 1  # an error of its own, as unforeseen as a crash
CHILD_SICK = 7  # no descriptors or memory left: come back later, start slowly
CHILD_FATAL = 15  # no child of this configuration can work

# What the system reports when it has no more to give.
LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


@dataclass(frozen=True)
class Setup:
    """One reading of the configuration, ready to serve."""

    directives: Directives
    service: Service
    notes: tuple[Note, ...] = ()


@dataclass(eq=False)
class Context:
    """Where a child comes from: the pool of the parent (pool.py), or the warm-up (prewarm.py)."""

    setup: Setup
    listeners: list[Listener]
    board: Scoreboard
    pod: PipeOfDeath

    def failed(self, error: BaseException) -> int:
        """Say what ends a child of this origin; returns its exit status."""
        sys.excepthook(type(error), error, error.__traceback__)
        return CHILD_FAILED


class Child:
    """What a child process is given. `slot` is its row in the scoreboard."""

    def __init__(self, context: Context, slot: int) -> None:
        self.slot = slot
        self.directives, self.service = context.setup.directives, context.setup.service
        self.listeners, self.pod, self.failed = context.listeners, context.pod, context.failed
        self.board = context.board
        self.generation = self.board.generation
        self.process = self.board.process(slot)

    def child_main(self) -> int:
        """Serve until it is time to leave; returns the exit status."""
        raise NotImplementedError

    def stay_on_one_cpu(self) -> None:
        """For children with threads that take turns: one of the server's CPUs, by the slot. On two, a thread
        that comes back from a system call finds another one running, and waits for the other CPU."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) > 1 and takes_turns():
            os.sched_setaffinity(0, {cpus[self.slot % len(cpus)]})

    def outdated(self) -> bool:
        return self.board.generation != self.generation

    def out_of_resources(self, error: OSError) -> int:
        """`accept` failed; returns the exit status."""
        text = f"accept: {error.strerror}; this child leaves"
        self.service.errors.write("error", text, ah="AH02179")
        return CHILD_SICK


def exit_status(error: BaseException) -> int:
    """The exit status of a child that `error` ends: sick for lack of descriptors, memory or threads. Any
    other error is like a crash: the parent replaces the child, however young it was."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else CHILD_FAILED
    lacking = isinstance(error, MemoryError) or getattr(error, "errno", 0) in LACKING
    # "can't start new thread" is all that Python says when the system refuses one.
    return CHILD_SICK if lacking or "start new thread" in str(error) else CHILD_FAILED
