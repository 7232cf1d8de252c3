"""Idle maintenance: each line of the decision table. (Any load: test_simulator.)"""

import re
from itertools import zip_longest

import pytest
from support.configured import directives as configured

from mpmkit.config.directives import MPMS, Directives
from mpmkit.policy import maintenance as of
from mpmkit.policy import states
from mpmkit.policy.maintenance import ENOUGH, REACHED, TOO_FEW, TOO_MANY, Memory, Plan, look, plan
from mpmkit.policy.states import ProcessRow, Snapshot


def board(directives: Directives, *letters: str, generation: int = 0) -> Snapshot:
    """A scoreboard from strings: "__" two idle threads, "" an empty slot; a leading ">" is a child that leaves,
    "-" one that does not accept, "<" one of the generation before."""
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
SLOTS = ({"ServerLimit": slots, "MaxRequestWorkers": 2 * slots} for slots in (4, 6))
WIDE = [configured("worker", **THREADS | more) for more in SLOTS]


def memory(rate: int = 1, hold_off: int = 0, sick: bool = False, healthy: bool = False) -> Memory:
    found = Memory(idle_spawn_rate=rate, hold_off=hold_off, had_healthy_child=healthy)
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
        (PREFORK, "W W W W W _", memory(), {"decision": REACHED, "ids": ["AH00161"], "idle": ["1 idle"]}),
    "prefork does not trust a dead byte in a slot with a pid": (PREFORK, ". W", memory(2), {"spawn": (2, 3)}),
    "prefork does not count the old generation": (PREFORK, "G G G", memory(), {"spawn": (3,)}),
    "prefork retires one however many are too many":
        (PREFORK, "_ _ _ _ _ _", memory(16), {"decision": TOO_MANY, "retire": 1, "rate": 1}),
    "prefork only slows down for a sick child":
        (PREFORK, "-", memory(16, sick=True), {"shutdown": False, "spawn": (0,), "sick": True}),
    "worker has reached MaxRequestWorkers": (WORKER, "WW WW WW", memory(), REACHED_BY | {"ids": ["AH00286"]}),
    "event has reached MaxRequestWorkers": (EVENT, "WW WW WW", memory(), REACHED_BY | {"ids": ["AH00484"]}),
    "worker is near MaxRequestWorkers": (WORKER, "WW WW W_", memory(), NEARLY | {"ids": ["AH00287"]}),
    "event is near MaxRequestWorkers": (EVENT, "WW WW W_", memory(), NEARLY | {"ids": ["AH10159"]}),
    # Three processes, one of them leaving with a thread gone: both readings are true.
    "event asks about MaxRequestWorkers first": (EVENT, "WW WW WW >W.", memory(), {"decision": REACHED}),
    "worker asks about slots first": (WORKER, "WW WW >W.", memory(), {"spawn": (2,)}),
    "event does not count on a child that stopped listening": (EVENT, "-__ W_", memory(), {"spawn": (2,)}),
    "event uses the slots above the limit for those who leave": (EVENT, ">W. WW WW", memory(), {"spawn": (3,)}),
    "at any rate, and 32 is the highest": (EVENT, ">W. WW WW", memory(32), {"spawn": (3,), "rate": 32}),
    "event never has more processes serving than the limit": (ROOMY, "WW WW", memory(8), {"spawn": (2,)}),
    "and says nothing at the limit": (ROOMY, "WW WG WG", memory(8, 3),
                                      {"decision": of.AT_LIMIT, "rate": 1, "hold_off": 3, "notes": ()}),
    "nor above it": (ROOMY, "WG WG WG WG", memory(8), {"decision": of.AT_LIMIT, "spawn": ()}),
    "event retires one": (TIGHT, "__ __ __", memory(), {"decision": TOO_MANY}),
    "event waits for those who leave before it retires the next":
        (TIGHT, "__ __ __ >GG", memory(), {"decision": of.WAIT, "retire": 0}),
    "worker does not": (WIDE[1], "__ __ __ >GG", memory(), {"decision": TOO_MANY, "retire": 1}),
    "event does not wait when slots abound": (ROOMY, "__ __ __ >GG", memory(), {"decision": TOO_MANY}),
    # 8 slots less 5 children are 3, which is not more than the limit of 3.
    "event waits when they don't": (ROOMY, "__ __ __ >GG >GG", memory(), {"decision": of.WAIT}),
    "event does not squat": (TIGHT, "WW WW W. >..", memory(), {"decision": of.FULL}),
    "worker squats in the row of a leaving child":
        (WORKER, "WW WW >W.", memory(), {"decision": TOO_FEW, "spawn": (2,)}),
    "worker squats only where a thread has ended": (WORKER, "WW WW >WG", memory(), {"decision": of.FULL}),
    "worker prefers rows without a living thread": (WIDE[0], "WW >W. >G. -", memory(2), {"spawn": (2, 3)}),
    # httpd's own order: each wholly free slot takes the place of the first partly free one, which goes last.
    "and a free row to all of them": (WIDE[1], ">W. >.W - WW -", memory(8), {"spawn": (2, 4, 5, 1, 0)}),
    "sick children and never a healthy one end worker":
        (WORKER, "_.", memory(8, sick=True), ENDED | {"ids": ["AH02325"]}),
    "sick children and never a healthy one end event":
        (EVENT, "_.", memory(8, sick=True), ENDED | {"ids": ["AH02324"]}),
    **{f"a child of {one.mpm} that is healthy in this pass forgives, and is remembered":
        (one, "WW", memory(sick=True), {"shutdown": False, "spawn": (1,), "healthy": True})
        for one in (WORKER, EVENT)},
    **{f"a healthy child of {one.mpm} that is remembered forgives": (one, "_.", memory(sick=True, healthy=True),
        {"shutdown": False, "sick": False, "healthy": True}) for one in (WORKER, EVENT)},
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_table(line):
    directives, rows, before, expected = LINES[line]
    letters = ("" if row == "-" else row for row in rows.split())
    decided = decide(directives, *letters, memory=before)
    notes, after = decided.notes, decided.memory
    found = {
        **{name: getattr(decided, name) for name in ("decision", "spawn", "retire", "notes", "shutdown")},
        "ids": [note.ah for note in notes], "level": notes[0].level if notes else None,
        "idle": [idle for note in notes for idle in re.findall(r"\d+ idle", note.text)],
        "rate": after.idle_spawn_rate, "hold_off": after.hold_off,
        "healthy": after.had_healthy_child, "sick": after.sick_child_detected,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("threaded", [WORKER, EVENT], ids=["worker", "event"])
def test_idle_threads_are_those_that_will_take_the_next_client(threaded):
    seen = look(board(threaded, "_S", ">__", "<__"), threaded, Memory())
    assert (seen.idle, seen.total, seen.active_processes) == (2, 3, 2)
    assert seen.active == 5, "idle, leaving and old threads are active; a starting one is not"
    # Threads that are not there yet count as idle.
    assert look(board(threaded, ".."), threaded, Memory()).idle == 2


@pytest.mark.parametrize("directives", [PREFORK, WORKER, EVENT], ids=MPMS)
def test_ten_forking_passes_without_doubling_after_a_graceful_restart(directives):
    before, rates = Memory().after_graceful_restart(), []
    for _ in range(13):
        decided = decide(directives, "W" * directives.ThreadsPerChild, memory=before)
        assert decided.spawn
        before = decided.memory
        rates.append(before.idle_spawn_rate)
    assert rates == [1] * 10 + [2, 4, 8]
