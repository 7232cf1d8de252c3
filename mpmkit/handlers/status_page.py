"""The status page for people: mod_status's parts in its order.

    server, MPM, built ── times, generations, uptime, load ── traffic and CPU (ExtendedStatus)
    event: a table of processes and their connections
    the scoreboard, 64 slots a line, and its key
    ExtendedStatus On: a row for each worker that has served something    Off: a pid for each letter

The columns, the counting and the byte formats are mod_status's, the words around them ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmkit.policy.states import (
    BUSY,
    DEAD,
    GRACEFUL,
    IDLE_KILL,
    LETTERS,
    NAMES,
    READY,
    STARTING,
    WORDS,
)

if TYPE_CHECKING:
    from mpmkit.handlers.status import Figures
    from mpmkit.server.scoreboard import WorkerRow

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


def html(figures: Figures, server_name: str, address: str, notable: bool) -> str:
    """The whole page. `notable`: paragraphs instead of tables, for browsers of another age."""
    name = escape(server_name)
    parts = [
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">',
        f"<html><head>\n<title>Server status: {name}</title>\n<style>{STYLE}</style>\n</head><body>",
        f"<h1>Server status of {name} (via {escape(address)})</h1>\n",
        _server(figures),
        _figures(figures),
    ]
    if figures.mpm == "event":
        parts.append(_processes(figures))
    letters = figures.letters
    folded = "\n".join(letters[i : i + LINE] for i in range(0, len(letters), LINE))
    parts += [f"<pre>{folded}</pre>", _key()]
    if not figures.extended:
        parts.append(_pids(figures))
    elif notable:
        parts.append(_paragraphs(figures))
    else:
        parts.append(_workers(figures))
    return "\n".join(parts) + "\n</body></html>\n"


def size(number: int) -> str:
    """Bytes as mod_status writes them: `999 B`, `5.0 kB`, `0.5 MB`, `0.5 GB`."""
    if number < 5 << 10:
        return f"{number} B"
    if number < 512 << 10:
        return f"{number / (1 << 10):.1f} kB"
    if number < 512 << 20:
        return f"{number / (1 << 20):.1f} MB"
    return f"{number / (1 << 30):.1f} GB"


def escape(value: str) -> str:
    """Text as HTML. (The html module would bring a table of 2,231 names into every child.)"""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        value = value.replace(char, entity)
    return value


def _list(*lines: str) -> str:
    return "<dl>" + "\n".join(f"<dt>{line}</dt>" for line in lines) + "\n</dl>"


def _server(f: Figures) -> str:
    from mpmkit.handlers.status import built, version

    return (
        _list(
            f"Server Version: {escape(version())}",
            f"Server MPM: {f.mpm}",
            f"Server Built: {built()}",
        )
        + "<hr />"
    )


def _figures(f: Figures) -> str:
    from mpmkit.handlers.status import g, local, spoken

    board = f.board
    lines = [
        f"Current Time: {local(f.now)}",
        f"Restart Time: {local(board.restart_time / 1e9)}",
        f"Parent Server Config. Generation: {board.config_generation}",
        f"Parent Server MPM Generation: {board.generation}",
        f"Server uptime: {spoken(f.uptime)}",
        f"Server load: {' '.join(f'{value:.2f}' for value in f.load)}",
    ]
    if f.extended:
        lines.append(
            f"Total accesses: {f.accesses} - Total Traffic: {size(1024 * f.kbytes)} - "
            f"Total Duration: {f.duration}"
        )
        cpu = f.cpu
        lines.append(
            f"CPU Usage: u{g(cpu.user)} s{g(cpu.system)} cu{g(cpu.children_user)} "
            f"cs{g(cpu.children_system)}" + (f" - {g(f.cpu_load)}% CPU load" if f.cpu_load else "")
        )
        rates = []
        if f.uptime:
            rates.append(f"{g(f.accesses / f.uptime)} requests/sec")
            rates.append(f"{size(1024 * f.kbytes // f.uptime)}/second")
        if f.accesses:
            rates.append(f"{size(1024 * f.kbytes // f.accesses)}/request")
            rates.append(f"{g(f.duration / f.accesses)} ms/request")
        if rates:
            lines.append(" - ".join(rates))
    lines.append(
        f"{f.counts.busy} requests currently being processed, {f.counts.graceful} workers "
        f"gracefully restarting, {f.counts.idle} idle workers"
    )
    return _list(*lines)


def _processes(f: Figures) -> str:
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
        numbers = (
            row.connections,
            busy,
            graceful,
            idle,
            row.wait_io,
            row.write_completion,
            row.keep_alive,
            row.lingering_close,
        )
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        accepting = "no" if row.not_accepting else "yes"
        rows.append((row.slot, row.pid, stopping, numbers[0], accepting, *numbers[1:]))
    stopping_now = f.counts.stopping
    rows.append(("Sum", f.counts.processes, stopping_now, sums[0], "&nbsp;", *sums[1:]))
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
    said = ", ".join(f"<b><code>{LETTERS[state]}</code></b> {WORDS[state]}" for state in KEY)
    return f'<p class="key">Scoreboard key: {said}</p>'


def _pids(f: Figures) -> str:
    """ExtendedStatus Off: whose the letters are, and nothing more."""
    threads, processes = f.board.threads_per_child, f.board.process_limit
    entries = []
    for row in f.snapshot.processes:
        for thread, state in enumerate(row.states):
            enabled = row.slot < processes and thread < threads
            if state != DEAD or not enabled:  # an empty slot that may be filled is left out
                entries.append(f"   {row.pid} in state: {LETTERS[state] if state else ' '} ")
    lines = [",".join(entries[i : i + PIDS_IN_LINE]) for i in range(0, len(entries), PIDS_IN_LINE)]
    return (
        "PID Key: <br />\n<pre>\n" + "\n".join(lines) + "\n</pre>\n"
        "<hr />The directive <code>ExtendedStatus On</code> adds requests, clients and traffic."
    )


def _shown(f: Figures) -> list[WorkerRow]:
    """Workers that have served something, or are at it."""
    return [w for w in f.board.workers() if w.access_count or w.state not in (READY, DEAD)]


def _cpu(f: Figures, pid: int) -> float:
    return sum(f.cpus.get(pid, ()))


def _since(f: Figures, worker: WorkerRow) -> int:
    return max(0, int(f.now - worker.last_used / 1e9)) if worker.last_used else 0


def _workers(f: Figures) -> str:
    """ExtendedStatus On: who is served, and what was."""
    head = "".join(f"<th>{name}</th>" for name, _ in COLUMNS)
    rows = []
    for w in _shown(f):
        letter = LETTERS[w.state]
        here = w.state not in (READY, DEAD)  # the connection's own counts: only while there is one
        cells = (
            f"<b>{w.process}-{w.generation}</b>",
            f"{w.pid}" if w.state != DEAD else "-",
            f"{w.conn_count if here else 0}/{w.my_access_count}/{w.access_count}",
            f"<b>{letter}</b>" if w.state in BUSY else letter,
            f"{_cpu(f, w.pid):.2f}",
            f"{_since(f, w)}",
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


def _paragraphs(f: Figures) -> str:
    """The same without a table."""
    from mpmkit.handlers.status import Cpu, g

    lines = ["<hr /><h2>Server Details</h2>"]
    for w in _shown(f):
        cpu = f.cpus.get(w.pid, Cpu())
        word = NAMES[w.state].removeprefix("BUSY_").replace("_", " ").capitalize()
        doing = f"<b>{word}</b>" if w.state in BUSY else word
        lines.append(
            f"<p><b>Server {w.process}-{w.generation}</b> "
            f"({w.pid if w.state != DEAD else '-'}): "
            f"{w.conn_count}|{w.my_access_count}|{w.access_count} [{doing}] "
            f"u{g(cpu.user)} s{g(cpu.system)} cu{g(cpu.children_user)} cs{g(cpu.children_system)}\n "
            f"{_since(f, w)} {w.last_duration // 1_000_000} {w.duration // 1_000_000} "
            f"({size(w.conn_bytes)}|{size(w.my_bytes_served)}|{size(w.bytes_served)})\n "
            f"<i>{escape(w.client)} {{{escape(w.request)}}}</i> <i>({escape(w.protocol)})</i> "
            f"<b>[{escape(w.vhost)}]</b></p>"
        )
    return "\n".join(lines)
