"""The Common Gateway Interface as values (RFC 3875): a script's variables, and its answer.

    Request ──> Variables ──> REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, HTTP_…      to any script
    script  ──> b"Status: 404 Gone\\nX-A: b\\n\\n…" ──> Head ──> Response             from CGI, FastCGI

WSGI, CGI and FastCGI pass a script the same variables in different encodings, and the last two get the
same kind of answer. Nothing here waits, spawns or connects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.handlers.conditional import unchanged
from mpmkit.http.messages import (
    BODYLESS_STATUSES,
    REASONS,
    Request,
    RequestError,
    Response,
    page,
    server_header,
    whole_number,
)
from mpmkit.http.target import split_host

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection

LONGEST_HEAD = 65536  # bytes of a script's header lines; httpd bounds the lines, not their sum
STDERR_LINE = 8192  # bytes; a longer line of a script's stderr is cut into several
REDIRECTS = 10  # internal redirects of one request (LimitInternalRecursion)

# Headers that a script may not send: they are about the connection, which is the server's.
RESERVED_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "date", "server"}
)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


class Script(NamedTuple):
    """Where a request leads to.

    filename    the script's file, and what it may not lead out of: `root`
    name        its URL path (SCRIPT_NAME); `path_info` is the rest of the request's
    translated  where path_info would lead as a path of its own (PATH_TRANSLATED)
    prefix      the Alias that the path came by, "" without one (CONTEXT_PREFIX)
    """

    filename: str
    name: str
    path_info: str
    root: str
    translated: str = ""
    prefix: str = ""


class ScriptFailed(Exception):
    """A script without a good answer: the client gets `status`, the error log a line."""

    def __init__(self, status: int, text: str, ah: str = "", level: str = "error") -> None:
        super().__init__(text)
        self.status = status
        self.ah = ah
        self.level = level


class Redirected(Request):
    """A request that the server made from another one: for a script's `Location: /path`, or for an
    ErrorDocument.

    depth   how many redirects led here; before: the variables of the redirecting script
    status  the error's, or 200; url: the path that the client requested
    """

    __slots__ = ("before", "depth", "status", "url")

    before: dict[str, str]
    depth: int
    status: int
    url: str


# -- a script's variables --------------------------------------------------------------------------


class Variables:
    """The variables of scripts, as far as the configuration decides them.

    The name and port are those of the client's Host; under UseCanonicalName On, ServerName's.
    """

    def __init__(self, directives: Directives, document_root: str) -> None:
        name, port = split_host(directives.ServerName or "localhost")
        self._root = document_root
        self._admin = directives.ServerAdmin or "[no address given]"
        self._canonical = directives.UseCanonicalName == "On" and bool(directives.ServerName)
        self._port = port if self._canonical else ""
        self.base = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SIGNATURE": "",
            "SERVER_NAME": name,
            "SERVER_SOFTWARE": server_header(directives.ServerTokens),
            "DOCUMENT_ROOT": document_root,
        }

    def add(
        self, environ: dict[str, Any], request: Request, conn: Connection, script: Script
    ) -> None:
        """Add to a copy of `base` what RFC 3875, 4.1 and httpd have in common: text, bytes as latin-1.

        What does not depend on the connection is made once for each Request, and the same head sent
        again is the same Request (http/protocol.py).
        """
        host, port = conn.local
        environ["SERVER_PORT"] = self._port or str(port)
        environ["SERVER_ADDR"] = host
        environ["REMOTE_ADDR"] = conn.peer[0]
        environ["REMOTE_PORT"] = str(conn.peer[1])
        scheme = environ["REQUEST_SCHEME"] = conn.scheme
        if scheme == "https":
            environ["HTTPS"] = "on"
        if isinstance(request, Redirected):
            environ.update(self._of_request(request, script))
            for key, value in request.before.items():
                environ[f"REDIRECT_{key}"] = value
            environ["REDIRECT_STATUS"] = str(request.status)
            environ["REDIRECT_URL"] = latin(request.url)
            return
        memo = request.memo
        if memo is None or memo[0] is not script:
            memo = request.memo = (script, self._of_request(request, script))
        environ.update(memo[1])

    def _of_request(self, request: Request, script: Script) -> dict[str, str]:
        """The variables that a request's head and a script's place decide.

        A header that could be taken for a variable of another meaning is left out.
        """
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
            key = HEADER_KEYS.get(name)
            if key is None:
                key = _header_key(name)
            if not key:
                continue
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
        asked = environ.get("HTTP_HOST")
        if asked and not self._canonical:
            environ["SERVER_NAME"], digits = split_host(asked)
            if digits:
                environ["SERVER_PORT"] = digits
        return environ

    def of_program(
        self, environ: dict[str, str], request: Request, conn: Connection, script: Script
    ) -> None:
        """The same for CGI and FastCGI: what httpd passes there, and no credentials, as other users
        may see a process's environment (CGIPassAuth Off)."""
        self.add(environ, request, conn, script)
        if not script.path_info:
            del environ["PATH_INFO"]
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
        environ["SERVER_ADMIN"] = self._admin
        environ["CONTEXT_PREFIX"] = script.prefix
        environ["CONTEXT_DOCUMENT_ROOT"] = script.root if script.prefix else self._root


