"""Bytes to requests, by h11. No socket and no thread here.

    feed(data)          bytes that came from the client
    next_request()      a Request, or None: more bytes are needed. Raises RequestError
    read_body(...)      the body of that request, piece by piece

h11 decides what a valid request is. Before it sees a head, the rules are applied that httpd has
and h11 has not: the limits (LimitRequestLine, LimitRequestFields, LimitRequestFieldSize), bare
line feeds, blank lines before the request line. After it, what a server makes of the head: the
path, the body's framing, whether the client wants to stay.

Parsing a head costs h11 about 35 µs. Two shorter ways (`Heads`) come to the same end:

**Heads seen before.** Most have been: a client repeats itself. What was decided about the exact
bytes of a complete head without a body is remembered, and the same bytes get the same Request.
Nothing is guessed: a head that differs in one byte is parsed.

**Plain heads.** A head whose lines all look as RFC 9112 draws them, with exactly one Host, and with
no field that says something about a body or about the next protocol, has only one reading. It is
taken line by line: the request line by a regular expression; most of the field lines have been seen
before, in other heads, and the others are read by a second expression. This way only ever says
"plain" or "ask h11": no head is refused by it, and tests/test_protocol.py compares everything in
what it accepts with what `parse_head` makes of the same bytes.

**What comes twice is remembered.** A head or a line that never comes again would only push out
others, and write to memory that was not touched before, which costs more than reading it did.
"""

from __future__ import annotations

import os
import re

import h11

from mpmkit.config.directives import Directives
from mpmkit.http.messages import METHODS, Request, RequestError, whole_number

HEADS_REMEMBERED = 512
LONGEST_REMEMBERED = 2048  # bytes of a head
LINES_REMEMBERED = 512
LONGEST_LINE_REMEMBERED = 512
SEEN_ONCE = (
    256  # heads and lines of which it is known that they were here, until they are forgotten
)
TRAILERS = 8190  # bytes of them, as of one field of a head; h11 takes twice as many in pieces
BLANK_LINES = 10  # httpd accepts this many before a request line (DEFAULT_LIMIT_BLANK_LINES)

