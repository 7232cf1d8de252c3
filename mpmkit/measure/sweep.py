"""A grid of directives and loads, measured point by point.

    table = sweep("event", {"ThreadsPerChild": [5, 10, 25], "users": [50, 100, 200]},
                  LoadProfile(path="/index.html", duration=2.0))
    table.summary()

A name of the grid is a directive or a field of the load profile; `plan` checks all points before anything starts.
The same sweep into the same file resumes after Ctrl-C, a crash or a full disk. It may have more rounds than the
last time; another grid or profile is refused. The seed of the random order is the column `sweep`.
"""

import argparse
import contextlib
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from os import PathLike
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError, Setting, spec_for
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.config.keywords import from_keywords
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, experiment, published, records, stats
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import knee as knee

MOST_POINTS = 10_000
SHOWN = 10  # problems that are reported; a wrong name is wrong at every point
LOADS = tuple(one.name for one in fields(LoadProfile))
START = 2.5  # seconds that a server and a generator take to start and end, for the estimate
LIMITS = {"generator_bound": "generator-bound", "generator_starved": "machine-bound"}

Observe = Callable[[Any], AbstractContextManager[Callable[[LoadRun], Row]]]
"""``observe(server)``: what else is looked at while a point is measured. Its block is open during the
load; what it gives is called with the run, and returns the further columns of the table `observed`."""


@dataclass(frozen=True)
class GridPoint(Cell):
    """One point under one MPM: the grid's values, and the resulting directives and load."""

    values: dict[str, Any]
    profile: LoadProfile = field(repr=False)

    def __str__(self) -> str:
        return " ".join([self.mpm, *(f"{name}={value}" for name, value in self.values.items())])


@dataclass(repr=False)
class SweepTable(Table):
    """A sweep: its points (`cells`), and what was measured: rows of the records table `sweep`, or with further
    observations at each point (`observe`) of `observed`. names: the grid's, in order."""

    names: tuple[str, ...] = ()
    observe: Observe | None = None

    name = "sweep"
    unit = "points"
    design_column = "sweep"
    again = "; the same command resumes"

    def __post_init__(self) -> None:
        self.name = "observed" if self.observe else self.name

    def left(self) -> list[GridPoint]:
        """The points of all rounds without those that have a row."""
        have = {(row["mpm"], row["point"], row["round"]) for row in self.records}
        points = super().left()
        return [p for p in points if (p.mpm, json.dumps(p.values), p.round) not in have]

    def measure(self, cell: GridPoint, report: Report) -> Figures:
        """One point, on a server of its own."""
        report(f"round {cell.round}, {cell}", 0.0)
        row = self.conditions(cell)
        look = self.observe or (lambda server: nullcontext(lambda found: {}))
        with cell.started() as server, look(server) as seen:
            found = run_load(server, profile=cell.profile)
            # A point at which nothing is answered is a result; a server that is gone is not.
            if not found.complete or experiment.is_gone(server):
                raise RuntimeError(f"{cell}: {found.ended}{experiment.last_words(server)}")
            columns = {**found.row(), **seen(found), "started_at": records.utc(found.started_at)}
        columns |= {"sweep": self.design, "point": json.dumps(cell.values)}
        yield [row(**columns)]

    def to_frame(self) -> DataFrame:
        """The rows as a tidy frame: the table sweep of data/README.md, and a column for each name of
        the grid. A field of the load that is swept has the value of the grid."""
        made = super().to_frame()
        for name in self.names:
            made[name] = [json.loads(row["point"])[name] for row in self.records]
        return made

    def summary(self) -> DataFrame:
        """`points` as a frame."""
        return data_frame(self.points())

    def points(self) -> list[dict[str, Any]]:
        """One row a point and MPM: the medians of the rounds (qps, p50_ms, and p99_ms, NaN below 1,000
        requests), whether p99_ms is only as long as the run (p99_cut), the rounds, all failures, and
        whether the generator, or the machine that it shares with the server, was the limit in any round."""
        found = []
        for (mpm, point), rows in records.grouped(self.records, "mpm", "point").items():
            tails, cuts = zip(*map(stats.p99, rows), strict=True)
            found.append({
                "mpm": mpm, **json.loads(point), "rounds": len(rows),
                "qps": _median(row["qps"] for row in rows), "p50_ms": _median(row["p50_ms"] for row in rows),
                "p99_ms": _median(tails), "p99_cut": any(cuts),
                "failures": sum(row["failures"] for row in rows),
                **{name: any(row[name] for row in rows) for name in LIMITS},
            })  # fmt: skip

        def place(row: Row) -> Any:
            """MPMs in their order, numbers by their size, words after them."""
            return MPMS.index(row["mpm"]), [(isinstance(row[n], str), row[n]) for n in self.names]

        return sorted(found, key=place)

    def _text(self) -> Iterator[str]:
        """The summary, the best point of each MPM, the machine."""
        points, head = self.points(), ["mpm", *self.names, "requests/s", "p50 ms", "p99 ms", ""]
        lines = [head]
        for row in points:
            remarks = [f"{row['failures']:,} FAILED"] if row["failures"] else []
            remarks += [word for name, word in LIMITS.items() if row[name]]
            point = [str(row[name]) for name in ("mpm", *self.names)]
            times = [command.known(row[name], ",.1f") for name in ("p50_ms", "p99_ms")]
            times[1] = "≥ " * row["p99_cut"] + times[1]
            lines.append([*point, f"{row['qps']:,.0f}", *times, "; ".join(remarks)])
        yield from command.aligned(lines, left=(0, len(head) - 1))
        for mpm in dict.fromkeys(row["mpm"] for row in points):
            mine = [row for row in points if row["mpm"] == mpm]
            if limited := sum(any(row[name] for name in LIMITS) for row in mine):
                which = f"generator or machine was the limit in {limited} of {len(mine)} points"
                yield f"the best point of {mpm} is not decidable: {which}"
            else:
                best = max(mine, key=lambda row: row["qps"])
                where = ", ".join(f"{name} {best[name]}" for name in self.names)
                yield f"most requests/s under {mpm}: {best['qps']:,.0f} with {where}"
        if any(row["p99_cut"] for row in points):
            yield "≥: as long as the run, which cut the slowest requests off"
        if any(math.isnan(row["p99_ms"]) for row in points):
            yield f"p99 needs {stats.TAIL:,} requests a round"
        yield from self.footer()


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.median(known) if known else math.nan


