"""A load, written down as data.

`locustfile.py` executes it, `runner.py` passes it on as JSON. Each field is described once (`fields.py`): its
check, documentation, command-line option and place in the control room's form come from there, see docs/LOAD.md.

`keep_alive` False: a new connection for every request, sent as HTTP/1.0 as ab does, so that the server closes it.
True: one HTTP/1.1 connection per user, until the server closes it, or `requests_per_connection`, then another,
which is no failure. With a `plan` a connection is opened for each of its lines.
"""

import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from mpmkit.load.fields import choice, documented, number, problems_of, several, switch, text, whole

METHODS = ("GET", "HEAD", "POST")
PATH = ("/[!-~]*", "begin with '/' and be ASCII without blanks (percent-encode them)")
BODY = (r"(?s).{0,1048576}", "be at most 1,048,576 characters")
MAX_USERS = 20_000  # each is one greenlet and one socket; a larger load needs more machines
MAX_SECONDS = 3600.0  # of a run
MAX_RATE = 1_000_000.0  # requests/s of an open loop; no generator comes near
ARRIVALS = ("closed", "constant", "poisson")
THINKS = ("constant", "exponential")
MAX_REQUESTS = 20_000_000  # of a run: a latency takes 8 bytes, so this many fill 160 MB
UNBOUNDED: dict[str, Any] = {"requests": MAX_REQUESTS, "time_limit": MAX_SECONDS}


class ProfileError(ValueError):
    """A load profile that cannot be executed. Its text names each invalid field and the remedy."""


@dataclass(frozen=True)
class RequestFields:
    """What is requested, and what a good answer is."""

    path: str = text("/", "what to request, from / on", like=PATH)
    method: str = choice("GET", METHODS, "of the request")
    body: str = text("", "sent with POST, in UTF-8", like=BODY)
    expect_status: int | None = whole(200, 100, 599, "the status of a good answer", none="any")
    expect_length: int | None = whole(
        None, 0, 1 << 40, "of a good answer's body", unit="bytes", none="any"
    )


@dataclass(frozen=True)
class RequestSpec(RequestFields):
    """One line of a mix: what is requested, how often, and what a good answer is."""

    weight: float = number(1.0, 1e-9, 1e9, "", "how often, in relation to the other lines")
    port: int | None = whole(None, 1, 65535, "another port of the target's host", none="its own")

    @property
    def name(self) -> str:
        """The line in statistics: its path, after ":PORT" if it has one of its own."""
        return f":{self.port}{self.path}" if self.port else self.path


@dataclass(frozen=True)
class Stage:
    """One step of a load that changes: for some seconds so many users, or such a rate."""

    seconds: float = number(MISSING, 0.01, MAX_SECONDS, "seconds", "how long")
    users: int | None = whole(None, 1, MAX_USERS, "concurrent clients", loop="closed")
    rate: float | None = number(
        None, 0.01, MAX_RATE, "requests/s", "requests due in all", loop="open"
    )
    ramp: bool = switch(False, "get there evenly over the whole time, not at once")
    line: int = whole(
        0, 0, 1_000, "open loop: of the mix, from 1, that its requests are of; 0 is by weight"
    )


