"""Does anything grow, get stuck or answer the wrong client? Each MPM under load, restarts, kills and any bytes.

    python -m benchmarks.soak [--mpm event] [--restarts 50] [--kills 100] [--requests 20000]
                              [--hours 2] [--seed 0]

Clients post bodies of any length to a script that answers with what it was given, while the server is
restarted gracefully and random children are killed. A request may fail only if a child was killed while it
was on its way. Then come connections of any bytes: well-formed requests cut anywhere, some with a wrong
byte, some with a request in their body. Each has an id of its own, which no other client may get to see.
After each restart and kill the parent's memory, descriptors and threads are read; the slopes, with their
95% intervals, are those of the second half. Loopback only. It takes some minutes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.socket_fuzz import CLIENTS, WITHIN, fuzzed, make_site
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.launcher import Server, launch
from mpmkit.measure import procfs
from mpmkit.measure.sizing import slope

PAUSE = 0.1  # seconds between two restarts or kills, on average


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {WITHIN:g} s: {what}")
        time.sleep(0.01)


# --- Restarts and kills ------------------------------------------------------------------------------


class Load:
    """Clients in threads for the length of a `with` block; when what failed was on its way."""

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self.ended = threading.Event()
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

    def _client(self, number: int) -> None:
        source = random.Random(number)
        connection, kept = HTTPConnection("127.0.0.1", self.port, timeout=WITHIN), False
        while not self.ended.is_set():
            unique, body = source.randbytes(8).hex(), source.randbytes(source.randrange(20_000))
            began = time.monotonic()
            try:
                connection.request("POST", f"/echo.py?{unique}", body)
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, HTTPException):
                self.lost.append((began, time.monotonic(), kept))
                kept = False
            else:
                self.done += 1
                if text != f"id={unique} {len(body)} {zlib.crc32(body)}":
                    self.wrong.append(f"{answer.status} {text[:80]!r}")
                kept = not answer.will_close and source.random() < 0.9
            if not kept:
                connection.close()
        connection.close()

    def result(self, kills: Sequence[float]) -> tuple[str, int]:
        """A line, and how many requests failed although no child was killed meanwhile. A kept connection may
        have been closed just before its next request: a client has to ask again then (RFC 9112, 9.3.1)."""
        alone = [kept for a, b, kept in self.lost if not any(a - 0.1 < kill < b for kill in kills)]
        failed = len(alone) - sum(alone)
        killed = (
            f"{len(self.lost) - len(alone)} cut by kills, {sum(alone)} asked again, {failed} failed"
        )
        return f"{self.done:,} requests, {killed}, {len(self.wrong)} wrong", failed


def parent_of(server: Server) -> dict[str, int]:
    numbers = procfs.status_numbers(server.pid)
    descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
    return {"KiB": numbers["RssAnon"], "descriptors": descriptors, "threads": numbers["Threads"]}


def restart(server: Server) -> None:
    last = server.scoreboard().snapshot.generation
    server.graceful()
    until(lambda: server.scoreboard().snapshot.generation > last, "restarted")


def disturbed(server: Server, what: str, count: int) -> Iterator[str]:
    """Restarts or kills under load: a line, and what was wrong."""
    kills: list[float] = []
    seen: list[dict[str, int]] = []
    with Load(server) as load:
        for number in range(count):
            if what == "restarts":
                restart(server)
            else:
                kills.append(time.monotonic())
                with suppress(ProcessLookupError):  # a spare one that has just retired
                    os.kill(random.Random(number).choice(server.processes()), signal.SIGKILL)
            time.sleep(random.expovariate(1 / PAUSE))
            until(server.processes, "there are children")
            seen.append(parent_of(server))
    text, failed = load.result(kills)
    yield f"{count} {what}: {text}"
    yield from (f"WRONG: {one}" for one in load.wrong[:3])
    if failed:
        yield f"WRONG: {failed} requests failed"
    half = seen[len(seen) // 2 :]
    for unit in half[0] if len(half) > 2 else ():
        values = [one[unit] for one in half]
        line = slope(range(len(half)), values)
        interval = f"{line.slope:+.2f} each ({line.low:+.2f} to {line.high:+.2f})"
        # Certainly up, and by more than the pages that malloc happens to take.
        grows = line.low > 0 and values[-1] - values[0] > (256 if unit == "KiB" else 0)
        yield f"{'WRONG: ' * grows}the parent's {unit}: {values[-1]:,}, {interval}"


# --- All of it ---------------------------------------------------------------------------------------


def soaked(mpm: str, restarts: int, kills: int, requests: int, seed: int = 0) -> Iterator[str]:
    """Everything for one MPM, line by line as it is known."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-soak-") as where:
        conf = make_site(Path(where))
        with launch(mpm, conf=conf, document_root=where) as server:
            yield from disturbed(server, "restarts", restarts)
            yield from disturbed(server, "kills", kills)
            yield from fuzzed(server.port, requests, seed)
            yield from left_in(server)
        with launch(mpm, conf=conf, document_root=where, tls=True) as server:
            yield from fuzzed(server.port, requests // 20, seed, server.certificate)
            yield from left_in(server)


def left_in(server: Server) -> Iterator[str]:
    """Every slot is idle in the end, and no traceback is in the log."""
    until(lambda: set("".join(server.scoreboard().letters.values())) <= {*"_."}, "idle slots")
    if "Traceback" in (log := server.error_log()):
        yield f"WRONG: {log[log.index('Traceback') :][:2000]}"


def main(argv: Sequence[str]) -> int:
    """0: nothing was wrong. 1: something was, and is printed after WRONG."""
    parser = Parser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "--mpm", action="append", choices=MPMS, help="several times; else all of them"
    )
    for name, count in (("restarts", 50), ("kills", 100), ("requests", 20_000)):
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
    while seed == args.seed or time.monotonic() < end:
        for mpm in args.mpm or MPMS:
            for line in soaked(mpm, args.restarts, args.kills, args.requests, seed):
                print(f"{mpm:8} {line}", flush=True)
                wrong |= line.startswith("WRONG")
        seed += 1
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
