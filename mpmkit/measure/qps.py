"""The article's two tables, measured on this machine: requests per second of the three MPMs.

    table = qps_table(rounds=3)
    print(table.text())

How it measures, and why:

* **The same load for all**, the article's: 200 clients, a new connection per request (ab's
  default), the directives it prints.
* **One server at a time.** Each round starts a server, measures its pages and stops it. Servers
  kept waiting while another is measured would disturb it: each wakes its parent once a second,
  and prefork alone holds up to 250 processes in memory and in the scheduler's tables. A fresh
  server also makes the rounds independent. The price is a start per round, which the warm-up
  takes off the clock.
* **Interleaved.** A round measures every MPM once, and each round begins with another one. A
  machine that grows slower or busier while the table is made then disturbs all of them, not the
  last one.
* **A warm-up before each measurement**, not counted: children start, heads and files enter memos
  and caches. Growth is part of what differs between the MPMs; prefork takes some ten seconds to
  grow from 5 processes to what 200 clients make it want, so the full scale warms up longer than
  that.
* **Medians with their intervals** and the order of the MPMs with its probability (`stats`), and what is
  larger than the noise (`verdict`).
* **As many rounds as it takes**, if asked: ``--target-precision 5%`` goes on until the interval of
  every median is that narrow, or ``--max-rounds`` are done, and says which.
* **A drift check**: whether the rounds as a whole grew slower or faster.

What the article set and found is in `article`, the table that comes out in `qps_table`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import DRIVERS, LoadError, LoadInterrupted, LoadRun, run_load
from mpmkit.measure import competitors as rivals_beside
from mpmkit.measure import published, records, stats
from mpmkit.measure.competitors import Contestant
from mpmkit.measure.procfs import Meter, alive, machine_times
from mpmkit.measure.qps_table import QpsTable
from mpmkit.measure.records import RecordError, RecordFile, Row
from mpmkit.measure.reference_servers import NotInstalled, ServerFailed


@dataclass(frozen=True)
class Scale:
    """How much is measured: `requests` per cell, but at most `seconds` of it (None: no such bound),
    after `warmup` seconds, in `rounds` rounds."""

    requests: int
    seconds: float | None
    warmup: float
    rounds: int


SCALES: dict[str, Scale] = {
    "smoke": Scale(requests=1_000, seconds=2.0, warmup=0.3, rounds=1),
    "demo": Scale(requests=20_000, seconds=4.0, warmup=3.0, rounds=3),
    "full": Scale(requests=200_000, seconds=None, warmup=15.0, rounds=5),
}

MAX_ROUNDS = 30
"""Rounds after which a target precision is given up, if not said otherwise."""

TIME_LIMIT = 900.0
"""Seconds that one cell may take at most."""


class QpsError(RuntimeError):
    """The measurement could not go on. `table` holds the rows finished before."""

    def __init__(self, message: str, table: QpsTable) -> None:
        super().__init__(message)
        self.table = table


class QpsInterrupted(KeyboardInterrupt):
    """Ctrl-C. `table` holds the rows finished before."""

    def __init__(self, table: QpsTable) -> None:
        super().__init__("interrupted")
        self.table = table


# -- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QpsProgress:
    """How far the measurement is. `done` of `wanted` requests in cell `cell` (from 1) of `cells`;
    `row` is the finished row when a cell ends, else None. `elapsed` is in seconds."""

    cell: int
    cells: int
    round: int
    server: str
    mpm: str
    kind: str
    done: int
    share_of_cell: float
    elapsed: float
    row: Row | None = None

    @property
    def share(self) -> float:
        """Share of the whole, 0 to 1."""
        return (self.cell - 1 + min(1.0, self.share_of_cell)) / self.cells

    def __str__(self) -> str:
        server = f"{self.server} {self.mpm}".rstrip()
        what = f"[{self.cell}/{self.cells}] round {self.round}, {server}, {self.kind}"
        if self.row is not None:
            return f"{what}: {self.row['qps']:,.0f} requests/s"
        return f"{what}: {self.done:,} requests"


Launch = Callable[..., AbstractContextManager[Any]]


def _launch_ours(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
    import mpmkit

    return mpmkit.launch(mpm, **directives)


Cell = tuple[int, str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Plan:
    """A measurement, checked: what `qps_table` was asked for with all defaults filled in."""

    kinds: tuple[str, ...]
    mpms: tuple[str, ...]
    rounds: int
    scale: str
    profiles: dict[str, LoadProfile]
    driver: str
    beside: tuple[Contestant, ...] = ()
    directives: dict[str, dict[str, Any]] = field(default_factory=dict)
    target: float | None = None
    max_rounds: int = MAX_ROUNDS

    def cells(self) -> list[Cell]:
        """(round, server, MPM, kinds) in the order of measuring; one start of a server each. MPM is
        "" for a rival that has none of these."""
        return [cell for number in range(1, self.rounds + 1) for cell in self.round(number)]

    def round(self, number: int) -> list[Cell]:
        """The cells of one round, from 1; also of those beyond the planned ones."""
        servers: list[tuple[str, str, tuple[str, ...]]] = []
        # What programs and php-fpm need would disturb the other pages: they get servers of their own.
        plain = tuple(kind for kind in self.kinds if kind in published.PAGES)
        own = [(kind,) for kind in self.kinds if kind in published.WAYS]
        for mpm in self.mpms:
            servers += [("mpmkit", mpm, kinds) for kinds in (plain, *own)]
            servers += [
                (one.server, one.mpm, tuple(kind for kind in self.kinds if kind in one.kinds))
                for one in self.beside
                if one.stands_for == mpm
            ]
        places = [str(place) for place, (*_, kinds) in enumerate(servers) if kinds]
        return [(number, *servers[int(place)]) for place in stats.turns(places, number)]

    def contestant(self, server: str, mpm: str, kinds: Iterable[str]) -> Contestant | None:
        """Who stands behind a cell's server, MPM and pages; None for ours."""
        for one in self.beside:
            if (one.server, one.mpm) == (server, mpm) and set(kinds) <= set(one.kinds):
                return one
        return None

    def until_settled(self, table: QpsTable) -> Iterator[Cell]:
        """The planned cells, then further rounds until the target precision or the last round."""
        yield from self.cells()
        number = self.rounds
        while (
            self.target is not None
            and number < self.max_rounds
            and not stats.settled(list(table.samples().values()), self.target)
        ):
            number += 1
            cells = self.round(number)
            table.planned += sum(len(kinds) for *_, kinds in cells)
            yield from cells


