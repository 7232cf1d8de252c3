"""The frame of every experiment: cells in rounds, each row on disk at once, progress, Ctrl-C, resumption.

    table = MyTable([], cells=cells, repeats=3)
    table.run(out, Bar())

An experiment (`qps`, `memory`, `sweep`, `demand`, `capacity`) is a `Table`, which has the cells, measures one of
them and prints itself. A cell is one server and its measurements; a round measures each cell once, in random
order, from a seed kept in the rows (randomised complete blocks): a machine that becomes slower affects all cells,
and no cell always follows the same one. Nothing runs in parallel.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

import psutil

from mpmkit.config.extras import DataFrame
from mpmkit.launcher import launch
from mpmkit.load.runner import LoadError
from mpmkit.measure import procfs, published, records, stats
from mpmkit.measure.records import RecordError, RecordFile, Row, new_run_id
from mpmkit.measure.reference_servers import NotInstalled, ServerFailed

OURS = "mpmkit"

Launch = Callable[..., AbstractContextManager[Any]]
"""``launch(mpm, **directives)``: a context manager with a `.url`."""
Names = str | Iterable[str]  # one or several
Out = str | os.PathLike[str] | Callable[[str], Path | None] | None
"""The file of the rows: its path, or what gives the path for a name; None: no file."""


@dataclass(frozen=True)
class Cell:
    """One server with what is measured on it before it is stopped.

    round: from 1. server: its name in the rows. mpm: "" for a server that has none of the three.
    parts: what is measured on it, a figure each: pages, kinds of work. control: the second server of
    an A/A comparison. stands_for: the MPM that it is compared with. start: starts it. directives: that it is
    started with. seconds: that it takes, about; 0: not known.
    """

    round: int
    server: str
    mpm: str
    _: KW_ONLY
    parts: tuple[str, ...] = ("",)
    control: bool = False
    stands_for: str = ""
    start: Launch = field(default=launch, compare=False, repr=False)
    directives: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    seconds: float = field(default=0.0, compare=False, repr=False)

    def started(self, **more: Any) -> AbstractContextManager[Any]:
        """Its server, for a `with` block."""
        return self.start(self.stands_for or self.mpm, **more, **self.directives)

    @property
    def label(self) -> str:
        """The server as tables call it."""
        return f"{self.server} {self.mpm}".rstrip() + " (A/A)" * self.control

    @property
    def subjects(self) -> frozenset[str]:
        """What is left out of the later rounds once this cell has failed."""
        return frozenset(", ".join(filter(None, (self.label, part))) for part in self.parts)


C = TypeVar("C", bound=Cell)


def in_rounds(cells: Sequence[C], rounds: Iterable[int], seed: Any = None) -> list[C]:
    """The cells of these rounds, in the order of measuring: with a seed it is random in each round, as is the
    order of a cell's parts."""
    if seed is None:
        return [replace(cell, round=number) for number in rounds for cell in cells]
    return [
        replace(cell, round=n, parts=tuple(stats.turns(cell.parts, n, f"{seed} {cell.label}")))
        for n in rounds
        for cell in stats.turns(cells, n, str(seed))
    ]


def installed(wanted: Iterable[C]) -> tuple[list[C], list[str]]:
    """The cells whose programs are here, and a sentence on each of the others: what it lacks and how
    to get that. Starts none of them."""
    here, missing = [], []
    for one in wanted:
        try:
            if one.server != OURS or "php-fpm" in one.parts:
                one.start(one.stands_for)
            here.append(one)
        except (NotInstalled, ServerFailed) as error:
            who = [one.server] * (one.server != OURS)
            who += [part for part in one.parts[:1] if part in published.SCRIPTS]
            missing.append(f"without {' '.join(who)}: {error}")
    return here, list(dict.fromkeys(missing))


