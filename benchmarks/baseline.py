"""The baseline: the least work of a Python server under a request model, which bounds mpmkit's.

    python -m benchmarks.bench --mpm prefork worker --floor

A process for each connection under prefork, a thread for each under worker, as many as
mpmkit may have, under the same scheduling policy; and each does only

    accept, then for each request: recv, stat, send, write; then close

stat and write stand for the check of the file and the line in the access log, which the other
servers make, too; `bare` leaves them out. The request is not parsed, and the answer is the same
bytes for all clients, made once at the start: it is no real server and is right for this one
page only. No Python server with one process or thread per connection is faster, so a target above
it is out of reach.
"""

from __future__ import annotations

import _socket
import json
import os
import socket
import sys
import threading
from email.utils import formatdate
from pathlib import Path
from typing import Any

from mpmkit.measure.reference_servers import ReferenceServer

MODELS = ("prefork", "worker")
PAGE = "index.html"
HEAD_SIZE = 8192
KEPT_AT_MOST = 100  # requests of a connection: MaxKeepAliveRequests
LINE = b'127.0.0.1 - - [01/Jan/2000:00:00:00 +0000] "GET /index.html HTTP/1.1" 200 45\n'


class Baseline(ReferenceServer):
    """A baseline of `mpm` as a reference server: its own processes, for the length of a `with` block.

    `workers` are MaxRequestWorkers, in processes of `threads` each under worker. `document_root` has
    an index.html, which is the only page.
    """

    name = "floor"

    def __init__(
        self, mpm: str, *, document_root: Any, bare: bool = False, **directives: Any
    ) -> None:
        if mpm not in MODELS:
            models = ", ".join(MODELS)
            raise ValueError(f"there is no baseline of {mpm!r}; there is one of {models}")
        super().__init__(document_root=document_root)
        threads = int(directives["ThreadsPerChild"]) if mpm == "worker" else 1
        processes = int(directives["MaxRequestWorkers"]) // threads
        self._how = {"processes": processes, "threads": threads, "bare": bare}

    def _command(self, file: Path) -> list[str]:
        files = {
            "page": self.document_root / PAGE,
            "log": self.root / "access.log",
            "pid": self.root / "pid",
        }
        how = json.dumps({**self._how, **files, "port": self.port}, default=str)
        return [sys.executable, "-m", "benchmarks.baseline", how]

    @property
    def version(self) -> str:
        return f"Python/{'.'.join(map(str, sys.version_info[:3]))}"


def answers(body: bytes) -> tuple[bytes, bytes, bytes]:
    """The page for a client that asked to stay, for one that stays unasked (HTTP/1.1), and for one
    that leaves: with the header lines that httpd sends, too."""
    moment, size = formatdate(usegmt=True).encode(), len(body)
    start = b"HTTP/1.1 200 OK\r\nDate: %b\r\nServer: floor/0.0.0\r\n" % moment
    start += b'Last-Modified: %b\r\nETag: "2d-654f0a1b2c3d4"\r\n' % moment
    start += b"Accept-Ranges: bytes\r\nContent-Length: %d\r\n" % size
    end = b"Content-Type: text/html\r\n\r\n" + body
    stay = b"Keep-Alive: timeout=5, max=100\r\nConnection: Keep-Alive\r\n"
    return start + stay + end, start + end, start + b"Connection: close\r\n" + end


def serve(listener: socket.socket, page: str, log: int | None) -> None:
    """What each process or thread does, forever. `log`: a descriptor, None for the bare one."""
    with open(page, "rb") as file:
        asked, staying, leaving = answers(file.read())
    accept, stat, write = listener._accept, os.stat, os.write  # type: ignore[attr-defined]
    while True:
        fd, _ = accept()
        conn = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        try:
            for left in range(KEPT_AT_MOST, -1, -1):
                data = conn.recv(HEAD_SIZE)
                if not data:
                    break
                answer = leaving
                if left and b"\r\nConnection: close" not in data:
                    if b"Keep-Alive" in data:
                        answer = asked
                    elif b"HTTP/1.1" in data:
                        answer = staying
                if log is not None:
                    stat(page)
                conn.send(answer)
                if log is not None:
                    write(log, LINE)
                if answer is leaving:
                    break
        except OSError:
            pass
        conn.close()


def main() -> None:
    """`python -m benchmarks.baseline JSON`: listen, fork, and wait to be ended with the process group."""
    how = json.loads(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", how["port"]), backlog=511)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # As ours and httpd's: a connection is accepted when its request is there, without a second wait.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    task = (listener, how["page"], None if how["bare"] else os.open(how["log"], flags, 0o644))
    cpus = sorted(os.sched_getaffinity(0))
    for number in range(how["processes"]):
        if os.fork():
            continue
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        if how["threads"] > 1:  # as ours: threads that take turns are quicker on one CPU
            os.sched_setaffinity(0, {cpus[number % len(cpus)]})
        for _ in range(how["threads"] - 1):
            threading.Thread(target=serve, args=task, daemon=True).start()
        serve(*task)
    Path(how["pid"]).write_text(f"{os.getpid()}\n")
    os.wait()


if __name__ == "__main__":
    main()
