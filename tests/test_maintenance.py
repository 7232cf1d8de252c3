"""Idle maintenance: properties of any scoreboard, then each line of the decision table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, Directives
from mpmkit.config.keywords import from_keywords
from mpmkit.policy import states
from mpmkit.policy.maintenance import (
    AT_LIMIT,
    DECISIONS,
    ENOUGH,
    FULL,
    HOLD_OFF,
    MAX_SPAWN_RATE,
    MESSAGES,
    NEAR,
    REACHED,
    SICK,
    TOO_FEW,
    TOO_MANY,
    WAIT,
    Memory,
    Plan,
    Seen,
    after_graceful_restart,
    look,
    plan,
)
from mpmkit.policy.snapshot import ProcessRow, Snapshot

RATES = (1, 2, 4, 8, 16, 32)


def configured(mpm: str, **keywords: int) -> Directives:
    return check(mpm, from_keywords(mpm, **keywords))[0]


# ---------------------------------------------------------------- any scoreboard at all

memories = st.builds(
    Memory,
    idle_spawn_rate=st.sampled_from(RATES),
    hold_off=st.integers(0, HOLD_OFF),
    reached_reported=st.booleans(),
    near_reported=st.booleans(),
    had_healthy_child=st.booleans(),
    sick_child_detected=st.booleans(),
)


@st.composite
def directives_for(draw, mpm: str) -> Directives:
    if mpm == "prefork":
        slots = draw(st.integers(1, 40))
        spare = draw(st.integers(1, 12))
        return configured(
            mpm,
            ServerLimit=slots,
            MaxRequestWorkers=draw(st.integers(1, slots)),
            MinSpareServers=spare,
            MaxSpareServers=spare + draw(st.integers(1, 12)),
        )
    threads = draw(st.integers(1, 4))
    slots = draw(st.integers(1, 12))
    spare = draw(st.integers(1, 12))
    return configured(
        mpm,
        ThreadLimit=threads + draw(st.integers(0, 2)),
        ThreadsPerChild=threads,
        ServerLimit=slots,
        MaxRequestWorkers=draw(st.integers(1, slots + 2)) * threads,
        MinSpareThreads=spare,
        MaxSpareThreads=spare + threads + 1 + draw(st.integers(0, 12)),
    )


@st.composite
def rows_for(draw, directives: Directives, slot: int, crowded: bool) -> ProcessRow:
    columns = directives.ThreadLimit
    if not crowded and not draw(st.booleans()):
        return ProcessRow(slot, states=bytes(columns))
    any_state = st.integers(states.DEAD, states.GRACEFUL)
    if directives.mpm == "prefork":
        any_state = st.integers(states.STARTING, states.GRACEFUL)
    if crowded:
        any_state = st.sampled_from((states.BUSY_READ, states.BUSY_WRITE, states.READY))
    used = directives.ThreadsPerChild
    letters = draw(st.lists(any_state, min_size=used, max_size=used)) + [0] * (columns - used)
    return ProcessRow(
        slot,
        pid=1000 + slot,
        generation=draw(st.sampled_from((2, 2, 1))),
        quiescing=0 if directives.mpm == "prefork" else draw(st.sampled_from((0, 0, 1, 2))),
        not_accepting=int(directives.mpm == "event" and draw(st.booleans())),
        states=bytes(letters),
    )


@st.composite
def snapshots_for(draw, directives: Directives, crowded: bool) -> Snapshot:
    slots = range(directives.ServerLimit)
    rows = tuple(draw(rows_for(directives, slot, crowded)) for slot in slots)
    return Snapshot(directives.ServerLimit, directives.ThreadLimit, 2, 0.0, rows)


@st.composite
def situations(draw, mpms=MPMS, crowded=False) -> tuple[Snapshot, Directives, Memory]:
    """Anything a parent might find; crowded: no slot is empty and most threads are busy."""
    directives = draw(directives_for(draw(st.sampled_from(mpms))))
    return draw(snapshots_for(directives, crowded)), directives, draw(memories)


def spare(directives: Directives) -> tuple[int, int]:
    if directives.mpm == "prefork":
        return directives.MinSpareServers, directives.MaxSpareServers
    return directives.MinSpareThreads, directives.MaxSpareThreads


def slots_in_use(directives: Directives) -> int:
    return directives.ServerLimit if directives.mpm == "event" else directives.process_limit


def pass_of(situation: tuple[Snapshot, Directives, Memory]) -> tuple[Seen, Plan]:
    snapshot, directives, memory = situation
    seen = look(snapshot, directives, memory)
    return seen, plan(seen, directives, memory)


@given(situations())
def test_the_counts_are_those_of_a_plain_loop_over_all_threads(situation):
    snapshot, directives, memory = situation
    seen = look(snapshot, directives, memory)
    idle = active = total = serving = 0
    healthy = False
    for row in snapshot.processes[: slots_in_use(directives)]:
        if not row.pid:
            continue
        total += 1
        serving += not row.quiescing
        up = 0
        for state in row.states[: directives.ThreadsPerChild]:
            counts = not row.quiescing and not row.not_accepting and row.generation == 2
            idle += state <= states.READY and (counts or directives.mpm == "prefork")
            up += states.READY <= state < states.GRACEFUL
        active += up
        healthy |= up == directives.ThreadsPerChild
    assert (seen.idle, seen.active, seen.total) == (idle, active, total)
    assert seen.active_processes == serving
    if directives.mpm != "prefork":
        assert seen.healthy == healthy


@given(situations())
def test_never_fork_and_retire_at_once_and_never_retire_more_than_one(situation):
    _, decided = pass_of(situation)
    assert decided.retire in (0, 1)
    assert not (decided.spawn and decided.retire)
    assert decided.decision in DECISIONS


@given(situations())
def test_never_fork_into_a_slot_that_is_taken(situation):
    snapshot, directives, _ = situation
    _, decided = pass_of(situation)
    assert len(set(decided.spawn)) == len(decided.spawn)
    squatted = dict(decided.squatted)
    assert set(squatted) <= set(decided.spawn)
    assert not squatted or directives.mpm == "worker"
    for slot in decided.spawn:
        row = snapshot.processes[slot]
        assert row.slot < slots_in_use(directives)
        if row.pid:
            assert row.quiescing
            assert states.DEAD in row.states[: directives.ThreadsPerChild]
            assert squatted[slot] == row.pid
        else:
            assert slot not in squatted


@given(situations())
def test_never_fork_above_the_limit(situation):
    _, directives, memory = situation
    seen, decided = pass_of(situation)
    assert len(decided.spawn) <= memory.idle_spawn_rate <= MAX_SPAWN_RATE
    if decided.spawn:
        assert seen.active_processes + len(decided.spawn) <= directives.process_limit


@given(situations())
def test_the_rate_is_a_power_of_two_and_falls_to_one_when_nothing_is_forked(situation):
    _, _, memory = situation
    _, decided = pass_of(situation)
    rate = decided.memory.idle_spawn_rate
    assert rate in RATES
    if decided.spawn:
        doubled = min(2 * memory.idle_spawn_rate, MAX_SPAWN_RATE)
        assert rate == (memory.idle_spawn_rate if memory.hold_off else doubled)
        assert decided.memory.hold_off == max(memory.hold_off - 1, 0)
    elif not decided.shutdown:
        assert rate == 1
        assert decided.memory.hold_off == memory.hold_off


@given(situations())
def test_within_bounds_nothing_happens(situation):
    _, directives, _ = situation
    seen, decided = pass_of(situation)
    if decided.shutdown:
        return
    low, high = spare(directives)
    if low <= seen.idle <= high:
        assert (decided.spawn, decided.retire, decided.notes) == ((), 0, ())
        assert decided.decision == ENOUGH
    else:
        assert decided.decision != ENOUGH
    assert (decided.decision in (TOO_MANY, WAIT)) == (seen.idle > high)


@given(situations(crowded=True))
def test_reached_and_near_are_said_once_and_full_each_time(situation):
    _, directives, memory = situation
    seen, first = pass_of(situation)
    second = plan(seen, directives, first.memory)
    if first.decision not in (REACHED, NEAR, FULL):
        return
    reported = {REACHED: memory.reached_reported, NEAR: memory.near_reported}
    assert len(first.notes) == (not reported.get(first.decision, False))
    assert len(second.notes) == (first.decision == FULL)
    for note in first.notes:
        assert note.ah == MESSAGES[first.decision][1][directives.mpm]


@given(situations(mpms=["prefork"]))
def test_prefork_never_waits_for_others_and_never_gives_up(situation):
    _, decided = pass_of(situation)
    assert decided.decision in (ENOUGH, TOO_MANY, TOO_FEW, REACHED)
    assert not decided.shutdown


@given(situations(mpms=["worker"]))
def test_a_squatter_comes_after_every_slot_without_a_living_thread(situation):
    """Worker: partly free rows are used only when the wholly free ones don't suffice."""
    snapshot, directives, memory = situation
    seen = look(snapshot, directives, memory)

    def wholly_free(slot: int) -> bool:
        used = snapshot.processes[slot].states[: directives.ThreadsPerChild]
        return set(used) <= {states.DEAD, states.GRACEFUL}

    order = [wholly_free(slot) for slot in seen.free]
    assert order == sorted(order, reverse=True)
    usable = [
        row.slot
        for row in snapshot.processes[: directives.process_limit]
        if states.DEAD in row.states[: directives.ThreadsPerChild]
        and (row.quiescing or not row.pid)
    ]
    assert set(seen.free) <= set(usable)
    assert len(seen.free) == min(len(usable), memory.idle_spawn_rate)


