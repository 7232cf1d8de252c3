"""A small load for tests: what came whole, and what went wrong. Locust's is for measurements."""

import threading
from typing import Any, Self

from .client import Client, Lost
from .waiting import patience, poll_until


class Load:
    """Clients in threads, each asking for `path` again and again, until the block ends or `requests` times.
    keep_alive: stay on one connection while the server allows it. retry: ask again after a connection error (what
    failed is still counted). answers: (status, body) of all that came whole. failures: what went wrong, in words.
    A kept connection that ended before the next request does not count: every client asks again (RFC 9112)."""

    def __init__(
        self, server: Any, path: str = "/", *, clients: int = 6,
        keep_alive: bool = False, retry: bool = False, requests: int | None = None,
    ) -> None:  # fmt: skip
        self._server, self._path, self._requests = server, path, requests
        self._keep_alive, self._retry = keep_alive, retry
        self._stop = threading.Event()
        self.answers: list[tuple[int, bytes]] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def join(self) -> Self:
        """Wait for clients that have a number of requests to make."""
        for thread in self._threads:
            thread.join(patience(30))
            assert not thread.is_alive(), "a client did not come to an end"
        return self

    def wait_for(self, more: int) -> None:
        goal = len(self.answers) + more
        poll_until(lambda: len(self.answers) >= goal, f"{more} more answers", 20)

    def _client(self) -> None:
        done, client = 0, None
        while not self._stop.is_set() and done != self._requests:
            kept = client is not None
            try:
                client = client or Client(self._server)
                reply = client.get(self._path, close=not self._keep_alive)
            except (Lost, OSError) as error:
                if client is not None:
                    client.close()
                    client = None
                if not (kept and isinstance(error, Lost) and not error.started):
                    self.failures.append(f"{type(error).__name__}: {error}")
                    done += not self._retry
                continue
            done += 1
            if reply.status != 200:
                self.failures.append(f"status {reply.status}")
            self.answers.append((reply.status, reply.body))
            if reply.closes or not self._keep_alive:
                client.close()
                client = None
        if client is not None:
            client.close()
