"""What rounds of measurement allow to say: intervals, ratios, noise, knees. Pure; no clock, no file.

A round measures every server once, one after the other. Rounds are few (3 to 30).

* The middle of one server's figures is the **median**, and the ends of its interval are two of the rounds
  themselves: the k-th lowest and the k-th highest. However the figures are distributed, the true
  median lies between them unless all but k - 1 rounds fell on one side of it, which is a matter of
  tossed coins; k is the largest for which that is rarer than 5%. A plain bootstrap would be narrower
  and would promise too much: simulated on skewed figures, it holds 89% of the true medians with 7
  rounds. 95% takes 6 rounds: all of 3 hold the median with 75%, of 5 with 94%. With fewer than 6 the
  tables print the rounds, lowest to highest, and call them that.
* Two servers are compared **within a round**, so that a slow minute, which met both alike, is not taken
  for a difference between them: `ratio`, with a 95% interval at any number of rounds from 2. A
  difference is **larger than the noise** if that interval excludes 1. There is no other rule.
* The **knee** of a curve is where it bends; sweeps and stages of a load have the same one.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

LEVEL = 0.95

ENOUGH = 6
"""Rounds from which on the interval of a median can be a 95% one."""

# The 97.5% points of Student's t for 1 to 30 degrees of freedom; beyond, the normal one is near.
_T = tuple(
    float(point)
    for point in "12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 "
    "2.145 2.131 2.120 2.110 2.101 2.093 2.086 2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 "
    "2.045 2.042".split()
)


def turns(cells: Sequence[T], round_number: int, seed: str | None = None) -> list[T]:
    """The order in which round `round_number` (from 1) measures all cells. With a seed it is random in each
    round (randomised complete blocks), and the same whenever the seed and the number of cells are, so
    that a stopped run can go on. Without one, each round begins with the next cell."""
    if seed is not None:
        return random.Random(f"{seed} {round_number}").sample(cells, len(cells))
    start = (round_number - 1) % len(cells) if cells else 0
    return [*cells[start:], *cells[:start]]


def t_quantile(freedom: int) -> float:
    """How many standard errors a 95% interval reaches to each side; inf without any freedom."""
    if freedom < 1:
        return math.inf
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval, in the unit of what was given. level: the confidence, 0 to
    0.95; 0 where nothing is known of the spread."""

    value: float
    low: float
    high: float
    level: float

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:,.4g} ({self.level:.0%}: {self.low:,.4g} to {self.high:,.4g})"


def _rank(rounds: int) -> int:
    """Which of so many sorted rounds (from 1) begins the interval of the median: the k-th from either
    end, with the largest k that leaves 5% at most outside; 1 where no k does."""
    rank, outside = 1, 2.0
    while True:
        # The median is below the (k+1)-th lowest if k rounds at most fell below it.
        outside += 2 * math.comb(rounds, rank)
        if outside / 2**rounds > 1 - LEVEL + 1e-12:
            return rank
        rank += 1


def median(values: Sequence[float]) -> Interval:
    """The median of the rounds with its 95% interval; below `ENOUGH` rounds with the lowest and the highest,
    and level 0. Raises ValueError without a pair."""
    if not values:
        raise ValueError("rounds: none was measured, so there is no median")
    ordered, rank = sorted(values), _rank(len(values))
    level = LEVEL if len(values) >= ENOUGH else 0.0
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[-rank], level)


def ratio(one: Sequence[float], other: Sequence[float]) -> Interval:
    """How many times the other the one is: the geometric mean of the ratios within the rounds, with
    its 95% interval (Student's, on the logarithms). One round alone has an interval without bounds.

    `one[i]` and `other[i]` come from the same round; the longer of the two is cut. Raises
    ValueError if there is no round in which both are above 0.
    """
    logs = [math.log(a / b) for a, b in zip(one, other, strict=False) if a > 0 and b > 0]
    if not logs:
        raise ValueError("rounds: a ratio needs rounds in which both are above 0")
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(middle), 0.0, math.inf, 0.0)
    reach = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), LEVEL)


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> Interval:
    """`ratio` of two servers over the rounds that both have: which round -> figure. Raises ValueError."""
    both = sorted(one.keys() & other.keys())
    return ratio([one[each] for each in both], [other[each] for each in both])


def noise(values: Sequence[float]) -> float:
    """How far the rounds of one server lie apart: the standard deviation of their logarithms, which is
    about the share of the figure by which a round differs; NaN with fewer than 2 rounds above 0."""
    logs = [math.log(value) for value in values if value > 0]
    return statistics.stdev(logs) if len(logs) > 1 else math.nan


TAIL = 1_000
"""Answers from which on a 99th percentile is one: of 100 it is the slowest of all."""


def p99(row: Mapping[str, Any]) -> tuple[float, bool]:
    """The 99th percentile of a row of a load in ms, NaN below `TAIL` requests; and whether it is as long
    as the run (nine tenths of it), which cut its requests off: then the true one is longer."""
    known = row["p99_ms"] is not None and row["requests"] >= TAIL
    value = float(row["p99_ms"]) if known else math.nan
    return value, value >= 900 * row["duration_s"]


def knee(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Where a curve that rises and then flattens bends: beyond it, more x gives little more y.

    The point farthest above the straight line from the first point to the highest one, both axes
    scaled to 1. None if there are fewer than 3 points or no point is more than a twentieth above it:
    a straight line has no knee.
    """
    points = sorted(zip(xs, ys, strict=True))
    if len(points) < 3:
        return None
    left, right = points[0][0], points[-1][0]
    low, high = points[0][1], max(y for _, y in points)
    if right <= left or high <= low:
        return None
    height, place = max(
        ((y - low) / (high - low) - (x - left) / (right - left), -x) for x, y in points
    )
    return -place if height > 0.05 else None
