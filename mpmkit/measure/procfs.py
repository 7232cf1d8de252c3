"""What the kernel says of processes, sockets and the machine: the one reader of /proc outside the servers.

psutil is asked where it gives the same figure. It has no CPU time in nanoseconds (its own counts
10 ms), no context switches of all threads, no kinds of mappings, no page tables and no queue of a
listening socket. proc(5) describes the files.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from mpmkit.measure.smaps import Footprint, parse_smaps

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _text(path: str) -> str:
    """A file of /proc; empty if its process has ended or is another user's."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def numbers(path: str) -> dict[str, int]:
    """The numbers of a file of lines such as "VmPTE:  48 kB"; empty if it can't be read."""
    found = re.findall(r"^(\w+):\s+(\d+)", _text(path), re.MULTILINE | re.ASCII)
    return {label: int(value) for label, value in found}


# -- processes -----------------------------------------------------------------------------------


def stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field, the state, on. Empty if there is no such process."""
    # The name in parentheses may hold anything.
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and waits for its parent (a zombie) does not."""
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    stats = {int(name): stat(int(name)) for name in os.listdir("/proc") if name.isdecimal()}
    return [
        pid
        for pid, words in stats.items()
        if words and int(words[2]) == group and words[0] not in "ZX"
    ]


def children(pid: int) -> list[int]:
    """The living children of a process."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children() if alive(child.pid)]
    return []


def tasks(pid: int) -> list[str]:
    """The folders of a process's threads; none if it has ended."""
    try:
        return [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def status_numbers(pid: int) -> dict[str, int]:
    """The numbers of /proc/PID/status: Threads, VmPTE (KiB of page tables) …; empty if it has ended."""
    return numbers(f"/proc/{pid}/status")


# -- CPU time ------------------------------------------------------------------------------------


def ran_for(task: str) -> int:
    """CPU time in ns of the thread whose folder is `task`; 0 if it has ended."""
    return int((_text(f"{task}/schedstat").split() or ["0"])[0])


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of `pids` so far, in ns, with that of their children who ended and were waited for
    (counted in ticks of 10 ms). Threads that have ended are not in it."""
    total = 0
    for pid in pids:
        total += sum(map(int, stat(pid)[13:15])) * TICK_NS  # cutime and cstime
        total += sum(map(ran_for, tasks(pid)))
    return total


class Meter:
    """CPU time of a server's process group for each request of a load, in µs.

    It starts with the first report of requests done, so neither the start nor the warm-up is in it,
    and reads once more at the end. What it costs is those two readings. A load that ends less than
    `LEAST` seconds after its first report has no figure: the time between a report and the reading that
    belongs to it would be too large a part of it.
    """

    LEAST = 1.0

    def __init__(self, group: int | None) -> None:
        """group: of the processes; None if it isn't known, and nothing is measured."""
        self.group = group
        self.begin()

    def begin(self) -> None:
        """A load begins; what was measured before does not count."""
        self._begun: tuple[int, int, float] | None = None

    def progress(self, done: int) -> None:
        """So many requests are done; called while the load runs."""
        if self._begun is None and done > 0 and self.group is not None:
            self._begun = done, cpu_ns(members(self.group)), time.monotonic()

    def per_request(self, done: int) -> float | None:
        """The load is over after so many requests. None if it was too short, or nothing is known."""
        if self._begun is None or self.group is None:
            return None
        before, ns, since = self._begun
        if done <= before or time.monotonic() - since < self.LEAST:
            return None
        used = cpu_ns(members(self.group)) - ns
        return used / (done - before) / 1000 if used > 0 else None


# -- memory --------------------------------------------------------------------------------------


def pss_mb(pids: Iterable[int]) -> float:
    """PSS of processes together, in MB (10^6 bytes); NaN if none of them can be read."""
    import psutil

    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid).memory_full_info().pss)
    return round(sum(found) / 1e6, 2) if found else float("nan")


def read_smaps(pid: int) -> Footprint | None:
    """The memory of a living process; None if it has ended or is another user's.

    Needs Linux and, for another user's processes, root.
    """
    text = _text(f"/proc/{pid}/smaps")
    return parse_smaps(text) if text else None  # a zombie has none


def slab_kb() -> int | None:
    """KiB of kernel objects of the whole machine that can't be given back, sockets among them."""
    return numbers("/proc/meminfo").get("SUnreclaim")


# -- the machine ---------------------------------------------------------------------------------


class MachineTimes(NamedTuple):
    """The machine's processor time so far, in ticks of all processors together: all of it, and what
    the host gave to others; and how many tasks are ready to run now, the reader among them."""

    total: int
    steal: int
    running: int

    def steal_since(self, before: MachineTimes) -> float | None:
        """The share (0 to 1) of the time since `before` that the host gave to others."""
        passed = self.total - before.total
        return min(1.0, max(0, self.steal - before.steal) / passed) if passed > 0 else None


def machine_times(text: str | None = None) -> MachineTimes:
    """From /proc/stat, or its text; zeros where the file is missing."""
    lines = (_text("/proc/stat") if text is None else text).splitlines()
    found = {name: words for name, *words in map(str.split, lines) if words}
    # The eighth is steal; the two after it are counted within the first.
    ticks = [int(word) for word in found.get("cpu", [])[:8]]
    running = int(found.get("procs_running", ["0"])[0])
    return MachineTimes(sum(ticks), ticks[7] if len(ticks) > 7 else 0, running)


# -- sockets -------------------------------------------------------------------------------------

LISTENING = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def listen_queue(port: int, tables: Iterable[str] = TABLES) -> float:
    """Connections that wait to be accepted on a port of this machine; NaN if no socket listens there.

    Takes 0.1 ms, also with 10,000 connections: listening sockets come first in the table, and reading
    stops behind them. A table without any of them is walked to its end (4 to 10 ms), so IPv6 counts
    only where nothing listens on the port by IPv4.
    """
    for table in tables:
        found = []
        with contextlib.suppress(OSError), open(table, buffering=8192) as file:
            next(file, None)
            for words in map(str.split, file):
                if words[3] != LISTENING:
                    break
                if words[1].endswith(f":{port:04X}"):
                    found.append(int(words[4].partition(":")[2], 16))
        if found:
            return sum(found)
    return float("nan")
