"""States: the letters of the scoreboard and the states of a connection.

Two vocabularies describe a running server, and they are easily confused.

*Worker states* say what one thread (under prefork, one process) is doing. There is one byte for
each thread in the scoreboard, and the status page prints it as a letter. The numbers are httpd's,
and their order carries meaning: `state <= READY` is a thread without work (or one that is about to
be without), and `READY <= state < GRACEFUL` is a thread that is up, idle or not.

*Connection states* say what one client's connection is waiting for. Under prefork and worker the
two coincide: a connection has a thread from accept to close, so the thread's letter tells all.
Under event they part: a connection that only waits (keep-alive, write completion, lingering close)
gives its thread back, and then shows up in a counter of its process and in no letter at all.

Everything here is data. A test walks the tables, the servers use the numbers, and the notebooks
draw their diagrams from the same rows.

Source: httpd 2.4, scoreboard.h (worker states), httpd.h and event.c (connection states).
"""

from __future__ import annotations

from typing import NamedTuple

# --- Worker states: one byte for each thread in the scoreboard -----------------------------------

DEAD = 0
STARTING = 1
READY = 2
BUSY_READ = 3
BUSY_WRITE = 4
BUSY_KEEPALIVE = 5
BUSY_LOG = 6
BUSY_DNS = 7  # kept for its place in the numbering: no MPM sets it
CLOSING = 8
GRACEFUL = 9
IDLE_KILL = 10  # kept for its place in the numbering: no MPM sets it

LETTERS = ".S_RWKLDCGI"

NAMES = (
    "DEAD",
    "STARTING",
    "READY",
    "BUSY_READ",
    "BUSY_WRITE",
    "BUSY_KEEPALIVE",
    "BUSY_LOG",
    "BUSY_DNS",
    "CLOSING",
    "GRACEFUL",
    "IDLE_KILL",
)

# The same in words, for a legend.
WORDS = (
    "no process",
    "starting up",
    "waiting for a connection",
    "reading a request",
    "sending a reply",
    "keep-alive",
    "writing the log",
    "looking up a name",
    "closing a connection",
    "finishing gracefully",
    "idle, being stopped",
)

# Two ranges, as the numeric order gives them. The first is what maintenance counts as idle, the
# second what it counts as active; READY is in both, which is why httpd's "active" includes threads
# that are only waiting. A DEAD thread in a row that has a process counts as idle as well: the
# process was forked a moment ago and has not reached that thread yet.
IDLE = (DEAD, STARTING, READY)
ACTIVE = (READY, BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG, BUSY_DNS, CLOSING)
# What the status page counts as busy: everything but not there, not yet, idle, and leaving.
BUSY = (BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG, BUSY_DNS, CLOSING)

_LETTER_BYTES = bytes.maketrans(bytes(range(len(LETTERS))), LETTERS.encode("ascii"))


def letters(states: bytes) -> str:
    """The letters of a run of scoreboard bytes: `b"\\x02\\x02\\x04"` is `"__W"`.

    Raises ValueError for a byte above IDLE_KILL, which no httpd writes.
    """
    if states and max(states) > IDLE_KILL:
        raise ValueError(f"no worker state has the number {max(states)} (0..{IDLE_KILL})")
    return states.translate(_LETTER_BYTES).decode("ascii")


def numbers(text: str) -> bytes:
    """The inverse of `letters`, for tests and notebooks: `numbers("__W")`.

    Raises ValueError for a letter outside LETTERS.
    """
    return bytes(LETTERS.index(letter) for letter in text)


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

CONNECTION_NAMES = (
    "PROCESSING",
    "HANDLER",
    "WRITE_COMPLETION",
    "KEEPALIVE",
    "ASYNC_WAITIO",
    "SUSPENDED",
    "LINGER",
    "LINGER_NORMAL",
    "LINGER_SHORT",
    "CLOSED",
)

# The states in which event holds a connection without a thread, and the counter of the process row
# (the column of the status page) in which it then appears. The time after which each gives up is a
# directive, or a constant of httpd in seconds.
PARKED = {
    WRITE_COMPLETION: "write_completion",
    KEEPALIVE: "keep_alive",
    ASYNC_WAITIO: "wait_io",
    SUSPENDED: "suspended",
    LINGER_NORMAL: "lingering_close",
    LINGER_SHORT: "lingering_close",
}
LINGER_SECONDS = {LINGER_NORMAL: 30.0, LINGER_SHORT: 2.0}  # MAX_SECS_TO_LINGER, SECONDS_TO_LINGER


class Transition(NamedTuple):
    """One arrow: in `state`, on `event`, `who` takes the connection to `next`."""

    state: int
    event: str
    next: int
    who: str


# Prefork and worker: one thread walks the connection through all of it and waits where it stands.
# (Prefork's thread is the process.) The waits in KEEPALIVE and in LINGER_* are blocking reads.
_ONE_THREAD = (
    Transition(PROCESSING, "request head complete", HANDLER, "worker"),
    Transition(PROCESSING, "end of stream, bad request or Timeout", LINGER, "worker"),
    Transition(HANDLER, "response made", WRITE_COMPLETION, "worker"),
    Transition(WRITE_COMPLETION, "all sent, connection kept", KEEPALIVE, "worker"),
    Transition(WRITE_COMPLETION, "all sent, connection not kept", LINGER, "worker"),
    Transition(WRITE_COMPLETION, "client gone or Timeout", LINGER, "worker"),
    Transition(KEEPALIVE, "bytes arrive", PROCESSING, "worker"),
    Transition(KEEPALIVE, "KeepAliveTimeout or end of stream", LINGER, "worker"),
    Transition(LINGER, "our side shut", LINGER_NORMAL, "worker"),
    Transition(LINGER, "our side shut after a time-out", LINGER_SHORT, "worker"),
    Transition(LINGER, "client already gone", CLOSED, "worker"),
    Transition(LINGER_NORMAL, "end of stream or time over", CLOSED, "worker"),
    Transition(LINGER_SHORT, "end of stream or time over", CLOSED, "worker"),
)

