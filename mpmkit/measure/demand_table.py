"""Service demand as it comes out: S = U/X for each server, and what may be said of their ratios.

Functions of the rows of `demand.py`. The utilisation law says that a server which is busy for the share
U of the time at X answers a second has a service demand of S = U/X, the CPU time of one request. At
several rates U against X is a line through the origin with the slope S; how well the means of the
rates lie on it is R². What makes R² low (other work, a pool that grows) makes S worthless.

Servers are compared within a block, at the rates that both have there (`decision`).
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS
from mpmkit.measure import stats
from mpmkit.measure.decision import MARGIN, Decision, decide
from mpmkit.measure.experiment import OURS, Table
from mpmkit.measure.records import Row
from mpmkit.measure.text import aligned

GENERATOR_MOST = 0.6  # cores that it may use: beyond, requests leave late and in bunches
STOLEN_MOST = (
    0.03  # of the server's CPU, by the host of a virtual machine: it slows down what is counted
)
RATE_MISSED = 0.03  # share of the requests due by which the answers may differ

OTHER_WORK = (0.05, 0.25)
"""Cores of the server's CPU that may be unaccounted for, and more as a share of the server's own: the
kernel works for the network outside of any process. Beyond, something else ran there."""

Load = dict[float, tuple[float, float]]  # rate -> (answers a second, cores): X and U


class Who(NamedTuple):
    """One line of the table."""

    server: str
    mpm: str
    control: bool = False

    def __str__(self) -> str:
        return f"{self.server} {self.mpm}" + " (A/A)" * self.control


def flaw_of(row: Mapping[str, Any], shared: bool = False) -> str:
    """Why a row must not be used; "" if it may. shared: generator and server had one CPU."""
    other, (least, share) = row["server_u"] - row["group_u"], OTHER_WORK
    if not row["seconds"]:
        return "other work: the generator had too little of its CPU to report"
    if row["stolen"] > STOLEN_MOST:
        return (
            f"stolen: the host of this virtual machine took {row['stolen']:.0%} of the server's CPU"
        )
    if not shared and other > least + share * row["group_u"]:
        return f"other work: {other:.0%} of the server's CPU was not the server's"
    if row["generator_u"] > GENERATOR_MOST:
        used = f"{row['generator_u']:.0%} of its CPU, more than {GENERATOR_MOST:.0%}"
        return f"generator: it used {used}, at {row['rate']:,.0f} requests/s"
    if row["failures"] or row["unsent"]:
        return f"failed: {row['failures']:,} requests failed, {row['unsent']:,} were not sent"
    if abs(row["x"] / row["rate"] - 1) > RATE_MISSED:
        return f"rate: {row['x']:,.0f} instead of {row['rate']:,.0f} requests/s were answered"
    return ""


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
    rates = {rate for load in blocks.values() for rate in load}
    points = [[load[rate] for load in blocks.values() if rate in load] for rate in rates]
    mean = statistics.fmean
    means = [(mean(x for x, _ in some), mean(u for _, u in some)) for some in points]
    around = sum((u - mean(u for _, u in means)) ** 2 for _, u in means)
    if not around:
        return None
    s = slope(means) / 1e6
    return 1 - sum((u - s * x) ** 2 for x, u in means) / around


def demand_of(blocks: Mapping[int, Load]) -> stats.Interval:
    """S in µs with its 95% interval: by the same method as the ratios, over the blocks."""
    return stats.ratio([slope(load.values()) for load in blocks.values()], [1.0] * len(blocks))


def ratio_of(one: Mapping[int, Load], other: Mapping[int, Load], margin: float) -> Decision | None:
    """The decision on two servers, over the blocks and the rates that both have; None without any."""
    pairs = {n: one[n].keys() & other[n].keys() for n in sorted(one.keys() & other.keys())}
    a, b = (
        {n: slope(side[n][rate] for rate in rates) for n, rates in pairs.items() if rates}
        for side in (one, other)
    )
    return decide(a, b, margin) if a else None


def comparisons(rows: Iterable[Row], work: str, margin: float = MARGIN) -> dict[str, Decision]:
    """What is compared for one kind of work -> the decision: A/A first, then the MPMs of each server,
    then the servers under the same MPM."""
    found = {who: blocks for (kind, who), blocks in loads(rows).items() if kind == work}
    servers = sorted({who.server for who in found}, key=lambda name: (name != OURS, name))
    pairs = []
    for server in servers:
        prefork, worker, event = (Who(server, mpm) for mpm in MPMS)
        pairs.append((Who(server, "prefork", True), prefork))
        pairs += [(worker, prefork), (event, prefork), (event, worker)]
    for one, other in itertools.combinations(servers, 2):
        pairs += [(Who(one, mpm), Who(other, mpm)) for mpm in MPMS]
    both = [(a, b) for a, b in pairs if a in found and b in found]
    decisions = {f"{a} / {b}": ratio_of(found[a], found[b], margin) for a, b in both}
    return {pair: decision for pair, decision in decisions.items() if decision}


class DemandTable(Table):
    """What `mpmkit demand` measured. `text()` is the table; `comparisons(work)` gives the decisions.

    works, margin, head: of the plan.
    """

    name = "demand"
    unit = "loads"
    works: tuple[str, ...] = ()
    margin = MARGIN
    head = ""

    @property
    def measured(self) -> int:
        """Loads that have their rows."""
        names = ("round", "server", "mpm", "control", "work")
        return len({tuple(row[name] for name in names) for row in self.records})

    def comparisons(self, work: str) -> dict[str, Decision]:
        """What is compared for one kind of work -> the decision."""
        return comparisons(self.records, work, self.margin)

    def result(self, row: Row) -> str:
        """What progress says of a finished load."""
        return row["flaw"] or f"{1e6 * row['server_u'] / row['x']:.1f} µs a request"

    def text(self) -> str:
        """Demand, R² and decisions for each kind of work, then what a reader should know."""
        lines = [self.head]
        for work in self.works:
            lines += ["", *self._of_work(work)]
        flaws = [row["flaw"] for row in self.records if row["flaw"]]
        if flaws:
            lines += ["", f"{len(flaws)} of {len(self.records)} rows are not used:"]
            for kind, count in Counter(text.partition(":")[0] for text in flaws).most_common():
                first = next(text for text in flaws if text.startswith(kind))
                lines.append(f"  {count} for {kind}; the first of them{first.removeprefix(kind)}")
        return "\n".join([*lines, "", *self.footer()]).rstrip()

    def _of_work(self, work: str) -> list[str]:
        own = loads(self.records, "group_u")
        lines = []
        for (kind, who), blocks in sorted(loads(self.records).items()):
            if kind == work:
                s, fit = demand_of(blocks), r_squared(blocks)
                between = f"{s.low:.1f} to {s.high:.1f}" if s.level else "one block"
                mine = f"{demand_of(own[kind, who]).value:.1f}" if (kind, who) in own else "-"
                fits = "-" if fit is None else f"{fit:.4f}"
                lines.append([str(who), f"{s.value:.1f}", between, mine, fits, str(len(blocks))])
        if not lines:
            return [f"{work}: no row can be used"]
        said = [f"  {pair}: {decision}" for pair, decision in self.comparisons(work).items()]
        return [*aligned([[work, "S µs", "95%", "own µs", "R²", "blocks"], *lines], (0, 2)), *said]
