"""The Common Gateway Interface as values (RFC 3875): the variables of a script (4), its answer (6), redirects.

    b"Status: 404 Gone\\nX-A: b\\n\\n…" ──> Head ──> Response

WSGI, CGI and FastCGI pass a script the same variables; the last two have the rest in common, too.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.config.alias import variables_of
from mpmkit.config.directives import Directives
from mpmkit.handlers.conditional import met
from mpmkit.http import messages
from mpmkit.http.messages import BODYLESS_STATUSES, Request, RequestError, Response, page
from mpmkit.http.target import OwnName, quote_line

if TYPE_CHECKING:
    from mpmkit.handlers.router import Router
    from mpmkit.server.connection import Connection

# What a header's name is made of, and what its value may not contain (RFC 9110, 5.1 and 5.5).
FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# CPUs and scheduling policy that the server was started with. This file is read before its first fork.
OF_THE_SERVER = os.sched_getaffinity(0), os.sched_getscheduler(0)
PIECE = 65536  # bytes read from a script at a time: what a pipe holds
STDERR_LINE = 8192  # bytes; a longer line of a script's stderr or wsgi.errors is cut into several
# A server adds these itself; an application must not (PEP 3333, "Other HTTP Features").
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    "upgrade".split()
)
LONGEST_HEAD = 65536  # bytes of a script's header lines
# Headers of a script that are not passed on as they are: about the connection, and what `Head` has.
RESERVED = frozenset(
    b"connection keep-alive te trailer transfer-encoding upgrade date server content-type location".split()
)
_STATUS = re.compile(rb"([2-5][0-9]{2})((?: .*)?)\Z")
_HEAD = re.compile(rb"(?s)(?:(.*?)\r?\n)??\r?\n")
Environ = dict[str, Any]  # a script's variables
REDIRECTS = 10  # internal redirects of one request (LimitInternalRecursion)


class Script(NamedTuple):
    """The script of a request."""

    filename: str  # its file; it may not lead out of `root`
    name: str  # its URL path (SCRIPT_NAME)
    path_info: str  # the rest of the request's path
    root: str
    translated: str = ""  # the file of path_info, taken as a URL path (PATH_TRANSLATED)
    prefix: str = ""  # the Alias that the path came by, "" without one (CONTEXT_PREFIX)
    allowed: bool = True  # it may be run, by Options ExecCGI or an alias for scripts


class Redirected(Request):
    """A request that the server made of another one: for a script's `Location: /path`, or an ErrorDocument."""

    __slots__ = ("before", "depth", "status", "url", "url_query")

    before: dict[str, str]  # the variables of the redirecting script
    depth: int  # how many redirects led here
    status: int  # the error's, or 200
    url: str  # the path that was requested
    url_query: bytes


