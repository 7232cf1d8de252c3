"""Measurements on disk: one tidy row per finished cell, with the machine that gave it.

One schema (`schema.py`, described for readers in data/README.md), checked when a row is written and
again when it is read. A row is on disk before the next cell begins: written in one
piece, flushed to the device, under a lock. A run that is stopped, or whose machine loses power,
keeps every row it finished; what it was writing at that moment is recognised and dropped.

Imports no pandas; `read_frame` loads it when called.
"""

from __future__ import annotations

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.measure.schema import (
    COLUMNS,
    NAMES,
    TABLES,
    Column,
    RecordError,
    Row,
    check,
    columns_table,
    names,
    table_of,
)

__all__ = ["COLUMNS", "NAMES", "TABLES", "Column", "RecordError", "Row", "check", "columns_table"]

if TYPE_CHECKING:
    import pandas


def new_run_id() -> str:
    """The time, for people, and enough randomness for two runs within the same second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def utc(seconds: float) -> str:
    """A Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.9g}"
    return str(value)


def _from_text(column: Column, text: str) -> Any:
    if text == "":
        return None
    if column.type is bool:
        if text not in ("true", "false"):
            raise RecordError(f"{column.name}: must be true or false, not {text!r}")
        return text == "true"
    try:
        return column.type(text)
    except ValueError:
        raise RecordError(f"{column.name}: must be {column.type.__name__}, not {text!r}") from None


def _line(values: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def header(table: str = "qps") -> str:
    """The first line of a file of that table."""
    return _line(names(table))


HEADER = header()


# -- the file ------------------------------------------------------------------------------------


class RecordFile:
    """A CSV file of one table (a key of TABLES) to append rows to. Made or checked when opened: a run
    must not find out at its end that it cannot write.

    Raises RecordError if the folder is missing, the file cannot be written or has other columns.
    """

    def __init__(self, path: str | os.PathLike[str], table: str = "qps") -> None:
        self.path = Path(path)
        self.table = table
        self._header = header(table).encode()
        if not self.path.parent.is_dir():
            raise RecordError(f"{self.path}: there is no folder {self.path.parent}")
        if self.path.exists() and not self.path.is_file():
            raise RecordError(f"{self.path}: is not a regular file")
        with self._locked() as file:
            self._mend(file)

    def append(self, row: Mapping[str, Any]) -> Row:
        """Check a row and write it to the device; the row as written. Raises RecordError."""
        try:
            if row.get("table") != self.table:
                raise RecordError(f"table: this file holds {self.table}, not {row.get('table')!r}")
            checked = check(row)
        except RecordError as error:
            raise RecordError(f"{self.path}: not written: {error}") from None
        with self._locked() as file:
            self._mend(file)  # another process may have died in between
            self._write(file, _line(_to_text(checked[name]) for name in names(self.table)))
        return checked

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RecordError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            # Two runs may share a file; the lock goes with the descriptor, also when one is killed.
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _mend(self, fd: int) -> None:
        """Write the header into an empty file; cut off a row whose writer died before its end."""
        size = os.fstat(fd).st_size
        head = os.pread(fd, len(self._header), 0)
        if head != self._header:
            if size == 0 or (b"\n" not in head and self._header.startswith(head)):
                os.ftruncate(fd, 0)
                self._write(fd, self._header.decode())
                return
            found = head.partition(b"\n")[0].decode(errors="replace").split(",")
            missing = [name for name in names(self.table) if name not in found][:3]
            raise RecordError(
                f"{self.path}: has other columns than this version writes"
                + (f" (no {', '.join(missing)})" if missing else "")
                + "; choose another file"
            )
        at, tail = size, b""
        while at > 0 and b"\n" not in tail:
            step = min(4096, at)
            at -= step
            tail = os.pread(fd, step, at) + tail
        whole = at + tail.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(fd, whole)

    def _write(self, fd: int, text: str) -> None:
        data = text.encode()
        before = os.fstat(fd).st_size
        try:
            written = os.write(fd, data)
            if written != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, before)
            raise RecordError(
                f"{self.path}: a row could not be written: {error.strerror}"
            ) from None


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file, typed and checked. A column that may be empty may also be missing.

    Raises RecordError naming file and line. A last line without its end is what a run that died was
    writing; it is left out, with a warning.
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
        found = next(reader, None) or []
        table = table_of(found)
        columns = {column.name: column for column in TABLES[table]}
        for cells in reader:
            if len(cells) != len(found):
                raise RecordError(f"{len(cells)} cells instead of {len(found)}")
            row: Row = dict.fromkeys(columns)  # what an older version did not write is not known
            row.update(
                (name, _from_text(columns[name], cell))
                for name, cell in zip(found, cells, strict=True)
            )
            row["table"] = row["table"] or table
            rows.append(check(row))
    except (RecordError, csv.Error) as error:
        raise RecordError(f"{path}, line {max(1, reader.line_num)}: {error}") from None
    return rows


