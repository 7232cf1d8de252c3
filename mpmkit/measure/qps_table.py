"""The article's tables as they were measured: from rows to medians, orders, verdicts and text. No server
is started and no clock is read here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mpmkit.config.directives import MPMS
from mpmkit.measure import competitors as rivals_beside
from mpmkit.measure import published, records, stats
from mpmkit.measure.comparison import Verdict, verdict
from mpmkit.measure.records import Row
from mpmkit.measure.text import aligned

if TYPE_CHECKING:
    import pandas


@dataclass(repr=False)
class QpsTable:
    """What was measured, and how it compares with what is published.

    records: the finished rows, as in the CSV. published: kind -> MPM -> QPS.
    planned: how many rows the whole measurement has.
    target: the precision that was asked for (0.05: +-5%), or None.
    ceiling: requests/s that the generator could do at most (`generators.ceiling`), if measured.
    left_out: a sentence on each rival that was asked for and is not in the rows, or not in all.
    broken: rivals, with the page, that were not measured to the end; they count for no precision or
        drift.
    """

    records: list[Row]
    published: dict[str, dict[str, float]]
    planned: int = 0
    run_id: str = ""
    scale: str = ""
    out: Path | None = None
    target: float | None = None
    ceiling: float | None = None
    left_out: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    @property
    def rows(self) -> pandas.DataFrame:
        """The rows as a tidy frame (the columns of data/README.md)."""
        return self.to_frame()

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a tidy frame (the columns of data/README.md)."""
        return records.frame(self.records)

    @property
    def kinds(self) -> list[str]:
        """The kinds of page, and ways to run the script, that have rows, in the article's order."""
        return [
            kind
            for kind in (*published.PAGES, *published.SCRIPTS)
            if any(published.column(row) == kind for row in self.records)
        ]

    @property
    def servers(self) -> list[str]:
        """The servers that have rows; ours first."""
        names = {row["server"] for row in self.records}
        return sorted(names, key=lambda name: (name != "mpmkit", name != "httpd", name))

    def rounds(self, kind: str, server: str = "mpmkit") -> dict[str, list[float]]:
        """MPM -> the QPS of each round, in the order of the article."""
        found: dict[str, list[float]] = {}
        for mpm in MPMS:
            values = [row["qps"] for row in self._rows(kind, server, mpm)]
            if values:
                found[mpm] = values
        return found

    def _rows(self, kind: str, server: str, mpm: str | None) -> list[Row]:
        return [
            row
            for row in self.records
            if (published.column(row), row["server"], row["mpm"]) == (kind, server, mpm)
        ]

    def verdict(self, kind: str, server: str = "mpmkit") -> Verdict | None:
        """Whether the published order came out, or None if that cannot be said."""
        return verdict(kind, self.rounds(kind, server), self._published(kind))

    def _published(self, kind: str) -> dict[str, float]:
        return self.published.get(published.page(kind).kind, {})

    def orders(self, kind: str, server: str = "mpmkit") -> list[stats.Order]:
        """The orders of the MPMs that the rounds allow, likeliest first, with probabilities."""
        return stats.orders(self.rounds(kind, server))

    def samples(self) -> dict[str, list[float]]:
        """Each cell's QPS over the rounds: "mpmkit event, static" -> figures."""
        found: dict[str, list[float]] = {}
        for row in self.records:
            server = f"{row['server']} {row['mpm'] or ''}".rstrip()
            if f"{server}, {published.column(row)}" not in self.broken:
                found.setdefault(f"{server}, {published.column(row)}", []).append(row["qps"])
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
        return all(v.reproduced for v in verdicts if v is not None)

    def summary(self) -> pandas.DataFrame:
        """One row per kind, server and MPM: published, median, min, max, the interval of the median
        (low, high) and its level, both ratios to prefork, the server's CPU time for a request in µs
        (cpu_us), and in how many rounds the generator or the machine was the limit (bound)."""
        import pandas

        return pandas.DataFrame(
            [
                line
                for kind in self.kinds
                for server in self.servers
                for line in self._lines(kind, server)
            ]
        )

    def _lines(self, kind: str, server: str) -> list[Row]:
        rounds, figures = self.rounds(kind, server), self._published(kind)
        intervals = {mpm: stats.median(values) for mpm, values in rounds.items()}
        medians = {mpm: interval.value for mpm, interval in intervals.items()}

        def ratio(values: Mapping[str, float], mpm: str) -> float:
            base = values.get("prefork", 0)
            return values[mpm] / base if mpm in values and base > 0 else math.nan

        return [
            {
                "kind": kind,
                "server": server,
                "mpm": mpm,
                "rounds": len(values),
                "published": figures.get(mpm, math.nan),
                "median": medians[mpm],
                "min": min(values),
                "max": max(values),
                "low": intervals[mpm].low,
                "high": intervals[mpm].high,
                "level": intervals[mpm].level,
                "published_ratio": ratio(figures, mpm),
                "ratio": ratio(medians, mpm),
                "cpu_us": self._cpu_us(kind, server, mpm),
                "bound": self._bound(kind, server, mpm),
            }
            for mpm, values in rounds.items()
        ]

    def _cpu_us(self, kind: str, server: str, mpm: str | None) -> float:
        """Median over the rounds of the server's CPU time for a request, in µs; nan if not known."""
        known = [
            row["server_cpu_us"]
            for row in self._rows(kind, server, mpm)
            if row.get("server_cpu_us") is not None
        ]
        return statistics.median(known) if known else math.nan

    def _bound(self, kind: str, server: str, mpm: str | None) -> int:
        return sum(
            bool(row["generator_bound"] or row.get("generator_starved"))
            for row in self._rows(kind, server, mpm)
        )

    @property
    def _cpu_head(self) -> str:
        """The heading of the CPU times; none where no row has one."""
        known = any(row.get("server_cpu_us") is not None for row in self.records)
        return "µs CPU" if known else ""

    def _notes(self, kind: str, server: str, mpm: str | None) -> list[str]:
        rows = self._rows(kind, server, mpm)
        notes = []
        failures = sum(row["failures"] for row in rows)
        if failures:
            requests = sum(row["requests"] for row in rows)
            notes.append(f"{failures:,} of {requests:,} requests FAILED")
        bound = sum(row["generator_bound"] for row in rows)
        if bound:
            notes.append(f"generator-bound in {bound} of {len(rows)} rounds")
        starved = sum(bool(row["generator_starved"]) for row in rows)
        if starved:
            notes.append(f"machine-bound in {starved} of {len(rows)} rounds")
        return notes

    def text(self) -> str:
        """Both tables as text, with what can be concluded, and from what."""
        if not self.records:
            return "no row was finished"
        parts = []
        for kind in self.kinds:
            for server in self.servers:
                parts.append(self._table(kind, server))
            parts.append(self._others(kind))
        parts.append(self._small_print())
        return "\n\n".join(part for part in parts if part)

    def _table(self, kind: str, server: str) -> str:
        lines = self._lines(kind, server)
        if not lines:
            return ""
        of = "" if server == "mpmkit" else f", {server}"
        level = min(line["level"] for line in lines)
        head = (
            "MPM",
            "published",
            "median",
            f"{level:.0%} interval" if level else "interval",
            "published",
            "measured",
            self._cpu_head,
            "",
        )
        cells = [
            (
                line["mpm"],
                _count(line["published"]),
                _count(line["median"]),
                f"{_count(line['low'])} to {_count(line['high'])}" if line["level"] else "-",
                _ratio(line["published_ratio"]),
                _ratio(line["ratio"]),
                _tenth(line["cpu_us"]),
                "; ".join(self._notes(kind, server, line["mpm"])),
            )
            for line in lines
        ]
        # Two columns stand under one heading, as both are ratios to prefork.
        ratios = (4, 5)
        before, both = (
            sum(max(len(row[i]) for row in [head, *cells]) + 2 for i in columns)
            for columns in (range(ratios[0]), ratios)
        )
        over = " " * before + "x prefork".center(both - 2).rstrip()
        title = f"requests/s, {published.page(kind).title}{of}"
        rows = [title, over, *aligned([head, *cells], left=(0, 7))]
        judged = self.verdict(kind, server)
        if judged is not None:
            rows += [str(judged), *[f"  {pair}" for pair in judged.pairs]]
        elif len(lines) < 2:
            rows.append("one MPM alone has no order")
        likely = [str(one) for one in self.orders(kind, server)[:3] if one.probability >= 0.005]
        if likely:
            rows.append(f"orders by probability: {', '.join(likely)}")
        return "\n".join(rows)

    def others(self) -> pandas.DataFrame:
        """One row per kind and server that has no MPM of ours: median, min, max and the interval of
        the median in requests per second, the MPM of ours that it stands for, and how many times
        that one's median its own is."""
        import pandas

        return pandas.DataFrame([line for kind in self.kinds for line in self._other_lines(kind)])

    def _other_lines(self, kind: str) -> list[Row]:
        ours = self.rounds(kind)
        lines = []
        for one in rivals_beside.contestants(rivals_beside.names(), ours or MPMS):
            values = [row["qps"] for row in self._rows(kind, one.server, None)]
            if values:
                interval = stats.median(values)
                mine = statistics.median(ours[one.stands_for]) if one.stands_for in ours else 0
                lines.append(
                    {
                        "kind": kind,
                        "server": one.server,
                        "stands_for": one.stands_for,
                        "rounds": len(values),
                        "median": interval.value,
                        "min": min(values),
                        "max": max(values),
                        "low": interval.low,
                        "high": interval.high,
                        "level": interval.level,
                        "cpu_us": self._cpu_us(kind, one.server, None),
                        "ratio": interval.value / mine if mine > 0 else math.nan,
                    }
                )
        return lines

    def _others(self, kind: str) -> str:
        """The rivals that have no MPM of ours, in one table."""
        lines = self._other_lines(kind)
        if not lines:
            return ""
        level = min(line["level"] for line in lines)
        head = (
            "server",
            "median",
            f"{level:.0%} interval" if level else "interval",
            "x mpmkit's",
            self._cpu_head,
            "",
        )
        cells = [
            (
                line["server"],
                _count(line["median"]),
                f"{_count(line['low'])} to {_count(line['high'])}" if line["level"] else "-",
                f"{_ratio(line['ratio'])} {line['stands_for']}",
                _tenth(line["cpu_us"]),
                "; ".join(self._notes(kind, line["server"], None)),
            )
            for line in lines
        ]
        title = f"requests/s, {published.page(kind).title}, other servers"
        return "\n".join([title, *aligned([head, *cells], left=(0, 3, 5))])

    def _small_print(self) -> str:
        row = self.records[-1]
        lines = []
        rounds = max(row["round"] for row in self.records)
        way = "keep-alive" if row["keep_alive"] else "a new connection per request"
        requests = [row["requests"] for row in self.records]
        some = (
            f"{min(requests):,}"
            if min(requests) == max(requests)
            else f"{min(requests):,} to {max(requests):,}"
        )
        lines.append(
            f"{row['users']} clients, {way}, {some} requests a cell, "
            f"{rounds} round{'s' if rounds != 1 else ''}, by {row['driver']} "
            f"{row['driver_version'] or ''}".rstrip()
        )
        lines.append(f"measured on {records.Machine.of(row)}")
        if rounds > 1:
            lines.append(str(self.drift))
        if self._cpu_head:
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
            name, reached = stats.worst(self.samples())
            met = stats.settled(list(self.samples().values()), self.target)
            lines.append(
                f"target precision {self.target:.1%}: "
                + (
                    f"reached, the widest is {name} at {reached:.1%}"
                    if met
                    else f"NOT REACHED after {rounds} rounds, {name} is known to "
                    + ("nothing yet" if math.isinf(reached) else f"{reached:.1%}")
                )
            )
        steal = [row["steal"] for row in self.records if row["steal"] is not None]
        if steal and max(steal) >= 0.01:
            lines.append(f"the host took away up to {max(steal):.0%} of the processor time")
        lines.append(
            "published: Apache 2.4.10 on hardware the article does not name; the order "
            "and the ratios can be compared, not the figures"
        )
        if self.planned and len(self.records) < self.planned:
            lines.append(f"NOT COMPLETE: {len(self.records)} of {self.planned} cells were measured")
        lines += self.left_out
        if self.out is not None:
            lines.append(f"rows in {self.out}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        said = {
            True: "published order reproduced",
            False: "published order not reproduced",
            None: "no verdict",
        }[self.order_reproduced]
        return f"<QpsTable {len(self.records)} rows, {', '.join(self.kinds) or 'empty'}, {said}>"


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _tenth(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
