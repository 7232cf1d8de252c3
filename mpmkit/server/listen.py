"""Listening sockets: bind them, wait on them, accept from them.

* Every child holds the same listening sockets, and tries `accept`, which does not block, before it waits.
* A plain `epoll` would wake all idle children for one new connection; with EPOLLEXCLUSIVE the kernel wakes one.
* Linux copies options of a listening socket to accepted ones: TCP_NODELAY and the time-outs are set here.
* TCP_DEFER_ACCEPT (AcceptFilter data, the default on Linux) keeps a connection in the kernel until
  its first bytes are there, so that a silent client costs no worker for about 31 s.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from mpmkit.config.directives import Directives
from mpmkit.server.scoreboard import Scoreboard

# Errors that concern one connection, not the listener: try the next one. (APR's list in unixd.c.)
TRANSIENT_ERRORS = frozenset((
    errno.EINTR, errno.ECONNABORTED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH,
    errno.ENETUNREACH, errno.EPROTO, errno.EAGAIN,
))  # fmt: skip

# Listen without an address: one socket for IPv6 and IPv4 (RFC 3493, 3.7), or IPv4's where there is no IPv6.
ANY = ("::", "0.0.0.0")
_IPV6 = int(socket.AF_INET6)
_MAPPED = "::ffff:"  # an IPv4 address, as an IPv6 socket has it

REMEDIES = {
    errno.EADDRINUSE: "another server has it; stop that one or choose another port (0 picks a free one)",
    errno.EACCES: "ports below 1024 need root; choose a higher one",
    errno.EADDRNOTAVAIL: "this machine has no such address; use 127.0.0.1, or * for all",
}
REFUSING = errno.EINVAL  # the error of accept after `refuse_all`
Accepted = tuple[socket.SocketType, tuple] | None  # a socket and its peer's address

_timeval = struct.Struct("ll").pack


class ListenError(Exception):
    """A socket can't be bound or listened on; the text names the address and the remedy."""


def timeval(seconds: float) -> bytes:
    """A struct timeval for SO_RCVTIMEO; at least 1 µs, as 0 would mean forever."""
    micro = max(1, round(seconds * 1_000_000))
    return _timeval(micro // 1_000_000, micro % 1_000_000)


class SecureSocket(socket.SocketType):
    """An accepted socket whose client is to speak TLS: its class shows which listener it came from."""


class Listener(socket.socket):
    """A listening socket that accepts C-level sockets: a Python-level one is 4 µs of a connection's 60."""

    asked: tuple[str, int] | None = None  # by Listen: `getsockname` does not return a name
    number = int(socket.AF_INET)  # the family of accepted sockets, as a plain int
    bare: type[socket.SocketType] = socket.SocketType  # their class

    def accept_bare(self) -> Accepted:
        """None if no connection waits any more. Raises OSError for what concerns the listener or the process."""
        try:
            fd, peer = self._accept()  # type: ignore[attr-defined]
        except BlockingIOError:  # mostly
            return None
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                raise
            return None
        if self.number == _IPV6:
            peer = unmapped(peer)
        return self.bare(self.number, socket.SOCK_STREAM, 0, fd), peer


def open_listeners(directives: Directives, kept: Sequence[Listener] = ()) -> list[Listener]:
    """Bind every Listen address that none of `kept` has. Raises ListenError, and leaves no new socket open."""
    by_name = {_name(sock): sock for sock in kept} | {sock.asked: sock for sock in kept}
    listeners: list[Listener] = []
    everywhere = {one.port for one in directives.Listen if not one.address or one.address == ANY[0]}
    try:
        for listen in directives.Listen:
            every = listen.port and listen.address in ("", ANY[0])
            again = every and any(one.asked == (ANY[0], listen.port) for one in listeners)
            if again or (listen.address == ANY[1] and listen.port in everywhere and _has_ipv6()):
                continue  # another Listen's socket takes IPv4, too
            names = [(host, listen.port) for host in ((listen.address,) if listen.address else ANY)]
            sock = next((by_name[name] for name in names if name in by_name), None)
            listeners.append(sock or bind(listen.address, listen.port))
            configure(listeners[-1], directives, listen.protocol)
    except ListenError:
        close_all([sock for sock in listeners if sock not in kept])
        raise
    return listeners


def configure(sock: Listener, directives: Directives, protocol: str = "") -> None:
    """ListenBacklog, buffer sizes and timeouts. The protocol is Listen's ("https" is TLS), or else what
    SSLEngine says. Raises ListenError if it can't listen."""
    protocol = protocol or ("https" if directives.tls else "http")
    d = directives
    sock.number = int(sock.family)
    sock.bare = SecureSocket if protocol == "https" else socket.SocketType
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        (socket.SO_KEEPALIVE, 1), (socket.SO_SNDBUF, d.SendBufferSize), (socket.SO_RCVBUF, d.ReceiveBufferSize),
        (socket.SO_RCVTIMEO, timeval(first_timeout(d))),
    ):  # fmt: skip
        if value:
            sock.setsockopt(socket.SOL_SOCKET, option, value)
    seconds = d.ListenTCPDeferAccept if d.AcceptFilter.get(protocol) != "none" else 0
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)
    try:
        sock.listen(d.ListenBacklog)
    except OSError as error:
        text = f"AH00073: cannot listen on {_text(_name(sock))}: {error.strerror}"
        raise ListenError(text) from None
    sock.setblocking(False)


