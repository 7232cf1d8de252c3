"""Memory per request model: what a busy request and an idle connection cost, under each MPM.

    table = memory_table(("prefork", "event"))
    print(table.text())
    print(mpmkit.max_request_workers_for("4GiB", mpm="event", memory=table))

How it measures, and why:

* **From outside, while the load is on**: `/proc/PID/smaps` of every process of the server, three
  times for each figure, of which the middle one counts. The server does not know.
* **Busy** is a request of which half is sent (`load/connections.py`): a worker reads it and waits, under any
  MPM and in the real httpd, without a script and without a clock. `RequestReadTimeout` and `Timeout`
  are set so that no connection is closed. Before it is looked at, the same number of requests was held
  and finished once, so that each of those workers has served `path`: what an application allocates
  is there.
* **Idle** is a kept-alive connection after its first answer. prefork and worker hold one for each of
  their workers and no more: the table says how many were answered.
* **A fresh server for each level**, started with as many children as idle maintenance would end
  up with (StartServers; busy plus the spare ones). A pool that grows doubles every second and goes too
  far, and would then take a second for each child to shrink.
* **PSS adds up, RSS does not.** All children map the same libraries, and share their parent's pages
  until they write to them. RSS counts such a page once for each of them.
* **What PSS does not hold**: page tables (a column of their own) and sockets, which are the kernel's
  (`slab_kb` is the whole machine's, and on one machine the client's end is in it as well).

The cost of one more is the slope of a straight line through the levels (`sizing.py`), with its
interval.
"""

from __future__ import annotations

import argparse
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.config.extras import require
from mpmkit.load.holder import HoldingProcess
from mpmkit.load.preflight import descriptors
from mpmkit.measure import command, competitors
from mpmkit.measure.experiment import (
    OURS,
    Conditions,
    OnProgress,
    Report,
    duration,
    is_gone,
    last_words,
    run,
)
from mpmkit.measure.memory_plan import Level, descriptors_for, plan, start_servers
from mpmkit.measure.memory_table import AGAINST, MemoryTable
from mpmkit.measure.procfs import members, read_smaps, slab_kb, status_numbers
from mpmkit.measure.records import Row
from mpmkit.measure.sizing import max_request_workers_for, room_for
from mpmkit.measure.smaps import Footprint

if TYPE_CHECKING:
    import pandas

__all__ = ["MemoryTable", "max_request_workers_for", "memory_of", "memory_table"]

STEADY = (
    1.5  # seconds without a new or ended process or thread: longer than the parent's one second
)
SETTLED_WITHIN = 15.0
SAMPLES, BETWEEN = 3, 0.2  # smaps are read so often, so many seconds apart


# -- one server, now -----------------------------------------------------------------------------


def memory_of(server: Any) -> pandas.DataFrame:
    """The memory of each process of a running server, as it is now; sizes in KiB, parent first.

    server: what `mpmkit.launch` or a reference server gives (it has a `.pid`), or a pid. The columns are pid,
    role, threads, pss, uss, rss, swap, and the kinds that pss is made of. Raises ValueError if it
    does not run.
    """
    pandas = require("pandas")

    pid = server if isinstance(server, int) else server.pid
    rows = [
        {
            "pid": one,
            "role": "parent" if one == pid else "child",
            "threads": threads,
            **vars(memory),
            "page_tables": tables,
        }
        for one, memory, threads, tables in processes_of(pid)
    ]
    if not rows:
        raise ValueError(f"no server runs with process {pid}")
    return pandas.DataFrame(rows)


def processes_of(pid: int) -> list[tuple[int, Footprint, int, int]]:
    """(pid, memory, threads, KiB of page tables) of a server's living processes, parent first."""
    found = []
    for one in sorted(members(pid), key=lambda each: (each != pid, each)):
        memory, numbers = read_smaps(one), status_numbers(one)
        if memory is not None and numbers:
            found.append((one, memory, numbers.get("Threads", 1), numbers.get("VmPTE", 0)))
    return found


