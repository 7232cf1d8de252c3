"""Three crowds that take all workers: crawlers, long polls, and streams of events; each under each MPM.

    crowds.crawled()      crawlers and a person; as it is, with twice the workers, and with the crawlers denied
    crowds.held()         eight idle connections, long polls or streams for eight workers, and a newcomer
    crowds.streamed()     32 streams: with eight workers, with 32 processes, with 32 threads

Each returns plain rows with the recording of its watch. Notebook 12 shows them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers import misbehaving_clients
from helpers.regimes import WORKERS, pool, until

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure import memory
from mpmkit.measure.monitor import Watch

PAGE = 0.2  # seconds that the crawled page takes
CRAWLERS = 24
STREAMS = 32
EVERY = 0.2  # seconds between two events of a stream
LISTENS = 3.0  # seconds that a client of a stream listens
PATIENCE = 3.0  # seconds after which a newcomer gives up
SCRIPTS = {
    "page": f"""import time

def application(environ, start_response):
    time.sleep({PAGE})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"page\\n"]
""",
    "poll": """import time

def application(environ, start_response):
    time.sleep(30)              # until there is news
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"news\\n"]
""",
    "events": f"""import time

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
    for number in range(200):
        yield b"data: %d\\n\\n" % number
        time.sleep({EVERY})
""",
}
# The crawlers come from 127.0.0.1, the person from another address of this machine.
PERSON = "127.0.0.2"
DENIED = """<Location "/page.py">
    <RequireAll>
        Require all granted
        Require not ip 127.0.0.1
    </RequireAll>
</Location>
"""
KINDS = {"idle connections": "/index.html", "long polls": "/poll.py", "streams": "/events.py"}


@contextlib.contextmanager
def serving(mpm: str, conf: str = "", **named: Any) -> Iterator[tuple[Any, Watch]]:
    """A server of SCRIPTS with all its workers up, and a watch of it."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        os.chmod(name, 0o755)  # servers started by root change their user
        Path(name, "index.html").write_text("<p>small\n")
        for script, text in SCRIPTS.items():
            Path(name, f"{script}.py").write_text(text)
        if conf:
            named["conf"] = Path(name, "httpd.conf")
            named["conf"].write_text(conf)
        with (
            mpmkit.launch(mpm, document_root=name, **named) as server,
            Watch(server, every=0.1) as seen,
        ):
            seen.until(lambda sample: sample.idle == named["MaxRequestWorkers"])
            yield server, seen


def crawled(mpms: Sequence[str] = MPMS) -> list[dict[str, Any]]:
    """A row an MPM and remedy: the median wait of a person who asks for the page three times among
    CRAWLERS, each of which opens a connection for each page and pauses for a tenth of a second."""
    rows = []
    for mpm in mpms:
        for remedy in ("none", "twice the workers", "crawlers denied"):
            workers = 2 * WORKERS if remedy == "twice the workers" else WORKERS
            lines = DENIED if remedy == "crawlers denied" else ""
            with (
                serving(mpm, lines, **pool(mpm, workers)) as (server, seen),
                KeepAliveClients(
                    server.url, CRAWLERS, think=0.1, keep=False, path="/page.py"
                ) as crawlers,
            ):
                crawlers.wait(lambda crawlers=crawlers: crawlers.answered >= 2 * CRAWLERS, 10)
                seen.capture(f"{mpm}, {CRAWLERS} crawlers, remedy: {remedy}")
                asked = [person(server.port) for _ in range(3)]
                run = seen.recording()
            rows.append({"mpm": mpm, "remedy": remedy, "workers": workers,
                         "wait": statistics.median(seconds for _, seconds in asked),
                         "statuses": [status for status, _ in asked], "run": run})  # fmt: skip
    return rows


def person(port: int, path: str = "/page.py") -> tuple[int, float]:
    """(status, seconds) of one request from PERSON."""
    client = http.client.HTTPConnection("127.0.0.1", port, 30, source_address=(PERSON, 0))
    began = time.monotonic()
    try:
        client.request("GET", path, headers={"Connection": "close"})
        return client.getresponse().status, time.monotonic() - began
    finally:
        client.close()


def held(mpms: Sequence[str] = MPMS) -> list[dict[str, Any]]:
    """A row an MPM and kind of client: as many of them as there are workers, and what a newcomer meets."""
    rows = []
    for mpm in mpms:
        for kind, path in KINDS.items():
            with (
                serving(mpm, KeepAliveTimeout=20, **pool(mpm)) as (server, seen),
                KeepAliveClients(server.url, WORKERS, path=path),
            ):
                until(seen, "parked" if kind == "idle connections" else "writing", WORKERS)
                picture = seen.capture(f"{mpm}, {WORKERS} {kind}")
                answer = misbehaving_clients.ask(server.url, patience=PATIENCE)
                run = seen.recording()
            rows.append({"mpm": mpm, "kind": kind, "K": picture.count("K"), "W": picture.count("W"),
                         "idle": picture.count("_"), "status": answer["status"],
                         "wait": answer["first_byte_s"], "run": run})  # fmt: skip
    return rows


def streamed() -> list[dict[str, Any]]:
    """A row a server: how many of STREAMS clients get events, what a newcomer meets meanwhile, and MB of the
    server with all its streams (PSS)."""
    shapes = (("event", WORKERS), ("prefork", STREAMS + WORKERS), ("event", STREAMS + WORKERS))
    rows = []
    for mpm, workers in shapes:
        with (
            serving(mpm, **pool(mpm, workers)) as (server, seen),
            ThreadPoolExecutor(STREAMS) as clients,
        ):
            streams = [clients.submit(listened, server.url) for _ in range(STREAMS)]
            until(seen, "writing", min(workers, STREAMS))
            seen.capture(f"{mpm}, {workers} workers, {STREAMS} streams")
            used = float(memory.memory_of(server)["pss"].sum()) / 1024
            answer = misbehaving_clients.ask(server.url, patience=LISTENS / 3)
            events = [one.result() for one in streams]
            run = seen.recording()
        rows.append({"mpm": mpm, "workers": workers, "served": sum(map(bool, events)), "events": events,
                     "status": answer["status"], "wait": answer["first_byte_s"], "MiB": used,
                     "run": run})  # fmt: skip
    return rows


def listened(url: str, seconds: float = LISTENS) -> int:
    """How many events a client gets in so many seconds."""
    until, events = time.monotonic() + seconds, 0
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=seconds)
    try:
        client.request("GET", "/events.py")
        reply = client.getresponse()
        while time.monotonic() < until and (line := reply.readline()):
            events += line.startswith(b"data:")
    except TimeoutError:  # no worker has taken it
        pass
    finally:
        client.close()
    return events
