"""The control room twice, with browsers that keep every thread: what a newcomer meets in each room."""

from __future__ import annotations

import time
from typing import Any

from mpmkit.lab.replay import recorded, why_recorded

BROWSERS = 16  # as many as the rooms have threads
WATCHED = 6.0  # seconds: several turns of KeepAliveTimeout
PATIENCE = 30.0  # seconds, on a busy machine
LATE = 1.0  # s: a newcomer that is served at once waits some milliseconds


def start(rooms: Any, browsers: int = BROWSERS) -> None:
    """Start the server of each room with so many browsers that keep their connection and ask for nothing.

    Where recorded runs are shown instead (`why_recorded`), nothing is started, and that is printed.
    """
    if why := why_recorded():
        print(f"Not started ({why}); the recorded run of the same servers is below.")
        return
    for room in rooms.rooms:
        room.load_set("browsers", str(browsers))
        room.start()


def newcomers(rooms: Any, seconds: float = WATCHED) -> dict[str, float]:
    """MPM -> the longest wait of a newcomer, in seconds: what each room's probe, with four new connections
    a second, met in this time; or what notebook 03 recorded of the same servers."""
    if why := why_recorded():
        print(f"RECORDED, not measured here ({why}): 03-worker-newcomers, 03-event-newcomers")
        names = [room.mpm for room in rooms.rooms]
        return {mpm: max(recorded(f"03-{mpm}-newcomers")["waits"]) for mpm in names}
    before = {room.mpm: len(room.history()) for room in rooms.rooms}
    began = time.monotonic()
    while True:
        time.sleep(0.2)
        met = {room.mpm: room.history()[before[room.mpm] :] for room in rooms.rooms}
        longest = {
            mpm: max((one["wait_ms"] or 0 for one in seen), default=0) / 1000
            for mpm, seen in met.items()
        }
        passed = time.monotonic() - began
        if passed > seconds and all(longest.values()):
            return longest
        if passed > PATIENCE:
            raise RuntimeError("no newcomer in one of the rooms: start both servers, then again")


def waits_in(longest: dict[str, float]) -> str:
    """In which of two rooms a newcomer waits: the name of the MPM, "both" or "neither"."""
    late = [mpm for mpm, wait in longest.items() if wait > LATE]
    return late[0] if len(late) == 1 else "both" if late else "neither"
