"""What an administrator sees a pool do, second by second, with httpd's figures: several servers at the
same time, since most of the time is waiting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.client import FINISH, Client, Lost, get, half_sent, parked, request
from support.load import Load
from support.servers import MPMS, launched, one_child, pool, shows
from support.waiting import poll_until

pytestmark = pytest.mark.usefixtures("everything_ends")


def together(*scenarios: Callable[[], Any]) -> list[Any]:
    """Run scenarios side by side, each in a thread; their results. Fails with the first failure."""
    with ThreadPoolExecutor(len(scenarios)) as threads:
        return [run.result() for run in [threads.submit(scenario) for scenario in scenarios]]


def generations(server) -> tuple[int, set[int]]:
    """The present generation, and those of the children."""
    snapshot = server.scoreboard().snapshot
    return snapshot.generation, {row.generation for row in snapshot.processes if row.pid}


def ten_restarts(mpm: str) -> None:
    with launched(mpm) as server:
        with (
            Load(server, clients=2) as closing,
            Load(server, clients=2, keep_alive=True) as keeping,
        ):
            closing.wait_for(5)
            keeping.wait_for(5)
            for number in range(1, 11):
                server.graceful()
                poll_until(lambda n=number: generations(server)[0] == n, "the next generation")
                closing.wait_for(5)
                keeping.wait_for(5)
            poll_until(lambda: generations(server)[1] == {10}, "only the last is left", 20)
        assert closing.failures == keeping.failures == [], server.error_log()
        assert {status for status, _ in closing.answers + keeping.answers} == {200}
        assert server.running
        log = server.error_log()
        ah = {"prefork": "AH00171", "worker": "AH00297", "event": "AH00493"}[mpm]
        assert log.count(f"{ah}: ") == 10
        assert ":error]" not in log and ":alert]" not in log and "Traceback" not in log, log


@pytest.mark.slow
def test_ten_graceful_restarts_in_a_row_under_load_fail_no_request():
    """New connections and kept-alive ones at the same time, the three MPMs side by side."""
    together(*(lambda mpm=mpm: ten_restarts(mpm) for mpm in MPMS))


def parked_beside_half_sent(clients: int, readers: int) -> None:
    """Event, four threads, fourteen clients in the middle of a head: parked ones stay.

    With two parked all threads may read, with six only two: then 8 < 4 + 2 * 2 is no longer true.

    httpd gives up its parked connections when no worker is idle, but they only see it when one is again
    (recorded with two). Ours keep theirs until KeepAliveTimeout, and answer who speaks meanwhile as
    soon as a worker is idle.
    """
    with launched("event", pool=one_child("event", 4), KeepAliveTimeout=4) as server:
        waiting = []
        for _ in range(clients):
            shows(server, idle=4)
            waiting.append(parked(server))
        since = time.monotonic()
        busy = [half_sent(server) for _ in range(14)]
        shows(server, R=readers)
        for client in waiting:
            client.silent(0.1)
        # One sends its request while no worker is free, and is answered once a worker is.
        waiting[0].send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        for client in busy:
            client.send(FINISH)
            assert client.reply().status == 200
            client.close()
        assert waiting[0].reply().status == 200
        for client in waiting[1:]:
            client.ended(8.0)
        # On a busy machine later than that, never before.
        assert time.monotonic() - since > 2.5
        assert get(server).status == 200


@pytest.mark.slow
def test_parked_clients_stay_while_half_sent_heads_take_the_workers():
    together(
        lambda: parked_beside_half_sent(2, readers=4), lambda: parked_beside_half_sent(6, readers=2)
    )


def test_a_client_does_not_wait_for_a_killed_child_while_another_is_idle():
    """The kernel wakes one child for a connection: always the same one, as long as it is idle. It is
    killed before it can run: it shares a CPU with us, and only gets it when we sleep (SCHED_IDLE).
    On a busy machine we may be put to sleep ourselves; then there was nothing to see this time."""
    here = os.sched_getaffinity(0)
    with launched("prefork", pool=pool("prefork", 3, 8, spare=(1, 6))) as server:
        shows(server, idle=3)
        woken = int(get(server, "/pid.py").body)
        shows(server, idle=3)
        try:
            os.sched_setaffinity(0, {min(here)})
            os.sched_setaffinity(woken, {min(here)})
            os.sched_setscheduler(woken, os.SCHED_IDLE, os.sched_param(0))
            client = Client(server).send(request("/pid.py", close=True))
            os.kill(woken, signal.SIGKILL)
        finally:
            os.sched_setaffinity(0, here)
        began = time.monotonic()
        try:
            answer = client.reply()
        except Lost:
            return  # it was quick enough to accept: its own client's request is lost with it
        assert answer.status == 200
        if int(answer.body) == woken:
            return  # and quick enough to answer
        # The parent learns of the death within a second, and looks.
        assert time.monotonic() - began < 5
        poll_until(
            lambda: len(server.processes()) == 2, "no worker is missing, so no child is forked"
        )
