"""Did the published order of the MPMs come out? Pure: functions of what the rounds measured.

    verdict("static", {"prefork": [9000.0, 9100.0], ...}, figures()["static"])

A difference is larger than the noise if the 95% interval of the ratio, taken within the rounds, excludes 1
(`stats.ratio`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpmkit.measure import stats

NOISE = {
    None: "one round: the noise is not known",
    True: "larger than the noise",
    False: "within the noise",
}


@dataclass(frozen=True)
class Pair:
    """Two MPMs next to each other in the published order: how many times faster the first one is, as
    published and as measured within the rounds."""

    faster: str
    slower: str
    published: float
    ratio: stats.Interval

    @property
    def measured(self) -> float:
        """The ratio without its interval."""
        return self.ratio.value

    @property
    def larger_than_noise(self) -> bool | None:
        """Whether the interval of the ratio excludes 1; None with fewer than 2 rounds."""
        return self.ratio.excludes(1.0) if self.ratio.level else None

    @property
    def agrees(self) -> bool:
        """Whether the published winner won here too."""
        return self.measured > 1

    def __str__(self) -> str:
        sure = f"{self.ratio.low:.2f} to {self.ratio.high:.2f}, " if self.ratio.level else ""
        return (
            f"{self.faster} / {self.slower}: published {self.published:.2f}, "
            f"measured {self.measured:.2f} ({sure}{NOISE[self.larger_than_noise]})"
        )


@dataclass(frozen=True)
class OrderVerdict:
    """Whether the published order of the MPMs came out for one kind of page."""

    kind: str
    published_order: tuple[str, ...]
    measured_order: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def reproduced(self) -> bool:
        """The medians stand in the published order."""
        return self.published_order == self.measured_order

    @property
    def clear(self) -> bool | None:
        """Whether every difference between neighbours is larger than the noise; None if not known."""
        known = [pair.larger_than_noise for pair in self.pairs]
        return None if None in known else all(known)

    def __str__(self) -> str:
        tail = {
            None: "one round does not show the noise",
            True: "each difference is larger than the noise",
            False: "not every difference is larger than the noise",
        }[self.clear]
        came = "came out" if self.reproduced else "did not come out"
        return f"the published order {came}: {' > '.join(self.measured_order)}; {tail}"


def order(figures: Mapping[str, float]) -> tuple[str, ...]:
    """The names from the fastest to the slowest; equal ones in the order given."""
    return tuple(sorted(figures, key=lambda name: -figures[name]))


def verdict(
    kind: str, rounds: Mapping[str, Sequence[float]], figures: Mapping[str, float]
) -> OrderVerdict | None:
    """Compare what the rounds measured (MPM -> QPS of each round) with the published figures.

    None if fewer than two MPMs are both measured and published, or one of them answered nothing.
    """
    medians = {
        mpm: statistics.median(values)
        for mpm, values in rounds.items()
        if values and mpm in figures
    }
    if len(medians) < 2 or any(min(rounds[mpm]) <= 0 for mpm in medians):
        return None
    expected = order({mpm: figures[mpm] for mpm in figures if mpm in medians})
    return OrderVerdict(
        kind,
        expected,
        # A tie is broken against the published order, so that it does not count as agreement.
        order({mpm: medians[mpm] for mpm in reversed(expected)}),
        tuple(
            Pair(a, b, figures[a] / figures[b], stats.ratio(rounds[a], rounds[b]))
            for a, b in zip(expected, expected[1:], strict=False)
        ),
    )
