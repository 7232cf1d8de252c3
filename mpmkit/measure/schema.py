"""The schema of the records: the tables, their columns, and the rules for a row.

Each table is a tidy CSV file. All begin with what a row is of (`run_id`, `table`, `scale`, `server`,
`mpm`) and end with the machine that measured it, so that one frame can hold rows of several machines;
in between are the table's own columns. Pure: values in, values or a RecordError out.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS

Row = dict[str, Any]


class RecordError(ValueError):
    """Rows or a file that break the schema, or a file that cannot be written. Names file and line."""


class Column(NamedTuple):
    """One column: its name, the Python type of a value, its unit, range or words, and its meaning.

    `empty`: a cell may be empty (None) if the value is unknown or does not apply.
    """

    name: str
    type: Any
    unit: str | tuple[str, ...]
    doc: str
    empty: bool = False


c = Column
# In all tables.
WHO = (
    c("run_id", str, "", "one per command; all its rows share it"),
    c("table", str, "", "what was measured: the name of the table"),
    c("scale", str, ("smoke", "demo", "full", "custom"), "custom: sizes were given by hand"),
    c("server", str, "", "mpmkit, or the server compared with it (gunicorn with its workers)"),
    c("mpm", str, MPMS, "empty for a server without one", True),
)
WHEN = (
    c("round", int, "from 1", "each round measures every server once, in random order (seed: run_id, or sweep)"),
    c("directives", str, "", "what the server was started with, as Name=value", True),
    c("started_at", str, "UTC, ISO 8601", "when the first request that counts was sent"),
)  # fmt: skip
_LOAD = (
    c("driver", str, ("locust", "ab", "wrk"), "what made the load"),
    c("driver_version", str, "", "version of the driver", True),
    c("path", str, "", "the path requested"),
    c("method", str, ("GET", "HEAD", "POST"), "of the requests"),
    c("users", int, "", "concurrent clients"),
    c("keep_alive", bool, "", "true: connections reused; false: one per request"),
    c("processes", int, "", "generator processes"),
    c("requests", int, "", "requests that ended, good or failed, without the warm-up"),
    c("failures", int, "", "requests without a good answer"),
    c("errors", str, "JSON", "failures by kind"),
    c("duration_s", float, "s", "first request's start to last one's end"),
    c("qps", float, "1/s", "good answers per second over duration_s"),
    c("mean_ms", float, "ms", "mean latency of good answers", True),
    c("p50_ms", float, "ms", "median latency of good answers", True),
    c("p90_ms", float, "ms", "the 90th percentile", True),
    c("p99_ms", float, "ms", "the 99th percentile", True),
    c("p999_ms", float, "ms", "the 99.9th percentile", True),
    c("p9999_ms", float, "ms", "the 99.99th; of fewer than 10,000 answers the slowest", True),
    c("max_ms", float, "ms", "the slowest good answer", True),
    c("generator_cpu", float, "0 to 1", "share of a core used by a generator process", True),
    c("generator_wait", float, "0 to 1", "its share of time ready to run, without a CPU", True),
    c("run_queue", float, "", "tasks ready to run per CPU, on average", True),
    c("generator_bound", bool, "", "true: the generator was the limit, not the server"),
    c("generator_starved", bool, "", "true: the machine was the generator's limit", True),
    c("retries", int, "", "requests sent again because the server was closing the kept connection"),
    c("reconnects", int, "", "keep-alive connections that the server closed properly"),
    c("ended", str, "", "requests or duration: the bound that ended the run"),
    c("seed", int, "", "of the load's random numbers (mix, think times, Poisson arrivals)", True),
)
MACHINE = (
    c("cpu_model", str, "", "the CPU, as the kernel names it", True),
    c("cores", int, "", "CPUs that this process may use"),
    c("cpu_limit", float, "cores", "the control group's limit, empty without one", True),
    c("memory_mb", int, "MiB", "the machine's memory", True),
    c("memory_limit_mb", int, "MiB", "the control group's limit, empty without one", True),
    c("kernel", str, "", "the running kernel's release"),
    c("python", str, "", "version that ran the generator and our servers"),
    c("mpmkit", str, "", "version"),
    c("locust", str, "", "version installed", True),
    c("h11", str, "", "version installed", True),
    c("commit", str, "", "of the checkout, with + if it had changes", True),
    c("load1", float, "", "the machine's load average when the cell began", True),
    c("steal", float, "0 to 1", "CPU time stolen by the host during the cell", True),
)
_MEMORY = (
    c("against", str, ("busy", "idle"), "requests being served, or idle kept-alive connections"),
    c("level", int, "", "the number requested"),
    c("held", int, "", "the number that the server had answered and held at the sample"),
    c("scope", str, ("server", "parent", "child"), "all its processes, its parent, or its median child"),
    c("processes", int, "", "number of processes in the figures"),
    c("threads", int, "", "their threads"),
    c("pss_kb", int, "KiB", "proportional set size: shared pages divided among processes"),
    c("uss_kb", int, "KiB", "unique set size: what ending it would free"),
    c("rss_kb", int, "KiB", "resident set size: shared pages counted once for each process"),
    c("swap_kb", int, "KiB", "proportional share of swapped memory"),
    c("code_kb", int, "KiB", "PSS of mapped files: programs, libraries"),
    c("heap_kb", int, "KiB", "PSS of the heap"),
    c("anonymous_kb", int, "KiB", "PSS of other anonymous memory: Python's arenas, copied pages"),
    c("stacks_kb", int, "KiB", "PSS of stacks, including the threads'"),
    c("shm_kb", int, "KiB", "PSS of shared memory: the scoreboard"),
    c("page_tables_kb", int, "KiB", "the kernel's page tables for it; not in the figures above"),
    c("slab_kb", int, "KiB", "unreclaimable kernel objects of the machine; server rows only", True),
)  # fmt: skip
SWEEP = (
    c("sweep", str, "", "identifies a grid and profile; a resumed sweep keeps it"),
    c("point", str, "JSON", "the values of this point of the grid"),
)
OBSERVED = (
    c("wait_p50_ms", float, "ms", "median wait of a new client during the load", True),
    c("wait_p99_ms", float, "ms", "its 99th percentile (of fewer than 100 clients the longest)", True),
    c("newcomers", int, "", "number of new clients; for one without an answer the wait so far counts"),
    c("unanswered", int, "", "how many had no answer when the load ended: the wait is then a lower bound"),
    c("pss_mb", float, "MB", "proportional set size of the whole server under the load", True),
    c("children", int, "", "processes of the server under the load, without the parent", True),
    c("scoreboard", str, "JSON", "in the middle of the run: slot, letters, connections without a thread", True),
)  # fmt: skip
_KIND = (
    c("kind", str, ("static", "script"), "of page"),
    c("script", str, ("wsgi", "cgi", "php-fpm", "mod_php"), "how it is run; empty: wsgi", True),
)
_OTHERS = (
    c("work", str, "", "new (a connection per request), keep-alive, cold or warm; of demand page or script, too"),
    c("generator", str, "", "what made the load"),
    c("cpu", float, "cores", "share of a core that the generator used"),
    c("place", int, "from 1", "its position in the round"),
    c("version", str, "", "of the server", True),
    c("seconds", float, "s", "the client's time, or the window in which answers and CPU time were counted"),
    c("client_cpu", float, "cores", "share of a core that the client used"),
    c("client_bound", bool, "", "true: the client may have been the limit"),
    c("server_cpu_us", float, "µs", "the server's CPU time per request; empty: not measurable", True),
    c("buffered_logs", bool, "", "the reference servers collected their log lines"),
    c("curve", str, "JSON", "requests begun in each second"),
    c("control", bool, "", "true: the second prefork, for the A/A comparison"),
    c("blocks", int, "", "the number planned"),
    c("cost_us", float, "µs", "CPU time that the script burns"),
    c("limit_ms", float, "ms", "the limit of p99"),
    c("holds", bool, "", "true: p99 within the limit, nothing unsent, nothing failed"),
    c("design", str, "", "identifies the plan of an experiment; a resumed one keeps it"),
    c("margin", float, "0 to 1", "fixed beforehand: ratios within it are called the same"),
    c("cpus", str, "", "where generator and server ran"),
    c("rate", float, "1/s", "requests due"),
    c("unsent", int, "", "requests of the whole load that were due but never sent"),
    c("x", float, "1/s", "good answers per second"),
    c("server_u", float, "cores", "how busy the server's CPU was, including softirq"),
    c("group_u", float, "cores", "CPU time of the server's own processes"),
    c("stolen", float, "cores", "part of the server's CPU stolen by the virtual machine's host"),
    c("generator_u", float, "cores", "CPU time of the generator"),
    c("budget", float, "cores", "server, generator and idle, as a share of the machine's CPUs"),
    c("flaw", str, "", "why the row is not used; empty if it is", True),
)  # fmt: skip
_KNOWN = {one.name: one for one in (*_LOAD, *_OTHERS)}


def _columns(names: str) -> tuple[Column, ...]:
    return tuple(_KNOWN[name] for name in names.split())


_TURN = "requests failures seconds qps p50_ms p99_ms client_cpu client_bound server_cpu_us"
_PINNED = "design seed margin cpus rate requests failures unsent seconds x"
_PINNED += " server_u group_u stolen generator_u budget flaw"
TABLES: dict[str, tuple[Column, ...]] = {
    "qps": (*WHO, *_KIND, *WHEN, *_LOAD, _KNOWN["server_cpu_us"], *MACHINE),
    "memory": (*WHO, *WHEN, *_MEMORY, *MACHINE),
    "sweep": (*WHO, *SWEEP, *WHEN, *_LOAD, *MACHINE),
    "observed": (*WHO, *SWEEP, *WHEN, *_LOAD, *OBSERVED, *MACHINE),
    "generators": (*WHO, *WHEN, *_columns("work generator users qps cpu failures"), *MACHINE),
    "bench": (*WHO, *WHEN, *_columns(f"work place version {_TURN} buffered_logs"), *MACHINE),
    "article": (*WHO, *WHEN, *_columns(f"work {_TURN} curve"), *MACHINE),
    "demand": (*WHO, *WHEN, *_columns(f"work control blocks {_PINNED}"), *MACHINE),
    "capacity": (*WHO, *WHEN, *_columns(f"cost_us limit_ms p99_ms holds {_PINNED}"), *MACHINE),
}
"""Table -> its columns, in the order of the file."""


def names(table: str) -> tuple[str, ...]:
    """The names of a table's columns. Raises RecordError for an unknown table."""
    if table not in TABLES:
        raise RecordError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return tuple(column.name for column in TABLES[table])


