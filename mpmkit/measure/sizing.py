"""From measured memory to a number of workers. Pure: rows in, figures out.

    fit = slope([0, 10, 20], [5000, 8100, 11000])      # KiB against busy requests
    max_request_workers_for("4GiB", mpm="prefork", memory=table.to_frame())

A server with n busy requests takes ``base + n * per_request``: a straight line through the measured points (least
squares). A size uses the upper end of the slope's 95% interval: a machine that swaps is worse than
one worker too few.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.measure.stats import t_quantile

RESERVE_SHARE = 0.20
RESERVE_LEAST = 256 << 20


@dataclass(frozen=True)
class Line:
    """A straight line through points: value = base + slope * n.

    low, high: the 95% interval of the slope (infinite with two points: they allow no error).
    most: the largest n measured; beyond it the line is extrapolated.
    """

    base: float
    slope: float
    low: float
    high: float
    points: int
    most: float

    def at(self, n: float) -> float:
        return self.base + self.slope * n

    @property
    def dear(self) -> float:
        """The expensive end of the slope's interval; the slope itself where that has no end."""
        return self.high if math.isfinite(self.high) else self.slope


def slope(ns: Sequence[float], values: Sequence[float]) -> Line:
    """Least squares. Raises ValueError without at least two points with different n."""
    if len(set(ns)) < 2:
        raise ValueError("a slope takes at least two different levels; measure more levels")
    steep, base = statistics.linear_regression(ns, values)
    spread, free = statistics.pvariance(ns) * len(ns), len(ns) - 2
    left = sum((v - base - steep * n) ** 2 for n, v in zip(ns, values, strict=True))
    reach = t_quantile(free) * math.sqrt(left / free / spread) if free else math.inf
    return Line(base, steep, steep - reach, steep + reach, len(ns), max(ns))


