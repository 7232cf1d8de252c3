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

from mpmkit.load import cli
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.runner import CANNOT, DRIVERS, LoadError, LoadRun, prepared, run_load
from mpmkit.measure import stats

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


@dataclass
class CrossCheck:
    """Runs by driver, in the order of the rounds; and which driver was left out, or does less."""

    profile: LoadProfile
    runs: dict[str, list[LoadRun]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def qps(self, driver: str) -> list[float]:
        """Requests/s of each round."""
        return [run.qps for run in self.runs.get(driver, [])]

    def cost_us(self, driver: str) -> float:
        """Microseconds of its own processor time that the driver needs for a request; the median."""
        costs = [
            sum(run.processes_cpu) * run.duration / run.requests * 1e6
            for run in self.runs[driver]
            if run.requests and run.processes_cpu
        ]
        return statistics.median(costs) if costs else math.nan

    def differs(self, driver: str, other: str) -> stats.Interval | None:
        """How many times the other's QPS the driver's is, if that is notable; None if not."""
        try:
            ratio = stats.ratio(self.qps(driver), self.qps(other))
        except ValueError:
            return None
        apart = ratio.excludes(1.0) or len(self.qps(driver)) == 1
        return ratio if apart and abs(math.log(max(ratio.value, 1e-9))) > NOTABLE else None

    def why(self, driver: str, other: str) -> list[str]:
        """What was measured that explains a difference between two drivers."""
        found = []
        for name in (driver, other):
            runs = self.runs[name]
            bound = sum(run.generator_bound for run in runs)
            starved = sum(run.generator_starved for run in runs)
            failed = sum(run.failures for run in runs)
            if failed:
                kinds = sum((run.errors for run in runs), start=type(runs[0].errors)())
                found.append(f"{failed:,} requests of {name} failed ({', '.join(kinds)})")
            if bound:
                found.append(f"{name} was the bottleneck in {bound} of {len(runs)} rounds")
            elif starved:
                found.append(f"{name} waited for a processor in {starved} of {len(runs)} rounds")
        one, two = self.cost_us(driver), self.cost_us(other)
        if min(one, two) > 0 and max(one, two) / min(one, two) > 1 + NOTABLE:
            dear = driver if one > two else other
            found.append(
                f"a request costs {driver} {one:.0f} and {other} {two:.0f} µs of processor "
                f"time, which {dear} takes from the server on the same machine"
            )
        manner = int(self.profile.keep_share == 1)
        ways = {name: MANNERS[name][manner] for name in (driver, other)}
        found.append("; ".join(f"{name}: {way}" for name, way in ways.items()))
        return found

    def text(self) -> str:
        """The table, then which drivers disagree and why."""
        names = [name for name in self.runs if self.runs[name]]
        if not names:
            return "\n".join(["no driver could do this work", *self.left_out])
        first = names[0]
        head = (
            f"{'driver':<8}{'requests/s':>12}{'min to max':>20}{'x ' + first:>10}{'p50 ms':>9}"
            f"{'p99 ms':>9}{'µs each':>9}{'core':>7}"
        )
        lines = [self.runs[first][0].summary().split("\n")[0].rpartition(", by ")[0], head]
        for name in names:
            rates, runs = self.qps(name), self.runs[name]

            def mid(values: Sequence[float]) -> float:
                return statistics.median(values)

            marks = [
                mark
                for mark, is_so in (
                    ("generator-bound", any(run.generator_bound for run in runs)),
                    (
                        f"{sum(run.failures for run in runs):,} FAILED",
                        any(run.failures for run in runs),
                    ),
                )
                if is_so
            ]
            base = mid(self.qps(first))
            lines.append(
                f"{name:<8}{mid(rates):>12,.0f}{f'{min(rates):,.0f} to {max(rates):,.0f}':>20}"
                f"{mid(rates) / base if base else math.nan:>10.2f}"
                f"{mid([run.latency_ms(50) for run in runs]):>9.3g}"
                f"{mid([run.latency_ms(99) for run in runs]):>9.3g}{self.cost_us(name):>9.1f}"
                f"{mid([run.generator_cpu for run in runs]):>7.0%}"
                + (f"  {', '.join(marks)}" if marks else "")
            )
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


def adapted(profile: LoadProfile, driver: str) -> tuple[LoadProfile | None, str]:
    """(the profile as far as the driver can do it, what it does not do of it); None if the work
    would be another. What is only looked at (lengths, bodies) may be left out."""
    if driver not in CANNOT:
        return profile, ""
    less = []
    for name in ("expect_length", "expect_body", "events"):
        if any(name == field for field, _ in CANNOT[driver](profile)):
            default = LoadProfile.__dataclass_fields__[name].default
            profile = profile.but(**{name: default})
            less.append(name)
    left = [f"{name} ({why})" for name, why in CANNOT[driver](profile)]
    if left:
        return None, f"{driver} is left out: {'; '.join(left)}"
    return profile, f"{driver} does not look at {', '.join(less)}" if less else ""


def cross_check(
    target: str,
    profile: LoadProfile,
    drivers: Sequence[str] = tuple(DRIVERS),
    rounds: int = 3,
    on_row: Callable[[str], None] | None = None,
) -> CrossCheck:
    """Measure the same work by each driver. A load that is bounded by requests is bounded by time
    instead (`duration`, or 3 s), which all of them know.

    drivers: names of `mpmkit.load.runner.DRIVERS`; those that are not installed, or cannot do the
    work, are named and left out. rounds: 1 to 100. on_row: called with a line after each run.
    Raises ValueError for a bad target or number, LoadInterrupted on Ctrl-C.
    """
    if not 1 <= rounds <= 100:
        raise ValueError(f"rounds: must be 1 to 100, not {rounds!r}")
    if not profile.stages:
        profile = profile.but(requests=None, warmup_requests=0, duration=profile.duration or 3.0)
    found = CrossCheck(profile)
    able: dict[str, LoadProfile] = {}
    for driver in drivers:
        fitting, said = adapted(profile, driver)
        if said:
            found.left_out.append(said)
        if fitting is not None:
            able[driver] = fitting
            found.runs[driver] = []
    for number in range(rounds):
        names = list(able)
        start = number % len(names) if names else 0
        for driver in names[start:] + names[:start]:
            try:
                run = run_load(target, driver=driver, profile=able[driver])
            except LoadError as error:
                found.left_out.append(f"{driver} is left out: {error}")
                del able[driver], found.runs[driver]
                continue
            except ProfileError as error:
                if driver == "locust":
                    raise
                found.left_out.append(f"{driver} is left out: {error}")
                del able[driver], found.runs[driver]
                continue
            found.runs[driver].append(run)
            if on_row is not None:
                on_row(f"round {number + 1}, {driver}: {run.qps:,.0f} requests/s")
            time.sleep(0.2)  # for what is left in the server's queues
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The options are those of `mpmkit load`. 1: a generator failed. 2: a bad argument."""
    try:
        target, given, profile = cli.load_of(vars(cli.parser().parse_args(argv)))
        load = prepared(target, given, profile, "locust")[1]
        print(cross_check(target, load, on_row=lambda text: print(text, file=sys.stderr)).text())
    except (LoadError, ValueError) as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1 if isinstance(error, LoadError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
