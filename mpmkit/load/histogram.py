"""Latencies as counts: a histogram in the manner of HdrHistogram. Pure.

Raw latencies take 8 bytes each and must lie in one place to be sorted. Where several generators run, or one
for hours, what travels and adds up is this: how often each bucket was hit.

    ns        0 ... 2047 | 2048 ... 4095 | 4096 ... 8191 | ...
    bucket    1 ns wide  | 2 ns wide     | 4 ns wide     | ...

Every power of two is cut into 1,024 buckets, so a value is known to within 1/1,024 (0.1%), from
nanoseconds to hours, in some ten thousand counters at most; only those that were hit are kept.
Smallest, largest and sum are exact. Merging is adding, so the percentiles of a whole are those of
one histogram that saw everything, to within the width of a bucket.
"""

from __future__ import annotations

import array
import base64
import itertools
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable

SUB_BITS = 10
"""Each power of two is cut into 2**10 buckets."""

LIMIT = 1 << 62
"""Largest value: 146 years in ns. More is an error of the caller's clock."""


def bucket(ns: int) -> int:
    """The number of a value's bucket; larger values have larger numbers."""
    shift = ns.bit_length() - SUB_BITS - 1
    return ns if shift <= 0 else (shift << SUB_BITS) + (ns >> shift)


def bounds(number: int) -> tuple[int, int]:
    """(lowest, highest) value of a bucket."""
    shift = (number >> SUB_BITS) - 1
    if shift <= 0:
        return number, number
    low = (number - (shift << SUB_BITS)) << shift
    return low, low + (1 << shift) - 1


def pack(values: list[int]) -> str:
    """Values of ns as text, for a message: the sender has no time to count them."""
    return base64.b64encode(array.array("q", values).tobytes()).decode("ascii")


def unpack(text: str) -> array.array[int]:
    """Read back what `pack` wrote."""
    return array.array("q", base64.b64decode(text))


class Histogram:
    """Counts of values of 0 ns and more; adds up with `+` and `merge`."""

    __slots__ = ("counts", "count", "total", "smallest", "largest")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.smallest = LIMIT
        self.largest = 0
        self.record(values)

    def record(self, values: Iterable[int]) -> None:
        """Count values (ns). Raises ValueError for one that is negative or beyond 146 years."""
        # A list comprehension and a C Counter: this runs next to a load that it must not disturb.
        values = values if isinstance(values, (list, tuple)) else list(values)
        if not values:
            return
        low, high = min(values), max(values)
        if low < 0 or high >= LIMIT:
            raise ValueError(f"latency: must be 0 ns to 146 years, not {low if low < 0 else high}")
        self.counts.update(
            [
                ns if ns < 2048 else ((shift := ns.bit_length() - 11) << 10) + (ns >> shift)
                for ns in values
            ]
        )
        self.count += len(values)
        self.total += sum(values)
        self.smallest = min(self.smallest, low)
        self.largest = max(self.largest, high)

    def merge(self, other: Histogram) -> Histogram:
        """Add what another one counted; this one."""
        self.counts.update(other.counts)
        self.count += other.count
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        return self

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram().merge(self).merge(other)

    def __len__(self) -> int:
        return self.count

    def __eq__(self, other: object) -> bool:
        mine = (self.count, self.total, self.smallest, self.largest, self.counts)
        return isinstance(other, Histogram) and mine == (
            *(other.count, other.total, other.smallest, other.largest, other.counts),
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def mean(self) -> float:
        """Exact mean in ns; nan if nothing was counted."""
        return self.total / self.count if self.count else math.nan

    def percentile(self, percent: float) -> float:
        """The smallest value that `percent` (0 to 100) of those counted did not exceed, in ns.

        Nearest rank; the middle of its bucket, so to within 0.05%, and never outside what was seen.
        nan if nothing was counted. Raises ValueError outside 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percentile: must be 0 to 100, not {percent!r}")
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(percent * self.count / 100 - 1e-9))
        seen, number = 0, 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            if seen >= rank:
                break
        middle = self.largest if rank == self.count else sum(bounds(number)) // 2
        return self.smallest if rank == 1 else min(max(middle, self.smallest), self.largest)

    def to_text(self) -> str:
        """A few KB of ASCII, for JSON and messages."""
        numbers = sorted(self.counts)
        steps = [number - before for before, number in zip([0, *numbers], numbers, strict=False)]
        counts = [self.counts[number] for number in numbers]
        state = [self.count, self.total, self.smallest, self.largest, steps, counts]
        return base64.b85encode(zlib.compress(json.dumps(state).encode(), 1)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Histogram:
        """Read back what `to_text` wrote. Raises ValueError for anything else."""
        made = cls()
        try:
            state = json.loads(zlib.decompress(base64.b85decode(text)))
            made.count, made.total, made.smallest, made.largest, steps, counts = state
            numbers = itertools.accumulate(steps)
            made.counts.update(dict(zip(numbers, counts, strict=True)))
        except (ValueError, zlib.error, TypeError, AttributeError) as error:
            raise ValueError(f"this is not a histogram: {error}") from None
        if made.counts.total() != made.count:
            raise ValueError("this is not a histogram: its counts do not add up")
        return made
