"""Clients of both servers, and what they see: who is answered, who is closed, and when.

Times are reported in words (`at once`, `after 1 s`), because two servers on a busy machine agree no
better than that.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from tests.fidelity.compare_http import split
from tests.fidelity.server_pair import Side

AT_ONCE = 0.7  # seconds: what a busy machine may take for what takes milliseconds
GET = b"GET /file.txt HTTP/1.1\r\nHost: lab.example\r\n\r\n"
HALF, REST = GET[:-4], GET[-4:]


def dial(server: Side) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def fate(sock: socket.socket, seconds: float) -> tuple[str, float, bytes]:
    """What the server does with this connection: (`open`, `FIN`, `reset` or `answer`, when, bytes)."""
    began = time.monotonic()
    sock.settimeout(seconds)
    try:
        data = sock.recv(65536)
    except TimeoutError:
        return "open", seconds, b""
    except OSError:
        return "reset", time.monotonic() - began, b""
    return ("answer" if data else "FIN"), time.monotonic() - began, data


def when(seconds: float) -> str:
    return "at once" if seconds < AT_ONCE else f"after {round(seconds)} s"


def parked(server: Side) -> socket.socket:
    """A client that has had an answer and stays."""
    sock = dial(server)
    sock.sendall(GET)
    data = b""
    while not split(data, ["GET"], False).replies:
        data += sock.recv(65536)
    return sock


def half_sent(server: Side) -> socket.socket:
    sock = dial(server)
    sock.sendall(HALF)
    return sock


def until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, IndexError):
            if condition():
                return True
        time.sleep(0.02)
    return False


def counts(children: Callable[[], int], seconds: float) -> list[int]:
    """The numbers of children that stayed for a third of a second, in their order."""
    end = time.monotonic() + seconds
    seen: list[int] = []
    last, since = -1, 0.0
    while (now := time.monotonic()) < end:
        current = children()
        if current != last:
            last, since = current, now
        elif now - since > 0.35 and (not seen or seen[-1] != current):
            seen.append(current)
        time.sleep(0.02)
    return seen


def ids(server: Side, *wanted: str) -> str:
    """Those message ids of the log, in their order."""
    found = [ah for ah in re.findall(r"AH\d{5}(?=:)", server.log()) if ah in wanted]
    return " ".join(found) or "none"


def newcomer(server: Side) -> str:
    """What a client gets that comes now: a status, `refused` or `lost`."""
    try:
        with urllib.request.urlopen(f"{server.url}/file.txt", timeout=9) as reply:
            return str(reply.status)
    except urllib.error.URLError as error:
        return "refused" if isinstance(error.reason, ConnectionRefusedError) else "lost"
    except OSError:
        return "lost"
