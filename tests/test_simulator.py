"""The simulator, against what httpd 2.4.71 was seen to do; a trace through an MPM, counted by hand."""

import math
import random
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import refused
from support.configured import directives as configured
from support.rows import trace
from support.servers import SMALL, one_child, pool

from mpmkit.config.directives import MPMS
from mpmkit.measure.trace import Trace
from mpmkit.policy import maintenance, traffic
from mpmkit.policy.maintenance import TOO_FEW, TOO_MANY, WAIT
from mpmkit.policy.simulator import Simulation, simulate

TIMELINES = Path(__file__).parent / "data" / "timelines"
POOL = SMALL | {"prefork": SMALL["prefork"] | {"StartServers": 3}}
BUSY = st.lists(st.integers(0, 30), min_size=1, max_size=12)
PARKED = st.lists(st.integers(0, 60), min_size=1, max_size=8) | st.just([0])
ONE_CHILD = one_child("event", 4) | {"ServerLimit": 1}


def under(header: str) -> tuple[str, dict[str, str]]:
    """The first line of a recording: `# prefork: StartServers 1; MinSpareServers 45`."""
    mpm, _, settings = header.removeprefix("# ").partition(": ")
    return mpm, dict(setting.split() for setting in settings.split("; "))


def children_at_each_second(name: str) -> tuple[str, dict[str, str], list[int]]:
    """How many children there were half a second after each full second."""
    header, *lines = (TIMELINES / name).read_text().splitlines()
    samples = [re.match(r"t= *([\d.]+)s children=(\d+)", line) for line in lines]
    changes = [(float(m[1]), int(m[2])) for m in samples if m]
    seconds = range(round(changes[-1][0]) + 1)
    return *under(header), [[n for t, n in changes if t < second + 0.5][-1] for second in seconds]


def logged(text: str, pattern: str) -> list[tuple[int, str]]:
    """(full seconds since the server came up, what the pattern found) in an error log."""
    lines, start = [], None
    for stamp, line in re.findall(r"(?m)^\[\w+ (\w+ \d+ [\d:.]+ \d+)\](.*)", text):
        at = datetime.strptime(stamp, "%b %d %H:%M:%S.%f %Y")
        if "resuming normal operations" in line:
            start = at
        if (found := re.search(pattern, line)) and start:
            lines.append((round((at - start).total_seconds()), found[0]))
    return lines


def said(run: Simulation, *ids: str) -> list[tuple[int, str]]:
    return [(t, note.ah) for t, note in run.notes if note.ah in ids]


@pytest.mark.parametrize("mpm", MPMS)
def test_growth_second_by_second_and_the_large_bursts_that_are_announced(mpm):
    recorded_mpm, settings, children = children_at_each_second(f"{mpm}-grow.txt")
    assert recorded_mpm == mpm and children == [1, 2, 4, 8, 16, 32, 64][: len(children)]
    run = simulate(mpm, seconds=len(children) + 5, **settings)
    assert run.column("processes") == children + [children[-1]] * 6
    text = (TIMELINES / f"{mpm}-grow.error.log").read_text()
    numbers = r"spawning \d+ children, there are (around )?\d+ idle"
    recorded = [(t, *map(int, re.findall(r"\d+", words))) for t, words in logged(text, numbers)]
    assert len(recorded) >= 2
    ours = []
    for t, note in run.notes:
        assert note.ah == {"prefork": "AH00162", "worker": "AH00289", "event": "AH00486"}[mpm]
        forks, _, _, idle = map(int, re.findall(r"\d+", str(note).partition("forking")[2]))
        ours.append((t, forks, idle))
    assert ours == recorded


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_shrinking_second_by_second(mpm):
    _, settings, children = children_at_each_second(f"{mpm}-shrink.txt")
    run = simulate(mpm, seconds=len(children) - 1, **settings)
    assert run.column("processes") == children and max(run.column("retired")) == 1
    assert simulate(mpm, seconds=30, **settings)[-1].processes == children[-1]


def test_shrinking_of_worker():
    """One child a second is asked to leave; the parent sometimes notices two deaths at a time."""
    _, settings, children = children_at_each_second("worker-shrink.txt")
    run = simulate("worker", seconds=len(children), **settings).column("processes")
    for recorded, still_there, asked_to_leave in zip(children, run[:-1], run[1:], strict=True):
        assert asked_to_leave <= recorded <= still_there
    assert children[-1] == run[-1] == 4


