"""The article's experiment: ab and 200 clients, on the real httpd and on mpmkit.

    python -m benchmarks.article [--rounds 5] [--requests 200000]
    python -m benchmarks.article --show data/recorded/article-full.csv

The article states ab, 200 clients and 200,000 requests, but not whether the servers were warm. So each MPM of
each server is started and measured twice by ab, at once (cold) and again (warm); then the same with kept
connections, on a freshly started server. All of them once per round, in random order.

The article's conclusion, worker > event > prefork, is then split: for each kind of turn, by requests per
second and by CPU time per request, did each of its two steps come out? The words and intervals
are those of `measure.stats`. Where ab was the limit there is no verdict on requests a second: a faster server
would not have shown. What the cold start does over time is in the column `curve`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.clients import run_ab
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.measure import command, competitors, published, records, stats
from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.experiment import (
    OURS,
    Cell,
    Conditions,
    OnProgress,
    Report,
    Table,
    in_rounds,
    launch,
    run,
)
from mpmkit.measure.procfs import cpu_ns, members
from mpmkit.measure.records import Row
from mpmkit.measure.text import aligned

CLIENTS = 200
TURNS = {"cold": False, "warm": False, "cold, kept": True, "warm, kept": True}
"""Kind of turn -> whether connections are kept. A server is started for each pair of cold and warm."""

SCALES = {"smoke": (1, 2_000), "demo": (3, 20_000), "full": (5, 200_000)}
ORDER = ("worker", "event", "prefork")
"""As published, the fastest first."""


@dataclass(repr=False)
class ArticleTable(Table):
    """What was measured: rows of the records table `article`."""

    name = "article"
    unit = "turns"

    @property
    def used(self) -> list[Row]:
        """The rows of turns of which the host took no more than a recording may lose (OtherWork.MOST)."""
        return [row for row in self.records if (row["steal"] or 0.0) <= OtherWork.MOST]

    def text(self) -> str:
        """Figures of each kind of turn, the conclusion taken apart, the cold start over time."""
        lines, used = [], self.used
        for server in dict.fromkeys(row["server"] for row in used):
            mine = [row for row in used if row["server"] == server]
            for work in TURNS:
                lines += ["", *turn_lines(server, work, [r for r in mine if r["work"] == work])]
            lines += ["", f"{server}: requests begun in each second of a cold start", *curves(mine)]
            lines += ["", *conclusion(server, mine)]
        if lost := len(self.records) - len(used):
            lines += ["", f"{lost} of {len(self.records)} turns are left out: the host took more than "
                      f"{OtherWork.MOST:.0%} of the processors"]  # fmt: skip
        return "\n".join([*lines[1:], "", *self.footer()])


def rounds_of(rows: Sequence[Row], column: str) -> dict[str, dict[int, float]]:
    """MPM -> round -> a figure."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row[column]:
            found.setdefault(row["mpm"], {})[row["round"]] = row[column]
    return found


class Finding(NamedTuple):
    """What was measured of one step of the order: by which measure, the word for it, and the line that has the
    interval, too."""

    step: str
    measure: str
    word: str
    line: str


def findings(rows: Sequence[Row]) -> list[Finding]:
    """What the rows of one kind of turn on one server say of each step of the order."""
    qps, cost = rounds_of(rows, "qps"), rounds_of(rows, "server_cpu_us")
    limited = {row["mpm"] for row in rows if row["client_bound"]}
    found = []
    for faster, slower in zip(ORDER, ORDER[1:], strict=False):
        step = f"{faster} > {slower}"
        if faster in qps and slower in qps:
            ratio = stats.paired(qps[faster], qps[slower])
            word = came_out(ratio, sorted(limited & {faster, slower}))
            line = f"  {step} by requests/s: {stats.ratio_text(ratio)}, {word}"
            found.append(Finding(step, "requests/s", word.partition(",")[0], line))
        if faster in cost and slower in cost:
            decision = stats.decide(cost[faster], cost[slower])
            line = f"  {faster} / {slower} by CPU time of a request: {decision}"
            found.append(Finding(f"{faster} / {slower}", "CPU time", decision.word, line))
    return found


def came_out(ratio: stats.Interval, limited: Sequence[str]) -> str:
    """Whether one MPM answered more than another. limited: those with which ab was the limit."""
    if limited:
        return f"not decidable, ab was the limit with {' and '.join(limited)}"
    if not ratio.excludes(1.0):
        return "not decidable, the interval holds 1" if ratio.level else "one round"
    return "came out" if ratio.value > 1 else "did not come out"


def turn_lines(server: str, work: str, rows: Sequence[Row]) -> list[str]:
    """The figures of one kind of turn on one server, and what they say of each step of the order."""
    qps, cost = rounds_of(rows, "qps"), rounds_of(rows, "server_cpu_us")
    table = [[f"{server}, {work}", "requests/s", "µs CPU", "p99 ms", "failed", "ab at its limit"]]
    for mpm in ORDER:
        mine = [row for row in rows if row["mpm"] == mpm]
        if mine:
            p99 = statistics.median(row["p99_ms"] for row in mine)
            bound = f"{sum(row['client_bound'] for row in mine)} of {len(mine)}"
            middle = statistics.median(qps.get(mpm, {0: 0.0}).values())
            used = statistics.median(cost.get(mpm, {0: 0.0}).values())
            failed = sum(row["failures"] for row in mine)
            cells = [f"{middle:,.0f}", f"{used:.1f}", f"{p99:.0f}", f"{failed:,}"]
            table.append([mpm, *cells, bound])
    return [*aligned(table, (0, 5)), *(one.line for one in findings(rows))]


