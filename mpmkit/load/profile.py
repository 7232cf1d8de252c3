"""A load, written down as data.

A :class:`LoadProfile` says what is asked (paths, methods, what a good answer looks like), by how many
users, how they behave, and when to stop. It holds no behaviour: `locustfile.py` executes it,
`drive.py` hands it over as JSON, a record stores it. Nothing here imports more than the standard
library, so a notebook can build and print profiles without loading a load generator.

**When requests are sent** (`arrival`):

closed      a user sends its next request when its last one ended, after its think time: ab's model.
            A slow server is asked less often, so its worst moments are sampled least.
constant    a request is due every 1/`rate` seconds, whatever the server does: the open loop.
poisson     the same rate at random, as from many people who know nothing of each other.

In the open loop latency counts from the moment at which a request was *due*. A request that had to
wait for a free user is not excused (no "coordinated omission"), one that was never sent within the
run is counted as a failure of the kind ``unsent``.

**On which connections** (`keep_alive`):

False or 0  every request on a connection of its own, sent as HTTP/1.0 as ab does by default. In
            HTTP/1.0 the server ends the connection, so the TIME_WAIT state stays with the server's
            port and the client never runs out of ephemeral ports, however many it opens.
True or 1   one HTTP/1.1 connection per user, reused until the server closes it, or until
            `requests_per_connection`, then opened anew without that counting as a failure.
0.3         three users in ten keep their connections, the others don't.

**Who else is there**: `idle_holders` connect, ask once or never, and stay; `slow_readers` fetch the
same pages at `read_rate` bytes a second. They are clients beside the users; what they get is
reported apart (`LoadRun.background`), for what is measured is how the users fare among them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

VERSION = 2
"""Version of the JSON form; raised when it changes. Version 1 had no mix, no stages, no open loop;
what it says still holds, so it is read as well."""

READS = (1, 2)

METHODS = ("GET", "HEAD", "POST")
EVENTS = ("batch", "each")
ARRIVALS = ("closed", "constant", "poisson")
THINKS = ("constant", "exponential")

MAX_USERS = 20_000
"""Each user is one greenlet and one socket; more than this wants more machines, not more users."""

MAX_REQUESTS = 20_000_000
"""A latency takes 8 bytes, so this many fill 160 MB: the bound of a run in count."""

MAX_SECONDS = 3600.0
"""The bound of a run in time."""

MAX_RATE = 1_000_000.0
"""Requests per second of an open loop; no generator comes near."""

MAX_BODY = 1 << 20
"""Longest request body that is kept prepared, in bytes."""

TARGETS_VARIABLE = "MPMKIT_TARGETS"
"""Environment variable that names hosts beyond loopback that are yours to load (docs/LOAD.md)."""


class ProfileError(ValueError):
    """A load profile that cannot be executed. Its text names each field at fault and the mend."""


@dataclass(frozen=True)
class Ask:
    """One line of the mix: what is asked for, how often, and what a good answer is.

    path, method, body, expect_status, expect_length, expect_body: as in LoadProfile.
    weight: how often in relation to the other lines, above 0.
    """

    path: str
    weight: float = 1.0
    method: str = "GET"
    body: str = ""
    expect_status: int = 200
    expect_length: int | None = None
    expect_body: str | None = None


@dataclass(frozen=True)
class Stage:
    """One step of a load that changes: `seconds` with so many users or at such a rate.

    users: in the closed loop. rate: requests/s, in the open loop. ramp: get there evenly from the
    step before over the whole of `seconds`, instead of at once.
    """

    seconds: float
    users: int | None = None
    rate: float | None = None
    ramp: bool = False


@dataclass(frozen=True)
class LoadProfile:
    """One load, checked when built.

    Fields (unit, range):

    path: what to ask for, from ``/``; ASCII without blanks.
    users: concurrent clients, 1 to 20,000; in the open loop, the most connections at once.
    requests: how many requests in all (over all users and processes), 1 to 20 million. Exact.
    duration: seconds to go on claiming new requests, up to 3600. With `requests`, what ends first.
    keep_alive: one connection per user (True) or per request (False), or the share of users that
        keep theirs, 0 to 1.
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
        Locust's request event for every response, for those who attach listeners (slower).
    expect_body: the SHA-256 of a good answer's body in hexadecimal, "same" for whatever the first
        answer's was, or None for any. Short answers are compared all, byte by byte; of those longer
        than 8 KB a share of `body_sample` (0 to 1).
    mix: several Asks instead of path, method, body and what is expected; drawn by weight.
    requests_per_connection: after how many a kept connection is closed by the client's wish, 1 or
        more; None leaves it to the server.
    think_time: seconds a user waits between an answer and its next request, 0 to 600 (closed loop).
    think: "constant", or "exponential" with think_time as its mean.
    arrival: "closed", "constant" or "poisson". rate: requests/s in all of the open loop, up to a
        million.
    ramp: seconds over which the users appear, 0 to 3600; 0: all at once.
    stages: Stages instead of users or rate, and duration: steps and ramps, to find the knee.
    slow_readers: clients beside the users that read at read_rate bytes/s (1 to 10 million).
    idle_holders: clients beside the users that hold a connection. idle_request: whether they ask
        once first (a kept-alive connection), or never (a connection without a request).
    ca_file: certificates to trust for https; None: none is checked on loopback, the system's are
        elsewhere.
    seed: of the random numbers (mix, think times, Poisson arrivals). None: each run draws one anew
        and tells it (`LoadRun.profile.seed`, the column `seed`), so that many short runs have the
        rate that was asked on average, and any of them can be repeated.

    Raises ProfileError naming every field at fault.
    """

    path: str = "/"
    users: int = 1
    requests: int | None = None
    duration: float | None = None
    keep_alive: bool | float = False
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
    expect_body: str | None = None
    body_sample: float = 0.01
    mix: tuple[Ask, ...] = ()
    requests_per_connection: int | None = None
    think_time: float = 0.0
    think: str = "constant"
    arrival: str = "closed"
    rate: float | None = None
    ramp: float = 0.0
    stages: tuple[Stage, ...] = ()
    slow_readers: int = 0
    read_rate: float = 1_000.0
    idle_holders: int = 0
    idle_request: bool = True
    ca_file: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        # Lists are what JSON and notebooks give; a frozen value wants tuples.
        if isinstance(self.headers, (list, tuple)):
            object.__setattr__(
                self,
                "headers",
                tuple(
                    tuple(pair) if isinstance(pair, (list, tuple)) else pair
                    for pair in self.headers
                ),
            )
        problems: list[str] = []
        for name, kind in (("mix", Ask), ("stages", Stage)):
            object.__setattr__(self, name, _lines(name, kind, getattr(self, name), problems))
        # The most users that any step has: what files and processes are planned for.
        steps: list[Any] = [stage.users for stage in self.stages if _is_int(stage.users)]
        if steps and self.arrival == "closed":
            object.__setattr__(self, "users", max(steps))
        problems += _problems(self)
        if problems:
            raise ProfileError("; ".join(problems))

    def but(self, **changes: Any) -> LoadProfile:
        """The same load with some fields changed. Raises ProfileError for an unknown field."""
        _refuse_unknown(changes)
        return replace(self, **changes)

    @property
    def keep_share(self) -> float:
        """The share of the users that keep their connections, 0 to 1."""
        return float(self.keep_alive)

    @property
    def open_loop(self) -> bool:
        """Whether requests are due at times of their own, instead of after the last answer."""
        return self.arrival != "closed"

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The mix; of one line if there is none."""
        return self.mix or (
            Ask(
                self.path,
                1.0,
                self.method,
                self.body,
                self.expect_status,
                self.expect_length,
                self.expect_body,
            ),
        )

    @property
    def plain(self) -> bool:
        """Whether each user sends the same request in a closed loop, all kept alive or none: what
        the generator has its fastest loops for."""
        return (
            not self.mix
            and not self.open_loop
            and self.keep_share in (0.0, 1.0)
            and self.requests_per_connection is None
            and not self.think_time
        )

    @property
    def clients(self) -> int:
        """All connections at once: users, slow readers and idle holders."""
        return self.users + self.slow_readers + self.idle_holders

    @property
    def planned_seconds(self) -> float | None:
        """How long claiming goes on: the duration, or that of all stages, or None."""
        return sum(stage.seconds for stage in self.stages) if self.stages else self.duration

    def level_at(self, seconds: float) -> float:
        """Users (closed loop) or rate (open loop) that are due so long after the measured part's
        begin; before it what it begins with, after it what it ends with."""
        now = float((self.rate or 0.0) if self.open_loop else self.users)
        if not self.stages:
            if not self.open_loop and self.ramp and seconds < self.ramp:
                return max(1.0, now * max(0.0, seconds) / self.ramp)
            return now
        begin, before = 0.0, None
        for stage in self.stages:
            level = float((stage.rate if self.open_loop else stage.users) or 0)
            now = level
            if seconds < begin + stage.seconds:
                if stage.ramp:
                    share = max(0.0, seconds - begin) / stage.seconds
                    start = before if before is not None else (0.0 if self.open_loop else 1.0)
                    now = start + (level - start) * share
                return now
            begin, before = begin + stage.seconds, level
        return now

    @property
    def http_version(self) -> str:
        """ "1.1" for keep-alive, "1.0" (ab's own) where each request has a connection of its own."""
        return "1.1" if self.keep_alive else "1.0"

    def request_bytes(
        self, host: str, ask: Ask | None = None, *, keep: bool | None = None, last: bool = False
    ) -> bytes:
        """The request, as sent. `host` is what stands in the Host field, like ``127.0.0.1:8080``.

        ask: a line of the mix (the first by default). keep: for a connection that is kept (as
        `keep_alive` says by default). last: ask the server to close it after this one.
        """
        ask = ask or self.asks[0]
        keep = bool(self.keep_alive) if keep is None else keep
        body = ask.body.encode()
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{ask.method} {ask.path} HTTP/{'1.1' if keep else '1.0'}"]
        if "host" not in names:
            lines.append(f"Host: {host}")
        if "user-agent" not in names:
            lines.append("User-Agent: mpmkit-load")
        if "accept" not in names:
            lines.append("Accept: */*")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if keep and last:
            lines.append("Connection: close")
        if ask.method == "POST":
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
            raise ProfileError('a load profile must be a JSON object like {"path": "/"}')
        version = data.pop("version", VERSION)
        if version not in READS:
            raise ProfileError(
                f"version: this mpmkit reads version {' and '.join(map(str, READS))}"
                f", not {version!r}"
            )
        _refuse_unknown(data)
        return cls(**data)


