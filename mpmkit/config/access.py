"""Access control directives: how they are read, and which can be enforced here.

    enforced   ENFORCED, and the <Limit> and <RequireAll> around them
    closed     lines that need a user, an expression or a client certificate: they admit no client, a note
               says why, and unless another line admits the client the answer is 403 (`closed_by`)
    of users   AuthType, AuthUserFile: how users are found; no effect without a Require for users

No restriction is read and then forgotten. The answers are given by `mpmkit.handlers.access`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mpmkit.config.settings import Setting, Spec
from mpmkit.config.values import Words, all_words, append, choice

ENFORCED = frozenset("require order allow deny satisfy sslrequiressl".split())
_EXPRESSION = "it is an expression, which mpmkit does not evaluate"
_USER = "mpmkit has no authentication"
_CERTIFICATE = "mpmkit asks no client for a certificate"
# Closed whatever else the section says.
CLOSED = {
    "removehandler": "mpmkit cannot remove a handler, and the file's source might be sent",
    "allowmethods": "mpmkit has no mod_allowmethods; write Require method",
    "authmerging": "mpmkit does not join the Require lines of several sections",
    "sslverifyclient": _CERTIFICATE, "sslrequire": _EXPRESSION,
    "wsgiaccessscript": "mpmkit asks no script for permission",
    **dict.fromkeys(("luahookaccesschecker", "luahookauthchecker", "luahookcheckuserid",
                     "<luahookaccesschecker", "<luahookauthchecker", "<luahookcheckuserid"), "there is no Lua"),
}  # fmt: skip
# But for these words, which restrict nothing.
_OPEN = {
    "allowmethods": ("reset",), "authmerging": ("off",),
    "sslverifyclient": ("none", "optional", "optional_no_ca"),
}  # fmt: skip
# What a Require may ask for that is not known here.
CLOSED_REQUIREMENTS = {
    "expr": _EXPRESSION, "ssl-verify-client": _CERTIFICATE,
    "forward-dns": "mpmkit does not look up host names",
    **dict.fromkeys((
        "user valid-user group file-owner file-group dbm-group dbm-file-group dbd-group dbd-login dbd-logout "
        "ldap-user ldap-group ldap-dn ldap-attribute ldap-filter ldap-search").split(), _USER),
}  # fmt: skip
# See `unsupported.decides`.
DECIDE = {*ENFORCED, *CLOSED, "authtype", "sethandler", "addhandler", "forcetype", "options"}
# Where the variables begin that a line of mod_setenvif sets.
_SETTERS = {
    "setenvif": 2, "setenvifnocase": 2, "setenvifexpr": 1, "browsermatch": 1, "browsermatchnocase": 1,
}  # fmt: skip
ADDRESS = "the client's address"


def unknown(settings: Iterable[Setting]) -> frozenset[str]:
    """What missing modules would set about clients: names of variables, ADDRESS."""
    found: set[str] = set()
    for setting in settings:
        name, args = setting.name.lower(), setting.args
        if name in _SETTERS:
            found |= {word.lstrip("!").partition("=")[0] for word in args[_SETTERS[name] :]}
        elif name == "rewriterule" and args:
            found.update(re.findall(r"(?i)\b(?:E|env)=!?([^:,\]]+)", args[-1]))
        elif name in ("remoteipheader", "remoteipproxyprotocol"):
            found.add(ADDRESS)
    return frozenset(found)


def unknowable(kind: str, given: Any, unknown: frozenset[str]) -> str:
    """Why a line's condition on the client cannot be decided here; "" if it can."""
    if kind in CLOSED_REQUIREMENTS:
        return CLOSED_REQUIREMENTS[kind]
    if kind == "host" and any("%{" in name for name in given):
        return _EXPRESSION
    if kind in ("local", "ip", "host") and ADDRESS in unknown:
        return "RemoteIPHeader may change the client's address"
    for name in given if kind in ("env", "no env") else ():
        if name in unknown or name.startswith("REDIRECT_"):
            return f"mpmkit does not set the variable {name}"
    return ""


