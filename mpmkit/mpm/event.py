"""event: worker, plus a listener thread that keeps every connection that only waits.

    listener   epoll ─┬─ listening socket: above the limit? stop listening : accept ──> queue ─┐
                 ^    ├─ kept-alive connection has data ───────────────────────> queue ────────┤
                 │    ├─ slow client takes more ────────────────────────────────> queue ───────┤
                 │    ├─ lingering client closed: close                                        │
                 │    └─ somebody's time is over: linger, or close                             │
                 │                                                                             │
    worker       │  READY <────────────────────────────────────────────────────────────────────┘
                 │    └──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: park ─┐
                 │                   └── can't send all: park ────────────────── ┤
                 │                                          └─> CLOSING: park ───┤
                 └───────────────────────────────────────────────────────────────┘

A worker thread holds a connection only while there is something to do for it. To *park* is to give
it to the listener: it joins the timeout queue of what it waits for, and epoll watches its socket.
An idle keep-alive client thus costs a few KB and no thread. A client that is slow to send its
request still holds a thread, as in httpd; so does one whose filter is not safe for this (`hold`).

Some facts about watching:

* Sockets are watched edge-triggered and registered once: no `epoll_ctl` for each request. An edge
  comes once, so nobody may miss it. A worker that reads less than it asked for knows the socket is
  empty, and the next byte makes a new edge. An edge that comes while a worker holds the connection
  is noted in `conn.edge`; the worker looks there after it has parked.
* Worker and listener may reach for a parked connection at the same moment. Who pops it from its
  timeout queue has it (`TimeoutQueue.pop` gives it to one caller only); the other leaves it alone.
* So a false alarm is harmless: the worker finds nothing to read, and parks the connection again.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from threading import Thread, get_native_id
from time import monotonic

from mpmkit.policy.admission import connections_above_limit
from mpmkit.policy.states import (
    BUSY_KEEPALIVE,
    BUSY_READ,
    BUSY_WRITE,
    CLOSED,
    CLOSING,
    DEAD,
    GRACEFUL,
    KEEPALIVE,
    LINGER_NORMAL,
    LINGER_SHORT,
    PROCESSING,
    READY,
    WRITE_COMPLETION,
)
from mpmkit.policy.timeouts import TimeoutQueue
from mpmkit.server.connection import LINGER_MAX, LINGER_SILENCE, Connection, Disconnected
from mpmkit.server.core import client_text, finish_request, process_request
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.listen import REFUSING, TRANSIENT_ERRORS, close_all
from mpmkit.server.parent import CHILD_SICK, OK, Child, Parent
from mpmkit.server.scoreboard import WorkerSlot

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
WRITABLE = select.EPOLLOUT | select.EPOLLET
NEVER = float("inf")
LAST_QUESTION = 0.5  # seconds a client has after an answer, once its process is leaving
COUNTERS_AGE = 1.0  # seconds after which the published counters are made anew


def parent(*args, **options) -> Parent:
    """The control process of event; see `Parent`."""
    return Parent(EventChild, *args, **options)


class EventChild(Child):
    def child_main(self) -> int:
        """Start the threads; wait until it is time to leave; drain."""
        self.stay_on_one_cpu()
        self.status = OK
        self.leaving = False
        self.connections_left = self.directives.MaxConnectionsPerChild or NEVER
        self.queue: FdQueue[Connection] = FdQueue(self.worker_idle)
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.parked: dict[int | None, TimeoutQueue[Connection]] = {
            KEEPALIVE: TimeoutQueue(self.directives.KeepAliveTimeout),
            WRITE_COMPLETION: TimeoutQueue(self.directives.Timeout),
            LINGER_NORMAL: TimeoutQueue(LINGER_MAX),
            LINGER_SHORT: TimeoutQueue(LINGER_SILENCE),
        }
        # When the listener looks at the timeout queues again. It stays as it is when the connection
        # that is due then has long been claimed: one vain look is cheaper than many new alarms.
        self.next_expiry = NEVER
        self.listening = False
        self.declined = False  # a connection was turned away: it takes more room to listen again
        self.start_threads()
        self.pod.wait(self.ended)
        self.drain()
        return self.status

    def start_threads(self) -> None:
        """The listener and ThreadsPerChild workers."""
        self.threads: list[Thread] = []
        self.start(self.listener_thread)
        for thread in range(self.directives.ThreadsPerChild):
            self.start(self.worker_thread, thread)

    def start(self, main: Callable[..., None], *args: int) -> None:
        thread = Thread(target=main, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    # -- the listener thread --------------------------------------------------------------------

    def listener_thread(self) -> None:
        """Wait for everybody who waits; give whoever is ready to a worker."""
        self.epoll.register(self.wakeup, select.EPOLLIN)
        listeners = {sock.fileno(): sock for sock in self.listeners}
        self.listen(True)
        while not self.leaving or self.connections:
            wait = self.next_expiry - monotonic()
            if self.connections:
                wait = min(wait, COUNTERS_AGE)
            events = self.epoll.poll(max(wait, 0) if wait != NEVER else None)
            # New connections first: whoever else is ready must not take the idle worker from them.
            for fd, _ in events:
                if fd in listeners:
                    self.accept(listeners[fd])
            for fd, _ in events:
                if fd == self.wakeup:
                    os.eventfd_read(fd)
                    self.next_expiry = min(self.next_expiry, self.first_expiry())
                elif fd not in listeners:
                    self.ready(fd)
            if monotonic() >= self.next_expiry:
                self.expire()
            if self.leaving:
                self.listen(False)
                self.stop_keeping()
            else:
                # Before the next wait, not when the next connection comes: the kernel wakes one
                # listener for each, and one that declines lets it wait while other processes idle.
                if self.listening and connections_above_limit(**self.load()):
                    self.listen(False)
                # Also when just switched off: a worker may have become idle in between, unheard.
                if not self.listening and not connections_above_limit(**self.load()):
                    self.listen(True)
            self.publish()
        self.listen(False)
        self.leave()

    def accept(self, listener) -> None:
        """One new connection for an idle worker, unless this process holds enough already."""
        if not self.listening:
            return
        if connections_above_limit(**self.load()) or not self.queue.try_get_idler():
            self.declined = True
            self.listen(False)
            return
        try:
            sock, peer = listener.accept_bare()
        except OSError as error:
            self.queue.release()
            if error.errno == REFUSING:
                self.leave()
            elif error.errno not in TRANSIENT_ERRORS:
                self.service.errors.write(
                    "error", f"accept: {error.strerror}; this child leaves", ah="AH02179"
                )
                self.status = CHILD_SICK
                self.leave()
            return
        conn = self.service.connection(sock, peer, nonblocking=True)
        conn.state = None  # in nobody's hands yet
        self.connections[conn.fd] = conn
        self.queue.push(conn)
        self.connections_left -= 1
        if self.connections_left <= 0:
            self.leave()

    def ready(self, fd: int) -> None:
        """A watched socket has news: data, room, or its client's close."""
        conn = self.connections.get(fd)
        if conn is None:
            return
        conn.edge = True
        state = conn.state  # read once: a worker may be changing it
        if state == KEEPALIVE or state == WRITE_COMPLETION:
            self.queue.offer(conn)
        elif (state == LINGER_NORMAL or state == LINGER_SHORT) and conn.drained():
            if self.parked[state].pop(conn) is not None:
                self.close(conn)

    def expire(self) -> None:
        """Whose time is over? Lingering connections are closed, the others begin to linger."""
        now = monotonic()
        for state in (LINGER_NORMAL, LINGER_SHORT):
            for conn in self.parked[state].expired(now):
                self.close(conn)
        for conn in self.parked[KEEPALIVE].expired(now):
            self.linger(conn, LINGER_SHORT)
        for conn in self.parked[WRITE_COMPLETION].expired(now):
            self.linger(conn, LINGER_NORMAL)
        # First NEVER: a worker that parks from now on finds its connection due earlier, and wakes us.
        self.next_expiry = NEVER
        self.next_expiry = min(self.next_expiry, self.first_expiry())

    def first_expiry(self) -> float:
        """When the first of all parked connections is due."""
        return min(queue.next_expiry() or NEVER for queue in self.parked.values())

    def stop_keeping(self) -> None:
        """This process is leaving: who has been quiet for a moment is told so at once, who was answered
        just now may be asking again, and is told with the next answer. Lingering ones have 2 s."""
        self.parked[LINGER_NORMAL].timeout = LINGER_SILENCE
        keeping = self.parked[KEEPALIVE]
        keeping.timeout = min(keeping.timeout, LAST_QUESTION)
        self.next_expiry = self.first_expiry()

    def load(self) -> dict:
        """What the admission rule looks at (admission.py)."""
        return {
            "idle": self.queue.idle,
            "connections": len(self.connections),
            "lingering": len(self.parked[LINGER_NORMAL]) + len(self.parked[LINGER_SHORT]),
            "threads_per_child": self.directives.ThreadsPerChild,
            "factor": self.directives.async_factor,
            "listening_disabled": self.declined,
        }

    def listen(self, on: bool) -> None:
        """Watch the listening sockets, or don't (then other processes get the connections)."""
        if on == self.listening:
            return
        self.listening = on
        self.declined = self.declined and not on
        for sock in self.listeners:
            if on:
                self.epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
            else:
                self.epoll.unregister(sock.fileno())
        self.process.not_accepting(not on)

    def publish(self) -> None:
        """The connection counters of this process, for the status page."""
        parked = self.parked
        closing = len(parked[LINGER_NORMAL]) + len(parked[LINGER_SHORT])
        self.process.connections(
            len(self.connections), len(parked[WRITE_COMPLETION]), len(parked[KEEPALIVE]), closing
        )

    # -- worker threads -------------------------------------------------------------------------

    def worker_thread(self, thread: int) -> None:
        """Take a connection, do what there is to do, park or close it, be idle again."""
        slot = self.board.worker(self.slot, thread)
        slot.tid = get_native_id()
        slot.set(READY)
        while (conn := self.queue.pop()) is not None:
            self.process_connection(conn, slot)
            slot.set(GRACEFUL if self.leaving else READY)
        slot.set(DEAD)

    def worker_idle(self) -> None:
        """A worker counts as idle from now on: listening may be possible again."""
        if not self.listening:
            self.wake_listener()

    def process_connection(self, conn: Connection, slot: WorkerSlot) -> None:
        """What there is to do for one connection, until it waits or ends."""
        service = self.service
        if conn.state is None:
            conn.state = PROCESSING
            slot.set(BUSY_READ)
            slot.connected(client_text(conn.peer))
        elif not self.claim(conn):
            return
        try:
            if not conn.async_safe:
                self.hold(conn, slot)
            while conn.async_safe:
                if conn.pending is not None:
                    slot.set(BUSY_WRITE)
                    if not conn.flush():
                        if self.park(conn, WRITE_COMPLETION):
                            return
                        continue
                    alive = finish_request(conn, slot, service)
                else:
                    if conn.kept and not conn.protocol.pending and not conn.fill():
                        if self.park(conn, KEEPALIVE):
                            return
                        continue
                    slot.set(BUSY_READ)
                    alive = process_request(conn, slot, service)
                    if conn.pending is not None:
                        continue
                if not alive:
                    break
                if not conn.protocol.pending and self.park(conn, KEEPALIVE):
                    return
        except Disconnected:
            self.close(conn)
            return
        slot.set(CLOSING)
        self.linger(conn, LINGER_NORMAL)

    def hold(self, conn: Connection, slot: WorkerSlot) -> None:
        """A filter keeps bytes where epoll can't see them (filters.py): this thread stays with the
        connection through all its requests and the waits between them, as worker's does."""
        while process_request(conn, slot, self.service):
            slot.set(BUSY_KEEPALIVE)

    def claim(self, conn: Connection) -> bool:
        """Take a parked connection. False: somebody else has it, or its time was over."""
        queue = self.parked.get(conn.state)
        if queue is None or queue.pop(conn) is None:
            return False
        conn.state = PROCESSING
        return True

    def park(self, conn: Connection, state: int) -> bool:
        """Give a connection to the listener. False: news came meanwhile, and the caller has it again.

        The order matters: watch, then join the queue, then look for an edge that came in between.
        """
        events = WRITABLE if state == WRITE_COMPLETION else READABLE
        if conn.watching != events:
            if state == WRITE_COMPLETION:
                conn.edge = False  # it told of data; what we wait for is room
            (self.epoll.modify if conn.watching else self.epoll.register)(conn.fd, events)
            conn.watching = events
        queue = self.parked[state]
        now = monotonic()
        conn.state = state
        queue.append(conn, conn, now)
        if conn.edge and queue.pop(conn) is not None:
            conn.state = PROCESSING
            return False
        if now + queue.timeout < self.next_expiry or self.leaving:
            self.wake_listener()
        return True

    def linger(self, conn: Connection, state: int) -> None:
        """Say that no more is coming; close when the client has closed, or time is over."""
        conn.state = CLOSING
        if conn.client_is_done() or not conn.half_close():
            self.close(conn)
            return
        while True:
            conn.edge = False
            if conn.drained():
                self.close(conn)
                return
            if self.park(conn, state):
                return

    def close(self, conn: Connection) -> None:
        """The end of a connection. First out of the table: the number of its socket is free then."""
        conn.state = CLOSED
        del self.connections[conn.fd]
        conn.close()
        if not self.listening or (self.leaving and not self.connections):
            self.wake_listener()

    def wake_listener(self) -> None:
        os.eventfd_write(self.wakeup, 1)

    # -- leaving --------------------------------------------------------------------------------

    def leave(self) -> None:
        """No new connections from now on; every response says `Connection: close`."""
        if not self.leaving:
            self.leaving = True
            self.service.stopping = True
            self.process.quiescing()
            self.board.set_states(
                self.slot, GRACEFUL, self.directives.ThreadsPerChild, only=(READY,)
            )
            os.eventfd_write(self.ended, 1)
            self.wake_listener()

    def drain(self) -> None:
        """Let the workers finish what they hold; the listener stays until the last connection ends."""
        self.leave()
        self.threads[0].join()
        close_all(self.listeners)
        self.queue.end()
        for thread in self.threads:
            thread.join()
