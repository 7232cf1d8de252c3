"""The virtual host of a request, with its handler, logs and TLS context.

    the connection's own address ──> a chain of hosts (config/hosts.py)
    the request's Host           ──> the first of the chain that has the name, or an alias of it,
                                     or else the first of the chain

With virtual hosts `Hosts` is the server's handler and access log: it looks the host up in two caches.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mpmkit.config.directives import Directives, VirtualHost
from mpmkit.config.hosts import canonical_address, chain_at, chains
from mpmkit.http.messages import page
from mpmkit.http.target import ABSOLUTE, OwnName, split_host
from mpmkit.server.listen import unmapped
from mpmkit.server.logs import AccessLog, ErrorLog

if TYPE_CHECKING:
    from mpmkit.http.messages import Request, Response
    from mpmkit.server.connection import Connection

NAMES_KEPT = 1024  # of each chain; clients may send any name


@dataclass(eq=False)
class HostService:
    """What one host, or the server itself, consists of."""

    host: VirtualHost  # of the server itself: without an address
    handler: Callable[[Request, Connection], Response]
    access: AccessLog | None
    errors: ErrorLog

    def __post_init__(self) -> None:
        self.directives = d = self.host.directives
        # What makes the page of a request that never got to the handler.
        self.refusal = getattr(self.handler, "refusal", None)
        self.name = OwnName.of(d.ServerName.lower()).host
        # What its certificate and its versions of TLS depend on.
        self.tls = (d.SSLCertificateFile, d.SSLCertificateKeyFile, d.SSLProtocol, d.SSLCipherSuite)


class Chain:
    """The hosts of one address, by name."""

    def __init__(self, sites: Sequence[HostService]) -> None:
        self.sites, self.default = sites, sites[0]
        self._patterns = []
        self._addresses: dict[str, HostService] = {}
        for site in sites:
            aliases = (re.escape(one.lower()) for one in site.directives.ServerAlias)
            globs = (one.replace(r"\*", ".*").replace(r"\?", ".") for one in aliases)
            names = "|".join([re.escape(site.name), *globs])
            self._patterns.append((site, re.compile(names, re.DOTALL)))
            for name, _ in site.host.addresses:
                self._addresses.setdefault(name, site)
        self.named = lru_cache(NAMES_KEPT)(self._named)

    def _named(self, name: str) -> HostService:
        """The host of a name, as the client wrote it."""
        asked = name.lower().removesuffix(".")
        short = asked[:256]  # longer ones are no names (RFC 1035), and would take a pattern long
        found = (site for site, names in self._patterns if names.fullmatch(short))
        return next(found, None) or self._addresses.get(asked, self.default)


class Hosts:
    """The handler of a server with virtual hosts. `main` answers where no host's address fits. Names of
    <VirtualHost> are looked up now; `unknown` has those that no address was found for."""

    def __init__(self, main: HostService, sites: Sequence[HostService]) -> None:
        self.main = main
        self.unknown: list[str] = []
        of = {id(site.host): site for site in sites}
        found = chains((site.host for site in sites), self._resolve)
        self.chains = {key: Chain([of[id(host)] for host in chain]) for key, chain in found.items()}
        self.only_main = Chain([main])
        # The chain of a connection's own address.
        self.at = lru_cache(NAMES_KEPT)(lambda at: chain_at(self.chains, *at) or self.only_main)

    def _resolve(self, name: str) -> list[str]:
        if not (found := addresses_of(name)):
            self.unknown.append(name)
        return found

    def within(self, address: str, port: int) -> Iterable[Chain]:
        """The chains that connections to a listening socket may have."""
        here = canonical_address(address) if address else ""
        found = [chain_at(self.chains, here, port) or self.only_main]
        if not here:
            found += [chain for (one, at), chain in self.chains.items() if one and at in (port, 0)]
        return found

    def of(self, request: Request | None, conn: Connection) -> HostService:
        """The host that a request is for. `request` may be None, or one that was refused."""
        try:
            chain = self.at(conn.local)
        except OSError:  # the client is gone
            return self.main
        if request is None:
            return chain.default
        absolute = None if request.target.startswith(b"/") else ABSOLUTE.match(request.target)
        name = absolute[1] if absolute else request.get(b"host")
        return chain.named(split_host(name.decode("latin-1"))[0]) if name else chain.default

    def __call__(self, request: Request, conn: Any) -> Response:
        site = self.of(request, conn)
        if conn.scheme == "https":
            chosen = getattr(conn.session.object, "chosen", None)  # by `Certificates`
            if site.tls != (chosen or self.at(conn.local).default.tls):
                text = "the Host is one of another certificate than the name of the TLS handshake"
                site.errors.write("error", text, ah="AH02032", module="ssl", client=conn.peer)
                return page(421, request.method)
        return site.handler(request, conn)

    def shown(self, request: Request, conn: Connection) -> str:
        """What the status page shows for a request: the name of its host, and the connection's port."""
        return f"{self.of(request, conn).name}:{conn.local[1]}"

    def log(self, conn: Connection, now: int) -> None:
        """As `AccessLog.log`."""
        if (access := self.of(conn.request, conn).access) is not None:
            access.log(conn, now)

    def refusal(self, status: int, conn: Connection, method: str = "GET") -> Response:
        made = self.of(conn.request, conn).refusal
        return made(status, conn, method) if made else page(status, method)


class Certificates:
    """The context of each TLS connection, by address, then by name (SNI). Raises as `context_for`."""

    def __init__(self, hosts: Hosts, context_for: Callable[[Directives], Any]) -> None:
        self._hosts, self._context_for = hosts, context_for
        self._named: dict[tuple, Any] = {}  # by HostService.tls: for those that a name chooses
        self._first = cache(self._begin)  # by chain: what each handshake begins with
        for listen in hosts.main.directives.Listen:
            if listen.protocol == "https":
                for chain in hosts.within(listen.address, listen.port):
                    self._first(chain)

    def _begin(self, chain: Chain) -> Any:
        for site in chain.sites:
            if site.tls not in self._named:
                self._named[site.tls] = self._context_for(site.directives)
        first = self._context_for(chain.default.directives)

        def choose(sslobject: Any, name: str | None, context: Any) -> None:
            if name is not None:
                sslobject.chosen = chain.named(name).tls
                sslobject.context = self._named[sslobject.chosen]

        first.sni_callback = choose
        sys.unraisablehook = _unraisable
        return first

    def of(self, sock: socket.SocketType) -> Any:
        """The context that the handshake of an accepted socket begins with."""
        address, port, *_ = unmapped(sock.getsockname())
        return self._first(self._hosts.at((address, port)))


def addresses_of(name: str) -> list[str]:
    """The addresses of a name, or of an address; none if there are none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # or it can be no name: a..b
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _unraisable(what: Any) -> None:
    """A name that is not ASCII never comes to `choose`: Python prints a traceback, and could fill the log."""
    of_name = type(what.object) is bytes or "servername" in (what.err_msg or "")  # from 3.14 on
    if not (of_name and isinstance(what.exc_value, UnicodeDecodeError)):
        sys.__unraisablehook__(what)
