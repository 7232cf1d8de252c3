"""Which virtual host answers: tables of hosts, asked at several addresses and ports for many names.

Every host of a table, and the server itself, has a directory of its own with an index that names it; the
hosts of all tables (tests/data/fidelity/hosts.txt) are asked the same, from 127.0.0.1 and 127.0.0.2, at two
ports. What is merged from the server, -S and TLS have cases of their own.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from itertools import product
from pathlib import Path

from mpmkit.server.home import self_signed
from tests.fidelity.cases import Row, block, tables, tree
from tests.fidelity.server_pair import Case, Pair, Side

TABLES = tables("hosts.txt")
OWN = dict(line.replace(r"\n", "\n").split(" | ") for line in TABLES["hosts"])
NAMES = " | ".join(TABLES["names"]).split(" | ")
TLS = (("a.example", "one", ""), ("b.example", "two", ""), ("c.example", "two", ""),
       ("d.example", "two", "SSLProtocol TLSv1.2"))  # fmt: skip


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
    address: str, port: int, name: str, path: str = "/", method: str = "GET", body: bytes = b""
) -> str:
    """Status, and what tells the host: the page's text, a Location or a type."""
    with contextlib.closing(HTTPConnection(address, port, timeout=10)) as client:
        length = {"Content-Length": str(len(body))} if body else {}
        client.request(method, path, body or None, {"Host": name, **length})
        reply = client.getresponse()
        text = reply.read().decode("latin-1")
        parts = [str(reply.status), reply.getheader("Location") or ""]
        if reply.status == 200 and method == "GET":
            parts += [reply.getheader("Content-Type") or "", text.strip()]
        elif method == "GET":
            parts.append(text if text in ("server", "host") else "page")
            parts.append("signed" * ("<address>" in text))
        return " ".join(filter(None, parts)).replace(f":{port}", ":PORT")


