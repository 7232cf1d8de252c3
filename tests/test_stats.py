"""What rounds allow to say: intervals, ratios, knees and drift, as functions of values."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpmkit.measure import stats

FIGURES = st.lists(st.floats(1, 1e6), min_size=1, max_size=12)
QUICK = settings(deadline=None, max_examples=30)  # each example draws two thousand times


@QUICK
@given(FIGURES)
def test_an_interval_lies_within_the_rounds_and_holds_the_median(values):
    found = stats.median(values)
    assert found.value == statistics.median(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert found.level == (0.95 if len(values) >= 6 else 0)


@pytest.mark.parametrize("rounds", [6, 8, 20])
def test_the_interval_holds_the_true_median_as_often_as_it_says(rounds):
    source, tries = random.Random(7), 2000
    for draw, true in (
        (lambda: source.lognormvariate(0, 0.3), 1.0),
        (lambda: source.paretovariate(3), 2 ** (1 / 3)),
    ):
        found = [stats.median([draw() for _ in range(rounds)]) for _ in range(tries)]
        # 2,000 tries know such a share to +-2%, as good as ever.
        assert sum(not one.excludes(true) for one in found) / tries >= stats.LEVEL - 0.02


def test_the_interval_is_as_narrow_as_its_level_allows():
    for rounds in range(stats.ENOUGH, 40):
        low = int(stats.median(list(range(rounds))).low)  # so many lie outside, at either end

        def outside(rank: int, rounds: int = rounds) -> float:
            return 2 * sum(math.comb(rounds, i) for i in range(rank)) / 2**rounds

        assert outside(low + 1) <= 0.05 < outside(low + 2)


def test_a_slow_minute_that_meets_all_is_no_difference():
    one = [100, 50, 100, 60, 100, 70, 100]
    other = [value * 0.9 for value in one]
    paired = stats.ratio(one, other)
    assert paired.low == pytest.approx(paired.high) == pytest.approx(1 / 0.9)
    assert paired.excludes(1.0)
    assert stats.median(one).high > stats.median(other).low  # though their ranges overlap
    for bad in (([], [1]), ([1], [0])):
        with pytest.raises(ValueError, match="a ratio needs"):
            stats.ratio(*bad)
    with pytest.raises(ValueError, match="none was measured"):
        stats.median([])


@pytest.mark.parametrize("rounds", [2, 6, 30])
def test_differences_that_are_not_there_are_found_in_5_percent_at_most(rounds):
    """Both servers alike, skewed noise of their own and slow minutes that meet both."""
    source, tries, false = random.Random(11), 2000, 0
    for _ in range(tries):
        minutes = [source.paretovariate(3) for _ in range(rounds)]
        one, other = ([m * source.lognormvariate(0, 0.2) for m in minutes] for _ in range(2))
        false += stats.ratio(one, other).excludes(1.0)
    assert false / tries <= 0.06  # 2,000 tries know 5% to +-1%


def test_one_round_shows_no_noise():
    once = stats.ratio([3.0], [2.0])
    assert (once.value, once.level, once.excludes(1.0)) == (1.5, 0.0, False)
    # Rounds that only one has are no pair.
    found = stats.paired({1: 2.0, 2: 9.0, 4: 8.0}, {4: 2.0, 1: 1.0, 3: 7.0})
    assert found.value == pytest.approx(math.sqrt(2 * 4)) and found.level == 0.95


# -- where a curve bends -------------------------------------------------------------------------


@given(st.integers(2, 18), st.floats(1, 1e4), st.floats(0, 0.1))
def test_the_knee_of_a_line_that_flattens_is_where_it_bends(bend, steep, flat):
    xs = list(range(21))
    ys = [steep * (min(x, bend) + flat * max(0, x - bend)) for x in xs]
    assert stats.knee(xs, ys) == bend
    assert stats.knee(xs[::-1], ys[::-1]) == bend


@pytest.mark.parametrize(
    ("ys", "knee"),  # a straight line, a level one, one that bends upwards, two points; one that falls again
    [([10, 20, 30, 40], None), ([5, 5, 5, 5], None), ([1, 1, 1, 9], None), ([1, 2], None),
     ([10, 40, 41, 20], 2)],
)  # fmt: skip
def test_what_has_a_knee(ys, knee):
    assert stats.knee(range(1, len(ys) + 1), ys) == knee


# -- rounds and noise -------------------------------------------------------------------------


def test_each_round_measures_all_and_begins_with_another_or_is_random_by_its_seed():
    for number in range(1, 9):
        assert sorted(stats.turns("abcde", number)) == list("abcde")
        firsts = [stats.turns("abcde", n)[0] for n in range(number, number + 5)]
        assert sorted(firsts) == list("abcde")
    blocks = [stats.turns(range(8), number, seed="a1") for number in range(1, 30)]
    assert all(sorted(block) == list(range(8)) for block in blocks)
    assert len({tuple(block) for block in blocks}) > 20
    assert blocks == [stats.turns(range(8), number, seed="a1") for number in range(1, 30)]
    assert blocks[0] != stats.turns(range(8), 1, seed="a2")


def test_noise_is_the_standard_deviation_of_logarithms():
    source = random.Random(3)
    few, many = ([math.exp(source.gauss(5, 0.05)) for _ in range(count)] for count in (40, 4000))
    # Unlike the range over the median, it does not grow with the number of rounds.
    assert stats.noise(few) == pytest.approx(0.05, rel=0.3)
    assert stats.noise(many) == pytest.approx(0.05, rel=0.05)
    assert math.isnan(stats.noise([5.0])) and math.isnan(stats.noise([0, 0, 1]))


@pytest.mark.parametrize(
    ("p99", "requests", "value", "cut"),
    [(12.0, 999, math.nan, False), (12.0, 1000, 12.0, False), (1810.0, 1000, 1810.0, True)]
    + [(None, 5000, math.nan, False)],
)
def test_a_99th_percentile_takes_1000_requests_and_a_run_that_is_longer(p99, requests, value, cut):
    row = {"p99_ms": p99, "requests": requests, "duration_s": 2.0}
    found = stats.p99(row)
    assert found == (pytest.approx(value, nan_ok=True), cut)
