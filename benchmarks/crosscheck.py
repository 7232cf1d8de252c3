"""The same work by each load generator: do they agree, and if not, why?

    python -m benchmarks.crosscheck http://127.0.0.1:8080/index.html --users 64 --duration 3

A figure that only one generator gives is a figure about that generator. Here each of them does the
same work on the same server, one after the other, each round beginning with another; where two
medians differ by more than a tenth and more than the noise, it shows what was measured that explains it:
no processor time left, requests that cost more of what the server needs too, failures.

What differs by definition is shown in any case: which HTTP version is spoken, and what a latency is.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.clients import ClientReport, run_ab, run_wrk
from benchmarks.works import BenchError
from mpmkit.config.arguments import Parser
from mpmkit.load.runner import LoadError, run_load
from mpmkit.load.target import target_of
from mpmkit.measure import command, stats
from mpmkit.measure.reference_servers import NotInstalled

NOTABLE = 0.1
"""Two medians that are nearer to each other than this share are called equal."""

# What each of them does by its nature, for new connections and for kept ones.
MANNERS = {
    "locust": (
        "HTTP/1.0, latency with connecting, waits for the server to close",
        "HTTP/1.1, latency from sending",
    ),
    "ab": ("HTTP/1.0, latency with connecting", "HTTP/1.0 with Connection: keep-alive"),
    "wrk": (
        "HTTP/1.1 with Connection: close, latency without connecting",
        "HTTP/1.1, latency from sending",
    ),
}


def locust(url: str, *, seconds: float, clients: int, keep_alive: bool) -> ClientReport:
    """One run of our Locust user."""
    base, path = _parts(url)
    run = run_load(base, path, users=clients, duration=seconds, keep_alive=keep_alive)
    p50, p99 = run.latency_ms(50), run.latency_ms(99)
    cpu = sum(run.processes_cpu)
    return ClientReport(run.succeeded, run.failures, run.duration, run.qps, p50, p99, cpu)


GENERATORS: dict[str, Callable[..., ClientReport]] = {
    "locust": locust,
    "ab": run_ab,
    "wrk": run_wrk,
}


def _parts(url: str) -> tuple[str, str]:
    """(server, path) of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts._replace(scheme="", netloc="").geturl() or "/"


