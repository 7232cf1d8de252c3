"""Idle maintenance: how many children should there be? The parent asks once a second.

The parent takes a snapshot of the scoreboard, looks at it and makes a plan:

    snapshot -> look -> Seen -> plan -> Plan(spawn these slots, retire one, say this)

Both steps are pure functions. The parent carries out the plan; the simulator, notebooks and
tests call the same functions on their own snapshots. `Memory` is passed from pass to pass.

The decision, in one table (Max and Min are MaxSpareServers and MinSpareServers under prefork,
MaxSpareThreads and MinSpareThreads under worker and event; L is the process limit,
MaxRequestWorkers / ThreadsPerChild):

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

The meaning of "idle" is half of the algorithm. A starting child is idle, or a slow start would
make the parent fork repeatedly for the same need. A leaving child is not idle, nor is one
of an older generation, nor (event) one that has stopped listening: none of them will take the next
client.

Source: httpd 2.4, perform_idle_server_maintenance of prefork.c, worker.c and event.c, with one
listener bucket (ListenCoresBucketsRatio 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mpmkit.config.directives import Directives, Note
from mpmkit.policy.snapshot import ProcessRow, Snapshot
from mpmkit.policy.states import ACTIVE, DEAD, GRACEFUL, IDLE

MAX_SPAWN_RATE = 32  # children forked in one pass, at most
BUSY_SPAWN_RATE = 8  # from this rate on the error log says so
HOLD_OFF = 10  # forking passes without doubling after a graceful restart


# --- What goes in, with the scoreboard as it is now (snapshot.py) --------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What the parent remembers from pass to pass, and over restarts.

    `idle_spawn_rate`: how many children the next forking pass may start, a power of two in 1..32.
    `hold_off`: how many forking passes still go by before the rate may double.
    `reached_reported`, `near_reported`: MaxRequestWorkers has been complained about. These flags
    are never cleared, so the messages come once in the life of a parent.
    `had_healthy_child`: some child once had all its threads up.
    `sick_child_detected`: a child has left for lack of resources since.
    """

    idle_spawn_rate: int = 1
    hold_off: int = 0
    reached_reported: bool = False
    near_reported: bool = False
    had_healthy_child: bool = False
    sick_child_detected: bool = False

    def with_sick_child(self) -> Memory:
        """A child left with the exit status "sick": it ran out of descriptors, memory or threads. Forking
        starts over at one; worker and event ask in the next pass whether any child was ever healthy."""
        return replace(self, idle_spawn_rate=1, sick_child_detected=True)


def after_graceful_restart(memory: Memory) -> Memory:
    """The memory for the new generation: no exponential forking while the old one still leaves."""
    return replace(memory, hold_off=HOLD_OFF)


# --- What comes out ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look counted.

    `idle`: workers ready for the next client (prefork: children; worker, event: threads).
    `active`: threads that are up, idle ones included: that is what worker and event compare with
    MaxRequestWorkers. (Prefork: children that are up.)
    `total`: children that exist, `active_processes`: those of them that are not leaving.
    `free`: slots for new children, in the order of use, at most as many as the rate allows. Under worker
    a leaving child may still finish its last requests in one of them.
    `healthy`: some child has all its threads up.
    """

    idle: int
    active: int
    total: int
    active_processes: int
    free: tuple[int, ...] = ()
    healthy: bool = False


# The decisions, of which a plan names its own.
ENOUGH = "enough"
TOO_MANY = "too many"
WAIT = "wait"
TOO_FEW = "too few"
REACHED = "reached"
NEAR = "near"
FULL = "full"
AT_LIMIT = "at limit"
SICK = "sick"

DECISIONS = {
    ENOUGH: "idle workers are within bounds: do nothing",
    TOO_MANY: "more idle workers than allowed: retire one child",
    WAIT: "more idle workers than allowed, but children are still leaving: wait for them",
    TOO_FEW: "fewer idle workers than wanted: fork",
    REACHED: "fewer idle workers than wanted, and MaxRequestWorkers is reached",
    NEAR: "fewer idle workers than wanted, some left, and MaxRequestWorkers is reached",
    FULL: "fewer idle workers than wanted, below MaxRequestWorkers, but no slot is free",
    AT_LIMIT: "fewer idle workers than wanted, but all processes that may serve do: don't fork",
    SICK: "children leave for lack of resources and none was ever healthy: shut down",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parent should do now.

    `spawn`: fork a child into each of these slots. Where a leaving child of worker still finishes its last
    requests, the row is the new child's from then on, which starts threads where the old one's have ended.
    `retire`: ask that many children (0 or 1) to leave, through the pipe of death: the one that reads the byte.
    `notes`: for the error log. `memory`: for the next pass. `shutdown`: stop the whole server.
    `decision`: which line of the table was taken, a key of DECISIONS.
    """

    spawn: tuple[int, ...]
    retire: int
    notes: tuple[Note, ...]
    memory: Memory
    shutdown: bool = False
    decision: str = ENOUGH


