"""The histogram: buckets, percentiles, sums."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.load.histogram import LIMIT, Histogram, bounds, bucket, pack, unpack

VALUES = st.lists(st.integers(0, 10**13), max_size=200)


@given(st.integers(0, LIMIT - 2))
def test_buckets_follow_one_another_and_hold_a_value_to_a_tenth_of_a_percent(ns):
    here, above = bucket(ns), bucket(ns + 1)
    low, high = bounds(here)
    assert low <= ns <= high and high - low <= ns / 1024
    assert above in (here, here + 1) and high + 1 == bounds(here + 1)[0]


@given(VALUES.filter(bool), st.sampled_from([0.0, 50.0, 99.9, 100.0]) | st.floats(0, 100))
def test_percentiles_are_those_of_the_values(values, percent):
    found = Histogram(values).percentile(percent)
    exact = sorted(values)[max(1, math.ceil(percent * len(values) / 100 - 1e-9)) - 1]
    assert abs(found - exact) <= exact / 1024
    assert min(values) <= found <= max(values)


@given(st.lists(VALUES, max_size=4))
def test_counting_in_parts_is_counting_everything_at_once(parts):
    added = Histogram()
    for part in parts:
        added.record(unpack(pack(part)))
    whole = Histogram([ns for part in parts for ns in part])
    assert vars(added) == vars(whole) and len(added) == sum(map(len, parts))
    assert sum(count for _, count in whole.to_json()) == len(whole)


def test_what_is_no_latency_is_refused():
    for bad in (-1, LIMIT):
        with pytest.raises(ValueError, match="0 ns to 146 years"):
            Histogram([bad])
    with pytest.raises(ValueError, match="0 to 100"):
        Histogram([1]).percentile(101)
    assert math.isnan(Histogram().mean) and math.isnan(Histogram().percentile(50))