class Site:
    """Directories that name themselves."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("main", "host", *(f"h{number}" for number in range(4))):
            files = ("index.html", "one.txt", "two.txt", "sub/one.txt")
            tree(base / name, {file: f"{name} {file}\n" for file in files})
            (base / name / "link.txt").symlink_to("one.txt")

    def root(self, number: int) -> str:
        return f'DocumentRoot "{self.base}/h{number}"'


# --- Which host ------------------------------------------------------------------------------------


def groups() -> Iterator[list[tuple[str, list[str]]]]:
    """Tables for one pair of servers: those whose hosts all have a port, and each of the others alone."""
    together = []
    for line in TABLES["tables"]:
        title, *hosts = line.split(" | ")
        if all("{" in word for host in hosts for word in host.split()[:-1]):
            together.append((title, hosts))
        else:
            yield [(title, hosts)]
    yield together


def name_rows(site: Site, every: int = 1) -> Iterator[Row]:
    """Every table, or one in `every`, at two addresses and two ports, for every name."""
    for group in list(groups())[::-every]:
        pair = Pair("event", site.base / "main")
        # Ports of their own: the copies of a file differ in them alone.
        free = free_ports(4 * len(group))  # all different, over both servers
        ports = {side: free[at::2] for at, side in enumerate(pair.sides)}
        for server, own in ports.items():
            server.extra = "\n".join(_lines(site, group, own))
        with pair:
            yield from pair.rows("hosts", _name_cases(group, ports))


def _lines(site: Site, group: list[tuple[str, list[str]]], ports: list[int]) -> Iterator[str]:
    yield from (f"Listen 0.0.0.0:{port}" for port in ports)
    for at, (_, hosts) in enumerate(group):
        for number, host in enumerate(hosts):
            words, _, own = host.rpartition(" ")
            text = block(f"VirtualHost {words}", OWN.get(own, ""), site.root(number))
            yield text.replace("{p}", str(ports[2 * at])).replace("{q}", str(ports[2 * at + 1]))


def _name_cases(group: list[tuple[str, list[str]]], ports: dict[Side, list[int]]) -> Iterator[Case]:
    places = product(group, ("127.0.0.1", "127.0.0.2"), "pq")
    for number, ((title, _), address, port) in enumerate(places):
        at = 2 * (number // 4) + "pq".index(port)
        for name in NAMES:
            case = f"{title}: {name} at {address}, port {port}"
            yield case, partial(ask_at, ports=ports, at=at, address=address, name=name)
    yield f"{group[0][0]}: -S", dump


def ask_at(side: Side, ports: dict[Side, list[int]], at: int, address: str, name: str) -> str:
    return ask(address, ports[side][at], name)


def dump(side: Side) -> str:
    """The virtual hosts as -S shows them, without what differs between the two copies."""
    arguments = ["-d", str(side.root), "-f", str(side.conf), "-t", "-D", "DUMP_VHOSTS"]
    done = subprocess.run([*side.program, *arguments], capture_output=True, text=True, timeout=60)
    out = re.sub(r"\d{4,5}", "PORT", re.sub(r"\([^)]*:(\d+)\)", "", done.stdout))
    return "; ".join(re.sub(" +", " ", line.strip()) for line in sorted(out.splitlines()))


# --- What it has of its server's -------------------------------------------------------------------


def merge_rows(site: Site, every: int = 1) -> Iterator[Row]:
    """What a host has of its server's lines."""
    paths = TABLES["paths"][0].split(" | ")
    for line in TABLES["merged"][::every]:
        title, server, host = (part.strip() for part in line.replace(r"\n", "\n").split("|"))
        own = ("ServerName host.example", f'DocumentRoot "{site.base}/host"', host)
        hosts = block("VirtualHost *", *own), block("VirtualHost *", "ServerName other.example")
        extra = "\n".join([server, *hosts]).replace("{d}", str(site.base))
        cases: list[Case] = []
        for name in ("host.example", "other.example"):
            cases += [(f"{title}: {path} of {name}", asking(name, path)) for path in paths]
            cases.append((f"{title}: TRACE of {name}", asking(name, "/", "TRACE")))
            for size in (5, 50, 500):
                post = asking(name, "/one.txt", "POST", b"x" * size)
                cases.append((f"{title}: POST of {size} to {name}", post))
        with Pair("event", site.base / "main", extra, modules=["cgid"]) as pair:
            yield from pair.rows("hosts", cases)


def asking(name: str, path: str, method: str = "GET", body: bytes = b"") -> Callable[[Side], str]:
    """A request to any side on 127.0.0.1."""
    return lambda side: ask("127.0.0.1", side.port, name, path, method, body)


# --- TLS -------------------------------------------------------------------------------------------


def tls_rows(site: Site, every: int = 1) -> list[Row]:
    """By the name in the handshake: which certificate, and which host then answers."""
    files, known = {}, {}
    for name in ("one", "two"):
        (site.base / name).mkdir()
        files[name] = self_signed(str(site.base / name))
        known[Path(files[name][0]).read_text()] = name
    blocks = [
        block("VirtualHost *", f"ServerName {name}", site.root(number), "SSLEngine On", lines,
              f'SSLCertificateFile "{files[of][0]}"', f'SSLCertificateKeyFile "{files[of][1]}"')
        for number, (name, of, lines) in enumerate(TLS)
    ]  # fmt: skip
    names = [name for name, *_ in TLS] + ["no.example"]
    asked = [*product((*names, None), names)][::every]
    cases = (
        (f"TLS: {name} in the handshake, Host {host}", partial(over_tls, asked=name, host=host, known=known))
        for name, host in asked
    )  # fmt: skip
    with Pair("event", site.base / "main", "\n".join(blocks), modules=["ssl"]) as pair:
        return pair.rows("hosts", cases)


def over_tls(side: Side, asked: str | None, host: str, known: dict[str, str]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", side.port), timeout=10) as raw,
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


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all tables, or of one in `every`; `base` is an empty directory that the servers' users
    may enter."""
    site = Site(base)
    return [*name_rows(site, every), *merge_rows(site, every), *tls_rows(site, every)]