def test_event_waits_for_each_child_that_is_still_there_at_the_next_pass():
    """The same settings on another day: the parent found each child not yet reaped, and waited."""
    text = (TIMELINES / "event-shrink-trace.log").read_text()
    _, settings = under(text.splitlines()[0])
    recorded = logged(text, r"(Not s|S)hutting down one child: active \d+/60, total \d+")
    run = simulate("event", seconds=recorded[-1][0], leaving=1, **settings)
    decisions = [(s.t, {TOO_MANY: "Shutting", WAIT: "Not"}[s.decision]) for s in run[1:]]
    assert [(t, words.split()[0]) for t, words in recorded] == decisions
    assert [int(words.split()[-1]) for _, words in recorded] == run.column("processes")[1:]


@pytest.mark.parametrize("mpm", MPMS)
def test_reaching_max_request_workers_is_said_once_and_when_httpd_says_it(mpm):
    """Half-sent requests from 1.4 s on, more than there may ever be workers."""
    ah = {"prefork": "AH00161", "worker": "AH00286", "event": "AH00484"}[mpm]
    recorded = logged((TIMELINES / f"saturate-{mpm}.error.log").read_text(), ah)
    assert len(recorded) == 1
    run = simulate(mpm, busy=lambda t: 20 if t >= 2 else 0, seconds=12, **POOL[mpm])
    assert said(run, ah) == recorded and run[-1].waiting == 20 - run.directives.MaxRequestWorkers


def test_a_full_scoreboard_is_said_each_second():
    recorded = logged((TIMELINES / "scoreboard-full-misconfig.txt").read_text(), "AH00288")
    assert len(recorded) == 4
    settings = {**POOL["event"], "MaxRequestWorkers": 100}
    run = simulate("worker", busy=17, seconds=recorded[-1][0], **settings)
    assert said(run, "AH00288", "AH00286") == recorded

    text = (TIMELINES / "event-full-trace.log").read_text()
    _, settings = under(text.splitlines()[0])
    recorded = logged(text, "AH03490")
    assert len(recorded) == 3
    run = simulate("event", busy=lambda t: 17 if 1 <= t <= 5 else 0, seconds=6, **settings)
    assert said(run, "AH03490", "AH00484") == recorded
    forks = [t for t, _ in logged(text, "Child . started")]
    assert forks == [second.t for second in run if second.spawned and second.t]
    leaving = [(t, 1) for t, _ in logged(text, "Shutting down one child")]
    assert leaving == [(second.t, second.retired) for second in run if second.retired]


def test_directives_ready_made_or_by_name():
    made = configured("prefork", **POOL["prefork"])
    assert simulate("prefork", made) == simulate("prefork", **POOL["prefork"])
    refused(ValueError, "prefork's, not event's", simulate, "event", made)
    refused(ValueError, r"twice.*StartServers", simulate, "prefork", made, StartServers=3)
    for wrong in ({"busy": -1}, {"busy": []}, {"seconds": -1}, {"leaving": -1}, {"parked": -1}):
        refused(ValueError, "busy|parked|seconds", simulate, "event", **wrong)


def test_a_run_is_a_sequence_with_a_readable_table_and_a_frame():
    run = simulate("event", busy=100, seconds=3)
    assert len(run) == len(list(run)) == 4 and run[-1].t == 3
    assert repr(run) == f"<Simulation of event: 3 s, {run[-1].processes} processes at most>"
    lines = str(run).splitlines()
    assert lines[0].split() == ["t", "processes", "idle", "busy", "waiting", "decision"]
    assert len(lines) == 5 and TOO_FEW in lines[2]
    run = simulate("prefork", busy=20, seconds=5, **POOL["prefork"])
    frame = run.to_frame()
    assert list(frame.columns) == list(run[0]._fields)
    assert frame["processes"].tolist() == run.column("processes")
    notes = ["; ".join(map(str, second.notes)) for second in run]
    assert frame["notes"].tolist() == notes and any("AH00161" in one for one in notes)


def test_event_keeps_those_who_leave_in_the_slots_above_its_process_limit():
    settings = {**POOL["event"], "StartServers": 3, "ServerLimit": 8, "MaxSpareThreads": 9}
    run = simulate("event", busy=[0, 0, 11, 12], seconds=5, leaving=10, **settings)
    assert run[1].decision == TOO_MANY and run[2].decision == TOO_FEW
    assert max(run.column("processes")) > run.directives.process_limit
    assert max(run.column("workers")) <= run.directives.MaxRequestWorkers


