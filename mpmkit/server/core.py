"""One request, from its head to its line in the log: the same under every MPM (httpd's http_core).

    read the head     R (or K, between requests)
    run the handler   W
    send              W
    log and count     L
    then              keep the connection, or close it

`process_request` is that path. An MPM only decides which thread runs it, and what waits before and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import time_ns
from types import MethodType
from typing import TYPE_CHECKING, Any

from mpmkit.config.directives import Directives, Note
from mpmkit.http import messages
from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import FileBody, HeadStart, Request, RequestError, Response
from mpmkit.http.protocol import partial_request
from mpmkit.policy.states import BUSY_LOG, BUSY_WRITE
from mpmkit.server.connection import Connection, Disconnected
from mpmkit.server.listen import SecureSocket, first_timeout
from mpmkit.server.logs import AccessLog, ErrorLog
from mpmkit.server.scoreboard import WorkerSlot

if TYPE_CHECKING:
    from mpmkit.server.hosts import Hosts
    from mpmkit.server.tls import TlsConnection

Handler = Callable[[Request, Connection], Response]

CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AT_HAND = frozenset((bytes, memoryview, FileBody))  # bodies that need not be made piece by piece
# What the scoreboard shows of each version.
_PROTOCOLS = {version: b"http/%d.%d" % version for version in ((1, 0), (1, 1))}


def method_of(handler: Handler) -> Handler:
    """The `__call__` of an object of ours: to call that instead is faster, and takes 0.9 KB less of a thread's
    stack, as the interpreter starts no other loop."""
    method: Any = getattr(handler, "__call__", None)  # noqa: B004 (it is not asked whether there is one)
    return method if type(method) is MethodType else handler


class ConnectionFactory:
    """Makes a plain, TLS or filtered connection of what `accept` gave. Raises DirectiveError for TLS's."""

    def __init__(self, d: Directives, requests: RequestCache, hosts: Hosts | None = None) -> None:
        self._directives, self._requests, self.first_timeout = d, requests, first_timeout(d)
        self._tls: type[TlsConnection] | None = None
        self._filter: Any = None
        if d.tls:
            from mpmkit.server import tls  # and with it ssl: 2 MB

            self._tls = tls.TlsConnection
            if hosts is None:
                context = tls.context_for(d)
                self._context_of: Callable[[Any], Any] = lambda sock: context
            else:
                from mpmkit.server.hosts import Certificates

                self._context_of = Certificates(hosts, tls.context_for).of
        if d.ConnectionFilter is not None:
            from mpmkit.server.filters import LineRate

            self._filter, self._rate = LineRate, d.ConnectionFilter[1]
        self._plain = not (self._tls or self._filter)

    def __call__(self, sock, peer, *, nonblocking: bool = False) -> Connection:
        """A new connection. `nonblocking`: event's, see `Connection`."""
        if self._plain:
            return Connection(
                sock, peer, self._directives, self._requests, self.first_timeout, nonblocking
            )
        given = sock, peer, self._directives, self._requests, self.first_timeout, nonblocking
        if self._tls is not None and type(sock) is SecureSocket:
            conn: Connection = self._tls(*given, context=self._context_of(sock))
        else:
            conn = Connection(*given)
        if self._filter is not None:
            conn.filtered(self._filter(sock, self._rate))
        return conn


