"""Scripts in processes that stay: a client of FastCGI 1.0, as mod_proxy_fcgi is, for php-fpm and others.

    SetHandler "proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"      in <FilesMatch "\\.php$">,
    SetHandler "proxy:fcgi://127.0.0.1:9000"                            <Location> or <Directory>

    request ──> BEGIN_REQUEST, PARAMS…, STDIN… ──> backend
    client  <── STDOUT: head, then body as it comes <──┘       STDERR ──> error log

The script's memory, and its crashes, are the backend's: a server process of any MPM only waits for it.
What a waiting client costs is the MPM's, a process or a thread.

A connection serves one request, unless ProxySet says enablereuse=on: then it is kept for the next one
of this process. It is off by default as in httpd, and for the same reason: a child of php-fpm
belongs to its connection, so a backend needs as many children as the server has workers, or those
that hold no connection starve.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from mpmkit.config.directives import DirectiveError
from mpmkit.handlers import fastcgi_records as fcgi
from mpmkit.handlers.gateway import (
    LONGEST_HEAD,
    Head,
    Script,
    ScriptFailed,
    Variables,
    answer,
    read_head,
    split_head,
)
from mpmkit.http.messages import Request, RequestError, Response, page

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

PIECE = 65536
# Methods whose requests may be made twice (RFC 9110, 9.2.2).
REPEATABLE = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
RESENT = 65536  # bytes of a request's body that are remembered for a second attempt
DEFAULT_PORT = 8000  # of fcgi:// without a port, as in httpd
ID = 1  # of the one request that a connection carries at a time

_HANDLER = re.compile(
    r"proxy:(?:unix:(?P<path>/[^|]+)\|)?(?P<url>fcgi://(?P<host>\[[0-9A-Fa-f:]+\]|[^/:\[\]]+)"
    r"(?::(?P<port>\d{1,5}))?)(?:/.*)?\Z"
)

Redirect = Callable[[Request, "Connection", str, bytes, dict], Response]


class FastCgi:
    """The backends that SetHandler names, each made once."""

    def __init__(
        self, directives: Directives, errors: ErrorLog, document_root: str, redirect: Redirect
    ) -> None:
        self.directives = directives
        self.errors = errors
        self.redirect = redirect
        self.variables = Variables(directives, document_root)
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
                f"SetHandler {handler!r} names no backend here; write "
                "proxy:unix:/path/to/socket|fcgi://localhost or proxy:fcgi://127.0.0.1:9000",
                directive="SetHandler",
            )
        self._service = service
        self._errors = service.errors
        self.name = handler.removeprefix("proxy:")
        self._address: str | tuple[str, int]
        self._address = found["path"] or (
            found["host"].strip("[]"),
            int(found["port"] or DEFAULT_PORT),
        )
        d = service.directives
        values = {}
        for url, said in d.ProxySet:
            if url.rstrip("/") in (self.name.rstrip("/"), found["url"]):
                values.update(said)
        self._timeout = float(values.get("timeout", d.ProxyTimeout or d.Timeout))
        self._keep = bool(values.get("enablereuse", False))
        self._most = int(values.get("max", d.threads_per_child))
        self._idle: list[socket.socket] = []  # of this process: nothing is connected before a fork

    def run(self, request: Request, conn: Connection, script: Script) -> Response:
        """Have the backend run a script, and pass on what it says."""
        told = self._service.variables
        environ = told.base.copy()
        told.of_program(environ, request, conn, script)
        asked = _Asked(environ, request, conn, self._keep)
        try:
            exchange, head = self._ask(asked, request)
        except ScriptFailed as error:
            self._failed(error, conn)
            return page(error.status, request.method)
        try:
            return answer(
                head,
                exchange.whole() or exchange,
                request,
                os.path.basename(script.filename),
                lambda path, fields: self._service.redirect(request, conn, path, fields, environ),
                lambda error: self._failed(error, conn),
            )
        except ScriptFailed as error:
            exchange.close()
            self._failed(error, conn)
            return page(error.status, request.method)
        except BaseException:
            exchange.close()
            raise

    def _ask(self, asked: _Asked, request: Request) -> tuple[_Exchange, Head]:
        """Send the request and read the head of its answer.

        A connection that was kept may be dead by now. As long as nothing has come back on it, and all
        that was sent is still at hand, the request is made once more, on a new one: if the backend did
        not read it to its end, or if the method is one that may be repeated (RFC 9110, 9.2.2). A POST
        that was read may have been done, and is not done twice.
        """
        kept = self._take()
        exchange = _Exchange(self, kept or self._connect(), asked)
        try:
            return exchange, exchange.head()
        except _Stale as stale:
            exchange.close()
            again = stale.unread or request.method in REPEATABLE
            if kept is None or not again or not asked.rewind():
                raise ScriptFailed(
                    502,
                    f"{self.name}: the backend closed the connection without an answer",
                    "AH01067",
                ) from None
        except BaseException:
            exchange.close()
            raise
        exchange = _Exchange(self, self._connect(), asked)
        try:
            return exchange, exchange.head()
        except _Stale:
            exchange.close()
            raise ScriptFailed(
                502, f"{self.name}: the backend closed the connection without an answer", "AH01067"
            ) from None
        except BaseException:
            exchange.close()
            raise

    # -- connections --------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        """A new connection. Raises ScriptFailed 503."""
        path = isinstance(self._address, str)
        family = (
            socket.AF_UNIX
            if path
            else (socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        )
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise ScriptFailed(
                503, f"no socket for {self.name}: {error.strerror}", "AH01079"
            ) from None
        try:
            sock.settimeout(self._timeout)
            sock.connect(self._address)
            sock.setblocking(False)
            if not path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            why = error.strerror or str(error)
            raise ScriptFailed(
                503,
                f"failed to make connection to backend: {self.name}: {why}; is it running?",
                "AH01079",
            ) from None
        return sock

    def _take(self) -> socket.socket | None:
        """A kept connection that is still open, the one used last first; None: there is none."""
        while self._idle:
            try:
                sock = self._idle.pop()
            except IndexError:  # another thread was quicker
                return None
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()  # the backend has closed it, or says what nobody asked
        return None

    def give_back(self, sock: socket.socket) -> None:
        """The connection has done its request in good order: keep it, up to ProxySet's max."""
        if self._keep and len(self._idle) < self._most:
            self._idle.append(sock)
        else:
            sock.close()

    def _failed(self, error: ScriptFailed, conn: Connection) -> None:
        self._errors.write(
            error.level, str(error), ah=error.ah, module="proxy_fcgi", client=conn.peer
        )


