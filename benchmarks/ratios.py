"""What the bench found: ours against another server at one work, as ratios within the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.works import BASELINES, HOLDING, P99_COUNTS, TARGETS
from mpmkit.measure import stats
from mpmkit.measure.experiment import OURS
from mpmkit.measure.text import aligned

ENOUGH_ROUNDS = 5  # for a verdict

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Ours against one other server at one work: the ratios of the rounds in one figure and its spread.

    failures are ours, over all rounds; client_bound is the number of rounds in which the client
    may have been what limited us, so that the ratio is a lower bound. The cpu_us are what a request
    cost the server, in µs of CPU time, medians; nan if not known. most: the upper end of the ratio's
    95% interval (`stats.ratio`).
    """

    mpm: str
    work: str
    reference: str
    rounds: int
    median: float
    lowest: float
    highest: float
    ours_qps: float
    reference_qps: float
    ours_p99_ms: float
    reference_p99_ms: float
    failures: int
    client_bound: int
    target: float | None
    ours_cpu_us: float = math.nan
    reference_cpu_us: float = math.nan
    most: float = math.nan

    @property
    def verdict(self) -> str:
        """`reached`; `missed by N%` if the interval of the ratio excludes the target; `undecided` if
        it does not; the number of rounds if they are too few to judge by; nothing where there is no
        target. `open` where it was not reached and the client was at its limit in most rounds. Where
        the 99th percentile counts, what it is, too."""
        if self.target is None:
            return ""
        if self.rounds < ENOUGH_ROUNDS:
            return f"{self.rounds} round{'s' * (self.rounds != 1)}"
        if self.median >= self.target:
            verdict = "reached"
        elif 2 * self.client_bound > self.rounds:
            verdict = "open"
        elif self.most >= self.target:
            verdict = "undecided"
        else:
            verdict = f"missed by {1 - self.median / self.target:.0%}"
        if self.work in P99_COUNTS and self.reference == "httpd":
            worse = self.ours_p99_ms / self.reference_p99_ms - 1
            verdict += f", p99 worse by {worse:.0%}" if worse > 0 else ", p99 no worse"
        return verdict


def comparisons(rows: Iterable[Row]) -> list[Comparison]:
    """Ratios per round, put together; rounds in which one of the two is missing don't count."""
    by_key: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        servers = by_key.setdefault((row["mpm"], row["work"]), {})
        servers.setdefault(row["server"], {})[row["round"]] = row
    found = []
    for (mpm, work), servers in by_key.items():
        ours = HOLDING if HOLDING in servers else OURS
        mine = servers.get(ours, {})
        for reference, theirs in servers.items():
            shared = [number for number in mine if number in theirs and theirs[number]["qps"] > 0]
            if reference != ours and shared:
                sides = [mine[n] for n in shared], [theirs[n] for n in shared]
                found.append(_comparison(mpm, work, reference, *sides))
    return found


def _comparison(
    mpm: str, work: str, reference: str, mine: Sequence[Row], theirs: Sequence[Row]
) -> Comparison:
    """Two servers, a row a round each."""

    def middle(side: Sequence[Row], column: str) -> float:
        return statistics.median(row[column] for row in side)

    qps = [row["qps"] for row in mine], [row["qps"] for row in theirs]
    each = [a / b for a, b in zip(*qps, strict=True)]
    return Comparison(
        mpm,
        work,
        reference,
        len(each),
        statistics.median(each),
        min(each),
        max(each),
        middle(mine, "qps"),
        middle(theirs, "qps"),
        middle(mine, "p99_ms"),
        middle(theirs, "p99_ms"),
        sum(row["failures"] for row in mine),
        sum(row["client_bound"] for row in mine),
        TARGETS.get((work, reference)),
        cpu_us(mine),
        cpu_us(theirs),
        stats.ratio(*qps).high if min(qps[0]) > 0 else math.nan,
    )


def cpu_us(rows: Iterable[Mapping[str, Any]]) -> float:
    """The median CPU time of a request, in µs, over the rows that know it; nan if none does."""
    known = [row["server_cpu_us"] for row in rows if row.get("server_cpu_us") is not None]
    return statistics.median(known) if known else math.nan


def baseline_lines(rows: Sequence[Row]) -> list[str]:
    """For each MPM and work with a baseline: its ratio to httpd, and ours."""
    lines = []
    for name in BASELINES:
        # The baseline in the place of ours: the same ratios, within the same rounds.
        as_ours = [
            {**row, "server": OURS} if row["server"] == name else row
            for row in rows
            if row["server"] in (name, "httpd")
        ]
        ours = {
            (cell.mpm, cell.work): cell.median
            for cell in comparisons(rows)
            if cell.reference == "httpd"
        }
        for cell in comparisons(as_ours):
            if (cell.mpm, cell.work) in ours:
                lines.append(
                    f"{name}, {cell.mpm}, {cell.work}: {cell.median:.2f} times httpd "
                    f"({cell.lowest:.2f}–{cell.highest:.2f}); {OURS}: {ours[cell.mpm, cell.work]:.2f}"
                )
    return lines


HEADINGS = (
    *("work", "MPM", "versus", "ratio", "low–high", "ours/s", "theirs/s", "p99 ms", "µs CPU"),
    *("target", "verdict", "remarks"),
)


def table(found: Iterable[Comparison]) -> str:
    """The cells as aligned text: the ratio first, the figures it comes from behind it."""
    lines = [HEADINGS]
    for cell in found:
        remarks = [f"{cell.failures} failed"] if cell.failures else []
        if cell.client_bound:
            remarks.append(f"client at its limit in {cell.client_bound} of {cell.rounds} rounds")
        lines.append(
            (
                cell.work,
                cell.mpm,
                cell.reference,
                f"{cell.median:.2f}",
                f"{cell.lowest:.2f}–{cell.highest:.2f}",
                f"{cell.ours_qps:,.0f}",
                f"{cell.reference_qps:,.0f}",
                f"{cell.ours_p99_ms:.1f} | {cell.reference_p99_ms:.1f}",
                ""
                if math.isnan(cell.ours_cpu_us + cell.reference_cpu_us)
                else f"{cell.ours_cpu_us:,.1f} | {cell.reference_cpu_us:,.1f}",
                f"≥ {cell.target:g}" if cell.target and cell.verdict else "",
                cell.verdict,
                ", ".join(remarks),
            )
        )
    return "\n".join(aligned(lines, left={0, 1, 2, 10, 11}))
