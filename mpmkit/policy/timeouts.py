"""Time-outs: which connections have waited for longer than allowed, and how long may a read take?

Event keeps every connection that waits without a thread in a queue, and has one queue for each
time-out value. So the item that came last expires last: appending keeps the queue sorted, and costs
the same with ten connections or ten thousand, as do claiming (its client has sent something) and finding
the next expiry, which is at the head.

Time is an argument, in seconds of any one clock (the servers' is `time.monotonic`). Nothing here takes a lock:
server/parked.py does.

Source of the behaviour: httpd 2.4, event.c (keepalive_q, write_completion_q, linger_q,
short_linger_q), with the directives KeepAliveTimeout and Timeout.
"""

from collections import OrderedDict
from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class TimeoutQueue(Generic[Item]):
    """Items in the order in which they began to wait, all with the same time-out: `timeout` in seconds, >= 0.
    It may be changed at any time and then holds for those that came before, too: a dying child shortens its
    lingering close from 30 s to 2 s that way."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        # When each began to wait: not the expiry, so that `timeout` can change. In a plain dict what is removed
        # from its front leaves a gap that `next(iter(d))` walks over each time; here the head is one step away.
        self._began: OrderedDict[Item, float] = OrderedDict()

    def append(self, item: Item, now: float) -> None:
        """Begin to wait at `now`, behind all others; `now` must not be smaller than in the call before, and
        the item must not wait already."""
        self._began[item] = now

    def pop(self, item: Item) -> bool:
        """Claim an item; False if it does not wait (any more)."""
        return self._began.pop(item, None) is not None

    def expired(self, now: float) -> list[Item]:
        """Take out all items whose time is over at `now` (from start + timeout on), longest wait first."""
        due: list[Item] = []
        for item, start in self._began.items():
            if start + self.timeout > now:
                break
            due.append(item)
        for item in due:
            del self._began[item]
        return due

    def next_expiry(self) -> float | None:
        """When the first one is due, on the clock of `append`; None if nothing waits."""
        for start in self._began.values():
            return start + self.timeout
        return None

    def __len__(self) -> int:
        return len(self._began)


class ReadDeadline:
    """RequestReadTimeout `init-max,MinRate=rate`, and Timeout, for one head or one body. A stage may take
    `init` seconds, and each byte that comes buys 1/rate more, up to `max` in all. Without
    RequestReadTimeout (`init` 0) only Timeout counts: seconds for each single read."""

    __slots__ = ("_allowed", "_began", "_most", "_rate", "_timeout")

    def __init__(self, timeout: float, init: float, most: float, rate: float, now: float) -> None:
        self._timeout, self._began = timeout, now
        self._allowed, self._most = init, most or inf  # seconds so far, and at most
        self._rate = init and rate

    def received(self, count: int) -> None:
        if self._rate:
            self._allowed += count / self._rate

    def wait(self, now: float) -> float:
        """Seconds the next read may wait; 0 or less: its time is over."""
        if not self._allowed:
            return self._timeout
        return min(self._timeout, self._began + min(self._allowed, self._most) - now)
