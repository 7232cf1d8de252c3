"""worker: processes with threads, a thread for each connection.

    listener   wait for an idle worker ──> accept ──> queue ─┐
                                                             │
    worker     READY <───────────────────────────────────────┘
                 └──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: wait here ─┐
                       ^                               │                         │
                       └───────────────────────────────│─────────────────────────┘
               READY <──────── CLOSING: linger <───────┘

A worker thread does what a whole process does under prefork, so a client costs a thread, which is
less. Threads share memory: scripts must be thread-safe, and a crash takes all connections of its
process. A client in keep-alive still holds its thread.

The listener reserves an idle worker *before* it accepts. A process whose threads are all busy
accepts nothing, and the next connection goes to another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock, Thread, get_native_id

from mpmkit.policy.states import BUSY_KEEPALIVE, BUSY_READ, CLOSING, DEAD, GRACEFUL, READY, STARTING
from mpmkit.server.connection import Connection
from mpmkit.server.core import client_text, process_request
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.listen import Acceptor, close_all
from mpmkit.server.parent import CHILD_SICK, OK, Child, Parent


def parent(*args, **options) -> Parent:
    """The control process of worker; see `Parent`."""
    return Parent(WorkerChild, *args, **options)


class WorkerChild(Child):
    def child_main(self) -> int:
        """Start the threads; wait until it is time to leave; drain."""
        self.stay_on_one_cpu()
        self.status = OK
        self.leaving = False
        self.connections_left = self.directives.MaxConnectionsPerChild or float("inf")
        self.counting = Lock()
        self.queue: FdQueue[Connection] = FdQueue()
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.start_threads()
        self.pod.wait(self.wakeup)
        self.drain()
        return self.status

    def start_threads(self) -> None:
        """ThreadsPerChild workers and the listener.

        The row may have been a finishing child's (see maintenance.py): the slots of threads that
        still serve there are taken over when these have ended, one look a second.
        """
        self.threads: list[Thread] = []
        self.start(self.listener_thread)
        waiting = list(range(self.directives.ThreadsPerChild))
        while waiting:
            for thread in list(waiting):
                if self.board.worker(self.slot, thread).get() in (DEAD, STARTING, GRACEFUL):
                    waiting.remove(thread)
                    self.start(self.worker_thread, thread)
            if waiting and self.pod.wait(self.wakeup, 1.0):
                break

    def start(self, main: Callable[..., None], *args: int) -> None:
        thread = Thread(target=main, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    def listener_thread(self) -> None:
        """Reserve a worker, accept, hand over."""
        acceptor = Acceptor(self.listeners, self.wakeup)
        while not self.leaving and self.connections_left > 0 and self.queue.wait_for_idler():
            try:
                accepted = acceptor.accept()
            except OSError as error:
                self.service.errors.write(
                    "error", f"accept: {error.strerror}; this child leaves", ah="AH02179"
                )
                self.status = CHILD_SICK
                accepted = None
            if accepted is None:
                self.queue.release()
                break
            if self.connections_left <= 0:
                self.leave()  # before the last connection's response: it says `Connection: close`
            self.queue.push(self.service.connection(*accepted))
        acceptor.close()
        self.leave()

    def worker_thread(self, thread: int) -> None:
        """Take a connection, serve it to its end, be idle again."""
        slot = self.board.worker(self.slot, thread)
        slot.tid = get_native_id()
        slot.set(READY)
        while (conn := self.queue.pop()) is not None:
            slot.set(BUSY_READ)
            slot.connected(client_text(conn.peer))
            self.process_connection(conn, slot)
            slot.set(READY)
            if self.connections_left != float("inf"):
                with self.counting:
                    self.connections_left -= 1
        slot.set(DEAD)

    def process_connection(self, conn: Connection, slot) -> None:
        """Every request of one connection, and its close: all in this thread."""
        while process_request(conn, slot, self.service):
            slot.set(BUSY_KEEPALIVE)
        slot.set(CLOSING)
        conn.lingering_close()

    def leave(self) -> None:
        """No new connections from now on; every response says `Connection: close`."""
        if not self.leaving:
            self.leaving = True
            self.service.stopping = True
            self.process.quiescing()
            os.eventfd_write(self.wakeup, 1)

    def drain(self) -> None:
        """Let the workers finish what they hold."""
        self.leave()
        self.threads[0].join()
        close_all(self.listeners)
        self.queue.end()
        for thread in self.threads:
            thread.join()
