"""What rounds of measurement allow to say: intervals, orders, drift. Pure; no clock, no file.

A round measures every server once, one after the other. Rounds are few (3 to 30) and their figures
are skewed (a busy machine only ever makes them smaller), so nothing here assumes a bell curve:

* the middle is the **median**, and the ends of its interval are two of the rounds themselves: the
  k-th lowest and the k-th highest. However the figures are distributed, the true median lies
  between them unless all but k - 1 rounds fell on one side of it, which is a matter of tossed coins;
  k is the largest for which that is rarer than 5%. The plain bootstrap (draw the rounds anew, keep
  the middle 95% of the medians) is narrower and promises too much: simulated on
  skewed figures, it holds 89% of the true medians with 7 rounds and 91% with 8;
* what stands side by side is compared **within a round**, so that a slow minute, which met all
  servers alike, does not pass for a difference between them;
* a **bootstrap** of whole rounds, some thousand times, tells how often each **order** of the servers
  comes out, which is its probability. Its random numbers are seeded: the same rounds, the same
  answer;
* **drift**: whether the rounds as a whole grow faster or slower (a Mann-Kendall test on the level
  of each round, exact, because rounds are few).

Nothing makes up for rounds that were not measured. The median lies outside the range of n
rounds with probability 2 / 2^n, so an interval from 3 rounds holds it with 75% at most, from 5 with
94%, and 95% takes 6. `level` says so, and the tables print it.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
RESAMPLES = 2_000
SEED = 2024

ENOUGH = 6
"""Rounds from which on the interval of a median can be a 95% one."""

DRIFT_ROUNDS = 5
"""Rounds from which on a drift could show at all: with 4 even a perfect trend has a chance of 8%."""

DRIFT_SIGNIFICANT = 0.05


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """The order in which round `round_number` (from 1) measures: each round begins with the
    next."""
    start = (round_number - 1) % len(names) if names else 0
    return [*names[start:], *names[:start]]


@dataclass(frozen=True)
class Interval:
    """A middle value with the interval around it, and the probability that the interval is owed.

    value, low, high: in the unit of what was given. level: 0 to 0.95, see `level`.
    """

    value: float
    low: float
    high: float
    level: float

    @property
    def precision(self) -> float:
        """Half of the interval's width as a share of the value; inf for a value of 0."""
        return (self.high - self.low) / 2 / abs(self.value) if self.value else math.inf

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:,.4g} ({self.level:.0%}: {self.low:,.4g} to {self.high:,.4g})"


def level(rounds: int) -> float:
    """How sure an interval of the median from that many rounds can be: 0 for one, at most 0.95."""
    return min(LEVEL, 1 - 2.0 ** (1 - rounds)) if rounds > 0 else 0.0


def _draws(rounds: int, resamples: int, seed: int):
    """Sets of rounds, drawn with replacement; the same for the same seed."""
    # Not for secrets: for the same answer each time.
    source = random.Random(f"{seed} {rounds}")
    population = range(rounds)
    for _ in range(resamples):
        yield source.choices(population, k=rounds)


def _rank(rounds: int) -> int:
    """Which of so many sorted rounds (from 1) begins the interval of the median: the k-th from either
    end, with the largest k that leaves 5% at most outside; 1 where there is none."""
    rank, outside = 1, 2.0
    while True:
        # The median is below the (k+1)-th lowest if k rounds at most fell below it.
        outside += 2 * math.comb(rounds, rank)
        if outside / 2**rounds > 1 - LEVEL + 1e-12:
            return rank
        rank += 1


def median(values: Sequence[float]) -> Interval:
    """The median of the rounds with its interval. Raises ValueError if there is none."""
    if not values:
        raise ValueError("rounds: none was measured, so there is no median")
    ordered, rank = sorted(values), _rank(len(values))
    return Interval(
        statistics.median(ordered), ordered[rank - 1], ordered[-rank], level(len(values))
    )


def ratio(one: Sequence[float], other: Sequence[float]) -> Interval:
    """How many times the other the one is: the median of the ratios within the rounds.

    `one[i]` and `other[i]` come from the same round; the longer of the two is cut. Raises
    ValueError if there is no round in which the other is above 0.
    """
    ratios = [a / b for a, b in zip(one, other, strict=False) if b > 0]
    if not ratios:
        raise ValueError("rounds: a ratio needs rounds of both, and of the other above 0")
    return median(ratios)


@dataclass(frozen=True)
class Order:
    """An order of the servers, fastest first, and the share of the draws in which it came out."""

    names: tuple[str, ...]
    probability: float

    def __str__(self) -> str:
        return f"{' > '.join(self.names)} ({self.probability:.0%})"


