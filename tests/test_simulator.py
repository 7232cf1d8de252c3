"""The simulator, and through it idle maintenance against what httpd 2.4.71 was seen to do."""

import re
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configured import directives as configured
from support.servers import SMALL, one_child, pool

from mpmkit.config.directives import MPMS
from mpmkit.policy import maintenance
from mpmkit.policy.maintenance import ENOUGH, TOO_FEW, TOO_MANY, WAIT
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
    lines = []
    start = None
    for line in text.splitlines():
        stamp = re.match(r"\[\w+ (\w+ \d+ [\d:.]+ \d+)\]", line)
        if not stamp:
            continue
        at = datetime.strptime(stamp[1], "%b %d %H:%M:%S.%f %Y")
        if "resuming normal operations" in line:
            start = at
        found = re.search(pattern, line)
        if found and start:
            lines.append((round((at - start).total_seconds()), found[0]))
    return lines


def said(run: Simulation, *ids: str) -> list[tuple[int, str]]:
    return [(t, note.ah) for t, note in run.notes if note.ah in ids]


@pytest.mark.parametrize("mpm", MPMS)
def test_growth_second_by_second(mpm):
    recorded_mpm, settings, children = children_at_each_second(f"{mpm}-grow.txt")
    assert recorded_mpm == mpm and children == [1, 2, 4, 8, 16, 32, 64][: len(children)]
    assert simulate(mpm, seconds=len(children) - 1, **settings).column("processes") == children
    longer = simulate(mpm, seconds=len(children) + 5, **settings)
    assert longer.column("processes")[len(children) :] == [children[-1]] * 6


@pytest.mark.parametrize("mpm", MPMS)
def test_large_bursts_are_announced_when_httpd_announces_them(mpm):
    """The same second, the same numbers: children forked, idle ones, and those there are."""
    _, settings, children = children_at_each_second(f"{mpm}-grow.txt")
    text = (TIMELINES / f"{mpm}-grow.error.log").read_text()
    numbers = r"spawning \d+ children, there are (around )?\d+ idle"
    recorded = [(t, *map(int, re.findall(r"\d+", words))) for t, words in logged(text, numbers)]
    assert len(recorded) >= 2
    run = simulate(mpm, seconds=len(children), **settings)
    ids = {"prefork": "AH00162", "worker": "AH00289", "event": "AH00486"}
    ours = []
    for t, note in run.notes:
        assert note.ah == ids[mpm]
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


def test_directives_ready_made_or_by_name_and_the_load_in_three_ways():
    made = configured("prefork", **POOL["prefork"])
    assert simulate("prefork", made) == simulate("prefork", **POOL["prefork"])
    with pytest.raises(ValueError, match="prefork's, not event's"):
        simulate("event", made)
    with pytest.raises(ValueError, match=r"twice.*StartServers"):
        simulate("prefork", made, StartServers=3)
    for wrong in ({"busy": -1}, {"busy": []}, {"seconds": -1}, {"leaving": -1}, {"parked": -1}):
        with pytest.raises(ValueError):
            simulate("event", **wrong)
    # The load as a number, a sequence or a function
    loads = (4, [4], lambda t: 4.7)
    runs = [simulate("prefork", busy=busy, seconds=4, **POOL["prefork"]) for busy in loads]
    assert runs[0] == runs[1] == runs[2] and runs[0].column("busy") == [3, 3, 4, 4, 4]
    assert runs[0].column("waiting") == [1, 1, 0, 0, 0]


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
    # A load that goes away leaves the spare workers.
    run = simulate("worker", busy=[12] * 6 + [0], seconds=30, **POOL["worker"])
    assert run[-1].decision == ENOUGH
    low, high = run.directives.MinSpareThreads, run.directives.MaxSpareThreads
    assert low <= run[-1].idle <= high


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
    # A load that stays is answered in full, as far as MaxRequestWorkers goes.
    if parked == [0]:
        assert run[-1].busy == min(busy[-1], most)


@pytest.mark.parametrize("line", (TIMELINES / "event-asyncfactor.txt").read_text().splitlines())
def test_event_parks_as_many_as_httpd_did(line):
    factor, limit = re.search(r"Factor (\S+) .*: (\d+)$", line).groups()
    run = simulate("event", parked=99, seconds=2, AsyncRequestWorkerFactor=factor, **ONE_CHILD)
    assert run.column("parked") == [int(limit)] * 3 and run[-1].waiting == 99 - int(limit)
    assert run[-1].busy == 0 and run[-1].idle == 4


@pytest.mark.parametrize("mpm", ["prefork", "worker"])
def test_under_prefork_and_worker_a_parked_client_keeps_a_worker(mpm):
    run = simulate(mpm, parked=5, busy=2, seconds=6, **POOL[mpm])
    assert (run[-1].busy, run[-1].parked, run[-1].waiting) == (7, 5, 0)
    full = simulate(mpm, parked=100, busy=2, seconds=12, **POOL[mpm])
    most = full.directives.MaxRequestWorkers
    assert (full[-1].busy, full[-1].parked) == (most, most - 2)
    assert full[-1].waiting == 102 - most


def test_a_child_of_event_that_is_full_of_parked_clients_does_not_count_as_idle():
    """So more children are forked although every thread is idle."""
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
