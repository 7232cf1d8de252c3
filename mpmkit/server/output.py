"""The sending half of a connection: bytes, mapped files, files, and what scripts yield.

Each `send_…` waits in the kernel, for Timeout at most, until the client has taken the bytes. Under event
(`nonblocking`) a thread waits only while more than FlushMaxThreshold is left, as in httpd: the rest stays in
`pending`, and `flush` continues when the socket has room.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.http.messages import FileBody

BODY_SIZE = 65536

_MORE = socket.MSG_MORE
_NOW = socket.MSG_DONTWAIT


class Disconnected(Exception):
    """The client is gone, or has taken nothing for Timeout seconds."""


class Output:
    """What a `Connection` sends by.

    direct      what is sent goes to the kernel as it is: no TLS, no filter
    answering   the head of an answer in pieces is out: too late for `100 Continue`
    pending     bytes or a file not sent yet because the client takes them slowly (event only)
    """

    __slots__ = ("_directives", "answering", "direct", "fd", "nonblocking", "pending", "sock")

    def __init__(self, sock: Any, directives: Directives, nonblocking: bool) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.nonblocking = nonblocking
        self.direct = True
        self.answering = False
        self.pending: memoryview | FileBody | None = None
        self._directives = directives

    def send(self, data: bytes) -> None:
        """Send a head, or a head and its body. Raises Disconnected."""
        try:
            if not self.nonblocking or len(data) > self._directives.FlushMaxThreshold:
                sent = self.sock.send(data)
                if sent < len(data):
                    self._send_blocking(memoryview(data)[sent:])
                return
            sent = self.sock.send(data, _NOW)
        except OSError as error:
            if not (self.nonblocking and isinstance(error, BlockingIOError)):
                raise Disconnected from None
            sent = 0
        if sent < len(data):
            self.pending = memoryview(data)[sent:]

    def send_mapped(self, head: bytes, body: memoryview) -> None:
        """Send `head` and a mapped file in one call, where `direct`; event as `send`. Raises Disconnected.

        Only the kernel reads the mapping: where the file has become shorter it answers EFAULT. To look
        at the bytes here would end the process (SIGBUS)."""
        try:
            sent = self.sock.sendmsg((head, body), (), _NOW if self.nonblocking else 0)
        except OSError as error:
            if not (self.nonblocking and isinstance(error, BlockingIOError)):
                raise Disconnected from None
            sent = 0
        if not (left := len(head) + len(body) - sent):
            return
        if left > len(body):
            self._send_blocking(memoryview(head)[sent:])
            left = len(body)
        waiting = left - self._directives.FlushMaxThreshold if self.nonblocking else left
        if waiting > 0:
            self._send_blocking(body[-left:][:waiting])
            left -= waiting
        if left:
            self.pending = body[-left:]

    def send_file(self, head: bytes, body: FileBody) -> None:
        """Send `head` and a file's bytes; closes the file. Raises Disconnected.

        EnableSendfile On: the kernel copies file to socket; under event a slow client's rest
        waits in `pending` without a thread. Off (the default): read, and `send`. So does httpd."""
        try:
            self._write(memoryview(head), _MORE)
            if body.sendfile and self.direct:
                if self.nonblocking:
                    os.set_blocking(self.fd, False)
                    self.pending = body
                    self.flush()
                    return
                try:
                    self._copy(body)
                except OSError:
                    raise Disconnected from None
                return
            while body.count:
                if not (data := os.pread(body.fd, min(body.count, 2 * BODY_SIZE), body.offset)):
                    raise Disconnected("the file became shorter while it was sent")
                body.offset += len(data)
                body.count -= len(data)
                if body.count:
                    self._write(memoryview(data))
                else:
                    self.send(data)
        finally:
            if self.pending is not body:
                body.close()

    def send_pieces(
        self, head: bytes, pieces: Iterable[bytes], chunked: bool, last: bool = True
    ) -> int:
        """Send what a script yields, as it yields, the head with the first piece; returns the body's bytes.
        last: after them the body ends. Raises Disconnected."""
        count = 0
        for piece in pieces:
            if not piece:
                continue
            count += len(piece)
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            self._write(memoryview(head + data if head else data))
            head = b""
            self.answering = True
        if end := head + (b"0\r\n\r\n" if chunked and last else b""):
            self._write(memoryview(end))
            self.answering = True
        return count

    def flush(self) -> bool:
        """Event: send more of `pending` without waiting. True when all is sent. Raises Disconnected."""
        pending = self.pending
        try:
            if isinstance(pending, FileBody):
                self._copy(pending)
                pending.close()
                os.set_blocking(self.fd, True)
            elif pending is not None:
                while pending:
                    pending = self.pending = pending[self.sock.send(pending, _NOW) :]
        except BlockingIOError:
            return False
        except OSError:
            raise Disconnected from None
        self.pending = None
        return True

    def _copy(self, body: FileBody) -> None:
        """By the kernel, from file to socket. Raises OSError, Disconnected."""
        while body.count:
            if not (sent := os.sendfile(self.fd, body.fd, body.offset, body.count)):
                raise Disconnected("the file became shorter while it was sent")
            body.offset += sent
            body.count -= sent

    def _send_blocking(self, data: memoryview, flags: int = 0) -> None:
        try:
            while data:
                data = data[self.sock.send(data, flags) :]
        except OSError:
            raise Disconnected from None

    _write = _send_blocking  # over TLS: encrypt, then send