def orders(
    rounds: Mapping[str, Sequence[float]], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Order]:
    """The orders that the rounds allow (name -> its figure in each round), likeliest first.

    Empty with fewer than two names or two rounds. Draws in which two medians are equal count for
    each order that they allow in equal parts.
    """
    names = [name for name in rounds if rounds[name]]
    count = min((len(rounds[name]) for name in names), default=0)
    if len(names) < 2 or count < 2:
        return []
    weights: dict[tuple[str, ...], float] = {}
    for draw in _draws(count, resamples, seed):
        medians = {name: statistics.median([rounds[name][i] for i in draw]) for name in names}
        tied = _orders_of(medians)
        for order in tied:
            weights[order] = weights.get(order, 0.0) + 1 / len(tied)
    total = sum(weights.values())
    return [
        Order(order, weight / total)
        for order, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _orders_of(medians: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Each order, fastest first, that the figures allow: one unless some are equal."""
    groups = [
        [name for name in medians if medians[name] == value]
        for value in sorted(set(medians.values()), reverse=True)
    ]
    return [
        tuple(itertools.chain.from_iterable(parts))
        for parts in itertools.product(*(itertools.permutations(group) for group in groups))
    ]


@dataclass(frozen=True)
class Drift:
    """Whether the rounds as a whole grew faster or slower.

    change: the last round's level over the first's, minus 1, by the median slope (Theil-Sen).
    chance: how likely so clear a trend is in rounds that have none (Mann-Kendall, two-sided).
    """

    rounds: int
    change: float
    chance: float

    @property
    def found(self) -> bool:
        """Whether the trend is clearer than chance, which takes 5 rounds at least."""
        return self.rounds >= DRIFT_ROUNDS and self.chance <= DRIFT_SIGNIFICANT

    def __str__(self) -> str:
        if self.rounds < DRIFT_ROUNDS:
            return f"drift: not known, that takes {DRIFT_ROUNDS} rounds"
        said = f"{self.change:+.0%} from the first round to the last, by chance {self.chance:.0%}"
        return (
            f"DRIFT: the machine changed while it was measured: {said}"
            if self.found
            else (f"no drift over the rounds ({said})")
        )


def levels(rounds: Mapping[str, Sequence[float]]) -> list[float]:
    """The level of each round: the mean over all servers of figure / that server's median, in logs.

    1 for a round in which all servers were as fast as in their median round.
    """
    usable = {name: values for name, values in rounds.items() if values and min(values) > 0}
    count = min((len(values) for values in usable.values()), default=0)
    middles = {name: statistics.median(values) for name, values in usable.items()}
    return [
        math.exp(
            statistics.fmean(math.log(values[i] / middles[name]) for name, values in usable.items())
        )
        for i in range(count)
    ]


def drift(rounds: Mapping[str, Sequence[float]]) -> Drift:
    """The drift check over rounds of one or more servers (name -> its figure in each round)."""
    level_of = levels(rounds)
    count = len(level_of)
    if count < 2:
        return Drift(count, 0.0, 1.0)
    pairs = list(itertools.combinations(range(count), 2))
    slope = statistics.median((level_of[j] - level_of[i]) / (j - i) for i, j in pairs)
    score = sum((level_of[j] > level_of[i]) - (level_of[j] < level_of[i]) for i, j in pairs)
    first = statistics.median(level_of) - slope * (count - 1) / 2
    change = slope * (count - 1) / first if first > 0 else 0.0
    return Drift(count, change, _kendall(count, abs(score)))


def _kendall(count: int, score: int) -> float:
    """The probability that |S| of Mann and Kendall is `score` or more without a trend."""
    # How many orders of n rounds have k pairs the wrong way round: each round placed adds 0 to n-1.
    ways = [1]
    for placed in range(2, count + 1):
        more = [0] * (len(ways) + placed - 1)
        for inversions, number in enumerate(ways):
            for extra in range(placed):
                more[inversions + extra] += number
        ways = more
    pairs = count * (count - 1) // 2
    extreme = sum(
        number for inversions, number in enumerate(ways) if abs(pairs - 2 * inversions) >= score
    )
    return extreme / math.factorial(count)


def settled(samples: Sequence[Sequence[float]], target: float) -> bool:
    """Whether every sample's median is known to within `target` (0.05: +-5%), which takes 6 rounds.

    A sample that is too short, or whose median is 0, is not settled.
    """
    return all(len(values) >= ENOUGH and median(values).precision <= target for values in samples)


def worst(samples: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    """(name, precision) of the sample whose median is known the least well; inf if too short."""
    known = {
        name: median(values).precision if len(values) >= ENOUGH else math.inf
        for name, values in samples.items()
    }
    return max(known.items(), key=lambda pair: pair[1])
