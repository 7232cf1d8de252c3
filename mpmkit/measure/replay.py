"""``mpmkit replay LOG --against URL``: the requests of an access log as an open loop, at their times.

mpmkit replay access.log --against http://127.0.0.1:8080 --speed 2 --scale 1.5

Each request asks a script for as many bytes as were sent, after as many milliseconds as it took: ``/replay.py``
of the samples, or any with ``?bytes=&ms=``. The load is Locust's (`mpmkit load`); connections are new ones, or
those of `--keep-alive`, not the log's.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.load import cli
from mpmkit.load.profile import LoadProfile
from mpmkit.load.specs import MAX_USERS
from mpmkit.measure.advise import grown
from mpmkit.measure.command import say
from mpmkit.measure.proposal import demand
from mpmkit.measure.trace import Trace

GRID = 1.1  # sizes and durations are rounded to powers of it: by 5% at most
APART = 2e-6  # seconds between two due times, at least
LONGEST_MS = 500_000
LARGEST = 1 << 27  # bytes


def rounded(value: float, most: float) -> int:
    """On a grid of a few hundred values, so that there are not too many different requests."""
    value = min(value, most)
    return round(GRID ** round(math.log(value, GRID))) if value >= 1 else 0


def plan(trace: Trace, speed: float, script: str, file: Path) -> dict[str, Any]:
    """Write to `file` when each request is due, and the line of the mix; the fields of the profile. Requests of a
    log without durations are answered at once."""
    lines: dict[tuple[int, int], int] = {}
    due = 0.0
    with open(file, "w", encoding="ascii") as out:
        for start, seconds, size in zip(trace.start, trace.seconds, trace.size, strict=True):
            ms = 1000 * seconds if seconds == seconds else 0.0
            key = rounded(size, LARGEST), rounded(ms, LONGEST_MS)
            due = max(due + APART, start / speed)
            out.write(f"{due:.6f},{lines.setdefault(key, len(lines)) + 1}\n")
    mix = [{"path": f"{script}?bytes={size}&ms={ms}", "expect_length": size} for size, ms in lines]
    peak = max(demand(trace, 0.0)) if trace.timed else len(trace)
    return {
        "plan": str(file.resolve()), "mix": mix, "arrival": "constant", "rate": max(0.01, len(trace) / due),
        "duration": due + 0.1, "users": min(MAX_USERS, max(200, math.ceil(4 * peak * speed))), "timeout": 600,
        "time_limit": due + 600,
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
    add("--keep-alive", action="store_true", help="on kept connections")
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
            more = {"keep_alive": options.keep_alive, "processes": options.processes}
            profile = Path(place, "profile")
            profile.write_text(LoadProfile(**made, **more).to_json(), encoding="utf-8")
            say(
                f"{len(trace):,} requests in {made['duration']:.0f} s, {len(made['mix'])} different ones"
            )
            words = [options.against, "--profile", os.fspath(profile)]
            return cli.main(words + ["--json"] * options.json)
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
