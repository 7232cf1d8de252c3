"""How fast are the load generators, and do they agree? The same work by each, interleaved.

    python -m benchmarks.generators [--rounds 3] [--seconds 3]
    python -m benchmarks.generators --url http://127.0.0.1:8080/index.html --users 64

A table of servers is only as good as its generator. This measures mpmkit's (a lean Locust user),
Locust's own FastHttpUser, ab and wrk, one process each, one after the other in every round, each round
starting with another. By default the target is the fastest server at hand: one worker process of nginx with the
article's page, no access log and every setting that makes it faster (`FastestNginx`), so that the server is not
the bottleneck; or the server of a URL: a figure that only one generator gives describes that generator.

On a machine that generator and server share the cost of a request matters, so each line also says how
many requests it sends per second of its CPU time ("per core"). Medians of the rounds, with the
lowest and the highest. Ratios to FastHttpUser and to ab are those of the requests/s; the last column is
FastHttpUser's again, per core, for the rounds in which something other than the generator was the bottleneck (its
share of a core is then well below 100%). docs/LOAD.md lists the inherent differences.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.clients import ClientReport, run_ab, run_wrk
from benchmarks.nginx import Nginx
from benchmarks.works import BenchError, rotated
from mpmkit.config.arguments import Parser
from mpmkit.load.preflight import target_of
from mpmkit.load.runner import LoadError, run_load
from mpmkit.measure import command
from mpmkit.measure.competitors import SAMPLE_SITE
from mpmkit.measure.experiment import Cell, Figures, OnProgress, Report, Table
from mpmkit.measure.reference_servers import NotInstalled

PATH = "/index.html"
# The server's settings: connections for every client of WORKS, each for as long as it likes.
NGINX: dict[str, Any] = {"MaxKeepAliveRequests": 0, "MaxRequestWorkers": 4096}
FAST_HTTP_USER = Path(__file__).with_name("fast_http_user.py")

# scale -> rounds, and seconds a measurement
SCALES = {"smoke": (1, 1.0), "demo": (3, 3.0), "full": (5, 8.0)}


def _parts(url: str) -> tuple[str, str]:
    """(server, path) of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts._replace(scheme="", netloc="").geturl() or "/"


def lean(url: str, **how: Any) -> ClientReport:
    """Our Locust user."""
    base, path = _parts(url)
    run = run_load(base, path, users=how.pop("clients"), duration=how.pop("seconds"), **how)
    # What was due in an open loop and could not be sent is no failure here.
    failed = run.failures - run.errors["unsent"]
    p50, p99 = run.latency_ms(50), run.latency_ms(99)
    cpu = sum(run.processes_cpu)
    return ClientReport(run.succeeded, failed, run.duration, run.qps, p50, p99, cpu)


def open_loop(url: str, **how: Any) -> ClientReport:
    """Our user in the open loop: a constant rate that nothing can keep up with."""
    return lean(url, arrival="constant", rate=200_000, **how)


def fast_http_user(url: str, *, clients: int, seconds: float, keep_alive: bool) -> ClientReport:
    """Locust's FastHttpUser, counted from its first answer to its end."""
    base, path = _parts(url)
    with tempfile.TemporaryDirectory(prefix="mpmkit-fast-") as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        result = Path(folder, "result")
        how = {"path": path, "keep_alive": keep_alive, "seconds": seconds, "result": str(result)}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(FAST_HTTP_USER), "--headless"),
                *("--only-summary", "--loglevel", "ERROR", "--json-file", "locust", "--host", base),
                *("-u", str(clients), "-r", str(clients), "-t", f"{round(seconds) + 30}s"),
            ],
            cwd=folder,
            env=environ | {"MPMKIT_FAST": json.dumps(how)},
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
        try:
            said = json.loads(result.read_text())
        except (OSError, ValueError):
            last = " ".join(done.stderr.split()[-40:])
            raise LoadError(f"FastHttpUser gave no result: {last}") from None
    good, took, nan = said["requests"], said["seconds"], float("nan")
    return ClientReport(good, said["failures"], took, good / took, nan, nan, said["cpu"] / took)


class FastestNginx(Nginx):
    """The fastest server at hand: one process of nginx, our pages, no log. It keeps files open, takes all
    waiting connections at once, is given a connection when its request has come (TCP_DEFER_ACCEPT, as
    httpd's AcceptFilter has it by default), and stays on the last core. Raises NotInstalled."""

    more_events, more_listen = "multi_accept on;", "deferred"
    more_http = "open_file_cache max=100 inactive=1h; open_file_cache_valid 1h;"

    def __init__(self) -> None:
        super().__init__(document_root=SAMPLE_SITE, workers=1, access_log=False, **NGINX)
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            self.more_main = f"worker_cpu_affinity {1 << max(cores):b};"


# Each is called with a URL, clients, seconds and keep_alive. wrk has one thread and does not look at lengths.
GENERATORS: dict[str, Callable[..., ClientReport]] = {
    "mpmkit (Locust)": lean,
    "mpmkit open loop": open_loop,
    "FastHttpUser": fast_http_user,
    "ab": run_ab,
    "wrk": run_wrk,
}

