"""The time-out queue against a list that does the same slowly."""

from __future__ import annotations

import pytest
from hypothesis import settings
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
        first = self.model[0][2] + self.queue.timeout if self.model else None
        assert self.queue.next_expiry() == first


TestQueueAgainstList = QueueAgainstList.TestCase
TestQueueAgainstList.settings = settings(max_examples=50)


def test_expiry_is_from_the_instant_on_and_a_shorter_timeout_holds_for_those_who_wait():
    queue: TimeoutQueue[str] = TimeoutQueue(5)
    queue.append(1, "a", 10.0)
    queue.append(2, "b", 11.0)
    assert queue.expired(14.999) == []
    assert queue.expired(15.0) == ["a"]
    queue.timeout = 2
    assert queue.expired(15.0) == ["b"]
