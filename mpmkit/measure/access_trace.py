"""From the lines of access logs to the columns of a Trace: clients and paths become numbers, requests are put in
the order of their starts, and those of one connection are joined.

httpd writes a line when the request has ended, and %t is when it was received: lines are in the order of ends.
"""

from __future__ import annotations

import math
import operator
import os
import re
from array import array
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from itertools import chain, count, islice, repeat
from typing import Any

from mpmkit.measure import access_log
from mpmkit.measure.access_log import CACHED, Columns, Entries, LineFormat, Reader

KEEP_ALIVE_TIMEOUT = 5.0  # seconds: httpd's default
# Seconds by which ends, or starts, of two lines may go back; more is the clock.
STEP_BACK = (5.0, 120.0)
SAMPLE = 20_000  # requests on which the error of the inference is estimated
LONGEST_KEPT = 600.0  # seconds for which a connection with %k is remembered
PURGE = 20_000  # requests after which connections that wait longer are forgotten
KEPT = {b"+": 1, b"-": 0, b"X": 0}
# The columns, each with its value where the log has none.
MISSING: dict[str, Any] = {
    "start": math.nan, "seconds": math.nan, "size": 0, "client": 0, "place": 0, "serial": -1, "kept": -1,
}  # fmt: skip
Waiting = tuple[
    float, int, int
]  # end of the last request of a connection, its number, that request


class _Columns:
    """The columns of a trace as they grow, in the order of the lines."""

    def __init__(self, form: LineFormat, lines: defaultdict[bytes, int] | None) -> None:
        self.form, self.lines = form, lines
        self.ports = "port" in form.columns
        self.start, self.seconds, self.size = array("d"), array("d"), array("q")
        self.client, self.place, self.serial = array("I"), array("I"), array("q")
        self.kept = array("b")
        self.back = 0.0  # seconds by which the clock went back, at most
        self._last = -1e18
        self._clients, self._places = numbered(), numbered()
        self._salt = os.urandom(16)

    def add(self, entries: Entries) -> None:
        at, (found, starts, lasted) = self.form.columns, entries
        times = list(map(operator.add, starts, lasted)) if lasted else starts
        self.back = max(self.back, *map(operator.sub, [self._last, *times], times))
        self._last = times[-1]
        self.start.fromlist(starts)
        if lasted:
            self.seconds.fromlist(lasted)
        if self.lines is not None:
            self.size.fromlist(list(map(self.lines.__getitem__, found[at["line"]])))
        elif "size" in at:
            self.size.fromlist(_wholes(found[at["size"]]))
        if "serial" in at:
            self.serial.fromlist(_wholes(found[at["serial"]]))
        who = "address", "agent"
        self.client.fromlist(self._numbers(self._clients, found, *who))
        if "port" in at or "process" in at:
            self.place.fromlist(self._numbers(self._places, found, *who, "process", "port"))
        if "kept" in at:
            self.kept.fromlist([KEPT.get(sign, -1) for sign in found[at["kept"]]])
        elif "line" in at:  # HTTP/1.0 closes
            self.kept.fromlist([line.endswith(b" HTTP/1.0") - 1 for line in found[at["line"]]])

    def _numbers(self, known: defaultdict[int, int], found: Columns, *names: str) -> list[int]:
        """Of clients, by a salted hash of those columns: no address is kept, even meanwhile."""
        texts = [found[self.form.columns[name]] for name in names if name in self.form.columns]
        salted = zip(repeat(self._salt), *texts, strict=False)
        return list(map(known.__getitem__, map(hash, salted))) if texts else []

    def sort(self) -> None:
        """Put the requests in the order of their starts, and fill the columns that the log does not have."""
        count, start = len(self.start), self.start
        if not self.client:
            self.client = array("I", range(count))
        at = None
        if not all(map(operator.le, start, islice(start, 1, None))):
            at = operator.itemgetter(*sorted(range(count), key=list(start).__getitem__))
        for name, missing in MISSING.items():
            column = getattr(self, name)
            if not column:
                setattr(self, name, array(column.typecode, [missing]) * count)
            elif at:
                setattr(self, name, array(column.typecode, at(column)))
        if not ("port" in self.form.columns or "process" in self.form.columns):
            self.place = self.client


