"""Access control: the sections of a request's path together admit or refuse it.

    Require, groups of them             authorization: the tree that `config.access` reads
    Order, Allow, Deny                  mod_access_compat
    SSLRequireSSL                       the connection
    Satisfy                             the first alone is enough, or the two below it are

Each section is an `Access`, merged over the previous one as httpd merges its modules. An undecidable
rule (`closed`) admits no client, negated or not.
"""

import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpmkit.config import access as config
from mpmkit.config.access import ALL, Group, Line, Methods
from mpmkit.config.settings import Setting
from mpmkit.http.messages import Request
from mpmkit.server.connection import Connection

GRANTED, DENIED, NEUTRAL, UNKNOWN = range(4)


class Compat(NamedTuple):
    """Order, Satisfy, Allow and Deny of a section, each with the methods that it is for."""

    order: tuple[tuple[Methods, str], ...]
    satisfy: tuple[tuple[Methods, str], ...]
    allow: Group
    deny: Group

    def admits(self, request: Request, conn: Connection) -> bool:
        """What Order says."""
        allowed = decide(self.allow, request, conn, False) == GRANTED
        denied = decide(self.deny, request, conn, False) in (GRANTED, UNKNOWN)
        order = _last(self.order, request.method, "deny,allow")
        return allowed or not denied if order == "deny,allow" else allowed and not denied


def _last(lines: Sequence[tuple[Methods, str]], method: str, default: str) -> str:
    """The value of the last line that is for a method."""
    return next((value for limited, value in reversed(lines) if method in limited), default)


class Access(NamedTuple):
    """What sections say together. None: not a word."""

    require: Group | None = None
    compat: Compat | None = None
    users: bool | None = None  # AuthType asks for users, which is nothing with a Require
    tls: bool | None = None  # True: only by TLS
    closed: bool | None = None  # True: no client is admitted

    def over(self, base: "Access") -> "Access":
        """What holds when this section is merged upon another."""
        merged: Any = (old if new is None else new for new, old in zip(self, base, strict=True))
        return Access(*merged)

    @property
    def admits_all(self) -> bool:
        """Each client, with each request."""
        if self.compat or self.tls or self.closed:
            return False
        require = self.require
        if require is None:
            return not self.users
        return not require.every and Line(False, ALL, "all", True) in require.parts

    def admits(self, request: Request, conn: Connection) -> bool:
        """Whether a request may have it; what it may not is a 403."""
        compat = self.compat
        if self.closed:
            return False
        tls = not self.tls or conn.scheme == "https"
        host = tls and (compat is None or compat.admits(request, conn))
        any_is_enough = compat and _last(compat.satisfy, request.method, "all") == "any"
        if host == bool(any_is_enough):  # admitted by Satisfy Any, refused by Satisfy All
            return host
        if self.require is None:
            return not self.users
        return decide(self.require, request, conn, True) == GRANTED


def access_of(settings: Sequence[Setting], unknown: frozenset[str]) -> Access:
    """What one section says. `config.checks` has read it before."""
    lines: dict[str, list[Any]] = {"order": [], "satisfy": [], "allow": [], "deny": []}
    found: dict[str, Any] = {}
    for setting in settings:
        name, args = setting.name.lower(), setting.args
        if name in ("order", "satisfy"):
            lines[name].append((config.limited(setting.within), args[0].lower()))
        elif name in ("allow", "deny"):
            for kind, given in config.origins(args):
                kind = "closed" if config.unknowable(kind, given, unknown) else kind
                lines[name].append(Line(False, config.limited(setting.within), kind, given))
        elif name == "authtype":
            found["users"] = args[:1] != () and args[0].lower() != "none"
        elif name == "sslrequiressl":
            found["tls"] = True
        elif name in config.CLOSED and config.closed_by(setting):
            found["closed"] = True
    if any(lines.values()):
        order, satisfy, allow, deny = map(tuple, lines.values())
        groups = Group(False, False, allow), Group(False, False, deny)
        found["compat"] = Compat(order, satisfy, *groups)
    if required := [setting for setting in settings if setting.name.lower() == "require"]:
        found["require"] = config.authorization(required, unknown)
    return Access(**found)


def decide(part: Group | Line, request: Request, conn: Connection, every: bool) -> int:
    """What a Require or a group of them says, in a group that wants `every` part or any."""
    if not _is_for(part, request.method):
        return GRANTED if every else NEUTRAL
    result = NEUTRAL
    if isinstance(part, Line):
        result = UNKNOWN
        if part.kind != "closed":
            result = GRANTED if TESTS[part.kind](part.given, request, conn) else DENIED
    else:
        for one in part.parts:
            found = decide(one, request, conn, part.every)
            if found == (DENIED if part.every else GRANTED):
                result = found
                break
            if result == NEUTRAL or found == UNKNOWN:
                result = found
    if part.negated and result in (GRANTED, DENIED):
        return DENIED if result == GRANTED else NEUTRAL
    return result


def _is_for(part: Group | Line, method: str) -> bool:
    if isinstance(part, Line):
        return method in part.limited
    return any(_is_for(one, method) for one in part.parts)


def address(text: str) -> tuple[int, int]:
    """Family and number of an address; IPv4 within IPv6 is IPv4. Raises OSError."""
    if ":" not in text:
        return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]), "big")
    return (4, number & 0xFFFFFFFF) if number >> 32 == 0xFFFF else (6, number)


def _local(given: Any, request: Request, conn: Connection) -> bool:
    family, number = address(conn.peer[0])
    own = (family, number >> 24) == (4, 127) or (family, number) == (6, 1)
    return own or conn.peer[0] == conn.local[0]


def _ip(given: Any, request: Request, conn: Connection) -> bool:
    family, number = address(conn.peer[0])
    return any(net.family == family and number & net.mask == net.net for net in given)


def _host(given: Any, request: Request, conn: Connection) -> bool:
    """The name that the client's address has, if that name has the client's address, too."""
    try:
        name = socket.gethostbyaddr(conn.peer[0].encode())[0].lower()
    except OSError:
        return False
    wanted = [domain.lower() for domain in given]
    if name not in wanted and not any(name.endswith("." + one.removeprefix(".")) for one in wanted):
        return False
    try:
        # Bytes: for text Python loads its table of international names, which a child may not read.
        found = socket.getaddrinfo(name.encode(), None, type=socket.SOCK_STREAM)
        return address(conn.peer[0]) in [address(str(one[4][0])) for one in found]
    except (OSError, ValueError):
        return False


TESTS: dict[str, Callable[[Any, Request, Connection], bool]] = {
    "all": lambda given, request, conn: given,
    "local": _local,
    "ip": _ip,
    "host": _host,
    "method": lambda given, request, conn: request.method in given,
    "env": lambda given, request, conn: False,  # what sets variables is in `unknown`
    "no env": lambda given, request, conn: True,
    "ssl": lambda given, request, conn: conn.scheme == "https",
}
