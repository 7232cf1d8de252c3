"""Memory per request model: what a busy request and an idle connection cost, under each MPM.

    table = memory_table(("prefork", "event"))
    print(table.text())
    print(mpmkit.max_request_workers_for("4GiB", mpm="event", memory=table))

How it measures, and why:

* **From outside, while the load is on**: `/proc/PID/smaps` of every process of the server, three
  times for each figure, of which the middle one counts. The server does not know.
* **Busy** is a request of which half is sent (`load/connections.py`): a worker reads it and waits, under any
  MPM and in the real httpd, without a script and without a clock. `RequestReadTimeout` and `Timeout`
  are set so that nobody is thrown out. Before it is looked at, the same number of requests was held
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
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError
from mpmkit.config.keywords import from_keywords
from mpmkit.load.holder import HoldingProcess
from mpmkit.load.preflight import descriptors, too_few_descriptors
from mpmkit.measure import competitors as rivals_beside
from mpmkit.measure import published, records
from mpmkit.measure.procfs import members, read_smaps, slab_kb, status_numbers
from mpmkit.measure.records import RecordError, RecordFile, Row
from mpmkit.measure.reference_servers import ServerFailed
from mpmkit.measure.sizing import Line, lines, max_request_workers_for
from mpmkit.measure.smaps import Footprint
from mpmkit.measure.text import aligned

if TYPE_CHECKING:
    import pandas

__all__ = ["MemoryTable", "max_request_workers_for", "memory_of", "memory_table"]

AGAINST = ("busy", "idle")
MOST = 20_000  # connections; as many as a load profile may have

# Nobody is thrown out while memory is looked at.
PATIENT: dict[str, Any] = {
    "KeepAlive": True,
    "KeepAliveTimeout": 600,
    "MaxKeepAliveRequests": 0,
    "Timeout": 600,
    "RequestReadTimeout": "header=0 body=0",
}


@dataclass(frozen=True)
class Scale:
    """How much is measured: busy levels as shares of MaxRequestWorkers, numbers of idle connections,
    rounds."""

    busy: tuple[float, ...]
    idle: tuple[int, ...]
    rounds: int


SCALES = {
    "smoke": Scale((0, 0.1, 0.2), (0, 20, 50), 1),
    "demo": Scale((0, 0.25, 0.5, 0.75, 1), (0, 100, 250, 1_000, 2_500), 1),
    "full": Scale(
        (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        (0, 50, 100, 250, 400, 1_000, 2_500, 5_000, 7_500, 10_000),
        3,
    ),
}

STEADY = (
    1.5  # seconds without a new or ended process or thread: longer than the parent's one second
)
SETTLED_WITHIN = 15.0
SAMPLES, BETWEEN = 3, 0.2  # smaps are read so often, so many seconds apart
SECONDS_A_LEVEL = 4.0  # about what one takes, for the estimate


class MemoryRunError(RuntimeError):
    """The measurement could not go on. `table` holds the rows finished before."""

    def __init__(self, message: str, table: MemoryTable) -> None:
        super().__init__(message)
        self.table = table


class MemoryInterrupted(KeyboardInterrupt):
    """Ctrl-C. `table` holds the rows finished before."""

    def __init__(self, table: MemoryTable) -> None:
        super().__init__("interrupted")
        self.table = table


# -- one server, now -----------------------------------------------------------------------------


def memory_of(server: Any) -> pandas.DataFrame:
    """The memory of each process of a running server, as it is now; sizes in KiB, parent first.

    server: what `mpmkit.launch` or a rival gives (it has a `.pid`), or a pid. The columns are pid,
    role, threads, pss, uss, rss, swap, and the kinds that pss is made of. Raises ValueError if it
    does not run.
    """
    import pandas

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


# -- the table -----------------------------------------------------------------------------------


@dataclass(repr=False)
class MemoryTable:
    """What was measured. records: the rows of the records table `memory` (see data/README.md).

    planned: levels that the whole measurement has. left_out: a sentence on each rival that was
    asked for and is not in the rows, or not in all.
    """

    records: list[Row]
    planned: int = 0
    run_id: str = ""
    scale: str = ""
    out: Path | None = None
    left_out: list[str] = field(default_factory=list)

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a tidy frame (the table memory of data/README.md)."""
        return records.frame(self.records, "memory")

    @property
    def measured(self) -> int:
        """Levels that have their rows."""
        return sum(row["scope"] == "server" for row in self.records)

    def lines(self, *columns: str) -> dict[tuple[str, str | None, str], Line]:
        """(server, MPM, against) -> the line through its levels: KiB of `columns` (by default pss_kb)
        against requests busy or connections idle."""
        return lines(self.records, columns or ("pss_kb",))

    def costs(self) -> pandas.DataFrame:
        """What one more costs, in KiB: a row per server, MPM and against, with base, cost (the
        slope) and its 95% interval (low, high) in PSS, cost_uss, cost_rss and cost_page_tables,
        and how much of the variation the line explains."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "server": server,
                    "mpm": mpm,
                    "against": against,
                    "base": line.base,
                    "cost": line.slope,
                    "low": line.low,
                    "high": line.high,
                    **{
                        f"cost_{name}": self.lines(f"{name}_kb")[server, mpm, against].slope
                        for name in ("uss", "rss", "page_tables")
                    },
                    "explained": line.explained,
                    "points": line.points,
                }
                for (server, mpm, against), line in self.lines().items()
            ]
        )

    def text(self) -> str:
        """The levels, the costs, and what the words mean."""
        if not self.records:
            return "no level was finished"
        parts = [
            self._levels(against)
            for against in AGAINST
            if any(row["against"] == against for row in self.records)
        ]
        return "\n\n".join([*parts, self._costs(), self._small_print()])

    def _levels(self, against: str) -> str:
        what = {"busy": "requests being served", "idle": "kept-alive connections"}[against]
        head = (
            against,
            "held",
            "processes",
            "threads",
            "PSS",
            "code",
            "heap",
            "anon.",
            "stacks",
            "shm",
            "USS",
            "RSS summed",
            "child's PSS",
        )
        groups: dict[tuple[str, str | None, int], list[Row]] = {}
        children: dict[tuple[str, str | None, int], list[Row]] = {}
        for row in self.records:
            if row["against"] == against and row["scope"] in ("server", "child"):
                where = groups if row["scope"] == "server" else children
                where.setdefault((row["server"], row["mpm"], row["level"]), []).append(row)
        out = [f"memory in MiB against {what} (child's PSS in KiB, the median child)"]
        title = None
        for (server, mpm, level), rows in groups.items():
            if (server, mpm) != title:
                title = server, mpm
                out.append("\n" + f"{server} {mpm or ''}".strip())
                out.append(
                    "  ".join(f"{word:>{width}}" for word, width in zip(head, _WIDTHS, strict=True))
                )

            def middle(column: str, some: Sequence[Row]) -> float:
                return statistics.median(row[column] for row in some)

            child = children.get((server, mpm, level), [])
            cells = [
                f"{level:,}",
                f"{middle('held', rows):,.0f}",
                f"{middle('processes', rows):,.0f}",
                f"{middle('threads', rows):,.0f}",
                *(
                    f"{middle(f'{name}_kb', rows) / 1024:,.1f}"
                    for name in ("pss", "code", "heap", "anonymous", "stacks", "shm", "uss", "rss")
                ),
                f"{middle('pss_kb', child):,.0f}" if child else "-",
            ]
            out.append(
                "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
            )
        return "\n".join(out)

    def _costs(self) -> str:
        naive, tables = self.lines("rss_kb"), self.lines("page_tables_kb")
        found = self.lines()
        if not found:
            return "one level alone has no slope"
        rows = [
            (
                "what one more costs",
                "KiB",
                "95% interval",
                "page tables",
                "base MiB",
                "summed RSS says",
            )
        ]
        for key, line in found.items():
            server, mpm, against = key
            sure = (
                f"{line.low:,.1f} to {line.high:,.1f}"
                if math.isfinite(line.high)
                else "two levels: none"
            )
            unit = {"busy": "busy request", "idle": "idle connection"}[against]
            rows.append(
                (
                    f"{server} {mpm or ''}".strip() + f", {unit}",
                    f"{line.slope:,.1f}",
                    sure,
                    f"{tables[key].slope:+,.1f}",
                    f"{line.base / 1024:,.1f}",
                    f"{naive[key].slope:,.1f}",
                )
            )
        return "\n".join(aligned(rows))

    def _small_print(self) -> str:
        row = self.records[-1]
        most = max(
            (row for row in self.records if row["scope"] == "server"),
            key=lambda row: row["rss_kb"] / max(1, row["pss_kb"]),
        )
        who = f"{most['server']} {most['mpm'] or ''}".strip()
        out = [
            (
                "held: how many the server had taken; prefork and worker keep a worker for each idle "
                "connection, and take no more than they have"
            ),
            (
                f"why RSS is not summed: a page that many processes share counts in each one's RSS; with "
                f"{most['level']:,} {most['against']}, the sum says {most['rss_kb'] / 1024:,.0f} MiB for "
                f"{who}, and {most['pss_kb'] / 1024:,.0f} MiB are in use"
            ),
            (
                "PSS: each shared page divided among those who map it; adds up. USS: a process's own "
                "pages. Page tables and sockets are the kernel's and in none of them"
            ),
            (
                "the cost is the slope of a straight line through the levels in PSS; the base, where it "
                "begins"
            ),
        ]
        out.append(f"measured on {records.Machine.of(row)}")
        if self.planned and self.measured < self.planned:
            out.append(f"NOT COMPLETE: {self.measured} of {self.planned} levels were measured")
        out += self.left_out
        if self.out is not None:
            out.append(f"rows in {self.out}")
        return "\n".join(out)

    def __repr__(self) -> str:
        return f"<MemoryTable {self.measured} levels, {len(self.records)} rows>"


_WIDTHS = (7, 7, 9, 7, 8, 7, 7, 7, 7, 6, 8, 10, 11)


# -- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """One server against one kind of load: its levels, each with a server of its own."""

    server: str
    mpm: str
    stands_for: str
    against: str
    levels: tuple[int, ...]
    directives: dict[str, Any]
    start: Callable[..., contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Plan:
    """A measurement, checked."""

    series: tuple[Series, ...]
    rounds: int
    scale: str
    path: str

    @property
    def levels(self) -> int:
        """How many figures there will be."""
        return self.rounds * sum(len(one.levels) for one in self.series)

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return self.levels * SECONDS_A_LEVEL


def plan(
    mpms: Iterable[str] = MPMS,
    against: Iterable[str] = AGAINST,
    *,
    busy: Iterable[int] | None = None,
    idle: Iterable[int] | None = None,
    rounds: int | None = None,
    scale: str | None = None,
    beside: Iterable[str] = (),
    document_root: str | os.PathLike[str] | None = None,
    path: str = "/index.html",
    directives: Mapping[str, Any] | None = None,
) -> Plan:
    """Check what is asked for. Raises ValueError with everything that is wrong with it, in one
    line."""
    problems: list[str] = []

    def chosen(
        name: str, values: Iterable[str], allowed: Sequence[str], least: int = 1
    ) -> tuple[str, ...]:
        values = (values,) if isinstance(values, str) else tuple(values)
        problems.extend(
            f"{name}: {value!r} is none of {', '.join(allowed)}"
            for value in values
            if value not in allowed
        )
        if len(values) < least:
            problems.append(f"{name}: give at least one of {', '.join(allowed)}")
        return tuple(value for value in allowed if value in values)

    def numbers(name: str, values: Iterable[int] | None) -> tuple[int, ...] | None:
        if values is None:
            return None
        found = tuple(values)
        for value in found:
            if type(value) is not int or not 0 <= value <= MOST:
                problems.append(f"{name}: must be whole numbers from 0 to {MOST:,}, not {value!r}")
                return ()
        if not found:
            problems.append(f"{name}: give at least one level")
        return tuple(sorted(set(found)))

    mpms_ = chosen("mpm", mpms, MPMS)
    against_ = chosen("against", against, AGAINST)
    beside = rivals_beside.names() if tuple(beside) == ("all",) else beside
    beside_ = chosen("beside", beside, rivals_beside.names(), 0)
    busy_, idle_ = numbers("busy", busy), numbers("idle", idle)
    scale_name = scale or os.environ.get("MPMKIT_SCALE") or "demo"
    size = SCALES.get(scale_name)
    if size is None:
        where = "scale" if scale else "MPMKIT_SCALE"
        problems.append(f"{where}: {scale_name!r} is none of {', '.join(SCALES)}")
        size = SCALES["demo"]
    if rounds is not None and (type(rounds) is not int or not 1 <= rounds <= 100):
        problems.append(f"rounds: must be a whole number from 1 to 100, not {rounds!r}")
    root = Path(document_root) if document_root is not None else rivals_beside.PAGES_OF_OURS
    if not root.is_dir():
        problems.append(f"document_root: there is no folder {root}")
    if not path.startswith("/") or not path.isascii() or any(c <= " " for c in path):
        problems.append(f"path: must begin with / and be ASCII without blanks, not {path!r}")

    series: list[Series] = []
    for mpm in mpms_:
        given = {**published.DIRECTIVES[mpm], **PATIENT, **(directives or {})}
        workers = _effective(mpm, given, problems)
        for kind in against_:
            if kind == "busy":
                levels = (
                    busy_
                    if busy_ is not None
                    else tuple(sorted({round(share * workers) for share in size.busy}))
                )
                if levels and max(levels) > workers:
                    problems.append(
                        f"busy: {max(levels):,} requests can't be busy under {mpm} with "
                        f"MaxRequestWorkers {workers}; raise it with directives, or ask "
                        "for fewer"
                    )
            else:
                levels = idle_ if idle_ is not None else size.idle
                if mpm != "event":
                    # They hold no more than they have workers; one level beyond shows it.
                    beyond = [level for level in levels if level > workers][:1]
                    levels = (*(level for level in levels if level <= workers), *beyond)
            if not levels:
                continue
            with_room = {
                **given,
                **_room_for_idle(mpm, given, max(levels) if kind == "idle" else 0),
            }
            series.append(Series("mpmkit", mpm, mpm, kind, levels, with_room, _ours(root)))
            for one in rivals_beside.contestants(beside_, mpms_):
                # Only httpd has MPMs: what a half-sent request costs the others is no worker.
                if one.stands_for == mpm and (kind == "idle" or one.mpm):
                    series.append(
                        Series(one.server, one.mpm, mpm, kind, levels, with_room, one.start)
                    )
    short = too_few_descriptors(_descriptors(series))
    if short:
        problems.append(f"levels: {short}")
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    by_hand = busy is not None or idle is not None or rounds is not None
    return Plan(tuple(series), rounds or size.rounds, "custom" if by_hand else scale_name, path)


def _descriptors(series: Iterable[Series]) -> int:
    """One for each connection, for the holder and for a server that has them all in one process."""
    return max((level for one in series for level in one.levels), default=0) + 200


def _effective(mpm: str, given: Mapping[str, Any], problems: list[str]) -> int:
    """MaxRequestWorkers as the server will have it; problems hear of what it would refuse."""
    try:
        effective, _ = check(mpm, from_keywords(mpm, **given))
        return int(effective.MaxRequestWorkers)
    except DirectiveError as error:
        problems += [f"directives: {line}" for line in str(error).splitlines()]
        return MOST


def _room_for_idle(mpm: str, given: Mapping[str, Any], most: int) -> dict[str, Any]:
    """event takes ThreadsPerChild + AsyncRequestWorkerFactor x idle workers connections a child: a
    factor that makes room for all, unless one was given."""
    if mpm != "event" or not most or "AsyncRequestWorkerFactor" in given:
        return {}
    workers = int(given.get("StartServers", 3)) * int(given.get("ThreadsPerChild", 25))
    return {"AsyncRequestWorkerFactor": max(2, math.ceil(most * 1.5 / workers))}


def start_servers(mpm: str, directives: Mapping[str, Any], busy: int) -> int:
    """Children that idle maintenance would end up with when so many workers are busy."""
    most = int(directives["MaxRequestWorkers"])
    if mpm == "prefork":
        return max(
            1,
            min(
                most,
                max(busy + int(directives["MinSpareServers"]), int(directives["StartServers"])),
            ),
        )
    threads = int(directives["ThreadsPerChild"])
    wanted = min(most, busy + int(directives["MinSpareThreads"]))
    return max(
        1, min(most // threads, max(math.ceil(wanted / threads), int(directives["StartServers"])))
    )


def _ours(root: Path) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    def start(mpm: str, **directives: Any) -> contextlib.AbstractContextManager[Any]:
        import mpmkit

        return mpmkit.launch(mpm, document_root=root, access_log=True, **directives)

    return start


# -- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryProgress:
    """How far it is: `done` of `levels`, what is measured now, the rows when a level ends."""

    done: int
    levels: int
    text: str
    elapsed: float
    rows: tuple[Row, ...] = ()

    @property
    def share(self) -> float:
        """Share of the whole, 0 to 1."""
        return self.done / self.levels if self.levels else 1.0

    @property
    def row(self) -> Row | None:
        """The server's row when a level ends, else None."""
        return self.rows[0] if self.rows else None

    def __str__(self) -> str:
        if self.row is not None:
            return f"[{self.done}/{self.levels}] {self.text}: {self.row['pss_kb'] / 1024:,.1f} MiB"
        return f"[{self.done}/{self.levels}] {self.text}"


