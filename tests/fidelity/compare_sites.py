"""Whole configurations, in the manner of public main files, each started and asked by itself.

tests/data/fidelity/sites.txt has them, with what is asked of each. Besides: what -S shows of its hosts, and what
stands in the logs whose names begin with `logs_`.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from tests.fidelity.cases import DATA, Row, tree
from tests.fidelity.compare_hosts import dump, free_ports
from tests.fidelity.server_pair import Case, Pair, Side

FILES = ("page.html", "index.html", "deep/page.html", "deep/more/page.html", "private/page.html", "upload/x.txt",
         "upload/x.php", "assets/app.css", "assets/app.css.bak", ".ht", "config.inc", "vendor/x.inc")  # fmt: skip
LINKS = [f"{name}link.html" for name in ("", "deep/", "deep/more/", "assets/", "private/")]
MODULES = (
    "access_compat auth_basic authn_core authn_file authz_user autoindex cgid deflate env expires filter headers "
    "negotiation rewrite setenvif userdir vhost_alias"
).split()
ASKED = re.compile(r"(?:([A-Z]+),)?([^/@!]+)(?:@([26]))?(!)?(/.*)")
PATIENCE = 3.0  # seconds until a log must have all its lines


def sites() -> Iterator[tuple[str, str]]:
    """(title, text)"""
    words = re.split(r"(?m)^\[(.+)\]\n", (DATA / "sites.txt").read_text(encoding="utf-8"))[1:]
    return zip(words[::2], words[1::2], strict=True)


def make_files(base: Path) -> None:
    """The sites, the programs, and the files that are included."""
    for site in ("www", "shop", "blog"):
        tree(base / site, {name: f"{site}/{name}\n" for name in FILES})
        for name in LINKS:
            (base / site / name).symlink_to(base / site / "page.html")
    shutil.copytree(DATA / "cgi", base / "cgi")
    shutil.copy(DATA / "cgi" / "shows", base / "www" / "upload")


def ask(side: Side, ports: dict[Side, list[int]], word: str) -> str:
    """Status, Location, type and text; of a status page the VHost that its own request has."""
    found = ASKED.fullmatch(word)
    assert found is not None, word
    method, host, at, second, path = found.groups(default="")
    address = {"2": "127.0.0.2", "6": "::1"}.get(at, "127.0.0.1")
    port = ports[side][bool(second)]
    client = HTTPConnection(address, port, timeout=10, source_address=(address, 0))
    with closing(client):
        named = {"Host": host if host != "-" else "lab.example"}
        client.request(method or "GET", path, headers=named)
        reply = client.getresponse()
        text = reply.read().decode("latin-1").strip()
    if "server status" in text[:300].lower():
        row = rf"<td(?: nowrap)?>([^<]*)</td><td(?: nowrap)?>GET {re.escape(path)} "
        text = "; ".join(re.findall(row, text))
    elif text.startswith("<!DOCTYPE"):
        text = "page"
    fields = (reply.getheader(name) for name in ("Location", "Content-Type"))
    parts = (str(reply.status), *fields, text[:300])
    return without(ports[side], " ".join(filter(None, parts)).replace("\n", "; "))


def without(ports: list[int], text: str) -> str:
    for name, port in zip("PQ", ports, strict=True):
        text = text.replace(str(port), name)
    return text


def logs(side: Side, ports: dict[Side, list[int]]) -> str:
    """The lines of all logs, in any order within each."""
    texts = ((log.name, log.read_text().splitlines()) for log in sorted(side.root.glob("logs_*")))
    return without(ports[side], "; ".join(f"{name}: {', '.join(sorted(of))}" for name, of in texts))


def log_row(title: str, pair: Pair, ports: dict[Side, list[int]]) -> Row:
    end = time.monotonic() + PATIENCE
    while True:
        row = Row("sites", f"{title}: logs", *(logs(side, ports) for side in pair.sides))
        if row.httpd == row.mpmkit or time.monotonic() > end:
            return row
        time.sleep(0.05)


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all configurations, or of one in `every`; `base` is an empty directory that the servers'
    users may enter."""
    make_files(base)
    texts = dict(sites())
    files = {name: texts.pop(name) for name in list(texts) if name.endswith(".conf")}
    return [row for one in list(texts.items())[::every] for row in site_rows(base, files, *one)]


def site_rows(base: Path, files: dict[str, str], title: str, text: str) -> list[Row]:
    asked = re.findall(r"(?m)^\? (.*)\n", text)
    lines = "".join(f"Listen 127.0.0.{one}:{{{port}}}\n" for one in "12" for port in "pq")
    lines += text[len("".join(f"? {line}\n" for line in asked)) :]
    pair = Pair("event", base / "www", modules=MODULES)
    free = free_ports(4)
    ports = {pair.sides[0]: free[:2], pair.sides[1]: free[2:]}
    for side, own in ports.items():
        values = {"{d}": base, "{c}": base / side.name, "{p}": own[0], "{q}": own[1]}
        side.extra = placed(lines, values)
        tree(base / side.name, {name: placed(text, values) for name, text in files.items()})
    cases: list[Case] = [
        (f"{title}: {word}", partial(ask, ports=ports, word=word))
        for word in " ".join(asked).split()
    ]
    if "<VirtualHost" in lines or "/sites" in lines:
        cases.append((f"{title}: -S", dump))
    with pair:
        found = pair.rows("sites", cases)
        return [*found, log_row(title, pair, ports)] if "logs_" in lines else found


def placed(text: str, values: dict[str, object]) -> str:
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text