# Header names are few: the variable of each is computed once ("": it is left out).
HEADER_KEYS: dict[bytes, str] = {
    b"content-type": "CONTENT_TYPE",
    b"content-length": "CONTENT_LENGTH",
    b"proxy": "",  # HTTP_PROXY means something else to many libraries (httpoxy)
}
HEADER_KEYS_KEPT = 256


def _header_key(name: bytes) -> str:
    # X_Y would become the same variable as X-Y, which a proxy may have checked; httpd drops it, too.
    plain = name.replace(b"-", b"")
    key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_") if plain.isalnum() else ""
    if len(HEADER_KEYS) < HEADER_KEYS_KEPT:
        HEADER_KEYS[name] = key
    return key


def latin(path: str) -> str:
    """A decoded path's bytes as latin-1 text, which is how WSGI and the handlers here hold them."""
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


# -- a script's answer -----------------------------------------------------------------------------


class Head(NamedTuple):
    """A script's header lines, read.

    status      its Status, or 200; `has_status`: whether it sent one
    reason      its own reason phrase; None: the usual one
    location    its Location, "" without one
    fields      the other header lines, in their order, with CRLF; Content-Type is `content_type`
    length      its Content-Length
    """

    status: int
    has_status: bool
    reason: bytes | None
    location: str
    fields: bytes
    content_type: bytes
    length: int | None
    etag: bytes
    modified: bytes


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """Header lines and the beginning of the body; None: the blank line has not come yet."""
    if data.startswith((b"\n", b"\r\n")):
        return b"", data[1 if data[:1] == b"\n" else 2 :]
    found = _END_OF_HEAD.search(data)
    return (data[: found.start()], data[found.end() :]) if found else None


def read_head(lines: bytes, name: str) -> Head:
    """The header lines of script `name`. Raises ScriptFailed for what no client should see."""
    status, has_status, reason, location = 200, False, None, ""
    fields: list[bytes] = []
    content_type = etag = modified = b""
    length: int | None = None
    framed = False  # it sent Transfer-Encoding: its length is ignored (RFC 9112, 6.3)
    for line in lines.split(b"\n"):
        line = line.removesuffix(b"\r")
        key, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not line:
            continue
        if not colon or not _NAME.match(key) or b"\r" in value or b"\0" in value:
            shown = line[:30].decode("latin-1").encode("unicode_escape").decode()
            raise ScriptFailed(500, f"malformed header from script '{name}': Bad header: {shown}")
        lower = key.lower().decode()
        if lower == "status":
            has_status = True
            code, _, words = value.partition(b" ")
            if not (len(code) == 3 and code.isdigit() and 200 <= int(code) <= 599):
                shown = value[:30].decode("latin-1").encode("unicode_escape").decode()
                raise ScriptFailed(500, f"invalid status from script '{name}': {shown}")
            status = int(code)
            words = words.strip()
            usual = REASONS.get(status, "").encode()
            reason = words if words and words != usual else None
        elif lower == "content-type":
            content_type = value
        elif lower == "content-length":
            length = whole_number(value) if value.isdigit() else None
            if length is None:
                raise ScriptFailed(500, f"bad Content-Length from script '{name}'")
        elif lower == "location":
            location = value.decode("latin-1")
        elif lower in RESERVED_HEADERS:
            framed = framed or lower == "transfer-encoding"
        else:
            etag = value if lower == "etag" else etag
            modified = value if lower == "last-modified" else modified
            fields.append(b"%b: %b\r\n" % (key, value))
    if framed:
        length = None
    sent = b"".join(fields)
    return Head(status, has_status, reason, location, sent, content_type, length, etag, modified)


def take_head(read: Callable[[], bytes], name: str, ah: str = "") -> tuple[Head, bytes]:
    """The head of script `name` from the pieces of its output, and the beginning of its body.

    Raises ScriptFailed, and what `read` raises.
    """
    data = b""
    while (found := split_head(data)) is None:
        piece = read()
        if not piece:
            what = (
                "Premature end of script headers" if data else "End of script output before headers"
            )
            raise ScriptFailed(500, f"{what}: {name}", ah)
        data += piece
        if len(data) > LONGEST_HEAD:
            raise ScriptFailed(500, f"more than {LONGEST_HEAD} bytes of headers: {name}", ah)
    return read_head(found[0], name), found[1]


