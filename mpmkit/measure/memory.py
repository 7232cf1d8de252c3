"""Memory per request model: what a busy request and an idle connection cost, under each MPM (docs/MEASURING.md).

    table = memory_table(("prefork", "event"))
    print(table.text())
    print(mpmkit.max_request_workers_for("4GiB", mpm="event", memory=table))

It measures from outside, under load: `/proc/PID/smaps` of every process, three times for each figure,
of which the middle one counts. Each level has a fresh server with the number of children at which idle
maintenance would settle: a growing pool overshoots, and takes a second per child to shrink.
"""

import http.client
import math
import os
import statistics
import urllib.request
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError, Directives
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.config.keywords import from_keywords
from mpmkit.load.connections import HoldingProcess
from mpmkit.load.preflight import descriptors, too_few_descriptors
from mpmkit.measure import command, competitors, experiment, published
from mpmkit.measure.command import Problems
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report, Table
from mpmkit.measure.procfs import numbers, processes_of, sample, settle
from mpmkit.measure.records import Row, grouped
from mpmkit.measure.sizing import Line, lines, max_request_workers_for, room_for
from mpmkit.policy.simulator import settled

AGAINST = {
    "busy": ("requests being served", "busy request"),
    "idle": ("kept-alive connections", "idle connection"),
}
MOST = 20_000  # connections; as many as a load profile may have
OTHERS = 200  # descriptors, besides one for each connection: of the holder, or of a server with one process

# No connection is closed while memory is looked at.
PATIENT: dict[str, Any] = {
    "KeepAlive": True, "KeepAliveTimeout": 600, "MaxKeepAliveRequests": 0, "Timeout": 600,
    "RequestReadTimeout": "header=0 body=0",
}  # fmt: skip

# scale -> busy levels as shares of MaxRequestWorkers, numbers of idle connections, rounds
SCALES: dict[str, tuple[tuple[float, ...], tuple[int, ...], int]] = {
    "smoke": ((0, 0.1, 0.2), (0, 20, 50), 1),
    "demo": ((0, 0.25, 0.5, 0.75, 1), (0, 100, 250, 1_000, 2_500), 1),
    "full": ((*(n / 10 for n in range(11)),), (0, 50, 100, 250, 400, 1_000, 2_500, 5_000, 7_500, 10_000), 3),
}  # fmt: skip

# Headings of a table of levels, and the columns in MiB.
_HEAD = ("held", "processes", "threads", "PSS", "code", "heap", "anon.", "stacks", "shm", "USS",
         "RSS summed", "child's PSS")  # fmt: skip
_MIB = ("pss", "code", "heap", "anonymous", "stacks", "shm", "uss", "rss")
MEANINGS = (
    "held: the number that the server took; under prefork and worker each one holds a worker",
    "summed RSS counts a shared page in every process",
    "cost and base: slope and start of a line through the levels in PSS, without page tables and sockets",
)


def memory_of(server: Any) -> DataFrame:
    """The memory of each process of a running server, as it is now; sizes in KiB, parent first.

    server: from `mpmkit.launch` or a reference server (it has a `.pid`), or a pid. The columns are pid,
    role, threads, pss, uss, rss, swap, and the parts of pss. Raises ValueError if it
    does not run.
    """
    pid = server if isinstance(server, int) else server.pid
    rows = [
        {"pid": one, "role": "parent" if one == pid else "child", **vars(memory)}
        for one, memory in processes_of(pid).items()
    ]
    if not rows:
        raise ValueError(f"no server runs with process {pid}")
    return data_frame(rows)


@dataclass(frozen=True)
class Level(Cell):
    """One server with so many requests busy, or connections idle (`against`)."""

    against: str
    level: int


