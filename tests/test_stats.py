"""What rounds allow to say: ratios, knees and noise, as functions of values."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.measure import stats


def test_a_slow_minute_that_meets_all_is_no_difference():
    one = [100, 50, 100, 60, 100, 70, 100]
    other = [value * 0.9 for value in one]
    paired = stats.ratio(one, other)
    assert paired.low == pytest.approx(paired.high) == pytest.approx(1 / 0.9)
    assert paired.excludes(1.0)
    assert min(one) < max(other)  # though their ranges overlap
    for bad in (([], [1]), ([1], [0])):
        with pytest.raises(ValueError, match="a ratio needs"):
            stats.ratio(*bad)


@pytest.mark.parametrize("rounds", [2, 6, 30])
def test_differences_that_are_not_there_are_found_in_5_percent_at_most(rounds):
    """Both servers alike, skewed noise of their own and slow minutes that meet both."""
    source, tries, false = random.Random(11), 2000, 0
    for _ in range(tries):
        minutes = [source.paretovariate(3) for _ in range(rounds)]
        one, other = ([m * source.lognormvariate(0, 0.2) for m in minutes] for _ in range(2))
        false += stats.ratio(one, other).excludes(1.0)
    assert false / tries <= 0.06  # 2,000 tries know 5% to +-1%


def test_the_points_of_students_t():
    points = [stats.t_quantile(freedom) for freedom in range(200)]
    assert points == sorted(points, reverse=True) and points[0] == math.inf
    assert (points[1], points[10], points[30]) == (12.706, 2.228, 2.042)
    assert (points[60], points[120]) == pytest.approx((2.000, 1.980), abs=0.002)


def test_one_round_shows_no_noise():
    once = stats.ratio([3.0], [2.0])
    assert (once.value, once.level, once.excludes(1.0)) == (1.5, 0.0, False)
    # Rounds that only one has are no pair.
    found = stats.paired({1: 2.0, 2: 9.0, 4: 8.0}, {4: 2.0, 1: 1.0, 3: 7.0})
    assert found.value == pytest.approx(math.sqrt(2 * 4)) and found.level == 0.95


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