@experiment.measured
def sweep(
    mpm: Names,
    grid: Mapping[str, Iterable[Any]],
    profile: LoadProfile,
    *,
    rounds: int = 1,
    directives: Mapping[str, Any] | None = None,
    document_root: str | PathLike[str] | None = None,
    launch: experiment.Launch | None = None,
    observe: Observe | None = None,
) -> SweepTable:
    """Measure every point of a grid of directives and loads, each with a fresh server. An interrupted sweep
    resumes with its file.

    mpm: prefork, worker or event, or several. grid: name of a directive or of a field of LoadProfile -> the
    values to try. profile: the load; the grid changes its fields. rounds: how often each point is measured, 1 to
    1000 (1). directives: over the article's, at all points: {name: value}, or a -c for each. document_root: your
    pages.

    observe: further observations at each point, as columns of the records table `observed`. launch, out,
    on_progress, say: as in `qps_table`.

    Raises as `mpmkit.qps_table` does, and RecordError for a file that holds another sweep.
    """
    problems = command.Problems()
    known = problems.chosen("mpm", mpm, MPMS)
    problems.numbers("rounds", rounds, 1, 1000, "whole")
    axes = _axes(grid, problems)
    size = len(known) * math.prod(map(len, axes.values()))
    if size > MOST_POINTS:
        problems.append(f"grid: {size:,} points are more than {MOST_POINTS:,}; sweep fewer values")
        problems.raise_any("\n")
    start = launch or partial(experiment.launch, document_root=document_root)
    wrong: dict[str, list[str]] = {}  # what is wrong, and at which points
    points = []
    for one, *values in itertools.product(known, *axes.values()):
        point = dict(zip(axes, values, strict=True))
        made, refused = _point(one, point, profile, directives or {})
        points.append(replace(made, start=start))
        for text in refused:
            wrong.setdefault(text, []).append(str(made))
    # A value that is wrong by itself is wrong at many points, and must not hide the next one.
    problems += [
        f"{where[0]}{f', and {len(where) - 1} more' if where[1:] else ''}: {text}"
        for text, where in wrong.items()
    ]
    if (more := len(problems) - SHOWN) > 0:
        problems[SHOWN:] = [f"and {more} more problems"]
    problems.raise_any("\n")
    design = experiment.identity(known, axes, json.loads(profile.to_json()), dict(directives or {}))
    how: dict[str, Any] = {"cells": points, "repeats": rounds, "seed": design, "design": design}
    return SweepTable([], tuple(axes), observe, scale="custom", **how)


plan = sweep.__wrapped__
"""Checks a sweep and gives it without rows. Raises ValueError naming every mistake, one per line."""


def _point(
    mpm: str, point: dict[str, Any], profile: LoadProfile, directives: Mapping[str, Any]
) -> tuple[GridPoint, list[str]]:
    """A point of the grid, and what is wrong with it."""
    given = {**directives, **{name: value for name, value in point.items() if name not in LOADS}}
    refused: list[str] = []
    try:
        profile = profile.but(**{name: value for name, value in point.items() if name in LOADS})
    except ProfileError as error:
        refused += str(error).split("; ")
    made = {"KeepAlive": profile.keep_alive, **published.DIRECTIVES[mpm], **given}
    refused += _refusals(mpm, made, given)
    seconds = START + profile.warmup_seconds + (profile.duration or 5.0)
    how: dict[str, Any] = {"directives": made, "seconds": seconds, "profile": profile}
    return GridPoint(1, OURS, mpm, values=point, **how), refused


