"""The grid of a sweep: its points, checked before anything starts. Pure."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError, Setting, spec_for
from mpmkit.config.keywords import from_keywords
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import published
from mpmkit.measure.command import Problems
from mpmkit.measure.experiment import OURS, Cell, in_rounds

MOST_POINTS = 10_000
SHOWN = 10  # problems that are reported; a wrong name is wrong at every point
LOADS = tuple(one.name for one in fields(LoadProfile))
START = 2.5  # seconds that a server and a generator take to start and end, for the estimate


@dataclass(frozen=True)
class GridPoint(Cell):
    """One point under one MPM: the grid's values, and the resulting directives and load."""

    _: KW_ONLY
    values: dict[str, Any]
    directives: dict[str, Any] = field(repr=False)
    profile: LoadProfile = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What distinguishes this point from the others, as it stands in the file."""
        return self.mpm, json.dumps(self.values)

    def __str__(self) -> str:
        return " ".join([self.mpm, *(f"{name}={value}" for name, value in self.values.items())])


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, checked. points: those of round 1. id: of this grid and load."""

    points: tuple[GridPoint, ...]
    names: tuple[str, ...]
    rounds: int
    id: str

    def cells(self) -> list[GridPoint]:
        """The points of all rounds, in the order of measuring: random in each, from the sweep's id."""
        return in_rounds(self.points, range(1, self.rounds + 1), self.id)

    @property
    def seconds(self) -> float:
        """About how long it takes; requests without a bound in time are taken as 5 s."""
        return self.rounds * sum(
            START + point.profile.warmup_seconds + (point.profile.duration or 5.0)
            for point in self.points
        )


def plan(
    mpms: str | Iterable[str],
    grid: Mapping[str, Iterable[Any]],
    profile: LoadProfile,
    *,
    rounds: int = 1,
    directives: Mapping[str, Any] | None = None,
) -> SweepPlan:
    """Check a sweep. Raises ValueError naming every mistake, one per line."""
    problems = Problems()
    asked = (mpms,) if isinstance(mpms, str) else tuple(mpms)
    known = [mpm for mpm in asked if mpm in problems.chosen("mpm", asked, MPMS)]
    problems.rounds(rounds)
    axes = _axes(grid, problems)
    size = math.prod(len(values) for values in axes.values()) * len(asked) if axes else 0
    if size > MOST_POINTS:
        problems.append(f"grid: {size:,} points are more than {MOST_POINTS:,}; sweep fewer values")
        problems.raise_any("\n")
    wrong: dict[str, list[str]] = {}  # what is wrong, and at which points
    points = []
    for mpm, *values in itertools.product(known, *axes.values()):
        point = dict(zip(axes, values, strict=True))
        made, refused = _point(mpm, point, profile, directives or {})
        points.append(made)
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
    whole = [asked, axes, json.loads(profile.to_json()), dict(directives or {})]
    identity = json.dumps(whole, sort_keys=True, default=str)
    number = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return SweepPlan(tuple(points), tuple(axes), rounds, number)


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
    return GridPoint(1, OURS, mpm, values=point, directives=made, profile=profile), refused


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
        values = list(given)
        wrong = [one for one in values if not isinstance(one, str | int | float | bool)]
        problems += [f"{name}: {one!r} is not a text, number or truth value" for one in wrong]
        problems += [f"{name}: has no value to try"] * (not values)
        problems += [f"{name}: is in the grid twice"] * (canonical in axes)
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            problems.append(f"{name}: has a value twice")
        axes[canonical] = values
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
        spec, value = spec_for(name, mpm), given[name]
        if spec.takes == "number" and isinstance(value, str):
            try:
                value = int(value)
            except ValueError:  # the server reads it as httpd does: 0
                found.append(f"{spec.name} takes a number, not {value!r}")
                continue
        real = getattr(effective, spec.attribute, value) if spec.attribute else value
        if isinstance(value, int | float) and isinstance(real, int | float) and real != value:
            why = next((str(note) for note in notes if spec.name in str(note)), "")
            found.append(f"the server would use {spec.name} {real}" + (f" ({why})" if why else ""))
    return found
