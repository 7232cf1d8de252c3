"""Reading one HTTP response with h11: bytes in, verdict out. No socket, no clock.

The load generator must not believe a server. A response counts only if its status is the expected one, its head
makes sense, and its body has exactly the bytes promised (Content-Length, chunked, or up to the end of the
connection) and, where the profile says so, as many as expected.

A verdict is a tuple ``(kind, keep, length)``: `kind` None for a good answer or the kind of failure (status NNN,
length, short, closed, malformed: docs/LOAD.md has them all); `keep` whether the connection can carry another
request; `length` the body's bytes.

Answers to the same request differ little (the Date, once a second), so the generator looks a whole answer up in
a bounded memo, keyed by its exact bytes, and only has h11 read what it has not seen.
"""

from __future__ import annotations

import h11

Verdict = tuple[str | None, bool, int]

MAX_HEAD = 65_536  # a longer one is malformed: the bound of what an endless server can make us keep


class ResponseReader:
    """Reads one response piece by piece; body bytes are counted and not kept.

    `feed(data)` and `eof()` return the verdict, or None while more is needed. `status` is 0 before the head.
    expect_status, expect_length: of a good answer; None: any.
    """

    def __init__(
        self, method: str = "GET", expect_status: int | None = 200, expect_length: int | None = None
    ) -> None:
        self.status = self._count = 0  # _count: bytes of the body so far
        self._started = False
        self._expected = expect_status, expect_length
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
        self._http.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> Verdict | None:
        """Take what was received (not empty). Returns the verdict once the response is complete."""
        self._started = True
        return self._read(data, "malformed")

    def eof(self) -> Verdict:
        """The verdict at the end of the connection."""
        kind = "short" if self._started else "closed"
        return self._read(b"", kind) or (kind, False, self._count)

    def _read(self, data: bytes, wrong: str) -> Verdict | None:
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._count += len(event.data)
                elif isinstance(event, h11.Response):
                    self.status = event.status_code
                elif isinstance(event, h11.EndOfMessage):
                    return self._verdict(at_end=not data)
        except h11.RemoteProtocolError:
            return wrong, False, self._count
        return None

    def _verdict(self, at_end: bool) -> Verdict:
        more_came = bool(self._http.trailing_data[0])
        keep = self._http.their_state is h11.DONE and not (more_came or at_end)
        status, length = self._expected
        if status not in (None, self.status):
            return f"status {self.status}", keep, self._count
        if more_came or length not in (None, self._count):
            return "length", keep, self._count
        return None, keep, self._count