class Variables:
    """The variables of scripts. Name and port are Host's; under UseCanonicalName On, ServerName's."""

    def __init__(self, directives: Directives, document_root: str) -> None:
        self._own = OwnName.of(directives.ServerName, directives.UseCanonicalName == "On")
        self._root = document_root
        self._rules = directives.variables
        self._admin = directives.ServerAdmin or "[no address given]"
        self.base = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SIGNATURE": "",
            "SERVER_SOFTWARE": messages.server_header(directives.ServerTokens),
            "DOCUMENT_ROOT": document_root,
        }

    def add(self, environ: Environ, request: Request, conn: Connection, script: Script) -> None:
        """Add to a copy of `base` what RFC 3875, 4.1 and httpd have in common: text, bytes as latin-1. What does
        not depend on the connection is made once for each Request, which the same head sent again is."""
        environ["SERVER_ADDR"] = conn.local[0]
        if self._rules:
            environ.update(variables_of(self._rules, request, conn))
        environ["REMOTE_ADDR"] = conn.peer[0]
        environ["REMOTE_PORT"] = str(conn.peer[1])
        environ["REQUEST_SCHEME"] = self._own.scheme or conn.scheme
        if conn.scheme == "https":
            environ["HTTPS"] = "on"
        if isinstance(request, Redirected):
            environ.update(self._of_request(request, script, conn.scheme))
            environ.update((f"REDIRECT_{key}", value) for key, value in request.before.items())
            environ["REDIRECT_STATUS"] = str(request.status)
            environ["REDIRECT_URL"] = latin(request.url)
            if request.url_query:
                environ["REDIRECT_QUERY_STRING"] = request.url_query.decode("latin-1")
            return
        memo = request.memo
        if memo is None or memo[0] is not script or memo[1] is not conn.scheme:
            variables = self._of_request(request, script, conn.scheme)
            memo = request.memo = (script, conn.scheme, variables)
        environ.update(memo[2])

    def _of_request(self, request: Request, script: Script, scheme: str) -> dict[str, str]:
        """The variables that a request's head and a script's place decide."""
        environ = {
            "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
            "REQUEST_METHOD": request.method,
            "REQUEST_URI": request.target.decode("latin-1"),
            "QUERY_STRING": request.query.decode("latin-1"),
            "SCRIPT_NAME": latin(script.name),
            "SCRIPT_FILENAME": script.filename,
            "PATH_INFO": latin(script.path_info),
        }
        if script.path_info:
            environ["PATH_TRANSLATED"] = latin(script.translated)
        for name, value in request.headers:
            if key := variable_of(name):
                text = value.decode("latin-1")
                environ[key] = f"{environ[key]}, {text}" if key in environ else text
        asked = environ.get("HTTP_HOST", "").encode("latin-1")
        environ["SERVER_NAME"], environ["SERVER_PORT"] = self._own.place(asked, scheme)
        return environ

    def of_cgi(self, environ: Environ, request: Request, conn: Connection, script: Script) -> None:
        """The same for CGI and FastCGI, without credentials: other users may see them (CGIPassAuth Off)."""
        self.add(environ, request, conn, script)
        if not script.path_info:
            del environ["PATH_INFO"]
        environ["SCRIPT_FILENAME"] = latin(script.filename)
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
        environ["SERVER_ADMIN"] = self._admin
        environ["CONTEXT_PREFIX"] = latin(script.prefix)
        environ["CONTEXT_DOCUMENT_ROOT"] = latin(script.root if script.prefix else self._root)


@lru_cache(256)  # header names are few
def variable_of(header: bytes) -> str:
    """The variable of a header, "" if it is left out."""
    if header in (b"content-type", b"content-length"):
        return header.decode().upper().replace("-", "_")
    # X_Y would become the same variable as X-Y, which a proxy may have checked; httpd drops it, too. And
    # HTTP_PROXY means something else to many libraries (httpoxy).
    plain = header.replace(b"-", b"").isalnum() and header != b"proxy"
    return "HTTP_" + header.decode("latin-1").upper().replace("-", "_") if plain else ""


def latin(path: str) -> str:
    """A decoded path's bytes as latin-1 text, which is how WSGI and the handlers here hold them."""
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


def redirected(
    request: Request, path: str, query: bytes, before: Mapping[str, str], status: int = 200
) -> Redirected | None:
    """`request` as one for another path: a GET without a body (a HEAD stays one). None: too many."""
    depth = request.depth + 1 if isinstance(request, Redirected) else 1
    if depth > REDIRECTS:
        return None
    new = request.for_path(Redirected, path)
    new.method = "HEAD" if request.method == "HEAD" else "GET"
    new.url, new.url_query, new.query = request.path, request.query, query
    of_body = (b"content-length", b"content-type")
    new.headers = tuple(field for field in request.headers if field[0] not in of_body)
    new.length = 0
    new.expect_continue = False
    new.depth, new.before, new.status = depth, dict(before), status
    return new


# -- CGI and FastCGI: a script's answer


class ScriptFailed(Exception):
    """A script without a good answer: the client gets `status`, the error log a line."""

    def __init__(self, status: int, text: str, ah: str = "", level: str = "error") -> None:
        super().__init__(text)
        self.status, self.ah, self.level = status, ah, level


class Head(NamedTuple):
    """A script's header lines, read."""

    status: int  # 0 without one
    reason: bytes | None  # its own phrase; None: the usual one
    location: str  # "" without one
    fields: bytes  # the other header lines but Content-Type, in their order, with CRLF
    length: int | None
    content_type: bytes
    etag: bytes
    modified: bytes


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """Header lines and the beginning of the body; None: the blank line has not come yet."""
    found = _HEAD.match(data)
    return (found[1] or b"", data[found.end() :]) if found else None


