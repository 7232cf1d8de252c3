"""Where the listener thread hands a connection to a worker thread.

    worker     pop()             become idle and wait for a connection
    listener   wait_for_idler()  reserve an idle worker, or wait for one
               try_get_idler()   the same without waiting
               push(item)        the connection for the reserved worker
               offer(item)       event's: for an idle worker if there is one, else for the next to become idle
               rouse()           call a worker for each connection that still waits

A worker is reserved *before* accept: a process whose workers are all busy accepts nothing, and connections wait
in the kernel's queue, where another process can take them. (Apache: fd_queue and fd_queue_info.) One lock guards
the numbers and a deque; no thread waits while it holds it, but by one of two SimpleQueues, which are C code.

To call a worker costs two context switches. Threads that take turns gain nothing from a second one: until a
called worker has come, connections wait for it (`in_turn`), and it takes one after the other without a switch.
If it is held up, by a script or a slow client, they need workers of their own: event's listener asks for them by
`rouse`, at its next turn or PATIENCE later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
PATIENCE = 0.001  # seconds


class FdQueue(Generic[T]):
    """`became_idle` is called by each worker once it counts as idle: event's listener may listen again. in_turn:
    call one worker at a time; the listener must then `rouse`."""

    def __init__(
        self, became_idle: Callable[[], None] | None = None, in_turn: bool = False
    ) -> None:
        self._became_idle, self._in_turn = became_idle, in_turn
        self._lock = Lock()
        self.idle = 0  # workers in pop(), less those reserved, less the connections that wait
        self._called = 0  # workers that are to look at what waits, and have not
        self._waiting = False  # the listener waits for an idler
        self._backlog: deque[T] = deque()  # connections that wait for a worker
        self._jobs: SimpleQueue[T | None] = SimpleQueue()  # for workers in pop(); None: look
        self.idlers: SimpleQueue[bool] = SimpleQueue()  # for the listener in wait_for_idler()
        self._ended = False

    @property
    def behind(self) -> int:
        """How many connections wait for which no worker is called, while one is asleep: `rouse` will be due."""
        return max(len(self._backlog) + min(self.idle, 0) - self._called, 0)

    def pop(self) -> T | None:
        """Wait for a connection; None once the queue has ended."""
        called = False
        while True:
            with self._lock:
                if called:
                    self._called -= 1
                    self.idle -= 1
                if self._backlog:
                    self.idle += 1
                    return self._backlog.popleft()
                if self._ended and self.idle >= 0:  # below 0: a reservation counts on this worker
                    return None
                if self._waiting:
                    self._waiting = False
                    self.idlers.put(True)
                else:
                    self.idle += 1
            if self._became_idle is not None:
                self._became_idle()
            if (item := self._jobs.get()) is not None:
                return item
            called = True

    def wait_for_idler(self) -> bool:
        """Reserve a worker, waiting for one if all are busy. False once the queue has ended."""
        with self._lock:
            if self._ended:
                return False
            if self.idle > 0:
                self.idle -= 1
                return True
            self._waiting = True
        return self.idlers.get()

    def try_get_idler(self) -> bool:
        """Reserve a worker if one is idle."""
        with self._lock:
            if self.idle <= 0:
                return False
            self.idle -= 1
            return True

    def push(self, item: T) -> None:
        """Give `item` to the worker reserved before. Call it once for each reservation."""
        self._jobs.put(item)

    def release(self) -> None:
        """Give a reservation back unused (there was nothing to accept)."""
        with self._lock:
            self.idle += 1
            if self._ended:
                self._wake(1)

    def offer(self, item: T, reserved: bool = False) -> None:
        """`item` for an idle worker, which may be reserved before; if all are busy, for the first that asks."""
        with self._lock:
            if not reserved:
                self.idle -= 1
            self._backlog.append(item)
            if self._called and self._in_turn and not self._ended:
                return
            if self.idle + len(self._backlog) > self._called:  # one is asleep
                self._called += 1
                self._jobs.put(None)

    def rouse(self) -> None:
        """Unless a called worker is on its way: what waits gets workers of its own, if any are asleep."""
        if self._backlog and not self._called:
            with self._lock:
                self._wake(self.behind)

    def end(self) -> None:
        """No more connections: idle workers and a waiting listener return at once."""
        with self._lock:
            self._ended = True
            self._wake(self.idle + len(self._backlog) - self._called)
            waiting, self._waiting = self._waiting, False
        if waiting:
            self.idlers.put(False)

    def _wake(self, count: int) -> None:
        """With the lock: so many workers that sleep are to look again."""
        self._called += count
        for _ in range(count):
            self._jobs.put(None)
