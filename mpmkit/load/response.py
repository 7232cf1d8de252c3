"""Reading one HTTP response with h11: bytes in, verdict out. No socket, no clock.

A response counts only if it has the expected status, a valid head, and a body of exactly the announced length
(Content-Length, chunked, or up to the end of the connection) and, if the profile sets one, the expected length.

A verdict is a tuple ``(kind, keep, length)``: `kind` None for a good answer or the kind of failure (status NNN,
length, short, closed, malformed: docs/LOAD.md has them all); `keep` whether the connection can carry another
request; `length` the body's bytes.

The generator looks up a whole answer in a memo, by its exact bytes, and parses only new ones. h11 reads heads and
chunks. A body of known length is counted here, because h11 would copy it, and the last heads are kept.
"""

import functools

import h11

Verdict = tuple[str | None, bool, int]

MAX_HEAD = 65_536  # a longer one is malformed: the bound of what an endless server can make us keep
CHUNKED, UNTIL_CLOSE = -1, -2


def _client(method: str) -> h11.Connection:
    """A connection on which a request was sent."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    http.send(h11.EndOfMessage())
    return http


@functools.lru_cache(1024)
def framing(head: bytes, method: str) -> tuple[int, int, bool]:
    """(status, body length or CHUNKED or UNTIL_CLOSE, keep) of a head. Raises h11.RemoteProtocolError."""
    http = _client("HEAD")  # whose answer ends with its head
    http.receive_data(head)
    response = http.next_event()
    assert isinstance(response, (h11.Response, h11.InformationalResponse))
    status, fields = response.status_code, dict(response.headers)
    if method == "HEAD" or status in (204, 304) or status < 200:
        length = 0
    elif b"transfer-encoding" in fields:
        length = CHUNKED
    else:
        length = int(fields.get(b"content-length", UNTIL_CLOSE))
    http.next_event()
    if http.trailing_data[0]:
        raise h11.RemoteProtocolError("a head with line ends of two kinds")
    return status, length, http.their_state is h11.DONE and length != UNTIL_CLOSE


class ResponseReader:
    """Reads one response piece by piece; body bytes are counted and not kept. `status` is 0 before the head.
    expect_status, expect_length: of a good answer; None: any."""

    def __init__(
        self, method: str = "GET", expect_status: int | None = 200, expect_length: int | None = None
    ) -> None:
        self.status, self._method = 0, method
        self._expected = expect_status, expect_length
        self._head = b""
        # Bytes of the body so far, and in all (or CHUNKED, UNTIL_CLOSE).
        self._count = self._length = 0
        self._keep = False
        self._chunks: h11.Connection | None = None

    def feed(self, data: bytes) -> Verdict | None:
        """Take what was received, b"" at the end of the connection. The verdict; None while more is needed."""
        try:
            if data:
                return self._read(data)
        except h11.RemoteProtocolError:
            return "malformed", False, self._count
        if self._length == UNTIL_CLOSE:
            return self._verdict()
        return ("short" if self.status or self._head else "closed"), False, self._count

    def _read(self, data: bytes) -> Verdict | None:
        while self.status < 200:  # before the head, or after an interim answer
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return ("malformed", False, 0) if len(head) > MAX_HEAD else None
            self.status, self._length, self._keep = framing(head + end, self._method)
            self._head = b""
            if self._length == CHUNKED:
                self._chunks = _client("GET")
                data = head + end + data
        if (http := self._chunks) is not None:
            http.receive_data(data)
            while (event := http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._count += len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return self._verdict(more_came=bool(http.trailing_data[0]))
            return None
        self._count += len(data)
        if self._length == UNTIL_CLOSE or self._count < self._length:
            return None
        return self._verdict(more_came=self._count > self._length)

    def _verdict(self, more_came: bool = False) -> Verdict:
        keep, (status, length) = self._keep and not more_came, self._expected
        if status not in (None, self.status):
            return f"status {self.status}", keep, self._count
        if more_came or length not in (None, self._count):
            return "length", keep, self._count
        return None, keep, self._count
