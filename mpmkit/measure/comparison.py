"""Did the published order of the MPMs come out? Pure: functions of what the rounds measured.

    verdict("static", {"prefork": [9000.0, 9100.0], ...}, published()["static"])

A difference between two MPMs counts as larger than the noise only if their ranges do not touch: every
round of the one beat every round of the other. With 3 rounds each, chance alone does that once in 10
(either way round), with 5 once in 126.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two MPMs next to each other in the published order.

    published, measured: how many times faster the first is (ratio of the medians).
    larger_than_noise: whether the ranges of their rounds do not touch; None with fewer than 2
    rounds.
    """

    faster: str
    slower: str
    published: float
    measured: float
    larger_than_noise: bool | None

    @property
    def agrees(self) -> bool:
        """Whether the published winner won here too."""
        return self.measured > 1

    def __str__(self) -> str:
        noise = {
            None: "one round: the noise is not known",
            True: "larger than the noise",
            False: "within the noise",
        }[self.larger_than_noise]
        return (
            f"{self.faster} / {self.slower}: published {self.published:.2f}, "
            f"measured {self.measured:.2f} ({noise})"
        )


@dataclass(frozen=True)
class Verdict:
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
        """Whether every difference between neighbours is larger than the noise; None if not
        known."""
        known = [pair.larger_than_noise for pair in self.pairs]
        return None if None in known else all(known)

    def __str__(self) -> str:
        if self.reproduced:
            head = "the published order came out"
        else:
            head = "the published order did not come out"
        if self.clear is None:
            tail = "one round does not show the noise"
        elif self.clear:
            tail = "each difference is larger than the noise"
        else:
            tail = "not every difference is larger than the noise"
        return f"{head}: {' > '.join(self.measured_order)}; {tail}"


def order(figures: Mapping[str, float]) -> tuple[str, ...]:
    """The names from the fastest to the slowest; equal ones in the order given."""
    return tuple(sorted(figures, key=lambda name: -figures[name]))


def apart(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether two samples do not touch: all of one above all of the other. None if either has fewer
    than two values, which show no noise."""
    if min(len(one), len(other)) < 2:
        return None
    return min(one) > max(other) or max(one) < min(other)


def verdict(
    kind: str, rounds: Mapping[str, Sequence[float]], figures: Mapping[str, float]
) -> Verdict | None:
    """Compare what the rounds measured (MPM -> QPS of each round) with the published figures.

    None if fewer than two MPMs are both measured and published, or one of them answered nothing.
    """
    medians = {
        mpm: statistics.median(values)
        for mpm, values in rounds.items()
        if values and mpm in figures
    }
    if len(medians) < 2 or min(medians.values()) <= 0:
        return None
    expected = order({mpm: figures[mpm] for mpm in figures if mpm in medians})
    return Verdict(
        kind,
        expected,
        # Ties are broken by the published order's reverse, so that a tie does not count as
        # agreement.
        order({mpm: medians[mpm] for mpm in reversed(expected)}),
        tuple(
            Pair(
                a, b, figures[a] / figures[b], medians[a] / medians[b], apart(rounds[a], rounds[b])
            )
            for a, b in zip(expected, expected[1:], strict=False)
        ),
    )
