"""The status page (mod_status): `?auto` for programs, HTML for people, `?refresh=N` for both.

The keys of `?auto`, their order and their number formats are httpd 2.4's, so that what scrapes an
httpd scrapes us. Numbers come from a scoreboard that is handed in; nothing is measured here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mpmkit.http.messages import SERVER, Request, Response, page
from mpmkit.states import DEAD, GRACEFUL, IDLE_KILL, LETTERS, READY, STARTING

if TYPE_CHECKING:
    from mpmkit.connection import Connection
    from mpmkit.scoreboard import Scoreboard

BUILT = "mpmkit"


class Counts(NamedTuple):
    """Workers by what they do. Those of a process that is leaving are in none of the three."""

    busy: int
    graceful: int
    idle: int
    processes: int
    stopping: int


def count(board: Scoreboard) -> Counts:
    """mod_status's rules (facts 5.4): a thread counts if its process lives and is not quiescing."""
    busy = graceful = idle = processes = stopping = 0
    snapshot = board.snapshot()
    for row in snapshot.processes:
        if not row.pid:
            continue
        processes += 1
        if row.quiescing:
            stopping += 1
            continue
        states = row.states[: board.threads_per_child]
        waiting = states.count(READY)
        if row.generation == snapshot.generation:
            idle += waiting
        leaving = states.count(GRACEFUL)
        graceful += leaving
        resting = states.count(DEAD) + states.count(STARTING) + states.count(IDLE_KILL)
        busy += len(states) - waiting - leaving - resting
    return Counts(busy, graceful, idle, processes, stopping)


def scoreboard_line(board: Scoreboard) -> str:
    """All slots as letters: DEAD ones beyond the configured limits are left out."""
    line = []
    threads, processes = board.threads_per_child, board.process_limit
    for row in board.snapshot().processes:
        for thread, state in enumerate(row.states):
            if state != DEAD or (row.slot < processes and thread < threads):
                line.append(LETTERS[state])
    return "".join(line)


