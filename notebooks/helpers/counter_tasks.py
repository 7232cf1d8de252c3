"""E5: a counter in a script, fixed by the student, and tried on a server.

    locked = counter_tasks.locked("ada")
    print(locked)                    the script that loses requests
    locked.check(SCRIPT)             starts a server, lets clients come, and looks at what they got

A script has to count each request once, still make its page, and keep its rate.
"""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers import checks, regimes
from helpers.checks import NotYet
from helpers.tasks import Task, dice

import mpmkit
from mpmkit.measure.monitor import Watch

SCRIPTS = 'AddHandler wsgi-script ".py"'
OK = (
    'start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])'
)
WORK = 0.02  # seconds that a page takes
ASKED = 6  # requests of each client
KEPT = 0.7  # share of the rate that has to be left
COUNTER = f"""import time

count = 0

def application(environ, start_response):
    global count
    seen = count
    time.sleep({WORK})       # the page is made: a query to a database
    count = seen + 1
    body = str(count).encode()
    {OK}
    return [body]
"""
IN_ONE_PROCESS = f"""import threading, time

count, lock = 0, threading.Lock()

def application(environ, start_response):
    global count
    time.sleep({WORK})       # the page is made: a query to a database
    with lock:
        count += 1
        body = str(count).encode()
    {OK}
    return [body]
"""


@contextlib.contextmanager
def folder(**files: str) -> Iterator[Path]:
    """A folder to serve, with an index.html and NAME.py for each name; children may write into it."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        place = Path(name)
        place.chmod(0o777)  # servers started by root change their user
        (place / "index.html").write_text("<p>small\n")
        for one, text in files.items():
            (place / f"{one}.py").write_text(text)
        yield place


def _ask(url: str, path: str, many: int) -> tuple[list[bytes], list[float]]:
    """The bodies of so many requests on one connection, and the seconds of each. Raises NotYet for another
    status than 200."""
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    bodies, seconds = [], []
    try:
        for _ in range(many):
            began = time.monotonic()
            client.request("GET", path)
            reply = client.getresponse()
            bodies.append(reply.read())
            seconds.append(time.monotonic() - began)
            if reply.status != 200:
                raise NotYet(f"the script answers {reply.status}: run it in a cell first")
    finally:
        client.close()
    return bodies, seconds


def _turn(url: str, path: str, clients: int) -> tuple[list[bytes], float, float]:
    """All clients at once: every body, the seconds of all, and the shortest request."""
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        parts = [*pool.map(lambda _: _ask(url, path, ASKED), range(clients))]
    took = time.monotonic() - began
    return (
        [body for bodies, _ in parts for body in bodies],
        took,
        min(min(seconds) for _, seconds in parts),
    )


def _counts(script: Any, mpm: str, workers: int, given: str) -> str:
    """Whether a script counts each request once on a server with so many workers, at the rate of `given`."""
    if not isinstance(script, str):
        raise checks.asked_for("the text of a script", script)
    compile(script, "counter.py", "exec")
    with (
        folder(given=given, yours=script) as root,
        mpmkit.launch(
            mpm, document_root=root, directives=SCRIPTS, **regimes.pool(mpm, workers)
        ) as server,
    ):
        with Watch(server, every=0.05) as seen:
            seen.until(lambda sample: sample.idle == workers)
        bodies: list[bytes] = []
        times: dict[str, list[float]] = {"given": [], "yours": []}
        for path in ("given", "yours") * 2:  # in turns: a busy minute meets both
            found, took, shortest = _turn(server.url, f"/{path}.py", workers)
            times[path].append(took)
            if path == "yours":
                bodies += found
                if shortest < 0.9 * WORK:
                    raise NotYet(
                        f"an answer came after {1000 * shortest:.0f} ms: the page is not made any more "
                        f"(that takes {1000 * WORK:.0f} ms)"
                    )
    _all_different(bodies)
    kept = min(times["given"]) / min(times["yours"])
    if kept < KEPT:
        raise NotYet(
            f"every request is counted, but the rate is {kept:.0%} of what it was: what do the others wait "
            "for while one makes its page?"
        )
    return f"{len(bodies)} requests, {len(bodies)} different counts, and {kept:.0%} of the rate is left"


def _all_different(bodies: list[bytes]) -> None:
    """Raises NotYet unless the bodies are consecutive numbers."""
    try:
        counts = sorted(int(body) for body in bodies)
    except ValueError:
        shown = next(body for body in bodies if not body.strip().isdigit())
        raise NotYet(f"the body has to be the count, not {shown[:40]!r}") from None
    if len(set(counts)) < len(counts):
        lost = len(counts) - len(set(counts))
        raise NotYet(
            f"{lost} of {len(counts)} requests got a count that another request had got, too"
        )
    if counts[-1] - counts[0] != len(counts) - 1:
        raise NotYet(f"{len(counts)} requests, but the counts go from {counts[0]} to {counts[-1]}")


def locked(student: str) -> Task:
    """A counter of one process of worker that loses no request and keeps its rate."""
    threads = dice("locked", student).randint(6, 12)
    text = (
        f"This script loses requests under worker with {threads} threads. Change it so that each request gets "
        f"a count of its own, and at least {KEPT:.0%} of the rate is left. The page still has to be made, and "
        f"{1000 * WORK:.0f} ms is what it takes.\n\n{COUNTER}"
    )
    return Task(
        "locked", text, {"threads": threads}, lambda one: _counts(one, "worker", threads, COUNTER)
    )


def across(student: str) -> Task:
    """The same under prefork: one count for all processes."""
    processes = dice("across", student).randint(4, 8)
    text = (
        f"Under prefork with {processes} processes this script gives the same count several times. Change it: "
        "one count for the whole server, and again the rate is kept. The script may write files into the "
        f'folder that it is in (`environ["SCRIPT_FILENAME"]` is its path).\n\n{IN_ONE_PROCESS}'
    )
    return Task(
        "across", text, {"processes": processes},
        lambda one: _counts(one, "prefork", processes, IN_ONE_PROCESS),
    )  # fmt: skip
