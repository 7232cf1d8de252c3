"""What rounds of measurement support: ratios, decisions, the published order. Pure.

A round (or block) measures every server once. Rounds are few (3 to 30).

* Two servers are compared **within a round** (`ratio`), so that a slow minute, which affects both, is not
  mistaken for a difference between them. It is **larger than the noise** if the 95% interval excludes 1.
* Two costs are compared by **four words**, with a margin fixed beforehand (`decide`). A word is used only
  if the whole interval supports it: above 1 + margin it is dearer, below 1 / (1 + margin) cheaper, between
  the two the same within 3%, else undecided. So two equal things are called different in fewer than 5 of 100
  comparisons, and each block makes a decision likelier.
* The **published order** came out, did not, or is not decidable (`verdict`).
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Point = tuple[float, float]
Rounds = Mapping[Any, float]
"""What one server did in each round: which round -> its figure."""

TAIL = 1_000  # answers from which on a 99th percentile is one: of 100 it is the slowest of all

# The 97.5% points of Student's t for 1 to 30 degrees of freedom; beyond, the normal one is near.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def turns(cells: Sequence[T], round_number: int, seed: str) -> list[T]:
    """The order in which round `round_number` (from 1) measures all cells: random in each round (randomised
    complete blocks), the same whenever the seed and the number of cells are, so that a stopped run can go on."""
    return random.Random(f"{seed} {round_number}").sample(cells, len(cells))


def t_quantile(freedom: int) -> float:
    """How many standard errors a 95% interval reaches to each side; inf without any freedom."""
    if freedom < 1:
        return math.inf
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom


class Interval(NamedTuple):
    """A value with its confidence interval, in the unit of what was given. level: the confidence, 0.95, or 0
    where nothing is known of the spread."""

    value: float
    low: float
    high: float
    level: float

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside."""
        return not self.low <= value <= self.high

    def between(self, form: str) -> str:
        """ "1.13 to 1.38"; "" where nothing is known of the spread."""
        return f"{self.low:{form}} to {self.high:{form}}" if self.level else ""


def ratio_text(ratio: Interval) -> str:
    """A ratio with its 95% interval, where it has one: "1.25 (1.13 to 1.38)"."""
    return f"{ratio.value:.2f}" + (f" ({ratio.between('.2f')})" if ratio.level else "")


def _around(middle: float, error: float, freedom: int) -> Interval:
    """A mean of logarithms with its standard error, as a ratio with Student's interval."""
    reach = t_quantile(freedom) * error
    ends = (math.exp(middle - reach), math.exp(middle + reach))
    return Interval(math.exp(middle), *ends, 0.95 if reach < math.inf else 0.0)


def ratio(one: Sequence[float], other: Sequence[float]) -> Interval:
    """one as a multiple of other: the geometric mean of the ratios within the rounds, with its 95% interval
    (Student's, on the logarithms). A single round has an interval without bounds. `one[i]` and `other[i]` come
    from the same round; the longer of the two is cut. Raises ValueError if there is no round in which both are
    above 0."""
    logs = [math.log(a / b) for a, b in zip(one, other, strict=False) if a > 0 and b > 0]
    if not logs:
        raise ValueError("rounds: a ratio needs rounds in which both are above 0")
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return _around(statistics.fmean(logs), error, len(logs) - 1)


def mean(values: Sequence[float]) -> Interval:
    """The geometric mean of rounds, by the same method. Raises ValueError."""
    return ratio(values, [1.0] * len(values))


def paired(one: Rounds, other: Rounds) -> Interval:
    """`ratio` of two servers over the rounds that both have. Raises ValueError."""
    both = sorted(one.keys() & other.keys())
    return ratio([one[each] for each in both], [other[each] for each in both])


