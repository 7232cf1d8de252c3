"""A grid of directives and loads, measured point by point.

    table = sweep("event", {"ThreadsPerChild": [5, 10, 25], "users": [50, 100, 200]},
                  LoadProfile(path="/index.html", duration=2.0))
    table.summary()

A name of the grid is a directive or a field of the load profile. Everything is checked before
anything starts, all problems at once: unknown names, values that a directive refuses, values that
the server would replace by others (ThreadsPerChild 100 under a ThreadLimit of 64 would measure 64
and call it 100), loads that can't be made.

Each finished point is on disk (``out``). The same sweep into the same file goes on where it was
stopped, by Ctrl-C, a crash or a full disk: points that the file has are not measured again. More
rounds may be asked for than the last time; another grid or profile is refused.

Points are measured one after the other, each with a fresh server, and each round begins with another.
Nothing runs in parallel: two servers and two generators would share the cores, the loopback device
and the ports, and each would measure the other.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError, Setting, spec_for
from mpmkit.config.keywords import from_keywords
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import DRIVERS, LoadError, LoadRun, run_load
from mpmkit.measure import procfs, published, records, stats
from mpmkit.measure.records import RecordError, RecordFile, Row
from mpmkit.measure.text import aligned

if TYPE_CHECKING:
    import pandas

MOST_POINTS = 10_000
SHOWN = 10  # problems that are told; a wrong name is wrong at every point
START = 2.5  # seconds that a server and a generator take to start and end, for the estimate

Point = dict[str, Any]
Launch = Callable[..., AbstractContextManager[Any]]


class SweepError(RuntimeError):
    """The sweep could not go on. `table` holds the rows finished before; the same call goes on."""

    def __init__(self, message: str, table: SweepTable) -> None:
        super().__init__(message)
        self.table = table


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C. `table` holds the rows finished before; the same call goes on."""

    def __init__(self, table: SweepTable) -> None:
        super().__init__("interrupted")
        self.table = table


# -- the grid (pure) -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One point under one MPM: the grid's values, and what they make of directives and load."""

    mpm: str
    point: Point
    directives: dict[str, Any]
    profile: LoadProfile

    @property
    def key(self) -> tuple[str, str]:
        """What tells this cell from the others, as it stands in the file."""
        return self.mpm, json.dumps(self.point)

    def __str__(self) -> str:
        return " ".join([self.mpm, *(f"{name}={value}" for name, value in self.point.items())])


@dataclass(frozen=True)
class Plan:
    """A sweep, checked."""

    cells: tuple[Cell, ...]
    names: tuple[str, ...]
    rounds: int
    driver: str
    id: str

    @property
    def seconds(self) -> float:
        """About how long it takes; requests without a bound in time are taken as 5 s."""
        return self.rounds * sum(
            START + cell.profile.warmup_seconds + (cell.profile.duration or 5.0)
            for cell in self.cells
        )


def plan(
    mpms: str | Iterable[str],
    grid: Mapping[str, Iterable[Any]],
    profile: LoadProfile,
    *,
    rounds: int = 1,
    directives: Mapping[str, Any] | None = None,
    driver: str = "locust",
) -> Plan:
    """Check a sweep. Raises ValueError with everything that is wrong with it, a line a problem."""
    problems: list[str] = []
    mpms_ = (mpms,) if isinstance(mpms, str) else tuple(mpms)
    problems += [f"mpm: {mpm!r} is none of {', '.join(MPMS)}" for mpm in mpms_ if mpm not in MPMS]
    if not mpms_:
        problems.append(f"mpm: give at least one of {', '.join(MPMS)}")
    if type(rounds) is not int or not 1 <= rounds <= 1000:
        problems.append(f"rounds: must be a whole number from 1 to 1000, not {rounds!r}")
    if driver not in DRIVERS:
        problems.append(f"driver: {driver!r} is none of {', '.join(DRIVERS)}")
    axes = _axes(grid, problems)
    size = math.prod(len(values) for values in axes.values()) * len(mpms_) if axes else 0
    if size > MOST_POINTS:
        problems.append(f"grid: {size:,} points are more than {MOST_POINTS:,}; sweep fewer values")
        raise ValueError("\n".join(problems))

    loads = {one.name for one in fields(LoadProfile)}
    cells = []
    wrong: dict[str, list[str]] = {}  # what is wrong, and at which points
    for mpm in [mpm for mpm in mpms_ if mpm in MPMS]:
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            where = " ".join([mpm, *(f"{name}={value}" for name, value in point.items())])
            load = {name: value for name, value in point.items() if name in loads}
            given = {
                **(directives or {}),
                **{name: value for name, value in point.items() if name not in loads},
            }
            made = profile
            try:
                made = profile.but(**load)
            except ProfileError as error:
                for text in str(error).split("; "):
                    wrong.setdefault(text, []).append(where)
            base = {"KeepAlive": bool(made.keep_alive), **published.DIRECTIVES[mpm]}
            cells.append(Cell(mpm, point, {**base, **given}, made))
            for text in _refusals(mpm, base, given):
                wrong.setdefault(text, []).append(where)
    # A value that is wrong by itself is wrong at many points, and must not hide the next one.
    problems += [
        f"{where[0]}{f', and {len(where) - 1} more' if where[1:] else ''}: {text}"
        for text, where in wrong.items()
    ]
    if problems:
        told = list(dict.fromkeys(problems))
        more = len(told) - SHOWN
        raise ValueError(
            "\n".join(told[:SHOWN] + ([f"and {more} more problems"] if more > 0 else []))
        )
    identity = json.dumps(
        [mpms_, axes, json.loads(profile.to_json()), dict(directives or {}), driver],
        sort_keys=True,
        default=str,
    )
    return Plan(
        tuple(cells),
        tuple(axes),
        rounds,
        driver,
        hashlib.sha256(identity.encode()).hexdigest()[:12],
    )


