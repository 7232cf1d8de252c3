"""The article's tables as measured: from rows to medians, ratios, verdicts and text. Starts no
server and reads no clock.
"""

import itertools
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.measure import published, records, stats, utilisation
from mpmkit.measure.experiment import OURS, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import Limits, OrderVerdict, ratio_text
from mpmkit.measure.text import aligned

WIDTH = 100  # columns of the table as text


@dataclass(repr=False)
class QpsTable(Table):
    """The measured figures compared with the published ones: kind -> MPM -> QPS."""

    published: dict[str, dict[str, float]] = field(default_factory=dict)

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

    def rounds(
        self, kind: str, server: str = OURS, column: str = "qps"
    ) -> dict[str, dict[tuple[str, int], float]]:
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

    def _lines(self, kind: str, server: str) -> list[Row]:
        """The figures of each MPM of a server, or of one that has none."""
        rounds, cpu = self.rounds(kind, server), self.rounds(kind, server, "server_cpu_us")
        figures, lines = self.published.get(published.page(kind).kind, {}), []
        for mpm, found in rounds.items():
            values, theirs = [*found.values()], figures.get(mpm, math.nan)
            ratio = _ratio(found, rounds.get("prefork", {}))
            limits = self.limits(kind, server, mpm)
            line = {"kind": kind, "server": server, "mpm": mpm, "published": theirs}
            line |= {"rounds": len(values), "median": statistics.median(values)}
            line |= {"min": min(values), "max": max(values), "noise": stats.noise(values)}
            line |= {"cpu_us": statistics.median(cpu[mpm].values()) if mpm in cpu else math.nan}
            line |= {"published_ratio": theirs / figures.get("prefork", math.nan)}
            line |= {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
            bound = limits.generator + limits.machine
            lines.append({**line, "bound": bound, "limit": limits.short})
        return lines

    def text(self) -> str:
        """Both tables as text, with what can be concluded, and from what; no line is longer than 100."""
        if not self.records:
            return "no row was finished"
        parts = []
        for kind in self.kinds:
            alone = [server for server in self.servers if "" in self.rounds(kind, server)]
            parts += [self._table(kind, [one]) for one in self.servers if one not in alone]
            parts.append(self._table(kind, alone, mpms=False))
        machine, *last = self.footer()
        small = (textwrap.wrap(one, WIDTH) for one in (*self._small_print(), machine))
        parts.append("\n".join([*itertools.chain(*small), *last]))
        return "\n\n".join(part for part in parts if part)

    def _table(self, kind: str, servers: Sequence[str], mpms: bool = True) -> str:
        """The MPMs of a server, or the servers that have none, with what is concluded."""
        lines = [line for server in servers for line in self._lines(kind, server)]
        if not lines:
            return ""
        head = ["MPM" if mpms else "server", "published", "median", "all rounds", "published"]
        rows, failed = [[*head, "measured", "µs CPU", "limit"]], []
        for line in lines:
            where = self._rows(kind, line["server"], line["mpm"])
            failures, requests = (sum(row[n] for row in where) for n in ("failures", "requests"))
            if failures:
                who = f"{line['server']} {line['mpm']}"
                failed.append(f"{who}: {failures:,} of {requests:,} requests FAILED")
            ends = f"{line['min']:,.0f} to {line['max']:,.0f}" if line["rounds"] > 1 else "-"
            forms = {"published": ",.0f", "median": ",.0f", "published_ratio": ".2f"}
            forms |= {"ratio": ".2f", "cpu_us": ".1f"}
            one, two, *more = (
                "-" if math.isnan(line[name]) else f"{line[name]:{form}}"
                for name, form in forms.items()
            )
            rows.append([line["mpm" if mpms else "server"], one, two, ends, *more, line["limit"]])
        table = aligned(rows, left=(0, 7))
        # Two columns stand under one heading, as both are ratios to prefork.
        over = " " * table[0].rindex("published") + "x prefork".center(19).rstrip()
        of = f", {servers[0]}" if mpms and servers[0] != OURS else ", other servers" * (not mpms)
        said = self._conclusions(kind, servers[0]) if mpms else []
        title = f"requests/s, {published.page(kind).title}{of}"
        return "\n".join([title, over, *table, *failed, *said])

    def _conclusions(self, kind: str, server: str) -> list[str]:
        """Whether the order came out, the pairs if that could be decided, the CPU times compared."""
        said, judged = [], self.verdict(kind, server)
        if judged is not None:
            said = [str(judged), *(f"  {one}" for one in judged.pairs if not str(judged.limits))]
        elif len(self.rounds(kind, server)) < 2:
            said = ["one MPM alone has no order"]
        cpu = self.rounds(kind, server, "server_cpu_us")
        ratios = [
            f"{one} / {other} {ratio_text(_ratio(cpu[one], cpu[other]))}"
            for one, other in stats.PAIRS
            if len(cpu.get(one, {}).keys() & cpu.get(other, {}).keys()) > 1
        ]
        if ratios:
            said.append("µs CPU within the rounds: " + ", ".join(ratios))
        return [part for one in said for part in textwrap.wrap(one, WIDTH, subsequent_indent="  ")]

    def _small_print(self) -> list[str]:
        row, rounds = self.records[-1], max(row["round"] for row in self.records)
        way = "keep-alive" if row["keep_alive"] else "a new connection per request"
        some = dict.fromkeys(f"{f(row['requests'] for row in self.records):,}" for f in (min, max))
        driver = f"{row['driver']} {row['driver_version'] or ''}".rstrip()
        shortest = min(row["duration_s"] for row in self.records)
        lines = [
            f"{row['users']} clients, {way}, {' to '.join(some)} requests and {shortest:.1f} s or "
            f"more a cell, {rounds} round{'s' * (rounds != 1)}, by {driver}",
            "µs CPU: CPU time of the server's own processes per request",
        ]
        # php-fpm's processes, which run its scripts, are not the server's.
        due = [row["server_cpu_us"] for row in self.records if row["script"] != "php-fpm"]
        if missing := due.count(None):
            lines.append(f"µs CPU is unknown in {missing} of {len(due)} cells (short, or no pid)")
        if any(row["generator_bound"] or row["generator_starved"] for row in self.records):
            lines.append(
                "limit: rounds in which the generator, or the machine that it shares with the server, had no CPU "
                "time left; the figures are lower bounds, and mpmkit demand measures what decides"
            )
        if (steal := max(row["steal"] or 0.0 for row in self.records)) >= 0.01:
            lines.append(f"the host took up to {steal:.0%} of the CPU time")
        figures = "published: Apache 2.4.10 on unnamed hardware; compare ratios, not figures"
        return [*lines, *what_decides(), figures]


def what_decides() -> list[str]:
    """The ratios of service demand that the project ships, a sentence a server; none without that run."""
    try:
        rows = records.read(records.recorded_folder() / "demand-demo.csv")
    except (records.RecordError, OSError):
        return []
    found = utilisation.comparisons(rows, "page")
    said = [
        f"what decides between the MPMs, recorded on {rows[0]['started_at']:.10} on {rows[0]['cpu_model']} by "
        "mpmkit demand: CPU time of a static page on a new connection, within blocks, at fixed rates"
    ]
    for server in (OURS, "httpd"):
        pairs = ((a, b, found.get(f"{server} {a} / {server} {b}")) for a, b in stats.PAIRS)
        ratios = [f"{a} / {b} {ratio_text(d.ratio)} {d.word}" for a, b, d in pairs if d]
        said += [f"{server}: {', '.join(ratios)}"] * bool(ratios)
    return said


def _ratio(one: Mapping[Any, float], other: Mapping[Any, float]) -> stats.Interval:
    """`stats.paired`; NaN where there is no round to compare in."""
    try:
        return stats.paired(one, other)
    except ValueError:
        return stats.Interval(math.nan, math.nan, math.nan, 0.0)