def new_seed() -> int:
    """A seed for a run whose profile names none, to be recorded with it."""
    return random.SystemRandom().randrange(1 << 31)


def _refuse_unknown(data: dict[str, Any]) -> None:
    known = [field.name for field in fields(LoadProfile)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ProfileError(
            f"{', '.join(unknown)}: no such field in a load profile, which has {', '.join(known)}"
        )


def _lines(name: str, kind: Any, values: Any, problems: list[str]) -> tuple:
    """Asks or Stages, also from the dictionaries that JSON and notebooks give."""
    if not isinstance(values, (list, tuple)):
        problems.append(f"{name}: must be a list of {kind.__name__}s, not {values!r}")
        return ()
    made = []
    known = [field.name for field in fields(kind)]
    for number, value in enumerate(values, 1):
        if isinstance(value, Mapping):
            unknown = sorted(set(map(str, value)) - set(known))
            if unknown:
                problems.append(
                    f"{name}: {number}: {', '.join(unknown)}: no such field, it has "
                    f"{', '.join(known)}"
                )
                continue
            if known[0] not in value:
                problems.append(f"{name}: {number}: gives no {known[0]}")
                continue
            value = kind(**value)
        if isinstance(value, kind):
            made.append(value)
        else:
            problems.append(f"{name}: {number}: must be a {kind.__name__}, not {value!r}")
    return tuple(made)


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

    def share(name: str):
        value = getattr(p, name)
        if not (isinstance(value, bool) or _is_number(value)) or not 0 <= value <= 1:
            yield f"{name}: must be 0 to 1, not {value!r}"

    if p.mix:
        default = LoadProfile.__dataclass_fields__
        for name in ("path", "method", "body", "expect_status", "expect_length", "expect_body"):
            if getattr(p, name) != default[name].default:
                yield f"{name}: say it in the mix, which is given too"
        for number, ask in enumerate(p.mix, 1):
            yield from _ask_problems(ask, f"mix: {number}: ")
            if not _is_number(ask.weight) or not 0 < ask.weight < float("inf"):
                yield f"mix: {number}: weight: must be above 0, not {ask.weight!r}"
    else:
        yield from _ask_problems(p.asks[0], "", ("path",))
    yield from whole("users", 1, MAX_USERS)
    yield from whole("requests", 1, MAX_REQUESTS, optional=True)
    yield from seconds("duration", 0.01, MAX_SECONDS, optional=True)
    if p.requests is None and p.duration is None and not p.stages:
        yield "requests: give requests=N, duration=seconds or both, or the load would never end"
    if not (
        isinstance(p.keep_alive, bool) or (_is_number(p.keep_alive) and 0 <= p.keep_alive <= 1)
    ):
        yield f"keep_alive: must be True, False or a share from 0 to 1, not {p.keep_alive!r}"
    if not p.mix:
        yield from _ask_problems(p.asks[0], "", ("method",))
    yield from _header_problems(p.headers)
    if not p.mix:
        yield from _ask_problems(
            p.asks[0], "", ("body", "expect_status", "expect_length", "expect_body")
        )
    yield from seconds("timeout", 0.05, 600)
    yield from whole("warmup_requests", 0, MAX_REQUESTS)
    yield from seconds("warmup_seconds", 0, 600)
    yield from whole("processes", 1, 64)
    if _is_int(p.processes) and _is_int(p.users) and p.processes > p.users >= 1:
        yield (
            f"processes: {p.processes} processes cannot share {p.users} user(s), "
            f"give at most {p.users}"
        )
    yield from seconds("time_limit", 0.1, MAX_SECONDS)
    if p.events not in EVENTS:
        yield f"events: must be one of {', '.join(EVENTS)}, not {p.events!r}"
    yield from share("body_sample")
    yield from _behaviour_problems(p, whole, seconds)


def _ask_problems(ask: Ask, where: str, only: tuple[str, ...] = ()):
    """What is wrong with one line of the mix; `only` picks fields, in the order of the profile."""

    def looked_at(name: str) -> bool:
        return not only or name in only

    if looked_at("path"):
        if not isinstance(ask.path, str) or not ask.path.startswith("/"):
            yield f"{where}path: must begin with '/', not {ask.path!r}"
        elif not ask.path.isascii() or any(c <= " " or c == "\x7f" for c in ask.path):
            yield (
                f"{where}path: must be ASCII without blanks (percent-encode them), not {ask.path!r}"
            )
    if looked_at("method") and ask.method not in METHODS:
        yield f"{where}method: must be one of {', '.join(METHODS)}, not {ask.method!r}"
    if looked_at("body"):
        if not isinstance(ask.body, str):
            yield f"{where}body: must be text, not {type(ask.body).__name__}"
        elif ask.body and ask.method != "POST":
            yield f"{where}body: only POST carries one, and method is {ask.method!r}"
        elif len(ask.body.encode()) > MAX_BODY:
            yield f"{where}body: must be at most {MAX_BODY:,} bytes"
    for name, low, high in (("expect_status", 100, 599), ("expect_length", 0, 1 << 40)):
        value = getattr(ask, name)
        if (
            looked_at(name)
            and not (value is None and name == "expect_length")
            and (not _is_int(value) or not low <= value <= high)
        ):
            yield f"{where}{name}: must be a whole number from {low} to {high:,}, not {value!r}"
    if (
        looked_at("expect_body")
        and ask.expect_body is not None
        and not (
            isinstance(ask.expect_body, str) and re.fullmatch(r"same|[0-9a-f]{64}", ask.expect_body)
        )
    ):
        yield (
            f"{where}expect_body: must be 'same' or a SHA-256 of 64 hexadecimal digits, "
            f"not {ask.expect_body!r}"
        )


def _behaviour_problems(p: LoadProfile, whole, seconds):
    """What is wrong with who sends when."""

    def number(name: str, low: float, high: float):
        value = getattr(p, name)
        if not _is_number(value) or not low <= value <= high:
            yield f"{name}: must be {low:,g} to {high:,g}, not {value!r}"

    yield from whole("requests_per_connection", 1, MAX_REQUESTS, optional=True)
    if p.requests_per_connection is not None and not p.keep_alive:
        yield "requests_per_connection: only kept connections carry several, set keep_alive"
    yield from seconds("think_time", 0, 600)
    if p.think not in THINKS:
        yield f"think: must be one of {', '.join(THINKS)}, not {p.think!r}"
    if p.arrival not in ARRIVALS:
        yield f"arrival: must be one of {', '.join(ARRIVALS)}, not {p.arrival!r}"
        return
    rates = [stage.rate for stage in p.stages]
    if p.open_loop:
        if p.think_time:
            yield "think_time: in the open loop requests are due by rate, nobody thinks; leave it"
        if p.ramp:
            yield "ramp: in the open loop it is the rate that grows; use stages with ramp=True"
        if p.stages and p.rate is not None:
            yield "rate: the stages say it"
        elif not p.stages and p.rate is None:
            yield f"rate: arrival={p.arrival!r} needs the requests per second"
        elif p.rate is not None:
            yield from number("rate", 0.01, MAX_RATE)
    elif p.rate is not None:
        yield "rate: only the open loop has one; set arrival to constant or poisson"
    yield from seconds("ramp", 0, MAX_SECONDS)
    if p.stages:
        for name in ("requests", "duration", "ramp", "warmup_requests"):
            if getattr(p, name):
                yield f"{name}: the stages say how long and how much; leave it"
    stage: Any
    for number_, stage in enumerate(p.stages, 1):
        where = f"stages: {number_}: "
        if not _is_number(stage.seconds) or not 0.1 <= stage.seconds <= MAX_SECONDS:
            yield f"{where}seconds: must be 0.1 to {MAX_SECONDS:g}, not {stage.seconds!r}"
        if p.open_loop:
            if not _is_number(stage.rate) or not 0.01 <= stage.rate <= MAX_RATE:
                yield f"{where}rate: must be 0.01 to {MAX_RATE:,g}, not {stage.rate!r}"
            if stage.users is not None:
                yield f"{where}users: in the open loop the stages set the rate"
        else:
            if not _is_int(stage.users) or not 1 <= stage.users <= MAX_USERS:
                yield (
                    f"{where}users: must be a whole number from 1 to {MAX_USERS:,}, "
                    f"not {stage.users!r}"
                )
            if stage.rate is not None:
                yield f"{where}rate: in the closed loop the stages set the users"
        if not isinstance(stage.ramp, bool):
            yield f"{where}ramp: must be True or False, not {stage.ramp!r}"
    if rates and all(_is_number(stage.seconds) for stage in p.stages):
        total = sum(stage.seconds for stage in p.stages)
        if total > MAX_SECONDS:
            yield f"stages: take {total:g} seconds, more than {MAX_SECONDS:g}"
    yield from whole("slow_readers", 0, MAX_USERS)
    yield from number("read_rate", 1, 10_000_000)
    yield from whole("idle_holders", 0, MAX_USERS)
    if all(_is_int(n) for n in (p.users, p.slow_readers, p.idle_holders)) and (
        p.users <= MAX_USERS < p.clients
    ):
        yield (
            f"idle_holders: {p.clients:,} clients in all (users, slow readers, idle holders) "
            f"are more than {MAX_USERS:,}"
        )
    if not isinstance(p.idle_request, bool):
        yield f"idle_request: must be True or False, not {p.idle_request!r}"
    if p.ca_file is not None and not isinstance(p.ca_file, str):
        yield f"ca_file: must be a path, not {p.ca_file!r}"
    if p.seed is not None and not (_is_int(p.seed) and p.seed >= 0):
        yield f"seed: must be a whole number from 0, not {p.seed!r}"


def _header_problems(headers: object):
    if not isinstance(headers, tuple):
        yield f"headers: must be (name, value) pairs, not {headers!r}"
        return
    for pair in headers:
        if not (
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(isinstance(part, str) for part in pair)
        ):
            yield f"headers: must be (name, value) pairs of text, not {pair!r}"
        elif not pair[0] or any(c in pair[0] for c in ": \t\r\n") or not pair[0].isascii():
            yield f"headers: {pair[0]!r} is no field name"
        elif any(c in pair[1] for c in "\r\n\0"):
            yield f"headers: the value of {pair[0]} must not contain line ends"
        elif not pair[1].isascii():
            yield f"headers: the value of {pair[0]} must be ASCII"
        elif pair[0].lower() in ("content-length", "transfer-encoding", "connection"):
            yield f"headers: {pair[0]} follows from method, body and keep_alive, leave it out"


class Target(NamedTuple):
    """Where a load goes: scheme ("http" or "https"), host, port, and whether it is loopback."""

    scheme: str
    host: str
    port: int
    loopback: bool

    @property
    def place(self) -> str:
        """host:port, as in a Host field."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL without a path."""
        return f"{self.scheme}://{self.place}"


def loopback_target(url: object) -> tuple[str, int]:
    """(host, port) of `target_of`."""
    found = target_of(url)
    return found.host, found.port


def target_of(url: object, yours: str | None = None) -> Target:
    """The target of ``http://HOST:PORT`` or ``https://HOST:PORT``.

    HOST is this machine's loopback and nothing else: a load generator that fires at whatever it is
    given is a weapon; this one measures servers on the machine it runs on. Who measures between two
    machines of their own names them in the environment, ``MPMKIT_TARGETS=10.0.0.2,lab.example``
    (`yours` in tests): exactly those hosts, no pattern, and nothing in mpmkit sets it.

    Raises ValueError with the mend for anything else.
    """
    example = "give one like http://127.0.0.1:8080"
    if not isinstance(url, str):
        raise ValueError(f"target: must be a server or its URL, not {url!r}; {example}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target: {url!r} is no URL ({error}); {example}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"target: {url!r} is no http or https URL; {example}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            f"target: {url!r} holds more than a host and a port; give the path as path="
        )
    loopback = host == "localhost"
    if not loopback:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            pass
    if not loopback:
        named = os.environ.get(TARGETS_VARIABLE, "") if yours is None else yours
        if host not in {name.strip().lower() for name in named.split(",")}:
            raise ValueError(
                f"target: {host} is not this machine's loopback; load goes to "
                f"127.0.0.1, [::1] or localhost only, and to hosts that you name as "
                f"yours in {TARGETS_VARIABLE} (see docs/LOAD.md)"
            )
    default = 443 if parts.scheme == "https" else 80
    return Target(parts.scheme, host, default if port is None else port, loopback)
