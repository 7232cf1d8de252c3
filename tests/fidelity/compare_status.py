"""Both servers' status pages: keys, order, formats; the parts of the HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, joined
from tests.fidelity.clients import Client
from tests.fidelity.server_pair import Case, Pair, Side

WARM_UP = 600  # requests before each look, until no figure is 0
MOST_ROUNDS = 50  # of those
PAGE = "/server-status"

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
    with closing(Client(server)) as client:
        status, header, body = client.ask(method, path, Connection="close")
        return status, dict(header), body.decode("latin-1")


def warm_up(server: Side) -> None:
    """Until it is up for a second and has used a tick of CPU, where that is shown: then there are rates."""
    for _ in range(MOST_ROUNDS):
        with closing(Client(server)) as client:
            for _ in range(WARM_UP):
                client.ask("GET", "/file.txt")
        auto = server.auto()
        up = auto["ServerUptimeSeconds"].strip() not in ("0", "")
        if up and ("CPULoad" in auto or "CPUUser" not in auto):
            return


def rows(site: Path, mpms: Iterable[str] = MPMS) -> list[Row]:
    """One row a key of `?auto`, and one for each thing about the page."""
    seen: list[tuple[str, list[dict[str, str]]]] = []
    result: list[Row] = []
    for mpm in mpms:
        for extended in ("On", "Off"):
            where = f"{mpm}{'' if extended == 'On' else ', not extended'}"
            with Pair(mpm, site, f"ExtendedStatus {extended}") as pair:
                pair.both(warm_up)
                autos = pair.both(Side.auto)
                seen.append((where, autos))
                orders = [" ".join(key.replace(" ", "_") for key in auto) for auto in autos]
                result.append(Row("status", f"order of the keys ({where})", *orders))
                result += pair.rows("status", _page_cases(where))
    for key in dict.fromkeys(key for _, autos in seen for auto in autos for key in auto):
        forms = [(mpm, [form(auto.get(key, "absent")) for auto in both]) for mpm, both in seen]
        result.append(joined("status", f"?auto {key}", forms))
    return result


def _page_cases(where: str) -> Iterable[Case]:
    """The HTML page: headers, parts and columns; the queries; other methods."""

    def columns(server: Side) -> str:
        return " ".join(re.findall(r"<th[^>]*>([^<]*?)\s*</th>", ask(server, PAGE)[2]))

    yield f"page: headers ({where})", lambda side: " ".join(sorted(ask(side, PAGE)[1]))
    yield f"page: labels ({where})", lambda side: " | ".join(labels(ask(side, PAGE)[2]))
    yield f"page: columns ({where})", columns
    if where == "event":
        for query in ("refresh", "refresh=5", "auto&refresh=3"):
            yield f"?{query}", partial(refreshes, query=query)
        for method in ("HEAD", "POST", "PUT"):
            yield f"{method} {PAGE}", partial(status, method=method)


def refreshes(server: Side, query: str) -> str:
    status, headers, _ = ask(server, f"{PAGE}?{query}")
    return f"{status}, Refresh: {headers.get('Refresh')}"


def status(server: Side, method: str) -> int:
    return ask(server, PAGE, method)[0]


def labels(page: str) -> list[str]:
    """What the lines of the lists begin with; a sentence without its numbers."""
    return [
        " ".join(re.sub(r"[\d.]+", "N", text).split())
        for text in re.findall(r"<dt>([^<:]*)", page)
        if "second" not in text and "B/" not in text
    ]
