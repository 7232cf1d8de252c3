"""The scoreboard as values: the letters of its threads, the states of connections, and its rows at one moment.

*Worker states* say what one thread (under prefork, one process) is doing: one byte for each thread in
the scoreboard, which the status page prints as a letter. The numbers are httpd's, and their order
carries meaning: `state <= READY` is a thread without work (or one that is about to be without), and
`READY <= state < GRACEFUL` is a thread that is up, idle or not.

*Connection states* say what one client's connection is waiting for. Under prefork and worker the
thread's letter says it, for a connection has a thread from accept to close. Under event a connection
that only waits (keep-alive, write completion, lingering close) gives its thread back, and then shows
up in a counter of its process and in no letter.

A *snapshot* is what decisions are made from. The server makes one from shared memory
(server/scoreboard.py); simulators, notebooks and tests make them up.

Source: httpd 2.4, scoreboard.h (worker states), httpd.h and event.c (connection states), mod_status.c (`count`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# --- Worker states: one byte for each thread in the scoreboard -----------------------------------

DEAD, STARTING, READY, BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG = range(7)
# No MPM sets BUSY_DNS and IDLE_KILL: they are kept for their places in the numbering.
BUSY_DNS, CLOSING, GRACEFUL, IDLE_KILL = range(7, 11)

LETTERS = ".S_RWKLDCGI"

# In words, for a legend.
WORDS = (
    "no process", "starting up", "waiting for a connection", "reading a request", "sending a reply", "keep-alive",
    "writing the log", "looking up a name", "closing a connection", "finishing gracefully", "idle, being stopped",
)  # fmt: skip

# Two ranges, as the numeric order gives them. The first is what maintenance counts as idle, the
# second what it counts as active; READY is in both, which is why httpd's "active" includes threads
# that are only waiting. A DEAD thread in a row that has a process counts as idle as well: the
# process was forked a moment ago and has not reached that thread yet.
IDLE = bytes((DEAD, STARTING, READY))
# What the status page counts as busy: everything but not there, not yet, idle, and leaving.
BUSY = bytes((BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG, BUSY_DNS, CLOSING))
ACTIVE = bytes((READY, *BUSY))


def how_many(states: bytes, which: bytes) -> int:
    """How many of `states` are among `which`: what is lost when those are deleted."""
    return len(states) - len(states.translate(None, which))


# --- Connection states: one for each open connection ---------------------------------------------

PROCESSING = 0  # a thread has it: reading a request, or about to hand it to a handler
HANDLER = 1  # a thread has it, inside a request handler
WRITE_COMPLETION = 2  # the response is made; some of it may still have to be sent
KEEPALIVE = 3  # between two requests
ASYNC_WAITIO = 4  # a protocol module waits for its client (HTTP/1 never does)
SUSPENDED = 5  # a handler put it aside and will bring it back itself
LINGER = 6  # to be closed: say goodbye first
LINGER_NORMAL = 7  # our side is shut; drop what the client still sends, for at most 30 s
LINGER_SHORT = 8  # the same for at most 2 s: the client had its chance already
CLOSED = 9  # gone; ours, so that every path has an end

# Seconds after which a lingering close gives up: MAX_SECS_TO_LINGER, SECONDS_TO_LINGER.
LINGER_SECONDS = {LINGER_NORMAL: 30.0, LINGER_SHORT: 2.0}


@dataclass(frozen=True, eq=False, slots=True)
class ProcessRow:
    """One process slot of the scoreboard. An empty slot has pid 0. `states` holds one byte for each thread
    slot: there are ThreadLimit of them (prefork: one), of which the first ThreadsPerChild are in use."""

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


class Counts(NamedTuple):
    """Workers by what they do. Those of a process that is leaving are in none of the three."""

    busy: int
    graceful: int
    idle: int
    processes: int
    stopping: int


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """The scoreboard at one moment: one row for each slot, in the order of the slots."""

    server_limit: int
    thread_limit: int
    generation: int  # the running one: 0 at first, one more after each restart
    restart_time: float  # no decision here depends on it
    processes: tuple[ProcessRow, ...]

    def count(self, threads_per_child: int, rows: Iterable[ProcessRow] | None = None) -> Counts:
        """What the status page shows of all rows, or of some, by mod_status's rules: a thread counts if its
        process lives and is not quiescing, and is idle if its process is also of the running generation. Idle
        maintenance counts otherwise: a starting thread is idle, and an idle one is active, too
        (maintenance.look)."""
        busy = graceful = idle = processes = stopping = 0
        for row in self.processes if rows is None else rows:
            if not row.pid:
                continue
            processes += 1
            if row.quiescing:
                stopping += 1
                continue
            states = row.states[:threads_per_child]
            if row.generation == self.generation:
                idle += states.count(READY)
            graceful += states.count(GRACEFUL)
            busy += how_many(states, BUSY)
        return Counts(busy, graceful, idle, processes, stopping)
