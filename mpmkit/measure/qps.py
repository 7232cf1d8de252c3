"""The article's two tables, measured on this machine: requests per second of the three MPMs.

    table = qps_table(rounds=3)
    print(table.text())

The load is the article's: 200 clients, a new connection per request (ab's default), on one server at a time,
after a warm-up that is not counted: prefork takes some ten seconds to grow from 5 processes to the number
that 200 clients need. The article's settings and results are in `published`, the resulting table in `qps_table`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, competitors, experiment, published, records
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report
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


@dataclass(repr=False)
class Qps(QpsTable):
    """The experiment. profiles: column of the table -> load. least: as in `QpsScale`."""

    profiles: dict[str, LoadProfile] = field(default_factory=dict)
    least: float = 0.0

    def measure(self, cell: Cell, report: Report) -> Figures:
        """Start one server, measure its pages, stop it."""
        directives: dict[str, Any] = dict(published.DIRECTIVES[cell.stands_for])
        directives["KeepAlive"] = self.profiles[cell.parts[0]].keep_alive
        with cell.start(cell.stands_for, **directives) as server:
            for kind in cell.parts:
                conditions = experiment.Conditions(self, cell)
                found, cpu_us = self._page(cell, kind, server, report)
                page, began = published.page(kind), records.utc(found.started_at)
                own = {"kind": page.kind, "script": page.script or None, "server_cpu_us": cpu_us}
                yield [conditions.row(directives, **found.row() | own | {"started_at": began})]

    def _page(
        self, cell: Cell, kind: str, server: Any, report: Report
    ) -> tuple[LoadRun, float | None]:
        """One figure, and the server's CPU time for a request. Where it lasts less than it should, all of its
        kind get more requests from now on, and it is measured again."""
        text = f"round {cell.round}, {cell.label}, {kind}"
        while True:
            load = self.profiles[kind]
            # A script that php-fpm runs is paid for by processes that are not the server's.
            meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))

            def progress(done: int, seconds: float, load: Any = load, meter: Meter = meter) -> None:
                meter.progress(done)
                by_requests = done / load.requests if load.requests else 0.0
                by_time = seconds / load.duration if load.duration else 0.0
                report(text, max(by_requests, by_time))  # whichever is nearer to its end

            report(text, 0.0)
            found = run_load(server, profile=load, on_progress=progress)
            if not (found.complete and found.succeeded):
                kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.errors.most_common(3))
                why = "no good answer" if found.complete else found.ended
                good = f"{found.succeeded:,} of {found.requests:,} requests were answered well"
                good += f" ({kinds})" * bool(kinds)
                words = experiment.last_words(server)
                raise RuntimeError(f"{cell.label}, {kind}: {why}; {good}{words}")
            if load.requests is None or found.duration >= self.least:
                return found, meter.per_request(found.requests)
            more = math.ceil(1.25 * load.requests * self.least / found.duration)
            self.profiles[kind] = load.but(requests=more)


@experiment.measured
def qps_table(
    kinds: Names = ("static", "script"),
    mpms: Names = MPMS,
    *,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    processes: int = 1,
    also: Names = (),
    scripts: Names = ("wsgi",),
    launch: experiment.Launch | None = None,
) -> Qps:
    """Measure the article's tables here; minutes at the demo scale.

    kinds: of "static", "script". mpms: of "prefork", "worker", "event". "all" stands for each. requests: per
        cell, 1 to 20 million; by default set by the scale. rounds: 1 to 1000. users: concurrent clients, 1 to
        20,000. keep_alive: reuse connections. processes: of the generator.
    scale: "smoke" (seconds), "demo" (minutes), "full" (the article's 200,000 requests); by default the
        environment's MPMKIT_SCALE, or else demo.
    also: other servers to measure in the same rounds, "httpd" or "all"; what is not installed or fails is left
        out, as `left_out` says. launch: starts ours, ``launch(mpm, **directives)``. scripts: the ways to run the
        script: "wsgi", "cgi", "php-fpm", "all"; with httpd also its mod_cgi, mod_proxy_fcgi and mod_php.
    out: a CSV file to which each row is appended as soon as it is finished. on_progress: called with an
        `experiment.Progress` some four times a second, and when a cell ends; `experiment.Bar()`. say: called at
        once with a sentence for each thing left out.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything starts;
    `experiment.ExperimentError` if a server or the generator fails, and on Ctrl-C `experiment.Interrupted` (a
    KeyboardInterrupt): both carry the rows finished until then as `table`.
    """
    problems = command.Problems()
    mpms = problems.chosen("mpm", mpms, MPMS)
    others = problems.chosen("also", also, competitors.names(), 0)
    pages = problems.chosen("kind", kinds, published.PAGES)
    ways = problems.chosen("script", scripts, published.WAYS)
    if "script" in pages:
        pages = tuple(kind for kind in pages if kind != "script" or "wsgi" in ways)
        pages += tuple(way for way in ways if way != "wsgi")
        pages += ("mod_php",) * ("php-fpm" in ways and "httpd" in others and "prefork" in mpms)
    chosen, size = problems.scale(scale, SCALES, requests, rounds)
    problems.rounds(rounds)
    load: dict[str, Any] = {"users": users, "keep_alive": keep_alive, "processes": processes}
    load |= {"warmup_seconds": size.warmup, "time_limit": TIME_LIMIT, "requests": requests}
    if requests is None:  # no bound in time cuts short what is given by hand
        load |= {"requests": size.requests, "duration": size.seconds}
    profiles: dict[str, LoadProfile] = {}
    for kind in pages:
        load |= {"path": published.page(kind).path, "expect_length": published.page(kind).length}
        try:
            profiles[kind] = LoadProfile(**load)
        except ProfileError as error:
            problems += str(error).split("; ")
    problems.raise_any()
    cells = _cells(pages, mpms, others, launch or experiment.launch)
    how: dict[str, Any] = {"cells": cells, "repeats": rounds or size.rounds, "scale": chosen}
    how["seed"] = how["run_id"] = records.new_run_id()
    return Qps([], published.figures(), profiles, size.least * (requests is None), **how)


def _cells(
    pages: Sequence[str], mpms: Sequence[str], also: Sequence[str], launch: experiment.Launch
) -> list[Cell]:
    """The cells of a round; one start of a server each."""
    # What programs and php-fpm need would disturb the other pages: they get servers of their own.
    plain = tuple(page for page in pages if page in published.PAGES)
    starts = [(plain, launch)] if plain else []
    starts += [((way,), competitors.ours(way, launch)) for way in pages if way in published.WAYS]
    cells = [
        Cell(1, OURS, mpm, parts=parts, stands_for=mpm, start=start)
        for mpm, (parts, start) in itertools.product(mpms, starts)
    ]
    for one in competitors.of(also, mpms, pages):
        parts = tuple(page for page in pages if page in one.parts)
        cells += [replace(one, parts=parts)] if parts else []
    return cells


def main(argv: Sequence[str] | None = None, *, launch: experiment.Launch | None = None) -> int:
    """``mpmkit qps``, as in `command.measured`."""
    what = (
        "Measure the article's tables on this machine: requests per second of prefork, worker and event, for "
        "a static page and a script."
    )
    parser = command.parser("qps", what, "--mpm", "--rounds", "--scale", "--also", "--out")
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
    options = parser.parse_args(argv)
    options.kinds = tuple(published.PAGES) if options.kinds == "both" else options.kinds
    return command.measured(options, qps_table, launch=launch)[0]
