"""The short ways from bytes to a Request. Parsing a head costs h11 about 35 µs; two ways avoid that.

**Heads seen before.** The Request for the exact bytes of a complete head without a body is cached, on second
sight: one-off heads would evict others and write to untouched memory, which costs more than parsing them.

**Plain heads.** A head whose lines all follow RFC 9112's grammar, with exactly one Host, and without a
field about a body or the next protocol, has only one reading. It is read line by line, and most field lines
have been seen before, in other heads. What it does not read h11 does.
"""

import re
from typing import Any

from mpmkit.config.access import METHODS
from mpmkit.config.directives import Directives
from mpmkit.http.messages import Request
from mpmkit.http.target import is_host, split_target

HEADS_REMEMBERED = 512
LONGEST_REMEMBERED = 2048  # bytes of a head
LINES_REMEMBERED = 512
LONGEST_LINE_REMEMBERED = 512
SEEN_ONCE = 256  # hashes of heads and lines that have come once; all are forgotten when it is full

# A target in origin form, its path and its query; no quote or backslash, which logs write otherwise.
_PLAIN_LINE = re.compile(
    rb"([A-Z-]+) ((/[^\x00-\x20\"#?\\\x7f-\xff]*)(?:\?([^\x00-\x20\"#\\\x7f-\xff]*))?) HTTP/1\.([01])"
)
PLAIN_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*)")
CONDITIONAL = frozenset(
    b"if-match if-none-match if-modified-since if-unmodified-since if-range range".split()
)
# What h11 looks at more closely than at a name and a value, and what more than one handler looks at.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_SPECIAL = _NOT_PLAIN | CONDITIONAL | {b"host", b"connection"}
# What a special line of a plain head says, as bits.
_HOST_LINE, _CLOSE, _KEEP_ALIVE, _IF_OR_RANGE = 1, 2, 4, 8

_METHODS = {method.encode(): method for method in METHODS}
_VERSIONS = {b"0": (1, 0), b"1": (1, 1)}

Field = tuple[bytes, bytes]  # name in lower case, value


def tokens(value: bytes | None) -> frozenset[bytes]:
    """The members of a list such as Connection's, in lower case."""
    if value is None:
        return frozenset()
    return frozenset(token.strip() for token in value.lower().split(b","))


class RequestCache:
    """The caches of a process, `known` and `lines`, which are emptied when they are full. Threads share them
    without a lock: each step is one operation on a dict or a set. Each may go beyond a bound by one entry."""

    __slots__ = ("_fields", "_longest", "_once", "known", "lines")

    def __init__(self, directives: Directives) -> None:
        self.known: dict[bytes, Request] = {}  # by a head without a body, byte by byte
        # By a field line of plain heads: its field, and its bits (`_HOST_LINE` and so on).
        self.lines: dict[bytes, tuple[Field, int]] = {}
        self._once: set[int] = set()  # hashes
        # A head that is no longer than one of its lines may be needs no closer look at each.
        self._longest = min(directives.LimitRequestLine, directives.LimitRequestFieldSize)
        self._fields = directives.LimitRequestFields or self._longest

    def remember(self, head: bytes, request: Request) -> None:
        """Know `head` from now on, if it has been here before."""
        if len(head) <= LONGEST_REMEMBERED:
            self._learn(self.known, head, request, HEADS_REMEMBERED)

    def _learn(self, table: dict[bytes, Any], data: bytes, value: Any, most: int) -> None:
        """Put `data` into a table if it has been here lately (or others with its hash, which is harmless)."""
        if (number := hash(data)) in self._once:
            if len(table) >= most:
                table.clear()
            table[data] = value
        else:
            if len(self._once) >= SEEN_ONCE:
                self._once.clear()
            self._once.add(number)

    def read_plain(self, head: bytes) -> Request | None:
        """The Request of `head`, which ends in a blank line, if it is plain and nothing follows. None: it
        is not, and h11 decides. Raises RequestError for an invalid path."""
        lines = head.split(b"\r\n")
        line = lines[0]
        start = _PLAIN_LINE.fullmatch(line)
        if start is None or len(head) > self._longest or len(lines) - 3 > self._fields:
            return None
        known = self.lines
        fields = []
        seen = 0
        for one in lines[1:-2]:
            found = known.get(one) or self._read_line(one)
            if found is None:
                return None
            field, bits = found
            if bits:
                if bits & seen:
                    return None  # a special line twice
                seen |= bits
            fields.append(field)
        if not seen & _HOST_LINE:
            return None
        method, target, raw, query, minor = start.groups()
        if method not in _METHODS:
            return None
        request = Request()
        request.head, request.line, request.log_line = head, line, line.decode("ascii")
        request.method, request.target = _METHODS[method], target
        path = raw.decode("ascii")
        if "%" in path or "//" in path or "/." in path:
            request.path, request.query = split_target(request.method, target)
        else:
            request.path, request.query = path, query or b""
        request.version, request.headers = _VERSIONS[minor], tuple(fields)
        request.conditional = seen & _IF_OR_RANGE != 0
        request.asks_keep_alive = seen & _KEEP_ALIVE != 0
        request.close = seen & _CLOSE != 0 or (minor == b"0" and not seen & _KEEP_ALIVE)
        request.length, request.expect_continue, request.memo = 0, False, None
        return request

    def _read_line(self, line: bytes) -> tuple[Field, int] | None:
        """A field line of a plain head and its bits; None: a head with this line is not plain."""
        match = PLAIN_FIELD.fullmatch(line)
        if match is None:
            return None
        name, value = match.groups()
        name = name.lower()
        value = value.rstrip(b" \t")
        bits = 0
        if name in _SPECIAL:
            if name == b"host" and is_host(value):
                bits = _HOST_LINE
            elif name == b"connection":
                words = tokens(value)
                bits = _CLOSE * (b"close" in words) | _KEEP_ALIVE * (b"keep-alive" in words)
            elif name in CONDITIONAL:
                bits = _IF_OR_RANGE
            else:
                return None
        found = (name, value), bits
        if len(line) <= LONGEST_LINE_REMEMBERED:
            self._learn(self.lines, line, found, LINES_REMEMBERED)
        return found
