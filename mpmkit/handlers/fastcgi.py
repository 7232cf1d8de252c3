"""Scripts in persistent processes: a FastCGI 1.0 client, like mod_proxy_fcgi, for php-fpm and others.

    SetHandler "proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"      in <FilesMatch "\\.php$">,
    SetHandler "proxy:fcgi://127.0.0.1:9000"                            <Location> or <Directory>

    request ──> BEGIN_REQUEST, PARAMS…, STDIN… ──> backend
    client  <── STDOUT: head, then body as it comes <──┘       STDERR ──> error log

A connection serves one request, unless ProxySet says enablereuse=on: then it is kept for the next one of this
process. Reuse is off by default as in httpd: a php-fpm child belongs to its connection, so a backend needs as
many children as the server has workers, or the workers without a connection starve. A kept connection that the
backend has closed is noticed before it is used; one that closes later is a 502: the request may have run.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING

from mpmkit.config.directives import DirectiveError
from mpmkit.handlers import gateway
from mpmkit.handlers.gateway import Environ, Output, Programs, Redirected, Script, ScriptFailed
from mpmkit.handlers.static import leads_out, signature_of
from mpmkit.http.messages import Request
from mpmkit.server.connection import Connection, receive

if TYPE_CHECKING:
    from mpmkit.handlers.router import Router

SPOOLED = 16384  # bytes of a chunked body that are read before the backend is asked (MAX_MEM_SPOOL)
SCRIPTS_KEPT = 1024  # of each backend: those whose links were followed
DEFAULT_PORT = 8000  # of fcgi:// without a port, as in httpd

# A record: version 1 │ type │ request id (2) │ length of content (2) │ of padding │ 0 │ content │ padding.
# Those of one type are a stream, ended by one without content.
BEGIN_REQUEST, _, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR = range(1, 8)

RESPONDER = 1  # the role of a backend that makes a response
KEEP_CONN = 1  # flag of BEGIN_REQUEST: the connection stays after END_REQUEST
COMPLETE, _, OVERLOADED, _ = range(4)  # END_REQUEST's protocol status

ID = 1  # of the one request that a connection carries at a time
MOST = 65528  # bytes of content in a record, a multiple of 8: the specification advises it
_HEAD = Struct(">BBHHBx")
_BEGIN = Struct(">HB5x")
_END = Struct(">IB3x")

_HANDLER = re.compile(
    r"proxy:(?:unix:(?P<path>/[^|]+)\|)?(?P<url>fcgi://(?P<host>\[[0-9A-Fa-f:]+\]|[^/:\[\]]+)"
    r"(?::(?P<port>\d{1,5}))?)(?:/.*)?\Z"
)


class Backend(Programs):
    """The handler for one backend. Raises DirectiveError for a SetHandler that can't be read."""

    module = "proxy_fcgi"

    def __init__(self, router: Router, handler: str) -> None:
        super().__init__(router)
        d = router.directives
        found = _HANDLER.match(handler)
        if found is None:
            remedy = "proxy:unix:/path/to/socket|fcgi://localhost or proxy:fcgi://127.0.0.1:9000"
            text = f"SetHandler {handler!r} names no backend; write {remedy}"
            raise DirectiveError(text, directive="SetHandler")
        self.name = handler.removeprefix("proxy:")
        self._url = found["url"]
        port = int(found["port"] or DEFAULT_PORT)
        self._address: str | tuple[str, int] = found["path"] or (found["host"].strip("[]"), port)
        values = {}
        for url, settings in d.ProxySet:
            if url.rstrip("/") in (self.name.rstrip("/"), self._url):
                values.update(settings)
        self.timeout = float(values.get("timeout", d.ProxyTimeout or d.Timeout))
        self._keep = bool(values.get("enablereuse", False))
        self.most = int(values.get("max", d.ThreadsPerChild)) if self._keep else 0
        self._checked: dict[Script, tuple[int, int, int, int]] = {}  # the version that was checked
        self.idle: list[socket.socket] = []  # of this process: nothing is connected before a fork

    def start(self, environ: Environ, request: Request, conn: Connection, script: Script) -> Output:
        """Send the request's head. Raises ScriptFailed."""
        self._check(script)
        if isinstance(request, Redirected) and script.path_info:
            # With REDIRECT_URL, php-fpm treats PATH_TRANSLATED as the script, except from httpd.
            environ["SCRIPT_FILENAME"] = f"proxy:{self._url}{environ['SCRIPT_FILENAME']}"
        body, at_end = b"", request.length == 0
        if request.length is None:  # chunked: a short body is read first, for its length
            while not at_end and len(body) <= SPOOLED:
                piece = conn.read_body()
                body, at_end = body + piece, not piece
            if at_end:
                environ["CONTENT_LENGTH"] = str(len(body))
        items = ((k.encode("latin-1"), v.encode("latin-1")) for k, v in environ.items())
        head = begin(self._keep) + stream(PARAMS, pairs(items), end=True)
        head += stream(STDIN, body, end=at_end)
        return Exchange(self, self._take() or self._connect(), conn, head, at_end)

    def _check(self, script: Script) -> None:
        """May this script be run? Raises ScriptFailed as CGI does for a link that leads out of the
        root. A file that is not here may be another machine's: the backend decides."""
        name, signature = script.filename, None
        try:
            signature = signature_of(os.stat(name))
            if self._checked.get(script) == signature:
                return
        except NotADirectoryError:
            raise ScriptFailed(404, f"script not found: {name}", "AH02811") from None
        except (OSError, ValueError):
            pass
        if leads_out(name, script.root):
            raise ScriptFailed(403, f"{name} is a link that leads out of {script.root}")
        if signature is not None:
            if len(self._checked) >= SCRIPTS_KEPT:
                self._checked.clear()
            self._checked[script] = signature

    def _connect(self) -> socket.socket:
        """A new connection. Raises ScriptFailed 503."""
        family = socket.AF_UNIX
        if not isinstance(self._address, str):
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(self.timeout)
            sock.connect(self._address)
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, UnicodeError) as error:  # or the name can be no name: a..b
            if sock is not None:
                sock.close()
            why = f"{self.name}: {getattr(error, 'strerror', None) or error}; is it running?"
            text = f"failed to make connection to backend: {why}"
            raise ScriptFailed(503, text, "AH01079") from None
        return sock

    def _take(self) -> socket.socket | None:
        """A kept connection that is still open, the one used last first; None: no such connection."""
        while True:
            try:
                sock = self.idle.pop()
                sock.recv(1, socket.MSG_PEEK)
            except IndexError:
                return None
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()  # the backend has closed it, or sent bytes without a request