# ---------------------------------------------------------------- line by line

READY, W, G, DEAD, S = (
    states.READY,
    states.BUSY_WRITE,
    states.GRACEFUL,
    states.DEAD,
    states.STARTING,
)


def board(directives: Directives, *letters: str, generation: int = 0) -> Snapshot:
    """A scoreboard from strings: "__" two idle threads, "" an empty slot, ">_." a leaving child.

    A leading ">" is quiescing, "-" not accepting, "<" of the generation before.
    """
    rows = []
    columns = directives.ThreadLimit
    for slot in range(directives.ServerLimit):
        text = letters[slot] if slot < len(letters) else ""
        marks = text[: len(text) - len(text.lstrip("<>-"))]
        used = states.numbers(text.lstrip("<>-"))
        rows.append(
            ProcessRow(
                slot,
                pid=100 + slot if text else 0,
                generation=generation - ("<" in marks),
                quiescing=int(">" in marks),
                not_accepting=int("-" in marks),
                states=used + bytes(columns - len(used)),
            )
        )
    return Snapshot(directives.ServerLimit, columns, generation, 0.0, tuple(rows))


def decide(directives: Directives, *letters: str, memory: Memory | None = None) -> Plan:
    memory = memory or Memory()
    return plan(look(board(directives, *letters), directives, memory), directives, memory)