def first_timeout(directives: Directives) -> float:
    """Seconds a new connection may take for its first bytes: Timeout, or RequestReadTimeout's header."""
    header = directives.RequestReadTimeout["header"].init
    return min(directives.Timeout, header) if header else directives.Timeout


def bind(address: str, port: int) -> Listener:
    """A bound socket, not listening yet; port 0: any free one. Raises ListenError."""
    host = address or (ANY[0] if _has_ipv6() else ANY[1])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = Listener(family, socket.SOCK_STREAM)
    sock.asked = host, port
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # [::] takes IPv4, too
    text = f"AH00072: cannot bind to {_text((host, port))}"
    try:
        sock.bind((host, port))
    except (OSError, OverflowError, TypeError) as error:
        sock.close()
        if not isinstance(error, OSError):  # the name has characters that no name has
            raise ListenError(f"{text}: {error}") from None
        remedy = REMEDIES.get(error.errno or 0, "see the Listen directive")
        raise ListenError(f"({error.errno}){error.strerror}: {text}; {remedy}") from None
    return sock


@cache
def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::", 0))
        return True
    return False


def unmapped(name: tuple) -> tuple:
    """An IPv6 socket's address; an IPv4-mapped one as an IPv4 socket has it."""
    return (name[0].removeprefix(_MAPPED), name[1]) if name[0].startswith(_MAPPED) else name


def _name(sock: socket.socket) -> tuple[str, int]:
    host, port, *_ = sock.getsockname()
    return host, port


def _text(name: tuple[str, int]) -> str:
    host, port = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _here(sock: Listener, host: str) -> str:
    """Where `sock` is reached on this machine. Its ::1 may be missing where IPv6 is only half there."""
    if host == "::":
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return "::1" if only else f"{_MAPPED}127.0.0.1"
    return "127.0.0.1" if host == "0.0.0.0" else host


def url_of(sock: Listener) -> str:
    """The address a client on this machine would use for `sock`."""
    host, port = _name(sock)
    scheme = "https" if sock.bare is SecureSocket else "http"
    return f"{scheme}://{_text((_here(sock, host).removeprefix(_MAPPED), port))}"


class Acceptor:
    """What a listener waits on: the listening sockets, and one other descriptor that ends the wait (prefork: the
    pipe of death; worker: a wake-up). One per process, made after the fork: an epoll set is not to be shared."""

    def __init__(self, listeners: Sequence[Listener], other: int) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._only = listeners[0] if len(listeners) == 1 else None
        self._ready: list[int] = []
        self._epoll = select.epoll()
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._epoll.register(other, select.EPOLLIN)
        self._other = other

    def accept(self) -> Accepted:
        """The next connection; None when no connection waits and the other descriptor is readable or at its
        end, or after `refuse_all`. Raises OSError as `Listener.accept_bare`."""
        listener = self._only
        while True:
            try:
                if listener is not None and (accepted := listener.accept_bare()) is not None:
                    return accepted
            except OSError as error:
                if error.errno == REFUSING:
                    return None
                raise
            if not self._ready:
                ready = [fd for fd, _ in self._epoll.poll()]
                # The other descriptor comes last: for a waiting connection the kernel woke no one else.
                self._ready = [fd for fd in ready if fd != self._other]
                if not self._ready:
                    return None
            # Several sockets ready: each gets its turn before the next wait.
            listener = self._listeners[self._ready.pop()]

    def close(self) -> None:
        self._epoll.close()


class ListenSocks(dict[int, Listener]):
    """The listening sockets, by descriptor, in the epoll set of event's listener: enabled, or disabled while this
    process holds enough connections, as in httpd. declined: one was turned away; it takes more room then."""

    def __init__(
        self, epoll: select.epoll, listeners: Sequence[Listener], board: Scoreboard, slot: int
    ) -> None:
        super().__init__((sock.fileno(), sock) for sock in listeners)
        self._epoll, self._board, self._slot = epoll, board, slot
        self.enabled = self.declined = False

    def enable(self) -> None:
        if not self.enabled:
            self.enabled, self.declined = True, False
            for fd in self:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._board.not_accepting(self._slot, False)

    def disable(self, declined: bool = False) -> None:
        self.declined |= declined
        if self.enabled:
            self.enabled = False
            for fd in self:
                self._epoll.unregister(fd)
            self._board.not_accepting(self._slot, True)


def has_pending_connection(listener: Listener) -> bool:
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def dummy_connection(listener: Listener) -> None:
    """Connect and close at once: the kernel wakes one of the children that wait. Never raises."""
    host, port = _name(listener)
    with suppress(OSError), socket.socket(listener.family) as sock:
        sock.setblocking(False)
        sock.connect_ex((_here(listener, host), port))


def close_all(listeners: Sequence[Listener]) -> None:
    """Close this process's copies; the kernel refuses clients once no process holds one."""
    for sock in listeners:
        if sock.fileno() >= 0:
            os.close(sock.detach())


def refuse_all(listeners: Sequence[Listener]) -> None:
    """No process that holds these sockets gets another connection from them: clients are refused.
    Closing them is not enough while a busy child has its copies open: the kernel would go on to accept."""
    for sock in listeners:
        with suppress(OSError):  # it is shut down already
            sock.shutdown(socket.SHUT_RDWR)
