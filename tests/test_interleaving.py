"""What threads share without a lock, in other threads' turns: one step of the interpreter at a time.

Two threads run the same code; after each instruction of it the test decides who goes on. So a race
that a busy server meets once a week comes in a few hundred schedules, and comes again with their seed.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.configured import directives

from mpmkit.http import fastpath, messages
from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import HeadStart, http_date

FILES = {fastpath.__file__, messages.__file__}
SCHEDULES = 100


def interleaved(jobs: list[Callable[[], Any]], schedule: random.Random) -> list[Any]:
    """What the jobs return, each in its thread, which take turns after each instruction in FILES."""
    results: list[Any] = [None] * len(jobs)
    turns = [threading.Semaphore(0) for _ in jobs]
    stopped = threading.Semaphore(0)
    running = set(range(len(jobs)))

    def run(number: int) -> None:
        def trace(frame: Any, event: str, _: object) -> Any:
            if frame.f_code.co_filename not in FILES:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                stopped.release()
                turns[number].acquire()
            return trace

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
    while running:
        turns[schedule.choice(sorted(running))].release()
        assert stopped.acquire(timeout=60)
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
    heads = [
        b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Own: %d\r\n\r\n" % (number, number)
        for number in range(2)
    ]

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
