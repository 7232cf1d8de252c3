"""Does one thing cost more than another? Four words by one rule, with the margin stated beforehand. Pure.

Costs are compared as ratios: the logarithms of the ratios within the blocks, their mean, and Student's 95%
interval (`stats.ratio`). A word is said only if the whole interval supports it:

    the interval lies above 1 + margin         dearer
    below 1 / (1 + margin)                     cheaper
    between the two                            the same within 3%
    it crosses one of these limits             undecided (so many more blocks would decide)

So two equal things are called different in fewer than 5 of 100 comparisons, whatever the number of
blocks, and each block added makes the interval narrower and a word likelier.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mpmkit.measure import stats
from mpmkit.measure.stats import Interval

MARGIN = 0.03
CHEAPER, DEARER, UNDECIDED = "cheaper", "dearer", "undecided"
MOST_BLOCKS = 1000  # that are asked for; beyond, the difference is too near the margin


@dataclass(frozen=True)
class Decision:
    """A ratio of two costs with what may be said of it.

    blocks: how many it is of. more: blocks that would decide if they are like these; None if that is
    not known. paired: whether the two were compared block by block.
    """

    ratio: Interval
    blocks: int
    word: str
    more: int | None
    paired: bool

    def __str__(self) -> str:
        between = (
            f"{self.ratio.low:.3f} to {self.ratio.high:.3f}" if self.ratio.level else "one block"
        )
        said = f"{self.ratio.value:.3f} ({between})  {self.word}"
        if self.word != UNDECIDED:
            return said
        if self.more is None:
            most = (
                f"more than {MOST_BLOCKS:,} blocks" if self.ratio.level else "two blocks at least"
            )
            return f"{said} ({most} would be needed)"
        return f"{said} ({self.more:,} more block{'s' * (self.more != 1)} would decide)"


def decide(
    one: Mapping[int, float], other: Mapping[int, float], margin: float = MARGIN
) -> Decision:
    """Compare two costs, each as block -> cost: in pairs over the blocks that both have, or where these
    are too few by Welch's interval. Raises ValueError if there is nothing above 0 to compare."""
    both = one.keys() & other.keys()
    paired = len(both) > 1 or len(both) == len(one) == len(other)
    if paired:
        ratio, blocks = stats.paired(one, other), len(both)
    else:
        ratio, blocks = unpaired([*one.values()], [*other.values()]), min(len(one), len(other))
    word = word_of(ratio, margin)
    more = more_blocks(ratio, blocks, margin) if word == UNDECIDED else 0
    return Decision(ratio, blocks, word, more, paired)


def word_of(ratio: Interval, margin: float) -> str:
    """The word that the whole interval supports."""
    limit = 1 + margin
    if ratio.low > limit:
        return DEARER
    if ratio.high < 1 / limit:
        return CHEAPER
    inside = 1 / limit <= ratio.low and ratio.high <= limit
    return f"the same within {100 * margin:.3g}%" if inside else UNDECIDED


def unpaired(*sides: list[float]) -> Interval:
    """The ratio of two costs whose blocks are not the same ones. Raises ValueError."""
    if not all(sides) or min(map(min, sides)) <= 0:
        raise ValueError("costs: both sides need one at least, each above 0")
    logs = [[math.log(cost) for cost in side] for side in sides]
    middle, reach = statistics.fmean(logs[0]) - statistics.fmean(logs[1]), math.inf
    if min(map(len, logs)) > 1:
        errors = [(statistics.variance(side) / len(side), len(side) - 1) for side in logs]
        total = sum(error for error, _ in errors)
        weight = sum(error**2 / freedom for error, freedom in errors)
        reach = stats.t_quantile(round(total**2 / weight) if weight else 1) * math.sqrt(total)
    low, high = (math.exp(middle - reach), math.exp(middle + reach))
    return Interval(math.exp(middle), low, high, stats.LEVEL if reach < math.inf else 0.0)


def more_blocks(ratio: Interval, blocks: int, margin: float) -> int | None:
    """How many more blocks would decide, if mean and spread stay as they are; None if more than
    `MOST_BLOCKS`, or if one block alone does not show the spread."""
    if ratio.level:
        spread = (
            math.log(ratio.high / ratio.value) * math.sqrt(blocks) / stats.t_quantile(blocks - 1)
        )
        room = abs(abs(math.log(ratio.value)) - math.log1p(margin))
        for wanted in range(blocks + 1, blocks + MOST_BLOCKS + 1):
            if stats.t_quantile(wanted - 1) * spread / math.sqrt(wanted) < room:
                return wanted - blocks
    return None
