"""mpmkit and the original: each MPM and the real httpd's, same machine, same minute.

    python -m benchmarks.bench [--mpm event] [--work new keepalive] [--rounds 5]

On a shared machine two runs an hour apart differ by more than two servers do. So nothing here
compares figures of different minutes: all servers of one MPM run at the same time, and in each round
each piece of work is done with each of them in turn, starting with another each time. The
result is the ratio within a round; the median of the rounds is reported, with the lowest and the
highest. A ratio says little if the client was the bottleneck, so the client's CPU is measured too.

Same for all: the directives, the document root, an access log in the common format, the client.
The clients are `ab` (HTTP/1.0, as in the article) and `wrk` (HTTP/1.1). wrk sends repeated request
heads or distinct ones: a server that remembers heads it has seen is faster on the first kind, so
both kinds are always measured together.

`--floor` adds the least work of a Python server under prefork and worker (`benchmarks/baseline.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mpmkit
from benchmarks import baseline
from benchmarks.clients import ClientReport, run_ab, run_wrk
from benchmarks.nginx import Nginx
from benchmarks.ratios import baseline_lines, comparisons
from benchmarks.ratios import table as ratio_table
from benchmarks.works import (
    BASELINES,
    DEFAULT_WORKS,
    DIRECTIVES,
    FREE,
    HOLDING,
    ROOM,
    SCALES,
    WORKS,
    BenchError,
    Work,
    pages,
    path_for,
    rotated,
    runnable,
    side_of_ours,
    takes_part,
)
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.connections import HoldingProcess
from mpmkit.load.preflight import descriptors
from mpmkit.measure import command
from mpmkit.measure.experiment import OURS, Cell, Figures, OnProgress, Report, Table
from mpmkit.measure.procfs import cpu_ns, members
from mpmkit.measure.records import Row
from mpmkit.measure.reference_servers import Httpd, NotInstalled, ServerFailed

# -- the servers ---------------------------------------------------------------------------------


def starts(
    mpm: str, works: Sequence[Work], root: Path, chosen: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Name -> how to start it, for one MPM: ours, httpd's, mod_php's where scripts are, nginx, and the
    baselines where there are such."""
    both = {**DIRECTIVES[mpm], **chosen.directives}
    plain = any(not work.php and not work.held for work in works)
    ours = partial(mpmkit.launch, mpm, document_root=root, access_log=True)
    other = {"document_root": root, "buffered_logs": chosen.buffered_logs}
    found: dict[str, Callable[[], Any]] = {OURS: partial(ours, **both)}
    if plain:
        found["httpd"] = partial(Httpd, mpm, **other, **both)
    if any(work.php for work in works):
        prefork = {**DIRECTIVES["prefork"], **chosen.directives}
        found["httpd-php"] = partial(Httpd, "prefork", php=True, **other, **prefork)
    if mpm == "event" and any(work.held for work in works):
        found |= dict.fromkeys((HOLDING, FREE), partial(ours, **{**both, **ROOM}))
    if plain and not chosen.no_nginx:
        found["nginx"] = partial(Nginx, **other, **both)
    if chosen.floor and mpm in baseline.MODELS and any(takes_part("floor", one) for one in works):
        for name, bare in BASELINES.items():
            found[name] = partial(baseline.Baseline, mpm, document_root=root, bare=bare, **both)
    return found


def ask(url: str, path: str, *, keep_alive: bool) -> bytes:
    """The body of one answer, asked as the clients do. Raises BenchError without a good one."""
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=10)
    try:
        connection.request("GET", path, headers={} if keep_alive else {"Connection": "close"})
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{url}{path} did not answer: {error}") from None
    finally:
        connection.close()
    if reply.status != 200:
        raise BenchError(f"{url}{path} answers with status {reply.status}")
    return body


def compare_replies(works: Iterable[Work], urls: Mapping[str, str]) -> None:
    """Before the measuring: the servers must do the same work. Raises BenchError if a body differs."""
    for work in works:
        replies = {
            server: ask(url, path_for(server, work), keep_alive=work.keep_alive).strip()
            for server, url in urls.items()
            if takes_part(server, work)
        }
        mine = replies[side_of_ours(work)]
        for server, body in replies.items():
            if body != mine:
                sizes = f"{len(body)} and {len(mine)} bytes"
                raise BenchError(f"{server} has another body than {OURS} for {work.name}: {sizes}")


