"""Parked connections, against a model: who may take one out, what follows its time-out, and that no news is
lost. The moment at which a worker is idle for the queue (the rest: test_interleaving.py); the pipe of death by
itself (that a byte calls one child and its end all of them: test_pool.py and test_processes.py)."""

import os
import select
import threading
from collections import Counter
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.waiting import poll_until

from mpmkit.policy.states import KEEPALIVE, LINGER_NORMAL, LINGER_SHORT, PROCESSING
from mpmkit.policy.states import WRITE_COMPLETION as WRITING
from mpmkit.policy.timeouts import ReadDeadline
from mpmkit.server.child import PipeOfDeath
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.parked import NEVER, ParkedConnections

STATES = {KEEPALIVE: 5.0, WRITING: 60.0, LINGER_NORMAL: 30.0, LINGER_SHORT: 2.0}
THEN = {KEEPALIVE: LINGER_SHORT, WRITING: LINGER_NORMAL, LINGER_NORMAL: None, LINGER_SHORT: None}


def test_who_becomes_idle_says_so_when_it_counts():
    """A listener that is woken and looks must find the worker: or it would wait forever."""
    seen: list[int] = []
    queue: FdQueue = FdQueue(lambda: seen.append(queue.idle))
    worker = threading.Thread(target=queue.pop)
    worker.start()
    poll_until(lambda: seen == [1])
    queue.end()
    worker.join()


def test_a_full_pipe_of_death_does_not_block_and_a_wait_ends_by_a_byte_another_descriptor_or_time():
    other = os.eventfd(0)
    with closing(PipeOfDeath()) as pod:
        assert pod.wait(other, 0.01) is False
        pod.retire_one()
        assert pod.wait(other, 10) is True and not pod.called(), "the wait took the byte"
        os.eventfd_write(other, 1)
        pod.wait(other)
        assert not pod.called()
        for _ in range(70_000):
            pod.retire_one()
        assert pod.called()
    os.close(other)


def Conn(fd: int) -> SimpleNamespace:
    """What ParkedConnections looks at of a connection; one is itself alone."""
    return type("Conn", (), {"fd": fd, "state": PROCESSING, "edge": False, "watching": 0})()


class Epoll(dict):
    """Records what is watched, and refuses what the kernel would refuse."""

    def register(self, fd: int, events: int) -> None:
        assert fd not in self
        self[fd] = events

    def modify(self, fd: int, events: int) -> None:
        assert fd in self
        self[fd] = events


class House:
    def __init__(self) -> None:
        self.now, self.wake = 100.0, Mock()
        directives = SimpleNamespace(KeepAliveTimeout=5.0, Timeout=60.0)
        self.parked = ParkedConnections(Epoll(), directives, self.wake, lambda: self.now)


def test_a_leaving_process_gives_its_clients_less_time():
    house = House()
    idle, closing = Conn(1), Conn(2)
    house.parked.park(idle, KEEPALIVE)
    assert (idle.state, house.parked.alarm, house.wake.call_count) == (KEEPALIVE, 105.0, 1)
    house.parked.park(closing, LINGER_NORMAL)
    house.parked.hurry(0.5)
    assert house.parked.alarm == 100.5
    house.now = 100.5
    assert house.parked.expired() == [(idle, LINGER_SHORT)]
    house.now = 102.0
    assert house.parked.expired() == [(closing, None)]
    assert (closing.state, house.parked.alarm) == (PROCESSING, NEVER)


class AgainstAList(RuleBasedStateMachine):
    """The model: for each parked connection its state and when it is due."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.conns = [Conn(fd) for fd in range(6)]
        self.due: dict[Any, tuple[float, int]] = {}

    @rule(seconds=st.floats(0, 4, allow_nan=False))
    def wait(self, seconds: float) -> None:
        self.house.now += seconds

    @rule(number=st.integers(0, 5), state=st.sampled_from(list(STATES)))
    def park(self, number: int, state: int) -> None:
        conn = self.conns[number]
        if conn in self.due:
            return
        edge = conn.edge and not (state == WRITING and not conn.watching & select.EPOLLOUT)
        assert self.house.parked.park(conn, state) == (not edge)
        if not edge:
            self.due[conn] = self.house.now + STATES[state], state

    @rule(number=st.integers(0, 5))
    def claim(self, number: int) -> None:
        conn = self.conns[number]
        assert self.house.parked.claim(conn) == (self.due.pop(conn, None) is not None)

    @rule(number=st.integers(0, 5))
    def news(self, number: int) -> None:
        conn = self.conns[number]
        expected = self.due[conn][1] if conn in self.due else PROCESSING
        assert self.house.parked.news(conn) == expected

    @rule(number=st.integers(0, 5))
    def read_all(self, number: int) -> None:
        if self.conns[number] not in self.due:
            self.conns[number].edge = False

    @precondition(lambda self: self.due)
    @rule()
    def expire(self) -> None:
        over = {conn: THEN[state] for conn, (at, state) in self.due.items() if at <= self.house.now}
        assert dict(self.house.parked.expired()) == over
        for conn in over:
            del self.due[conn]

    @invariant()
    def the_alarm_is_never_late_and_all_are_counted(self) -> None:
        assert self.house.parked.alarm <= min((at for at, _ in self.due.values()), default=NEVER)
        states = Counter(state for _, state in self.due.values())
        lingering = states[LINGER_NORMAL] + states[LINGER_SHORT]
        counted = (states[WRITING], lingering, states[KEEPALIVE])
        assert self.house.parked.lingering == lingering
        assert self.house.parked.counts() == counted


TestAgainstAList = AgainstAList.TestCase


@pytest.mark.parametrize(("limits", "bytes_at_5", "wait_at_10"), [
    ((60, 0, 0, 0), 0, 60), ((60, 20, 0, 0), 0, 10), ((60, 20, 0, 500), 1000, 12),
    ((60, 20, 21, 500), 1000, 11), ((5, 20, 0, 0), 0, 5), ((60, 10, 0, 0), 0, 0),
])  # fmt: skip
def test_how_long_a_read_may_wait(limits, bytes_at_5, wait_at_10):
    """Of (Timeout, init, max, rate), ten seconds after the beginning: each byte buys time, up to max."""
    deadline = ReadDeadline(*limits, now=100.0)
    deadline.received(bytes_at_5)
    assert deadline.wait(110.0) == wait_at_10
