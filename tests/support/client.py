"""One HTTP client that speaks byte by byte, and a strict reader of responses."""

import re
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from .waiting import open_clients, patience


class Reply:
    """One response as it came: status line, header lines in their order, body."""

    def __init__(self, head: bytes, body: bytes, length: int) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status_line = first
        found = re.fullmatch(r"HTTP/\d\.\d (\d{3}) (.*)", first)
        assert found is not None, f"not a status line: {first!r}"
        self.status, self.reason = int(found[1]), found[2]
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

    @property
    def closes(self) -> bool:
        return (self["Connection"] or "").lower() == "close"

    def __repr__(self) -> str:
        return f"<{self.status_line}, {len(self.body)} bytes>"


class Incomplete(Exception):
    """The bytes end within a response."""


def read_reply(data: bytes | bytearray, method: str = "GET", *, closed: bool = True) -> Reply:
    """The response at the beginning of `data`. Strict: framing must be right to the byte. Raises Incomplete when
    more bytes are needed; `closed`: there will be none."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise Incomplete
    head, start = bytes(data[:end]), end + 4
    assert b"\n" not in head.replace(b"\r\n", b""), f"a bare line feed in {head!r}"
    reply = Reply(head, b"", 0)
    used, body = 0, b""
    if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
        pass
    elif reply["Transfer-Encoding"] is not None:
        assert reply["Transfer-Encoding"] == "chunked" and reply["Content-Length"] is None
        body, used = read_chunks(data, start)
    else:
        length = reply["Content-Length"]
        used = len(data) - start if length is None else int(length)
        if len(data) < start + used or (length is None and not closed):
            raise Incomplete
        body = bytes(data[start : start + used])
    return Reply(head, body, start + used)


def read_chunks(data: bytes | bytearray, start: int) -> tuple[bytes, int]:
    """(the body, bytes it took in chunks)."""
    body, at = [], start
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Incomplete
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        if len(data) < at:
            raise Incomplete
        assert data[at - 2 : at] == b"\r\n", "a chunk does not end where it says"
        if not size:
            return b"".join(body), at - start
        body.append(data[end + 2 : at - 2])


def read_replies(data: bytes, *methods: str) -> list[Reply]:
    """As many responses as there are methods, and not a byte more."""
    replies = []
    for method in methods:
        replies.append(read_reply(data, method))
        data = data[replies[-1].size :]
    assert not data, f"bytes after the last response: {data[:200]!r}"
    return replies


class Lost(AssertionError):
    """The connection ended before the response was whole. `started`: some of it had come."""

    def __init__(self, text: str, started: bool) -> None:
        super().__init__(text)
        self.started = started


class Late(AssertionError, TimeoutError):
    """Nothing came in time."""


def request(
    path: str = "/file.txt", *lines: str, close: bool = False, method: str = "GET",
    body: bytes | tuple[bytes, ...] = b"", version: str = "HTTP/1.1", host: str = "lab.example",
) -> bytes:  # fmt: skip
    """A well-formed request, kept alive unless `close` or the lines say no. A body in pieces is chunked."""
    if close:
        lines += ("Connection: close",)
    if isinstance(body, tuple):
        lines += ("Transfer-Encoding: chunked",)
        pieces = (*filter(None, body), b"")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    elif body:
        lines += (f"Content-Length: {len(body)}",)
    head = "\r\n".join([f"{method} {path} {version}", f"Host: {host}", *lines, "", ""])
    return head.encode("latin-1") + body


class Client:
    """A raw connection to a server, a port or an address. wait: how long each of its steps may take."""

    def __init__(self, server: Any, *, wait: float = 0, receive_buffer: int | None = None) -> None:
        self.wait = wait or patience()
        self.buffer = bytearray()
        port = getattr(server, "port", server)
        address = server if isinstance(server, tuple) else ("127.0.0.1", port)
        self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        open_clients.add(self)
        if receive_buffer is not None:  # before connect, or the window is wide already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(self.wait)
        try:
            self.sock.connect(address)
        except BaseException:
            self.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        open_clients.discard(self)

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def ask(self, data: bytes, method: str = "") -> Reply:
        """Send a request and read its response."""
        try:
            self.send(data)
        except ConnectionError as error:
            raise Lost(str(error), started=False) from None
        return self.reply(method or data.split(b" ", 1)[0].decode("latin-1"))

    def get(self, path: str = "/file.txt", *lines: str, method: str = "GET", **how: Any) -> Reply:
        """Send a `request` and read its response."""
        return self.ask(request(path, *lines, method=method, **how), method)

    def reply(self, method: str = "GET") -> Reply:
        """The next response. Raises Lost when the server closes within it, Late when it does not come."""
        closed = False
        while True:
            try:
                reply = read_reply(self.buffer, method, closed=closed)
            except Incomplete:
                if closed:
                    seen = f"closed within a response: {self.buffer[:200]!r}"
                    raise Lost(seen, started=bool(self.buffer)) from None
                self.buffer += (data := self.receive())
                closed = not data
            else:
                self.buffer = self.buffer[reply.size :]
                return reply

    def receive(self, cap: float | None = None) -> bytes:
        """What comes next; b"" when the server has closed. Raises Late after `cap` seconds."""
        cap = self.wait if cap is None else cap
        self.sock.settimeout(cap)
        try:
            return self.sock.recv(65536)
        except ConnectionResetError:
            return b""
        except TimeoutError:
            raise Late(f"nothing came for {cap:g} s after {self.buffer[:200]!r}") from None
        finally:
            self.sock.settimeout(self.wait)

    def until_closed(self, cap: float = 10.0) -> bytes:
        """Everything up to the server's close, which must come within `cap` seconds in all."""
        end = time.monotonic() + patience(cap)
        while data := self.receive(max(0.01, end - time.monotonic())):
            self.buffer += data
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    def until(self, text: bytes) -> bytes:
        """Read on until `text` has come. Returns all that is not read as a reply, and keeps it."""
        while text not in self.buffer:
            self.buffer += (data := self.receive())
            assert data, f"closed before {text!r}: {self.buffer[:200]!r}"
        return bytes(self.buffer)

    def ended(self, within: float) -> None:
        """Wait for the server's FIN or reset, with no data before it."""
        data = self.until_closed(within)
        assert not data, f"data instead of the connection's end: {data[:80]!r}"

    def silent(self, seconds: float) -> None:
        """Nothing comes from the server for so long, not even the connection's end."""
        with suppress(Late):
            raise AssertionError(f"expected silence, got {self.receive(seconds)[:80]!r}")

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
            self.sock.settimeout(self.wait)


