"""A trace: when requests came, how long they took, on which connection. Numbers only, in columns.

    trace = mpmkit.Trace.read("access.log", log_format="combined")
    trace.span, len(trace), max(trace.seconds), trace.think_times()
    trace.to_csv("trace.csv"); mpmkit.Trace.from_csv("trace.csv")

Its columns, notes and CSV have no address, no user agent and no path: a client is a number. httpd writes a
line when the request has ended, and %t is when it was received: the lines of a log are in the order of ends.
"""

from __future__ import annotations

import math
import operator
import os
from array import array
from bisect import bisect, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import accumulate, chain, count, islice, repeat
from types import SimpleNamespace
from typing import Any

from mpmkit.config import values
from mpmkit.measure import access_log
from mpmkit.measure.access_log import CACHED, Columns, Entries, LineFormat, Reader, TraceError
from mpmkit.policy.traffic import LONGEST

NAN = float("nan")
KEEP_ALIVE_TIMEOUT = 5.0  # seconds: httpd's default
# Seconds by which ends, or starts, of two lines may go back; more is the clock.
STEP_BACK = (5.0, 120.0)
SAMPLE = 20_000  # requests on which the error of the inference is estimated
LONGEST_KEPT = 600.0  # seconds for which a connection with %k is remembered
PURGE = 20_000  # requests after which connections that wait longer are forgotten
KEPT = {b"+": 1, b"-": 0, b"X": 0}

# Name of a column -> its type (array.array), how a CSV has it, and the value where it is not known (None: another
# number for each request).
COLUMNS: dict[str, tuple[str, str, float | None]] = {
    "start": ("d", "{:.6f}", NAN), "seconds": ("d", "{:.6f}", NAN), "size": ("q", "{}", 0),
    "client": ("I", "{}", None), "kept": ("b", "{}", -1), "connection": ("I", "{}", None),
}  # fmt: skip
LOGGED = COLUMNS | {"place": ("I", "", None), "serial": ("q", "", -1)}
del LOGGED["connection"]

Waiting = tuple[float, int, int]  # end of a connection's last request, its number, that request