# --- Messages ------------------------------------------------------------------------------------

BUSY = "busy"  # no decision: reported with TOO_FEW when many are forked at once

# For each message: its level, Apache's id for it in each MPM, and our words.
MESSAGES: dict[str, tuple[str, dict[str, str], str]] = {
    BUSY: (
        "info", {"prefork": "AH00162", "worker": "AH00289", "event": "AH00486"},
        "load rises fast: forking {forks} children in addition to {total} ({leaving} leaving), with "
        "{idle} idle workers. Consider raising StartServers or {spare}",
    ),
    REACHED: (
        "error", {"prefork": "AH00161", "worker": "AH00286", "event": "AH00484"},
        "MaxRequestWorkers ({workers}) is reached, {idle} idle: no more children may be "
        "forked, and new clients wait in the listen queue. Consider raising MaxRequestWorkers",
    ),
    NEAR: (
        "error", {"worker": "AH00287", "event": "AH10159"},
        "MaxRequestWorkers ({workers}) is reached and fewer than MinSpareThreads are left idle "
        "({idle}). Consider raising MaxRequestWorkers",
    ),
    FULL: (
        "error", {"worker": "AH00288", "event": "AH03490"},
        "no slot of the scoreboard is free, though MaxRequestWorkers ({workers}) is not "
        "reached: {total} children, {leaving} of them leaving. Consider raising ServerLimit",
    ),
    SICK: (
        "alert", {"worker": "AH02325", "event": "AH02324"},
        "children leave for lack of resources and none ever had all its threads up: shutting down",
    ),
}  # fmt: skip


def _note(what: str, seen: Seen, directives: Directives, forks: int = 0) -> Note:
    level, ids, text = MESSAGES[what]
    spare = "MinSpareServers" if directives.mpm == "prefork" else "MinSpareThreads"
    counts = {"forks": forks, "idle": seen.idle, "total": seen.total}
    counts |= {
        "leaving": seen.total - seen.active_processes,
        "workers": directives.MaxRequestWorkers,
    }
    return Note(ids[directives.mpm], level, text.format(spare=spare, **counts))


# --- Look ----------------------------------------------------------------------------------------

_IDLE = bytes(IDLE)
_ACTIVE = bytes(ACTIVE)


def _count(states: bytes, which: bytes) -> int:
    """How many of `states` are among `which`: what is lost when those are deleted."""
    return len(states) - len(states.translate(None, which))


def look(snapshot: Snapshot, directives: Directives, memory: Memory) -> Seen:
    """Count what the scoreboard shows; `memory` says how many free slots are worth noting.

    Event has all slots of ServerLimit, those above L for children that finish. Threads of a child that
    stopped listening are not idle: they will not meet the next client. (httpd's event keeps running totals,
    and its prefork compares no generation, since the parent writes GRACEFUL into the rows of the old one: to
    count again, in one way, gives the same.)
    """
    mpm, threads = directives.mpm, directives.ThreadsPerChild
    slots = directives.ServerLimit if mpm == "event" else directives.process_limit
    rows = snapshot.processes[:slots]
    idle = active = total = active_processes = 0
    healthy = False
    for row in rows:
        if not row.pid:
            continue
        states = row.states[:threads]
        up = _count(states, _ACTIVE)
        total += 1
        active += up
        healthy |= up == threads
        if not row.quiescing:
            active_processes += 1
            if not row.not_accepting and row.generation == snapshot.generation:
                idle += _count(states, _IDLE)
    if mpm == "worker":
        free = _free_for_worker(rows, threads, memory.idle_spawn_rate)
    else:
        free = list(islice((row.slot for row in rows if not row.pid), memory.idle_spawn_rate))
    return Seen(idle, active, total, active_processes, tuple(free), healthy)


def _free_for_worker(rows: Sequence[ProcessRow], threads: int, rate: int) -> list[int]:
    """A slot will do for a new child of worker if it is empty, or if its child is leaving and at least one
    of that child's threads has ended: the new child squats in the row of the old one, and starts each
    thread as its slot becomes free.
    """
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


# --- Plan ----------------------------------------------------------------------------------------


def plan(seen: Seen, directives: Directives, memory: Memory) -> Plan:
    """Decide. Never forks and retires in one pass; never retires more than one."""
    if seen.healthy and not memory.had_healthy_child:
        memory = replace(memory, had_healthy_child=True)
    # Worker and event give up on sick children if there was never a healthy one.
    if memory.sick_child_detected and directives.threaded:
        if not memory.had_healthy_child:
            notes = (_note(SICK, seen, directives),)
            return Plan((), 0, notes, memory, shutdown=True, decision=SICK)
        memory = replace(memory, sick_child_detected=False)
    return _PLAN[directives.mpm](seen, directives, memory)