def trusting(server: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.certificate)


class TlsClient(Client):
    """A client whose bytes are encrypted; the server's certificate is checked."""

    def __init__(
        self, server: Any, *, context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(server, **options)
        try:
            self.sock = (context or trusting(server)).wrap_socket(
                self.sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False, session=session
            )
        except BaseException:
            self.close()
            raise


def exchange(server: Any, data: bytes, cap: float = 10.0) -> bytes:
    """Send bytes on a connection of their own; everything that comes until the server closes."""
    with Client(server) as client:
        return client.send(data).until_closed(cap)


def get(server: Any, path: str = "/file.txt", *lines: str, **how: Any) -> Reply:
    """One request on a connection of its own, which the server has logged and closed. `wait`: as a Client's."""
    with Client(server, wait=how.pop("wait", 0)) as client:
        reply = client.get(path, *lines, close=True, **how)
        client.until_closed()
        return reply


def at_once(job: Callable[[int], Any], count: int) -> list[Any]:
    """What `job(number)` returns, for each number in a thread of its own. Raises what one of them raises."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(job, range(count)))


def asked(server: Any, path: str, *lines: str, **how: Any) -> Client:
    """A client that has sent one `request`."""
    return Client(server).send(request(path, *lines, **how))


FINISH = b"xample\r\n\r\n"  # the other half of what `half_sent` sends


def half_sent(server: Any) -> Client:
    """A client in the middle of its request's head."""
    return Client(server).send(request("/").removesuffix(FINISH))


def parked(server: Any) -> Client:
    """A client that has had one response and stays."""
    client = Client(server)
    reply = client.get()
    assert reply.status == 200 and not reply.closes
    return client


def refused(port: int) -> bool:
    """Does a new client get nowhere?"""
    with socket.socket() as sock:
        sock.settimeout(2)
        return sock.connect_ex(("127.0.0.1", port)) != 0
