"""The works of the bench: the request, the client, the connections; and the target of the ratio."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks import baseline
from mpmkit.measure import published
from mpmkit.measure.experiment import OURS

# The two sides of a work with idle connections: both are ours.
HOLDING, FREE = "mpmkit-holding", "mpmkit-free"
BASELINES = {"floor": False, "floor-bare": True}  # name -> without stat and log line


class BenchError(RuntimeError):
    """The bench can't go on; the message says what to fix."""


def rotated(names: Iterable[str], number: int) -> list[str]:
    """The order of round `number`, from 1: each round begins with the next one."""
    names = list(names)
    start = (number - 1) % len(names) if names else 0
    return [*names[start:], *names[:start]]


# The article's blocks, except that a pool that has grown may stay: the servers take turns, and
# one that shrinks while another is measured would start each turn with children yet to fork.
DIRECTIVES: dict[str, dict[str, Any]] = {
    mpm: {
        name: block["MaxRequestWorkers"] if name.startswith("MaxSpare") else value
        for name, value in block.items()
    }
    for mpm, block in published.DIRECTIVES.items()
}


@dataclass(frozen=True)
class Work:
    """One piece of work: what is asked for, by which client, how.

    `share` scales the number of requests (a 10 MB file takes longer than a page), `reference_path` is
    the counterpart on the other servers' side, `php` asks for httpd prefork with mod_php as the reference.
    `held` is a number of idle kept-alive connections that event holds meanwhile; the reference is
    then event itself without them.
    """

    name: str
    what: str
    client: str  # "ab" or "wrk"
    clients: int
    keep_alive: bool
    path: str = "/index.html"
    reference_path: str | None = None
    distinct: bool = False
    share: float = 1.0
    php: bool = False
    held: int = 0

    @property
    def title(self) -> str:
        """What it is, and by which command."""
        keep = "-k " if self.keep_alive and self.client == "ab" else ""
        return f"{self.what}, {self.client} {keep}-c {self.clients}"


_PAGE, _SCRIPT = "45 B page, keep-alive", ("/hello.py", "/hello.php")
WORKS = {
    work.name: work
    for work in (
        Work("new", "45 B page, new connection each", "ab", 200, False),
        Work("keepalive", _PAGE, "ab", 64, True),
        Work("repeated", f"{_PAGE}, same head", "wrk", 64, True),
        Work("distinct", f"{_PAGE}, every head differs", "wrk", 64, True, distinct=True),
        Work("script-new", "hello script, new connection", "ab", 200, False, *_SCRIPT, php=True),
        Work("script-keepalive", "hello script, keep-alive", "ab", 64, True, *_SCRIPT, php=True),
        Work("file-100k", "100 KB file, keep-alive", "ab", 64, True, "/100k.txt", share=0.5),
        Work("file-10m", "10 MB file", "ab", 8, False, "/10m.txt", share=0.01),
        Work(
            "idle-5000", f"event alone, 5,000 idle connections: {_PAGE}", "ab", 64, True, held=5_000
        ),
    )
}
DEFAULT_WORKS = ("new", "keepalive", "repeated", "distinct")

# What a ratio has to reach: (work, versus) -> ratio. Others have no target and no verdict.
TARGETS = {
    ("new", "httpd"): 1.2,
    ("keepalive", "httpd"): 2.0,
    ("repeated", "httpd"): 2.0,
    ("distinct", "httpd"): 1.2,
    ("script-new", "httpd-php"): 1.2,
    ("script-keepalive", "httpd-php"): 1.5,
    ("file-100k", "httpd"): 1.0,
    ("file-10m", "httpd"): 0.9,
    ("keepalive", "nginx"): 0.8,
    ("repeated", "nginx"): 0.8,
    ("idle-5000", FREE): 0.9,
}
# Works whose 99th percentile must not be worse than httpd's.
P99_COUNTS = ("new",)
# What event needs to hold idle connections; for both sides.
ROOM = {"AsyncRequestWorkerFactor": 100, "KeepAliveTimeout": 600}

# requests a turn, and seconds a turn for wrk, which knows no number of requests
# (wrk takes whole seconds: one of them is 20,000 answers or more).
SCALES = {"smoke": (1_000, 0.5), "demo": (10_000, 1.0), "full": (50_000, 8.0)}


# -- the pages and who takes part ----------------------------------------------------------------


@contextlib.contextmanager
def pages() -> Iterator[Path]:
    """A document root that every server may read, whatever user it runs as."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-bench-") as name:
        root = Path(name)
        root.chmod(0o755)
        samples = resources.files("mpmkit") / "htdocs"
        for sample in ("index.html", "hello.py"):
            (root / sample).write_bytes((samples / sample).read_bytes())
        (root / "hello.php").write_text('<?php echo "hello world";')
        line = b"A line of text, sixty-four bytes long with its newline at the end.\n"[-64:]
        (root / "100k.txt").write_bytes((line * 1600)[:100_000])
        (root / "10m.txt").write_bytes((line * 160_000)[:10_000_000])
        for file in root.iterdir():
            file.chmod(0o644)
        yield root


def takes_part(server: str, work: Work) -> bool:
    """Scripts are compared with mod_php only, and everything else is not; a baseline has one page."""
    if server in BASELINES:
        return work.path == f"/{baseline.PAGE}" and not work.held
    if work.held or server in (HOLDING, FREE):
        return bool(work.held) and server in (HOLDING, FREE)
    return server == OURS or (server == "httpd-php") == work.php


def side_of_ours(work: Work) -> str:
    """The name of our server at this work."""
    return HOLDING if work.held else OURS


def path_for(server: str, work: Work) -> str:
    """The path of a work on a server."""
    return work.path if server.startswith(OURS) else work.reference_path or work.path


def runnable(works: Sequence[Work], say: Callable[[str], None], mpm: str = "event") -> list[Work]:
    """The works whose client is installed, and that are `mpm`'s. Raises BenchError if none is."""
    works = [work for work in works if mpm == "event" or not work.held]
    missing = {
        client
        for client in {work.client for work in works}
        if not shutil.which(client, path=os.environ.get("PATH", "") + ":/usr/sbin")
    }
    for client in sorted(missing):
        names = [work.name for work in works if work.client == client]
        say(f"without {', '.join(names)}: {client} is not installed")
    left = [work for work in works if work.client not in missing]
    if not left:
        raise BenchError("no client is installed; apt install apache2-utils wrk")
    return left
