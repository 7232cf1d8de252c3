"""A request's body: the bytes that come become pieces, by Content-Length or by chunks (RFC 9112, 7.1).

A line of the chunked framing ends in CRLF and has no control character: bytes that another server on the
way may treat as the end of a line must not be part of one here.
"""

import re
from collections.abc import Generator, Iterator

from mpmkit.http.fastpath import PLAIN_FIELD
from mpmkit.http.messages import RequestError

LONGEST_LINE = 8190  # bytes of a chunk's line with its extensions
# A size, blanks that some clients pad it with, and extensions, which are not looked at.
_CHUNK = re.compile(rb"(0*[0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")


class Body:
    """What has come of a body. rest: what is in no piece yet; at the end, what came behind it."""

    __slots__ = ("rest",)

    def __init__(self, rest: bytes) -> None:
        self.rest = rest

    def feed(self, data: bytes) -> None:
        self.rest = self.rest + data if self.rest else data

    def exactly(self, count: int) -> Iterator[bytes | None]:
        """The pieces of so many bytes."""
        while count:
            data, self.rest = self.rest[:count], self.rest[count:]
            count -= len(data)
            yield data or None

    def line(self, longest: int) -> Generator[None, None, bytes]:
        """Returns the next line, without its CRLF."""
        while True:
            line, feed, rest = self.rest.partition(b"\n")
            if feed and line[-1:] != b"\r":
                raise refused("a line ends in a bare line feed")
            if len(line) - (line[-1:] == b"\r") > longest:
                raise refused("a line of the chunked framing is too long")
            if feed:
                self.rest = rest
                return line[:-1]
            yield None


def pieces(body: Body, length: int | None, most: int) -> Iterator[bytes | None]:
    """The pieces of `length` bytes, or of chunks (None), whose trailers may have `most` bytes together: b"" at
    the end, None where more bytes are needed. Raises RequestError."""
    if length is not None:
        yield from body.exactly(length)
    else:
        while size := _size((yield from body.line(LONGEST_LINE))):
            yield from body.exactly(size)
            if (yield from body.line(0)):
                raise refused("a chunk is longer than its size")
        while line := (yield from body.line(most)):
            most -= len(line) + 2
            if most < 0:
                raise refused("the body's trailers are too long")
            if PLAIN_FIELD.fullmatch(line) is None:
                raise refused("an invalid trailer")
    yield b""


def _size(line: bytes) -> int:
    found = _CHUNK.match(line)
    if found is None:
        raise refused("an invalid line before a chunk")
    return int(found[1], 16)


def refused(why: str) -> RequestError:
    return RequestError(400, f"bad request body: {why}", ah="AH01590")