def numbered() -> defaultdict[Any, int]:
    """Gives each key a number, in the order in which they first occur."""
    known: defaultdict[Any, int] = defaultdict()
    known.default_factory = known.__len__
    return known


def _wholes(texts: Sequence[bytes]) -> list[int]:
    """Numbers of bytes, or of requests; 0 for "-" and for what no server can have counted."""
    with suppress(ValueError):
        found = list(map(int, texts))
        if 0 <= min(found) and max(found) < 10**18:
            return found
    return [int(text) if text.isdigit() and len(text) < 19 else 0 for text in texts]


def _spread(starts: array[float], begin: float) -> array[float]:
    """Seconds from `begin` of starts that are whole seconds: those of one are spread over it evenly, in their
    order."""
    offsets = lru_cache(CACHED)(lambda count: [1.0 / count * index for index in range(count)])
    later = chain.from_iterable(map(offsets, Counter(starts).values()))
    return array("d", map(operator.sub, map(operator.add, starts, later), repeat(begin)))


def joined(
    columns: Any, gap: float, tolerance: float, *, serials: bool, most: int | None = None
) -> tuple[array[int], array[int], int]:
    """(number of the connection of each request, what became known of `kept`, requests whose %k has no
    predecessor). A request goes on with its client's connection that answered last before its start: the one
    whose %k is one less (`serials`), else one that ended at most `gap` seconds ago. A request after which the
    connection was closed repeats the %k of the one before it: httpd counts those after which it was kept. Its 0
    may also be the first request; only a logged port (`columns.ports`) decides that.

    columns: start, seconds, place, serial and kept, in the order of starts. tolerance: seconds by which times
    may be wrong. most: only so many of the first requests.
    """
    ends = array("d", map(operator.add, columns.start, islice(columns.seconds, most)))
    if math.isnan(sum(ends)):
        ends = array("d", [e if e == e else s for e, s in zip(ends, columns.start, strict=False)])
    limit = (LONGEST_KEPT if serials else gap) + tolerance
    kept, numbers, new, lost = array("b", columns.kept), array("I"), 0, 0
    # By client, and by the %k of the next request: the connections that wait for it, in order.
    there: dict[int, list[Waiting]] = {}
    waiting, add, purge, ports = there.get, numbers.append, PURGE, columns.ports
    rows = zip(
        count(), columns.start, ends, columns.place, columns.serial, columns.kept, strict=False
    )
    for index, start, end, key, serial, keeps in rows:
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
            elif some[-1][0] < end:
                some.append((end, number, index))
            else:
                insort(some, (end, number, index))
    return numbers, kept, lost


def _taken(some: list[Waiting], low: float, high: float) -> Waiting | None:
    """Take the connection that answered last within those times out of those that wait, which are in order."""
    at = len(some) - 1
    while at >= 0 and some[at][0] > high:
        at -= 1
    if at >= 0 and some[at][0] >= low:
        return some.pop(at)
    del some[: at + 1]  # too old, from now on
    return None


def _from_conf(conf: Any, log: str, text: str) -> tuple[dict[str, str], str, float]:
    """(nicknames, format, KeepAliveTimeout in s) of an httpd.conf; the format is `text`, or that of the
    CustomLog that writes a file of that name. Raises TraceError for one that cannot be read."""
    found, keep_alive = access_log.read_conf(conf), KEEP_ALIVE_TIMEOUT
    nicknames, logs, last = dict(access_log.NICKNAMES), [], access_log.COMMON
    for one in (*found.settings, *(line for host in found.hosts for line in host.settings)):
        name, args = one.name.lower(), one.args
        if name == "logformat" and len(args) > 1:
            nicknames[args[1]] = args[0]
        elif name == "logformat" and args:
            last = args[0]
        elif name in ("customlog", "transferlog") and args:
            logs.append((os.path.basename(args[0]), args[1] if len(args) > 1 else last))
        elif name == "keepalivetimeout" and args:
            unit = 0.001 if args[0].endswith("ms") else 1
            keep_alive = float(re.match(r"\d*", args[0])[0] or 0) * unit  # type: ignore[index]
    if not text and not logs:
        raise access_log.TraceError(f"conf: {conf}: has no CustomLog; give log_format")
    name = os.path.basename(log)
    return nicknames, text or min(logs, key=lambda one: not name.startswith(one[0]))[1], keep_alive


