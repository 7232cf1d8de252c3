"""Both servers' status pages: keys, order, formats; the parts of the HTML page."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import Pair, Side

WARM_UP = 600  # requests before the look, so that no figure is 0 and httpd has used a tick of CPU

# What a value looks like, first match counts.
FORMS = (
    (r"[A-Z][a-z]+, \d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d \S+", "moment"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "ISO date-time"),
    (r"prefork|worker|event", "MPM"),
    (r"\S+/\d+(\.\d+)* \(.*\)", "product/version (system)"),
    (r"(\d+ (day|hour|minute|second)s? ?)*", "words"),
    (r"\d+|\d*\.\d+", "number"),
    (r"[._SRWKDCLGI]+", "letters"),
)


def form(value: str) -> str:
    value = value.strip()
    return next((name for pattern, name in FORMS if re.fullmatch(pattern, value)), value)


def ask(server: Side, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={"Connection": "close"})
        reply = connection.getresponse()
        headers = dict(reply.getheaders())
        return reply.status, headers, reply.read().decode("latin-1")
    finally:
        connection.close()


def warm_up(server: Side) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(WARM_UP):
        connection.request("GET", "/file.txt")
        reply = connection.getresponse()
        reply.read()
        if reply.will_close:
            connection.close()
    connection.close()
    # The first full second of uptime: then there are rates.
    while server.auto()["ServerUptimeSeconds"].strip() in ("0", ""):
        pass


def rows(pages: Path, mpms: Iterable[str] = MPMS) -> list[Row]:
    """One row a key of `?auto`, and one for each thing about the page."""
    keys: dict[str, tuple[list[str], list[str]]] = {}
    result: list[Row] = []
    for mpm in mpms:
        for extended in ("On", "Off"):
            with Pair(mpm, pages, f"ExtendedStatus {extended}") as pair:
                pair.both(warm_up)
                sides = [server.auto() for server in pair.sides]
                where = f"{mpm}{'' if extended == 'On' else ', not extended'}"
                for key in dict.fromkeys(key for auto in sides for key in auto):
                    for side, auto in enumerate(sides):
                        said = form(auto[key]) if key in auto else "absent"
                        keys.setdefault(key, ([], []))[side].append(f"{where}: {said}")
                orders = [" ".join(key.replace(" ", "_") for key in auto) for auto in sides]
                result.append(Row("status", f"order of the keys ({where})", *orders))
                result += _pages(pair, where)
    found = [
        Row("status", f"?auto {key}", _short(theirs), _short(ours))
        for key, (theirs, ours) in keys.items()
    ]
    return found + result


def _short(said: list[str]) -> str:
    """`prefork: number, worker: number` is `number`; where it is not there, it says where it is."""
    present = [text.rpartition(": ") for text in said if not text.endswith(": absent")]
    kinds = {kind for *_, kind in present}
    if len(kinds) != 1:
        return "; ".join(said)
    where = f" ({'; '.join(mpm for mpm, *_ in present)})" if len(present) < len(said) else ""
    return kinds.pop() + where


def _pages(pair: Pair, where: str) -> list[Row]:
    """The HTML page: headers, parts and columns; the queries; other methods."""
    html = [ask(server, "/server-status") for server in pair.sides]
    columns = [re.findall(r"<th[^>]*>([^<]*?)\s*</th>", text) for *_, text in html]
    result = [
        Row("status", f"page: headers ({where})", *(" ".join(sorted(h)) for _, h, _ in html)),
        Row("status", f"page: labels ({where})", *(" | ".join(labels(text)) for *_, text in html)),
        Row("status", f"page: columns ({where})", *map(" ".join, columns)),
    ]
    if where != "event":
        return result

    def refreshes(server: Side, query: str) -> str:
        status, headers, _ = ask(server, f"/server-status?{query}")
        return f"{status}, Refresh: {headers.get('Refresh')}"

    def status(server: Side, method: str) -> int:
        return ask(server, "/server-status", method)[0]

    for query in ("refresh", "refresh=5", "auto&refresh=3"):
        result.append(pair.row("status", f"?{query}", partial(refreshes, query=query)))
    for method in ("HEAD", "POST", "PUT"):
        result.append(
            pair.row("status", f"{method} /server-status", partial(status, method=method))
        )
    return result


def labels(page: str) -> list[str]:
    """What the lines of the lists begin with; a sentence without its numbers."""
    texts = re.findall(r"<dt>([^<:]*)", page)
    return [
        " ".join(re.sub(r"[\d.]+", "N", text).split())
        for text in texts
        if "second" not in text and "B/" not in text
    ]
