"""Where the listener thread hands a connection to a worker thread.

    worker     pop()             become idle and wait for a connection
    listener   wait_for_idler()  reserve an idle worker, or wait for one
               try_get_idler()   the same without waiting
               push(item)        the connection for the reserved worker
               offer(item)       for an idle worker if there is one, else for the next to become idle

A worker is reserved *before* accept: a process whose workers are all busy accepts nothing, and connections wait
in the kernel's queue, where another process can take them. (Apache: fd_queue and fd_queue_info.) One lock guards
two numbers and a deque; no thread waits while it holds it, but by one of two SimpleQueues, which are C code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class FdQueue(Generic[T]):
    """`became_idle` is called by each worker once it counts as idle: event's listener may listen again."""

    def __init__(self, became_idle: Callable[[], None] | None = None) -> None:
        self._became_idle = became_idle
        self._lock = Lock()
        self.idle = 0  # workers in pop() that are not reserved
        self._waiting = False  # the listener waits for an idler
        self._backlog: deque[T] = deque()  # offered, while no worker was idle
        self._jobs: SimpleQueue[T | None] = SimpleQueue()  # for workers in pop()
        self.idlers: SimpleQueue[bool] = SimpleQueue()  # for the listener in wait_for_idler()
        self._ended = False

    def pop(self) -> T | None:
        """Wait for a connection; None once the queue has ended."""
        with self._lock:
            if self._backlog:
                return self._backlog.popleft()
            if self._ended:
                return None
            if self._waiting:
                self._waiting = False
                self.idlers.put(True)
            else:
                self.idle += 1
        if self._became_idle is not None:
            self._became_idle()
        return self._jobs.get()

    def wait_for_idler(self) -> bool:
        """Reserve a worker, waiting for one if all are busy. False once the queue has ended."""
        with self._lock:
            if self._ended:
                return False
            if self.idle:
                self.idle -= 1
                return True
            self._waiting = True
        return self.idlers.get()

    def try_get_idler(self) -> bool:
        """Reserve a worker if one is idle."""
        with self._lock:
            if not self.idle:
                return False
            self.idle -= 1
            return True

    def push(self, item: T) -> None:
        """Give `item` to the worker reserved before. Call it once for each reservation."""
        self._jobs.put(item)

    def release(self) -> None:
        """Give a reservation back unused (there was nothing to accept)."""
        with self._lock:
            if not self._ended:
                self.idle += 1
                return
        self._jobs.put(None)

    def offer(self, item: T) -> bool:
        """`item` for an idle worker; if all are busy, for the first that asks (then False)."""
        with self._lock:
            if self.idle:
                self.idle -= 1
            else:
                self._backlog.append(item)
                return False
        self._jobs.put(item)
        return True

    def end(self) -> None:
        """No more connections: idle workers and a waiting listener return at once."""
        with self._lock:
            self._ended = True
            idle, self.idle = self.idle, 0
            waiting, self._waiting = self._waiting, False
        for _ in range(idle):
            self._jobs.put(None)
        if waiting:
            self.idlers.put(False)
