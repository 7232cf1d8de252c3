"""Queueing formulas: known values, properties, and the notebook's own simulation around them."""

import math

import pytest
from helpers import theory
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.lab import plots

servers = st.integers(1, 200)
shares = st.floats(0.01, 0.99)


@pytest.mark.parametrize(("count", "erlang", "lost", "waits"), [
    (1, 0.5, 1 / 3, 0.5),  # M/M/1: a client waits with probability rho
    (2, 1.0, 0.2, 1 / 3),  # by hand: B = (1/2) / (1 + 1 + 1/2), C = 2B / (2 - (1 - B))
    (10, 5.0, 0.018385, 0.036105),  # the printed Erlang tables
])  # fmt: skip
def test_known_values(count, erlang, lost, waits):
    assert theory.erlang_b(count, erlang) == pytest.approx(lost, rel=1e-4)
    assert theory.erlang_c(count, erlang) == pytest.approx(waits, rel=1e-4)


@given(servers, st.floats(0.001, 10), shares)
def test_one_server_is_mm1_and_a_common_line_beats_lines_of_ones_own(count, service, share):
    assert theory.mean_response(share / service, service, 1) == pytest.approx(service / (1 - share))
    together = theory.mean_wait(count * share / service, service, count)
    assert together <= theory.mean_wait(share / service, service, 1) * (1 + 1e-9)


def test_runs_lie_around_the_formula_and_nearer_when_they_are_longer():
    short, long = (theory.spread(300, 0.02, 8, seconds, runs=60) for seconds in (1, 20))
    expected = theory.mean_response(300, 0.02, 8)
    assert short[0] < long[0] < expected < long[1] < short[1]
    assert theory.spread(500, 0.02, 8, 1, runs=5)[0] > expected  # more than they can do
    assert theory.mean_wait(10, 1, 10) == math.inf and theory.erlang_c(10, 11) == 1


@given(st.integers(1, 500), st.floats(0.001, 1), servers, st.floats(0, 10))
def test_the_closed_loop_is_bound_by_users_and_by_servers(users, service, count, think):
    bound = theory.closed_bound(users, service, count, think)
    assert theory.little(bound, service + think) <= users * (1 + 1e-9)
    assert theory.load(bound, service) <= count * (1 + 1e-9)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: theory.erlang_c(2, -1), "erlang: must be 0 or more"),
    (lambda: theory.mean_wait(math.inf, 1, 1), "rate: must be 0 or more, and finite"),
    (lambda: theory.closed_bound(1, 0, 1), "service: must be above 0"),
    (lambda: theory.spread(1e6, 1, 1, 1000), "5,000,000 clients in all at most"),
    (lambda: theory.spread(1, 1, 0, 1), "servers: must be a whole number from 1"),
])  # fmt: skip
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_figures_draw_the_formula_and_the_points():
    figure = theory.response_curve(0.02, 8, [100, 300], [0.021, 0.025])
    line, points = figure.data
    assert list(points.x) == [100, 300] and list(points.y) == [21, 25]
    assert line.y[0] == pytest.approx(20) and line.y[-1] > line.y[0] and max(line.x) < 400
    assert "25 at 300" in plots.alt_text(figure)
    spreads = [(0.019, 0.022), (0.02, 0.03)]
    barred = theory.response_curve(0.02, 8, [100, 300], [0.021, 0.025], spreads=spreads)
    assert list(barred.data[-1].y) == [20, 30] and "bars: 95% of" in barred.layout.title.text
    assert max(theory.closed_curve(0.02, 8, [4, 24], [190, 390]).data[0].y) == pytest.approx(400)
