"""The article's two tables, measured on this machine: requests per second of the three MPMs.

    table = qps_table(rounds=3)
    print(table.text())

How it measures, and why (the frame is in `experiment`):

* **The same load for all**, the article's: 200 clients, a new connection per request (ab's
  default), the directives it prints.
* **One server at a time.** Each round starts a server, measures its pages and stops it. Servers
  kept waiting while another is measured would disturb it: each wakes its parent once a second,
  and prefork alone holds up to 250 processes in memory and in the scheduler's tables. A fresh
  server also makes the rounds independent.
* **Randomised blocks.** A round measures every server once, in random order; the seed is the rows'
  `run_id`. Ratios are taken within the rounds.
* **A warm-up before each measurement**, not counted: children start, heads and files enter memos
  and caches. prefork takes some ten seconds to grow from 5 processes to what 200 clients make it
  want, so the full scale warms up longer than that.
* **Cells that last**: 4 s at the demo scale; 200,000 requests at the full one, and 8 s at least.

What the article set and found is in `published`, the table that comes out in `qps_table`, and whether the
article's order came out in `comparison`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.generator_process import Progress
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, competitors, published, records
from mpmkit.measure.experiment import Conditions, Launch, OnProgress, Report, last_words, run
from mpmkit.measure.procfs import Meter
from mpmkit.measure.qps_plan import SCALES, QpsCell, QpsPlan, plan
from mpmkit.measure.qps_table import QpsTable
from mpmkit.measure.records import Row

__all__ = ["SCALES", "QpsTable", "main", "plan", "qps_table"]


def qps_table(
    kinds: str | Iterable[str] = ("static", "script"),
    mpms: str | Iterable[str] = MPMS,
    *,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] | None = None,
    **asked: Any,
) -> QpsTable:
    """Measure the article's tables here; minutes at the demo scale.

    kinds: of "static", "script". mpms: of "prefork", "worker", "event".
    out: a CSV file to which each row is appended as soon as it is finished. on_progress: called with an
        `experiment.Progress` some four times a second, and when a cell ends; `experiment.Bar()`.
    say: called at once with each sentence on what is left out.

    asked (all of it optional):

    * requests: per cell, 1 to 20 million; by default what the scale says. rounds: 1 to 1000.
    * users: concurrent clients, 1 to 20,000 (200). keep_alive: reuse connections.
    * scale: "smoke" (seconds), "demo" (minutes), "full" (the article's 200,000 requests); by default
      the environment's MPMKIT_SCALE, or else demo.
    * also: other servers to measure in the same rounds, "httpd", "nginx" or "all"; one that is not
      installed or fails is left out, as `left_out` says.
    * scripts: the ways to run the script: "wsgi", "cgi", "php-fpm", "all"; with httpd its mod_cgi,
      mod_proxy_fcgi and mod_php, too.
    * processes: of the generator. launch: starts a server, ``launch(mpm, **directives)``; by default
      `mpmkit.launch`.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything
    starts; `experiment.ExperimentError` if a server or the generator fails, `experiment.Interrupted`
    (a KeyboardInterrupt) on Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(kinds, mpms, **asked)
    table = QpsTable([], published.figures(), scale=todo.scale)
    file = table.keep_in(out)
    todo, table.left_out = _at_hand(todo)
    cells = todo.cells(table.run_id)
    table.planned = sum(cell.figures for cell in cells)

    def measure(cell: QpsCell, report: Report) -> Iterator[list[Row]]:
        return _measure_server(todo, table, cell, report)

    return run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def _at_hand(todo: QpsPlan) -> tuple[QpsPlan, list[str]]:
    """The plan without what is not installed, and a sentence on each of these. Raises ValueError if
    nothing is left."""
    here, missing = competitors.installed(todo.also)
    todo = replace(todo, also=tuple(here))
    if "php-fpm" in todo.kinds and (sentence := competitors.php_fpm_missing()):
        todo = replace(todo, kinds=tuple(k for k in todo.kinds if k not in ("php-fpm", "mod_php")))
        if not todo.kinds:
            raise ValueError(sentence)
        missing = [sentence, *(one for one in missing if "php-fpm is not installed" not in one)]
    return todo, missing


def _measure_server(
    todo: QpsPlan, table: QpsTable, cell: QpsCell, report: Report
) -> Iterator[list[Row]]:
    """Start one server, measure its pages, stop it."""
    directives: dict[str, Any] = dict(published.DIRECTIVES[cell.stands_for])
    directives["KeepAlive"] = todo.profiles[cell.kinds[0]].keep_alive
    with cell.start(cell.stands_for, **directives) as server:
        for kind in cell.kinds:
            # A script that php-fpm runs is paid for by processes that are not the server's.
            meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))
            conditions = Conditions(table, cell)
            found = _measure_page(todo, cell, kind, server, meter, report)
            page = published.page(kind)
            columns = {
                **found.row(),
                "kind": page.kind,
                "script": page.script or None,
                "started_at": records.utc(found.started_at),
                "server_cpu_us": meter.per_request(found.requests),
            }
            yield [conditions.row(directives, **columns)]


