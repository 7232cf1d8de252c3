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
COUNTS = st.integers(0, 300)
NUMBERS = range(len(states.LETTERS))


def test_the_docstring_is_true():
    failures, tried = doctest.testmod(admission)
    assert tried > 0 == failures


@given(COUNTS, COUNTS, COUNTS, st.tuples(st.integers(1, 64), st.floats(0.01, 20)))
def test_an_idle_worker_is_needed_and_connections_that_only_linger_do_not_count(
    idle, connections, lingering, settings
):
    for disabled in (False, True):
        assert connections_above_limit(0, connections, lingering, *settings, disabled)
        assert not connections_above_limit(1 + idle, connections, connections, *settings, disabled)
    # No flapping: a child that may start again would also have been allowed to go on.
    seen = 1 + idle, connections, lingering, *settings
    assert connections_above_limit(*seen, True) or not connections_above_limit(*seen, False)


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
    for stops, *seen in replayed:
        assert connections_above_limit(*seen, *settings, not stops) is stops


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
    arrows = tables.TRANSITIONS[mpm]
    assert len({(a.state, a.event) for a in arrows}) == len(arrows), "an event leads to one state"
    mentioned = {a.state for a in arrows} | {a.next for a in arrows}

    def reachable(start: int) -> set[int]:
        found, todo = {start}, [start]
        while todo:
            here = todo.pop()
            todo += (new := {a.next for a in arrows if a.state == here} - found)
            found |= new
        return found

    assert reachable(states.PROCESSING) == mentioned
    assert all(states.CLOSED in reachable(state) for state in mentioned)
    assert not [a for a in arrows if a.state == states.CLOSED]
    assert {a.who for a in arrows} == {"worker", *["listener"] * (mpm == "event")}
    # Only event parks a connection, in a counter of its process.
    parked = [phase for phase in tables.PATHS[mpm] if phase.parked]
    assert bool(parked) == (mpm == "event")
    assert all(getattr(ProcessRow(0), one.parked) == 0 and one.letter == "_" for one in parked)
    (keeping,) = [p.letter for p in tables.PATHS[mpm] if p.name.startswith("keep-alive")]
    assert keeping == ("_" if mpm == "event" else "K")
