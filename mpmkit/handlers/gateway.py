"""The Common Gateway Interface as values (RFC 3875): what a script is told, and what it answers.

    Request ──> Variables ──> REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, HTTP_…      to any script
    script  ──> b"Status: 404 Gone\\nX-A: b\\n\\n…" ──> Head ──> Response             from CGI, FastCGI

WSGI, CGI and FastCGI tell a script the same things in different wrappings, and the last two get the
same kind of answer. Nothing here waits, spawns or connects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.http.messages import (
    BODYLESS_STATUSES,
    REASONS,
    Request,
    RequestError,
    Response,
    page,
    parse_http_date,
    server_header,
    whole_number,
)

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection

LONGEST_HEAD = 65536  # bytes of a script's header lines; httpd bounds the lines, not their sum
REDIRECTS = 10  # internal redirects of one request (LimitInternalRecursion)

# What a script may not say: it is about a connection that is not the script's.
NOT_ITS_OWN = frozenset(
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
    """The request that the server made of another one: a script said `Location: /path`, or an error has
    an ErrorDocument.

    depth   how many redirects led here; before: what the redirecting script was told
    status  the error's, or 200; url: the path that was asked for
    """

    __slots__ = ("before", "depth", "status", "url")

    before: dict[str, str]
    depth: int
    status: int
    url: str


# -- what a script is told -------------------------------------------------------------------------


class Variables:
    """What scripts are told, as far as the configuration decides it.

    The name and port are those that the client asked for; under UseCanonicalName On, ServerName's.
    """

    def __init__(self, directives: Directives, document_root: str) -> None:
        name, port = _host(directives.ServerName or "localhost")
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
            for key, said in request.before.items():
                environ[f"REDIRECT_{key}"] = said
            environ["REDIRECT_STATUS"] = str(request.status)
            environ["REDIRECT_URL"] = latin(request.url)
            return
        told = request.told
        if told is None or told[0] is not script:
            told = request.told = (script, self._of_request(request, script))
        environ.update(told[1])

    def _of_request(self, request: Request, script: Script) -> dict[str, str]:
        """The variables that a request's head and a script's place decide.

        A header that could pass for a variable of another meaning stays out.
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
            environ["SERVER_NAME"], digits = _host(asked)
            if digits:
                environ["SERVER_PORT"] = digits
        return environ

    def of_program(
        self, environ: dict[str, str], request: Request, conn: Connection, script: Script
    ) -> None:
        """The same for a program of its own, CGI or behind FastCGI: what httpd says there, and no
        credentials, as others may see a process's environment (CGIPassAuth Off)."""
        self.add(environ, request, conn, script)
        if not script.path_info:
            del environ["PATH_INFO"]
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
        environ["SERVER_ADMIN"] = self._admin
        environ["CONTEXT_PREFIX"] = script.prefix
        environ["CONTEXT_DOCUMENT_ROOT"] = script.root if script.prefix else self._root


def _host(text: str) -> tuple[str, str]:
    """Name and port of `name[:port]`; the port may be ""."""
    name, colon, digits = text.rpartition(":")
    return (name, digits) if colon and not digits.endswith("]") else (text, "")


# Header names are few: what becomes of each is worked out once ("": it is left out).
HEADER_KEYS: dict[bytes, str] = {
    b"content-type": "CONTENT_TYPE",
    b"content-length": "CONTENT_LENGTH",
    b"proxy": "",  # HTTP_PROXY means something else to many libraries (httpoxy)
}
HEADER_KEYS_KEPT = 256


def _header_key(name: bytes) -> str:
    # X_Y would pass for X-Y, which someone on the way may have vouched for; httpd drops both kinds.
    plain = name.replace(b"-", b"")
    key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_") if plain.isalnum() else ""
    if len(HEADER_KEYS) < HEADER_KEYS_KEPT:
        HEADER_KEYS[name] = key
    return key


def latin(path: str) -> str:
    """A decoded path's bytes as latin-1 text, which is how WSGI and the wrappings here hold them."""
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


# -- what a script answers ---------------------------------------------------------------------------