def lines(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ("pss_kb",)
) -> dict[tuple[str, str | None, str], Line]:
    """(server, MPM, against) -> the line through the sums of `columns` (KiB) against what was held.

    Takes the rows of the records table `memory`; those of whole servers count.
    """
    found: dict[tuple[str, str | None, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["scope"] == "server":
            mpm = row["mpm"] if isinstance(row["mpm"], str) else None  # NaN in a frame
            point = row["held"], sum(row[column] for column in columns)
            found.setdefault((row["server"], mpm or None, row["against"]), []).append(point)
    levels = {key: {n for n, _ in points} for key, points in found.items()}
    return {key: slope(*zip(*found[key], strict=True)) for key in found if len(levels[key]) > 1}


@dataclass(frozen=True)
class Sizing:
    """An answer of `max_request_workers_for`; sizes in bytes.

    workers: the MaxRequestWorkers to set. base: the server without load. per_request, per_idle: the cost of
    one more, at the upper ends of the measured intervals. idle: kept-alive connections included. by_rss: the
    result of summing RSS, which is common and wrong. measured_to: the most requests busy at once in the
    measurement.
    """

    mpm: str
    workers: int
    ram: int
    reserve: int
    base: int
    per_request: int
    idle: int
    per_idle: int
    by_rss: int | None
    threads_per_child: int
    measured_to: int

    def __str__(self) -> str:
        idle, each, held = self.idle * self.per_idle, self.per_request / 1024, self.per_idle / 1024
        left = self.ram - self.reserve - self.base - idle
        parts = (
            ("reserve", self.reserve, "for the kernel, sockets, page cache, logs and all the rest"),
            ("base", self.base, "the server before it has a request"),
            ("idle", idle, f"{self.idle:,} kept-alive connections at {held:,.1f} KiB"),
            ("requests", left, f"at {each:,.1f} KiB each, the upper end of the interval"),
        )
        words = [f"MaxRequestWorkers {self.workers} for {self.mpm} in {_mib(self.ram)}"]
        words += [f"  {name:<11}{_mib(n):>12}  {what}" for name, n, what in parts if n]
        if self.mpm != "prefork":
            children = f"whole children of ThreadsPerChild {self.threads_per_child}"
            limit = max(1, self.workers // self.threads_per_child)
            words.append(f"rounded down to {children}: ServerLimit {limit}")
        if self.workers > self.measured_to:
            most = f"no more than {self.measured_to:,} were busy at once when it was measured"
            words.append(f"{most}; beyond that the line is extrapolated")
        if self.by_rss is not None:
            counts = "it counts pages that all processes share once for each"
            words.append(f"summed RSS would have allowed {self.by_rss:,}: {counts}")
        return "\n".join(words)


def size_in_bytes(text: str | int, name: str = "ram") -> int:
    """4294967296, "4GiB", "4G" (binary, as most tools mean it) or "4GB" (decimal). Raises ValueError."""
    form = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)(B?)\s*"
    found = re.fullmatch(form, str(text), re.IGNORECASE)
    if not found or (found[3] and not found[2]):
        raise ValueError(f"{name}: must be a size like 4GiB, 512M or 4GB, not {text!r}")
    unit = 1000 if found[4] and not found[3] else 1024
    size = int(float(found[1]) * unit ** " KMGT".index(found[2].upper() or " "))
    if size <= 0:
        raise ValueError(f"{name}: must be more than nothing, not {text!r}")
    return size


def room_for(ram: str | int, reserve: str | int | None = None) -> tuple[int, int]:
    """Bytes of the machine, and of it what is not for the server. Raises ValueError."""
    total = size_in_bytes(ram)
    kept = max(RESERVE_LEAST, int(total * RESERVE_SHARE))
    if reserve is not None:
        kept = 0 if reserve == 0 else size_in_bytes(reserve, "reserve")
    if kept >= total:
        raise ValueError(f"reserve: {_mib(kept)} of {_mib(total)} leave nothing for the server")
    return total, kept


def max_request_workers_for(
    ram: str | int, *, mpm: str, memory: Any, server: str = "mpmkit", idle: int = 0,
    reserve: str | int | None = None, threads_per_child: int = 25,
) -> Sizing:  # fmt: skip
    """The MaxRequestWorkers that a machine has room for, from measured slopes.

    ram: the machine's memory, or the server's share of it: bytes, or "4GiB". memory: rows of `memory_table`
    (the table, its frame or a list of rows), measured with your pages and scripts: the cost of a request depends
    on your application. server: whose rows to use. idle: kept-alive connections to reserve memory for, under
    event; elsewhere each of them takes a worker. reserve: memory not for this server, bytes or a size; by default
    20% of ram and at least 256 MiB: the kernel's page tables and sockets are in no process's PSS, and served
    files need page cache. threads_per_child: for worker and event; the answer is a multiple of it.

    Raises ValueError if memory has no busy rows of that MPM and server, if they show no growth, or if
    the machine has no room for a single worker (the text says how much one needs).
    """
    problems = [] if mpm in MPMS else [f"mpm: {mpm!r} is not one of {', '.join(MPMS)}"]
    for name, value, least in (("idle", idle, 0), ("threads_per_child", threads_per_child, 1)):
        if type(value) is not int or value < least:
            problems.append(f"{name}: must be a whole number from {least}, not {value!r}")
    if idle and mpm in ("prefork", "worker"):
        held = "a kept-alive connection keeps a worker; count it as one"
        problems.append(f"idle: under {mpm} {held}")
    try:
        total, kept = room_for(ram, reserve)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    rows = getattr(memory, "records", memory)
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    if not rows or "pss_kb" not in rows[0]:
        raise ValueError("memory: give what memory_table returns, or a frame of the table memory")
    line, per_idle = _costs(rows, server, mpm, idle)
    base, step = max(0.0, line.base), 1 if mpm == "prefork" else threads_per_child

    def workers(cost: float, room: float) -> int:
        return int(room // cost) // step * step if room > 0 else 0

    taken = base + idle * per_idle
    found = workers(line.dear, (total - kept) / 1024 - taken)
    if found < 1:
        needed = _mib((taken + step * line.dear) * 1024)
        none = f"{_mib(total)} have no room for {step} worker{'s' * (step > 1)} of {mpm}"
        raise ValueError(f"ram: {none}: that takes {needed} besides a reserve of {_mib(kept)}")
    rss = lines(rows, ("rss_kb",))[server, mpm, "busy"]
    by_rss = workers(rss.slope, (total - kept) / 1024 - rss.base) if rss.slope > 0 else None
    each, each_idle = (math.ceil(cost * 1024) for cost in (line.dear, per_idle))
    sizes = total, kept, int(base * 1024), each, idle, each_idle
    return Sizing(mpm, found, *sizes, by_rss, step, int(line.most))


def _costs(rows: list[dict[str, Any]], server: str, mpm: str, idle: int) -> tuple[Line, float]:
    """The line of busy requests in KiB, and what an idle connection costs at most. Raises ValueError."""
    found = lines(rows, ("pss_kb", "page_tables_kb"))
    line, parked = found.get((server, mpm, "busy")), found.get((server, mpm, "idle"))
    if line is None:
        there = sorted({f"{who} {of or ''}".strip() for who, of, what in found if what == "busy"})
        missing = f"no two levels of busy requests under {server} {mpm}"
        raise ValueError(f"memory: {missing}; there are {', '.join(there) or 'none'}")
    if idle and parked is None:
        raise ValueError(f"memory: no idle connections were measured under {server} {mpm}")
    if not line.slope > 0 or (not line.low > 0 and line.points > 2):
        noise = f"the noise ({line.low:,.0f} to {line.high:,.0f} KiB)"
        growth = f"growth with the number of requests is not larger than {noise}"
        raise ValueError(f"memory: {growth}; measure more levels or rounds")
    return line, max(0.0, parked.dear) if idle and parked else 0.0


def _mib(size: float) -> str:
    return f"{size / (1 << 30):,.2f} GiB" if size >= 10 << 30 else f"{size / (1 << 20):,.1f} MiB"
