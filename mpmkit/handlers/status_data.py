"""What the status page shows (mod_status), read once a request, and how its numbers are written.

Nothing is measured here but the CPU time of the processes, which the kernel counts anyway.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mpmkit import _version
from mpmkit.http.messages import SERVER
from mpmkit.policy.snapshot import Counts, ProcessRow, count
from mpmkit.policy.states import DEAD, LETTERS

if TYPE_CHECKING:
    from mpmkit.server.scoreboard import Scoreboard


class Cpu(NamedTuple):
    """CPU seconds: of the running processes, and of the children that they have waited for."""

    user: float = 0.0
    system: float = 0.0
    children_user: float = 0.0
    children_system: float = 0.0

    def __add__(self, other: tuple) -> Cpu:  # type: ignore[override]
        return Cpu(*(a + b for a, b in zip(self, other, strict=True)))


class StatusData:
    """Everything the page shows, from one snapshot of the scoreboard. `now`: seconds since the epoch."""

    def __init__(self, board: Scoreboard, extended: bool, now: float) -> None:
        self.board = board
        self.mpm = board.mpm
        self.extended = extended
        self.now = now
        self.snapshot = board.snapshot()
        self.rows: list[ProcessRow] = [row for row in self.snapshot.processes if row.pid]
        self.counts: Counts = count(self.snapshot, board.threads_per_child)
        self.uptime = max(0, int(now) - board.restart_time // 1_000_000_000)
        self.load = os.getloadavg()
        if extended:
            self.accesses, sent, duration = board.totals()
            self.kbytes = sent // 1024
            self.duration = duration // 1_000_000
            self.cpus = {row.pid: cpu_of(row.pid) for row in self.rows}
            self.cpu = sum(self.cpus.values(), cpu_of(board.parent_pid))
            age = age_of(board.parent_pid)
            self.cpu_load = 100 * sum(self.cpu) / age if age else 0.0

    def slots(self) -> Iterator[tuple[int, int, bool]]:
        """(pid, state, whether the configured limits include it) of each thread slot."""
        threads, processes = self.board.threads_per_child, self.board.process_limit
        for row in self.snapshot.processes:
            for thread, state in enumerate(row.states):
                yield row.pid, state, row.slot < processes and thread < threads

    @property
    def letters(self) -> str:
        """All slots as letters; a DEAD one beyond the configured limits is left out."""
        return "".join(
            LETTERS[state] for _, state, configured in self.slots() if state != DEAD or configured
        )


# -- formats ---------------------------------------------------------------------------------------


def format_uptime(seconds: int) -> str:
    """` 1 day 2 hours 3 minutes 4 seconds`, zero parts left out, with httpd's leading blank."""
    parts = []
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        amount, seconds = divmod(seconds, size)
        if amount:
            parts.append(f" {amount} {word}{'s' if amount > 1 else ''}")
    return "".join(parts)


def format_g(value: float) -> str:
    """APR's %g: six significant digits, no zero before the point, and no exponent for large numbers."""
    text = f"{value:.6g}"
    if "e+" in text:
        text = f"{float(text):.0f}"
    return text[1:] if text.startswith("0.") else text


def local(seconds: float) -> str:
    """A time in httpd's own format: `Sunday, 22-Nov-2026 20:21:35 UTC`."""
    return time.strftime("%A, %d-%b-%Y %H:%M:%S %Z", time.localtime(seconds))


def version() -> str:
    """ServerVersion: this program's and Python's."""
    return f"{SERVER} (Python {sys.version.partition(' ')[0]})"


@cache
def built() -> str:
    """When this version was installed, as an ISO date-time: it is never compiled."""
    installed = os.stat(_version.__file__).st_mtime
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(installed))


def size(number: int) -> str:
    """Bytes as mod_status writes them: `999 B`, `5.0 kB`, `0.5 MB`, `0.5 GB`."""
    if number < 5 << 10:
        return f"{number} B"
    if number < 512 << 10:
        return f"{number / (1 << 10):.1f} kB"
    if number < 512 << 20:
        return f"{number / (1 << 20):.1f} MB"
    return f"{number / (1 << 30):.1f} GB"


# -- what the kernel knows ---------------------------------------------------------------------------

_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2].split()
    except OSError:
        return []


def cpu_of(pid: int) -> Cpu:
    """What a process and those it has waited for have used (proc_pid_stat(5), utime to cstime)."""
    return Cpu(*(int(field) / _TICKS for field in _stat(pid)[11:15]))


def age_of(pid: int) -> float:
    """Seconds since a process started; 0 without such a process. Its CPU time is counted from then on,
    and not from the RestartTime that a SIGHUP sets anew."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS)
