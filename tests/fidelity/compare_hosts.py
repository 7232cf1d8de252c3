"""Which virtual host answers: tables of hosts, asked at several addresses and ports for many names.

A table is a list of hosts: the words of <VirtualHost> and its lines. Every host, and the server itself, has a
directory of its own with an index that names it; the hosts of all tables are asked the same, from
127.0.0.1 and 127.0.0.2, at two ports. What is merged from the server, -S and TLS have tables of their own.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from mpmkit.measure.reference_servers import find_httpd, load_lines
from mpmkit.server.certificate import self_signed
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import MPMKIT, Pair, Side

# {p} and {q}: the two ports. Names that a host has, by its number in the table.
A, B, C = (
    "ServerName a.example",
    "ServerName b.example\nServerAlias www.b.example *.b.test b?.test",
    "ServerName C.Example:99",
)
WILD, LATE = (
    "ServerName wild.example\nServerAlias *.example *",
    "ServerName late.example\nServerAlias a.example x.late.*",
)
TABLES: dict[str, list[tuple[str, str]]] = {
    "no host": [],
    "one of any address": [("*:{p}", A)],
    "by name": [("*:{p}", A), ("*:{p}", B), ("*:{p}", C)],
    "by name, any port": [("*", A), ("*", B), ("*:*", C)],
    "default word": [("_default_:{p}", A), ("_default_:*", B), ("*:{q}", C)],
    "wild cards first": [("*:{p}", WILD), ("*:{p}", A), ("*:{p}", B)],
    "wild cards last": [("*:{p}", A), ("*:{p}", B), ("*:{p}", WILD)],
    "same name twice": [("*:{p}", A), ("*:{p}", LATE), ("*:{q}", LATE), ("*:{q}", A)],
    "by address": [("127.0.0.1:{p}", A), ("127.0.0.2:{p}", B), ("*:{p}", C)],
    "by address, any port": [("127.0.0.1", A), ("127.0.0.2:*", B), ("127.0.0.1:{q}", C)],
    "address and name": [("127.0.0.1:{p}", A), ("127.0.0.1:{p}", B), ("*:{p}", A), ("*:{p}", LATE)],
    "several addresses": [("127.0.0.1:{p} 127.0.0.2:{q}", A), ("127.0.0.2:{p} *:{q}", B), ("*", C)],
    "exact before any": [("*:*", A), ("*:{p}", B), ("127.0.0.1:*", C), ("127.0.0.1:{p}", LATE)],
    "no names": [("*:{p}", ""), ("*:{p}", A), ("127.0.0.2:{p}", "")],
    "name of an address": [("localhost:{p}", A), ("127.0.0.2:{p}", B)],
    "other port": [("*:1", A), ("127.0.0.1:{q}", B), ("127.0.0.1:2", C)],
    "IPv6 only": [("[::1]:{p}", A), ("[::1]", B)],
    "schemes": [("*:{p}", "ServerName https://a.example"), ("*:{p}", "ServerName http://b.example:{q}"),
                ("*:{p}", C)],
    "case": [("*:{p}", "ServerName A.EXAMPLE\nServerAlias WWW.*.Test"), ("*:{p}", B), ("*:{p}", C)],
    "aliases only": [("*:{p}", "ServerAlias a.example"),
                     ("*:{p}", "ServerAlias b.example *.b.test"), ("*:{p}", C)],
}  # fmt: skip
NAMES = ("a.example", "A.Example", "a.example.", "b.example:1", "www.b.example", "x.b.test", "b.b.b.test",
         "b1.test", "bb2.test", "c.example", "wild.example", "no.example", "late.example", "x.late.y",
         "127.0.0.1", "127.0.0.2",
         "main.example", "localhost", "[::1]", "www.x.test")  # fmt: skip
# What a host has of its server's, and what of its own: the lines of the server, of the host, and paths.
MERGED: dict[str, tuple[str, str]] = {
    "nothing of its own": ("", ""),
    "ErrorDocument": ('ErrorDocument 404 "server"\nErrorDocument 403 "server"', 'ErrorDocument 404 "host"'),
    "ErrorDocument default": ('ErrorDocument 404 "server"', "ErrorDocument 404 default"),
    "Alias": ('Alias /one "{d}/main"', 'Alias /two "{d}/main"'),
    "Alias, host's first": ('Alias /one "{d}/main"\nAlias /two "{d}/main"', 'Alias /one "{d}/host"'),
    "Redirect": ("Redirect /one.txt /two.txt", "Redirect 410 /two.txt"),
    "Redirect, host's first": ("Redirect /one.txt /two.txt", "RedirectMatch 404 /one"),
    "AliasMatch": ('AliasMatch "^/no(.*)" "{d}/main/one.txt"', 'Alias /none "{d}/host/two.txt"'),
    "FallbackResource": ("FallbackResource /one.txt", ""),
    "FallbackResource of its own": ("FallbackResource /one.txt", "FallbackResource /two.txt"),
    "DirectoryIndex": ("DirectoryIndex one.txt", ""),
    "DirectoryIndex of its own": ("DirectoryIndex one.txt", "DirectoryIndex none.txt two.txt"),
    "AddType": ("AddType text/one .txt\nAddType text/two .html", "AddType text/host .txt"),
    "AddHandler": ("AddHandler cgi-script .txt", ""),
    "Options": ("Options None", "Options FollowSymLinks"),
    "Options, added": ("Options Indexes", "Options +FollowSymLinks"),
    "Options, taken": ("Options FollowSymLinks", "Options -FollowSymLinks"),
    "section of the server": ('<Location "/one.txt">\nRequire all denied\n</Location>', ""),
    "section of the host": ("", '<Location "/one.txt">\nRequire all denied\n</Location>'),
    "host's section after the server's": (
        '<Location "/">\nRequire all denied\n</Location>',
        '<Location "/one.txt">\nRequire all granted\n</Location>'),
    "server's section is shorter": (
        '<Directory "{d}/host/sub">\nRequire all denied\n</Directory>',
        '<Directory "{d}/host">\nRequire all granted\n</Directory>'),
    "Files": ("<Files one.txt>\nRequire all denied\n</Files>", "<Files two.txt>\nRequire all denied\n</Files>"),
    "TraceEnable": ("TraceEnable Off", "TraceEnable On"),
    "UseCanonicalName": ("UseCanonicalName On", ""),
    "UseCanonicalName of its own": ("", "UseCanonicalName On"),
    "DocumentRoot": ("", 'DocumentRoot "{d}/main"'),
    "charset": ("AddDefaultCharset utf-8", "AddDefaultCharset Off"),
    "LimitRequestBody": ("LimitRequestBody 9", ""),
    "LimitRequestBody, larger": ("LimitRequestBody 9", "LimitRequestBody 99"),
    "LimitRequestBody, smaller": ("LimitRequestBody 99", "LimitRequestBody 9"),
    "ServerSignature": ("ServerSignature On", "ServerSignature Off"),
}  # fmt: skip
PATHS = (
    "/",
    "/one.txt",
    "/two.txt",
    "/none",
    "/one/one.txt",
    "/two/one.txt",
    "/sub/one.txt",
    "/sub",
    "/link.txt",
)


def container(words: str, *lines: str) -> str:
    return "\n".join([f"<VirtualHost {words}>", *lines, "</VirtualHost>"])


def free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to clients, so that no connection takes one meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            found += [port] if port not in found else []
    return found


def ask(
    address: str,
    port: int,
    name: str | None,
    path: str = "/",
    method: str = "GET",
    body: bytes = b"",
) -> str:
    """Status, and what tells the host: the page's text, a Location or a type."""
    client = http.client.HTTPConnection(address, port, timeout=10)
    try:
        client.putrequest(method, path, skip_host=True)
        if name is not None:
            client.putheader("Host", name)
        if body:
            client.putheader("Content-Length", str(len(body)))
        client.endheaders(body or None)
        reply = client.getresponse()
        text = reply.read().decode("latin-1")
        parts = [str(reply.status), reply.getheader("Location") or ""]
        if reply.status == 200 and method == "GET":
            parts += [(reply.getheader("Content-Type") or ""), text.strip()]
        elif method == "GET":
            parts += ["server" if text == "server" else "host" if text == "host" else "page",
                      "signed" if "<address>" in text else ""]  # fmt: skip
        return " ".join(part for part in parts if part).replace(f":{port}", ":PORT")
    finally:
        client.close()


