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
from itertools import chain, compress, count, islice, repeat
from typing import Any

from mpmkit.measure import access_log
from mpmkit.measure.access_log import CACHED, Entries, LineFormat, Reader

KEEP_ALIVE_TIMEOUT = 5.0  # seconds: httpd's default
# Seconds by which ends, or starts, of two lines may go back; more is the clock.
STEP_BACK = (5.0, 120.0)
SAMPLE = 20_000  # requests on which the error of the inference is estimated
LONGEST_KEPT = 600.0  # seconds for which a connection with %k is remembered
PURGE = 100_000  # requests after which connections that wait longer are forgotten
SCRIPTS = (b".php", b".cgi", b".py", b".pl", b".jsp", b".asp", b".aspx", b".do", b".fcgi", b".rb")
KEPT = {b"+": 1, b"-": 0, b"X": 0}
# Of the bits of `_kind`: whether it is a script; what is known of `kept` (HTTP/1.0 closes).
SCRIPT, CLOSED = bytes.maketrans(b"\2\3", b"\0\1"), bytes.maketrans(b"\0\1\2\3", b"\xff\xff\0\0")
# The columns, each with its value where the log has none.
MISSING: dict[str, Any] = {
    "start": math.nan, "seconds": math.nan, "size": 0, "client": 0, "place": 0, "serial": -1, "kept": -1,
    "path_class": 0,
}  # fmt: skip


def _kind(line: bytes) -> int:
    """Of a request line or a path: 1 for a script, 2 for HTTP/1.0, or their sum."""
    words = line.split(b" ")
    target = words[1] if len(words) > 1 else words[0]
    script = b"?" in target or words[0] == b"POST" or target[-6:].lower().endswith(SCRIPTS)
    return script + 2 * (words[-1] == b"HTTP/1.0")


class _Columns:
    """The columns of a trace as they grow, in the order of the lines."""

    def __init__(self, form: LineFormat) -> None:
        self.form = form
        self.ports = "port" in form.columns
        self.start, self.seconds, self.size = array("d"), array("d"), array("q")
        self.client, self.place, self.serial = array("I"), array("I"), array("q")
        self.kept, self.path_class = array("b"), array("B")
        self.back = 0.0  # seconds by which the clock went back, at most
        self._last = -1e18
        self._clients, self._places = _numbered(), _numbered()
        self._kind = lru_cache(CACHED)(_kind)  # of its own: no path outlives the reading
        self._salt = os.urandom(16)

    def add(self, entries: Entries) -> None:
        """A block of lines."""
        at, (found, starts, lasted) = self.form.columns, entries
        self._watch_clock(starts, lasted)
        self.start.fromlist(starts)
        if lasted:
            self.seconds.fromlist(lasted)
        if "size" in at:
            self.size.fromlist(_wholes(found[at["size"]]))
        if "serial" in at:
            self.serial.fromlist(_wholes(found[at["serial"]]))
        self._number(self.client, self._clients, found, ("address", "agent"))
        if "port" in at or "process" in at:
            self._number(self.place, self._places, found, ("address", "agent", "process", "port"))
        if "line" in at:
            kinds = bytes(map(self._kind, found[at["line"]]))
            self.path_class.frombytes(kinds.translate(SCRIPT))
            if "kept" not in at:
                self.kept.frombytes(kinds.translate(CLOSED))
        if "kept" in at:
            self.kept.fromlist([KEPT.get(sign, -1) for sign in found[at["kept"]]])

    def _number(
        self, column: array[int], known: defaultdict[int, int], found: Sequence[Sequence[bytes]],
        names: Sequence[str],
    ) -> None:  # fmt: skip
        """Numbers of clients by a salted hash of those columns: no address is kept, even meanwhile."""
        texts = [found[self.form.columns[name]] for name in names if name in self.form.columns]
        if texts:
            salted = zip(repeat(self._salt), *texts, strict=False)
            column.fromlist(list(map(known.__getitem__, map(hash, salted))))

    def _watch_clock(self, starts: list[float], lasted: list[float] | None) -> None:
        times = list(map(operator.add, starts, lasted)) if lasted else starts
        steps = map(operator.sub, [self._last, *times], times)
        self.back, self._last = max(self.back, *steps), times[-1]

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


