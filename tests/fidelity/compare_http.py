"""Both servers' answers to the same bytes: statuses, headers and their order, values, the close.

The requests are recordings (`*.req`) of what a client may send, well-formed or not; httpd answers
them live, and so does ours.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.fidelity.cases import Row
from tests.fidelity.server_pair import Pair

SILENCE = 0.4  # seconds without a byte after which a server is taken to wait for the next request
PATIENCE = 8.0  # seconds for the first byte, or for the close
AT_ONCE = 6  # connections at the same time

# Whose value is of the moment.
OWN = ("Date",)

# What the recordings with other settings need; by the beginning of the file's name.
SETTINGS = {
    "96": "KeepAliveTimeout 700ms",
    "97": "KeepAlive Off",
    "98": "TraceEnable off\nServerSignature On",
    "99": "FileETag All\nServerTokens Prod\nMaxKeepAliveRequests 0",
    # The same waits as by default, in a second instead of twenty or thirty.
    "t": "ListenTCPDeferAccept 1\nRequestReadTimeout header=1 body=1",
}
WAITS = ("96", "t")  # the close comes from a time-out: wait for it


class Reply(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Answer(NamedTuple):
    """All that came for one request, and whether the server closed."""

    replies: tuple[Reply, ...]
    rest: bytes  # bytes that are no response (HTTP/0.9)
    closed: bool


def ask(port: int, data: bytes, waits: bool) -> Answer:
    """Send bytes and take what comes, until the close, or until nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        received, closed = b"", False
        try:
            if data:
                sock.sendall(data)
            elif not waits:
                sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                sock.settimeout(SILENCE if received and not waits else end - time.monotonic())
                piece = sock.recv(65536)
                if not piece:
                    closed = True
                    break
                received += piece
        except TimeoutError:
            pass
        except OSError:
            closed = True
    methods = [
        line.split(b" ")[0].decode("latin-1")
        for line in re.findall(rb"(?m)^(\S+) \S+ HTTP/\d\.\d\r?$", data)
    ]
    return split(received, methods, closed)


def split(data: bytes, methods: Iterable[str], closed: bool) -> Answer:
    """The responses in a stream of bytes. `methods` are those of the requests, in order."""
    replies = []
    asked = iter(methods)
    while data.startswith(b"HTTP/") and b"\r\n\r\n" in data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        headers = tuple(
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        )
        fields = {name.lower(): value for name, value in headers}
        method = "GET" if status < 200 else next(asked, "GET")
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif "chunked" in fields.get("transfer-encoding", ""):
            body, data = _chunks(data)
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body, data = data[:length], data[length:]
        else:
            body, data = data, b""
        replies.append(Reply(status, headers, body))
    return Answer(tuple(replies), data, closed)


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size.split(b";")[0] or b"0", 16)
        if not count:
            return body, data.partition(b"\r\n")[2]
        body, data = body + data[:count], data[count + 2 :]


def same_values(a: Reply, b: Reply) -> list[str]:
    """Names of headers that both have with another value, where the value is not the server's own."""
    other = dict(b.headers)
    kind = dict(a.headers).get("Content-Type", "")
    # The words of error pages, and what separates the parts of a multipart body, are each one's own.
    page = (a.status >= 300 and "html" in kind) or "boundary=" in kind
    return [
        name
        for name, value in a.headers
        if name in other
        and not (name == "Content-Length" and page)
        and not _alike(name, value, other[name])
    ]


def _alike(name: str, a: str, b: str) -> bool:
    if name == "Server":
        return ("/" in a) == ("/" in b)  # ServerTokens: does it tell its version?
    if name in OWN:
        return True
    if name == "Allow":
        return set(a.split(",")) == set(b.split(","))
    if "boundary=" in a and "boundary=" in b:
        return a.partition("=")[0] == b.partition("=")[0]
    return a == b


def describe(theirs: Answer, ours: Answer) -> tuple[str, str]:
    """Both answers in few words. The texts are equal if and only if nothing differs."""
    return _words(theirs, ours), _words(ours, theirs)


def _words(answer: Answer, other: Answer) -> str:
    words = [str(reply.status) for reply in answer.replies] or ["no answer"]
    if answer.rest:
        words.append("a bare body")
    if len(answer.replies) == len(other.replies):
        for mine, its in zip(answer.replies, other.replies, strict=True):
            names, its_names = [n for n, _ in mine.headers], [n for n, _ in its.headers]
            words += [f"+ {name}" for name in names if name not in its_names]
            words += [f"{n}: {dict(mine.headers)[n]}" for n in same_values(mine, its)]
            if sorted(names) == sorted(its_names) and names != its_names:
                words.append("order " + ", ".join(names))
            multipart = "boundary=" in dict(mine.headers).get("Content-Type", "")
            comparable = mine.status == its.status < 300 and not multipart
            if comparable and mine.body != its.body:
                words.append(f"{len(mine.body)} bytes: {mine.body[:20]!r}")
    words.append("closes" if answer.closed else "keeps")
    return ", ".join(words)


def cases(raw: Path) -> dict[str, bytes]:
    """Name and bytes of each recorded request."""
    return {path.stem: path.read_bytes() for path in sorted(raw.glob("*.req"))}


def setting_of(name: str) -> str:
    return next((key for key in SETTINGS if name.startswith(key)), "")


def rows(raw: Path, pages: Path, mpms: Iterable[str] = ("event",)) -> list[Row]:
    """Every recorded request, live against both, under each MPM."""
    found = cases(raw)
    result: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in found}
    for mpm in mpms:
        for key in ("", *SETTINGS):
            names = [name for name in found if setting_of(name) == key]
            waits = bool(key) and key.startswith(WAITS)
            with (
                Pair(mpm, pages, SETTINGS.get(key, "")) as pair,
                ThreadPoolExecutor(AT_ONCE) as pool,
            ):

                def one(name: str, pair: Pair = pair, waits: bool = waits) -> tuple[str, str]:
                    answers = (ask(server.port, found[name], waits) for server in pair.sides)
                    return describe(*answers)

                for name, texts in zip(names, pool.map(one, names), strict=True):
                    result[name][mpm] = texts
    return [_row(name, by_mpm) for name, by_mpm in result.items()]


def _row(name: str, by_mpm: dict[str, tuple[str, str]]) -> Row:
    """One line for all MPMs: they should not differ; where they do, each is named."""
    texts = []
    for side in (0, 1):
        said = {mpm: pair[side] for mpm, pair in by_mpm.items()}
        if len(set(said.values())) == 1:
            texts.append(next(iter(said.values())))
        else:
            texts.append("; ".join(f"{mpm}: {text}" for mpm, text in said.items()))
    return Row("http", name, *texts)