@dataclass(eq=False)
class Service:
    """What all connections of one process share. Made before the fork, so children share it, too."""

    directives: Directives
    handler: Handler
    access: AccessLog | Hosts | None
    errors: ErrorLog
    hosts: Hosts | None = None  # the virtual hosts, if there are any (server/hosts.py)
    notes: tuple[Note, ...] = ()  # what the operator should know of the configuration
    logs: ExitStack = field(default_factory=ExitStack)  # closes all logs, those of the hosts, too

    def __post_init__(self) -> None:
        d = self.directives
        # (status, connection, method) -> the page for a request that got no answer from a handler.
        self.error_page = getattr(
            self.handler, "refusal", lambda code, conn, method="GET": messages.page(code, method, what=conn.hint)
        )  # fmt: skip
        self.handler = method_of(self.handler)
        # Is this process about to end? Each child sets it; then every response says `Connection: close`.
        self.leaving: Callable[[], bool] = bool
        self.requests = RequestCache(d)
        self.head_start = HeadStart(messages.server_header(d.ServerTokens))
        self.connection = ConnectionFactory(d, self.requests, self.hosts)
        self._may_keep_alive = d.KeepAlive and d.KeepAliveTimeout > 0
        self._max_keep_alive = d.MaxKeepAliveRequests
        self._keep_alive_lines: dict[int, bytes] = {}

    def keeps_alive(self, conn: Connection, request: Request, response: Response) -> bool:
        """httpd's ap_set_keepalive: may this connection carry another request?"""
        return (
            self._may_keep_alive
            and (not self._max_keep_alive or conn.kept < self._max_keep_alive)
            and not (request.close or response.close)
            and (response.length is not None or request.version == (1, 1))
            and not self.leaving()
        )

    def keep_alive_line(self, kept: int) -> bytes:
        """The two header lines for a client that asked for keep-alive. `max` counts this response."""
        maximum = self._max_keep_alive
        key = kept if maximum else 0
        if (lines := self._keep_alive_lines.get(key)) is None:
            left = f", max={maximum - kept}" if maximum else ""
            text = f"Keep-Alive: timeout={int(self.directives.KeepAliveTimeout)}{left}\r\n"
            lines = f"{text}Connection: Keep-Alive\r\n".encode()
            self._keep_alive_lines[key] = lines
        return lines


def process_request(conn: Connection, slot: WorkerSlot, service: Service) -> bool:
    """Serve one request. True: the connection may carry another. Never raises: whatever goes wrong ends the
    connection. Event: while `conn.pending` is not None it is not all sent; `finish_request` follows later."""
    conn.request = conn.response = request = response = None
    try:
        if (request := conn.read_request()) is None:
            return False
        slot.set(BUSY_WRITE)
        slot.requested(_PROTOCOLS[request.version], request.line)
        if service.hosts is not None:
            slot.vhost(service.hosts.shown(request, conn))
        conn.started = time_ns()
        conn.request = request
        conn.received = len(request.head)
        conn.keep_alive = True
        conn.response = response = service.handler(request, conn)
        if conn.protocol.body is not None and type(response.body) in AT_HAND:
            conn.discard_body()  # a script that yields may yet read on
    except RequestError as error:
        drop(response, conn, service)
        return refuse(conn, slot, service, error)
    except BaseException:
        # Also SystemExit: an application may raise anything, and other clients have no part in it.
        if conn.request is None:
            service.errors.exception("a request could not be read", client=conn.peer)
            return refuse(conn, slot, service, RequestError(500, "see the traceback"))
        assert request is not None
        service.errors.exception(f"the handler of {request.path} failed", client=conn.peer)
        drop(response, conn, service)
        response = service.error_page(500, conn, request.method)
    conn.keep_alive = conn.keep_alive and service.keeps_alive(conn, request, response)
    respond(conn, request, response, service)
    if conn.pending is not None:
        return conn.keep_alive
    return finish_request(conn, slot, service)


def respond(conn: Connection, request: Any, response: Response, service: Service) -> None:
    """Send `response`, by the way that its body asks for. Without a request it is bytes, and the last."""
    body: Any = response.body
    conn.status = response.status
    try:
        if type(body) not in AT_HAND:  # made piece by piece
            if type(body) is not Begun:
                body = Begun(conn, request, response, service, body)
            body.finish(response)
            return
        connection = CLOSE
        if conn.keep_alive:
            connection = service.keep_alive_line(conn.kept) if request.asks_keep_alive else b""
        now = conn.started // 1_000_000_000
        head = service.head_start.lines(response.status, now) + response.fields
        if type(body) is bytes:
            data = b"".join((head, connection, response.after, body))
            conn.body_sent = len(body)
            conn.sent = len(data)
            conn.send(data)
            return
        head = b"".join((head, connection, response.after))
        mapped = type(body) is memoryview
        conn.body_sent = count = len(body) if mapped else body.count
        conn.sent = len(head) + count
        (conn.send_mapped if mapped else conn.send_file)(head, body)
    except Disconnected:
        conn.keep_alive = False
    except RequestError as error:
        service.errors.refused(error, conn.peer)
        conn.keep_alive = False
    except BaseException:
        # A script that fails while it yields: the head is gone, so only the close can tell.
        text = f"the script at {request.path} failed while answering"
        service.errors.exception(text, client=conn.peer)
        conn.keep_alive = False