WORKS = {
    "new": ("a new connection per request", 200, False),
    "keep-alive": ("keep-alive", 64, True),
}


def table(title: str, samples: dict[str, list[ClientReport]]) -> str:
    """One block of lines: medians, the range of the rounds, ratios to FastHttpUser and to ab."""

    def median(name: str, what: str = "qps") -> float:
        values = [getattr(sample, what) for sample in samples.get(name, [])]
        return statistics.median(values) if values else float("nan")

    head = (
        f"{'':<18}{'requests/s':>11}{'min to max':>19}{'core':>6}{'per core':>10}"
        f"{'x FastHttpUser':>16}{'x ab':>7}{'x per core':>12}"
    )
    lines = [title, head]
    for name, found in samples.items():
        rates = [sample.qps for sample in found]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        failures = sum(sample.failures for sample in found)
        qps, per_core = median(name), median(name, "per_core")
        lines.append(
            f"{name:<18}{qps:>11,.0f}{spread:>19}{median(name, 'client_cpu'):>6.0%}{per_core:>10,.0f}"
            f"{qps / median('FastHttpUser'):>16.2f}{qps / median('ab'):>7.2f}"
            f"{per_core / median('FastHttpUser', 'per_core'):>12.2f}"
            + (f"  {failures:,} FAILED" if failures else "")
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class GeneratorTurn(Cell):
    """One generator at one work in one round; `server` is the generator's name."""

    work: str
    url: str


@dataclass(repr=False)
class GeneratorTable(Table):
    """What was measured: rows of the records table `generators`."""

    chosen: Any = None
    seconds: float = 0.0
    against: str = ""

    name = "generators"

    def measure(self, cell: GeneratorTurn, report: Report) -> Figures:
        """One turn. A generator that is not installed or fails is left out."""
        report(f"round {cell.round}, {cell.work}, {cell.server}", 0.0)
        _, users, keep_alive = WORKS[cell.work]
        users, generator = self.chosen.users or users, GENERATORS[cell.server]
        row, how = self.conditions(cell), {"seconds": self.seconds, "keep_alive": keep_alive}
        try:
            made = generator(cell.url, clients=users, **how)
        except (LoadError, BenchError, NotInstalled) as error:
            raise RuntimeError(str(error)) from None  # costs this generator's rows only
        columns = {
            "server": "other" if self.chosen.url else "nginx",
            "work": cell.work,
            "generator": cell.server,
            "users": users,
            "qps": float(made.qps),
            "cpu": float(made.client_cpu),
            "failures": int(made.failures),
        }
        yield [row(**columns)]
        time.sleep(0.2)  # for what is left in the server's queues

    def text(self) -> str:
        """A block of lines for each work."""
        parts = []
        for work, (what, *_) in WORKS.items():
            samples: dict[str, list[ClientReport]] = {}
            for row in self.records:
                if row["work"] == work:
                    title = f"{what}, {row['users']} clients"
                    found = (0, row["failures"], 0.0, row["qps"], 0.0, 0.0, row["cpu"])
                    samples.setdefault(row["generator"], []).append(ClientReport(*found))
            if samples:
                parts.append(table(title, samples) + "\n")
        return "\n".join([*parts, f"against {self.against}", *self.footer()])


def turns(chosen: Any, table: GeneratorTable, rounds: int) -> Iterator[GeneratorTurn]:
    """Each generator at each work in each round, against one server, which runs meanwhile."""
    table.planned = rounds * len(chosen.work) * len(GENERATORS)
    with contextlib.ExitStack() as stack:
        table.against, url = chosen.url, chosen.url
        if not url:
            server = stack.enter_context(FastestNginx())
            table.against, url = f"{server.version} with one worker", server.url + PATH
        for work in chosen.work:
            for number in range(1, rounds + 1):
                for name in rotated(GENERATORS, number):
                    given = {} if chosen.url else NGINX
                    yield GeneratorTurn(number, name, "", work=work, url=url, directives=given)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status of `command.execute`."""
    what = __doc__.partition("\n\n")[0]
    parser = Parser(prog="python -m benchmarks.generators", description=what)
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--scale", help=f"{', '.join(SCALES)} (default: demo)")
    parser.add_argument("--out", **command.OUT)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--work", choices=WORKS, nargs="+", default=list(WORKS))
    parser.add_argument("--url", help="another server than nginx, on loopback, and its page")
    parser.add_argument("--users", type=int, help="clients (200 new connections, 64 kept)")
    options = parser.parse_args(argv)

    def measured(bar: OnProgress) -> GeneratorTable:
        problems = command.Problems()
        scale, (rounds, seconds) = problems.scale(options.scale, SCALES)
        problems.numbers("rounds", options.rounds, 1, 100, "whole")
        seconds = seconds if options.seconds is None else options.seconds
        if not 1 <= seconds <= 60:
            problems.append(f"seconds: must be 1 to 60, not {seconds:g}")
        if options.url:
            target_of(_parts(options.url)[0])
        problems.raise_any()
        found = GeneratorTable([], options, seconds, scale=scale)
        found.keep_in(partial(command.out_of, options))
        return found.each(turns(options, found, options.rounds or rounds), bar, command.say)

    return command.execute(measured)[0]


if __name__ == "__main__":
    sys.exit(main())
