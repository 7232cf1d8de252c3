"""A valid row of every table of records, for the tests of what reads them; a run's rows; a trace."""

import random
from typing import Any

from mpmkit.measure.records import TABLES
from mpmkit.measure.trace import Trace

# What tests count on, or a value of the column's type would not be; None where a cell may be empty.
KNOWN = {
    "run_id": "20260101T000000Z-abcdef", "scale": "demo", "server": "mpmkit", "mpm": "event",
    "started_at": "2026-01-01T00:00:00.000+00:00", "driver": "locust", "method": "GET", "kind": "static",
    "against": "busy", "scope": "server", "requests": 1000, "failures": 0, "qps": 495.0, "level": 10,
    "server_cpu_us": 41.5, "users": 200, "errors": '{"status 500": 10}', "point": '{"ThreadsPerChild": 5}',
    "curve": "[10]", "cpu_model": 'A "B", C', "kernel": "6.1", "python": "3.11.7", "cores": 2, "design": "abc",
    "margin": 0.03, "rate": 1000.0, "x": 1000.0, "server_u": 0.04, "group_u": 0.03, "generator_u": 0.1,
    "budget": 0.99, "p99_ms": 9.0, "limit_ms": 50.0, "cost_us": 300.0, "holds": True,
}  # fmt: skip
OF_TYPE = {str: "x", int: 1, float: 1.0, bool: False}


def row(table: str, **changes: Any) -> dict[str, Any]:
    """A row of that table, with these values."""
    columns = TABLES[table]
    empty = {column.name: None if column.empty else OF_TYPE[column.type] for column in columns}
    known = {name: value for name, value in KNOWN.items() if name in empty}
    return {**empty, **known, "table": table, **changes}


ROW = row("qps", failures=10, mean_ms=1.5)
MEMORY = row("memory", uss_kb=600, pss_kb=1000, rss_kb=3000)
SWEEP = row("sweep")
GENERATORS = row("generators")
BENCH = row("bench", work="new")
ARTICLE = row("article", work="cold")
DEMAND = row("demand", mpm="prefork", work="page", blocks=7, unsent=0, stolen=0.0)
CAPACITY = row("capacity", mpm="prefork", unsent=0)


def demand_rows(
    costs: dict[str, float], blocks: int = 8, seed: int = 1, *,
    noise: float = 0.0, pace: float = 0.1, **changes: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """A run of `mpmkit demand`: an MPM (or "control") costs so many µs a request, and U is S times X, within 1%.
    pace: a block is so much slower or faster for all, at most; noise: a cell's own, of its logarithm."""
    source, made = random.Random(seed), []
    for block in range(1, blocks + 1):
        now = source.uniform(1 - pace, 1 + pace)
        for mpm, cost in costs.items():
            cell = cost * now * source.lognormvariate(0, noise)
            for rate in (1000.0, 2000.0, 4000.0):
                u = cell * source.uniform(0.99, 1.01) * rate / 1e6
                who = {"mpm": "prefork" if mpm == "control" else mpm, "control": mpm == "control"}
                load = {"rate": rate, "x": rate, "server_u": u, "group_u": 0.8 * u}
                made.append({**DEMAND, **who, **load, "round": block, **changes})
    return made


def trace(*requests: tuple[float, float, int], kept: int = 0) -> Trace:
    """Of (start, seconds, connection)."""
    start, seconds, connection = zip(*sorted(requests), strict=True)
    return Trace(start, seconds, connection=connection, kept=[kept] * len(start), begin=1e9)
