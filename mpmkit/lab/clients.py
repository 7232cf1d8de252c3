"""A crowd of clients as browsers are: each keeps a connection, asks, thinks, and asks again.

    with Crowd(server.url, 40, think=60) as crowd:     # 40 that ask once and then hold
        ...
        crowd.resize(80)

This is no load generator (`mpmkit.run_load` is). A crowd is many connections and few requests:
what occupies prefork's processes and worker's threads, and costs event nearly nothing. A crowd of
one that keeps nothing is a probe: how long does a new client wait?

One thread serves them all with a selector; h11 says when an answer is complete. A client whose kept
connection the server ends (KeepAliveTimeout, a crash) comes back after `BACK` seconds; one that was
told `Connection: close` comes back with its next question.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import threading
import time
from collections import Counter, deque
from typing import Any

from mpmkit.load.target import loopback_target

BACK = 0.1  # seconds before a client whose connection was ended, or refused, comes back
PATIENCE = 30.0  # seconds a client waits for an answer
MOST = 2000  # clients of one crowd: more is work for a load generator


class Client:
    """One of the crowd: its socket, what it waits for, and since when."""

    __slots__ = ("asked", "due", "http", "sock", "state")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.http: Any = None
        self.state = "away"  # away, asking, thinking
        self.asked = self.due = 0.0


class Crowd:
    """Clients of one server; a context manager.

    url     http://127.0.0.1:PORT; loopback only
    count   how many clients, 0 to 2000
    think   seconds from an answer to the next question, on average (each time 0.5 to 1.5 times);
            longer than KeepAliveTimeout, and the crowd only holds connections
    keep    keep the connection while thinking; False: a new connection for each question
    path    what they ask for

    Raises ValueError for a target that isn't loopback, a count or think out of range.
    """

    def __init__(
        self,
        url: str,
        count: int = 0,
        *,
        think: float = 60.0,
        keep: bool = True,
        path: str = "/index.html",
    ) -> None:
        self._address = loopback_target(url)
        self.path = path
        self.keep = keep
        self._wanted = 0
        self._clients: list[Client] = []
        self._answers: deque[tuple[float, float]] = deque(maxlen=10_000)  # (when, seconds)
        self.answered = 0
        self.lost: Counter[str] = Counter()  # questions without an answer: reset, refused, timeout
        self._closed = False
        self._wake, self._wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_write, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self.think = think
        self.resize(count)
        self._thread = threading.Thread(target=self._run, name="mpmkit-crowd", daemon=True)
        self._thread.start()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._wanted

    @property
    def think(self) -> float:
        """Seconds between an answer and the next question."""
        return self._think

    @think.setter
    def think(self, seconds: float) -> None:
        if not 0.05 <= seconds <= 3600:
            raise ValueError(f"think: must be 0.05 to 3600 seconds, not {seconds!r}")
        self._think = float(seconds)
        self._nudge()

    def resize(self, count: int) -> None:
        """So many clients from now on. Those that leave close their connections."""
        if not 0 <= count <= MOST:
            raise ValueError(
                f"count: must be 0 to {MOST} clients, not {count!r}; for more use a "
                "load generator: mpmkit.run_load"
            )
        self._wanted = int(count)
        self._nudge()

    def counts(self) -> dict[str, int]:
        """How many are asking (sent, no answer yet), thinking (answered), away (to come back)."""
        states = Counter(client.state for client in list(self._clients))
        return {state: states[state] for state in ("asking", "thinking", "away")}

    def longest_wait(self) -> float:
        """Seconds that the most patient of those who are asking has waited until now; 0 if none."""
        now = time.monotonic()
        return max(
            (now - client.asked for client in list(self._clients) if client.state == "asking"),
            default=0.0,
        )

    def take(self) -> list[float]:
        """Seconds of the answers since the last call: from connecting (or asking on a kept
        connection) to the last byte."""
        taken = []
        while self._answers:
            taken.append(self._answers.popleft()[1])
        return taken

    def close(self) -> None:
        """Everybody leaves. Twice does nothing."""
        if not self._closed:
            self._closed = True
            self._nudge()
            self._thread.join()
            self._selector.close()
            os.close(self._wake)
            os.close(self._wake_write)

    def _nudge(self) -> None:
        if not self._closed or self._thread.is_alive():
            try:
                os.write(self._wake_write, b".")
            except BlockingIOError:
                pass  # it is full of nudges already

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        think = self._think
        while not self._closed:
            while len(self._clients) > self._wanted:
                self._hang_up(self._clients.pop())
            while len(self._clients) < self._wanted:
                self._clients.append(Client())
            now = time.monotonic()
            if think != self._think:  # the new time holds for those who are thinking already
                for client in self._clients:
                    if client.state == "thinking":
                        client.due = min(client.due, now + self._pause())
                think = self._think
            for client in self._clients:
                if client.due <= now:
                    self._next(client, now)
            wait = (
                min((client.due for client in self._clients), default=now + 60) - time.monotonic()
            )
            for key, _ in self._selector.select(max(0.0, wait)):
                if key.fd == self._wake:
                    try:
                        os.read(self._wake, 4096)
                    except BlockingIOError:
                        pass
                elif key.data.sock is not None:
                    self._read(key.data)
        for client in self._clients:
            self._hang_up(client)

    def _pause(self) -> float:
        # Spread, or all would ask in the same moment for ever.
        return self._think * random.uniform(0.5, 1.5)

    def _next(self, client: Client, now: float) -> None:
        """Its time has come: ask, on a new connection or the kept one, or give up waiting."""
        import h11

        if client.state == "asking":
            self._lose(client, "timeout")
            return
        try:
            client.asked = now
            if client.sock is None:
                # To loopback a connect takes microseconds, even if nobody accepts: the kernel does.
                client.sock = socket.create_connection(self._address, timeout=1)
                client.sock.setblocking(False)
                self._selector.register(client.sock, selectors.EVENT_READ, client)
                client.http = h11.Connection(h11.CLIENT)
            else:
                client.http.start_next_cycle()
            headers = [("Host", "{}:{}".format(*self._address)), ("User-Agent", "mpmkit-crowd")]
            if not self.keep:
                headers.append(("Connection", "close"))
            request = h11.Request(method="GET", target=self.path, headers=headers)
            client.sock.sendall(client.http.send(request) + client.http.send(h11.EndOfMessage()))
            client.state, client.due = "asking", now + PATIENCE
        except ConnectionRefusedError:
            self._lose(client, "refused")
        except (OSError, h11.LocalProtocolError):
            self._lose(client, "reset")

    def _read(self, client: Client) -> None:
        import h11

        assert client.sock is not None
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._lose(client, "reset")
            return
        if client.state == "thinking":  # the server ends a kept connection: nothing is lost
            self._hang_up(client)
            client.due = time.monotonic() + BACK
            return
        try:
            client.http.receive_data(data)
            while True:
                event = client.http.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    break
        except h11.RemoteProtocolError:
            self._lose(client, "reset")
            return
        if isinstance(event, h11.ConnectionClosed):
            self._lose(client, "reset")
            return
        now = time.monotonic()
        self._answers.append((now, now - client.asked))
        self.answered += 1
        client.state, client.due = "thinking", now + self._pause()
        if (
            not self.keep
            or client.http.our_state is not h11.DONE
            or (client.http.their_state is not h11.DONE)
        ):
            self._hang_up(client)
            client.due = now + self._pause()

    def _lose(self, client: Client, why: str) -> None:
        self.lost[why] += 1
        self._hang_up(client)
        client.due = time.monotonic() + BACK

    def _hang_up(self, client: Client) -> None:
        if client.sock is not None:
            self._selector.unregister(client.sock)
            client.sock.close()
        client.sock = client.http = None
        client.state = "away"