def frame(rows: Iterable[Mapping[str, Any]], table: str = "qps") -> pandas.DataFrame:
    """Rows of one table as a frame with the schema's columns and types, `started_at` as a time.

    `table` counts if there are no rows; otherwise they say what they are.
    """
    import pandas

    rows = list(rows)
    columns = TABLES[rows[0]["table"] if rows else table]
    made = pandas.DataFrame(rows, columns=[column.name for column in columns])
    made["started_at"] = pandas.to_datetime(made["started_at"], utc=True, format="ISO8601")
    for column in columns:
        if column.type is float:
            made[column.name] = made[column.name].astype("float64")
    return made


def read_frame(*paths: str | os.PathLike[str]) -> pandas.DataFrame:
    """The rows of one or more files of one table in one frame. Raises RecordError."""
    rows = [row for path in paths for row in read(path)]
    tables = {row["table"] for row in rows}
    if len(tables) > 1:
        raise RecordError(
            f"{', '.join(map(str, paths))}: hold rows of different tables "
            f"({', '.join(sorted(tables))}); read them one by one"
        )
    return frame(rows)


# -- what is shipped -----------------------------------------------------------------------------


def recorded_folder() -> Path:
    """Where the recorded runs lie: in the checkout, or in the installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "data" / "recorded", package / "data" / "recorded"):
        if folder.is_dir():
            return folder
    raise RecordError(
        "the recorded runs (data/recorded) are not where this package looks for "
        "them; run from a checkout"
    )


def recorded_names() -> list[str]:
    """What `recorded` knows: the names of the files without .csv."""
    return sorted(file.stem for file in recorded_folder().glob("*.csv"))


def recorded(name: str) -> pandas.DataFrame:
    """A run that the project ships, as a frame: ``recorded("qps-demo")``, the file's name without .csv.

    The name of a table alone ("qps", "memory" …) gives its largest recorded run (full, else demo,
    else another). Its machine stands in its rows. Raises RecordError, naming what there is.
    """
    there = recorded_names()
    if name not in there:
        order = [
            f"{name}-full",
            f"{name}-demo",
            *(one for one in there if one.startswith(f"{name}-")),
        ]
        found = [one for one in order if one in there]
        if not found:
            raise RecordError(f"no recorded run {name!r}; there are {', '.join(there) or 'none'}")
        name = found[0]
    made = read_frame(recorded_folder() / f"{name}.csv")
    made.attrs["recorded"] = name
    return made


# -- the machine ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What ran the measurement. None where the system does not say."""

    cpu_model: str | None
    cores: int
    cpu_limit: float | None
    memory_mb: int | None
    memory_limit_mb: int | None
    kernel: str
    python: str
    mpmkit: str
    locust: str | None
    h11: str | None
    commit: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Machine:
        """The machine that a record was measured on."""
        return cls(**{name: row[name] for name in cls.__annotations__})

    def row(self) -> Row:
        """Its columns of a record."""
        return asdict(self)

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        if self.cpu_limit is not None:
            cores += f" (limited to {self.cpu_limit:g})"
        memory = ""
        if self.memory_mb:
            memory = f", {self.memory_mb / 1024:.1f} GiB"
            if self.memory_limit_mb:
                memory += f" (limited to {self.memory_limit_mb / 1024:.1f})"
        versions = f"mpmkit {self.mpmkit}" + (f" at {self.commit}" if self.commit else "")
        for name, version in (("Locust", self.locust), ("h11", self.h11)):
            versions += f", {name} {version}" if version else ""
        return (
            f"{self.cpu_model or 'unknown processor'}, {cores}{memory}, Linux {self.kernel}, "
            f"Python {self.python}, {versions}"
        )


