"""Small scenes that several notebooks play: connections that are held, a crash, a listing of code.

Servers are reached as a client and an operator reach them: by HTTP, by signal, by the scoreboard.
"""

from __future__ import annotations

import ast
import os
import signal
import time
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.launcher import Server
from mpmkit.load.connections import HeldConnections
from mpmkit.measure.monitor import log_lines
from mpmkit.measure.procfs import alive as alive
from mpmkit.measure.procfs import ran_for, tasks
from mpmkit.measure.recording import Recording


def crash(server: Server, connections: int) -> dict[str, Any]:
    """Hold connections, end one child that has some of them by SEGV, and count what went with it.

    Returns plain values: the child's process id and how many connections it held (as far as the
    scoreboard tells), how many were lost, how many processes there were, the log's words, and
    seconds until a new client was served.
    """
    with HeldConnections(server.url, "idle", count=connections) as held:
        if not held.wait(lambda: held.held() == connections, 20):
            raise RuntimeError(f"the server holds {held.held()} of {connections} connections")
        # Event publishes its counters once a second.
        held.wait(lambda: sum(_held_by(server).values()) == connections, 10)
        load = _held_by(server)
        victim = max(load, key=lambda pid: load[pid])
        began = time.monotonic()
        os.kill(victim, signal.SIGSEGV)
        with HeldConnections(server.url, "idle", count=1) as client:
            client.wait(lambda: client.held() == 1, 20)
            served = time.monotonic() - began
        held.wait(lambda: held.losses >= load[victim], 10)
        time.sleep(0.2)  # more than were known, if there are any
        lost, log = held.losses, _wait_for_log(server, str(victim))
    return {
        "connections": connections,
        "processes": len(load),
        "victim_held": load[victim],
        "lost": lost,
        "log": log.replace(str(victim), "PID"),
        "served_again_s": served,
    }


def _held_by(server: Server) -> dict[int, int]:
    """How many connections each child keeps, as far as the scoreboard tells."""
    board = server.scoreboard()
    rows = [row for row in board.snapshot.processes if row.pid]
    return {row.pid: board.letters[row.slot].count("K") + row.keep_alive for row in rows}


def _wait_for_log(server: Server, word: str, seconds: float = 15.0) -> str:
    """The error log's message with the word in it; the parent reaps once a second."""
    until = time.monotonic() + seconds
    while True:
        found = [line for line in log_lines(server.error_log()) if word in line]
        if found or time.monotonic() > until:
            return found[0] if found else ""
        time.sleep(0.05)


def kb_a_connection(run: Recording, few: int, many: int) -> float:
    """What a connection without a thread costs, in kB: the slope between two numbers of them, so that
    what the first ones bring along is not counted. The last sample of each number counts."""
    memory = [
        [one.pss_mb for one in run.samples if one.without_thread == count][-1]
        for count in (few, many)
    ]
    return 1000 * (memory[1] - memory[0]) / (many - few)


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
