"""Both servers' answers to the same bytes: statuses, headers and their order, values, the close.

The requests are recordings (`*.req`) of what a client may send, well-formed or not; httpd answers
them live, and so does ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, grouped
from tests.fidelity.clients import PATIENCE, Answer, Reply, split, talk
from tests.fidelity.server_pair import Pair

RAW = Path(__file__).parents[1] / "data" / "raw"
SILENCE = 0.4  # seconds without a byte after which a server is taken to wait for the next request

# What the recordings with other settings need, by the beginning of the file's name.
SETTINGS = {
    "96": "KeepAliveTimeout 700ms",
    "97": "KeepAlive Off",
    "98": "TraceEnable off\nServerSignature On",
    "99": "FileETag All\nServerTokens Prod\nMaxKeepAliveRequests 0",
    # The same waits as by default, in a second instead of twenty or thirty.
    "t": "ListenTCPDeferAccept 1\nRequestReadTimeout header=1 body=1",
    "": "",
}
WAITS = ("96", "t")  # the close comes from a time-out: wait for it


def ask(port: int, data: bytes, waits: bool) -> Answer:
    silence = PATIENCE if waits else SILENCE
    received, end = talk(port, data, half_close=not data and not waits, silence=silence)
    lines = re.findall(rb"(?m)^(\S+) \S+ HTTP/\d\.\d\r?$", data)
    return split(received, [method.decode("latin-1") for method in lines], end != "silence")


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
            words += [f"{name}: {value}" for name, value in other_values(mine, its)]
            if sorted(names) == sorted(its_names) and names != its_names:
                words.append("order " + ", ".join(names))
            multipart = "boundary=" in dict(mine.headers).get("Content-Type", "")
            comparable = mine.status == its.status < 300 and not multipart
            if comparable and mine.body != its.body:
                words.append(f"{len(mine.body)} bytes: {mine.body[:20]!r}")
    return ", ".join([*words, "closes" if answer.closed else "keeps"])


def other_values(mine: Reply, its: Reply) -> list[tuple[str, str]]:
    """Headers that both have with another value, where the value is not the server's own."""
    other = dict(its.headers)
    kind = dict(mine.headers).get("Content-Type", "")
    # The words of error pages, and what separates the parts of a multipart body, are each one's own.
    own_length = (mine.status >= 300 and "html" in kind) or "boundary=" in kind
    return [
        (name, value)
        for name, value in mine.headers
        if name in other
        and not (name == "Content-Length" and own_length)
        and comparable(name, value) != comparable(name, other[name])
    ]


def comparable(name: str, value: str) -> object:
    """A header's value without what is of the moment or each one's own."""
    if name == "Date":
        return None
    if name == "Server":
        return "/" in value  # ServerTokens: does it tell its version?
    if name == "Allow":
        return set(value.split(","))
    return value.partition("boundary=")[0]


def rows(site: Path, mpms: Iterable[str] = MPMS) -> list[Row]:
    """Every recorded request, live against both, under each MPM: one line for all MPMs."""
    left = {path.stem: path.read_bytes() for path in sorted(RAW.glob("*.req"))}
    said: dict[str, list[tuple[str, tuple[str, str]]]] = {name: [] for name in left}
    for start, lines in SETTINGS.items():
        names = [name for name in left if name.startswith(start)]
        requests = [left.pop(name) for name in names]
        for mpm in mpms:
            with Pair(mpm, site, lines) as pair, ThreadPoolExecutor(6) as pool:

                def one(
                    data: bytes, pair: Pair = pair, waits: bool = start in WAITS
                ) -> tuple[str, str]:
                    return describe(*(ask(side.port, data, waits) for side in pair.sides))

                for name, both in zip(names, pool.map(one, requests), strict=True):
                    said[name].append((mpm, both))
    return [
        Row("http", name, *(grouped((mpm, both[side]) for mpm, both in by_mpm) for side in (0, 1)))
        for name, by_mpm in said.items()
    ]
