"""Scripts in processes that stay: a client of FastCGI 1.0, as mod_proxy_fcgi is, for php-fpm and others.

    SetHandler "proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"      in <FilesMatch "\\.php$">,
    SetHandler "proxy:fcgi://127.0.0.1:9000"                            <Location> or <Directory>

    request ──> BEGIN_REQUEST, PARAMS…, STDIN… ──> backend
    client  <── STDOUT: head, then body as it comes <──┘       STDERR ──> error log

The script's memory and its crashes are the backend's: a process of this server only waits for it.
A waiting client costs what it costs under the MPM, a process or a thread.

A connection serves one request, unless ProxySet says enablereuse=on: then it is kept for the next one
of this process. It is off by default as in httpd, and for the same reason: a child of php-fpm
belongs to its connection, so a backend needs as many children as the server has workers, or the
workers without a connection starve.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpmkit.config.directives import DirectiveError
from mpmkit.handlers import fastcgi_records as fcgi
from mpmkit.handlers.gateway import Redirected, Script
from mpmkit.handlers.names import leads_out
from mpmkit.handlers.programs import Head, Programs, Redirect, ScriptFailed, StderrLines, take_head
from mpmkit.handlers.static import signature_of
from mpmkit.http.messages import Request, RequestError, Response

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

PIECE = 65536
# Methods whose requests may be made twice (RFC 9110, 9.2.2).
REPEATABLE = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
SPOOLED = 16384  # bytes of a chunked body that are read before the backend is asked (MAX_MEM_SPOOL)
RESENT = 65536  # bytes of a request's body that are remembered for a second attempt
SCRIPTS_KEPT = 1024  # of each backend: those whose links were followed
DEFAULT_PORT = 8000  # of fcgi:// without a port, as in httpd
ID = 1  # of the one request that a connection carries at a time

_HANDLER = re.compile(
    r"proxy:(?:unix:(?P<path>/[^|]+)\|)?(?P<url>fcgi://(?P<host>\[[0-9A-Fa-f:]+\]|[^/:\[\]]+)"
    r"(?::(?P<port>\d{1,5}))?)(?:/.*)?\Z"
)


class FastCgi(Programs):
    """The backends that SetHandler names, each made once."""

    def __init__(self, d: Directives, errors: ErrorLog, root: str, redirect: Redirect) -> None:
        super().__init__("proxy_fcgi", d, errors, root, redirect)
        self.directives = d
        self._backends: dict[str, Backend] = {}

    def backend(self, handler: str) -> Backend:
        """The backend of `proxy:…`. Raises DirectiveError for a handler that names none."""
        backend = self._backends.get(handler)
        if backend is None:
            backend = self._backends[handler] = Backend(self, handler)
        return backend


class Backend:
    """One backend: how to reach it, and the connections to it that this process keeps.

    Raises DirectiveError for a handler that can't be read.
    """

    def __init__(self, service: FastCgi, handler: str) -> None:
        found = _HANDLER.match(handler)
        if found is None:
            raise DirectiveError(
                f"SetHandler {handler!r} names no backend; write "
                "proxy:unix:/path/to/socket|fcgi://localhost or proxy:fcgi://127.0.0.1:9000",
                directive="SetHandler",
            )
        self._service = service
        self.log = service.log
        self.name = handler.removeprefix("proxy:")
        self._url = found["url"]
        self._address: str | tuple[str, int]
        port = int(found["port"] or DEFAULT_PORT)
        self._address = found["path"] or (found["host"].strip("[]"), port)
        d = service.directives
        values = {}
        for url, settings in d.ProxySet:
            if url.rstrip("/") in (self.name.rstrip("/"), found["url"]):
                values.update(settings)
        self.timeout = float(values.get("timeout", d.ProxyTimeout or d.Timeout))
        self._keep = bool(values.get("enablereuse", False))
        self._most = int(values.get("max", d.ThreadsPerChild))
        self._checked: dict[Script, tuple[int, int, int, int]] = {}  # the version that was checked
        self._idle: list[socket.socket] = []  # of this process: nothing is connected before a fork

    def run(self, request: Request, conn: Connection, script: Script) -> Response:
        """Have the backend run a script, and pass on its answer."""

        def start(environ: dict[str, str]) -> tuple[Head, _Exchange | bytes]:
            self._check(script)
            if isinstance(request, Redirected) and script.path_info:
                # With REDIRECT_URL, php-fpm takes PATH_TRANSLATED for the script, except from httpd.
                environ["SCRIPT_FILENAME"] = f"proxy:{self._url}{environ['SCRIPT_FILENAME']}"
            exchange, head = self._ask(_Asked(environ, request, conn, self._keep), request)
            return head, exchange.whole() or exchange

        return self._service.run_by(start, request, conn, script)

    def _check(self, script: Script) -> None:
        """May this script be run? Raises ScriptFailed as CGI does for a link that leads out of the
        root. A file that is not here may be another machine's: the backend decides."""
        name = script.filename
        try:
            st = os.stat(name)
        except NotADirectoryError:
            raise ScriptFailed(404, f"script not found: {name}", "AH02811") from None
        except (OSError, ValueError):
            signature = None
        else:
            signature = signature_of(st)
            if self._checked.get(script) == signature:
                return
        if leads_out(name, script.root):
            raise ScriptFailed(403, f"{name} is a link that leads out of {script.root}")
        if signature is not None:
            if len(self._checked) >= SCRIPTS_KEPT:
                self._checked.clear()
            self._checked[script] = signature

    def _ask(self, asked: _Asked, request: Request) -> tuple[_Exchange, Head]:
        """Send the request and read the head of its answer.

        A kept connection may be closed by now. As long as nothing has come back on it, and all that
        was sent is still at hand, the request is sent once more, on a new connection: if the backend
        did not read all of it, or if the method is one that may be repeated (RFC 9110, 9.2.2). A POST
        that was read may have been carried out, and is not sent twice.
        """
        kept = self._take()
        while True:
            exchange = _Exchange(self, kept or self._connect(), asked)
            try:
                return exchange, exchange.head()
            except _Stale as stale:
                exchange.close()
                again = stale.unread or request.method in REPEATABLE
                if kept is None or not again or not asked.rewind():
                    why = "the backend closed the connection without an answer"
                    raise ScriptFailed(502, f"{self.name}: {why}", "AH01067") from None
                kept = None
            except BaseException:
                exchange.close()
                raise

    # -- connections --------------------------------------------------------------------------

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
        except OSError as error:
            if sock is not None:
                sock.close()
            why = f"{self.name}: {error.strerror or error}; is it running?"
            raise ScriptFailed(
                503, f"failed to make connection to backend: {why}", "AH01079"
            ) from None
        return sock

    def _take(self) -> socket.socket | None:
        """A kept connection that is still open, the one used last first; None: no such connection."""
        while self._idle:
            try:
                sock = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()  # the backend has closed it, or sent bytes without a request
        return None

    def give_back(self, sock: socket.socket) -> None:
        """The connection has done its request in good order: keep it, up to ProxySet's max."""
        if self._keep and len(self._idle) < self._most:
            self._idle.append(sock)
        else:
            sock.close()