@dataclass(eq=False)
class Trace:
    """The requests of an access log, one entry of each column a request, sorted by `start`.

    start       seconds from the first request's start, at which it was received
    seconds     from its reception to the end of its answer, as logged; nan if the log has none, or an impossible
                one: negative (the clock went back), infinite, or longer than 100 days
    size        bytes sent
    client      number of the client: the same address and user agent have the same
    kept        1: the connection was kept after the answer, 0: closed, -1: unknown
    connection  number of the connection
    begin       unix time of the first request's start, seconds
    notes       sentences: how connections were inferred, resolution of times, lines left out
    broken      the first lines that were left out, with their numbers: the only text of the log;
                `to_csv` does not write it

    Columns are arrays (array.array); any iterable is accepted, and all but `start` may be left out.
    Raises TraceError for columns of different lengths, and for starts that are not sorted and from 0 on.
    """

    start: Any
    seconds: Any = None
    size: Any = None
    client: Any = None
    kept: Any = None
    connection: Any = None
    begin: float = 0.0
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (code, _, missing) in COLUMNS.items():
            column = getattr(self, name)
            if column is None:
                column = range(len(self)) if missing is None else [missing] * len(self)
            try:
                column = array(code, column)
            except (TypeError, OverflowError) as error:
                raise TraceError(f"{name}: {error}") from None
            setattr(self, name, column)
            if len(column) != len(self):
                has = f"has {len(column):,} entries, start has {len(self):,}"
                raise TraceError(f"{name}: {has}")
        in_order = all(map(operator.le, self.start, islice(self.start, 1, None)))
        if len(self) and not (in_order and 0 <= self.start[0] <= self.start[-1] < math.inf):
            what = "seconds from 0 on, sorted, the columns in the same order"
            raise TraceError(f"start: must be {what}")
        if len(self) and 0 <= min(self.seconds) and max(self.seconds) <= LONGEST:
            return  # the usual case, twice as fast
        good = array("d", [s if 0 <= s <= LONGEST else NAN for s in self.seconds])
        if wrong := sum(map(math.isnan, good)) - sum(map(math.isnan, self.seconds)):
            text = f"{wrong:,} durations are negative or longer than 100 days and count as missing."
            self.seconds, self.notes = good, (*self.notes, text)

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return f"<Trace of {len(self):,} requests in {self.span:,.0f} s>"

    @property
    def timed(self) -> bool:
        """Whether the log has durations."""
        return any(map(math.isfinite, self.seconds))

    def complete(self) -> Trace:
        """This trace, or if at most 1% of its requests have no duration, one without those, with a note."""
        good = [i for i, seconds in enumerate(self.seconds) if seconds == seconds]
        lost = len(self) - len(good)
        if not 0 < lost <= access_log.BROKEN_SHARE * len(self):
            return self
        text = f"{lost:,} requests have no duration and are left out."
        return self.of(good, notes=(*self.notes, text))

    def of(self, places: Iterable[int], **changes: Any) -> Trace:
        """Its requests at those places, with other fields changed."""
        at = list(places)
        columns = {name: [getattr(self, name)[i] for i in at] for name in COLUMNS}
        return replace(self, **columns | changes)

    @property
    def span(self) -> float:
        """Seconds from the first request's start to the last request's end."""
        return max(self.ends(), default=0.0)

    def clock(self, seconds: float) -> str:
        """That second of the trace as local time: "Nov 29 09:05:07"."""
        return f"{datetime.fromtimestamp(self.begin + seconds):%b %d %H:%M:%S}"

    def ends(self) -> Iterator[float]:
        """For each request the second at which its answer ended; its start where no duration is known."""
        both = zip(self.start, self.seconds, strict=True)
        return (start + seconds if seconds == seconds else start for start, seconds in both)

    def think_times(self) -> array[float]:
        """Seconds from the end of an answer to the start of the next request on the same connection,
        0 or more, in the order of the requests that they precede."""
        ended: dict[int, float] = {}
        found = array("d")
        for start, end, number in zip(self.start, self.ends(), self.connection, strict=True):
            if number in ended:
                found.append(max(0.0, start - ended[number]))
            ended[number] = end
        return found

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write it as CSV: comments with `begin` and `notes`, a header, a line a request."""
        line = ",".join(form for _, form, _ in COLUMNS.values()) + "\n"
        columns = [getattr(self, name) for name in COLUMNS]
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"# begin: {self.begin:.6f}\n")
            file.writelines(f"# note: {' '.join(note.split())}\n" for note in self.notes)
            file.write(",".join(COLUMNS) + "\n")
            file.writelines(line.format(*row) for row in zip(*columns, strict=True))

    @classmethod
    def read(cls, logs: Any, *, log_format: str = "", conf: Any = None, lines: Any = None) -> Trace:
        """Read access logs: a path, "-" for standard input, a binary file, or several of them, sorted
        by their first times; .gz is recognised by its first bytes.

        log_format  a LogFormat, a nickname (common, combined, combinedio, vhost_combined), or a nickname and
                    more: "combined %D". Without it the first line decides.
        conf        an httpd.conf: its LogFormat and CustomLog, and its KeepAliveTimeout for logs without %k
        lines       a `numbered` of request lines; `size` is then the number of each

        Raises TraceError if more than 1% of the lines are not in that format, or the log has no request
        or cannot be read.
        """
        several = list(logs) if isinstance(logs, (list, tuple)) else [logs]
        nicknames, text, gap = access_log.NICKNAMES, log_format, KEEP_ALIVE_TIMEOUT
        if conf is not None:
            nicknames, text, gap = _from_conf(conf, str(several[0]), text)
        reader, blocks = access_log.in_order(several, LineFormat(text, nicknames) if text else None)
        form = reader.form
        if lines is not None and "line" not in form.columns:
            raise TraceError("paths: the log has no request lines; %r is one")
        columns = _columns(form, blocks, lines)
        reader.check()
        clock, begin = form.begin if form.begin.usable else form.end, columns.start[0]
        later: Iterable[float] = repeat(0.0)
        if clock.resolution == 1 and form.begin.usable:  # spread over each second, in their order
            offsets = lru_cache(CACHED)(lambda count: [1.0 / count * n for n in range(count)])
            later = chain.from_iterable(map(offsets, Counter(columns.start).values()))
        known = map(operator.add, columns.start, later)
        columns.start = array("d", map(operator.sub, known, repeat(begin)))
        serials, tolerance = "serial" in form.columns, max(1e-3, clock.resolution)
        numbers, kept, lost = joined(columns, gap, tolerance if serials else 1e-3, serials=serials)
        how = f"client, and a pause of at most {gap:g} s (KeepAliveTimeout)"
        if serials:
            guess = joined(columns, gap, 1e-3, serials=False, most=SAMPLE)[0]
            differ = map(operator.ne, _continues(guess), _continues(numbers[:SAMPLE]))
            wrong = sum(differ) / len(guess)
            joins = (
                f"Connections are those of %k; {lost:,} requests go on with one that began before the log. "
                f"By {how}, {wrong:.1%} of the requests would be wrongly taken to begin or to go on with one."
            )
        else:
            how += " and %X" * ("kept" in form.columns)
            error = "without %k the error of that is not known"
            joins = f"Connections are inferred from {how}; {error}."
        notes = tuple(_notes(reader, joins, columns, clock))
        found = columns.start, columns.seconds, columns.size, columns.client, kept, numbers
        return cls(*found, begin, notes, reader.examples())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a file of `to_csv`. Raises OSError, and TraceError, which names a line that is no request."""
        said: dict[str, list[str]] = defaultdict(list)
        columns: dict[str, Any] = {name: array(code) for name, (code, *_) in COLUMNS.items()}
        kinds = [(one, float if one.typecode == "d" else int) for one in columns.values()]
        with open(path, encoding="utf-8", errors="replace") as file:
            lines, line = enumerate(file, 1), ""
            for _, line in lines:
                if not line.startswith("# "):
                    break
                name, _, value = line[2:].strip().partition(": ")
                said[name].append(value)
            if line.strip() != ",".join(COLUMNS):
                raise TraceError(f"{path}: is not a trace: no line {','.join(COLUMNS)}")
            for number, line in lines:
                try:
                    for (column, kind), cell in zip(kinds, line.split(","), strict=True):
                        column.append(kind(cell))
                except (ValueError, OverflowError):
                    what = f"is not a request: {line[:80]!r}"
                    raise TraceError(f"{path}, line {number}: {what}") from None
        (begin,) = map(float, said["begin"] or ["0"])
        return cls(**columns, begin=begin, notes=tuple(said["note"]))


