"""Clients as browsers are: each keeps a connection, sends a request, thinks, and sends another.

    with KeepAliveClients(server.url, 40, think=60) as clients:     # one request each, then they hold
        clients.resize(80)

Many connections and few requests are what occupies prefork's processes and worker's threads, and costs event
nearly nothing. Clients that keep no connection are probes: how long does a new client wait?

A client whose kept connection the server ends comes back after `BACK` seconds; one whose answer said
`Connection: close` comes back with its next request.
"""

import random
import time
from collections import deque
from typing import Any

from mpmkit.load.connections import ASKING, HELD, PAGE, Connection, HeldConnections, Lost

BACK = 0.1  # seconds before a client whose connection was ended, or refused, comes back
PATIENCE = 30.0  # seconds a client waits for an answer
MOST = 2000  # clients: more is work for a load generator


class KeepAliveClients(HeldConnections):
    """Clients of one server; a context manager.

    url: http://127.0.0.1:PORT; loopback only. count: how many clients, 0 to 2000. path: what they request.
    think: seconds from an answer to the next request, on average (each time 0.5 to 1.5 times); longer than
    KeepAliveTimeout, and the clients only hold connections.
    keep: the connection, while thinking; False: a new connection for each request.

    Raises ValueError for a target that is not loopback, a count or think out of range.
    """

    def __init__(
        self, url: str, count: int = 0, *, think: float = 60.0, keep: bool = True, path: str = PAGE
    ) -> None:
        self.keep = keep
        self.think = _in_range("think", think, 0.05, 3600)
        self._answers: deque[float] = deque(maxlen=10_000)
        how: dict[str, Any] = {"path": path, "close": not keep, "timeout": PATIENCE, "again": BACK}
        super().__init__(url, count=int(_in_range("count", count, 0, MOST)), **how)

    def think_for(self, seconds: float) -> None:
        """Another time between an answer and the next request, also for those who are thinking already."""
        if seconds != self.think:
            self.think = _in_range("think", seconds, 0.05, 3600)
            self._call(self._think_anew)

    @property
    def answered(self) -> int:
        """Answers until now."""
        return self.totals["answered"]

    def resize(self, count: int) -> None:
        """So many clients from now on. Those that leave close their connections."""
        super().resize(int(_in_range("count", count, 0, MOST)))

    def longest_wait(self) -> float:
        """The longest of `waits`; 0 without any."""
        return max(self.waits(), default=0.0)

    def waits(self) -> list[float]:
        """Seconds that each of those who have no answer yet has waited until now."""
        now, clients = time.monotonic(), list(self._clients)
        return [now - one.since for one in clients if one.state == ASKING]

    def take(self) -> list[float]:
        """Seconds of the answers since the last call: from connecting (or asking) to the last byte."""
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def _pause(self) -> float:
        return self.think * random.uniform(0.5, 1.5)  # or all would ask in the same moment forever

    def _think_anew(self) -> None:
        for conn in self._clients:
            when = conn.patience.when()
            if conn.state == HELD and when is not None and not conn.patience.expired():
                conn.patience.reschedule(min(when, self._loop.time() + self._pause()))

    async def _use(self, conn: Connection) -> float:
        kept = True
        while kept:
            async with self._limit(conn):
                await self._loop.sock_sendall(conn.sock, self._first)
                kept = await self._answer(conn) and self.keep
            self._answers.append(time.monotonic() - conn.since)
            if kept:
                self._enter(conn, HELD)
                if await self._received(conn, self._pause()) is not None:
                    raise Lost("closed")
                conn.since = time.monotonic()
                self._enter(conn, ASKING)
        return self._pause()


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        more = "; for more clients use mpmkit.run_load" if name == "count" else ""
        raise ValueError(f"{name}: must be {low:g} to {high:g}, not {value!r}{more}")
    return float(value)