def plan(
    kinds: Iterable[str] = ("static", "script"),
    mpms: Iterable[str] = MPMS,
    *,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    driver: str = "locust",
    processes: int = 1,
    beside: Iterable[str] = (),
    target_precision: float | None = None,
    max_rounds: int = MAX_ROUNDS,
    scripts: Iterable[str] = ("wsgi",),
) -> Plan:
    """Check what is asked for. Raises ValueError with everything that is wrong with it, in one
    line."""
    problems: list[str] = []

    def chosen(
        name: str, values: Iterable[str], allowed: Iterable[str], least: int
    ) -> tuple[str, ...]:
        values = (values,) if isinstance(values, str) else tuple(values)
        allowed = tuple(allowed)
        for value in values:
            if value not in allowed:
                problems.append(f"{name}: {value!r} is none of {', '.join(allowed)}")
        if len(values) < least:
            problems.append(f"{name}: give at least one of {', '.join(allowed)}")
        return tuple(value for value in allowed if value in values)

    kinds_ = chosen("kind", kinds, published.PAGES, 1)
    mpms_ = chosen("mpm", mpms, MPMS, 1)
    scripts = published.WAYS if tuple(scripts) == ("all",) else scripts
    ways = chosen("script", scripts, published.WAYS, 1)
    beside = rivals_beside.names() if tuple(beside) == ("all",) else beside
    beside_ = chosen("beside", beside, rivals_beside.names(), 0)
    if "script" in kinds_:
        others = [way for way in ways if way != "wsgi"]
        if "php-fpm" in ways and "httpd" in beside_ and "prefork" in mpms_:
            others.append("mod_php")
        kinds_ = tuple(kind for kind in kinds_ if kind != "script" or "wsgi" in ways) + tuple(
            others
        )
    scale_name = scale or os.environ.get("MPMKIT_SCALE") or "demo"
    size = SCALES.get(scale_name)
    if size is None:
        where = "scale" if scale else "MPMKIT_SCALE"
        problems.append(f"{where}: {scale_name!r} is none of {', '.join(SCALES)}")
        size = SCALES["demo"]
    if driver not in DRIVERS:
        problems.append(f"driver: {driver!r} is none of {', '.join(DRIVERS)}")
    if rounds is not None and (type(rounds) is not int or not 1 <= rounds <= 1000):
        problems.append(f"rounds: must be a whole number from 1 to 1000, not {rounds!r}")
    if target_precision is not None and not (
        isinstance(target_precision, (int, float)) and 0.001 <= target_precision <= 0.5
    ):
        problems.append(
            f"target_precision: must be 0.001 to 0.5 (0.1% to 50%), not {target_precision!r}"
        )
    if type(max_rounds) is not int or not 1 <= max_rounds <= 1000:
        problems.append(f"max_rounds: must be a whole number from 1 to 1000, not {max_rounds!r}")
    elif target_precision is not None and max_rounds < stats.ENOUGH:
        problems.append(f"max_rounds: an interval takes {stats.ENOUGH} rounds, not {max_rounds}")
    profiles = {}
    for kind in kinds_:
        try:
            profiles[kind] = LoadProfile(
                path=published.page(kind).path,
                expect_length=published.page(kind).length,
                users=users,
                keep_alive=keep_alive,
                processes=processes,
                requests=size.requests if requests is None else requests,
                # A number of requests given by hand is meant: no bound in time cuts it short.
                duration=size.seconds if requests is None else None,
                warmup_seconds=size.warmup,
                time_limit=TIME_LIMIT,
            )
        except ProfileError as error:
            problems += [text for text in str(error).split("; ") if text not in problems]
    if problems:
        raise ValueError("; ".join(problems))
    by_hand = requests is not None or rounds is not None
    return Plan(
        kinds_,
        mpms_,
        rounds or size.rounds,
        "custom" if by_hand else scale_name,
        profiles,
        driver,
        tuple(rivals_beside.contestants(beside_, mpms_, kinds_)),
        published.DIRECTIVES,
        target_precision,
        max_rounds,
    )


