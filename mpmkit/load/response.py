"""Reading one HTTP response: bytes in, verdict out. No socket, no clock.

The load generator must not believe a server. A response counts only if its status is the expected
one, its head makes sense, and its body has exactly the bytes promised (Content-Length, chunked,
or up to the end of the connection) and, where the profile says so, exactly the bytes expected.

A verdict is a tuple ``(kind, keep, length)``: `kind` None for a good answer or the kind of failure;
`keep` whether the connection can carry another request; `length` the body's bytes. The kinds that
this file knows:

========== =====================================================================================
status NNN the status differs from the expected one
length     the body's length differs from the expected one, or bytes came after its end
short      the connection ended before the promised bytes
closed     the connection ended before the first byte of an answer
body       the body's bytes differ from the expected ones (where the caller had them hashed)
malformed  not HTTP: bad status line, bad field, bad chunk, contradicting lengths, endless head
========== =====================================================================================

The generator adds ``refused``, ``reset``, ``timeout`` and ``connect`` (no connection for another
reason), which are about connections rather than bytes.

Speed: answers to the same request differ little (the Date, once a second), so the caller looks a
whole answer up in a small bounded memo, keyed by its exact bytes, and only reads what it has not
seen.
"""

from __future__ import annotations

import re
from typing import Any

Verdict = tuple[str | None, bool, int]

MAX_HEAD = 65_536
"""A head longer than this is malformed: the bound of what an endless server can make us keep."""

MAX_CHUNK_LINE = 4_096

STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d) (\d\d\d)(?: [^\r\n]*)?\Z")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z", re.DOTALL)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")

CHUNKED = -1
UNTIL_CLOSE = -2

NEXT = object()


class Malformed(Exception):
    """The bytes are not an HTTP response."""


def parse_head(head: bytes, method: str = "GET") -> tuple[int, int, bool]:
    """(status, body length or CHUNKED or UNTIL_CLOSE, keep) of a head without its final blank line.

    Raises Malformed.
    """
    status_line, *lines = head.split(b"\r\n")
    match = STATUS_LINE.match(status_line)
    if not match or match[1] != b"1":
        raise Malformed("status line")
    minor, status = int(match[2]), int(match[3])
    length: int | None = None
    chunked = False
    connection: list[bytes] = []
    for line in lines:
        field = FIELD.match(line)
        if not field:
            raise Malformed("field")
        name, value = field[1].lower(), field[2]
        if name == b"content-length":
            # int() would take "+4", "4_5" and "٤": only ASCII digits are a length, and not too
            # many.
            if not re.fullmatch(rb"[0-9]{1,18}", value) or length not in (None, int(value)):
                raise Malformed("Content-Length")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise Malformed("Transfer-Encoding")
            chunked = True
        elif name == b"connection":
            connection += [token.strip().lower() for token in value.split(b",")]
    if chunked and length is not None:
        raise Malformed("both Content-Length and Transfer-Encoding")
    keep = b"close" not in connection and (minor >= 1 or b"keep-alive" in connection)
    if method == "HEAD" or status in (204, 304) or status < 200:
        return status, 0, keep
    if chunked:
        return status, CHUNKED, keep
    if length is None:
        return status, UNTIL_CLOSE, False
    return status, length, keep


class ResponseReader:
    """Reads one response piece by piece; body bytes are counted, hashed if asked, never kept.

    `hasher` is fed the body (``hashlib.sha256()``); after the verdict the caller compares it.

    `feed(data)` and `eof()` return the verdict, or None while more is needed. `started` says
    whether any byte came: a request on a reused connection that got none may have met the
    server's close.
    """

    __slots__ = (
        "method",
        "expect_status",
        "expect_length",
        "started",
        "hasher",
        "_buffer",
        "_at",
        "status",
        "_keep",
        "_left",
        "_count",
        "_step",
    )

    def __init__(
        self,
        method: str = "GET",
        expect_status: int | None = 200,
        expect_length: int | None = None,
        hasher: Any = None,
    ) -> None:
        self.method = method
        self.expect_status = expect_status
        self.expect_length = expect_length
        self.started = False
        self.hasher = hasher
        self._buffer = b""
        self._at = 0  # where the unread part of the buffer begins
        self.status = 0
        self._keep = False
        self._left = 0  # bytes of the body or the chunk still to come
        self._count = 0  # bytes of the body so far
        self._step = self._head

    def feed(self, data: bytes) -> Verdict | None:
        """Take what was received (not empty). Returns the verdict once the response is complete."""
        self.started = True
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        try:
            # A loop, not steps that call each other: one packet may hold thousands of tiny chunks.
            while (result := self._step()) is NEXT:
                pass
        except Malformed:
            return "malformed", False, self._count
        return result

    def eof(self) -> Verdict:
        """The connection ended. Returns the verdict."""
        if not self.started:
            return "closed", False, 0
        if self._step == self._until_close:
            return self._judge(False)
        return "short", False, self._count

    # A step consumes what it can. It returns NEXT when another step is due, None when it needs more
    # bytes, or the verdict.

    def _head(self):
        end = self._buffer.find(b"\r\n\r\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > MAX_HEAD:
                raise Malformed("head too long")
            return None
        status, length, keep = parse_head(self._buffer[self._at : end], self.method)
        self._at = end + 4
        if status < 200:
            if status == 101:
                raise Malformed("a switch of protocols that was not requested")
            return NEXT  # an interim answer: the real head follows
        self.status, self._keep = status, keep
        if length == CHUNKED:
            self._step = self._chunk_line
        elif length == UNTIL_CLOSE:
            self._step = self._until_close
        else:
            self._left = length
            self._step = self._counted
        return NEXT

    def _take(self, most: int) -> int:
        """Count and skip up to `most` body bytes; how many there were."""
        taken = min(len(self._buffer) - self._at, most)
        if self.hasher is not None and taken:
            self.hasher.update(self._buffer[self._at : self._at + taken])
        self._at += taken
        self._count += taken
        return taken

    def _counted(self):
        self._left -= self._take(self._left)
        return None if self._left else self._judge(self._at < len(self._buffer))

    def _until_close(self):
        self._take(len(self._buffer))
        return None

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > MAX_CHUNK_LINE:
                raise Malformed("line too long")
            return None
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _chunk_line(self):
        line = self._line()
        if line is None:
            return None
        match = CHUNK_LINE.match(line)
        if not match:
            raise Malformed("chunk size")
        self._left = int(match[1], 16)
        self._step = self._chunk if self._left else self._trailer
        return NEXT

    def _chunk(self):
        self._left -= self._take(self._left)
        if self._left or len(self._buffer) - self._at < 2:
            return None
        if self._buffer[self._at : self._at + 2] != b"\r\n":
            raise Malformed("chunk end")
        self._at += 2
        self._step = self._chunk_line
        return NEXT

    def _trailer(self):
        line = self._line()
        if line is None:
            return None
        return NEXT if line else self._judge(self._at < len(self._buffer))

    def _judge(self, more_came: bool) -> Verdict:
        keep = self._keep and not more_came
        if self.expect_status not in (None, self.status):
            return f"status {self.status}", keep, self._count
        if more_came or self.expect_length not in (None, self._count):
            return "length", keep, self._count
        return None, keep, self._count
