"""Small inputs of many kinds, asked of both servers: names, requests, scripts, PHP, error documents, redirects.

One configuration for all of them (kinds.conf in tests/data/fidelity), with a directory, an alias or a
location for each kind that needs lines of its own; kinds.txt has the requests.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from urllib.parse import quote

from mpmkit.measure.competitors import PhpFpm
from mpmkit.measure.reference_servers import NotInstalled
from tests.fidelity.cases import DATA, Row, tables
from tests.fidelity.clients import shown, split, talk
from tests.fidelity.server_pair import Pair

OLD = 1704164645  # Tue, 02 Jan 2024 03:04:05 GMT


def get(
    path: str, *fields: str, method: str = "GET", version: str = "1.1", host: str = "lab.example"
) -> bytes:
    own = [f"Host: {host}", "Connection: close"] if version == "1.1" else []
    lines = [f"{method} {path} HTTP/{version}", *own, *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def unescaped(text: str) -> str:
    """The bytes that are meant, as characters up to 0xFF."""
    return text.encode("ascii").decode("unicode_escape")


def cases() -> Iterator[tuple[str, bytes]]:
    """(name, all that the client sends; then it closes its half)"""
    kinds = tables("kinds.txt")
    for path in " ".join(kinds["paths"]).split():
        yield f"GET {path}", get(path)
    paths, methods = kinds["methods"]
    for path in paths.split():
        for method in methods.split():
            yield f"{method} {path}", get(path, method=method)
    for title, name in (("programs", ""), ("php", "php ")):
        for path in " ".join(kinds[title]).split():
            for method in ("GET", "HEAD", "POST"):
                length = ["Content-Length: 0"] * (method == "POST")
                yield f"{name}{method} {path}", get(path, *length, method=method)
    for size in (0, 3, 16000, 100_000):
        start = get("/told.php", "Transfer-Encoding: chunked", method="POST")
        chunk = b"%x\r\n%b\r\n" % (size, b"x" * size) if size else b""
        yield f"php {size} bytes, chunked", start + chunk + b"0\r\n\r\n"
    statuses = (rf"Status: {code}\n\nbody" for code in " ".join(kinds["statuses"]).split())
    controls = (rf"A: b\x{n:02x}c\n\nbody" for n in (*range(1, 9), 11, 12, *range(14, 32), 127))
    for line in (*kinds["heads"], *statuses, *controls):
        head, *fields = line.split(" | ")
        query = quote(unescaped(head), encoding="latin-1")
        for method in ("GET", "HEAD"):
            name = " ".join([method, "script", head.replace(r"\n", "|"), *fields])
            yield name, get(f"/cgi/raw?{query}", *fields, method=method)
    for host in ("", *" | ".join(kinds["hosts"]).split(" | ")):
        yield f"Host: {host}", get("/d", host=host)
    for line in kinds["connections"]:
        name, _, data = line.partition(" |")
        yield name, unescaped(data.strip()).encode("latin-1")
    for line in kinds["variables"]:
        fields = line.split(" | ") if line != "-" else []
        for path in ("/cgi/shows", "/cgi/shows/word"):
            for method in ("GET", "POST"):
                yield f"variables {method} {path} {line}", get(path, *fields, method=method)
    yield "variables of HTTP/1.0", get("/cgi/shows/word", version="1.0")
    for line in kinds["folded"]:
        yield f"folded {line}", get("/cgi/shows", f"X-A: {unescaped(line)}")
    for line in kinds["chunks"]:
        start = get("/plain", "Transfer-Encoding: chunked", method="POST")
        yield f"chunk {line}", start + unescaped(line).encode("latin-1") + b"\r\n0\r\n\r\n"


SHOWN = ("Location", "Content-Type", "Allow", "X-A", "ETag", "Connection")


def ask(port: int, data: bytes) -> str:
    received, end = talk(port, data, half_close=True)
    if end == "silence" or not received:
        return end
    answer = split(received, [data.split(b" ", 1)[0].decode("latin-1")])
    file = data.startswith(b"GET ") and not re.match(
        rb"GET /(cgi|run|fronts|wide)/|.*\.php|.*nophp", data
    )
    has_length = file and all(reply.line < "300" for reply in answer.replies)
    return shown(answer, (*SHOWN, *["Content-Length"] * has_length)).replace(f":{port}", ":PORT")


def rows(base: Path, every: int = 1, mpm: str = "event") -> list[Row]:
    """The rows of all requests, or of one in `every`, those of PHP where there is php-fpm; `base` is an empty
    directory that other users may enter."""
    pages = base / "pages"
    for file in " | ".join(tables("kinds.txt")["files"]).split(" | "):
        name, _, text = file.partition(" =")
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.strip())
        os.utime(path, (OLD, OLD))
    places = {"pages": pages, "cgi": base / "cgi", "wide": base / "\u65e5\u672c"}
    shutil.copytree(DATA / "cgi", places["cgi"])
    places["wide"].mkdir()
    for copy in (places["cgi"] / "caf\u00e9", places["wide"] / "\u00e9.cgi"):
        shutil.copy(DATA / "cgi" / "shows", copy)
    for folder, name in product((pages, places["wide"]), ("told.php", "caf\u00e9.php")):
        shutil.copy(DATA / "told.php", folder / name)
    chosen = list(cases())[::every]
    with ExitStack() as stack:
        try:
            handler = stack.enter_context(PhpFpm(children=8)).handler
        except NotInstalled:
            handler = "none"
            chosen = [case for case in chosen if not case[0].startswith("php")]
        extra = (DATA / "kinds.conf").read_text(encoding="utf-8").replace("{php}", handler)
        for name, place in places.items():
            extra = extra.replace(f"{{{name}}}", str(place))
        named = ((name, lambda side, data=data: ask(side.port, data)) for name, data in chosen)
        modules = ("cgi", "setenvif", "env", "proxy", "proxy_fcgi")
        return stack.enter_context(Pair(mpm, pages, extra, modules=modules)).rows("kinds", named)
