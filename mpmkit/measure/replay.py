"""``mpmkit replay LOG --against URL``: the requests of an access log as an open loop, at their times.

mpmkit replay access.log --against http://127.0.0.1:8080 --speed 2 --scale 1.5

Each request asks a script for as many bytes as were sent, after as many milliseconds as it took: ``/replay.py``
of the samples, or any with ``?bytes=&ms=``. Requests that the trace joins go on one connection, which ends as the
logged one did: closed with the last request, or kept until the server closes it. The load is Locust's
(`mpmkit load`), which counts what was late, and connections that the server closed before the log's last request.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.load import cli
from mpmkit.load.profile import LoadProfile
from mpmkit.load.specs import MAX_SECONDS, MAX_USERS
from mpmkit.measure.advise import grown
from mpmkit.measure.command import say
from mpmkit.measure.trace import Trace

GRID = 1.1  # sizes and durations are rounded to powers of it: by 5% at most
STAY = 30.0  # seconds for which a server keeps a connection, for the number of users
SLOW = 600.0  # seconds that a run may take longer than the log
LONGEST_MS = 500_000
LARGEST = 1 << 27  # bytes


def rounded(value: float, most: float) -> int:
    """On a grid of a few hundred values, so that there are not too many different requests."""
    value = min(value, most)
    return round(GRID ** round(math.log(value, GRID))) if value >= 1 else 0


def plan(trace: Trace, speed: float, script: str, file: Path) -> dict[str, Any]:
    """Write to `file` the plan of a load (docs/LOAD.md), a line for each connection; the fields of its profile.
    Requests of a log without durations are answered at once. Raises ValueError for a log that takes too long.
    """
    last = dict(zip(trace.connection, range(len(trace)), strict=True))
    lines: dict[tuple[int, int], int] = {}
    words: dict[int, list[str]] = {}  # connection -> its requests
    ends: dict[int, float] = {}  # connection -> when its last answer is due
    edges: list[tuple[float, int]] = []  # when there is one connection more, or less
    due = 0.0
    for i, (connection, start) in enumerate(zip(trace.connection, trace.start, strict=True)):
        seconds = trace.seconds[i]
        ms = rounded(1000 * seconds if seconds == seconds else 0.0, LONGEST_MS)
        line = lines.setdefault((rounded(trace.size[i], LARGEST), ms), len(lines)) + 1
        due = start / speed
        edges += [(due, 1)] * (connection not in words)
        pause = max(0.0, due - ends.get(connection, due))
        words.setdefault(connection, []).append(f"{due:.6f},{line},{pause:.6f}")
        ends[connection] = due + ms / 1000
        if last[connection] == i:
            closes = trace.kept[i] == 0
            words[connection] += ["close"] * closes
            edges.append((ends[connection] + STAY * (not closes), -1))
    if due > (most := MAX_SECONDS - SLOW):
        raise ValueError(
            f"speed: the log takes {due:,.0f} s at {speed:g}; a run at most {most:,.0f}"
        )
    file.write_text("".join(f"{' '.join(one)}\n" for one in words.values()), encoding="ascii")
    mix = [{"path": f"{script}?bytes={size}&ms={ms}", "expect_length": size} for size, ms in lines]
    peak = max(accumulate(step for _, step in sorted(edges)))
    return {
        "plan": str(file.resolve()), "mix": mix, "arrival": "constant", "keep_alive": True,
        "rate": max(0.01, len(trace) / (due + 0.1)), "duration": due + 0.1, "timeout": 600,
        "users": min(MAX_USERS, max(200, 2 * peak)), "time_limit": due + SLOW,
    }  # fmt: skip


def parser() -> Parser:
    made = Parser(
        prog="mpmkit replay",
        description="Send the requests of an access log to a server of this machine.",
    )
    add = made.add_argument
    add("log", nargs="+", metavar="LOG", help="access log; several, .gz, or -")
    add(
        "--against", required=True, metavar="URL", help="like http://127.0.0.1:8080 (loopback only)"
    )
    add("--log-format", default="", metavar="FORMAT", help='its LogFormat, or "combined %%D"')
    add("-f", dest="conf", metavar="FILE", help="httpd.conf with its LogFormat")
    add("--speed", type=float, default=1.0, metavar="N", help="times as fast (default: 1)")
    add("--scale", type=float, default=1.0, metavar="N", help="times the connections (default: 1)")
    add(
        "--script", default="/replay.py", metavar="PATH", help="what is asked (default: /replay.py)"
    )
    add("--processes", type=int, default=1, metavar="N", help="of Locust (default: 1)")
    add("--json", action="store_true", help="print one JSON object")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of `mpmkit load`; 2 for a log that cannot be used."""
    options = parser().parse_args(argv)
    try:
        if not 0 < options.speed <= 1000 or not 0 < options.scale <= 1000:
            raise ValueError("speed, scale: must be more than 0 and at most 1000")
        read = Trace.read(options.log, log_format=options.log_format, conf=options.conf)
        trace = grown(read, options.scale)
        with tempfile.TemporaryDirectory(prefix="mpmkit-replay-") as place:
            made = plan(trace, options.speed, options.script, Path(place, "plan"))
            profile = Path(place, "profile")
            load = LoadProfile(**made, processes=options.processes)
            profile.write_text(load.to_json(), encoding="utf-8")
            say(
                f"{len(trace):,} requests on {len(set(trace.connection)):,} connections in "
                f"{load.duration:.0f} s, {len(load.mix)} different ones"
            )
            words = [options.against, "--profile", os.fspath(profile)]
            return cli.main(words + ["--json"] * options.json)
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
