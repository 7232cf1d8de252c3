"""The sweep panel's model: what is chosen, the sweep of it, and its rows. It draws nothing.

    form = SweepForm(("prefork", "event"), axis="MaxRequestWorkers", low=50, high=800, steps=5)
    form.remarks()     # {612: ("left out", "prefork: AH00180: ... 256 is used"), ...}
    form.plan()        # a SweepTable without rows, or ValueError with everything that is wrong

    run = SweepRun(form, folder / "x.csv", pages, changed)      # in a thread; run.stop() ends it
    grid = SweepGrid(run.rows)               # or of a file: SweepGrid(records.read(path))
    grid.line("event", "wait_p99_ms")        # what to draw

The axis is a directive with a range of numbers or a field of the load. Alongside the load, NEWCOMERS clients open
a connection for each request, fifty requests a second in all while none has to wait. A wait that has no end when
the load ends counts as far as it went, and its point is marked: the figure is a lower bound.
"""

import contextlib
import json
import math
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

import mpmkit
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, SPECS
from mpmkit.config.keywords import from_keywords
from mpmkit.lab.forms import FILES, GROUPS, Field, Form
from mpmkit.launcher import LaunchError, Server
from mpmkit.load.connections import KeepAliveClients
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import LoadRun
from mpmkit.measure.experiment import ExperimentError, Interrupted, Progress
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import Sample, ScoreboardSnapshot
from mpmkit.measure.records import RecordError, Row
from mpmkit.measure.sweep import SweepTable, plan, sweep

# What can be swept, and where its slider ends: fields of the load, directives with a range of numbers.
FIELDS = (
    Field("users", "", "whole", label="users", default="8", low=1, high=1000, reach=200),
    Field("idle_holders", "", "whole", label="kept connections", default="0", high=5e3, reach=1e3),
    Field("think_time", label="think time, s", default="0", high=60, reach=5, step=0.1),
)
LABELS = {row.name: row.label for row in FIELDS}
BYTES = {"ThreadStackSize": 1 << 19, "SendBufferSize": 1 << 18, "ReceiveBufferSize": 1 << 18}
AXES: dict[str, float] = {**{row.name: row.reach for row in FIELDS}, **BYTES}
for names in GROUPS.values():
    AXES |= {one: reach for one, reach in names.items() if SPECS[one.lower()].takes != "On|Off"}
# Where a sweep begins to be of interest; the others go from their lowest value to their slider's end.
RANGES = {
    "idle_holders": (0, 400), "think_time": (0, 2), "MaxRequestWorkers": (25, 250), "ThreadsPerChild": (5, 50),
    "MaxSpareServers": (10, 64), "MaxSpareThreads": (100, 500), "ServerLimit": (16, 256), "StartServers": (1, 16),
    "ThreadStackSize": (1 << 17, 1 << 19),
}  # fmt: skip
FRACTIONS = ("think_time", "AsyncRequestWorkerFactor")  # the others take whole numbers
RANGE = (
    Field("low", label="from", high=999_999),
    Field("high", label="to", high=999_999),
    Field("steps", label="points", kind="whole", default="6", low=1, high=16, reach=16),
)
MORE = (
    Field("seconds", label="seconds a point", default="2", low=0.5, high=30, reach=10, step=0.5),
    Field("warmup", label="and before it", default="2", high=30, reach=10, step=0.5),
    Field("path", kind="choice", label="page", default=FILES[0][0], choices=FILES),
    Field("keep_alive", kind="switch", label="keep-alive", default="Off"),
)
LEFT_OUT, CORRECTED = "left out", "measured with a correction"  # what becomes of a value
NAMES = ("axis", *(row.name for row in (*RANGE, *FIELDS, *MORE)))

NEWCOMERS, PAUSE = 10, 0.2  # clients, and seconds from an answer to the next request, on average
LOOK = 0.25  # seconds between two looks at the scoreboard

METRICS = {
    "qps": "requests/s",
    "wait_p99_ms": "wait of a new client, p99, ms",
    "wait_p50_ms": "wait of a new client, median, ms",
    "pss_mb": "memory (PSS), MB",
    "children": "processes",
}


