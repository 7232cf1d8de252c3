"""How many pages of memory one request touches, counted from outside, under prefork.

    python -m benchmarks.touched_pages [--also httpd floor]

A process that runs after sixty others finds little of its memory in the CPU's caches:
every page that it touches has to be looked up again, and every line fetched. So the number of pages
shows how much a request's cost rises when many processes take turns.

The kernel marks a page when it is touched. /proc/PID/clear_refs clears the marks, and after one
request on a kept-alive connection /proc/PID/smaps has their number (Referenced, proc(5)):

    program     in read-only mappings of the program and its libraries; all processes share
                these, so one may find pages warm that another has used
    data        in writable mappings: mostly the process's own pages

A second table has each child's own pages, by mapping.

CLIENTS connections are kept by as many children, and send in turn. It takes that many: a CPU
that returns to a process soon still knows its pages, looks nothing up, and leaves no marks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import mpmkit
from benchmarks.baseline import Baseline
from benchmarks.usage import usage
from mpmkit.config.arguments import Parser
from mpmkit.load.response import ResponseReader
from mpmkit.measure import records
from mpmkit.measure.competitors import SAMPLE_SITE
from mpmkit.measure.experiment import OURS
from mpmkit.measure.procfs import mappings, members
from mpmkit.measure.reference_servers import Httpd, NotInstalled

OTHERS: dict[str, Any] = {"httpd": Httpd, "floor": Baseline}
CLIENTS = 32
DIRECTIVES: dict[str, Any] = {
    "StartServers": CLIENTS, "MinSpareServers": 1, "MaxSpareServers": CLIENTS,
    "MaxRequestWorkers": CLIENTS, "KeepAliveTimeout": 60, "MaxKeepAliveRequests": 0,
}  # fmt: skip
WARM = 40  # requests to each child before the first that counts: bytecode is specialised by then
ROUNDS = 5
WITHIN = 5.0  # seconds in which an answer must come, and the child fall asleep
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
REQUEST = (
    b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n"
    b"User-Agent: mpmkit\r\n\r\n"
)


class Pages(NamedTuple):
    """Pages touched, in mappings that are only read and in those that may be written."""

    program: int
    data: int


class NotCounted(RuntimeError):
    """The pages of a server could not be counted; the message says why."""


def referenced(smaps: str) -> Pages:
    """The pages that a /proc/PID/smaps says were touched since the marks were taken away."""
    program = data = 0
    for mapping in mappings(smaps):
        touched = mapping.kb["Referenced"] // PAGE_KB
        if "w" in mapping.permissions:
            data += touched
        else:
            program += touched
    return Pages(program, data)


def owned(smaps: str) -> Counter[str]:
    """KiB of a process's own pages by their owner: a file's data, malloc's heap, arenas, stack."""
    found: Counter[str] = Counter()
    for mapping in mappings(smaps):
        found[os.path.basename(mapping.name) or "arenas"] += mapping.kb["Private_Dirty"]
    return +found


def measure(url: str, group: int) -> list[Pages]:
    """What one request touched in each child, in each of ROUNDS; `group` is the server's process group.

    Raises NotCounted if it hasn't a child for each client, or does not answer.
    """
    address = urlsplit(url)
    address, found = urlsplit(url), []
    place = address.hostname, address.port
    with contextlib.ExitStack() as stack:
        try:
            clients = [
                stack.enter_context(socket.create_connection(place, WITHIN)) for _ in range(CLIENTS)
            ]
            for _ in range(WARM):
                _ask(clients)
            children = [pid for pid in members(group) if pid != group]
            if len(children) != CLIENTS:
                raise NotCounted(f"the server has {len(children)} children for {CLIENTS} clients")
            for _ in range(ROUNDS):
                slept = {child: usage([child]).voluntary for child in children}
                for child in children:
                    Path(f"/proc/{child}/clear_refs").write_text("1")
                _ask(clients)
                for child in children:
                    _until_asleep(child, slept[child])
                    found.append(referenced(Path(f"/proc/{child}/smaps").read_text()))
        except OSError as error:
            raise NotCounted(error.strerror or str(error)) from None
    return found


def _ask(clients: Sequence[socket.socket]) -> None:
    """One request by each, one after the other, and its whole answer."""
    for client in clients:
        client.sendall(REQUEST)
        reader, verdict = ResponseReader(), None
        while verdict is None:
            data = client.recv(65536)
            if not data:
                raise NotCounted("the server closed a connection that it should keep alive")
            verdict = reader.feed(data)
        if verdict[0] is not None:
            raise NotCounted(f"an answer that was not expected: {verdict[0]}")


def _until_asleep(child: int, slept: int) -> None:
    """Until the child has gone to sleep once more than `slept` times: its request is all done."""
    end = time.monotonic() + WITHIN
    while usage([child]).voluntary <= slept:
        if time.monotonic() > end:
            raise NotCounted(f"process {child} did not wait for its next request")
        time.sleep(0.001)


def table(found: dict[str, list[Pages]]) -> str:
    """As text: medians over children and rounds."""
    lines = [f"{'server':<10}{'program':>9}{'data':>7}{'together':>10}{'KiB':>8}"]
    for name, requests in found.items():
        program = statistics.median(pages.program for pages in requests)
        data = statistics.median(pages.data for pages in requests)
        both = statistics.median(map(sum, requests))
        lines.append(f"{name:<10}{program:>9.0f}{data:>7.0f}{both:>10.0f}{both * PAGE_KB:>8,.0f}")
    lines.append(
        f"pages that one kept-alive request touches in a prefork child; medians of "
        f"{CLIENTS} children in {ROUNDS} rounds"
    )
    return "\n".join(lines)


def owners_table(found: dict[str, list[Counter[str]]]) -> str:
    """As text: medians over children, the largest first."""
    lines = [f"{'server':<10}{'KiB of its own':>15}   by owner"]
    for name, children in found.items():
        owners = set().union(*children)
        medians = {owner: statistics.median(one[owner] for one in children) for owner in owners}
        ranked = sorted(medians, key=lambda owner: -medians[owner])
        parts = ", ".join(f"{owner} {medians[owner]:,.0f}" for owner in ranked if medians[owner])
        total = statistics.median(one.total() for one in children)
        lines.append(f"{name:<10}{total:>15,.0f}   {parts}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.touched_pages`; returns the exit status."""
    parser = Parser(
        prog="python -m benchmarks.touched_pages", description=__doc__.partition("\n")[0]
    )
    also = "the real httpd; the least work of a Python server"
    parser.add_argument("--also", nargs="+", choices=OTHERS, default=[], help=also)
    found: dict[str, list[Pages]] = {}
    own: dict[str, list[Counter[str]]] = {}
    name = OURS
    try:
        for name in (OURS, *parser.parse_args(argv).also):
            with (
                mpmkit.launch("prefork", access_log=True, **DIRECTIVES)
                if name == OURS
                else OTHERS[name]("prefork", document_root=SAMPLE_SITE, **DIRECTIVES)
            ) as server:
                found[name] = measure(server.url, server.pid)
                children = set(members(server.pid)) - {server.pid}
                own[name] = [owned(Path(f"/proc/{pid}/smaps").read_text()) for pid in children]
    except (NotInstalled, NotCounted) as error:
        print(f"mpmkit: {name}: {error}", file=sys.stderr)
        return 1
    print(table(found))
    print(owners_table(own))
    print(f"measured on {records.machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
