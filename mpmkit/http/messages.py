"""HTTP messages as values: a handler's input and output.

A `Request` never changes once it is parsed, so one value may serve many connections that sent the
same bytes (`fastpath.py`). A `Response` is the answer's head in the order httpd writes it:

    HTTP/1.1 200 OK, Date, Server                |  made here, once a second and status
    Last-Modified, ETag, Location, …             |  `fields`: prepared by the handler
    Keep-Alive, Connection, Transfer-Encoding    |  decided by the connection (`core.py`)
    Content-Type, blank line                     |  `after`: prepared by the handler
"""

from __future__ import annotations  # from 3.14 on, `__annotations__` of a class body needs it

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from mpmkit._version import __version__

REASONS = {
    100: "Continue", 101: "Switching Protocols", 102: "Processing",
    200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information",
    204: "No Content", 205: "Reset Content", 206: "Partial Content",
    207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other",
    304: "Not Modified", 305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
    407: "Proxy Authentication Required", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
    411: "Length Required", 412: "Precondition Failed", 413: "Request Entity Too Large",
    414: "Request-URI Too Long", 415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable", 417: "Expectation Failed",
    421: "Misdirected Request", 422: "Unprocessable Entity", 423: "Locked", 424: "Failed Dependency",
    426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
    506: "Variant Also Negotiates", 507: "Insufficient Storage", 508: "Loop Detected",
    510: "Not Extended", 511: "Network Authentication Required",
}  # fmt: skip

# After these the connection is closed (httpd: ap_status_drops_connection).
CLOSING_STATUSES = frozenset({400, 408, 411, 413, 414, 500, 501, 503})

# Responses that never have a body (RFC 9110, 6.4.1).
BODYLESS_STATUSES = frozenset({204, 304})

# Our own words for a reader, one sentence a status.
SENTENCES = {
    301: "The document has moved: follow the Location.",
    302: "The document is temporarily elsewhere: follow the Location.",
    400: "The request is not valid HTTP.",
    403: "You may not access this resource.",
    404: "There is nothing at this address.",
    405: "This resource does not allow the method; Allow lists those it does.",
    408: "The request took longer to arrive than the server waits.",
    413: "The request's body is larger than LimitRequestBody allows.",
    414: "The request line is longer than LimitRequestLine allows.",
    417: "The only expectation this server can meet is 100-continue.",
    500: "The script failed; the error log says how.",
    501: "The server does not know this method.",
    502: "The program behind this server gave no valid answer.",
    503: "The server can't do this at the moment.",
    504: "The program behind this server took too long.",
}

SERVER = f"mpmkit/{__version__}"


def server_header(tokens: str) -> str:
    """The Server header by ServerTokens: how much it says about the program, its system, and Python."""
    major, minor, _ = __version__.split(".", 2)
    system = f"{SERVER} ({sys.platform.capitalize()})"
    return {
        "ProductOnly": "mpmkit",
        "Major": f"mpmkit/{major}",
        "Minor": f"mpmkit/{major}.{minor}",
        "Minimal": SERVER,
        "OS": system,
    }.get(tokens) or f"{system} Python/{'.'.join(map(str, sys.version_info[:3]))}"


LONGEST = (1 << 63) - 1  # as far as files, bodies and httpd's own numbers go


def whole_number(digits: bytes | str, most: int = LONGEST) -> int | None:
    """The value of decimal digits, None above `most`. For all numbers of a client: Python's
    `int` raises ValueError at more than 4,300 digits, and accepts blanks, signs and underscores."""
    digits = digits.lstrip(b"0") if isinstance(digits, bytes) else digits.lstrip("0")
    if len(digits) > 19 or (value := int(digits or "0")) > most:
        return None
    return value


# Module and level of refusals in the error log; the others are at debug, as in httpd.
LOGGED_AS = {
    **dict.fromkeys(("AH00135", "AH10244"), ("core", "error")),
    **dict.fromkeys(("AH00561", "AH00563", "AH00565", "AH00570"), ("core", "info")),
    **dict.fromkeys(("AH01588", "AH01590", "AH01591", "AH01595"), ("http", "info")),
    "AH01382": ("reqtimeout", "info"),
}


class RequestError(Exception):
    """A request that gets `status` and no handler. `detail` is for the error log, `ah` httpd's id for the
    same. `silent`: no answer but the connection's end, as by httpd when not even the request line came."""

    def __init__(self, status: int, detail: str = "", *, silent: bool = False, ah: str = ""):
        super().__init__(detail or REASONS[status])
        self.status = status
        self.silent = silent
        self.ah = ah


R = TypeVar("R", bound="Request")


