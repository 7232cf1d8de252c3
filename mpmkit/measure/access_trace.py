"""From the lines of access logs to the columns of a Trace: clients and paths become numbers, requests are put in
the order of their starts, and those of one connection are joined.

httpd writes a line when the request has ended, and %t is when it was received: lines are in the order of ends.
"""

from __future__ import annotations

import operator
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice, repeat
from typing import Any

from mpmkit.measure import access_log
from mpmkit.measure.access_log import LineFormat, Reader

KEEP_ALIVE_TIMEOUT = 5.0  # seconds: httpd's default
STEP_BACK = (
    5.0,
    120.0,
)  # seconds by which ends, or starts, of two lines may go back; more is the clock
SAMPLE = 50_000  # requests on which the error of the inference is estimated
LONGEST_KEPT = 600.0  # seconds for which a connection with %k is remembered
PURGE = 100_000  # requests after which connections that wait longer are forgotten
SCRIPTS = (b".php", b".cgi", b".py", b".pl", b".jsp", b".asp", b".aspx", b".do", b".fcgi", b".rb")
KEPT = {b"+": 1, b"-": 0, b"X": 0}


class _Known(dict[Any, int]):
    """Texts that occur again and again, each with its number: of `number`, or in the order of first sight."""

    def __init__(self, number: Callable[[Any], int] | None = None) -> None:
        super().__init__()
        self.number = number

    def __missing__(self, key: Any) -> int:
        value = self[key] = self.number(key) if self.number else len(self)
        return value


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
        self.client, self.place, self.serial = array("I"), array("I"), array("i")
        self.kept, self.path_class = array("b"), array("B")
        self.back = 0.0  # seconds by which the clock went back, at most
        self.dropped = 0  # lines whose time is no time
        self._last = -1e18
        self._clients, self._places, self._kinds = _Known(), _Known(), _Known(_kind)
        self._salt = os.urandom(16)

    def add(self, found: tuple[Sequence[bytes], ...]) -> None:
        """A block of lines."""
        at, count = self.form.columns, len(found[0])
        starts, lasted = self.form.seconds(found)
        bad = [index for index, start in enumerate(starts) if start != start]
        if bad:
            self.dropped += len(bad)
            good = sorted(set(range(count)).difference(bad))
            if good:
                self.add(tuple([column[index] for index in good] for column in found))
            return
        self._watch_clock(starts, lasted)
        self.start.extend(starts)
        self.seconds.extend(lasted or repeat(access_log.math.nan, count))
        self.size.extend(_whole(found[at["size"]]) if "size" in at else repeat(0, count))
        self.serial.extend(_whole(found[at["serial"]]) if "serial" in at else repeat(-1, count))
        clients = self._numbers(self._clients, found, ("address", "agent"))
        self.client.extend(clients)
        if "port" in at or "process" in at:
            self.place.extend(
                self._numbers(self._places, found, ("address", "agent", "process", "port"))
            )
        else:
            self.place.extend(clients)
        kinds = (
            list(map(self._kinds.__getitem__, found[at["line"]])) if "line" in at else [0] * count
        )
        if len(self._kinds) > access_log.MOST_CACHED:
            self._kinds.clear()
        self.path_class.extend([kind & 1 for kind in kinds])
        if "kept" in at:
            self.kept.extend([KEPT.get(sign, -1) for sign in found[at["kept"]]])
        else:  # HTTP/1.0 closes
            self.kept.extend([-(kind < 2) for kind in kinds])

    def _numbers(
        self, known: _Known, found: Sequence[Sequence[bytes]], names: Sequence[str]
    ) -> list[int]:
        """Numbers of clients by a salted hash of those columns: no address is kept, even meanwhile."""
        columns = [found[self.form.columns[name]] for name in names if name in self.form.columns]
        if not columns:
            return [known[number] for number in range(len(known), len(known) + len(found[0]))]
        return list(
            map(known.__getitem__, map(hash, zip(repeat(self._salt), *columns, strict=False)))
        )

    def _watch_clock(self, starts: list[float], lasted: list[float] | None) -> None:
        times = list(map(operator.add, starts, lasted)) if lasted else starts
        back = self._last - times[0], *map(operator.sub, times, islice(times, 1, None))
        self.back, self._last = max(self.back, max(back)), times[-1]

    def sort(self) -> None:
        """Put the requests in the order of their starts."""
        names = ("start", "seconds", "size", "client", "place", "serial", "kept", "path_class")
        if len(order := sorted(range(len(self.start)), key=self.start.__getitem__)) > 1:
            at = operator.itemgetter(*order)
            for name in names:
                column = getattr(self, name)
                setattr(self, name, array(column.typecode, at(column)))


def _whole(texts: Sequence[bytes]) -> list[int]:
    try:
        return list(map(int, texts))
    except ValueError:
        return [int(text) if text.isdigit() else 0 for text in texts]


def _spread(starts: array[float], resolution: float) -> Iterator[float]:
    """Starts that are known to `resolution`, spread over it: as many as there are, evenly, in their order."""
    for start, group in groupby(starts):
        count = sum(1 for _ in group)
        step = resolution / count
        yield from (start + step * index for index in range(count))


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
    kept, numbers, count, lost = array("b", columns.kept), array("I"), 0, 0
    # Connections that wait, by client and the %k that the next request would have: (end, number, request).
    there: dict[int, list[tuple[float, int, int]]] = {}
    limit = (LONGEST_KEPT if serials else gap) + tolerance
    rows = zip(
        columns.start, columns.seconds, columns.place, columns.serial, columns.kept, strict=True
    )
    for index, (start, seconds, place, serial, keeps) in enumerate(islice(rows, most)):
        if index % PURGE == 0:
            there = {
                key: some for key, some in there.items() if some and max(some)[0] >= start - limit
            }
        key = place << 32 | serial if serials else place
        best, last = None, False
        if serials and not keeps and (serial > 0 or columns.ports):
            best = _latest(there.get(key + 1), start - limit, start + tolerance)
            last = best is not None
        best = best or _latest(there.get(key), start - limit, start + tolerance)
        if best is None:
            number, count = count, count + 1
            lost += serials and serial > 0
        else:
            number = best[1]
            kept[best[2]] = 1
            there[key + last].remove(best)
        numbers.append(number)
        # With a number of its own, - is MaxKeepAliveRequests, after which one more request may come.
        if keeps or (serials and serial > 0 and not last):
            end = start + seconds if seconds == seconds else start
            there.setdefault(key + serials, []).append((end, number, index))
    return numbers, kept, lost


def _latest(
    some: list[tuple[float, int, int]] | None, low: float, high: float
) -> tuple[float, int, int] | None:
    """Of connections that wait, the one that answered last within those times."""
    best = None
    for one in some or ():
        if low <= one[0] <= high and (best is None or one > best):
            best = one
    return best


def read_trace(logs: Any, log_format: str, conf: Any) -> dict[str, Any]:
    """The fields of a Trace (see `Trace.read`)."""
    several = list(logs) if isinstance(logs, (list, tuple)) else [logs]
    nicknames, gap, text = access_log.NICKNAMES, KEEP_ALIVE_TIMEOUT, log_format
    if conf is not None:
        nicknames, of_conf, keep_alive = access_log.from_conf(conf, str(several[0]))
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
    if clock.resolution == 1 and form.begin.usable:
        columns.start = array("d", _spread(columns.start, 1.0))
    begin = columns.start[0]
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
        longest, span = max((x for x in columns.seconds if x == x), default=0.0), columns.start[-1]
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
