"""Arbitrary bytes for a running server: does a client ever see the answer to another one's request?

Connections of one to eight requests: with bodies and chunks, for hosts and ranges, cut anywhere, sent at once or
each after the previous answer; some have a wrong byte, some a request in their body. Each request has its own
id, and the server's script returns it with the body.
"""

from __future__ import annotations

import random
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# A script that says what it was given, and by which host.
ECHO = """
import zlib

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    answer = f"id={environ['QUERY_STRING']} {len(body)} {zlib.crc32(body)}"
    answer = f"{answer} {environ.get('SITE', '')}".rstrip().encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
CONF = """
<VirtualHost *>
ServerName first.fuzz
</VirtualHost>
<VirtualHost *>
ServerName a.fuzz
ServerAlias *.a.fuzz
SetEnvIf Host . SITE=a
</VirtualHost>
<VirtualHost *>
ServerName b.fuzz
SetEnvIf Host . SITE=b
</VirtualHost>
"""
HOSTS = {
    b"h": b"",
    b"a.fuzz": b" a",
    b"x.A.fuzz": b" a",
    b"b.fuzz:81": b" b",
}  # and what the answer ends with
WORDS = [b"#%07d" % number for number in range(10_000)]  # a file, for ranges
CLIENTS = 8
WITHIN = 20.0  # seconds for what should take milliseconds


def make_site(where: Path) -> Path:
    """The script, the file, and a configuration with hosts, whose name is returned."""
    (where / "echo.py").write_text(ECHO)
    (where / "words.txt").write_bytes(b"".join(WORDS))
    (where / "fuzz.conf").write_text(CONF)
    return where / "fuzz.conf"


class Sent(NamedTuple):
    """The requests of a connection, and what has to come for each if all are `whole`: well-formed."""

    requests: list[bytes]
    answers: list[bytes]
    whole: bool


def a_request(source: random.Random) -> tuple[bytes, bytes]:
    """A well-formed one, and its answer."""
    host = source.choice(list(HOSTS))
    site, field, version = HOSTS[host], b"Host: %b\r\n" % host, b"1.1"
    if source.random() < 0.2:
        at = source.randrange(len(WORDS))
        line = b"GET /words.txt HTTP/1.1\r\n%bRange: bytes=%d-%d\r\n\r\n"
        return line % (field, 8 * at, 8 * at + 7), WORDS[at]
    unique, hidden = source.randbytes(8).hex().encode(), source.randbytes(8).hex().encode()
    body = b"GET /echo.py?%b HTTP/1.1\r\nHost: h\r\n\r\n" % hidden * source.randint(0, 2)
    target = b"/echo.py?" + unique
    if source.random() < 0.1:
        target, field = b"http://%b%b" % (host, target), b"Host: first.fuzz\r\n"
    if source.random() < 0.1:
        field += b"Expect: 100-continue\r\n"
    if source.random() < 0.4:
        at = source.randint(0, len(body))
        parts = filter(None, (body[:at], body[at:]))
        chunks = b"".join(
            b"%X%b\r\n%b\r\n" % (len(part), b";a=b" * (at & 1), part) for part in parts
        )
        framing = b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (
            chunks,
            b"X: y\r\n" * (at & 1),
        )
    else:
        framing = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        if source.random() < 0.1:
            version, field = b"1.0", field + b"Connection: keep-alive\r\n"
    answer = b"id=%b %d %d%b" % (unique, len(body), zlib.crc32(body), site)
    return b"POST %b HTTP/%b\r\n%b%b" % (target, version, field, framing), answer


def a_connection(source: random.Random) -> Sent:
    """What a client sends."""
    made = [a_request(source) for _ in range(source.randint(1, 8))]
    requests, whole = [request for request, _ in made], True
    for number, request in enumerate(requests):
        if source.random() < 0.12:
            at, whole = source.randrange(len(request)), False
            wrong = source.randbytes(source.randrange(3))
            requests[number] = request[:at] + wrong + request[at + 1 :]
    return Sent(requests, [answer for _, answer in made], whole)


def exchanged(sock: socket.socket, sent: Sent, source: random.Random) -> bytes:
    """All that comes for requests that are sent in pieces; then the client closes its half. In one of three
    connections each waits for the answer before it, so that the connection is idle in between."""
    received = b""
    waits = sent.whole and source.random() < 0.3
    with suppress(ConnectionError, ssl.SSLError):
        for data, answer in zip(
            sent.requests if waits else [b"".join(sent.requests)], sent.answers, strict=False
        ):
            while data:
                cut = source.randint(1, len(data))
                sock.sendall(data[:cut])
                data = data[cut:]
                if source.random() < 0.05:
                    time.sleep(source.uniform(0, 0.005))
            while waits and answer not in received and (piece := sock.recv(65536)):
                received += piece
            if waits:
                time.sleep(source.uniform(0, 0.005))
        with suppress(OSError):  # ENOTCONN: the server has closed with a reset
            socket.socket.shutdown(sock, socket.SHUT_WR)  # of TLS, too, it closes the half alone
        while piece := sock.recv(65536):
            received += piece
    return received


def is_wrong(sent: Sent, received: bytes) -> str:
    """Whatever is answered was sent on the same connection; where all was well-formed, each request has its
    answer, in order, or the last answer says that none will follow (a child that leaves)."""
    found = re.findall(rb"\bid=\S+ \d+ \d+(?: [ab])?|#\d{7}", received)
    if sent.whole:
        last = b"Connection: close\r\n" in received[received.rfind(b"HTTP/1.1 ") :]
        wrong = found != sent.answers[: len(found) if last else None]
    else:
        data = b"".join(sent.requests)
        wrong = any(one.split()[0][3:] not in data for one in found if one[:1] == b"i")
    return f"WRONG: {found} came for {sent}" * wrong


def fuzzed(port: int, requests: int, seed: int, certificate: str | None = None) -> Iterator[str]:
    """Any bytes, by clients at the same time, over TLS with a `certificate`: a line, and what was wrong."""
    wrong: list[str] = []
    context = ssl.create_default_context(cafile=certificate) if certificate else None

    def client(number: int) -> int:
        source, count = random.Random(f"{seed} {number}"), 0
        while count < requests / CLIENTS and not wrong:
            sent = a_connection(source)
            with socket.create_connection(("127.0.0.1", port), WITHIN) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if context is not None:
                    sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
                with sock:
                    wrong.extend(filter(None, [is_wrong(sent, exchanged(sock, sent, source))]))
            count += len(sent.requests)
        return count

    what = "any bytes over TLS" if certificate else "any bytes"
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield f"{what}: {sum(pool.map(client, range(CLIENTS))):,} requests, {len(wrong)} wrong"
    yield from wrong[:3]
