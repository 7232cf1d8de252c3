"""What threads share, in other threads' turns, one step of the interpreter at a time; and by itself.

After each instruction, and where a thread waits for a lock or a queue, the test decides who goes on. So a race
that a busy server meets once a week comes in a few hundred schedules, and again with their seed. The
interpreter's lock protects nothing here: it is given away at each step.

Parked connections also against a model: who may take one out, what follows its time-out, and that no news is
lost. The pipe of death by itself: that a byte calls one child and its end all of them, test_pool.py and
test_processes.py show."""

import os
import random
import select
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.configured import directives

from mpmkit.http import fastpath, messages
from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import HeadStart, http_date
from mpmkit.policy import timeouts
from mpmkit.policy.states import KEEPALIVE, LINGER_NORMAL, LINGER_SHORT, PROCESSING
from mpmkit.policy.states import WRITE_COMPLETION as WRITING
from mpmkit.policy.timeouts import ReadDeadline
from mpmkit.server import fdqueue, parked
from mpmkit.server.child import PipeOfDeath
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.parked import LINGERING, NEVER, ParkedConnections

FILES = {module.__file__ for module in (fastpath, messages, timeouts, fdqueue, parked)}
SCHEDULES = 100
MOST_STEPS = 50_000  # of a schedule; the longest takes a tenth of them
_mine = threading.local()  # a job's way to let another go on: `_mine.step()`
# Who may want a connection at the same moment; it is parked already where no worker parks it.
WANTING = (("park", "news", "expire"), ("park", "news"), ("news", "expire"))


class Lock:
    """A lock whose waiters never get it."""

    taken = False

    def __enter__(self) -> None:
        while self.taken:
            _mine.step()
        self.taken = True

    def __exit__(self, *_: object) -> None:
        self.taken = False


class NoLock:
    __enter__ = __exit__ = lambda *_: None


class Stuck(Exception):
    """A schedule without an end: who waits was forgotten."""


class Queue(deque):
    put = deque.append

    def get(self) -> Any:
        while not self:
            _mine.step()
        return self.popleft()


def interleaved(jobs: list[Callable[[], Any]], schedule: random.Random) -> list[Any]:
    """What the jobs return, each in its thread, which take turns after each instruction in FILES."""
    results: list[Any] = [None] * len(jobs)
    turns = [threading.Semaphore(0) for _ in jobs]
    stopped = threading.Semaphore(0)
    running = set(range(len(jobs)))
    steps = 0

    def run(number: int) -> None:
        def step() -> None:
            stopped.release()
            turns[number].acquire()
            if steps > MOST_STEPS:
                raise Stuck

        def trace(frame: Any, event: str, _: object) -> Any:
            if frame.f_code.co_filename not in FILES:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                step()
            return trace

        _mine.step = step
        turns[number].acquire()
        sys.settrace(trace)
        try:
            results[number] = jobs[number]()
        except BaseException as error:
            results[number] = error
        finally:
            sys.settrace(None)
            running.discard(number)
            stopped.release()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in running]
    for thread in threads:
        thread.start()
    going_on, number = 1 - 2.0 ** -schedule.randint(0, 6), -1  # for 1 to 64 steps on average
    while running:
        if number not in running or schedule.random() > going_on:
            number = schedule.choice(sorted(running))
        turns[number].release()
        assert stopped.acquire(timeout=60)
        steps += 1
    for thread in threads:
        thread.join(10)
    return results