@given(st.sampled_from(MPMS), BUSY, PARKED, st.integers(0, 3))
def test_any_load_is_answered_within_the_limits_and_accounted_for(mpm, busy, parked, leaving):
    run = simulate(mpm, busy=busy, parked=parked, seconds=25, leaving=leaving, **POOL[mpm])
    most = run.directives.MaxRequestWorkers
    for second in run:
        assert 0 <= second.workers <= most and second.idle >= 0
        assert second.processes <= run.directives.ServerLimit
        assert second.retired <= 1 and not (second.retired and second.spawned and second.t)
        assert second.decision in maintenance.DECISIONS or second.t == 0
        assert parked != [0] or not (second.waiting and second.idle)
        wanted = busy[min(second.t, len(busy) - 1)], parked[min(second.t, len(parked) - 1)]
        asking = second.busy if mpm == "event" else second.busy - second.parked
        assert asking + second.parked + second.waiting == sum(wanted)
        assert 0 <= asking <= wanted[0] and 0 <= second.parked <= wanted[1]
    # A load that stays is answered up to MaxRequestWorkers; then, but for event, parked clients are.
    if parked == [0] or mpm != "event":
        assert run[-1].busy == min(busy[-1] + parked[-1], most)
        assert run[-1].busy - run[-1].parked == min(busy[-1], most)


@pytest.mark.parametrize("line", (TIMELINES / "event-asyncfactor.txt").read_text().splitlines())
def test_event_parks_as_many_as_httpd_did(line):
    factor, limit = re.search(r"Factor (\S+) .*: (\d+)$", line).groups()
    run = simulate("event", parked=99, seconds=2, AsyncRequestWorkerFactor=factor, **ONE_CHILD)
    assert run.column("parked") == [int(limit)] * 3 and run[-1].waiting == 99 - int(limit)
    assert run[-1].busy == 0 and run[-1].idle == 4


def test_a_child_of_event_that_is_full_of_parked_clients_does_not_count_as_idle():
    settings = {**POOL["event"], "AsyncRequestWorkerFactor": 1}
    run = simulate("event", parked=16, seconds=5, **settings)
    assert run[0].parked == 16 and run[0].idle == 8
    assert run[1].decision == TOO_FEW and run[-1].processes == 3
    assert simulate("event", parked=15, seconds=5, **settings)[1].decision != TOO_FEW
    # Parked clients of a child that leaves come back to the others.
    shrinks = pool("event", 4, 16, threads=4, spare=(1, 6)) | {"ServerLimit": 12}
    run = simulate("event", parked=6, seconds=6, leaving=3, **shrinks)
    assert TOO_MANY in run.column("decision")
    assert run.column("parked") == [6] * len(run)


FOUR_THREADS = {"StartServers": 1, "ThreadsPerChild": 4, "MaxRequestWorkers": 4}
ONE = {  # MPM -> a pool of four workers in one go, that idle maintenance leaves as it is
    "prefork": {"StartServers": 4, "MaxRequestWorkers": 4}, "worker": FOUR_THREADS, "event": FOUR_THREADS,
}  # fmt: skip


@pytest.mark.parametrize("mpm", MPMS)
def test_requests_wait_their_turn(mpm):
    run = simulate(mpm, trace=trace(*((0.1 * n, 3.0, n) for n in range(1, 7))), **ONE[mpm])
    assert list(run.waits) == pytest.approx([0, 0, 0, 0, 2.6, 2.6])
    assert (run.peak_busy, run.overflow, run.lost) == (4, 0, 0)
    assert run.waited == pytest.approx(2 / 6) and run.waited_longer(2.7) == 0
    assert run.wait_quantile(0.5) == 0 and run.wait_quantile(1) == pytest.approx(2.6)
    assert run.binds == {"MaxRequestWorkers": (pytest.approx(0.5), 2)}
    assert run.seconds == pytest.approx(6.2) and run.mean_busy == pytest.approx(18 / 6.2)


@pytest.mark.parametrize("mpm", MPMS)
def test_kept_connections_hold_workers_but_for_event(mpm):
    requests = [(1 + n, 0.5, n) for n in range(8)]
    run = simulate(mpm, trace=trace(*requests, kept=1), KeepAliveTimeout=20, **ONE[mpm])
    held = (0, 1) if mpm == "event" else (4, 4)
    assert (sum(wait > 0 for wait in run.waits), run.peak_busy) == held
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
    """The second request comes 2 s after the first one's end; N of MaxKeepAliveRequests lets N + 1 through."""
    requests = trace((0, 1, 7), (3, 1, 7), (6, 1, 7), kept=1)
    for more in ({}, {"KeepAliveTimeout": 1}, {"MaxKeepAliveRequests": 1}, {"KeepAlive": False}):
        run = simulate("prefork", trace=requests, StartServers=1, MaxRequestWorkers=9, **more)
        assert run.waited == 0
        held = {"": 4 + 5, "KeepAliveTimeout": 3, "MaxKeepAliveRequests": 2 + 5, "KeepAlive": 0}
        kept = held["".join(more)]
        assert run.mean_kept * run.seconds == pytest.approx(kept)
        assert run.mean_busy * run.seconds == pytest.approx(3 + kept)


