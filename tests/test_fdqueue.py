"""The queue between a listener and its workers: each connection to one worker, none forgotten."""

import threading

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.waiting import poll_until

from mpmkit.server.fdqueue import FdQueue


class Worker:
    """A thread that takes from the queue until it ends; it stops at each item until `busy` is set."""

    def __init__(self, queue: FdQueue, taken: list, busy: threading.Event) -> None:
        self.queue, self.taken, self.busy = queue, taken, busy
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (item := self.queue.pop()) is not None:
            self.taken.append(item)
            self.busy.wait()


def test_who_becomes_idle_says_so_when_it_counts():
    """A listener that is woken and looks must find the worker: or it would wait forever."""
    seen: list[int] = []
    queue: FdQueue = FdQueue(lambda: seen.append(queue.idle))
    Worker(queue, [], threading.Event())
    poll_until(lambda: seen == [1])
    queue.end()


class QueueAgainstCounting(RuleBasedStateMachine):
    """Workers are counted, not run: a pop that would block is one more idle worker."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FdQueue = FdQueue()
        self.idle = self.reserved = self.made = 0
        self.backlog: list[int] = []
        self.threads: list[Worker] = []
        self.taken: list[int] = []
        self.given: list[int] = []

    @rule()
    @precondition(lambda self: len(self.threads) < 6)
    def a_worker_comes(self) -> None:
        gate = threading.Event()
        self.threads.append(Worker(self.queue, self.taken, gate))
        if self.backlog:
            self.given.append(self.backlog.pop(0))
            poll_until(lambda: len(self.taken) == len(self.given))
        else:
            self.idle += 1
            poll_until(lambda: self.queue.idle == self.idle)

    @rule()
    def reserve(self) -> None:
        assert self.queue.try_get_idler() is (self.idle > 0)
        if self.idle:
            self.idle -= 1
            self.reserved += 1

    @rule()
    @precondition(lambda self: self.reserved)
    def push(self) -> None:
        self.made += 1
        self.queue.push(self.made)
        self.reserved -= 1
        self.given.append(self.made)
        poll_until(lambda: len(self.taken) == len(self.given))

    @rule()
    @precondition(lambda self: self.reserved)
    def give_back(self) -> None:
        self.queue.release()
        self.reserved -= 1
        self.idle += 1

    @rule(many=st.integers(1, 3))
    def offer(self, many: int) -> None:
        for _ in range(many):
            self.made += 1
            assert self.queue.offer(self.made) is (self.idle > 0)
            if self.idle:
                self.idle -= 1
                self.given.append(self.made)
                poll_until(lambda: len(self.taken) == len(self.given))
            else:
                self.backlog.append(self.made)

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.queue.idle == self.idle
        assert len(self.queue._backlog) == len(self.backlog)
        assert sorted(self.taken) == sorted(self.given)

    def teardown(self) -> None:
        self.queue.end()
        for _ in range(self.reserved):
            self.queue.release()
        for worker in self.threads:
            worker.busy.set()
        for worker in self.threads:
            worker.thread.join(10)
            assert not worker.thread.is_alive()
        assert sorted(self.taken) == sorted(self.given + self.backlog) or not self.threads


TestQueueAgainstCounting = QueueAgainstCounting.TestCase
TestQueueAgainstCounting.settings = settings(max_examples=60, stateful_step_count=25)
