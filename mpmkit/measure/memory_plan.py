"""What `mpmkit memory` measures: scales, levels, the pool that a level takes; all arguments checked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError
from mpmkit.config.keywords import from_keywords
from mpmkit.load.preflight import too_few_descriptors
from mpmkit.measure import competitors, published
from mpmkit.measure.command import Problems
from mpmkit.measure.competitors import Competitor
from mpmkit.measure.experiment import OURS, Cell, Launch, launcher
from mpmkit.measure.memory_table import AGAINST

MOST = 20_000  # connections; as many as a load profile may have
SECONDS_A_LEVEL = 4.0  # about what one takes, for the estimate

# No connection is closed while memory is looked at.
PATIENT: dict[str, Any] = {
    "KeepAlive": True,
    "KeepAliveTimeout": 600,
    "MaxKeepAliveRequests": 0,
    "Timeout": 600,
    "RequestReadTimeout": "header=0 body=0",
}


@dataclass(frozen=True)
class MemoryScale:
    """How much is measured: busy levels as shares of MaxRequestWorkers, numbers of idle connections,
    rounds."""

    busy: tuple[float, ...]
    idle: tuple[int, ...]
    rounds: int


SCALES = {
    "smoke": MemoryScale((0, 0.1, 0.2), (0, 20, 50), 1),
    "demo": MemoryScale((0, 0.25, 0.5, 0.75, 1), (0, 100, 250, 1_000, 2_500), 1),
    "full": MemoryScale(
        (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        (0, 50, 100, 250, 400, 1_000, 2_500, 5_000, 7_500, 10_000),
        3,
    ),
}


@dataclass(frozen=True)
class Level(Cell):
    """One server with so many requests busy, or connections idle (`against`).

    stands_for: the MPM whose directives it is started with.
    """

    stands_for: str
    against: str
    level: int
    directives: dict[str, Any] = field(repr=False)
    start: Launch = field(compare=False, repr=False)


@dataclass(frozen=True)
class MemoryPlan:
    """A measurement, checked. levels: those of round 1."""

    levels: tuple[Level, ...]
    rounds: int
    scale: str
    path: str
    also: tuple[Competitor, ...] = ()

    def cells(self) -> list[Level]:
        """The levels of all rounds, in the order of measuring. It isn't random: each level has a server of
        its own, and memory does not depend on what ran before."""
        rounds = range(1, self.rounds + 1)
        return [replace(level, round=number) for number in rounds for level in self.levels]

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return self.rounds * len(self.levels) * SECONDS_A_LEVEL


def plan(
    mpms: str | Iterable[str] = MPMS,
    against: str | Iterable[str] = AGAINST,
    *,
    busy: Iterable[int] | None = None,
    idle: Iterable[int] | None = None,
    rounds: int | None = None,
    scale: str | None = None,
    also: Iterable[str] = (),
    document_root: str | os.PathLike[str] | None = None,
    path: str = "/index.html",
    directives: Mapping[str, Any] | None = None,
) -> MemoryPlan:
    """Check what is asked for; `memory_table` says what it means. Raises ValueError with everything that
    is wrong with it, on one line."""
    problems = Problems()
    mpms = problems.chosen("mpm", mpms, MPMS)
    kinds = problems.chosen("against", against, AGAINST)
    others = tuple(competitors.of(problems.also(also), mpms))
    given = {"busy": _levels(problems, "busy", busy), "idle": _levels(problems, "idle", idle)}
    chosen, size = problems.scale(scale, SCALES)
    problems.rounds(rounds, 100)
    root = Path(document_root) if document_root is not None else competitors.SAMPLE_SITE
    if not root.is_dir():
        problems.append(f"document_root: there is no folder {root}")
    if not path.startswith("/") or not path.isascii() or any(c <= " " for c in path):
        problems.append(f"path: must begin with / and be ASCII without blanks, not {path!r}")
    ours = launcher(document_root=root, access_log=True)
    found: list[Level] = []
    for mpm in mpms:
        block = {**published.DIRECTIVES[mpm], **PATIENT, **(directives or {})}
        workers = _max_request_workers(problems, mpm, block)
        for kind in kinds:
            levels = _levels_of(problems, mpm, kind, workers, given[kind], size)
            room = {**block, **_room_for_idle(mpm, block, max(levels, default=0), kind)}
            servers = [(OURS, mpm, ours)]
            # Only httpd has MPMs: what a half-sent request costs the other servers is not a worker.
            servers += [
                (one.server, one.mpm, one.start)
                for one in others
                if one.stands_for == mpm and (kind == "idle" or one.mpm)
            ]
            found += [
                Level(1, server, of, mpm, kind, level, room, start)
                for server, of, start in servers
                for level in levels
            ]
    if short := too_few_descriptors(max((descriptors_for(one) for one in found), default=0)):
        problems.append(f"levels: {short}")
    problems.raise_any()
    by_hand = busy is not None or idle is not None or rounds is not None
    name = "custom" if by_hand else chosen
    return MemoryPlan(tuple(found), rounds or size.rounds, name, path, others)


def _levels(problems: Problems, name: str, values: Iterable[int] | None) -> tuple[int, ...] | None:
    """Levels that were given, in order; None if none were."""
    if values is None:
        return None
    found = tuple(values)
    for value in found:
        if type(value) is not int or not 0 <= value <= MOST:
            problems.append(f"{name}: must be whole numbers from 0 to {MOST:,}, not {value!r}")
            return ()
    if not found:
        problems.append(f"{name}: give at least one level")
    return tuple(sorted(set(found)))


def _levels_of(
    problems: Problems,
    mpm: str,
    against: str,
    workers: int,
    given: tuple[int, ...] | None,
    size: MemoryScale,
) -> tuple[int, ...]:
    """The levels of one series: those given, or the scale's."""
    if against == "busy":
        levels = given
        if levels is None:
            levels = tuple(sorted({round(share * workers) for share in size.busy}))
        if levels and max(levels) > workers:
            problems.append(
                f"busy: {max(levels):,} requests can't be busy under {mpm} with "
                f"MaxRequestWorkers {workers}; raise it with directives, or ask for fewer"
            )
        return levels
    levels = given if given is not None else size.idle
    if mpm == "event":
        return levels
    # They hold no more than they have workers; one level beyond shows it.
    beyond = [level for level in levels if level > workers][:1]
    return (*(level for level in levels if level <= workers), *beyond)


