"""A trace: when requests came, how long they took, on which connection. Numbers only, in columns.

    trace = mpmkit.Trace.read("access.log", log_format="combined")
    trace.span, len(trace), max(trace.seconds), trace.think_times()
    trace.to_csv("trace.csv"); mpmkit.Trace.from_csv("trace.csv")

Its columns, notes and CSV have no address, no user agent and no path: a client is a number, a path a class.
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
CLASSES = ("static", "script")

# Name of a column -> its type (array.array) and how a value is written in a CSV.
COLUMNS = {
    "start": ("d", "{:.6f}"), "seconds": ("d", "{:.6f}"), "size": ("q", "{}"), "client": ("I", "{}"),
    "kept": ("b", "{}"), "connection": ("I", "{}"), "path_class": ("B", "{}"),
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
    path_class  index into `classes`
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
    path_class: Any = None
    classes: tuple[str, ...] = CLASSES
    begin: float = 0.0
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.start = self._column("start")
        count = len(self.start)
        numbers = range(count)
        missing = {"seconds": NAN, "size": 0, "kept": -1, "path_class": 0}
        for name in islice(COLUMNS, 1, None):
            if getattr(self, name) is None:
                setattr(self, name, [missing[name]] * count if name in missing else numbers)
            column = self._column(name)
            if len(column) != count:
                raise TraceError(f"{name}: has {len(column):,} entries, start has {count:,}")
            setattr(self, name, column)
        first, last = (self.start[0], self.start[-1]) if count else (0.0, 0.0)
        in_order = all(map(operator.le, self.start, islice(self.start, 1, None)))
        if not (0 <= first and last < math.inf and in_order):
            raise TraceError(
                "start: must be seconds from 0 on, sorted, the columns in the same order"
            )
        self._check_durations()

    def _check_durations(self) -> None:
        if len(self) and 0 <= min(self.seconds) and max(self.seconds) <= LONGEST:
            return  # the usual case, twice as fast
        wrong = [
            i for i, seconds in enumerate(self.seconds)
            if not 0 <= seconds <= LONGEST and seconds == seconds
        ]  # fmt: skip
        if wrong:
            self.seconds = array("d", self.seconds)  # that of the caller stays as it is
            for i in wrong:
                self.seconds[i] = NAN
            text = f"{len(wrong):,} durations are negative or longer than 100 days and count as missing."
            self.notes = (*self.notes, text)

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
        columns: dict[str, Any] = {n: [getattr(self, n)[i] for i in good] for n in COLUMNS}
        text = f"{lost:,} requests have no duration and are left out."
        return replace(self, notes=(*self.notes, text), **columns)

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
        """Write it as CSV: comments with `begin`, `classes` and `notes`, a header, a line a request."""
        line = ",".join(form for _, form in COLUMNS.values()) + "\n"
        columns = [getattr(self, name) for name in COLUMNS]
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"# begin: {self.begin:.6f}\n# classes: {' '.join(self.classes)}\n")
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
            lines = enumerate(file, 1)
            said: list[tuple[str, str]] = []
            for _, line in lines:
                if not line.startswith("# "):
                    break
                name, _, value = line[2:].strip().partition(": ")
                said.append((name, value))
            else:
                line = ""
            if line.strip() != ",".join(COLUMNS):
                raise TraceError(f"{path}: is not a trace: no line {','.join(COLUMNS)}")
            columns = {name: array(code) for name, (code, _) in COLUMNS.items()}
            _fill(path, lines, list(columns.values()))
        more: dict[str, Any] = {"notes": tuple(v for name, v in said if name == "note"), **columns}
        for name, value in said:
            with contextlib.suppress(ValueError):
                more |= {"begin": float(value)} if name == "begin" else {}
            more |= {"classes": tuple(value.split())} if name == "classes" else {}
        return cls(**more)


def _fill(path: Any, lines: Iterable[tuple[int, str]], columns: list[array[Any]]) -> None:
    kinds = [float if column.typecode == "d" else int for column in columns]
    before = 0.0
    for number, line in lines:
        try:
            row = [kind(cell) for kind, cell in zip(kinds, line.split(","), strict=True)]
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        except (ValueError, OverflowError):
            raise TraceError(f"{path}, line {number}: is not a request: {line[:80]!r}") from None
        if not before <= row[0] < math.inf:
            what = "starts before the one above it, or never; sort the lines by start"
            raise TraceError(f"{path}, line {number}: {what}: {line[:80]!r}")
        before = row[0]