def _columns(form: LineFormat, blocks: Iterable[Entries], lines: dict[bytes, int] | None) -> Any:
    """LOGGED, in the order of starts; ports: whether they are logged; back: seconds by which the clock went
    back, at most."""
    at, salt, clients, places, last = form.columns, os.urandom(16), numbered(), numbered(), -1e18
    c = SimpleNamespace(ports="port" in at, back=0.0)
    vars(c).update((name, array(code)) for name, (code, *_) in LOGGED.items())
    placed = "port" in at or "process" in at

    def numbers(known: defaultdict[int, int], found: Columns, *names: str) -> list[int]:
        """Of clients, by a salted hash of those columns: no address is kept, even meanwhile."""
        texts = [found[at[name]] for name in names if name in at]
        salted = zip(repeat(salt), *texts, strict=False)
        return list(map(known.__getitem__, map(hash, salted))) if texts else []

    for found, starts, lasted in blocks:
        times = list(map(operator.add, starts, lasted)) if lasted else starts
        c.back = max(c.back, *map(operator.sub, [last, *times], times))
        last = times[-1]
        c.start.fromlist(starts)
        c.seconds.fromlist(lasted or [])
        if lines is not None:
            c.size.fromlist(list(map(lines.__getitem__, found[at["line"]])))
        elif "size" in at:
            c.size.fromlist(_wholes(found[at["size"]]))
        if "serial" in at:
            c.serial.fromlist(_wholes(found[at["serial"]]))
        c.client.fromlist(numbers(clients, found, "address", "agent"))
        if placed:
            c.place.fromlist(numbers(places, found, "address", "agent", "process", "port"))
        if "kept" in at:
            c.kept.fromlist([KEPT.get(sign, -1) for sign in found[at["kept"]]])
        elif "line" in at:  # HTTP/1.0 closes
            c.kept.fromlist([line.endswith(b" HTTP/1.0") - 1 for line in found[at["line"]]])
    size, order = len(c.start), None
    if not all(map(operator.le, c.start, islice(c.start, 1, None))):
        order = operator.itemgetter(*sorted(range(size), key=list(c.start).__getitem__))
    for name, (code, _, missing) in LOGGED.items():
        if not (column := getattr(c, name)):
            setattr(c, name, array(code, range(size) if missing is None else [missing] * size))
        elif order:
            setattr(c, name, array(code, order(column)))
    c.place = c.place if placed else c.client
    return c


