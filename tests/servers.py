"""What the tests of running servers share: launching one, talking to it byte by byte, waiting.

A test never sleeps to let something happen. It waits for the thing itself, by `poll_until` or by a
read with a deadline, and fails with what it saw when that takes too long.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import mpmkit
from mpmkit.launcher import Server

DATA = Path(__file__).parent / "data"

# Long enough for a machine with better things to do, short enough to tell where it hangs.
PATIENCE = 10.0

# Two processes, a few threads: enough to be wrong in, and quick to start.
SMALL: dict[str, dict[str, Any]] = {
    "prefork": {"StartServers": 2, "MinSpareServers": 2, "MaxSpareServers": 5,
                "MaxRequestWorkers": 8, "ServerLimit": 8},
    "worker": {"StartServers": 2, "MinSpareThreads": 4, "MaxSpareThreads": 12,
               "ThreadsPerChild": 4, "ThreadLimit": 8, "MaxRequestWorkers": 12, "ServerLimit": 4},
    "event": {"StartServers": 2, "MinSpareThreads": 4, "MaxSpareThreads": 12,
              "ThreadsPerChild": 4, "ThreadLimit": 8, "MaxRequestWorkers": 12, "ServerLimit": 4},
}  # fmt: skip


def poll_until(
    condition: Callable[[], Any], cap: float = PATIENCE, *, what: str | Callable[[], str] = ""
) -> Any:
    """The condition's first true value. Fails, saying `what`, when there is none within `cap` s."""
    until = time.monotonic() + cap
    pause = 0.001
    while not (value := condition()):
        if time.monotonic() > until:
            said = what() if callable(what) else what or getattr(condition, "__name__", "condition")
            raise AssertionError(f"not within {cap} s: {said}")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return value


# -- a server -------------------------------------------------------------------------------------


def bound() -> socket.socket:
    """A socket bound to a free port. The test keeps it, so nobody else can take the port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextmanager
def serving(mpm: str, **options: Any) -> Iterator[Server]:
    """A server with a small pool on a socket of the test's; checked, stopped, and checked again.

    Afterwards: every worker was idle before the stop, no child is left, and the error log has no
    error that the test did not take out of it (`take_errors`).
    """
    settings = {**SMALL[mpm], **options}
    with bound() as sock:
        server = mpmkit.launch(mpm, listen_fd=sock.fileno(), **settings)
        try:
            yield server
            if server.running:
                assert_quiet(server)
                poll_until(lambda: not connections(server), what="no connection is held")
        finally:
            children = server.processes() if server.running else []
            server.stop()
    poll_until(lambda: not any(alive(pid) for pid in children), what=f"children {children} end")
    assert not (errors := take_errors(server)), "in the error log:\n" + "\n".join(errors)


def quiet(server: Server) -> bool:
    """Nobody is served: every slot is `_` or `.`."""
    letters = set("".join(server.scoreboard().letters.values()))
    return letters <= set("_.") and "_" in letters


def assert_quiet(server: Server, cap: float = PATIENCE) -> None:
    poll_until(
        lambda: quiet(server),
        cap,
        what=lambda: f"the scoreboard is clean; it shows\n{server.scoreboard()}",
    )


def connections(server: Server) -> int:
    """Event: how many connections its processes hold, as of at most a second ago."""
    return sum(row.connections for row in server.scoreboard().snapshot.processes if row.pid)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie doesn't)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files(server: Server) -> dict[int, int]:
    """How many descriptors each of its children has."""
    found = {}
    for pid in server.processes():
        try:
            found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # it has ended meanwhile
            continue
    return found


def no_more(before: dict[int, int], after: dict[int, int]) -> bool:
    """No child has more descriptors than before; new children don't count."""
    return all(after[pid] <= count for pid, count in before.items() if pid in after)


