"""The status page (mod_status): `?auto` for programs, HTML for people, `?refresh=N` for both.

    scoreboard ──> Figures ─┬─> auto    one `Key: value` a line, httpd 2.4's keys in its order
                            └─> html    status_page.py: the same numbers for a person

What scrapes an httpd scrapes us: keys, order and number formats are mod_status's, and tests compare
them with what a real httpd answered. Nothing is measured here but the CPU time of the processes,
which the kernel counts anyway.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mpmkit import _version
from mpmkit.handlers import status_page
from mpmkit.http.messages import SERVER, Request, Response, page, whole_number
from mpmkit.policy.maintenance import Counts, ProcessRow, count
from mpmkit.policy.states import DEAD, LETTERS

if TYPE_CHECKING:
    from mpmkit.server.connection import Connection
    from mpmkit.server.scoreboard import Scoreboard

REFRESH = 10  # seconds of a `?refresh` without a number


class Cpu(NamedTuple):
    """CPU seconds: of the processes that live, and of the children that they have outlived."""

    user: float = 0.0
    system: float = 0.0
    children_user: float = 0.0
    children_system: float = 0.0

    def __add__(self, other: tuple) -> Cpu:  # type: ignore[override]
        return Cpu(*(a + b for a, b in zip(self, other, strict=True)))


class Figures:
    """Everything the page says, from one look at the scoreboard. `now` is in seconds since the epoch."""

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

    @property
    def letters(self) -> str:
        """All slots as letters: DEAD ones beyond the configured limits are left out."""
        line = []
        threads, processes = self.board.threads_per_child, self.board.process_limit
        for row in self.snapshot.processes:
            for thread, state in enumerate(row.states):
                if state != DEAD or (row.slot < processes and thread < threads):
                    line.append(LETTERS[state])
        return "".join(line)


def auto(figures: Figures, server_name: str) -> str:
    """The text of `?auto`."""
    f, board = figures, figures.board
    lines = [
        server_name,
        f"ServerVersion: {version()}",
        f"ServerMPM: {f.mpm}",
        f"Server Built: {built()}",
        f"CurrentTime: {local(f.now)}",
        f"RestartTime: {local(board.restart_time / 1e9)}",
        f"ParentServerConfigGeneration: {board.config_generation}",
        f"ParentServerMPMGeneration: {board.generation}",
        f"ServerUptimeSeconds: {f.uptime}",
        f"ServerUptime:{spoken(f.uptime)}",
        *(f"Load{minutes}: {value:.2f}" for minutes, value in zip((1, 5, 15), f.load, strict=True)),
    ]
    if f.extended:
        lines += [
            f"Total Accesses: {f.accesses}",
            f"Total kBytes: {f.kbytes}",
            f"Total Duration: {f.duration}",
            f"CPUUser: {g(f.cpu.user)}",
            f"CPUSystem: {g(f.cpu.system)}",
            f"CPUChildrenUser: {g(f.cpu.children_user)}",
            f"CPUChildrenSystem: {g(f.cpu.children_system)}",
        ]
        if f.cpu_load:
            lines.append(f"CPULoad: {g(f.cpu_load)}")
        lines.append(f"Uptime: {f.uptime}")
        if f.uptime:
            lines += [
                f"ReqPerSec: {g(f.accesses / f.uptime)}",
                f"BytesPerSec: {g(1024 * f.kbytes / f.uptime)}",
            ]
        if f.accesses:
            lines += [
                f"BytesPerReq: {g(1024 * f.kbytes / f.accesses)}",
                f"DurationPerReq: {g(f.duration / f.accesses)}",
            ]
    lines += [
        f"BusyWorkers: {f.counts.busy}",
        f"GracefulWorkers: {f.counts.graceful}",
        f"IdleWorkers: {f.counts.idle}",
    ]
    if f.mpm == "event":
        lines += [
            f"Processes: {f.counts.processes}",
            f"Stopping: {f.counts.stopping}",
            f"ConnsTotal: {sum(row.connections for row in f.rows)}",
            f"ConnsAsyncWaitIO: {sum(row.wait_io for row in f.rows)}",
            f"ConnsAsyncWriting: {sum(row.write_completion for row in f.rows)}",
            f"ConnsAsyncKeepAlive: {sum(row.keep_alive for row in f.rows)}",
            f"ConnsAsyncClosing: {sum(row.lingering_close for row in f.rows)}",
        ]
    lines.append(f"Scoreboard: {f.letters}")
    return "\n".join(lines) + "\n"


class Status:
    """The handler. `board` is called for the scoreboard at each request.

    `name` is ServerName: what the page calls the server when the client did not say (httpd's
    UseCanonicalName Off).
    """

    def __init__(
        self, board: Callable[[], Scoreboard], *, extended: bool = True, name: str = ""
    ) -> None:
        self._board = board
        self._extended = extended
        self._name = name
        built()  # now: a child that has become User may not be able to look there

    def __call__(self, request: Request, conn: Connection) -> Response:
        if request.method not in ("GET", "HEAD"):
            return page(405, extra=b"Allow: GET,HEAD\r\n")
        # As in mod_status, a word counts wherever it stands: `?auto`, `?refresh=5&auto`.
        query = request.query.decode("latin-1")
        extra = b""
        if "refresh" in query:
            found = re.search(r"refresh=([0-9]+)", query)
            seconds = whole_number(found[1]) if found else None
            extra = b"Refresh: %d\r\n" % (seconds or REFRESH)
        figures = Figures(self._board(), self._extended, time.time())
        name = self._called(request)
        if "auto" in query:
            kind, body = "text/plain", auto(figures, name)
        else:
            kind = "text/html"
            body = status_page.html(figures, name, conn.local[0], "notable" in query)
        raw = body.encode("latin-1", "xmlcharrefreplace")
        fields = extra + b"Content-Length: %d\r\n" % len(raw)
        after = f"Content-Type: {kind}; charset=ISO-8859-1\r\n\r\n".encode()
        return Response(200, fields, after, b"" if request.method == "HEAD" else raw, len(raw))

    def _called(self, request: Request) -> str:
        """The server's name: Host as the client sent it, without the port."""
        host = (request.get(b"host") or b"").decode("latin-1")
        name = re.sub(r":\d*$", "", host)
        return name or self._name or "localhost"


# -- formats ---------------------------------------------------------------------------------------


def spoken(seconds: int) -> str:
    """` 1 day 2 hours 3 minutes 4 seconds`, zero parts left out, with httpd's leading blank."""
    parts = []
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        amount, seconds = divmod(seconds, size)
        if amount:
            parts.append(f" {amount} {word}{'s' if amount > 1 else ''}")
    return "".join(parts)


def g(value: float) -> str:
    """APR's %g: six significant digits, no zero before the point, and no exponent for large numbers."""
    text = f"{value:.6g}"
    if "e+" in text:
        text = f"{float(text):.0f}"
    return text[1:] if text.startswith("0.") else text


def local(seconds: float) -> str:
    return time.strftime("%A, %d-%b-%Y %H:%M:%S %Z", time.localtime(seconds))


def version() -> str:
    return f"{SERVER} (Python {sys.version.partition(' ')[0]})"


@cache
def built() -> str:
    """When this version was installed, as an ISO date-time: it is never compiled."""
    installed = os.stat(_version.__file__).st_mtime
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(installed))


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
    """Seconds since a process started; 0 when there is none. Its CPU time is counted from then on,
    and not from the RestartTime that a SIGHUP sets anew."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS)
