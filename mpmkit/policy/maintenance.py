"""Idle maintenance: how many children should there be? The parent asks once a second.

The parent takes a snapshot of the scoreboard, looks at it and makes a plan:

    snapshot -> look -> Seen -> plan -> Plan(spawn these slots, retire one, say this)

Both steps are pure functions. The parent carries out the plan; the simulator, notebooks and
tests call the same functions on their own snapshots. `Memory` is passed from pass to pass.

The decision, in one table (Max and Min are MaxSpareServers and MinSpareServers under prefork, MaxSpareThreads
and MinSpareThreads under worker and event; L is the process limit, MaxRequestWorkers / ThreadsPerChild):

    idle            prefork                 worker                   event
    --------------  ----------------------  -----------------------  -------------------------------
    above Max       retire one              retire one               retire one if none is leaving
                                                                     or slots abound, else wait
    Min to Max      nothing                 nothing                  nothing
    below Min, and
    . room          fork min(rate, free)    fork min(rate, usable)   fork min(rate, free, L - active
                                                                     processes)
    . at Max-       AH00161, once           AH00286 (none idle)      AH00484 (none idle)
      Request-                              or AH00287, once each    or AH10159, once each
      Workers
    . no slot       (the same thing)        AH00288, every second    AH03490, every second

The rate starts at 1, doubles after each pass that forked, up to 32, and falls back to 1 in
any pass that had no reason to fork. The last burst may overshoot. After a graceful restart ten
forking passes do not double it. Shrinking is gentler: at most one child a second.

The meaning of "idle" is half of the algorithm. A starting child is idle, or a slow start would make the parent
fork repeatedly for the same need. A leaving child is not idle, nor is one of an older generation, nor (event)
one that has stopped listening: none of them will take the next client.

Source: httpd 2.4, perform_idle_server_maintenance of prefork.c, worker.c and event.c, with one
listener bucket (ListenCoresBucketsRatio 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

from mpmkit.config.directives import Directives, Note
from mpmkit.policy.states import ACTIVE, DEAD, GRACEFUL, IDLE, ProcessRow, Snapshot, how_many

MAX_SPAWN_RATE = 32  # children forked in one pass, at most
BUSY_SPAWN_RATE = 8  # from this rate on the error log says so
HOLD_OFF = 10  # forking passes without doubling after a graceful restart


@dataclass(frozen=True, slots=True)
class Memory:
    """What the parent remembers from pass to pass, and over restarts."""

    idle_spawn_rate: int = 1  # children of the next forking pass, a power of two in 1..32
    hold_off: int = 0  # forking passes that still go by before the rate may double
    reported: frozenset[str] = frozenset()  # REACHED, NEAR: said once in a parent's life
    had_healthy_child: bool = False  # some child once had all its threads up
    sick_child_detected: bool = False  # a child has left for lack of resources since

    def with_sick_child(self) -> Self:
        """A child left with the exit status "sick": it ran out of descriptors, memory or threads. Forking
        starts over at one; worker and event ask in the next pass whether any child was ever healthy."""
        return replace(self, idle_spawn_rate=1, sick_child_detected=True)

    def after_graceful_restart(self) -> Self:
        """For the new generation: no exponential forking while the old one still leaves."""
        return replace(self, hold_off=HOLD_OFF)


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """What one look counted. Workers are threads; under prefork, children."""

    idle: int  # workers ready for the next client
    active: int  # those that are up, idle ones included: what is compared with MaxRequestWorkers
    total: int  # children that exist
    active_processes: int  # those of them that are not leaving
    # Slots for new children, in the order of use, at most as many as the rate allows. Under worker a leaving
    # child may still finish its last requests in one of them.
    free: tuple[int, ...] = ()
    healthy: bool = False  # some child has all its threads up


# The decisions: the lines of the table; that all processes that may serve do; that children leave for lack of
# resources and none was ever healthy.
DECISIONS = ("enough", "too many", "wait", "too few", "reached", "near", "full", "at limit", "sick")
ENOUGH, TOO_MANY, WAIT, TOO_FEW, REACHED, NEAR, FULL, AT_LIMIT, SICK = DECISIONS


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parent should do now."""

    decision: str  # one of DECISIONS
    memory: Memory  # for the next pass
    notes: tuple[Note, ...] = ()  # for the error log
    retire: int = 0  # or 1: ask a child to leave, the one that reads the byte in the pipe of death
    spawn: tuple[int, ...] = ()  # fork a child into each of these slots
    shutdown: bool = False  # stop the whole server


BUSY = "busy"  # no decision: reported with TOO_FEW when many are forked at once
# For each message: its level, Apache's id for it in each MPM, and our words.
MESSAGES: dict[str, tuple[str, dict[str, str], str]] = {
    BUSY: ("info", {"prefork": "AH00162", "worker": "AH00289", "event": "AH00486"},
        "load rises fast: forking {forks} children in addition to {s.total} ({leaving} leaving), with {s.idle} "
        "idle workers. Consider raising StartServers or {spare}"),
    REACHED: ("error", {"prefork": "AH00161", "worker": "AH00286", "event": "AH00484"},
        "MaxRequestWorkers ({d.MaxRequestWorkers}) is reached, {s.idle} idle: no more children may be forked, "
        "and new clients wait in the listen queue. Consider raising MaxRequestWorkers"),
    NEAR: ("error", {"worker": "AH00287", "event": "AH10159"},
        "MaxRequestWorkers ({d.MaxRequestWorkers}) is reached and fewer than MinSpareThreads are left idle "
        "({s.idle}). Consider raising MaxRequestWorkers"),
    FULL: ("error", {"worker": "AH00288", "event": "AH03490"},
        "no slot of the scoreboard is free, though MaxRequestWorkers ({d.MaxRequestWorkers}) is not reached: "
        "{s.total} children, {leaving} of them leaving. Consider raising ServerLimit"),
    SICK: ("alert", {"worker": "AH02325", "event": "AH02324"},
        "children leave for lack of resources and none ever had all its threads up: shutting down"),
}  # fmt: skip


