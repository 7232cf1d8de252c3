"""How fast are the load generators? The same work by each, against nginx, interleaved.

    python -m benchmarks.generators [--rounds 3] [--seconds 3]

A table of servers is only worth as much as the generator behind it. This measures ours (a lean
Locust user), Locust's own FastHttpUser, ab and wrk against the fastest server at hand: one worker
process of nginx with the article's page of 45 bytes, no access log and every setting that makes it
faster (`FastestNginx`), so that the server is not the bottleneck. One process of each generator,
the same number of clients, one after the other in every round, each round beginning with another.

What counts on a machine that generator and server share is the price of a request, so each line
also says how many requests a second of the generator's processor time paid for ("per core").
Medians of the rounds, with the lowest and the highest. Ratios to FastHttpUser and to ab are those
of the requests/s; the last column is FastHttpUser's again, per core, for the rounds in which
something else than the generator was the bottleneck (its share of a core is then well below 100%).

What bounds a new connection: with our user more than four fifths of a generator's time are the
kernel's (connect, close and send carry every packet through the loopback device, the server's half
of it included), the same that ab needs. FastHttpUser adds some 250 µs of Python to it, ours some
10.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clients import ClientReport, run_ab, run_wrk
from mpmkit.config.arguments import Parser
from mpmkit.load.runner import LoadError, run_load
from mpmkit.measure import command, records, stats
from mpmkit.measure.competitors import SAMPLE_SITE
from mpmkit.measure.experiment import Cell, Conditions, OnProgress, Report, Table, run
from mpmkit.measure.records import RecordFile, Row
from mpmkit.measure.reference_servers import Nginx

PATH, LENGTH = "/index.html", 45
# The server's settings: connections for every client of WORKS, each for as long as it likes.
NGINX: dict[str, Any] = {"MaxKeepAliveRequests": 0, "MaxRequestWorkers": 4096}
FAST_HTTP_USER = Path(__file__).with_name("fast_http_user.py")

# scale -> rounds, and seconds a measurement
SCALES = {"smoke": (1, 1.0), "demo": (3, 3.0), "full": (5, 8.0)}


@dataclass(frozen=True)
class GeneratorReport:
    """One generator in one round: requests/s, and the share of a core (0 to 1) it used."""

    qps: float
    cpu: float
    failures: int

    @property
    def per_core(self) -> float:
        """Requests that a second of its processor time paid for."""
        return self.qps / self.cpu if self.cpu > 0 else float("nan")


Measure = Callable[[str, int, float, bool], GeneratorReport]


def lean(url: str, users: int, seconds: float, keep_alive: bool) -> GeneratorReport:
    """Our Locust user."""
    how: dict[str, Any] = {"users": users, "duration": seconds, "keep_alive": keep_alive}
    run = run_load(url, PATH, **how, expect_length=LENGTH)
    return GeneratorReport(run.qps, run.generator_cpu, run.failures)


def open_loop(url: str, users: int, seconds: float, keep_alive: bool) -> GeneratorReport:
    """Our user again, in its general loop: as a constant rate that nothing can keep up with."""
    run = run_load(
        url,
        PATH,
        users=users,
        duration=seconds,
        keep_alive=keep_alive,
        expect_length=LENGTH,
        arrival="constant",
        rate=200_000,
    )
    # What was due and could not be sent is what this is about; other failures count.
    return GeneratorReport(run.qps, run.generator_cpu, run.failures - run.errors["unsent"])


def of_client(measure: Callable[..., ClientReport]) -> Measure:
    """ab or wrk (with one thread). wrk does not look at lengths."""

    def measured(url: str, users: int, seconds: float, keep_alive: bool) -> GeneratorReport:
        found = measure(url + PATH, seconds=seconds, clients=users, keep_alive=keep_alive)
        return GeneratorReport(found.qps, found.client_cpu, found.failures)

    return measured


def fast_http_user(url: str, users: int, seconds: float, keep_alive: bool) -> GeneratorReport:
    """Locust's FastHttpUser (load/fast_http_user.py), counting from its first answer to its end."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-fast-") as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        result = Path(folder, "result")
        environ |= {
            "MPMKIT_FAST_PATH": PATH,
            "MPMKIT_FAST_LENGTH": str(LENGTH),
            "MPMKIT_FAST_KEEP_ALIVE": str(int(keep_alive)),
            "MPMKIT_FAST_RESULT": str(result),
        }
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(FAST_HTTP_USER), "--headless"),
                *("--only-summary", "--loglevel", "ERROR", "--json-file", "locust", "--host", url),
                *("-u", str(users), "-r", str(users), "-t", f"{max(1, round(seconds))}s"),
            ],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
        try:
            said = json.loads(result.read_text())
        except (OSError, ValueError):
            raise LoadError(
                "FastHttpUser gave no result: " + " ".join(done.stderr.split()[-40:])
            ) from None
    return GeneratorReport(
        said["requests"] / said["seconds"], said["cpu"] / said["seconds"], said["failures"]
    )


class FastestNginx(Nginx):
    """The fastest server at hand: one process of nginx, our pages, no log. It keeps files open, takes all
    waiting connections at once, hears of a connection when its request is there (TCP_DEFER_ACCEPT, as
    httpd's AcceptFilter has it by default), and stays on the last core. Raises NotInstalled."""

    more_events, more_listen = "multi_accept on;", "deferred"
    more_http = "open_file_cache max=100 inactive=1h; open_file_cache_valid 1h;"

    def __init__(self) -> None:
        super().__init__(document_root=SAMPLE_SITE, workers=1, access_log=False, **NGINX)
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            self.more_main = f"worker_cpu_affinity {1 << max(cores):b};"


