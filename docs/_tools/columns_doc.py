"""Does data/README.md describe the columns of the records as they are? What differs is printed by
``python -m docs._tools.columns_doc``. The meaning of a column, and its unit, are written there alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mpmkit.measure.schema import COUNTS, MACHINE, SHARES, TABLES, WHEN, WHO, WORDS, columns_of

PAGE = Path(__file__).resolve().parents[2] / "data" / "README.md"
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
ALL = "Every table"
LINE = re.compile(r"\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.+) \|")


def described(page: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Heading -> column -> its type, its unit or range, whether it may be empty, its meaning."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for part in page.split("\n### ")[1:]:
        heading, _, text = part.partition("\n")
        lines = filter(None, map(LINE.fullmatch, text.splitlines()))
        found[heading] = {
            line[1]: tuple(cell.strip() for cell in line.groups()[1:]) for line in lines
        }
    return found


def wrong(page: str) -> list[str]:
    """Where the page and the schema differ, a line each."""
    load = TABLES["qps"]
    names = [column.name for column in load]
    load = load[names.index("driver") : names.index("seed") + 1]
    tables = {ALL: columns_of(f"{WHO} {WHEN} {MACHINE}")}
    for table, columns in TABLES.items():
        known = {*tables[ALL], *(load if table in ("sweep", "observed") else ())}
        tables[table] = tuple(column for column in columns if column not in known)
    found, said = described(page), []
    for table, columns in tables.items():
        there = found.get(table, {})
        if list(there) != [column.name for column in columns]:
            said.append(f"{table}: its columns are {' '.join(column.name for column in columns)}")
        for name, kind, empty in columns:
            shown, unit, may_be, _ = there.get(name, ("",) * 4)
            words = ", ".join(WORDS.get(name, ()))
            least = "0 to 1" * (name in SHARES) + "from 1" * (name in COUNTS)
            bounds = words or least or (unit if unit not in ("0 to 1", "from 1") else "")
            if (shown, unit, may_be) != (KINDS[kind], bounds, "may be" * empty):
                said.append(f"{table}, {name}: {KINDS[kind]} | {bounds} | {'may be' * empty}")
    return said


if __name__ == "__main__":
    print("\n".join(wrong(PAGE.read_text(encoding="utf-8"))))
    sys.exit(bool(wrong(PAGE.read_text(encoding="utf-8"))))
