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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, compress, islice, repeat
from typing import Any

from mpmkit.measure import access_log
from mpmkit.measure.access_log import Known, LineFormat, Reader

KEEP_ALIVE_TIMEOUT = 5.0  # seconds: httpd's default
# Seconds by which ends, or starts, of two lines may go back; more is the clock.
STEP_BACK = (5.0, 120.0)
SAMPLE = 50_000  # requests on which the error of the inference is estimated
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
    path, query, _ = target.partition(b"?")
    script = bool(query) or words[0] == b"POST" or path.lower().endswith(SCRIPTS)
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
        self.dropped = 0  # lines whose time is no time
        self._last = -1e18
        self._clients, self._places = Known(), Known()
        self._kinds, self._sizes = Known(_kind), Known(_whole)
        self._salt = os.urandom(16)

    def add(self, found: tuple[Sequence[bytes], ...]) -> None:
        """A block of lines."""
        at, count = self.form.columns, len(found[0])
        starts, lasted = self.form.seconds(found)
        if math.isnan(sum(starts)):
            bad = [index for index, start in enumerate(starts) if start != start]
            self.dropped += len(bad)
            good = sorted(set(range(count)).difference(bad))
            if good:
                self.add(tuple([column[index] for index in good] for column in found))
            return
        self._watch_clock(starts, lasted)
        self.start.fromlist(starts)
        if lasted:
            self.seconds.fromlist(lasted)
        if "size" in at:
            self.size.fromlist(list(map(self._sizes.__getitem__, found[at["size"]])))
        if "serial" in at:
            self.serial.extend(map(self._sizes.__getitem__, found[at["serial"]]))
        self._number(self.client, self._clients, found, ("address", "agent"))
        if "port" in at or "process" in at:
            self._number(self.place, self._places, found, ("address", "agent", "process", "port"))
        if "line" in at:
            kinds = bytes(map(self._kinds.__getitem__, found[at["line"]]))
            self.path_class.frombytes(kinds.translate(SCRIPT))
            if "kept" not in at:
                self.kept.frombytes(kinds.translate(CLOSED))
        if "kept" in at:
            self.kept.fromlist([KEPT.get(sign, -1) for sign in found[at["kept"]]])
        for known in (self._kinds, self._sizes):
            if len(known) > access_log.MOST_CACHED:
                known.clear()

    def _number(
        self, column: array[int], known: Known, found: Sequence[Sequence[bytes]], names: Sequence[str]
    ) -> None:  # fmt: skip
        """Numbers of clients by a salted hash of those columns: no address is kept, even meanwhile."""
        texts = [found[self.form.columns[name]] for name in names if name in self.form.columns]
        if texts:
            salted = zip(repeat(self._salt), *texts, strict=False)
            column.fromlist(list(map(known.__getitem__, map(hash, salted))))

    def _watch_clock(self, starts: list[float], lasted: list[float] | None) -> None:
        times = list(map(operator.add, starts, lasted)) if lasted else starts
        back = self._last - times[0], *map(operator.sub, times, islice(times, 1, None))
        self.back, self._last = max(self.back, max(back)), times[-1]

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


def _whole(text: bytes) -> int:
    """A number of bytes, or of requests; 0 for "-" and for what no server can have counted."""
    return int(text) if text.isdigit() and len(text) < 19 else 0


def _spread(starts: array[float], begin: float) -> array[float]:
    """Seconds from `begin` of starts that are whole seconds: those of one are spread over it evenly, in their
    order."""
    offsets = Known(lambda count: [1.0 / count * index for index in range(count)])
    later = chain.from_iterable(map(offsets.__getitem__, Counter(starts).values()))
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
    mixed = _in_turn(columns, ends, limit, serials, before)
    if mixed:
        _side_by_side(columns, ends, limit, tolerance, serials, before, mixed)
    kept, numbers, count = array("b", columns.kept), array("I"), 0
    add = numbers.append
    for one in before:
        if one < 0:
            add(count)
            count += 1
        else:
            add(numbers[one])
            kept[one] = 1
    lost = (
        sum(s > 0 > one for s, one in zip(columns.serial, before, strict=False)) if serials else 0
    )
    return numbers, kept, lost