PREFORK = configured(
    "prefork", ServerLimit=8, MaxRequestWorkers=6, MinSpareServers=2, MaxSpareServers=4
)
THREADS = {
    "ServerLimit": 4,
    "ThreadLimit": 2,
    "ThreadsPerChild": 2,
    "MaxRequestWorkers": 6,  # three processes serve, a fourth slot is spare
    "MinSpareThreads": 2,
    "MaxSpareThreads": 5,
}
WORKER = configured("worker", **THREADS)
EVENT = configured("event", **THREADS)
THREADED = pytest.mark.parametrize("threaded", [WORKER, EVENT], ids=["worker", "event"])


def test_prefork_forks_into_the_lowest_free_slots():
    decided = decide(PREFORK, "W", "", "W", memory=Memory(idle_spawn_rate=2))
    assert decided.decision == TOO_FEW
    assert decided.spawn == (1, 3)
    assert decided.memory.idle_spawn_rate == 4


def test_prefork_has_no_slots_above_max_request_workers():
    assert decide(PREFORK, *"WWWW", memory=Memory(idle_spawn_rate=32)).spawn == (4, 5)


def test_prefork_counts_starting_children_as_idle():
    assert decide(PREFORK, *"WWSS").decision == ENOUGH


def test_prefork_says_reached_even_with_a_child_idle():
    decided = decide(PREFORK, *"WWWWW_")
    assert decided.decision == REACHED
    assert [note.ah for note in decided.notes] == ["AH00161"]
    assert "1 idle" in decided.notes[0].text


def test_prefork_does_not_count_the_old_generation():
    assert decide(PREFORK, *"GGG").spawn == (3,)


def test_prefork_does_not_trust_a_dead_byte_in_a_slot_with_a_pid():
    memory = Memory(idle_spawn_rate=2)
    snapshot = board(PREFORK, ".", "W")
    assert look(snapshot, PREFORK, memory).free == (2, 3)
    assert look(snapshot, PREFORK, memory).idle == 1


def test_prefork_retires_one_however_many_are_too_many():
    decided = decide(PREFORK, *"______", memory=Memory(idle_spawn_rate=16))
    assert (decided.decision, decided.retire) == (TOO_MANY, 1)
    assert decided.memory.idle_spawn_rate == 1


@THREADED
def test_idle_threads_are_those_that_will_take_the_next_client(threaded):
    snapshot = board(threaded, "_S", ">__", "<__")
    seen = look(snapshot, threaded, Memory())
    assert seen.idle == 2
    assert (seen.total, seen.active_processes) == (3, 2)
    assert seen.active == 5, "idle, leaving and old threads are active; a starting one is not"


