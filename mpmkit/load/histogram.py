"""Latencies as counts: a histogram in the manner of HdrHistogram, which adds up. Pure.

    ns        0 ... 2047 | 2048 ... 4095 | 4096 ... 8191 | ...
    bucket    1 ns wide  | 2 ns wide     | 4 ns wide     | ...

Every power of two is cut into 1,024 buckets, so a value is known to within 0.1%; only those that were hit are
kept. Smallest, largest and sum are exact, and percentiles of a sum are those of one histogram that saw
everything. Locust's statistics round to milliseconds and more, and most answers on loopback take less than one.
"""

import array
import base64
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

LIMIT = 1 << 62  # of values: 146 years in ns; more is an error of the caller's clock


def bucket(ns: int) -> int:
    """The lowest value of a value's bucket, which stands for it."""
    shift = max(0, ns.bit_length() - 11)
    return ns >> shift << shift


def pack(values: list[int]) -> str:
    """Values of ns as text, for a message: the sender has no time to count them."""
    return base64.b64encode(array.array("q", values).tobytes()).decode("ascii")


def unpack(text: str) -> array.array:
    """Read back what `pack` wrote."""
    return array.array("q", base64.b64decode(text))


class Histogram:
    """Counts of values of 0 ns and more."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: Counter[int] = Counter()
        self.total, self.smallest, self.largest = 0, LIMIT, 0
        self.record(values)

    def record(self, values: Iterable[int]) -> None:
        """Count values (ns). Raises ValueError for one that is negative or beyond 146 years."""
        if not (values := list(values)):
            return
        low, high = min(values), max(values)
        if low < 0 or high >= LIMIT:
            raise ValueError(f"latency: must be 0 ns to 146 years, not {low if low < 0 else high}")
        self.counts.update(map(bucket, values))
        self.total += sum(values)
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)

    def __len__(self) -> int:
        return self.counts.total()

    @property
    def mean(self) -> float:
        """Exact mean in ns; nan if nothing was counted."""
        return self.total / len(self) if self.counts else math.nan

    def percentile(self, percent: float) -> float:
        """The smallest value that `percent` (0 to 100) of those counted did not exceed, in ns. Nearest rank; the
        middle of its bucket, so to within 0.05%, and never outside what was seen. nan if nothing was counted.
        Raises ValueError outside 0 to 100."""
        if not 0 <= percent <= 100:
            raise ValueError(f"percentile: must be 0 to 100, not {percent!r}")
        if not self.counts:
            return math.nan
        count, lows = len(self), sorted(self.counts)
        rank = max(1, math.ceil(percent * count / 100 - 1e-9))
        if rank in (1, count):
            return self.smallest if rank == 1 else self.largest
        reached = list(accumulate(self.counts[low] for low in lows))
        low = lows[bisect_left(reached, rank)]
        middle = low + (1 << max(0, low.bit_length() - 11)) // 2
        return min(max(middle, self.smallest), self.largest)

    def to_json(self) -> list[tuple[int, int]]:
        """Of each bucket that was hit: its lowest value in ns, and how often."""
        return sorted(self.counts.items())
