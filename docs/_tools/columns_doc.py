"""The columns of the records' tables, as data/README.md has them: ``python -m docs._tools.columns_doc``."""

from __future__ import annotations

from collections.abc import Iterable

from mpmkit.measure.schema import MACHINE, OBSERVED, SWEEP, TABLES, WHEN, WHO, Column

# Table -> what a row is.
ABOUT = {
    "qps": "`mpmkit qps`: a server, a kind of page, a round",
    "memory": "`mpmkit memory`: a server at a level of busy requests or idle connections; three rows, "
    "for the whole server, its parent and its median child",
    "sweep": "`mpmkit sweep`: a point of the grid, a round",
    "observed": "`lab.sweep_panel()`: a point of the grid, observed alongside the load",
    "generators": "`mpmkit bench --only generators`: a load generator, a round, against nginx",
    "bench": "`python -m benchmarks.bench`: a server, a piece of work, a round, compared with httpd",
    "article": "`python -m benchmarks.article`: a server, a run of ab, a round",
    "demand": "`mpmkit demand`: a server, a kind of work, a rate, a block",
    "capacity": "`mpmkit capacity`: a server at one rate of the bisection, a round",
}

SWEEPS = {"sweep": SWEEP, "observed": (*SWEEP, *OBSERVED)}  # and what qps has of a load


def markdown() -> str:
    """The columns of all tables; shared ones are listed once."""
    shared = (*WHO, *WHEN, *MACHINE)
    parts = [_markdown("### Every table", shared)]
    for table, columns in TABLES.items():
        own = SWEEPS.get(table) or [one for one in columns if one not in shared]
        more = ", and the columns of qps from `driver` to `ended`" if table in SWEEPS else ""
        parts.append(_markdown(f"### {table}\n\nA row: {ABOUT[table]}{more}.", own))
    return "\n\n".join(parts)


def _markdown(head: str, columns: Iterable[Column]) -> str:
    kinds = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    lines = [head, "", "| column | type | unit or range | empty? | meaning |"]
    lines.append("|---|---|---|---|---|")
    for name, kind, unit, doc, empty in columns:
        unit = unit if isinstance(unit, str) else ", ".join(unit)
        lines.append(f"| `{name}` | {kinds[kind]} | {unit} | {'may be' * empty} | {doc} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
