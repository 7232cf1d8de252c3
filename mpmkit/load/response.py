"""Reading one HTTP response: bytes in, verdict out. No socket, no clock.

The load generator must not believe a server. A response counts only if its status is the expected one, its head
makes sense, and its body has exactly the bytes promised (Content-Length, chunked, or up to the end of the
connection) and, where the profile says so, as many as expected.

A verdict is a tuple ``(kind, keep, length)``: `kind` None for a good answer or the kind of failure (status NNN,
length, short, closed, malformed: docs/LOAD.md has them all); `keep` whether the connection can carry another
request; `length` the body's bytes.

Answers to the same request differ little (the Date, once a second), so the caller looks a whole answer up in a
bounded memo, keyed by its exact bytes, and only reads what it has not seen. For those h11 would cost 130 µs a
kept request where this costs 37.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

Verdict = tuple[str | None, bool, int]

MAX_HEAD = 65_536  # a longer one is malformed: the bound of what an endless server can make us keep
MAX_CHUNK_LINE = 4_096

STATUS_LINE = re.compile(rb"HTTP/1\.(\d) (\d\d\d)(?: [^\r\n]*)?\Z")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z", re.DOTALL)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")

CHUNKED = -1
UNTIL_CLOSE = -2

MORE = Generator[None, None, Any]  # it reads, and stops where it needs more bytes


class Malformed(Exception):
    """The bytes are not an HTTP response."""


def parse_head(head: bytes, method: str = "GET") -> tuple[int, int, bool]:
    """(status, body length or CHUNKED or UNTIL_CLOSE, keep) of a head without its final blank line.

    Raises Malformed.
    """
    status_line, *lines = head.split(b"\r\n")
    match = STATUS_LINE.match(status_line)
    if not match:
        raise Malformed("status line")
    minor, status = int(match[1]), int(match[2])
    length: int | None = None
    chunked = False
    connection: list[bytes] = []
    for line in lines:
        field = FIELD.match(line)
        if not field:
            raise Malformed("field")
        name, value = field[1].lower(), field[2]
        if name == b"content-length":
            # int() would take "+4", "4_5" and "٤": only ASCII digits are a length, and not too many.
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
    return (status, UNTIL_CLOSE, False) if length is None else (status, length, keep)


class ResponseReader:
    """Reads one response piece by piece; body bytes are counted and not kept.

    `feed(data)` and `eof()` return the verdict, or None while more is needed. `status` is 0 before the head.
    """

    def __init__(
        self, method: str = "GET", expect_status: int | None = 200, expect_length: int | None = None
    ) -> None:
        self.status, self._method = 0, method
        self._expected = expect_status, expect_length
        self._buffer, self._at = b"", 0  # where the unread part of the buffer begins
        self._count = self._left = 0  # bytes of the body so far, and to come (or UNTIL_CLOSE)
        self._keep = self._started = False
        self._reading = self._read()

    def feed(self, data: bytes) -> Verdict | None:
        """Take what was received (not empty). Returns the verdict once the response is complete."""
        self._started = True
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        try:
            next(self._reading)
        except StopIteration:
            return self._verdict()
        except Malformed:
            return "malformed", False, self._count
        return None

    def eof(self) -> Verdict:
        """The verdict at the end of the connection."""
        if self._left == UNTIL_CLOSE:
            return self._verdict()
        return ("short" if self._started else "closed"), False, self._count

    def _verdict(self) -> Verdict:
        more_came = self._at < len(self._buffer)
        keep, (status, length) = self._keep and not more_came, self._expected
        if status not in (None, self.status):
            return f"status {self.status}", keep, self._count
        if more_came or length not in (None, self._count):
            return "length", keep, self._count
        return None, keep, self._count

    def _read(self) -> MORE:
        """The whole response. Raises Malformed."""
        while self.status < 200:  # an interim answer: the real head follows
            head = yield from self._until(b"\r\n\r\n", MAX_HEAD)
            self.status, length, self._keep = parse_head(head, self._method)
            if self.status == 101:
                raise Malformed("a switch of protocols that was not requested")
        if length != CHUNKED:
            yield from self._body(length)
            return
        size = 1
        while size:
            match = CHUNK_LINE.match((yield from self._until(b"\r\n", MAX_CHUNK_LINE)))
            if not match:
                raise Malformed("chunk size")
            if size := int(match[1], 16):
                yield from self._body(size)
                if (yield from self._until(b"\r\n", 1)):
                    raise Malformed("chunk end")
        while (yield from self._until(b"\r\n", MAX_CHUNK_LINE)):
            pass  # a trailer

    def _until(self, end: bytes, most: int) -> MORE:
        """The bytes before the next `end`, which is skipped. Raises Malformed if that takes too many."""
        while (place := self._buffer.find(end, self._at)) < 0:
            if len(self._buffer) - self._at > most:
                raise Malformed("too long")
            yield
        found, self._at = self._buffer[self._at : place], place + len(end)
        return found

    def _body(self, size: int) -> MORE:
        """Count and skip so many bytes; UNTIL_CLOSE: all that come."""
        self._left = size
        while True:
            there = len(self._buffer) - self._at
            taken = there if size == UNTIL_CLOSE else min(there, self._left)
            self._at += taken
            self._count += taken
            if size != UNTIL_CLOSE:
                self._left -= taken
                if not self._left:
                    return
            yield