def _measure_page(
    todo: QpsPlan, cell: QpsCell, kind: str, server: Any, meter: Meter, report: Report
) -> LoadRun:
    """One cell. Where it lasts less than it should, all cells of its kind get more requests from now on,
    and it is measured again."""
    text = f"round {cell.round}, {cell.label}, {kind}"
    while True:
        profile = todo.profiles[kind]
        meter.begin()
        report(text, 0.0)
        shown = _progress(meter, report, text, profile)
        found = run_load(server, profile=profile, on_progress=shown)
        _must_be_whole(found, server, f"{cell.label}, {kind}")
        if profile.requests is None or found.duration >= todo.least:
            return found
        more = math.ceil(1.25 * profile.requests * todo.least / found.duration)
        todo.profiles[kind] = profile.but(requests=more)


def _progress(meter: Meter, report: Report, text: str, load: LoadProfile) -> Progress:
    """Reports how far a cell is: by requests or by time, whichever is nearer to its end."""

    def progress(done: int, seconds: float) -> None:
        meter.progress(done)
        by_requests = done / load.requests if load.requests else 0.0
        by_time = seconds / load.duration if load.duration else 0.0
        report(text, max(by_requests, by_time))

    return progress


def _must_be_whole(found: LoadRun, server: Any, what: str) -> None:
    """Refuse a run that did not come to its end, or had no good answer, and say what happened."""
    if found.complete and found.succeeded:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.errors.most_common(3))
    raise RuntimeError(
        f"{what}: {found.ended if not found.complete else 'no good answer'}; "
        f"{found.succeeded:,} of {found.requests:,} requests were answered well"
        + (f" ({kinds})" if kinds else "")
        + last_words(server)
    )


# -- the command line ----------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit qps",
        description="Measure the article's tables on this machine: requests per second of prefork, "
        "worker and event, for a static page and a script.",
    )
    add = parser.add_argument
    both = (*published.PAGES, "both")
    add("--kind", choices=both, default="both", help="which table (default: both)")
    script = (
        f"how the script is run: {', '.join(published.WAYS)} or all; may be repeated (default: "
        "wsgi). php-fpm is started for it; with --also httpd, mod_php is measured, too"
    )
    add("--script", action="append", metavar="WAY", help=script)
    add("--requests", type=int, metavar="N", help="requests per cell")
    users = "concurrent clients (default: 200, as in the article)"
    add("--users", type=int, default=200, metavar="N", help=users)
    add("--keep-alive", action="store_true", help="reuse connections (the article did not)")
    add("--processes", type=int, default=1, metavar="N", help="generator processes (default: 1)")
    command.add_options(parser, "--mpm", "--rounds", "--scale", "--also", "--out")
    return parser


def main(argv: Sequence[str] | None = None, *, launch: Launch | None = None) -> int:
    """``mpmkit qps``. Prints the tables on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`."""
    options = _parser().parse_args(argv)
    names = ("requests", "users", "keep_alive", "rounds", "scale", "processes")
    status, _ = command.execute(
        lambda bar: qps_table(
            tuple(published.PAGES) if options.kind == "both" else (options.kind,),
            command.mpms(options),
            out=command.out_of(options, command.new_name("qps")),
            on_progress=bar,
            say=command.say,
            also=command.listed(options.also),
            scripts=command.listed(options.script or ("wsgi",)),
            launch=launch,
            **{name: getattr(options, name) for name in names},
        ),
        QpsTable.text,
    )
    return status
