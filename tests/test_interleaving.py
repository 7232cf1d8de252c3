"""What threads share, in other threads' turns: one step of the interpreter at a time.

After each instruction, and where a thread waits for a lock or a queue, the test decides who goes on. So a race
that a busy server meets once a week comes in a few hundred schedules, and again with their seed. The
interpreter's lock protects nothing here: it is given away at each step.
"""

import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from support.configured import directives

from mpmkit.http import fastpath, messages
from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import HeadStart, http_date
from mpmkit.policy import timeouts
from mpmkit.policy.states import KEEPALIVE, PROCESSING
from mpmkit.server import fdqueue, parked
from mpmkit.server.fdqueue import FdQueue
from mpmkit.server.parked import ParkedConnections

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
        heads = HeadStart()
        heads.lines(200, 1_000)
        jobs = [partial(heads.lines, 200, second) for second in (1_000, 1_001)]
        found = interleaved(jobs, random.Random(seed))
        for second, lines in zip((1_000, 1_001), found, strict=True):
            assert http_date(second).encode() in lines, f"schedule {seed}"
        assert http_date(1_001).encode() in heads.lines(200, 1_001), f"schedule {seed}"


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
    """A listener reserves, hands over and gives back, or offers; another thread ends the queue at any moment."""

    def listener(queue: FdQueue, given: list[int]) -> None:
        while len(given) < 4 and queue.wait_for_idler():
            given.append(len(given))
            queue.push(given[-1])
            if queue.try_get_idler():  # and there was nothing to accept
                queue.release()

    def offering(queue: FdQueue, offered: list[int]) -> None:
        for number in (10, 11):  # for a worker that is idle, or for the next
            offered.append(number)
            queue.offer(number)

    for seed in range(3 * SCHEDULES):
        queue: FdQueue = FdQueue()
        given, offered = [0], []
        queue.offer(0)
        workers = [partial(list, iter(queue.pop, None)) for _ in range(2)]
        jobs = [partial(listener, queue, given), partial(offering, queue, offered), queue.end]
        *taken, listened, done, ended = interleaved([*workers, *jobs], random.Random(seed))
        late = list(queue._backlog)  # offered when it had ended
        assert sorted(chain(*taken, late)) == given + offered, f"schedule {seed}: {taken}"
        assert (listened, done, ended, queue.idle) == (None, None, None, 0)


def test_what_no_worker_was_idle_for_is_taken_in_its_order():
    queue: FdQueue = FdQueue()
    assert not any(queue.offer(number) for number in range(3))
    assert [queue.pop() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(SCHEDULES))
@pytest.mark.parametrize("wanting", WANTING, ids="-".join)
def test_a_parked_connection_goes_to_one_of_those_who_want_it(wanting, seed, turns):
    """A worker parks it, as news come and as its time is over: one of them has it then."""
    waits = SimpleNamespace(KeepAliveTimeout=0.0, Timeout=60.0)
    place = ParkedConnections(SimpleNamespace(register=lambda *_: None), waits, clock=lambda: 100.0)
    conn = type("Conn", (), {"fd": 7, "state": PROCESSING, "edge": False, "watching": 0})()
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
            for seed in range(SCHEDULES):
                test_a_parked_connection_goes_to_one_of_those_who_want_it(wanting, seed, None)
