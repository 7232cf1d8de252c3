"""What the status page shows (mod_status), read once a request, and how its numbers are written.

Nothing is measured here but the CPU time of the processes, which the kernel counts anyway.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

from mpmkit import _version
from mpmkit.http.messages import SERVER
from mpmkit.policy.snapshot import count
from mpmkit.policy.states import DEAD, LETTERS

if TYPE_CHECKING:
    from mpmkit.server.scoreboard import Scoreboard

Cpu = tuple[float, ...]  # seconds: user, system, and the same of the children waited for


class StatusData:
    """Everything the page shows, from one snapshot of the scoreboard. `now`: seconds since the epoch."""

    def __init__(self, board: Scoreboard, extended: bool, now: float) -> None:
        self.board = board
        self.mpm = board.mpm
        self.extended = extended
        self.now = now
        self.snapshot = board.snapshot()
        self.rows = [row for row in self.snapshot.processes if row.pid]
        self.counts = count(self.snapshot, board.threads_per_child)
        self.uptime = max(0, int(now) - board.restart_time // 1_000_000_000)
        self.load = os.getloadavg()
        # As `?auto` calls it, as the page does, and the value.
        self.facts = (
            ("ServerVersion", "Server Version", f"{SERVER} (Python {sys.version.split()[0]})"),
            ("ServerMPM", "Server MPM", self.mpm),
            ("Server Built", "Server Built", built()),
            ("CurrentTime", "Current Time", local(now)),
            ("RestartTime", "Restart Time", local(board.restart_time / 1e9)),
            ("ParentServerConfigGeneration", "Parent Server Config. Generation", board.config_generation),
            ("ParentServerMPMGeneration", "Parent Server MPM Generation", board.generation),
        )  # fmt: skip
        if extended:
            self.accesses, sent, duration = board.totals()
            self.kbytes = sent // 1024
            self.duration = duration // 1_000_000
            self.cpus = {row.pid: cpu_of(row.pid) for row in self.rows}
            of_all = (cpu_of(board.parent_pid), *self.cpus.values())
            self.cpu = tuple(map(sum, zip(*of_all, strict=True)))
            age = age_of(board.parent_pid)
            self.cpu_load = 100 * sum(self.cpu) / age if age else 0.0

    @property
    def letters(self) -> str:
        """All slots as letters; a DEAD one beyond the configured limits is left out."""
        threads, processes = self.board.threads_per_child, self.board.process_limit
        return "".join(
            LETTERS[state]
            for row in self.snapshot.processes
            for thread, state in enumerate(row.states)
            if state != DEAD or (row.slot < processes and thread < threads)
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


@cache
def built() -> str:
    """When this version was installed, as an ISO date-time: it is never compiled."""
    installed = os.stat(_version.__file__).st_mtime
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(installed))


def size(number: int) -> str:
    """Bytes as mod_status writes them: `999 B`, `5.0 kB`, `0.5 MB`, `0.5 GB`."""
    for shift, unit in ((30, "GB"), (20, "MB"), (10, "kB")):
        if number >= (512 << (shift - 10) if shift > 10 else 5 << 10):
            return f"{number / (1 << shift):.1f} {unit}"
    return f"{number} B"


# -- what the kernel knows ---------------------------------------------------------------------------

_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; zeros when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except OSError:
        return [b"0"] * 20


def cpu_of(pid: int) -> Cpu:
    """What a process and those it has waited for have used (proc_pid_stat(5), utime to cstime)."""
    return tuple(int(field) / _TICKS for field in _stat(pid)[11:15])


def age_of(pid: int) -> float:
    """Seconds since a process started; 0 without such a process. Its CPU time is counted from then on,
    and not from the RestartTime that a SIGHUP resets."""
    started = int(_stat(pid)[19]) / _TICKS
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started) if started else 0.0