def settle(pid: int) -> None:
    """Wait until a server has neither started nor ended a process or thread for STEADY seconds."""
    until = time.monotonic() + SETTLED_WITHIN
    last, since = None, time.monotonic()
    while time.monotonic() < until:
        now = tuple((one, status_numbers(one).get("Threads", 0)) for one in sorted(members(pid)))
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= STEADY:
            return
        time.sleep(0.1)


def sample(pid: int) -> dict[str, dict[str, int]]:
    """scope -> the memory columns of a record, for the whole server, its parent, its median child.

    Empty if the server has ended.
    """
    looks = []
    for number in range(SAMPLES):
        if number:
            time.sleep(BETWEEN)
        looks.append(processes_of(pid))
    looks = [look for look in looks if look]
    if not looks:
        return {}
    looks.sort(key=lambda look: sum(memory.pss for _, memory, *_ in look))
    look = looks[len(looks) // 2]
    found = {"server": _columns(look)}
    children = sorted((one for one in look if one[0] != pid), key=lambda one: one[1].pss)
    if any(one[0] == pid for one in look):
        found["parent"] = _columns([one for one in look if one[0] == pid])
    if children:
        found["child"] = _columns([children[len(children) // 2]])
    return found


def _columns(look: Sequence[tuple[int, Footprint, int, int]]) -> dict[str, int]:
    total = sum((memory for _, memory, *_ in look), Footprint())
    return {
        "processes": len(look),
        "threads": sum(threads for *_, threads, _ in look),
        **{f"{name}_kb": value for name, value in vars(total).items()},
        "page_tables_kb": sum(tables for *_, tables in look),
    }


# -- measuring -----------------------------------------------------------------------------------


def memory_table(
    mpms: str | Iterable[str] = MPMS,
    against: str | Iterable[str] = AGAINST,
    *,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] | None = None,
    **asked: Any,
) -> MemoryTable:
    """Measure memory against busy requests and idle kept-alive connections; minutes at the demo scale.

    mpms: of prefork, worker, event. against: of "busy", "idle".
    out: a CSV file to which each level's rows are appended as soon as they are measured.
    on_progress, say: as in `qps_table`.

    asked (all of it optional):

    * busy: numbers of requests being served at once, 0 to MaxRequestWorkers; idle: numbers of
      kept-alive connections, 0 to 20,000; by default what the scale says.
    * rounds: 1 to 100. scale: smoke, demo, full; by default the environment's MPMKIT_SCALE, or demo.
    * also: other servers to measure as well: "httpd" against both, "nginx" against idle connections,
      or ("all",). One that is missing is left out and named.
    * document_root, path: your pages, and the one that is asked for before anything is looked at; the
      other servers serve the samples. directives: over the article's blocks, {name: value}.

    Raises ValueError for a bad argument (with all problems) and RecordError for a bad file, both
    before anything starts; `experiment.ExperimentError` if a server fails, `experiment.Interrupted`
    (a KeyboardInterrupt) on Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(mpms, against, **asked)
    here, missing = competitors.installed(todo.also)
    names = {OURS, *(one.server for one in here)}
    cells = [cell for cell in todo.cells() if cell.server in names]
    table = MemoryTable([], planned=len(cells), left_out=missing, scale=todo.scale)
    file = table.keep_in(out)

    def measure(cell: Level, report: Report) -> Iterator[list[Row]]:
        report(f"round {cell.round}, {cell.label}, {cell.level:,} {cell.against}", 0.0)
        yield _measure_level(cell, table, todo.path)

    return run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def _measure_level(cell: Level, table: MemoryTable, path: str) -> list[Row]:
    """One server with so many requests or connections: its rows."""
    directives = dict(cell.directives)
    if cell.against == "busy" or cell.stands_for != "event":
        directives["StartServers"] = start_servers(cell.stands_for, directives, cell.level)
    conditions = Conditions(table, cell)
    with descriptors(descriptors_for(cell)), cell.start(cell.stands_for, **directives) as server:
        try:
            found, held, slab = _look(cell, server, path)
        except RuntimeError as error:
            words = last_words(server) if is_gone(server) else ""
            raise RuntimeError(f"{error}{words}") from None
    shared = {"against": cell.against, "level": cell.level, "held": held, "steal": None}
    return [
        conditions.row(
            directives,
            **shared,
            **columns,
            scope=scope,
            slab_kb=slab if scope == "server" else None,
        )
        for scope, columns in found.items()
    ]


def _look(cell: Level, server: Any, path: str) -> tuple[dict[str, dict[str, int]], int, int | None]:
    """Bring a server to a level and look at it: (`sample`'s figures, held, slab_kb)."""
    path = path if cell.server == OURS else "/index.html"
    _look_at_page(server.url, path)
    mode = "half-sent" if cell.against == "busy" else "idle"
    if mode == "half-sent" and cell.level:
        with HoldingProcess(server.url, mode, path=path) as first:
            first.hold(cell.level)
            first.finish()
    with HoldingProcess(server.url, mode, path=path) as holding:
        said = holding.hold(cell.level)
        if said["error"]:
            raise RuntimeError(f"{cell.level:,} {cell.against}: {said['error']}")
        settle(server.pid)
        found, slab = sample(server.pid), slab_kb()
        if not found:
            raise RuntimeError(f"{cell.label} ended with {cell.level:,} {cell.against}")
        return found, min(cell.level, holding.held()), slab


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


def _look_at_page(url: str, path: str) -> None:
    """Ask for the page once. Raises RuntimeError if it is not there."""
    try:
        with _OPENER.open(url + path, timeout=30) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(
                f"{path} answers with status {error.code}; give a page that is there"
            ) from None
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"{url}{path} did not answer: {error}") from None


# -- the command line ----------------------------------------------------------------------------


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part.replace("_", "")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers like 0,50,100, not {text!r}"
        ) from None


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit memory",
        description="Measure what a busy request and an idle connection cost under each MPM, and say "
        "how many workers a machine has room for.",
    )
    add = parser.add_argument
    add("--against", action="append", metavar="WHAT", help="busy, idle (both)")
    add("--busy", type=_whole_numbers, metavar="N,N", help="busy levels")
    add("--idle", type=_whole_numbers, metavar="N,N", help="idle levels")
    add("--path", default="/index.html", help="the page to serve first")
    ram = "say the MaxRequestWorkers for a machine with that much memory, like 4GiB"
    add("--ram", metavar="SIZE", help=ram)
    reserve = "of it, not for the server (20%%, at least 256 MiB)"
    add("--reserve", metavar="SIZE", help=reserve)
    names = ("--mpm", "--rounds", "--scale", "--also", "--document-root", "--directive", "--out")
    command.add_options(parser, *names)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit memory``: tables on standard output, progress and errors on standard error.
    The exit status is that of `command.execute`; 1 as well if no size can be said."""
    options = _parser().parse_args(argv)
    mpms = command.mpms(options)
    given: dict[str, str] = {}

    def measure(bar: OnProgress) -> MemoryTable:
        given.update(command.directives(options.directive))
        names = ("busy", "idle", "rounds", "scale", "document_root", "path")
        asked: dict[str, Any] = {
            **{name: getattr(options, name) for name in names},
            "against": AGAINST if options.against is None else command.listed(options.against),
            "also": command.listed(options.also),
            "directives": given,
        }
        todo = plan(mpms, **asked)
        if options.ram is not None:
            room_for(options.ram, options.reserve)
        elif options.reserve is not None:
            raise ValueError("reserve: it is a part of --ram; give both")
        command.say(f"{len(todo.cells())} levels, about {duration(todo.seconds)}")
        out = command.out_of(options, command.new_name("memory"))
        return memory_table(mpms, **asked, out=out, on_progress=bar, say=command.say)

    status, table = command.execute(measure, MemoryTable.text)
    for mpm in mpms if options.ram and table is not None and table.records else ():
        try:
            sizing = max_request_workers_for(
                options.ram,
                mpm=mpm,
                memory=table,
                reserve=options.reserve,
                threads_per_child=int(given.get("ThreadsPerChild", 25)),
            )
            print(f"\n{sizing}")
        except ValueError as error:
            command.say(str(error))
            status = status or 1
    return status