class Begun:
    """A body in pieces: the head goes with the first, chunks where the length is not known beforehand. WSGI's
    write() begins one while the handler runs, which then returns it as its response's body; `rest` follows."""

    __slots__ = ("_conn", "chunked", "count", "head", "rest", "size")

    def __init__(
        self, conn: Connection, request: Request, response: Response, service: Service, rest: Any = ()
    ) -> None:  # fmt: skip
        conn.keep_alive = conn.keep_alive and service.keeps_alive(conn, request, response)
        connection = CLOSE
        if conn.keep_alive:
            connection = service.keep_alive_line(conn.kept) if request.asks_keep_alive else b""
        head = service.head_start.lines(response.status, conn.started // 1_000_000_000)
        if response.reason is not None:
            lines = head.partition(b"\r\n")[2]
            head = b"HTTP/1.1 %d %b\r\n%b" % (response.status, response.reason, lines)
        http11, bodyless = request.version == (1, 1), response.status in messages.BODYLESS_STATUSES
        self.chunked = response.length is None and http11 and not bodyless
        framing = CHUNKED if self.chunked else b""
        self.head = b"".join((head, response.fields, connection, framing, response.after))
        self.size, self.count = len(self.head), 0  # bytes of the head, and of the body
        self._conn, self.rest = conn, rest

    def write(self, piece: bytes) -> None:
        """Send a piece now. Raises Disconnected."""
        head, self.head = self.head, b""
        conn = self._conn
        conn.body_sent, conn.sent = self.count, self.size + self.count
        self.count += len(piece)
        conn.send_pieces(head, (piece,), self.chunked, last=False)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.rest)

    def finish(self, response: Response) -> None:
        """Send the rest as it is yielded. Raises Disconnected."""
        conn = self._conn
        conn.body_sent, conn.sent = self.count, self.size + self.count
        try:
            conn.send_pieces(self.head, self.rest, self.chunked)
        finally:
            conn.answering = False
            self.close()
        if response.length is not None and conn.body_sent != response.length:
            conn.keep_alive = False  # the client waits for bytes that will not come
        if conn.keep_alive and conn.protocol.body is not None:
            conn.discard_body()

    def close(self) -> None:
        getattr(self.rest, "close", int)()


def drop(response: Response | None, conn: Connection, service: Service) -> None:
    """Give back what `response` holds: the file it has open, the script that it is from."""
    try:
        getattr(response and response.body, "close", int)()
    except BaseException:
        service.errors.exception("a script failed in its close()", client=conn.peer)


def finish_request(conn: Connection, slot: WorkerSlot, service: Service) -> bool:
    """The response is sent: log it, count it. True: the connection may carry another request."""
    slot.set(BUSY_LOG)
    now = time_ns()
    if service.access is not None:
        try:
            service.access.log(conn, now)
        except Exception:
            service.errors.exception("the access log has no line of a request", client=conn.peer)
    conn.response = None  # nothing is kept for a connection that waits
    slot.served(conn.received + conn.sent - conn.unsent, now - conn.started, now)
    if conn.keep_alive:
        conn.kept += 1
        return True
    return False


def refuse(conn: Connection, slot: WorkerSlot, service: Service, error: RequestError) -> bool:
    """Answer an invalid request: an error page, a line in the logs, and a close."""
    slot.set(BUSY_WRITE)
    conn.started = time_ns()
    conn.status = error.status
    conn.keep_alive = False
    service.errors.refused(error, conn.peer)
    conn.body_sent = conn.sent = 0
    head = bytes(conn.protocol.pending)  # if the request is refused for its head
    if not error.silent:
        of_head = conn.request.method == "HEAD" if conn.request else head.startswith(b"HEAD ")
        response = service.error_page(error.status, conn, "HEAD" if of_head else "GET")
        respond(conn, conn.request, response, service)
    if conn.request is not None:
        return finish_request(conn, slot, service)
    conn.received = len(head)
    if service.access is not None:
        conn.request = partial_request(head, service.directives)  # for the access log alone
    finish_request(conn, slot, service)
    conn.request = None
    return False
