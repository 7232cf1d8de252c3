"""A connection: a socket, its protocol, and unsent bytes.

A read waits in the kernel, with the socket's own time-out (SO_RCVTIMEO): it is one system call, where Python's
`settimeout` would poll before each. A time-out shows as BlockingIOError.

Under prefork and worker one thread holds a connection to its end. Under event a thread holds it only while
there is work to do; `nonblocking` is set, a thread waits only while more than FlushMaxThreshold is left to be
sent, as in httpd, and the rest stays in `pending`: `flush` continues when the socket has room.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable
from mmap import MAP_PRIVATE, mmap
from time import monotonic
from types import MethodType
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import FileBody, Request, RequestError, Response
from mpmkit.http.protocol import Protocol
from mpmkit.policy.states import LINGER_NORMAL, LINGER_SECONDS, LINGER_SHORT
from mpmkit.policy.timeouts import ReadDeadline
from mpmkit.server.listen import timeval, unmapped

BODY_SIZE = 65536
HEAD_SIZE = 8192  # one read for a head: more than LimitRequestLine allows for its longest part
BLANK = 16  # bytes that are too few for a request, and may be blank lines
SHORT = 479  # bytes that fit in the largest block (512) of Python's own allocator
LINGER_READ = 32768
LINGER_SILENCE = LINGER_SECONDS[LINGER_SHORT]  # seconds of silence that end a lingering close
LINGER_MAX = LINGER_SECONDS[LINGER_NORMAL]  # seconds that end it although data still comes

_MORE = socket.MSG_MORE
_NOW = socket.MSG_DONTWAIT
_spare: list[mmap] = []  # buffers that no thread reads into at the moment


class Disconnected(Exception):
    """The client is gone, or has taken nothing for Timeout seconds."""


def receive(sock: Any, size: int, flags: int = 0) -> bytes:
    """Like a socket's `recv`, of at most BODY_SIZE bytes, by its `recv_into`. `recv` allocates `size` bytes and
    cuts off the unused part, for which malloc has little use: with reads of any length, a child grew by MBs."""
    try:
        buffer = _spare.pop()
    except IndexError:
        buffer = mmap(-1, BODY_SIZE, MAP_PRIVATE)
    try:
        return buffer[: sock.recv_into(buffer, size, flags)]
    finally:
        _spare.append(buffer)


def receive_head(sock: socket.SocketType, size: int, flags: int = 0) -> bytes:
    """As `receive`; a thread that waits for a head, which is short mostly, holds no buffer."""
    if size > HEAD_SIZE:
        return receive(sock, size, flags)
    data = sock.recv(SHORT, flags)
    if len(data) == SHORT:
        try:
            data += receive(sock, size - SHORT, _NOW)
        except OSError:  # no more yet; or a reset, after which the next read finds the end
            pass
    return data


class Connection:
    """One client. Only the thread that holds it writes to it: one at a time, never two."""

    __slots__ = (
        "_directives", "_local", "_timeout", "answering", "async_safe", "body_sent", "direct", "edge", "fd",
        "keep_alive", "kept", "nonblocking", "peer", "pending", "protocol", "received", "recv", "request",
        "response", "sent", "sock", "started", "state", "status", "unsent", "watching",
    )  # fmt: skip

    # How the request is being answered; the response is the handler's, until it is logged.
    body_sent: int
    started: int  # ns since the epoch
    status: int
    keep_alive: bool
    response: Response | None
    state: int | None  # event's: in whose hands the connection is (parked.py)
    scheme = "http"  # of the URLs that the client uses
    hint = ""  # for the page of a refusal

    def __init__(
        self, sock: socket.SocketType, peer: tuple, directives: Directives,
        heads: RequestCache, timeout: float, nonblocking: bool = False,
    ) -> None:  # fmt: skip
        self.sock: Any = sock
        self.fd = sock.fileno()
        self.nonblocking = nonblocking
        self.direct = True  # what is sent goes to the kernel as it is: no TLS, no filter
        self.async_safe = True  # epoll sees all that comes; False: a filter keeps some of it
        self.answering = False  # the head of an answer in pieces is out: no `100 Continue` any more
        self.pending: memoryview | FileBody | None = None  # event: unsent, its client is slow
        self._directives = directives
        self.recv: Callable[..., bytes] = MethodType(receive_head, sock)
        self.peer = peer
        self.protocol = Protocol(directives, heads)
        self.kept = 0  # responses after which the connection was kept alive
        self.received = 0  # bytes of the request: its head, and of its body what was read
        self.request: Request | None = None
        # Bytes of the response; of these, what a client that is gone has not taken.
        self.sent = self.unsent = 0
        self.edge = False  # event's: news came since a thread last looked
        self.watching = 0  # event's: what epoll watches it for
        self._timeout = timeout  # what SO_RCVTIMEO is: inherited from the listening socket
        self._local: tuple[str, int] | None = None

    def filtered(self, sock: Any) -> None:
        """`sock` stands before the socket from now on (filters.py)."""
        self.sock = sock
        self.recv = MethodType(receive, sock)
        self.async_safe = sock.async_safe
        self.direct = False
        self.nonblocking = self.nonblocking and self.async_safe

    @property
    def local(self) -> tuple[str, int]:
        """The address and port that the client connected to. Raises OSError once it is gone."""
        if self._local is None:
            host, port, *_ = unmapped(self.sock.getsockname())
            self._local = host, port
        return self._local

    def read_request(self) -> Request | None:
        """Wait for the next request's head; None: the client closed, or was idle for KeepAliveTimeout. Raises
        RequestError: 408 over RequestReadTimeout or Timeout, and what `Protocol.next_request` refuses."""
        protocol = self.protocol
        if protocol.pending:
            return protocol.next_request() or self._rest_of_head()
        if self.kept:
            self.set_timeout(self._directives.KeepAliveTimeout)
        while True:
            try:
                data = self.recv(HEAD_SIZE)
            except BlockingIOError:
                if self.kept:
                    return None
                raise RequestError(408, "no request came", silent=True, ah="AH01382") from None
            except OSError:
                return None
            if not data:
                return None
            protocol.feed(data)
            if (request := protocol.next_request()) is not None:
                return request
            if protocol.pending:
                return self._rest_of_head()
            # A blank line after the last request is no reason to hurry the next one.

    def fill(self) -> bool:
        """Event: take what has come, without waiting. False: nothing has. Raises Disconnected."""
        self.edge = False
        try:
            data = self.recv(HEAD_SIZE, _NOW)
        except BlockingIOError:
            return False
        except OSError:
            raise Disconnected from None
        if not data:
            raise Disconnected
        if len(data) == HEAD_SIZE:
            self.edge = True  # there may be more, and no new edge will tell
        elif len(data) <= BLANK and data == b"\r\n" * (len(data) // 2):
            return False  # blank lines after the last request: still nothing to do
        self.protocol.feed(data)
        return True

    def _rest_of_head(self) -> Request | None:
        """The head comes in pieces: the clock of RequestReadTimeout's `header` runs from here."""
        deadline = self.deadline("header")
        while True:
            try:
                data = self._read_by(deadline, HEAD_SIZE)
            except TimeoutError:
                # Without a whole request line there is nothing to answer: httpd closes in silence.
                silent = not self.protocol.line
                why = "the request's head did not come in time"
                raise RequestError(408, why, silent=silent, ah="AH01382") from None
            except OSError:
                data = b""
            if not data:
                if self.protocol.line:  # a request line came, and may still be answered
                    raise RequestError(400, "the client closed within the request's head")
                return None
            self.protocol.feed(data)
            if (request := self.protocol.next_request()) is not None:
                return request

    def read_body(self) -> bytes:
        """The next piece of the request's body, b"" at its end. Sends `100 Continue` when it is due. Raises
        RequestError: 408 as for a head; 400, 413: see Protocol; 400 if the client closes or resets."""
        protocol = self.protocol
        if (body := protocol.body) is None:
            return b""
        before = body.taken
        while (piece := protocol.next_piece()) is None:
            if body.deadline is None:
                body.deadline = self.deadline("body")
            waits = self.request is not None and self.request.expect_continue
            try:
                if waits and not body.continued and not self.answering:
                    body.continued = True
                    self._write(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
                data = self._read_by(body.deadline, BODY_SIZE)
            except TimeoutError:
                why = "the request's body did not come in time"
                raise RequestError(408, why, ah="AH01382") from None
            except (OSError, Disconnected):
                data = b""
            if not data:
                raise RequestError(400, "the client closed within the request's body", ah="AH01590")
            protocol.feed_body(data)
        self.received += body.taken - before
        return piece

    def discard_body(self) -> None:
        """Read what a handler left of the request's body, so that the next request can be found. For a client
        that still waits for `100 Continue` the connection ends instead (RFC 9110, 10.1.1)."""
        body, request = self.protocol.body, self.request
        if body and request and request.expect_continue and not body.continued:
            self.keep_alive = False
            return
        while self.read_body():
            pass

    def deadline(self, stage: str) -> ReadDeadline:
        """The clock of a stage of RequestReadTimeout begins to run: handshake, header, body."""
        rule = self._directives.RequestReadTimeout[stage]
        return ReadDeadline(self._directives.Timeout, *rule, monotonic())

    def _read_by(self, deadline: ReadDeadline, size: int) -> bytes:
        """One read that `deadline` bounds. Raises TimeoutError, or OSError when the client is gone."""
        if (wait := deadline.wait(monotonic())) <= 0:
            raise TimeoutError
        self.set_timeout(wait)
        try:
            data = self.recv(size)
        except BlockingIOError:
            raise TimeoutError from None
        deadline.received(len(data))
        return data

    def set_timeout(self, seconds: float) -> None:
        """How long the next read may wait. No system call when it is so already."""
        if seconds != self._timeout:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(seconds))
            self._timeout = seconds

    # -- sending: each waits until the client has taken it, for Timeout at most while it takes nothing -----------

    def send(self, data: bytes) -> None:
        """Send a head, or a head and its body. Raises Disconnected."""
        try:
            sent = self.sock.send(data, _NOW)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise self._gone(len(data)) from None
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_mapped(self, head: bytes, body: memoryview) -> None:
        """Send `head` and a mapped file in one call, where `direct`; event as `send`. Raises Disconnected. Only
        the kernel reads the mapping: where the file has become shorter it answers EFAULT, not SIGBUS."""
        left = len(head) + len(body)
        try:
            left -= self.sock.sendmsg((head, body), (), _NOW)
        except BlockingIOError:
            pass
        except OSError:
            raise self._gone(left) from None
        if left > len(body):
            self._send_blocking(memoryview(head)[len(body) - left :], more=len(body))
            left = len(body)
        if left:
            self._send_rest(body[-left:])

    def _send_rest(self, data: memoryview) -> None:
        """What found no room: event waits until FlushMaxThreshold is left, which stays in `pending`."""
        keeps = min(len(data), self._directives.FlushMaxThreshold) if self.nonblocking else 0
        waits = len(data) - keeps
        self._send_blocking(data[:waits], more=keeps)
        if keeps:
            self.pending = data[waits:]

    def send_file(self, head: bytes, body: FileBody) -> None:
        """Send `head` and a file's bytes; closes the file. Raises Disconnected. EnableSendfile On: the kernel
        copies file to socket; under event a slow client's rest waits in `pending`. Off: read, and `send`."""
        try:
            self._write(memoryview(head), _MORE, body.count)
            if body.sendfile and self.direct:
                os.set_blocking(self.fd, False)
                self.pending = body
                while not self.flush() and not self.nonblocking:
                    self._wait_for_room(body.count)
                return
            while body.count:
                if not (data := os.pread(body.fd, min(body.count, 2 * BODY_SIZE), body.offset)):
                    raise self._gone(body.count)  # the file became shorter while it was sent
                body.offset += len(data)
                body.count -= len(data)
                if body.count:
                    self._write(memoryview(data), 0, body.count)
                else:
                    self.send(data)
        finally:
            if not self.nonblocking:
                self.pending = None
            if self.pending is not body:
                body.close()

    def send_pieces(
        self, head: bytes, pieces: Iterable[bytes], chunked: bool, last: bool = True
    ) -> None:
        """Send what a script yields, and (last) the body's end; counts its bytes. Raises Disconnected."""
        for piece in pieces:
            if not piece:
                continue
            self.body_sent += len(piece)
            self.sent += len(piece)
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            self._write(memoryview(head + data if head else data))
            head = b""
            self.answering = True
        if end := head + (b"0\r\n\r\n" if chunked and last else b""):
            self._write(memoryview(end))
            self.answering = True

    def flush(self) -> bool:
        """Send more of `pending`, without waiting. True when all is sent. Raises Disconnected."""
        pending = self.pending
        try:
            if isinstance(pending, FileBody):
                while pending.count:  # by the kernel, from file to socket
                    sent = os.sendfile(self.fd, pending.fd, pending.offset, pending.count)
                    if not sent:
                        raise self._gone(pending.count)  # the file became shorter while it was sent
                    pending.offset += sent
                    pending.count -= sent
                pending.close()
                os.set_blocking(self.fd, True)
            elif pending is not None:
                while pending:
                    pending = self.pending = pending[self.sock.send(pending, _NOW) :]
        except BlockingIOError:
            return False
        except OSError:
            raise self._gone(self.left) from None
        self.pending = None
        return True

    @property
    def left(self) -> int:
        """The bytes of `pending`."""
        pending = self.pending
        return pending.count if isinstance(pending, FileBody) else len(pending or b"")

    def _send_blocking(self, data: memoryview, flags: int = 0, more: int = 0) -> None:
        """more: bytes that are to follow."""
        while data:
            try:
                data = data[self.sock.send(data, flags | _NOW) :]
            except BlockingIOError:
                self._wait_for_room(len(data) + more)
            except OSError:
                raise self._gone(len(data) + more) from None

    def _wait_for_room(self, left: int) -> None:
        """For Timeout at most; then it raises Disconnected, with `left` bytes unsent. Not by SO_SNDTIMEO: a
        call that has sent a part waits for as long again, and so do the next ones."""
        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        if not room.poll(self._directives.Timeout * 1000):
            raise self._gone(left)

    def _gone(self, unsent: int) -> Disconnected:
        self.unsent = min(self.unsent + unsent, self.sent)  # over TLS there are more
        return Disconnected()

    _write = _send_blocking  # over TLS: encrypt, then send

    # -- the end -----------------------------------------------------------------------------------

    def lingering_close(self) -> None:
        """Say that no more is coming, and read until the client has closed, too, for LINGER_MAX at most: a close
        with unread data sends a reset, which could destroy our last response (RFC 9112, 9.6)."""
        # Most have closed already. To set a time-out makes two errors within `setsockopt`, and needs more stack.
        if not self.client_is_done() and self.half_close() and not self.drained():
            until = monotonic() + LINGER_MAX
            try:
                self.set_timeout(LINGER_SILENCE)
                while receive(self.sock, LINGER_READ) and monotonic() < until:
                    pass
            except OSError:
                pass
        self.close()

    def client_is_done(self) -> bool:
        """Nothing more can come that a close would answer with a reset: the request was read to its end, and the
        client said `Connection: close`, or should have (RFC 9112, 9.6). httpd lingers all the same."""
        request = self.request
        return request is not None and request.close and not self.protocol.unread

    def half_close(self) -> bool:
        """Send FIN. False when the client is gone already."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def drained(self) -> bool:
        """Drop what has come since `half_close`, without waiting. True: the client closed."""
        try:
            while receive(self.sock, LINGER_READ, _NOW):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Close now; an unsent file goes with it."""
        if isinstance(self.pending, FileBody):
            self.pending.close()
        self.pending = None
        self.sock.close()