def identity(*asked: Any) -> str:
    """Tells what was asked of an experiment from anything else: 12 hexadecimal digits."""
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Progress(NamedTuple):
    """How far an experiment is: `done` of `planned` figures, those that a file held before included.

    text: what is measured. share: of the whole, 0 to 1. left: seconds that remain, None until that can be said.
    row: the row of a figure that has just been finished, else None; result: what it says.
    """

    done: int
    planned: int
    text: str
    share: float
    left: float | None = None
    row: Row | None = None
    result: str = ""

    def __str__(self) -> str:
        number = self.done + (self.row is None and self.done < self.planned)
        said = f"[{number}/{self.planned}] {self.text}" + (f": {self.result}" * bool(self.result))
        return said if not self.left else f"{said} (about {duration(self.left)} left)"


OnProgress = Callable[[Progress], None] | None
Say = Callable[[str], None] | None
Figures = Generator[list[Row], None, None]
"""The rows of each figure of a cell, as soon as they are there."""
Report = Callable[[str, float], None]
"""``report(text, share)``: what is measured, and how much of this figure is done."""


@dataclass(repr=False, kw_only=True)
class Table:
    """An experiment, and what it measured.

    records: the finished rows, as in the CSV file `out`. cells: those of a round; repeats: rounds; seed: of their
    random order, None: in order. planned: figures of the whole experiment. resumed: how many of them the file
    held before. design: `identity` of an experiment that can be resumed. left_out: a sentence on each competitor
    that is not in all rows. broken: subjects that were not measured to the end. notes: what else a reader needs.
    """

    records: list[Row] = field(kw_only=False)
    cells: list[Any] = field(default_factory=list)
    repeats: int = 1
    seed: Any = None
    planned: int = 0
    resumed: int = 0
    run_id: str = field(default_factory=new_run_id)
    scale: str = ""
    design: str = ""
    out: Path | None = None
    left_out: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    _file: RecordFile | None = None
    name = "qps"  # of the records table
    unit = "cells"
    design_column = "design"
    again = ""  # what a stopped command ends with

    @functools.cached_property
    def machine(self) -> Row:
        """The columns of the machine that measures now."""
        return vars(records.machine())

    @property
    def measured(self) -> int:
        """Figures that have their rows."""
        return len(self.records)

    def to_frame(self) -> DataFrame:
        """The rows as a tidy frame (the columns of data/README.md)."""
        return records.frame(self.records, self.name)

    def result(self, row: Row) -> str:
        """What progress says of a finished row."""
        return f"{row['qps']:,.0f} requests/s"

    def text(self) -> str:
        """The table for a terminal."""
        nothing = f"no {self.unit.removesuffix('s')} was finished"
        return "\n".join(self._text()).rstrip() if self.records else nothing

    def _text(self) -> Iterator[str]:
        """Its lines."""
        raise NotImplementedError

    def measure(self, cell: Any, report: Report) -> Figures:
        """Start the server of a cell, measure its parts, stop it."""
        raise NotImplementedError

    def conditions(self, cell: Cell) -> Callable[..., Row]:
        """What makes a row of a figure: of its columns, which win, and of what the machine did since this was
        called, before it was measured. That raises RecordError."""
        directives = " ".join(f"{name}={value}" for name, value in cell.directives.items())
        same: Row = {"run_id": self.run_id, "table": self.name, "scale": self.scale}
        same |= {"server": cell.server, "mpm": cell.mpm or None, "round": cell.round}
        same |= {"directives": directives, "started_at": records.utc(time.time())}
        same |= {**self.machine, "load1": os.getloadavg()[0]}
        before = psutil.cpu_times()[:8]  # without guests'

        def row(**columns: Any) -> Row:
            now = psutil.cpu_times()[:8]
            *passed, stolen = (new - old for old, new in zip(before, now, strict=True))
            whole = sum(passed) + stolen
            steal = min(1.0, max(0.0, stolen) / whole) if whole > 0 else None
            return records.check({**same, "steal": steal, **columns})

        return row

    def left(self) -> list[Any]:
        """The cells that have no rows yet, in the order of measuring; those whose programs are not here are left
        out. Raises ValueError if none of ours is."""
        self.cells, missing = installed(self.cells)
        if missing and not any(cell.server == OURS for cell in self.cells):
            raise ValueError("; ".join(missing))
        self.left_out += missing
        return in_rounds(self.cells, range(1, self.repeats + 1), self.seed)

    def run(self, out: Out = None, on_progress: OnProgress = None, say: Say = None) -> Self:
        """Measure what is left. out: where the rows are written. Raises as `each` does, and RecordError for a bad
        file."""
        _ = self.machine  # before an experiment pins this process to one CPU
        self.keep_in(out)
        left = self.left()
        self.planned = self.measured + sum(len(cell.parts) for cell in left)
        if self.resumed:
            self.notes.append(f"{self.resumed} of {self.planned} {self.unit} are of an earlier run")
        if say is not None and (seconds := sum(cell.seconds for cell in left)):
            say(f"{len(left)} {self.unit}, about {duration(seconds)}")
        return self.each(left, on_progress, say)

    def keep_in(self, out: Out) -> None:
        """Open the file of the rows, if there is one. An experiment with a design takes over what it holds, and
        notes which rows another machine or version measured. Raises RecordError, also for another design."""
        path = out(f"{self.name}-{self.design or self.run_id}") if callable(out) else out
        if path is None:
            return
        self._file = RecordFile(path, self.name)
        self.out = self._file.path
        for row in records.read(path) if self.design else ():
            if row[self.design_column] != self.design:
                other = f"holds another {self.name} (other arguments); choose another file"
                raise RecordError(f"{path}: {other}")
            self.records.append(row)
        self.resumed = self.measured
        for name in ("cpu_model", "cores", "kernel", "python", "commit"):
            found = sorted({str(row[name]) for row in self.records} - {str(self.machine[name])})
            said = f"rows that the file had before are of another {name}: {', '.join(found)}"
            self.notes += [said] * bool(found)

    def each(self, cells: Iterable[Any], on_progress: OnProgress = None, say: Say = None) -> Self:
        """Measure these cells one after the other. A competitor that fails costs no other row.

        cells: may be a generator, which looks at the table to decide whether to go on, or holds servers.
        on_progress: called with a Progress. say: with each sentence of `left_out`.

        Raises Interrupted on Ctrl-C, and ExperimentError for whatever ends the run; both with the table.
        """
        say, show, text = say or (lambda _: None), on_progress or (lambda _: None), ""
        began, before, kept = time.monotonic(), self.measured, Counter[frozenset[str]]()
        for sentence in self.left_out:
            say(sentence)

        def report(now: str, share: float = 0.0, row: Row | None = None) -> None:
            nonlocal text
            text, planned = now, max(1, self.planned)
            whole = min(1.0, (self.measured + min(1.0, share)) / planned)
            mine = whole - before / planned
            left = (time.monotonic() - began) / mine * (1 - whole) if mine > 0 else None
            said = self.result(row) if row else ""
            show(Progress(self.measured, planned, text, whole, left, row, said))

        try:
            for cell in cells:
                had = self.measured
                try:
                    if not self.broken & cell.subjects:
                        # Closed when the run ends: then its `with` blocks stop their servers.
                        with closing(self.measure(cell, report)) as figures:
                            for rows in figures:
                                self.records += map(self._file.append, rows) if self._file else rows
                                kept[cell.subjects] += len(rows)
                                report(text, row=rows[0])
                except RuntimeError as error:
                    if cell.server == OURS or isinstance(error, LoadError):
                        raise
                    self.leave_out(cell, error, kept[cell.subjects])
                    say(self.left_out[-1])
                self.planned -= len(cell.parts) - (self.measured - had)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", self) from None
        except Exception as error:
            raise ExperimentError(one_line(error), self) from error
        finally:
            if isinstance(cells, Generator):
                cells.close()
        return self

    def leave_out(self, cell: Cell, error: BaseException, kept: int = 0) -> None:
        """Measure a competitor no more, since it failed; `kept` of its rows are kept."""
        self.broken |= cell.subjects
        since = f"from round {cell.round} on ({kept} rows of it are kept)"
        self.left_out.append(f"without {cell.label} {since}: {one_line(error)}")

    def footer(self) -> list[str]:
        """The last lines of the table as text: the machine, whether it is complete, notes, where the rows are."""
        lines = [f"measured on {records.Machine.of(self.records[-1])}"] if self.records else []
        if self.measured < self.planned:
            measured = f"{self.measured} of {self.planned} {self.unit} were measured{self.again}"
            lines.append(f"NOT COMPLETE: {measured}")
        where = [f"rows in {self.out}"] if self.out else []
        return [*lines, *self.left_out, *self.notes, *where]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.measured} {self.unit}, {len(self.records)} rows>"


