"""A trace through an MPM: what a request waits for follows from the directives, and can be counted by hand."""

import math
import random
from dataclasses import replace

import pytest
from support.rows import trace

from mpmkit import simulate
from mpmkit.config.directives import MPMS
from mpmkit.measure.trace import Trace
from mpmkit.policy import traffic

ONE = {  # MPM -> a pool of four workers in one go, that idle maintenance leaves as it is
    "prefork": {"StartServers": 4, "MaxRequestWorkers": 4},
    "worker": {"StartServers": 1, "ThreadsPerChild": 4, "MaxRequestWorkers": 4},
    "event": {"StartServers": 1, "ThreadsPerChild": 4, "MaxRequestWorkers": 4},
}
LEAN = {"MinSpareServers": 1, "MaxSpareServers": 2, "MinSpareThreads": 1, "MaxSpareThreads": 4}


@pytest.mark.parametrize("mpm", MPMS)
def test_requests_wait_their_turn(mpm):
    run = simulate(mpm, trace=trace(*((0.1 * n, 3.0, n) for n in range(1, 7))), **ONE[mpm])
    assert list(run.waits) == pytest.approx([0, 0, 0, 0, 2.6, 2.6])
    assert (run.peak_busy, run.overflow, run.lost) == (4, 0, 0)
    assert run.waited == pytest.approx(2 / 6) and run.waited_longer(2.7) == 0
    assert run.wait_quantile(0.5) == 0 and run.wait_quantile(1) == pytest.approx(2.6)
    assert run.binds == {"MaxRequestWorkers": (pytest.approx(0.5), 2)}
    assert run.seconds == pytest.approx(6.2) and run.mean_busy == pytest.approx(18 / 6.2)


@pytest.mark.parametrize(
    "mpm, waited, peak", [("prefork", 4, 4), ("worker", 4, 4), ("event", 0, 1)]
)
def test_kept_connections_hold_workers_but_for_event(mpm, waited, peak):
    requests = [(1 + n, 0.5, n) for n in range(8)]
    run = simulate(mpm, trace=trace(*requests, kept=1), KeepAliveTimeout=20, **ONE[mpm])
    assert (sum(wait > 0 for wait in run.waits), run.peak_busy) == (waited, peak)
    off = simulate(mpm, trace=trace(*requests, kept=1), KeepAlive=False, **ONE[mpm])
    assert (off.peak_busy, off.waited, off.mean_kept) == (1, 0, 0)


def test_admission_by_the_factor_of_event():
    """Four idle threads and factor 2: twelve connections (policy/admission.py); the next ones wait."""
    requests = trace(*((1 + n / 10, 0.01, n) for n in range(15)), kept=1)
    run = simulate("event", trace=requests, KeepAliveTimeout=30, **ONE["event"])
    assert run.binds == {"AsyncRequestWorkerFactor": (pytest.approx(2.2), 3)}
    assert run.series["kept"][-1] == 0 and max(run.series["kept"]) == 12
    assert not simulate("event", trace=requests, AsyncRequestWorkerFactor=3, **ONE["event"]).binds


def test_think_times_and_what_ends_a_connection():
    """The second request comes 2 s after the first one's end, whether its connection was kept or not; N
    of MaxKeepAliveRequests lets N + 1 through."""
    requests = trace((0, 1, 7), (3, 1, 7), (6, 1, 7), kept=1)
    for more in ({}, {"KeepAliveTimeout": 1}, {"MaxKeepAliveRequests": 1}, {"KeepAlive": False}):
        run = simulate("prefork", trace=requests, StartServers=1, MaxRequestWorkers=9, **more)
        assert run.waited == 0
        held = {"": 4 + 5, "KeepAliveTimeout": 3, "MaxKeepAliveRequests": 2 + 5, "KeepAlive": 0}
        kept = held["".join(more)]
        assert run.mean_kept * run.seconds == pytest.approx(kept)
        assert run.mean_busy * run.seconds == pytest.approx(3 + kept)


