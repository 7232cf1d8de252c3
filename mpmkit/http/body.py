"""A request's body: the bytes that come become pieces, by Content-Length or by chunks (RFC 9112, 7.1).

    feed(data)      bytes that came from the client
    next_piece()    the next piece, b"" at the end, None: more bytes are needed. Raises RequestError

A line of the chunked framing ends in CRLF and has no control character: bytes that another server on the
way may treat as the end of a line must not be part of one here.
"""

from __future__ import annotations

import re

from mpmkit.http.fastpath import PLAIN_FIELD
from mpmkit.http.messages import RequestError

LONGEST_LINE = 8190  # bytes of a chunk's line with its extensions
# A size, blanks that some clients pad it with, and extensions, which are not looked at.
_CHUNK = re.compile(rb"(0*[0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")

DATA, DATA_END, SIZE, TRAILERS, DONE = range(5)


class Body:
    """`length` bytes, or chunks (None). `most`: bytes that trailers may have together.

    rest    what came behind the end
    """

    __slots__ = ("_chunked", "_data", "_left", "_most", "_state")

    def __init__(self, length: int | None, most: int) -> None:
        self._chunked = length is None
        self._left = length or 0  # bytes of the chunk, or of the body, that are still to come
        self._state = SIZE if length is None else DATA
        self._most = most
        self._data = b""

    @property
    def rest(self) -> bytes:
        return self._data

    def feed(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data

    def next_piece(self) -> bytes | None:
        while True:
            if self._state == DATA:
                if self._left:
                    return self._take() or None
                self._state = DATA_END if self._chunked else DONE
            elif self._state == DONE:
                return b""
            elif (line := self._line()) is None:
                return None
            elif self._state == DATA_END:
                if line:
                    raise _refused("a chunk is longer than its size")
                self._state = SIZE
            elif self._state == SIZE:
                self._begin_chunk(line)
            elif not line:
                self._state = DONE
            else:
                self._trailer(line)

    def _take(self) -> bytes:
        data, left = self._data, self._left
        if len(data) <= left:
            self._data = b""
        else:
            data, self._data = data[:left], data[left:]
        self._left -= len(data)
        return data

    def _line(self) -> bytes | None:
        """The next line without its CRLF; None: it is not complete."""
        longest = {DATA_END: 0, SIZE: LONGEST_LINE, TRAILERS: self._most}[self._state]
        line, feed, rest = self._data.partition(b"\n")
        if feed and line[-1:] != b"\r":
            raise _refused("a line ends in a bare line feed")
        if len(line) - (line[-1:] == b"\r") > longest:
            raise _refused("a line of the chunked framing is too long")
        if not feed:
            return None
        self._data = rest
        return line[:-1]

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK.match(line)
        if found is None:
            raise _refused("an invalid line before a chunk")
        self._left = int(found[1], 16)
        self._state = DATA if self._left else TRAILERS

    def _trailer(self, line: bytes) -> None:
        self._most -= len(line) + 2
        if self._most < 0:
            raise _refused("the body's trailers are too long")
        if PLAIN_FIELD.fullmatch(line) is None:
            raise _refused("an invalid trailer")


def _refused(why: str) -> RequestError:
    return RequestError(400, f"bad request body: {why}", ah="AH01590")