def memory_table(
    mpms: Iterable[str] = MPMS,
    against: Iterable[str] = AGAINST,
    *,
    busy: Iterable[int] | None = None,
    idle: Iterable[int] | None = None,
    rounds: int | None = None,
    scale: str | None = None,
    beside: Iterable[str] = (),
    document_root: str | os.PathLike[str] | None = None,
    path: str = "/index.html",
    directives: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: Callable[[MemoryProgress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> MemoryTable:
    """Measure memory against busy requests and idle kept-alive connections; minutes at the demo scale.

    mpms: of prefork, worker, event. against: of "busy", "idle".
    busy: numbers of requests being served at once, 0 to MaxRequestWorkers; idle: numbers of
        kept-alive connections, 0 to 20,000; by default what the scale says.
    rounds: 1 to 100. scale: smoke, demo, full; by default the environment's MPMKIT_SCALE, or demo.
    beside: rivals to measure as well: "httpd" against both, "nginx", "gunicorn", "uvicorn" and
        "waitress" against idle connections, or ("all",). One that is missing is left out and named.
    document_root, path: your pages, and the one that is asked for before anything is looked at;
        the rivals serve the samples.
    directives: over the article's blocks, Name=value.
    out: a CSV file to which each level's rows are appended as soon as they are measured.

    Raises ValueError for a bad argument (with all problems) and RecordError for a bad file, both
    before anything starts; MemoryRunError if a server fails, MemoryInterrupted (a KeyboardInterrupt)
    on Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(
        mpms,
        against,
        busy=busy,
        idle=idle,
        rounds=rounds,
        scale=scale,
        beside=beside,
        document_root=document_root,
        path=path,
        directives=directives,
    )
    file = RecordFile(out, "memory") if out is not None else None
    wanted = rivals_beside.contestants(
        rivals_beside.names() if tuple(beside) == ("all",) else beside, mpms
    )
    here, missing = rivals_beside.installed(wanted)
    names = {"mpmkit", *(one.server for one in here)}
    series = tuple(one for one in todo.series if one.server in names)
    planned = sum(len(one.levels) for one in series) * todo.rounds
    table = MemoryTable(
        [], planned, records.new_run_id(), todo.scale, file.path if file else None, missing
    )
    for sentence in missing:
        if say is not None:
            say(sentence)
    machine, began = records.machine().row(), time.monotonic()
    broken: set[tuple[str, str]] = set()
    try:
        for number, one, level in [
            (number, each, level)
            for number in range(1, todo.rounds + 1)
            for each in series
            for level in each.levels
        ]:
            label = f"{one.server} {one.mpm}".rstrip()
            text = f"round {number}, {label}, {level:,} {one.against}"

            def tell(rows: Sequence[Row] = (), text: str = text) -> None:
                if on_progress is not None:
                    on_progress(
                        MemoryProgress(
                            table.measured,
                            table.planned,
                            text,
                            time.monotonic() - began,
                            tuple(rows),
                        )
                    )

            if (one.server, one.mpm) in broken:
                table.planned -= 1
                continue
            tell()
            try:
                rows = _measure_level(one, level, number, todo, table, machine)
            except (ServerFailed, RuntimeError) as error:
                if one.server == "mpmkit" or isinstance(error, MemoryRunError):
                    raise
                broken.add((one.server, one.mpm))
                table.planned -= 1
                table.left_out.append(
                    f"without {label} from {level:,} {one.against} of round "
                    f"{number} on: {_one_line(error)}"
                )
                if say is not None:
                    say(table.left_out[-1])
                continue
            for row in rows:
                table.records.append(file.append(row) if file else row)
            tell(rows)
    except KeyboardInterrupt:
        raise MemoryInterrupted(table) from None
    except MemoryRunError:
        raise
    except Exception as error:
        raise MemoryRunError(_one_line(error), table) from error
    return table


def _measure_level(
    one: Series, level: int, number: int, todo: Plan, table: MemoryTable, machine: Row
) -> list[Row]:
    """One server with so many requests or connections: its rows."""
    directives = dict(one.directives)
    if one.against == "busy" or one.stands_for != "event":
        directives["StartServers"] = start_servers(one.stands_for, directives, level)
    load, started = records.load1(), time.time()
    with descriptors(_descriptors([one])), one.start(one.stands_for, **directives) as server:
        try:
            found, held, slab = _look(one, level, server, todo.path)
        except RuntimeError as error:
            raise RuntimeError(f"{error}{_why_gone(server)}") from None
    return [
        records.check(
            {
                "run_id": table.run_id,
                "table": "memory",
                "scale": todo.scale,
                "server": one.server,
                "mpm": one.mpm or None,
                "round": number,
                "directives": " ".join(f"{k}={v}" for k, v in directives.items()),
                "started_at": records.utc(started),
                "against": one.against,
                "level": level,
                "held": held,
                "scope": scope,
                **columns,
                "slab_kb": slab if scope == "server" else None,
                **machine,
                "load1": load,
                "steal": None,
            }
        )
        for scope, columns in found.items()
    ]


def _look(
    one: Series, level: int, server: Any, path: str
) -> tuple[dict[str, dict[str, int]], int, int | None]:
    """Bring a server to a level and look at it: (`sample`'s figures, held, slab_kb)."""
    path = path if one.server == "mpmkit" else "/index.html"
    _look_at_page(server.url, path)
    if one.against == "busy" and level:
        with HoldingProcess(server.url, "half-sent", path=path) as first:
            first.hold(level)
            first.finish()
    mode = "half-sent" if one.against == "busy" else "idle"
    with HoldingProcess(server.url, mode, path=path) as holding:
        said = holding.hold(level)
        if said["error"]:
            raise RuntimeError(f"{level:,} {one.against}: {said['error']}")
        settle(server.pid)
        found, slab = sample(server.pid), slab_kb()
        if not found:
            raise RuntimeError(f"{one.server} {one.mpm} ended with {level:,} {one.against}")
        return found, min(level, holding.held()), slab


def _why_gone(server: Any) -> str:
    """What to add to an error if the server is gone: that it is, and its last words."""
    if server.pid in members(server.pid):
        return ""
    log = [line for line in str(server.error_log()).splitlines() if line.strip()][-1:]
    return f"; the server (process {server.pid}) is gone" + "".join(
        f"; its error log ends: {line.strip()}" for line in log
    )


def _look_at_page(url: str, path: str) -> None:
    """Ask for the page once. Raises RuntimeError if it is not there."""
    import http.client

    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"{url}{path} did not answer: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(
            f"{path} answers with status {response.status}; give a page that is there"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -- the command line ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, where argparse prints its usage first."""
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part.replace("_", "")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers like 0,50,100, not {text!r}"
        ) from None


def _listed(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _parser() -> _Parser:
    parser = _Parser(
        prog="mpmkit memory",
        allow_abbrev=False,
        description="Measure what a busy request and an idle connection cost under each MPM, and say "
        "how many workers a machine has room for.",
    )
    parser.add_argument(
        "--mpm",
        action="append",
        metavar="MPM",
        help="only this MPM; may be given several times, or as a,b",
    )
    parser.add_argument("--against", action="append", metavar="WHAT", help="busy, idle (both)")
    parser.add_argument("--busy", type=_whole_numbers, metavar="N,N", help="busy levels")
    parser.add_argument("--idle", type=_whole_numbers, metavar="N,N", help="idle levels")
    parser.add_argument("--rounds", type=int, metavar="R", help="how often each level is measured")
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        help="smoke, demo (the default) or full; also by the environment's MPMKIT_SCALE",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="SERVER",
        help=f"measure this one as well: {', '.join(rivals_beside.names())}, or all",
    )
    parser.add_argument("--document-root", metavar="DIR", help="your pages")
    parser.add_argument("--path", default="/index.html", help="the page to serve first")
    parser.add_argument(
        "-c",
        "--directive",
        action="append",
        default=[],
        metavar="'Name value'",
        help="a directive over the article's; may be repeated",
    )
    parser.add_argument(
        "--ram",
        metavar="SIZE",
        help="say the MaxRequestWorkers for a machine with that much memory, like 4GiB",
    )
    parser.add_argument(
        "--reserve", metavar="SIZE", help="of it, not for the server (20%%, at least 256 MiB)"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.csv",
        help="append the rows to this file (default: a new one in data/runs, if that is here)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit memory``: tables on standard output, progress and errors on standard error.

    0: measured. 1: something failed on the way (rows until then are kept, and printed). 2: a bad
    argument. 130: Ctrl-C (rows until then are kept, and printed).
    """
    options = _parser().parse_args(argv)
    folder = Path("data/runs")
    out = (
        Path(options.out)
        if options.out
        else (folder / f"memory-{records.new_run_id()}.csv" if folder.is_dir() else None)
    )

    def say(text: str) -> None:
        print(f"mpmkit: {text}", file=sys.stderr, flush=True)

    def progress(now: MemoryProgress) -> None:
        if now.row is not None:
            left = now.elapsed / now.share - now.elapsed if now.share else 0
            print(f"{now} (about {left:.0f} s left)", file=sys.stderr, flush=True)

    try:
        directives = dict(_directive(text) for text in options.directive)
        asked: dict[str, Any] = {
            "busy": options.busy,
            "idle": options.idle,
            "rounds": options.rounds,
            "scale": options.scale,
            "beside": _listed(options.beside),
            "document_root": options.document_root,
            "path": options.path,
            "directives": directives,
        }
        mpms = MPMS if options.mpm is None else _listed(options.mpm)
        against = AGAINST if options.against is None else _listed(options.against)
        todo = plan(mpms, against, **asked)
        say(f"{todo.levels} levels, about {todo.seconds / 60:.0f} min")
        table = memory_table(mpms, against, **asked, out=out, on_progress=progress, say=say)
        status = 0
    except MemoryInterrupted as stop:
        say("interrupted")
        table, status = stop.table, 130
    except MemoryRunError as error:
        say(str(error))
        table, status = error.table, 1
    except RecordError as error:
        say(_one_line(error))
        return 1
    except (ValueError, DirectiveError) as error:
        say(_one_line(error))
        return 2
    if table.records or status == 0:
        print(table.text(), flush=True)
    if options.ram and table.records:
        for mpm in mpms:
            try:
                print(
                    "\n"
                    + str(
                        max_request_workers_for(
                            options.ram,
                            mpm=mpm,
                            memory=table,
                            reserve=options.reserve,
                            threads_per_child=int(directives.get("ThreadsPerChild", 25)),
                        )
                    )
                )
            except ValueError as error:
                say(_one_line(error))
                status = status or 1
    return status


def _directive(text: str) -> tuple[str, str]:
    name, _, value = text.strip().partition(" ")
    if not value.strip():
        raise ValueError(f"-c {text!r}: write a directive and its value, -c 'ThreadsPerChild 5'")
    return name, value.strip()