def qps_table(
    kinds: Iterable[str] = ("static", "script"),
    mpms: Iterable[str] = MPMS,
    requests: int | None = None,
    users: int = 200,
    keep_alive: bool = False,
    rounds: int | None = None,
    scale: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: Callable[[QpsProgress], None] | None = None,
    *,
    driver: str = "locust",
    processes: int = 1,
    beside: Iterable[str] = (),
    launch: Launch | None = None,
    target_precision: float | None = None,
    max_rounds: int = MAX_ROUNDS,
    ceiling: bool = False,
    say: Callable[[str], None] | None = None,
    scripts: Iterable[str] = ("wsgi",),
) -> QpsTable:
    """Measure the article's tables here; minutes at the demo scale.

    kinds: of "static", "script". mpms: of "prefork", "worker", "event".
    requests: per cell, 1 to 20 million; by default what the scale says.
    users: concurrent clients, 1 to 20,000. keep_alive: reuse connections.
    rounds: 1 to 1000; by default what the scale says.
    scale: "smoke" (seconds), "demo" (minutes), "full" (the article's 200,000 requests); by default
        the environment's MPMKIT_SCALE, or else demo.
    out: a CSV file to which each row is appended as soon as it is finished.
    on_progress: called some four times a second, and with the row when a cell ends.
    driver, processes: as in `run_load`.
    beside: rivals to measure in the same rounds: "httpd", "nginx", "gunicorn", "uvicorn",
        "waitress", or ("all",). One that is not installed or fails is left out, which the table's
        `left_out` says, and `say` is told at once.
    launch: starts a server, ``launch(mpm, **directives)`` as a context manager with a `.url`; by
        default `mpmkit.launch`.
    target_precision: go on beyond `rounds` until every median is known to within this share (0.05:
        its 95% interval is the median +-5%), 0.001 to 0.5, or `max_rounds` are done.
    ceiling: measure what the generator can do against nginx first, and mark rows that come near it
        as bound by the generator.
    scripts: the ways to run the script that the script table compares: "wsgi", "cgi", "php-fpm" (a
        php-fpm of one's own is started for it), or ("all",). With httpd beside, its mod_cgi or
        mod_cgid, its mod_proxy_fcgi and its mod_php are measured, too.

    Raises ValueError for a bad argument and RecordError for a bad file, both before anything
    starts; QpsError if a server or the generator fails, QpsInterrupted (a KeyboardInterrupt) on
    Ctrl-C: both carry the rows finished until then as `table`.
    """
    todo = plan(
        kinds,
        mpms,
        requests=requests,
        users=users,
        keep_alive=keep_alive,
        rounds=rounds,
        scale=scale,
        driver=driver,
        processes=processes,
        beside=beside,
        target_precision=target_precision,
        max_rounds=max_rounds,
        scripts=scripts,
    )
    figures = published.published()
    file = RecordFile(out) if out is not None else None
    here, missing = rivals_beside.installed(todo.beside)
    todo = replace(todo, beside=tuple(here))
    if "php-fpm" in todo.kinds and (sentence := rivals_beside.php_fpm_missing()):
        todo = replace(todo, kinds=tuple(k for k in todo.kinds if k not in ("php-fpm", "mod_php")))
        if not todo.kinds:
            raise ValueError(sentence)
        missing = [sentence, *(one for one in missing if "php-fpm is not installed" not in one)]
    for sentence in missing:
        if say is not None:
            say(sentence)
    most = None
    if ceiling:
        from mpmkit.measure import ceiling as reference

        try:
            most = reference.ceiling(next(iter(todo.profiles.values())), driver)
        except (NotInstalled, ServerFailed, LoadError) as error:
            missing.append(f"without the generator's ceiling: {_one_line(error)}")
            if say is not None:
                say(missing[-1])
    return _measure(todo, figures, file, launch or _launch_ours, on_progress, missing, say, most)


