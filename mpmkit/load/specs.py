"""The parts of a load profile: one kind of request, and one stage of a load that changes."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass

from mpmkit.load.fields import choice, number, switch, text, whole

METHODS = ("GET", "HEAD", "POST")

MAX_USERS = 20_000
"""Each user is one greenlet and one socket; a larger load needs more machines, not more users."""

MAX_SECONDS = 3600.0
"""The bound of a run in time."""

MAX_RATE = 1_000_000.0
"""Requests per second of an open loop; no generator comes near."""

MAX_BODY = 1 << 20
"""Longest request body that is kept prepared, in bytes."""


def _path_problem(path: str) -> str:
    if not path.startswith("/"):
        return f"must begin with '/', not {path!r}"
    if not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
        return f"must be ASCII without blanks (percent-encode them), not {path!r}"
    return ""


def _body_problem(body: str) -> str:
    return f"must be at most {MAX_BODY:,} bytes" if len(body.encode()) > MAX_BODY else ""


def _digest_problem(digest: str) -> str:
    if re.fullmatch(r"same|[0-9a-f]{64}", digest):
        return ""
    return f"must be 'same' or a SHA-256 of 64 hexadecimal digits, not {digest!r}"


@dataclass(frozen=True)
class RequestFields:
    """What is requested, and what a good answer is."""

    path: str = text("/", "what to request, from / on, in ASCII without blanks", _path_problem)
    method: str = choice("GET", METHODS, "of the request")
    body: str = text("", "text sent with POST, at most 1 MiB in UTF-8", _body_problem)
    expect_status: int = whole(200, 100, 599, "the status of a good answer")
    expect_length: int | None = whole(
        None,
        0,
        1 << 40,
        "the length of a good answer's body; the length that the answer itself promises is "
        "always checked",
        unit="bytes",
        none="any",
    )
    expect_body: str | None = text(
        None,
        "the SHA-256 of a good answer's body in hexadecimal, or 'same' for that of the first answer",
        _digest_problem,
        none="any",
    )


@dataclass(frozen=True)
class RequestSpec(RequestFields):
    """One line of a mix: what is requested, how often, and what a good answer is."""

    weight: float = number(1.0, 1e-9, 1e9, "", "how often, in relation to the other lines")


@dataclass(frozen=True)
class Stage:
    """One step of a load that changes: for some seconds so many users, or such a rate."""

    seconds: float = number(MISSING, 0.1, MAX_SECONDS, "seconds", "how long")
    users: int | None = whole(None, 1, MAX_USERS, "concurrent clients", none="-", loop="closed")
    rate: float | None = number(
        None, 0.01, MAX_RATE, "requests/s", "requests due in all", none="-", loop="open"
    )
    ramp: bool = switch(
        False, "get there evenly from the step before over the whole time, not at once"
    )
