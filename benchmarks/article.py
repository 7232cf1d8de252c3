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

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.clients import run_ab
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.measure import command, competitors, published, records, stats
from mpmkit.measure.command import aligned
from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.experiment import OURS, Cell, Figures, Report, Table, launch
from mpmkit.measure.procfs import cpu_ns, members
from mpmkit.measure.records import Row

CLIENTS = 200
TURNS = {"cold": False, "warm": False, "cold, kept": True, "warm, kept": True}
"""Kind of turn -> whether connections are kept. A server is started for each pair of cold and warm."""

SCALES = {"smoke": (1, 2_000), "demo": (3, 20_000), "full": (5, 200_000)}
ORDER = ("worker", "event", "prefork")
"""As published, the fastest first."""


@dataclass(repr=False)
class ArticleTable(Table):
    """What was measured: rows of the records table `article`. requests: of each run of ab."""

    requests: int = 0

    name = "article"
    unit = "turns"

    def measure(self, cell: Cell, report: Report) -> Figures:
        """The turns of one server. While the host takes too much, a pair is measured up to three times."""
        for first in ("cold", "cold, kept"):
            for last in (False, False, True):
                rows = []
                with cell.started() as server:
                    for work in (first, first.replace("cold", "warm")):
                        report(f"round {cell.round}, {cell.label}, {work}", 0.0)
                        rows.append(self._turn(cell, server, work))
                if last or len(ArticleTable(rows).used) == len(rows):
                    break
            for row in rows:
                report(f"round {cell.round}, {cell.label}, {row['work']}", 1.0)
                yield [row]

    def _turn(self, cell: Cell, server: Any, work: str) -> Row:
        """One run of ab: its row."""
        row, curve = self.conditions(cell), list[int]()
        url, how = server.url + published.page("static").path, {"keep_alive": TURNS[work]}
        used = cpu_ns(members(server.pid))
        found = run_ab(url, requests=self.requests, clients=CLIENTS, curve=curve, **how)
        used = cpu_ns(members(server.pid)) - used
        columns: dict[str, Any] = asdict(found) | {"work": work, "curve": json.dumps(curve)}
        columns["client_bound"] = found.client_bound
        columns["server_cpu_us"] = used / (found.requests + found.failures) / 1000
        return row(**columns)

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


def words_of(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, str]]:
    """(server, step of the published order, measure) -> kind of turn -> what was found."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for server in dict.fromkeys(row["server"] for row in rows):
        for work in TURNS:
            mine = [row for row in rows if (row["server"], row["work"]) == (server, work)]
            for one in findings(mine):
                found.setdefault((server, one.step, one.measure), {})[work] = one.word
    return found


def conclusion(server: str, rows: Sequence[Row]) -> list[str]:
    """For each step of the published order and each measure: in which kinds of turn it came out."""
    lines = [f"{server}: the published order, {' > '.join(ORDER)}, step by step"]
    for (_, step, measure), found in words_of(rows).items():
        works = {word: "; ".join(w for w in found if found[w] == word) for word in found.values()}
        said = ", ".join(f"{word} ({where})" for word, where in works.items())
        lines.append(f"  {step} by {measure}: {said}")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as asked, print the table, keep the rows; the exit status of `command.execute`."""
    parser = Parser(prog="python -m benchmarks.article", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, metavar="R", help="how often each is measured")
    scale = "smoke, demo (20,000 requests a run; minutes) or full (200,000, as in the article)"
    parser.add_argument("--scale", help=scale)
    parser.add_argument("--out", **command.OUT)
    parser.add_argument("--requests", type=int, metavar="N", help="of each run of ab (200,000)")
    parser.add_argument("--show", metavar="FILE.csv", help="measure nothing: print these rows")
    chosen = parser.parse_args(argv)
    if chosen.show:
        print(ArticleTable(records.read(Path(chosen.show))).text())
        return 0
    problems = command.Problems()
    scale, (rounds, requests) = problems.scale(chosen.scale, SCALES)
    problems.numbers("rounds", chosen.rounds, 1, 1000, "whole")
    chosen.requests = requests if chosen.requests is None else chosen.requests
    problems.numbers("requests", chosen.requests, CLIENTS, 5_000_000)
    if problems:
        parser.error("; ".join(problems))
    given, run_id = (chosen.rounds or rounds, chosen.requests), records.new_run_id()
    ours = [Cell(1, OURS, mpm, start=partial(launch, access_log=True)) for mpm in MPMS]
    theirs = [one for one in competitors.of(["httpd"]) if one.parts == competitors.STATIC]
    how: dict[str, Any] = {"repeats": given[0], "run_id": run_id, "seed": run_id}
    how["scale"] = scale if given == SCALES[scale] else "custom"
    directives = {mpm: {**published.DIRECTIVES[mpm], "MaxKeepAliveRequests": 0} for mpm in MPMS}
    cells = [
        replace(one, parts=tuple(TURNS), directives=directives[one.mpm]) for one in (*ours, *theirs)
    ]
    table = ArticleTable([], chosen.requests, cells=cells, **how)
    out = partial(command.out_of, chosen)
    return command.execute(lambda bar: table.run(out, bar, command.say))[0]


if __name__ == "__main__":
    sys.exit(main())