LOG_LINE = re.compile(r"\[[^\]]+\] \[(\w+):(\w+)\] \[pid \d+:tid \d+\] .*")
WORSE_THAN_WARN = {"error", "crit", "alert", "emerg"}
# Errors of clients: what was asked for is not to be had.
CLIENTS = re.compile(r"\[client [^]]+\] (AH00135|AH10244|AH01630|AH00132|AH0003[567]|AH01276): ")

# Every worker was busy in the second in which the parent looked: a report, and not of an error of
# the server's. Whether a test with as many clients as workers sees it depends on when that was.
FULL = re.compile(r"\] AH00(161|484): ")

# Lines of a server's error log that a test has seen.
_taken: WeakKeyDictionary[Server, int] = WeakKeyDictionary()


def take_errors(server: Server) -> list[str]:
    """The error log's errors since the last call: lines worse than a warning, and lines that are
    no log lines at all (a traceback, a message of the interpreter)."""
    lines = server.error_log().splitlines()
    new = lines[_taken.get(server, 0) :]
    _taken[server] = len(lines)
    return [
        line
        for line in new
        if not line.startswith("mpmkit: AH")
        and not CLIENTS.search(line)
        and not FULL.search(line)
        and ((found := LOG_LINE.fullmatch(line)) is None or found[2] in WORSE_THAN_WARN)
    ]


# -- a client -------------------------------------------------------------------------------------


class Reply:
    """One response as it came: status line, header lines in their order, body."""

    def __init__(self, head: bytes, body: bytes, length: int) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status_line = first
        self.version, self.code, self.reason = re.fullmatch(
            r"HTTP/(\d\.\d) (\d{3}) (.*)", first
        ).groups()
        self.status = int(self.code)
        pairs = [line.partition(":") for line in lines]
        assert all(colon and name.strip() == name for name, colon, _ in pairs), lines
        self.headers = [(name, value.strip()) for name, _, value in pairs]
        self.names = [name for name, _ in self.headers]
        self.body = body
        self.size = length  # bytes of head and body on the wire

    def __getitem__(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} appears {len(values)} times"
        return values[0] if values else None

    def __repr__(self) -> str:
        return f"<{self.status_line}, {len(self.body)} bytes>"


class Incomplete(Exception):
    """The bytes end within a response."""