_REQUEST_LINE = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e\x80-\xff]+ HTTP/[1-9]\.[0-9]\Z"
)
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VERSION = re.compile(rb"HTTP/[1-9]\.[0-9]\Z")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_SIMPLE_REQUEST = re.compile(rb"GET ([\x21-\x7e\x80-\xff]+)\r\n")
# A target in origin form, its path and its query; no quote or backslash, which logs write otherwise.
_PLAIN_LINE = re.compile(
    rb"([A-Z-]+) ((/[^\x00-\x20\"#?\\\x7f-\xff]*)(?:\?([^\x00-\x20\"#\\\x7f-\xff]*))?) HTTP/1\.([01])"
)
_PLAIN_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
# What httpd refuses in a head, and h11 does not: control characters, a continuation line of blanks,
# and a length that is said twice, be it the same.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANK_CONTINUATION = re.compile(rb"\r\n[ \t]+\r\n")
_LENGTHS = re.compile(rb"\ncontent-length:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.IGNORECASE)
_CONDITIONAL = frozenset(
    {
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"range",
    }
)
# What h11 looks at more closely than at a name and a value, and what more than one handler looks at.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_SPECIAL = _NOT_PLAIN | _CONDITIONAL | {b"host", b"connection"}
# What a special line of a plain head tells, as bits.
_HOST_LINE, _CLOSE, _KEEP_ALIVE, _IF_OR_RANGE = 1, 2, 4, 8
# A host name or an address, and a port: whatever else comes as Host ends up in nobody's link.
_HOST = re.compile(
    rb"(?:[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::0*[1-9][0-9]{0,4})?\Z"
)

# What h11 says of a head, and httpd's id for the same.
_H11_SAYS = {
    "Missing mandatory Host": "AH00569", "multiple Host": "AH00550", "Content-Length": "AH10242",
    "Transfer-Encoding": "AH02539", "continuation line": "AH03442", "header line": "AH02426",
}  # fmt: skip


_METHODS = {method.encode(): method for method in METHODS}
_VERSIONS = {b"0": (1, 0), b"1": (1, 1)}

Field = tuple[bytes, bytes]  # name in lower case, value


class Heads:
    """The short ways to a Request, and what a process remembers for them.

    known    heads without a body, byte by byte, and what became of them
    lines    field lines of plain heads: each with its field and its bits (`_HOST_LINE` and so on)

    Both are bounded, and emptied when they are full. All connections and threads of a process share
    them; each step is one operation on a dict or a list, so there is no lock.
    """

    __slots__ = ("_fields", "_longest", "_once", "known", "lines")

    def __init__(self, directives: Directives) -> None:
        self.known: dict[bytes, Request] = {}
        self.lines: dict[bytes, tuple[Field, int]] = {}
        self._once: set[int] = set()  # hashes
        # A head that is no longer than one of its lines may be needs no closer look at each.
        self._longest = min(directives.LimitRequestLine, directives.LimitRequestFieldSize)
        self._fields = directives.LimitRequestFields or self._longest

    def remember(self, head: bytes, request: Request) -> None:
        """Know `head` from now on, if it has been here before."""
        if len(head) <= LONGEST_REMEMBERED and self._twice(head):
            if len(self.known) >= HEADS_REMEMBERED:
                self.known.clear()
            self.known[head] = request

    def _twice(self, data: bytes) -> bool:
        """Have the same bytes been here lately? (Or others with the same hash: that does no harm.)"""
        number = hash(data)
        if number in self._once:
            return True
        if len(self._once) >= SEEN_ONCE:
            self._once.clear()
        self._once.add(number)
        return False

    def read_plain(self, head: bytes) -> Request | None:
        """The Request of `head`, which ends in a blank line, if that is all it is and it is plain.

        None: it is none, and h11 has the word. Raises RequestError for a path that is none.
        """
        lines = head.split(b"\r\n")
        line = lines[0]
        start = _PLAIN_LINE.fullmatch(line)
        if start is None or len(head) > self._longest or len(lines) - 3 > self._fields:
            return None
        known = self.lines
        fields = []
        told = 0
        for one in lines[1:-2]:
            found = known.get(one) or self._read_line(one)
            if found is None:
                return None
            field, bits = found
            if bits:
                if bits & told:
                    return None  # one said twice
                told |= bits
            fields.append(field)
        if not told & _HOST_LINE:
            return None
        method, target, raw, query, minor = start.groups()
        if method not in _METHODS:
            return None
        request = Request()
        request.head = head
        request.line = line
        request.log_line = line.decode("ascii")
        request.method = _METHODS[method]
        request.target = target
        path = raw.decode("ascii")
        if "%" in path or "//" in path or "/." in path:
            request.path, request.query = split_target(request.method, target)
        else:
            request.path, request.query = path, query or b""
        request.version = _VERSIONS[minor]
        request.headers = tuple(fields)
        request.conditional = told & _IF_OR_RANGE != 0
        request.asks_keep_alive = told & _KEEP_ALIVE != 0
        request.close = told & _CLOSE != 0 or (minor == b"0" and not told & _KEEP_ALIVE)
        request.length = 0
        request.expect_continue = False
        request.told = None
        return request

    def _read_line(self, line: bytes) -> tuple[Field, int] | None:
        """A field line of a plain head and its bits; None: a head with this line is not plain."""
        match = _PLAIN_FIELD.fullmatch(line)
        if match is None:
            return None
        name, value = match.groups()
        name = name.lower()
        value = value.rstrip(b" \t")
        bits = 0
        if name in _SPECIAL:
            if name == b"host" and _is_host(value):
                bits = _HOST_LINE
            elif name == b"connection":
                tokens = _tokens(value)
                bits = _CLOSE * (b"close" in tokens) | _KEEP_ALIVE * (b"keep-alive" in tokens)
            elif name in _CONDITIONAL:
                bits = _IF_OR_RANGE
            else:
                return None
        found = (name, value), bits
        if len(line) <= LONGEST_LINE_REMEMBERED and self._twice(line):
            if len(self.lines) >= LINES_REMEMBERED:
                self.lines.clear()
            self.lines[line] = found
        return found


class Protocol:
    """One connection's side of HTTP/1.x. `heads` is shared by all connections of a process."""

    __slots__ = ("_allowed", "_between", "_body", "_buffer", "_directives", "_heads")

    def __init__(self, directives: Directives, heads: Heads) -> None:
        self._directives = directives
        self._heads = heads
        self._buffer = b""
        self._between = False  # a request has been read: blank lines after it are nobody's
        self._body: h11.Connection | None = None
        self._allowed: int | None = None  # bytes of body that LimitRequestBody still allows

    # -- heads --------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def pending(self) -> bool:
        """Bytes have come that no request has used yet (a partial head, or pipelined requests)."""
        return bool(self._buffer)

    @property
    def unread(self) -> bool:
        """The client has sent, or may yet send, bytes that nobody has read: of a body, or beyond."""
        return self._body is not None or bool(self._buffer)

    @property
    def line(self) -> bytes:
        """The first line of what has come, b"" while it is incomplete: for logs and time-outs."""
        return self._buffer.partition(b"\r\n")[0] if b"\r\n" in self._buffer else b""

    def refused(self) -> Request | None:
        """What an access log may tell of the head that `next_request` has refused."""
        return told_of(self._buffer, self._directives)

    def next_request(self) -> Request | None:
        """The next request once its head is complete. Raises RequestError: then answer and close."""
        heads = self._heads
        buffer = self._buffer
        request = heads.known.get(buffer)
        if request is not None:
            self._between = True
            self._buffer = b""
            return request
        end = buffer.find(b"\r\n\r\n") + 4
        if end == 3:
            return self._incomplete(buffer)
        head = buffer[:end]
        request = heads.known.get(head)
        if request is None:
            request = heads.read_plain(head)
            if request is None:
                if buffer.startswith((b"\r", b"\n")) or _SIMPLE_REQUEST.match(buffer):
                    return self._incomplete(buffer)
                request, parser = parse_head(head, self._directives)
                if request.length != 0:
                    self._begin_body(request, parser, buffer[end:])
                    return request
            heads.remember(head, request)
        rest = buffer[end:]
        self._between = True
        self._buffer = _without_blank_lines(rest) if rest else rest
        return request

    def _incomplete(self, buffer: bytes) -> Request | None:
        """Not a whole head yet. Refuse now what can't become a valid one."""
        if self._between and buffer.startswith(b"\r\n"):
            self._buffer = _without_blank_lines(buffer)
            return self.next_request() if self._buffer else None
        if buffer.startswith((b"\r", b"\n")):
            for _ in range(BLANK_LINES):
                if buffer.startswith(b"\r\n"):
                    buffer = buffer[2:]
            if buffer.startswith((b"\n", b"\r\n")):
                raise RequestError(400, "blank lines instead of a request line", ah="AH03445")
            if buffer in (b"", b"\r"):
                return None
            if buffer.startswith(b"\r"):
                raise RequestError(400, "a carriage return instead of a request line", ah="AH03447")
            self._buffer = buffer
            return self.next_request()
        if (
            simple := _SIMPLE_REQUEST.match(buffer)
        ) and "Allow0.9" in self._directives.HttpProtocolOptions:
            self._between = True
            self._buffer = buffer[simple.end() :]
            return simple_request(simple, self._directives)
        check_limits(buffer, self._directives, complete=False)
        return None

    # -- bodies -------------------------------------------------------------------------------

    def _begin_body(self, request: Request, parser: h11.Connection, first: bytes) -> None:
        self._body = parser
        self.limit_body(request, self._directives.longest_body)
        self._between = True
        self._buffer = b""
        if first:
            parser.receive_data(first)

    def limit_body(self, request: Request, limit: int) -> None:
        """LimitRequestBody of the section that `request` is for; 0: none. Before any of the body is read.

        Raises RequestError 413 for a body that is announced to be longer.
        """
        if limit and request.length is not None and request.length > limit:
            raise RequestError(
                413,
                f"body of {request.length} bytes is over LimitRequestBody {limit}",
                ah="AH01588",
            )
        self._allowed = limit or None

    @property
    def in_body(self) -> bool:
        """The current request's body is not read to its end."""
        return self._body is not None

    def feed_body(self, data: bytes) -> None:
        """Bytes from the client while `in_body`; b"" when it has closed its side."""
        assert self._body is not None
        self._body.receive_data(data)

    def next_piece(self) -> bytes | None:
        """The next piece of the body; b"" at its end, None: more bytes are needed.

        Raises RequestError: 400 for bad framing, 413 over LimitRequestBody; and again at each
        call after that, so that no script that swallows it makes the rest look like a request.
        """
        body = self._body
        if body is None:
            return b""
        if self._allowed is not None and self._allowed < 0:
            raise RequestError(413, "the body's chunks were over LimitRequestBody", ah="AH01591")
        try:
            event = body.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestError(400, f"bad request body: {error}", ah="AH01590") from None
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Data):
            data = bytes(event.data)
            if self._allowed is not None:
                self._allowed -= len(data)
                if self._allowed < 0:
                    return self.next_piece()
            return data or self.next_piece()
        # h11 limits only trailers that come in pieces, and how a client cuts what it sends decides nothing.
        assert isinstance(event, h11.EndOfMessage)
        trailers = sum(len(name) + len(value) + 4 for name, value in event.headers)
        if trailers > min(self._directives.LimitRequestFieldSize, TRAILERS):
            raise RequestError(400, "the body's trailers are too long", ah="AH01590")
        self._buffer = _without_blank_lines(body.trailing_data[0])
        self._body = None
        return b""


