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
* **Interleaved.** A round measures every MPM once, and each round begins with another one.
* **A warm-up before each measurement**, not counted: children start, heads and files enter memos
  and caches. prefork takes some ten seconds to grow from 5 processes to what 200 clients make it
  want, so the full scale warms up longer than that.
* **Medians with their intervals**, ratios within the rounds, and what is larger than the noise
  (`stats`, `comparison`).
* **As many rounds as it takes**, if asked: ``--target-precision 5%`` goes on until the interval of
  every median is that narrow, or ``--max-rounds`` are done, and says which.

What the article set and found is in `published`, the table that comes out in `qps_table`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import LoadError, LoadRun, run_load
from mpmkit.measure import ceiling as generator
from mpmkit.measure import command, competitors, published, records
from mpmkit.measure.experiment import (
    Conditions,
    Launch,
    OnProgress,
    Report,
    last_words,
    one_line,
    run,
)
from mpmkit.measure.procfs import Meter
from mpmkit.measure.qps_plan import MAX_ROUNDS, SCALES, QpsCell, QpsPlan, plan
from mpmkit.measure.qps_table import QpsTable
from mpmkit.measure.records import Row
from mpmkit.measure.reference_servers import NotInstalled, ServerFailed

__all__ = ["SCALES", "QpsTable", "main", "plan", "qps_table"]


def qps_table(
    kinds: Iterable[str] = ("static", "script"),
    mpms: Iterable[str] = MPMS,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    *,
    ceiling: bool = False,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> QpsTable:
    """Measure the article's tables here; minutes at the demo scale.

    kinds: of "static", "script". mpms: of "prefork", "worker", "event".
    requests: per cell, 1 to 20 million; by default what the scale says.
    users: concurrent clients, 1 to 20,000. keep_alive: reuse connections. rounds: 1 to 1000.
    scale: "smoke" (seconds), "demo" (minutes), "full" (the article's 200,000 requests); by default
        the environment's MPMKIT_SCALE, or else demo.
    out: a CSV file to which each row is appended as soon as it is finished. on_progress: called with an
        `experiment.Progress` some four times a second, and when a cell ends; `experiment.Bar()`.
    ceiling: measure what the generator can do against nginx first, and mark rows that come near it.
    say: called at once with each sentence on what is left out.
    more: beside: other servers to measure in the same rounds, "httpd", "nginx" or "all"; one that is
        not installed or fails is left out, as `left_out` says. scripts: the ways to run the script:
        "wsgi", "cgi", "php-fpm", "all"; with httpd its mod_cgi, mod_proxy_fcgi and mod_php, too.
        target_precision: go on beyond `rounds` until every median is known to within this share
        (0.05: +-5%), or `max_rounds` are done. processes: as in `run_load`.
        launch: starts a server, ``launch(mpm, **directives)``; by default `mpmkit.launch`.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything
    starts; `experiment.ExperimentError` if a server or the generator fails, `experiment.Interrupted`
    (a KeyboardInterrupt) on Ctrl-C: both carry the rows finished until then as `table`.
    """
    load: dict[str, Any] = {"requests": requests, "users": users, "keep_alive": keep_alive}
    todo = plan(kinds, mpms, rounds=rounds, scale=scale, **load, **more)
    table = QpsTable([], published.figures(), todo.target, scale=todo.scale)
    file = table.keep_in(out)
    todo, table.left_out = _at_hand(todo)
    table.planned = sum(cell.figures for cell in todo.cells())
    if ceiling:
        table.ceiling, why = _ceiling(todo)
        table.left_out += why

    def measure(cell: QpsCell, report: Report) -> Iterator[list[Row]]:
        return _measure_server(todo, table, cell, report)

    return run(
        todo.until_settled(table), measure, table, file=file, on_progress=on_progress, say=say
    )


def _at_hand(todo: QpsPlan) -> tuple[QpsPlan, list[str]]:
    """The plan without what is not installed, and a sentence on each of these. Raises ValueError if
    nothing is left."""
    here, missing = competitors.installed(todo.beside)
    todo = replace(todo, beside=tuple(here))
    if "php-fpm" in todo.kinds and (sentence := competitors.php_fpm_missing()):
        todo = replace(todo, kinds=tuple(k for k in todo.kinds if k not in ("php-fpm", "mod_php")))
        if not todo.kinds:
            raise ValueError(sentence)
        missing = [sentence, *(one for one in missing if "php-fpm is not installed" not in one)]
    return todo, missing


def _ceiling(todo: QpsPlan) -> tuple[float | None, list[str]]:
    """Requests/s that the generator can do at most, or a sentence on why that is not known."""
    try:
        return generator.ceiling(next(iter(todo.profiles.values()))), []
    except (NotInstalled, ServerFailed, LoadError) as error:
        return None, [f"without the generator's ceiling: {one_line(error)}"]


def _measure_server(
    todo: QpsPlan, table: QpsTable, cell: QpsCell, report: Report
) -> Iterator[list[Row]]:
    """Start one server, measure its pages, stop it."""
    directives: dict[str, Any] = dict(published.DIRECTIVES[cell.stands_for])
    directives["KeepAlive"] = todo.profiles[cell.kinds[0]].keep_alive
    with cell.start(cell.stands_for, **directives) as server:
        for kind in cell.kinds:
            text, profile = f"round {cell.round}, {cell.label}, {kind}", todo.profiles[kind]
            # A script that php-fpm runs is paid for by processes that are not the server's.
            meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))

            def tell(
                done: int,
                seconds: float,
                text: str = text,
                profile: LoadProfile = profile,
                meter: Meter = meter,
            ) -> None:
                meter.progress(done)
                report(text, _share(profile, done, seconds))

            report(text, 0.0)
            conditions = Conditions(table, cell)
            found = run_load(server, profile=profile, on_progress=tell, ceiling=table.ceiling)
            _must_be_whole(found, server, f"{cell.label}, {kind}")
            page = published.page(kind)
            columns = {
                **found.row(),
                "kind": page.kind,
                "script": page.script or None,
                "started_at": records.utc(found.started_at),
                "server_cpu_us": meter.per_request(found.requests),
            }
            yield [conditions.row(directives, **columns)]


