"""Measured memory per request model: levels, the cost of one more, the meaning of the terms."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.measure.experiment import Table
from mpmkit.measure.records import Row
from mpmkit.measure.sizing import Line, lines
from mpmkit.measure.text import aligned

AGAINST = ("busy", "idle")

# Headings of a table of levels, and the columns in MiB.
_HEAD = ("held", "processes", "threads", "PSS", "code", "heap", "anon.", "stacks", "shm", "USS",
         "RSS summed", "child's PSS")  # fmt: skip
_MIB = ("pss", "code", "heap", "anonymous", "stacks", "shm", "uss", "rss")


@dataclass(repr=False)
class MemoryTable(Table):
    """What was measured. records: the rows of the records table `memory` (see data/README.md)."""

    name = "memory"
    unit = "levels"

    @property
    def measured(self) -> int:
        """Levels that have their rows."""
        return sum(row["scope"] == "server" for row in self.records)

    def result(self, row: Row) -> str:
        """What progress says of a finished level."""
        return f"{row['pss_kb'] / 1024:,.1f} MiB"

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

    def text(self) -> str:
        """The levels, the costs, and what the words mean."""
        if not self.records:
            return "no level was finished"
        there = {row["against"] for row in self.records}
        parts = [self._levels(against) for against in AGAINST if against in there]
        return "\n\n".join([*parts, self._costs(), self._small_print()])

    def _levels(self, against: str) -> str:
        what = {"busy": "requests being served", "idle": "kept-alive connections"}[against]
        servers: dict[str, dict[int, dict[str, list[Row]]]] = {}
        for row in self.records:
            if row["against"] == against:
                levels = servers.setdefault(f"{row['server']} {row['mpm'] or ''}".strip(), {})
                levels.setdefault(row["level"], {}).setdefault(row["scope"], []).append(row)
        out = [f"memory in MiB against {what} (child's PSS in KiB, the median child)"]
        for name, levels in servers.items():
            table: list[tuple[str, ...]] = [(against, *_HEAD)]
            for level, rows in levels.items():
                whole = rows["server"]
                counts = [f"{_middle(whole, n):,.0f}" for n in ("held", "processes", "threads")]
                sizes = [f"{_middle(whole, f'{n}_kb') / 1024:,.1f}" for n in _MIB]
                child = f"{_middle(rows['child'], 'pss_kb'):,.0f}" if "child" in rows else "-"
                table.append((f"{level:,}", *counts, *sizes, child))
            out += ["", name, *aligned(table, left=())]
        return "\n".join(out)

    def _costs(self) -> str:
        naive, tables, found = self.lines("rss_kb"), self.lines("page_tables_kb"), self.lines()
        if not found:
            return "one level alone has no slope"
        units = {"busy": "busy request", "idle": "idle connection"}
        head = "what one more costs", "KiB", "95% interval", "page tables", "base MiB"
        rows = [(*head, "summed RSS says")]
        for key, line in found.items():
            server, mpm, against = key
            known = math.isfinite(line.high)
            between = f"{line.low:,.1f} to {line.high:,.1f}" if known else "two levels: none"
            who = f"{server} {mpm or ''}".strip() + f", {units[against]}"
            cells = f"{line.slope:,.1f}", between, f"{tables[key].slope:+,.1f}"
            rows.append((who, *cells, f"{line.base / 1024:,.1f}", f"{naive[key].slope:,.1f}"))
        return "\n".join(aligned(rows))

    def _small_print(self) -> str:
        words = (
            "held: the number that the server took; under prefork and worker each one holds a worker",
            "summed RSS counts a shared page in every process",
            "cost and base: slope and start of a line through the levels in PSS, without page tables and sockets",
        )
        return "\n".join([*words, *self.footer()])


def _middle(rows: Sequence[Row], column: str) -> float:
    return statistics.median(row[column] for row in rows)