T = TypeVar("T", bound=Table)
Asked = ParamSpec("Asked")


def measured(plan: Callable[Asked, T]) -> "functools._Wrapped[Asked, T, ..., T]":
    """A function that checks what is asked and gives the experiment without rows, as one that measures it, with
    the arguments of `Table.run`, too. The first one is its attribute `__wrapped__`."""
    shown, of_run = inspect.signature(plan), inspect.signature(Table.run)
    own = [one.replace(kind=one.KEYWORD_ONLY) for one in of_run.parameters.values()][1:]

    @functools.wraps(plan)
    def measure(*asked: Any, **more: Any) -> T:
        how = {one.name: more.pop(one.name, None) for one in own}
        return plan(*asked, **more).run(**how)

    both = [*shown.parameters.values(), *own]
    measure.__signature__ = shown.replace(parameters=both)  # type: ignore[attr-defined]
    return measure


class Stopped(BaseException):
    """What ended an experiment. `table` holds the finished rows."""

    def __init__(self, message: str, table: Table) -> None:
        super().__init__(message)
        self.table: Any = table


class ExperimentError(Stopped, RuntimeError):
    """The experiment could not continue."""


class Interrupted(Stopped, KeyboardInterrupt):
    """Ctrl-C."""


def is_gone(server: Any) -> bool:
    """Whether the first process of a server has ended; False if it is not known."""
    pid = getattr(server, "pid", None)
    return isinstance(pid, int) and not procfs.alive(pid)


