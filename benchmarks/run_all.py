"""All tables in one go: the generators, requests per second beside the rivals, memory, ratios to httpd.

    mpmkit bench                      # everything at the demo scale, 20 to 25 minutes
    mpmkit bench --only memory qps --scale smoke
    mpmkit bench --scale full --record

| part | what it prints |
|---|---|
| generators | our Locust user, FastHttpUser, ab and wrk against nginx: what the figures below are worth |
| qps | the article's two tables, each MPM, with every rival that is installed in the same rounds |
| memory | what a busy request and an idle connection cost, with the rivals |
| ratios | each MPM beside the real httpd's own by ab and wrk, as ratios within a round |

Each part says first about how long it takes, is bounded in time, and keeps its rows as it goes. A
part that fails is told, and the next one runs. With ``--record`` a part that came to its end becomes
data/recorded/PART-SCALE.csv, which `mpmkit.recorded` reads; a part that did not leaves the file that
was there alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    bench,
    python_servers,  # noqa: F401  adds them to the competitors
)
from mpmkit.config.directives import MPMS
from mpmkit.measure import ceiling, competitors, memory, published, qps, records, stats
from mpmkit.measure.records import RecordError, RecordFile

SCALES = ("smoke", "demo", "full")
# Rounds and seconds a measurement of a generator.
GENERATOR_SIZES = {"smoke": (1, 1.0), "demo": (3, 3.0), "full": (5, 8.0)}
SLOW = 8_000  # requests/s that an estimate takes for granted

PEERS = ("gunicorn", "uvicorn", "waitress")
PEER_TARGET = 2.0  # times the fastest of them


@dataclass(frozen=True)
class Part:
    """One table: its name in files, what it is, about how long it takes, how it runs.

    run(scale, rivals, file) prints its tables, writes its rows to the file and gives a status as
    commands do: 0, or 130 for Ctrl-C, or another.
    """

    name: str
    title: str
    seconds: Callable[[str, Sequence[str]], float]
    run: Callable[[str, Sequence[str], Path], int]


# -- generators ----------------------------------------------------------------------------------


def _generators_seconds(scale: str, rivals: Sequence[str]) -> float:
    from benchmarks.generators import GENERATORS, WORKS

    rounds, seconds = GENERATOR_SIZES[scale]
    return rounds * len(GENERATORS) * len(WORKS) * (seconds + 1.5)


def _generators(scale: str, rivals: Sequence[str], path: Path) -> int:
    from benchmarks import generators
    from mpmkit.load.runner import LoadError
    from mpmkit.measure.reference_servers import NotInstalled, RivalFailed

    rounds, seconds = GENERATOR_SIZES[scale]
    file = RecordFile(path, "generators")
    run_id, machine = records.new_run_id(), records.machine()
    settings = ceiling.NGINX
    try:
        with generators.nginx() as server:
            for work, (title, users, keep_alive) in generators.WORKS.items():
                samples: dict[str, list[Any]] = {name: [] for name in generators.GENERATORS}
                for number in range(1, rounds + 1):
                    for name in stats.turns(list(generators.GENERATORS), number):
                        load, began = records.load1(), time.time()
                        before = records.cpu_times()
                        try:
                            sample = generators.GENERATORS[name](
                                server.url, users, seconds, keep_alive
                            )
                        except LoadError as error:
                            say(f"without {name}: {error}")
                            continue
                        samples[name].append(sample)
                        file.append(
                            {
                                "run_id": run_id,
                                "table": "generators",
                                "scale": scale,
                                "server": "nginx",
                                "mpm": None,
                                "round": number,
                                "directives": " ".join(f"{k}={v}" for k, v in settings.items()),
                                "started_at": records.utc(began),
                                "work": work,
                                "generator": name,
                                "users": users,
                                "qps": float(sample.qps),
                                "cpu": float(sample.cpu),
                                "failures": int(sample.failures),
                                **machine.row(),
                                "load1": load,
                                "steal": records.cpu_times().steal_since(before),
                            }
                        )
                        say(f"round {number}, {work}, {name}: {sample.qps:,.0f} requests/s")
                print(generators.table(title, samples) + "\n", flush=True)
            print(f"against {server.version} with one worker, measured on {machine}")
    except (NotInstalled, RivalFailed) as error:
        say(str(error))
        return 1
    return 0


# -- the others, by their own commands -----------------------------------------------------------


def _qps_seconds(scale: str, rivals: Sequence[str]) -> float:
    size = qps.SCALES[scale]
    cells = len(MPMS) * len(published.PAGES) + sum(
        len(one.kinds) for one in competitors.of(rivals)
    )
    return (
        size.rounds * cells * (2.0 + size.warmup + min(size.seconds or 1e9, size.requests / SLOW))
    )


def _qps(scale: str, rivals: Sequence[str], path: Path) -> int:
    status = qps.main(["--scale", scale, "--out", str(path), *_beside(rivals)])
    if path.exists():
        print("\n".join(peer_verdicts(records.read(path))), flush=True)
    return status


def peer_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each of our MPMs: how many times the fastest Python peer it answers, for each kind of
    page that both serve, and whether that is the double; empty without peers.

    Where the generator, or the machine that it shares, was the limit, ours could do more, so a lower
    ratio is no miss. The processor time of a request tells then.
    """
    sides: dict[tuple[str, str], dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        ours = row["server"] == "mpmkit"
        if ours or row["server"].startswith(PEERS):
            side = sides.setdefault((published.column(row), "ours" if ours else "peers"), {})
            side.setdefault((row["server"], row["mpm"] or ""), []).append(row)
    lines = []
    for (kind, whose), servers in sides.items():
        peers = sides.get((kind, "peers"))
        if whose != "ours" or not peers:
            continue
        name, theirs = max(peers.items(), key=lambda peer: statistics.median(_qps_of(peer[1])))
        for (_, mpm), own in servers.items():
            times = stats.ratio(_qps_of(own), _qps_of(theirs))
            spread = (
                f"{times.level:.0%}: {times.low:.2f} to {times.high:.2f}"
                if times.level
                else "one round"
            )
            limited = sum(
                bool(row["generator_bound"] or row.get("generator_starved")) for row in own
            )
            if times.value >= PEER_TARGET:
                verdict = "reached"
            elif limited:
                verdict = f"open: the generator was at its limit in {limited} of {len(own)} rounds"
            else:
                verdict = f"missed by {1 - times.value / PEER_TARGET:.0%}"
            line = (
                f"{kind}, {mpm}: {times.value:.2f} times the fastest Python peer, {name[0]} "
                f"({spread}; target {PEER_TARGET:g}, {verdict})"
            )
            mine, peer = bench.cpu_us(own), bench.cpu_us(theirs)
            if mine > 0 and peer > 0:
                line += f"; {peer / mine:.2f} times by processor time ({mine:.1f} and {peer:.1f} µs a request)"
            lines.append(line)
    return lines


def _qps_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["qps"] for row in rows]


