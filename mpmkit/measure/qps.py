"""The article's two tables, measured on this machine: requests per second of the three MPMs.

    table = qps_table(rounds=3)
    print(table.text())

The load is the article's: 200 clients, a new connection per request (ab's default), on one server at a time,
after a warm-up that is not counted: prefork takes some ten seconds to grow from 5 processes to the number
that 200 clients need. The article's settings and results are in `published`, the resulting table in `qps_table`.
"""

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, competitors, experiment, published, records
from mpmkit.measure.experiment import OURS, Cell, Launch, OnProgress, Report, Say
from mpmkit.measure.procfs import Meter
from mpmkit.measure.qps_table import QpsTable

TIME_LIMIT = 900.0  # seconds that one cell may take at most


class QpsScale(NamedTuple):
    """How much is measured: `requests` per cell or `seconds` of it, whichever ends first (None: no such bound),
    after `warmup` seconds, in `rounds` rounds. least: seconds that a cell lasts at least; one whose
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


class QpsPlan(NamedTuple):
    """A measurement, checked. cells: those of a round. profiles: column of the table -> load."""

    cells: list[Cell]
    rounds: int
    scale: str
    profiles: dict[str, LoadProfile]
    least: float


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
    """Check the arguments of `qps_table`. Raises ValueError naming every mistake."""
    problems = command.Problems()
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
    bound: dict[str, Any] = {"requests": requests}  # given by hand: no bound in time cuts it short
    if requests is None:
        bound = {"requests": size.requests, "duration": size.seconds}
    load = {"users": users, "keep_alive": keep_alive, "processes": processes} | bound
    profiles: dict[str, LoadProfile] = {}
    for kind in pages:
        page = published.page(kind)
        load |= {"path": page.path, "expect_length": page.length, "warmup_seconds": size.warmup}
        try:
            profiles[kind] = LoadProfile(**load, time_limit=TIME_LIMIT)
        except ProfileError as error:
            problems += str(error).split("; ")
    problems.raise_any()
    cells = _cells(pages, mpms, others, launch or experiment.launch)
    if (requests, rounds) != (None, None):
        chosen = "custom"
    least = size.least if requests is None else 0.0
    return QpsPlan(cells, rounds or size.rounds, chosen, profiles, least)


def _cells(
    pages: tuple[str, ...], mpms: tuple[str, ...], also: tuple[str, ...], launch: Launch
) -> list[Cell]:
    """The cells of a round; one start of a server each."""
    # What programs and php-fpm need would disturb the other pages: they get servers of their own.
    plain = tuple(page for page in pages if page in published.PAGES)
    starts = [(plain, launch)] if plain else []
    starts += [((way,), competitors.ours(way, launch)) for way in pages if way in published.WAYS]
    cells = []
    for mpm, (parts, start) in itertools.product(mpms, starts):
        cells.append(Cell(1, OURS, mpm, parts=parts, stands_for=mpm, start=start))
    for one in competitors.of(also, mpms, pages):
        parts = tuple(page for page in pages if page in one.parts)
        cells += [replace(one, parts=parts)] if parts else []
    return cells


def qps_table(
    kinds: str | Iterable[str] = ("static", "script"),
    mpms: str | Iterable[str] = MPMS,
    *,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    say: Say | None = None,
    **asked: Any,
) -> QpsTable:
    """Measure the article's tables here; minutes at the demo scale.

    kinds: of "static", "script". mpms: of "prefork", "worker", "event".
    out: a CSV file to which each row is appended as soon as it is finished. on_progress: called with an
        `experiment.Progress` some four times a second, and when a cell ends; `experiment.Bar()`.
    say: called at once with a sentence for each thing left out.

    asked (all of it optional):

    * requests: per cell, 1 to 20 million; by default set by the scale. rounds: 1 to 1000.
    * users: concurrent clients, 1 to 20,000 (200). keep_alive: reuse connections.
    * scale: "smoke" (seconds), "demo" (minutes), "full" (the article's 200,000 requests); by default
      the environment's MPMKIT_SCALE, or else demo.
    * also: other servers to measure in the same rounds, "httpd" or "all"; one that is not
      installed or fails is left out, as `left_out` says.
    * scripts: the ways to run the script: "wsgi", "cgi", "php-fpm", "all"; with httpd also its mod_cgi,
      mod_proxy_fcgi and mod_php.
    * processes: of the generator. launch: starts a server, ``launch(mpm, **directives)``; by default
      `mpmkit.launch`.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything
    starts; `experiment.ExperimentError` if a server or the generator fails, `experiment.Interrupted`
    (a KeyboardInterrupt) on Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(kinds, mpms, **asked)
    table = QpsTable([], published.figures(), scale=todo.scale)
    file = table.keep_in(out)
    here, table.left_out = competitors.installed(todo.cells)
    if not any(cell.server == OURS for cell in here):
        raise ValueError("; ".join(table.left_out))
    cells = experiment.in_rounds(here, range(1, todo.rounds + 1), table.run_id)
    table.planned = sum(len(cell.parts) for cell in cells)
    measure = partial(_measure_server, todo, table)
    return experiment.run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def _measure_server(
    todo: QpsPlan, table: QpsTable, cell: Cell, report: Report
) -> experiment.Figures:
    """Start one server, measure its pages, stop it."""
    directives: dict[str, Any] = dict(published.DIRECTIVES[cell.stands_for])
    directives["KeepAlive"] = todo.profiles[cell.parts[0]].keep_alive
    with cell.start(cell.stands_for, **directives) as server:
        for kind in cell.parts:
            conditions = experiment.Conditions(table, cell)
            found, cpu_us = _measure_page(todo, cell, kind, server, report)
            page, began = published.page(kind), records.utc(found.started_at)
            own = {"kind": page.kind, "script": page.script or None, "server_cpu_us": cpu_us}
            columns = found.row() | own | {"started_at": began}
            yield [conditions.row(directives, **columns)]


def _measure_page(
    todo: QpsPlan, cell: Cell, kind: str, server: Any, report: Report
) -> tuple[LoadRun, float | None]:
    """One figure, and the server's CPU time for a request. Where it lasts less than it should, all of its
    kind get more requests from now on, and it is measured again."""
    text = f"round {cell.round}, {cell.label}, {kind}"
    while True:
        load = todo.profiles[kind]
        # A script that php-fpm runs is paid for by processes that are not the server's.
        meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))

        def progress(done: int, seconds: float, load: Any = load, meter: Meter = meter) -> None:
            meter.progress(done)
            by_requests = done / load.requests if load.requests else 0.0
            by_time = seconds / load.duration if load.duration else 0.0
            report(text, max(by_requests, by_time))  # whichever is nearer to its end

        report(text, 0.0)
        found = run_load(server, profile=load, on_progress=progress)
        _must_be_whole(found, server, f"{cell.label}, {kind}")
        if load.requests is None or found.duration >= todo.least:
            return found, meter.per_request(found.requests)
        more = math.ceil(1.25 * load.requests * todo.least / found.duration)
        todo.profiles[kind] = load.but(requests=more)