def asking(
    name: str | None, path: str, method: str = "GET", body: bytes = b""
) -> Callable[[Side], str]:
    """A request to any side on 127.0.0.1."""
    return lambda side: ask("127.0.0.1", side.port, name, path, method, body)


class Site:
    """Directories that name themselves, and a pair of servers at ports of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("main", "host", *(f"h{number}" for number in range(4))):
            for file in ("index.html", "one.txt", "two.txt", "sub/one.txt"):
                path = base / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {file}\n")
            (base / name / "link.txt").symlink_to("one.txt")
        for place in (base, *base.rglob("*")):
            if not place.is_symlink():
                place.chmod(0o755 if place.is_dir() else 0o644)

    def root(self, number: int) -> str:
        return f'DocumentRoot "{self.base}/h{number}"'


def groups() -> Iterator[list[str]]:
    """Tables for one pair of servers: those whose hosts all have a port, and each of the others alone."""
    alone = [
        title
        for title, hosts in TABLES.items()
        if any("{" not in word for words, _ in hosts for word in words.split())
    ]
    yield [title for title in TABLES if title not in alone]
    yield from ([title] for title in alone)


def name_rows(site: Site) -> Iterator[Row]:
    """Every table, at two addresses and two ports, for every name."""
    for titles in groups():
        pair = Pair("event", site.base / "main")
        ports = {}
        for side in pair.sides:  # ports of their own: the copies of a file differ in them alone
            free = ports[side] = free_ports(2 * len(titles))
            lines = [f"Listen 0.0.0.0:{port}" for port in free]
            for at, title in enumerate(titles):
                for number, (words, own) in enumerate(TABLES[title]):
                    text = container(words, own, site.root(number))
                    lines.append(
                        text.replace("{p}", str(free[2 * at])).replace("{q}", str(free[2 * at + 1]))
                    )
            side.extra = "\n".join(lines)
        with pair:
            for at, title in enumerate(titles):
                for address, which in product(("127.0.0.1", "127.0.0.2"), (0, 1)):
                    for name in NAMES:
                        case = f"{title}: {name} at {address}, port {'pq'[which]}"
                        found = [
                            ask(address, ports[side][2 * at + which], name) for side in pair.sides
                        ]
                        yield Row("hosts", case, *found)
            yield Row("hosts", f"{titles[0]}: -S", *(_dump(side) for side in pair.sides))


def _dump(side: Side) -> str:
    """The virtual hosts as -S shows them, without what differs between the two copies."""
    command = [find_httpd()] if side.name == "httpd" else MPMKIT
    arguments = ["-d", str(side.root), "-f", str(side.conf), "-t", "-D", "DUMP_VHOSTS"]
    out = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60).stdout
    lines = sorted(re.sub(r"\d{4,5}", "PORT", re.sub(r"\([^)]*:(\d+)\)", "", out)).splitlines())
    return "; ".join(re.sub(" +", " ", line.strip()) for line in lines)


def merge_rows(site: Site, every: int = 1) -> Iterator[Row]:
    """What a host has of its server's lines; of one table in `every`."""
    for title, (server, host) in list(MERGED.items())[::every]:
        here = f'DocumentRoot "{site.base}/host"'
        block = container("*", "ServerName host.example", here, host)
        extra = "\n".join([*load_lines(find_httpd(), ["cgid"]), server, block, OTHER])
        with Pair("event", site.base / "main", extra.replace("{d}", str(site.base))) as pair:
            for name in ("host.example", "other.example"):
                for path in PATHS:
                    yield pair.row("hosts", f"{title}: {path} of {name}", asking(name, path))
                yield pair.row("hosts", f"{title}: TRACE of {name}", asking(name, "/", "TRACE"))
                for size in (5, 50, 500):
                    yield pair.row(
                        "hosts",
                        f"{title}: POST of {size} to {name}",
                        asking(name, "/one.txt", "POST", b"x" * size),
                    )