@dataclass(frozen=True)
class LoadProfile(RequestFields):
    """One load, checked when built. Raises ProfileError naming every invalid field.

    The fields, with range and default:

    """

    users: int = whole(1, 1, MAX_USERS, "concurrent clients; in the open loop, at most")
    requests: int | None = whole(None, 1, MAX_REQUESTS, "over all users; exact", none="no limit")
    duration: float | None = number(
        None, 0.01, MAX_SECONDS, "seconds", "how long new requests are sent", none="no limit"
    )
    keep_alive: bool = switch(False, "a connection for each user, not for each request")
    headers: tuple[tuple[str, str], ...] = several("extra (name, value) pairs, in every request")
    timeout: float = number(30.0, 0.05, 600, "seconds", "within which a request must be answered")
    warmup_seconds: float = number(0.0, 0, 600, "seconds", "of load before what is counted")
    processes: int = whole(1, 1, 64, "generator processes, at most one per user")
    time_limit: float = number(600.0, 0.1, MAX_SECONDS, "seconds", "after which the run ends")
    mix: tuple[RequestSpec, ...] = several("RequestSpecs, drawn by weight, instead of one request")
    requests_per_connection: int | None = whole(
        None, 1, MAX_REQUESTS, "then the client closes it", none="the server decides"
    )
    think_time: float = number(
        0.0, 0, 600, "seconds", "between an answer and the user's next request", loop="closed"
    )
    think: str = choice(
        "constant", THINKS, "all the same, or random with think_time as their mean", loop="closed"
    )
    arrival: str = choice(
        "closed", ARRIVALS, "a request is sent after the last answer, or at times of its own"
    )
    rate: float | None = number(
        None, 0.01, MAX_RATE, "requests/s", "due in all in the open loop", none="-", loop="open"
    )
    plan: str | None = text(
        None, "a file with a line for each connection: SECONDS,LINE of each request, and `close`",
        like=("/.+", "be an absolute path"), none="as arrival and rate say", loop="open",
    )  # fmt: skip
    ramp: float = number(0.0, 0, MAX_SECONDS, "seconds", "of the users' arrival", loop="closed")
    stages: tuple[Stage, ...] = several("Stages instead of users or rate, and duration")
    idle_holders: int = whole(
        0, 0, MAX_USERS, "further clients: one request each, then they hold their connection"
    )
    ca_file: str | None = text(
        None, "certificates to trust for https", none="no check on loopback, else the system's"
    )
    seed: int | None = whole(None, 0, (1 << 63) - 1, "of random numbers", none="a new one a run")

    def __post_init__(self) -> None:
        problems: list[str] = []
        own = vars(
            self
        )  # to be set: lists are what JSON and notebooks give; a frozen value wants tuples
        if isinstance(self.headers, (list, tuple)):
            own["headers"] = tuple(tuple(p) if isinstance(p, list) else p for p in self.headers)
        own["mix"] = _lines("mix", RequestSpec, self.mix, problems)
        own["stages"] = _lines("stages", Stage, self.stages, problems)
        # The most users that any step has: what files and processes are planned for.
        steps = [stage.users for stage in self.stages if isinstance(stage.users, int)]
        if steps and not self.open_loop:
            own["users"] = max(steps)
        problems += _problems(self)
        if problems:
            raise ProfileError("; ".join(problems))

    def but(self, **changes: Any) -> "LoadProfile":
        """The same load with some fields changed. Raises ProfileError for an unknown field."""
        return profile_with(changes, self)

    @property
    def open_loop(self) -> bool:
        """Whether requests are due on a schedule, instead of after the last answer."""
        return self.arrival != "closed"

    @property
    def specs(self) -> tuple[RequestSpec, ...]:
        """The mix; of one line, if there is just one request."""
        one = {field.name: getattr(self, field.name) for field in fields(RequestFields)}
        return self.mix or (RequestSpec(**one),)

    @property
    def planned_seconds(self) -> float | None:
        """How long new requests are sent: the duration, or the sum of all stages, or None."""
        return sum(stage.seconds for stage in self.stages) if self.stages else self.duration

    def course(self) -> list[tuple[float, float, float, float]]:
        """(begin, end, first, last) of each stretch of the measured part: its seconds, and the users (closed
        loop) or the rate (open loop), which change evenly in it. The last one never ends."""
        now = float((self.rate or 0.0) if self.open_loop else self.users)
        made = [(0.0, self.ramp, 0.0, now)] if self.ramp and not self.stages else []
        begin, before = self.ramp if made else 0.0, 0.0 if self.open_loop else 1.0
        for stage in self.stages:
            now = float((stage.rate if self.open_loop else stage.users) or 0)
            made.append((begin, begin + stage.seconds, before if stage.ramp else now, now))
            begin, before = begin + stage.seconds, now
        return [*made, (begin, math.inf, now, now)]

    def level_at(self, seconds: float) -> float:
        """Users or rate due so long after the measured part's begin; outside of it, that of its nearest end."""
        begin, end, first, last = next(one for one in self.course() if seconds < one[1])
        return first + (last - first) * max(0.0, seconds - begin) / (end - begin)

    def request_bytes(self, host: str, spec: RequestSpec, keep: bool, last: bool = False) -> bytes:
        """The request, as sent. host: the Host field. spec: a line of the mix. keep: for a connection that is
        kept; last: which the server is to close after it."""
        body = spec.body.encode()
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{spec.method} {spec.path} HTTP/{'1.1' if keep else '1.0'}"]
        own = (("Host", host), ("User-Agent", "mpmkit-load"), ("Accept", "*/*"))
        lines += [f"{name}: {value}" for name, value in own if name.lower() not in names]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if keep and last:
            lines.append("Connection: close")
        if spec.method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def to_json(self) -> str:
        """The profile as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "LoadProfile":
        """A profile read back. Raises ProfileError for anything but what `to_json` writes."""
        return profile_with(loaded(text))


LoadProfile.__doc__ = f"{(LoadProfile.__doc__ or '').rstrip()}\n\n{documented(LoadProfile)}\n"


def arrivals(profile: LoadProfile, index: int = 0, of: int = 1) -> Iterator[float]:
    """Seconds at which generator `index` of `of` has a request due, from the warm-up's begin on; 0 is the begin
    of what is measured. Never ends. The same for the same seed; without one every call draws others.

    The n-th request is due when the area under the rate has grown to n:

        rate     |        ____________          constant: n = 1, 2, 3, ...
                 |      /|            |         poisson:  n grows by exponential steps of mean 1
                 |____/  |            |
                 +-------------------------     area(t): how many are due until t
                 warm-up  ramp   step

    This holds for steps and ramps alike: a Poisson process of a changing rate is one of rate 1 with rescaled
    time. Generators share one schedule by taking turns (constant: every k-th request) or by thinning (poisson:
    the k-th part of the rate each, whose sum is Poisson again).
    """
    source = random.Random(None if profile.seed is None else f"{profile.seed} {index} {of}")
    constant, warm, now = profile.arrival == "constant", profile.warmup_seconds, profile.level_at(0)
    due = float(index + 1) if constant else source.expovariate(1.0) * of  # the area then
    area = 0.0
    for begin, end, first, last in [(-warm, 0.0, now, now)] * (warm > 0) + profile.course():
        before, area = area, area + (first + last) / 2 * (end - begin)
        slope = (last - first) / (end - begin)  # 0 at last, in what never ends
        while due <= area:
            # first * x + slope / 2 * x^2 = more, solved in the form that does not cancel.
            more = due - before
            root = math.sqrt(max(0.0, first * first + 2 * slope * more))
            yield min(end, begin + 2 * more / (first + root or 1.0))
            due += of if constant else source.expovariate(1.0) * of


def loaded(text: str) -> dict[str, Any]:
    """The fields that a profile's JSON gives. Raises ProfileError for other text."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ProfileError(f"a load profile must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise ProfileError('a load profile must be a JSON object like {"path": "/"}')
    return data