# Event: a worker holds the connection only while there is work. Where it would wait, it parks the
# connection in a time-out queue, and the listener takes it from there.
_LISTENER_AND_WORKERS = (
    Transition(PROCESSING, "request head complete", HANDLER, "worker"),
    Transition(PROCESSING, "end of stream, bad request or Timeout", LINGER, "worker"),
    Transition(PROCESSING, "protocol waits for the client", ASYNC_WAITIO, "worker"),
    Transition(HANDLER, "response made", WRITE_COMPLETION, "worker"),
    Transition(HANDLER, "handler suspends", SUSPENDED, "worker"),
    Transition(SUSPENDED, "module resumes", PROCESSING, "worker"),
    Transition(WRITE_COMPLETION, "write would block", WRITE_COMPLETION, "worker"),
    Transition(WRITE_COMPLETION, "all sent, connection kept", KEEPALIVE, "worker"),
    Transition(WRITE_COMPLETION, "all sent, next request already here", PROCESSING, "worker"),
    Transition(WRITE_COMPLETION, "all sent, connection not kept", LINGER, "worker"),
    Transition(WRITE_COMPLETION, "client gone", LINGER, "worker"),
    Transition(WRITE_COMPLETION, "Timeout", LINGER, "listener"),
    Transition(ASYNC_WAITIO, "bytes arrive", PROCESSING, "listener"),
    Transition(ASYNC_WAITIO, "Timeout", LINGER, "listener"),
    Transition(KEEPALIVE, "bytes arrive, a worker is idle", PROCESSING, "listener"),
    Transition(KEEPALIVE, "bytes arrive, no worker is idle", LINGER, "listener"),
    Transition(KEEPALIVE, "KeepAliveTimeout", LINGER, "listener"),
    Transition(KEEPALIVE, "all workers busy, or the child is leaving", LINGER, "listener"),
    Transition(LINGER, "our side shut", LINGER_NORMAL, "worker"),
    Transition(LINGER, "our side shut after a time-out", LINGER_SHORT, "worker"),
    Transition(LINGER, "client already gone", CLOSED, "worker"),
    Transition(LINGER_NORMAL, "bytes arrive, a worker is idle", LINGER_NORMAL, "listener"),
    Transition(LINGER_NORMAL, "bytes arrive, no worker is idle", CLOSED, "listener"),
    Transition(LINGER_NORMAL, "end of stream", CLOSED, "worker"),
    Transition(LINGER_NORMAL, "30 s over", CLOSED, "listener"),
    Transition(LINGER_SHORT, "bytes arrive, a worker is idle", LINGER_SHORT, "listener"),
    Transition(LINGER_SHORT, "bytes arrive, no worker is idle", CLOSED, "listener"),
    Transition(LINGER_SHORT, "end of stream", CLOSED, "worker"),
    Transition(LINGER_SHORT, "2 s over", CLOSED, "listener"),
)

TRANSITIONS: dict[str, tuple[Transition, ...]] = {
    "prefork": _ONE_THREAD,
    "worker": _ONE_THREAD,
    "event": _LISTENER_AND_WORKERS,
}


# --- Paths: the letters of one connection's life -------------------------------------------------


class Phase(NamedTuple):
    """One phase of a connection's life and where the scoreboard shows it.

    `letter` is what the thread that has, or had, the connection shows. `parked` names the counter
    of the process row that holds the connection while no thread does; "" when a thread does.
    """

    name: str
    letter: str
    parked: str = ""


PATHS: dict[str, tuple[Phase, ...]] = {
    "prefork": (
        Phase("waiting for a connection", "_"),
        Phase("accepted, nothing read yet", "R"),
        Phase("reading the first request", "R"),
        Phase("handler runs, response is sent", "W"),
        Phase("slow reader of a large response", "W"),
        Phase("logging", "L"),
        Phase("keep-alive, nothing to read", "K"),
        # R is not written again: K stays until the head of the next request is complete.
        Phase("reading the second request", "K"),
        Phase("lingering close", "C"),
        Phase("after a graceful restart, while busy", "G"),
    ),
    "worker": (
        Phase("waiting for a connection", "_"),
        Phase("accepted, nothing read yet", "R"),
        Phase("reading the first request", "R"),
        Phase("handler runs, response is sent", "W"),
        Phase("slow reader of a large response", "W"),
        Phase("logging", "L"),
        Phase("keep-alive, nothing to read", "K"),
        Phase("reading the second request", "K"),
        Phase("lingering close", "C"),
        # The letter stays what it was; the row is quiescing and no longer counted.
        Phase("after a graceful restart, while busy", "W"),
    ),
    "event": (
        Phase("waiting for a connection", "_"),
        Phase("accepted, nothing read yet", "R"),
        Phase("reading the first request", "R"),
        Phase("handler runs, response is sent", "W"),
        # With EnableSendfile On. With Off, the thread stays W until 64 KiB are left.
        Phase("slow reader of a large response", "_", "write_completion"),
        Phase("logging", "L"),
        Phase("keep-alive, nothing to read", "_", "keep_alive"),
        Phase("reading the second request", "R"),
        # C for a moment, while our side is shut; the rest of the wait needs no thread.
        Phase("lingering close", "_", "lingering_close"),
        Phase("after a graceful restart, while busy", "W"),
    ),
}
