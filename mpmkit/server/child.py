"""A child process: its inputs, the pipe of death, signals, scheduling and privileges. Each MPM derives its own
`Child` and defines `child_main`; the rest of a child's life is in server/pool.py."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from mpmkit.config.directives import Directives
from mpmkit.server.core import Service
from mpmkit.server.listen import Listener
from mpmkit.server.scoreboard import Scoreboard

# Exit statuses of a child (mpm_common.h, but for CHILD_FAILED).
OK = 0
CHILD_FAILED = 1  # an error of its own, as unforeseen as a crash
CHILD_SICK = 7  # no descriptors or memory left: come back later, start slowly
CHILD_FATAL = 15  # no child of this configuration can work

F_SETSIG = 10  # Linux; the fcntl module has no name for it before 3.13
PARENTS_SIGNALS = (_signal.SIGINT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGWINCH)
# What the system reports when it has no more to give.
LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


class PipeOfDeath:
    """How the parent tells the children of a generation to leave. Raises OSError when no pipe can be made.

    one byte       one child leaves when it is done (idle maintenance)
    end of file    all of this generation leave when they are done

    A byte goes to exactly one reader, whichever is waiting: no victim has to be chosen. The end of file comes
    when the parent closes its end (a graceful restart or stop) or is killed: children never outlive it."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()  # no object: to close one writes on six pages of a child
        os.set_blocking(reading, False)
        os.set_blocking(self._writing, False)
        self._read = open(reading, "rb", 0)
        self.fileno = self._read.fileno

    def retire_one(self) -> None:
        """Writes nothing where 64 Ki requests to leave are waiting already."""
        with suppress(BlockingIOError):
            os.write(self._writing, b"!")

    def close(self) -> None:
        """In the parent: ask this whole generation to leave."""
        self._read.close()
        self.only_read()

    def only_read(self) -> None:
        """A child must not hold the writing end, or it would never see its own end of file."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def called(self) -> bool:
        """Is it this child's turn to leave? Takes the byte, if there is one. Never blocks."""
        return self._read.read(1) is not None

    def wait(self, other: int, seconds: float | None = None) -> bool:
        """Wait until it is this child's turn to leave, or `other` is readable. False: `seconds` have passed."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.register(other, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)]
            if not ready:
                return False
            if other in ready or self.called():
                return True


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


def begin(pod: PipeOfDeath, lifeline: tuple[int, int], own: Iterable[int] = ()) -> int:
    """A child's first steps: it leaves the parent's signals, and its descriptors `own` and writing ends. Returns
    the descriptor that `end_with` takes for the lifeline."""
    set_child_signals()
    use_batch_scheduling()
    reading, writing = lifeline
    for fd in (*own, writing):
        os.close(fd)
    pod.only_read()
    taken = end_with(reading)
    os.close(reading)
    return taken


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
    """TERM ends a child at once, as httpd's: by the kernel, since a Python handler would wait until a script's C
    code returns. The others are for the parent alone. By the C module: `signal`'s own functions make an enum of
    each number, and the pages that this writes to would be 0.3 MB of each child's own memory."""
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    for number in PARENTS_SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def takes_turns() -> bool:
    """Whether threads take turns, by the interpreter's lock. In a free-threaded Python it may be off."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def use_batch_scheduling() -> None:
    """Run under SCHED_BATCH (sched(7)): by default a woken thread interrupts the one that woke it, and can't
    go on, as the other has the interpreter's lock. Another policy is an operator's (chrt(1)), and stays."""
    with suppress(OSError):  # forbidden here: it only costs speed
        if takes_turns() and os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


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