class Head(NamedTuple):
    """A script's header lines, read.

    status      its Status, or 200; `said` tells whether it said one
    reason      its own words for the status; None: the usual ones
    location    its Location, "" without one
    fields      the other header lines, in their order, with CRLF; Content-Type is `content_type`
    length      its Content-Length
    """

    status: int
    said: bool
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
    status, said, reason, location = 200, False, None, ""
    fields: list[bytes] = []
    content_type = etag = modified = b""
    length: int | None = None
    framed = False  # it said Transfer-Encoding: its length is not to be believed (RFC 9112, 6.3)
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
            said = True
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
        elif lower in NOT_ITS_OWN:
            framed = framed or lower == "transfer-encoding"
        else:
            etag = value if lower == "etag" else etag
            modified = value if lower == "last-modified" else modified
            fields.append(b"%b: %b\r\n" % (key, value))
    if framed:
        length = None
    return Head(
        status, said, reason, location, b"".join(fields), content_type, length, etag, modified
    )


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
    wrong after the head. Whatever the answer, `pieces` are closed, at the latest when it is sent.
    """
    location = head.location
    if type(pieces) is bytes and head.length is None:
        head = head._replace(length=len(pieces))
    if location and head.status == 200:
        try:
            for _ in _all(pieces):  # nobody sees what else it says, but it may say it to its end
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
    if (
        not head.said
        and request.conditional
        and request.method == "GET"
        and unchanged(request, head)
    ):
        status = 304
        after = b"\r\n"
    if status in BODYLESS_STATUSES or request.method == "HEAD":
        if head.length is not None and status not in BODYLESS_STATUSES:
            fields += b"Content-Length: %d\r\n" % head.length
        return Response(status, fields, after, Unsent(_all(pieces)), 0, reason=head.reason)
    if type(pieces) is bytes and head.length == len(pieces) and head.reason is None:
        fields += b"Content-Length: %d\r\n" % head.length
        return Response(status, fields, after, pieces, head.length)
    body = pieces = _all(pieces)
    if head.length is not None:
        fields += b"Content-Length: %d\r\n" % head.length
        body = Measured(pieces, head.length, name)
    return Response(status, fields, after, Logged(body, failed), head.length, reason=head.reason)


def unchanged(request: Request, head: Head) -> bool:
    """Does the client have this already, by the validators that the script gave (RFC 9110, 13.2.2)?"""
    none_match = request.get(b"if-none-match")
    if none_match is not None:
        tags = [tag.strip().removeprefix(b"W/") for tag in none_match.split(b",")]
        return bool(head.etag) and (head.etag.removeprefix(b"W/") in tags or tags == [b"*"])
    since = request.get(b"if-modified-since")
    when = parse_http_date(since) if since else None
    modified = parse_http_date(head.modified) if head.modified else None
    return when is not None and modified is not None and modified <= when


def _all(pieces: Iterable[bytes] | bytes) -> Iterable[bytes]:
    return (pieces,) if type(pieces) is bytes else pieces  # type: ignore[return-value]


def close(pieces: object) -> None:
    end = getattr(pieces, "close", None)
    if end is not None:
        end()


class Unsent:
    """A body that nobody is to see: taken to its end, so that the script can come to its own."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for _ in self._pieces:
            pass
        return iter(())

    def close(self) -> None:
        close(self._pieces)


class Measured:
    """A body with a Content-Length: not a byte more gets through, as it would be the beginning of the
    next response to the client."""

    def __init__(self, pieces: Iterable[bytes], length: int, name: str) -> None:
        self._pieces = pieces
        self._length = length
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        for piece in self._pieces:
            if len(piece) > left:
                if left:
                    yield piece[:left]
                raise ScriptFailed(
                    500, f"more bytes than Content-Length {self._length} from script '{self._name}'"
                )
            left -= len(piece)
            yield piece
        if left:
            raise ScriptFailed(
                500,
                f"{left} bytes less than Content-Length {self._length} from script '{self._name}'",
            )

    def close(self) -> None:
        close(self._pieces)


class Logged:
    """A body whose script may fail on the way. `failed` writes the line for the error log; the client
    can be told by the connection's end only, as the head is gone."""

    def __init__(self, pieces: Iterable[bytes], failed: Callable[[ScriptFailed], None]) -> None:
        self._pieces = pieces
        self._failed = failed

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces
        except ScriptFailed as error:
            self._failed(error)
            raise RequestError(error.status, str(error)) from None

    def close(self) -> None:
        close(self._pieces)


# -- internal redirects ------------------------------------------------------------------------------


def redirected(
    request: Request, path: str, query: bytes, told: Mapping[str, str], status: int = 200
) -> Redirected | None:
    """`request` as one for another path: a GET without a body (a HEAD stays one). None: once too often."""
    depth = request.depth + 1 if isinstance(request, Redirected) else 1
    if depth > REDIRECTS:
        return None
    new = Redirected()
    for name in Request.__slots__:
        setattr(new, name, getattr(request, name))
    new.method = "HEAD" if request.method == "HEAD" else "GET"
    new.url = request.path
    new.path, new.query = path, query
    new.headers = tuple(
        field for field in request.headers if field[0] not in (b"content-length", b"content-type")
    )
    new.length = 0
    new.expect_continue = False
    new.depth = depth
    new.before = dict(told)
    new.status = status
    return new
