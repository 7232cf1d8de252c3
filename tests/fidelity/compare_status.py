"""Both servers' status pages: keys, order, formats; the parts of the HTML page."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import Twin, Twins

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
# Whether a figure has decimals depends on the moment; that it never has, on the format.
WHOLE = re.compile(r"\d+")


def form(value: str) -> str:
    value = value.strip()
    return next((name for pattern, name in FORMS if re.fullmatch(pattern, value)), value)


def ask(twin: Twin, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", twin.port, timeout=10)
    try:
        connection.request(method, path, headers={"Connection": "close"})
        reply = connection.getresponse()
        headers = dict(reply.getheaders())
        return reply.status, headers, reply.read().decode("latin-1")
    finally:
        connection.close()


def warm_up(twin: Twin) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", twin.port, timeout=10)
    for _ in range(WARM_UP):
        connection.request("GET", "/file.txt")
        reply = connection.getresponse()
        reply.read()
        if reply.will_close:
            connection.close()
    connection.close()
    # The first full second of uptime: then there are rates.
    while twin.auto()["ServerUptimeSeconds"].strip() in ("0", ""):
        pass


def rows(pages: Path, mpms: Iterable[str] = MPMS) -> list[Row]:
    """One row a key of `?auto`, and one for each thing about the page."""
    keys: dict[str, tuple[list[str], list[str]]] = {}
    result: list[Row] = []
    for mpm in mpms:
        for extended in ("On", "Off"):
            with Twins(mpm, pages, f"ExtendedStatus {extended}") as twins:
                for twin in twins:
                    warm_up(twin)
                lines = [list(twin.auto().items()) for twin in twins]
                where = f"{mpm}{'' if extended == 'On' else ', not extended'}"
                for key in dict.fromkeys(key for side in lines for key, _ in side):
                    for side in (0, 1):
                        value = dict(lines[side]).get(key)
                        said = "absent" if value is None else form(value)
                        keys.setdefault(key, ([], []))[side].append(f"{where}: {said}")
                orders = [" ".join(key.replace(" ", "_") for key, _ in side) for side in lines]
                result.append(Row("status", f"order of the keys ({where})", *orders))
                result += _pages(twins, where)
    found = [
        Row("status", f"?auto {key}", _short(theirs), _short(ours))
        for key, (theirs, ours) in keys.items()
    ]
    return found + result


def _short(said: list[str]) -> str:
    """`prefork: number, worker: number` is `number`; where it is not there, it says where it is."""
    present = [text for text in said if not text.endswith(": absent")]
    kinds = {text.rpartition(": ")[2] for text in present}
    if len(kinds) == 1:
        kind = kinds.pop()
        where = (
            ""
            if len(present) == len(said)
            else f" ({'; '.join(text.rpartition(': ')[0] for text in present)})"
        )
        return kind + where
    return "; ".join(said)


def _pages(twins: Twins, where: str) -> list[Row]:
    """The HTML page: headers, parts and columns; the queries; other methods."""
    html = [ask(twin, "/server-status") for twin in twins]
    result = [
        Row("status", f"page: headers ({where})", *(" ".join(sorted(h)) for _, h, _ in html)),
        Row(
            "status", f"page: labels ({where})", *(" | ".join(labels(text)) for _, _, text in html)
        ),
        Row(
            "status",
            f"page: columns ({where})",
            *(" ".join(re.findall(r"<th[^>]*>([^<]*?)\s*</th>", text)) for _, _, text in html),
        ),
    ]
    if where == "event":
        for query in ("refresh", "refresh=5", "auto&refresh=3"):
            said = [ask(twin, f"/server-status?{query}") for twin in twins]
            result.append(
                Row(
                    "status",
                    f"?{query}",
                    *(f"{s}, Refresh: {h.get('Refresh')}" for s, h, _ in said),
                )
            )
        for method in ("HEAD", "POST", "PUT"):
            result.append(
                Row(
                    "status",
                    f"{method} /server-status",
                    *(str(ask(twin, "/server-status", method)[0]) for twin in twins),
                )
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
