"""Any bytes, cut anywhere, against the path of a request: from the socket to the answer.

`check(stream)` is what must hold of every stream of bytes:

* it is answered: nothing is raised, and the server waits for no more once the client has closed;
* the answers are the same however the stream is cut, in one's own thread (prefork, worker) and as
  event reads, and whether or not the same heads have been seen before;
* what counts as a request is one for h11, too, and is read in the same way: by the short way for
  plain heads as well as by the memory of heads.

tests/test_fuzz.py tries known streams, and Hypothesis's variants of them. One that breaks a rule is
kept in tests/data/fuzz, and tried from then on. `guided` searches by coverage: a stream that goes a new way
through mpmkit's lines is changed further.

    PYTHONPATH=.:tests python tests/fuzz.py [MINUTES]
"""

import os
import random
import re
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
from hypothesis import strategies as st
from support.configured import directives
from support.malformed import REFUSED

from mpmkit.http.fastpath import RequestCache
from mpmkit.http.messages import Request, RequestError, Response, text
from mpmkit.http.protocol import Protocol, parse_head
from mpmkit.server.connection import Connection, Disconnected
from mpmkit.server.core import Service, finish_request, process_request
from mpmkit.server.logs import ErrorLog

HERE = Path(__file__).resolve().parent
FOUND = HERE / "data" / "fuzz"
LONGEST = 40_000  # bytes of a stream that are tried
PATIENCE = 20  # reads after the client's close that should never be needed
OWN = b"host", b"content-length"  # of which httpd leaves one

# Small limits, so that a fuzzer meets them.
DIRECTIVES = directives(
    LimitRequestLine=200, LimitRequestFieldSize=300, LimitRequestFields=12, LimitRequestBody=2000,
    MaxKeepAliveRequests=6, ErrorLog="/dev/null", LogLevel="emerg",
)  # fmt: skip


# -- a client that is a list of pieces ------------------------------------------------------------
QUIET = os.open(os.devnull, os.O_WRONLY)


class Slot:
    """A scoreboard's slot that no one reads."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


class Pieces:
    """A socket whose other end sends `pieces` and closes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.coming = pieces[::-1]
        self.here, self.sent, self.closed, self.vain = b"", b"", False, 0

    def arrive(self) -> None:
        """The next piece, or the close."""
        if self.coming:
            self.here += self.coming.pop()

    def recv_into(self, buffer: Any, size: int, flags: int = 0) -> int:
        assert not self.closed, "a read after the close"
        if not self.here and not self.coming:
            self.vain += 1
            assert self.vain < PATIENCE, "it reads on and on"
            return 0
        if not self.here:
            if flags:
                raise BlockingIOError
            self.arrive()
        data, self.here = self.here[:size], self.here[size:]
        buffer[: len(data)] = data
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer, size, flags)])

    def send(self, data: Any, flags: int = 0) -> int:
        assert not self.closed, "sent after the close"
        self.sent += bytes(data)
        return len(data)

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return 99

    def setsockopt(self, *args: Any) -> None:
        pass


def handler(request: Request, conn: Connection) -> Response:
    """Answers with what it has read; reads the body, or leaves it, or reads it while it answers."""
    seen = b"%b %b %d" % (request.method.encode(), request.target, len(request.headers))
    if request.path.startswith("/lazy"):
        return Response(200, b"", b"Content-Type: text/plain\r\n\r\n", lazily(conn, seen), None)
    if request.method in ("POST", "PUT"):
        body = b"".join(iter(conn.read_body, b""))
        seen += b" %d %d" % (len(body), zlib.crc32(body))
    return text(200, seen + b"\n", b"text/plain", request.method)


def lazily(conn: Connection, seen: bytes) -> Iterator[bytes]:
    yield seen
    yield b" %d" % sum(map(len, iter(conn.read_body, b"")))


def answers(pieces: list[bytes], service: Service, *, event: bool) -> tuple[bytes, bool | None]:
    """What the client of these pieces gets, without what depends on the moment; and was it closed?"""
    sock = Pieces(pieces)
    how = service.requests, service.connection.first_timeout, event
    conn = Connection(sock, ("127.0.0.1", 1), DIRECTIVES, *how)  # type: ignore[arg-type]
    slot: Any = Slot()
    with suppress(Disconnected):
        if event:
            as_event_does(conn, sock, slot, service)
        else:
            while process_request(conn, slot, service):
                pass
    sent = re.sub(rb"Date: [^\r]*\r\n", b"", sock.sent)
    return sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""), getattr(conn, "keep_alive", None)