def closed_by(setting: Setting, unknown: frozenset[str] = frozenset()) -> str:
    """Why a line that can be read cannot be enforced; "" if it can."""
    name, args = setting.name.lower(), setting.args
    if name in CLOSED:
        return "" if "".join(args[:1]).lower() in _OPEN.get(name, ()) else CLOSED[name]
    asked = [requirement(args)[1:]] if name == "require" else []
    asked += origins(args) if name in ("allow", "deny") else []
    return next((why for kind, given in asked if (why := unknowable(kind, given, unknown))), "")


# Those that httpd knows (http_protocol.c: the method registry): another one is 501, not 405.
METHODS = frozenset((
    "GET HEAD PUT POST DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK "
    "VERSION-CONTROL CHECKOUT UNCHECKOUT CHECKIN UPDATE LABEL REPORT MKWORKSPACE MKACTIVITY "
    "BASELINE-CONTROL MERGE"
).split())  # fmt: skip


class Methods(NamedTuple):
    """Some methods, or all but some. HEAD counts as GET."""

    names: frozenset[str]
    others: bool = False

    def __contains__(self, method: object) -> bool:
        return (("GET" if method == "HEAD" else method) in self.names) != self.others


ALL = Methods(frozenset(), True)


def methods(words: Words) -> Methods:
    """Names of methods that httpd knows. Raises ValueError."""
    for word in words:
        if word not in METHODS:
            raise ValueError(f'knows {", ".join(sorted(METHODS))}, not "{word}"')
    return Methods(frozenset("GET" if word == "HEAD" else word for word in words))


def limited(within: Iterable[Setting]) -> Methods:
    """The methods left by the <Limit> or <LimitExcept> around a line. Raises ValueError."""
    for group in within:
        if (name := group.name.lower()).startswith("limit"):
            if "TRACE" in group.args and name == "limit":
                raise ValueError("is in a <Limit TRACE>: use TraceEnable")
            names = frozenset("GET" if word == "HEAD" else word for word in group.args)
            return Methods(names, name == "limitexcept")
    return ALL


class Subnet(NamedTuple):
    """The addresses of a family, 4 or 6, that are `net` where the mask has ones."""

    family: int
    net: int
    mask: int


def subnet(text: str) -> Subnet | None:
    """`10.1`, `10.1.2.3`, `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `2001:db8::/32`, as APR reads them.
    None: it does not look like an address. Raises ValueError."""
    from ipaddress import IPv4Address, IPv6Address  # here: most servers have no such rule

    written, slash, bits = text.partition("/")
    if ":" not in text and not re.fullmatch(r"[0-9.]+", written):
        if not slash:
            return None
        raise ValueError(f'takes an address before the "/", not "{text}"')
    family, width, kind = (6, 128, IPv6Address) if ":" in text else (4, 32, IPv4Address)
    try:
        if family == 6 or slash:
            net, count = int(kind(written)), width
        else:
            octets = bytes(int(octet) for octet in written.removesuffix(".").split("."))
            net, count = int.from_bytes(octets.ljust(4, b"\0"), "big"), 8 * len(octets)
        masked = family == 4 and "." in bits
        if slash and not masked:
            count = int(bits) if re.fullmatch(r"\+?[0-9]{1,3}", bits) else 0
        if not 0 < count <= width or "%" in text or (family == 6 and net >> 32 == 0xFFFF):
            raise ValueError
        mask = int(IPv4Address(bits)) if masked else (1 << width) - (1 << (width - count))
    except ValueError:
        why = f'takes addresses such as 10.1, 10.0.0.0/8 or 2001:db8::/32, not "{text}"'
        raise ValueError(why) from None
    return Subnet(family, net & mask, mask)