def test_event_closes_parked_connections_when_a_new_one_finds_no_thread_idle():
    """At 1.5 s all four threads have work, and connection 5 comes: connection 1, parked since 0.1 s, is closed
    at once. Without connection 5 it is parked until its next request comes."""
    parked, busy = [(0.0, 0.1, 1), (3.0, 0.1, 1)], [(1.0, 9.0, n) for n in range(10, 14)]
    for new, until in (([], 3.0), ([(1.5, 0.1, 5)], 1.5)):
        run = simulate("event", trace=trace(*parked, *busy, *new, kept=1), **ONE["event"])
        # It connected again, and waits in the listen queue.
        assert new or max(run.waits) == pytest.approx(7.0)
        # Those of the others, and the last of connection 1, to their timeout.
        assert run.mean_kept * run.seconds == pytest.approx(until - 0.1 + 5 * 4 + 5 * len(new) + 5)


@pytest.mark.parametrize("mpm", MPMS)
def test_a_pass_decides_by_the_idle_workers_as_by_the_whole_scoreboard(mpm, monkeypatch):
    """With children that come and go, waiting clients, and connections that are closed."""
    chance, requests = random.Random(2), []
    for connection in range(1500):
        at = chance.uniform(0, 100) if connection % 3 else 50 + chance.expovariate(1)
        for _ in range(chance.randrange(1, 4)):
            requests.append((at, chance.expovariate(4), connection))
            at += chance.expovariate(1)
    tight = {"StartServers": 3, "MaxRequestWorkers": 60, "MaxConnectionsPerChild": 15}
    if mpm == "prefork":
        tight |= {"MinSpareServers": 2, "MaxSpareServers": 5}
    else:
        tight |= {"ThreadsPerChild": 4, "MinSpareThreads": 4, "MaxSpareThreads": 12}
    fast = simulate(mpm, trace=trace(*requests, kept=1), **tight)
    decide = traffic.plan

    def undecided(seen, directives, memory):
        """Without a look at the slots (no thread is counted) nothing is decided."""
        decided = decide(seen, directives, memory)
        return decided if seen.active else replace(decided, decision="")

    monkeypatch.setattr(traffic, "plan", undecided)
    slow = simulate(mpm, trace=trace(*requests, kept=1), **tight)
    assert fast.waited > 0.01 and fast.forks > 10 < fast.ends
    assert fast.waits == slow.waits and fast.series == slow.series and fast.binds == slow.binds


@pytest.mark.parametrize("mpm", MPMS)
def test_backlog_overflows_and_clients_try_again(mpm):
    requests = [(1, 2.0, n) for n in range(4)] + [(1.5, 0.1, n) for n in range(4, 9)]
    run = simulate(mpm, trace=trace(*requests), ListenBacklog=2, **ONE[mpm])
    # At 1.5 two, at 2.5 both again; at 4.5 there is room.
    assert run.overflow == 4 and run.lost == 0
    assert sorted(run.waits)[-2:] == pytest.approx([3.0, 3.0])
    full = simulate(mpm, trace=trace(*((1, 300, n) for n in range(8))), ListenBacklog=2, **ONE[mpm])
    assert full.lost == 1 and max(full.waits) == math.inf and full.binds["ListenBacklog"][0] == 1


def test_forks_double_and_processes_end():
    """As test_simulator's recordings have it: 1, 2, 4 ... children more in each second."""
    crowd = trace(*((0.5, 10.0, n) for n in range(100)))
    run = simulate("prefork", trace=crowd, StartServers=1, MaxRequestWorkers=64)
    assert list(run.series["processes"][:8]) == [1, 2, 4, 8, 16, 32, 64, 64]
    assert run.forks == 63 and run.peak_busy == 64 and list(run.binds) == ["MinSpareServers"]
    visits = trace(*((n, 0.1, n) for n in range(40)))
    alone = {"MinSpareServers": 1, "MaxSpareServers": 2, "StartServers": 1}
    ends = simulate("prefork", trace=visits, MaxConnectionsPerChild=5, **alone)
    assert ends.ends == 8 and ends.waited == 0  # of 40 connections, five a child