class _Stale(Exception):
    """The connection ended before a byte of the answer. `unread`: and before the request was read."""

    def __init__(self, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class _Asked:
    """A request as records, piece by piece as the client sends them; and again, while it is short."""

    def __init__(self, environ: dict, request: Request, conn: Connection, keep: bool) -> None:
        early: list[bytes] = []
        read = request.length == 0  # the client has sent all of it
        if request.length is None:  # chunked: a short body is read first, for its length
            while not read and sum(map(len, early)) <= SPOOLED:
                early.append(conn.read_body())
                read = not early[-1]
            if read:
                environ["CONTENT_LENGTH"] = str(sum(map(len, early)))
        params = fcgi.pairs(
            (key.encode("latin-1"), value.encode("latin-1")) for key, value in environ.items()
        )
        head = fcgi.begin(ID, keep) + fcgi.stream(fcgi.PARAMS, ID, params)
        head += fcgi.record(fcgi.PARAMS, ID)
        self.conn = conn
        self._sent: list[bytes] | None = []  # for a second attempt; None: it is too long to be kept
        self._size = sum(map(len, early))  # of the body, as far as it has been read
        self._read = read
        head += b"".join(fcgi.stream(fcgi.STDIN, ID, piece) for piece in early)
        if read:
            head += fcgi.record(fcgi.STDIN, ID)
        self._next = [head]
        self.complete = False  # all of it has been given out

    def next(self) -> bytes:
        """More bytes for the backend. Raises what `read_body` raises."""
        if self._next:
            data = self._next.pop(0)
        else:
            piece = self.conn.read_body()
            self._size += len(piece)
            self._read = not piece
            data = fcgi.stream(fcgi.STDIN, ID, piece) or fcgi.record(fcgi.STDIN, ID)
        self.complete = self._read and not self._next
        if self._sent is not None:
            self._sent.append(data)
            if self._size > RESENT:
                self._sent = None
        return data

    def rewind(self) -> bool:
        """From the beginning. False: what was sent first is gone."""
        if self._sent is None:
            return False
        self._next = self._sent + self._next
        self._sent = []
        self.complete = False
        return True


class _Exchange:
    """One request on one connection: an iterable of the body's pieces, once `head` has been read."""

    def __init__(self, backend: Backend, sock: socket.socket, asked: _Asked) -> None:
        self._backend = backend
        self._sock: socket.socket | None = sock
        self._asked = asked
        self._out = memoryview(b"")  # what the backend has not taken yet
        self._in = b""  # what it sent, up to the end of the last whole record
        self._pieces: list[bytes] = []
        self._has_answered = False
        self._ended = False
        self._first = b""
        self._stderr = StderrLines(
            lambda text: backend.log("error", f"Got error '{text}'", "AH01071", asked.conn)
        )
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLOUT)
        self._poll.register(asked.conn.fd, 0)
        self._writing = True

    def head(self) -> Head:
        """Read the head. Raises ScriptFailed, _Stale, or RequestError when the client is at fault."""
        head, self._first = take_head(self._next_piece, self._backend.name, "AH01070")
        return head

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while piece := self._next_piece():
            yield piece

    def whole(self) -> bytes | None:
        """All of the body, if it has come already; then the connection is free for the next request.
        None: it has not, or it is empty."""
        if not self._ended:
            return None
        self._pieces.insert(0, self._first)
        self._first, body = b"", b"".join(self._pieces)
        self._pieces.clear()
        self.close()
        return body or None

    def close(self) -> None:
        """Keep the connection, or close it if anything is left on it. Harmless a second time."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._ended and not self._in and not self._out and self._asked.complete:
            self._backend.give_back(sock)
        else:
            sock.close()

    # -- bytes --------------------------------------------------------------------------------

    def _next_piece(self) -> bytes:
        """The next piece of STDOUT, b"" at the end of the request."""
        while not self._pieces and not self._ended:
            try:
                self._move()
            except fcgi.FastCgiError as error:
                raise ScriptFailed(502, f"{self._backend.name}: {error}", "AH01068") from None
        return self._pieces.pop(0) if self._pieces else b""

    def _move(self) -> None:
        """Wait until bytes can go one way or the other, and let them."""
        assert self._sock is not None
        backend = self._backend
        if not self._out and not self._asked.complete:
            self._out = memoryview(self._asked.next())
        if bool(self._out) != self._writing:
            self._writing = bool(self._out)
            self._poll.modify(self._sock, select.POLLIN | (select.POLLOUT if self._writing else 0))
        events = self._poll.poll(backend.timeout * 1000)
        if not events:
            why = f"{backend.name}: nothing came for {backend.timeout:g} s"
            raise ScriptFailed(504, f"Error dispatching request to {why}", "AH01075")
        for fd, event in events:
            if fd != self._sock.fileno():
                raise RequestError(500, "the client left while its script ran", silent=True)
            if event & ~select.POLLOUT:
                self._receive()
            elif self._out:
                try:
                    self._out = self._out[self._sock.send(self._out) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self._receive(unread=True)  # it may have said why, before it closed

    def _receive(self, unread: bool = False) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:  # a reset: it closed with bytes of ours that it had not read
            data, unread = b"", True
        if not data:
            if not self._has_answered:
                raise _Stale(unread or bool(self._out) or not self._asked.complete)
            why = "the backend closed the connection within its answer"
            raise ScriptFailed(502, f"{self._backend.name}: {why}", "AH01067")
        self._has_answered = True
        records, self._in = fcgi.read_records(self._in + data)
        for kind, number, content in records:
            if number != ID:
                raise fcgi.FastCgiError(f"a record for request {number}, there is only {ID}")
            if kind == fcgi.STDOUT:
                if content:
                    self._pieces.append(content)
            elif kind == fcgi.STDERR:
                self._stderr.feed(content)
            elif kind == fcgi.END_REQUEST:
                self._end(content)

    def _end(self, content: bytes) -> None:
        self._stderr.feed(b"\n")
        self._ended = True
        _, status = fcgi.read_end(content)
        if status == fcgi.COMPLETE:
            return
        if status == fcgi.OVERLOADED:
            raise ScriptFailed(503, f"{self._backend.name}: the backend is overloaded", "AH01075")
        why = f"the backend refuses this kind of request (protocol status {status})"
        raise ScriptFailed(502, f"{self._backend.name}: {why}", "AH01075")
