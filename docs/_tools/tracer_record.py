"""Record the three runs of `lab.tracer()`: `python -m docs._tools.tracer_record` (15 s).

The same ten clients connect to four workers of each MPM: four processes of prefork, two processes with
two threads of worker and event. data/recorded/tracer.json gets what TraceLog wrote.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.lab import replay, tracing
from mpmkit.launcher import Server
from mpmkit.policy.connection_trace import Connect, ConnectionTrace

THREADS: dict[str, Any] = {
    "StartServers": 2, "ThreadsPerChild": 2, "MaxRequestWorkers": 4, "ServerLimit": 2,
    "MinSpareThreads": 1, "MaxSpareThreads": 4,
}  # fmt: skip
POOLS: dict[str, dict[str, Any]] = {
    "prefork": {
        "StartServers": 4, "MaxRequestWorkers": 4, "ServerLimit": 4, "MinSpareServers": 1,
        "MaxSpareServers": 4,
    },
    "worker": THREADS,
    "event": THREADS,
}  # fmt: skip
SLOW = """import time
def application(environ, start_response):
    time.sleep(0.8)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"slow"]
"""
LARGE = 8_000_000  # bytes: more than the kernel's buffers take
# Client -> when it comes, in seconds, and what it does then: a number is a pause.
CLIENTS: tuple[tuple[float, tuple[float | str, ...]], ...] = (
    *((0.06 * i, ("/", 0.7, "/", 0.7, "/", 0.4)) for i in range(4)),  # browsers that stay
    (0.24, ("/slow.py", 0.1)),
    (0.30, ("large", 0.1)),
    (0.36, ("close",)),
    (0.42, ("/", "wait")),  # until the server ends it
    (0.80, ("close",)),
    (1.00, ("/", 0.5, "/", 0.2)),
)


def ten_clients(server: Server) -> list[Connect]:
    """Let CLIENTS come to a server, each in a thread; returns when all have gone. Raises OSError for
    one that gets no answer in 20 s."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        futures = [
            pool.submit(_client, server.port, number, began + start, does)
            for number, (start, does) in enumerate(CLIENTS, 1)
        ]
    return [future.result() for future in futures]


def _client(port: int, number: int, at: float, does: tuple[float | str, ...]) -> Connect:
    time.sleep(max(0.0, at - time.monotonic()))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # a client that reads slowly
        sock.settimeout(20)
        ns = time.monotonic_ns()
        sock.connect(("127.0.0.1", port))
        host, own = sock.getsockname()
        for what in does:
            if isinstance(what, float):
                time.sleep(what)
            elif what == "wait":
                while sock.recv(65536):
                    pass
                time.sleep(0.3)
            else:
                _ask(sock, what)
    return Connect(ns, f"{host}:{own}", number)


def _ask(sock: socket.socket, what: str) -> None:
    """One request; reads the whole response, a large one after a second."""
    path = {"large": "/large.bin", "close": "/"}.get(what, what)
    last = "Connection: close\r\n" if what == "close" else ""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
    got = sock.recv(65536)
    if what == "large":
        time.sleep(1.0)
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    left = int(fields[b"content-length"]) - len(body)
    while left > 0:
        got = sock.recv(65536)
        if not got:
            raise ConnectionError(f"{path} ended {left} bytes too early")
        left -= len(got)


def traced(
    mpm: str, load: Callable[[Server], list[Connect]] = ten_clients, **directives: Any
) -> tuple[ConnectionTrace, int]:
    """What a server of POOLS did under a load, and when the load began (ns)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "index.html").write_text("<p>It works!</p>\n" * 60)
        (root / "slow.py").write_text(SLOW)
        (root / "large.bin").write_bytes(bytes(LARGE))
        options = POOLS[mpm] | {"KeepAliveTimeout": 2, "EnableSendfile": True} | directives
        with mpmkit.launch(mpm, document_root=root, trace=True, **options) as server:
            while str(server.scoreboard()).count("_") < 4:
                time.sleep(0.01)
            began = time.monotonic_ns()
            connects = load(server)
            while set(str(server.scoreboard())) - set("_.\n") or server.scoreboard().counts.busy:
                time.sleep(0.01)
            time.sleep(0.3)  # what event's listener still has to do
        return ConnectionTrace.read(server.trace_log(), connects), began


def all_traced() -> list[Any]:
    """What each MPM did with the ten clients."""
    runs = []
    for mpm in MPMS:
        trace, began = traced(mpm)
        runs.append(tracing.recordable(trace, began))
        print(f"{mpm}: {len(trace.steps)} steps of {len(trace.clients)} connections")
    return runs


if __name__ == "__main__":
    replay.record("tracer", all_traced)