def numbered() -> defaultdict[Any, int]:
    """Gives each key a number, in the order in which they first occur."""
    return defaultdict(count().__next__)


def _wholes(texts: Sequence[bytes]) -> list[int]:
    """Numbers of bytes, or of requests; 0 for "-" and for what no server can have counted."""
    with suppress(ValueError):
        found = list(map(int, texts))
        if 0 <= min(found) and max(found) < 10**18:
            return found
    return [int(text) if text.isdigit() and len(text) < 19 else 0 for text in texts]


def joined(
    columns: Any, gap: float, tolerance: float, *, serials: bool, most: int | None = None
) -> tuple[array[int], array[int], int]:
    """(number of the connection of each request, what became known of `kept`, requests whose %k has no
    predecessor). A request goes on with its client's connection that answered last before its start: the one
    whose %k is one less (`serials`), else one that ended at most `gap` seconds ago. A request after which the
    connection was closed repeats the %k of the one before it: httpd counts those after which it was kept. Its 0
    may also be the first request; only a logged port (`columns.ports`) decides that. columns: start, seconds,
    place, serial and kept, in the order of starts. tolerance: seconds by which times may be wrong. most: only
    so many of the first requests."""
    ends = array("d", map(operator.add, columns.start, islice(columns.seconds, most)))
    if math.isnan(sum(ends)):
        ends = array("d", [e if e == e else s for e, s in zip(ends, columns.start, strict=False)])
    limit = (LONGEST_KEPT if serials else gap) + tolerance
    kept, numbers, new, lost = array("b", columns.kept), array("I"), 0, 0
    # By client, and by the %k of the next request: the connections that wait for it, in order.
    there: dict[int, list[Waiting]] = {}
    waiting, add, purge, ports = there.get, numbers.append, PURGE, columns.ports
    logged = columns.start, ends, columns.place, columns.serial, columns.kept
    for index, start, end, key, serial, keeps in zip(count(), *logged, strict=False):
        low, high, best, then, waits = start - limit, start + tolerance, None, key, keeps
        if index >= purge:
            purge += PURGE
            for old in [one for one, some in there.items() if not some or some[-1][0] < low]:
                del there[old]
        if serials:
            key += serial << 32
            then = key + (1 << 32)
            # With a number of its own, - is MaxKeepAliveRequests, after which one more request may come.
            waits = keeps or serial
            if not keeps and (serial or ports) and (some := waiting(then)):
                best = some.pop() if low <= some[-1][0] <= high else _taken(some, low, high)
                waits = best is None and serial
        if best is None and (some := waiting(key)):
            best = some.pop() if low <= some[-1][0] <= high else _taken(some, low, high)
        if best is None:
            number, new = new, new + 1
            lost += serials and serial > 0
        else:
            _, number, before = best
            kept[before] = 1
        add(number)
        if waits:
            if not (some := waiting(then)):
                there[then] = [(end, number, index)]
            elif some[-1][0] < end:  # as insort does, and faster
                some.append((end, number, index))
            else:
                insort(some, (end, number, index))
    return numbers, kept, lost


