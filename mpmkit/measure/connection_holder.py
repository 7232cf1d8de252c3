"""A client that holds connections open: answered and idle, or with half of a request sent.

    python -m mpmkit.measure.connection_holder HOST PORT PATH busy|idle

It is a process of its own, so that thousands of sockets and their memory are nobody else's. It
takes lines on standard input and answers each with a line of JSON on standard output:

    hold N      have N connections open; tells {"open", "held", "waiting", "lost", "error"}
    finish      send the missing halves; tells the same, held: how many got their answer
    tell        tells the same, now
    (the end)   close everything and end: also if who started it is killed

`idle`: each connection sends one whole request, reads the whole answer and stays open. `held` counts
those whose answer came and which the server has not closed since.

`busy`: each sends half of a request's head. The server reads it and waits for the rest, and that wait
has a worker in it under each MPM; it takes no script and no clock, and it is the same for the real
httpd. That the server took it is seen in /proc/net/tcp: a connection that nobody has accepted has no
inode there, and what nobody has read stands in its receive queue. `held` counts those accepted and
read.

The others are `waiting`: the server has no slot for them.

`hold` comes back when all are held, or none was added for PATIENCE seconds (a pool grows once a second,
so that is long enough to tell growing from full), or after HOLD_WITHIN seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = float(os.environ.get("MPMKIT_HOLDER_PATIENCE", "4"))
HOLD_WITHIN = (
    60.0  # seconds: a server that takes some connections a second is not waited for longer
)
IN_FLIGHT = 64  # connections that may wait for their first answer at once: less than any backlog

FRESH, HELD = range(2)  # not answered yet; answered


class Connection:
    """One client: its socket, what it has read of an answer, where it is."""

    __slots__ = ("read", "sock", "state", "unsent")

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self.sock = sock
        self.unsent = request
        self.read = b""
        self.state = FRESH


class Holder:
    """All connections of one run. `mode` is "busy" or "idle"."""

    def __init__(self, host: str, port: int, path: str, mode: str) -> None:
        self.address = (host, port)
        self.whole = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: mpmkit-holder\r\n"
            "Connection: keep-alive\r\n\r\n"
        ).encode()
        self.half = self.whole[:-2] if mode == "busy" else b""
        self.first = self.half or self.whole
        self.selector = selectors.DefaultSelector()
        self.connections: set[Connection] = set()
        self.lost = 0
        self.error = ""

    def count(self, state: int) -> int:
        return sum(one.state == state for one in self.connections)

    def held(self) -> int:
        """How many the server holds."""
        if self.half:
            return min(
                len(self.connections), taken(Path("/proc/net/tcp").read_text(), self.address[1])
            )
        return self.count(HELD)

    def report(self, held: int) -> dict[str, Any]:
        return {
            "open": len(self.connections),
            "held": held,
            "waiting": len(self.connections) - held,
            "lost": self.lost,
            "error": self.error,
        }

    # ------------------------------------------------------------ commands

    def hold(self, wanted: int) -> dict[str, Any]:
        """Open connections until `wanted` are held, or nothing moves any more."""
        last, held = time.monotonic(), self.held()
        most, until = held, last + HOLD_WITHIN
        # A server that closes after each answer holds nothing, however often it is asked.
        allowed = self.lost + wanted + IN_FLIGHT
        while (
            held < wanted
            and time.monotonic() < min(until, last + PATIENCE)
            and self.lost < allowed
            and not self.error
        ):
            while len(self.connections) < min(wanted, held + IN_FLIGHT) and not self.error:
                self._open()
            self._turn(0.05)
            held = self.held()
            if held > most:
                last, most = time.monotonic(), held
        self._turn(0)
        return self.report(self.held())

    def finish(self) -> dict[str, Any]:
        """Complete every half-sent request and wait for the answers."""
        for one in list(self.connections):
            one.unsent += self.whole[len(self.half) :]
            self._send(one)
        last, done = time.monotonic(), 0
        while done < len(self.connections) and time.monotonic() - last < PATIENCE:
            self._turn(0.2)
            if self.count(HELD) > done:
                last, done = time.monotonic(), self.count(HELD)
        return self.report(done)

    def drain(self, seconds: float) -> None:
        """Notice what the server closes meanwhile."""
        self._turn(seconds)

    # ------------------------------------------------------------ sockets

    def _open(self) -> None:
        try:
            sock = socket.socket()
            sock.setblocking(False)
            code = sock.connect_ex(self.address)
        except OSError as error:
            self.error = describe(error)
            return
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self.error = describe(OSError(code, os.strerror(code)))
            return
        one = Connection(sock, self.first)
        self.connections.add(one)
        self.selector.register(sock, selectors.EVENT_WRITE | selectors.EVENT_READ, one)

    def _turn(self, seconds: float) -> None:
        for key, mask in self.selector.select(seconds):
            one: Connection = key.data
            try:
                if mask & selectors.EVENT_WRITE:
                    self._send(one)
                if mask & selectors.EVENT_READ:
                    self._receive(one)
            except OSError as error:
                if isinstance(error, ConnectionRefusedError):
                    self.error = describe(error)
                self._lose(one)

    def _send(self, one: Connection) -> None:
        try:
            sent = one.sock.send(one.unsent) if one.unsent else 0
        except BlockingIOError:
            sent = 0
        one.unsent = one.unsent[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.unsent else 0)
        self.selector.modify(one.sock, events, one)

    def _receive(self, one: Connection) -> None:
        try:
            data = one.sock.recv(65536)
        except BlockingIOError:
            return
        if not data:
            self._lose(one)
            return
        one.read += data
        if complete(one.read):
            one.read = b""
            one.state = HELD

    def _lose(self, one: Connection) -> None:
        self.lost += 1
        self.connections.discard(one)
        self.selector.unregister(one.sock)
        one.sock.close()


def taken(table: str, port: int) -> int:
    """How many connections to a local port somebody has accepted and read all bytes of; from the
    text of /proc/net/tcp."""
    end, count = f":{port:04X}", 0
    for line in table.splitlines()[1:]:
        words = line.split()
        # local address, remote address, state (01: established), queues, ..., inode
        if words[1].endswith(end) and words[3] == "01":
            count += words[4].endswith(":00000000") and words[9] != "0"
    return count


def complete(data: bytes) -> bool:
    """Whether an answer with a Content-Length, or in chunks, is all there."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    found = re.search(rb"(?im)^content-length:\s*(\d+)\s*$", head.replace(b"\r", b""))
    if found:
        return len(body) >= int(found[1])
    return body.endswith(b"0\r\n\r\n") if b"chunked" in head.lower() else False


