"""A small HTTP server that misbehaves on request, run in a process of its own by the load's tests.

    with Misbehaving() as server:
        server.url, server.counts()

The path says what is wrong with the answer; see `answer`. It counts connections and requests, so a
test can compare what a generator claims to have sent with what arrived. It ends with the process
that started it (its standard input closes).
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from typing import Self

BODY = b"x" * 45
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n%s\r\n" + BODY


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


counts: dict[str, int] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    counts["connections"] = counts.get("connections", 0) + 1
    served = 0
    try:
        while True:
            sent = await reader.readuntil(b"\r\n\r\n")
            method, path, version = sent.split(b"\r\n")[0].decode().split(" ")
            for line in sent.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            keep = version == "HTTP/1.1" and b"\r\nConnection: close\r\n" not in sent
            served += 1
            if path == "/-/counts":
                counts["connections"] -= 1
                body = json.dumps(counts).encode()
                counts.clear()
                writer.write(head(200, len(body), b"Connection: close\r\n") + body)
                await writer.drain()
                break
            key = f"{method} {path} {version}"
            counts[key] = counts.get(key, 0) + 1
            if not await answer(path, keep, served, counts[key], writer) or not keep:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(
    path: str, keep: bool, served: int, number: int, writer: asyncio.StreamWriter
) -> bool:
    """Write what the path asks for. Whether the connection may go on."""
    connection = b"" if keep else b"Connection: close\r\n"
    what, _, argument = path.strip("/").partition("/")
    good = GOOD % connection
    answers = {
        **dict.fromkeys(("ok", "late-long", "unclosed", "drops", "keeps"), good),
        "long": good + b"and more",
        # These end the connection.
        "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + BODY,
        "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "closes": b"",
    }  # fmt: skip
    last = what in ("keeps", "drops") and served >= int(argument)
    if what == "keeps" and last:  # it says that it closes after n requests; "drops" does not
        writer.write(GOOD % b"Connection: close\r\n")
    elif what in answers:
        writer.write(answers[what])
    elif what == "chunked":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + connection + b"\r\n")
        for size in (40, 5):
            await asyncio.sleep(0.002)
            writer.write(b"%x\r\n%s\r\n" % (size, b"z" * size))
        writer.write(b"0\r\n\r\n")
    elif what == "big":
        writer.write(head(200, 1_000_000, connection) + b"y" * 1_000_000)
    elif what == "status":
        writer.write(head(int(argument), 0, connection))
    elif what == "dribble":
        for byte in good:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
    elif what == "every":  # each n-th answer of all is a 500
        writer.write(good if number % int(argument) else head(500, 2, connection) + b"no")
    elif what == "resets":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return False
    await writer.drain()
    if what in ("stall", "unclosed"):  # nothing, or a good answer; the connection stays open
        await asyncio.sleep(60)
    elif what == "late-long":  # the surplus comes when the answer has been read
        await asyncio.sleep(0.05)
        writer.write(b"and more")
        await writer.drain()
    return not last and what not in ("short", "garbage", "closes")


def head(status: int, length: int, connection: bytes) -> bytes:
    fields = b"Content-Length: %d\r\n" % length + connection
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, b"OK" if status == 200 else b"Oops", fields)


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