def conclusion(server: str, rows: Sequence[Row]) -> list[str]:
    """For each step of the published order and each measure: in which kinds of turn it came out."""
    words: dict[tuple[str, str], dict[str, list[str]]] = {}
    for work in TURNS:
        for one in findings([r for r in rows if (r["server"], r["work"]) == (server, work)]):
            words.setdefault((one.step, one.measure), {}).setdefault(one.word, []).append(work)
    lines = [f"{server}: the published order, {' > '.join(ORDER)}, step by step"]
    for (step, measure), found in words.items():
        said = (f"{word} ({'; '.join(works)})" for word, works in found.items())
        lines.append(f"  {step} by {measure}: {', '.join(said)}")
    return lines


def curves(rows: Sequence[Row]) -> list[str]:
    """For each MPM the median of its cold turns, second by second; the first second is not a whole one."""
    found = []
    for mpm in MPMS:
        turns = [json.loads(r["curve"]) for r in rows if (r["mpm"], r["work"]) == (mpm, "cold")]
        if turns:
            longest = max(map(len, turns))
            seconds = [[turn[at] for turn in turns if at < len(turn)] for at in range(longest)]
            shown = [f"{statistics.median(counts):,.0f}" for counts in seconds[:12]]
            found.append(f"  {mpm:8}{' '.join(shown)}")
    return found


def one_turn(
    table: ArticleTable, cell: Cell, server: Any, work: str, requests: int, directives: Row
) -> Row:
    """One run of ab: its row."""
    conditions, curve = Conditions(table, cell), list[int]()
    used = cpu_ns(members(server.pid))
    url, kept = server.url + published.page("static").path, TURNS[work]
    found = run_ab(url, requests=requests, clients=CLIENTS, keep_alive=kept, curve=curve)
    used = cpu_ns(members(server.pid)) - used
    columns: dict[str, Any] = asdict(found) | {
        "work": work,
        "client_bound": found.client_bound,
        "server_cpu_us": used / (found.requests + found.failures) / 1000,
        "curve": json.dumps(curve),
    }
    return conditions.row(directives, **columns)


def measure(
    chosen: argparse.Namespace, table: ArticleTable, on_progress: OnProgress
) -> ArticleTable:
    """All turns of all rounds. Raises what `experiment.run` raises."""
    file = table.keep_in(command.out_of(chosen, command.new_name("article")))
    ours = [Cell(1, OURS, mpm, start=partial(launch, access_log=True)) for mpm in MPMS]
    theirs, table.left_out = competitors.installed(competitors.of(["httpd"]))
    cells = [
        Cell(1, one.server, one.mpm, parts=tuple(TURNS), start=one.start)
        for one in (*ours, *(one for one in theirs if one.parts == competitors.STATIC))
    ]
    order = in_rounds(cells, range(1, chosen.rounds + 1), table.run_id)
    table.planned = sum(len(cell.parts) for cell in order)

    def measure_one(cell: Cell, report: Report) -> Iterator[list[Row]]:
        directives = {**published.DIRECTIVES[cell.mpm], "MaxKeepAliveRequests": 0}
        for first in ("cold", "cold, kept"):
            for last in (False, False, True):  # while the host takes too much, up to three times
                rows = []
                with cell.start(cell.mpm, **directives) as server:
                    for work in (first, first.replace("cold", "warm")):
                        report(f"round {cell.round}, {cell.label}, {work}", 0.0)
                        rows.append(
                            one_turn(table, cell, server, work, chosen.requests, directives)
                        )
                if last or len(ArticleTable(rows).used) == len(rows):
                    break
            for row in rows:
                report(f"round {cell.round}, {cell.label}, {row['work']}", 1.0)
                yield [row]

    return run(order, measure_one, table, file=file, on_progress=on_progress, say=command.say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as asked, print the table, keep the rows; the exit status of `command.execute`."""
    parser = Parser(
        prog="python -m benchmarks.article", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--requests", type=int, metavar="N", help="of each run of ab (200,000)")
    scale = "smoke, demo (20,000 requests a run; minutes) or full (200,000, as in the article)"
    parser.add_argument("--show", metavar="FILE.csv", help="measure nothing: print these rows")
    command.add_options(parser, "--rounds", "--scale", "--out", scale=scale)
    chosen = parser.parse_args(argv)
    if chosen.show:
        print(ArticleTable(records.read(Path(chosen.show))).text())
        return 0
    problems = command.Problems()
    scale, (rounds, requests) = problems.scale(chosen.scale, SCALES)
    problems.rounds(chosen.rounds)
    chosen.requests = requests if chosen.requests is None else chosen.requests
    problems.numbers("requests", (chosen.requests,), CLIENTS, 5_000_000)
    if problems:
        parser.error("; ".join(problems))
    given = (chosen.rounds or rounds, chosen.requests)
    chosen.rounds = given[0]
    table = ArticleTable([], scale=scale if given == SCALES[scale] else "custom")
    return command.execute(lambda bar: measure(chosen, table, bar), ArticleTable.text)[0]


if __name__ == "__main__":
    sys.exit(main())
