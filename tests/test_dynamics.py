"""What an administrator sees a pool do, second by second, with httpd's figures: several servers at the
same time, since most of the time is waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from processes import (
    MPMS,
    Load,
    nothing_left,
    serve,
    until,
)


@pytest.fixture(autouse=True)
def everything_ends():
    with nothing_left():
        yield


def together(*scenarios: Callable[[], Any]) -> list[Any]:
    """Run scenarios side by side, each in a thread; their results. Fails with the first failure."""
    results: list[Any] = [None] * len(scenarios)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = scenarios[index]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(scenarios))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


# --- Twenty graceful restarts --------------------------------------------------------------------


def twenty_restarts(mpm: str) -> None:
    with serve(mpm) as server:
        with Load(server, clients=2, seconds=60) as closing, \
                Load(server, clients=2, seconds=60, keep_alive=True) as keeping:
            closing.wait_for(5)
            keeping.wait_for(5)
            for number in range(1, 21):
                server.graceful()
                until(lambda n=number: server.scoreboard().snapshot.generation == n,
                      "the next generation")
                closing.wait_for(5)
                keeping.wait_for(5)
            until(lambda: all(row.generation == 20 for row in server.scoreboard().snapshot.processes
                              if row.pid), "only the last generation is left", 20)
        assert closing.failures == keeping.failures == [], server.error_log()
        assert {status for status, _ in closing.answers + keeping.answers} == {200}
        assert server.running
        log = server.error_log()
        ah = {"prefork": "AH00171", "worker": "AH00297", "event": "AH00493"}[mpm]
        assert log.count(f"{ah}: ") == 20
        assert ":error]" not in log and ":alert]" not in log and "Traceback" not in log, log


@pytest.mark.slow
def test_twenty_graceful_restarts_in_a_row_under_load_fail_no_request():
    """New connections and kept-alive ones at the same time, the three MPMs side by side."""
    together(*(lambda mpm=mpm: twenty_restarts(mpm) for mpm in MPMS))
