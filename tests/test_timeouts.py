"""The time-out queue by itself; test_parked.py compares four of them with a list."""

from __future__ import annotations

import pytest

from mpmkit.policy.timeouts import ReadDeadline, TimeoutQueue


def test_expiry_is_from_the_instant_on_and_a_shorter_timeout_holds_for_those_who_wait():
    queue: TimeoutQueue[str] = TimeoutQueue(5)
    assert queue.next_expiry() is None and not queue.pop("a")
    for item, now in (("a", 10.0), ("b", 11.0), ("c", 11.0)):
        queue.append(item, now)
    assert (queue.next_expiry(), len(queue)) == (15.0, 3)
    assert queue.expired(14.999) == []
    assert queue.expired(15.0) == ["a"]
    assert queue.pop("c")
    queue.timeout = 2
    assert (queue.next_expiry(), queue.expired(15.0), len(queue)) == (13.0, ["b"], 0)


@pytest.mark.parametrize(("limits", "bytes_at_5", "wait_at_10"), [
    ((60, 0, 0, 0), 0, 60), ((60, 20, 0, 0), 0, 10), ((60, 20, 0, 500), 1000, 12),
    ((60, 20, 21, 500), 1000, 11), ((5, 20, 0, 0), 0, 5), ((60, 10, 0, 0), 0, 0),
])  # fmt: skip
def test_how_long_a_read_may_wait(limits, bytes_at_5, wait_at_10):
    """Of (Timeout, init, max, rate), ten seconds after the beginning: each byte buys time, up to max."""
    deadline = ReadDeadline(*limits, now=100.0)
    deadline.received(bytes_at_5)
    assert deadline.wait(110.0) == wait_at_10
