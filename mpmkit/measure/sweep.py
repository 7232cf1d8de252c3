"""A grid of directives and loads, measured point by point.

    table = sweep("event", {"ThreadsPerChild": [5, 10, 25], "users": [50, 100, 200]},
                  LoadProfile(path="/index.html", duration=2.0))
    table.summary()

A name of the grid is a directive or a field of the load profile. The same sweep into the same file resumes after
Ctrl-C, a crash or a full disk. It may have more rounds than the last time; another grid
or profile is refused. The seed of the random order is the column `sweep`.
"""

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, ClassVar

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, experiment, records, stats
from mpmkit.measure.experiment import Launch, OnProgress, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import knee as knee
from mpmkit.measure.sweep_grid import GridPoint, plan
from mpmkit.measure.text import aligned

AGAIN = "; the same command resumes"

Observe = Callable[[Any], AbstractContextManager[Callable[[LoadRun], Row]]]
"""``observe(server)``: what else is looked at while a point is measured. Its block is open during the
load; what it gives is called with the run, and returns the further columns of the table `observed`."""


@dataclass(repr=False)
class SweepTable(Table):
    """What was measured. records: rows of the records table `sweep`. names: the grid's, in order."""

    names: tuple[str, ...] = ()

    name = "sweep"
    unit = "points"
    measured_columns: ClassVar[tuple[str, ...]] = ("qps", "p50_ms", "p99_ms")

    def to_frame(self) -> DataFrame:
        """The rows as a tidy frame: the table sweep of data/README.md, and a column for each name of
        the grid. A field of the load that is swept has the value of the grid."""
        made = super().to_frame()
        points = [json.loads(row["point"]) for row in self.records]
        for name in self.names:
            made[name] = [point[name] for point in points]
        return made

    def summary(self) -> DataFrame:
        """`points` as a frame."""
        return data_frame(self.points())

    def points(self) -> list[dict[str, Any]]:
        """One row a point and MPM: the medians of the rounds (qps, p50_ms, and p99_ms, NaN below 1,000
        requests), whether p99_ms is only as long as the run (p99_cut), the rounds, all failures, and
        whether the generator, or the machine that it shares with the server, was the limit in any round."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.records:
            groups.setdefault((row["mpm"], row["point"]), []).append(row)
        found = []
        for (mpm, point), rows in sorted(groups.items(), key=_by_values):
            tails, cuts = zip(*map(stats.p99, rows), strict=True)
            made = {"mpm": mpm, **json.loads(point), "rounds": len(rows)}
            made |= {name: _median(row[name] for row in rows) for name in self.measured_columns}
            made |= {"p99_ms": _median(tails), "p99_cut": any(cuts)}
            made |= {"failures": sum(row["failures"] for row in rows)}
            found.append(made | {name: any(row[name] for row in rows) for name in _LIMITS})
        return found

    def text(self) -> str:
        """The summary as text, the best point of each MPM, where a curve bends, the machine."""
        if not self.records:
            return "no point was finished"
        points = self.points()
        head = ["mpm", *self.names, "requests/s", "p50 ms", "p99 ms", ""]
        lines = [head]
        for row in points:
            remarks = [f"{row['failures']:,} FAILED"] if row["failures"] else []
            remarks += [word for name, word in _LIMITS.items() if row[name]]
            point = [str(row[name]) for name in ("mpm", *self.names)]
            times = [_ms(row["p50_ms"]), "≥ " * row["p99_cut"] + _ms(row["p99_ms"])]
            lines.append([*point, f"{row['qps']:,.0f}", *times, "; ".join(remarks)])
        out = aligned(lines, left=(0, len(head) - 1))
        for mpm in dict.fromkeys(row["mpm"] for row in points):
            out += self._best([row for row in points if row["mpm"] == mpm])
        if any(row["p99_cut"] for row in points):
            out.append("≥: as long as the run, which cut the slowest requests off")
        if any(math.isnan(row["p99_ms"]) for row in points):
            out.append(f"p99 needs {stats.TAIL:,} requests a round")
        return "\n".join(out + self.footer(AGAIN))

    def _best(self, rows: list[dict[str, Any]]) -> list[str]:
        """The best point of one MPM, and beyond which value of a single name more gains little; neither
        where something else than the server was the limit."""
        limited = sum(any(row[name] for name in _LIMITS) for row in rows)
        if limited:
            which = f"generator or machine was the limit in {limited} of {len(rows)} points"
            return [f"the best point of {rows[0]['mpm']} is not decidable: {which}"]
        best = max(rows, key=lambda row: row["qps"])
        point = ", ".join(f"{name} {best[name]}" for name in self.names)
        out = [f"most requests/s under {best['mpm']}: {best['qps']:,.0f} with {point}"]
        values = [row[self.names[0]] for row in rows]
        if len(self.names) == 1 and all(type(value) in (int, float) for value in values):
            bend = knee(values, [row["qps"] for row in rows])
            if bend is not None:
                out.append(f"  beyond {self.names[0]} {bend:g} more gains little")
        return out


class ObservedSweep(SweepTable):
    """A sweep with what an observer saw at each point: rows of the records table `observed`."""

    name = "observed"
    measured_columns = (
        *SweepTable.measured_columns, "wait_p50_ms", "wait_p99_ms", "unanswered", "pss_mb", "children",
    )  # fmt: skip


_LIMITS = {"generator_bound": "generator-bound", "generator_starved": "machine-bound"}


def _by_values(group: tuple[tuple[str, str], Any]) -> tuple[Any, ...]:
    """MPMs in their order, numbers by their size, words after them."""
    (mpm, point), _ = group
    values = json.loads(point).values()
    words = [(isinstance(v, str), 0 if isinstance(v, str) else v, str(v)) for v in values]
    return MPMS.index(mpm), words


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"


def sweep(
    mpm: str | Iterable[str],
    grid: Mapping[str, Iterable[Any]],
    profile: LoadProfile,
    *,
    rounds: int = 1,
    directives: Mapping[str, Any] | None = None,
    document_root: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    launch: Launch | None = None,
    observe: Observe | None = None,
) -> SweepTable:
    """Measure every point of a grid, each with a fresh server.

    mpm: prefork, worker or event, or several. grid: name of a directive or of a field of LoadProfile
        -> the values to try. profile: the load; the grid changes its fields.
    rounds: how often each point is measured, 1 to 1000. directives: override the article's block at all
        points. document_root: your pages. out, on_progress, launch: as in `qps_table`.
    observe: further observations at each point; the table is then an `ObservedSweep`.

    Raises as `mpmkit.qps_table` does, and RecordError for a file that holds another sweep. After an error or
    Ctrl-C the same call resumes.
    """
    todo = plan(mpm, grid, profile, rounds=rounds, directives=directives)
    kind = SweepTable if observe is None else ObservedSweep
    table = kind([], todo.names, planned=len(todo.cells()), scale="custom")
    file = table.keep_in(out)  # cuts off a torn last line
    experiment.resume(table, file, sweep=todo.id)
    have = {(row["mpm"], row["point"], row["round"]) for row in table.records}
    cells = [cell for cell in todo.cells() if (*cell.key, cell.round) not in have]
    start = launch or partial(experiment.launch, document_root=document_root)
    look = observe or (lambda server: nullcontext(lambda found: {}))

    def measure(cell: GridPoint, report: Report) -> experiment.Figures:
        report(f"round {cell.round}, {cell}", 0.0)
        conditions = experiment.Conditions(table, cell)
        with start(cell.mpm, **cell.directives) as server, look(server) as seen:
            found = run_load(server, profile=cell.profile)
            # A point at which nothing is answered is a result; a server that is gone is not.
            if not found.complete or experiment.is_gone(server):
                raise RuntimeError(f"{cell}: {found.ended}{experiment.last_words(server)}")
            columns = {**found.row(), **seen(found), "started_at": records.utc(found.started_at)}
        columns |= {"sweep": todo.id, "point": json.dumps(cell.values)}
        yield [conditions.row(cell.directives, **columns)]

    return experiment.run(cells, measure, table, file=file, on_progress=on_progress)


def value_of(text: str) -> str | int | float | bool:
    """A value as it is written on the command line: a number, On or Off, or else text."""
    words = {"on": True, "true": True, "off": False, "false": False}
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return words.get(text.lower(), text)


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE,VALUE, not {text!r}")
    return name, [value_of(part.strip()) for part in values.split(",") if part.strip()]


_LOAD = ("path", "users", "keep_alive", "requests", "duration", "warmup_seconds")
# scale -> seconds a point
SCALES = {"smoke": 1.0, "demo": 2.0, "full": 8.0}


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit sweep",
        description="Measure every point of a grid of directives and loads. The same command goes on "
        "where it was stopped.",
        epilog="example: mpmkit sweep event ThreadsPerChild=5,10,25 users=50,100,200 --keep-alive",
    )
    add = parser.add_argument
    add("mpm", type=command.words, help="prefork, worker or event; several as a,b")
    grid = "a directive or a field of the load (users, keep_alive ...) and its values"
    add("grid", nargs="+", type=_axis, metavar="NAME=VALUE,VALUE", help=grid)
    add("--path", default="/index.html", help="what to ask for (/index.html)")
    add("--users", type=int, default=50, help="concurrent clients (50)")
    add("--duration", type=float, help="seconds a point, instead of what the scale says")
    add("--requests", type=int, help="requests a point instead")
    add("--warmup", dest="warmup_seconds", type=float, default=0.5, help="seconds before it (0.5)")
    add("--keep-alive", action="store_true", help="reuse connections")
    command.add_options(
        parser,
        *("--rounds", "--scale", "--document-root", "--directive", "--out"),
        rounds="how often each point (1)",
        scale="seconds a point: " + ", ".join(f"{n} {s:g}" for n, s in SCALES.items()),
    )
    parser.set_defaults(rounds=1)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit sweep``: the table on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`."""
    options = _parser().parse_args(argv)

    def measure(bar: OnProgress) -> SweepTable:
        problems = command.Problems()
        _, seconds = problems.scale(options.scale, SCALES)
        if len(dict(options.grid)) < len(options.grid):
            problems.append("a name is in the grid twice; give its values together")
        problems.raise_any()
        load: dict[str, Any] = {name: getattr(options, name) for name in _LOAD}
        if options.requests is None and options.duration is None:
            load["duration"] = seconds
        what = (options.mpm, dict(options.grid), LoadProfile(**load))
        directives = {name: value_of(value) for name, value in options.directives}
        how: dict[str, Any] = {"directives": directives, "rounds": options.rounds}
        todo = plan(*what, **how)
        out = command.out_of(options, f"sweep-{todo.id}")
        many = f"{len(todo.points)} points, {todo.rounds} round{'s' * (todo.rounds > 1)}"
        command.say(f"{many}, about {experiment.duration(todo.seconds)} if none is there yet")
        root = options.document_root
        table = sweep(*what, **how, document_root=root, out=out, on_progress=bar)
        if table.resumed:
            command.say(f"{table.resumed} rows were in {table.out} already")
        return table

    return command.execute(measure, SweepTable.text, AGAIN)[0]