class _Stale(Exception):
    """The connection ended before a byte of the answer. `unread`: and before the request was read."""

    def __init__(self, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class _Asked:
    """A request as records, piece by piece as the client sends them; and again, while it is short."""

    def __init__(self, environ: dict, request: Request, conn: Connection, keep: bool) -> None:
        params = fcgi.pairs(
            (key.encode("latin-1"), value.encode("latin-1", "surrogateescape"))
            for key, value in environ.items()
        )
        head = fcgi.begin(ID, keep) + fcgi.stream(fcgi.PARAMS, ID, params)
        self._start = head + fcgi.record(fcgi.PARAMS, ID)
        self._conn = conn
        self._sent: list[bytes] | None = []  # of the body; None: it is too long to be kept
        self._size = 0
        self._again: list[bytes] = []
        self._begun = False
        self.complete = False  # all of it has been given out
        self._read = request.length == 0  # the client has sent all of it

    def next(self) -> bytes:
        """More bytes for the backend. Raises what `read_body` raises."""
        if not self._begun:
            self._begun = True
            if self._read and not self._again:
                self.complete = True
                return self._start + fcgi.record(fcgi.STDIN, ID)
            return self._start
        if self._again:
            return self._again.pop(0)
        piece = b"" if self._read else self._conn.read_body()
        if not piece:
            self._read = self.complete = True
            return fcgi.record(fcgi.STDIN, ID)
        self._size += len(piece)
        data = fcgi.stream(fcgi.STDIN, ID, piece)
        if self._sent is not None:
            self._sent.append(data)
            if self._size > RESENT:
                self._sent = None
        return data

    def rewind(self) -> bool:
        """From the beginning. False: what was sent first is gone."""
        if self._sent is None:
            return False
        self._again = list(self._sent)
        self._begun = self.complete = False
        return True


class _Exchange:
    """One request on one connection: an iterable of the body's pieces, once `head` has been read."""

    def __init__(self, backend: Backend, sock: socket.socket, asked: _Asked) -> None:
        self._backend = backend
        self._sock: socket.socket | None = sock
        self._asked = asked
        self._conn = asked._conn
        self._out = memoryview(b"")  # what the backend has not taken yet
        self._in = b""  # what it said, up to the end of the last whole record
        self._pieces: list[bytes] = []
        self._heard = False
        self._ended = False
        self._first = b""
        self._complaint = b""
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLOUT)
        self._poll.register(self._conn.fd, 0)
        self._writing = True

    def head(self) -> Head:
        """Read the head. Raises ScriptFailed, _Stale, or RequestError when the client is at fault."""
        data = b""
        while (found := split_head(data)) is None:
            piece = self._next_piece()
            if not piece:
                raise ScriptFailed(
                    500, f"{self._backend.name}: End of script output before headers", "AH01070"
                )
            data += piece
            if len(data) > LONGEST_HEAD:
                raise ScriptFailed(
                    500,
                    f"{self._backend.name}: more than {LONGEST_HEAD} bytes of headers",
                    "AH01070",
                )
        self._first = found[1]
        return read_head(found[0], self._backend.name)

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while piece := self._next_piece():
            yield piece

    def whole(self) -> bytes | None:
        """All of the body, if it has come already; then the connection is free for the next request.
        None: it has not, or there is none."""
        if not self._ended:
            return None
        self._pieces.insert(0, self._first)
        self._first, body = b"", b"".join(self._pieces)
        self._pieces.clear()
        self.close()
        return body or None

    def close(self) -> None:
        """Once: the connection is kept, or if anything is left on it, closed."""
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
        until = monotonic() + backend._timeout
        events = self._poll.poll(max(0.0, until - monotonic()) * 1000)
        if not events:
            raise ScriptFailed(
                504,
                f"Error dispatching request to {backend.name}: nothing came for "
                f"{backend._timeout:g} s",
                "AH01075",
            )
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
            if not self._heard:
                raise _Stale(unread or bool(self._out) or not self._asked.complete)
            raise ScriptFailed(
                502,
                f"{self._backend.name}: the backend closed the connection within its answer",
                "AH01067",
            )
        self._heard = True
        records, self._in = fcgi.read_records(self._in + data)
        for kind, number, content in records:
            if number != ID:
                raise fcgi.FastCgiError(f"a record for request {number}, there is only {ID}")
            if kind == fcgi.STDOUT:
                if content:
                    self._pieces.append(content)
            elif kind == fcgi.STDERR:
                self._complain(content)
            elif kind == fcgi.END_REQUEST:
                self._end(content)

    def _complain(self, content: bytes) -> None:
        lines = (self._complaint + content).split(b"\n")
        self._complaint = lines.pop() if len(lines[-1]) < 8192 else b""
        self._log(lines)

    def _log(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.strip():
                text = line.decode("utf-8", "backslashreplace")
                self._backend._errors.write(
                    "error",
                    f"Got error '{text}'",
                    ah="AH01071",
                    module="proxy_fcgi",
                    client=self._conn.peer,
                )

    def _end(self, content: bytes) -> None:
        self._log([self._complaint])
        self._complaint = b""
        self._ended = True
        _, status = fcgi.read_end(content)
        if status == fcgi.OVERLOADED:
            raise ScriptFailed(503, f"{self._backend.name}: the backend is overloaded", "AH01075")
        if status != fcgi.COMPLETE:
            raise ScriptFailed(
                502,
                f"{self._backend.name}: the backend refuses this kind of request "
                f"(protocol status {status})",
                "AH01075",
            )