def simple_request(line: re.Match[bytes], directives: Directives) -> Request:
    """HTTP/0.9: `GET /path` and nothing else; the answer is the bare body. Raises RequestError."""
    request = Request()
    request.head = line[0]
    request.line = line[0][:-2]
    if len(request.line) > directives.LimitRequestLine + 1:
        why = f"request line over LimitRequestLine {directives.LimitRequestLine}"
        raise RequestError(414, why, ah="AH00565")
    request.method = "GET"
    request.target = line[1]
    request.headers = ()
    request.version = (0, 9)
    request.conditional = request.asks_keep_alive = request.expect_continue = False
    request.close = True
    request.length = 0
    request.told = None
    request.path, request.query = split_target("GET", request.target)
    request.log_line = quote_line(request.line)
    return request


def _without_blank_lines(data: bytes) -> bytes:
    """What follows a request, without the blank lines that some clients send after a body: waiting
    for the rest of a request that begins with them would be waiting for nothing (RFC 9112, 2.2)."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def parse_head(head: bytes, directives: Directives) -> tuple[Request, h11.Connection]:
    """One complete head, by httpd's strict rules and h11's. Raises RequestError.

    Returns the Request and the h11 connection, which goes on to read the body if there is one.
    """
    request = Request()
    request.head = head
    request.line = line = head[: head.index(b"\r\n")]
    parser = _read_by_h11(request, head, directives)
    _check_host(request)
    if len(head) > directives.LimitRequestFieldSize:
        _check_merged(request, directives.LimitRequestFieldSize)
    names = {name for name, _ in request.headers}
    request.conditional = not names.isdisjoint(_CONDITIONAL)
    connection = _tokens(request.get(b"connection"))
    request.asks_keep_alive = b"keep-alive" in connection
    request.close = b"close" in connection or (
        request.version == (1, 0) and not request.asks_keep_alive
    )
    if request.method not in METHODS and "RegisteredMethods" in directives.HttpProtocolOptions:
        raise RequestError(501, f"{request.method} is no known method", ah="AH00135")
    _frame(request)
    request.expect_continue = False
    request.told = None
    _check_expectation(request)
    request.path, request.query = split_target(request.method, request.target)
    request.log_line = quote_line(line)
    return request, parser


def told_of(head: bytes, directives: Directives) -> Request | None:
    """As much of a refused head as was right, for the access log: httpd, too, keeps what it had read.

    The request line, and the fields before the first line that is none, is over a limit or is not
    complete; the path as it was sent. None if not even the request line is right.
    """
    whole, blank, _ = head.partition(b"\r\n\r\n")
    line, *rest = (whole + blank[:2]).split(b"\r\n")[:-1] or [b""]
    if len(line) > directives.LimitRequestLine or not _REQUEST_LINE.match(line):
        return None
    method, target, _ = line.split(b" ")
    request = Request()
    request.line, request.log_line = line, quote_line(line)
    request.method, request.target = method.decode("ascii"), target
    path, _, request.query = target.partition(b"?")
    request.path = os.fsdecode(path)
    request.asks_keep_alive = False
    fields: list[tuple[bytes, bytes]] = []
    for text in rest[: directives.LimitRequestFields or None]:
        found = _PLAIN_FIELD.fullmatch(text)
        if found is None or len(text) > directives.LimitRequestFieldSize:
            break
        fields.append((found[1].lower(), found[2].strip(b" \t")))
    request.headers = tuple(fields)
    return request


def _read_by_h11(request: Request, head: bytes, directives: Directives) -> h11.Connection:
    """The same of any head. Raises RequestError."""
    check_limits(head, directives, complete=True)
    if _CONTROL.search(head):
        raise RequestError(400, "a control character in the head", ah="AH02427")
    if _BLANK_CONTINUATION.search(head):
        raise RequestError(400, "a blank continuation line in the head", ah="AH03443")
    lengths = _LENGTHS.findall(head)
    if len(lengths) > 1 or any(b"," in value for value in lengths):
        raise RequestError(400, "more than one Content-Length", ah="AH10242")
    # h11's own limit is for incomplete heads, which it never sees here, chunk sizes and trailers.
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        text = str(error).replace("bytearray(b", "(")
        ah = next((ah for words, ah in _H11_SAYS.items() if words in text), "AH00567")
        raise RequestError(400, text, ah=ah) from None
    if not isinstance(event, h11.Request):
        raise RequestError(400, "not a request", ah="AH00566")
    request.method = event.method.decode("ascii")
    request.target = event.target
    request.headers = tuple(event.headers)
    request.version = (1, 0) if event.http_version == b"1.0" else (1, 1)
    return parser


def _malformed(line: bytes) -> str:
    """httpd's id for what is wrong with a request line."""
    words = line.split(b" ")
    if not _METHOD.match(words[0]):
        return "AH03445"
    if len(words) != 3:
        return "AH03448"
    return "AH00566" if _VERSION.match(words[2]) else "AH02418"


