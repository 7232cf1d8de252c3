"""The states' numbers are in the order that maintenance relies on, and the lesson's tables are whole."""

import pytest
from helpers import connection_states as tables

from mpmkit.config.directives import MPMS
from mpmkit.policy import states
from mpmkit.policy.connection_trace import STATE_NAMES
from mpmkit.policy.snapshot import ProcessRow

NUMBERS = range(len(states.LETTERS))
ARROWS = tables.TRANSITIONS


def test_the_order_of_the_numbers_is_what_maintenance_compares_with():
    assert states.LETTERS == ".S_RWKLDCGI" and len(states.WORDS) == len(NUMBERS)
    assert set(states.IDLE) == {n for n in NUMBERS if n <= states.READY}
    assert set(states.ACTIVE) == {n for n in NUMBERS if states.READY <= n < states.GRACEFUL}
    assert set(states.BUSY) == set(states.ACTIVE) - {states.READY}


def test_every_connection_state_has_its_name():
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
