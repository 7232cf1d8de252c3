"""The article's two tables, measured on this machine: requests per second of the three MPMs.

    table = qps_table(rounds=3)
    print(table.text())

The load is the article's: 200 clients, a new connection per request (ab's default), on one server at a time,
after a warm-up that is not counted: prefork takes some ten seconds to grow from 5 processes to the number
that 200 clients need. The article's settings and results are in `published`.
"""

import itertools
import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import command, competitors, demand, experiment, published, records, stats
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report, Table
from mpmkit.measure.procfs import Meter
from mpmkit.measure.records import Row
from mpmkit.measure.stats import Limits, OrderVerdict, Rounds, ratio_text

WIDTH = 100  # columns of the table as text
UNKNOWN = stats.Interval(math.nan, math.nan, math.nan, 0.0)
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
class QpsTable(Table):
    """The experiment: what it measured, compared with the `published` figures (kind -> MPM -> QPS). profiles:
    column of the table -> load. least: as in `QpsScale`."""

    published: dict[str, dict[str, float]] = field(default_factory=dict)
    profiles: dict[str, LoadProfile] = field(default_factory=dict)
    least: float = 0.0

    def measure(self, cell: Cell, report: Report) -> Figures:
        """Start one server, measure its pages, stop it."""
        with cell.started() as server:
            for kind in cell.parts:
                row = self.conditions(cell)
                found, cpu_us = self._page(cell, kind, server, report)
                page, began = published.page(kind), records.utc(found.started_at)
                own = {"kind": page.kind, "script": page.script or None, "server_cpu_us": cpu_us}
                yield [row(**found.row() | own | {"started_at": began})]

    def _page(self, cell: Cell, kind: str, server: Any, report: Report) -> tuple[LoadRun, Any]:
        """One figure, and the server's CPU time for a request. Where it lasts less than it should, all of its
        kind get more requests from now on, and it is measured again."""
        load = self.profiles[kind]
        # A script that php-fpm runs is paid for by processes that are not the server's.
        meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))

        def progress(done: int, seconds: float) -> None:
            meter.progress(done)
            share = max(done / (load.requests or math.inf), seconds / (load.duration or math.inf))
            report(f"round {cell.round}, {cell.label}, {kind}", share)

        progress(0, 0.0)
        found = run_load(server, profile=load, on_progress=progress)
        if not (found.complete and found.succeeded):
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.errors.most_common(3))
            why = "no good answer" if found.complete else found.ended
            good = f"{found.succeeded:,} of {found.requests:,} requests were answered well"
            words = f" ({kinds})" * bool(kinds) + experiment.last_words(server)
            raise RuntimeError(f"{cell.label}, {kind}: {why}; {good}{words}")
        if load.requests is None or found.duration >= self.least:
            return found, meter.per_request(found.requests)
        more = math.ceil(1.25 * load.requests * self.least / found.duration)
        self.profiles[kind] = load.but(requests=more)
        return self._page(cell, kind, server, report)

    @property
    def kinds(self) -> list[str]:
        """The kinds of page, and ways to run the script, that have rows, in the article's order."""
        there = {published.column(row) for row in self.records}
        return [kind for kind in (*published.PAGES, *published.SCRIPTS) if kind in there]

    @property
    def servers(self) -> list[str]:
        """The servers that have rows; ours first."""
        names = {row["server"] for row in self.records}
        return sorted(names, key=lambda name: (name != OURS, name != "httpd", name))

    def rounds(self, kind: str, server: str = OURS, column: str = "qps") -> dict[str, Rounds]:
        """MPM ("" for a server without one) -> the figure of each round, in the article's order. A round
        is (run_id, number); one without the figure is left out."""
        found: dict[str, dict[tuple[str, int], float]] = {mpm: {} for mpm in (*MPMS, "")}
        for row in self._rows(kind, server):
            if row[column] is not None:
                found[row["mpm"] or ""][row["run_id"], row["round"]] = row[column]
        return {mpm: values for mpm, values in found.items() if values}

    def _rows(self, kind: str, server: str, mpm: str | None = None) -> list[Row]:
        """The rows of a server, or of one of its MPMs."""
        rows = [row for row in self.records if mpm in (None, row["mpm"] or "")]
        return [row for row in rows if (published.column(row), row["server"]) == (kind, server)]

    def limits(self, kind: str, server: str = OURS, mpm: str | None = None) -> Limits:
        """In how many cells the generator, or the machine, was the limit."""
        rows = self._rows(kind, server, mpm)
        bound = ("generator_bound", "generator_starved")
        return Limits(len(rows), *(sum(bool(row[name]) for row in rows) for name in bound))

    def verdict(self, kind: str, server: str = OURS) -> OrderVerdict | None:
        """Whether the published order came out; None if fewer than two MPMs can be compared."""
        figures = self.published.get(published.page(kind).kind, {})
        return stats.verdict(self.rounds(kind, server), figures, self.limits(kind, server))

    def summary(self) -> DataFrame:
        """One row per kind, server and MPM: published, median, min, max of the rounds, noise (the standard
        deviation of their logarithms), both ratios to prefork, the measured one within the rounds and with its
        95% interval (ratio_low, ratio_high), the server's CPU time for a request in µs (cpu_us), and in how
        many rounds the generator or the machine was the limit (bound; in words: limit)."""
        each = itertools.product(self.kinds, self.servers)
        return data_frame([x for one in each for x in self._lines(*one) if x["mpm"]])

    def _lines(self, kind: str, server: str) -> Iterator[Row]:
        """The figures of each MPM of a server, or of one that has none."""
        rounds, cpu = self.rounds(kind, server), self.rounds(kind, server, "server_cpu_us")
        figures = self.published.get(published.page(kind).kind, {})
        for mpm, found in rounds.items():
            values, theirs = [*found.values()], figures.get(mpm, math.nan)
            first, limits = rounds.get("prefork", {}), self.limits(kind, server, mpm)
            ratio = stats.paired(found, first) if found.keys() & first.keys() else UNKNOWN
            yield {
                "kind": kind, "server": server, "mpm": mpm, "published": theirs, "rounds": len(values),
                "median": statistics.median(values), "min": min(values), "max": max(values),
                "noise": stats.noise(values),
                "cpu_us": statistics.median(cpu.get(mpm, {0: math.nan}).values()),
                "published_ratio": theirs / figures.get("prefork", math.nan),
                "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high,
                "bound": limits.generator + limits.machine, "limit": limits.short,
            }  # fmt: skip

    def _text(self) -> Iterator[str]:
        """Both tables, with what can be concluded, and from what; no line is longer than 100."""
        for kind in self.kinds:
            alone = [server for server in self.servers if "" in self.rounds(kind, server)]
            for server in (one for one in self.servers if one not in alone):
                of = f", {server}" if server != OURS else ""
                yield from self._table(kind, [server], "MPM", of)
            yield from self._table(kind, alone, "server", ", other servers")
        machine, *last = self.footer()
        for one in (*self._small_print(), machine):
            yield from textwrap.wrap(one, WIDTH)
        yield from last

    def _table(self, kind: str, servers: Sequence[str], first: str, of: str) -> Iterator[str]:
        """The MPMs of a server, or the servers that have none, with what is concluded."""
        head = [first, "published", "median", "all rounds", "published", "measured", "µs CPU"]
        rows, failed = [[*head, "limit"]], []
        for line in (line for server in servers for line in self._lines(kind, server)):
            where = self._rows(kind, line["server"], line["mpm"])
            failures, requests = (sum(row[n] for row in where) for n in ("failures", "requests"))
            if failures:
                who = f"{line['server']} {line['mpm']}"
                failed.append(f"{who}: {failures:,} of {requests:,} requests FAILED")
            ends = f"{line['min']:,.0f} to {line['max']:,.0f}" if line["rounds"] > 1 else "-"
            rates = (command.known(line[name], ",.0f") for name in ("published", "median"))
            ratios = (command.known(line[name], ".2f") for name in ("published_ratio", "ratio"))
            last = command.known(line["cpu_us"], ".1f"), line["limit"]
            rows.append([line[first.lower()], *rates, ends, *ratios, *last])
        if rows[1:]:
            table = command.aligned(rows, left=(0, 7))
            yield f"requests/s, {published.page(kind).title}{of}"
            # Two columns stand under one heading, as both are ratios to prefork.
            yield " " * table[0].rindex("published") + "x prefork".center(19).rstrip()
            yield from [*table, *failed]
            for one in self._conclusions(kind, servers[0]) if first == "MPM" else ():
                yield from textwrap.wrap(one, WIDTH, subsequent_indent="  ")
            yield ""

    def _conclusions(self, kind: str, server: str) -> Iterator[str]:
        """Whether the order came out, the pairs if that could be decided, the CPU times compared."""
        if judged := self.verdict(kind, server):
            yield str(judged)
            yield from (f"  {one}" for one in judged.pairs if not str(judged.limits))
        elif len(self.rounds(kind, server)) < 2:
            yield "one MPM alone has no order"
        cpu = self.rounds(kind, server, "server_cpu_us")
        ratios = [
            f"{one} / {other} {ratio_text(stats.paired(cpu[one], cpu[other]))}"
            for one, other in stats.PAIRS
            if len(cpu.get(one, {}).keys() & cpu.get(other, {}).keys()) > 1
        ]
        if ratios:
            yield "µs CPU within the rounds: " + ", ".join(ratios)

    def _small_print(self) -> Iterator[str]:
        row, rounds = self.records[-1], max(row["round"] for row in self.records)
        way = "keep-alive" if row["keep_alive"] else "a new connection per request"
        some = dict.fromkeys(f"{f(row['requests'] for row in self.records):,}" for f in (min, max))
        driver = f"{row['driver']} {row['driver_version'] or ''}".rstrip()
        shortest = min(row["duration_s"] for row in self.records)
        yield (
            f"{row['users']} clients, {way}, {' to '.join(some)} requests and {shortest:.1f} s or "
            f"more a cell, {rounds} round{'s' * (rounds != 1)}, by {driver}"
        )
        yield "µs CPU: CPU time of the server's own processes per request"
        # php-fpm's processes, which run its scripts, are not the server's.
        due = [row["server_cpu_us"] for row in self.records if row["script"] != "php-fpm"]
        if missing := due.count(None):
            yield f"µs CPU is unknown in {missing} of {len(due)} cells (short, or no pid)"
        if any(row["generator_bound"] or row["generator_starved"] for row in self.records):
            yield (
                "limit: rounds in which the generator, or the machine that it shares with the server, had no CPU "
                "time left; the figures are lower bounds, and mpmkit demand measures what decides"
            )
        if (steal := max(row["steal"] or 0.0 for row in self.records)) >= 0.01:
            yield f"the host took up to {steal:.0%} of the CPU time"
        yield from what_decides()
        yield "published: Apache 2.4.10 on unnamed hardware; compare ratios, not figures"


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
) -> QpsTable:
    """Measure the article's tables on this machine: requests per second of prefork, worker and event, for a
    static page and a script; minutes at the demo scale.

    kinds: of page: static, script, or all. mpms: of prefork, worker, event, or all. requests: in each cell, 1 to
    20 million; by default set by the scale. users: concurrent clients, 1 to 20,000 (200, as in the article).
    keep_alive: reuse connections (the article did not). rounds: how often each figure is measured, 1 to 1000.
    scale: smoke (seconds), demo (minutes), full (the article's 200,000 requests); by default the environment's
    MPMKIT_SCALE, or else demo. processes: of the generator (1). also: other servers to measure in the same
    rounds, like httpd, or all; what is not installed or fails is left out, as `left_out` says. scripts: the ways
    to run the script: wsgi (the default), cgi, php-fpm, or all; with httpd also its mod_cgi, mod_proxy_fcgi and
    mod_php.

    launch: starts ours, ``launch(mpm, **directives)``. out: a CSV file to which each row is appended as soon as
    it is finished. on_progress: called with an `experiment.Progress` some four times a second, and when a cell
    ends; `experiment.Bar()`. say: called at once with a sentence for each thing left out.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything starts;
    `experiment.ExperimentError` if a server or the generator fails, and on Ctrl-C `experiment.Interrupted` (a
    KeyboardInterrupt): both carry the rows finished until then as `table`.
    """
    problems = command.Problems()
    mpms = problems.chosen("mpm", mpms, MPMS)
    others = problems.chosen("also", also, competitors.FORMS, 0)
    pages = problems.chosen("kind", kinds, published.PAGES)
    ways = problems.chosen("script", scripts, published.WAYS)
    if "script" in pages:
        pages = tuple(kind for kind in pages if kind != "script" or "wsgi" in ways)
        pages += tuple(way for way in ways if way != "wsgi")
        pages += ("mod_php",) * ("php-fpm" in ways and "httpd" in others and "prefork" in mpms)
    chosen, size = problems.scale(scale, SCALES, requests, rounds)
    problems.numbers("rounds", rounds, 1, 1000, "whole")
    load: dict[str, Any] = {"users": users, "keep_alive": keep_alive, "processes": processes}
    load |= {"warmup_seconds": size.warmup, "time_limit": TIME_LIMIT, "requests": requests}
    if requests is None:  # no bound in time cuts short what is given by hand
        load |= {"requests": size.requests, "duration": size.seconds}
    try:
        profiles = {page: _profile(page, load) for page in pages}
    except ProfileError as error:
        problems += str(error).split("; ")
    problems.raise_any()
    cells = list(_cells(pages, mpms, others, launch or experiment.launch, keep_alive))
    how: dict[str, Any] = {"cells": cells, "repeats": rounds or size.rounds, "scale": chosen}
    how["seed"] = how["run_id"] = records.new_run_id()
    return QpsTable([], published.figures(), profiles, size.least * (requests is None), **how)