@dataclass(repr=False)
class MemoryTable(Table):
    """`mpmkit memory`: its levels (`cells`), and what was measured: rows of the records table `memory` (see
    data/README.md). path: the page that is asked for first. Levels run in order: each has a server of its own,
    and memory does not depend on what ran before."""

    path: str = "/index.html"

    name = "memory"
    unit = "levels"

    @property
    def measured(self) -> int:
        """Levels that have their rows."""
        return sum(row["scope"] == "server" for row in self.records)

    def result(self, row: Row) -> str:
        """What progress says of a finished level."""
        return f"{row['pss_kb'] / 1024:,.1f} MiB"

    def measure(self, cell: Level, report: Report) -> Figures:
        """One server with so many requests or connections."""
        report(f"round {cell.round}, {cell.label}, {cell.level:,} {cell.against}", 0.0)
        row = self.conditions(cell)
        with descriptors(cell.level + OTHERS), cell.started() as server:
            try:
                found, held, slab = _look(cell, server, self.path)
            except RuntimeError as error:
                words = experiment.last_words(server) if experiment.is_gone(server) else ""
                raise RuntimeError(f"{error}{words}") from None
        same = {"against": cell.against, "level": cell.level, "held": held, "steal": None}
        yield [
            row(**same, **columns, scope=scope, slab_kb=slab if scope == "server" else None)
            for scope, columns in found.items()
        ]

    def lines(self, *columns: str) -> dict[tuple[str, str | None, str], Line]:
        """(server, MPM, against) -> the line through its levels: KiB of `columns` (by default pss_kb)
        against requests busy or connections idle."""
        return lines(self.records, columns or ("pss_kb",))

    def costs(self) -> DataFrame:
        """What one more costs, in KiB: a row per server, MPM and against, with base, cost (the
        slope) and its 95% interval (low, high) in PSS, cost_uss, cost_rss and cost_page_tables."""
        more = {name: self.lines(f"{name}_kb") for name in ("uss", "rss", "page_tables")}
        rows = []
        for key, line in self.lines().items():
            row: Row = dict(zip(("server", "mpm", "against"), key, strict=True))
            row |= {"base": line.base, "cost": line.slope, "low": line.low, "high": line.high}
            row |= {f"cost_{name}": found[key].slope for name, found in more.items()}
            rows.append({**row, "points": line.points})
        return data_frame(rows)

    def _text(self) -> Iterator[str]:
        """The levels, a table for each server, the costs, and what the words mean."""
        for (against,), found in grouped(self.records, "against").items():
            what = f"{AGAINST[against][0]} (child's PSS in KiB, the median child)"
            yield from [f"memory in MiB against {what}", ""]
            for (server, mpm), levels in grouped(found, "server", "mpm").items():
                each = (_figures(*one) for one in grouped(levels, "level").items())
                table = command.aligned([(against, *_HEAD), *each], left=())
                yield from [f"{server} {mpm or ''}".strip(), *table, ""]
        naive, tables = self.lines("rss_kb"), self.lines("page_tables_kb")
        head = "what one more costs", "KiB", "95% interval", "page tables", "base MiB"
        rows = [(*head, "summed RSS says")]
        for key, line in self.lines().items():
            known = math.isfinite(line.high)
            between = f"{line.low:,.1f} to {line.high:,.1f}" if known else "two levels: none"
            who = f"{' '.join(filter(None, key[:2]))}, {AGAINST[key[2]][1]}"
            cells = f"{line.slope:,.1f}", between, f"{tables[key].slope:+,.1f}"
            rows.append((who, *cells, f"{line.base / 1024:,.1f}", f"{naive[key].slope:,.1f}"))
        yield from command.aligned(rows) if rows[1:] else ["one level alone has no slope"]
        yield from ["", *MEANINGS, *self.footer()]


def _figures(level: tuple[int], rows: Sequence[Row]) -> tuple[str, ...]:
    """The line of a level below _HEAD: medians of the rounds."""
    of = grouped(rows, "scope")

    def middle(scope: str, name: str) -> float:
        return statistics.median(row[name] for row in of[scope,])

    counts = [f"{middle('server', n):,.0f}" for n in ("held", "processes", "threads")]
    sizes = [f"{middle('server', f'{n}_kb') / 1024:,.1f}" for n in _MIB]
    child = f"{middle('child', 'pss_kb'):,.0f}" if ("child",) in of else "-"
    return f"{level[0]:,}", *counts, *sizes, child


