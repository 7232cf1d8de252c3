"""Event's connection limit, against its worked example, recordings and its own monotony. (The limits that were
recorded for AsyncRequestWorkerFactor: test_simulator.py.)"""

import doctest
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.policy import admission
from mpmkit.policy.admission import connections_above_limit

TIMELINES = Path(__file__).parent / "data" / "timelines"

threads = st.integers(1, 64)
factors = st.floats(0.01, 20, allow_nan=False)
counts = st.integers(0, 300)


def test_the_docstring_is_true():
    failures, tried = doctest.testmod(admission)
    assert tried > 0 == failures


@given(threads, counts, counts, threads, factors, st.booleans())
def test_an_idle_worker_is_needed_and_connections_that_only_linger_do_not_count(
    idle, connections, lingering, tpc, factor, disabled
):
    assert connections_above_limit(0, connections, lingering, tpc, factor, disabled)
    assert not connections_above_limit(idle, connections, connections, tpc, factor, disabled)


@given(st.integers(0, 64), counts, counts, threads, factors)
def test_listening_again_takes_more_room_than_going_on(idle, connections, lingering, tpc, factor):
    """No flapping: a child that may start again would also have been allowed to go on."""
    if not connections_above_limit(idle, connections, lingering, tpc, factor, True):
        assert not connections_above_limit(idle, connections, lingering, tpc, factor, False)


def decisions(name: str) -> list[tuple[bool, int, int, int]]:
    """(stops accepting, idle workers, connections, lingering ones), as a recorded child said them."""
    found = []
    connections = 0
    for line in (TIMELINES / name).read_text().splitlines():
        if m := re.search(r"Too many open connections \((\d+)\)", line):
            connections = int(m[1])
        elif m := re.search(r"Idle workers: (\d+)", line):
            found.append((True, int(m[1]), connections, 0))
        elif m := re.search(r"again: (\d+) active conns \((\d+) lingering.* (\d+) idle", line):
            found.append((False, int(m[3]), int(m[1]), int(m[2])))
    return found


@pytest.mark.parametrize("name", ["kill", "NOT-killed"])
def test_a_child_stops_and_begins_again_where_httpds_did(name):
    settings = (4, 2)  # ThreadsPerChild, AsyncRequestWorkerFactor
    replayed = decisions(f"event-keepalive-{name}.error.log")
    assert {stops for stops, *_ in replayed} == {True, False}
    for stops, idle, connections, lingering in replayed:
        if stops:
            assert connections_above_limit(idle, connections, lingering, *settings, False)
        else:
            assert not connections_above_limit(idle, connections, lingering, *settings, True)
