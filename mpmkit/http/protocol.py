"""Bytes to requests, their heads by h11. No socket and no thread here.

    feed(data)          bytes that came from the client
    next_request()      a Request, or None: more bytes are needed. Raises RequestError
    next_piece()        the next piece of that request's body, from the bytes of feed_body(data)

h11 decides what a valid request is. Before it sees a head, httpd's additional rules apply: the limits, bare
line feeds, blank lines before the request line. After it comes the server's part: the path, the body's
framing, whether the connection is kept. Most heads take a shorter way (`http/fastpath.py`) to the same Request.

A line of the chunked framing (RFC 9112, 7.1) ends in CRLF and has no control character: bytes that another
server on the way may treat as the end of a line must not be part of one here.
"""

import os
import re
from collections.abc import Generator, Iterator
from itertools import takewhile
from typing import Any

import h11

from mpmkit.config.access import METHODS
from mpmkit.config.directives import Directives
from mpmkit.http.fastpath import CONDITIONAL, PLAIN_FIELD, RequestCache, tokens
from mpmkit.http.messages import Request, RequestError, whole_number
from mpmkit.http.target import ABSOLUTE, is_host, quote_line, split_target

TRAILERS = CHUNK_LINE = 8190  # bytes of all trailers, and of a chunk's line with its extensions
# A size, blanks that some clients pad it with, and extensions, which are not looked at.
_CHUNK = re.compile(rb"(0*[0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
# Some clients send blank lines after a body: to wait for the rest of a request that begins with them would be
# to wait for nothing (RFC 9112, 2.2). Before a request line httpd accepts ten (DEFAULT_LIMIT_BLANK_LINES).
_BLANK_LINES = re.compile(rb"(?:\r\n)*")
_TEN_BLANK_LINES = re.compile(rb"(?:\r\n){0,10}")
# What httpd refuses in a head, and h11 does not: control characters, a continuation line of blanks,
# and a length that is given twice, even the same one.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANK_CONTINUATION = re.compile(rb"\r\n[ \t]+\r\n")
_FOLD = re.compile(rb"\r\n[ \t]+")  # and the blanks before it are one blank (RFC 9112, 5.2)
_LENGTHS = re.compile(rb"\ncontent-length:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.IGNORECASE)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/[1-9]\.[0-9]\Z")
_METHOD = re.compile(_TOKEN + rb"\Z")
_VERSION = re.compile(rb"HTTP/[1-9]\.[0-9]\Z")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")

# What h11 says of a head, and httpd's id for the same.
_H11_SAYS = {
    "Missing mandatory Host": "AH00569", "multiple Host": "AH00550", "Content-Length": "AH10242",
    "Transfer-Encoding": "AH02539", "continuation line": "AH03442", "header line": "AH02426",
}  # fmt: skip


class Protocol:
    """One connection's side of HTTP/1.x. All connections of a process share `cache`."""

    __slots__ = ("_allowed", "_between", "_cache", "_directives", "_pieces", "body", "pending")

    def __init__(self, directives: Directives, cache: RequestCache) -> None:
        self._directives = directives
        self._cache = cache
        self.pending = b""  # what no request has used yet: a partial head, or pipelined requests
        self._between = False  # a request has been read: blank lines after it are skipped
        self.body: Body | None = None  # the current request's, while it is not read to its end
        self._allowed: int | None = None  # bytes of body that LimitRequestBody still allows

    def feed(self, data: bytes) -> None:
        self.pending += data

    @property
    def unread(self) -> bool:
        """The client has sent, or may still send, bytes that are not read: of a body, or beyond it."""
        return self.body is not None or bool(self.pending)

    @property
    def line(self) -> bytes:
        """The first line of what has come, b"" while it is incomplete: for logs and time-outs."""
        return bytes(self.pending[: max(self.pending.find(b"\r\n"), 0)])

    def next_request(self) -> Request | None:
        """The next request once its head is complete. Raises RequestError: then answer and close."""
        cache = self._cache
        buffer = self.pending
        request = cache.known.get(buffer)
        if request is not None:
            self._between = True
            self.pending = b""
            return request
        if isinstance(buffer, GrowingHead):
            if not buffer.complete(self._directives):
                return None
            self.pending = bytes(buffer)
            return self.next_request()
        end = buffer.find(b"\r\n\r\n") + 4
        if end == 3:
            return self._incomplete(buffer)
        head = buffer[:end]
        request = cache.known.get(head)
        if request is None:
            request = cache.read_plain(head)
            if request is None:
                if buffer.startswith((b"\r", b"\n")):
                    return self._incomplete(buffer)
                request = parse_head(head, self._directives)
                if request.length != 0:
                    self.body = body = Body(buffer[end:])
                    most = min(self._directives.LimitRequestFieldSize, TRAILERS)
                    self._pieces = body.pieces(request.length, most)
                    self.limit_body(request, self._directives.longest_body)
                    self._between, self.pending = True, b""
                    return request
            cache.remember(head, request)
        rest = buffer[end:]
        self._between = True
        self.pending = _BLANK_LINES.sub(b"", rest, 1) if rest else rest
        return request

    def _incomplete(self, buffer: bytes) -> Request | None:
        """Not a whole head yet. Refuse now what can't become a valid one."""
        if buffer.startswith((b"\r", b"\n")):
            rest = (_BLANK_LINES if self._between else _TEN_BLANK_LINES).sub(b"", buffer, 1)
            if rest.startswith((b"\n", b"\r\n")):
                raise RequestError(400, "blank lines instead of a request line", ah="AH03445")
            if rest in (b"", b"\r"):
                self.pending = rest if self._between else buffer
                return None
            if rest.startswith(b"\r"):
                raise RequestError(400, "a carriage return instead of a request line", ah="AH03447")
            self.pending = rest
            return self.next_request()
        if check_line(buffer, self._directives) > 0:
            self.pending = head = GrowingHead(buffer)  # type: ignore[assignment]
            head.complete(self._directives)
        return None

    def limit_body(self, request: Request, limit: int) -> None:
        """LimitRequestBody of the section that `request` is for; 0: none. Before any of the body is read.
        Raises RequestError 413 for a body that is announced to be longer."""
        if limit and request.length is not None and request.length > limit:
            why = f"body of {request.length} bytes is over LimitRequestBody {limit}"
            raise RequestError(413, why, ah="AH01588")
        self._allowed = limit or None

    def feed_body(self, data: bytes) -> None:
        assert self.body is not None
        self.body.rest += data

    def next_piece(self) -> bytes | None:
        """The next piece of the body; b"" at its end, None: more bytes are needed. Raises RequestError, at each
        call from then on: 400 for bad framing, 413 over LimitRequestBody."""
        body = self.body
        if body is None:
            return b""
        if self._allowed is not None and self._allowed < 0:
            raise RequestError(413, "the body's chunks were over LimitRequestBody", ah="AH01591")
        before = len(body.rest)
        try:
            data = next(self._pieces)
        except StopIteration:  # an earlier call has said why
            raise _bad_body("its framing was invalid") from None
        body.taken += before - len(body.rest)
        if data and self._allowed is not None:
            self._allowed -= len(data)
            if self._allowed < 0:
                return self.next_piece()
        if data == b"":
            self.pending = _BLANK_LINES.sub(b"", body.rest, 1)
            self.body = None
        return data


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
        raise RequestError(400, "a line ends in a bare line feed", ah="AH00566")
    if line_end >= 0 and not REQUEST_LINE.match(head, 0, line_end):
        line = os.fsdecode(head[: min(line_end, 200)])
        raise RequestError(400, f"malformed request line {line}", ah=_malformed(head[:line_end]))
    return line_end


class GrowingHead(bytearray):
    """A head whose first line is right, and whose end may be still to come. Only what is new is looked at: the
    time is linear, however a client cuts it. LimitRequestFieldSize and LimitRequestFields hold as it grows."""

    __slots__ = ("_fields", "_line", "_seen")
    __hash__ = object.__hash__  # type: ignore[assignment]  # no cache knows it: an error for that would cost more

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
            raise RequestError(400, "a line ends in a bare line feed", ah="AH00566")
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


def _malformed(line: bytes) -> str:
    """httpd's id for what is wrong with a request line."""
    words = line.split(b" ")
    if not _METHOD.match(words[0]):
        return "AH03445"
    if len(words) != 3:
        return "AH03448"
    return "AH00566" if _VERSION.match(words[2]) else "AH02418"


class Body:
    """What has come of a body. rest: what is in no piece yet; at the end, what came behind it. taken: the bytes
    before that, with their framing. deadline, continued: its clock, and that `100 Continue` was sent."""

    __slots__ = ("continued", "deadline", "rest", "taken")

    def __init__(self, rest: bytes) -> None:
        self.rest = rest
        self.taken = 0
        self.deadline: Any = None
        self.continued = False

    def pieces(self, length: int | None, most: int) -> Iterator[bytes | None]:
        """The pieces of `length` bytes, or of chunks (None), whose trailers may have `most` bytes together:
        b"" at the end, None where more bytes are needed. Raises RequestError."""
        if length is not None:
            yield from self._exactly(length)
        else:
            while size := _size((yield from self._line(CHUNK_LINE))):
                yield from self._exactly(size)
                if (yield from self._line(0)):
                    raise _bad_body("a chunk is longer than its size")
            while line := (yield from self._line(most)):
                most -= len(line) + 2
                if most < 0:
                    raise _bad_body("the body's trailers are too long")
                if PLAIN_FIELD.fullmatch(line) is None:
                    raise _bad_body("an invalid trailer")
        yield b""

    def _exactly(self, count: int) -> Iterator[bytes | None]:
        while count:
            data, self.rest = self.rest[:count], self.rest[count:]
            count -= len(data)
            yield data or None

    def _line(self, longest: int) -> Generator[None, None, bytes]:
        """Returns the next line, without its CRLF."""
        while True:
            line, feed, rest = self.rest.partition(b"\n")
            if feed and line[-1:] != b"\r":
                raise _bad_body("a line ends in a bare line feed")
            if len(line) - (line[-1:] == b"\r") > longest:
                raise _bad_body("a line of the chunked framing is too long")
            if feed:
                self.rest = rest
                return line[:-1]
            yield None


def _size(line: bytes) -> int:
    found = _CHUNK.match(line)
    if found is None:
        raise _bad_body("an invalid line before a chunk")
    return int(found[1], 16)


def _bad_body(why: str) -> RequestError:
    return RequestError(400, f"bad request body: {why}", ah="AH01590")


def _new_request(head: bytes, line: bytes, method: str, target: bytes) -> Request:
    """A Request without fields, body and expectations: what the first line alone decides."""
    request = Request()
    request.head, request.line, request.log_line = head, line, quote_line(line)
    request.method, request.target = method, target
    request.headers, request.length, request.memo = (), 0, None
    request.conditional = request.asks_keep_alive = request.expect_continue = False
    return request


def parse_head(head: bytes, directives: Directives) -> Request:
    """One complete head, by httpd's strict rules and h11's. Raises RequestError."""
    event = _read_by_h11(head, directives)
    method = event.method.decode("ascii")
    request = _new_request(head, head[: head.index(b"\r\n")], method, event.target)
    request.headers = tuple(event.headers)
    request.version = (1, 0) if event.http_version == b"1.0" else (1, 1)
    _check_host(request)
    if len(head) > (size := directives.LimitRequestFieldSize):
        # It is also for fields of one name together, as httpd merges them.
        sizes: dict[bytes, int] = {}
        for name, value in request.headers:
            sizes[name] = sizes.get(name, len(name)) + 2 + len(value)
        if max(sizes.values(), default=0) > size + 1:
            why = f"header fields together are over LimitRequestFieldSize {size}"
            raise RequestError(400, why, ah="AH00561")
    request.conditional = any(name in CONDITIONAL for name, _ in request.headers)
    connection = tokens(request.get(b"connection"))
    request.asks_keep_alive = keep = b"keep-alive" in connection
    request.close = b"close" in connection or (request.version == (1, 0) and not keep)
    if method not in METHODS and "RegisteredMethods" in directives.HttpProtocolOptions:
        raise RequestError(501, f"{method} is no known method", ah="AH00135")
    _frame(request)
    if expect := request.get(b"expect"):
        if expect.lower() != b"100-continue":
            raise RequestError(417, "unknown expectation", ah="AH00570")
        # It is for bodies (RFC 9110, 10.1.1).
        request.expect_continue = request.version == (1, 1) and request.length != 0
    request.path, request.query = split_target(method, request.target)
    return request


def partial_request(head: bytes, directives: Directives) -> Request | None:
    """As much of a refused head as was right, for the access log, as in httpd: the request line, and the fields
    before the first that is malformed, over a limit or incomplete; the path as sent. None: nothing was right."""
    whole, blank, _ = head.partition(b"\r\n\r\n")
    line, *rest = (whole + blank[:2]).split(b"\r\n")[:-1] or [b""]
    if len(line) > directives.LimitRequestLine or not REQUEST_LINE.match(line):
        return None
    method, target, _ = line.split(b" ")
    request = _new_request(head, line, method.decode("ascii"), target)
    path, _, request.query = target.partition(b"?")
    request.path = os.fsdecode(path)
    read = map(PLAIN_FIELD.fullmatch, rest[: directives.LimitRequestFields or None])
    right = takewhile(lambda one: one and len(one[0]) <= directives.LimitRequestFieldSize, read)
    request.headers = tuple((one[1].lower(), one[2].strip(b" \t")) for one in right if one)
    return request


def _read_by_h11(head: bytes, directives: Directives) -> h11.Request:
    """h11's reading of a head that keeps httpd's rules. Raises RequestError."""
    check_line(head, directives)
    count = directives.LimitRequestFields
    if len(head) > directives.LimitRequestFieldSize or (count and head.count(b"\n") > count):
        GrowingHead(head).complete(directives)
    if _CONTROL.search(head):
        raise RequestError(400, "a control character in the head", ah="AH02427")
    if _BLANK_CONTINUATION.search(head):
        raise RequestError(400, "a blank continuation line in the head", ah="AH03443")
    lengths = _LENGTHS.findall(head)
    if len(lengths) > 1 or any(b"," in value for value in lengths):
        raise RequestError(400, "more than one Content-Length", ah="AH10242")
    parser = h11.Connection(h11.SERVER)
    line, end, fields = head.partition(b"\r\n")
    parts = [part.rstrip(b" \t") for part in _FOLD.split(fields)]
    parser.receive_data(line + end + b" ".join(parts))
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        text = str(error).replace("bytearray(b", "(")
        ah = next((ah for words, ah in _H11_SAYS.items() if words in text), "AH00567")
        raise RequestError(400, text, ah=ah) from None
    if not isinstance(event, h11.Request):
        raise RequestError(400, "not a request", ah="AH00566")
    return event


def _check_host(request: Request) -> None:
    """A valid Host (400); the target's own comes before the Host header (RFC 9112, 3.2.2)."""
    host = request.get(b"host")
    if not host:
        if request.version == (1, 1):
            raise RequestError(400, "no Host", ah="AH00569")
    elif not is_host(host):
        raise RequestError(400, "invalid Host", ah="AH00550")
    absolute = ABSOLUTE.match(request.target)
    if absolute is not None:
        host = absolute[1].removesuffix(b":")
        if not is_host(host):
            raise RequestError(400, "a bad host in the request target", ah="AH00550")
        others = (field for field in request.headers if field[0] != b"host")
        request.headers = ((b"host", host), *others)


def _frame(request: Request) -> None:
    """How long the body is (RFC 9112, 6.3): `length` bytes, or None for chunked."""
    if request.get(b"transfer-encoding") is not None:
        if request.version == (1, 0):
            raise RequestError(400, "Transfer-Encoding in an HTTP/1.0 request", ah="AH02539")
        request.length = None
        # Both framings: chunked wins, and the connection ends, in case a proxy chose the other one.
        if request.get(b"content-length") is not None:
            request.close = True
            request.headers = tuple(f for f in request.headers if f[0] != b"content-length")
    else:
        request.length = whole_number(request.get(b"content-length") or b"")
        if request.length is None:
            raise RequestError(400, "a Content-Length beyond any file", ah="AH10242")
