"""Does anything grow, get stuck or answer the wrong client? Each MPM under load, restarts, kills, any bytes.

    python -m benchmarks.soak [--mpm event] [--restarts 50] [--kills 100] [--requests 20000] [--posts 20000]
                              [--kept 200000] [--hours 2] [--seed 0]

Clients post bodies of any length to scripts that return them: first over TLS, to WSGI, CGI and FastCGI, while the
server is restarted gracefully, with an invalid configuration every fourth time. Then random children are killed.
A request may fail only if a child was killed during it. Then come connections with arbitrary bytes: well-formed
requests cut anywhere, some with a wrong byte, some with a request in their body. Each has its own id, which no
other client may see. Finally servers with long-lived children get --posts bodies of any length, --kept requests
for a page on kept-alive connections, and over TLS a quarter as many posts to each of WSGI, CGI and FastCGI.

Memory (RssAnon), descriptors and threads are read: of the parent after each restart and kill; of parent and
children at STEPS moments of the last loads. Printed are the slope of the first half, in which much is used for
the first time, and that of the second with its 95% interval. Loopback only. It takes some minutes.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from benchmarks.socket_fuzz import CLIENTS, WITHIN, fuzzed, make_site
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.handlers import fastcgi as fcgi
from mpmkit.launcher import Server, launch
from mpmkit.measure import procfs
from mpmkit.measure.sizing import slope

PAUSE = 0.1  # seconds between two restarts or kills, on average
LONGEST = 17.0  # log2 of a body's length at most: short ones are as many as long ones
STEPS = 24  # looks at a server whose children stay
# KiB that malloc may take within a half, of pages that it happens to need: the parent's, a worker's.
PARENTS, WORKERS = 256, 128
REFUSED_EACH = 4  # restarts, of which the last finds a configuration that is refused

CGI = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\nid=%s %d' "$QUERY_STRING" "$(wc -c)"
"""
CONF = """
<Directory "{0}">
    AddHandler cgi-script .cgi
    AddHandler "proxy:unix:{1}/backend|fcgi://localhost" .fcgi
    Options +ExecCGI
</Directory>
"""
REFUSED = "KeepAliveTimeout never\n"
# What is posted to; CGI's answer has no checksum.
WSGI, OTHERS = "echo.py", ("echo.cgi", "echo.fcgi")
# As many workers as clients, in children that stay.
_THREADS = {
    "StartServers": 1,
    "ThreadsPerChild": CLIENTS,
    "MinSpareThreads": 1,
    "MaxSpareThreads": CLIENTS,
}
_PROCESSES = {"StartServers": CLIENTS, "MinSpareServers": 1, "MaxSpareServers": CLIENTS}
STAYING: dict[str, dict[str, Any]] = {
    mpm: {"MaxRequestWorkers": CLIENTS, "MaxKeepAliveRequests": 0, "KeepAliveTimeout": 60, **pool}
    for mpm, pool in zip(MPMS, (_PROCESSES, _THREADS, _THREADS), strict=True)
}


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {WITHIN:g} s: {what}")
        time.sleep(0.01)


class Backend(socketserver.ThreadingUnixStreamServer):
    """FastCGI's, for the length of a `with` block: answers as the WSGI script does."""

    daemon_threads, request_queue_size = True, 64

    def __enter__(self) -> Backend:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        rest, params, body = b"", b"", b""
        with suppress(ConnectionError):  # a child was killed
            while more := request.recv(65536):
                records, rest = fcgi.read_records(rest + more)
                params += b"".join(content for kind, _, content in records if kind == fcgi.PARAMS)
                given = [content for kind, _, content in records if kind == fcgi.STDIN]
                body += b"".join(given)
                if given and not given[-1]:
                    unique = params.partition(b"QUERY_STRING")[2][:16]
                    what = b"id=%b %d %d" % (unique, len(body), zlib.crc32(body))
                    answer = fcgi.stream(
                        fcgi.STDOUT, b"Content-Type: text/plain\n\n" + what, end=True
                    )
                    request.sendall(answer + fcgi.record(fcgi.END_REQUEST, bytes(8)))


