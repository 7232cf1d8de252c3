"""Connections that are held open in one of several ways: what occupies a server without much load.

    with HeldConnections(server.url, "half-sent", count=8) as held:     # in this process, by a thread
        ...

`holder.py` does the same in a process of its own. The modes:

idle        one request, its answer read, then silence: a kept-alive connection
silent      connected, and nothing is ever sent
half-sent   a request without its last line. The server reads it and waits, and that wait has a worker
            in it under each MPM; it takes no script and no clock
drip        the same, and one more header line each `every` seconds: slowloris
slow        a download that is read at `rate` bytes a second

`held` counts the connections that have come this far and that the server has not ended; `holder.py` can
tell which half-sent ones the server has read.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mpmkit.load.preflight import describe
from mpmkit.load.response import ResponseReader
from mpmkit.load.target import target_of

MODES = ("idle", "silent", "half-sent", "drip", "slow")

PATIENCE = float(os.environ.get("MPMKIT_HOLDER_PATIENCE", "4"))
"""Seconds without one more held connection after which `hold` gives up. A pool grows once a second, so
that is long enough to tell a growing pool from a full one."""

HOLD_WITHIN = 60.0
"""Seconds of `hold` at most, for a server that takes only some connections a second."""

IN_FLIGHT = 64
"""Connections that wait for their first answer at once during `hold`: fewer than any backlog."""

READ_TICK = 0.1
"""Seconds between two reads of a slow reader."""

AWAY, ASKING, HELD = "away", "asking", "held"
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
NEVER = float("inf")


class Connection:
    """One client: its socket, its state, what is still to be sent, and when something is due."""

    __slots__ = ("due", "events", "number", "reader", "ready", "since", "sock", "state", "unsent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: Any = None
        self.state = AWAY
        self.ready = False  # connected, and with https, secured
        self.events = 0  # what the selector watches for
        self.unsent = b""
        self.reader: ResponseReader | None = None  # None: no answer is expected yet
        self.since = 0.0  # of the request
        self.due = NEVER


class HeldConnections:
    """Connections to one server, held by a thread; a context manager.

    url: as `target_of` has it. mode: see the module. count: how many; see also `resize`.
    path: what is requested; request: the whole request instead. rate, every: see the modes.
    expect_status: of a good answer; None: any. timeout: seconds that an answer may take; None: any time.
    again: seconds after which a connection that has ended is opened anew; None: not at all.
    ca_file: as in a LoadProfile.

    totals: opened, answered, bytes (slow), and by kind how many ended: closed (by the server), reset,
    refused, timeout, "status 503" and so on. losses: the sum of the latter.
    error: what made opening a connection impossible, with the remedy.

    Raises ValueError for a target that is not allowed or a mode that does not exist.
    """

    def __init__(
        self,
        url: str,
        mode: str = "idle",
        *,
        count: int = 0,
        path: str = "/index.html",
        request: str | None = None,
        rate: float = 1000.0,
        every: float = 1.0,
        expect_status: int | None = None,
        timeout: float | None = None,
        again: float | None = None,
        ca_file: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode: must be one of {', '.join(MODES)}, not {mode!r}")
        self._target = target_of(url)
        found = socket.getaddrinfo(self._target.host, self._target.port, 0, socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]
        self._tls: Any = None
        if self._target.scheme == "https":
            from mpmkit.load import tls

            self._tls = tls.context(ca_file, self._target.loopback)
        self.mode, self.rate, self.every = mode, rate, every
        self.timeout, self.again, self._expect_status = timeout, again, expect_status
        end = "Connection: close\r\n\r\n" if mode == "slow" else "\r\n"
        head = f"GET {path} HTTP/1.1\r\nHost: {self._target.place}\r\nUser-Agent: mpmkit-client\r\n"
        whole = (head + end if request is None else request).encode("latin-1")
        self._first = {"silent": b"", "half-sent": whole[:-2], "drip": whole[:-2]}.get(mode, whole)
        self._method = whole.partition(b" ")[0].decode("latin-1")
        self.totals: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self._statuses: list[int] = []
        self.losses = 0
        self.error = ""
        self._clients: dict[int, Connection] = {}
        self._numbers = 0
        self._timers: list[tuple[float, int, Connection]] = []
        self._wanted = count
        self._resized, self._finishing, self._closing = True, False, False
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake, self._wake_write = os.pipe()
        for fd in (self._wake, self._wake_write):
            os.set_blocking(fd, False)
        self._selector.register(self._wake, READ)
        self._thread = threading.Thread(target=self._run, name="mpmkit-connections", daemon=True)
        self._thread.start()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._wanted

    # What callers use, from any thread.

    def resize(self, count: int) -> None:
        """So many connections from now on. Those that leave are closed."""
        self._wanted, self._resized = count, True
        self._nudge()

    def held(self) -> int:
        """How many the server holds now."""
        return self.states[HELD]

    @property
    def open(self) -> int:
        """How many have a socket."""
        return self.states[ASKING] + self.states[HELD]

    def hold(self, wanted: int) -> dict[str, Any]:
        """Open connections until `wanted` are held, or nothing moves any more; a `report`.

        It comes back when all are held, no more was held for PATIENCE seconds, a connection could not
        be opened (`error`), or after HOLD_WITHIN seconds.
        """
        last, most = time.monotonic(), self.held()
        until, held = last + HOLD_WITHIN, most
        # A server that closes after each answer holds nothing, however many requests are sent.
        allowed = self.losses + wanted + IN_FLIGHT
        while (
            held < wanted
            and time.monotonic() < min(until, last + PATIENCE)
            and self.losses < allowed
            and not self.error
        ):
            self.resize(min(wanted, held + IN_FLIGHT))

            def moved(before: int = held) -> bool:
                return self.held() != before

            self.wait(moved, 0.05)
            held = self.held()
            if held > most:
                last, most = time.monotonic(), held
        return self.report()

    def finish(self, within: float = 10.0) -> list[int]:
        """Send what half-sent requests lack; the statuses of the answers that come."""
        self._finishing = True
        self._nudge()
        self.wait(lambda: not self._finishing and not self.states[ASKING], within)
        return self._statuses

    def report(self) -> dict[str, Any]:
        """open, held, waiting (open and not held), lost, error and totals, as plain values."""
        held, open_ = self.held(), self.open
        return {
            "open": open_,
            "held": held,
            "waiting": open_ - held,
            "lost": self.losses,
            "error": self.error,
            "totals": dict(self.totals),
        }

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until `done`, which is looked at after each change, or for some seconds."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def close(self) -> None:
        """End all connections. Twice does nothing."""
        if not self._closing:
            self._closing = True
            self._nudge()
            self._thread.join()
            self._selector.close()
            os.close(self._wake)
            os.close(self._wake_write)

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):  # full of nudges already, or closed
            os.write(self._wake_write, b".")

    # The thread.

    def _run(self) -> None:
        while not self._closing:
            now = time.monotonic()
            if self._resized:
                self._resized = False
                self._adjust(now)
            if self._finishing:
                for conn in list(self._clients.values()):
                    self._guarded(self._complete, conn, now)
                self._finishing = False
            while self._timers and self._timers[0][0] <= now:
                due, _, conn = heapq.heappop(self._timers)
                if conn.due == due:
                    conn.due = NEVER
                    self._guarded(self._on_due, conn, now)
            with self._changed:
                self._changed.notify_all()
            left = self._timers[0][0] - time.monotonic() if self._timers else None
            for key, _ in self._selector.select(left):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                elif key.data.sock is not None:
                    self._guarded(self._on_event, key.data, time.monotonic())
        for conn in self._clients.values():
            self._hang_up(conn)

    def _adjust(self, now: float) -> None:
        while len(self._clients) > self._wanted:
            _, conn = self._clients.popitem()
            self._hang_up(conn)
            self.states[AWAY] -= 1
        while len(self._clients) < self._wanted and not (self.error and self.again is None):
            self._numbers += 1
            conn = self._clients[self._numbers] = Connection(self._numbers)
            self.states[AWAY] += 1
            self._guarded(self._connect, conn, now)

    def _guarded(self, step: Callable[[Connection, float], None], conn: Connection, now: float):
        try:
            step(conn, now)
        except BlockingIOError:
            pass
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            if refused or not conn.ready:
                self.error = describe(error)
            kind = "refused" if refused else "reset" if conn.ready else "connect"
            self._lose(conn, kind, now)

    def _connect(self, conn: Connection, now: float) -> None:
        sock = socket.socket(self._family)
        conn.sock, conn.ready = sock, False
        sock.setblocking(False)
        if self.mode == "slow":  # before connecting: it decides the window that is offered
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if self._tls is not None:
            from mpmkit.load import tls

            conn.sock = tls.TlsSocket(sock, self._tls, self._target.host)
        self._ask(conn, now)
        self._watch(conn, READ | WRITE)

    def _ask(self, conn: Connection, now: float) -> None:
        """Begin a request; `_send` sends it when the socket takes it."""
        conn.unsent, conn.since = self._first, now
        conn.reader = self._reader() if self.mode in ("idle", "slow") else None
        self._enter(conn, ASKING)
        if self.timeout is not None:
            self._at(conn, now + self.timeout)

    def _reader(self) -> ResponseReader:
        return ResponseReader(self._method, self._expect_status)

    def _complete(self, conn: Connection, now: float) -> None:
        """The end of a half-sent request."""
        if conn.state == HELD:
            conn.unsent, conn.reader = b"\r\n", self._reader()
            self._enter(conn, ASKING)
            self._send(conn, now)

    def _on_due(self, conn: Connection, now: float) -> None:
        if conn.state == AWAY:
            self._connect(conn, now)
        elif self.mode == "slow" and conn.ready:
            self._read_some(conn, now)
        elif conn.state == ASKING:
            self._lose(conn, "timeout", now)
        elif self.mode == "drip":
            self._at(conn, now + self.every)
            conn.sock.send(b"X-Patience: 1\r\n")

    def _on_event(self, conn: Connection, now: float) -> None:
        if not conn.ready:
            code = conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if self._tls is not None:
                self._watch(conn, READ)
                conn.sock.handshake()
            conn.ready = True
            self.totals["opened"] += 1
            self._send(conn, now)
        elif conn.events & WRITE:
            self._send(conn, now)
        if conn.events & READ:
            self._receive(conn, now)

    def _send(self, conn: Connection, now: float) -> None:
        if conn.unsent:
            with contextlib.suppress(BlockingIOError):
                conn.unsent = conn.unsent[conn.sock.send(conn.unsent) :]
        if conn.unsent:
            self._watch(conn, READ | WRITE)
        elif self.mode == "slow":
            self._watch(conn, 0)
            self._at(conn, now)
        else:
            self._watch(conn, READ)
            if conn.reader is None:
                self._enter(conn, HELD)
                self._at(conn, now + self.every if self.mode == "drip" else NEVER)

    def _receive(self, conn: Connection, now: float) -> None:
        while conn.sock is not None:
            data = conn.sock.recv(65_536)
            if conn.state == ASKING and conn.reader is not None:
                verdict = conn.reader.feed(data) if data else conn.reader.eof()
                if verdict is not None:
                    self._answered(conn, verdict, now)
            elif not data:
                self._lose(conn, "closed", now)

    def _read_some(self, conn: Connection, now: float) -> None:
        """A slow reader's turn: what it may take in READ_TICK."""
        try:
            data = conn.sock.recv(max(1, int(self.rate * READ_TICK)))
        except BlockingIOError:
            if self.timeout is not None and now - conn.since > self.timeout:
                self._lose(conn, "timeout", now)
            else:
                self._at(conn, now + READ_TICK)
            return
        conn.since = now
        self._enter(conn, HELD)
        self.totals["bytes"] += len(data)
        assert conn.reader is not None
        verdict = conn.reader.feed(data) if data else conn.reader.eof()
        if verdict is None:
            self._at(conn, now + len(data) / self.rate)
        elif verdict[0] is not None:
            self._lose(conn, verdict[0], now)
        else:
            self.totals["answered"] += 1
            self._leave(conn, now if self.again is not None else None)

    def _answered(self, conn: Connection, verdict: tuple, now: float) -> None:
        """An answer is complete, or will never be."""
        kind, keep, _ = verdict
        if kind is not None:
            self._lose(conn, kind, now)
            return
        self.totals["answered"] += 1
        if self.mode == "half-sent" and conn.reader is not None:
            self._statuses.append(conn.reader.status)
        if keep:
            self._enter(conn, HELD)
            self._at(conn, NEVER)
        else:
            self._lose(conn, "closed", now)

    def _lose(self, conn: Connection, kind: str, now: float) -> None:
        self.totals[kind] += 1
        self.losses += 1
        self._leave(conn, now + self.again if self.again is not None else None)

    def _leave(self, conn: Connection, back: float | None) -> None:
        """Close it; come back at a time, or never."""
        self._hang_up(conn)
        if back is not None:
            self._at(conn, back)
        elif self._clients.pop(conn.number, None) is not None:
            self.states[AWAY] -= 1

    def _hang_up(self, conn: Connection) -> None:
        if conn.sock is not None:
            self._watch(conn, 0)
            conn.sock.close()
        conn.sock, conn.ready, conn.unsent = None, False, b""
        self._at(conn, NEVER)
        self._enter(conn, AWAY)

    def _enter(self, conn: Connection, state: str) -> None:
        self.states[conn.state] -= 1
        self.states[state] += 1
        conn.state = state

    def _at(self, conn: Connection, due: float) -> None:
        """The time at which `_on_due` is called for it, instead of the one before."""
        conn.due = due
        if due < NEVER:
            heapq.heappush(self._timers, (due, id(conn), conn))

    def _watch(self, conn: Connection, events: int) -> None:
        if events == conn.events:
            return
        if not conn.events:
            self._selector.register(conn.sock.fileno(), events, conn)
        elif not events:
            self._selector.unregister(conn.sock.fileno())
        else:
            self._selector.modify(conn.sock.fileno(), events, conn)
        conn.events = events
