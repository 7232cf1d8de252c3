"""All tables in one go: the generators, requests per second, memory, ratios to httpd.

    mpmkit bench                      # everything at the demo scale, some 27 minutes
    mpmkit bench --only memory qps --scale smoke
    mpmkit bench --scale full --record

| part | what it prints |
|---|---|
| generators | our Locust user, FastHttpUser, ab and wrk against nginx: what the figures below are worth |
| qps | the article's two tables, each MPM and every competitor that is installed in the same rounds |
| memory | what a busy request and an idle connection cost, under ours and the competitors |
| bench | each MPM and the real httpd's own by ab and wrk, as ratios within a round |

Each part says first about how long it takes, is bounded in time, and keeps its rows as it goes. A
part that fails is reported, and the next one runs. With ``--record`` a part that came to its end becomes
data/recorded/PART-SCALE.csv, which `mpmkit.recorded` reads; a part that did not, or shared the machine with
other work (more than 5% of it), leaves the file that was there alone.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    bench,
    generators,
    nginx,  # noqa: F401  adds it to the competitors
    python_servers,  # noqa: F401  adds them to the competitors
)
from benchmarks.ratios import judged, middle
from mpmkit.config.arguments import Parser
from mpmkit.measure import command, competitors, memory, published, qps, records, stats
from mpmkit.measure.command import say
from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.experiment import duration
from mpmkit.measure.records import RecordError

PEERS = ("gunicorn", "uvicorn", "waitress", "granian", "fastpysgi")
PEER_TARGET = 2.0  # times the fastest of them


@dataclass(frozen=True)
class Part:
    """One table: its name in files, what it is, about how many seconds it takes at each scale with every
    competitor, how it runs.

    run(scale, also, file) prints its tables, writes its rows to the file and gives a status as
    commands do: 0, or 130 for Ctrl-C, or another.
    """

    name: str
    title: str
    seconds: Mapping[str, float]
    run: Callable[[str, Sequence[str], Path], int]


# -- the parts, by their own commands ------------------------------------------------------------


def _generators(scale: str, also: Sequence[str], path: Path) -> int:
    return generators.main(["--scale", scale, "--out", str(path)])


def _qps(scale: str, also: Sequence[str], path: Path) -> int:
    status = qps.main(["--scale", scale, "--out", str(path), *_also(also)])
    if path.exists():
        print("\n".join(peer_verdicts(records.read(path))), flush=True)
    return status


def peer_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each of our MPMs: how many times the fastest Python peer it answers, for each kind of
    page that both serve, and whether that is the double; empty without peers.

    Where the generator, or the machine that it shares, was the limit, ours could do more, so a lower
    ratio is not a miss; then compare the CPU time of a request.
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
        if whose == "ours" and peers:
            name, theirs = max(peers.items(), key=lambda peer: statistics.median(_qps_of(peer[1])))
            for (_, mpm), own in servers.items():
                lines.append(f"{kind}, {mpm}: {_peer_verdict(own, theirs, name[0])}")
    return lines


def _peer_verdict(
    own: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], name: str
) -> str:
    times = stats.ratio(_qps_of(own), _qps_of(theirs))
    known = (
        f"{times.level:.0%}: {times.low:.2f} to {times.high:.2f}" if times.level else "one round"
    )
    limited = sum(bool(row["generator_bound"] or row.get("generator_starved")) for row in own)
    undecided = not times.level or not times.excludes(PEER_TARGET)
    verdict = judged(times.value, PEER_TARGET, bool(limited), undecided)
    if verdict == "open":
        verdict += f": the generator was at its limit in {limited} of {len(own)} rounds"
    fastest = f"{times.value:.2f} times the fastest Python peer, {name}"
    line = f"{fastest} ({known}; target {PEER_TARGET:g}, {verdict})"
    mine, peer = middle(own, "server_cpu_us"), middle(theirs, "server_cpu_us")
    if mine > 0 and peer > 0:
        each = f"({mine:.1f} and {peer:.1f} µs a request)"
        line += f"; {peer / mine:.2f} times by CPU time {each}"
    return line


def _qps_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["qps"] for row in rows]


def _memory(scale: str, also: Sequence[str], path: Path) -> int:
    return memory.main(["--scale", scale, "--out", str(path), "--ram", "4GiB", *_also(also)])


def _ratios(scale: str, also: Sequence[str], path: Path) -> int:
    how = ["--scale", scale, "--work", "all", "--rounds", "1" if scale == "smoke" else "5"]
    return bench.main([*how, "--out", str(path), *([] if "nginx" in also else ["--no-nginx"])])


def _also(also: Sequence[str]) -> list[str]:
    return ["--also", ",".join(also)] if also else []


def _part(name: str, title: str, run: Callable[..., int], *seconds: float) -> Part:
    return Part(name, title, dict(zip(command.SCALE_NAMES, seconds, strict=True)), run)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        _part("generators", "load generators, one by one", _generators, 25, 135, 475),
        _part("qps", "requests per second", _qps, 85, 600, 4600),
        _part("memory", "memory", _memory, 230, 350, 1900),
        _part("bench", "each MPM as a ratio to the real httpd's", _ratios, 80, 500, 2200),
    )
}


# -- the command ---------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        prog="mpmkit bench",
        description="All tables: generators, requests per second, memory, ratios to httpd.",
        epilog="Rows are kept in data/runs of the checkout, or with --record in data/recorded.",
    )
    add = parser.add_argument
    parts = f"of {', '.join(PARTS)}; all by default"
    add("--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS), help=parts)
    scale = "how much is measured; by default MPMKIT_SCALE, or demo"
    add("--scale", choices=command.SCALE_NAMES, help=scale)
    others = (
        f"servers to compare with: {', '.join(competitors.FORMS)}, all (the default) or none; "
        "those that are not installed are named and left out"
    )
    add("--also", default="all", metavar="A,B", help=others)
    record = "keep what came to its end in data/recorded (in a checkout)"
    add("--record", action="store_true", help=record)
    add("--estimate", action="store_true", help="only say how long it would take")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit bench``; the status is the worst of its parts', 130 for Ctrl-C, 2 for a bad argument."""
    parser = _parser()
    options = parser.parse_args(argv)
    problems = command.Problems()
    scale, _ = problems.scale(options.scale, dict.fromkeys(command.SCALE_NAMES, 0))
    none = options.also == "none"
    asked = () if none else command.words(options.also)
    also = problems.chosen("also", asked, competitors.FORMS, 0)
    if problems:
        parser.error("; ".join(problems))
    parts = [PARTS[name] for name in dict.fromkeys(options.only)]
    try:
        recorded = records.recorded_folder()
    except RecordError as error:
        say(str(error))
        return 1
    folder = recorded if options.record else recorded.with_name("runs")
    estimates = {part.name: part.seconds[scale] for part in parts}
    say(
        f"scale {scale}, about {duration(sum(estimates.values()))}: "
        + ", ".join(f"{name} {duration(seconds)}" for name, seconds in estimates.items())
    )
    if options.estimate:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    run_id, worst = records.new_run_id(), 0
    for part in parts:
        print(f"\n== {part.title}\n", flush=True)
        # In a file of its own until it is whole: a run that was stopped replaces no record.
        path = folder / (
            f".{part.name}-{scale}-{run_id}.part" if options.record else f"{part.name}-{run_id}.csv"
        )
        others = OtherWork()
        try:
            status = part.run(scale, also, path)
        except KeyboardInterrupt:
            say("interrupted")
            status = 130
        except RecordError as error:
            say(str(error))
            status = 1
        if options.record:
            _keep(path, folder / f"{part.name}-{scale}.csv", status, others.share())
        worst = max(worst, status)
        if status == 130:
            break
    return worst


def _keep(path: Path, name: Path, status: int, other_work: float) -> None:
    """The record becomes the one that is shipped, if it is whole and little else ran."""
    if not path.exists():
        return
    alone = other_work <= OtherWork.MOST
    if status == 0 and alone and records.read(path):
        os.replace(path, name)
        say(f"recorded as {name}")
        return
    kept = name.with_name(path.name.removeprefix(".")).with_suffix(".csv")
    runs = name.parent.parent / "runs"
    runs.mkdir(exist_ok=True)
    os.replace(path, runs / kept.name)
    why = "not whole" if alone else f"other work took {other_work:.0%} of this machine meanwhile"
    say(f"{why}, so not recorded; its rows are in {runs / kept.name}")


if __name__ == "__main__":
    sys.exit(main())