def _must_be_whole(found: LoadRun, server: Any, what: str) -> None:
    """Refuse a run that ended early or had no good answer, and say what happened."""
    if found.complete and found.succeeded:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.errors.most_common(3))
    why = "no good answer" if found.complete else found.ended
    good = f"{found.succeeded:,} of {found.requests:,} requests were answered well"
    errors = f" ({kinds})" * bool(kinds)
    raise RuntimeError(f"{what}: {why}; {good}{errors}{experiment.last_words(server)}")


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit qps",
        description="Measure the article's tables on this machine: requests per second of prefork, "
        "worker and event, for a static page and a script.",
    )
    add = parser.add_argument
    both = (*published.PAGES, "both")
    add("--kind", dest="kinds", choices=both, default="both", help="which table (default: both)")
    script = (
        f"how the script is run: {', '.join(published.WAYS)} or all; may be repeated (default: "
        "wsgi). php-fpm is started for it; with --also httpd, mod_php is measured, too"
    )
    add("--script", dest="scripts", **command.WORDS, metavar="WAY", help=script)
    add("--requests", type=int, metavar="N", help="requests per cell")
    add("--users", type=int, metavar="N", help="concurrent clients (200, as in the article)")
    add("--keep-alive", action="store_true", help="reuse connections (the article did not)")
    add("--processes", type=int, metavar="N", help="generator processes (default: 1)")
    command.add_options(parser, "--mpm", "--rounds", "--scale", "--also", "--out")
    return parser


def main(argv: Sequence[str] | None = None, *, launch: Launch | None = None) -> int:
    """``mpmkit qps``. Prints the tables on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`."""
    options = _parser().parse_args(argv)
    how = command.asked(options, "kinds") | {"launch": launch, "say": command.say}
    kinds = tuple(published.PAGES) if options.kinds == "both" else options.kinds
    out = command.out_of(options, command.new_name("qps"))
    return command.execute(
        lambda bar: qps_table(kinds, out=out, on_progress=bar, **how), QpsTable.text
    )[0]