def _numbered() -> defaultdict[int, int]:
    """Gives each key a number, in the order in which they first occur."""
    known: defaultdict[int, int] = defaultdict()
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
    before = array("q", [-1]) * len(ends)  # the request that each goes on from
    visits, mixed = _in_turn(columns, ends, limit, tolerance, serials, before)
    if mixed:
        _side_by_side(columns, ends, limit, tolerance, serials, before, visits, mixed)
    kept, numbers, new = array("b", columns.kept), array("I"), 0
    add = numbers.append
    for one in before:
        if one < 0:
            add(new)
            new += 1
        else:
            add(numbers[one])
            kept[one] = 1
    lost = (
        sum(s > 0 > one for s, one in zip(columns.serial, before, strict=False)) if serials else 0
    )
    return numbers, kept, lost


def _in_turn(
    columns: Any, ends: array[float], limit: float, tolerance: float, serials: bool, before: array[int]
) -> tuple[list[int], set[int]]:  # fmt: skip
    """Join the requests of clients that ask for one thing after another: only the connection that a client
    used last can go on. Returns the visit of each request, and the visits of which that can't be said. A visit
    ends where all connections of the client are too old to go on."""
    visits, mixed, ports = list(range(len(ends))), set[int](), columns.ports
    latest: dict[
        int, tuple[int, float, int, int, int]
    ] = {}  # of each client the request that ends last
    get, rows = (
        latest.get,
        zip(columns.place, columns.start, ends, columns.kept, columns.serial, strict=False),
    )
    for index, (place, start, ended, keeps, serial) in enumerate(rows):
        last = get(place)
        if last is None or start - limit > last[1]:
            latest[place] = index, ended, keeps, serial, index
            continue
        previous, end, kept, number, visit = last
        visits[index] = visit
        if ended < end or start + tolerance < end:
            mixed.add(visit)
            if ended < end:
                continue
        elif not serials:
            if kept:
                before[index] = previous
        elif kept and serial == number + (keeps != 0) and (keeps or serial or ports):
            before[index] = previous
        elif serial or (ports and not keeps):
            mixed.add(visit)
        latest[place] = index, ended, keeps, serial, visit
    return visits, mixed


def _side_by_side(
    columns: Any, ends: array[float], limit: float, tolerance: float, serials: bool, before: array[int],
    visits: list[int], mixed: set[int],
) -> None:  # fmt: skip
    """Join the requests of visits with several connections at a time: all that wait are looked through."""
    # Of a visit, by the %k of a next request: those that wait, (end, first request, last one), in order.
    there: dict[int, dict[int, list[tuple[float, int, int]]]] = {}
    rows = zip(count(), columns.start, ends, visits, columns.serial, columns.kept, strict=False)
    purge, ports = PURGE, columns.ports
    for index, start, end, visit, serial, keeps in compress(rows, map(mixed.__contains__, visits)):
        if index >= purge:
            purge, low = index + PURGE, start - limit
            for key in [
                key for key, mine in there.items()
                if all(not some or some[-1][0] < low for some in mine.values())
            ]:  # fmt: skip
                del there[key]
        mine = there.get(visit)
        if mine is None:
            mine = there[visit] = {}
        low, high, first, best = start - limit, start + tolerance, index, None
        key, then, waits = 0, 0, keeps
        if serials:
            key, then = serial, serial + 1
            # With a number of its own, - is MaxKeepAliveRequests, after which one more request may come.
            waits = keeps or serial
            if not keeps and (serial or ports) and (some := mine.get(then)):
                best = some.pop() if low <= some[-1][0] <= high else _taken(some, low, high)
                waits = best is None and serial
        if best is None and (some := mine.get(key)):
            best = some.pop() if low <= some[-1][0] <= high else _taken(some, low, high)
        if best is not None:
            _, first, before[index] = best
        if waits:
            some = mine.get(then)
            if some is None:
                mine[then] = [(end, first, index)]
            elif not some or some[-1][0] < end:
                some.append((end, first, index))
            else:
                insort(some, (end, first, index))


def _taken(
    some: list[tuple[float, int, int]], low: float, high: float
) -> tuple[float, int, int] | None:
    """Take the connection that answered last within those times out of those that wait, which are in order."""
    at = len(some) - 1
    while at >= 0 and some[at][0] > high:
        at -= 1
    if at >= 0 and some[at][0] >= low:
        return some.pop(at)
    del some[: at + 1]  # too old, from now on
    return None