# -- turns ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn(Cell):
    """One server at one work in one round. place: from 1, its turn within the round."""

    work: Work
    place: int
    target: Any = field(compare=False, repr=False)

    @property
    def label(self) -> str:
        """The server and the work."""
        return f"{self.server}, {self.mpm}, {self.work.name}"


@dataclass(repr=False)
class BenchTable(Table):
    """What was measured: rows of the records table `bench`. chosen: the command line."""

    chosen: argparse.Namespace = field(default_factory=argparse.Namespace)

    name = "bench"
    unit = "turns"

    def measure(self, cell: Turn, report: Report) -> Figures:
        """One turn; a fifth of it, not counted, goes before."""
        report(f"round {cell.round}, {cell.label}", 0.0)
        chosen, pid, url = self.chosen, cell.target.pid, cell.target.url
        url += path_for(cell.server, cell.work)
        nonce = f"{cell.mpm[0]}{cell.round}{cell.server[0]}{time.monotonic_ns() % 10**9}x"
        turn(cell.work, url, chosen.requests // 5, chosen.seconds / 5, nonce + "w")
        row, used = self.conditions(cell), cpu_ns(members(pid))
        found = turn(cell.work, url, chosen.requests, chosen.seconds, nonce)
        used = cpu_ns(members(pid)) - used
        asked = found.requests + found.failures
        columns = {
            **asdict(found),
            "work": cell.work.name,
            "place": cell.place,
            "version": getattr(cell.target, "version", "") or None,
            "client_bound": found.client_bound,
            "server_cpu_us": used / asked / 1000 if asked else None,
            "buffered_logs": chosen.buffered_logs,
            "directives": "; ".join(map(" ".join, chosen.directives.items())) or None,
        }
        yield [row(**columns)]

    def result(self, row: Row) -> str:
        """What progress says of a turn."""
        return super().result(row) + ("  client at its limit" * row["client_bound"])

    def text(self) -> str:
        """The ratios, the baselines, what the words mean."""
        if not self.records:
            return "no turn was finished"
        parts = [ratio_table(comparisons(self.records)), *baseline_lines(self.records)]
        parts.append(
            "\nratios: ours / theirs within a round, median of the interleaved rounds, "
            "low–high their extremes; p99: ours | theirs; missed: the 95% interval of the ratio "
            "excludes the target"
        )
        return "\n".join([*parts, *self.footer()])


def order(servers: Iterable[str], work: Work, number: int) -> list[str]:
    """Which server is measured when in round `number`: each round another one begins."""
    return rotated((name for name in servers if takes_part(name, work)), number)


def turns(
    chosen: argparse.Namespace, table: BenchTable, say: Callable[[str], None]
) -> Iterator[Turn]:
    """All turns of all MPMs; the servers of an MPM run while its turns are measured. Servers that are
    not installed are left out; ours must start. Raises BenchError, or what `mpmkit.launch` raises."""
    for left, mpm in zip(range(len(chosen.mpm), 0, -1), chosen.mpm, strict=True):
        works = runnable(chosen.works, say, mpm)
        with contextlib.ExitStack() as stack:
            root, servers = stack.enter_context(pages()), {}
            for name, make in starts(mpm, works, root, chosen).items():
                try:
                    servers[name] = stack.enter_context(make())
                except (NotInstalled, ServerFailed) as missing:
                    say(f"without {name}: {missing}")
            urls = {name: server.url for name, server in servers.items()}
            compare_replies(works, urls)
            for work in works:
                if work.held:
                    hold(stack, servers[HOLDING].url, work)
            cells = [
                Turn(number, name, mpm, work, place, servers[name])
                for number in range(1, chosen.rounds + 1)
                for work in works
                for place, name in enumerate(order(urls, work, number), 1)
            ]
            table.planned = table.measured + len(cells) * left
            yield from cells


def turn(work: Work, url: str, requests: int, seconds: float, nonce: str) -> ClientReport:
    """One turn of a server at a piece of work."""
    if work.client == "wrk":
        distinct = nonce if work.distinct else ""
        return run_wrk(url, seconds=seconds, clients=work.clients, distinct=distinct)
    requests = max(work.clients, round(requests * work.share))
    return run_ab(url, requests=requests, clients=work.clients, keep_alive=work.keep_alive)


def hold(stack: contextlib.ExitStack, url: str, work: Work) -> None:
    """Idle connections, as long as the stack stands. Raises BenchError if the server takes fewer."""
    with descriptors(work.held + 100):
        holding = stack.enter_context(HoldingProcess(url, "idle", path=work.path))
    held = holding.ask("hold", work.held)["held"]
    if held < work.held:
        raise BenchError(
            f"{work.name}: {held:,} of {work.held:,} connections are held; "
            "more descriptors (ulimit -n) or more time may help"
        )


# -- the command line ----------------------------------------------------------------------------


def _parser() -> Parser:
    what = "Measure mpmkit's MPMs, the real httpd's and nginx, interleaved."
    works = "works: " + "; ".join(f"{work.name} ({work.title})" for work in WORKS.values())
    parser = Parser(prog="python -m benchmarks.bench", description=what, epilog=works)
    add = parser.add_argument
    rounds = "how often each figure is measured, at least 5 for a verdict (5)"
    add("--rounds", type=int, metavar="R", help=rounds)
    add("--scale", help=f"{', '.join(SCALES)} (default: demo)")
    given = "a directive over the article's; may be repeated"
    how: dict[str, Any] = {"type": command.directive, "dest": "directives", "default": []}
    add("-c", "--directive", action="append", metavar="'Name value'", help=given, **how)
    add("--out", **command.OUT)
    add("--mpm", nargs="+", choices=MPMS, default=list(MPMS))
    add("--work", nargs="+", choices=[*WORKS, "all"], default=list(DEFAULT_WORKS))
    add("--requests", type=int, help="requests a turn with ab")
    add("--seconds", type=float, help="seconds a turn with wrk")
    add("--no-nginx", action="store_true", help="leave nginx out")
    floor = "the least that a Python server does under prefork and worker, too"
    add("--floor", action="store_true", help=floor)
    logs = "let the other servers collect their log lines (BufferedLogs On)"
    add("--buffered-logs", action="store_true", help=logs)
    return parser


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked, with the sizes of the scale filled in."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    problems = command.Problems()
    scale, (requests, seconds) = problems.scale(chosen.scale, SCALES)
    problems.numbers("rounds", chosen.rounds, 1, 1000, "whole")
    chosen.scale = "custom" if chosen.requests or chosen.seconds else scale
    chosen.requests = requests if chosen.requests is None else chosen.requests
    chosen.seconds = seconds if chosen.seconds is None else chosen.seconds
    chosen.rounds = 5 if chosen.rounds is None else chosen.rounds
    if chosen.requests < 5 or not 0 < chosen.seconds <= 600:
        problems.append("give --requests from 5, --seconds over 0 and at most 600")
    chosen.work = list(WORKS) if "all" in chosen.work else list(dict.fromkeys(chosen.work))
    # Repeated heads alone would flatter a server that remembers them.
    for one, other in (("repeated", "distinct"), ("distinct", "repeated")):
        if one in chosen.work and other not in chosen.work:
            chosen.work.append(other)
    chosen.works = [WORKS[name] for name in chosen.work]
    chosen.directives = dict(chosen.directives)
    try:
        problems.raise_any()
    except ValueError as error:
        parser.error(str(error))
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench as asked, print the table, keep the rows; the exit status of `command.execute`."""
    chosen = arguments(argv)

    def measured(bar: OnProgress) -> BenchTable:
        table = BenchTable([], chosen, scale=chosen.scale)
        table.keep_in(partial(command.out_of, chosen))
        return table.each(turns(chosen, table, command.say), bar, command.say)

    return command.execute(measured)[0]


if __name__ == "__main__":
    sys.exit(main())