@experiment.measured
def memory_table(
    mpms: Names = MPMS,
    against: Names = tuple(AGAINST),
    *,
    busy: Iterable[int] | None = None,
    idle: Iterable[int] | None = None,
    rounds: int | None = None,
    scale: str | None = None,
    also: Names = (),
    document_root: str | os.PathLike[str] | None = None,
    path: str = "/index.html",
    directives: Mapping[str, Any] | None = None,
) -> MemoryTable:
    """Measure what a busy request and an idle connection cost under each MPM; minutes at the demo scale.

    mpms: of prefork, worker, event. against: of busy, idle (both). busy: numbers of requests being served at
    once, 0 to MaxRequestWorkers. idle: numbers of kept-alive connections, 0 to 20,000; both by default set by the
    scale. rounds: how often each level is measured, 1 to 100. scale: smoke, demo, full; by default the
    environment's MPMKIT_SCALE, or demo. also: other servers to measure, like httpd, or all; what is missing is
    left out and named. document_root: your pages; the other servers serve the samples. path: of the page that is
    requested before the measurement (/index.html). directives: over the article's: {name: value}, or a -c for
    each.

    out, on_progress, say: as in `qps_table`. Raises as it does.
    """
    problems = Problems()
    mpms = problems.chosen("mpm", mpms, MPMS)
    kinds = problems.chosen("against", against, AGAINST)
    others = competitors.of(problems.chosen("also", also, competitors.FORMS, 0), mpms)
    given = {"busy": _levels(problems, "busy", busy), "idle": _levels(problems, "idle", idle)}
    chosen, (shares, numbers, most) = problems.scale(scale, SCALES, busy, idle, rounds)
    problems.numbers("rounds", rounds, 1, 100, "whole")
    root = Path(document_root) if document_root is not None else competitors.SAMPLE_SITE
    if not root.is_dir():
        problems.append(f"document_root: there is no folder {root}")
    if not path.startswith("/") or not path.isascii() or any(c <= " " for c in path):
        problems.append(f"path: must begin with / and be ASCII without blanks, not {path!r}")
    ours = partial(experiment.launch, document_root=root, access_log=True)
    cells: list[Level] = []
    for mpm in mpms:
        block = {**published.DIRECTIVES[mpm], **PATIENT, **dict(directives or {})}
        try:
            effective, _ = check(mpm, from_keywords(mpm, **block))
        except DirectiveError as error:
            problems += [f"directives: {line}" for line in str(error).splitlines()]
            continue
        workers = effective.MaxRequestWorkers
        busy_levels = given["busy"] or sorted({round(share * workers) for share in shares})
        levels = {"busy": busy_levels, "idle": _held(mpm, given["idle"] or numbers, workers)}
        if "busy" in kinds and max(busy_levels) > workers:
            many = f"{max(busy_levels):,} requests can't be busy under {mpm} with MaxRequestWorkers"
            problems.append(f"busy: {many} {workers}; raise it with directives, or ask for fewer")
        servers = [Cell(1, OURS, mpm, stands_for=mpm, start=ours)]
        servers += [one for one in others if one.stands_for == mpm]
        for kind in kinds:
            cells += _cells(servers, kind, levels[kind], block, effective)
    if short := too_few_descriptors(max((one.level for one in cells), default=0) + OTHERS):
        problems.append(f"levels: {short}")
    problems.raise_any()
    return MemoryTable([], path, cells=cells, repeats=rounds or most, scale=chosen)


