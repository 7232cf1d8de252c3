"""Did the published order of the MPMs come out? Pure: a function of what the rounds measured.

There are three answers, and no other sentence about an order:

* **came out**: of every two neighbours in the published order, the first one was faster. The 95% interval
  of their ratio, taken within the rounds (`stats.paired`), lies above 1.
* **did not come out**: the interval of one of these ratios lies below 1.
* **not decidable**: the generator, or the machine that it shares with the servers, was the limit in a
  cell. A faster server would not have shown, so the rows say nothing of the servers' order, whatever
  their figures are. Or nothing was the limit, and an interval holds 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpmkit.measure import stats

Rounds = Mapping[Any, float]
"""What one server did in each round: which round -> its figure."""


def ratio_text(ratio: stats.Interval) -> str:
    """A ratio with its 95% interval, where it has one: "1.25 (1.13 to 1.38)"."""
    known = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.level else ""
    return f"{ratio.value:.2f}{known}"


@dataclass(frozen=True)
class Limits:
    """In how many cells something else than the server was the limit."""

    cells: int = 0
    generator: int = 0
    machine: int = 0

    def __str__(self) -> str:
        """ "the generator was the limit in 3 of 9 cells"; "" if the servers were measured."""
        found = [
            f"the {what} was the limit in {count} of {self.cells} cells"
            for what, count in (("generator", self.generator), ("machine", self.machine))
            if count
        ]
        return ", ".join(found)


@dataclass(frozen=True)
class Pair:
    """Two MPMs next to each other in the published order: how many times faster the first one is, as
    published and as measured within the rounds."""

    faster: str
    slower: str
    published: float
    ratio: stats.Interval

    @property
    def came_out(self) -> bool | None:
        """Whether the published winner won here; None if the interval of the ratio holds 1."""
        return self.ratio.value > 1 if self.ratio.excludes(1.0) else None

    def __str__(self) -> str:
        said = f"{self.faster} / {self.slower}: published {self.published:.2f}, measured "
        return said + ratio_text(self.ratio)


@dataclass(frozen=True)
class OrderVerdict:
    """Whether the published order of the MPMs came out for one kind of page."""

    kind: str
    published_order: tuple[str, ...]
    limits: Limits
    pairs: tuple[Pair, ...]

    @property
    def came_out(self) -> bool | None:
        """True, False, or None where that is not decidable."""
        answers = [pair.came_out for pair in self.pairs]
        if str(self.limits) or (None in answers and False not in answers):
            return None
        return False not in answers

    @property
    def why(self) -> str:
        """Why it is not decidable; "" where it is."""
        if self.came_out is not None or str(self.limits):
            return str(self.limits)
        if not all(pair.ratio.level for pair in self.pairs):
            return "one round does not show the noise"
        open_pairs = [f"{p.faster} / {p.slower}" for p in self.pairs if p.came_out is None]
        return f"the 95% interval of {' and of '.join(open_pairs)} holds 1"

    def __str__(self) -> str:
        order = f"the published order ({' > '.join(self.published_order)})"
        if self.came_out is None:
            return f"{order}: not decidable, {self.why}"
        return f"{order} {'came out' if self.came_out else 'did not come out'}"


def verdict(
    kind: str, rounds: Mapping[str, Rounds], figures: Mapping[str, float], limits: Limits = Limits()
) -> OrderVerdict | None:
    """Compare what the rounds measured (MPM -> QPS of each round) with the published figures.

    None if fewer than two MPMs are both measured and published, or two neighbours share no round in which
    both answered.
    """
    order = tuple(sorted((mpm for mpm in figures if rounds.get(mpm)), key=lambda m: -figures[m]))
    if len(order) < 2:
        return None
    pairs = []
    for faster, slower in zip(order, order[1:], strict=False):
        try:
            ratio = stats.paired(rounds[faster], rounds[slower])
        except ValueError:
            return None
        pairs.append(Pair(faster, slower, figures[faster] / figures[slower], ratio))
    return OrderVerdict(kind, order, limits, tuple(pairs))