class SweepForm(Form):
    """The choices. directives: over the article's, at all points. chosen: values of the rows, by name (low, high,
    steps: the values of the axis, evenly; seconds: of load a point; warmup: before they count, for pools to
    grow).

    Raises DirectiveError for an MPM that does not exist, ValueError for an axis that cannot be swept.
    """

    def __init__(
        self,
        mpms: Sequence[str] = MPMS,
        axis: str = "idle_holders",
        *,
        directives: Mapping[str, Any] | None = None,
        **chosen: Any,
    ) -> None:
        super().__init__()
        self.mpms = [check(mpm)[0].mpm for mpm in mpms]  # raises for others
        if axis not in AXES:
            raise ValueError(f"axis: must be one of {', '.join(AXES)}, not {axis!r}")
        self.axis, self.directives = axis, directives or {}
        for name, value in chosen.items():
            self.put(name, value)

    def turn_to(self, axis: str) -> None:
        """Another axis, over a range that is of interest."""
        if axis != self.axis:
            self.axis = axis
            self.put("low", None)
            self.put("high", None)

    def rows(self) -> list[Field]:
        """The fields with their values; the one that is the axis is left out."""
        spec = SPECS.get(self.axis.lower())
        ends = RANGES.get(self.axis, ((spec and spec.low) or 1, AXES[self.axis]))
        how: Any = {"reach": AXES[self.axis], "step": 0.5 if self.axis in FRACTIONS else 1}
        low, high = (RANGE[n]._replace(default=f"{end:g}", **how) for n, end in enumerate(ends))
        rows = (low, high, RANGE[2], *FIELDS, *MORE)
        return [self.filled(row)._replace(help=row.label) for row in rows if row.name != self.axis]

    def values(self) -> list[float]:
        """The axis's values, rising, none twice. MaxRequestWorkers is a multiple of ThreadsPerChild."""
        form = self.read()
        count = form["steps"] if form["high"] > form["low"] else 1
        found = [float(value) for value in numpy.linspace(form["low"], form["high"], count)]
        if self.axis in FRACTIONS:
            return sorted({round(value, 2) for value in found})
        threads = 1
        if self.axis == "MaxRequestWorkers" and set(self.mpms) - {"prefork"}:
            threads = int(self.directives.get("ThreadsPerChild", 25))
        return sorted({max(threads, threads * round(v / threads)) if v else 0 for v in found})

    def taking(self) -> list[str]:
        """The chosen MPMs that have the axis."""
        spec = SPECS.get(self.axis.lower())
        return [mpm for mpm in self.mpms if spec is None or mpm in spec.mpms]

    def remarks(self) -> dict[float, tuple[str, str]]:
        """What httpd says about values, in its words: LEFT_OUT, or CORRECTED: another directive because of it."""
        made: dict[float, tuple[str, str]] = {}
        for value in self.values():
            try:
                for point in self.plan([value]).cells:
                    for note in check(point.mpm, from_keywords(point.mpm, **point.directives))[1]:
                        made.setdefault(value, (CORRECTED, f"{point.mpm}: {note}"))
            except ValueError as error:
                where, _, text = str(error).splitlines()[0].partition(": ")
                said = re.search(r"\((.*)\)$", text)  # httpd's own words, if there are some
                made[value] = LEFT_OUT, f"{where.split()[0]}: {said[1] if said else text}"
        return made

    def fields(self) -> list[Field]:
        """The rows, with what is wrong with them, and the remarks: that about the lowest value at "from", about
        the highest at "to", about those between at "points"; at "from" what is said about all of them."""
        rows = super().fields()
        if any(row.refused for row in rows):
            return rows
        values, remarks = self.values(), self.remarks()
        ends = {values[-1]: "high", values[0]: "low"}
        if len(remarks) == len(values) and len({*remarks.values()}) == 1:
            ends = dict.fromkeys(values, "low")
        found = defaultdict[tuple[str, str], list[tuple[float, str]]](list)
        for value, (what, why) in remarks.items():
            found[ends.get(value, "steps"), what].append((value, why))
        hints = defaultdict[str, tuple[str, ...]](tuple)
        for (name, what), ((value, why), *more) in found.items():
            are = f"and {len(more)} more are" if more else "is"
            hints[name] += (f"{value:g} {are} {what}: {why}",)
        return [row._replace(hints=hints[row.name]) for row in rows]

    def measured(self) -> list[float]:
        """The values that remain. Raises ValueError with all that is wrong, also if no MPM or value remains."""
        if not self.taking():
            raise ValueError(f"choose an MPM that has {self.axis}")
        said = {value: why for value, (what, why) in self.remarks().items() if what == LEFT_OUT}
        if not (values := [value for value in self.values() if value not in said]):
            raise ValueError(next(iter(said.values())))
        return values

    def plan(self, values: list[float] | None = None) -> SweepTable:
        """The sweep over some values, by default those that remain. Raises ValueError as `measured` does."""
        grid = {self.axis: self.measured() if values is None else values}
        return plan(self.taking(), grid, self.profile(), directives=self.fixed())

    def fixed(self) -> dict[str, Any]:
        """Directives of all points, apart from the article's. A kept connection outlives its point."""
        base = {"KeepAlive": "On", "KeepAliveTimeout": 15} | dict(self.directives)
        return {name: value for name, value in base.items() if name != self.axis}

    def profile(self) -> LoadProfile:
        """The load of all points; the axis, if it is a field of the load, changes it."""
        form = self.read()
        fields = {name: form[name] for name in ("path", "keep_alive", *LABELS) if name in form}
        fields |= {"duration": form["seconds"], "timeout": max(1.0, form["seconds"])}
        return LoadProfile(**fields, warmup_seconds=form["warmup"])