def describe(error: OSError) -> str:
    """What a failed connection means, and the mend."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptors are left; raise the limit (ulimit -n) or ask for fewer"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "no local ports are left (net.ipv4.ip_local_port_range); wait a minute for those in "
            "TIME_WAIT, or ask for fewer"
        )
    return f"a connection failed: {error.strerror}"


def too_few_descriptors(need: int) -> str:
    """Why this process can't have `need` file descriptors, and the mend; "" if it can."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= need:
        return ""
    return (
        f"{need:,} file descriptors are needed and the hard limit is {hard:,} (ulimit -Hn); "
        "ask for fewer connections, or raise it"
    )


@contextlib.contextmanager
def descriptors(need: int) -> Iterator[None]:
    """Let what is started inside have `need` descriptors, as far as the hard limit goes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = need if hard == resource.RLIM_INFINITY else min(need, hard)
    if soft == resource.RLIM_INFINITY or soft >= more:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main(argv: list[str]) -> int:
    host, port, path, mode = argv
    holder = Holder(host, int(port), path, mode)
    buffer = b""
    while True:
        # Between commands the server may close connections; they are noticed at once.
        watched = select.select([0, holder.selector.fileno()], [], [])[0]
        if holder.selector.fileno() in watched:
            holder.drain(0)
        if 0 not in watched:
            continue
        data = os.read(0, 4096)
        if not data:
            return 0
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            word, _, number = line.decode().partition(" ")
            if word == "hold":
                said = holder.hold(int(number))
            elif word == "finish":
                said = holder.finish()
            else:
                said = holder.report(holder.held())
            try:
                print(json.dumps(said), flush=True)
            except BrokenPipeError:  # nobody waits for the answer any more
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 0


class Holding:
    """The other side: a holder as a process, for the length of a `with` block."""

    def __init__(self, url: str, path: str, mode: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._command = [
            sys.executable,
            "-m",
            "mpmkit.measure.connection_holder",
            host,
            port,
            path,
            mode,
        ]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Holding:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it may have ended before it read everything
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def ask(self, command: str) -> dict[str, Any]:
        """One command, its answer. Raises RuntimeError if the holder has ended."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(command + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise RuntimeError(
                f"the process that holds the connections ended with {process.wait()}"
            )
        return json.loads(line)

    def hold(self, number: int) -> dict[str, Any]:
        """Have `number` connections held."""
        return self.ask(f"hold {number}")

    def held(self) -> int:
        """How many are held now."""
        return int(self.ask("tell")["held"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