def auto(board: Scoreboard, server_name: str, extended: bool, now: float) -> str:
    """The text of `?auto`. `now` is in seconds since the epoch."""
    uptime = max(0, int(now) - board.restart_time // 1_000_000_000)
    load = os.getloadavg()
    lines = [
        server_name,
        f"ServerVersion: {SERVER} (Python)",
        f"ServerMPM: {board.mpm}",
        f"Server Built: {BUILT}",
        f"CurrentTime: {_local(now)}",
        f"RestartTime: {_local(board.restart_time / 1e9)}",
        f"ParentServerConfigGeneration: {board.config_generation}",
        f"ParentServerMPMGeneration: {board.generation}",
        f"ServerUptimeSeconds: {uptime}",
        f"ServerUptime:{spoken(uptime)}",
        *(f"Load{minutes}: {value:.2f}" for minutes, value in zip((1, 5, 15), load, strict=True)),
    ]
    if extended:
        accesses, sent, duration = board.totals()
        cpu = _cpu_times(board.parent_pid)
        kbytes, milliseconds = sent // 1024, duration // 1_000_000
        lines += [
            f"Total Accesses: {accesses}",
            f"Total kBytes: {kbytes}",
            f"Total Duration: {milliseconds}",
            *(f"{name}: {g(value)}" for name, value in zip(_CPU, cpu, strict=True)),
        ]
        if sum(cpu) and uptime:
            lines.append(f"CPULoad: {g(100 * sum(cpu) / uptime)}")
        lines.append(f"Uptime: {uptime}")
        if uptime:
            lines += [
                f"ReqPerSec: {g(accesses / uptime)}",
                f"BytesPerSec: {g(1024 * kbytes / uptime)}",
            ]
        if accesses:
            lines += [
                f"BytesPerReq: {g(1024 * kbytes / accesses)}",
                f"DurationPerReq: {g(milliseconds / accesses)}",
            ]
    counts = count(board)
    lines += [
        f"BusyWorkers: {counts.busy}",
        f"GracefulWorkers: {counts.graceful}",
        f"IdleWorkers: {counts.idle}",
    ]
    if board.mpm == "event":
        rows = [row for row in board.snapshot().processes if row.pid]
        lines += [
            f"Processes: {counts.processes}",
            f"Stopping: {counts.stopping}",
            f"ConnsTotal: {sum(row.connections for row in rows)}",
            "ConnsAsyncWaitIO: 0",
            f"ConnsAsyncWriting: {sum(row.write_completion for row in rows)}",
            f"ConnsAsyncKeepAlive: {sum(row.keep_alive for row in rows)}",
            f"ConnsAsyncClosing: {sum(row.lingering_close for row in rows)}",
        ]
    lines.append(f"Scoreboard: {scoreboard_line(board)}")
    return "\n".join(lines) + "\n"


_CPU = ("CPUUser", "CPUSystem", "CPUChildrenUser", "CPUChildrenSystem")


class Status:
    """The handler. `board` is called for the scoreboard at each request."""

    def __init__(
        self, board: Callable[[], Scoreboard], *, extended: bool = True, name: str = ""
    ) -> None:
        self._board = board
        self._extended = extended
        self._name = name

    def __call__(self, request: Request, conn: Connection) -> Response:
        if request.method not in ("GET", "HEAD"):
            return page(405, extra=b"Allow: GET,HEAD\r\n")
        query = request.query.decode("latin-1")
        extra = b""
        if "refresh" in query:
            seconds = re.search(r"refresh=(\d+)", query)
            extra = b"Refresh: %d\r\n" % (int(seconds[1]) if seconds and int(seconds[1]) else 10)
        name = (
            self._name or (request.get(b"host") or b"localhost").decode("latin-1").rsplit(":", 1)[0]
        )
        board = self._board()
        if "auto" in query:
            kind, body = "text/plain", auto(board, name, self._extended, time.time())
        else:
            kind, body = "text/html", html(board, name, self._extended, time.time())
        raw = body.encode("latin-1", "xmlcharrefreplace")
        fields = extra + b"Content-Length: %d\r\n" % len(raw)
        after = f"Content-Type: {kind}; charset=ISO-8859-1\r\n\r\n".encode()
        return Response(200, fields, after, b"" if request.method == "HEAD" else raw, len(raw))


def html(board: Scoreboard, server_name: str, extended: bool, now: float) -> str:
    """The page for people: what the server is, how busy, and the scoreboard, 64 slots a line."""
    text = auto(board, server_name, extended, now).splitlines()
    facts = [line.split(": ", 1) for line in text[1:-1] if ": " in line]
    line = scoreboard_line(board)
    counts = count(board)
    rows = "\n".join(f"<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>" for key, value in facts)
    folded = "\n".join(line[i : i + 64] for i in range(0, len(line), 64))
    processes = "\n".join(
        f"<tr><td>{row.slot}</td><td>{row.pid}</td><td>{'yes' if row.quiescing else 'no'}</td>"
        f"<td>{row.generation}</td><td>{row.connections}</td><td>{'no' if row.not_accepting else 'yes'}</td>"
        f"<td>{row.write_completion}</td><td>{row.keep_alive}</td><td>{row.lingering_close}</td></tr>"
        for row in board.snapshot().processes
        if row.pid
    )
    requests = "\n".join(
        f"<tr><td>{w.process}-{w.generation}</td><td>{w.pid or '-'}</td>"
        f"<td>{w.conn_count}/{w.my_access_count}/{w.access_count}</td><td>{LETTERS[w.state]}</td>"
        f"<td>{w.last_duration // 1_000_000}</td><td>{_escape(w.client)}</td><td>{_escape(w.protocol)}</td>"
        f"<td>{_escape(w.request)}</td></tr>"
        for w in board.workers()
        if extended
    )
    name = _escape(server_name)
    return f"""<!DOCTYPE html>
<html><head><title>mpmkit status: {name}</title>
<style>body{{font-family:sans-serif;margin:2em}}td,th{{padding:0 .8em 0 0;text-align:left}}
dt{{float:left;clear:left;width:16em}}pre{{font-size:1.2em;letter-spacing:.1em}}</style></head>
<body><h1>Server status of {name}</h1>
<dl>
{rows}
</dl>
<p style="clear:both;padding-top:1em">{counts.busy} requests being processed, {counts.graceful} workers leaving
gracefully, {counts.idle} idle workers</p>
<pre>{folded}</pre>
<p>Key: <code>_</code> waiting, <code>S</code> starting, <code>R</code> reading, <code>W</code> writing,
<code>K</code> keep-alive, <code>D</code> DNS, <code>C</code> closing, <code>L</code> logging,
<code>G</code> finishing gracefully, <code>I</code> idle cleanup, <code>.</code> open slot</p>
<table><tr><th>Slot</th><th>PID</th><th>Stopping</th><th>Gen</th><th>Connections</th><th>Accepting</th>
<th>Writing</th><th>Keep-alive</th><th>Closing</th></tr>
{processes}
</table>
<table><tr><th>Srv</th><th>PID</th><th>Acc</th><th>M</th><th>Req ms</th><th>Client</th><th>Protocol</th>
<th>Request</th></tr>
{requests}
</table>
</body></html>
"""


def spoken(seconds: int) -> str:
    """` 1 day 2 hours 3 minutes 4 seconds`, zero parts left out, with httpd's leading blank."""
    parts = []
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        amount, seconds = divmod(seconds, size)
        if amount:
            parts.append(f" {amount} {word}{'s' if amount > 1 else ''}")
    return "".join(parts)


def g(value: float) -> str:
    """APR's %g: six significant digits and no zero before the point."""
    text = f"{value:g}"
    return text[1:] if text.startswith("0.") else text


def _local(seconds: float) -> str:
    return time.strftime("%A, %d-%b-%Y %H:%M:%S %Z", time.localtime(seconds))


def _cpu_times(pid: int) -> tuple[float, float, float, float]:
    """User and system seconds of the parent, and of its dead children (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
    except OSError:
        return (0.0, 0.0, 0.0, 0.0)
    tick = os.sysconf("SC_CLK_TCK")
    return tuple(int(field) / tick for field in fields[11:15])  # type: ignore[return-value]


def _escape(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