def _measure(
    todo: Plan,
    figures: dict[str, dict[str, float]],
    file: RecordFile | None,
    launch: Launch,
    on_progress: Callable[[QpsProgress], None] | None,
    left_out: list[str],
    say: Callable[[str], None] | None,
    ceiling: float | None = None,
) -> QpsTable:
    table = QpsTable(
        [],
        figures,
        planned=sum(len(kinds) for *_, kinds in todo.cells()),
        run_id=records.new_run_id(),
        scale=todo.scale,
        out=file.path if file else None,
        target=todo.target,
        ceiling=ceiling,
        left_out=left_out,
    )
    machine = records.machine().row()
    began = time.monotonic()
    try:
        for number, name, mpm, kinds in todo.until_settled(table):
            rival = todo.contestant(name, mpm, kinds)
            label = f"{name} {mpm}".rstrip()
            before = len(table.records)
            try:
                if f"{label}, {kinds[0]}" not in table.broken:
                    start = rival.start if rival else launch
                    if rival is None and kinds[0] in published.WAYS:
                        start = rivals_beside.ours(kinds[0], launch)
                    _measure_server(
                        todo,
                        table,
                        file,
                        machine,
                        (number, name, mpm, kinds),
                        start,
                        rival.stands_for if rival else mpm,
                        began,
                        on_progress,
                    )
            except (QpsError, ServerFailed) as error:
                # Ours ends the run; a rival costs its own rows, no other's.
                if rival is None or not _rivals_fault(error):
                    raise
                table.broken.update(f"{label}, {kind}" for kind in kinds)
                kept = sum(
                    (row["server"], row["mpm"] or "") == (name, mpm)
                    and published.column(row) in kinds
                    for row in table.records
                )
                table.left_out.append(
                    f"without {label} from round {number} on ({kept} rows of it "
                    f"are kept): {_one_line(error)}"
                )
                if say is not None:
                    say(table.left_out[-1])
            table.planned -= len(kinds) - (len(table.records) - before)
    except LoadInterrupted:
        raise QpsInterrupted(table) from None
    except KeyboardInterrupt:
        raise QpsInterrupted(table) from None
    except QpsError:
        raise
    except (LoadError, RecordError) as error:
        raise QpsError(str(error), table) from error
    except Exception as error:
        raise QpsError(_one_line(error), table) from error
    return table


def _rivals_fault(error: Exception) -> bool:
    """Whether it was the server that failed, and not the disk or the generator."""
    return not isinstance(error.__cause__, (RecordError, LoadError))