def _note(what: str, seen: Seen, directives: Directives, forks: int = 0) -> Note:
    level, ids, text = MESSAGES[what]
    spare = "MinSpareThreads" if directives.threaded else "MinSpareServers"
    words = {"forks": forks, "leaving": seen.total - seen.active_processes, "spare": spare}
    return Note(ids[directives.mpm], level, text.format(s=seen, d=directives, **words))


def look(snapshot: Snapshot, directives: Directives, memory: Memory) -> Seen:
    """Count what the scoreboard shows; `memory` says how many free slots are worth noting. Event has all
    slots of ServerLimit, those above L for children that finish. Threads of a child that stopped listening
    are not idle: they will not meet the next client. (httpd's event keeps running totals, and its prefork
    compares no generation, since the parent writes GRACEFUL into the rows of the old one: to count again,
    in one way, gives the same.)"""
    mpm, threads = directives.mpm, directives.ThreadsPerChild
    slots = directives.ServerLimit if mpm == "event" else directives.process_limit
    rows = snapshot.processes[:slots]
    idle = active = total = active_processes = healthy = 0
    for row in rows:
        if not row.pid:
            continue
        states = row.states[:threads]
        up = how_many(states, ACTIVE)
        total += 1
        active += up
        healthy |= up == threads
        if not row.quiescing:
            active_processes += 1
            if not row.not_accepting and row.generation == snapshot.generation:
                idle += how_many(states, IDLE)
    if mpm == "worker":
        free = _free_for_worker(rows, threads, memory.idle_spawn_rate)
    else:
        free = list(islice((row.slot for row in rows if not row.pid), memory.idle_spawn_rate))
    return Seen(idle, active, total, active_processes, tuple(free), bool(healthy))


def _free_for_worker(rows: Sequence[ProcessRow], threads: int, rate: int) -> list[int]:
    """A slot will do for a new child of worker if it is empty, or if its child is leaving and at least one
    of that child's threads has ended: the new child squats in the row of the old one, and starts each
    thread as its slot becomes free."""
    free: list[int] = []
    totally_free = 0  # the first so many of `free` have no living thread
    for row in rows:
        states = row.states[:threads]
        dead = states.count(DEAD)
        usable = dead and (row.quiescing or not row.pid)
        if usable and totally_free < rate and len(free) < MAX_SPAWN_RATE:
            free.append(row.slot)
            # Where no thread is left, a new child can start all of its own at once. Such slots go
            # to the front: swap this one with the first that is only partly free.
            if dead + states.count(GRACEFUL) == threads:
                free[totally_free], free[-1] = free[-1], free[totally_free]
                totally_free += 1
    return free[:rate]


def plan(seen: Seen, directives: Directives, memory: Memory) -> Plan:
    """Decide, row by row of the table. Never forks and retires in one pass; never retires more than one."""
    d, threaded, event = directives, directives.threaded, directives.mpm == "event"
    if seen.healthy and not memory.had_healthy_child:
        memory = replace(memory, had_healthy_child=True)
    # Worker and event give up on sick children if there was never a healthy one.
    if memory.sick_child_detected and threaded:
        if not memory.had_healthy_child:
            return Plan(SICK, memory, (_note(SICK, seen, d),), shutdown=True)
        memory = replace(memory, sick_child_detected=False)
    calm = replace(memory, idle_spawn_rate=1)  # of a pass that does not fork
    least, most = d.MinSpareServers, d.MaxSpareServers
    if threaded:
        least, most = d.MinSpareThreads, d.MaxSpareThreads
    # Too many idle: one child leaves, with all its threads. It may take long to finish, and holds its slot
    # until then. So under event the next one only goes when none is leaving any more, or when the free
    # slots would do for a whole new generation.
    if seen.idle > most:
        none_leaves = seen.active_processes == seen.total
        slots_abound = d.ServerLimit - seen.total > d.process_limit
        if event and not none_leaves and not slots_abound:
            return Plan(WAIT, calm)
        return Plan(TOO_MANY, calm, retire=1)
    if seen.idle >= least:
        return Plan(ENOUGH, calm)
    # Too few: fork, or say why not. Worker asks about slots first and MaxRequestWorkers second, event the
    # other way round. Prefork has MaxRequestWorkers slots, so having no free one *is* having reached
    # MaxRequestWorkers, even while some children are idle.
    reached = seen.active >= d.MaxRequestWorkers
    if not seen.free or (event and reached):
        what = FULL if threaded and not reached else NEAR if threaded and seen.idle else REACHED
        notes = () if what in calm.reported else (_note(what, seen, d),)
        if what != FULL:  # which is said each time
            calm = replace(calm, reported=calm.reported | {what})
        return Plan(what, calm, notes)
    # Event may have more slots than processes that may serve at a time. At that limit httpd also raises
    # hold_off by one and lowers it again a line later: nothing of it is left to do.
    free = seen.free[: max(0, d.process_limit - seen.active_processes)]
    if not free:
        return Plan(AT_LIMIT, calm)
    rate, hold_off = memory.idle_spawn_rate, memory.hold_off
    notes = (_note(BUSY, seen, d, forks=len(free)),) if rate >= BUSY_SPAWN_RATE else ()
    if hold_off > 0:
        memory = replace(memory, hold_off=hold_off - 1)
    else:
        memory = replace(memory, idle_spawn_rate=min(2 * rate, MAX_SPAWN_RATE))
    return Plan(TOO_FEW, memory, notes, spawn=free)
