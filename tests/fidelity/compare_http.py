"""Both servers' answers to the same bytes: statuses, headers and their order, values, the close.

The requests are recordings (`*.req`) of what a client may send, well-formed or not; httpd answers
them live, and so does ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, joined
from tests.fidelity.clients import PATIENCE, shown, split, talk
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


def ask(port: int, data: bytes, waits: bool) -> str:
    silence = PATIENCE if waits else SILENCE
    received, end = talk(port, data, half_close=not data and not waits, silence=silence)
    lines = re.findall(rb"(?m)^(\S+) \S+ HTTP/\d\.\d\r?$", data)
    answer = split(received, [method.decode("latin-1") for method in lines])
    return f"{shown(answer)}, {'keeps' if end == 'silence' else 'closes'}"


def rows(site: Path, mpms: Iterable[str] = MPMS) -> list[Row]:
    """Every recorded request, live against both, under each MPM: one line for all MPMs."""
    left = {path.stem: path.read_bytes() for path in sorted(RAW.glob("*.req"))}
    said: dict[str, list[tuple[str, Sequence[str]]]] = {name: [] for name in left}
    for start, lines in SETTINGS.items():
        requests = {name: left.pop(name) for name in list(left) if name.startswith(start)}
        cases = [
            (name, lambda side, data=data, waits=start in WAITS: ask(side.port, data, waits))
            for name, data in requests.items()
        ]
        for mpm in mpms:
            with Pair(mpm, site, lines) as pair:
                for row in pair.rows("http", cases, at_once=6):
                    said[row.case].append((mpm, (row.httpd, row.mpmkit)))
    return [joined("http", name, by_mpm) for name, by_mpm in said.items()]
