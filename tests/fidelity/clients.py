"""Clients of both servers, and what they see: who is answered with what, who is closed, and when.

Times are reported in words (`at once`, `after 1 s`), because two servers on a busy machine agree no
better than that.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterable
from http.client import HTTPConnection, HTTPMessage
from typing import NamedTuple

from tests.fidelity.server_pair import Side

PATIENCE = 8.0  # seconds for the first byte, or for the close
AT_ONCE = 0.7  # seconds: what a busy machine may take for what takes milliseconds
GET = b"GET /file.txt HTTP/1.1\r\nHost: lab.example\r\n\r\n"
PAGE = b"<!DOCTYPE"  # the beginning of an error page of either
HALF, REST = GET[:-4], GET[-4:]


# --- Answers ---------------------------------------------------------------------------------------


class Reply(NamedTuple):
    line: str  # "200 OK"
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Answer(NamedTuple):
    """All that came for one request."""

    replies: tuple[Reply, ...]
    rest: bytes = b""  # bytes that are no response (HTTP/0.9)


def talk(port: int, data: bytes, half_close: bool, silence: float = PATIENCE) -> tuple[bytes, str]:
    """Send bytes on a connection of their own and take what comes, until `closed`, `reset` or, for so
    many seconds after the first bytes, `silence`."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        try:
            sock.sendall(data)
            if half_close:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                received += piece
                sock.settimeout(silence)
        except TimeoutError:
            return received, "silence"
        except OSError:
            return received, "reset"
    return received, "closed"


def split(data: bytes, methods: Iterable[str]) -> Answer:
    """The responses in a stream of bytes. `methods` are those of the requests, in order."""
    replies = []
    asked = iter(methods)
    while data.startswith(b"HTTP/") and b"\r\n\r\n" in data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        line = first.partition(" ")[2]
        status = int(line[:3])
        pairs = (line.partition(":") for line in lines)
        headers = tuple((name, value.strip()) for name, _, value in pairs)
        fields = {name.lower(): value for name, value in headers}
        method = "GET" if status < 200 else next(asked, "GET")
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif "chunked" in fields.get("transfer-encoding", ""):
            body, data = _chunks(data)
        else:
            length = int(fields.get("content-length", len(data)))
            body, data = data[:length], data[length:]
        replies.append(Reply(line, headers, body))
    return Answer(tuple(replies), data)


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size.split(b";")[0] or b"0", 16)
        if not count:
            return body, data.partition(b"\r\n")[2]
        body, data = body + data[:count], data[count + 2 :]


def shown(answer: Answer, only: Collection[str] = ()) -> str:
    """An answer in one line, without what is of the moment or each one's own: the words of error pages, with
    their length, and what separates the parts of a multipart body. `only`: of the headers these."""
    texts = [_shown(reply, only) for reply in answer.replies]
    if answer.rest:
        texts.append("page" if answer.rest.startswith(PAGE) else repr(answer.rest[:80]))
    return " + ".join(texts) or "no answer"


def _shown(reply: Reply, only: Collection[str]) -> str:
    kind = dict(reply.headers).get("Content-Type", "")
    page = reply.body.startswith(PAGE)
    own = page or (reply.line >= "300" and "html" in kind) or "boundary=" in kind
    names = []
    for name, value in reply.headers:
        if name == "Server":
            value = "with its version" if "/" in value else ""
        elif name == "Allow":  # httpd's order depends on what its threads did before
            value = ",".join(sorted(value.split(",")))
        elif name == "Date" or (name == "Content-Length" and own):
            value = ""
        if not only or name in only:
            names.append(f"{name}: {value.partition('boundary=')[0]}".removesuffix(": "))
    body = "page" if page else "" if "boundary=" in kind else repr(reply.body.decode("latin-1"))
    if len(body) > 400:
        body = f"{len(reply.body)} bytes, {zlib.crc32(reply.body)}"
    return f"{reply.line} [{'; '.join(names)}] {body}".strip()


class Client(HTTPConnection):
    """Python's own client; `source` is the address it comes from."""

    def __init__(self, server: Side, address: str = "127.0.0.1", source: str = "") -> None:
        bound = (source, 0) if source else None
        super().__init__(address, server.port, timeout=60, source_address=bound)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, HTTPMessage, bytes]:
        """Status, header and body. A server may close a kept connection at any time (KeepAliveTimeout, event
        without an idle worker): then the request is sent again on a new one (RFC 9112 section 9.3.1)."""
        while True:
            kept = self.sock is not None
            try:
                self.request(method, path, headers=headers)
                reply = self.getresponse()
                return reply.status, reply.headers, reply.read()
            except ConnectionError:
                self.close()
                if not kept:
                    raise


# --- Connections that stay ---------------------------------------------------------------------------


def dial(server: Side, data: bytes) -> socket.socket:
    """A client that has sent that; it is closed before its server is stopped."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.clients.append(sock)
    sock.sendall(data)
    return sock


def parked(server: Side) -> socket.socket:
    """A client that has had an answer and stays."""
    sock = dial(server, GET)
    data = b""
    while not split(data, ["GET"]).replies:
        data += sock.recv(65536)
    return sock


def fate(sock: socket.socket, seconds: float) -> tuple[str, float, bytes]:
    """What the server does with this connection: (`open`, `FIN`, `reset` or `answer`, when, bytes)."""
    began = time.monotonic()
    sock.settimeout(seconds)
    try:
        data = sock.recv(65536)
    except TimeoutError:
        return "open", seconds, b""
    except OSError:
        return "reset", time.monotonic() - began, b""
    return ("answer" if data else "FIN"), time.monotonic() - began, data


def when(seconds: float) -> str:
    return "at once" if seconds < AT_ONCE else f"after {round(seconds)} s"


def newcomer(server: Side) -> str:
    """What a client gets that comes now: a status, `refused` or `lost`."""
    try:
        with urllib.request.urlopen(f"{server.url}/file.txt", timeout=9) as reply:
            return str(reply.status)
    except urllib.error.URLError as error:
        return "refused" if isinstance(error.reason, ConnectionRefusedError) else "lost"
    except OSError:
        return "lost"


# --- What is seen from outside -----------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, IndexError):
            if condition():
                return True
        time.sleep(0.02)
    return False


def counts(server: Side, seconds: float) -> list[int]:
    """The numbers of children that stayed for a third of a second, in their order."""
    end = time.monotonic() + seconds
    seen: list[int] = []
    last, since = -1, 0.0
    while (now := time.monotonic()) < end:
        current = len(server.children())
        if current != last:
            last, since = current, now
        elif now - since > 0.35 and (not seen or seen[-1] != current):
            seen.append(current)
        time.sleep(0.02)
    return seen


def ids(server: Side, *wanted: str) -> str:
    """Those message ids of the log, in their order."""
    found = [ah for ah in re.findall(r"AH\d{5}(?=:)", server.log()) if ah in wanted]
    return " ".join(found) or "none"