def check_limits(head: bytes, directives: Directives, *, complete: bool) -> None:
    """LimitRequestLine (414), LimitRequestFieldSize and LimitRequestFields (400), bare LF (400).

    Also for a head that is still growing, so that a client can't fill our memory.
    """
    limit = directives.LimitRequestLine
    line_end = head.find(b"\r\n")
    if (line_end if line_end >= 0 else len(head) - head.endswith(b"\r")) > limit + 1:
        # Whichever of the two comes first in the bytes: the answer must not depend on how they are cut.
        bare = _BARE_LINE_FEED.search(head, 0, limit + 2)
        if bare is None:
            raise RequestError(414, f"request line over LimitRequestLine {limit}", ah="AH00565")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise RequestError(400, "a line ends in a bare line feed", ah="AH00566")
    if line_end < 0:
        return
    if not _REQUEST_LINE.match(head, 0, line_end):
        line = quote_line(head[:line_end][:200])
        raise RequestError(400, f"malformed request line {line}", ah=_malformed(head[:line_end]))
    size = directives.LimitRequestFieldSize
    count = directives.LimitRequestFields
    if len(head) > size or (count and head.count(b"\n") > count):
        fields = head[line_end + 2 :].split(b"\r\n")
        if complete:
            fields = fields[:-2]
        if any(len(field) > size + 1 for field in fields):
            why = f"a header field is over LimitRequestFieldSize {size}"
            raise RequestError(400, why, ah="AH00561")
        if count and len(fields) > count + (not complete):
            why = f"more header fields than LimitRequestFields {count}"
            raise RequestError(400, why, ah="AH00563")