def _plan_prefork(seen: Seen, directives: Directives, memory: Memory) -> Plan:
    # Too many idle: one leaves.
    if seen.idle > directives.MaxSpareServers:
        return _retire(memory)
    # Too few: fork into the free slots. There are MaxRequestWorkers slots, so having no free one
    # *is* having reached MaxRequestWorkers, even while some children are idle.
    if seen.idle < directives.MinSpareServers:
        if not seen.free:
            return _complain(REACHED, seen, directives, memory)
        return _fork(seen.free, seen, directives, memory)
    return _nothing(memory)


def _plan_worker(seen: Seen, directives: Directives, memory: Memory) -> Plan:
    # Too many idle threads: one child leaves, with all its threads.
    if seen.idle > directives.MaxSpareThreads:
        return _retire(memory)
    # Too few: fork, or say why not. Slots are asked about first, MaxRequestWorkers second.
    if seen.idle < directives.MinSpareThreads:
        if seen.free:
            return _fork(seen.free, seen, directives, memory)
        if seen.active >= directives.MaxRequestWorkers:
            return _complain(NEAR if seen.idle else REACHED, seen, directives, memory)
        return _complain(FULL, seen, directives, memory)
    return _nothing(memory)


def _plan_event(seen: Seen, directives: Directives, memory: Memory) -> Plan:
    limit = directives.process_limit
    # Too many idle threads: one child leaves. It may take long to finish, and holds its slot until
    # then. So the next one only goes when none is leaving any more, or when the free slots would do
    # for a whole new generation.
    if seen.idle > directives.MaxSpareThreads:
        none_leaves = seen.active_processes == seen.total
        slots_abound = directives.ServerLimit - seen.total > limit
        if none_leaves or slots_abound:
            return _retire(memory)
        return _nothing(memory, WAIT)
    # Too few: fork, or say why not. MaxRequestWorkers is asked about first, slots second.
    if seen.idle < directives.MinSpareThreads:
        if seen.active >= directives.MaxRequestWorkers:
            return _complain(NEAR if seen.idle else REACHED, seen, directives, memory)
        if not seen.free:
            return _complain(FULL, seen, directives, memory)
        # There may be more slots than processes that may serve at a time. At that limit httpd also
        # raises hold_off by one and lowers it again a line later: nothing of it is left to do.
        may_fork = limit - seen.active_processes
        if may_fork <= 0:
            return _nothing(memory, AT_LIMIT)
        return _fork(seen.free[:may_fork], seen, directives, memory)
    return _nothing(memory)


_PLAN = {"prefork": _plan_prefork, "worker": _plan_worker, "event": _plan_event}


# --- The things a plan can be --------------------------------------------------------------------


def _nothing(memory: Memory, decision: str = ENOUGH) -> Plan:
    return Plan((), 0, (), _slow_down(memory), decision=decision)


def _retire(memory: Memory) -> Plan:
    return Plan((), 1, (), _slow_down(memory), decision=TOO_MANY)


def _fork(slots: tuple[int, ...], seen: Seen, directives: Directives, memory: Memory) -> Plan:
    """Fork one child into each slot, and be ready to fork twice as many in the next pass."""
    notes: tuple[Note, ...] = ()
    if memory.idle_spawn_rate >= BUSY_SPAWN_RATE:
        notes = (_note(BUSY, seen, directives, forks=len(slots)),)
    if memory.hold_off > 0:
        memory = replace(memory, hold_off=memory.hold_off - 1)
    elif memory.idle_spawn_rate < MAX_SPAWN_RATE:
        memory = replace(memory, idle_spawn_rate=memory.idle_spawn_rate * 2)
    return Plan(slots, 0, notes, memory, decision=TOO_FEW)


def _complain(what: str, seen: Seen, directives: Directives, memory: Memory) -> Plan:
    """More workers are needed and cannot be had. FULL is said each time, the others once ever."""
    said = {REACHED: memory.reached_reported, NEAR: memory.near_reported}.get(what, False)
    notes = () if said else (_note(what, seen, directives),)
    memory = replace(
        _slow_down(memory),
        reached_reported=memory.reached_reported or what == REACHED,
        near_reported=memory.near_reported or what == NEAR,
    )
    return Plan((), 0, notes, memory, decision=what)


def _slow_down(memory: Memory) -> Memory:
    """This pass had no reason, or no way, to fork: the next burst begins with one child."""
    return memory if memory.idle_spawn_rate == 1 else replace(memory, idle_spawn_rate=1)
