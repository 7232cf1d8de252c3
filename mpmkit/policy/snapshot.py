"""The scoreboard at one moment, as values: what decisions are made from, and what is shown of it.

The server's scoreboard (server/scoreboard.py) makes one from shared memory; a simulator, a notebook
and the tests make them up.

Source: httpd 2.4, scoreboard.h, and mod_status.c for `count`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from mpmkit.policy.states import BUSY, GRACEFUL, READY, how_many


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process slot of the scoreboard. An empty slot has pid 0. `states` holds one byte for each thread
    slot (`mpmkit.policy.states`); there are ThreadLimit of them (prefork: one), of which the first
    ThreadsPerChild are in use."""

    slot: int
    pid: int = 0
    generation: int = 0
    quiescing: int = 0  # not 0 from the moment the child began to leave
    not_accepting: int = 0  # this and the counters below are event's
    connections: int = 0
    write_completion: int = 0
    lingering_close: int = 0
    keep_alive: int = 0
    states: bytes = b""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The scoreboard at one moment: one row for each slot, in the order of the slots."""

    server_limit: int
    thread_limit: int
    generation: int  # the running one: 0 at first, one more after each restart
    restart_time: float  # no decision here depends on it
    processes: tuple[ProcessRow, ...]


class Counts(NamedTuple):
    """Workers by what they do. Those of a process that is leaving are in none of the three."""

    busy: int
    graceful: int
    idle: int
    processes: int
    stopping: int


def count(
    snapshot: Snapshot, threads_per_child: int, rows: Iterable[ProcessRow] | None = None
) -> Counts:
    """What the status page shows of all rows, or of some, by mod_status's rules: a thread counts if its
    process lives and is not quiescing, and is idle if its process is also of the running generation. Idle
    maintenance counts otherwise: a starting thread is idle, and an idle one is active, too
    (maintenance.look)."""
    busy = graceful = idle = processes = stopping = 0
    for row in snapshot.processes if rows is None else rows:
        if not row.pid:
            continue
        processes += 1
        if row.quiescing:
            stopping += 1
            continue
        states = row.states[:threads_per_child]
        if row.generation == snapshot.generation:
            idle += states.count(READY)
        graceful += states.count(GRACEFUL)
        busy += how_many(states, BUSY)
    return Counts(busy, graceful, idle, processes, stopping)