def read_head(lines: bytes, name: str) -> Head:
    """The header lines of script `name`. Raises ScriptFailed for what no client should see."""
    status, reason, fields = 0, None, b""
    length: int | None = None
    said: dict[bytes, bytes] = {}
    for line in lines.split(b"\n"):
        if not (line := line.removesuffix(b"\r")):
            continue
        key, colon, value = line.partition(b":")
        lower, value = key.lower(), value.strip(b" \t")
        # Of a Status only the three digits count.
        wrong = CONTROL.search(value[:3] if lower == b"status" else value)
        if not colon or not FIELD_NAME.match(key) or wrong:
            shown = quote_line(line[:30])
            raise ScriptFailed(500, f"malformed header from script '{name}': Bad header: {shown}")
        said[lower] = value
        if lower == b"status":
            if (found := _STATUS.match(value)) is None:
                shown = quote_line(value[:30])
                raise ScriptFailed(500, f"invalid status from script '{name}': {shown}")
            status, words = int(found[1]), found[2].strip()
            usual = messages.REASONS.get(status, "").encode()
            reason = words if words not in (b"", usual) and not CONTROL.search(words) else None
        elif lower == b"content-length":
            length = messages.whole_number(value) if value.isdigit() else None
            if length is None:
                raise ScriptFailed(500, f"bad Content-Length from script '{name}'")
        elif lower not in RESERVED:
            fields += b"%b: %b\r\n" % (key, value)
    if b"transfer-encoding" in said:
        length = None  # RFC 9112, 6.3
    location = said.get(b"location", b"").decode("latin-1")
    known = (said.get(key, b"") for key in (b"content-type", b"etag", b"last-modified"))
    return Head(status, reason, location, fields, length, *known)


