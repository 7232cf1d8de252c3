"""What worker and event have in common: a child process with a listener thread and worker threads.

    main thread        start the threads ──> wait for the pipe of death, or `leave` ──> drain
    listener_thread    accept, and give each connection to a worker: the model's own part
    worker_thread × n  pop a connection ──> process_connection: the model's own part ──> idle again

A child leaves in two steps. `leave`: no new connections, and every response has
`Connection: close`. `drain`: the listener ends, then the workers, each after its last connection.
"""

from __future__ import annotations

import os
import sys
from _thread import LockType, allocate_lock, get_native_id, start_new_thread
from collections.abc import Callable
from typing import Any

from mpmkit.policy.states import DEAD, GRACEFUL, READY, STARTING
from mpmkit.server.child import OK, Child
from mpmkit.server.connection import Connection
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.listen import REFUSING, Accepted, close_all
from mpmkit.server.scoreboard import WorkerSlot

NEVER = float("inf")


class ThreadedChild(Child):
    """worker and event derive from this, and define

    prepare               makes what the threads share, before they start: `queue`, and the model's own
    listener_thread       accepts, and gives each connection to a worker, until this process leaves
    process_connection    serves one connection, as long as the model lets it have a thread
    """

    queue: FdQueue[Connection]
    prepare: Callable[[], None]
    listener_thread: Callable[..., None]
    process_connection: Callable[[Connection, WorkerSlot], None]
    idle_state = READY  # what an idle worker shows in the scoreboard

    def child_main(self) -> int:
        """Start the threads; wait until it is time to leave; drain. Returns the exit status."""
        self.stay_on_one_cpu()
        self.status = OK
        self.leaving = False
        self.service.leaving = lambda: self.leaving
        self.connections_left = self.directives.MaxConnectionsPerChild or NEVER
        self.eventfds: list[int] = []
        self.ended = self.eventfd()
        self.threads: list[LockType] = []  # each is locked until its thread has ended
        self.prepare()
        self.start(type(self).listener_thread)
        self.start_workers()
        self.pod.wait(self.ended)
        self.drain()
        return self.status

    def eventfd(self) -> int:
        """A descriptor that wakes a thread; it is closed when no thread is left."""
        self.eventfds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return self.eventfds[-1]

    def start_workers(self) -> None:
        """ThreadsPerChild workers. The row of the scoreboard may have been a finishing child's: the slot of
        a thread that still serves there is taken over when it has ended; we look once a second."""
        waiting = list(range(self.directives.ThreadsPerChild))
        while waiting:
            for thread in list(waiting):
                if self.board.worker(self.slot, thread).get() in (DEAD, STARTING, GRACEFUL):
                    waiting.remove(thread)
                    self.start(type(self).worker_thread, thread)
            if waiting and self.pod.wait(self.ended, 1.0):
                break

    def start(self, main: Callable[..., None], *args: int) -> None:
        """By `_thread`: an object of `threading` is 3 KB. By functions: methods would take 1 KB more of each
        thread's stack. A profile (server/prewarm.py) continues in it."""
        running = allocate_lock()
        running.acquire()
        run: Callable[..., None] = type(self).run
        start_new_thread(run, (self, running, sys.getprofile(), main, *args))
        self.threads.append(running)

    def run(self, running: LockType, profile: Any, main: Callable[..., None], *args: int) -> None:
        """A thread. An error in the server's own code ends the process, as a crash of httpd's would."""
        sys.setprofile(profile)
        try:
            main(self, *args)
        except BaseException as error:
            os._exit(self.failed(error))
        running.release()

    def worker_thread(self, thread: int) -> None:
        """Take a connection, do what there is to do for it, be idle again."""
        slot = self.board.worker(self.slot, thread)
        slot.tid = get_native_id()
        slot.set(READY)
        while (conn := self.queue.pop()) is not None:
            self.process_connection(conn, slot)
            slot.set(self.idle_state)
        slot.set(DEAD)

    def accepted(self, accept: Callable[[], Accepted]) -> Accepted:
        """What `accept` returns, for the worker that is reserved; None: it is released. An error says that the
        listening socket or this process can't go on: then this process leaves."""
        found = None
        try:
            found = accept()
        except OSError as error:
            if error.errno != REFUSING:  # or the parent has shut the sockets
                self.status = self.out_of_resources(error)
            self.leave()
        if found is None:
            self.queue.release()
        return found

    def leave(self) -> None:
        """No new connections from now on; every response says `Connection: close`."""
        if not self.leaving:
            self.leaving = True
            self.board.quiescing(self.slot)
            os.eventfd_write(self.ended, 1)

    def drain(self) -> None:
        """Let the workers finish what they hold. The listener ends first."""
        self.leave()
        listener, *workers = self.threads
        listener.acquire()
        close_all(self.listeners)
        self.queue.end()
        for running in workers:
            running.acquire()
        for fd in self.eventfds:
            os.close(fd)