@dataclass
class CrossCheck:
    """Reports by generator, in the order of the rounds; and which generator was left out."""

    keep_alive: bool
    runs: dict[str, list[ClientReport]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def qps(self, name: str) -> list[float]:
        """Requests/s of each round."""
        return [run.qps for run in self.runs.get(name, [])]

    def cost_us(self, name: str) -> float:
        """Microseconds of its own processor time that the generator needs for a request; the median."""
        costs = [
            run.client_cpu * run.seconds / count * 1e6
            for run in self.runs[name]
            if (count := run.requests + run.failures)
        ]
        return statistics.median(costs) if costs else math.nan

    def differs(self, name: str, other: str) -> stats.Interval | None:
        """How many times the other's requests/s these are, if that is notable; None if not."""
        try:
            ratio = stats.ratio(self.qps(name), self.qps(other))
        except ValueError:
            return None
        apart = ratio.excludes(1.0) or len(self.qps(name)) == 1
        return ratio if apart and abs(math.log(max(ratio.value, 1e-9))) > NOTABLE else None

    def why(self, one: str, other: str) -> list[str]:
        """What was measured that explains a difference between two generators."""
        found = []
        for name in (one, other):
            runs = self.runs[name]
            bound = sum(run.client_bound for run in runs)
            failed = sum(run.failures for run in runs)
            if failed:
                found.append(f"{failed:,} requests of {name} failed")
            if bound:
                found.append(f"{name} was the bottleneck in {bound} of {len(runs)} rounds")
        costs = self.cost_us(one), self.cost_us(other)
        if min(costs) > 0 and max(costs) / min(costs) > 1 + NOTABLE:
            dear = one if costs[0] > costs[1] else other
            found.append(
                f"a request costs {one} {costs[0]:.0f} and {other} {costs[1]:.0f} µs of processor "
                f"time, which {dear} takes from the server on the same machine"
            )
        found.append(
            "; ".join(f"{name}: {MANNERS[name][self.keep_alive]}" for name in (one, other))
        )
        return found

    def text(self) -> str:
        """The table, then which generators disagree and why."""
        names = [name for name in self.runs if self.runs[name]]
        if not names:
            return "\n".join(["no generator could do this work", *self.left_out])
        first = names[0]
        lines = [
            f"{'generator':<10}{'requests/s':>12}{'min to max':>20}{'x ' + first:>10}{'p50 ms':>9}"
            f"{'p99 ms':>9}{'µs each':>9}{'core':>7}"
        ]
        lines += [self._line(name, first) for name in names]
        for name in names[1:]:
            ratio = self.differs(name, first)
            if ratio is None:
                lines.append(f"{name} and {first} agree, to within {NOTABLE:.0%} or the noise")
            else:
                lines.append(
                    f"{name} and {first} DISAGREE, x {ratio.value:.2f} "
                    f"({ratio.low:.2f} to {ratio.high:.2f}):"
                )
                lines += [f"  {reason}" for reason in self.why(name, first)]
        return "\n".join([*lines, *self.left_out])

    def _line(self, name: str, first: str) -> str:
        mid, runs, rates = statistics.median, self.runs[name], self.qps(name)
        base, failed = mid(self.qps(first)), sum(run.failures for run in runs)
        marks = ["generator-bound"] if any(run.client_bound for run in runs) else []
        marks += [f"{failed:,} FAILED"] if failed else []
        return (
            f"{name:<10}{mid(rates):>12,.0f}{f'{min(rates):,.0f} to {max(rates):,.0f}':>20}"
            f"{mid(rates) / base if base else math.nan:>10.2f}{mid(run.p50_ms for run in runs):>9.3g}"
            f"{mid(run.p99_ms for run in runs):>9.3g}{self.cost_us(name):>9.1f}"
            f"{mid(run.client_cpu for run in runs):>7.0%}"
            + (f"  {', '.join(marks)}" if marks else "")
        )


def cross_check(
    url: str,
    *,
    users: int = 64,
    seconds: float = 3.0,
    keep_alive: bool = False,
    rounds: int = 3,
    on_row: Callable[[str], None] | None = None,
) -> CrossCheck:
    """Measure the same work by each generator, by time, which all of them know.

    A generator that is not installed or fails is left out, by name. rounds: 1 to 100. on_row: called
    with a line after each run. Raises ValueError for a bad target or number, LoadInterrupted on Ctrl-C.
    """
    if not 1 <= rounds <= 100:
        raise ValueError(f"rounds: must be 1 to 100, not {rounds!r}")
    target_of(_parts(url)[0])
    found = CrossCheck(keep_alive, {name: [] for name in GENERATORS})
    for number in range(1, rounds + 1):
        for name in stats.turns(list(found.runs), number):
            try:
                run = GENERATORS[name](url, seconds=seconds, clients=users, keep_alive=keep_alive)
            except (LoadError, BenchError, NotInstalled) as error:
                found.left_out.append(f"{name} is left out: {error}")
                del found.runs[name]
                continue
            found.runs[name].append(run)
            if on_row is not None:
                on_row(f"round {number}, {name}: {run.qps:,.0f} requests/s")
            time.sleep(0.2)  # for what is left in the server's queues
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """0: compared. 2: a bad argument. 130: Ctrl-C."""
    parser = Parser(prog="python -m benchmarks.crosscheck", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="like http://127.0.0.1:8080/index.html (loopback only)")
    parser.add_argument("--users", type=int, default=64, metavar="N", help="clients (64)")
    parser.add_argument("--duration", type=float, default=3.0, metavar="S", help="of a run (3)")
    parser.add_argument("--keep-alive", action="store_true", help="reuse connections")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="1 to 100 (3)")
    options = vars(parser.parse_args(argv))
    url, seconds = options.pop("url"), options.pop("duration")
    try:
        print(cross_check(url, seconds=seconds, **options, on_row=command.say).text())
    except ValueError as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
