"""Connections that occupy a server without much load: held open, or of clients that mostly think.

    with HeldConnections(server.url, "half-sent", count=8) as held:     # in this process, by a thread
        ...
    with KeepAliveClients(server.url, 40, think=60) as clients:         # one request each, then they hold
        clients.resize(80)

HoldingProcess has HeldConnections in a process of its own, so that thousands of sockets and their memory are
not the caller's. Each connection is an asyncio task on the thread's loop.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpmkit.load.preflight import describe, raise_descriptors, target_of
from mpmkit.load.response import ResponseReader

MODES = ("idle", "half-sent")

# Seconds without one more held connection after which `hold` gives up: a pool grows once a second.
PATIENCE = float(os.environ.get("MPMKIT_HOLDER_PATIENCE", "4"))
HOLD_WITHIN = 60.0  # seconds of `hold` at most, for a server that takes only some a second
IN_FLIGHT = 64  # connections that wait for their first answer during `hold`: fewer than any backlog
LOOK = 0.005  # seconds between two looks of `wait`

MOST = 2000  # KeepAliveClients: more is work for a load generator
PAGE = "/index.html"
AWAY, ASKING, HELD = "away", "asking", "held"
KINDS = {TimeoutError: "timeout", ConnectionRefusedError: "refused"}  # of losses


class Lost(Exception):
    """The connection ended; its kind is the text."""


def taken(table: str, port: int) -> int:
    """How many connections to a local port a process has accepted and read all bytes of; from the text of
    /proc/net/tcp, where a connection that no process has accepted has no inode."""
    count = 0
    for line in table.splitlines()[1:]:
        _, local, _, state, queues, *_, inode = line.split()[:10]
        established = local.endswith(f":{port:04X}") and state == "01"
        count += established and queues.endswith(":00000000") and inode != "0"
    return count


class Connection:
    """One client: its socket, its state, and since when it waits for an answer."""

    sock: Any = None
    state = AWAY
    since = 0.0
    patience = asyncio.Timeout(None)  # how long it stays silent


class HeldConnections(contextlib.AbstractContextManager):
    """Connections to one server, held by a thread; a context manager.

    url: as `target_of` has it, without TLS. mode: "idle", one request, its answer read, then silence; or
    "half-sent", a request without its last line, for which a worker waits under each MPM. count: how many; see
    also `resize`. path: what is requested; close: with "Connection: close"; request: the whole request instead.
    expect_status: of a good answer; None: any. timeout: seconds that an answer may take;
    None: any time. again: seconds after which a connection that has ended is reopened; None: never.

    totals: opened, answered, and by kind how many ended: closed (by the server), reset, refused, timeout,
    "status 503" and so on. losses: the sum of the latter.
    error: what made opening a connection impossible, with the remedy.

    Raises ValueError for a target that is not allowed or a mode that does not exist.
    """

    buffer = 0  # bytes that the kernel receives for a connection; 0: as many as it likes

    def __init__(
        self,
        url: str,
        mode: str = "idle",
        *,
        count: int = 0,
        path: str = PAGE,
        close: bool = False,
        request: str | None = None,
        expect_status: int | None = None,
        timeout: float | None = None,
        again: float | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode: must be one of {', '.join(MODES)}, not {mode!r}")
        self._target = target = target_of(url)
        if target.scheme != "http":
            held = f"target: connections are held without TLS, not to {url}; give an http URL"
            raise ValueError(held)
        found = socket.getaddrinfo(target.host, target.port, 0, socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]
        self.mode, self.timeout, self.again = mode, timeout, again
        self._expect_status = expect_status
        head = f"GET {path} HTTP/1.1\r\nHost: {target.place}\r\nUser-Agent: mpmkit-client\r\n"
        head += "Connection: close\r\n\r\n" if close else "\r\n"
        whole = (head if request is None else request).encode("latin-1")
        self._first = whole[:-2] if mode == "half-sent" else whole
        self._method = whole.partition(b" ")[0].decode("latin-1")
        self.totals: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.losses, self.error = 0, ""
        self._statuses: list[int] = []
        self._clients: dict[Connection, asyncio.Task[None]] = {}
        self._wanted = count
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # our own loop
        self._loop, self._stop = self._runner.get_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="mpmkit-connections", daemon=True)
        self._thread.start()
        self._call(self._adjust)

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._wanted

    def resize(self, count: int) -> None:
        """So many connections from now on. Those that leave are closed."""
        self._wanted = count
        self._call(self._adjust)

    def held(self) -> int:
        """How many are silent and have not been ended by the server; of half-sent ones those it has read."""
        if self.mode != "half-sent":
            return self.states[HELD]
        return min(self.open, taken(Path("/proc/net/tcp").read_text(), self._target.port))

    @property
    def open(self) -> int:
        """How many have a socket."""
        return self.states[ASKING] + self.states[HELD]

    def hold(self, wanted: int) -> dict[str, Any]:
        """Open connections until `wanted` are held, no more was held for PATIENCE seconds, a connection could not
        be opened (`error`), or HOLD_WITHIN seconds have passed; a `report`."""
        most = held = self.held()
        last = time.monotonic()
        until = last + HOLD_WITHIN
        # A server that closes after each answer holds nothing, however many requests are sent.
        allowed = self.losses + wanted + IN_FLIGHT
        while held < wanted and self.losses < allowed and not self.error:
            if time.monotonic() > min(until, last + PATIENCE):
                break
            self.resize(min(wanted, held + IN_FLIGHT))
            self.wait(lambda before=held: self.held() != before, 0.05)  # type: ignore[misc]
            held = self.held()
            if held > most:
                last, most = time.monotonic(), held
        return self.report()

    def finish(self, within: float = 10.0) -> list[int]:
        """Send what half-sent requests lack; the statuses of the answers that come."""
        asyncio.run_coroutine_threadsafe(self._complete(), self._loop).result(within)
        self.wait(lambda: not self.states[ASKING], within)
        return self._statuses

    def report(self) -> dict[str, Any]:
        """open, held, waiting (open and not held), lost, error and totals, as plain values."""
        held, open_ = self.held(), self.open
        return {
            "open": open_, "held": held, "waiting": open_ - held, "lost": self.losses,
            "error": self.error, "totals": dict(self.totals),
        }  # fmt: skip

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until `done`, which is looked at all the time, or for some seconds."""
        until = time.monotonic() + seconds
        while not (found := done()) and time.monotonic() < until:
            time.sleep(LOOK)
        return found

    def close(self) -> None:
        """End all connections. Twice does nothing."""
        self._call(self._stop.set)
        self._thread.join()

    def _call(self, step: Callable[[], None]) -> None:
        """Have the thread do it, which does what follows."""
        with contextlib.suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(step)

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._stop.wait())

    def _adjust(self) -> None:
        while len(self._clients) > self._wanted:
            self._clients.popitem()[1].cancel()
        while len(self._clients) < self._wanted and not (self.error and self.again is None):
            conn = Connection()
            self._clients[conn] = self._loop.create_task(self._live(conn))

    async def _complete(self) -> None:
        for conn in self._clients:
            if conn.state == HELD:
                self._enter(conn, ASKING)
                with contextlib.suppress(OSError):  # its reader will see
                    conn.sock.send(b"\r\n")

    async def _live(self, conn: Connection) -> None:
        """One connection after the other, for as long as there is `again`."""
        try:
            while True:
                conn.since = time.monotonic()
                pause, kind = self.again, "connect"
                try:
                    async with self._limit(conn):
                        await self._connect(conn)
                    kind = "reset"
                    pause, kind = await self._use(conn), ""
                except Lost as lost:
                    kind = str(lost)
                except OSError as error:
                    kind = KINDS.get(type(error), kind)
                    if kind in ("refused", "connect"):
                        self.error = describe(error)
                if kind:
                    self.losses += 1
                    self.totals[kind] += 1
                self._hang_up(conn)
                if self.again is None:
                    return
                await asyncio.sleep(pause or 0)
        finally:
            self._hang_up(conn)
            self._clients.pop(conn, None)

    async def _connect(self, conn: Connection) -> None:
        conn.sock = sock = socket.socket(self._family)
        self._enter(conn, ASKING)
        sock.setblocking(False)
        if self.buffer:  # before connecting: it decides the window that is offered
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)
        await self._loop.sock_connect(sock, self._address)
        self.totals["opened"] += 1

    async def _use(self, conn: Connection) -> float | None:
        """What the mode says, until the connection ends. Seconds before the client comes back."""
        kept = await self._ask(conn)
        while kept:  # until the connection's end, or the answer after `finish`
            self._enter(conn, HELD)
            data: bytes | None = None
            while data != b"" and conn.state == HELD:
                data = await self._received(conn, None)
            kept = conn.state == ASKING and await self._answer(conn, data)
        raise Lost("closed")

    async def _ask(self, conn: Connection) -> bool:
        """Send the request, and read the answer to a whole one; whether the connection is kept."""
        async with self._limit(conn):
            await self._loop.sock_sendall(conn.sock, self._first)
            return self.mode == "half-sent" or await self._answer(conn)

    async def _read(self, conn: Connection) -> bytes:
        return await self._loop.sock_recv(conn.sock, 65_536)

    async def _answer(self, conn: Connection, data: bytes | None = None) -> bool:
        """Read an answer, of which `data` has come; whether the connection is kept. Raises Lost."""
        reader, verdict = ResponseReader(self._method, self._expect_status), None
        while verdict is None:
            verdict = reader.feed(await self._read(conn) if data is None else data)
            data = None
        if self.mode == "half-sent":
            self._statuses.append(reader.status)
        kind, keep, _ = verdict
        if kind is not None:
            raise Lost(kind)
        self.totals["answered"] += 1
        return keep

    async def _received(self, conn: Connection, seconds: float | None) -> bytes | None:
        """What comes within so many seconds, b"" at the end of the connection; None: nothing."""
        try:
            async with asyncio.timeout(seconds) as conn.patience:
                return await self._read(conn)
        except TimeoutError:
            return None

    def _limit(self, conn: Connection) -> asyncio.Timeout:
        """The time that a connection and its first answer may take."""
        return asyncio.timeout_at(None if self.timeout is None else conn.since + self.timeout)

    def _hang_up(self, conn: Connection) -> None:
        if conn.sock is not None:
            conn.sock.close()
        conn.sock = None
        self._enter(conn, AWAY)

    def _enter(self, conn: Connection, state: str) -> None:
        self.states[conn.state] -= 1
        self.states[state] += 1
        conn.state = state


