"""The socket of one user, and how it waits: in the hub of gevent, without its sockets and timers.

A watcher stays registered while a connection lives, so that a request costs no epoll_ctl; its callback
switches straight into the user's greenlet. The monitor throws `Overdue` into a user whose time is over
(`generator_state.py`), so no request needs a timer.

Imported by the locustfile alone: locust and gevent belong in no other process.
"""

from __future__ import annotations

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import contextlib
import errno
import os
import ssl
import time
from collections.abc import Callable
from typing import Any

import greenlet  # type: ignore[import-untyped]
from gevent import get_hub, getcurrent

from mpmkit.load import tls
from mpmkit.load.budget import NEVER, READ, WRITE
from mpmkit.load.generator_state import State

clock = time.perf_counter_ns
RECV_SIZE = 65_536

RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {on, 0 s}
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has no name for it before 3.12


class Overdue(Exception):
    """Thrown into a user whose request has passed its time."""


class UserSocket:
    """One user's connection to the server; none at first."""

    def __init__(self, state: State) -> None:
        self.state, hub = state, get_hub()
        self.loop = hub.loop
        self.greenlet = getcurrent()
        self.sock: Any = None
        self.watcher: Any = None
        self.watching = self.waiting = False
        self.due = NEVER
        self.called = False  # by the schedule
        # Straight into the hub: gevent's own switch() asks for hooks that no user here has.
        self.to_hub = greenlet.greenlet.switch.__get__(hub)
        self.resume = self.greenlet.switch

    # `wake` and `expire` run in the hub, the others in the user's greenlet.

    def wake(self) -> None:
        # A watcher outlives the wait, so it may fire for a greenlet that waits for something else.
        if self.waiting:
            self.waiting = False
            self.resume()

    def expire(self) -> None:
        if self.waiting and clock() >= self.due:
            self.waiting = False
            self.greenlet.throw(Overdue())

    def wait(self) -> None:
        self.waiting = True
        try:
            self.to_hub()
        finally:
            self.waiting = False

    def open(self, asks_at_once: bool = False):
        """A connected socket. Raises OSError, or Overdue.

        asks_at_once: a request follows without a wait, so the acknowledgement that ends the handshake may go with
        it (TCP_QUICKACK off). On loopback we carry each packet to the server's end ourselves, in our own time.
        """
        state = self.state
        sock = _socket.socket(state.family, state.kind)
        self.sock = sock
        state.connections += 1
        if state.source:
            sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{1 + state.source}", 0))
        if asks_at_once:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(state.address)
        if code == errno.EADDRNOTAVAIL and state.source < state.sources:
            # All ephemeral ports towards the target are in TIME_WAIT: go on from another address.
            state.source += 1
            self.close()
            return self.open(asks_at_once)
        if code and code != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
        if state.tls is not None:
            if code:
                self.wait_writable()
            self.sock = tls.TlsSocket(sock, state.tls, state.host)
            self.receive(self.sock.handshake)
            self.quiet()  # a watcher that is watching cannot be given another socket
        return self.sock

    def send(self, data: bytes) -> None:
        """Send all, waiting where the connection is not there yet or the buffer is full, then watch."""
        sock = self.sock
        self.quiet()  # else an early answer would wake us again and again
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self.wait_writable()
        self.watch()

    def wait_writable(self) -> None:
        """Until the connection is there, or its buffer has room. Raises OSError if it failed."""
        watcher = self.loop.io(self.sock.fileno(), WRITE)
        watcher.start(self.wake)
        try:
            self.wait()
        finally:
            watcher.stop()
            watcher.close()
        if code := self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            raise OSError(code, os.strerror(code)) from None

    def watch(self) -> None:
        if self.watcher is None:
            self.watcher = self.loop.io(self.sock.fileno(), READ)
        else:
            self.watcher.fd = self.sock.fileno()
        self.watcher.start(self.wake)
        self.watching = True

    def quiet(self) -> None:
        """Watch no more until the next request: a server that closes meanwhile would wake us on and on."""
        if self.watching:
            self.watcher.stop()
            self.watching = False

    def receive(self, step: Callable[[], Any] | None = None) -> Any:
        """What has come, waiting for it if need be; b"" at the end of the connection. Or the result of another
        `step` that may need to wait for the server."""
        while True:
            try:
                return step() if step else self.sock.recv(RECV_SIZE)
            except BlockingIOError:
                if not self.watching:
                    self.watch()
                self.wait()

    def close(self, reset: bool = False) -> None:
        if self.watching:
            self.quiet()
        sock, self.sock = self.sock, None
        if sock is not None:
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()


KINDS: tuple[tuple[type[Exception], str], ...] = (
    (Overdue, "timeout"),
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "tls"),
    (ConnectionRefusedError, "refused"),
    (ConnectionError, "reset"),
    (Exception, "connect"),
)


def kind_of(error: Exception) -> str:
    """The kind of a failure, as `LoadRun.errors` has it."""
    return next(kind for type, kind in KINDS if isinstance(error, type))