class Exchange(Output):
    """One request on one connection. `out`: the bytes to begin with; `complete`: they are all of it."""

    ah = "AH01070"
    says = "Got error '{1}'", "AH01071"
    late = "Error dispatching request to {0.name}: nothing came for {0.timeout:g} s", "AH01075"

    def __init__(
        self, backend: Backend, sock: socket.socket, conn: Connection, out: bytes, complete: bool
    ) -> None:
        super().__init__(backend, conn, "", backend.name)
        self._backend, self._sock = backend, sock
        self.out, self.complete = memoryview(out), complete
        self._in = b""  # what it sent, behind the last whole record
        self._closed = False
        self.poll.register(sock, select.POLLIN | select.POLLOUT)

    def framed(self, piece: bytes) -> bytes:
        return stream(STDIN, piece, end=not piece)

    def fed(self) -> None:
        self.poll.modify(self._sock, select.POLLIN)

    def whole(self) -> bytes | None:
        if not self.ended:
            return None
        body = b"".join((self.first, *self.came))
        self.came.clear()
        self.close()  # the connection is free for the next request
        return body or None

    def close(self) -> None:
        """Keep the connection for the next request, up to ProxySet's max, if nothing is left on it."""
        if self._closed:
            return
        self._closed = True
        done = self.ended and not self._in and not self.out and self.complete
        if done and len(self._backend.idle) < self._backend.most:
            self._backend.idle.append(self._sock)
        else:
            self._sock.close()

    def take(self, fd: int) -> None:
        try:
            data = receive(self._sock, gateway.PIECE)
        except BlockingIOError:
            return
        except OSError:  # a reset: it closed with bytes of ours that it had not read
            data = b""
        if not data:
            why = "the backend closed the connection within its answer, or without one"
            raise ScriptFailed(502, f"{self.name}: {why}", "AH01067")
        try:
            records, self._in = read_records(self._in + data)
            for one in records:
                self._record(*one)
        except FastCgiError as error:
            raise ScriptFailed(502, f"{self.name}: {error}", "AH01068") from None

    def _record(self, kind: int, number: int, content: bytes) -> None:
        if number != ID:
            raise FastCgiError(f"a record for request {number}, there is only {ID}")
        if kind == STDOUT and content:
            self.came.append(content)
        elif kind == STDERR:
            self.stderr(content)
        elif kind == END_REQUEST:
            self.stderr(b"\n")
            self.ended = True
            if len(content) != _END.size:
                raise FastCgiError("an END_REQUEST of another length")
            status = _END.unpack(content)[1]
            if status == OVERLOADED:
                raise ScriptFailed(503, f"{self.name}: the backend is overloaded", "AH01075")
            if status != COMPLETE:
                why = f"the backend refuses this kind of request (protocol status {status})"
                raise ScriptFailed(502, f"{self.name}: {why}", "AH01075")


# -- FastCGI 1.0 as bytes: no socket here


class FastCgiError(ValueError):
    """Bytes that are not FastCGI 1.0."""


def record(kind: int, content: bytes = b"", request: int = ID) -> bytes:
    """One record, padded to a multiple of 8."""
    padding = -len(content) % 8
    return _HEAD.pack(1, kind, request, len(content), padding) + content + bytes(padding)


def stream(kind: int, data: bytes, *, end: bool = False) -> bytes:
    """`data` as records of a stream, and with `end` the one that ends it."""
    pieces = [record(kind, data[at : at + MOST]) for at in range(0, len(data), MOST)]
    return b"".join((*pieces, record(kind) if end else b""))


def begin(keep: bool) -> bytes:
    """BEGIN_REQUEST for a responder."""
    return record(BEGIN_REQUEST, _BEGIN.pack(RESPONDER, KEEP_CONN if keep else 0))


def pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Name-value pairs."""
    parts: list[bytes] = []
    for name, value in items:
        sizes = len(name), len(value)
        parts += (bytes(sizes) if max(sizes) < 128 else b"".join(map(_length, sizes)), name, value)
    return b"".join(parts)


def _length(count: int) -> bytes:
    return bytes((count,)) if count < 128 else (count | 1 << 31).to_bytes(4, "big")


def read_records(data: bytes) -> tuple[list[tuple[int, int, bytes]], bytes]:
    """Whole records as type, request id and content, and what follows them. Raises FastCgiError."""
    found: list[tuple[int, int, bytes]] = []
    at = 0
    while len(data) - at >= _HEAD.size:
        version, kind, request, length, padding = _HEAD.unpack_from(data, at)
        if version != 1:
            raise FastCgiError(f"version {version} of FastCGI, or something else altogether")
        start = at + _HEAD.size
        if len(data) < start + length + padding:
            break
        found.append((kind, request, data[start : start + length]))
        at = start + length + padding
    return found, data[at:]
