"""The article's tables as they were measured: from rows to medians, ratios, verdicts and text. No server
is started and no clock is read here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmkit.config.directives import MPMS
from mpmkit.config.extras import require
from mpmkit.measure import competitors, published, records, stats
from mpmkit.measure.comparison import OrderVerdict, verdict
from mpmkit.measure.experiment import OURS, Table
from mpmkit.measure.records import Row
from mpmkit.measure.text import aligned

if TYPE_CHECKING:
    import pandas


@dataclass(repr=False)
class QpsTable(Table):
    """What was measured, and how it compares with what is published.

    published: kind -> MPM -> QPS. target: the precision that was asked for (0.05: +-5%), or None.
    ceiling: requests/s that the generator could do at most (`ceiling.ceiling`), if measured.
    """

    published: dict[str, dict[str, float]] = field(default_factory=dict)
    target: float | None = None
    ceiling: float | None = None

    @property
    def rows(self) -> pandas.DataFrame:
        """The rows as a tidy frame (the columns of data/README.md)."""
        return self.to_frame()

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

    def rounds(self, kind: str, server: str = OURS) -> dict[str, list[float]]:
        """MPM -> the QPS of each round, in the order of the article."""
        found = {mpm: [row["qps"] for row in self._rows(kind, server, mpm)] for mpm in MPMS}
        return {mpm: values for mpm, values in found.items() if values}

    def _rows(self, kind: str, server: str, mpm: str | None) -> list[Row]:
        return [
            row
            for row in self.records
            if (published.column(row), row["server"], row["mpm"]) == (kind, server, mpm)
        ]

    def verdict(self, kind: str, server: str = OURS) -> OrderVerdict | None:
        """Whether the published order came out, or None if that cannot be said."""
        return verdict(kind, self.rounds(kind, server), self._published(kind))

    def _published(self, kind: str) -> dict[str, float]:
        return self.published.get(published.page(kind).kind, {})

    def samples(self) -> dict[str, list[float]]:
        """Each cell's QPS over the rounds: "mpmkit event, static" -> figures."""
        found: dict[str, list[float]] = {}
        for row in self.records:
            name = f"{row['server']} {row['mpm'] or ''}".rstrip() + f", {published.column(row)}"
            if name not in self.broken:
                found.setdefault(name, []).append(row["qps"])
        return found

    @property
    def drift(self) -> stats.Drift:
        """Whether the machine grew faster or slower over the rounds."""
        return stats.drift(self.samples())

    @property
    def order_reproduced(self) -> bool | None:
        """Whether our servers came out in the published order for every kind measured; None if that
        cannot be said."""
        verdicts = [self.verdict(kind) for kind in self.kinds if self.rounds(kind)]
        if not verdicts or None in verdicts:
            return None
        return all(one.reproduced for one in verdicts if one is not None)

    # -- figures -----------------------------------------------------------------------------------

    def summary(self) -> pandas.DataFrame:
        """One row per kind, server and MPM: published, median, min, max, the interval of the median
        (low, high) and its level, both ratios to prefork, the server's CPU time for a request in µs
        (cpu_us), and in how many rounds the generator or the machine was the limit (bound)."""
        pandas = require("pandas")

        return pandas.DataFrame(
            [
                line
                for kind in self.kinds
                for server in self.servers
                for line in self._lines(kind, server)
            ]
        )

    def others(self) -> pandas.DataFrame:
        """One row per kind and server that has no MPM of ours: median, min, max and the interval of
        the median in requests per second, the MPM of ours that it stands for, and how many times
        that one's median its own is."""
        pandas = require("pandas")

        return pandas.DataFrame([line for kind in self.kinds for line in self._other_lines(kind)])

    def _figures(self, kind: str, server: str, mpm: str | None) -> Row:
        rows = self._rows(kind, server, mpm)
        values = [row["qps"] for row in rows]
        middle = stats.median(values)
        cpu = [row["server_cpu_us"] for row in rows if row.get("server_cpu_us") is not None]
        return {
            "rounds": len(values),
            "median": middle.value,
            "min": min(values),
            "max": max(values),
            "low": middle.low,
            "high": middle.high,
            "level": middle.level,
            "cpu_us": statistics.median(cpu) if cpu else math.nan,
        }

    def _lines(self, kind: str, server: str) -> list[Row]:
        figures = self._published(kind)
        found = {mpm: self._figures(kind, server, mpm) for mpm in self.rounds(kind, server)}
        medians = {mpm: one["median"] for mpm, one in found.items()}

        def ratio(values: Mapping[str, float], mpm: str) -> float:
            base = values.get("prefork", 0)
            return values[mpm] / base if mpm in values and base > 0 else math.nan

        return [
            {
                "kind": kind,
                "server": server,
                "mpm": mpm,
                "published": figures.get(mpm, math.nan),
                **one,
                "published_ratio": ratio(figures, mpm),
                "ratio": ratio(medians, mpm),
                "bound": sum(
                    bool(row["generator_bound"] or row.get("generator_starved"))
                    for row in self._rows(kind, server, mpm)
                ),
            }
            for mpm, one in found.items()
        ]

    def _other_lines(self, kind: str) -> list[Row]:
        ours = self.rounds(kind)
        lines = []
        for one in competitors.of(competitors.names(), ours or MPMS):
            if self._rows(kind, one.server, None):
                found = self._figures(kind, one.server, None)
                mine = statistics.median(ours[one.stands_for]) if one.stands_for in ours else 0
                ratio = found["median"] / mine if mine > 0 else math.nan
                who = {"kind": kind, "server": one.server, "stands_for": one.stands_for}
                lines.append({**who, **found, "ratio": ratio})
        return lines

    # -- text --------------------------------------------------------------------------------------

    def text(self) -> str:
        """Both tables as text, with what can be concluded, and from what."""
        if not self.records:
            return "no row was finished"
        parts = []
        for kind in self.kinds:
            parts += [self._table(kind, server) for server in self.servers]
            parts.append(self._others(kind))
        parts.append("\n".join([*self._small_print(), *self.footer()]))
        return "\n\n".join(part for part in parts if part)

    def _table(self, kind: str, server: str) -> str:
        lines = self._lines(kind, server)
        if not lines:
            return ""
        head = ("MPM", "published", "median", _sure(lines), "published", "measured", self._cpu, "")
        cells = [
            (
                line["mpm"],
                _count(line["published"]),
                _count(line["median"]),
                _range(line),
                _ratio(line["published_ratio"]),
                _ratio(line["ratio"]),
                _tenth(line["cpu_us"]),
                self._notes(kind, server, line["mpm"]),
            )
            for line in lines
        ]
        # Two columns stand under one heading, as both are ratios to prefork.
        before, both = (
            sum(max(len(row[i]) for row in [head, *cells]) + 2 for i in columns)
            for columns in (range(4), (4, 5))
        )
        over = " " * before + "x prefork".center(both - 2).rstrip()
        of = "" if server == OURS else f", {server}"
        title = f"requests/s, {published.page(kind).title}{of}"
        rows = [title, over, *aligned([head, *cells], left=(0, 7))]
        judged = self.verdict(kind, server)
        if judged is not None:
            rows += [str(judged), *[f"  {pair}" for pair in judged.pairs]]
        elif len(lines) < 2:
            rows.append("one MPM alone has no order")
        return "\n".join(rows)

    def _others(self, kind: str) -> str:
        """The servers that have no MPM of ours, in one table."""
        lines = self._other_lines(kind)
        if not lines:
            return ""
        head = ("server", "median", _sure(lines), "x mpmkit's", self._cpu, "")
        cells = [
            (
                line["server"],
                _count(line["median"]),
                _range(line),
                f"{_ratio(line['ratio'])} {line['stands_for']}",
                _tenth(line["cpu_us"]),
                self._notes(kind, line["server"], None),
            )
            for line in lines
        ]
        title = f"requests/s, {published.page(kind).title}, other servers"
        return "\n".join([title, *aligned([head, *cells], left=(0, 3, 5))])

    @property
    def _cpu(self) -> str:
        """The heading of the CPU times; empty where no row has one."""
        known = any(row.get("server_cpu_us") is not None for row in self.records)
        return "µs CPU" if known else ""

    def _notes(self, kind: str, server: str, mpm: str | None) -> str:
        rows = self._rows(kind, server, mpm)
        notes = []
        failures = sum(row["failures"] for row in rows)
        if failures:
            requests = sum(row["requests"] for row in rows)
            notes.append(f"{failures:,} of {requests:,} requests FAILED")
        for column, what in (("generator_bound", "generator"), ("generator_starved", "machine")):
            bound = sum(bool(row.get(column)) for row in rows)
            if bound:
                notes.append(f"{what}-bound in {bound} of {len(rows)} rounds")
        return "; ".join(notes)

    def _small_print(self) -> list[str]:
        row, rounds = self.records[-1], max(row["round"] for row in self.records)
        way = "keep-alive" if row["keep_alive"] else "a new connection per request"
        some = dict.fromkeys(f"{f(row['requests'] for row in self.records):,}" for f in (min, max))
        driver = f"{row['driver']} {row['driver_version'] or ''}".rstrip()
        much = f"{rounds} round{'s' * (rounds != 1)}, by {driver}"
        lines = [
            f"{row['users']} clients, {way}, {' to '.join(some)} requests a cell, {much}",
            f"measured on {records.Machine.of(row)}",
        ]
        if rounds > 1:
            lines.append(str(self.drift))
        if self._cpu:
            lines.append(
                "µs CPU: processor time of the server's own processes for a request; it "
                "doesn't depend on how fast the generator is"
            )
        if self.ceiling:
            fastest = max(row["qps"] for row in self.records)
            lines.append(
                f"the generator's ceiling: {self.ceiling:,.0f} requests/s, by what it did "
                f"against nginx; the fastest row is at {fastest / self.ceiling:.0%} of it"
            )
        if any(row["generator_starved"] for row in self.records):
            lines.append(
                "machine-bound: the generator always ran or waited for a processor, which it "
                "shares with the servers; both together are what was measured"
            )
        if self.target is not None:
            lines.append(self._precision(self.target, rounds))
        steal = max((row["steal"] or 0.0 for row in self.records), default=0.0)
        if steal >= 0.01:
            lines.append(f"the host took away up to {steal:.0%} of the processor time")
        lines.append(
            "published: Apache 2.4.10 on hardware the article does not name; the order "
            "and the ratios can be compared, not the figures"
        )
        return lines

    def _precision(self, target: float, rounds: int) -> str:
        name, reached = stats.worst(self.samples())
        if stats.settled(list(self.samples().values()), target):
            said = f"reached, the widest is {name} at {reached:.1%}"
        else:
            known = "nothing yet" if math.isinf(reached) else f"{reached:.1%}"
            said = f"NOT REACHED after {rounds} rounds, {name} is known to {known}"
        return f"target precision {target:.1%}: {said}"

    def __repr__(self) -> str:
        said = {
            True: "published order reproduced",
            False: "published order not reproduced",
            None: "no verdict",
        }[self.order_reproduced]
        return f"<QpsTable {len(self.records)} rows, {', '.join(self.kinds) or 'empty'}, {said}>"


def _sure(lines: Sequence[Row]) -> str:
    level = min(line["level"] for line in lines)
    return f"{level:.0%} interval" if level else "interval"


def _range(line: Row) -> str:
    return f"{_count(line['low'])} to {_count(line['high'])}" if line["level"] else "-"


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _tenth(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
