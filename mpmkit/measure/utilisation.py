"""The utilisation law S = U/X: from the rows of `mpmkit demand` to decisions. Pure.

A server that is busy for the share U of the time at X answers a second has a service demand of S = U/X, the CPU
time of one request. At several rates U against X is a line through the origin with slope S; R² is how well the
means of the rates fit it. Servers are compared within a block, at the rates that both have there.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mpmkit.config.directives import MPMS
from mpmkit.measure import stats
from mpmkit.measure.experiment import OURS
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN, Decision

Load = dict[float, tuple[float, float]]  # rate -> (answers a second, cores): X and U


class Who(NamedTuple):
    """One line of the table."""

    server: str
    mpm: str
    control: bool = False

    def __str__(self) -> str:
        return f"{self.server} {self.mpm}" + " (A/A)" * self.control


def current(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of a block that a later run measured again from its beginning."""
    rows = list(rows)
    last = {row["round"]: row["run_id"] for row in rows}
    return [row for row in rows if row["run_id"] == last[row["round"]]]


def loads(rows: Iterable[Row], column: str = "server_u") -> dict[tuple[str, Who], dict[int, Load]]:
    """(work, who) -> block -> rate -> (X, U), of the rows without a flaw."""
    found: dict[tuple[str, Who], dict[int, Load]] = {}
    for row in current(rows):
        if not row["flaw"] and row["x"] > 0 and row[column] > 0:
            who = Who(row["server"], row["mpm"], row["control"])
            blocks = found.setdefault((row["work"], who), {})
            blocks.setdefault(row["round"], {})[row["rate"]] = row["x"], row[column]
    return found


def slope(points: Iterable[tuple[float, float]]) -> float:
    """S in µs: the slope of the line through the origin that is nearest to the points (X, U)."""
    points = list(points)
    return 1e6 * sum(x * u for x, u in points) / sum(x * x for x, _ in points)


def r_squared(blocks: Mapping[int, Load]) -> float | None:
    """How well the means of the rates lie on their line through the origin: 1 is exactly, 0 no better than
    a constant, less is worse. None for fewer than two rates."""
    rates, mean = {rate for load in blocks.values() for rate in load}, statistics.fmean
    points = [[load[rate] for load in blocks.values() if rate in load] for rate in rates]
    means = [(mean(x for x, _ in some), mean(u for _, u in some)) for some in points]
    around = sum((u - mean(u for _, u in means)) ** 2 for _, u in means)
    if not around:
        return None
    s = slope(means) / 1e6
    return 1 - sum((u - s * x) ** 2 for x, u in means) / around


def demand_of(blocks: Mapping[int, Load]) -> stats.Interval:
    """S in µs with its 95% interval: by the same method as the ratios, over the blocks."""
    return stats.ratio([slope(load.values()) for load in blocks.values()], [1.0] * len(blocks))


def comparisons(rows: Iterable[Row], work: str, margin: float = MARGIN) -> dict[str, Decision]:
    """What is compared for one kind of work -> the decision, over the blocks and the rates that both have: A/A
    first, then the MPMs of each server, then the servers under the same MPM."""
    found = {who: blocks for (kind, who), blocks in loads(rows).items() if kind == work}
    servers = sorted({who.server for who in found}, key=lambda name: (name != OURS, name))
    pairs = []
    for server in servers:
        pairs.append((Who(server, "prefork", True), Who(server, "prefork")))
        pairs += [(Who(server, one), Who(server, other)) for one, other in stats.PAIRS]
    for one, other in itertools.combinations(servers, 2):
        pairs += [(Who(one, mpm), Who(other, mpm)) for mpm in MPMS]
    decisions = {}
    for who, rival in pairs:
        a, b = found.get(who, {}), found.get(rival, {})
        both = {n: a[n].keys() & b[n].keys() for n in sorted(a.keys() & b.keys())}
        mine, theirs = (
            {n: slope(side[n][rate] for rate in rates) for n, rates in both.items() if rates}
            for side in (a, b)
        )
        if mine:
            decisions[f"{who} / {rival}"] = stats.decide(mine, theirs, margin)
    return decisions
