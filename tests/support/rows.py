"""Rows of every table of records, whole and valid, for the tests of what reads them."""

from __future__ import annotations

from mpmkit.measure import records

ROW = {
    "run_id": "20260101T000000Z-abcdef", "table": "qps", "scale": "demo", "server": "mpmkit",
    "mpm": "event", "kind": "static", "script": None, "round": 1,
    "directives": "ThreadsPerChild=25 KeepAlive=False", "started_at": "2026-01-01T00:00:00.000+00:00",
    # the load
    "driver": "locust", "driver_version": "2.47.0", "path": "/index.html", "method": "GET",
    "users": 200, "keep_alive": False, "processes": 1, "requests": 1000, "failures": 10,
    "errors": '{"status 500": 10}', "duration_s": 2.0, "qps": 495.0,
    "mean_ms": 1.5, "p50_ms": 1.25, "p90_ms": 2.0, "p99_ms": 4.0, "p999_ms": 8.0, "p9999_ms": 8.5,
    "max_ms": 9.0,
    "generator_cpu": 0.5, "generator_wait": 0.25, "run_queue": 1.5, "generator_bound": False,
    "generator_starved": False, "retries": 0, "reconnects": 0, "ended": "requests",
    "server_cpu_us": 41.5, "seed": 7,
    # the machine
    "cpu_model": 'A "B", C', "cores": 2, "cpu_limit": None, "memory_mb": 2048,
    "memory_limit_mb": None, "kernel": "6.1", "python": "3.11.7", "mpmkit": "0.1.0",
    "locust": "2.47.0", "h11": "0.16.0", "commit": None, "load1": 0.5, "steal": 0.0,
}  # fmt: skip

# The columns that every table has.
SHARED = {
    name: value
    for name, value in ROW.items()
    if name in {*(column.name for column in records.TABLES["memory"])} - {"processes"}
}
MEMORY = {
    **SHARED, "table": "memory", "against": "busy", "level": 10, "held": 9, "scope": "server",
    "processes": 3, "threads": 30, "pss_kb": 1000, "uss_kb": 600, "rss_kb": 3000, "swap_kb": 0,
    "code_kb": 300, "heap_kb": 200, "anonymous_kb": 400, "stacks_kb": 90, "shm_kb": 10,
    "page_tables_kb": 50, "slab_kb": None,
}  # fmt: skip
SWEEP = {
    **{name: ROW[name] for name in ROW if name not in ("kind", "script", "server_cpu_us")},
    "table": "sweep", "sweep": "abc", "point": '{"ThreadsPerChild": 5, "users": 10}',
}  # fmt: skip
GENERATORS = {
    **SHARED, "table": "generators", "work": "new", "generator": "ab", "users": 200, "qps": 9000.0,
    "cpu": 0.5, "failures": 0,
}  # fmt: skip
BENCH = {
    **SHARED, "table": "bench", "work": "new", "place": 1, "version": None, "requests": 10,
    "failures": 0, "seconds": 0.5, "qps": 20.0, "p50_ms": 1.0, "p99_ms": 2.0, "client_cpu": 0.5,
    "client_bound": False, "server_cpu_us": 25.5, "buffered_logs": True,
}  # fmt: skip
ARTICLE = {
    **{name: BENCH[name] for name in BENCH if name not in ("place", "version", "buffered_logs")},
    "table": "article", "work": "cold", "curve": "[10]",
}  # fmt: skip
PINNED = {
    **SHARED, "design": "abc", "seed": 1, "margin": 0.03, "cpus": "generator on CPU 0, server on CPU 1",
    "rate": 1000.0, "requests": 1000, "failures": 0, "unsent": 0, "seconds": 1.0, "x": 1000.0,
    "server_u": 0.04, "stolen": 0.0, "group_u": 0.03, "generator_u": 0.1, "budget": 0.99, "flaw": None,
}  # fmt: skip
DEMAND = {
    **PINNED, "table": "demand", "mpm": "prefork", "work": "page", "control": False, "blocks": 7,
}  # fmt: skip
CAPACITY = {
    **PINNED, "table": "capacity", "mpm": "prefork", "cost_us": 300.0, "limit_ms": 50.0, "p99_ms": 9.0,
    "holds": True,
}  # fmt: skip
