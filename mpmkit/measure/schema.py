"""The schema of the records: the tables, their columns, and the rules for a row.

Each table is a tidy CSV file. All begin with what a row is of (`run_id`, `table`, `scale`, `server`,
`mpm`) and end with the machine that measured it, so that one frame can hold rows of several machines;
in between are the table's own columns. data/README.md says what each of them means, and its unit; a test holds
the two together. Pure: values in, values or a RecordError out.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS

Row = dict[str, Any]


class RecordError(ValueError):
    """Rows or a file that break the schema, or a file that cannot be written. Names file and line."""


class Column(NamedTuple):
    """One column: its name, the Python type of a value (a number is 0 or more), and whether a cell may be empty
    (None): the value is unknown, or does not apply."""

    name: str
    type: Any
    empty: bool


# Names with their types, name:int; without one it is a text. A ? at the end: a cell may be empty.
WHO = "run_id table scale server mpm?"
WHEN = "round:int directives? started_at"
MACHINE = """
    cpu_model? cores:int cpu_limit:float? memory_mb:int? memory_limit_mb:int? kernel python mpmkit
    locust? h11? commit? load1:float? steal:float?
"""
_LOAD = """
    driver driver_version? path method users:int keep_alive:bool processes:int
    requests:int failures:int errors duration_s:float qps:float
    mean_ms:float? p50_ms:float? p90_ms:float? p99_ms:float? p999_ms:float? p9999_ms:float? max_ms:float?
    generator_cpu:float? generator_wait:float? run_queue:float? generator_bound:bool generator_starved:bool?
    retries:int reconnects:int ended seed:int?
"""
_MEMORY = """
    against level:int held:int scope processes:int threads:int
    pss_kb:int uss_kb:int rss_kb:int swap_kb:int
    code_kb:int heap_kb:int anonymous_kb:int stacks_kb:int shm_kb:int page_tables_kb:int slab_kb:int?
"""
_OBSERVED = """
    wait_p50_ms:float? wait_p99_ms:float? newcomers:int unanswered:int pss_mb:float? children:int? scoreboard?
"""
_TURN = """
    requests:int failures:int seconds:float qps:float p50_ms:float? p99_ms:float?
    client_cpu:float client_bound:bool server_cpu_us:float?
"""
_PINNED = """
    design seed:int? margin:float cpus rate:float requests:int failures:int unsent:int seconds:float x:float
    server_u:float group_u:float stolen:float generator_u:float budget:float flaw?
"""
_OF_TABLES = {
    "qps": f"{WHO} kind script? {WHEN} {_LOAD} server_cpu_us:float? {MACHINE}",
    "memory": f"{WHO} {WHEN} {_MEMORY} {MACHINE}",
    "sweep": f"{WHO} sweep point {WHEN} {_LOAD} {MACHINE}",
    "observed": f"{WHO} sweep point {WHEN} {_LOAD} {_OBSERVED} {MACHINE}",
    "generators": f"{WHO} {WHEN} work generator users:int qps:float cpu:float failures:int {MACHINE}",
    "bench": f"{WHO} {WHEN} work place:int version? {_TURN} buffered_logs:bool {MACHINE}",
    "article": f"{WHO} {WHEN} work {_TURN} curve {MACHINE}",
    "demand": f"{WHO} {WHEN} work control:bool blocks:int {_PINNED} {MACHINE}",
    "capacity": f"{WHO} {WHEN} cost_us:float limit_ms:float p99_ms:float? holds:bool {_PINNED} {MACHINE}",
}


def columns_of(text: str) -> tuple[Column, ...]:
    """The columns that are written like that."""
    types = {"": str, "int": int, "float": float, "bool": bool}
    words = (word.rstrip("?").partition(":") + (word.endswith("?"),) for word in text.split())
    return tuple(Column(name, types[kind], empty) for name, _, kind, empty in words)


TABLES = {table: columns_of(text) for table, text in _OF_TABLES.items()}
"""Table -> its columns, in the order of the file."""
WORDS: dict[str, tuple[str, ...]] = {
    "scale": ("smoke", "demo", "full", "custom"), "mpm": MPMS, "kind": ("static", "script"),
    "script": ("wsgi", "cgi", "php-fpm", "mod_php"), "driver": ("locust", "ab", "wrk"),
    "method": ("GET", "HEAD", "POST"), "against": ("busy", "idle"), "scope": ("server", "parent", "child"),
}  # fmt: skip
"""A column -> what it may say."""
SHARES = ("generator_cpu", "generator_wait", "margin", "steal")  # from 0 to 1
COUNTS = ("round", "place")  # from 1


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
    if column.name in SHARES and value > 1:
        return f"must be 0 to 1, not {value:g}"
    if column.name in COUNTS and value < 1:
        return "counts from 1"
    words = WORDS.get(column.name, (value,))
    return "" if value in words else f"must be one of {', '.join(words)}, not {value}"