def test_the_busy_time_is_that_of_the_requests():
    """Without limits, any MPM: Little's law; each wait is 0, and the peak is the log's concurrency."""
    chance = random.Random(1)
    requests = [(chance.uniform(0, 200), chance.expovariate(2), n) for n in range(4000)]
    edges = [(s, 1) for s, _, _ in requests] + [(s + d, -1) for s, d, _ in requests]
    level = most = 0
    for _, step in sorted(edges):
        level += step
        most = max(most, level)
    work = sum(d for _, d, _ in requests)
    for mpm in MPMS:
        many = {"prefork": {"StartServers": 200}}.get(mpm, {"StartServers": 16})
        spare = {} if mpm == "prefork" else {"MaxSpareThreads": 400}
        spare = spare or {"MaxSpareServers": 256}
        run = simulate(mpm, trace=trace(*requests), **many, **spare)
        assert (run.peak_busy, run.waited) == (most, 0)
        assert run.mean_busy * run.seconds == pytest.approx(work)
        assert run.mean_busy < run.busy_p99 <= run.peak_busy


@pytest.mark.parametrize(("mpm", "more", "waits", "binds"), [
    # The idle child is replaced at once; the other holds its slot until 11.
    ("prefork", {"StartServers": 2, "MaxRequestWorkers": 2}, [0, 0, 0.9], "MaxRequestWorkers"),
    # At 3.5 no slot is free; the pass at 4.5 forks into the old child's row, a thread.
    ("worker", {"ThreadsPerChild": 2, "MaxRequestWorkers": 2}, [0, 1.8, 2.7], "MaxRequestWorkers"),
    # The old one has its row until 11, the next pass forks at 11.5; a second slot is used at 3.5.
    ("event", {"ThreadsPerChild": 2, "MaxRequestWorkers": 2, "ServerLimit": 1}, [0, 8.8, 8.7], "ServerLimit"),
    ("event", {"ThreadsPerChild": 2, "MaxRequestWorkers": 2, "ServerLimit": 2}, [0, 0.8, 0.7], "MinSpareThreads"),
])  # fmt: skip
def test_a_graceful_restart_counted_by_hand(mpm, more, waits, binds):
    """At 2.5 s, one request in progress until 11 s; StartServers 1 (prefork: 2), where nothing else is given."""
    requests = trace((1, 10, 1), (2.7, 1, 2), (2.8, 1, 3))
    spare = {name: n for name, n in LEAN.items() if name.endswith("Servers") == (mpm == "prefork")}
    run = simulate(mpm, trace=requests, restarts=[2.5], **{"StartServers": 1, **spare, **more})
    assert list(run.waits) == pytest.approx(waits) and list(run.binds) == [binds]


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("seed", range(4))
def test_restarts_lose_no_request(mpm, seed):
    """Each request is worked on once and whole; slots are not exceeded (worker's old children share theirs)."""
    chance = random.Random(seed)
    each = [(n, k) for n in range(150) for k in range(4)]
    requests = [(chance.uniform(0, 60) + 2 * k, chance.expovariate(3), n) for n, k in each]
    slots = chance.choice([4, 6, 9])
    more = {"ServerLimit": slots, "MaxRequestWorkers": slots, "StartServers": 2}
    threads = 1 if mpm == "prefork" else 4
    if mpm != "prefork":
        more |= {"ThreadsPerChild": 4, "MaxRequestWorkers": 4 * slots - 4 * chance.randrange(3)}
    load = trace(*requests, kept=1)
    restarts = sorted(chance.uniform(0, 60) for _ in range(5))
    run = simulate(mpm, trace=load, restarts=restarts, KeepAliveTimeout=3, **more)
    assert run.lost == 0 and all(map(math.isfinite, run.waits)) and run.ends >= 5
    held = run.mean_kept if mpm != "event" else 0
    assert (run.mean_busy - held) * run.seconds == pytest.approx(sum(load.seconds))
    assert run.peak_busy <= slots * threads
    assert run.peak_processes <= slots or mpm == "worker"
    # What was parked or idle at a restart had to be made again.
    assert run.forks > simulate(mpm, trace=load, KeepAliveTimeout=3, **more).forks


def test_what_cannot_be_simulated_is_said():
    for restarts in ([-1], [0.5, 2]):
        with pytest.raises(ValueError, match="restarts: must be seconds from 0 to 1"):
            simulate("event", trace=trace((0, 1, 1), (1, 1, 2)), restarts=restarts)
    with pytest.raises(ValueError, match="has no requests"):
        simulate("event", trace=Trace([]))
    with pytest.raises(ValueError, match=r"1 of 2 .*add %D"):
        simulate("event", trace=Trace([0, 1], [1, math.nan]))