def _share(profile: LoadProfile, done: int, seconds: float) -> float:
    """How far a cell is: by requests or by time, whichever is nearer to its end."""
    by_requests = done / profile.requests if profile.requests else 0.0
    by_time = seconds / profile.duration if profile.duration else 0.0
    return max(by_requests, by_time)


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
        "wsgi). php-fpm is started for it; with --beside httpd, mod_php is measured, too"
    )
    add("--script", action="append", metavar="WAY", help=script)
    add("--requests", type=int, metavar="N", help="requests per cell")
    users = "concurrent clients (default: 200, as in the article)"
    add("--users", type=int, default=200, metavar="N", help=users)
    add("--keep-alive", action="store_true", help="reuse connections (the article did not)")
    precision = "go on with more rounds until every median is known to within P, like 5%%"
    add("--target-precision", type=_share_given, metavar="P", help=precision)
    most = f"but no more than these (default: {MAX_ROUNDS})"
    add("--max-rounds", type=int, default=MAX_ROUNDS, metavar="R", help=most)
    near = "measure what the generator can do against nginx first, and mark rows that come near"
    add("--ceiling", action="store_true", help=near)
    add("--processes", type=int, default=1, metavar="N", help="generator processes (default: 1)")
    command.add_options(parser, "--mpm", "--rounds", "--scale", "--beside", "--out")
    return parser


def _share_given(text: str) -> float:
    """5% or 0.05."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a share like 5%, not {text!r}") from None


def main(argv: Sequence[str] | None = None, *, launch: Launch | None = None) -> int:
    """``mpmkit qps``. Prints the tables on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`."""
    options = _parser().parse_args(argv)
    status, _ = command.execute(
        lambda bar: qps_table(
            tuple(published.PAGES) if options.kind == "both" else (options.kind,),
            command.mpms(options),
            options.requests,
            options.users,
            options.keep_alive,
            options.rounds,
            options.scale,
            command.out_of(options, command.new_name("qps")),
            bar,
            processes=options.processes,
            beside=command.listed(options.beside),
            target_precision=options.target_precision,
            max_rounds=options.max_rounds,
            ceiling=options.ceiling,
            scripts=command.listed(options.script or ("wsgi",)),
            say=command.say,
            launch=launch,
        ),
        QpsTable.text,
    )
    return status
