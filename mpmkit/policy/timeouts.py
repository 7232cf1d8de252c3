"""Time-out queues: who has been waiting for longer than allowed?

Event keeps every connection that waits without a thread in a queue, and has one queue for each
time-out value. That is the whole trick: within one queue everybody may wait for the same time, so
who came last expires last, and appending at the end keeps the queue sorted without ever sorting.
Appending, claiming and finding the next expiry cost the same with ten connections or ten thousand.

A connection leaves in one of two ways. Its client speaks, and it is *claimed* by key; or nobody
came, and it is *expired* from the head. Both end in the same single `pop`, so a connection that is
readable and out of time in the same instant goes to exactly one of the two.

Time is an argument, in seconds of whatever clock the caller keeps to (the servers use
`time.monotonic`). Nothing here looks at a clock.

Source of the behaviour: httpd 2.4, event.c (keepalive_q, write_completion_q, linger_q,
short_linger_q), with the directives KeepAliveTimeout and Timeout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TimeoutQueue(Generic[Item]):
    """Items in the order in which they began to wait, all with the same time-out.

    `timeout` is in seconds, >= 0. It may be changed at any time and then holds for everybody in the
    queue, including those who came before: a dying child shortens its lingering close from 30 s to
    2 s that way.

    Threads: any thread may `append` and `pop`; one thread (event's listener) calls `expired`.
    No lock is taken. Each step is a single call into the C code of OrderedDict, which is
    atomic as long as hashing and comparing a key runs no Python code. So use ints as keys (a file
    descriptor), or objects that keep the hash they were born with.

    Why not a plain dict: removing from its front leaves a gap that `next(iter(d))` walks over each
    time, so a first-in first-out queue gets slower the longer it lives. OrderedDict is a linked
    list underneath, and its head is always one step away.
    """

    def __init__(self, timeout: float) -> None:
        if timeout < 0:
            raise ValueError(f"a time-out is >= 0 seconds, not {timeout}")
        self.timeout = timeout
        # key -> (when it began to wait, item). The start is kept rather than the expiry, so that
        # `timeout` can change under those who already wait.
        self._waiting: OrderedDict[Hashable, tuple[float, Item]] = OrderedDict()

    def append(self, key: Hashable, item: Item, now: float) -> None:
        """Begin to wait at `now`, behind everybody else.

        `now` must not be smaller than in the call before; threads that read the clock and then
        race to append may swap by microseconds, which delays an expiry by as much and no more.
        Raises KeyError if the key is already waiting: nobody waits twice.
        """
        entry = (now, item)
        if self._waiting.setdefault(key, entry) is not entry:
            raise KeyError(f"{key!r} is already in this queue")

    def pop(self, key: Hashable) -> Item | None:
        """Claim the item: the one caller who gets it has it to itself, everybody else gets None."""
        entry = self._waiting.pop(key, None)
        return None if entry is None else entry[1]

    def expired(self, now: float) -> list[Item]:
        """Claim all items whose time is over at `now`, longest wait first.

        Costs one look at the head when nobody is due. An item is due from the instant
        start + timeout on.
        """
        due: list[Item] = []
        while (head := self._head()) is not None:
            key, entry = head
            if entry[0] + self.timeout > now:
                break
            claimed = self._waiting.pop(key, None)
            if claimed is entry:
                due.append(entry[1])
            elif claimed is not None:
                # Between our look and our claim, somebody claimed this key and put it back: it
                # waits anew, and its time is not over. Let it wait.
                self._waiting[key] = claimed
        return due

    def next_expiry(self) -> float | None:
        """When the first one is due, on the clock of `append`; None if nobody waits."""
        head = self._head()
        return None if head is None else head[1][0] + self.timeout

    def _head(self) -> tuple[Hashable, tuple[float, Item]] | None:
        """Who has been waiting longest. It stays in the queue."""
        while True:
            try:
                return next(iter(self._waiting.items()), None)
            except RuntimeError:
                # Another thread came or went between the two steps of this look. Look again.
                continue

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def __repr__(self) -> str:
        return f"<TimeoutQueue {self.timeout:g} s, {len(self)} waiting>"