def test_event_does_not_count_on_a_child_that_stopped_listening():
    seen = look(board(EVENT, "-__", "W_"), EVENT, Memory())
    assert seen.idle == 1
    assert decide(EVENT, "-__", "W_").spawn == (2,)


@THREADED
def test_a_row_whose_threads_are_not_there_yet_counts_as_idle(threaded):
    assert look(board(threaded, ".."), threaded, Memory()).idle == 2


@THREADED
@pytest.mark.parametrize(
    ("letters", "decision", "worker", "event"),
    [
        (("WW", "WW", "WW"), REACHED, "AH00286", "AH00484"),
        (("WW", "WW", "W_"), NEAR, "AH00287", "AH10159"),
    ],
)
def test_at_max_request_workers(threaded, letters, decision, worker, event):
    decided = decide(threaded, *letters)
    assert decided.decision == decision
    assert [n.ah for n in decided.notes] == [worker if threaded is WORKER else event]
    assert decided.notes[0].level == "error"


def test_event_asks_about_max_request_workers_first_and_worker_about_slots():
    """Three processes, one of them leaving with a thread gone: both readings are true."""
    letters = ("WW", "WW", "WW", ">W.")
    assert decide(EVENT, *letters).decision == REACHED
    letters = ("WW", "WW", ">W.")
    wide = replace(WORKER, MaxRequestWorkers=5)
    assert wide.process_limit == 2, "so the third row is out of worker's sight"
    assert decide(WORKER, *letters).spawn == (2,)


@pytest.mark.parametrize("threaded", [WORKER, EVENT], ids=["worker", "event"])
def test_full_below_max_request_workers_is_said_each_second(threaded):
    """MaxRequestWorkers stays 100 although ServerLimit allows 2 processes: httpd's own quirk."""
    small = configured(
        threaded.mpm,
        ServerLimit=2,
        ThreadLimit=2,
        ThreadsPerChild=2,
        MaxRequestWorkers=100,
        MinSpareThreads=2,
    )
    assert (small.process_limit, small.MaxRequestWorkers) == (2, 100)
    memory = Memory()
    for _ in range(3):
        decided = decide(small, "WW", "WW", memory=memory)
        memory = decided.memory
        assert [n.ah for n in decided.notes] == ["AH00288" if threaded is WORKER else "AH03490"]


def test_event_uses_the_slots_above_the_limit_for_those_who_leave():
    letters = (">W.", "WW", "WW")
    assert decide(EVENT, *letters).spawn == (3,)
    assert decide(EVENT, *letters, memory=Memory(idle_spawn_rate=32)).spawn == (3,)


def test_event_never_has_more_processes_serving_than_the_limit():
    roomy = configured("event", **{**THREADS, "ServerLimit": 8})
    decided = decide(roomy, "WW", "WW", memory=Memory(idle_spawn_rate=8))
    assert decided.spawn == (2,), "rate 8, six free slots, but only one more may serve"
    at_limit = decide(roomy, "WW", "WG", "WG", memory=Memory(idle_spawn_rate=8, hold_off=3))
    assert at_limit.decision == AT_LIMIT
    assert (at_limit.memory.idle_spawn_rate, at_limit.memory.hold_off) == (1, 3)
    assert at_limit.notes == ()


def test_event_waits_for_those_who_leave_before_it_retires_the_next():
    small = configured("event", **{**THREADS, "MaxRequestWorkers": 8, "MaxSpareThreads": 5})
    assert decide(small, "__", "__", "__").decision == TOO_MANY
    decided = decide(small, "__", "__", "__", ">GG")
    assert (decided.decision, decided.retire) == (WAIT, 0)


def test_event_does_not_wait_when_slots_abound():
    roomy = configured("event", **{**THREADS, "ServerLimit": 8})
    assert decide(roomy, "__", "__", "__", ">GG").decision == TOO_MANY
    # 8 slots less 5 children are 3, which is not more than the limit of 3.
    assert decide(roomy, "__", "__", "__", ">GG", ">GG").decision == WAIT


def test_event_does_not_squat():
    full = configured("event", **{**THREADS, "MaxRequestWorkers": 8})
    assert decide(full, "WW", "WW", "W.", ">..").decision == FULL