class Request:
    """A request's head: bytes as sent, where no other form is named."""

    method: str
    target: bytes
    path: str  # decoded, surrogate-escaped
    query: bytes  # without `?`
    version: tuple[int, int]  # (1, 0) or (1, 1): what the client may expect of us
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    head: bytes  # all of it
    line: bytes  # the first line without the CRLF
    log_line: str  # the line as the access log quotes it
    close: bool  # the client said `Connection: close`, or did not ask for keep-alive by HTTP/1.0
    asks_keep_alive: bool  # the client said `keep-alive`
    expect_continue: bool  # the client waits for `100 Continue` before it sends the body
    conditional: bool  # there is a Range or an If-… header: it may not get the whole resource
    length: int | None  # Content-Length; 0 without a body; None when chunked
    memo: tuple[Any, ...] | None  # a handler's own cache: what it derived from this head

    __slots__ = tuple(__annotations__)

    def get(self, name: bytes) -> bytes | None:
        """The value of header `name` (lower case); several are joined with a comma (RFC 9110, 5.3)."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None

    def for_path(self, kind: type[R], path: str) -> R:
        """A copy of this request for another path."""
        other = kind()
        for name in Request.__slots__:
            setattr(other, name, getattr(self, name))
        other.path = path
        return other


@dataclass(eq=False, slots=True)
class FileBody:
    """`count` bytes of an open file from `offset`. The sender closes it."""

    fd: int
    offset: int
    count: int
    sendfile: bool = False  # the kernel may copy it to the socket (EnableSendfile)

    def close(self) -> None:
        """Twice does nothing: the number may be another file's by then."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(eq=False, slots=True)
class Response:
    """What a handler answers. A memoryview as the body is a mapped file's, only for a connection that is
    `direct`; of an iterable, close() is called if it has one."""

    status: int
    fields: bytes  # header lines with CRLF
    after: bytes  # more of them, and the blank line that ends the head
    body: bytes | memoryview | FileBody | Iterable[bytes] = b""
    length: int | None = 0  # bytes of the body, if known before; None: chunked, or closed
    close: bool = False  # end the connection after this response
    reason: bytes | None = None  # a script's own phrase, for an iterable; None: the usual one
    request: Request | None = None  # answered, if the server made it of the client's


@dataclass(eq=False, slots=True)
class Page(Response):
    """A page of the server's own, which answers in place of a resource (`page`)."""

    extra: bytes = b""  # both as given to `page`: router.ErrorPages makes another one of it
    what: str = ""


def page(status: int, method: str = "GET", *, extra: bytes = b"", what: str = "") -> Page:
    """An error or redirect page in httpd's form. extra: header lines, before the length. what: is at fault."""
    reason = REASONS[status]
    sentence = SENTENCES.get(status, "The request was answered with the status above.")
    shown = f"<p><code>{escape(what)}</code></p>\n" if what else ""
    body = (
        '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 4.01//EN">\n<html><head>\n'
        f"<title>{status} {reason}</title>\n</head><body>\n<h1>{reason}</h1>\n<p>{sentence}</p>\n{shown}"
        "</body></html>\n"
    ).encode("utf-8", "replace")
    after = b"Content-Type: text/html; charset=iso-8859-1\r\n\r\n"
    fields = extra + b"Content-Length: %d\r\n" % len(body)
    if method == "HEAD" or status in BODYLESS_STATUSES:  # as httpd, without a length
        fields, body = extra, b""
        after = b"\r\n" if method != "HEAD" else after
    closing = status in CLOSING_STATUSES
    return Page(status, fields, after, body, len(body), closing, None, None, extra, what)


def text(
    status: int, body: bytes, content_type: bytes, method: str = "GET", extra: bytes = b""
) -> Response:
    """A response with a body that is at hand."""
    fields = extra + b"Content-Length: %d\r\n" % len(body)
    after = b"Content-Type: " + content_type + b"\r\n\r\n"
    body = b"" if method == "HEAD" else body
    return Response(status, fields, after, body, len(body))


def escape(value: str) -> str:
    """Text as HTML. (The html module would bring a table of 2,231 names into every child.)"""
    return value.translate(_ENTITIES)


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> str:
    """An IMF-fixdate (RFC 9110, 5.6.7), whatever the locale."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    )


def parse_http_date(value: bytes) -> int | None:
    """Seconds since the epoch of a date in one of HTTP's three forms (RFC 9110, 5.6.7); None: it is not."""
    try:
        match value.partition(b";")[0].decode("ascii").replace("-", " ").split():
            # Sun, 06 Nov 1994 08:49:37 GMT; RFC 850's has dashes and two digits: 70 to 99 are of the last century
            case [name, day, month, year, clock, "GMT"] if name.endswith(","):
                pass
            case [_, month, day, clock, year]:  # asctime's: Sun Nov  6 08:49:37 1994
                pass
            case _:
                return None
        hour, minute, second = clock.split(":")
        numbers = (year, day, hour, minute, second)
        if month not in _MONTHS or not all(number.isdigit() for number in numbers):
            return None
        from calendar import timegm

        y, d, h, m, s = map(int, numbers)
        if len(year) == 2:
            y += 2000 if y < 70 else 1900
        return timegm((y, _MONTHS.index(month) + 1, d, h, m, s))
    except (ValueError, OverflowError):
        return None


class HeadStart:
    """The first lines of a response, made once a second. `server`: the Server header's value."""

    def __init__(self, server: str = SERVER) -> None:
        self._server = server
        # By status: a second, and its lines. They are one value, since other threads read them.
        self._made: dict[int, tuple[int, bytes]] = {}

    def lines(self, status: int, now: int) -> bytes:
        """Status line, Date and Server. `now` is in seconds, whole."""
        made = self._made.get(status)
        if made is not None and made[0] == now:
            return made[1]
        lines = (
            f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\n"
            f"Date: {http_date(now)}\r\nServer: {self._server}\r\n"
        ).encode("latin-1")
        self._made[status] = now, lines
        return lines