def _memory_seconds(scale: str, rivals: Sequence[str]) -> float:
    return memory.plan(scale=scale, beside=rivals).seconds


def _memory(scale: str, rivals: Sequence[str], path: Path) -> int:
    return memory.main(["--scale", scale, "--out", str(path), "--ram", "4GiB", *_beside(rivals)])


def _ratios_seconds(scale: str, rivals: Sequence[str]) -> float:
    requests, seconds = bench.SCALES[scale]
    return bench.expected_seconds(
        bench.WORKS.values(),
        rounds=_ratio_rounds(scale),
        requests=requests,
        seconds=seconds,
        nginx="nginx" in rivals,
    )


def _ratio_rounds(scale: str) -> int:
    return 1 if scale == "smoke" else 5


def _ratios(scale: str, rivals: Sequence[str], path: Path) -> int:
    os.environ["MPMKIT_SCALE"] = scale
    return bench.main(
        [
            "--work",
            "all",
            "--rounds",
            str(_ratio_rounds(scale)),
            "--out",
            str(path),
            *([] if "nginx" in rivals else ["--no-nginx"]),
        ]
    )


def _beside(rivals: Sequence[str]) -> list[str]:
    return ["--beside", ",".join(rivals)] if rivals else []


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "generators",
            "load generators, against the fastest server at hand",
            _generators_seconds,
            _generators,
        ),
        Part("qps", "requests per second", _qps_seconds, _qps),
        Part("memory", "memory", _memory_seconds, _memory),
        Part("bench", "each MPM as a ratio to the real httpd's", _ratios_seconds, _ratios),
    )
}