# --- What grows --------------------------------------------------------------------------------------


def sizes(pids: Iterable[int]) -> dict[str, int]:
    """Of processes together."""
    found = dict.fromkeys(("KiB", "descriptors", "threads"), 0)
    for pid in pids:
        numbers = procfs.status_numbers(pid)
        found["KiB"] += numbers["RssAnon"]
        found["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
        found["threads"] += numbers["Threads"]
    return found


def growth(whose: str, seen: Sequence[dict[str, int]], each: str, most: int) -> Iterator[str]:
    """A line for what was seen of processes at equal distances: the slopes of both halves by step, and
    what is WRONG in the second. most: KiB by which they may differ."""
    first, half = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    if len(half) < 3:
        return
    texts, third = [], len(half) // 3
    for unit in half[0]:
        values = [one[unit] for one in half]
        before = slope(range(len(first)), [one[unit] for one in first]).slope
        line = slope(range(len(half)), values)
        now = f"{line.slope:+.2f} ({line.low:+.2f} to {line.high:+.2f})"
        texts.append(f"{values[-1]:,} {unit}, {before:+.2f}, then {now}")
        # Certainly up, and never as low again as it was; one step may be the first body of its length.
        risen = min(values[-third:]) - max(values[:third])
        risen -= max(b - a for a, b in itertools.pairwise(values))
        # One descriptor more is a connection or file that was opened late.
        if line.low > 0 and risen > (most if unit == "KiB" else 1):
            yield f"WRONG: {whose} {unit} grow: {values}"
    yield f"{whose} {'; '.join(texts)} {each}"


# --- Restarts and kills ------------------------------------------------------------------------------


class Load:
    """Clients in threads for the length of a `with` block, which post to any of `scripts`; when what failed
    was on its way."""

    def __init__(self, server: Server, scripts: Sequence[str] = (WSGI,)) -> None:
        self.port = server.port
        self.scripts = scripts
        file = server.certificate
        self.tls = ssl.create_default_context(cafile=file) if file else None
        self.ended, self.may = threading.Event(), threading.Event()
        self.may.set()
        self.asks = [False] * CLIENTS
        self.done = 0
        self.wrong: list[str] = []
        self.lost: list[tuple[float, float, bool]] = []  # began, failed, on a kept connection
        self.threads = ThreadPoolExecutor(CLIENTS)

    def __enter__(self) -> Load:
        self.clients = [self.threads.submit(self._client, number) for number in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.threads.shutdown()
        for client in self.clients:
            client.result()  # raises what a client of ours did not expect

    def _connection(self) -> HTTPConnection:
        if self.tls is None:
            return HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        return HTTPSConnection("127.0.0.1", self.port, timeout=WITHIN, context=self.tls)

    def _client(self, number: int) -> None:
        source = random.Random(number)
        connection, kept = self._connection(), False
        while not self.ended.is_set():
            self.asks[number] = True
            if kept and not self.may.is_set():
                self.asks[number] = False
                self.may.wait()
                continue
            unique = source.randbytes(8).hex()
            body = source.randbytes(int(2 ** source.uniform(0, LONGEST)))
            script, wanted = source.choice(self.scripts), f"id={unique} {len(body)}"
            if script != "echo.cgi":
                wanted += f" {zlib.crc32(body)}"
            began = time.monotonic()
            try:
                connection.request("POST", f"/{script}?{unique}", body)
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, HTTPException):
                self.lost.append((began, time.monotonic(), kept))
                kept = False
            else:
                self.done += 1
                if text != wanted:
                    self.wrong.append(f"{answer.status} {text[:80]!r}")
                kept = not answer.will_close and source.random() < 0.9
            if not kept:
                connection.close()
        connection.close()

    def until_done(self, count: int) -> None:
        """Wait for so many answers; each within WITHIN seconds."""
        while (before := self.done) < count:
            until(lambda: self.done > before, "an answer")

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within the block no request is on its way, since a program that runs has pipes, and each client has
        a connection."""
        self.may.clear()
        try:
            until(lambda: not any(self.asks), "all requests are answered")
            yield
        finally:
            self.may.set()

    def result(self, kills: Sequence[float]) -> tuple[str, int]:
        """A line, and how many requests failed although no child was killed meanwhile. A kept connection may
        have been closed just before its next request: a client has to ask again then (RFC 9112, 9.3.1)."""
        alone = [kept for a, b, kept in self.lost if not any(a - 0.1 < kill < b for kill in kills)]
        failed = len(alone) - sum(alone)
        killed = (
            f"{len(self.lost) - len(alone)} cut by kills, {sum(alone)} asked again, {failed} failed"
        )
        return f"{self.done:,} requests, {killed}, {len(self.wrong)} wrong", failed

    def report(self, what: str, kills: Sequence[float] = ()) -> Iterator[str]:
        text, failed = self.result(kills)
        yield f"{what}: {text}"
        yield from (f"WRONG: {one}" for one in self.wrong[:3])
        if failed:
            yield f"WRONG: {failed} requests failed"


def refusals(server: Server) -> int:
    return server.error_log().count("new configuration is not used")


def restart(server: Server, conf: Path, good: str, number: int) -> None:
    """The `number`-th graceful restart: each REFUSED_EACH-th finds a configuration that is refused."""
    last, refused = server.scoreboard().snapshot.generation, refusals(server)
    bad = number % REFUSED_EACH == REFUSED_EACH - 1
    conf.write_text(good + REFUSED * bad)
    server.graceful()
    if bad:
        until(lambda: refusals(server) > refused, "the configuration was refused")
        conf.write_text(good)
    else:
        until(lambda: server.scoreboard().snapshot.generation > last, "restarted")


def kill(server: Server, number: int) -> None:
    until(server.processes, "there are children")  # none yet, where it has only just started
    with suppress(ProcessLookupError, IndexError):  # a spare one that has just retired
        os.kill(random.Random(number).choice(list(server.processes())), signal.SIGKILL)


def disturbed(
    server: Server,
    what: str,
    count: int,
    disturb: Callable[[int], None],
    killing: bool = False,
    scripts: Sequence[str] = (WSGI,),
) -> Iterator[str]:
    """`disturb(number)` so often under load: a line, what was wrong, and how the parent grows."""
    kills: list[float] = []
    seen: list[dict[str, int]] = []
    with Load(server, scripts) as load:
        for number in range(count):
            kills += [time.monotonic()] * killing
            disturb(number)
            time.sleep(random.expovariate(1 / PAUSE))
            until(server.processes, "there are children")
            seen.append(sizes([server.pid]))
    yield from load.report(f"{count} {what}", kills)
    yield from growth("the parent's", seen, "each", PARENTS)


# --- Children that stay ------------------------------------------------------------------------------


class Kept:
    """CLIENTS kept-alive connections that ask for a page in turn."""

    REQUEST = b"GET /page.html HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, port: int, stack: ExitStack) -> None:
        place = "127.0.0.1", port
        self.socks = [
            stack.enter_context(socket.create_connection(place, WITHIN)) for _ in range(CLIENTS)
        ]
        self.done = 0

    def until_done(self, count: int) -> None:
        """Raises OSError, and TimeoutError for an answer that is not 200."""
        while self.done < count:
            for sock in self.socks:
                sock.sendall(self.REQUEST)
            for sock in self.socks:
                if not (answer := sock.recv(65536)).startswith(b"HTTP/1.1 200 "):
                    raise TimeoutError(f"not 200: {answer[:80]!r}")
            self.done += CLIENTS

    still = nullcontext


def steady(server: Server, what: str, load: Load | Kept, count: int) -> Iterator[str]:
    """`count` requests of a load; how the parent and the children grow."""
    parent, children = [], []
    first = load.done
    for step in range(1, STEPS + 1):
        load.until_done(first + count * step // STEPS)
        with load.still():
            until(lambda: not any(map(server.scoreboard().count, "RWLC")), "idle workers")
            parent.append(sizes([server.pid]))
            children.append(sizes(server.processes()))
    each = f"each {count // STEPS:,} {what}"
    yield from growth("the parent's", parent, each, PARENTS)
    yield from growth("the children's", children, each, WORKERS * CLIENTS)


def posted(server: Server, what: str, script: str, count: int) -> Iterator[str]:
    """`count` posts to a script: a line, what was wrong, and what grows."""
    with Load(server, (script,)) as load:
        lines = list(steady(server, what, load, count))
    yield from (*load.report(what), *lines)


# --- All of it ---------------------------------------------------------------------------------------


def soaked(
    mpm: str, restarts: int, kills: int, requests: int, posts: int, kept: int, seed: int = 0
) -> Iterator[str]:
    """Everything for one MPM, line by line as it is known."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-soak-") as where, ExitStack() as stack:
        site, conf = Path(where, "site"), Path(where, "httpd.conf")
        site.mkdir()
        hosts = make_site(site)
        (site / "page.html").write_text("a page\n")
        (site / "echo.cgi").write_text(CGI)
        (site / "echo.cgi").chmod(0o755)
        conf.write_text(good := CONF.format(site, where))
        over_tls = partial(launch, mpm, conf=conf, document_root=site, tls=True)
        stack.enter_context(Backend(f"{where}/backend", None))  # type: ignore[arg-type]
        with over_tls() as server:
            again, scripts = partial(restart, server, conf, good), (*[WSGI] * 8, *OTHERS)
            yield from disturbed(server, "restarts", restarts, again, scripts=scripts)
            yield from clean(server)
        with launch(mpm, conf=hosts, document_root=site) as server:
            yield from disturbed(server, "kills", kills, partial(kill, server), killing=True)
            yield from fuzzed(server.port, requests, seed)
            yield from clean(server)
        with launch(mpm, conf=hosts, document_root=site, tls=True) as server:
            yield from fuzzed(server.port, requests // 20, seed, server.certificate)
            yield from clean(server)
        with launch(mpm, document_root=site, **STAYING[mpm]) as server:
            yield from posted(server, "posts", WSGI, posts)
            with ExitStack() as socks:
                asking = Kept(server.port, socks)
                lines = list(steady(server, "kept-alive requests", asking, kept))
            yield from (f"kept alive: {asking.done:,} requests", *lines)
            yield from clean(server)
        with over_tls(**STAYING[mpm]) as server:
            for script in (WSGI, *OTHERS):
                yield from posted(server, f"posts over TLS to {script}", script, posts // 4)
            yield from clean(server)


def clean(server: Server) -> Iterator[str]:
    """Wait until all workers are idle; what is WRONG in the error log."""
    until(lambda: set("".join(server.scoreboard().letters.values())) <= {*"_."}, "idle slots")
    if "Traceback" in (log := server.error_log()):
        yield f"WRONG: {log[log.index('Traceback') :][:2000]}"


def main(argv: Sequence[str]) -> int:
    """0: nothing was wrong. 1: something was, and is printed after WRONG."""
    parser = Parser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "--mpm", action="append", choices=MPMS, help="several times; else all of them"
    )
    counts = {"restarts": 50, "kills": 100, "requests": 20_000, "posts": 20_000, "kept": 200_000}
    for name, count in counts.items():
        parser.add_argument(
            f"--{name}", type=int, default=count, metavar="N", help=f"else {count:,}"
        )
    parser.add_argument(
        "--hours", type=float, default=0, metavar="H", help="again until these are over"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the bytes; the next round has the next"
    )
    args = parser.parse_args(argv)
    end, seed, wrong = time.monotonic() + 3600 * args.hours, args.seed, False
    chosen = {name: getattr(args, name) for name in counts}
    while seed == args.seed or time.monotonic() < end:
        for mpm in args.mpm or MPMS:
            for line in soaked(mpm, **chosen, seed=seed):
                print(f"{mpm:8} {line}", flush=True)
                wrong |= line.startswith("WRONG")
        seed += 1
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
