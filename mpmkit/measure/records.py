"""Measurements on disk: one tidy row per finished cell, with the machine that measured it.

One schema (`schema.py`, described for readers in data/README.md), checked when a row is written and
again when it is read. Imports no pandas; `read_frame` loads it when called.
"""

import contextlib
import csv
import fcntl
import io
import os
import platform
import re
import secrets
import subprocess
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Self

from mpmkit._version import __version__
from mpmkit.config.extras import DataFrame, require
from mpmkit.measure import schema
from mpmkit.measure.procfs import text_of
from mpmkit.measure.schema import TABLES, Column, RecordError, Row, check, names

__all__ = ["TABLES", "RecordError", "Row", "check", "names"]


def new_run_id() -> str:
    """The time, and randomness for two runs within the same second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def utc(seconds: float) -> str:
    """A Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _from_text(column: Column, text: str) -> Any:
    read = {"true": True, "false": False}.__getitem__ if column.type is bool else column.type
    try:
        return None if text == "" else read(text)
    except (KeyError, ValueError):
        must = "true or false" if column.type is bool else column.type.__name__
        raise RecordError(f"{column.name}: must be {must}, not {text!r}") from None


def _line(values: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


class RecordFile:
    """A CSV file of one table (a key of TABLES) to append rows to. Made or checked when opened: a run
    must not find out at its end that it cannot write.

    Raises RecordError if the folder is missing, the file cannot be written or has other columns.
    """

    def __init__(self, path: str | os.PathLike[str], table: str = "qps") -> None:
        self.path, self.table = Path(path), table
        if not self.path.parent.is_dir():
            raise RecordError(f"{self.path}: there is no folder {self.path.parent}")
        if self.path.exists() and not self.path.is_file():
            raise RecordError(f"{self.path}: is not a regular file")
        header = _line(names(table))
        with self._opened() as file:
            text = self.path.read_text(errors="replace")
            if header.startswith(text):
                file.truncate(0)
                self._write(file, header)
            elif not text.startswith(header):
                other = f"has other columns than the table {table}; choose another file"
                raise RecordError(f"{self.path}: {other}")
            elif not text.endswith("\n"):  # what a full disk or a power failure left of a row
                file.truncate(self.path.read_bytes().rindex(b"\n") + 1)

    def append(self, row: Mapping[str, Any]) -> Row:
        """Check a row and write it; the row as written. Raises RecordError."""
        try:
            if row.get("table") != self.table:
                raise RecordError(f"table: this file holds {self.table}, not {row.get('table')!r}")
            checked = check(row)
        except RecordError as error:
            raise RecordError(f"{self.path}: not written: {error}") from None
        with self._opened() as file:
            self._write(file, _line(_to_text(checked[name]) for name in names(self.table)))
        return checked

    def _opened(self) -> IO[bytes]:
        try:
            file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise RecordError(f"{self.path}: cannot be written: {error.strerror}") from None
        fcntl.flock(file, fcntl.LOCK_EX)  # two runs may share a file; ends with the descriptor
        return file

    def _write(self, file: IO[bytes], line: str) -> None:
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(line.encode()) != len(line.encode()):
                raise OSError(28, "No space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(before)
            why = f"a row could not be written: {error.strerror}"
            raise RecordError(f"{self.path}: {why}") from None


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file, typed and checked. Raises RecordError naming file and line.

    An incomplete last line, left by a full disk or a power failure, is skipped with a
    warning.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None
    whole, end, torn = text.rpartition("\n")
    if torn:
        warnings.warn(f"{path}: its last line is not complete and is left out", stacklevel=2)
    reader = csv.reader(io.StringIO(whole + end), strict=True)
    rows: list[Row] = []
    try:
        found = tuple(next(reader, ()))
        table = next((table for table in TABLES if names(table) == found), None)
        if table is None:
            raise RecordError("is not the header of a record file")
        for cells in reader:
            if len(cells) != len(found):
                raise RecordError(f"{len(cells)} cells instead of {len(found)}")
            pairs = zip(TABLES[table], cells, strict=True)
            rows.append(check({column.name: _from_text(column, cell) for column, cell in pairs}))
    except (RecordError, csv.Error) as error:
        raise RecordError(f"{path}, line {max(1, reader.line_num)}: {error}") from None
    return rows


def grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """Values of these columns -> the rows that have them, in their order."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in columns), []).append(row)
    return found


def frame(rows: Iterable[Mapping[str, Any]], table: str = "qps") -> DataFrame:
    """Rows of one table as a frame with the schema's columns and types, `started_at` as a time.

    `table` counts if there are no rows; otherwise they say what they are.
    """
    pandas, rows = require("pandas"), list(rows)
    columns = TABLES[rows[0]["table"] if rows else table]
    made = pandas.DataFrame(rows, columns=[column.name for column in columns])
    made["started_at"] = pandas.to_datetime(made["started_at"], utc=True, format="ISO8601")
    return made.astype({column.name: "float64" for column in columns if column.type is float})


def read_frame(path: str | os.PathLike[str]) -> DataFrame:
    """The rows of a file as a frame. Raises RecordError."""
    return frame(read(path))


def data_folder(name: str) -> Path:
    """A folder of data/: in the checkout, or in the installed package. Raises RecordError."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "data" / name, package / "data" / name):
        if folder.is_dir():
            return folder
    raise RecordError(f"{package.parent}: has no data/{name}; run from a checkout")


recorded_folder = partial(data_folder, "recorded")


def recorded(name: str) -> DataFrame:
    """A shipped run as a frame: ``recorded("qps-demo")``, the file's name without .csv.

    The name of a table ("qps", "memory" …) gives its largest recorded run (full, else demo,
    else another). The rows name its machine. Raises RecordError, naming the runs that exist.
    """
    there = sorted(file.stem for file in recorded_folder().glob("*.csv"))
    others = [one for one in there if one.startswith(f"{name}-")]
    found = [one for one in (name, f"{name}-full", f"{name}-demo", *others) if one in there]
    if not found:
        raise RecordError(f"no recorded run {name!r}; there are {', '.join(there) or 'none'}")
    made = read_frame(recorded_folder() / f"{found[0]}.csv")
    made.attrs["recorded"] = found[0]
    return made


class Machine(SimpleNamespace):
    """What ran the measurement: the schema's columns of a machine, without the load and what was stolen. None
    where the system does not say."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The machine that a record was measured on."""
        names = {column.name for column in schema.columns_of(schema.MACHINE)} - {"load1", "steal"}
        return cls(**{name: row[name] for name in names})

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        if self.cpu_limit is not None:
            cores += f" (limited to {self.cpu_limit:g})"
        memory = f", {self.memory_mb / 1024:.1f} GiB" if self.memory_mb else ""
        if self.memory_limit_mb:
            memory += f" (limited to {self.memory_limit_mb / 1024:.1f})"
        words = [self.cpu_model or "unknown processor", cores + memory, f"Linux {self.kernel}"]
        words.append(f"Python {self.python}")
        words.append(f"mpmkit {self.mpmkit}" + (f" at {self.commit}" if self.commit else ""))
        more = {"Locust": self.locust, "h11": self.h11}
        return ", ".join([*words, *(f"{name} {one}" for name, one in more.items() if one)])


def machine() -> Machine:
    """Describe this machine and the versions at hand. Never raises: what cannot be read is None."""
    import psutil

    # x86 says "model name", some others "Model" or "Hardware".
    model = re.search(r"(?m)^(?:model name|Hardware|Model)\s*:\s*(.+)$", text_of("/proc/cpuinfo"))
    cpus, memory = group_limits()
    versions: dict[str, str | None] = {"locust": None, "h11": None}
    for name in versions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return Machine(
        cpu_model=" ".join(model[1].split()) if model else platform.machine() or None,
        cores=len(os.sched_getaffinity(0)), cpu_limit=cpus,
        memory_mb=psutil.virtual_memory().total >> 20, memory_limit_mb=memory,
        kernel=platform.release(), python=platform.python_version(), mpmkit=__version__,
        commit=_commit(), **versions,
    )  # fmt: skip


def group_limits(root: str | os.PathLike[str] = "/") -> tuple[float | None, int | None]:
    """Cores (the quota) and MiB that our control group (version 2), or one above it, grants; None where it
    has no limit. A container often sees its group mounted as the root, so the path that /proc names may
    not exist."""
    mount = Path(root) / "sys/fs/cgroup"
    group = re.search(r"^0::/(.*)$", text_of(Path(root) / "proc/self/cgroup"), re.MULTILINE)
    found: dict[str, list[float]] = {"cpu.max": [], "memory.max": []}
    for place in (mount / group[1], *(mount / group[1]).parents) if group else ():
        for name, limits in found.items():
            words = text_of(place / name).split()
            if words and words[0].isdigit():
                limits.append(int(words[0]) / (int(words[1]) if words[1:] else 1 << 20))
    memory = min(found["memory.max"], default=None)
    return min(found["cpu.max"], default=None), None if memory is None else int(memory)


def _commit() -> str | None:
    """The commit of this project's checkout, with + if it was changed; None outside of one."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    # A run that is recorded changes the records, which is no change of what is measured.
    what = "status --porcelain=v2 --branch -uno -- . :!data/recorded".split()
    how: dict[str, Any] = {"text": True, "timeout": 5, "stderr": subprocess.DEVNULL}
    try:
        lines = subprocess.check_output(["git", "-C", str(top), *what], **how).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0].split()[-1][:10] + "+" * any(not line.startswith("#") for line in lines)