def from_conf(conf: Any, log: str, text: str) -> tuple[dict[str, str], str, float | None]:
    """(nicknames, format, KeepAliveTimeout in s or None) of an httpd.conf; the format is `text`, or that of the
    CustomLog that writes a file of that name. Raises TraceError for one that cannot be read."""
    found = access_log.read_conf(conf)
    nicknames, logs, keep_alive, last = dict(access_log.NICKNAMES), [], None, access_log.COMMON
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
    chosen = [text for name, text in logs if os.path.basename(log).startswith(name)] or [
        text for _, text in logs
    ]
    if not text and not chosen:
        raise access_log.TraceError(f"conf: {conf}: has no CustomLog; give log_format")
    return nicknames, text or chosen[0], keep_alive


def read_trace(logs: Any, log_format: str, conf: Any) -> dict[str, Any]:
    """The fields of a Trace (see `Trace.read`)."""
    several = list(logs) if isinstance(logs, (list, tuple)) else [logs]
    nicknames, gap, text = access_log.NICKNAMES, KEEP_ALIVE_TIMEOUT, log_format
    if conf is not None:
        nicknames, text, keep_alive = from_conf(conf, str(several[0]), text)
        gap = gap if keep_alive is None else keep_alive
    with ExitStack() as stack:
        reader, streams = access_log.in_order(
            several, LineFormat(text, nicknames) if text else None, stack
        )
        columns = _Columns(reader.form)
        for name, lines in streams:
            for found in reader.columns(name, lines):
                columns.add(found)
    reader.check()
    return _finished(reader, columns, gap)


def _finished(reader: Reader, columns: _Columns, gap: float) -> dict[str, Any]:
    columns.sort()
    form = reader.form
    clock = form.begin if form.begin.usable else form.end
    begin = columns.start[0]
    if clock.resolution == 1 and form.begin.usable:
        columns.start = _spread(columns.start, begin)
    else:
        columns.start = array("d", [start - begin for start in columns.start])
    serials, tolerance = "serial" in form.columns, max(1e-3, clock.resolution)
    numbers, kept, lost = joined(columns, gap, tolerance if serials else 1e-3, serials=serials)
    how = f"client, and a pause of at most {gap:g} s (KeepAliveTimeout)"
    if serials:
        guess = joined(columns, gap, 1e-3, serials=False, most=SAMPLE)[0]
        wrong = sum(map(operator.ne, _continues(guess), _continues(numbers[:SAMPLE]))) / len(guess)
        joins = (
            f"Connections are those of %k; {lost:,} requests go on with one that began before the log. "
            f"By {how}, {wrong:.1%} of the requests would be wrongly taken to begin or to go on with one."
        )
    else:
        signs = " and %X" if "kept" in form.columns else ""
        joins = f"Connections are inferred from {how}{signs}; without %k the error of that is not known."
    notes = [_lines_note(reader), joins, *_time_notes(columns, clock, form)]
    return {
        "start": columns.start, "seconds": columns.seconds, "size": columns.size, "client": columns.client,
        "kept": kept, "connection": numbers, "path_class": columns.path_class, "begin": begin,
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
        longest, span = (
            max((x for x in columns.seconds if x < math.inf), default=0.0),
            columns.start[-1],
        )
        yield (
            f"What still ran when the log ended is not in it; the longest request took {longest:.3g} s"
            + (
                f", longer than the {span:.3g} s in which requests began."
                if longest > span
                else "."
            )
        )
    if clock.resolution == 1:
        yield (
            "Times are whole seconds: the requests of a second are spread evenly over it, in the order of "
            "their ends. Log %{usec}t to know them."
            if form.begin.usable
            else "Times are whole seconds, and starts are wrong by up to one."
        )
    if not clock.zoned:
        yield "Times have no zone and are taken as UTC; %t has one."
    if columns.back > STEP_BACK[not form.timed]:
        yield (
            f"The clock goes back by {columns.back:,.0f} s in the log: requests of before and after overlap"
            + ("." if clock.zoned else ", as at the end of summer time where times have no zone.")
        )