def test_event_closes_parked_connections_when_a_new_one_finds_no_thread_idle():
    """At 1.5 s all four threads have work, and connection 5 comes: connection 1, parked since 0.1 s, goes."""
    parked, busy = [(0.0, 0.1, 1), (3.0, 0.1, 1)], [(1.0, 9.0, n) for n in range(10, 14)]
    for new, until in (([], 3.0), ([(1.5, 0.1, 5)], 1.5)):
        run = simulate("event", trace=trace(*parked, *busy, *new, kept=1), **ONE["event"])
        # It connected again, and waits in the listen queue.
        assert new or max(run.waits) == pytest.approx(7.0)
        # Those of the others, and the last of connection 1, to their timeout.
        assert run.mean_kept * run.seconds == pytest.approx(until - 0.1 + 5 * 4 + 5 * len(new) + 5)


@pytest.mark.parametrize("mpm", MPMS)
def test_a_pass_decides_by_the_idle_workers_as_by_the_whole_scoreboard(mpm, monkeypatch):
    chance, requests = random.Random(2), []
    for connection in range(1500):
        at = chance.uniform(0, 100) if connection % 3 else 50 + chance.expovariate(1)
        for _ in range(chance.randrange(1, 4)):
            requests.append((at, chance.expovariate(4), connection))
            at += chance.expovariate(1)
    spare = (2, 5) if mpm == "prefork" else (4, 12)
    tight = pool(mpm, 3, 60, threads=4, spare=spare) | {"MaxConnectionsPerChild": 15}
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
    crowd = trace(*((0.5, 10.0, n) for n in range(100)))
    run = simulate("prefork", trace=crowd, StartServers=1, MaxRequestWorkers=64)
    assert list(run.series["processes"][:8]) == [1, 2, 4, 8, 16, 32, 64, 64]
    assert run.forks == 63 and run.peak_busy == 64 and list(run.binds) == ["MinSpareServers"]
    visits = trace(*((n, 0.1, n) for n in range(40)))
    alone = {"MinSpareServers": 1, "MaxSpareServers": 2, "StartServers": 1}
    ends = simulate("prefork", trace=visits, MaxConnectionsPerChild=5, **alone)
    assert ends.ends == 8 and ends.waited == 0  # of 40 connections, five a child


@pytest.mark.parametrize(("mpm", "more", "waits", "binds"), [
    # The idle child is replaced at once; the other holds its slot until 11.
    ("prefork", {}, [0, 0, 0.9], "MaxRequestWorkers"),
    # At 3.5 no slot is free; the pass at 4.5 forks into the old child's row, a thread.
    ("worker", {}, [0, 1.8, 2.7], "MaxRequestWorkers"),
    # The old one has its row until 11, the next pass forks at 11.5; a second slot is used at 3.5.
    ("event", {"ServerLimit": 1}, [0, 8.8, 8.7], "ServerLimit"),
    ("event", {"ServerLimit": 2}, [0, 0.8, 0.7], "MinSpareThreads"),
])  # fmt: skip
def test_a_graceful_restart_counted_by_hand(mpm, more, waits, binds):
    """At 2.5 s, one request in progress until 11 s; two workers: two processes of prefork, or one of threads."""
    requests = trace((1, 10, 1), (2.7, 1, 2), (2.8, 1, 3))
    start, spare = (2, (1, 2)) if mpm == "prefork" else (1, (1, 4))
    two = pool(mpm, start, 2, threads=2, spare=spare)
    run = simulate(mpm, trace=requests, restarts=[2.5], **two, **more)
    assert list(run.waits) == pytest.approx(waits) and list(run.binds) == [binds]


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("seed", range(4))
def test_restarts_lose_no_request(mpm, seed):
    """Each request is worked on once and whole; slots are not exceeded (worker's old children share theirs)."""
    chance = random.Random(seed)
    each = [(n, k) for n in range(150) for k in range(4)]
    requests = [(chance.uniform(0, 60) + 2 * k, chance.expovariate(3), n) for n, k in each]
    slots, threads = chance.choice([4, 6, 9]), 1 if mpm == "prefork" else 4
    more = {"ServerLimit": slots, "MaxRequestWorkers": slots, "StartServers": 2}
    if mpm != "prefork":
        more |= {"ThreadsPerChild": 4, "MaxRequestWorkers": 4 * (slots - chance.randrange(3))}
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
        how = {"trace": trace((0, 1, 1), (1, 1, 2)), "restarts": restarts}
        refused(ValueError, "restarts: must be seconds from 0 to 1", simulate, "event", **how)
    refused(ValueError, "has no requests", simulate, "event", trace=Trace([]))
    refused(ValueError, r"1 of 2 .*add %D", simulate, "event", trace=Trace([0, 1], [1, math.nan]))