def as_event_does(conn: Connection, sock: Pieces, slot: Any, service: Service) -> None:
    """`EventChild.process_connection`, with `arrive` for what epoll tells."""
    while True:
        if conn.pending is not None:
            assert conn.flush()
            alive = finish_request(conn, slot, service)
        else:
            if conn.kept and not conn.protocol.pending and not conn.fill():
                sock.arrive()
                continue
            alive = process_request(conn, slot, service)
            if conn.pending is not None:
                continue
        if not alive:
            return


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """Ways to cut it: not at all, everywhere, between CR and LF, and a few by chance (always the same)."""
    yield [stream]
    if len(stream) <= 1500:
        yield [bytes([byte]) for byte in stream]
    yield re.findall(rb"[^\r]*\r|[^\r]+", stream)
    chance = random.Random(zlib.crc32(stream))
    for count in (1, 2, 5):
        places = sorted(chance.choices(range(len(stream) + 1), k=count))
        ends = [*places, len(stream)]
        yield [stream[a:b] for a, b in zip([0, *places], ends, strict=True) if a < b]


def new_service() -> Service:
    return Service(DIRECTIVES, handler, None, ErrorLog(QUIET, "emerg"))


def check(stream: bytes) -> None:
    """Raises AssertionError, or whatever a server would have died of."""
    stream = stream[:LONGEST]
    expected = None
    remembering = new_service()
    for pieces in cuts(stream):
        for service in (new_service(), remembering):
            for event in (False, True):
                got = answers(pieces, service, event=event)
                if expected is None:
                    expected = got
                assert got == expected, f"{'event' if event else 'blocking'}, cut {pieces!r}"
    for request in requests(stream):
        agrees(request)
    check_head(stream.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


def check_head(head: bytes) -> None:
    """What the short way takes for plain, the long way and h11 read in the same way: for the first time,
    and with all of its lines known."""
    cache = RequestCache(DIRECTIVES)
    for _ in range(3):
        plain = made(cache.read_plain, head)
        if plain is not None:
            assert plain == made(parse_head, head, DIRECTIVES), "read in another way"
            if isinstance(plain, dict):
                agrees(parse_head(head, DIRECTIVES))


def made(read: Any, *given: Any) -> Any:
    """Everything that is known of the request that `read` finds, or how it is refused."""
    try:
        request = read(*given)
    except RequestError as error:
        return error.status, error.ah
    return request and {name: getattr(request, name) for name in Request.__slots__}


def requests(stream: bytes) -> Iterator[Request]:
    """The requests that a Protocol finds."""
    protocol = Protocol(DIRECTIVES, RequestCache(DIRECTIVES))
    protocol.feed(stream)
    with suppress(RequestError):
        while protocol.pending and (request := protocol.next_request()) is not None:
            yield request
            while protocol.body:
                if protocol.next_piece() is None:
                    return


def agrees(request: Request) -> None:
    """A request of ours is h11's, but for what httpd adds: one host and one framing."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request.head)
    event = connection.next_event()  # raises what h11 refuses
    assert isinstance(event, h11.Request), request.head
    assert (request.method.encode(), request.target) == (event.method, event.target)
    # httpd, and so we, drop the blanks ahead of a line's fold; h11 keeps them.
    folded = re.search(rb"\r\n[ \t]", request.head)
    blanks = rb"[ \t]+" if folded else b" "
    ours, theirs = (
        [(name, re.sub(blanks, b" ", value)) for name, value in headers if name not in OWN]
        for headers in (request.headers, event.headers)
    )
    assert ours == theirs
    framing = dict(event.headers)
    chunked = b"transfer-encoding" in framing
    assert request.length == (None if chunked else int(framing.get(b"content-length", 0)))


def seeds() -> list[bytes]:
    """The recordings, the malformed requests of the tests, and what was found before."""
    raw = [path.read_bytes() for path in sorted((HERE / "data" / "raw").glob("*.req"))]
    own = [path.read_bytes() for path in sorted(FOUND.glob("*.bin"))]
    get, host = b"GET /a?b HTTP/1.1\r\nHost: x\r\n", b"\r\n"
    post = b"POST /p HTTP/1.1\r\nHost: x\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\nX: y\r\n\r\n"
    made = [
        (get + host) * 8, b"\r\n" * 3 + get + host, (post + chunked + b"\r\n") * 2 + get + host,
        post + b"Content-Length: 4\r\n\r\nbody" + get + b"Connection: close\r\n\r\n",
        post.replace(b"/p", b"/lazy") + chunked + get + host,
        post + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + get + host,
        b"GET /old\r\n" + get + host, get + b"Range: bytes=0-1\r\nConnection: keep-alive\r\n\r\n",
        b"GET http://y/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
        *(b"GET /" + b"a" * more + b" HTTP/1.1\r\nHost: x\r\n\r\n" for more in (186, 187, 188)),  # at the limit
    ]  # fmt: skip
    return [*own, *made, *raw, *(data for data, _ in REFUSED)]


PARTS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b":", b"\xff", b"0", b"-1", b"HTTP/1.1",
    b"HTTP/1.0", b"Host: y\r\n", b"Content-Length: 3\r\n", b"Content-Length: 3, 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: x\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\n", b"GET / HTTP/1.1\r\n",
    b"Host: x\r\n\r\n", b"POST /lazy HTTP/1.1\r\n", b"ffffffffffffffff\r\n", b"a" * 250, b"%00", b"%2f",
    b"/../", b"0\r\n\r\n", b"3\r\nabc\r\n", b";" + b"e" * 200, b" folded: x\r\n", b"GET /\r\n",
]  # fmt: skip


def changed(stream: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """`stream` with some of its bytes removed and others put there."""
    for place, removed, added in changes:
        at = place % (len(stream) + 1)
        stream = stream[:at] + added + stream[at + removed :]
    return stream


def streams() -> st.SearchStrategy[bytes]:
    """Known streams, joined and changed."""
    known = st.sampled_from(seeds())
    added = st.sampled_from(PARTS) | st.binary(max_size=4)
    change = st.tuples(st.integers(0, 1 << 16), st.integers(0, 12), added)
    joined = st.lists(known, min_size=1, max_size=3).map(b"".join)
    return st.builds(changed, joined, st.lists(change, max_size=6))


def keep(stream: bytes) -> Path:
    path = FOUND / f"{zlib.crc32(stream):08x}.bin"
    path.write_bytes(stream)
    return path


def ways(stream: bytes) -> set[tuple[Any, int, int]]:
    """The pairs of neighbouring lines of mpmkit that `check(stream)` goes through. Raises what it raises."""
    seen: set[tuple[Any, int, int]] = set()
    last: dict[int, int] = {}

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if "/mpmkit/" not in frame.f_code.co_filename:
            return None
        if event == "call":
            last[id(frame)] = 0
        else:
            seen.add((frame.f_code, last[id(frame)], frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        check(stream)
    finally:
        sys.settrace(None)
    return seen


def guided(seconds: float, seed: int = 0) -> Iterator[str]:
    """Change the streams that found a new way, for so long; one that breaks a rule is kept, and a line."""
    chance, known, tries, broken = random.Random(seed), set(), 0, 0
    end, following = time.monotonic() + seconds, seeds()
    corpus: list[bytes] = []
    while time.monotonic() < end:
        tries += 1
        if following:
            stream = following.pop()
        else:
            stream = b"".join(chance.choices(corpus, k=chance.choice((1, 1, 2))))
            change = [(chance.randrange(1 << 16), chance.choice((0, 0, 1, 12)), chance.choice(
                (chance.choice(PARTS), chance.randbytes(chance.randrange(5)))))
                for _ in range(chance.randint(1, 6))]  # fmt: skip
            stream = changed(stream, change)[:4000]
        try:
            found = ways(stream)
        except Exception as error:
            broken += 1
            yield f"WRONG: {keep(stream)}: {type(error).__name__}: {error}"[:300]
            continue
        if found - known:
            known |= found
            corpus.append(stream)
    yield f"{tries:,} streams, {broken} wrong; {len(corpus):,} found {len(known):,} ways"


if __name__ == "__main__":
    for text_line in guided(60 * float(*sys.argv[1:2] or ("1",))):
        print(text_line, flush=True)
