"""What rounds allow to say: intervals, orders and drift, as functions of values."""

from __future__ import annotations

import itertools
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


@QUICK
@given(FIGURES, st.floats(0.01, 100))
def test_another_unit_changes_no_precision(values, factor):
    one, other = stats.median(values), stats.median([value * factor for value in values])
    assert other.precision == pytest.approx(one.precision)


def test_few_rounds_promise_less_than_95_percent():
    assert [stats.level(n) for n in (0, 1, 2, 3, 5)] == [0, 0, 0.5, 0.75, 0.9375]
    assert stats.level(stats.ENOUGH) == 0.95 and stats.level(stats.ENOUGH - 1) < 0.95
    # With so few, resampling cannot say less than the range: it is what the level is about.
    three = stats.median([10, 30, 20])
    assert (three.low, three.high, three.level) == (10, 30, 0.75)


@pytest.mark.parametrize("rounds", [3, 5, 7, 8, 11, 20])
def test_the_interval_holds_the_true_median_as_often_as_it_says(rounds):
    source, tries = random.Random(7), 2000
    for draw, true in (
        (lambda: source.lognormvariate(0, 0.3), 1.0),
        (lambda: source.paretovariate(3), 2 ** (1 / 3)),
    ):
        hits = sum(
            not stats.median([draw() for _ in range(rounds)]).excludes(true) for _ in range(tries)
        )
        # 2,000 tries know such a share to +-2%, as good as ever.
        assert hits / tries >= stats.level(rounds) - 0.02


def test_the_interval_is_as_narrow_as_its_level_allows():
    for rounds in range(stats.ENOUGH, 40):
        low = int(stats.median(list(range(rounds))).low)  # so many lie outside, at either end

        def outside(rank: int, rounds: int = rounds) -> float:
            return 2 * sum(math.comb(rounds, i) for i in range(rank)) / 2**rounds

        assert outside(low + 1) <= 0.05 < outside(low + 2)


def test_more_rounds_are_known_better():
    source = random.Random(1)
    values = [source.gauss(1000, 50) for _ in range(40)]
    assert stats.median(values).precision < stats.median(values[:8]).precision / 1.5


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


@QUICK
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 5), min_size=3, max_size=6))
)
def test_probabilities_of_orders_make_one(rounds):
    found = stats.orders(rounds)
    if len(rounds) < 2:
        assert found == []
        return
    assert sum(order.probability for order in found) == pytest.approx(1)
    assert all(sorted(order.names) == sorted(rounds) for order in found)
    assert [o.probability for o in found] == sorted((o.probability for o in found), reverse=True)


def test_orders_clear_doubtful_and_tied():
    (clear,) = stats.orders({"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    assert clear.names == ("c", "b", "a") and str(clear) == "c > b > a (100%)"
    doubtful = stats.orders({"a": [1, 9, 5, 4], "b": [2, 8, 6, 3]})
    assert len(doubtful) == 2 and doubtful[0].probability < 0.8
    tied = stats.orders({"a": [5, 5], "b": [5, 5]})
    assert [order.probability for order in tied] == [0.5, 0.5]
    assert stats.orders({"a": [1, 2]}) == stats.orders({"a": [1], "b": [2]}) == []


def test_the_chance_of_a_trend_is_kendalls():
    for rounds in (3, 4, 5, 6):
        scores = []
        for order in itertools.permutations(range(rounds)):
            scores.append(
                abs(sum(math.copysign(1, b - a) for a, b in itertools.combinations(order, 2)))
            )
        for score in set(scores):
            expected = sum(other >= score for other in scores) / len(scores)
            assert stats._kendall(rounds, int(score)) == pytest.approx(expected)


def test_drift_is_found_when_all_grow_slower_and_only_then():
    slower = {"a": [100, 97, 95, 90, 88, 85], "b": [50, 49, 47, 46, 45, 43]}
    found = stats.drift(slower)
    assert found.found and found.change == pytest.approx(-0.15, abs=0.02)
    assert "DRIFT" in str(found)
    steady = stats.drift({"a": [100, 90, 105, 95, 101, 94]})
    assert not steady.found and "no drift" in str(steady)
    # One server grows what the other loses: the machine did not change.
    assert not stats.drift({"a": [1, 2, 4, 8, 16], "b": [16, 8, 4, 2, 1]}).found
    assert "takes 5 rounds" in str(stats.drift({"a": [3, 2, 1]}))
    assert stats.drift({}).rounds == 0 and not stats.drift({"a": [0, 0, 0, 0, 0]}).found


def test_settled_needs_six_rounds_and_a_narrow_interval():
    tight = [100, 101, 99, 100, 101, 99]
    assert stats.settled([tight], 0.05) and not stats.settled([tight[:5]], 0.05)
    assert not stats.settled([tight, [100, 50, 100, 150, 100, 60]], 0.05)
    assert not stats.settled([[0] * 6], 0.05)
    assert stats.worst({"a": tight, "b": tight[:5]}) == ("b", math.inf)
