"""A small HTTP server that misbehaves on request, run in a process of its own by the load's tests.

    with Misbehaving() as server:
        server.url, server.counts()

The path says what is wrong with the answer; see `answers`. It counts connections and requests, so a
test can compare what a generator claims to have sent with what arrived. It ends with the process
that started it (its standard input closes).
"""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Sequence
from typing import Self


class Misbehaving:
    """The server as a child process; `url` once started. With the file of a certificate and its key
    it speaks TLS."""

    def __init__(self, certificate: str | None = None) -> None:
        self.certificate = certificate

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, *([self.certificate] if self.certificate else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()

    def counts(self) -> dict[str, int]:
        """How many requests came for each path since the last call; "connections" too."""
        how = ssl._create_unverified_context() if self.certificate else None
        with urllib.request.urlopen(self.url + "/-/counts", timeout=5, context=how) as answer:
            return json.load(answer)

    def die(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)


def reply(status: int, body: bytes, keep: bool) -> bytes:
    lines = b"HTTP/1.1 %d %b" % (status, b"OK" if status == 200 else b"Oops")
    lines += b"\r\nContent-Length: %d" % len(body) + b"\r\nConnection: close" * (not keep)
    return lines + b"\r\n\r\n" + body


def answers(keep: bool) -> dict[str, Sequence[bytes | float]]:
    """By what the path asks for: what is sent, and pauses in seconds."""
    good = reply(200, b"x" * 45, keep)
    chunked = good.replace(b"Content-Length: 45", b"Transfer-Encoding: chunked").partition(b"x")[0]
    return {
        **dict.fromkeys(("ok", "drops", "keeps", "every"), (good,)), "big": [reply(200, b"y" * 1_000_000, keep)],
        "chunked": [chunked, 0.002, b"28\r\n%b\r\n" % (b"z" * 40), 0.002, b"5\r\nzzzzz\r\n0\r\n\r\n"],
        "dribble": [bytes([byte]) for byte in good], "stall": [60.0], "unclosed": [good, 60.0],
        "long": [good + b"and more"], "late-long": [good, 0.05, b"and more"],  # when the answer has been read
        # These end the connection.
        "short": [good.replace(b"45", b"100")], "garbage": [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "closes": [],
    }  # fmt: skip


ANSWERS = {keep: answers(keep) for keep in (False, True)}
counts: Counter[str] = Counter()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    counts["connections"] += 1
    goes_on, served = True, 0
    try:
        while goes_on:
            sent = await reader.readuntil(b"\r\n\r\n")
            method, path, version = sent.partition(b"\r\n")[0].decode().split(" ")
            if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", sent):
                await reader.readexactly(int(length[1]))
            keep = version == "HTTP/1.1" and b"\r\nConnection: close\r\n" not in sent
            what, _, argument = path.strip("/").partition("/")
            n = int(argument) if argument.isdigit() else 0
            counts[key := f"{method} {path} {version}"] += 1
            served += 1
            goes_on = keep and what not in ("-", "short", "garbage", "closes", "resets")
            if what in ("keeps", "drops"):  # n requests; the one says that it closes then
                goes_on = goes_on and served < n
            parts = ANSWERS[goes_on if what == "keeps" else keep].get(what, [])
            if what == "-":
                del counts[key]
                counts["connections"] -= 1
                parts = [reply(200, json.dumps(counts).encode(), False)]
                counts.clear()
            elif what == "status":
                parts = [reply(n, b"", keep)]
            elif what == "every" and counts[key] % n == 0:  # each n-th answer of all
                parts = [reply(500, b"no", keep)]
            elif what == "resets":
                linger = struct.pack("ii", 1, 0)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            for part in parts:
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    writer.write(part)
                    await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    how = None
    if len(sys.argv) > 1:
        how = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        how.load_cert_chain(sys.argv[1])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, ssl=how)
    host, port = server.sockets[0].getsockname()
    print(f"{'https' if how else 'http'}://{host}:{port}", flush=True)
    # The test that started us holds the other end of our standard input.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