class KeepAliveClients(HeldConnections):
    """Clients of one server, as browsers are: each keeps a connection, sends a request, thinks, sends another.
    They occupy prefork's processes and worker's threads, and cost event nearly nothing.

    url: http://127.0.0.1:PORT; loopback only. count: how many clients, 0 to 2000. path: what they request.
    think: seconds from an answer to the next request, on average (each time 0.5 to 1.5 times); longer than
    KeepAliveTimeout, and the clients only hold connections.
    keep: the connection, while thinking; False: a new one for each request, as a probe of how long a new client
    waits. An answer may take 30 s. A client whose kept connection the server ends comes back after 0.1 s; one
    whose answer said `Connection: close` with its next request.

    Raises ValueError for a target that is not loopback, a count or think out of range.
    """

    def __init__(
        self, url: str, count: int = 0, *, think: float = 60.0, keep: bool = True, path: str = PAGE
    ) -> None:
        self.keep = keep
        self.think = _in_range("think", think, 0.05, 3600)
        self._answers: deque[float] = deque(maxlen=10_000)
        how: dict[str, Any] = {"path": path, "close": not keep, "timeout": 30.0, "again": 0.1}
        super().__init__(url, count=int(_in_range("count", count, 0, MOST)), **how)

    def think_for(self, seconds: float) -> None:
        """Another time between an answer and the next request, also for those who are thinking already."""
        if seconds != self.think:
            self.think = _in_range("think", seconds, 0.05, 3600)
            self._call(self._think_anew)

    @property
    def answered(self) -> int:
        """Answers until now."""
        return self.totals["answered"]

    def resize(self, count: int) -> None:
        """So many clients from now on. Those that leave close their connections."""
        super().resize(int(_in_range("count", count, 0, MOST)))

    def longest_wait(self) -> float:
        """The longest of `waits`; 0 without any."""
        return max(self.waits(), default=0.0)

    def waits(self) -> list[float]:
        """Seconds that each of those who have no answer yet has waited until now."""
        now, clients = time.monotonic(), list(self._clients)
        return [now - one.since for one in clients if one.state == ASKING]

    def take(self) -> list[float]:
        """Seconds of the answers since the last call: from connecting (or asking) to the last byte."""
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def _pause(self) -> float:
        return self.think * random.uniform(0.5, 1.5)  # or all would ask in the same moment forever

    def _think_anew(self) -> None:
        for conn in self._clients:
            when = conn.patience.when()
            if conn.state == HELD and when is not None and not conn.patience.expired():
                conn.patience.reschedule(min(when, self._loop.time() + self._pause()))

    async def _use(self, conn: Connection) -> float:
        while await self._ask(conn) and self.keep:
            self._enter(conn, HELD)
            if await self._received(conn, self._pause()) is not None:
                raise Lost("closed")
            conn.since = time.monotonic()
            self._enter(conn, ASKING)
        return self._pause()

    async def _ask(self, conn: Connection) -> bool:
        kept = await super()._ask(conn)
        self._answers.append(time.monotonic() - conn.since)
        return kept


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        more = "; for more clients use mpmkit.run_load" if name == "count" else ""
        raise ValueError(f"{name}: must be {low:g} to {high:g}, not {value!r}{more}")
    return float(value)