def _measure_server(
    todo: Plan,
    table: QpsTable,
    file: RecordFile | None,
    machine: Row,
    cell_of: tuple[int, str, str, tuple[str, ...]],
    start: Launch,
    stands_for: str,
    began: float,
    on_progress: Callable[[QpsProgress], None] | None,
) -> None:
    """Start one server, measure its pages, stop it. Appends the rows to the table and the file."""
    number, name, mpm, kinds = cell_of
    directives: dict[str, Any] = dict(todo.directives.get(stands_for, {}))
    directives["KeepAlive"] = todo.profiles[kinds[0]].keep_alive
    with start(stands_for, **directives) as server:
        for kind in kinds:
            cell = len(table.records) + 1

            # A script that php-fpm runs is paid for by processes that are not the server's.
            meter = Meter(None if kind == "php-fpm" else getattr(server, "pid", None))

            def tell(
                done: int,
                seconds: float,
                row: Row | None = None,
                *,
                cell: int = cell,
                kind: str = kind,
                meter: Meter = meter,
            ) -> None:
                meter.progress(done)
                if on_progress is not None:
                    on_progress(
                        QpsProgress(
                            cell,
                            table.planned,
                            number,
                            name,
                            mpm,
                            kind,
                            done,
                            _share(todo.profiles[kind], done, seconds) if row is None else 1.0,
                            time.monotonic() - began,
                            row,
                        )
                    )

            tell(0, 0.0)
            before, load = machine_times(), records.load1()
            run = run_load(
                server,
                profile=todo.profiles[kind],
                driver=todo.driver,
                on_progress=tell,
                ceiling=table.ceiling,
            )
            _must_be_whole(run, server, f"{f'{name} {mpm}'.rstrip()}, {kind}", table)
            row = records.check(
                {
                    "run_id": table.run_id,
                    "table": "qps",
                    "scale": todo.scale,
                    "server": name,
                    "mpm": mpm or None,
                    "kind": published.page(kind).kind,
                    "script": published.page(kind).script or None,
                    "round": number,
                    "directives": " ".join(f"{k}={v}" for k, v in directives.items()),
                    **run.row(),
                    "started_at": records.utc(run.started_at),
                    **machine,
                    "server_cpu_us": meter.per_request(run.requests),
                    "load1": load,
                    "steal": machine_times().steal_since(before),
                }
            )
            # On disk first: what was told to the reader is never lost.
            table.records.append(file.append(row) if file else row)
            tell(run.requests, run.duration, row)


def _share(profile: LoadProfile, done: int, seconds: float) -> float:
    """How far a cell is: by requests or by time, whichever is nearer to its end."""
    by_requests = done / profile.requests if profile.requests else 0.0
    by_time = seconds / profile.duration if profile.duration else 0.0
    return max(by_requests, by_time)


