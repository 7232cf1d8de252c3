"""Who may have what: Require and its groups, Order, Limit, Satisfy, merging; asked of both servers.

A case is some sections for a directory of its own, `{d}`, with the URL path `{u}`. It is asked for by three
clients (127.0.0.1, 127.0.0.2, ::1) with five methods. Where mpmkit has to close what httpd asks a user for,
a refusal is a refusal: 401, 403 and 500 are one.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from mpmkit.measure.reference_servers import find_httpd, load_lines
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import Pair, Side

MODULES = (
    "access_compat allowmethods ssl socache_shmcb authn_core authn_file auth_basic authz_user authz_groupfile "
    "authz_owner setenvif"
).split()
CLIENTS = ("127.0.0.1", "127.0.0.2", "::1")
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "TRACE")
PATHS = ("x.txt", "y.txt", "sub/x.txt")  # the first alone with all methods

DENIED, GRANTED, ONE = "Require all denied", "Require all granted", "Require ip 127.0.0.2"
ASKED = (
    GRANTED, DENIED, ONE, "Require local", "Require ip 127.0.0.1", "Require ip 127", "Require ip 127.0.0.0/31",
    "Require ip 127.0.0.2/255.0.0.255", "Require ip ::1", "Require ip 10 127.0.0.2 ::/1",
    "Require host localhost", "Require host example.org", "Require host", "Require host local",
    "Require host .localhost",
    "Require method GET", "Require method POST OPTIONS", "Require method HEAD", "Require method TRACE",
    "Require env NOTHING", "Require ssl",
)  # fmt: skip
FEW = (GRANTED, DENIED, ONE, "Require method GET")
LIMITS = ("GET", "POST", "GET POST", "HEAD", "OPTIONS", "FOO", "get")
FROM = (
    "",
    "all",
    "127.0.0.2",
    "127",
    "localhost",
    "127.0.0.1/32 ::1",
    "env=NOTHING",
    "env=!NOTHING",
)
USERS = "AuthType Basic\nAuthName x\nAuthUserFile {d}/users"
# What mpmkit closes, or what admits although it is next to that.
CLOSED = (
    "Require valid-user", "Require user a", f"Require valid-user\n{ONE}", "Require group x", "", DENIED, GRANTED,
    ONE, "<Limit POST>\nRequire valid-user\n</Limit>", f"Satisfy Any\nOrder allow,deny\n{ONE}",
    "Require valid-user\nSatisfy Any\nDeny from all\nAllow from 127.0.0.2",
    "Require valid-user\nSatisfy All\nDeny from all\nAllow from 127.0.0.2",
    f"<RequireAll>\n{ONE}\nRequire valid-user\n</RequireAll>", "Require expr false", "SSLRequire false",
    f"<RequireAny>\n{ONE}\nRequire user a\n</RequireAny>", '<If "true">\nRequire all denied\n</If>',
    "Require file-owner", "Require forward-dns no.invalid", f"AuthMerging And\n{DENIED}",
    '<If "true">\nDeny from all\n</If>',
)  # fmt: skip


def group(kind: str, *lines: str) -> str:
    return "\n".join([f"<{kind}>", *lines, f"</{kind.split()[0]}>"])


def single() -> Iterator[str]:
    """What one section says."""
    yield from ASKED
    yield from ("\n".join(pair) for pair in product(FEW, ASKED[2:8:2]))
    for kind in ("RequireAll", "RequireAny"):
        yield from (group(kind, *pair) for pair in product(FEW, ASKED[1:]))
    for one, other in product((*FEW, ASKED[4]), ASKED[2:]):
        yield group("RequireAll", one, other.replace("Require", "Require not"))
    for one, other in product(FEW, FEW):
        yield group("RequireAll", GRANTED, group("RequireNone", one, other))
        yield group(
            "RequireAll", one, group("RequireAny", other, group("RequireAll", ONE, "Require local"))
        )
        yield group("RequireAny", one, group("RequireAll", other, group("RequireNone", ASKED[4])))
    for methods, kind, line in product(LIMITS, ("Limit", "LimitExcept"), FEW):
        yield group(f"{kind} {methods}", line)
    for methods, kind, outside in product(LIMITS[:4], ("Limit", "LimitExcept"), FEW[:3]):
        yield outside + "\n" + group(f"{kind} {methods}", DENIED if outside == GRANTED else GRANTED)
        yield outside + "\n" + group(f"{kind} {methods}", "Order allow,deny", "Deny from 127.0.0.1")
    for one, other in product(FEW, FEW):
        yield group("Limit GET", group("RequireAll", one, other))
        yield group("RequireAll", one, group("Limit POST", other))
        yield group("RequireAny", one, group("LimitExcept GET", other))
    yield group("LimitExcept GET", "Satisfy Any", "Deny from all")
    yield group("Limit POST", "AllowMethods GET")


def compat() -> Iterator[str]:
    """Order, Allow, Deny, Satisfy, AllowMethods, SSLRequireSSL."""
    for order, allow, deny in product(
        ("", "allow,deny", "Deny,Allow", "mutual-failure"), FROM, FROM[:6]
    ):
        lines = [f"Order {order}" * bool(order), f"Allow from {allow}" * bool(allow)]
        if text := "\n".join(filter(None, [*lines, f"Deny from {deny}" * bool(deny)])):
            yield text
    first = ("", "Order allow,deny", "Deny from all", "Deny from 127.0.0.1", "SSLRequireSSL", "AllowMethods GET",
             "AllowMethods POST OPTIONS", "Order allow,deny\nAllow from 127.0.0.2")  # fmt: skip
    for satisfy, one, require in product(("", "Satisfy Any", "Satisfy All"), first, ("", *FEW)):
        if text := "\n".join(filter(None, (one, satisfy, require))):
            yield text
    yield from (
        "AllowMethods reset",
        "AllowMethods GET HEAD",
        "AllowMethods TRACE",
        "Order allow,deny\nOrder deny,allow",
    )


def merged() -> Iterator[tuple[str, str]]:
    """Two sections: of the directory, and of the path."""
    for merging, one, other in product(("", "AuthMerging Off\n"), ("", *FEW), ("", *FEW)):
        yield one, f"{merging}{other}"
    compat = ("Order allow,deny", "Deny from all", "Satisfy Any", "Allow from all", "AllowMethods POST",
              "AllowMethods reset", "SSLRequireSSL", "Options None", GRANTED, DENIED)  # fmt: skip
    yield from product(compat, compat)


def nested() -> Iterator[str]:
    """<Files> in a <Directory>, with others before and after it in httpd's order."""

    def files(line: str, name: str = "x.txt") -> str:
        return group(f"Files {name}", line)

    def here(*lines: str, below: str = "") -> str:
        return group(f"Directory {{d}}{below}", *lines)

    for one, other in ((GRANTED, DENIED), (DENIED, GRANTED), (ONE, GRANTED)):
        yield here(one, files(other))
        yield here(files(other), one)
        yield here(files(one)) + "\n" + here(files(other), below="/sub")
        yield here(files(one), below="/sub") + "\n" + here(files(other))
        yield here(files(one)) + "\n" + group("Files {k}*", other)
        yield here(files(one)) + "\n" + group("Location {u}/x.txt", other)
        yield here(files(one, "?.txt"), files(other, "y*"))
        yield here(group('FilesMatch "^x"', one)) + "\n" + here(other, below="/sub")
        yield group("DirectoryMatch ^{d}", files(one)) + "\n" + here(files(other))
        yield here(files(group("Limit GET", one)), other)
        yield here(files("Order allow,deny"), one)