def check(row: Mapping[str, Any]) -> Row:
    """The row in the schema's order. Raises RecordError naming every mistake."""
    table = str(row.get("table", "qps"))
    known = names(table)
    problems = [f"{name}: missing" for name in known if name not in row]
    problems += [f"{name}: no such column" for name in row if name not in known]
    checked: Row = {}
    for column in (column for column in TABLES[table] if column.name in row):
        value = row[column.name]
        if column.type is float and type(value) is int:
            value = float(value)
        checked[column.name] = None if value == "" or value != value else value  # NaN, in a frame
        if wrong := _wrong(column, checked[column.name]):
            problems.append(f"{column.name}: {wrong}")
    if problems:
        raise RecordError("; ".join(problems))
    return checked


def _wrong(column: Column, value: Any) -> str:
    """What is wrong with a value; "" if it can be."""
    if value is None:
        return "" if column.empty else "must not be empty"
    if type(value) is not column.type:
        return f"must be {column.type.__name__}, not {value!r}"
    if column.type is str and any(ord(letter) < 32 for letter in value):
        return "must be one line"
    if column.type in (int, float) and (value < 0 or math.isinf(value)):
        return f"must be a number from 0, not {value!r}"
    if column.unit == "0 to 1" and value > 1:
        return f"must be 0 to 1, not {value:g}"
    if column.unit == "from 1" and value < 1:
        return "counts from 1"
    words = column.unit if isinstance(column.unit, tuple) else (value,)
    return "" if value in words else f"must be one of {', '.join(words)}, not {value}"