GENERATORS: dict[str, Measure] = {
    "mpmkit (Locust)": lean,
    "mpmkit open loop": open_loop,
    "FastHttpUser": fast_http_user,
    "ab": of_client(run_ab),
    "wrk": of_client(run_wrk),
}

WORKS = {
    "new": ("a new connection per request, 200 clients", 200, False),
    "keep-alive": ("keep-alive, 64 clients", 64, True),
}


def table(title: str, samples: dict[str, list[GeneratorReport]]) -> str:
    """One block of lines: medians, the range of the rounds, ratios to FastHttpUser and to ab."""

    def median(name: str, what: Callable[[GeneratorReport], float] = lambda s: s.qps) -> float:
        values = [what(sample) for sample in samples.get(name, [])]
        return statistics.median(values) if values else float("nan")

    def per_core(name: str) -> float:
        return median(name, lambda sample: sample.per_core)

    head = (
        f"{'':<18}{'requests/s':>11}{'min to max':>19}{'core':>6}{'per core':>10}"
        f"{'x FastHttpUser':>16}{'x ab':>7}{'x per core':>12}"
    )
    lines = [title, head]
    for name, found in samples.items():
        if not found:
            continue
        rates = [sample.qps for sample in found]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        failures = sum(sample.failures for sample in found)
        lines.append(
            f"{name:<18}{median(name):>11,.0f}{spread:>19}{median(name, lambda s: s.cpu):>6.0%}"
            f"{per_core(name):>10,.0f}"
            f"{median(name) / median('FastHttpUser'):>16.2f}{median(name) / median('ab'):>7.2f}"
            f"{per_core(name) / per_core('FastHttpUser'):>12.2f}"
            + (f"  {failures:,} FAILED" if failures else "")
        )
    return "\n".join(lines)


# -- the experiment ------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorTurn(Cell):
    """One generator at one work in one round; `server` is the generator's name."""

    work: str
    url: str


@dataclass(repr=False)
class GeneratorTable(Table):
    """What was measured: rows of the records table `generators`."""

    version: str = ""

    name = "generators"

    def text(self) -> str:
        """A block of lines for each work."""
        parts = []
        for work, (title, *_) in WORKS.items():
            samples: dict[str, list[GeneratorReport]] = {}
            for row in self.records:
                if row["work"] == work:
                    found = GeneratorReport(row["qps"], row["cpu"], row["failures"])
                    samples.setdefault(row["generator"], []).append(found)
            if samples:
                parts.append(table(title, samples) + "\n")
        machine = records.Machine.of(self.records[-1]) if self.records else ""
        against = f"against {self.version} with one worker, measured on {machine}"
        return "\n".join([*parts, against, *self.footer()])


def measure(
    found: GeneratorTable,
    works: Sequence[str],
    rounds: int,
    seconds: float,
    file: RecordFile | None = None,
    on_progress: OnProgress | None = None,
) -> GeneratorTable:
    """Each generator at each work in each round, against one nginx. A generator that is not installed or
    fails is left out."""
    found.planned = rounds * len(works) * len(GENERATORS)

    def turns() -> Iterator[GeneratorTurn]:
        with FastestNginx() as server:
            found.version = server.version
            for work in works:
                for number in range(1, rounds + 1):
                    for name in stats.turns(list(GENERATORS), number):
                        yield GeneratorTurn(number, name, "", work, server.url)

    def measure_one(cell: GeneratorTurn, report: Report) -> Iterator[list[Row]]:
        report(f"round {cell.round}, {cell.work}, {cell.server}", 0.0)
        _, users, keep_alive = WORKS[cell.work]
        conditions = Conditions(found, cell)
        try:
            sample = GENERATORS[cell.server](cell.url, users, seconds, keep_alive)
        except LoadError as error:
            raise RuntimeError(str(error)) from None  # costs this generator's rows only
        columns = {
            "server": "nginx",
            "work": cell.work,
            "generator": cell.server,
            "users": users,
            "qps": float(sample.qps),
            "cpu": float(sample.cpu),
            "failures": int(sample.failures),
        }
        yield [conditions.row(NGINX, **columns)]
        time.sleep(0.2)

    return run(turns(), measure_one, found, file=file, on_progress=on_progress, say=command.say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status of `command.execute`."""
    parser = Parser(prog="python -m benchmarks.generators", description=__doc__.partition("\n")[0])
    command.add_options(parser, "--rounds", "--scale", "--out")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--work", choices=WORKS, nargs="+", default=list(WORKS))
    options = parser.parse_args(argv)

    def measured(bar: OnProgress) -> GeneratorTable:
        problems = command.Problems()
        scale, (rounds, seconds) = problems.scale(options.scale, SCALES)
        problems.rounds(options.rounds, 100)
        seconds = seconds if options.seconds is None else options.seconds
        if not 1 <= seconds <= 60:
            problems.append(f"seconds: must be 1 to 60, not {seconds:g}")
        problems.raise_any()
        found = GeneratorTable([], scale=scale)
        file = found.keep_in(command.out_of(options, command.new_name("generators")))
        return measure(found, options.work, options.rounds or rounds, seconds, file, bar)

    status, _ = command.execute(measured, GeneratorTable.text)
    return status


if __name__ == "__main__":
    sys.exit(main())