def cases() -> Iterator[tuple[str, str]]:
    """(name, sections)"""
    for text in (*single(), *compat()):
        yield text, group("Location {u}", text)
    for one, other in merged():
        yield f"{one} / {other}", group("Directory {d}", one) + "\n" + group("Location {u}", other)
    for text in nested():
        yield text, text
    for text in CLOSED:
        users = "" if text.startswith(("<If", "SSL", "Require expr")) else USERS
        yield f"closed: {text}", group("Location {u}", users, text)


def build(base: Path) -> tuple[str, list[tuple[str, str]]]:
    """The site below `base`; the sections of all cases, and each case's name with its tag."""
    texts, names = [], []
    for number, (name, text) in enumerate(dict.fromkeys(cases())):
        tag = f"a{number:04d}"
        (base / tag / "sub").mkdir(parents=True)
        (base / tag / "users").write_text("")
        for path in PATHS:
            (base / tag / path).write_text("text\n")
        for key, value in {"{d}": str(base / tag), "{u}": f"/{tag}", "{k}": tag}.items():
            text = text.replace(key, value)
        texts.append(text)
        names.append((name.replace("\n", "; ").replace("; </", "</"), tag))
    return f'DocumentRoot "{base}"\nListen [::1]:@port@\n' + "\n".join(texts), names


def ask(server: Side, name: str, tag: str) -> str:
    """`127.0.0.1: 200 GET HEAD, 403 POST; ::1: …`; clients that are answered the same stand together."""
    found: dict[str, list[str]] = {}
    for client in CLIENTS:
        host = "::1" if client == "::1" else "127.0.0.1"
        connection = http.client.HTTPConnection(
            host, server.port, timeout=60, source_address=(client, 0)
        )
        answers: dict[str, list[str]] = {}
        with contextlib.closing(connection):
            for path, method in [
                *((PATHS[0], one) for one in METHODS),
                *((one, "GET") for one in PATHS[1:]),
            ]:
                connection.request(method, f"/{tag}/{path}")
                reply = connection.getresponse()
                reply.read()
                status = (
                    "refused"
                    if name.startswith("closed") and reply.status in (401, 403, 500)
                    else reply.status
                )
                answers.setdefault(str(status), []).append(method if path == PATHS[0] else path)
        text = ", ".join(f"{status} {' '.join(asked)}" for status, asked in sorted(answers.items()))
        found.setdefault(text, []).append(client)
    return "; ".join(f"{' '.join(clients)}: {text}" for text, clients in found.items())


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all cases, or of one in `every`; `base` is an empty directory that the servers' users
    may enter."""
    text, names = build(base)
    names = names[::every]
    with Pair("event", base, "\n".join([*load_lines(find_httpd(), MODULES), text])) as pair:
        with ThreadPoolExecutor(4) as pool:
            answers = [
                pool.map(lambda one, side=side: ask(side, *one), names) for side in pair.sides
            ]
            return [
                Row("access", name, *both) for (name, _), *both in zip(names, *answers, strict=True)
            ]