def read_trace(
    logs: Any, log_format: str, conf: Any, lines: defaultdict[bytes, int] | None = None
) -> dict[str, Any]:
    """The fields of a Trace (see `Trace.read`). lines: a `numbered` of request lines; `size` is then theirs."""
    several = list(logs) if isinstance(logs, (list, tuple)) else [logs]
    nicknames, text, gap = access_log.NICKNAMES, log_format, KEEP_ALIVE_TIMEOUT
    if conf is not None:
        nicknames, text, gap = _from_conf(conf, str(several[0]), text)
    with ExitStack() as stack:
        given = LineFormat(text, nicknames) if text else None
        reader, blocks = access_log.in_order(several, given, stack)
        form = reader.form
        if lines is not None and "line" not in form.columns:
            raise access_log.TraceError("paths: the log has no request lines; %r is one")
        columns = _Columns(form, lines)
        for found in blocks:
            columns.add(found)
    reader.check()
    columns.sort()
    clock = form.begin if form.begin.usable else form.end
    begin = columns.start[0]
    if clock.resolution == 1 and form.begin.usable:
        columns.start = _spread(columns.start, begin)
    else:
        columns.start = array("d", [start - begin for start in columns.start])
    serials, tolerance = "serial" in form.columns, max(1e-3, clock.resolution)
    numbers, kept, lost = joined(columns, gap, tolerance if serials else 1e-3, serials=serials)
    how = f"client, and a pause of at most {gap:g} s (KeepAliveTimeout)"
    signs = " and %X" if "kept" in form.columns else ""
    joins = (
        f"Connections are inferred from {how}{signs}; without %k the error of that is not known."
    )
    if serials:
        guess = joined(columns, gap, 1e-3, serials=False, most=SAMPLE)[0]
        wrong = sum(map(operator.ne, _continues(guess), _continues(numbers[:SAMPLE]))) / len(guess)
        joins = (
            f"Connections are those of %k; {lost:,} requests go on with one that began before the log. "
            f"By {how}, {wrong:.1%} of the requests would be wrongly taken to begin or to go on with one."
        )
    notes = [_lines_note(reader), joins, *_time_notes(columns, clock, form)]
    return {
        "start": columns.start, "seconds": columns.seconds, "size": columns.size, "client": columns.client,
        "kept": kept, "connection": numbers, "begin": begin,
        "notes": tuple(notes), "broken": reader.examples(),
    }  # fmt: skip


def _continues(numbers: array[int]) -> Iterator[bool]:
    """For each request whether its connection had one before: numbers are given in order."""
    new = 0
    for number in numbers:
        yield number < new
        new = max(new, number + 1)


def _lines_note(reader: Reader) -> str:
    text = f"{reader.lines:,} lines of {reader.form.text!r}"
    if reader.broken:
        more = ", ..." * (reader.broken > len(reader.shown))
        text += f"; broken and left out: {reader.broken:,} ({'; '.join(reader.shown)}{more})"
    if reader.unfinished:
        text += "; a last line without its end is left out: the log is still being written"
    return text + "."


def _time_notes(columns: _Columns, clock: access_log.Clock, form: LineFormat) -> Iterator[str]:
    if not form.timed:
        yield "There are no durations: add %D to the LogFormat."
    else:
        span = columns.start[-1]
        longest = max((x for x in columns.seconds if x < math.inf), default=0.0)
        more = f", longer than the {span:.3g} s in which requests began" * (longest > span)
        still = "What still ran when the log ended is not in it"
        yield f"{still}; the longest request took {longest:.3g} s{more}."
    if clock.resolution == 1 and form.begin.usable:
        even = "the requests of a second are spread evenly over it, in the order of their ends"
        yield f"Times are whole seconds: {even}. Log %{{usec}}t to know them."
    elif clock.resolution == 1:
        yield "Times are whole seconds, and starts are wrong by up to one."
    if not clock.zoned:
        yield "Times have no zone and are taken as UTC; %t has one."
    if columns.back > STEP_BACK[not form.timed]:
        summer = ", as at the end of summer time where times have no zone" * (not clock.zoned)
        back = f"The clock goes back by {columns.back:,.0f} s in the log"
        yield f"{back}: requests of before and after overlap{summer}."
