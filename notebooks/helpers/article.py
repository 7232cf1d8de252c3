"""The article's case, as `python -m benchmarks.article` measures it: ab, 200 clients, httpd and ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas

sys.path.append(str(Path(__file__).resolve().parents[2]))  # of the checkout, where benchmarks/ is

from benchmarks.article import ORDER, TURNS, ArticleTable, curves, words_of
from mpmkit.measure import records


def recorded(file: Path) -> ArticleTable:
    """The rows of a run."""
    return ArticleTable(records.read(file))


def medians(case: ArticleTable, column: str = "qps") -> pandas.DataFrame:
    """Medians of the rounds that are used: a row a server and MPM, a column a kind of turn."""
    rows = pandas.DataFrame(case.used)
    found = rows.pivot_table(
        index=["server", "mpm"], columns="work", values=column, aggfunc="median"
    )
    servers = list(dict.fromkeys(rows["server"]))
    return found.reindex(pandas.MultiIndex.from_product([servers, ORDER]), columns=list(TURNS))


def steps(case: ArticleTable) -> pandas.DataFrame:
    """What was found of each step of the published order: a row a server, a step and a measure, a column a
    kind of turn."""
    return pandas.DataFrame(words_of(case.used)).T


def cold_starts(case: ArticleTable) -> str:
    """For each server and MPM: the requests begun in each second of its cold turns, medians."""
    servers = dict.fromkeys(row["server"] for row in case.used)
    lines = [[name, *curves([r for r in case.used if r["server"] == name])] for name in servers]
    return "\n".join(line for server in lines for line in server)
