"""Small scenes that several notebooks play: connections that are held, a crash, a listing of code.

Servers are reached as a client and an operator reach them: by HTTP, by signal, by the scoreboard.
"""

from __future__ import annotations

import ast
import http.client
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.launcher import Server
from mpmkit.measure.procfs import alive as alive
from mpmkit.measure.procfs import ran_for, tasks


def hold(server: Server, count: int, path: str = "/index.html") -> list[http.client.HTTPConnection]:
    """`count` kept-alive connections, each with one request answered. Close them when done."""
    held = []
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", path)
        connection.getresponse().read()
        held.append(connection)
    return held


def closed(connections: list[http.client.HTTPConnection]) -> int:
    """How many of them the server has closed (or lost) meanwhile."""
    socks = [connection.sock for connection in connections]
    return sum(sock is None or bool(select.select([sock], [], [], 0)[0]) for sock in socks)


def crash(server: Server, connections: int) -> dict[str, Any]:
    """Hold connections, end one child that has some of them by SEGV, and count what went with it.

    Returns plain values: the child's process id and how many connections it held (as far as the
    scoreboard tells), how many were lost, how many processes there were, the log's words, and
    seconds until a new client was served.
    """
    held = hold(server, connections)
    time.sleep(1.2)  # event publishes its counters once a second
    try:
        board = server.scoreboard()
        letters = board.letters
        load = {
            row.pid: letters[row.slot].count("K") + row.keep_alive
            for row in board.snapshot.processes
            if row.pid
        }
        victim = max(load, key=lambda pid: load[pid])
        began = time.monotonic()
        os.kill(victim, signal.SIGSEGV)
        until = began + 5
        while not closed(held) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # the others of that process, if there are more
        lost = closed(held)
        for connection in hold(server, 1):
            connection.close()
        served = time.monotonic() - began
        log = _wait_for_log(server, str(victim))
    finally:
        for connection in held:
            connection.close()
    return {
        "connections": connections,
        "processes": len(load),
        "victim_held": load[victim],
        "lost": lost,
        "log": log.replace(str(victim), "PID"),
        "served_again_s": served,
    }


def _wait_for_log(server: Server, word: str, seconds: float = 4.0) -> str:
    """The error log's message with the word in it; the parent reaps once a second."""
    from mpmkit.lab.watcher import log_lines

    until = time.monotonic() + seconds
    while True:
        found = [line for line in log_lines(server.error_log()) if word in line]
        if found or time.monotonic() > until:
            return found[0] if found else ""
        time.sleep(0.05)


def threads_of(pid: int) -> dict[int, float]:
    """Thread id -> CPU seconds used so far, of a process (/proc/PID/task)."""
    return {int(task.rpartition("/")[2]): ran_for(task) / 1e9 for task in tasks(pid)}


def source(file: str, name: str) -> str:
    """The text of a function as it runs: source("mpm/worker.py", "listener_thread").

    `file` is a file of the package, or one of these helpers. It is read, not imported. Raises
    KeyError if the file has no such function.
    """
    places = (Path(mpmkit.__file__).parent / file, Path(__file__).parent / file)
    text = next(p for p in places if p.exists()).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            return "\n".join(line[node.col_offset :] for line in lines)
    raise KeyError(f"{file} has no function {name}")