def _taken(some: list[Waiting], low: float, high: float) -> Waiting | None:
    """Take the connection that answered last within those times out of those that wait, which are in order."""
    at = bisect(some, (high, math.inf)) - 1
    if at >= 0 and some[at][0] >= low:
        return some.pop(at)
    del some[: at + 1]  # too old, from now on
    return None


def _from_conf(conf: Any, log: str, text: str) -> tuple[dict[str, str], str, float]:
    """(nicknames, format, KeepAliveTimeout in s) of an httpd.conf; the format is `text`, or that of the
    CustomLog that writes a file of that name. Raises TraceError for one that cannot be read."""
    found, keep_alive = access_log.read_conf(conf), KEEP_ALIVE_TIMEOUT
    nicknames, logs, last = dict(access_log.NICKNAMES), [], access_log.COMMON
    lines = (*found.settings, *(line for host in found.hosts for line in host.settings))
    for name, first, *more in ((one.name.lower(), *one.args) for one in lines if one.args):
        if name == "logformat" and more:
            nicknames[more[0]] = first
        elif name == "logformat":
            last = first
        elif name in ("customlog", "transferlog"):
            logs.append((os.path.basename(first), more[0] if more else last))
        elif name == "keepalivetimeout":
            with suppress(ValueError):
                keep_alive = values.time((first, *more))
    if not text and not logs:
        raise TraceError(f"conf: {conf}: has no CustomLog; give log_format")
    name = os.path.basename(log)
    return nicknames, text or min(logs, key=lambda one: not name.startswith(one[0]))[1], keep_alive


def _continues(numbers: array[int]) -> Iterator[bool]:
    """For each request but the first whether its connection had one before: numbers are given in order."""
    return map(operator.le, islice(numbers, 1, None), accumulate(numbers, max))


def _notes(reader: Reader, joins: str, columns: Any, clock: access_log.Clock) -> Iterator[str]:
    form, text = reader.form, f"{reader.lines:,} lines of {reader.form.text!r}"
    if reader.broken:
        more = ", ..." * (reader.broken > len(reader.shown))
        text += f"; broken and left out: {reader.broken:,} ({'; '.join(reader.shown)}{more})"
    if reader.unfinished:
        text += "; a last line without its end is left out: the log is still being written"
    yield f"{text}."
    yield joins
    if not form.timed:
        yield "There are no durations: add %D to the LogFormat."
    else:
        span, longest = columns.start[-1], max(filter(math.isfinite, columns.seconds), default=0.0)
        more = f", longer than the {span:.3g} s in which requests began" * (longest > span)
        took = f"the longest request took {longest:.3g} s{more}"
        yield f"What still ran when the log ended is not in it; {took}."
    if clock.resolution == 1 and form.begin.usable:
        even = "the requests of a second are spread evenly over it, in the order of their ends"
        yield f"Times are whole seconds: {even}. Log %{{usec}}t to know them."
    elif clock.resolution == 1:
        yield "Times are whole seconds, and starts are wrong by up to one."
    if not clock.zoned:
        yield "Times have no zone and are taken as UTC; %t has one."
    if columns.back > STEP_BACK[not form.timed]:
        summer = ", as at the end of summer time where times have no zone" * (not clock.zoned)
        overlap = f"requests of before and after overlap{summer}"
        yield f"The clock goes back by {columns.back:,.0f} s in the log: {overlap}."