def requirement(words: Words) -> tuple[bool, str, Any]:
    """A Require: is it negated, what it asks for, and words, subnets or methods. Raises ValueError."""
    negated = words[0].lower() == "not"
    kind, *rest = words[negated:] or ("",)
    given: Any = tuple(rest)
    if kind == "all" and len(rest) == 1 and rest[0].lower() in ("granted", "denied"):
        given = rest[0].lower() == "granted"
    elif kind == "ip" and rest:
        given = tuple(subnet(word) for word in rest)
        if None in given:
            raise ValueError(f'ip takes addresses, not "{" ".join(rest)}": use Require host')
    elif kind == "method":
        given = methods(given)
    elif (kind, rest) != ("ssl", []) and kind not in ("local", "host", "env", *CLOSED_REQUIREMENTS):
        why = "knows all granted, all denied, local, ip, host, method, env and ssl"
        why += ", and admits no client for rules about users"
        raise ValueError(f'{why}; not "{" ".join(words)}"')
    return negated, kind, given


def origins(words: Words) -> list[tuple[str, Any]]:
    """`from 10.1 env=x .example.org all`: what an Allow or a Deny is for. Raises ValueError."""
    if words[0].lower() != "from" or len(words) < 2:
        why = 'takes "from" and addresses, names, env=NAME or all'
        raise ValueError(f'{why}, not "{" ".join(words)}"')
    found: list[tuple[str, Any]] = []
    for word in words[1:]:
        if word.lower().startswith("env="):
            found.append(("no env" if word[4:5] == "!" else "env", (word[4:].removeprefix("!"),)))
        elif word.lower() == "all":
            found.append(("all", True))
        else:
            net = subnet(word)
            found.append(("host", (word,)) if net is None else ("ip", (net,)))
    return found


class Line(NamedTuple):
    """A Require: negated, for which methods, what it asks for ("closed": not known), and with what."""

    negated: bool
    limited: Methods
    kind: str
    given: Any


class Group(NamedTuple):
    """Requirements of which all, or any, must hold."""

    negated: bool
    every: bool
    parts: tuple[Any, ...]  # Line and Group


def authorization(
    lines: Sequence[Setting], unknown: frozenset[str], depth: int = 0, kind: str = "requireany"
) -> Group:
    """The Require lines of a section, with `depth` groups of them around. Raises ValueError."""
    parts: dict[Setting | int, Line | Group] = {}  # a group once, at its first line
    for line in lines:
        groups = [group for group in line.within if group.name.lower().startswith("require")]
        if len(groups) == depth:
            negated, asked, given = requirement(line.args)
            asked = "closed" if unknowable(asked, given, unknown) else asked
            parts[len(parts)] = Line(negated, limited(line.within), asked, given)
        elif (group := groups[depth]) not in parts:
            inside = [other for other in lines if group in other.within]
            parts[group] = authorization(inside, unknown, depth + 1, group.name.lower())
    every = kind == "requireall"
    negations = {part.negated for part in parts.values()}
    if True in negations and (not every or False not in negations):
        raise ValueError('a Require with "not" must be in a <RequireAll>, with one that admits')
    return Group(kind == "requirenone", every, tuple(parts.values()))


def _row(name: str, parse: Any, takes: str, doc: str, source: str, **row: Any) -> Spec:
    return Spec(name=name, parse=parse, doc=doc, takes=takes, source=source, where="section", **row)


# None sets an attribute: each section decides by itself.
_FROM = "from address|name|env=variable|all ..."
ROWS = (
    _row("Require", lambda words: (words,) * bool(requirement(words)),
         "[not] all granted|all denied|local|ip|host|method|env|ssl ...",
         "Who may enter; rules for users, and expressions, admit no client",
         "mod_authz_core", args=(1, 99), default=(), merge=append),
    _row("Order", choice("allow,deny", "deny,allow", "mutual-failure"),
         "allow,deny|deny,allow", "Which is decisive, Deny or Allow: the last one", "mod_access_compat"),
    _row("Allow", origins, _FROM, "Who may enter, see Order", "mod_access_compat", args=(2, 99)),
    _row("Deny", origins, _FROM, "Who may not enter, see Order", "mod_access_compat", args=(2, 99)),
    _row("Satisfy", choice("Any", "All"), "Any|All", "Whether Order alone is enough",
         "mod_access_compat"),
    _row("SSLRequireSSL", all_words, "nothing", "Only clients that use TLS", "mod_ssl", args=(0, 99)),
)  # fmt: skip
