"""Which kind of connection an accepted socket becomes: plain, over TLS, filtered, counted.

Decided when a configuration is read, so that a server without any of these asks one question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpmkit.config.directives import Directives
from mpmkit.http.fastpath import RequestCache
from mpmkit.server.connection import Connection, Received
from mpmkit.server.listen import SecureSocket, first_timeout

if TYPE_CHECKING:
    from mpmkit.server.hosts import Hosts
    from mpmkit.server.tls import TlsConnection


class ConnectionFactory:
    """Call it with what `accept` gave: `service.connection(sock, peer)`.

    count_received    an access log asks for the bytes that were received (%I)
    hosts             virtual hosts, each of which may have a certificate of its own

    Raises DirectiveError if the directives of TLS can't be used.
    """

    def __init__(
        self,
        directives: Directives,
        requests: RequestCache,
        *,
        count_received: bool,
        hosts: Hosts | None = None,
    ) -> None:
        self._directives = directives
        self._requests = requests
        self.first_timeout = first_timeout(directives)
        self._count_received = count_received
        self._tls: type[TlsConnection] | None = None
        if directives.tls:
            from mpmkit.server import tls  # and with it ssl: 2 MB

            self._tls = tls.TlsConnection
            if hosts is None:
                context = tls.context_for(directives)
                self._context_of: Callable[[Any], Any] = lambda sock: context
            else:
                from mpmkit.server.hosts import Certificates

                self._context_of = Certificates(hosts, tls.context_for).of
        self._filter = None
        if directives.ConnectionFilter is not None:
            from mpmkit.server.filters import FILTERS

            name, self._filter_argument = directives.ConnectionFilter
            self._filter = FILTERS[name]
        self._plain = not (count_received or self._tls or self._filter)

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
            conn.filtered(self._filter(sock, self._filter_argument))
        if self._count_received:
            conn.recv = Received(conn.recv)
        return conn
