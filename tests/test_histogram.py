"""The histogram: buckets, percentiles, merging, and its form as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpmkit.load.histogram import LIMIT, Histogram, bounds, bucket

VALUES = st.lists(st.integers(0, 10**13), max_size=200)
FAST = settings(deadline=None)


@FAST
@given(st.integers(0, LIMIT - 1))
def test_a_bucket_holds_its_value_to_a_tenth_of_a_percent(ns):
    low, high = bounds(bucket(ns))
    assert low <= ns <= high and high - low <= ns / 1024


@FAST
@given(st.integers(0, LIMIT - 2))
def test_buckets_follow_one_another_without_a_gap(ns):
    here, above = bucket(ns), bucket(ns + 1)
    assert above in (here, here + 1)
    assert bounds(here)[1] + 1 == bounds(here + 1)[0]


@FAST
@given(VALUES.filter(bool), st.sampled_from([0.0, 50.0, 99.9, 100.0]) | st.floats(0, 100))
def test_percentiles_are_those_of_the_values(values, percent):
    found = Histogram(values).percentile(percent)
    exact = sorted(values)[max(1, math.ceil(percent * len(values) / 100 - 1e-9)) - 1]
    assert abs(found - exact) <= exact / 1024
    assert min(values) <= found <= max(values)


@FAST
@given(st.lists(VALUES, max_size=4))
def test_merging_is_counting_everything_in_one(parts):
    merged = Histogram()
    for part in parts:
        merged = merged + Histogram(part)
    whole = Histogram([ns for part in parts for ns in part])
    assert merged == whole and len(merged) == sum(map(len, parts))
    assert merged.mean == whole.mean or not len(whole)


@FAST
@given(VALUES)
def test_it_survives_text(values):
    histogram = Histogram(values)
    assert Histogram.from_text(histogram.to_text()) == histogram


def test_a_million_latencies_are_a_short_text():
    histogram = Histogram()
    for ms in range(1, 1001):
        histogram.record([ms * 1_000_000 + n * 777 for n in range(1000)])
    assert len(histogram) == 1_000_000 and len(histogram.to_text()) < 30_000
    assert histogram.percentile(99.99) == pytest.approx(1000.7e6, rel=0.001)


@pytest.mark.parametrize("text", ["", "x", "ÿ", "0" * 40, Histogram([1, 2]).to_text()[:-4]])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_text(text)


def test_what_is_no_latency_is_refused():
    for bad in (-1, LIMIT):
        with pytest.raises(ValueError, match="0 ns to 146 years"):
            Histogram([bad])
    with pytest.raises(ValueError, match="0 to 100"):
        Histogram([1]).percentile(101)
    assert math.isnan(Histogram().mean) and math.isnan(Histogram().percentile(50))
