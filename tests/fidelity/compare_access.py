"""Who may have what: Require and its groups, Order, Limit, Satisfy, merging; asked of both servers.

A case is some sections for a directory of its own, `{d}`, with the URL path `{u}`. It is asked for by three
clients (127.0.0.1, 127.0.0.2, ::1) with five methods. Where mpmkit has to close what httpd asks a user for,
a refusal is a refusal: 401, 403 and 500 are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

from tests.fidelity.cases import Row, block, grouped, placed, tables, tree
from tests.fidelity.clients import Client
from tests.fidelity.server_pair import Case, Pair, Side

TABLES = tables("access.txt")
MODULES = (
    "access_compat allowmethods ssl socache_shmcb authn_core authn_file auth_basic authz_user authz_groupfile "
    "authz_owner setenvif"
).split()
CLIENTS = ("127.0.0.1", "127.0.0.2", "::1")
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "TRACE")
PATHS = ("x.txt", "y.txt", "sub/x.txt")  # the first alone with all methods
DENIED, GRANTED, ONE = "Require all denied", "Require all granted", "Require ip 127.0.0.2"
FEW = (GRANTED, DENIED, ONE, "Require method GET")
SATISFY = ("", "Satisfy Any", "Satisfy All")
USERS = "AuthType Basic\nAuthName x\nAuthUserFile {d}/users"


def entries(title: str) -> list[str]:
    """The table with that title; `-` is nothing."""
    found = " | ".join(TABLES[title]).split(" | ")
    return [entry.replace("\\n", "\n") if entry != "-" else "" for entry in found]


RULES, LIMITS, FROM = entries("rules"), entries("methods"), entries("from")


def single() -> Iterator[str]:
    """What one section says."""
    yield from RULES
    yield from ("\n".join(pair) for pair in product(FEW, RULES[2:8:2]))
    for kind in ("RequireAll", "RequireAny"):
        yield from (block(kind, *pair) for pair in product(FEW, RULES[1:]))
    for one, other in product((*FEW, RULES[4]), RULES[2:]):
        yield block("RequireAll", one, other.replace("Require", "Require not"))
    for one, other in product(FEW, FEW):
        yield block("RequireAll", GRANTED, block("RequireNone", one, other))
        yield block(
            "RequireAll", one, block("RequireAny", other, block("RequireAll", ONE, "Require local"))
        )
        yield block("RequireAny", one, block("RequireAll", other, block("RequireNone", RULES[4])))
    for methods, kind, line in product(LIMITS, ("Limit", "LimitExcept"), FEW):
        yield block(f"{kind} {methods}", line)
    for methods, kind, outside in product(LIMITS[:4], ("Limit", "LimitExcept"), FEW[:3]):
        yield outside + "\n" + block(f"{kind} {methods}", DENIED if outside == GRANTED else GRANTED)
        yield outside + "\n" + block(f"{kind} {methods}", "Order allow,deny", "Deny from 127.0.0.1")
    for one, other in product(FEW, FEW):
        yield block("Limit GET", block("RequireAll", one, other))
        yield block("RequireAll", one, block("Limit POST", other))
        yield block("RequireAny", one, block("LimitExcept GET", other))
    yield block("LimitExcept GET", "Satisfy Any", "Deny from all")


def compat() -> Iterator[str]:
    """Order, Allow, Deny, Satisfy, SSLRequireSSL."""
    for order, allow, deny in product(
        ("", "allow,deny", "Deny,Allow", "mutual-failure"), FROM, FROM[:6]
    ):
        lines = [f"Order {order}" * bool(order), f"Allow from {allow}" * bool(allow)]
        if text := "\n".join(filter(None, [*lines, f"Deny from {deny}" * bool(deny)])):
            yield text
    for satisfy, one, require in product(SATISFY, entries("before"), ("", *FEW)):
        if text := "\n".join(filter(None, (one, satisfy, require))):
            yield text
    yield "Order allow,deny\nOrder deny,allow"


def merged() -> Iterator[tuple[str, str]]:
    """Two sections: of the directory, and of the path."""
    for merging, one, other in product(("", "AuthMerging Off\n"), ("", *FEW), ("", *FEW)):
        yield one, f"{merging}{other}"
    yield from product(entries("merged"), repeat=2)


def nested() -> Iterator[str]:
    """<Files> in a <Directory>, with others before and after it in httpd's order."""

    def files(line: str, name: str = "x.txt") -> str:
        return block(f"Files {name}", line)

    def here(*lines: str, below: str = "") -> str:
        return block(f"Directory {{d}}{below}", *lines)

    for one, other in ((GRANTED, DENIED), (DENIED, GRANTED), (ONE, GRANTED)):
        yield here(one, files(other))
        yield here(files(other), one)
        yield here(files(one)) + "\n" + here(files(other), below="/sub")
        yield here(files(one), below="/sub") + "\n" + here(files(other))
        yield here(files(one)) + "\n" + block("Files {k}*", other)
        yield here(files(one)) + "\n" + block("Location {u}/x.txt", other)
        yield here(files(one, "?.txt"), files(other, "y*"))
        yield here(block('FilesMatch "^x"', one)) + "\n" + here(other, below="/sub")
        yield block("DirectoryMatch ^{d}", files(one)) + "\n" + here(files(other))
        yield here(files(block("Limit GET", one)), other)
        yield here(files("Order allow,deny"), one)


def cases() -> Iterator[tuple[str, str]]:
    """(name, sections)"""
    for text in (*single(), *compat()):
        yield text, block("Location {u}", text)
    for one, other in merged():
        yield f"{one} / {other}", block("Directory {d}", one) + "\n" + block("Location {u}", other)
    for text in nested():
        yield text, text
    for text in entries("closed"):
        users = "" if text.startswith(("<If", "SSL", "Require expr")) else USERS
        yield f"closed: {text}", block("Location {u}", users, text)


def ask(server: Side, tag: str, closes: bool) -> str:
    """The statuses by client and, for the first path, by method. `closes`: a refusal is a refusal."""
    asked = [*((PATHS[0], method) for method in METHODS), *((path, "GET") for path in PATHS[1:])]
    found = []
    for client in CLIENTS:
        said = []
        address = "::1" if client == "::1" else "127.0.0.1"
        with closing(Client(server, address, client)) as connection:
            for path, method in asked:
                status = connection.ask(method, f"/{tag}/{path}")[0]
                refused = closes and status in (401, 403, 500)
                name = method if path == PATHS[0] else path
                said.append((name, "refused" if refused else str(status)))
        found.append((client, grouped(said, ", ")))
    return grouped(found)


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all cases, or of one in `every`; `base` is an empty directory that the servers' users
    may enter."""
    chosen = list(placed(list(dict.fromkeys(cases()))[::every], base))
    for _, tag, _ in chosen:
        tree(base / tag, {"users": "", **dict.fromkeys(PATHS, "text\n")})
    extra = [f'DocumentRoot "{base}"', "Listen [::1]:@port@", *(text for *_, text in chosen)]

    def named() -> Iterator[Case]:
        for name, tag, _ in chosen:
            closes = name.startswith("closed")
            case = name.replace("\n", "; ").replace("; </", "</")
            yield case, partial(ask, tag=tag, closes=closes)

    with Pair("event", base, "\n".join(extra), modules=MODULES) as pair:
        return pair.rows("access", named(), at_once=8)  # some wait for DNS