# -- the command ---------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line for who watches; tables go to standard output."""
    print(f"mpmkit: {text}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, where argparse prints its usage first."""
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="mpmkit bench",
        allow_abbrev=False,
        description="All tables: generators, requests per second beside the rivals, "
        "memory, ratios to httpd.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        default=list(PARTS),
        help=f"of {', '.join(PARTS)}; all by default",
    )
    parser.add_argument(
        "--scale", choices=SCALES, help="how much is measured; by default MPMKIT_SCALE, or demo"
    )
    parser.add_argument(
        "--beside",
        default="all",
        metavar="A,B",
        help=f"rivals: {', '.join(competitors.names())}, all (the default) or none; those "
        "that are not installed are named and left out",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep what came to its end in data/recorded (in a checkout)",
    )
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit bench``; the status is the worst of its parts', 130 for Ctrl-C, 2 for a bad argument."""
    parser = _parser()
    options = parser.parse_args(argv)
    scale = options.scale or os.environ.get("MPMKIT_SCALE") or "demo"
    if scale not in SCALES:
        parser.error(f"MPMKIT_SCALE: {scale!r} is none of {', '.join(SCALES)}")
    rivals = {"all": list(competitors.names()), "none": []}.get(
        options.beside, [part.strip() for part in options.beside.split(",") if part.strip()]
    )
    for name in rivals:
        if name not in competitors.names():
            parser.error(f"beside: {name!r} is none of {', '.join(competitors.names())}")
    parts = [PARTS[name] for name in dict.fromkeys(options.only)]
    try:
        folder = records.recorded_folder() if options.record else Path("data/runs")
    except RecordError as error:
        say(str(error))
        return 1
    estimates = {part.name: part.seconds(scale, rivals) for part in parts}
    say(
        f"scale {scale}, about {_minutes(sum(estimates.values()))}: "
        + ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in estimates.items())
    )
    if options.estimate:
        return 0
    if not options.record:
        folder.mkdir(parents=True, exist_ok=True)
    run_id, worst = records.new_run_id(), 0
    for part in parts:
        print(f"\n== {part.title}\n", flush=True)
        # In a file of its own until it is whole: a run that was stopped replaces no record.
        path = folder / (
            f".{part.name}-{scale}-{run_id}.part" if options.record else f"{part.name}-{run_id}.csv"
        )
        try:
            status = part.run(scale, rivals, path)
        except KeyboardInterrupt:
            say("interrupted")
            status = 130
        except RecordError as error:
            say(str(error))
            status = 1
        if options.record:
            _keep(path, folder / f"{part.name}-{scale}.csv", status)
        worst = max(worst, status)
        if status == 130:
            break
    return worst


def _keep(path: Path, name: Path, status: int) -> None:
    """The record becomes the one that is shipped, if it is whole."""
    if not path.exists():
        return
    if status == 0 and records.read(path):
        os.replace(path, name)
        say(f"recorded as {name}")
        return
    kept = name.with_name(path.name.removeprefix(".")).with_suffix(".csv")
    runs = name.parent.parent / "runs"
    runs.mkdir(exist_ok=True)
    os.replace(path, runs / kept.name)
    say(f"not whole, so not recorded; its rows are in {runs / kept.name}")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