def test_a_date_is_that_of_its_second():
    """Two threads meet at the end of a second; later requests must not find the wrong one either."""
    for seed in range(SCHEDULES):
        heads, seconds = HeadStart(), (1_000, 1_001)
        heads.lines(200, 1_000)
        found = interleaved([partial(heads.lines, 200, s) for s in seconds], random.Random(seed))
        found.append(heads.lines(200, 1_001))
        for second, lines in zip((*seconds, 1_001), found, strict=True):
            assert http_date(second).encode() in lines, f"schedule {seed}"


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
def test_a_head_is_read_the_same_whoever_remembers(full, monkeypatch):
    if full:  # each step of one thread empties what the other has just filled
        for name in ("HEADS_REMEMBERED", "LINES_REMEMBERED", "SEEN_ONCE"):
            monkeypatch.setattr(fastpath, name, 1)
    values = directives()
    heads = [b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Own: %d\r\n\r\n" % (n, n) for n in range(2)]

    def twice(cache: RequestCache, head: bytes) -> list[tuple]:
        seen = []
        for _ in range(2):
            request = cache.known.get(head) or cache.read_plain(head)
            cache.remember(head, request)
            seen.append((request.head, request.path, request.headers, request.close))
        return seen

    right = [twice(RequestCache(values), head) for head in heads]
    for seed in range(SCHEDULES // 10):
        cache = RequestCache(values)
        jobs = [partial(twice, cache, head) for head in heads]
        assert interleaved(jobs, random.Random(seed)) == right, f"schedule {seed}"
        assert len(cache.known) <= 2 and all(cache.known[h].head == h for h in cache.known)


@pytest.fixture
def turns(monkeypatch):
    """Locks and queues that wait by taking turns."""
    for module in (fdqueue, parked):
        monkeypatch.setattr(module, "Lock", Lock)
    monkeypatch.setattr(fdqueue, "SimpleQueue", Queue)


def test_each_connection_has_one_worker_and_all_end(turns):
    """A listener reserves, hands over and gives back, or offers and rouses; another thread ends the queue at any
    moment."""

    def listener(queue: FdQueue, give: Callable[[int], None], given: list[int]) -> None:
        while len(given) < 4 and queue.wait_for_idler():
            given.append(len(given))
            give(given[-1])
            if queue.try_get_idler():  # and there was nothing to accept
                queue.release()

    def offering(queue: FdQueue, offered: list[int]) -> None:
        for number in (10, 11):  # for a worker that is idle, or for the next
            offered.append(number)
            queue.offer(number)
            queue.rouse()

    for seed in range(3 * SCHEDULES):
        queue: FdQueue = FdQueue(in_turn=bool(seed % 2))
        give = partial(queue.offer, reserved=True) if seed % 2 else queue.push
        given, offered = [0], []
        queue.offer(0)
        workers = [partial(list, iter(queue.pop, None)) for _ in range(2)]
        jobs = [partial(listener, queue, give, given), partial(offering, queue, offered), queue.end]
        *taken, listened, done, ended = interleaved([*workers, *jobs], random.Random(seed))
        late = list(queue._backlog)  # offered when it had ended
        assert sorted(chain(*taken, late)) == given + offered, f"schedule {seed}: {taken}"
        assert (listened, done, ended, queue.idle) == (None, None, None, -len(late))


@pytest.mark.parametrize("seed", range(SCHEDULES))
@pytest.mark.parametrize("wanting", WANTING, ids="-".join)
def test_a_parked_connection_goes_to_one_of_those_who_want_it(wanting, seed, turns):
    """A worker parks it, as news come and as its time is over: one of them has it then."""
    waits = SimpleNamespace(KeepAliveTimeout=0.0, Timeout=60.0)
    place = ParkedConnections(SimpleNamespace(register=lambda *_: None), waits, clock=lambda: 100.0)
    conn = Conn(7)
    if "park" not in wanting:
        place.park(conn, KEEPALIVE)
    jobs = {
        "park": lambda: not place.park(conn, KEEPALIVE),
        "news": lambda: place.news(conn) == KEEPALIVE and place.claim(conn),
        "expire": lambda: len(place.expired()) == 1,
    }
    found = interleaved([jobs[who] for who in wanting], random.Random(seed))
    assert found.count(True) == 1 and found.count(False) == len(wanting) - 1, found
    assert conn.state == PROCESSING and not any(place.counts())


def test_a_lock_that_is_missing_is_noticed(turns, monkeypatch):
    monkeypatch.setattr(fdqueue, "Lock", NoLock)
    with pytest.raises((AssertionError, TypeError)):
        test_each_connection_has_one_worker_and_all_end(None)
    monkeypatch.setattr(parked, "Lock", NoLock)
    for wanting in WANTING[1:]:
        with pytest.raises(AssertionError):
            for seed in range(10 * SCHEDULES):  # a few in a hundred meet it, by Python's version
                test_a_parked_connection_goes_to_one_of_those_who_want_it(wanting, seed, None)


NUMBER = st.integers(0, 5)  # of a connection
STATES = {KEEPALIVE: 5.0, WRITING: 60.0, LINGER_NORMAL: 30.0, LINGER_SHORT: 2.0}
THEN = {KEEPALIVE: LINGER_SHORT, WRITING: WRITING, LINGER_NORMAL: None, LINGER_SHORT: None}


def test_who_becomes_idle_says_so_when_it_counts():
    """A listener that is woken and looks must find the worker: or it would wait forever."""
    seen: list[tuple[int, None, int]] = []
    queue: FdQueue = FdQueue(lambda: seen.append((queue.idle, queue.offer(3), queue.idle)))
    for number in range(3):
        queue.offer(number)
    assert [queue.pop() for _ in range(4)] == [0, 1, 2, 3], "what none was idle for comes in turn"
    assert seen == [(1, None, 0)]


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
    what = {"fd": fd, "state": PROCESSING, "edge": False, "watching": 0, "left": 9}
    return type("Conn", (), what)()


class Epoll(dict):
    """Records what is watched, and refuses what the kernel would refuse."""

    def register(self, fd: int, events: int) -> None:
        assert fd not in self
        self[fd] = events

    def modify(self, fd: int, events: int) -> None:
        assert fd in self
        self[fd] = events


class AgainstAList(RuleBasedStateMachine):
    """The model: of each parked connection, since when it waits, and in which state."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wake, self.waits = 100.0, Mock(), dict(STATES)
        directives = SimpleNamespace(KeepAliveTimeout=5.0, Timeout=60.0)
        self.parked = ParkedConnections(Epoll(), directives, self.wake, lambda: self.now)
        self.conns = [Conn(fd) for fd in range(6)]
        self.since: dict[Any, tuple[float, int]] = {}

    def due(self) -> dict[Any, float]:
        return {conn: since + self.waits[state] for conn, (since, state) in self.since.items()}

    @rule(seconds=st.floats(0, 4, allow_nan=False))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=NUMBER, state=st.sampled_from(list(STATES)))
    def park(self, number: int, state: int) -> None:
        conn = self.conns[number]
        if conn in self.since:
            return
        edge = conn.edge and not (state == WRITING and not conn.watching & select.EPOLLOUT)
        alarm, woken = self.parked.alarm, self.wake.call_count
        assert self.parked.park(conn, state) == (not edge)
        assert (self.wake.call_count > woken) == (self.parked.alarm < alarm)
        if not edge:
            self.since[conn] = self.now, state

    @rule(number=NUMBER, lingering=st.booleans())
    def claim(self, number: int, lingering: bool) -> None:
        conn = self.conns[number]
        there = conn in self.since and lingering == (self.since[conn][1] in LINGERING)
        assert self.parked.claim(conn, lingering) == (there and bool(self.since.pop(conn)))

    @rule(number=NUMBER)
    def news(self, number: int) -> None:
        conn = self.conns[number]
        expected = self.since[conn][1] if conn in self.since else PROCESSING
        assert self.parked.news(conn) == expected == conn.state

    @rule(number=NUMBER)
    def read_all(self, number: int) -> None:
        if self.conns[number] not in self.since:
            self.conns[number].edge = False

    @rule(seconds=st.sampled_from([0.5, 9.0]))
    def leave(self, seconds: float) -> None:
        """The process leaves, and gives its clients less time."""
        self.parked.hurry(seconds)
        self.waits[KEEPALIVE] = min(self.waits[KEEPALIVE], seconds)
        self.waits[LINGER_NORMAL] = STATES[LINGER_SHORT]

    @precondition(lambda self: self.since)
    @rule()
    def expire(self) -> None:
        over = {one: THEN[self.since[one][1]] for one, at in self.due().items() if at <= self.now}
        assert dict(self.parked.expired()) == over
        for conn, then in over.items():
            del self.since[conn]
            if then == WRITING:  # a worker has yet to claim it
                self.since[conn] = self.now, then

    @invariant()
    def the_alarm_is_never_late_and_all_are_counted(self) -> None:
        assert self.parked.alarm <= min(self.due().values(), default=NEVER)
        states = Counter(state for _, state in self.since.values())
        lingering = states[LINGER_NORMAL] + states[LINGER_SHORT]
        assert self.parked.counts() == (states[WRITING], lingering, states[KEEPALIVE])


TestAgainstAList = AgainstAList.TestCase


@pytest.mark.parametrize(("limits", "wait"), [
    ((60, 0, 0, 0), 60), ((60, 20, 0, 500), 12), ((60, 20, 21, 500), 11), ((5, 20, 0, 500), 5),
])  # fmt: skip
def test_how_long_a_read_may_wait(limits, wait):
    """Of (Timeout, init, max, rate), ten seconds after the beginning: each byte buys time, up to max."""
    deadline = ReadDeadline(*limits, now=100.0)
    deadline.received(1000)
    assert deadline.wait(110.0) == wait