def machine() -> Machine:
    """Describe this machine and the versions at hand. Never raises: what cannot be read is None."""
    return Machine(
        cpu_model=_cpu_model(_text("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        cpu_limit=cpu_limit(),
        memory_mb=_memory_mb(_text("/proc/meminfo")),
        memory_limit_mb=memory_limit_mb(),
        kernel=platform.release(),
        python=platform.python_version(),
        mpmkit=_version("mpmkit"),
        locust=_installed("locust"),
        h11=_installed("h11"),
        commit=_commit(),
    )


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _cpu_model(cpuinfo: str) -> str | None:
    # x86 says "model name", some others "Model" or "Hardware".
    match = re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(match[1].split()) if match else platform.machine() or None


def _memory_mb(meminfo: str) -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) // 1024 if match else None


def _cgroup_files(
    name_v2: str, controller_v1: str, name_v1: str, root: str | os.PathLike[str]
) -> Iterator[tuple[int, str]]:
    """(version, text) of a limit's file in our control group and each one above it.

    A container often sees its group mounted as the root, so the path from /proc may not exist; the
    ancestors up to the mount are tried as well, and the tightest limit counts.
    """
    base = Path(root) / "sys/fs/cgroup"
    for line in _text(Path(root) / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            # Version 2 alone, or beside version 1 under "unified".
            mounts, version, name = (base, base / "unified"), 2, name_v2
        elif controller_v1 in controllers.split(","):
            mounts, version, name = (base / controllers, base / controller_v1), 1, name_v1
        else:
            continue
        for mount in mounts:
            place = mount / path.lstrip("/")
            while place == mount or mount in place.parents:
                text = _text(place / name).strip()
                if text:
                    yield version, text
                place = place.parent


def cpu_limit(root: str | os.PathLike[str] = "/") -> float | None:
    """Cores that the control group grants (its quota), or None."""
    limits = []
    for version, text in _cgroup_files("cpu.max", "cpu", "cpu.cfs_quota_us", root):
        if version == 2:
            quota, _, period = text.partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                limits.append(int(quota) / int(period))
        elif text.isdigit() and int(text) > 0:
            limits.append(int(text) / 100_000)  # the period that every container runtime sets
    return min(limits, default=None)


def memory_limit_mb(root: str | os.PathLike[str] = "/") -> int | None:
    """MiB that the control group grants, or None."""
    limits = [
        int(text)
        for _, text in _cgroup_files("memory.max", "memory", "memory.limit_in_bytes", root)
        if text.isdigit() and int(text) < 1 << 60
    ]  # version 1 writes "none" as a huge number
    return min(limits) // (1 << 20) if limits else None


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _version(name: str) -> str:
    try:
        from mpmkit._version import __version__
    except ImportError:
        return _installed(name) or "unknown"
    return __version__


def _commit() -> str | None:
    """The checkout's commit; None if this package does not lie in the checkout of its own
    project."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(top), *words],
                capture_output=True,
                text=True,
                timeout=5,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=10", "HEAD")
    if not commit:
        return None
    # A run that is recorded changes the records, which is no change of what is measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/recorded")
    return commit + ("+" if changed else "")


def load1() -> float | None:
    """The load average of the last minute, or None."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
