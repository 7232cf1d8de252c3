"""What an administrator is called for at night, made on purpose: clients that bring a server to its limit.

    with HalfSent(server.url, 8):                  eight requests that never end
        ask(server.url)                            what a ninth client sees

    with Drip(server.url, 30, every=1.0): ...      slowloris: a header line a second
    with SlowReaders(server.url, 20, "/big.bin", rate=10_000): ...   downloads over a thin line

Each is a context manager; at its end every connection is closed. They are few and slow: none of them
is load, and each goes to loopback only. A thread of this process turns the wheels.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpmkit.load.target import loopback_target

MOST = 500  # connections of one incident: more teaches nothing more
BIG = 16 << 20  # bytes of a download: more than the kernel's buffers take at once


class Answer(dict[str, Any]):
    """What one client saw: status (None: no answer), connect_s, first_byte_s, and error if any."""

    def __repr__(self) -> str:
        end = f"status {self['status']}" if self["status"] else f"no answer ({self['error']})"
        return (
            f"connected after {1000 * self['connect_s']:.1f} ms, {end} after "
            f"{self['first_byte_s']:.3f} s"
        )


def ask(url: str, path: str = "/index.html", *, patience: float = 30.0) -> Answer:
    """One ordinary request on a connection of its own: when was it connected, when did the answer
    begin, and with what status?

    patience: seconds to wait for the answer. A server that does not answer is no exception: status
    is None, and first_byte_s how long the client waited.
    """
    host, port = loopback_target(url)
    client = http.client.HTTPConnection(host, port, timeout=patience)
    began = time.monotonic()
    connected = began
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
    return Answer(
        status=status, connect_s=connected - began, first_byte_s=first - began, error=error
    )


class Later:
    """A request in a thread, so that one can do something while it waits: `Later(url).answer()`."""

    def __init__(self, url: str, path: str = "/index.html", *, patience: float = 30.0) -> None:
        self._answer: Answer | None = None

        def run() -> None:
            self._answer = ask(url, path, patience=patience)

        self._thread = threading.Thread(target=run, name="mpmkit-client", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether it has no answer yet."""
        return self._thread.is_alive()

    def answer(self) -> Answer:
        """Its answer; waits for it."""
        self._thread.join()
        assert self._answer is not None
        return self._answer


class Difficult:
    """`count` connections to a server that are some trouble; a context manager.

    Raises ValueError for a target that isn't loopback or a count out of 0 to 500.
    """

    path = "/index.html"
    every: float | None = None  # seconds between turns; None: nothing is to be done
    receive_buffer: int | None = None

    def __init__(self, url: str, count: int) -> None:
        if not 0 <= count <= MOST:
            raise ValueError(f"count: must be 0 to {MOST} connections, not {count!r}")
        self._address = loopback_target(url)
        self.count = count
        self._open: list[socket.socket] = []
        self._lost_at: list[float] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpmkit-incident", daemon=True)

    def __enter__(self) -> Any:
        try:
            for _ in range(self.count):
                self._open.append(self._connect())
        except OSError:
            self.close()
            raise
        self._began = time.monotonic()
        if self.every is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Everybody hangs up. Twice does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for sock in self._open:
            sock.close()
        self._open.clear()

    def lost(self) -> int:
        """How many connections the server has ended until now."""
        with self._lock:
            self._sweep()
            return len(self._lost_at)

    def lost_after(self) -> list[float]:
        """Seconds from the beginning to the end of each connection that the server ended, as far as
        it was looked at: a turning incident looks at each turn, others when asked."""
        self.lost()
        return list(self._lost_at)

    @property
    def first_words(self) -> bytes:
        """What is sent on each connection at once."""
        host, port = self._address
        return f"GET {self.path} HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()

    def _connect(self) -> socket.socket:
        sock = socket.socket()
        try:
            if self.receive_buffer:  # before connecting: it decides the window that is offered
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            sock.settimeout(5)
            sock.connect(self._address)
            sock.sendall(self.first_words)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _run(self) -> None:
        assert self.every is not None
        while not self._stop.wait(self.every):
            with self._lock:
                for sock in self._open:
                    with contextlib.suppress(OSError):
                        self._turn(sock)
                self._sweep()

    def _turn(self, sock: socket.socket) -> None:
        """What a client does from time to time."""

    def _sweep(self) -> None:
        """Drop those that the server has ended; what it sent before is thrown away."""
        now = time.monotonic() - self._began
        for sock in [sock for sock in self._open if _ended(sock)]:
            self._lost_at.append(now)
            self._open.remove(sock)
            sock.close()


def _ended(sock: socket.socket) -> bool:
    while select.select([sock], [], [], 0)[0]:
        try:
            if not sock.recv(65536):
                return True
        except BlockingIOError:
            return False
        except OSError:
            return True
    return False


class HalfSent(Difficult):
    """Requests of which the last line is missing: each keeps a worker, under every MPM."""

    def finish(self, within: float = 10.0) -> list[int]:
        """Send what is missing; the statuses of the answers, in the order of the connections.

        Connections the server ended before, or does not answer within so many seconds, have none.
        """
        statuses = []
        with self._lock:
            waiting, self._open = self._open, []
        for sock in waiting:
            with contextlib.suppress(OSError):
                sock.sendall(b"Connection: close\r\n\r\n")
        until = time.monotonic() + within
        for sock in waiting:
            with contextlib.suppress(OSError, IndexError, ValueError):
                sock.settimeout(max(0.01, until - time.monotonic()))
                statuses.append(int(sock.recv(4096).split()[1]))
            sock.close()
        return statuses


class Drip(Difficult):
    """Slowloris: a request that goes on for ever, a header line each `every` seconds.

    It never falls silent for as long as Timeout, so only a limit on the whole head ends it.
    """

    def __init__(self, url: str, count: int, *, every: float = 1.0) -> None:
        if not 0.05 <= every <= 60:
            raise ValueError(f"every: must be 0.05 to 60 seconds, not {every!r}")
        super().__init__(url, count)
        self.every = every

    def _turn(self, sock: socket.socket) -> None:
        sock.send(b"X-Patience: 1\r\n")


class SlowReaders(Difficult):
    """Downloads over a thin line: each reads `rate` bytes a second of `path`, and no more."""

    receive_buffer = 4096
    every = 0.1

    def __init__(self, url: str, count: int, path: str = "/big.bin", *, rate: int = 10_000) -> None:
        if not 10 <= rate <= 10_000_000:
            raise ValueError(f"rate: must be 10 to 10,000,000 bytes a second, not {rate!r}")
        super().__init__(url, count)
        self.path = path
        self.rate = rate
        self.received = 0

    @property
    def first_words(self) -> bytes:
        return super().first_words + b"Connection: close\r\n\r\n"

    def _turn(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            self.received += len(sock.recv(max(1, int(self.rate * 0.1))))

    def _sweep(self) -> None:
        # To look for an end would read: a reader is done when it is closed, not before.
        return


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
