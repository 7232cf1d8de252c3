"""The status page for people: mod_status's parts in its order.

    server, MPM, built ── times, generations, uptime, load ── traffic and CPU (ExtendedStatus)
    event: a table of processes and their connections
    the scoreboard, 64 slots a line, and its key
    ExtendedStatus On: a row for each worker that has served something    Off: a pid for each letter

The columns, the counting and the byte formats are mod_status's, the words around them ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmkit.handlers.status_data import built, format_g, format_uptime, local, size, version
from mpmkit.http.messages import escape
from mpmkit.policy.states import BUSY, DEAD, GRACEFUL, IDLE_KILL, LETTERS, READY, STARTING, WORDS

if TYPE_CHECKING:
    from mpmkit.handlers.status_data import StatusData

LINE = 64  # letters of the scoreboard in one line
PIDS_IN_LINE = 3

KEY = (READY, STARTING, 3, 4, 5, 7, 8, 6, GRACEFUL, IDLE_KILL, DEAD)  # httpd's order

COLUMNS = (
    ("Srv", "slot and generation of the process"),
    ("PID", "the process"),
    ("Acc", "requests of this connection / this child / this slot"),
    ("M", "what the worker is doing; bold when it is busy"),
    ("CPU", "seconds of CPU the process has used"),
    ("SS", "seconds since the worker's last change"),
    ("Req", "milliseconds of the latest request"),
    ("Dur", "milliseconds of all requests of this slot"),
    ("Conn", "kilobytes sent on this connection"),
    ("Child", "megabytes sent by this child"),
    ("Slot", "megabytes sent by this slot"),
    ("Client", ""),
    ("Protocol", ""),
    ("VHost", ""),
    ("Request", ""),
)

STYLE = """
body { font-family: system-ui, sans-serif; margin: 2em; color: #222; }
dl { line-height: 1.5; }
table { border-collapse: collapse; margin: 1em 0; font-size: .9em; }
th, td { padding: .2em .7em; text-align: left; border: 1px solid #ccc; }
th { background: #f0f0f0; }
pre { font-size: 1.15em; letter-spacing: .12em; background: #f7f7f7; padding: .7em; }
td:last-child { white-space: nowrap; }
.key code { background: #f7f7f7; padding: 0 .3em; }
.plain td, .plain th { border: 0; background: none; }
"""


def html(data: StatusData, server_name: str, address: str) -> str:
    """The whole page."""
    name = escape(server_name)
    letters = data.letters
    folded = "\n".join(letters[i : i + LINE] for i in range(0, len(letters), LINE))
    parts = [
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">',
        f"<html><head>\n<title>Server status: {name}</title>\n<style>{STYLE}</style>\n</head><body>",
        f"<h1>Server status of {name} (via {escape(address)})</h1>\n",
        _server(data),
        _summary(data),
        *([_processes(data)] if data.mpm == "event" else []),
        f"<pre>{folded}</pre>",
        _key(),
        _workers(data) if data.extended else _pids(data),
    ]
    return "\n".join(parts) + "\n</body></html>\n"


def _list(*lines: str) -> str:
    return "<dl>" + "\n".join(f"<dt>{line}</dt>" for line in lines) + "\n</dl>"


def _server(f: StatusData) -> str:
    version_line = f"Server Version: {escape(version())}"
    return _list(version_line, f"Server MPM: {f.mpm}", f"Server Built: {built()}") + "<hr />"


def _summary(f: StatusData) -> str:
    board = f.board
    lines = [
        f"Current Time: {local(f.now)}",
        f"Restart Time: {local(board.restart_time / 1e9)}",
        f"Parent Server Config. Generation: {board.config_generation}",
        f"Parent Server MPM Generation: {board.generation}",
        f"Server uptime: {format_uptime(f.uptime)}",
        f"Server load: {' '.join(f'{value:.2f}' for value in f.load)}",
    ]
    if f.extended:
        lines.append(
            f"Total accesses: {f.accesses} - Total Traffic: {size(1024 * f.kbytes)} - "
            f"Total Duration: {f.duration}"
        )
        cpu = f.cpu
        used = zip(("u", "s", "cu", "cs"), cpu, strict=True)
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
    return _list(*lines)


def _processes(f: StatusData) -> str:
    """Event: where the connections are that no thread holds."""
    threads = f.board.threads_per_child
    rows: list[tuple[object, ...]] = []
    sums = [0] * 8
    for row in f.rows:
        old = row.generation != f.snapshot.generation
        stopping = ("yes" if row.quiescing else "no") + (" (old gen)" if old else "")
        busy = graceful = idle = 0
        if not row.quiescing:
            states = row.states[:threads]
            graceful = states.count(GRACEFUL)
            idle = 0 if old else states.count(READY)
            busy = sum(states.count(state) for state in BUSY)
        waiting = (0, row.write_completion, row.keep_alive, row.lingering_close)
        numbers = (row.connections, busy, graceful, idle, *waiting)
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        accepting = "no" if row.not_accepting else "yes"
        rows.append((row.slot, row.pid, stopping, numbers[0], accepting, *numbers[1:]))
    total = ("Sum", f.counts.processes, f.counts.stopping, sums[0], "&nbsp;", *sums[1:])
    rows.append(total)
    lines = "\n".join("<tr>" + "".join(f"<td>{x}</td>" for x in row) + "</tr>" for row in rows)
    return (
        '<table rules="all" cellpadding="1%">\n'
        '<tr><th rowspan="2">Slot</th><th rowspan="2">PID</th><th rowspan="2">Stopping</th>'
        '<th colspan="2">Connections</th>\n'
        '<th colspan="3">Threads</th><th colspan="4">Async connections</th></tr>\n'
        "<tr><th>total</th><th>accepting</th><th>busy</th><th>graceful</th><th>idle</th>"
        "<th>wait-io</th><th>writing</th><th>keep-alive</th><th>closing</th></tr>\n"
        f"{lines}\n</table>"
    )


def _key() -> str:
    key = ", ".join(f"<b><code>{LETTERS[state]}</code></b> {WORDS[state]}" for state in KEY)
    return f'<p class="key">Scoreboard key: {key}</p>'


def _pids(f: StatusData) -> str:
    """ExtendedStatus Off: the pid of each letter, and nothing more."""
    entries = [
        f"   {pid} in state: {LETTERS[state] if state else ' '} "
        for pid, state, configured in f.slots()
        if state != DEAD
        or not configured  # a slot that may be filled is left out while it is empty
    ]
    lines = [",".join(entries[i : i + PIDS_IN_LINE]) for i in range(0, len(entries), PIDS_IN_LINE)]
    return (
        "PID Key: <br />\n<pre>\n" + "\n".join(lines) + "\n</pre>\n"
        "<hr />The directive <code>ExtendedStatus On</code> adds requests, clients and traffic."
    )


def _workers(f: StatusData) -> str:
    """ExtendedStatus On: each worker that has served a request or is serving one."""
    head = "".join(f"<th>{name}</th>" for name, _ in COLUMNS)
    rows = []
    for w in f.board.workers():
        if not w.access_count and w.state in (READY, DEAD):
            continue
        letter = LETTERS[w.state]
        here = w.state not in (READY, DEAD)  # the connection's own counts: only while there is one
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
            *(escape(text) for text in (w.client, w.protocol, w.vhost, w.request)),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    legend = "\n".join(f"<tr><th>{name}</th><td>{what}</td></tr>" for name, what in COLUMNS if what)
    body = "\n".join(rows)
    return (
        f'<table border="0"><tr>{head}</tr>\n{body}\n</table>\n'
        f'<hr />\n<table class="plain">\n{legend}\n</table>'
    )
