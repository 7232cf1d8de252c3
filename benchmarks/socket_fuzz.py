"""Any bytes for a running server: does a client ever see the answer to another one's request?

Connections of one to six requests, cut anywhere; some have a wrong byte, some a request in their body.
Each request has an id of its own, and the server's script (`ECHO`) answers with it.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

# A script that says what it was given.
ECHO = """
import zlib

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    answer = f"id={environ['QUERY_STRING']} {len(body)} {zlib.crc32(body)}".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
CLIENTS = 8
WITHIN = 20.0  # seconds for what should take milliseconds


def a_connection(source: random.Random) -> tuple[bytes, list[bytes], bool]:
    """(bytes, the ids of their requests, whether all are well-formed)"""
    data, ids, whole = b"", [], True
    for _ in range(source.randint(1, 6)):
        ids.append(source.randbytes(8).hex().encode())
        hidden = source.randbytes(8).hex().encode()
        body = b"GET /echo.py?%b HTTP/1.1\r\nHost: h\r\n\r\n" % hidden * source.randint(0, 2)
        framing = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        if source.random() < 0.4:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            framing = b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        request = b"POST /echo.py?%b HTTP/1.1\r\nHost: h\r\n%b" % (ids[-1], framing)
        if source.random() < 0.15:
            at, whole = source.randrange(len(request)), False
            request = request[:at] + source.randbytes(source.randrange(3)) + request[at + 1 :]
        data += request
    return data, ids, whole


def exchanged(port: int, data: bytes, source: random.Random) -> bytes:
    """All that comes for bytes that are sent in pieces; then the client closes its half."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), WITHIN) as sock, suppress(ConnectionError):
        while data:
            cut = source.randint(1, len(data))
            sock.sendall(data[:cut])
            data = data[cut:]
        with suppress(OSError):  # ENOTCONN: the server has closed with a reset
            sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            received += piece
    return received


def fuzzed(port: int, requests: int, seed: int) -> Iterator[str]:
    """Any bytes, by clients at the same time: a line, and what was wrong. Whatever is answered was sent on
    the same connection; where all was well-formed, each request once, in order."""
    wrong: list[str] = []

    def client(number: int) -> int:
        source, count = random.Random(f"{seed} {number}"), 0
        while count < requests / CLIENTS and not wrong:
            data, ids, whole = a_connection(source)
            found = re.findall(rb"\bid=(\S+) \d", exchanged(port, data, source))
            if found != ids if whole else any(one not in data for one in found):
                wrong.append(f"WRONG: {found} came for {ids}: {data!r}")
            count += len(ids)
        return count

    with ThreadPoolExecutor(CLIENTS) as pool:
        yield f"any bytes: {sum(pool.map(client, range(CLIENTS))):,} requests, {len(wrong)} wrong"
    yield from wrong[:3]
