"""When requests are due: areas under rates, as a function of the profile. And the histogram of latencies."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.load.histogram import LIMIT, Histogram, pack, unpack
from mpmkit.load.profile import LoadProfile, arrivals

STAGE = st.builds(dict, seconds=st.floats(0.1, 50), rate=st.floats(0.01, 1e5), ramp=st.booleans())
WAYS = st.sampled_from(["constant", "poisson"])
VALUES = st.lists(st.integers(0, 10**13), max_size=200)


def due(until: float, *where: int, **fields) -> list[float]:
    profile = LoadProfile(**{"arrival": "constant", "users": 5, **fields})
    return list(itertools.takewhile(lambda t: t < until, arrivals(profile, *where)))


@given(st.floats(1, 1e4), st.integers(1, 8))
def test_generators_take_turns_and_make_one_schedule(rate, of):
    profile = LoadProfile(arrival="constant", rate=rate, duration=1, users=9)
    alone = itertools.islice(arrivals(profile), 40)
    each = (itertools.islice(arrivals(profile, index, of), 40) for index in range(of))
    assert sorted(itertools.chain.from_iterable(each))[:40] == pytest.approx(list(alone))


def test_poisson_is_random_repeatable_and_has_its_mean_and_its_spread():
    how = {"rate": 200, "duration": 1, "arrival": "poisson"}
    found = due(100, **how, seed=1)
    assert found == due(100, **how, seed=1) != due(100, **how, seed=2)
    assert len(found) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    # Exponential: the standard deviation is the mean.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert len(due(100, 0, 2, **how) + due(100, 1, 2, **how)) == pytest.approx(20_000, rel=0.03)
    # Each run without a seed is a draw of its own: 200 are due, give or take 14; over 200 runs, 1.
    runs = [len(due(1, **how)) for _ in range(200)]
    assert statistics.mean(runs) == pytest.approx(200, abs=7)
    assert statistics.stdev(runs) == pytest.approx(200**0.5, rel=0.4)


def test_steps_and_ramps_keep_their_areas():
    rising = {"seconds": 4, "rate": 300, "ramp": True}
    stages = [{"seconds": 2, "rate": 100}, rising, {"seconds": 1, "rate": 50}]
    found = due(6.9999, stages=stages, warmup_seconds=3)
    # The warm-up runs at the first rate; the ramp goes from 100 to 300.
    for (a, b), count in {(-3, 0): 300, (0, 2): 200, (2, 6): 800, (6, 7): 50, (2, 4): 300}.items():
        assert sum(a < t <= b for t in found) == pytest.approx(count, abs=2)
    from_nothing = due(10, stages=[{"seconds": 10, "rate": 100, "ramp": True}])
    assert len(from_nothing) == pytest.approx(500, abs=1)
    falling = [{"seconds": 5, "rate": 100}, {"seconds": 5, "rate": 0.01, "ramp": True}]
    assert len(due(10, stages=falling)) == pytest.approx(750, abs=2)


@given(st.lists(STAGE, min_size=1, max_size=5), st.floats(0, 10), WAYS)
def test_times_never_go_back(stages, warm, arrival):
    profile = LoadProfile(stages=stages, warmup_seconds=warm, arrival=arrival)
    found = list(itertools.islice(arrivals(profile), 300))
    assert found == sorted(found) and found[0] >= -warm


@given(VALUES.filter(bool), st.sampled_from([0.0, 50.0, 99.9, 100.0]) | st.floats(0, 100))
def test_percentiles_are_those_of_the_values(values, percent):
    found = Histogram(values).percentile(percent)
    exact = sorted(values)[max(1, math.ceil(percent * len(values) / 100 - 1e-9)) - 1]
    assert abs(found - exact) <= exact / 1024 and min(values) <= found <= max(values)


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
