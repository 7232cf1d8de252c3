"""A child process of the server: its inputs, its signals, scheduling and privileges, its end.

Each MPM derives its own `Child` and defines `child_main`; the rest of a child's life is in server/pool.py.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import os
import sys
from dataclasses import dataclass

from mpmkit.config.directives import Directives
from mpmkit.server.core import Service
from mpmkit.server.listen import Listener
from mpmkit.server.pod import PipeOfDeath
from mpmkit.server.scoreboard import Scoreboard

# Exit statuses of a child (mpm_common.h, but for CHILD_FAILED).
OK = 0
CHILD_FAILED = 1  # an error of its own, as unforeseen as a crash
CHILD_SICK = 7  # no descriptors or memory left: come back later, start slowly
CHILD_FATAL = 15  # no child of this configuration can work

# What the system reports when it has no more to give.
LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


@dataclass(eq=False)
class Context:
    """Where a child comes from: the pool of the parent (pool.py), or the warm-up (prewarm.py)."""

    service: Service
    listeners: list[Listener]
    board: Scoreboard
    pod: PipeOfDeath

    @property
    def directives(self) -> Directives:
        return self.service.directives

    def failed(self, error: BaseException) -> int:
        """Say what ends a child of this origin; returns its exit status."""
        sys.excepthook(type(error), error, error.__traceback__)
        return CHILD_FAILED


class Child:
    """What a child process is given. `slot` is its row in the scoreboard."""

    def __init__(self, context: Context, slot: int) -> None:
        self.slot = slot
        self.directives, self.service = context.directives, context.service
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


def set_child_signals() -> None:
    """TERM ends a child at once, as httpd's: by the kernel, since a Python handler would wait until a
    script's C code returns. The others are for the parent alone.

    By the C module: `signal`'s own functions make an enum of each number, and the pages that this writes
    to would be 0.3 MB of each child's own memory."""
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGWINCH):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def takes_turns() -> bool:
    """Whether threads take turns, by the interpreter's lock. In a free-threaded Python it may be off."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def use_batch_scheduling() -> None:
    """Run under SCHED_BATCH (sched(7)): a thread that wakes up waits until the running one sleeps.

    By default a woken thread interrupts the one that woke it, and can't go on: the other has the
    interpreter's lock. SCHED_IDLE or SCHED_FIFO is an operator's choice (chrt(1)), and stays."""
    try:
        if takes_turns() and os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass  # forbidden here: it only costs speed


def preload_modules(directives: Directives) -> None:
    """What a child would import when it needs it: as User it may not reach Python's library."""
    if os.geteuid() == 0 and directives.User is not None:
        import calendar  # noqa: F401
        import traceback  # noqa: F401


def drop_privileges(directives: Directives) -> None:
    """Become User and Group; only root can, for others the directives have no effect (as in httpd)."""
    if os.geteuid() != 0 or (directives.User is None and directives.Group is None):
        return
    import grp
    import pwd

    user, group = directives.User or "#0", directives.Group
    uid = int(user[1:]) if user.startswith("#") else pwd.getpwnam(user).pw_uid
    group = group or f"#{pwd.getpwuid(uid).pw_gid}"
    gid = int(group[1:]) if group.startswith("#") else grp.getgrnam(group).gr_gid
    os.setgid(gid)
    os.setgroups([gid]) if user.startswith("#") else os.initgroups(user, gid)
    os.setuid(uid)
