"""The answer of a program, by CGI or FastCGI (RFC 3875, 6), and what the two handlers share.

    b"Status: 404 Gone\\nX-A: b\\n\\n…" ──> Head ──> Response

Nothing here waits, spawns or connects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from time import time
from typing import TYPE_CHECKING, NamedTuple

from mpmkit.handlers.conditional import met
from mpmkit.handlers.gateway import CONTROL, FIELD_NAME, Script, Variables, latin
from mpmkit.http.messages import (
    BODYLESS_STATUSES,
    REASONS,
    Request,
    RequestError,
    Response,
    Unparsed,
    page,
    parse_http_date,
    whole_number,
)
from mpmkit.http.target import quote_line

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

LONGEST_HEAD = 65536  # bytes of a script's header lines; httpd bounds the lines, not their sum
STDERR_LINE = 8192  # bytes; a longer line of a script's stderr is cut into several
# Headers that a script may not send: they are about the connection, which is the server's.
RESERVED_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "date", "server"}
)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# Serves a script's `Location: /path` (router.redirect): path, the script's fields, its variables.
Redirect = Callable[[Request, "Connection", str, bytes, dict], Response]


class ScriptFailed(Exception):
    """A script without a good answer: the client gets `status`, the error log a line."""

    def __init__(self, status: int, text: str, ah: str = "", level: str = "error") -> None:
        super().__init__(text)
        self.status = status
        self.ah = ah
        self.level = level


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


# The head of a program that makes its own (nph-, RFC 3875, 5): what it writes is passed on as it is.
UNPARSED = Head(200, False, None, "", b"", b"", None, b"", b"")


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
        if not colon or not FIELD_NAME.match(key) or _is_bad(key, value):
            shown = quote_line(line[:30])
            raise ScriptFailed(500, f"malformed header from script '{name}': Bad header: {shown}")
        lower = key.lower().decode()
        if lower == "status":
            has_status = True
            code, _, words = value.partition(b" ")
            if not (len(code) == 3 and code.isdigit() and 200 <= int(code) <= 599):
                shown = quote_line(value[:30])
                raise ScriptFailed(500, f"invalid status from script '{name}': {shown}")
            status = int(code)
            words = words.strip()
            usual = REASONS.get(status, "").encode()
            own = words and words != usual and not CONTROL.search(words)
            reason = words if own else None
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


def _is_bad(key: bytes, value: bytes) -> bool:
    """A value that no header may have. (Of a Status only the three digits count.)"""
    return CONTROL.search(value[:3] if key.lower() == b"status" else value) is not None


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
    if head is UNPARSED:
        return Unparsed(
            200, b"", b"", ScriptBody(pieces, _logged(_all(pieces), failed)), None, True
        )
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
    status = head.status
    if not head.has_status and request.conditional and request.method in ("GET", "HEAD"):
        now = time()
        changed = parse_http_date(head.modified) if head.modified else None
        status = met(request, head.etag, int(now) if changed is None else changed, now) or status
        if status == 412:
            close(pieces)
            return page(412, request.method)
    has_type = head.content_type and status not in BODYLESS_STATUSES
    after = b"Content-Type: %b\r\n\r\n" % head.content_type if has_type else b"\r\n"
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


class Programs:
    """What CGI and FastCGI share: variables, errors, and the way from a head to a Response."""

    def __init__(
        self, module: str, d: Directives, errors: ErrorLog, document_root: str, redirect: Redirect
    ) -> None:
        self._module = module
        self.errors = errors
        self._redirect = redirect
        self._variables = Variables(d, document_root)
        self._base = {key: latin(value) for key, value in self._variables.base.items()}

    def run_by(
        self,
        start: Callable[[dict[str, str]], tuple[Head, Iterable[bytes] | bytes]],
        request: Request,
        conn: Connection,
        script: Script,
    ) -> Response:
        """Call `start` with the script's variables, for its head and its body, and make the answer.

        The body is closed when that fails, and whatever ScriptFailed says is logged.
        """
        environ = self._base.copy()
        self._variables.of_program(environ, request, conn, script)
        pieces: object = None
        try:
            head, pieces = start(environ)
            return answer(
                head,
                pieces,
                request,
                os.path.basename(script.filename),
                lambda path, fields: self._redirect(request, conn, path, fields, environ),
                lambda error: self._failed(error, conn),
            )
        except ScriptFailed as error:
            close(pieces)
            self._failed(error, conn)
            return page(error.status, request.method)
        except BaseException:
            close(pieces)
            raise

    def _failed(self, error: ScriptFailed, conn: Connection) -> None:
        self.log(error.level, str(error), error.ah, conn)

    def log(self, level: str, text: str, ah: str, conn: Connection) -> None:
        """A line of the error log."""
        self.errors.write(level, text, ah=ah, module=self._module, client=conn.peer)


class ScriptBody:
    """What is `sent` of a script's output. `close` ends the script."""

    def __init__(self, pieces: object, sent: Iterator[bytes]) -> None:
        self._sent = sent
        self._pieces = pieces

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
