"""worker: processes with threads, a thread for each connection.

    listener   wait for an idle worker ──> accept ──> queue ─┐
                                                             │
    worker     READY <───────────────────────────────────────┘
                 └──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: wait here ─┐
                       ^                               │                         │
                       └───────────────────────────────│─────────────────────────┘
               READY <──────── CLOSING: linger <───────┘

A worker thread does what a whole process does under prefork, so a client costs a thread, which is
cheaper. Threads share memory: scripts must be thread-safe, and a crash ends all connections of its
process. A client in keep-alive still holds its thread.

The listener reserves an idle worker *before* it accepts. A process whose threads are all busy
accepts nothing, and the next connection goes to another process.
"""

from __future__ import annotations

from threading import Lock

from mpmkit.mpm.threaded import NEVER, ThreadedChild
from mpmkit.policy import states
from mpmkit.server.connection import Connection
from mpmkit.server.core import process_request
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.listen import Acceptor
from mpmkit.server.scoreboard import WorkerSlot


class WorkerChild(ThreadedChild):
    def prepare(self) -> None:
        self.queue: FdQueue[Connection] = FdQueue()
        self.counting = Lock()

    def listener_thread(self) -> None:
        """Reserve a worker, accept, hand over."""
        acceptor = Acceptor(self.listeners, self.ended)
        while not self.leaving and self.connections_left > 0 and self.queue.wait_for_idler():
            self.accept(acceptor)
        acceptor.close()
        self.leave()

    def accept(self, listener: Acceptor) -> None:
        """One new connection for the worker that is reserved; without one this process leaves."""
        if (accepted := self.accepted(listener.accept)) is None:
            self.leave()
            return
        if self.connections_left <= 0:
            self.leave()  # before the last connection's response: it says `Connection: close`
        self.queue.push(self.service.connection(*accepted))

    def process_connection(self, conn: Connection, slot: WorkerSlot) -> None:
        """Every request of one connection, and its close: all in this thread."""
        slot.set(states.BUSY_READ)
        slot.connected(conn.peer[0])
        while process_request(conn, slot, self.service):
            slot.set(states.BUSY_KEEPALIVE)
        slot.set(states.CLOSING)
        conn.lingering_close()
        if self.connections_left != NEVER:
            with self.counting:
                self.connections_left -= 1