class Output:
    """A script at work: it has a head, and as an iterable a body for the client. Its kinds define

    framed   a piece of the request's body, b"" at its end, as it is given to the script: as it is, or otherwise
    fed      the script has all of that body; also said again
    take     its descriptor can be read, or is at its end: there is more for `came`, `ended`, `stderr`
    close    end the script; harmless a second time
    """

    fed: Callable[[], None]
    take: Callable[[int], None]
    close: Callable[[], None]
    ah = ""  # of a head that does not come
    says = "{1}", ""  # the line for one of its stderr, with its file, and its id
    late: tuple[str, ...]  # what is said when nothing moves, its id, its level
    out = memoryview(b"")  # what it is given next
    complete = False  # nothing of the request's body follows `out`
    ended = False  # its output has come to its end
    first = b""  # of the body: what has come with the head
    body: Iterable[bytes] = ()  # as the client gets it
    _begun = b""  # a line of stderr that is not complete yet

    def __init__(self, handler: Programs, conn: Connection, file: str, name: str) -> None:
        """name: in error messages."""
        self.handler, self.conn, self.file, self.name = handler, conn, file, name
        self.timeout = handler.timeout
        self.poll = select.poll()
        self.poll.register(conn.fd, 0)  # a reset alone: a half-closed client waits for the answer
        self.came: list[bytes] = []  # of its output, not read yet

    def framed(self, piece: bytes) -> bytes:
        return piece

    def read(self) -> bytes:
        """The next piece of its output, b"" at the end. Meanwhile it is given the request's body, and its
        stderr goes to the error log. Raises ScriptFailed when nothing moves for `timeout` seconds;
        RequestError when the client is gone, or sends an invalid body."""
        while not self.came and not self.ended:
            if not self.out and not self.complete:
                piece = self.conn.read_body()
                self.out, self.complete = memoryview(self.framed(piece)), not piece
            if not self.out:
                self.fed()
            events = self.poll.poll(self.timeout * 1000)
            if not events:
                raise ScriptFailed(504, self.late[0].format(self), *self.late[1:])
            if self.conn.fd in dict(events):
                raise RequestError(500, "the client left while its script ran", silent=True)
            for fd, event in events:
                if event != select.POLLOUT:
                    self.take(fd)
                    continue
                try:
                    self.out = self.out[os.write(fd, self.out) :]
                except BlockingIOError:
                    pass
                except OSError:  # it may have said why
                    self.take(fd)
        return self.came.pop(0) if self.came else b""

    def head(self) -> Head:
        """Its header lines. Raises ScriptFailed, and what `read` raises."""
        data = b""
        while (found := split_head(data)) is None:
            data += (piece := self.read())
            why = f"more than {LONGEST_HEAD} bytes of headers"
            if not piece:
                end = "Premature end of script headers"
                why = end if data else "End of script output before headers"
            if not piece or len(data) > LONGEST_HEAD:
                raise ScriptFailed(500, f"{why}: {self.name}", self.ah)
        lines, self.first = found
        return read_head(lines, self.name)

    def whole(self) -> bytes | None:
        """All of the body, if it has come already and the script is done; None: it may be longer."""
        return None

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises what `read` raises."""
        if self.first:
            yield self.first
        while piece := self.read():
            yield piece

    def __iter__(self) -> Iterator[bytes]:
        """If it fails on the way, the client only sees that the connection ends: the head is sent already."""
        try:
            yield from self.body
        except ScriptFailed as error:
            self.handler.log(self.conn, error, error.ah, error.level)
            raise RequestError(error.status, str(error)) from None

    def stderr(self, data: bytes) -> None:
        """More bytes of its stderr, for the error log line by line; b"\n" at the end."""
        lines = (self._begun + data).split(b"\n")
        self._begun = lines.pop() if len(lines[-1]) < STDERR_LINE else b""
        for line in filter(bytes.strip, lines):
            text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
            self.handler.log(self.conn, self.says[0].format(self.file, text), self.says[1])


class Programs:
    """What CGI and FastCGI share: variables, errors, and the way from a script to a Response."""

    module = ""  # in the error log
    # Starts a script: its variables, the request, its connection, the script. Raises ScriptFailed.
    start: Callable[[Environ, Request, Connection, Script], Output]

    def __init__(self, router: Router) -> None:
        self._router = router
        self.timeout = router.directives.Timeout
        self._variables = Variables(router.directives, router.document_root)
        self._base = {key: latin(value) for key, value in self._variables.base.items()}

    def run(self, request: Request, conn: Connection, script: Script) -> Response:
        """Run a script, and make a Response of its answer. What ScriptFailed says is logged."""
        environ = self._base.copy()
        self._variables.of_cgi(environ, request, conn, script)
        output = None
        try:
            output = self.start(environ, request, conn, script)
            return self.answer(output, request, environ)
        except BaseException as error:
            if output is not None:
                output.close()
            if not isinstance(error, ScriptFailed):
                raise
            self.log(conn, error, error.ah, error.level)
            return page(error.status, request.method)

    def answer(self, output: Output, request: Request, environ: Environ) -> Response:
        """A Response whose body is the output as it comes, and is closed when it is sent. Raises ScriptFailed."""
        head = output.head()
        fields, length, status = head.fields, head.length, head.status or 200
        if head.location:
            location = b"Location: %b\r\n" % head.location.encode("latin-1")
            if status == 200:
                for _ in output.pieces():  # the rest is dropped, but it may write it
                    pass
                output.close()
                if head.location.startswith("/"):
                    more = head.location, fields, environ
                    return self._router.redirect(request, output.conn, *more)
                return page(302, request.method, extra=fields + location)
            fields += location
        if not head.status and request.conditional and request.method in ("GET", "HEAD"):
            now = time()
            changed = messages.parse_http_date(head.modified)
            changed = int(now) if changed is None else changed
            status = met(request, head.etag, changed, now) or status
            if status == 412:
                output.close()
                return page(412, request.method)
        whole = output.whole()
        if whole is not None and length is None:
            length = len(whole)
        bodyless = status in BODYLESS_STATUSES
        if length is not None and not bodyless:
            fields += b"Content-Length: %d\r\n" % length
        has_type = head.content_type and not bodyless
        after = b"Content-Type: %b\r\n\r\n" % head.content_type if has_type else b"\r\n"
        output.body = output.pieces() if whole is None else (whole,)
        if bodyless or request.method == "HEAD":
            # Nothing is sent, but it is read to its end, so that the script can come to its own.
            output.body, length = (piece for piece in output.pieces() if not piece), 0
        elif whole is not None and length == len(whole) and head.reason is None:
            return Response(status, fields, after, whole, length)
        elif length is not None:
            where = f" from script '{output.name}'"
            output.body = measured(output.body, length, partial(ScriptFailed, 500), where)
        return Response(status, fields, after, output, length, reason=head.reason)

    def log(self, conn: Connection, text: object, ah: str, level: str = "error") -> None:
        """A line of the error log."""
        self._router.errors.write(level, str(text), ah=ah, module=self.module, client=conn.peer)


def measured(
    pieces: Iterable[bytes], length: int, error: Callable[[str], Exception], where: str = ""
) -> Iterator[bytes]:
    """`pieces` of a body with a Content-Length: not a byte more, as it would be the beginning of the
    next response to the client. Raises `error(text)` for more bytes, or fewer."""
    left = length
    for piece in pieces:
        if len(piece) > left:
            yield piece[:left]
            raise error(f"more bytes than Content-Length {length}{where}")
        left -= len(piece)
        yield piece
    if left:
        raise error(f"{left} bytes less than Content-Length {length}{where}")
