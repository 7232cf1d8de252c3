"""A small load for tests: what came whole, and what went wrong. Locust's is for measurements."""

from __future__ import annotations

import threading
import time
from typing import Any

from .client import Client, Lost
from .waiting import patience, poll_until


class Load:
    """Clients in threads, each asking for `path` again and again: until the block ends, or
    `requests` times each.

    keep_alive   stay on one connection while the server allows it
    retry        ask again after a connection error (what failed is still counted)

    answers      (status, body) of all that came whole
    failures     what went wrong, in words
    reopened     kept-alive connections that had ended before the next request: every client has to
                 expect that and ask again (RFC 9112, 9.3.1), so it is no failure
    """

    def __init__(
        self,
        server: Any,
        path: str = "/",
        *,
        clients: int = 6,
        keep_alive: bool = False,
        retry: bool = False,
        requests: int | None = None,
        seconds: float = 30.0,
    ) -> None:
        self._server = server
        self._path = path
        self._keep_alive = keep_alive
        self._retry = retry
        self._requests = requests
        self._end = time.monotonic() + seconds
        self._stop = threading.Event()
        self.answers: list[tuple[int, bytes]] = []
        self.failures: list[str] = []
        self.reopened = 0
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def join(self) -> Load:
        """Wait for clients that have a number of requests to make."""
        for thread in self._threads:
            thread.join(patience(30))
            assert not thread.is_alive(), "a client did not come to an end"
        return self

    def wait_for(self, more: int) -> None:
        """Until so many more responses have come."""
        goal = len(self.answers) + more
        poll_until(lambda: len(self.answers) >= goal, f"{more} more answers", 20)

    def _client(self) -> None:
        done = 0
        client: Client | None = None
        try:
            while not self._stop.is_set() and done != self._requests:
                if time.monotonic() > self._end:
                    break
                client = self._ask(client)
                done += 1
        finally:
            if client is not None:
                client.close()

    def _ask(self, client: Client | None) -> Client | None:
        """One request to its response, or to its failure. The connection, if it can be used again."""
        for _ in range(20 if self._retry else 2):
            fresh = client is None
            try:
                if client is None:
                    client = Client(self._server)
                reply = client.get(self._path, close=not self._keep_alive)
            except (Lost, OSError) as error:
                if client is not None:
                    client.close()
                    client = None
                if not fresh and isinstance(error, Lost) and not error.started:
                    self.reopened += 1
                    continue
                self.failures.append(f"{type(error).__name__}: {error}")
                if self._retry:
                    continue
                return None
            if reply.status != 200:
                self.failures.append(f"status {reply.status}")
            self.answers.append((reply.status, reply.body))
            if reply.closes or not self._keep_alive:
                client.close()
                return None
            return client
        self.failures.append("gave up")
        return None
