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
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mpmkit.config.arguments import Parser
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.config.keywords import from_keywords
from mpmkit.load.connections import HoldingProcess
from mpmkit.load.fields import listed
from mpmkit.load.preflight import descriptors, too_few_descriptors
from mpmkit.measure import command, competitors, experiment, published
from mpmkit.measure.command import Problems
from mpmkit.measure.experiment import OURS, Cell, OnProgress, Report, Say
from mpmkit.measure.memory_table import AGAINST, MemoryTable
from mpmkit.measure.procfs import processes_of, sample, settle, slab_kb
from mpmkit.measure.records import Row
from mpmkit.measure.sizing import max_request_workers_for, room_for

MOST = 20_000  # connections; as many as a load profile may have
SECONDS_A_LEVEL = 4.0  # about what one takes, for the estimate

# No connection is closed while memory is looked at.
PATIENT: dict[str, Any] = {
    "KeepAlive": True, "KeepAliveTimeout": 600, "MaxKeepAliveRequests": 0, "Timeout": 600,
    "RequestReadTimeout": "header=0 body=0",
}  # fmt: skip

# scale -> busy levels as shares of MaxRequestWorkers, numbers of idle connections, rounds
SCALES: dict[str, tuple[tuple[float, ...], tuple[int, ...], int]] = {
    "smoke": ((0, 0.1, 0.2), (0, 20, 50), 1),
    "demo": ((0, 0.25, 0.5, 0.75, 1), (0, 100, 250, 1_000, 2_500), 1),
    "full": (
        (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        (0, 50, 100, 250, 400, 1_000, 2_500, 5_000, 7_500, 10_000),
        3,
    ),
}


def memory_of(server: Any) -> DataFrame:
    """The memory of each process of a running server, as it is now; sizes in KiB, parent first.

    server: from `mpmkit.launch` or a reference server (it has a `.pid`), or a pid. The columns are pid,
    role, threads, pss, uss, rss, swap, and the parts of pss. Raises ValueError if it
    does not run.
    """
    pid = server if isinstance(server, int) else server.pid
    rows = []
    for one, memory, threads, tables in processes_of(pid):
        role = "parent" if one == pid else "child"
        who = {"pid": one, "role": role, "threads": threads}
        rows.append({**who, **vars(memory), "page_tables": tables})
    if not rows:
        raise ValueError(f"no server runs with process {pid}")
    return data_frame(rows)


@dataclass(frozen=True)
class Level(Cell):
    """One server with so many requests busy, or connections idle (`against`)."""

    _: KW_ONLY
    against: str
    level: int
    directives: dict[str, Any] = field(repr=False)

    @property
    def descriptors(self) -> int:
        """One for each connection, for the holder and for a server that has them all in one process."""
        return self.level + 200


class MemoryPlan(NamedTuple):
    """A measurement, checked. levels: those of round 1."""

    levels: list[Level]
    rounds: int
    scale: str
    path: str

    @property
    def number(self) -> int:
        """Of levels, in all rounds."""
        return self.rounds * len(self.levels)


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
    """Check the arguments of `memory_table`. Raises ValueError naming every mistake."""
    problems = Problems()
    mpms = problems.chosen("mpm", mpms, MPMS)
    kinds = problems.chosen("against", against, AGAINST)
    others = competitors.of(problems.also(also), mpms)
    given = {"busy": _levels(problems, "busy", busy), "idle": _levels(problems, "idle", idle)}
    chosen, (shares, numbers, most) = problems.scale(scale, SCALES)
    problems.rounds(rounds, 100)
    root = Path(document_root) if document_root is not None else competitors.SAMPLE_SITE
    if not root.is_dir():
        problems.append(f"document_root: there is no folder {root}")
    if not path.startswith("/") or not path.isascii() or any(c <= " " for c in path):
        problems.append(f"path: must begin with / and be ASCII without blanks, not {path!r}")
    ours = partial(experiment.launch, document_root=root, access_log=True)
    found: list[Level] = []
    for mpm in mpms:
        block = {**published.DIRECTIVES[mpm], **PATIENT, **(directives or {})}
        workers = _max_request_workers(problems, mpm, block)
        own = [one for one in others if one.stands_for == mpm]
        for kind in kinds:
            levels = given[kind] or sorted({round(share * workers) for share in shares})
            if kind == "idle":
                levels = _held(mpm, given[kind] or numbers, workers)
            elif max(levels) > workers:
                problems.append(
                    f"busy: {max(levels):,} requests can't be busy under {mpm} with "
                    f"MaxRequestWorkers {workers}; raise it with directives, or ask for fewer"
                )
            room = {**block, **_room_for_idle(mpm, block, max(levels, default=0), kind)}
            # Only httpd has MPMs: what a half-sent request costs the other servers is not a worker.
            servers = [Cell(1, OURS, mpm, stands_for=mpm, start=ours)]
            servers += [one for one in own if kind == "idle" or one.mpm]
            found += [
                Level(1, one.server, one.mpm, stands_for=mpm, start=one.start, directives=room,
                      against=kind, level=level)
                for one in servers for level in levels
            ]  # fmt: skip
    if short := too_few_descriptors(max((one.descriptors for one in found), default=0)):
        problems.append(f"levels: {short}")
    problems.raise_any()
    by_hand = busy is not None or idle is not None or rounds is not None
    return MemoryPlan(found, rounds or most, "custom" if by_hand else chosen, path)


def _levels(problems: Problems, name: str, values: Iterable[int] | None) -> list[int]:
    """Levels that were given, in order; empty if none were, or one cannot be."""
    found, before = [] if values is None else list(values), len(problems)
    problems.numbers(name, found, 0, MOST, "whole")
    if values is not None and not found:
        problems.append(f"{name}: give at least one level")
    return sorted(set(found)) if len(problems) == before else []


def _held(mpm: str, levels: Sequence[int], workers: int) -> list[int]:
    """The levels of idle connections. prefork and worker hold no more than they have workers; one level
    beyond shows it."""
    beyond = [level for level in levels if level > workers]
    return list(levels) if mpm == "event" else [n for n in levels if n <= workers] + beyond[:1]


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


def memory_table(
    mpms: str | Iterable[str] = MPMS,
    against: str | Iterable[str] = AGAINST,
    *,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    say: Say | None = None,
    **asked: Any,
) -> MemoryTable:
    """Measure memory against busy requests and idle kept-alive connections; minutes at the demo scale.

    mpms: of prefork, worker, event. against: of "busy", "idle".
    out: a CSV file to which each level's rows are appended as soon as they are measured.
    on_progress, say: as in `qps_table`.

    asked (all of it optional):

    * busy: numbers of requests being served at once, 0 to MaxRequestWorkers; idle: numbers of
      kept-alive connections, 0 to 20,000; by default set by the scale.
    * rounds: 1 to 100. scale: smoke, demo, full; by default the environment's MPMKIT_SCALE, or demo.
    * also: "httpd" to measure it as well. If it is missing it is left out and named.
    * document_root, path: your pages, and the one requested before the measurement; the
      other servers serve the samples. directives: override the article's blocks, {name: value}.

    Raises as `qps_table` does.
    """
    todo = plan(mpms, against, **asked)
    here, missing = competitors.installed(todo.levels)
    # In order: each level has a server of its own, and memory does not depend on what ran before.
    cells = experiment.in_rounds(here, range(1, todo.rounds + 1))
    table = MemoryTable([], planned=len(cells), left_out=missing, scale=todo.scale)

    def measure(cell: Level, report: Report) -> experiment.Figures:
        report(f"round {cell.round}, {cell.label}, {cell.level:,} {cell.against}", 0.0)
        yield _measure_level(cell, table, todo.path)

    file = table.keep_in(out)
    return experiment.run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def _measure_level(cell: Level, table: MemoryTable, path: str) -> list[Row]:
    """One server with so many requests or connections: its rows."""
    directives = dict(cell.directives)
    if cell.against == "busy" or cell.stands_for != "event":
        directives["StartServers"] = start_servers(cell.stands_for, directives, cell.level)
    conditions = experiment.Conditions(table, cell)
    with descriptors(cell.descriptors), cell.start(cell.stands_for, **directives) as server:
        try:
            found, held, slab = _look(cell, server, path)
        except RuntimeError as error:
            words = experiment.last_words(server) if experiment.is_gone(server) else ""
            raise RuntimeError(f"{error}{words}") from None
    same = {"against": cell.against, "level": cell.level, "held": held, "steal": None}
    rows = []
    for scope, columns in found.items():
        own = {"scope": scope, "slab_kb": slab if scope == "server" else None}
        rows.append(conditions.row(directives, **same, **columns, **own))
    return rows


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


def _look(cell: Level, server: Any, path: str) -> tuple[dict[str, dict[str, int]], int, int | None]:
    """Bring a server to a level and look at it: (`sample`'s figures, held, slab_kb)."""
    path = path if cell.server == OURS else "/index.html"
    try:
        with _OPENER.open(server.url + path, timeout=30) as answer:
            answer.read()
    except (OSError, http.client.HTTPException) as error:
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
        found, slab = sample(server.pid), slab_kb()
        if not found:
            raise RuntimeError(f"{cell.label} ended with {cell.level:,} {cell.against}")
        return found, min(cell.level, holding.ask("report")["held"]), slab


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit memory",
        description="Measure what a busy request and an idle connection cost under each MPM, and say "
        "how many workers a machine has room for.",
    )
    add = parser.add_argument
    add("--against", **command.WORDS, metavar="WHAT", help="busy, idle (both)")
    add("--busy", type=listed(int), metavar="N,N", help="busy levels")
    add("--idle", type=listed(int), metavar="N,N", help="idle levels")
    add("--path", help="the page to serve first (/index.html)")
    ram = "say the MaxRequestWorkers for a machine with that much memory, like 4GiB"
    add("--ram", metavar="SIZE", help=ram)
    reserve = "of it, not for the server (20%%, at least 256 MiB)"
    add("--reserve", metavar="SIZE", help=reserve)
    names = ("--mpm", "--rounds", "--scale", "--also", "--document-root", "--directive", "--out")
    command.add_options(parser, *names)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit memory``: tables on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`; 1 as well if no size can be said."""
    options = _parser().parse_args(argv)
    asked = command.asked(options, "ram", "reserve")

    def measure(bar: OnProgress) -> MemoryTable:
        todo = plan(**asked)
        if options.ram is not None:
            room_for(options.ram, options.reserve)
        elif options.reserve is not None:
            raise ValueError("reserve: it is a part of --ram; give both")
        seconds = experiment.duration(todo.number * SECONDS_A_LEVEL)
        command.say(f"{todo.number} levels, about {seconds}")
        out = command.out_of(options, command.new_name("memory"))
        return memory_table(**asked, out=out, on_progress=bar, say=command.say)

    status, table = command.execute(measure, MemoryTable.text)
    sized = options.ram and table is not None and table.records
    for mpm in asked.get("mpms", MPMS) if sized else ():
        threads = int(asked["directives"].get("ThreadsPerChild", 25))
        how: dict[str, Any] = {"threads_per_child": threads, "reserve": options.reserve}
        try:
            print(f"\n{max_request_workers_for(options.ram, mpm=mpm, memory=table, **how)}")
        except ValueError as error:
            command.say(str(error))
            status = status or 1
    return status