def _check_host(request: Request) -> None:
    """A host that is one (400), and the target's own before the Host header (RFC 9112, 3.2.2)."""
    host = request.get(b"host")
    if not host:
        if request.version == (1, 1):
            raise RequestError(400, "no Host", ah="AH00569")
    elif not _is_host(host):
        raise RequestError(400, "a Host that is none", ah="AH00550")
    absolute = _ABSOLUTE.match(request.target)
    if absolute is not None:
        if not _is_host(absolute[1]):
            raise RequestError(400, "a bad host in the request target", ah="AH00550")
        others = (field for field in request.headers if field[0] != b"host")
        request.headers = ((b"host", absolute[1]), *others)


def _is_host(text: bytes) -> bool:
    """A name or an address, and a port from 1 to 65535 or none."""
    if not _HOST.match(text):
        return False
    port = text.rpartition(b":")[2]
    return not port.isdigit() or whole_number(port, 65535) is not None


def _check_merged(request: Request, size: int) -> None:
    """LimitRequestFieldSize is also for fields of one name together, as httpd merges them (400)."""
    for name in {name for name, _ in request.headers}:
        value = request.get(name) or b""
        if len(name) + 2 + len(value) > size + 1:
            why = f"header fields together are over LimitRequestFieldSize {size}"
            raise RequestError(400, why, ah="AH00561")


