"""The status page (mod_status): `?auto` for programs, HTML for people, `?refresh=N` for both.

    scoreboard ──> StatusData ─┬─> auto    one `Key: value` a line, httpd 2.4's keys in its order
                               └─> html    mod_status's parts and columns, our words around them

A program that reads httpd's status page can read this one: keys, order and number formats are
mod_status's, and tests compare them with what a real httpd answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpmkit.handlers.status_data import StatusData, built, format_g, format_uptime, size
from mpmkit.http.messages import Request, Response, escape, page, text, whole_number
from mpmkit.http.target import split_host
from mpmkit.policy.states import BUSY, DEAD, GRACEFUL, IDLE_KILL, LETTERS, READY, STARTING, WORDS

if TYPE_CHECKING:
    from mpmkit.server.connection import Connection
    from mpmkit.server.scoreboard import Scoreboard

REFRESH = 10  # seconds of a `?refresh` without a number


class Status:
    """The handler. `board` is called for the scoreboard at each request.

    `name` is ServerName: the server's name on the page when the client sent no Host.
    """

    def __init__(
        self, board: Callable[[], Scoreboard], *, extended: bool = True, name: str = ""
    ) -> None:
        self._board = board
        self._extended = extended
        self._name = name
        built()  # now: a child that runs as User may not be able to stat the file

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
        data = StatusData(self._board(), self._extended, time.time())
        host = (request.get(b"host") or b"").decode("latin-1")
        name = split_host(host)[0] or self._name or "localhost"
        if "auto" in query:
            kind, body = b"text/plain", auto(data, name)
        else:
            kind, body = b"text/html", html(data, name, conn.local[0])
        raw = body.encode("latin-1", "xmlcharrefreplace")
        return text(200, raw, kind + b"; charset=ISO-8859-1", request.method, extra)


def auto(f: StatusData, server_name: str) -> str:
    """The text of `?auto`."""
    lines = [
        server_name,
        *(f"{key}: {value}" for key, _, value in f.facts),
        f"ServerUptimeSeconds: {f.uptime}",
        f"ServerUptime:{format_uptime(f.uptime)}",
        *(f"Load{minutes}: {value:.2f}" for minutes, value in zip((1, 5, 15), f.load, strict=True)),
    ]
    if f.extended:
        lines += (
            f"Total Accesses: {f.accesses}",
            f"Total kBytes: {f.kbytes}",
            f"Total Duration: {f.duration}",
        )
        keys = ("User", "System", "ChildrenUser", "ChildrenSystem")
        lines += (f"CPU{key}: {format_g(used)}" for key, used in zip(keys, f.cpu, strict=True))
        if f.cpu_load:
            lines.append(f"CPULoad: {format_g(f.cpu_load)}")
        lines.append(f"Uptime: {f.uptime}")
        if f.uptime:
            lines.append(f"ReqPerSec: {format_g(f.accesses / f.uptime)}")
            lines.append(f"BytesPerSec: {format_g(1024 * f.kbytes / f.uptime)}")
        if f.accesses:
            lines.append(f"BytesPerReq: {format_g(1024 * f.kbytes / f.accesses)}")
            lines.append(f"DurationPerReq: {format_g(f.duration / f.accesses)}")
    lines += (
        f"BusyWorkers: {f.counts.busy}",
        f"GracefulWorkers: {f.counts.graceful}",
        f"IdleWorkers: {f.counts.idle}",
    )
    if f.mpm == "event":
        lines += (
            f"Processes: {f.counts.processes}",
            f"Stopping: {f.counts.stopping}",
            f"ConnsTotal: {sum(row.connections for row in f.rows)}",
            "ConnsAsyncWaitIO: 0",
            f"ConnsAsyncWriting: {sum(row.write_completion for row in f.rows)}",
            f"ConnsAsyncKeepAlive: {sum(row.keep_alive for row in f.rows)}",
            f"ConnsAsyncClosing: {sum(row.lingering_close for row in f.rows)}",
        )
    lines.append(f"Scoreboard: {f.letters}")
    return "\n".join(lines) + "\n"


# -- the page for people ---------------------------------------------------------------------------

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
    name = escape(server_name)
    letters = f.letters
    folded = "\n".join(letters[i : i + LINE] for i in range(0, len(letters), LINE))
    key = ", ".join(f"<b><code>{LETTERS[state]}</code></b> {WORDS[state]}" for state in KEY)
    facts = [f"{label}: {escape(str(value))}" for _, label, value in f.facts]
    parts = (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">',
        f"<html><head>\n<title>Server status: {name}</title>\n<style>{STYLE}</style>\n</head><body>",
        f"<h1>Server status of {name} (via {escape(address)})</h1>\n",
        _list(facts[:3]) + "<hr />",
        _list(facts[3:] + _summary(f)),
        _processes(f) if f.mpm == "event" else "",
        f"<pre>{folded}</pre>",
        f'<p class="key">Scoreboard key: {key}</p>',
        _workers(f) if f.extended else MORE,
    )
    return "\n".join(parts) + "\n</body></html>\n"


def _list(lines: list[str]) -> str:
    return "<dl>" + "\n".join(f"<dt>{line}</dt>" for line in lines) + "\n</dl>"


def _row(cells: tuple[object, ...]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _summary(f: StatusData) -> list[str]:
    lines = [
        f"Server uptime: {format_uptime(f.uptime)}",
        f"Server load: {' '.join(f'{value:.2f}' for value in f.load)}",
    ]
    if f.extended:
        total = size(1024 * f.kbytes)
        lines.append(
            f"Total accesses: {f.accesses} - Total Traffic: {total} - Total Duration: {f.duration}"
        )
        used = zip(("u", "s", "cu", "cs"), f.cpu, strict=True)
        usage = "CPU Usage: " + " ".join(f"{name}{format_g(value)}" for name, value in used)
        lines.append(usage + (f" - {format_g(f.cpu_load)}% CPU load" if f.cpu_load else ""))
        rates = []
        if f.uptime:
            rates.append(f"{format_g(f.accesses / f.uptime)} requests/sec")
            rates.append(f"{size(1024 * f.kbytes // f.uptime)}/second")
        if f.accesses:
            rates.append(f"{size(1024 * f.kbytes // f.accesses)}/request")
            rates.append(f"{format_g(f.duration / f.accesses)} ms/request")
        if rates:
            lines.append(" - ".join(rates))
    lines.append(
        f"{f.counts.busy} requests currently being processed, {f.counts.graceful} workers "
        f"gracefully restarting, {f.counts.idle} idle workers"
    )
    return lines


def _processes(f: StatusData) -> str:
    """Event: where the connections are that no thread holds."""
    rows: list[tuple[object, ...]] = []
    sums = [0] * 8
    for row in f.rows:
        old = row.generation != f.snapshot.generation
        stopping = ("yes" if row.quiescing else "no") + (" (old gen)" if old else "")
        busy = graceful = idle = 0
        if not row.quiescing:
            states = row.states[: f.board.threads_per_child]
            graceful = states.count(GRACEFUL)
            idle = 0 if old else states.count(READY)
            busy = sum(states.count(state) for state in BUSY)
        waiting = (0, row.write_completion, row.keep_alive, row.lingering_close)
        numbers = (row.connections, busy, graceful, idle, *waiting)
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        accepting = "no" if row.not_accepting else "yes"
        rows.append((row.slot, row.pid, stopping, numbers[0], accepting, *numbers[1:]))
    rows.append(("Sum", f.counts.processes, f.counts.stopping, sums[0], "&nbsp;", *sums[1:]))
    lines = "\n".join(map(_row, rows))
    return (
        '<table rules="all" cellpadding="1%">\n'
        '<tr><th rowspan="2">Slot</th><th rowspan="2">PID</th><th rowspan="2">Stopping</th>'
        '<th colspan="2">Connections</th>\n'
        '<th colspan="3">Threads</th><th colspan="4">Async connections</th></tr>\n'
        "<tr><th>total</th><th>accepting</th><th>busy</th><th>graceful</th><th>idle</th>"
        "<th>wait-io</th><th>writing</th><th>keep-alive</th><th>closing</th></tr>\n"
        f"{lines}\n</table>"
    )


def _workers(f: StatusData) -> str:
    """ExtendedStatus On: each worker that has served a request or is serving one."""
    rows = []
    for w in f.board.workers():
        here = w.state not in (READY, DEAD)  # the connection's own counts: only while there is one
        if not w.access_count and not here:
            continue
        letter = LETTERS[w.state]
        cells = (
            f"<b>{w.process}-{w.generation}</b>",
            f"{w.pid}" if w.state != DEAD else "-",
            f"{w.conn_count if here else 0}/{w.my_access_count}/{w.access_count}",
            f"<b>{letter}</b>" if w.state in BUSY else letter,
            f"{sum(f.cpus.get(w.pid, ())):.2f}",
            f"{max(0, int(f.now - w.last_used / 1e9)) if w.last_used else 0}",
            f"{w.last_duration // 1_000_000}",
            f"{w.duration // 1_000_000}",
            f"{w.conn_bytes / 1024 if here else 0:.1f}",
            f"{w.my_bytes_served / (1 << 20):.2f}",
            f"{w.bytes_served / (1 << 20):.2f}",
            *map(escape, (w.client, w.protocol, w.vhost, w.request)),
        )
        rows.append(_row(cells))
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    table = "\n".join((f"<tr>{head}</tr>", *rows))
    legend = (f"<tr><th>{name}</th><td>{what}</td></tr>" for name, what in COLUMNS.items() if what)
    rest = "\n".join(legend)
    return f'<table border="0">{table}\n</table>\n<hr />\n<table class="plain">\n{rest}\n</table>'
