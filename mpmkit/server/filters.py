"""Filters between a connection and its socket, as httpd's input and output filters: ConnectionFilter.

    protocol <── recv_into ── filter ── recv_into <── socket
             ──> send ────── filter ── send ──────>

A filter has a socket's methods and passes on what it does not change. It is not `async_safe` if it keeps bytes: a
request may be ready while the socket, which epoll watches, is silent. event then leaves the connection to one
worker thread from accept to close, as worker does (httpd's `clogging_input_filters`).
"""

from __future__ import annotations

import socket
import time
from mmap import mmap
from typing import Any

from mpmkit.server.connection import receive

PIECE = 0.05  # seconds' worth of bytes that LineRate lets through at a time
AHEAD = 65536  # bytes that LineRate reads from the socket at a time


class LineRate:
    """`ConnectionFilter LINE_RATE 400`: 400 KiB/s each way. It reads ahead, and sleeps in its caller's thread."""

    __slots__ = ("_ahead", "_free_in", "_free_out", "_piece", "_rate", "_sock")
    async_safe = False

    def __init__(self, sock: socket.SocketType, rate: int) -> None:
        """`rate` in KiB/s, at least 1."""
        self._sock = sock
        self._rate = rate * 1024
        self._piece = max(1, int(self._rate * PIECE))
        self._ahead = b""  # read, and not handed out yet
        self._free_in = self._free_out = 0.0  # when the line has carried what it was given

    def recv_into(self, buffer: mmap, size: int, flags: int = 0) -> int:
        if not self._ahead:
            self._ahead = receive(self._sock, AHEAD, flags)
            if not self._ahead:
                return 0
        size = min(size, self._piece)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        self._free_in = self._carry(len(data), self._free_in)
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """Sends a piece, as a socket may; the caller comes again with the rest."""
        piece = memoryview(data)[: self._piece]
        self._free_out = self._carry(len(piece), self._free_out)
        return self._sock.send(piece, flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _carry(self, count: int, free: float) -> float:
        """Wait until the line has carried `count` bytes more; when that was."""
        now = time.monotonic()
        free = max(now, free) + count / self._rate
        time.sleep(max(0.0, free - now))
        return free