def descriptors_for(cell: Level) -> int:
    """One for each connection, for the holder and for a server that has them all in one process."""
    return cell.level + 200


def _max_request_workers(problems: Problems, mpm: str, given: Mapping[str, Any]) -> int:
    """MaxRequestWorkers as the server will have it; what it would refuse is a problem."""
    try:
        effective, _ = check(mpm, from_keywords(mpm, **given))
        return int(effective.MaxRequestWorkers)
    except DirectiveError as error:
        problems += [f"directives: {line}" for line in str(error).splitlines()]
        return MOST


def _room_for_idle(mpm: str, given: Mapping[str, Any], most: int, against: str) -> dict[str, Any]:
    """event takes ThreadsPerChild + AsyncRequestWorkerFactor x idle workers connections a child: a
    factor that makes room for all, unless one was given."""
    if (mpm, against) != ("event", "idle") or not most or "AsyncRequestWorkerFactor" in given:
        return {}
    workers = int(given.get("StartServers", 3)) * int(given.get("ThreadsPerChild", 25))
    return {"AsyncRequestWorkerFactor": max(2, math.ceil(most * 1.5 / workers))}


def start_servers(mpm: str, directives: Mapping[str, Any], busy: int) -> int:
    """Children that idle maintenance would end up with when so many workers are busy."""
    number = {name: int(value) for name, value in directives.items() if str(value).isdigit()}
    most, least = number["MaxRequestWorkers"], number["StartServers"]
    if mpm == "prefork":
        return max(1, min(most, max(busy + number["MinSpareServers"], least)))
    threads = number["ThreadsPerChild"]
    wanted = min(most, busy + number["MinSpareThreads"])
    return max(1, min(most // threads, max(math.ceil(wanted / threads), least)))
