"""The status page (mod_status): `?auto` for programs, HTML for people, `?refresh=N` for both.

    scoreboard ──> StatusData ─┬─> auto    one `Key: value` a line, httpd 2.4's keys in its order
                               └─> html    mod_status's parts and columns, our words around them

A program that reads httpd's status page can read this one: tests compare keys, order and formats of numbers with
a real httpd's. Nothing is measured here but the CPU time of the processes, which the kernel counts anyway.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from mpmkit import _version
from mpmkit.http.messages import SERVER, Request, Response, escape, page, text, whole_number
from mpmkit.http.target import split_host
from mpmkit.policy.states import BUSY, DEAD, GRACEFUL, IDLE_KILL, LETTERS, READY, STARTING, WORDS
from mpmkit.server.connection import Connection
from mpmkit.server.scoreboard import Scoreboard

REFRESH = 10  # seconds of a `?refresh` without a number


class Status:
    """The handler. board: called at each request. name: ServerName, for a client that sent no Host."""

    def __init__(self, board: Callable[[], Scoreboard], *, extended: bool, name: str) -> None:
        self._board, self._extended, self._name = board, extended, name
        built()  # now: a child that runs as User may not be able to stat the file

    def __call__(self, request: Request, conn: Connection) -> Response:
        if request.method not in ("GET", "HEAD"):
            return page(405, extra=b"Allow: GET,HEAD\r\n")
        # As in mod_status, a word counts wherever it stands: `?auto`, `?refresh=5&auto`.
        query = request.query.decode("latin-1")
        found = re.search(r"refresh=([0-9]+)", query)
        seconds = (whole_number(found[1]) if found else None) or REFRESH
        extra = b"Refresh: %d\r\n" % seconds if "refresh" in query else b""
        data = StatusData(self._board(), self._extended, time.time())
        host = (request.get(b"host") or b"").decode("latin-1")
        name = split_host(host)[0] or self._name or "localhost"
        plain = "auto" in query
        body = auto(data, name) if plain else html(data, name, conn.local[0])
        kind = b"text/%b; charset=ISO-8859-1" % (b"plain" if plain else b"html")
        return text(200, body.encode("latin-1", "xmlcharrefreplace"), kind, request.method, extra)


class StatusData:
    """Everything the page shows, from one snapshot of the scoreboard. `now`: seconds since the epoch."""

    def __init__(self, board: Scoreboard, extended: bool, now: float) -> None:
        self.board, self.extended, self.now = board, extended, now
        self.snapshot = board.snapshot()
        self.rows = rows = [row for row in self.snapshot.processes if row.pid]
        self.cpus = {row.pid: cpu_of(row.pid) for row in rows} if extended else {}
        self.uptime = max(0, int(now) - board.restart_time // 1_000_000_000)
        counts = self.snapshot.count(board.threads_per_child)
        # What `?auto` shows, by httpd's keys and in their order.
        self.values: dict[str, Any] = {
            "ServerVersion": f"{SERVER} (Python {sys.version.split()[0]})", "ServerMPM": board.mpm,
            "Server Built": built(), "CurrentTime": local(now), "RestartTime": local(board.restart_time / 1e9),
            "ParentServerConfigGeneration": board.config_generation,
            "ParentServerMPMGeneration": board.generation, "ServerUptimeSeconds": self.uptime,
            "ServerUptime": format_uptime(self.uptime).lstrip(),
            **{f"Load{n}": f"{load:.2f}" for n, load in zip((1, 5, 15), os.getloadavg(), strict=True)},
            **(self._traffic(*board.totals()) if extended else {}),
            "BusyWorkers": counts.busy, "GracefulWorkers": counts.graceful, "IdleWorkers": counts.idle,
        }  # fmt: skip
        if board.mpm == "event":
            self.values |= {
                "Processes": counts.processes, "Stopping": counts.stopping,
                "ConnsTotal": sum(row.connections for row in rows), "ConnsAsyncWaitIO": 0,
                "ConnsAsyncWriting": sum(row.write_completion for row in rows),
                "ConnsAsyncKeepAlive": sum(row.keep_alive for row in rows),
                "ConnsAsyncClosing": sum(row.lingering_close for row in rows),
            }  # fmt: skip
        self.values["Scoreboard"] = self.letters

    def _traffic(self, accesses: int, sent: int, duration: int) -> dict[str, Any]:
        """What ExtendedStatus On adds, of the totals in bytes and nanoseconds."""
        kbytes, duration = sent // 1024, duration // 1_000_000
        parent = self.board.parent_pid
        cpu = [sum(times) for times in zip(cpu_of(parent), *self.cpus.values(), strict=True)]
        names = ("CPUUser", "CPUSystem", "CPUChildrenUser", "CPUChildrenSystem")
        # Since the process started, not since the RestartTime, which a SIGHUP resets.
        started = int(_stat(parent)[19]) / _TICKS
        age = max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started) if started else 0.0
        rates = (
            ("ReqPerSec", accesses, self.uptime), ("BytesPerSec", 1024 * kbytes, self.uptime),
            ("BytesPerReq", 1024 * kbytes, accesses), ("DurationPerReq", duration, accesses),
        )  # fmt: skip
        return {
            "Total Accesses": accesses, "Total kBytes": kbytes, "Total Duration": duration,
            **dict(zip(names, map(format_g, cpu), strict=True)),
            **({"CPULoad": format_g(100 * sum(cpu) / age)} if age and any(cpu) else {}),
            "Uptime": self.uptime, **{key: format_g(amount / of) for key, amount, of in rates if of},
        }  # fmt: skip

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


def auto(f: StatusData, server_name: str) -> str:
    """The text of `?auto`."""
    lines = (f"{key}: {value}".rstrip() for key, value in f.values.items())
    return "\n".join((server_name, *lines)) + "\n"


# -- the page for people ---------------------------------------------------------------------------

LABELS = (
    "Server Version", "Server MPM", "Server Built", "Current Time", "Restart Time",
    "Parent Server Config. Generation", "Parent Server MPM Generation",
)  # fmt: skip
LINE = 64  # letters of the scoreboard in one line
MORE = "<hr />The directive <code>ExtendedStatus On</code> adds requests, clients and traffic."
KEY = (READY, STARTING, 3, 4, 5, 7, 8, 6, GRACEFUL, IDLE_KILL, DEAD)  # httpd's order

COLUMNS = {
    "Srv": "slot and generation of the process", "PID": "the process",
    "Acc": "requests of this connection / this child / this slot",
    "M": "what the worker is doing; bold when it is busy",
    "CPU": "seconds of CPU the process has used", "SS": "seconds since the worker's last change",
    "Req": "milliseconds of the latest request", "Dur": "milliseconds of all requests of this slot",
    "Conn": "kilobytes sent on this connection", "Child": "megabytes sent by this child",
    "Slot": "megabytes sent by this slot", "Client": "", "Protocol": "", "VHost": "", "Request": "",
}  # fmt: skip

PROCESSES = """\
<table rules="all" cellpadding="1%">
<tr><th rowspan="2">Slot</th><th rowspan="2">PID</th><th rowspan="2">Stopping</th><th colspan="2">Connections</th>
<th colspan="3">Threads</th><th colspan="4">Async connections</th></tr>
<tr><th>total</th><th>accepting</th><th>busy</th><th>graceful</th><th>idle</th>\
<th>wait-io</th><th>writing</th><th>keep-alive</th><th>closing</th></tr>
"""

SUMS = (
    "Processes", "Stopping", "ConnsTotal", "accepting", "BusyWorkers", "GracefulWorkers", "IdleWorkers",
    "ConnsAsyncWaitIO", "ConnsAsyncWriting", "ConnsAsyncKeepAlive", "ConnsAsyncClosing",
)  # fmt: skip

STYLE = """
body { font-family: system-ui, sans-serif; margin: 2em; color: #222; }
dl { line-height: 1.5; }
table { border-collapse: collapse; margin: 1em 0; font-size: .9em; }
th, td { padding: .2em .7em; text-align: left; border: 1px solid #ccc; }
th, pre, .key code { background: #f4f4f4; }
pre { font-size: 1.15em; letter-spacing: .12em; padding: .7em; }
.plain td, .plain th { border: 0; background: none; }
"""


def html(f: StatusData, server_name: str, address: str) -> str:
    """The whole page."""
    name, letters = escape(server_name), f.letters
    folded = "\n".join(letters[i : i + LINE] for i in range(0, len(letters), LINE))
    key = ", ".join(f"<b><code>{LETTERS[state]}</code></b> {WORDS[state]}" for state in KEY)
    lines = [f"<dt>{line}</dt>" for line in _summary(f)]
    parts = (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">',
        f"<html><head>\n<title>Server status: {name}</title>\n<style>{STYLE}</style>\n</head><body>",
        f"<h1>Server status of {name} (via {escape(address)})</h1>\n",
        "<dl>" + "\n".join(lines[:3]) + "\n</dl><hr />\n<dl>" + "\n".join(lines[3:]) + "\n</dl>",
        _processes(f) if f.board.mpm == "event" else "",
        f"<pre>{folded}</pre>",
        f'<p class="key">Scoreboard key: {key}</p>',
        _workers(f) if f.extended else MORE,
    )
    return "\n".join(parts) + "\n</body></html>\n"


def _summary(f: StatusData) -> list[str]:
    """The lines above the scoreboard."""
    v = f.values
    labelled = zip(LABELS, v.values(), strict=False)
    lines = [f"{label}: {escape(str(value))}" for label, value in labelled]
    lines.append(f"Server uptime: {format_uptime(f.uptime)}")
    lines.append("Server load: {Load1} {Load5} {Load15}".format_map(v))
    if f.extended:
        accesses, sent = v["Total Accesses"], 1024 * v["Total kBytes"]
        traffic = "Total Traffic: {} - Total Duration: {Total Duration}"
        lines.append(f"Total accesses: {accesses} - {traffic}".format(size(sent), **v))
        usage = "CPU Usage: u{CPUUser} s{CPUSystem} cu{CPUChildrenUser} cs{CPUChildrenSystem}"
        load = " - {CPULoad}% CPU load" if "CPULoad" in v else ""
        lines.append((usage + load).format_map(v))
        rates = []
        if f.uptime:
            rates += [f"{v['ReqPerSec']} requests/sec", f"{size(sent // f.uptime)}/second"]
        if accesses:
            rates += [f"{size(sent // accesses)}/request", f"{v['DurationPerReq']} ms/request"]
        lines += [" - ".join(rates)] if rates else []
    busy = "{BusyWorkers} requests currently being processed"
    others = "{GracefulWorkers} workers gracefully restarting, {IdleWorkers} idle workers"
    return [*lines, f"{busy}, {others}".format_map(v)]


def _row(*cells: object) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _processes(f: StatusData) -> str:
    """Event: where the connections are that no thread holds."""
    table = PROCESSES
    for row in f.rows:
        old = " (old gen)" if row.generation != f.snapshot.generation else ""
        stopping = ("yes" if row.quiescing else "no") + old
        accepting = "no" if row.not_accepting else "yes"
        threads = f.snapshot.count(f.board.threads_per_child, (row,))[:3]
        waiting = (0, row.write_completion, row.keep_alive, row.lingering_close)
        table += _row(row.slot, row.pid, stopping, row.connections, accepting, *threads, *waiting)
    return table + _row("Sum", *(f.values.get(key, "&nbsp;") for key in SUMS)) + "</table>"


def _workers(f: StatusData) -> str:
    """ExtendedStatus On: each worker that has served a request or is serving one."""
    table = "<tr>" + "".join(f"<th>{name}</th>" for name in COLUMNS) + "</tr>\n"
    for w in f.board.workers():
        here = w.state not in (READY, DEAD)  # the connection's own counts: only while there is one
        if not w.access_count and not here:
            continue
        letter = LETTERS[w.state]
        table += _row(
            f"<b>{w.process}-{w.generation}</b>", w.pid if w.state != DEAD else "-",
            f"{w.conn_count if here else 0}/{w.my_access_count}/{w.access_count}",
            f"<b>{letter}</b>" if w.state in BUSY else letter, f"{sum(f.cpus.get(w.pid, ())):.2f}",
            max(0, int(f.now - w.last_used / 1e9)) if w.last_used else 0,
            w.last_duration // 1_000_000, w.duration // 1_000_000,
            f"{w.conn_bytes / 1024 if here else 0:.1f}",
            f"{w.my_bytes_served / (1 << 20):.2f}", f"{w.bytes_served / (1 << 20):.2f}",
            *map(escape, (w.client, w.protocol, w.vhost, w.request)),
        )  # fmt: skip
    meant = ((name, what) for name, what in COLUMNS.items() if what)
    legend = "".join(f"<tr><th>{name}</th><td>{what}</td></tr>\n" for name, what in meant)
    return f'<table border="0">{table}</table>\n<hr />\n<table class="plain">\n{legend}</table>'


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
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(os.stat(_version.__file__).st_mtime))


def size(number: int) -> str:
    """Bytes as mod_status writes them: `999 B`, `5.0 kB`, `0.5 MB`, `0.5 GB`."""
    for shift, unit in ((30, "GB"), (20, "MB"), (10, "kB")):
        if number >= (512 << (shift - 10) if shift > 10 else 5 << 10):
            return f"{number / (1 << shift):.1f} {unit}"
    return f"{number} B"


_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; zeros when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except OSError:
        return [b"0"] * 20


def cpu_of(pid: int) -> tuple[float, ...]:
    """Seconds of CPU of a process, user and system, and of children it waited for (proc_pid_stat(5), utime …)."""
    return tuple(int(field) / _TICKS for field in _stat(pid)[11:15])