class HoldingProcess(subprocess.Popen):
    """HeldConnections, with its arguments, in a process of its own until the end of a `with` block.

        with HoldingProcess(server.url, "idle") as holding:
            holding.ask("hold", 5000)["held"]

    It takes lines on standard input, each the name of a method and its number, and answers each with a `report`
    as a line of JSON. It ends with its standard input, so also if the process that started it is killed.
    """

    stdin: Any
    stdout: Any

    def __init__(self, url: str, mode: str = "idle", **how: Any) -> None:
        given, pipe = json.dumps({"url": url, "mode": mode} | how), subprocess.PIPE
        command = [sys.executable, "-m", "mpmkit.load.connections", given]
        super().__init__(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def __exit__(self, *reason: Any) -> None:
        self.kill()  # the system closes its connections
        with contextlib.suppress(OSError):  # of what it has not read
            super().__exit__(*reason)

    def ask(self, method: str, *number: int) -> dict[str, Any]:
        """Call hold, resize, finish or report of the HeldConnections; its report then. `held` of what `finish`
        reports counts the answers. Raises RuntimeError if the process has ended."""
        line = ""
        with contextlib.suppress(OSError):
            print(method, *number, file=self.stdin, flush=True)
            line = self.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that holds the connections ended with {self.wait()}")
        return json.loads(line)


def main(argv: list[str]) -> int:
    """Hold what standard input says, until it ends."""
    raise_descriptors(math.inf)
    with HeldConnections(**json.loads(argv[0])) as connections:
        for line in sys.stdin:
            word, *numbers = line.split()
            got = getattr(connections, word)(*map(int, numbers))
            answers = {"held": len(got)} if word == "finish" else {}
            try:
                print(json.dumps(connections.report() | answers), flush=True)
            except BrokenPipeError:  # no caller is left to read the answer
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
