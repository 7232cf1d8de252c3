"""Which MPM? The table that closes the class: a row a situation, every figure from data/recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas
from helpers import cliffs

from mpmkit.config.directives import MPMS
from mpmkit.lab.replay import place_of, recorded
from mpmkit.measure import demand, records, sizing, stats


class Row(NamedTuple):
    """A situation: what counts then, a figure an MPM in words, the MPMs that no other one beats, the file."""

    situation: str
    counts: str
    figures: dict[str, str]
    take: list[str]
    recorded: str


def most_kept() -> Row:
    """The two levels of kept connections between which newcomers begin to wait."""
    rows = recorded("03-cliffs")
    edges = {}
    for mpm in MPMS:
        own = [row for row in rows if row["case"] == mpm]
        late = min(row["kept"] for row in own if row["wait_ms"] > 1000 * cliffs.LATE)
        edges[mpm] = max(row["kept"] for row in own if row["kept"] < late), late
    figures = {mpm: f"{well:,} to {late:,}" for mpm, (well, late) in edges.items()}
    counts = "kept connections from which a newcomer waits"
    most = max(well for well, _ in edges.values())
    take = [mpm for mpm, (well, _) in edges.items() if well == most]
    return Row("browsers keep connections", counts, figures, take, "03-cliffs.json")


def memory(against: str, situation: str, counts: str) -> Row:
    """KiB of PSS that one more takes: the slope, of mpmkit and of httpd. Of the cheapest and those whose 95%
    interval reaches into its own the table names all."""
    found = sizing.lines(records.read(place_of("memory-demo.csv")))
    lines = {mpm: found["mpmkit", mpm, against] for mpm in MPMS}
    httpd = {mpm: found["httpd", mpm, against] for mpm in MPMS}
    figures = {
        mpm: f"{one.slope:,.1f} (httpd {httpd[mpm].slope:,.1f})" for mpm, one in lines.items()
    }
    least = min(lines.values(), key=lambda one: one.slope)
    take = [mpm for mpm, one in lines.items() if one.low <= least.high]
    return Row(situation, counts, figures, take, "memory-demo.csv")


def processor() -> Row:
    """CPU time of a request on a new connection, times prefork's, with its 95% interval. An MPM is left out
    if another one is cheaper, by the whole interval."""
    found = demand.comparisons(records.read(place_of("demand-demo.csv")), "page")
    pairs = {
        (one, other): found[f"mpmkit {one} / mpmkit {other}"]
        for one, other in (("worker", "prefork"), ("event", "prefork"), ("event", "worker"))
    }
    figures = {one: stats.ratio_text(pair.ratio) for (one, other), pair in pairs.items()
               if other == "prefork"}  # fmt: skip
    behind = {one for (one, _), pair in pairs.items() if pair.word == stats.DEARER}
    behind |= {other for (_, other), pair in pairs.items() if pair.word == stats.CHEAPER}
    take = [mpm for mpm in MPMS if mpm not in behind]
    counts = "CPU time of a request, times prefork's"
    figures = {"prefork": "1.00", **figures}
    return Row("only speed counts, connections are new", counts, figures, take, "demand-demo.csv")


def crash() -> Row:
    """How many connections went with a child that crashed, of 24; 16 threads a child."""
    rows = recorded("09-crash")
    lost = {mpm: rows[mpm if mpm == "prefork" else f"{mpm}, 16 threads"] for mpm in MPMS}
    figures = {mpm: f"{one['lost']} of {one['connections']}" for mpm, one in lost.items()}
    least = min(one["lost"] for one in lost.values())
    take = [mpm for mpm, one in lost.items() if one["lost"] == least]
    return Row("a script crashes now and then", "connections lost", figures, take, "09-crash.json")


def counter() -> Row:
    """What a counter without a lock has counted of so many requests."""
    rows = recorded("05-counter")
    figures = {mpm: f"{rows[mpm]['counted']} of {rows[mpm]['answers']}" for mpm in MPMS}
    exact = [mpm for mpm in MPMS if rows[mpm]["counted"] == rows[mpm]["answers"]]
    counts = "a counter without a lock counted"
    return Row("code is not thread-safe", counts, figures, exact, "05-counter.json")


def rows() -> Iterator[Row]:
    """The situations, in the order of the table."""
    yield most_kept()
    yield memory("idle", "memory is short, many clients wait", "KiB an idle connection")
    yield memory("busy", "memory is short, many requests run", "KiB a busy request")
    yield processor()
    yield crash()
    yield counter()


def table() -> pandas.DataFrame:
    """Situations against prefork, worker and event; the last columns say which the figures leave, and where they
    were recorded."""
    found = [
        {"if": row.situation, "what counts": row.counts, **row.figures,
         "take": " or ".join(row.take), "recorded": row.recorded}
        for row in rows()
    ]  # fmt: skip
    return pandas.DataFrame(found).set_index("if")
