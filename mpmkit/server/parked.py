"""event's parked connections: four time-out queues, no thread.

    state               the connection waits for    time-out          and then
    ------------------  --------------------------  ----------------  ------------------------
    KEEPALIVE           its next request            KeepAliveTimeout  lingers, LINGER_SHORT
    WRITE_COMPLETION    room for more response      Timeout           a worker logs it; LINGER_NORMAL
    LINGER_NORMAL       the close of its client     30 s              is closed
    LINGER_SHORT        the close of its client     2 s               is closed

A worker may want a parked connection because its socket has news, and at the same moment the listener because
its time is over: `claim` and `expired` give it to one of them, under one lock that is held for a microsecond.

Sockets are watched edge-triggered and registered once: no `epoll_ctl` for each request. An edge is reported
once and must not be missed. A worker that reads less than it asked for knows that the socket is empty, and
that the next byte makes a new edge. An edge may come while a worker still holds the connection, after "nothing
to read" and before "it is parked". So `news` leaves a mark, `conn.edge`, and `park` looks at it last. A false
alarm is harmless: the worker finds nothing to read, and parks the connection again.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sized
from threading import Lock
from time import monotonic

from mpmkit.config.directives import Directives
from mpmkit.policy.states import (
    KEEPALIVE,
    LINGER_NORMAL,
    LINGER_SECONDS,
    LINGER_SHORT,
    PROCESSING,
    WRITE_COMPLETION,
)
from mpmkit.policy.timeouts import TimeoutQueue
from mpmkit.server.connection import Connection
from mpmkit.server.scoreboard import Scoreboard

NEVER = float("inf")
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
WRITABLE = select.EPOLLOUT | select.EPOLLET
LINGERING = (LINGER_NORMAL, LINGER_SHORT)
# What follows when the time of a connection is over: it lingers so, waits so for a worker, or (None) is closed.
THEN: dict[int | None, int | None] = {KEEPALIVE: LINGER_SHORT, WRITE_COMPLETION: WRITE_COMPLETION}
THEN |= dict.fromkeys(LINGERING)


class ParkedConnections:
    """The waiting connections of one process of event. alarm: when the listener looks at the queues next, also if
    what is due then was claimed: that is cheaper than many new alarms. due_earlier: called for an earlier one."""

    def __init__(
        self, epoll: select.epoll, directives: Directives,
        due_earlier: Callable[[], None] = lambda: None, clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self.alarm = NEVER
        self._epoll, self._due_earlier, self._clock = epoll, due_earlier, clock
        self._lock = Lock()
        times = {KEEPALIVE: directives.KeepAliveTimeout, WRITE_COMPLETION: directives.Timeout}
        self._queues: dict[int | None, TimeoutQueue[Connection]] = {
            state: TimeoutQueue(seconds) for state, seconds in (LINGER_SECONDS | times).items()
        }

    def park(self, conn: Connection, state: int) -> bool:
        """Let a connection wait in `state`. False: news came meanwhile, and the caller keeps it. The order
        matters: watch the socket, then look for an edge that came in between."""
        events = WRITABLE if state == WRITE_COMPLETION else READABLE
        if conn.watching != events:
            if state == WRITE_COMPLETION:
                conn.edge = False  # it was about data; what we wait for is room
            (self._epoll.modify if conn.watching else self._epoll.register)(conn.fd, events)
            conn.watching = events
        queue = self._queues[state]
        now = self._clock()
        with self._lock:
            if conn.edge:
                return False
            conn.state = state
            queue.append(conn, now)
            if early := now + queue.timeout < self.alarm:
                self.alarm = now + queue.timeout
        if early:
            self._due_earlier()
        return True

    def claim(self, conn: Connection, lingering: bool = False) -> bool:
        """Take a connection out, which lingers or does not. False: another thread has it, its time was over, or
        it waits for something else by now: news that came twice offered it twice."""
        with self._lock:
            queue = self._queues.get(conn.state)
            if queue is None or lingering != (conn.state in LINGERING) or not queue.pop(conn):
                return False
            conn.state = PROCESSING
            return True

    def news(self, conn: Connection) -> int | None:
        """Something happened at the socket of `conn`. Returns its state: where it waits, or PROCESSING."""
        with self._lock:
            conn.edge = True
            return conn.state

    def expired(self) -> list[tuple[Connection, int | None]]:
        """Take out the connections whose time is over, each with what follows (THEN). One that has a response to
        send goes back, with its rest as `unsent`, until a worker claims it."""
        now = self._clock()
        with self._lock:
            late = [(queue.expired(now), THEN[state]) for state, queue in self._queues.items()]
            due = [(conn, then) for conns, then in late for conn in conns]
            for conn, then in due:
                if then == WRITE_COMPLETION:
                    conn.unsent, conn.keep_alive = conn.left, False
                    self._queues[then].append(conn, now)
                else:
                    conn.state = PROCESSING
            self.alarm = self._first_expiry()
        return due

    def hurry(self, last_request: float) -> None:
        """This process is leaving: a kept-alive client has `last_request` seconds for one, a lingering one 2."""
        with self._lock:
            self._queues[LINGER_NORMAL].timeout = LINGER_SECONDS[LINGER_SHORT]
            keeping = self._queues[KEEPALIVE]
            keeping.timeout = min(keeping.timeout, last_request)
            self.alarm = self._first_expiry()

    def _first_expiry(self) -> float:
        return min(queue.next_expiry() or NEVER for queue in self._queues.values())

    @property
    def lingering(self) -> int:
        return len(self._queues[LINGER_NORMAL]) + len(self._queues[LINGER_SHORT])

    def counts(self) -> tuple[int, int, int]:
        """In write completion, in lingering close, in keep-alive: as the scoreboard has them."""
        queues = self._queues
        return len(queues[WRITE_COMPLETION]), self.lingering, len(queues[KEEPALIVE])


class Counters:
    """How many connections a process has, and has parked, for the status page: counted within `LAG` seconds after
    news, as each turn would cost a twentieth of a kept-alive request. due: when next; NEVER without any."""

    AGE, LAG = 1.0, 0.02

    def __init__(
        self, board: Scoreboard, slot: int, connections: Sized, parked: ParkedConnections
    ) -> None:
        self.due = NEVER
        self._board, self._slot, self._connections, self._parked = board, slot, connections, parked

    def turn(self, now: float, news: bool) -> None:
        """A turn of the listener is over. news: there were events, whose effects are still to be counted."""
        if now >= self.due:
            counts = len(self._connections), *self._parked.counts()
            self._board.connections(self._slot, *counts)
            self.due = now + (self.LAG if news else self.AGE if self._connections else NEVER)
        elif news:
            self.due = min(self.due, now + self.LAG)