def read_reply(data: bytes, method: str = "GET", *, closed: bool = True) -> Reply:
    """The response at the beginning of `data`. Strict: framing must be right to the byte.

    Raises Incomplete when more bytes are needed; `closed`: there will be none.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        raise Incomplete(data)
    assert b"\n" not in head.replace(b"\r\n", b""), f"a bare line feed in {head!r}"
    reply = Reply(head, b"", 0)
    start = len(head) + 4
    if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
        body, used = b"", 0
    elif reply["Transfer-Encoding"] is not None:
        assert reply["Transfer-Encoding"] == "chunked" and reply["Content-Length"] is None
        body, used = read_chunks(rest)
    elif (length := reply["Content-Length"]) is not None:
        used = int(length)
        if len(rest) < used:
            raise Incomplete(data)
        body = rest[:used]
    else:
        if not closed:
            raise Incomplete(data)
        body, used = rest, len(rest)
    return Reply(head, body, start + used)


def read_chunks(data: bytes) -> tuple[bytes, int]:
    """(the body, bytes it took in chunks)."""
    body, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Incomplete(data)
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        if len(data) < at:
            raise Incomplete(data)
        assert data[at - 2 : at] == b"\r\n", "a chunk does not end where it says"
        if not size:
            return body, at
        body += data[end + 2 : at - 2]


def read_replies(data: bytes, *methods: str) -> list[Reply]:
    """As many responses as there are methods, and not a byte more."""
    replies = []
    for method in methods:
        replies.append(read_reply(data, method))
        data = data[replies[-1].size :]
    assert not data, f"bytes after the last response: {data[:200]!r}"
    return replies


class Client:
    """A raw connection. `with Client(server) as client: …` closes it; nothing is sent by itself."""

    def __init__(self, server: Server, *, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:  # before connect, or the window is wide already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(("127.0.0.1", server.port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, data: bytes, method: str = "") -> Reply:
        """Send a request and read its response."""
        self.send(data)
        return self.reply(method or data.split(b" ", 1)[0].decode("latin-1"))

    def get(
        self,
        path: str = "/file.txt",
        *lines: str,
        method: str = "GET",
        body: bytes = b"",
        version: str = "HTTP/1.1",
    ) -> Reply:
        """A well-formed request; kept alive unless the lines say otherwise."""
        if body and not any(line.lower().startswith("transfer-encoding") for line in lines):
            lines += (f"Content-Length: {len(body)}",)
        head = "\r\n".join([f"{method} {path} {version}", "Host: lab.example", *lines, "", ""])
        return self.ask(head.encode("latin-1") + body, method)

    def reply(self, method: str = "GET") -> Reply:
        """The next response. Fails when it does not come, or the server closes within it."""
        closed = False
        while True:
            try:
                reply = read_reply(self.buffer, method, closed=closed)
            except Incomplete:
                assert not closed, f"the server closed within a response: {self.buffer[:200]!r}"
                data = self.receive()
                closed = not data
                self.buffer += data
            else:
                self.buffer = self.buffer[reply.size :]
                return reply

    def receive(self, cap: float = PATIENCE) -> bytes:
        """What comes next; b"" when the server has closed. Fails after `cap` seconds."""
        self.sock.settimeout(cap)
        try:
            return self.sock.recv(65536)
        except ConnectionResetError:
            return b""
        except TimeoutError:
            raise AssertionError(f"nothing came for {cap} s after {self.buffer[:200]!r}") from None

    def until_closed(self, cap: float = PATIENCE) -> bytes:
        """Everything up to the server's close, which must come within `cap` seconds in all."""
        until = time.monotonic() + cap
        while data := self.receive(max(0.01, until - time.monotonic())):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def half_close(self) -> None:
        """No more from us; the server may still answer."""
        self.sock.shutdown(socket.SHUT_WR)

    def is_open(self) -> bool:
        """The server has neither closed nor sent anything."""
        self.sock.setblocking(False)
        try:
            return bool(self.buffer) or self.sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.sock.setblocking(True)


def exchange(server: Server, data: bytes, cap: float = PATIENCE) -> bytes:
    """Send bytes on a connection of their own; everything that comes until the server closes."""
    with Client(server) as client:
        client.send(data)
        return client.until_closed(cap)


def get(
    server: Server,
    path: str = "/file.txt",
    *lines: str,
    method: str = "GET",
    body: bytes = b"",
    version: str = "HTTP/1.1",
) -> Reply:
    """One request on a connection of its own."""
    with Client(server) as client:
        return client.get(
            path, *lines, "Connection: close", method=method, body=body, version=version
        )


# -- a document root ------------------------------------------------------------------------------

RECORDED = 1704164645  # Tue, 02 Jan 2024 03:04:05 GMT: what the recorded httpd's files said


def write(path: Path, data: bytes | str, mtime: float = RECORDED) -> Path:
    """A file with a time of last change; its directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, (mtime, mtime))
    return path


def open_to_all(folder: Path) -> None:
    """Other users (www-data, php-fpm's) may come to this folder of pytest's and read what is in it."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(place.stat().st_mode | 0o555)
    top = Path(tempfile.gettempdir())
    for place in folder.parents:
        if place.is_relative_to(top) and place != top and place.stat().st_uid == os.geteuid():
            place.chmod(place.stat().st_mode | 0o055)


def recorded_root(where: Path) -> Path:
    """The document root that the recordings in data/raw were made from."""
    write(where / "index.html", "<html><body><h1>It works!</h1></body></html>\n")
    write(where / "file.txt", "0123456789abcdefghijklmnopqrstuvwxyz\n")
    write(where / "empty.txt", "")
    write(where / "sub" / "index.html", "sub index\n")
    (where / "noindex").mkdir()
    return where
