"""Waiting for a condition, and for processes to end."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mpmkit.measure.procfs import children, stat, tasks, text_of

MARK = "MPMKIT_TEST_MARK"  # in the environment of every process that a test starts
T = TypeVar("T")
children_of = children  # living ones of a process, read from /proc: no server is asked

open_clients: set[Any] = set()  # connections of the tests, closed at the latest by `nothing_left`


def patience(seconds: float = 10.0) -> float:
    """How long to wait for what takes milliseconds on a quiet machine; every cap of the tests comes from here."""
    return seconds * min(6.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def poll_until(
    condition: Callable[[], T], what: str | Callable[[], str] = "", cap: float = 10.0
) -> T:
    """The condition's first true value. Fails, saying `what`, when it has none within `cap` s."""
    cap = patience(cap)
    end = time.monotonic() + cap
    pause = 0.001
    while not (value := condition()):
        if time.monotonic() > end:
            said = what() if callable(what) else what or getattr(condition, "__name__", "condition")
            raise AssertionError(f"not within {cap:g} s: {said} (last: {value!r})")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return value


def logged(path: Path, count: int) -> list[str]:
    """The lines of a log once there are so many: one is written after its answer."""

    def read() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    poll_until(lambda: len(read()) == count, lambda: f"{count} lines in {path}: {read()[-9:]}")
    return read()


def alive(pid: int) -> bool:
    """Running or sleeping, no zombie; but the first thread may be one while others still hold sockets."""
    state = stat(pid)[:1]
    return state not in ([], ["X"]) and (state != ["Z"] or len(tasks(pid)) > 1)


def marked(mark: str) -> list[int]:
    """Living processes that were started with `mark` in their environment."""
    entry = f"{MARK}={mark}"
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    found = (pid for pid in pids if entry in text_of(f"/proc/{pid}/environ").split("\0"))
    return list(filter(alive, found))


def all_gone(pids: list[int], what: str, cap: float = 5.0) -> None:
    poll_until(lambda: not any(map(alive, pids)), f"{what}: all of {pids} gone", cap)


@contextmanager
def nothing_left(cap: float = 5.0) -> Iterator[None]:
    """Fails when a process that was started within still lives afterwards, and ends it: its mark finds it when
    its parent is gone, and never another test's server. Closes the sockets that a test has left open."""
    mark = uuid.uuid4().hex
    before = os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield
        poll_until(lambda: not marked(mark), "every server and child of this test ended", cap)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        for client in list(open_clients):
            client.close()
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
