"""TraceLog: what moved each connection, a line a step; docs/TRACER.md has the columns.

The code that serves knows nothing of this. `begin` wraps methods of the classes that the three models share,
once, in the control process before its first fork. Each step is written at once by one `write` to a file opened
with O_APPEND: a child that crashes loses none. A disk that is full ends the trace, not the server.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, local
from time import monotonic_ns
from types import FrameType
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.policy.connection_trace import CAUSE_OF_LETTER, HEAD, STATE_NAMES
from mpmkit.policy.states import BUSY, LETTERS
from mpmkit.policy.timeouts import TimeoutQueue
from mpmkit.server.child import Child
from mpmkit.server.connection import Connection
from mpmkit.server.core import ConnectionFactory
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.logs import open_log
from mpmkit.server.parked import ParkedConnections
from mpmkit.server.scoreboard import Scoreboard, WorkerSlot

_MODELS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "mpm")


def begin(directives: Directives) -> None:
    """Write the steps of this process and of those it forks to TraceLog. Raises LogError."""
    assert directives.TraceLog is not None
    fd = open_log(directives.TraceLog, "TraceLog")
    os.write(fd, HEAD.format(mpm=directives.mpm, threads=directives.ThreadsPerChild).encode())
    for kind, name, step in Tracer(fd).points():
        setattr(kind, name, _wrapped(getattr(kind, name), step))


def _wrapped(method: Callable, step: Callable) -> Callable:
    """`method`, which `step` calls, and writes what it did."""
    return lambda *args, **named: step(method, *args, **named)


class Tracer:
    """Writes the steps of one process. The state of each connection is what its last step said."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = Lock()  # time, state and line of a step belong together
        self._here = local()  # thread: its number, if it has one; conn: which connection it has
        self._states: dict[str, str] = {}  # of each connection
        self._letters: dict[int, str] = {}  # of each thread
        self._slot, self._pid = -1, 0

    def points(self) -> tuple[tuple[type, str, Callable[..., Any]], ...]:
        """What is wrapped: class, method, and what calls it and writes the step."""
        return (
            (Child, "__init__", self.born),
            (ConnectionFactory, "__call__", self.took("accepted", "ACCEPTED")),
            (FdQueue, "wait_for_idler", self.after("reserved")),
            (FdQueue, "try_get_idler", self.after("reserved")),
            (FdQueue, "release", self.before("released")),
            (FdQueue, "push", self.before("pushed")),
            (FdQueue, "offer", self.before("pushed")),
            (FdQueue, "pop", self.took("popped")),
            (ParkedConnections, "news", self.before("edge")),
            (TimeoutQueue, "append", self.parked),
            (TimeoutQueue, "pop", self.after("claimed", "PROCESSING")),
            (TimeoutQueue, "expired", self.expired),
            (Connection, "half_close", self.after("lingered", "LINGER")),
            (Connection, "close", self.before("closed", "CLOSED")),
            (WorkerSlot, "set", self.letter),
            (Scoreboard, "not_accepting", self.listening),
            (Scoreboard, "set_states", self.letters),
            (Scoreboard, "died", self.died),
        )

    def write(
        self, cause: str, conn: Any = None, to: str | None = None,
        *, since: str = "-", at: tuple[int, int | str] | None = None,
    ) -> None:  # fmt: skip
        """One step, of a connection if `conn` is one. `to` None: the state stays. `since`: the state before,
        where there is no connection. `at`: another slot and thread than those that run here."""
        slot, thread = at or (self._slot, getattr(self._here, "thread", "L"))
        where, name = _line(), "-"
        with self._lock:
            if isinstance(conn, Connection):
                name = _address(conn)
                since = self._states.pop(name, "-")
                if since == "-" and cause != "accepted":
                    return  # an edge of a connection that a worker has closed meanwhile
                if cause != "closed":
                    self._states[name] = to or since
            words = (monotonic_ns(), slot, self._pid or "-", thread, name, since, to or since)
            with suppress(OSError):
                os.write(self._fd, (" ".join(map(str, (*words, cause, where))) + "\n").encode())

    # -- processes and threads ------------------------------------------------------------------

    def born(self, method: Callable, child: Child, context: Any, slot: int) -> None:
        method(child, context, slot)
        self._slot, self._pid = slot, os.getpid()
        self.write("born", to="S", at=(slot, 0))

    def died(self, method: Callable, board: Scoreboard, slot: int) -> None:
        """In the control process, once the child is reaped."""
        method(board, slot)
        self.write("died", to=".", at=(slot, 0))

    def letter(self, method: Callable, slot: WorkerSlot, state: int) -> None:
        method(slot, state)
        here, letter = self._here, LETTERS[state]
        here.thread = slot.thread
        before, self._letters[slot.thread] = self._letters.get(slot.thread, "S"), letter
        conn = getattr(here, "conn", None)
        if state not in BUSY:
            conn = here.conn = None
        shown = before if conn is None else self._states.get(_address(conn))
        if letter != before or letter != shown:
            self.write(CAUSE_OF_LETTER[letter], conn, letter, since=before)

    def letters(
        self, method: Callable, board: Scoreboard, slot: int, state: int, threads: int, **named: Any
    ) -> None:
        before = [board.worker(slot, thread).get() for thread in range(threads)]
        method(board, slot, state, threads, **named)
        letter = LETTERS[state]
        for thread, was in enumerate(before):
            if was in named["only"]:
                self._letters[thread], cause = letter, CAUSE_OF_LETTER[letter]
                self.write(cause, to=letter, since=LETTERS[was], at=(slot, thread))

    # -- connections ----------------------------------------------------------------------------

    def before(self, cause: str, to: str | None = None) -> Callable[..., Any]:
        """A step that is written first: another thread may go on with the connection at once."""

        def step(method: Callable, *given: Any, **named: Any) -> Any:
            self.write(cause, given[-1], to)
            return method(*given, **named)

        return step

    def after(self, cause: str, to: str | None = None) -> Callable[..., Any]:
        """A step that was one if the method returns True."""

        def step(method: Callable, *given: Any) -> Any:
            if found := method(*given):
                self.write(cause, given[-1], to)
            return found

        return step

    def took(self, cause: str, to: str | None = None) -> Callable[..., Any]:
        """A step that gives this thread the connection that the method returns."""

        def step(method: Callable, *given: Any, **named: Any) -> Connection | None:
            self._here.conn = conn = method(*given, **named)
            if conn is not None:
                self.write(cause, conn, to)
            return conn

        return step

    def parked(self, method: Callable, queue: Any, conn: Connection, now: float) -> None:
        """By `ParkedConnections.park`, which holds its lock and has set the new state."""
        method(queue, conn, now)
        assert conn.state is not None
        self.write("parked", conn, STATE_NAMES[conn.state])

    def expired(self, method: Callable, queue: TimeoutQueue, now: float) -> list[Connection]:
        for conn in (due := method(queue, now)):
            self.write("expired", conn, "PROCESSING")
        return due

    def listening(self, method: Callable, board: Scoreboard, slot: int, stopped: bool) -> None:
        method(board, slot, stopped)
        self.write("disabled" if stopped else "enabled")


def _address(conn: Connection) -> str:
    return f"{conn.peer[0]}:{conn.peer[1]}"


def _line() -> str:
    """The innermost line of mpm/*.py that runs in this thread, as `event.py:170`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        folder, file = os.path.split(frame.f_code.co_filename)
        if folder == _MODELS:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "-"
