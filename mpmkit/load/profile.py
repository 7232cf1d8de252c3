"""A load, written down as data.

A :class:`LoadProfile` says what is asked (path, method, what a good answer looks like), by how many
users, and when to stop. It holds no behaviour: `locustfile.py` executes it, `drive.py` hands it
over as JSON, a record stores it. Nothing here imports more than the standard library, so a
notebook can build and print profiles without loading a load generator.

Two loads are described so far, both *closed loop* (a user sends its next request only after its
last one ended, which is what ``ab`` does):

``keep_alive=False``
    Every request on a connection of its own, sent as HTTP/1.0 as ``ab`` does by default. In
    HTTP/1.0 the server ends the connection, so the TIME_WAIT state stays with the server's port
    and the client never runs out of ephemeral ports, however many connections it opens.
``keep_alive=True``
    One HTTP/1.1 connection per user, reused until the server closes it (``MaxKeepAliveRequests``),
    then opened anew without that counting as a failure.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

VERSION = 1
"""Version of the JSON form; raised when a field changes its meaning."""

METHODS = ("GET", "HEAD", "POST")
EVENTS = ("batch", "each")

MAX_USERS = 20_000
"""Each user is one greenlet and one socket; more than this wants more machines, not more users."""

MAX_REQUESTS = 20_000_000
"""A latency takes 8 bytes, so this many fill 160 MB: the bound of a run in count."""

MAX_SECONDS = 3600.0
"""The bound of a run in time."""

MAX_BODY = 1 << 20
"""Longest request body that is kept prepared, in bytes."""


class ProfileError(ValueError):
    """A load profile that cannot be executed. Its text names each field at fault and the mend."""


@dataclass(frozen=True)
class LoadProfile:
    """One load, checked when built.

    Fields (unit, range):

    path: what to ask for, from ``/``; ASCII without blanks.
    users: concurrent clients, 1 to 20,000.
    requests: how many requests in all (over all users and processes), 1 to 20 million. Exact.
    duration: seconds to go on claiming new requests, up to 3600. With `requests`, what ends first.
    keep_alive: one connection per user (True) or per request (False).
    method: GET, HEAD or POST.
    headers: extra (name, value) pairs put into every request.
    body: text sent with POST, at most 1 MiB in UTF-8.
    expect_status: the status of a good answer, 100 to 599.
    expect_length: the length of a good answer's body in bytes, or None for any (the length that the
        answer itself promises is always checked).
    timeout: seconds within which a request must be answered, 0.05 to 600.
    warmup_requests: answered first and not counted, 0 to 20 million.
    warmup_seconds: load put on, and not counted, before the measured part, 0 to 600.
    processes: generator processes, 1 to 64, at most one per user.
    time_limit: seconds after which the run ends whatever happened, at most 3600.
    events: "batch" folds successes into Locust's statistics four times a second; "each" fires
    Locust's
        request event for every response, for those who attach listeners (slower).

    Raises ProfileError naming every field at fault.
    """

    path: str = "/"
    users: int = 1
    requests: int | None = None
    duration: float | None = None
    keep_alive: bool = False
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    expect_status: int = 200
    expect_length: int | None = None
    timeout: float = 30.0
    warmup_requests: int = 0
    warmup_seconds: float = 0.0
    processes: int = 1
    time_limit: float = 600.0
    events: str = "batch"

    def __post_init__(self) -> None:
        # Lists are what JSON and notebooks give; a frozen value wants tuples.
        if isinstance(self.headers, (list, tuple)):
            object.__setattr__(self, "headers", tuple(
                tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in self.headers))
        problems = list(_problems(self))
        if problems:
            raise ProfileError("; ".join(problems))

    def but(self, **changes: Any) -> LoadProfile:
        """The same load with some fields changed. Raises ProfileError for an unknown field."""
        _refuse_unknown(changes)
        return replace(self, **changes)

    @property
    def http_version(self) -> str:
        """"1.1" for keep-alive, "1.0" (ab's own) where each request has a connection of its own."""
        return "1.1" if self.keep_alive else "1.0"

    def request_bytes(self, host: str) -> bytes:
        """The request, as sent. `host` is what stands in the Host field, like
        ``127.0.0.1:8080``."""
        body = self.body.encode()
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.path} HTTP/{self.http_version}"]
        if "host" not in names:
            lines.append(f"Host: {host}")
        if "user-agent" not in names:
            lines.append("User-Agent: mpmkit-load")
        if "accept" not in names:
            lines.append("Accept: */*")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def to_json(self) -> str:
        """The profile as one line of JSON, with the version of the form."""
        return json.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> LoadProfile:
        """A profile read back. Raises ProfileError for anything but what `to_json` writes."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ProfileError(f"a load profile must be JSON: {error}") from None
        if not isinstance(data, dict):
            raise ProfileError("a load profile must be a JSON object like {\"path\": \"/\"}")
        version = data.pop("version", VERSION)
        if version != VERSION:
            raise ProfileError(f"version: this mpmkit reads version {VERSION}, not {version!r}")
        _refuse_unknown(data)
        return cls(**data)


def _refuse_unknown(data: dict[str, Any]) -> None:
    known = [field.name for field in fields(LoadProfile)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ProfileError(f"{', '.join(unknown)}: no such field in a load profile, which has "
                           f"{', '.join(known)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # NaN is a float that passes no comparison; it must not pass for a number of seconds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _problems(p: LoadProfile):
    """Every reason why a profile cannot be executed, as "field: what is wrong; mend"."""

    def whole(name: str, low: int, high: int, *, optional: bool = False):
        value = getattr(p, name)
        if optional and value is None:
            return
        if not _is_int(value) or not low <= value <= high:
            yield f"{name}: must be a whole number from {low} to {high:,}, not {value!r}"

    def seconds(name: str, low: float, high: float, *, optional: bool = False):
        value = getattr(p, name)
        if optional and value is None:
            return
        if not _is_number(value) or not low <= value <= high:
            yield f"{name}: must be {low:g} to {high:g} seconds, not {value!r}"

    if not isinstance(p.path, str) or not p.path.startswith("/"):
        yield f"path: must begin with '/', not {p.path!r}"
    elif not p.path.isascii() or any(c <= " " or c == "\x7f" for c in p.path):
        yield f"path: must be ASCII without blanks (percent-encode them), not {p.path!r}"
    yield from whole("users", 1, MAX_USERS)
    yield from whole("requests", 1, MAX_REQUESTS, optional=True)
    yield from seconds("duration", 0.01, MAX_SECONDS, optional=True)
    if p.requests is None and p.duration is None:
        yield "requests: give requests=N, duration=seconds or both, or the load would never end"
    if not isinstance(p.keep_alive, bool):
        yield f"keep_alive: must be True or False, not {p.keep_alive!r}"
    if p.method not in METHODS:
        yield f"method: must be one of {', '.join(METHODS)}, not {p.method!r}"
    yield from _header_problems(p.headers)
    if not isinstance(p.body, str):
        yield f"body: must be text, not {type(p.body).__name__}"
    elif p.body and p.method != "POST":
        yield f"body: only POST carries one, and method is {p.method!r}"
    elif len(p.body.encode()) > MAX_BODY:
        yield f"body: must be at most {MAX_BODY:,} bytes"
    yield from whole("expect_status", 100, 599)
    yield from whole("expect_length", 0, 1 << 40, optional=True)
    yield from seconds("timeout", 0.05, 600)
    yield from whole("warmup_requests", 0, MAX_REQUESTS)
    yield from seconds("warmup_seconds", 0, 600)
    yield from whole("processes", 1, 64)
    if _is_int(p.processes) and _is_int(p.users) and p.processes > p.users >= 1:
        yield (f"processes: {p.processes} processes cannot share {p.users} user(s), "
               f"give at most {p.users}")
    yield from seconds("time_limit", 0.1, MAX_SECONDS)
    if p.events not in EVENTS:
        yield f"events: must be one of {', '.join(EVENTS)}, not {p.events!r}"


def _header_problems(headers: object):
    if not isinstance(headers, tuple):
        yield f"headers: must be (name, value) pairs, not {headers!r}"
        return
    for pair in headers:
        if not (isinstance(pair, tuple) and len(pair) == 2
                and all(isinstance(part, str) for part in pair)):
            yield f"headers: must be (name, value) pairs of text, not {pair!r}"
        elif not pair[0] or any(c in pair[0] for c in ": \t\r\n") or not pair[0].isascii():
            yield f"headers: {pair[0]!r} is no field name"
        elif any(c in pair[1] for c in "\r\n\0"):
            yield f"headers: the value of {pair[0]} must not contain line ends"
        elif not pair[1].isascii():
            yield f"headers: the value of {pair[0]} must be ASCII"
        elif pair[0].lower() in ("content-length", "transfer-encoding", "connection"):
            yield f"headers: {pair[0]} follows from method, body and keep_alive, leave it out"


def loopback_target(url: object) -> tuple[str, int]:
    """(host, port) of ``http://HOST:PORT``, where HOST is this machine's loopback and nothing else.

    A load generator that fires at whatever it is given is a weapon; this one measures servers on
    the machine it runs on. Raises ValueError with the mend for anything else.
    """
    example = "give one like http://127.0.0.1:8080"
    if not isinstance(url, str):
        raise ValueError(f"target: must be a server or its URL, not {url!r}; {example}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target: {url!r} is no URL ({error}); {example}") from None
    if parts.scheme != "http" or not host:
        raise ValueError(f"target: {url!r} is no http URL; {example}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"target: {url!r} holds more than a host and a port; "
                         f"give the path as path=")
    if host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(f"target: {host} is not this machine's loopback; load goes to "
                             f"127.0.0.1, [::1] or localhost only")
    return host, 80 if port is None else port
