"""A sweep of the panel: each point observed from outside, in a thread that can be stopped; and its rows.

    run = SweepRun(form, folder / "x.csv", pages, changed)
    run.stop()
    grid = SweepGrid(run.rows)               # or of a file: SweepGrid(records.read(path))
    grid.line("event", "wait_p99_ms")        # what to draw
    grid.at("event", 400)                    # the row of one operating point

Alongside the load, NEWCOMERS clients open a connection for each request, fifty requests a second in all while
none has to wait. A wait that has no end when the load ends counts as far as it went, and its point is
marked: the figure is a lower bound.
"""

import contextlib
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.lab.clients import KeepAliveClients
from mpmkit.lab.sweep_form import LABELS, SweepForm
from mpmkit.launcher import LaunchError, Server
from mpmkit.load.result import LoadRun
from mpmkit.measure.experiment import ExperimentError, Interrupted, Progress
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import Sample, ScoreboardSnapshot
from mpmkit.measure.records import RecordError, Row
from mpmkit.measure.sweep import sweep

NEWCOMERS, PAUSE = 10, 0.2  # clients, and seconds from an answer to the next request, on average
LOOK = 0.25  # seconds between two looks at the scoreboard

METRICS = {
    "qps": "requests/s",
    "wait_p99_ms": "wait of a new client, p99, ms",
    "wait_p50_ms": "wait of a new client, median, ms",
    "pss_mb": "memory (PSS), MB",
    "children": "processes",
}


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
        ended = [*waits, *((now, seconds) for seconds in clients.take())]
        ended = [one for one in ended if one[0] >= begin and one[0] - one[1] <= end]
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
    """A sweep in a thread. `rows` grows while it measures; `changed` is called with the run, in its
    thread, when there is something to show: it may be called before the constructor has returned.

    out: the CSV file of the rows. pages: the folder that the servers serve.
    Raises ValueError, before anything starts, if the form has no sweep.
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
        self._stop, self._ended = threading.Event(), threading.Event()
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, name="mpmkit-sweep", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def stop(self) -> None:
        """End it now: the point that is measured is given up, the others are kept."""
        self._stop.set()
        server = self._server
        if server is not None:
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
        self._ended.set()
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
        waits = metric.startswith("wait")
        of_bound = "unanswered" if waits else "generator_bound" if metric == "qps" else ""
        rows = {value: self.at(mpm, value) for value in self.values}
        known = {value: row for value, row in rows.items() if row.get(metric) is not None}
        return [(x, float(row[metric]), bool(row.get(of_bound))) for x, row in known.items()]

    def board(self, mpm: str, value: float) -> ScoreboardSnapshot | None:
        """The scoreboard at an operating point, None if it was not kept."""
        kept = self.at(mpm, value).get("scoreboard")
        if not kept:
            return None
        rows = tuple(tuple(one) for one in json.loads(kept))
        axis = LABELS.get(self.axis, self.axis)
        return ScoreboardSnapshot(f"{mpm}, {axis} {value:g}", 0.0, mpm, rows)

    def describe(self, mpm: str, value: float) -> dict[str, str]:
        """The figures of an operating point in words: {"requests/s": "1,234", ...}."""
        row = self.at(mpm, value)
        figures = ((label, row.get(name)) for name, label in METRICS.items() if row)
        said = {label: "–" if one is None else number(one) for label, one in figures}
        if row.get("unanswered"):
            said["new clients still waiting"] = f"{row['unanswered']} of {row['newcomers']}"
        return said