def _in_turn(
    columns: Any, ends: array[float], limit: float, serials: bool, before: array[int]
) -> set[int]:
    """Join the requests of clients that ask for one thing after another: only the connection that a client
    used last can go on. Returns the clients of whom that can't be said."""
    mixed: set[int] = set()
    latest: dict[int, int] = {}  # request of each client
    get, ports, kept, serial_of = latest.get, columns.ports, columns.kept, columns.serial
    rows = zip(columns.place, columns.start, ends, strict=False)
    for index, (place, start, ended) in enumerate(rows):
        previous, latest[place] = get(place), index
        if previous is None:
            continue
        end = ends[previous]
        if start < end or ended < start:
            mixed.add(place)
            continue
        goes_on = kept[previous] and start - limit <= end
        if serials:
            serial, keeps = serial_of[index], kept[index]
            goes_on = goes_on and serial == serial_of[previous] + (keeps != 0)
            goes_on = goes_on and (keeps or serial or ports)
            if not goes_on and (serial or (ports and not keeps)):
                mixed.add(place)
        if goes_on:
            before[index] = previous
    return mixed


def _side_by_side(
    columns: Any, ends: array[float], limit: float, tolerance: float, serials: bool, before: array[int],
    mixed: set[int],
) -> None:  # fmt: skip
    """Join the requests of clients with several connections at a time: all that wait are looked through."""
    # Connections that wait, by client and the %k of a next request: (end, first request, last one), in order.
    there: dict[int, list[tuple[float, int, int]]] = {}
    rows = zip(
        range(len(ends)), columns.start, ends, columns.place, columns.serial, columns.kept,
        strict=False,
    )  # fmt: skip
    get, purge, ports = there.get, PURGE, columns.ports
    for index, start, end, place, serial, keeps in compress(
        rows, map(mixed.__contains__, columns.place)
    ):
        if index >= purge:
            purge, low = index + PURGE, start - limit
            for key in [key for key, some in there.items() if not some or some[-1][0] < low]:
                del there[key]
        best, last, key, then = None, False, place, place
        if serials:
            key = place << 32 | serial
            then = key + 1
            if not keeps and (serial > 0 or ports):
                best = _taken(get(then), start - limit, start + tolerance)
                last = best is not None
        if best is None and (some := get(key)):
            if start - limit <= some[-1][0] <= start + tolerance:
                best = some.pop()
            else:
                best = _taken(some, start - limit, start + tolerance)
        before[index] = best[2] if best else -1
        # With a number of its own, - is MaxKeepAliveRequests, after which one more request may come.
        if keeps or (serials and serial > 0 and not last):
            one = end, best[1] if best else index, index
            some = get(then)
            if some is None:
                there[then] = [one]
            elif not some or some[-1] < one:
                some.append(one)
            else:
                insort(some, one)


def _taken(
    some: list[tuple[float, int, int]] | None, low: float, high: float
) -> tuple[float, int, int] | None:
    """Take the connection that answered last within those times out of those that wait, which are in order."""
    if some:
        at = len(some) - 1
        while at >= 0 and some[at][0] > high:
            at -= 1
        if at >= 0 and some[at][0] >= low:
            return some.pop(at)
        del some[: at + 1]  # too old, from now on
    return None


def from_conf(conf: Any, log: str) -> tuple[dict[str, str], str, float | None]:
    """(nicknames, format of the CustomLog that writes a file of that name, KeepAliveTimeout in s or None) of an
    httpd.conf. Raises TraceError for one that cannot be read."""
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
    if not chosen:
        raise access_log.TraceError(f"conf: {conf}: has no CustomLog; give log_format")
    return nicknames, chosen[0], keep_alive


def read_trace(logs: Any, log_format: str, conf: Any) -> dict[str, Any]:
    """The fields of a Trace (see `Trace.read`)."""
    several = list(logs) if isinstance(logs, (list, tuple)) else [logs]
    nicknames, gap, text = access_log.NICKNAMES, KEEP_ALIVE_TIMEOUT, log_format
    if conf is not None:
        nicknames, of_conf, keep_alive = from_conf(conf, str(several[0]))
        text, gap = text or of_conf, gap if keep_alive is None else keep_alive
    with ExitStack() as stack:
        reader, streams = access_log.in_order(
            several, LineFormat(text, nicknames) if text else None, stack
        )
        columns = _Columns(reader.form)
        for name, lines in streams:
            for found in reader.columns(name, lines):
                columns.add(found)
    reader.broken += columns.dropped
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
        "notes": tuple(notes),
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
        text += f"; {reader.broken:,} are broken and left out, the first is {reader.first_broken}"
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
