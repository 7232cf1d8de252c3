"""The tables of states: complete, consistent, and in the order that maintenance relies on."""

from __future__ import annotations

import pytest

from mpmkit.config.directives import MPMS
from mpmkit.policy import states
from mpmkit.policy.snapshot import ProcessRow

NUMBERS = range(len(states.LETTERS))


def test_every_worker_state_has_a_number_a_letter_a_name_and_words():
    assert states.LETTERS == ".S_RWKLDCGI"
    assert len(states.LETTERS) == len(states.NAMES) == len(states.WORDS) == 11
    assert [getattr(states, name) for name in states.NAMES] == list(NUMBERS)


def test_the_order_of_the_numbers_is_what_maintenance_compares_with():
    assert set(states.IDLE) == {n for n in NUMBERS if n <= states.READY}
    assert set(states.ACTIVE) == {n for n in NUMBERS if states.READY <= n < states.GRACEFUL}
    assert set(states.BUSY) == set(states.ACTIVE) - {states.READY}


def test_letters_and_numbers_are_inverse():
    every = bytes(NUMBERS)
    assert states.letters(every) == states.LETTERS
    assert states.numbers(states.LETTERS) == every
    assert states.letters(b"") == ""


def test_a_byte_that_is_no_state_is_an_error():
    with pytest.raises(ValueError, match="11"):
        states.letters(bytes([11]))
    with pytest.raises(ValueError):
        states.numbers("x")


def test_every_connection_state_has_a_name():
    assert [getattr(states, name) for name in states.CONNECTION_NAMES] == list(
        range(len(states.CONNECTION_NAMES))
    )


@pytest.mark.parametrize("mpm", MPMS)
def test_every_path_through_the_transitions_can_end(mpm):
    """From PROCESSING every state of the table can be reached, and from each of them CLOSED."""
    arrows = states.TRANSITIONS[mpm]
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
    for state in mentioned:
        assert states.CLOSED in reachable(state)
    assert not [a for a in arrows if a.state == states.CLOSED]


@pytest.mark.parametrize("mpm", MPMS)
def test_one_event_leads_to_one_state(mpm):
    arrows = states.TRANSITIONS[mpm]
    assert len({(a.state, a.event) for a in arrows}) == len(arrows)


def test_only_event_has_a_listener_that_moves_connections():
    assert {a.who for a in states.TRANSITIONS["prefork"]} == {"worker"}
    assert {a.who for a in states.TRANSITIONS["worker"]} == {"worker"}
    assert {a.who for a in states.TRANSITIONS["event"]} == {"worker", "listener"}


def test_the_listener_only_takes_connections_that_are_parked():
    taken = {a.state for a in states.TRANSITIONS["event"] if a.who == "listener"}
    assert taken <= set(states.PARKED)


def test_a_parked_state_names_a_counter_of_the_process_row():
    row = ProcessRow(0)
    for counter in states.PARKED.values():
        assert getattr(row, counter) == 0


def test_the_paths_tell_the_same_phases_for_each_mpm():
    assert set(states.PATHS) == set(MPMS)
    names = {tuple(phase.name for phase in path) for path in states.PATHS.values()}
    assert len(names) == 1


def test_a_phase_has_a_letter_and_only_event_parks():
    for mpm, path in states.PATHS.items():
        for phase in path:
            assert phase.letter in states.LETTERS
            if phase.parked:
                assert mpm == "event"
                assert phase.letter == "_", "a parked connection has no thread of its own"
                assert phase.parked in states.PARKED.values()


def test_keep_alive_is_where_the_mpms_differ():
    def letter(mpm: str) -> str:
        return next(p.letter for p in states.PATHS[mpm] if p.name.startswith("keep-alive"))

    assert [letter(mpm) for mpm in ("prefork", "worker", "event")] == ["K", "K", "_"]
