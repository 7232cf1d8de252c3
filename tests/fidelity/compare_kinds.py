"""Small inputs of many kinds, asked of both servers: names, requests, scripts, error documents, redirects.

One configuration for all of them (kinds.conf in tests/data/fidelity), with a directory, an alias or a
location for each kind that needs lines of its own; kinds.txt has the requests.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

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
    statuses = (rf"Status: {code}\n\nbody" for code in " ".join(kinds["statuses"]).split())
    for line in (*kinds["heads"], *statuses):
        head, *fields = line.split(" | ")
        query = unescaped(head).translate({32: "%20", 10: "%0a", 35: "%23"})
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
    file = data.startswith(b"GET ") and not re.match(rb"GET /(cgi|run|fronts)/", data)
    has_length = file and all(reply.line < "300" for reply in answer.replies)
    return shown(answer, (*SHOWN, *["Content-Length"] * has_length)).replace(f":{port}", ":PORT")


def rows(base: Path, every: int = 1, mpm: str = "event") -> list[Row]:
    """The rows of all requests, or of one in `every`; `base` is an empty directory that other users may
    enter."""
    pages = base / "pages"
    for file in " | ".join(tables("kinds.txt")["files"]).split(" | "):
        name, _, text = file.partition(" =")
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.strip())
        os.utime(path, (OLD, OLD))
    shutil.copytree(DATA / "cgi", base / "cgi")
    extra = (DATA / "kinds.conf").read_text(encoding="utf-8")
    extra = extra.replace("{pages}", str(pages)).replace("{cgi}", str(base / "cgi"))
    named = (
        (name, lambda side, data=data: ask(side.port, data))
        for name, data in list(cases())[::every]
    )
    with Pair(mpm, pages, extra, modules=("cgi", "setenvif", "env")) as pair:
        return pair.rows("kinds", named)