def test_worker_squats_in_the_row_of_a_leaving_child():
    decided = decide(WORKER, "WW", "WW", ">W.")
    assert decided.decision == TOO_FEW
    assert decided.spawn == (2,)
    assert decided.squatted == ((2, 102),)


def test_worker_squats_only_where_a_thread_has_ended():
    assert decide(WORKER, "WW", "WW", ">WG").decision == FULL


def test_worker_prefers_rows_without_a_living_thread():
    wide = configured("worker", **{**THREADS, "MaxRequestWorkers": 8})
    memory = Memory(idle_spawn_rate=2)
    seen = look(board(wide, "WW", ">W.", ">G.", ""), wide, memory)
    assert seen.free == (2, 3)
    assert seen.squatted == ((2, 102),)


def test_worker_prefers_them_in_httpds_own_order():
    """Each wholly free slot takes the place of the first partly free one, which goes to the end."""
    wide = configured("worker", **{**THREADS, "ServerLimit": 6, "MaxRequestWorkers": 12})
    memory = Memory(idle_spawn_rate=8)
    seen = look(board(wide, ">W.", ">.W", "", "WW", ""), wide, memory)
    assert seen.free == (2, 4, 5, 1, 0)


@THREADED
def test_a_full_burst_is_announced_from_eight_on(threaded):
    wide = configured(
        threaded.mpm,
        ServerLimit=64,
        ThreadLimit=2,
        ThreadsPerChild=2,
        MaxRequestWorkers=128,
        MinSpareThreads=60,
        MaxSpareThreads=90,
    )
    quiet = decide(wide, "__", memory=Memory(idle_spawn_rate=4))
    loud = decide(wide, "__", ">GW", memory=Memory(idle_spawn_rate=8))
    assert quiet.notes == ()
    assert len(loud.spawn) == 8
    assert [n.ah for n in loud.notes] == ["AH00289" if threaded is WORKER else "AH00486"]
    assert loud.notes[0].level == "info"
    assert "forking 8 children in addition to 2 (1 leaving)" in loud.notes[0].text


# ---------------------------------------------------------------- sick children, restarts


@THREADED
def test_sick_children_and_never_a_healthy_one_end_the_server(threaded):
    memory = Memory(idle_spawn_rate=8).with_sick_child()
    assert memory.idle_spawn_rate == 1
    decided = decide(threaded, "_.", memory=memory)
    assert decided.shutdown
    assert decided.decision == SICK
    assert (decided.spawn, decided.retire) == ((), 0)
    assert [(n.ah, n.level) for n in decided.notes] == [
        ("AH02325" if threaded is WORKER else "AH02324", "alert")
    ]


@THREADED
def test_one_healthy_child_is_remembered_and_forgives(threaded):
    memory = decide(threaded, "__").memory
    assert memory.had_healthy_child
    decided = decide(threaded, "_.", memory=memory.with_sick_child())
    assert not decided.shutdown
    assert not decided.memory.sick_child_detected


@THREADED
def test_a_child_that_is_healthy_in_this_very_pass_forgives_too(threaded):
    decided = decide(threaded, "WW", memory=Memory().with_sick_child())
    assert not decided.shutdown
    assert decided.spawn == (1,)


def test_prefork_only_slows_down_for_a_sick_child():
    decided = decide(PREFORK, "W", memory=Memory(idle_spawn_rate=16).with_sick_child())
    assert not decided.shutdown
    assert decided.spawn == (1,)


@pytest.mark.parametrize("directives", [PREFORK, WORKER, EVENT], ids=MPMS)
def test_ten_forking_passes_without_doubling_after_a_graceful_restart(directives):
    memory = after_graceful_restart(Memory())
    busy = "W" * directives.ThreadsPerChild
    rates = []
    for _ in range(13):
        decided = decide(directives, busy, memory=memory)
        assert decided.spawn
        memory = decided.memory
        rates.append(memory.idle_spawn_rate)
    assert rates == [1] * 10 + [2, 4, 8]


# ---------------------------------------------------------------- the tables


def test_every_complaint_is_a_decision_and_has_an_id_where_it_can_occur():
    for what, (level, ids, text) in MESSAGES.items():
        assert what in DECISIONS or what == "busy"
        assert level in ("alert", "error", "info")
        assert set(ids) <= set(MPMS)
        assert text
    assert MESSAGES[REACHED][1].keys() == set(MPMS)
    assert len({ah for _, ids, _ in MESSAGES.values() for ah in ids.values()}) == 12


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        Memory().idle_spawn_rate = 2
    with pytest.raises(AttributeError):
        ProcessRow(0).pid = 1
