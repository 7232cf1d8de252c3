"""Event's connection limit, against its worked example, recordings and its own monotony (the limits that were
recorded for AsyncRequestWorkerFactor: test_simulator.py). And the states: their numbers are in the order that
maintenance relies on, and the lesson's tables are whole."""

import doctest
import re
from pathlib import Path

import pytest
from helpers import connection_states as tables
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.config.directives import MPMS
from mpmkit.policy import admission, states
from mpmkit.policy.admission import connections_above_limit
from mpmkit.policy.connection_trace import STATE_NAMES
from mpmkit.policy.states import ProcessRow

TIMELINES = Path(__file__).parent / "data" / "timelines"

threads = st.integers(1, 64)
factors = st.floats(0.01, 20, allow_nan=False)
counts = st.integers(0, 300)
NUMBERS = range(len(states.LETTERS))
ARROWS = tables.TRANSITIONS


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


def test_the_order_of_the_numbers_is_what_maintenance_compares_with():
    assert states.LETTERS == ".S_RWKLDCGI" and len(states.WORDS) == len(NUMBERS)
    assert set(states.IDLE) == {n for n in NUMBERS if n <= states.READY}
    assert set(states.ACTIVE) == {n for n in NUMBERS if states.READY <= n < states.GRACEFUL}
    assert set(states.BUSY) == set(states.ACTIVE) - {states.READY}
    # Every connection state has its name.
    found = [getattr(states, name) for name in STATE_NAMES]
    assert found == list(range(len(STATE_NAMES)))


@pytest.mark.parametrize("mpm", MPMS)
def test_every_path_through_the_transitions_can_end(mpm):
    """From PROCESSING every state of the table can be reached, and from each of them CLOSED."""
    arrows = ARROWS[mpm]
    assert len({(a.state, a.event) for a in arrows}) == len(arrows), "an event leads to one state"
    mentioned = {a.state for a in arrows} | {a.next for a in arrows}

    def reachable(start: int) -> set[int]:
        found, todo = {start}, [start]
        while todo:
            here = todo.pop()
            new = {a.next for a in arrows if a.state == here} - found
            found |= new
            todo.extend(new)
        return found

    assert reachable(states.PROCESSING) == mentioned
    assert all(states.CLOSED in reachable(state) for state in mentioned)
    assert not [a for a in arrows if a.state == states.CLOSED]
    who = {"worker", "listener"} if mpm == "event" else {"worker"}
    assert {a.who for a in arrows} == who


def test_only_event_parks_a_connection_in_a_counter_of_its_process():
    for mpm in MPMS:
        parked = [phase for phase in tables.PATHS[mpm] if phase.parked]
        assert bool(parked) == (mpm == "event")
        for phase in parked:
            assert getattr(ProcessRow(0), phase.parked) == 0 and phase.letter == "_"
        (keeping,) = [p.letter for p in tables.PATHS[mpm] if p.name.startswith("keep-alive")]
        assert keeping == ("_" if mpm == "event" else "K")