def last_words(server: Any) -> str:
    """What to add to an error of a server: whether it is gone, and the end of its error log."""
    words = f"; the server (process {server.pid}) is gone" if is_gone(server) else ""
    with contextlib.suppress(Exception):  # the log of a dead server may be gone with it
        last = str(server.error_log()).strip().splitlines()[-1]
        words += f"; its error log ends: {last.strip()}"
    return words


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def duration(seconds: float) -> str:
    """Seconds for a reader: "40 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Bar:
    """Progress for `on_progress`: a widget in a notebook, a bar on a terminal, both by tqdm; else, or where
    tqdm is missing (it comes with mpmkit[lab]), a line for each figure on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        shell = sys.modules.get("IPython")
        self._widget = shell is not None and hasattr(shell.get_ipython(), "kernel")
        if self._widget or sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm.auto import tqdm

                form = "{percentage:3.0f}%|{bar:30}| {desc}"
                self._bar = tqdm(total=1.0, file=sys.stderr, leave=self._widget, bar_format=form)

    def __call__(self, now: Progress) -> None:
        if now.row is not None and not self._widget:
            write = print if self._bar is None else self._bar.write
            write(str(now), file=sys.stderr)
        if self._bar is not None:
            self._bar.n = now.share
            self._bar.set_description_str(str(now))
            if self._widget and now.share >= 1:
                self._bar.close()

    def close(self) -> None:
        """Leave the line of the bar."""
        if self._bar is not None:
            self._bar.close()
