"""Heads that httpd refuses for their size or first line, complete or still growing.

LimitRequestLine (414), LimitRequestFieldSize and LimitRequestFields, bare line feeds, and invalid
request lines (400).
"""

import os
import re

from mpmkit.config.directives import Directives
from mpmkit.http.messages import RequestError

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/[1-9]\.[0-9]\Z")
_METHOD = re.compile(_TOKEN + rb"\Z")
_VERSION = re.compile(rb"HTTP/[1-9]\.[0-9]\Z")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


def check_line(head: bytes, directives: Directives) -> int:
    """The first line's length, -1 if it is not complete. Raises RequestError: LimitRequestLine (414),
    bare line feeds anywhere and what is no request line (400)."""
    limit = directives.LimitRequestLine
    line_end = head.find(b"\r\n")
    if (line_end if line_end >= 0 else len(head) - head.endswith(b"\r")) > limit + 1:
        # Whichever of the two comes first in the bytes: the answer must not depend on how they are cut.
        if not _BARE_LINE_FEED.search(head, 0, limit + 2):
            raise RequestError(414, f"request line over LimitRequestLine {limit}", ah="AH00565")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise _bare_line_feed()
    if line_end >= 0 and not REQUEST_LINE.match(head, 0, line_end):
        line = os.fsdecode(head[: min(line_end, 200)])
        raise RequestError(400, f"malformed request line {line}", ah=_malformed(head[:line_end]))
    return line_end


class GrowingHead(bytearray):
    """A head whose first line is right, and whose end may be still to come. Only what is new is looked at,
    so the time that a head takes is linear, however its client cuts it. LimitRequestFieldSize and
    LimitRequestFields hold as it grows: a client can't fill our memory."""

    def __init__(self, head: bytes) -> None:
        super().__init__(head)
        self._seen = 0
        self._line = head.index(b"\r\n") + 2  # where the field begins that is not complete
        self._fields = 0  # that are complete

    def complete(self, directives: Directives) -> bool:
        """Whether its end has come. Raises RequestError for what no end can make right."""
        seen, self._seen = self._seen, len(self)
        blank = self.find(b"\r\n\r\n", max(0, seen - 3))
        last = len(self) if blank < 0 else blank + 2
        if _BARE_LINE_FEED.search(self, seen, last):
            raise _bare_line_feed()
        size, count = directives.LimitRequestFieldSize, directives.LimitRequestFields
        longest, end = 0, self.find(b"\r\n", max(self._line, seen - 1), last)
        while end >= 0:
            longest = max(longest, end - self._line)
            self._line = end + 2
            self._fields += 1
            end = self.find(b"\r\n", self._line, last)
        if max(longest, last - self._line) > size + 1:
            why = f"a header field is over LimitRequestFieldSize {size}"
            raise RequestError(400, why, ah="AH00561")
        if count and self._fields > count:
            why = f"more header fields than LimitRequestFields {count}"
            raise RequestError(400, why, ah="AH00563")
        return blank >= 0


def _bare_line_feed() -> RequestError:
    return RequestError(400, "a line ends in a bare line feed", ah="AH00566")


def _malformed(line: bytes) -> str:
    """httpd's id for what is wrong with a request line."""
    words = line.split(b" ")
    if not _METHOD.match(words[0]):
        return "AH03445"
    if len(words) != 3:
        return "AH03448"
    return "AH00566" if _VERSION.match(words[2]) else "AH02418"