def unpaired(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The ratio of two costs whose blocks are not the same ones, by Welch's interval. Raises ValueError."""
    sides = (one, other)
    if not all(sides) or min(map(min, sides)) <= 0:
        raise ValueError("costs: both sides need one at least, each above 0")
    logs = [[math.log(cost) for cost in side] for side in sides]
    total, freedom = math.inf, 0
    if min(map(len, logs)) > 1:
        errors = [(statistics.variance(side) / len(side), len(side) - 1) for side in logs]
        total, weight = sum(e for e, _ in errors), sum(e**2 / free for e, free in errors)
        freedom = round(total**2 / weight) if weight else 1
    middle, other_middle = map(statistics.fmean, logs)
    return _around(middle - other_middle, math.sqrt(total), freedom)


def slope(points: Sequence[Point]) -> float:
    """Of the line through the origin that is nearest to the points."""
    return sum(x * y for x, y in points) / sum(x * x for x, _ in points)


def r_squared(groups: Sequence[Sequence[Point]]) -> float | None:
    """How well the means of the groups lie on their line through the origin: 1 is exactly, 0 no better than
    a constant, less is worse. None for fewer than two groups."""
    sides = (zip(*group, strict=True) for group in groups)
    means = [(statistics.fmean(xs), statistics.fmean(ys)) for xs, ys in sides]
    middle, s = statistics.fmean(y for _, y in means), slope(means)
    around = sum((y - middle) ** 2 for _, y in means)
    return 1 - sum((y - s * x) ** 2 for x, y in means) / around if around else None


def noise(values: Sequence[float]) -> float:
    """How far the rounds of one server lie apart: the standard deviation of their logarithms, about the share
    of the figure by which a round differs; NaN with fewer than 2 rounds above 0."""
    logs = [math.log(value) for value in values if value > 0]
    return statistics.stdev(logs) if len(logs) > 1 else math.nan


def p99(row: Mapping[str, Any]) -> tuple[float, bool]:
    """The 99th percentile of a row of a load in ms, NaN below `TAIL` requests; and whether it is as long
    as the run (nine tenths of it), which cut its requests off: then the true one is longer."""
    known = row["p99_ms"] is not None and row["requests"] >= TAIL
    value = float(row["p99_ms"]) if known else math.nan
    return value, value >= 900 * row["duration_s"]


def knee(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The bend of a curve that rises and then flattens: beyond it, more x gains little y. The point farthest
    above the straight line from the first point to the highest one, both axes scaled to 1. None if there are
    fewer than 3 points or no point is more than a twentieth above it: a straight line has no knee."""
    points = sorted(zip(xs, ys, strict=True))
    if len(points) < 3:
        return None
    left, right = points[0][0], points[-1][0]
    low, high = points[0][1], max(y for _, y in points)
    if right <= left or high <= low:
        return None
    above = ((y - low) / (high - low) - (x - left) / (right - left) for x, y in points)
    height, place = max((height, -x) for height, (x, _) in zip(above, points, strict=True))
    return -place if height > 0.05 else None


MARGIN = 0.03
PAIRS = (("worker", "prefork"), ("event", "prefork"), ("event", "worker"))  # that are compared
CHEAPER, DEARER, UNDECIDED = "cheaper", "dearer", "undecided"
MOST_BLOCKS = 1000  # that are asked for; beyond, the difference is too near the margin


class Decision(NamedTuple):
    """A ratio of two costs with its verdict. blocks: their number. more: as of `more_blocks`. paired: whether the
    two were compared block by block."""

    ratio: Interval
    blocks: int
    word: str
    more: int | None
    paired: bool

    def __str__(self) -> str:
        between = self.ratio.between(".3f")
        said = f"{self.ratio.value:.3f} ({between or 'one block'})  {self.word}"
        if self.word != UNDECIDED:
            return said
        if self.more is None:
            most = f"more than {MOST_BLOCKS:,} blocks" if between else "two blocks at least"
            return f"{said} ({most} would be needed)"
        return f"{said} ({self.more:,} more block{'s' * (self.more != 1)} would decide)"


def decide(one: Rounds, other: Rounds, margin: float = MARGIN) -> Decision:
    """Compare two costs: in pairs over the blocks that both have, or where these are too few `unpaired`.
    Raises ValueError if there is nothing above 0 to compare."""
    blocks = len(one.keys() & other.keys())
    in_pairs = blocks > 1 or blocks == len(one) == len(other)
    if in_pairs:
        found = paired(one, other)
    else:
        found, blocks = unpaired([*one.values()], [*other.values()]), min(len(one), len(other))
    word = word_of(found, margin)
    more = more_blocks(found, blocks, margin) if word == UNDECIDED else 0
    return Decision(found, blocks, word, more, in_pairs)


def word_of(ratio: Interval, margin: float) -> str:
    """The word that the whole interval supports."""
    limit = 1 + margin
    if ratio.low > limit:
        return DEARER
    if ratio.high < 1 / limit:
        return CHEAPER
    inside = 1 / limit <= ratio.low and ratio.high <= limit
    return f"the same within {100 * margin:.3g}%" if inside else UNDECIDED


def more_blocks(ratio: Interval, blocks: int, margin: float) -> int | None:
    """How many more blocks would decide, if mean and spread stay as they are; None if more than
    `MOST_BLOCKS`, or if one block alone does not show the spread."""
    if not ratio.level:
        return None
    spread = math.log(ratio.high / ratio.value) * math.sqrt(blocks) / t_quantile(blocks - 1)
    room = abs(abs(math.log(ratio.value)) - math.log1p(margin))
    counts = range(blocks + 1, blocks + MOST_BLOCKS + 1)
    few = (n for n in counts if t_quantile(n - 1) * spread / math.sqrt(n) < room)
    return next((n - blocks for n in few), None)


class Limits(NamedTuple):
    """In how many cells something other than the server was the limit."""

    cells: int = 0
    generator: int = 0
    machine: int = 0

    def __str__(self) -> str:
        """ "the generator was the limit in 3 of 9 cells"; "" if the servers were measured."""
        found = [(what, n) for what, n in zip(self._fields[1:], self[1:], strict=True) if n]
        form = "the {} was the limit in {} of {} cells".format
        return ", ".join(form(what, n, self.cells) for what, n in found)

    @property
    def short(self) -> str:
        """ "generator 3/9", "generator 3, machine 1"; "" if the servers were measured."""
        found = [f"{what} {n}" for what, n in zip(self._fields[1:], self[1:], strict=True) if n]
        return ", ".join(found) + f"/{self.cells}" * (len(found) == 1)


class Pair(NamedTuple):
    """Two MPMs next to each other in the published order: how many times faster the first one is, as
    published and as measured within the rounds."""

    faster: str
    slower: str
    published: float
    ratio: Interval

    @property
    def came_out(self) -> bool | None:
        """Whether the published winner won here; None if the interval of the ratio holds 1."""
        return self.ratio.value > 1 if self.ratio.excludes(1.0) else None

    def __str__(self) -> str:
        measured = f"published {self.published:.2f}, measured {ratio_text(self.ratio)}"
        return f"{self.faster} / {self.slower}: {measured}"


class OrderVerdict(NamedTuple):
    """Whether the published order of the MPMs came out. Where the generator, or the machine that it shares with
    the servers, was the limit in a cell, a faster server would not have shown: then there is no verdict."""

    published_order: tuple[str, ...]
    limits: Limits
    pairs: tuple[Pair, ...]

    @property
    def came_out(self) -> bool | None:
        """True: of every two neighbours the first one was faster. False: of one pair the second. None: not
        decidable."""
        answers = [pair.came_out for pair in self.pairs]
        if str(self.limits) or (None in answers and False not in answers):
            return None
        return False not in answers

    def __str__(self) -> str:
        order = f"the published order ({' > '.join(self.published_order)})"
        if self.came_out is not None:
            return f"{order} {'came out' if self.came_out else 'did not come out'}"
        undecided = (f"{p.faster} / {p.slower}" for p in self.pairs if p.came_out is None)
        why = f"the 95% interval of {' and of '.join(undecided)} holds 1"
        if not all(pair.ratio.level for pair in self.pairs):
            why = "one round does not show the noise"
        return f"{order}: not decidable, {str(self.limits) or why}"


def verdict(
    rounds: Mapping[str, Rounds], figures: Mapping[str, float], limits: Limits
) -> OrderVerdict | None:
    """Compare what the rounds measured (MPM -> QPS of each round) with the published figures. None if fewer than
    two MPMs are both measured and published, or two neighbours share no round in which both answered."""
    order = sorted(filter(rounds.get, figures), key=figures.__getitem__, reverse=True)
    try:
        pairs = tuple(
            Pair(one, other, figures[one] / figures[other], paired(rounds[one], rounds[other]))
            for one, other in pairwise(order)
        )
    except ValueError:
        return None
    return OrderVerdict(tuple(order), limits, pairs) if pairs else None