def _frame(request: Request) -> None:
    """How long the body is (RFC 9112, 6.3): `length` bytes, or None for chunked."""
    if request.get(b"transfer-encoding") is not None:
        if request.version == (1, 0):
            raise RequestError(400, "Transfer-Encoding in an HTTP/1.0 request", ah="AH02539")
        request.length = None
        # Both framings: chunked wins, nobody hears of the length, and the connection ends, in case
        # someone on the way saw it otherwise.
        if request.get(b"content-length") is not None:
            request.close = True
            request.headers = tuple(f for f in request.headers if f[0] != b"content-length")
    else:
        request.length = whole_number(request.get(b"content-length") or b"")
        if request.length is None:
            raise RequestError(400, "a Content-Length that no file has", ah="AH10242")


def _check_expectation(request: Request) -> None:
    """Expect: 100-continue is the only one there is (417), and for bodies (RFC 9110, 10.1.1)."""
    expect = request.get(b"expect")
    if expect:
        if expect.lower() != b"100-continue":
            raise RequestError(417, "unknown expectation", ah="AH00570")
        request.expect_continue = request.version == (1, 1) and request.length != 0


def _tokens(value: bytes | None) -> frozenset[bytes]:
    if value is None:
        return frozenset()
    return frozenset(token.strip() for token in value.lower().split(b","))


_HEX = {b"%02x" % i: bytes([i]) for i in range(256)}
_HEX |= {key.upper(): value for key, value in _HEX.items()}
_HEX |= {key[:1].upper() + key[1:]: value for key, value in list(_HEX.items())}
_HEX |= {key[:1] + key[1:].upper(): value for key, value in list(_HEX.items())}


_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)")


def split_target(method: str, target: bytes) -> tuple[str, bytes]:
    """The path, decoded and normalised, and the query of a request target.

    Origin form, absolute form (its authority is ignored here, as for httpd without name-based
    hosts) and `*` for OPTIONS. A path with `%2F` (AllowEncodedSlashes Off) or `%00` names nothing:
    it comes back empty. Raises RequestError 400 for a path that leaves the root or a bad escape.
    """
    if target.startswith(b"/"):
        pass
    elif target == b"*" and method == "OPTIONS":
        return "*", b""
    elif absolute := _ABSOLUTE.match(target):
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    elif method == "CONNECT":
        return "", b""
    else:
        raise RequestError(400, "the request target does not begin with a slash", ah="AH03450")
    if b"#" in target:
        raise RequestError(400, "a fragment in the request target", ah="AH02421")
    raw, _, query = target.partition(b"?")
    if b"%" in raw:
        raw = _unquote(raw)
    if b"//" in raw or b"/." in raw:
        raw = _normalise(raw)
    return os.fsdecode(raw), query


def _unquote(raw: bytes) -> bytes:
    first, *rest = raw.split(b"%")
    pieces = [first]
    for piece in rest:
        char = _HEX.get(piece[:2])
        if char is None:
            text = quote_line(raw)
            raise RequestError(400, f"a bad %-escape in the path {text}", ah="AH10244")
        if char in b"/\0":
            return b""  # no resource has such a name
        pieces += (char, piece[2:])
    return b"".join(pieces)


def _normalise(raw: bytes) -> bytes:
    """Without `//`, `/./` and `/../`; above the root is no valid path (400)."""
    kept: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                text = quote_line(raw)
                raise RequestError(400, f"the path {text} leads above the root", ah="AH10244")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    slash = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + slash


_SAFE = re.compile(r'[^\x20-\x7e]|["\\]')


def quote_line(line: bytes) -> str:
    """A request line as the access log may hold it: no quote, backslash or control character raw."""
    text = line.decode("latin-1")
    if _SAFE.search(text) is None:
        return text
    escapes = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    return _SAFE.sub(lambda m: escapes.get(m[0]) or f"\\x{ord(m[0]):02x}", text)