def profile_with(given: Mapping[str, Any], base: LoadProfile | None = None) -> LoadProfile:
    """These fields, the others as in `base` or the default. Raises ProfileError, also for unknown names."""
    known = [field.name for field in fields(LoadProfile)]
    if unknown := ", ".join(sorted(set(given) - set(known))):
        raise ProfileError(f"{unknown}: no such field, LoadProfile has {', '.join(known)}")
    return LoadProfile(**given) if base is None else replace(base, **given)


def _lines(name: str, kind: Any, values: Any, problems: list[str]) -> tuple:
    """RequestSpecs or Stages, also from the dictionaries that JSON and notebooks give."""
    made = []
    for place, value in enumerate(values if isinstance(values, (list, tuple)) else [values], 1):
        try:
            made.append(value if isinstance(value, kind) else kind(**value))
        except TypeError as error:  # its message names the unknown or missing field
            problems.append(f"{name}: {place}: {error}")
    return tuple(made)


def _problems(p: LoadProfile) -> Iterator[str]:
    """Every reason why a profile cannot be executed, as "field: what is wrong; remedy"."""
    loop = "" if p.arrival not in ARRIVALS else "open" if p.open_loop else "closed"
    found = list(problems_of(p, loop=loop))
    yield from found
    bad = {text.partition(":")[0] for text in found}
    yield from _header_problems(p.headers)
    for field in fields(RequestFields) if p.mix else ():
        if getattr(p, field.name) != field.default:
            yield f"{field.name}: the mix says it; leave it"
    for place, spec in enumerate(p.specs, 1):
        where = f"mix: {place}: " if p.mix else ""
        if p.mix:
            yield from problems_of(spec, where)
        if spec.body and spec.method != "POST":
            yield f"{where}body: only POST has one, and method is {spec.method!r}"
    if p.requests is None and p.duration is None and not p.stages:
        yield "requests: give requests=N, duration=seconds or both, or the load would never end"
    if not bad & {"processes", "users"} and p.processes > p.users:
        few = f"{p.processes} processes cannot share {p.users} user(s)"
        yield f"processes: {few}, give at most {p.users}"
    if p.requests_per_connection is not None and not p.keep_alive:
        yield "requests_per_connection: only kept connections carry several; set keep_alive"
    if not bad & {"users", "idle_holders"} and (both := p.users + p.idle_holders) > MAX_USERS:
        yield f"idle_holders: {both:,} clients with the users are more than {MAX_USERS:,}"
    if loop == "open" and not p.stages and p.rate is None:
        yield f"rate: arrival={p.arrival!r} needs the requests per second"
    if loop and p.stages:
        yield from _stage_problems(p, loop)


def _stage_problems(p: LoadProfile, loop: str) -> Iterator[str]:
    for name in ("requests", "duration", "ramp", "rate"):
        if getattr(p, name):
            yield f"{name}: the stages say how long and how much; leave it"
    bad = False
    for place, stage in enumerate(p.stages, 1):
        found = list(problems_of(stage, f"stages: {place}: ", loop=loop))
        if not found and stage.line > len(p.mix) * p.open_loop:
            lines = f"the mix has {len(p.mix)} lines" if p.open_loop else "no line is due by time"
            found = [f"stages: {place}: line: {lines}, so there is no line {stage.line}"]
        yield from found
        bad |= bool(found)
    if not bad and (total := p.planned_seconds or 0.0) > MAX_SECONDS:
        yield f"stages: take {total:g} seconds, more than {MAX_SECONDS:g}"


def _header_problems(headers: object) -> Iterator[str]:
    for pair in headers if isinstance(headers, tuple) else (headers,):
        if not (isinstance(pair, tuple) and [type(part) for part in pair] == [str, str]):
            yield f"headers: must be (name, value) pairs of text, not {pair!r}"
            continue
        name, value = pair
        if not re.fullmatch(r"[!-9;-~]+", name):
            yield f"headers: {name!r} is not a field name"
        elif any(c in value for c in "\r\n\0") or not value.isascii():
            yield f"headers: the value of {name} must be ASCII without line ends"
        elif name.lower() in ("content-length", "transfer-encoding", "connection"):
            yield f"headers: {name} follows from method, body and keep_alive; leave it out"