OTHER = container("*", "ServerName other.example")

TLS = (("a.example", "one", ""), ("b.example", "two", ""), ("c.example", "two", ""),
       ("d.example", "two", "SSLProtocol TLSv1.2"))  # fmt: skip


def tls_rows(site: Site) -> Iterator[Row]:
    """By the name in the handshake: which certificate, and which host then answers."""
    certificates = {}
    for name in ("one", "two"):
        (site.base / name).mkdir()
        certificates[name] = self_signed(str(site.base / name))
    blocks = [
        container("*", f"ServerName {name}", site.root(number), "SSLEngine On", lines,
                  f'SSLCertificateFile "{certificates[of][0]}"', f'SSLCertificateKeyFile "{certificates[of][1]}"')
        for number, (name, of, lines) in enumerate(TLS)
    ]  # fmt: skip
    extra = "\n".join([*load_lines(find_httpd(), ["ssl"]), *blocks])
    names = [name for name, *_ in TLS]
    known = {Path(file).read_text(): name for name, (file, _) in certificates.items()}
    with Pair("event", site.base / "main", extra) as pair:
        for asked in (*names, "no.example", None):
            for host in (*names, "no.example"):
                yield pair.row("hosts", f"TLS: {asked} in the handshake, Host {host}",
                               over_tls(asked, host, known))  # fmt: skip


def over_tls(asked: str | None, host: str, known: dict[str, str]) -> Callable[[Side], str]:
    """A request by TLS, of any side."""
    return lambda side: _over_tls(side.port, asked, host, known)


def _over_tls(port: int, asked: str | None, host: str, known: dict[str, str]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=asked) as sock,
    ):
        certificate = ssl.DER_cert_to_PEM_cert(sock.getpeercert(True) or b"")
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    text = body.decode().strip() if b" 200 " in head.split(b"\r\n")[0] else ""
    return f"certificate {known.get(certificate, '?')}, {head.split()[1].decode()} {text}"


def rows(base: Path) -> list[Row]:
    """The rows of all tables; `base` is an empty directory that the servers' users may enter."""
    site = Site(base)
    return [*name_rows(site), *merge_rows(site), *tls_rows(site)]