def _profile(page: str, load: Mapping[str, Any]) -> LoadProfile:
    """The load on a page."""
    there = published.page(page)
    return LoadProfile(**load, path=there.path, expect_length=there.length)


def _cells(
    pages: Sequence[str], mpms: Sequence[str], also: Sequence[str], launch: experiment.Launch,
    keep_alive: bool,
) -> Iterator[Cell]:  # fmt: skip
    """The cells of a round; one start of a server each."""
    # What programs and php-fpm need would disturb the other pages: they get servers of their own.
    plain = tuple(page for page in pages if page in published.PAGES)
    starts = [(plain, launch)] if plain else []
    starts += [((way,), competitors.ours(way, launch)) for way in pages if way in published.WAYS]
    every = itertools.product(mpms, starts)
    cells = [
        Cell(1, OURS, mpm, parts=parts, stands_for=mpm, start=start)
        for mpm, (parts, start) in every
    ]
    cells += competitors.of(also, mpms, pages)
    for one in cells:
        directives = {**published.DIRECTIVES[one.stands_for], "KeepAlive": keep_alive}
        if parts := tuple(page for page in pages if page in one.parts):
            yield replace(one, parts=parts, directives=directives)


def what_decides() -> list[str]:
    """The ratios of service demand that the project ships, a sentence a server; none without that run."""
    try:
        rows = records.read(records.recorded_folder() / "demand-demo.csv")
    except (records.RecordError, OSError):
        return []
    found = demand.comparisons(rows, "page")
    said = [
        f"what decides between the MPMs, recorded on {rows[0]['started_at']:.10} on {rows[0]['cpu_model']} by "
        "mpmkit demand: CPU time of a static page on a new connection, within blocks, at fixed rates"
    ]
    for server in (OURS, "httpd"):
        pairs = ((a, b, found.get(f"{server} {a} / {server} {b}")) for a, b in stats.PAIRS)
        ratios = [f"{a} / {b} {ratio_text(d.ratio)} {d.word}" for a, b, d in pairs if d]
        said += [f"{server}: {', '.join(ratios)}"] * bool(ratios)
    return said


def main(argv: Sequence[str] | None = None, *, launch: experiment.Launch | None = None) -> int:
    """``mpmkit qps``, as in `command.measured`."""
    options = "kind mpm requests users keep-alive rounds scale processes also script"
    parser = command.parser("mpmkit qps", qps_table, options)
    return command.measured(parser.parse_args(argv), qps_table, launch=launch)[0]