@contextlib.contextmanager
def observe(server: Server) -> Iterator[Callable[[LoadRun], Row]]:
    """Newcomers and a watch, for `sweep(observe=...)`."""
    waits: list[tuple[float, float]] = []  # (when it ended, seconds)
    looks: list[tuple[float, Sample, Any]] = []

    def look(sample: Sample, board: Any) -> None:
        now = time.time()
        waits.extend((now, seconds) for seconds in clients.take())
        looks.append((now, sample, board))

    def columns(run: LoadRun) -> Row:
        now, begin, end = time.time(), run.started_at, run.started_at + run.duration
        waits.extend((now, seconds) for seconds in clients.take())
        ended = [one for one in waits if one[0] >= begin and one[0] - one[1] <= end]
        begun = [seconds for seconds in clients.waits() if now - seconds <= end]
        late = sum(when > end and seconds > LOOK for when, seconds in ended)
        ms = sorted(1000 * seconds for seconds in [*(s for _, s in ended), *begun])
        inside = [one for one in looks if begin <= one[0] <= end] or looks[-1:]
        memory = [one.pss_mb for _, one, _ in (*looks[-1:], *inside) if one.pss_mb == one.pss_mb]
        board = ScoreboardSnapshot.of(inside[len(inside) // 2][2])
        return {
            "wait_p50_ms": statistics.median(ms) if ms else None,
            "wait_p99_ms": ms[math.ceil(0.99 * len(ms)) - 1] if ms else None,
            "newcomers": len(ms),
            "unanswered": len(begun) + late,
            "pss_mb": max(memory, default=None),
            "children": round(statistics.median(one.processes for _, one, _ in inside)),
            "scoreboard": json.dumps(board.rows, separators=(",", ":")),
        }

    with (
        KeepAliveClients(server.url, NEWCOMERS, think=PAUSE, keep=False) as clients,
        Watch(server, every=LOOK, on_sample=look),
    ):
        yield columns


def number(value: float) -> str:
    """Four digits, or all of a whole number: 12,431; 4.364."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class SweepRun:
    """A sweep in a thread. `rows` grows while it measures; `changed` is called with the run, in its thread, when
    there is something to show, perhaps before the constructor has returned. out: the CSV file of the rows. pages:
    the folder that the servers serve. Raises ValueError, before anything starts, if the form has no sweep.
    """

    def __init__(
        self, form: SweepForm, out: Path, pages: Path, changed: Callable[[Any], None]
    ) -> None:
        self.rows: list[Row] = []
        self.progress: Progress | None = None
        self.text = "starting …"
        self._asked: dict[str, Any] = {"grid": {form.axis: form.measured()}, "mpm": form.taking()}
        self._asked |= {"profile": form.profile(), "directives": form.fixed(), "out": out}
        self._pages, self._changed = pages, changed
        self._stop, self.running = threading.Event(), True
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, name="mpmkit-sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it now: the point that is measured is given up, the others are kept."""
        self._stop.set()
        if (server := self._server) is not None:
            server.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        done = "done"
        try:
            sweep(**self._asked, on_progress=self._report, launch=self._launch, observe=observe)
        except (ExperimentError, Interrupted, RecordError, ValueError, OSError) as error:
            done = "stopped" if self._stop.is_set() else f"ended: {error}"
        many = f"{len(self.rows)} point{'s' * (len(self.rows) != 1)}"
        self.text = f"{done}: {many}" + (f", in {self._asked['out']}" if self.rows else "")
        self.running = False
        self._changed(self)

    @contextlib.contextmanager
    def _launch(self, mpm: str, **directives: Any) -> Iterator[Server]:
        if self._stop.is_set():
            raise LaunchError("stopped")
        with mpmkit.launch(mpm, document_root=self._pages, **directives) as server:
            self._server = server
            yield server
            self._server = None

    def _report(self, now: Progress) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        (axis,) = self._asked["grid"]
        self.progress, self.text = now, str(now).replace(f"{axis}=", f"{LABELS.get(axis, axis)} ")
        if now.row is not None:
            self.rows.append(now.row)
        self._changed(self)


class SweepGrid:
    """Rows of a sweep over one name, as operating points: (MPM, value of the axis)."""

    def __init__(self, rows: list[Row]) -> None:
        self.axis, self._points = "", {}
        for row in rows:
            point = json.loads(row["point"])
            if len(point) != 1:
                raise ValueError(f"a panel shows a sweep over one name, not {', '.join(point)}")
            ((self.axis, value),) = point.items()
            self._points[row["mpm"], value] = row
        self.mpms = list(dict.fromkeys(mpm for mpm, _ in self._points))
        self.values: list[float] = sorted({value for _, value in self._points})

    def at(self, mpm: str, value: float) -> Row:
        """The row of an operating point; empty if it was not measured."""
        return self._points.get((mpm, value), {})

    def line(self, mpm: str, metric: str) -> list[tuple[float, float, bool]]:
        """(value of the axis, figure, whether the figure is only a bound): the points of one MPM. Rates
        are bounds where the generator was the limit, waits where new clients were still waiting."""
        bound = {"qps": "generator_bound", "wait": "unanswered"}.get(metric.split("_")[0], "")
        points = ((x, self.at(mpm, x)) for x in self.values)
        known = ((x, row) for x, row in points if row.get(metric) is not None)
        return [(x, float(row[metric]), bool(row.get(bound))) for x, row in known]

    def board(self, mpm: str, value: float) -> ScoreboardSnapshot | None:
        """The scoreboard at an operating point, None if it was not kept."""
        if not (kept := self.at(mpm, value).get("scoreboard")):
            return None
        title = f"{mpm}, {LABELS.get(self.axis, self.axis)} {value:g}"
        return ScoreboardSnapshot(title, 0.0, mpm, tuple(map(tuple, json.loads(kept))))

    def describe(self, mpm: str, value: float) -> dict[str, str]:
        """The figures of an operating point in words: {"requests/s": "1,234", ...}."""
        row, said = self.at(mpm, value), {}
        for name, label in METRICS.items() if row else ():
            said[label] = "–" if row.get(name) is None else number(row[name])
        if row.get("unanswered"):
            said["new clients still waiting"] = f"{row['unanswered']} of {row['newcomers']}"
        return said
