"""One line of the comparison with httpd, and what becomes of it.

same          both did the same
on purpose    they differ, and `expected_differences.ON_PURPOSE` says why
missing       they differ because something is not there yet (`expected_differences.MISSING`)
unexplained   they differ for no reason that is known: a bug of ours, until shown otherwise
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.fidelity.expected_differences import MISSING, ON_PURPOSE

SAME, PURPOSE, LACKS, UNEXPLAINED = "same", "on purpose", "missing", "unexplained"
VERDICTS = (SAME, PURPOSE, LACKS, UNEXPLAINED)


class Row(NamedTuple):
    """What both did with one case. The texts are equal if and only if they did the same."""

    area: str
    case: str
    httpd: str
    mpmkit: str

    @property
    def key(self) -> str:
        return f"{self.area}/{self.case}"


class Verdict(NamedTuple):
    kind: str
    reason: str = ""
    pattern: str = ""  # the entry of expected_differences


def judge(row: Row) -> Verdict:
    """Same, or explained, or not. The first pattern that fits the row's key counts."""
    if row.httpd == row.mpmkit:
        return Verdict(SAME)
    for kind, reasons in ((PURPOSE, ON_PURPOSE), (LACKS, MISSING)):
        for pattern, reason in reasons.items():
            if fnmatchcase(row.key, pattern):
                return Verdict(kind, reason, pattern)
    return Verdict(UNEXPLAINED)


def unexplained(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if judge(row).kind == UNEXPLAINED]


def idle_reasons(rows: Sequence[Row]) -> list[str]:
    """Patterns that explain nothing any more, in the areas that were compared."""
    areas = {row.area for row in rows}
    used = {judge(row).pattern for row in rows}
    return [
        pattern
        for pattern in (*ON_PURPOSE, *MISSING)
        if pattern.partition("/")[0] in areas and pattern not in used
    ]


def counted(rows: Iterable[Row]) -> Counter[str]:
    return Counter(judge(row).kind for row in rows)
