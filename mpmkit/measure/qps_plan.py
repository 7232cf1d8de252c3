"""What `mpmkit qps` measures: scales, the cells of each round, and the arguments, checked all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import competitors, published, stats
from mpmkit.measure.command import Problems
from mpmkit.measure.competitors import Competitor
from mpmkit.measure.experiment import OURS, Cell, Launch
from mpmkit.measure.qps_table import QpsTable


@dataclass(frozen=True)
class QpsScale:
    """How much is measured: `requests` per cell, but at most `seconds` of it (None: no such bound),
    after `warmup` seconds, in `rounds` rounds."""

    requests: int
    seconds: float | None
    warmup: float
    rounds: int


SCALES: dict[str, QpsScale] = {
    "smoke": QpsScale(requests=1_000, seconds=2.0, warmup=0.3, rounds=1),
    "demo": QpsScale(requests=20_000, seconds=4.0, warmup=3.0, rounds=3),
    "full": QpsScale(requests=200_000, seconds=None, warmup=15.0, rounds=5),
}

MAX_ROUNDS = 30
"""Rounds after which a target precision is given up, by default."""

TIME_LIMIT = 900.0
"""Seconds that one cell may take at most."""


@dataclass(frozen=True)
class QpsCell(Cell):
    """A server with the pages that are asked of it, one after the other.

    stands_for: the MPM whose directives it is started with.
    """

    kinds: tuple[str, ...]
    stands_for: str
    start: Launch = field(compare=False, repr=False)

    @property
    def figures(self) -> int:
        """A figure for each page."""
        return len(self.kinds)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The server with each page, as `QpsTable.samples` has them."""
        return tuple(f"{self.label}, {kind}" for kind in self.kinds)


def _launch_ours(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
    import mpmkit

    return mpmkit.launch(mpm, **directives)


@dataclass(frozen=True)
class QpsPlan:
    """A measurement, checked: what `qps_table` was asked for with all defaults filled in."""

    kinds: tuple[str, ...]
    mpms: tuple[str, ...]
    rounds: int
    scale: str
    profiles: dict[str, LoadProfile]
    beside: tuple[Competitor, ...] = ()
    target: float | None = None
    max_rounds: int = MAX_ROUNDS
    launch: Launch = _launch_ours

    def cells(self) -> list[QpsCell]:
        """The cells of all planned rounds, in the order of measuring; one start of a server each."""
        return [cell for number in range(1, self.rounds + 1) for cell in self.round(number)]

    def round(self, number: int) -> list[QpsCell]:
        """The cells of one round, from 1; also of those beyond the planned ones."""
        # What programs and php-fpm need would disturb the other pages: they get servers of their own.
        plain = tuple(kind for kind in self.kinds if kind in published.PAGES)
        cells: list[QpsCell] = []
        for mpm in self.mpms:
            cells.append(QpsCell(number, OURS, mpm, plain, mpm, self.launch))
            for way in self.kinds:
                if way in published.WAYS:
                    start = competitors.ours(way, self.launch)
                    cells.append(QpsCell(number, OURS, mpm, (way,), mpm, start))
            for one in self.beside:
                if one.stands_for == mpm:
                    kinds = tuple(kind for kind in self.kinds if kind in one.kinds)
                    cells.append(QpsCell(number, one.server, one.mpm, kinds, mpm, one.start))
        return stats.turns([cell for cell in cells if cell.kinds], number)

    def until_settled(self, table: QpsTable) -> Iterator[QpsCell]:
        """The planned cells, then further rounds until the target precision or the last round."""
        yield from self.cells()
        number = self.rounds
        while (
            self.target is not None
            and number < self.max_rounds
            and not stats.settled(list(table.samples().values()), self.target)
        ):
            number += 1
            cells = self.round(number)
            table.planned += sum(cell.figures for cell in cells)
            yield from cells


def plan(
    kinds: Iterable[str] = ("static", "script"),
    mpms: Iterable[str] = MPMS,
    *,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    processes: int = 1,
    beside: Iterable[str] = (),
    target_precision: float | None = None,
    max_rounds: int = MAX_ROUNDS,
    scripts: Iterable[str] = ("wsgi",),
    launch: Launch | None = None,
) -> QpsPlan:
    """Check what is asked for. Raises ValueError with everything that is wrong with it, on one line."""
    problems = Problems()
    pages = problems.chosen("kind", kinds, published.PAGES)
    mpms = problems.chosen("mpm", mpms, MPMS)
    ways = published.WAYS if tuple(scripts) == ("all",) else scripts
    ways = problems.chosen("script", ways, published.WAYS)
    others = problems.beside(beside)
    if "script" in pages:
        more = [way for way in ways if way != "wsgi"]
        if "php-fpm" in ways and "httpd" in others and "prefork" in mpms:
            more.append("mod_php")
        pages = (*(kind for kind in pages if kind != "script" or "wsgi" in ways), *more)
    chosen, size = problems.scale(scale, SCALES)
    problems.rounds(rounds)
    _check_precision(problems, target_precision, max_rounds)
    load = {"users": users, "keep_alive": keep_alive, "processes": processes}
    profiles = {kind: _profile(problems, kind, size, requests, load) for kind in pages}
    problems.raise_any()
    return QpsPlan(
        pages,
        mpms,
        rounds or size.rounds,
        "custom" if requests is not None or rounds is not None else chosen,
        {kind: profile for kind, profile in profiles.items() if profile is not None},
        tuple(competitors.of(others, mpms, pages)),
        target_precision,
        max_rounds,
        launch or _launch_ours,
    )


def _check_precision(problems: Problems, target: Any, max_rounds: Any) -> None:
    if target is not None and not (isinstance(target, int | float) and 0.001 <= target <= 0.5):
        problems.append(f"target_precision: must be 0.001 to 0.5 (0.1% to 50%), not {target!r}")
    problems.rounds(max_rounds, name="max_rounds")
    if target is not None and type(max_rounds) is int and 1 <= max_rounds < stats.ENOUGH:
        problems.append(f"max_rounds: an interval takes {stats.ENOUGH} rounds, not {max_rounds}")


def _profile(
    problems: Problems, kind: str, size: QpsScale, requests: int | None, load: dict[str, Any]
) -> LoadProfile | None:
    """The load of one page; None, with the problems, if it cannot be made."""
    page = published.page(kind)
    if requests is None:
        load = {**load, "requests": size.requests, "duration": size.seconds}
    else:  # a number given by hand is meant: no bound in time cuts it short
        load = {**load, "requests": requests}
    load |= {"path": page.path, "expect_length": page.length}
    try:
        return LoadProfile(**load, warmup_seconds=size.warmup, time_limit=TIME_LIMIT)
    except ProfileError as error:
        problems += str(error).split("; ")
        return None
