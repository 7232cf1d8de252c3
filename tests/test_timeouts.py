"""The time-out queue against a list that does the same slowly, and against threads."""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mpmkit.policy.timeouts import TimeoutQueue

KEYS = st.integers(0, 7)


class QueueAgainstList(RuleBasedStateMachine):
    """The model: a list of [key, item, start] in the order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TimeoutQueue[str] = TimeoutQueue(5.0)
        self.model: list[tuple[int, str, float]] = []
        self.now = 100.0
        self.made = 0

    def take(self, keep) -> list[str]:
        taken = [item for key, item, start in self.model if not keep(key, start)]
        self.model = [row for row in self.model if keep(row[0], row[2])]
        return taken

    @rule(seconds=st.floats(0, 4, allow_nan=False))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(timeout=st.sampled_from([0.0, 2.0, 5.0, 30.0]))
    def change_timeout(self, timeout: float) -> None:
        self.queue.timeout = timeout

    @rule(key=KEYS)
    def append(self, key: int) -> None:
        self.made += 1
        item = f"item {self.made}"
        if key in {row[0] for row in self.model}:
            with pytest.raises(KeyError, match="already"):
                self.queue.append(key, item, self.now)
        else:
            self.queue.append(key, item, self.now)
            self.model.append((key, item, self.now))

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        expected = self.take(lambda k, start: k != key)
        assert self.queue.pop(key) == (expected[0] if expected else None)

    @rule()
    def expired(self) -> None:
        now, timeout = self.now, self.queue.timeout
        assert self.queue.expired(now) == self.take(lambda k, start: start + timeout > now)

    @invariant()
    def same_size_and_same_next_expiry(self) -> None:
        assert len(self.queue) == len(self.model)
        assert bool(self.queue) == bool(self.model)
        assert all(row[0] in self.queue for row in self.model)
        first = self.model[0][2] + self.queue.timeout if self.model else None
        assert self.queue.next_expiry() == first


TestQueueAgainstList = QueueAgainstList.TestCase


def test_expiry_is_from_the_instant_on():
    queue: TimeoutQueue[str] = TimeoutQueue(5)
    queue.append(1, "a", 10.0)
    assert queue.expired(14.999) == []
    assert queue.expired(15.0) == ["a"]


def test_a_shorter_timeout_holds_for_those_who_already_wait():
    queue: TimeoutQueue[str] = TimeoutQueue(30)
    queue.append(1, "a", 0.0)
    assert queue.expired(3.0) == []
    queue.timeout = 2
    assert queue.expired(3.0) == ["a"]


def test_a_negative_timeout_is_an_error():
    with pytest.raises(ValueError, match="-1"):
        TimeoutQueue(-1)


def test_the_repr_says_how_long_and_how_many():
    queue: TimeoutQueue[str] = TimeoutQueue(0.5)
    queue.append(1, "a", 0.0)
    assert repr(queue) == "<TimeoutQueue 0.5 s, 1 waiting>"


@pytest.fixture
def eager_switching():
    """Let threads take turns as often as the interpreter can, so that races have a chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_together(*jobs) -> None:
    start = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_of_many_who_claim_one_gets_it(eager_switching):
    queue: TimeoutQueue[int] = TimeoutQueue(0)
    keys = range(500)
    for key in keys:
        queue.append(key, key, 0.0)
    got: list[list[int]] = [[] for _ in range(4)]

    def claim(mine: list[int]) -> None:
        for key in keys:
            item = queue.pop(key)
            if item is not None:
                mine.append(item)

    run_together(
        *(lambda mine=mine: claim(mine) for mine in got[:3]),
        lambda: got[3].extend(queue.expired(0.0)),
    )
    assert Counter(item for mine in got for item in mine) == Counter(keys)
    assert len(queue) == 0


def test_nobody_is_lost_while_some_append_and_one_looks_for_the_expired(eager_switching):
    queue: TimeoutQueue[int] = TimeoutQueue(0)
    expired: list[int] = []
    done = threading.Event()

    def append(first: int) -> None:
        for key in range(first, first + 300):
            queue.append(key, key, 0.0)

    def listener() -> None:
        while not done.is_set():
            expired.extend(queue.expired(0.0))
            queue.next_expiry()
        expired.extend(queue.expired(0.0))

    def appenders() -> None:
        try:
            run_together(lambda: append(0), lambda: append(300), lambda: append(600))
        finally:
            done.set()

    run_together(listener, appenders)
    assert sorted(expired) == list(range(900))


class Meddled(OrderedDict):
    """An OrderedDict in which another thread acts at the one moment that matters."""

    def items(self):
        if self.meddle_items:
            self.meddle_items = False
            raise RuntimeError("mutated during iteration")
        return super().items()

    def pop(self, key, default=None):
        if self.meddle_pop:
            self.meddle_pop = False
            super().pop(key)
            super().__setitem__(key, (50.0, "anew"))
        return super().pop(key, default)


def meddled(queue: TimeoutQueue[str], *, items: bool = False, pop: bool = False) -> None:
    queue._waiting = Meddled()
    queue._waiting.meddle_items = items
    queue._waiting.meddle_pop = pop


def test_a_look_that_was_disturbed_is_repeated():
    queue: TimeoutQueue[str] = TimeoutQueue(5)
    meddled(queue, items=True)
    queue.append(1, "a", 0.0)
    assert queue.next_expiry() == 5.0


def test_who_was_claimed_and_came_back_meanwhile_waits_anew():
    queue: TimeoutQueue[str] = TimeoutQueue(5)
    meddled(queue, pop=True)
    queue.append(1, "old", 0.0)
    assert queue.expired(10.0) == []
    assert queue.pop(1) == "anew"
