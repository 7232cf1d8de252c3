"""What happens to one connection under each MPM, as tables from which diagrams are drawn.

Source: httpd 2.4, event.c, and what a real httpd's scoreboard was seen to show.
"""

from __future__ import annotations

from typing import NamedTuple

from mpmkit.policy.states import (
    ASYNC_WAITIO,
    CLOSED,
    HANDLER,
    KEEPALIVE,
    LINGER,
    LINGER_NORMAL,
    LINGER_SHORT,
    PROCESSING,
    SUSPENDED,
    WRITE_COMPLETION,
)


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


class Phase(NamedTuple):
    """One phase of a connection's life and where the scoreboard shows it.

    `letter` is what the thread that has, or had, the connection shows. `parked` names the counter
    of the process row that holds the connection while no thread does; "" when a thread does.
    """

    name: str
    letter: str
    parked: str = ""


# Under prefork and worker K stays until the head of the next request is complete. After a graceful
# restart only prefork shows G: a threaded child's row is quiescing, and its letters stay.
_PHASES = {
    "waiting for a connection": "___",
    "accepted, nothing read yet": "RRR",
    "reading the first request": "RRR",
    "handler runs, response is sent": "WWW",
    "slow reader of a large response": "WW_",
    "logging": "LLL",
    "keep-alive, nothing to read": "KK_",
    "reading the second request": "KKR",
    "lingering close": "CC_",
    "after a graceful restart, while busy": "GWW",
}
# Event: without a thread. (The reader with EnableSendfile On; with Off, while 64 KiB at most are left.)
_PARKED = {
    "slow reader of a large response": "write_completion",
    "keep-alive, nothing to read": "keep_alive",
    "lingering close": "lingering_close",
}

PATHS: dict[str, tuple[Phase, ...]] = {
    mpm: tuple(
        Phase(name, letters[place], _PARKED.get(name, "") if mpm == "event" else "")
        for name, letters in _PHASES.items()
    )
    for place, mpm in enumerate(("prefork", "worker", "event"))
}