def _axes(grid: Mapping[str, Iterable[Any]], problems: list[str]) -> dict[str, list[Any]]:
    """The grid with directives in Apache's spelling."""
    if not isinstance(grid, Mapping) or not grid:
        example = "{'ThreadsPerChild': [5, 25]}"
        problems.append(f"grid: give names with the values to try, like {example}")
        return {}
    axes: dict[str, list[Any]] = {}
    for name, given in grid.items():
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            problems.append(f"{name}: give a list of values, not {given!r}")
            continue
        try:
            canonical = name if name in LOADS else spec_for(name, None).name
        except ValueError as error:
            also = f"nor is it a field of a load profile: {', '.join(LOADS)}"
            problems.append(f"{error} ({also})")
            continue
        problems += [f"{name}: is in the grid twice"] * (canonical in axes)
        axes[canonical] = values = list(given)
        wrong = [one for one in values if not isinstance(one, str | int | float | bool)]
        problems += [f"{name}: {one!r} is not a text, number or truth value" for one in wrong]
        problems += [f"{name}: has no value to try"] * (not values)
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            problems.append(f"{name}: has a value twice")
    return axes


def _refusals(mpm: str, made: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Why a server would not run with the directives as they stand. given: those that may not be corrected; the
    article's block is only a base."""
    found: list[str] = []
    settings: list[Setting] = []
    for name, value in made.items():
        try:
            settings += from_keywords(mpm, **{name: value})
        except ValueError as error:
            found += str(error).splitlines()
    try:
        effective, notes = check(mpm, settings)
    except DirectiveError as error:
        return found + str(error).splitlines()
    named = {setting.name.lower() for setting in settings}  # the others are reported above
    for name in (name for name in given if name.lower() in named):
        spec, value = spec_for(name, mpm), value_of(given[name])
        if spec.takes == "number" and isinstance(value, str):  # the server would read it as 0
            found.append(f"{spec.name} takes a number, not {value!r}")
            continue
        real = getattr(effective, spec.attribute, value) if spec.attribute else value
        if isinstance(value, int | float) and isinstance(real, int | float) and real != value:
            why = next((str(note) for note in notes if spec.name in str(note)), "")
            found.append(f"the server would use {spec.name} {real}" + (f" ({why})" if why else ""))
    return found


def value_of(given: Any) -> Any:
    """A value as it is written on the command line: a number, On or Off, or else text. Others as they are."""
    words = {"on": True, "true": True, "off": False, "false": False}
    for kind in (int, float) if isinstance(given, str) else ():
        with contextlib.suppress(ValueError):
            return kind(given)
    return words.get(given.lower(), given) if isinstance(given, str) else given


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE,VALUE, not {text!r}")
    return name, [value_of(part.strip()) for part in values.split(",") if part.strip()]


# scale -> seconds a point
SCALES = {"smoke": 1.0, "demo": 2.0, "full": 8.0}


def _from_command(mpm: Names, grid: list[tuple[str, list[Any]]], **asked: Any) -> SweepTable:
    """`sweep` with what was asked on the command line."""
    problems = command.Problems()
    _, seconds = problems.scale(asked.pop("scale", None), SCALES)
    if len(dict(grid)) < len(grid):
        problems.append("a name is in the grid twice; give its values together")
    problems.raise_any()
    load = {name: asked.pop(name) for name in LOADS if name in asked}
    load |= {} if {"requests", "duration"} & load.keys() else {"duration": seconds}
    directives = {name: value_of(value) for name, value in asked.pop("directives", ())}
    return sweep(mpm, dict(grid), LoadProfile(**load), directives=directives, **asked)


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit sweep``, as in `command.measured`."""
    example = "example: mpmkit sweep event ThreadsPerChild=5,10,25 users=50,100,200 --keep-alive"
    parser = command.parser("mpmkit sweep", sweep, "rounds document-root directive", example)
    add = parser.add_argument
    add("mpm", type=command.words, help="prefork, worker or event; several as a,b")
    grid = "a directive or a field of the load (users, keep_alive ...) and its values"
    add("grid", nargs="+", type=_axis, metavar="NAME=VALUE,VALUE", help=grid)
    scale = "seconds a point: " + ", ".join(f"{n} {s:g}" for n, s in SCALES.items())
    add("--scale", help=scale)
    add("--path", default="/index.html", help="what to ask for (/index.html)")
    add("--users", type=int, default=50, help="concurrent clients (50)")
    add("--duration", type=float, help="seconds a point, instead of what the scale says")
    add("--requests", type=int, help="requests a point instead")
    add("--warmup", dest="warmup_seconds", type=float, default=0.5, help="seconds before it (0.5)")
    add("--keep-alive", action="store_true", help="reuse connections")
    return command.measured(parser.parse_args(argv), _from_command)[0]
