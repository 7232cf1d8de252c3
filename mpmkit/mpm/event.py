"""event: like worker, but connections that only wait stay with the listener thread.

    listener   epoll ─┬─ listening socket: above the limit? stop listening : accept ──> queue ─┐
                 ^    ├─ kept-alive connection has data ───────────────────────> queue ────────┤
                 │    ├─ slow client takes more ────────────────────────────────> queue ───────┤
                 │    ├─ lingering client closed: close                                        │
                 │    └─ a connection's time is over: linger, or close                         │
                 │                                                                             │
    worker       │  READY <────────────────────────────────────────────────────────────────────┘
                 │    └──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: park ─┐
                 │                   └── can't send all: park ────────────────── ┤
                 │                                          └─> CLOSING: park ───┤
                 └───────────────────────────────────────────────────────────────┘

A worker thread holds a connection only while there is work to do. To *park* a connection is to give
it to the listener: it joins a time-out queue, and epoll watches its socket
(server/parked.py). An idle keep-alive client thus costs a few KB and no thread. A client that is
slow to send its request still holds a thread, as in httpd.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from mpmkit.mpm.threaded import NEVER, ThreadedChild
from mpmkit.policy import states
from mpmkit.policy.admission import connections_above_limit
from mpmkit.server.child import takes_turns
from mpmkit.server.connection import Connection, Disconnected
from mpmkit.server.core import finish_request, process_request
from mpmkit.server.fdqueue import PATIENCE, FdQueue
from mpmkit.server.listen import ListenSocks
from mpmkit.server.parked import LINGERING, Counters, ParkedConnections
from mpmkit.server.scoreboard import WorkerSlot

LAST_REQUEST = 0.5  # seconds that a client has for one more request once its process is leaving


class EventChild(ThreadedChild):
    def prepare(self) -> None:
        self.queue: FdQueue[Connection] = FdQueue(self.worker_idle, takes_turns())
        self.epoll = select.epoll()
        self.parked = ParkedConnections(self.epoll, self.directives, self.wake_listener)
        self.connections: dict[int, Connection] = {}
        self.counters = Counters(self.board, self.slot, self.connections, self.parked)
        self.wakeup = self.eventfd()
        self.socks = ListenSocks(self.epoll, self.listeners, self.board, self.slot)

    # -- the listener thread --------------------------------------------------------------------

    def listener_thread(self) -> None:
        """Watch all parked connections; give those with news to workers."""
        socks = self.socks
        self.epoll.register(self.wakeup, select.EPOLLIN)
        socks.enable()
        while not self.leaving or self.connections:
            wait = min(self.parked.alarm, self.counters.due) - monotonic()
            if self.queue.behind:  # its called worker may be held up
                wait = min(wait, PATIENCE)
            events = self.epoll.poll(max(wait, 0) if wait != NEVER else None)
            self.queue.rouse()
            # New connections first: those that have news must not take the idle worker from them.
            for fd, _ in events:
                if fd in socks and socks.enabled:
                    self.accept(fd)
            for fd, _ in events:
                if fd == self.wakeup:
                    os.eventfd_read(fd)
                elif fd not in socks:
                    self.ready(fd)
            now = monotonic()
            late = now >= self.parked.alarm
            if late:
                self.expire()
            if self.leaving:
                socks.disable()
                self.parked.hurry(LAST_REQUEST)
            else:
                # Before the next wait, not when the next connection comes: the kernel wakes one
                # listener for each, and one that declines lets it wait while other processes idle.
                if socks.enabled and self.above_limit():
                    socks.disable()
                # Also when just disabled: a worker may have become idle in between, unheard.
                if not socks.enabled and not self.above_limit():
                    socks.enable()
            self.counters.turn(now, late or bool(events))
        socks.disable()
        self.leave()
        self.epoll.close()

    def accept(self, listener: int) -> None:
        """One new connection for an idle worker, unless this process holds enough already."""
        if self.above_limit() or not self.queue.try_get_idler():
            self.socks.disable(declined=True)
            return
        if (accepted := self.accepted(self.socks[listener].accept_bare)) is None:
            return
        conn = self.service.connection(*accepted, nonblocking=True)
        conn.state = None  # no worker has had it yet
        self.connections[conn.fd] = conn
        self.queue.offer(conn, reserved=True)
        self.connections_left -= 1
        if self.connections_left <= 0:
            self.leave()

    def ready(self, fd: int) -> None:
        """A watched socket has news: data, room, or its client's close."""
        conn = self.connections.get(fd)
        if conn is None:
            return
        state = self.parked.news(conn)
        if state == states.KEEPALIVE or state == states.WRITE_COMPLETION:
            self.queue.offer(conn)
        elif state in LINGERING and conn.drained():
            if self.parked.claim(conn, lingering=True):
                self.close(conn)

    def expire(self) -> None:
        """Close the lingering connections whose time is over; let the others linger, or a worker end them."""
        for conn, then in self.parked.expired():
            if then is None:
                self.close(conn)
            elif then == states.WRITE_COMPLETION:
                self.queue.offer(conn)
            else:
                self.linger(conn, then)

    def above_limit(self) -> bool:
        """Should this process accept no more for now? (policy/admission.py)"""
        return connections_above_limit(
            idle=self.queue.idle,
            connections=len(self.connections),
            lingering=self.parked.lingering,
            threads_per_child=self.directives.ThreadsPerChild,
            factor=self.directives.async_factor,
            listening_disabled=self.socks.declined,
        )

    # -- worker threads -------------------------------------------------------------------------

    def worker_idle(self) -> None:
        """A worker counts as idle from now on: listening may be possible again."""
        if not self.socks.enabled:
            self.wake_listener()

    def process_connection(self, conn: Connection, slot: WorkerSlot) -> None:
        """What there is to do for one connection, until it waits or ends."""
        service = self.service
        if conn.state is None:
            conn.state = states.PROCESSING
            slot.set(states.BUSY_READ)
            slot.connected(conn.peer[0])
        elif not self.parked.claim(conn):
            return
        try:
            while conn.async_safe:
                if conn.pending is not None:
                    slot.set(states.BUSY_WRITE)
                    # With `unsent` its time is over (parked.py): all that is left is to log it.
                    if not conn.unsent and not conn.flush():
                        if self.parked.park(conn, states.WRITE_COMPLETION):
                            return
                        continue
                    alive = finish_request(conn, slot, service)
                else:
                    if conn.kept and not conn.protocol.pending and not conn.fill():
                        if self.parked.park(conn, states.KEEPALIVE):
                            return
                        continue
                    slot.set(states.BUSY_READ)
                    alive = process_request(conn, slot, service)
                    if conn.pending is not None:
                        continue
                if not alive:
                    break
                if not conn.protocol.pending and self.parked.park(conn, states.KEEPALIVE):
                    return
            else:
                # A filter keeps bytes where epoll can't see them (server/filters.py): this thread
                # stays with the connection to its end, as a thread of worker does.
                while process_request(conn, slot, service):
                    slot.set(states.BUSY_KEEPALIVE)
        except Disconnected:
            if conn.unsent:
                finish_request(conn, slot, service)
            self.close(conn)
            return
        slot.set(states.CLOSING)
        self.linger(conn, states.LINGER_NORMAL)

    # -- by either of them ----------------------------------------------------------------------

    def linger(self, conn: Connection, state: int) -> None:
        """Say that no more is coming; close when the client has closed, or its time is over."""
        if conn.client_is_done() or not conn.half_close():
            self.close(conn)
            return
        while True:
            conn.edge = False
            if conn.drained():
                self.close(conn)
                return
            if self.parked.park(conn, state):
                return

    def close(self, conn: Connection) -> None:
        """The end of a connection. First out of the table: the number of its socket is free then."""
        conn.state = states.CLOSED
        del self.connections[conn.fd]
        conn.close()
        if not self.socks.enabled or (self.leaving and not self.connections):
            self.wake_listener()

    def wake_listener(self) -> None:
        os.eventfd_write(self.wakeup, 1)

    # -- leaving --------------------------------------------------------------------------------

    def leave(self) -> None:
        """Also in the scoreboard. The listener goes on until the last connection ends."""
        if not self.leaving:
            super().leave()
            self.idle_state = states.GRACEFUL
            threads = self.directives.ThreadsPerChild
            self.board.set_states(self.slot, states.GRACEFUL, threads, only=(states.READY,))
            self.wake_listener()