def answer(
    head: Head,
    pieces: Iterable[bytes] | bytes,
    request: Request,
    name: str,
    redirect: Callable[[str, bytes], Response],
    failed: Callable[[ScriptFailed], None],
) -> Response:
    """The Response to the head of script `name`, with a body that takes `pieces` as they come (bytes:
    all of them have come).

    `redirect(path, fields)` serves `Location: /path` (RFC 3875, 6.2.2); `failed(error)` logs what goes
    wrong after the head. In any case `pieces` are closed, at the latest when the answer is sent.
    """
    location = head.location
    if type(pieces) is bytes and head.length is None:
        head = head._replace(length=len(pieces))
    if location and head.status == 200:
        try:
            for _ in _all(pieces):  # the rest of its output is dropped, but it may write it
                pass
        finally:
            close(pieces)
        if location.startswith("/"):
            return redirect(location, head.fields)
        fields = head.fields + b"Location: %b\r\n" % location.encode("latin-1")
        return page(302, request.method, extra=fields)
    fields = head.fields
    if location:
        fields += b"Location: %b\r\n" % location.encode("latin-1")
    after = b"Content-Type: %b\r\n\r\n" % head.content_type if head.content_type else b"\r\n"
    status = head.status
    may_be_304 = not head.has_status and request.conditional and request.method == "GET"
    if may_be_304 and unchanged(request, head.etag, head.modified):
        status, after = 304, b"\r\n"
    if status in BODYLESS_STATUSES or request.method == "HEAD":
        if head.length is not None and status not in BODYLESS_STATUSES:
            fields += b"Content-Length: %d\r\n" % head.length
        unsent = ScriptBody(pieces, _unsent(_all(pieces)))
        return Response(status, fields, after, unsent, 0, reason=head.reason)
    if head.length is not None:
        fields += b"Content-Length: %d\r\n" % head.length
    if type(pieces) is bytes and head.length == len(pieces) and head.reason is None:
        return Response(status, fields, after, pieces, head.length)
    sent = iter(_all(pieces))
    if head.length is not None:
        sent = measured(
            sent, head.length, lambda text: ScriptFailed(500, f"{text} from script '{name}'")
        )
    body = ScriptBody(pieces, _logged(sent, failed))
    return Response(status, fields, after, body, head.length, reason=head.reason)


def _all(pieces: Iterable[bytes] | bytes) -> Iterable[bytes]:
    return (pieces,) if type(pieces) is bytes else pieces  # type: ignore[return-value]


def close(pieces: object) -> None:
    """Call `close`, if it has one."""
    end = getattr(pieces, "close", None)
    if end is not None:
        end()


class ScriptBody:
    """What is `sent` of a script's output. `close` ends the script."""

    def __init__(self, pieces: object, sent: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._sent = sent

    def __iter__(self) -> Iterator[bytes]:
        return self._sent

    def close(self) -> None:
        """End the script."""
        close(self._pieces)


def _unsent(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Nothing; but the output is read to its end, so that the script can come to its own."""
    for _ in pieces:
        pass
    yield from ()


def measured(
    pieces: Iterable[bytes], length: int, error: Callable[[str], Exception]
) -> Iterator[bytes]:
    """`pieces` of a body with a Content-Length: not a byte more, as it would be the beginning of the
    next response to the client. Raises `error(text)` for more bytes, or fewer."""
    left = length
    for piece in pieces:
        if len(piece) > left:
            yield piece[:left]
            raise error(f"more bytes than Content-Length {length}")
        left -= len(piece)
        yield piece
    if left:
        raise error(f"{left} bytes less than Content-Length {length}")


def _logged(pieces: Iterable[bytes], failed: Callable[[ScriptFailed], None]) -> Iterator[bytes]:
    """`pieces` of a script that may fail on the way. `failed` writes the line for the error log; the
    client only sees that the connection ends, as the head is sent already."""
    try:
        yield from pieces
    except ScriptFailed as error:
        failed(error)
        raise RequestError(error.status, str(error)) from None


class StderrLines:
    """A script's stderr: `write` is called with each of its lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = b""  # a line that is not complete yet

    def feed(self, data: bytes) -> None:
        """More bytes; b"\\n" at the end."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop() if len(lines[-1]) < STDERR_LINE else b""
        for line in lines:
            if line.strip():
                self._write(line.rstrip(b"\r").decode("utf-8", "backslashreplace"))


# -- internal redirects ------------------------------------------------------------------------------


def redirected(
    request: Request, path: str, query: bytes, before: Mapping[str, str], status: int = 200
) -> Redirected | None:
    """`request` as one for another path: a GET without a body (a HEAD stays one). None: too many."""
    depth = request.depth + 1 if isinstance(request, Redirected) else 1
    if depth > REDIRECTS:
        return None
    new = request.for_path(Redirected, path)
    new.method = "HEAD" if request.method == "HEAD" else "GET"
    new.url, new.query = request.path, query
    of_body = (b"content-length", b"content-type")
    new.headers = tuple(field for field in request.headers if field[0] not in of_body)
    new.length = 0
    new.expect_continue = False
    new.depth, new.before, new.status = depth, dict(before), status
    return new
