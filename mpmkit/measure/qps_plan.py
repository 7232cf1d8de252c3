"""What `mpmkit qps` measures: scales, the cells of each round, and the arguments, checked all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import competitors, published, stats
from mpmkit.measure.command import Problems
from mpmkit.measure.competitors import Competitor
from mpmkit.measure.experiment import OURS, Cell, Launch, launcher


@dataclass(frozen=True)
class QpsScale:
    """How much is measured: `requests` per cell or `seconds` of it, what ends first (None: no such bound),
    after `warmup` seconds, in `rounds` rounds. least: seconds that a cell lasts at least; one that its
    requests end sooner is measured again with more of them."""

    requests: int | None
    seconds: float | None
    warmup: float
    rounds: int
    least: float = 0.0


SCALES: dict[str, QpsScale] = {
    "smoke": QpsScale(requests=None, seconds=1.5, warmup=0.3, rounds=1),
    "demo": QpsScale(requests=None, seconds=4.0, warmup=3.0, rounds=3),
    "full": QpsScale(requests=200_000, seconds=None, warmup=15.0, rounds=5, least=8.0),
}

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
        """The server with each page."""
        return tuple(f"{self.label}, {kind}" for kind in self.kinds)


@dataclass(frozen=True)
class QpsPlan:
    """A measurement, checked: what `qps_table` was asked for with all defaults filled in."""

    kinds: tuple[str, ...]
    mpms: tuple[str, ...]
    rounds: int
    scale: str
    profiles: dict[str, LoadProfile]
    also: tuple[Competitor, ...]
    launch: Launch
    least: float

    def cells(self, seed: str) -> list[QpsCell]:
        """The cells of all rounds in the order of measuring, which is random in each round; one start of
        a server each, with its pages in random order."""
        return [
            cell
            for number in range(1, self.rounds + 1)
            for cell in stats.turns(self._round(number, seed), number, seed)
        ]

    def _round(self, number: int, seed: str) -> list[QpsCell]:
        # What programs and php-fpm need would disturb the other pages: they get servers of their own.
        plain = tuple(kind for kind in self.kinds if kind in published.PAGES)
        cells: list[QpsCell] = []
        for mpm in self.mpms:
            ours = [(plain, self.launch)]
            ours += [
                ((way,), competitors.ours(way, self.launch))
                for way in self.kinds
                if way in published.WAYS
            ]
            cells += [QpsCell(number, OURS, mpm, kinds, mpm, start) for kinds, start in ours]
            for one in self.also:
                if one.stands_for == mpm:
                    kinds = tuple(kind for kind in self.kinds if kind in one.kinds)
                    cells.append(QpsCell(number, one.server, one.mpm, kinds, mpm, one.start))
        return [
            replace(cell, kinds=tuple(stats.turns(cell.kinds, number, f"{seed} {cell.label}")))
            for cell in cells
            if cell.kinds
        ]


def plan(
    kinds: str | Iterable[str] = ("static", "script"),
    mpms: str | Iterable[str] = MPMS,
    *,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    processes: int = 1,
    also: Iterable[str] = (),
    scripts: Iterable[str] = ("wsgi",),
    launch: Launch | None = None,
) -> QpsPlan:
    """Check what is asked for; `qps_table` says what it means. Raises ValueError with everything that is
    wrong with it, on one line."""
    problems = Problems()
    pages = problems.chosen("kind", kinds, published.PAGES)
    mpms = problems.chosen("mpm", mpms, MPMS)
    ways = published.WAYS if tuple(scripts) == ("all",) else scripts
    ways = problems.chosen("script", ways, published.WAYS)
    others = problems.also(also)
    if "script" in pages:
        more = [way for way in ways if way != "wsgi"]
        if "php-fpm" in ways and "httpd" in others and "prefork" in mpms:
            more.append("mod_php")
        pages = (*(kind for kind in pages if kind != "script" or "wsgi" in ways), *more)
    chosen, size = problems.scale(scale, SCALES)
    problems.rounds(rounds)
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
        launch or launcher(),
        size.least if requests is None else 0.0,
    )


def _profile(
    problems: Problems, kind: str, size: QpsScale, requests: int | None, load: dict[str, Any]
) -> LoadProfile | None:
    """The load of one page; None, with the problems, if it cannot be made."""
    page = published.page(kind)
    bound: dict[str, Any] = {"requests": requests}  # given by hand: no bound in time cuts it short
    if requests is None:
        bound = {"requests": size.requests, "duration": size.seconds}
    fixed: dict[str, Any] = {
        "path": page.path,
        "expect_length": page.length,
        "warmup_seconds": size.warmup,
    }
    try:
        return LoadProfile(**fixed, **load, **bound, time_limit=TIME_LIMIT)
    except ProfileError as error:
        problems += str(error).split("; ")
        return None
