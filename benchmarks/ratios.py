"""Results of the bench: mpmkit against another server at one work, as ratios within the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.works import BASELINES, HOLDING, P99_COUNTS, TARGETS
from mpmkit.measure import stats
from mpmkit.measure.command import aligned
from mpmkit.measure.experiment import OURS

ENOUGH_ROUNDS = 5  # for a verdict

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Ours against one other server at one work: a row a round of each, in the same rounds."""

    mpm: str
    work: str
    reference: str
    mine: Sequence[Row]
    theirs: Sequence[Row]

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs within each round."""
        return [a["qps"] / b["qps"] for a, b in zip(self.mine, self.theirs, strict=True)]

    @property
    def median(self) -> float:
        """Of the ratios."""
        return statistics.median(self.ratios)

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.mine)

    @property
    def failures(self) -> int:
        """Ours, over all rounds."""
        return sum(row["failures"] for row in self.mine)

    @property
    def client_bound(self) -> int:
        """The rounds in which the client may have been what limited us, so that the ratio is a lower bound."""
        return sum(row["client_bound"] for row in self.mine)

    @property
    def target(self) -> float | None:
        """What the ratio has to reach, if it has to."""
        return TARGETS.get((self.work, self.reference))

    def middle(self, column: str) -> tuple[float, float]:
        """The medians of a column, ours and theirs; nan where it is not known."""
        return middle(self.mine, column), middle(self.theirs, column)

    @property
    def verdict(self) -> str:
        """`reached`; `missed by N%` if the 95% interval of the ratio excludes the target; `undecided` if
        it does not; the number of rounds if they are too few to judge by; nothing where there is no
        target. `open` where it was not reached and the client was at its limit in most rounds. Where
        the 99th percentile counts, what it is, too."""
        if self.target is None:
            return ""
        if self.rounds < ENOUGH_ROUNDS:
            return f"{self.rounds} round{'s' * (self.rounds != 1)}"
        qps = [[row["qps"] for row in side] for side in (self.mine, self.theirs)]
        known = min(qps[0]) > 0 and stats.ratio(*qps).high >= self.target
        verdict = judged(self.median, self.target, 2 * self.client_bound > self.rounds, known)
        if self.work in P99_COUNTS and self.reference == "httpd":
            ours, theirs = self.middle("p99_ms")
            worse = ours / theirs - 1
            verdict += f", p99 worse by {worse:.0%}" if worse > 0 else ", p99 no worse"
        return verdict


def judged(ratio: float, target: float, limited: bool, undecided: bool) -> str:
    """One word on a ratio. limited: the client was, so that it might be higher."""
    if ratio >= target:
        return "reached"
    missed = f"missed by {1 - ratio / target:.0%}"
    return "open" if limited else "undecided" if undecided else missed


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
                found.append(Comparison(mpm, work, reference, *sides))
    return found


def middle(rows: Iterable[Row], column: str) -> float:
    """The median of a column, over the rows that know it; nan if none does."""
    known = [row[column] for row in rows if row.get(column) is not None]
    return statistics.median(known) if known else math.nan


def baseline_lines(rows: Sequence[Row]) -> list[str]:
    """For each MPM and work with a baseline: its ratio to httpd, and ours."""
    lines, httpd = [], [one for one in comparisons(rows) if one.reference == "httpd"]
    ours = {(one.mpm, one.work): one.median for one in httpd}
    for name in BASELINES:
        # The baseline in the place of ours: the same ratios, within the same rounds.
        both = [row for row in rows if row["server"] in (name, "httpd")]
        both = [{**row, "server": OURS} if row["server"] == name else row for row in both]
        for one in comparisons(both):
            if (one.mpm, one.work) in ours:
                lines.append(
                    f"{name}, {one.mpm}, {one.work}: {one.median:.2f} times httpd "
                    f"({_spread(one)}); {OURS}: {ours[one.mpm, one.work]:.2f}"
                )
    return lines


def _spread(one: Comparison) -> str:
    return f"{min(one.ratios):.2f}–{max(one.ratios):.2f}"


HEADINGS = (
    *("work", "MPM", "versus", "ratio", "low–high", "ours/s", "theirs/s", "p99 ms", "µs CPU"),
    *("target", "verdict", "remarks"),
)


def table(found: Iterable[Comparison]) -> str:
    """The cells as aligned text: the ratio first, the figures it comes from behind it."""
    lines: list[tuple[str, ...]] = [HEADINGS]
    for one in found:
        remarks = [f"{one.failures} failed"] if one.failures else []
        if one.client_bound:
            remarks.append(f"client at its limit in {one.client_bound} of {one.rounds} rounds")
        cpu = one.middle("server_cpu_us")
        figures = (
            *(f"{one.median:.2f}", _spread(one), *(f"{qps:,.0f}" for qps in one.middle("qps"))),
            "{:.1f} | {:.1f}".format(*one.middle("p99_ms")),
            "" if math.isnan(sum(cpu)) else "{:,.1f} | {:,.1f}".format(*cpu),
            f"≥ {one.target:g}" if one.target and one.verdict else "",
        )
        where = (one.work, one.mpm, one.reference)
        lines.append((*where, *figures, one.verdict, ", ".join(remarks)))
    return "\n".join(aligned(lines, left={0, 1, 2, 10, 11}))