def _cells(
    servers: Iterable[Cell], kind: str, levels: Sequence[int], block: Row, effective: Directives
) -> Iterator[Level]:
    """The levels of servers that stand for one MPM, each with the children at which maintenance would settle."""
    kept = (effective.mpm, kind) == ("event", "idle")  # without a worker
    if kept and (most := max(levels, default=0)):
        # event takes ThreadsPerChild + AsyncRequestWorkerFactor x idle workers connections a child.
        factor = math.ceil(most * 1.5 / (effective.StartServers * effective.ThreadsPerChild))
        block = {"AsyncRequestWorkerFactor": max(2, factor), **block}
    for one in servers:
        # Only httpd has MPMs: what a half-sent request costs the other servers is not a worker.
        for level in levels if kind == "idle" or one.mpm else ():
            children = effective.StartServers if kept else settled(effective, level)
            own = {"directives": {**block, "StartServers": children}, "seconds": 4.0}
            yield Level(**{**vars(one), **own, "against": kind}, level=level)


def _levels(problems: Problems, name: str, values: Iterable[int] | None) -> list[int]:
    """Levels that were given, in order; empty if none were, or one cannot be."""
    found, before = list(() if values is None else values), len(problems)
    problems.numbers(name, found, 0, MOST, "whole")
    problems += [f"{name}: give at least one level"] * (values is not None and not found)
    return sorted(set(found)) if len(problems) == before else []


def _held(mpm: str, levels: Sequence[int], workers: int) -> Sequence[int]:
    """The levels of idle connections. prefork and worker hold no more than they have workers; one level
    beyond shows it."""
    return levels if mpm == "event" else levels[: bisect_right(levels, workers) + 1]


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


def _look(cell: Level, server: Any, path: str) -> tuple[dict[str, dict[str, int]], int, int | None]:
    """Bring a server to a level and look at it: (`sample`'s figures, held, slab_kb)."""
    path = path if cell.server == OURS else "/index.html"
    try:
        with _OPENER.open(server.url + path, timeout=30) as answer:
            answer.read()
    except (OSError, http.client.HTTPException) as error:
        getattr(error, "close", int)()  # an HTTPError is an answer, too
        raise RuntimeError(f"{server.url}{path}: {error}; give a page that is there") from None
    mode = "half-sent" if cell.against == "busy" else "idle"
    if mode == "half-sent" and cell.level:
        with HoldingProcess(server.url, mode, path=path) as first:
            first.ask("hold", cell.level)
            first.ask("finish")
    with HoldingProcess(server.url, mode, path=path) as holding:
        said = holding.ask("hold", cell.level)
        if said["error"]:
            raise RuntimeError(f"{cell.level:,} {cell.against}: {said['error']}")
        settle(server.pid)
        found, slab = sample(server.pid), numbers("/proc/meminfo").get("SUnreclaim")
        if not found:
            raise RuntimeError(f"{cell.label} ended with {cell.level:,} {cell.against}")
        return found, min(cell.level, holding.ask("report")["held"]), slab


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit memory``, as in `command.measured`; the status is 1 as well if no size can be said."""
    names = "mpm against busy idle rounds scale also document-root path directive"
    parser = command.parser("mpmkit memory", memory_table, names)
    add = parser.add_argument
    what = "say the MaxRequestWorkers for a machine with that much memory, like 4GiB"
    add("--ram", metavar="SIZE", help=what)
    add("--reserve", metavar="SIZE", help="of it, not for the server (20%%, at least 256 MiB)")
    options = parser.parse_args(argv)
    ram, reserve = (vars(options).pop(name) for name in ("ram", "reserve"))
    if reserve and not ram:
        parser.error("reserve: it is a part of --ram; give both")
    try:
        if ram:
            room_for(ram, reserve)
    except ValueError as error:
        parser.error(str(error))
    status, table = command.measured(options, memory_table)
    threads = int(dict(options.directives or ()).get("ThreadsPerChild", 25))
    how: dict[str, Any] = {"threads_per_child": threads, "reserve": reserve, "memory": table}
    for mpm in (options.mpms or MPMS) if ram and table is not None and table.records else ():
        try:
            print(f"\n{max_request_workers_for(ram, mpm=mpm, **how)}")
        except ValueError as error:
            command.say(str(error))
            status = status or 1
    return status
