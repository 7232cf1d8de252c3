"""What an administrator is called for at night, made on purpose: clients that bring a server to its limit.

    with HalfSent(server.url, 8):                  eight requests that never end
        ask(server.url)                            what a ninth client sees

    with Drip(server.url, 30, every=1.0): ...      slowloris: a header line a second
    with SlowReaders(server.url, 20, "/big.bin", rate=10_000): ...   downloads over a thin line

Each is a context manager; at its end every connection is closed. They are few and slow: none of them
is load, and each goes to loopback only. A thread of this process serves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpmkit.load.connections import HELD, Connection, HeldConnections
from mpmkit.load.preflight import target_of

MOST = 500  # connections of one incident: more teaches nothing more
READ_TICK = 0.1  # seconds between two reads of a slow reader
BIG = 16 << 20  # bytes of a download: more than the kernel's buffers take at once


class Answer(dict[str, Any]):
    """What one client saw: status (None: no answer), connect_s, first_byte_s, and error if any."""

    def __repr__(self) -> str:
        end = f"status {self['status']}" if self["status"] else f"no answer ({self['error']})"
        return (
            f"connected after {1000 * self['connect_s']:.1f} ms, {end} after "
            f"{self['first_byte_s']:.3f} s"
        )


def still_kept(clients: HeldConnections, count: int) -> int:
    """How many of the first `count` connections the server has not ended. One that it ended comes back
    as another connection, so those that are held now are not the number."""
    return max(0, count - clients.totals["closed"])


def ask(url: str, path: str = "/index.html", *, patience: float = 30.0) -> Answer:
    """One ordinary request on a connection of its own: when was it connected, when did the answer
    begin, and with what status?

    patience: seconds to wait for the answer. A server that does not answer is no exception: status
    is None, and first_byte_s how long the client waited.
    """
    _, host, port, _ = target_of(url)
    client = http.client.HTTPConnection(host, port, timeout=patience)
    began = connected = time.monotonic()
    try:
        client.connect()
        connected = time.monotonic()
        client.request("GET", path, headers={"Connection": "close"})
        reply = client.getresponse()
        first = time.monotonic()
        reply.read()
        status, error = reply.status, ""
    except (OSError, http.client.HTTPException) as problem:
        first, status, error = time.monotonic(), None, type(problem).__name__
    finally:
        client.close()
    times = {"connect_s": connected - began, "first_byte_s": first - began}
    return Answer(status=status, error=error, **times)


class BackgroundRequest(threading.Thread):
    """`ask` in a thread, so that one can do something while it waits: `BackgroundRequest(url).answer()`."""

    def __init__(self, url: str, path: str = "/index.html", *, patience: float = 30.0) -> None:
        super().__init__(name="mpmkit-client", daemon=True)
        self._asks = functools.partial(ask, url, path, patience=patience)
        self.start()

    def run(self) -> None:
        self._answer = self._asks()

    def answer(self) -> Answer:
        """Its answer; waits for it."""
        self.join()
        return self._answer


class MisbehavingClients(HeldConnections):
    """`count` connections to a server that are some trouble; a context manager, open when it begins.

    Raises ValueError for a target that is not loopback or a count out of 0 to 500; OSError if the server
    takes no connection.
    """

    def __init__(self, url: str, mode: str, count: int, **how: Any) -> None:
        if not 0 <= count <= MOST:
            raise ValueError(f"count: must be 0 to {MOST} connections, not {count!r}")
        super().__init__(url, mode, count=count, **how)

    def __enter__(self) -> Any:
        self.wait(lambda: bool(self.error) or self.totals["opened"] >= len(self), 5)
        if self.totals["opened"] < len(self):
            self.close()
            raise OSError(self.error or "the server takes no connection; is its listen queue full?")
        return self

    def lost(self) -> int:
        """How many connections the server has ended until now."""
        return self.losses


class HalfSent(MisbehavingClients):
    """Requests of which the last line is missing: each keeps a worker, under every MPM.

    `finish()` sends what is missing; its result is the statuses of the answers.
    """

    def __init__(self, url: str, count: int) -> None:
        super().__init__(url, "half-sent", count)


class Drip(MisbehavingClients):
    """Slowloris: a request that goes on forever, a header line each `every` seconds.

    It never falls silent for as long as Timeout, so only a limit on the whole head ends it.
    """

    def __init__(self, url: str, count: int, *, every: float = 1.0) -> None:
        if not 0.05 <= every <= 60:
            raise ValueError(f"every: must be 0.05 to 60 seconds, not {every!r}")
        self._every = every
        super().__init__(url, "half-sent", count)

    async def _received(self, conn: Connection, seconds: float | None) -> bytes | None:
        while (data := await super()._received(conn, self._every)) is None:
            await self._loop.sock_sendall(conn.sock, b"X-Patience: 1\r\n")
        return data


class SlowReaders(MisbehavingClients):
    """Downloads over a thin line: each reads `rate` bytes a second of `path`, and no more."""

    buffer = 4096

    def __init__(self, url: str, count: int, path: str = "/big.bin", *, rate: int = 10_000) -> None:
        if not 10 <= rate <= 10_000_000:
            raise ValueError(f"rate: must be 10 to 10,000,000 bytes a second, not {rate!r}")
        self._rate = rate
        super().__init__(url, "idle", count, path=path, close=True)

    async def _use(self, conn: Connection) -> float | None:
        await self._loop.sock_sendall(conn.sock, self._first)
        await self._answer(conn)
        return 0.0

    async def _read(self, conn: Connection) -> bytes:
        data = await self._loop.sock_recv(conn.sock, max(1, int(self._rate * READ_TICK)))
        self._enter(conn, HELD)
        self.totals["bytes"] += len(data)
        await asyncio.sleep(len(data) / self._rate)
        return data

    @property
    def received(self) -> int:
        """Bytes that all of them have read until now."""
        return self.totals["bytes"]


@contextlib.contextmanager
def pages(size: int = BIG) -> Iterator[Path]:
    """A folder to serve, with an index.html and a big.bin of `size` bytes; gone after the block."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # servers started by root change their user
        (folder / "index.html").write_text("<p>small\n")
        with open(folder / "big.bin", "wb") as big:
            big.truncate(size)  # holes: it takes no disk
        yield folder
