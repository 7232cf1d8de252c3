"""Where the listener thread hands a connection to a worker thread.

    worker     pop()             become idle and wait for a connection
    listener   wait_for_idler()  reserve an idle worker, or wait for one
               try_get_idler()   the same without waiting
               push(item)        the connection for the reserved worker
               offer(item)       for an idle worker if there is one, else for the next to become idle
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
        self._asleep = 0  # workers in pop() that are not called
        self._called = 0  # those that are, until they look
        self._reserved = 0  # of both
        self._waiting = False  # the listener waits for an idler
        self._backlog: deque[T] = deque()  # connections that no worker has taken yet
        self._calls: SimpleQueue[int] = (
            SimpleQueue()
        )  # for workers in pop(): a 1 for each called one
        self.idlers: SimpleQueue[bool] = SimpleQueue()  # for the listener in wait_for_idler()
        self._ended = False

    @property
    def idle(self) -> int:
        """Workers that have nothing to do, and will get nothing of what is waiting."""
        return max(self._asleep + self._called - self._reserved - len(self._backlog), 0)

    @property
    def behind(self) -> bool:
        """Whether connections wait although workers are asleep."""
        return bool(self._backlog and self._asleep)

    def pop(self) -> T | None:
        """Wait for a connection; None once the queue has ended."""
        came = 0
        while True:
            with self._lock:
                self._called -= came
                if self._backlog:
                    return self._backlog.popleft()
                if self._ended:
                    return None
                self._asleep += 1
                if self._waiting:
                    self._waiting = False
                    self._reserved += 1
                    self.idlers.put(True)
            if self._became_idle is not None:
                self._became_idle()
            came = self._calls.get()

    def wait_for_idler(self) -> bool:
        """Reserve a worker, waiting for one if all are busy. False once the queue has ended."""
        with self._lock:
            if self._ended:
                return False
            if self.idle:
                self._reserved += 1
                return True
            self._waiting = True
        return self.idlers.get()

    def try_get_idler(self) -> bool:
        """Reserve a worker if one is idle."""
        with self._lock:
            if not self.idle:
                return False
            self._reserved += 1
            return True

    def push(self, item: T) -> None:
        """Give `item` to the worker reserved before. Call it once for each reservation."""
        with self._lock:
            self._reserved -= 1
            calling = self._give(item)
        if calling:
            self._calls.put(1)

    def release(self) -> None:
        """Give a reservation back unused (there was nothing to accept)."""
        with self._lock:
            self._reserved -= 1

    def offer(self, item: T) -> None:
        """`item` for an idle worker; if all are busy, for the first that asks."""
        with self._lock:
            calling = self._give(item)
        if calling:
            self._calls.put(1)

    def _give(self, item: T) -> bool:
        """With the lock: `item` waits. Whether to call a worker for it."""
        self._backlog.append(item)
        if not self._asleep or (self._in_turn and self._called):
            return False
        self._asleep -= 1
        self._called += 1
        return True

    def rouse(self) -> None:
        """What waits although no called worker is on its way gets workers of its own, if any are asleep."""
        if self._backlog and not self._called:
            with self._lock:
                count = min(self._asleep, len(self._backlog))
                self._asleep -= count
                self._called += count
            for _ in range(count):
                self._calls.put(1)

    def end(self) -> None:
        """No more connections: idle workers and a waiting listener return at once."""
        with self._lock:
            self._ended = True
            count, self._asleep = self._asleep, 0
            self._called += count
            waiting, self._waiting = self._waiting, False
        for _ in range(count):
            self._calls.put(1)
        if waiting:
            self.idlers.put(False)
