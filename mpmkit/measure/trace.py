"""A trace: when requests came, how long they took, on which connection. Numbers only, in columns.

    trace = mpmkit.Trace.read("access.log", log_format="combined")
    trace.span, len(trace), max(trace.seconds), trace.think_times()
    trace.to_csv("trace.csv"); mpmkit.Trace.from_csv("trace.csv")

Its columns, notes and CSV have no address, no user agent and no path: a client is a number.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from mpmkit.measure.access_log import BROKEN_SHARE, TraceError
from mpmkit.policy.traffic import LONGEST

NAN = float("nan")

# Name of a column -> its type (array.array) and how a value is written in a CSV.
COLUMNS = {
    "start": ("d", "{:.6f}"), "seconds": ("d", "{:.6f}"), "size": ("q", "{}"), "client": ("I", "{}"),
    "kept": ("b", "{}"), "connection": ("I", "{}"),
}  # fmt: skip


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
        self.start = self._column("start")
        count = len(self.start)
        missing = {"seconds": NAN, "size": 0, "kept": -1}
        for name in islice(COLUMNS, 1, None):
            if getattr(self, name) is None:
                setattr(self, name, [missing[name]] * count if name in missing else range(count))
            column = self._column(name)
            if len(column) != count:
                raise TraceError(f"{name}: has {len(column):,} entries, start has {count:,}")
            setattr(self, name, column)
        first, last = (self.start[0], self.start[-1]) if count else (0.0, 0.0)
        in_order = all(map(operator.le, self.start, islice(self.start, 1, None)))
        if not (0 <= first and last < math.inf and in_order):
            what = "seconds from 0 on, sorted, the columns in the same order"
            raise TraceError(f"start: must be {what}")
        if len(self) and 0 <= min(self.seconds) and max(self.seconds) <= LONGEST:
            return  # the usual case, twice as fast
        good = array("d", [s if 0 <= s <= LONGEST else NAN for s in self.seconds])
        if wrong := sum(map(math.isnan, good)) - sum(map(math.isnan, self.seconds)):
            text = f"{wrong:,} durations are negative or longer than 100 days and count as missing."
            self.seconds, self.notes = good, (*self.notes, text)

    def _column(self, name: str) -> array[Any]:
        values, code = getattr(self, name), COLUMNS[name][0]
        if isinstance(values, array) and values.typecode == code:
            return values
        try:
            return array(code, values)
        except (TypeError, OverflowError) as error:
            raise TraceError(f"{name}: {error}") from None

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
        lost = sum(map(math.isnan, self.seconds))
        if not 0 < lost <= BROKEN_SHARE * len(self):
            return self
        good = [i for i, seconds in enumerate(self.seconds) if seconds == seconds]
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
        for start, seconds in zip(self.start, self.seconds, strict=True):
            yield start + seconds if seconds == seconds else start

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
        line = ",".join(form for _, form in COLUMNS.values()) + "\n"
        columns = [getattr(self, name) for name in COLUMNS]
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"# begin: {self.begin:.6f}\n")
            file.writelines(f"# note: {' '.join(note.split())}\n" for note in self.notes)
            file.write(",".join(COLUMNS) + "\n")
            file.writelines(line.format(*row) for row in zip(*columns, strict=True))

    @classmethod
    def read(cls, logs: Any, *, log_format: str = "", conf: Any = None) -> Trace:
        """Read access logs: a path, "-" for standard input, a binary file, or several of them, sorted
        by their first times; .gz is recognised by its first bytes.

        log_format  a LogFormat, a nickname (common, combined, combinedio, vhost_combined), or a nickname and
                    more: "combined %D". Without it the first line decides.
        conf        an httpd.conf: its LogFormat and CustomLog, and its KeepAliveTimeout for logs without %k

        Raises TraceError if more than 1% of the lines are not in that format, or the log has no request
        or cannot be read.
        """
        from mpmkit.measure.access_trace import read_trace

        return cls(**read_trace(logs, log_format, conf))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a file of `to_csv`. Raises TraceError, naming the line, and OSError."""
        with open(path, encoding="utf-8", errors="replace") as file:
            lines, line = enumerate(file, 1), ""
            said: dict[str, list[str]] = {"note": [], "begin": []}
            for _, line in lines:
                if not line.startswith("# "):
                    break
                name, _, value = line[2:].strip().partition(": ")
                said.setdefault(name, []).append(value)
            if line.strip() != ",".join(COLUMNS):
                raise TraceError(f"{path}: is not a trace: no line {','.join(COLUMNS)}")
            columns: dict[str, Any] = {name: array(code) for name, (code, _) in COLUMNS.items()}
            kinds = [(one, float if one.typecode == "d" else int) for one in columns.values()]
            before, starts = 0.0, columns["start"]
            for number, line in lines:
                where = f"{path}, line {number}: "
                try:
                    for (column, kind), cell in zip(kinds, line.split(","), strict=True):
                        column.append(kind(cell))
                except (ValueError, OverflowError):
                    raise TraceError(f"{where}is not a request: {line[:80]!r}") from None
                if not before <= starts[-1] < math.inf:
                    what = "starts before the one above it, or never; sort the lines by start"
                    raise TraceError(f"{where}{what}: {line[:80]!r}")
                before = starts[-1]
        begin = 0.0
        with contextlib.suppress(ValueError, IndexError):
            begin = float(said["begin"][0])
        return cls(**columns, begin=begin, notes=tuple(said["note"]))