def _axes(grid: Mapping[str, Iterable[Any]], problems: list[str]) -> dict[str, list[Any]]:
    """The grid with directives in Apache's spelling."""
    if not isinstance(grid, Mapping) or not grid:
        problems.append(
            "grid: give names with the values to try, like {'ThreadsPerChild': [5, 25]}"
        )
        return {}
    loads = [one.name for one in fields(LoadProfile)]
    axes: dict[str, list[Any]] = {}
    for name, given in grid.items():
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            problems.append(f"{name}: give a list of values, not {given!r}")
            continue
        values = list(given)
        canonical = name
        if name not in loads:
            try:
                canonical = spec_for(name, None).name
            except ValueError as error:
                problems.append(
                    f"{error} (nor is it a field of a load profile: {', '.join(loads)})"
                )
                continue
        if not values:
            problems.append(f"{name}: has no value to try")
        if canonical in axes:
            problems.append(f"{name}: is in the grid twice")
        for value in values:
            if not isinstance(value, str | int | float | bool):
                problems.append(f"{name}: {value!r} is no text, number or truth")
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            problems.append(f"{name}: has a value twice")
        axes[canonical] = values
    return axes


def _refusals(mpm: str, base: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Why a server would not run with these directives as they stand."""
    found: list[str] = []
    settings: list[Setting] = []
    # Later names win; the article's block is only a base and may be corrected.
    for name, value in {**base, **given}.items():
        try:
            settings += from_keywords(mpm, **{name: value})
        except ValueError as error:
            found += str(error).splitlines()
    try:
        effective, notes = check(mpm, settings)
    except DirectiveError as error:
        return found + str(error).splitlines()
    named = {setting.name.lower() for setting in settings}
    for name, value in given.items():
        if name.lower() not in named:
            continue  # told above
        spec = spec_for(name, mpm)
        real = getattr(effective, spec.attribute, value) if spec.attribute else value
        if spec.takes == "number" and isinstance(value, str):
            try:
                value = int(value)
            except ValueError:  # the server reads it as httpd does: 0
                found.append(f"{spec.name} takes a number, not {value!r}")
                continue
        if isinstance(value, int | float) and isinstance(real, int | float) and real != value:
            why = next((str(note) for note in notes if spec.name in str(note)), "")
            found.append(f"the server would use {spec.name} {real}" + (f" ({why})" if why else ""))
    return found


def knee(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Where a curve that rises and then flattens bends: beyond it, more x gives little more y.

    The point farthest above the straight line from the first point to the highest one, both axes
    scaled to 1. None if there are fewer than 3 points or none is farther above it than a twentieth:
    a straight line has no knee.
    """
    points = sorted(zip(xs, ys, strict=True))
    if len(points) < 3:
        return None
    top = max(range(len(points)), key=lambda i: points[i][1])
    left, right = points[0][0], points[-1][0]
    low, high = points[0][1], points[top][1]
    if right <= left or high <= low:
        return None
    above = [((y - low) / (high - low) - (x - left) / (right - left), -x) for x, y in points]
    height, place = max(above)
    return -place if height > 0.05 else None


# -- the table -----------------------------------------------------------------------------------


@dataclass(repr=False)
class SweepTable:
    """What was measured. records: rows of the records table `sweep`. names: the grid's, in order.

    planned: rows that the whole sweep has. resumed: rows that the file held before.
    notes: what a reader should know of it.
    """

    records: list[Row]
    names: tuple[str, ...]
    planned: int = 0
    resumed: int = 0
    id: str = ""
    out: Path | None = None
    notes: list[str] = field(default_factory=list)

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a tidy frame: the table sweep of data/README.md, and a column for each name of
        the grid. A field of the load that is swept has the value of the grid."""
        made = records.frame(self.records, "sweep")
        points = [json.loads(row["point"]) for row in self.records]
        for name in self.names:
            made[name] = [point[name] for point in points]
        return made

    def summary(self) -> pandas.DataFrame:
        """One row a point and MPM: the medians of the rounds (qps, p50_ms, p99_ms), the rounds, all
        failures, and whether the generator, or the machine that it shares with the server, was the
        limit in any of them."""
        import pandas

        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.records:
            groups.setdefault((row["mpm"], row["point"]), []).append(row)
        return pandas.DataFrame(
            [
                {
                    "mpm": mpm,
                    **json.loads(point),
                    "rounds": len(rows),
                    **{
                        name: _median([row[name] for row in rows])
                        for name in ("qps", "p50_ms", "p99_ms")
                    },
                    "failures": sum(row["failures"] for row in rows),
                    "generator_bound": any(row["generator_bound"] for row in rows),
                    "generator_starved": any(row["generator_starved"] for row in rows),
                }
                for (mpm, point), rows in groups.items()
            ]
        )

    def text(self) -> str:
        """The summary as text, the best point of each MPM, where a curve bends, the machine."""
        if not self.records:
            return "no point was finished"
        frame = self.summary()
        head = ["mpm", *self.names, "requests/s", "p50 ms", "p99 ms", ""]
        lines = [head]
        for row in frame.to_dict("records"):
            remarks = [f"{row['failures']:,} FAILED"] if row["failures"] else []
            remarks += ["generator-bound"] if row["generator_bound"] else []
            remarks += ["machine-bound"] if row["generator_starved"] else []
            lines.append(
                [
                    str(row["mpm"]),
                    *(str(row[name]) for name in self.names),
                    f"{row['qps']:,.0f}",
                    _ms(row["p50_ms"]),
                    _ms(row["p99_ms"]),
                    "; ".join(remarks),
                ]
            )
        out = aligned(lines, left=(0, len(head) - 1))
        for mpm, rows in frame.groupby("mpm", sort=False):
            best = rows.loc[rows["qps"].idxmax()]
            told = ", ".join(f"{name} {best[name]}" for name in self.names)
            out.append(f"most requests/s under {mpm}: {best['qps']:,.0f} with {told}")
            numeric = [
                name
                for name in self.names
                if all(
                    isinstance(value, int | float) and not isinstance(value, bool)
                    for value in rows[name]
                )
            ]
            if len(self.names) == 1 and numeric:
                bend = knee(list(rows[numeric[0]]), list(rows["qps"]))
                if bend is not None:
                    out.append(f"  beyond {numeric[0]} {bend:g} there is little more")
        out.append(f"measured on {records.Machine.of(self.records[-1])}")
        if len(self.records) < self.planned:
            out.append(
                f"NOT COMPLETE: {len(self.records)} of {self.planned} points were measured; "
                "the same command goes on"
            )
        out += self.notes
        if self.out is not None:
            out.append(f"rows in {self.out}")
        return "\n".join(out)

    def __repr__(self) -> str:
        return (
            f"<SweepTable {len(self.records)} of {self.planned} rows over {', '.join(self.names)}>"
        )


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else math.nan


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"


# -- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepProgress:
    """How far it is: `done` of `points` rows (those of the file included); `row` when one ends.

    elapsed: seconds of this call. left: seconds that remain, or None before the first row.
    """

    done: int
    points: int
    text: str
    elapsed: float
    left: float | None
    row: Row | None = None

    @property
    def share(self) -> float:
        """Share of the whole, 0 to 1."""
        return self.done / self.points if self.points else 1.0

    def __str__(self) -> str:
        left = "" if self.left is None else f" (about {_duration(self.left)} left)"
        rate = "" if self.row is None else f": {self.row['qps']:,.0f} requests/s"
        return f"[{self.done}/{self.points}] {self.text}{rate}{left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def sweep(
    mpm: str | Iterable[str],
    grid: Mapping[str, Iterable[Any]],
    profile: LoadProfile,
    *,
    rounds: int = 1,
    directives: Mapping[str, Any] | None = None,
    driver: str = "locust",
    document_root: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    on_progress: Callable[[SweepProgress], None] | None = None,
    launch: Launch | None = None,
) -> SweepTable:
    """Measure every point of a grid; see the module's text.

    mpm: prefork, worker or event, or several. grid: name of a directive or of a field of LoadProfile
        -> the values to try. profile: the load, of which the grid changes fields.
    rounds: how often each point is measured, 1 to 1000. directives: over the article's block, for all
        points. driver: as in `run_load`. document_root: your pages.
    out: a CSV file (records table `sweep`) to which each finished point is appended, and which the
        same sweep continues. on_progress: called before and after each point.
    launch: starts a server, ``launch(mpm, **directives)``; by default `mpmkit.launch`.

    Raises ValueError for a bad grid and RecordError for a bad file or one that holds another sweep,
    both before anything starts; SweepError if a server or the generator fails, SweepInterrupted (a
    KeyboardInterrupt) on Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(mpm, grid, profile, rounds=rounds, directives=directives, driver=driver)
    table = SweepTable([], todo.names, len(todo.cells) * rounds, id=todo.id)
    file = _continue(todo, table, out) if out is not None else None
    have = {(row["mpm"], row["point"], row["round"]) for row in table.records}
    cells = [
        (number, todo.cells[int(place)])
        for number in range(1, rounds + 1)
        for place in stats.turns([str(i) for i in range(len(todo.cells))], number)
    ]
    cells = [(number, cell) for number, cell in cells if (*cell.key, number) not in have]
    start = launch or _launcher(document_root)
    run_id, machine, began = records.new_run_id(), records.machine().row(), time.monotonic()
    try:
        for number, cell in cells:
            text = f"round {number}, {cell}"

            def tell(row: Row | None = None, text: str = text) -> None:
                if on_progress is not None:
                    now, mine = time.monotonic() - began, len(table.records) - table.resumed
                    left = now / mine * (len(cells) - mine) if mine else None
                    on_progress(
                        SweepProgress(len(table.records), table.planned, text, now, left, row)
                    )

            tell()
            before, load = procfs.machine_times(), records.load1()
            with start(cell.mpm, **cell.directives) as server:
                run = run_load(server, profile=cell.profile, driver=todo.driver)
                _must_have_ended(run, server, cell, table)
            row = records.check(
                {
                    "run_id": run_id,
                    "table": "sweep",
                    "scale": "custom",
                    "server": "mpmkit",
                    "mpm": cell.mpm,
                    "sweep": todo.id,
                    "point": json.dumps(cell.point),
                    "round": number,
                    "directives": " ".join(f"{k}={v}" for k, v in cell.directives.items()),
                    **run.row(),
                    "started_at": records.utc(run.started_at),
                    **machine,
                    "load1": load,
                    "steal": procfs.machine_times().steal_since(before),
                }
            )
            table.records.append(file.append(row) if file else row)
            tell(row)
    except KeyboardInterrupt:
        raise SweepInterrupted(table) from None
    except SweepError:
        raise
    except (LoadError, RecordError) as error:
        raise SweepError(str(error), table) from error
    except Exception as error:
        raise SweepError(" ".join(str(error).split()) or type(error).__name__, table) from error
    return table


def _launcher(document_root: str | PathLike[str] | None) -> Launch:
    def start(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
        import mpmkit

        return mpmkit.launch(mpm, document_root=document_root, **directives)

    return start


def _continue(todo: Plan, table: SweepTable, out: str | PathLike[str]) -> RecordFile:
    """Open the file; take over the rows of this sweep that it has. Raises RecordError if it holds
    another one."""
    file = RecordFile(out, "sweep")  # drops a last line without its end
    table.out = file.path
    rows = records.read(file.path)
    others = {row["sweep"] for row in rows} - {todo.id}
    if others:
        raise RecordError(
            f"{file.path}: holds another sweep (another grid, profile or MPM); choose another file"
        )
    known = {cell.key for cell in todo.cells}
    table.records = [row for row in rows if (row["mpm"], row["point"]) in known]
    table.planned = max(table.planned, len(table.records))
    table.resumed = len(table.records)
    machine = records.machine().row()
    for name in ("cpu_model", "cores", "kernel", "python", "commit"):
        before = {row[name] for row in rows} - {machine[name]}
        if before:
            table.notes.append(
                f"rows that the file had before are of another {name}: "
                f"{', '.join(map(str, sorted(map(str, before))))}"
            )
    return file


def _must_have_ended(run: LoadRun, server: Any, cell: Cell, table: SweepTable) -> None:
    """A point at which nothing is answered is a result; a server that is gone is none."""
    pid = getattr(server, "pid", None)
    alive = pid is None or procfs.alive(pid)
    if run.complete and alive:
        return
    said = [f"{cell}: {run.ended}"]
    if not alive:
        said.append(f"the server (process {pid}) is gone")
    last = [line for line in str(server.error_log()).splitlines() if line.strip()][-1:]
    said += [f"its error log ends: {line.strip()}" for line in last]
    raise SweepError("; ".join(said), table)


# -- the command line ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, where argparse prints its usage first."""
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")


def value_of(text: str) -> str | int | float | bool:
    """A value as it is written on the command line: a number, On or Off, or else text."""
    words = {"on": True, "true": True, "off": False, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE,VALUE, not {text!r}")
    return name, [value_of(part.strip()) for part in values.split(",") if part.strip()]


def _parser() -> _Parser:
    parser = _Parser(
        prog="mpmkit sweep",
        allow_abbrev=False,
        description="Measure every point of a grid of directives and loads. The same command goes on "
        "where it was stopped.",
        epilog="example: mpmkit sweep event ThreadsPerChild=5,10,25 users=50,100,200 --keep-alive",
    )
    parser.add_argument("mpm", help="prefork, worker or event; several as a,b")
    parser.add_argument(
        "grid",
        nargs="+",
        type=_axis,
        metavar="NAME=VALUE,VALUE",
        help="a directive or a field of the load (users, keep_alive ...) and its values",
    )
    parser.add_argument("--path", default="/index.html", help="what to ask for (/index.html)")
    parser.add_argument("--users", type=int, default=50, help="concurrent clients (50)")
    parser.add_argument("--duration", type=float, help="seconds a point (2)")
    parser.add_argument("--requests", type=int, help="requests a point instead")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before it (0.5)")
    parser.add_argument("--keep-alive", action="store_true", help="reuse connections")
    parser.add_argument("--rounds", type=int, default=1, help="how often each point (1)")
    parser.add_argument("--driver", default="locust", help=f"{' or '.join(DRIVERS)} (locust)")
    parser.add_argument("--document-root", metavar="DIR", help="your pages")
    parser.add_argument(
        "-c",
        "--directive",
        action="append",
        default=[],
        metavar="'Name value'",
        help="a directive for all points; may be repeated",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.csv",
        help="append to and go on with this file (default: data/runs/sweep-ID.csv, "
        "where ID tells this grid from others, if that folder is here)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit sweep``: the table on standard output, progress and errors on standard error.

    0: measured. 1: something failed on the way. 2: a bad argument. 130: Ctrl-C. After the last three
    the rows until then are kept and printed, and the same command goes on.
    """
    options = _parser().parse_args(argv)

    def say(text: str) -> None:
        for line in text.splitlines():
            print(f"mpmkit: {line}", file=sys.stderr, flush=True)

    try:
        directives = {}
        for text in options.directive:
            name, _, value = text.strip().partition(" ")
            if not value.strip():
                raise ValueError(f"-c {text!r}: write a directive and its value, -c 'Timeout 5'")
            directives[name] = value_of(value.strip())
        mpms = [part.strip() for part in options.mpm.split(",") if part.strip()]
        grid = dict(options.grid)
        if len(grid) < len(options.grid):
            raise ValueError("a name is in the grid twice; give its values together")
        profile = LoadProfile(
            path=options.path,
            users=options.users,
            keep_alive=options.keep_alive,
            requests=options.requests,
            warmup_seconds=options.warmup,
            duration=2.0
            if options.requests is None and options.duration is None
            else options.duration,
        )
        how: dict[str, Any] = {
            "rounds": options.rounds,
            "directives": directives,
            "driver": options.driver,
        }
        todo = plan(mpms, grid, profile, **how)
        out = (
            Path(options.out)
            if options.out
            else (
                Path("data/runs") / f"sweep-{todo.id}.csv" if Path("data/runs").is_dir() else None
            )
        )
        say(
            f"{len(todo.cells)} points, {todo.rounds} round{'s' * (todo.rounds > 1)}, about "
            f"{_duration(todo.seconds)} if none is there yet"
        )
        table = sweep(
            mpms,
            grid,
            profile,
            **how,
            document_root=options.document_root,
            out=out,
            on_progress=lambda now: say(str(now)) if now.row else None,
        )
        if table.resumed:
            say(f"{table.resumed} rows were in {table.out} already")
        status = 0
    except SweepInterrupted as stop:
        say("interrupted; the same command goes on")
        table, status = stop.table, 130
    except SweepError as error:
        say(f"{error}; the same command goes on")
        table, status = error.table, 1
    except RecordError as error:
        say(str(error))
        return 1
    except (ValueError, DirectiveError) as error:
        say(str(error))
        return 2
    print(table.text(), flush=True)
    return status
