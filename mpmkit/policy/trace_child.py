"""A process of a simulated pool, and the rows of the scoreboard that `maintenance.look` reads."""

from collections.abc import Sequence
from functools import lru_cache

from mpmkit.policy.snapshot import ProcessRow
from mpmkit.policy.states import BUSY_WRITE, DEAD, GRACEFUL, READY


class Child:
    """A process: `idle` and `busy` threads, its connections, `parked` ones (by their next request); `left`: new
    connections until it leaves (-1: any number), or in the simulation of seconds, passes until it is gone."""

    __slots__ = ("busy", "connections", "heir", "idle", "left", "listening", "parked", "quiescing",
                 "slot")  # fmt: skip

    def __init__(self, slot: int, threads: int, left: int) -> None:
        self.slot, self.idle, self.left = slot, threads, left
        self.busy = self.connections = 0
        self.quiescing = self.listening = False
        self.parked: set[int] = set()
        self.heir: Child | None = None  # takes over the slots of its threads (worker)


@lru_cache(maxsize=1 << 16)
def _row(slot: int, threads: int, busy: int, idle: int, quiescing: bool, deaf: bool) -> ProcessRow:
    working, resting = (GRACEFUL, DEAD) if quiescing else (BUSY_WRITE, READY)
    rest = threads - busy - idle
    states = bytes([working]) * busy + bytes([resting]) * idle + bytes([DEAD]) * rest
    return ProcessRow(slot, 1, quiescing=int(quiescing), not_accepting=int(deaf), states=states)


@lru_cache(maxsize=1 << 16)
def _empty(slot: int, threads: int) -> ProcessRow:
    return ProcessRow(slot, states=bytes([DEAD]) * threads)


def rows(slots: Sequence[Child | None], threads: int) -> tuple[ProcessRow, ...]:
    """A row for each slot, from slot 0 on; threads: ThreadsPerChild."""
    return tuple(
        _row(slot, threads, one.busy, one.idle, one.quiescing, not one.listening)
        if one is not None
        else _empty(slot, threads)
        for slot, one in enumerate(slots)
    )