def _must_be_whole(run: LoadRun, server: Any, what: str, table: QpsTable) -> None:
    """Refuse a run that did not come to its end, or had no good answer, and say what happened."""
    if run.complete and run.succeeded:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in run.errors.most_common(3))
    said = [
        f"{what}: {run.ended}" if not run.complete else f"{what}: no good answer",
        f"{run.succeeded:,} of {run.requests:,} requests were answered well"
        + (f" ({kinds})" if kinds else ""),
    ]
    pid = getattr(server, "pid", None)
    if isinstance(pid, int) and not alive(pid):
        said.append(f"the server (process {pid}) is gone")
    try:
        log = server.error_log()
    except Exception:  # a dead server's log may be gone with it
        log = ""
    last = [line for line in str(log).splitlines() if line.strip()][-1:]
    said += [f"its error log ends: {line.strip()}" for line in last]
    raise QpsError("; ".join(said), table)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -- the command line ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, where argparse prints its usage first."""
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="mpmkit qps",
        allow_abbrev=False,
        description="Measure the article's tables on this machine: requests per second of prefork, "
        "worker and event, for a static page and a script.",
    )
    parser.add_argument(
        "--kind",
        choices=(*published.PAGES, "both"),
        default="both",
        help="which table (default: both)",
    )
    parser.add_argument(
        "--script",
        action="append",
        metavar="WAY",
        help=f"how the script is run: {', '.join(published.WAYS)} or all; may be given several "
        "times (default: wsgi). php-fpm is started for it; with --beside httpd, "
        "mod_php is measured, too",
    )
    parser.add_argument(
        "--mpm",
        action="append",
        metavar="MPM",
        help="only this MPM; may be given several times, or as a,b",
    )
    parser.add_argument("--requests", type=int, metavar="N", help="requests per cell")
    parser.add_argument(
        "--users",
        type=int,
        default=200,
        metavar="N",
        help="concurrent clients (default: 200, as in the article)",
    )
    parser.add_argument(
        "--keep-alive", action="store_true", help="reuse connections (the article did not)"
    )
    parser.add_argument("--rounds", type=int, metavar="R", help="how often each cell is measured")
    parser.add_argument(
        "--target-precision",
        type=_share_given,
        metavar="P",
        help="go on with more rounds until every median is known to within P, like 5%%",
    )
    parser.add_argument(
        "--ceiling",
        action="store_true",
        help="measure what the generator can do against nginx first, and mark rows that come near",
    )
    parser.add_argument(
        "--max-rounds",
        type=int,
        default=MAX_ROUNDS,
        metavar="R",
        help=f"but no more than these (default: {MAX_ROUNDS})",
    )
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        help="smoke (seconds), demo (minutes; the default) or full (200,000 "
        "requests a cell, as in the article); also by the environment's "
        "MPMKIT_SCALE",
    )
    parser.add_argument(
        "--driver",
        default="locust",
        metavar="NAME",
        help=f"load generator: {' or '.join(DRIVERS)} (default: locust)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="generator processes (default: 1)"
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="SERVER",
        help="measure this one in the same rounds: "
        f"{', '.join(rivals_beside.names())}, or all; may be given as a,b. One "
        "that is not installed is named and left out",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.csv",
        help="append the rows to this file (default: a new one in data/runs, if "
        "that folder is here)",
    )
    return parser


def _share_given(text: str) -> float:
    """5% or 0.05."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a share like 5%, not {text!r}") from None


def _listed(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _default_out() -> Path | None:
    folder = Path("data/runs")
    return folder / f"qps-{records.new_run_id()}.csv" if folder.is_dir() else None


class _Console:
    """Progress on standard error: one line that is written over on a terminal, one line per
    finished
    cell elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.width = 0

    def __call__(self, progress: QpsProgress) -> None:
        if progress.row is None and not self.live:
            return
        text = str(progress)
        if 0 < progress.share < 1 and progress.elapsed > 1:
            left = progress.elapsed / progress.share - progress.elapsed
            text += f" (about {_duration(left)} left)"
        if self.live:
            sys.stderr.write("\r" + text.ljust(self.width) + ("\n" if progress.row else ""))
            self.width = 0 if progress.row else len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self.width:
            sys.stderr.write("\n")
            self.width = 0


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def main(argv: Sequence[str] | None = None, *, launch: Launch | None = None) -> int:
    """``mpmkit qps``. Prints the tables on standard output, progress and errors on standard error.

    0: measured. 1: something failed on the way (rows until then are kept, and printed). 2: a bad
    argument. 130: Ctrl-C (rows until then are kept, and printed).
    """
    options = _parser().parse_args(argv)
    kinds = tuple(published.PAGES) if options.kind == "both" else (options.kind,)
    console = _Console()
    out: Path | None = Path(options.out) if options.out else _default_out()
    try:
        table = qps_table(
            kinds,
            MPMS if options.mpm is None else _listed(options.mpm),
            options.requests,
            options.users,
            options.keep_alive,
            options.rounds,
            options.scale,
            out,
            console,
            driver=options.driver,
            processes=options.processes,
            beside=_listed(options.beside),
            launch=launch,
            target_precision=options.target_precision,
            max_rounds=options.max_rounds,
            ceiling=options.ceiling,
            scripts=_listed(options.script or ("wsgi",)),
            say=lambda text: print(f"mpmkit: {text}", file=sys.stderr, flush=True),
        )
    except QpsInterrupted as stop:
        console.end()
        _print_partial(stop.table)
        print("mpmkit: interrupted", file=sys.stderr)
        return 130
    except QpsError as error:
        console.end()
        _print_partial(error.table)
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1
    except RecordError as error:
        print(f"mpmkit: {_one_line(error)}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"mpmkit: {_one_line(error)}", file=sys.stderr)
        return 2
    console.end()
    print(table.text())
    return 0


def _print_partial(table: QpsTable) -> None:
    if table.records:
        print(table.text(), flush=True)
