"""Idle maintenance: properties of any scoreboard, then each line of the decision table."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configured import directives as configured

from mpmkit.config.directives import MPMS, Directives
from mpmkit.policy import maintenance as of
from mpmkit.policy import states
from mpmkit.policy.maintenance import ENOUGH, REACHED, TOO_FEW, TOO_MANY, Memory, Plan, look, plan
from mpmkit.policy.states import ProcessRow, Snapshot

RATES = (1, 2, 4, 8, 16, 32)

memories = st.builds(
    Memory, idle_spawn_rate=st.sampled_from(RATES), hold_off=st.integers(0, of.HOLD_OFF),
    reported=st.frozensets(st.sampled_from((REACHED, of.NEAR))), had_healthy_child=st.booleans(),
    sick_child_detected=st.booleans(),
)  # fmt: skip


@st.composite
def directives_for(draw, mpm: str) -> Directives:
    spare, room = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    if mpm == "prefork":
        slots = draw(st.integers(1, 40))
        most = draw(st.integers(1, slots))
        more = {"MinSpareServers": spare, "MaxSpareServers": spare + room}
    else:
        slots, threads = draw(st.integers(1, 12)), draw(st.integers(1, 4))
        most = draw(st.integers(1, slots + 2)) * threads
        limit = threads + draw(st.integers(0, 2))
        more = {"MinSpareThreads": spare, "MaxSpareThreads": spare + threads + room,
                "ThreadsPerChild": threads, "ThreadLimit": limit}  # fmt: skip
    return configured(mpm, ServerLimit=slots, MaxRequestWorkers=most, **more)


@st.composite
def rows_for(draw, directives: Directives, slot: int) -> ProcessRow:
    columns, prefork = directives.ThreadLimit, directives.mpm == "prefork"
    if not draw(st.booleans()):
        return ProcessRow(slot, states=bytes(columns))
    any_state = st.integers(states.STARTING if prefork else states.DEAD, states.GRACEFUL)
    used = directives.ThreadsPerChild
    letters = draw(st.lists(any_state, min_size=used, max_size=used)) + [0] * (columns - used)
    marks = {
        "generation": draw(st.sampled_from((2, 2, 1))), "pid": 1000 + slot, "states": bytes(letters),
        "quiescing": 0 if prefork else draw(st.sampled_from((0, 0, 1, 2))),
        "not_accepting": int(directives.mpm == "event" and draw(st.booleans())),
    }  # fmt: skip
    return ProcessRow(slot, **marks)


@st.composite
def situations(draw) -> tuple[Snapshot, Directives, Memory]:
    """Anything a parent might find."""
    directives = draw(directives_for(draw(st.sampled_from(MPMS))))
    slots = range(directives.ServerLimit)
    rows = tuple(draw(rows_for(directives, slot)) for slot in slots)
    board = Snapshot(directives.ServerLimit, directives.ThreadLimit, 2, 0.0, rows)
    return board, directives, draw(memories)


@given(situations())
def test_what_holds_for_every_plan(situation):
    snapshot, directives, memory = situation
    seen = look(snapshot, directives, memory)
    decided = plan(seen, directives, memory)
    assert decided.retire in (0, 1) and not (decided.spawn and decided.retire)
    assert decided.decision in of.DECISIONS
    # Never into a slot that is taken: under worker a leaving child may be there, with a free thread.
    assert len(set(decided.spawn)) == len(decided.spawn)
    slots = directives.ServerLimit if directives.mpm == "event" else directives.process_limit
    for row in (snapshot.processes[slot] for slot in decided.spawn):
        assert row.slot < slots
        if row.pid:
            assert row.quiescing and directives.mpm == "worker"
            assert states.DEAD in row.states[: directives.ThreadsPerChild]
    # Never above the limit, nor the rate, which is a power of two.
    rate = decided.memory.idle_spawn_rate
    assert len(decided.spawn) <= memory.idle_spawn_rate <= of.MAX_SPAWN_RATE and rate in RATES
    if decided.spawn:
        assert seen.active_processes + len(decided.spawn) <= directives.process_limit
        doubled = min(2 * memory.idle_spawn_rate, of.MAX_SPAWN_RATE)
        assert rate == (memory.idle_spawn_rate if memory.hold_off else doubled)
        assert decided.memory.hold_off == max(memory.hold_off - 1, 0)
    elif not decided.shutdown:
        assert (rate, decided.memory.hold_off) == (1, memory.hold_off)
    # Within bounds nothing happens.
    kind = "Servers" if directives.mpm == "prefork" else "Threads"
    low, high = (getattr(directives, f"{end}Spare{kind}") for end in ("Min", "Max"))
    if decided.shutdown:
        assert directives.mpm != "prefork"
    elif low <= seen.idle <= high:
        assert (decided.spawn, decided.retire, decided.notes) == ((), 0, ())
        assert decided.decision == ENOUGH
    else:
        assert decided.decision != ENOUGH
        assert (decided.decision in (TOO_MANY, of.WAIT)) == (seen.idle > high)
    if directives.mpm == "prefork":
        assert decided.decision in (ENOUGH, TOO_MANY, TOO_FEW, REACHED)


def board(directives: Directives, *letters: str, generation: int = 0) -> Snapshot:
    """A scoreboard from strings: "__" two idle threads, "" an empty slot, ">_." a leaving child.

    A leading ">" is quiescing, "-" not accepting, "<" of the generation before.
    """
    rows, columns = [], directives.ThreadLimit
    for slot, text in zip_longest(range(directives.ServerLimit), letters, fillvalue=""):
        shown = text.lstrip("<>-")
        marks = text.removesuffix(shown) if shown else text
        used = bytes(map(states.LETTERS.index, shown)).ljust(columns, b"\0")
        named = {"quiescing": int(">" in marks), "not_accepting": int("-" in marks)}
        named |= {"generation": generation - ("<" in marks), "pid": 100 + slot if text else 0}
        rows.append(ProcessRow(slot, states=used, **named))
    return Snapshot(directives.ServerLimit, columns, generation, 0.0, tuple(rows))


def decide(directives: Directives, *letters: str, memory: Memory = Memory()) -> Plan:  # noqa: B008
    return plan(look(board(directives, *letters), directives, memory), directives, memory)


FEW = {"ServerLimit": 8, "MaxRequestWorkers": 6, "MinSpareServers": 2, "MaxSpareServers": 4}
PREFORK = configured("prefork", **FEW)
THREADS = {  # three processes serve, a fourth slot is spare
    "ServerLimit": 4, "ThreadLimit": 2, "ThreadsPerChild": 2, "MaxRequestWorkers": 6,
    "MinSpareThreads": 2, "MaxSpareThreads": 5,
}  # fmt: skip
WORKER = configured("worker", **THREADS)
EVENT = configured("event", **THREADS)
ROOMY = configured("event", **{**THREADS, "ServerLimit": 8})  # more slots than processes may serve
TIGHT = configured("event", **{**THREADS, "MaxRequestWorkers": 8})  # as many processes as slots
THREADED = pytest.mark.parametrize("threaded", [WORKER, EVENT], ids=["worker", "event"])


def memory(rate: int = 1, hold_off: int = 0, sick: bool = False) -> Memory:
    found = Memory(idle_spawn_rate=rate, hold_off=hold_off)
    return found.with_sick_child() if sick else found


REACHED_BY = {"decision": REACHED, "level": "error"}
NEARLY = {"decision": of.NEAR, "level": "error"}
ENDED = {"shutdown": True, "decision": of.SICK, "spawn": (), "retire": 0, "level": "alert"}
# What it shows: (directives, rows, memory, what of the plan is as given).
LINES = {
    "prefork forks into the lowest free slots":
        (PREFORK, "W - W", memory(2), {"decision": TOO_FEW, "spawn": (1, 3), "rate": 4}),
    "prefork has no slots above MaxRequestWorkers": (PREFORK, "W W W W", memory(32), {"spawn": (4, 5)}),
    "prefork counts starting children as idle": (PREFORK, "W W S S", memory(), {"decision": ENOUGH}),
    "prefork says reached even with a child idle":
        (PREFORK, "W W W W W _", memory(), {"decision": REACHED, "ids": ["AH00161"]}),
    "prefork does not count the old generation": (PREFORK, "G G G", memory(), {"spawn": (3,)}),
    "prefork retires one however many are too many":
        (PREFORK, "_ _ _ _ _ _", memory(16), {"decision": TOO_MANY, "retire": 1, "rate": 1}),
    "prefork only slows down for a sick child":
        (PREFORK, "W", memory(16, sick=True), {"shutdown": False, "spawn": (1,)}),
    "worker has reached MaxRequestWorkers": (WORKER, "WW WW WW", memory(), REACHED_BY | {"ids": ["AH00286"]}),
    "event has reached MaxRequestWorkers": (EVENT, "WW WW WW", memory(), REACHED_BY | {"ids": ["AH00484"]}),
    "worker is near MaxRequestWorkers": (WORKER, "WW WW W_", memory(), NEARLY | {"ids": ["AH00287"]}),
    "event is near MaxRequestWorkers": (EVENT, "WW WW W_", memory(), NEARLY | {"ids": ["AH10159"]}),
    # Three processes, one of them leaving with a thread gone: both readings are true.
    "event asks about MaxRequestWorkers first": (EVENT, "WW WW WW >W.", memory(), {"decision": REACHED}),
    "worker asks about slots first": (WORKER, "WW WW >W.", memory(), {"spawn": (2,)}),
    "event does not count on a child that stopped listening": (EVENT, "-__ W_", memory(), {"spawn": (2,)}),
    "event uses the slots above the limit for those who leave": (EVENT, ">W. WW WW", memory(), {"spawn": (3,)}),
    "at any rate": (EVENT, ">W. WW WW", memory(32), {"spawn": (3,)}),
    "event never has more processes serving than the limit": (ROOMY, "WW WW", memory(8), {"spawn": (2,)}),
    "and says nothing at the limit": (ROOMY, "WW WG WG", memory(8, 3),
                                      {"decision": of.AT_LIMIT, "rate": 1, "hold_off": 3, "notes": ()}),
    "event retires one": (TIGHT, "__ __ __", memory(), {"decision": TOO_MANY}),
    "event waits for those who leave before it retires the next":
        (TIGHT, "__ __ __ >GG", memory(), {"decision": of.WAIT, "retire": 0}),
    "event does not wait when slots abound": (ROOMY, "__ __ __ >GG", memory(), {"decision": TOO_MANY}),
    # 8 slots less 5 children are 3, which is not more than the limit of 3.
    "event waits when they don't": (ROOMY, "__ __ __ >GG >GG", memory(), {"decision": of.WAIT}),
    "event does not squat": (TIGHT, "WW WW W. >..", memory(), {"decision": of.FULL}),
    "worker squats in the row of a leaving child":
        (WORKER, "WW WW >W.", memory(), {"decision": TOO_FEW, "spawn": (2,)}),
    "worker squats only where a thread has ended": (WORKER, "WW WW >WG", memory(), {"decision": of.FULL}),
    "sick children and never a healthy one end worker":
        (WORKER, "_.", memory(8, sick=True), ENDED | {"ids": ["AH02325"]}),
    "sick children and never a healthy one end event":
        (EVENT, "_.", memory(8, sick=True), ENDED | {"ids": ["AH02324"]}),
    **{f"a child of {one.mpm} that is healthy in this pass forgives":
        (one, "WW", memory(sick=True), {"shutdown": False, "spawn": (1,)}) for one in (WORKER, EVENT)},
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_table(line):
    directives, rows, before, expected = LINES[line]
    letters = ("" if row == "-" else row for row in rows.split())
    decided = decide(directives, *letters, memory=before)
    found = {
        **{name: getattr(decided, name) for name in ("decision", "spawn", "retire", "notes", "shutdown")},
        "ids": [note.ah for note in decided.notes], "level": decided.notes[0].level if decided.notes else None,
        "rate": decided.memory.idle_spawn_rate, "hold_off": decided.memory.hold_off,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_prefork_does_not_trust_a_dead_byte_in_a_slot_with_a_pid():
    seen = look(board(PREFORK, ".", "W"), PREFORK, memory(2))
    assert (seen.free, seen.idle) == ((2, 3), 1)
    assert "1 idle" in decide(PREFORK, *"WWWWW_").notes[0].text


@THREADED
def test_idle_threads_are_those_that_will_take_the_next_client(threaded):
    seen = look(board(threaded, "_S", ">__", "<__"), threaded, Memory())
    assert (seen.idle, seen.total, seen.active_processes) == (2, 3, 2)
    assert seen.active == 5, "idle, leaving and old threads are active; a starting one is not"
    # Threads that are not there yet count as idle.
    assert look(board(threaded, ".."), threaded, Memory()).idle == 2


@pytest.mark.parametrize(("slots", "most", "rate", "rows", "free"), [
    (4, 8, 2, ("WW", ">W.", ">G.", ""), (2, 3)),
    # httpd's own order: each wholly free slot takes the place of the first partly free one, which
    # goes to the end.
    (6, 12, 8, (">W.", ">.W", "", "WW", ""), (2, 4, 5, 1, 0)),
])  # fmt: skip
def test_worker_prefers_rows_without_a_living_thread(slots, most, rate, rows, free):
    wide = configured("worker", **THREADS | {"ServerLimit": slots, "MaxRequestWorkers": most})
    assert look(board(wide, *rows), wide, memory(rate)).free == free


@THREADED
def test_one_healthy_child_is_remembered_and_forgives(threaded):
    before = decide(threaded, "__").memory
    assert before.had_healthy_child
    decided = decide(threaded, "_.", memory=before.with_sick_child())
    assert not decided.shutdown and not decided.memory.sick_child_detected


@pytest.mark.parametrize("directives", [PREFORK, WORKER, EVENT], ids=MPMS)
def test_ten_forking_passes_without_doubling_after_a_graceful_restart(directives):
    before, rates = Memory().after_graceful_restart(), []
    for _ in range(13):
        decided = decide(directives, "W" * directives.ThreadsPerChild, memory=before)
        assert decided.spawn
        before = decided.memory
        rates.append(before.idle_spawn_rate)
    assert rates == [1] * 10 + [2, 4, 8]
