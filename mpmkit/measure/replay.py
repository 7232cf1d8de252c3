"""``mpmkit replay LOG --against URL``: the requests of an access log as an open loop, at their times.

mpmkit replay access.log --against http://127.0.0.1:8080 --speed 2 --scale 1.5

Each request asks a script for as many bytes as were sent, after as many milliseconds as it took: ``/replay.py``
of the samples, or any with ``?bytes=&ms=``. Requests that the trace joins share a connection, which ends like
the logged one: closed with the last request, or kept until the server closes it. With --paths each requests
the logged path, from a server that has it. The load is Locust's (`mpmkit load`), which counts late requests,
and connections that the server closed before the log's last request.
"""

import math
import re
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.load import runner
from mpmkit.load.profile import MAX_SECONDS, MAX_USERS, LoadProfile
from mpmkit.measure.advise import grown
from mpmkit.measure.command import say
from mpmkit.measure.trace import Trace, numbered

GRID = 1.1  # sizes and durations are rounded to powers of it: by 5% at most
STAY = 30.0  # seconds for which a server keeps a connection, for the number of users
SLOW = 600.0  # seconds that a run may take longer than the log
LONGEST_MS = 500_000
LARGEST = 1 << 27  # bytes
# A request that can be sent again; httpd logs other bytes behind a backslash.
AGAIN = re.compile(rb"(?:(GET|HEAD) )?(/[!-\[\]-~]*)(?: HTTP/1\.[01])?")


def rounded(value: float, most: float) -> int:
    """On a grid of a few hundred values, so that there are not too many different requests."""
    value = min(value, most)
    return round(GRID ** round(math.log(value, GRID))) if value >= 1 else 0


Asked = tuple[str, str]  # method and path


def with_paths(logs: Sequence[str], **how: Any) -> tuple[Trace, list[Asked]]:
    """(the requests whose path can be asked for again, those paths); `size` of the trace is the place of its
    path. Raises ValueError where there are none."""
    lines, places = numbered(), numbered()
    trace = Trace.read(logs, lines=lines, **how)
    asked = ((number, AGAIN.fullmatch(line)) for line, number in lines.items())
    place_of = {n: places[(m[1] or b"GET").decode(), m[2].decode()] for n, m in asked if m}
    good = [i for i, number in enumerate(trace.size) if number in place_of]
    if not good:
        raise ValueError("paths: no request of the log is a GET or HEAD of a path")
    if left := len(trace) - len(good):
        say(f"{left:,} requests are no GET or HEAD of a path: they are not sent")
    return trace.of(good, size=[place_of[trace.size[i]] for i in good]), list(places)


def plan(
    trace: Trace, speed: float, script: str, file: Path, paths: Sequence[Asked] = ()
) -> dict[str, Any]:
    """Write to `file` the plan of a load (docs/LOAD.md), a line for each connection; the fields of its profile.
    Requests of a log without durations are answered at once. paths: see `with_paths`; any status is good
    then. Raises ValueError for a log that takes too long."""
    last = dict(zip(trace.connection, range(len(trace)), strict=True))
    lines: dict[tuple[int, int], int] = {}  # (size or place in paths, ms) -> line of the mix
    words: dict[int, list[str]] = {}  # connection -> its requests
    ends: dict[int, float] = {}  # connection -> when its last answer is due
    edges: list[tuple[float, int]] = []  # when there is one connection more, or less
    due = 0.0
    requests = zip(trace.connection, trace.start, trace.seconds, trace.size, strict=True)
    for i, (connection, start, seconds, size) in enumerate(requests):
        ms = rounded(1000 * seconds if seconds == seconds else 0.0, LONGEST_MS)
        key = (size, 0) if paths else (rounded(size, LARGEST), ms)
        line = lines.setdefault(key, len(lines)) + 1
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
        takes = f"the log takes {due:,.0f} s at {speed:g}"
        raise ValueError(f"speed: {takes}; a run at most {most:,.0f}")
    file.write_text("".join(f"{' '.join(one)}\n" for one in words.values()), encoding="ascii")
    mix: list[dict[str, Any]] = [
        dict(zip(("method", "path"), paths[size], strict=True), expect_status=None) if paths
        else {"path": f"{script}?bytes={size}&ms={ms}", "expect_length": size}
        for size, ms in lines
    ]  # fmt: skip
    peak = max(accumulate(step for _, step in sorted(edges)))
    return {
        "plan": str(file.resolve()), "mix": mix, "arrival": "constant", "keep_alive": True,
        "rate": max(0.01, len(trace) / (due + 0.1)), "duration": due + 0.1, "timeout": 600,
        "users": min(MAX_USERS, max(200, 2 * peak)), "time_limit": due + SLOW,
    }  # fmt: skip


def parser() -> Parser:
    what = "Send the requests of an access log to a server of this machine."
    made = Parser(prog="mpmkit replay", description=what)
    add, url = made.add_argument, "like http://127.0.0.1:8080 (loopback only)"
    add("log", nargs="+", metavar="LOG", help="access log; several, .gz, or -")
    add("--against", required=True, metavar="URL", help=url)
    add("--log-format", default="", metavar="FORMAT", help='its LogFormat, or "combined %%D"')
    add("-f", dest="conf", metavar="FILE", help="httpd.conf with its LogFormat")
    add("--speed", type=float, default=1.0, metavar="N", help="times as fast (default: 1)")
    add("--scale", type=float, default=1.0, metavar="N", help="times the connections (default: 1)")
    either = made.add_mutually_exclusive_group().add_argument
    asked = "what is asked (default: /replay.py)"
    either("--script", default="/replay.py", metavar="PATH", help=asked)
    logged = "ask for the paths of the log: the server has them"
    either("--paths", action="store_true", help=logged)
    add("--processes", type=int, default=1, metavar="N", help="of Locust (default: 1)")
    add("--json", action="store_true", help="print one JSON object")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of `mpmkit load`; 2 for a log that cannot be used."""
    options = parser().parse_args(argv)
    try:
        if not 0 < options.speed <= 1000 or not 0 < options.scale <= 1000:
            raise ValueError("speed, scale: must be more than 0 and at most 1000")
        logs, how = options.log, {"log_format": options.log_format, "conf": options.conf}
        trace, paths = with_paths(logs, **how) if options.paths else (Trace.read(logs, **how), [])
        say("\n".join(f"left out: {line}" for line in trace.broken))
        trace = grown(trace, options.scale)
        with tempfile.TemporaryDirectory(prefix="mpmkit-replay-") as place:
            made = plan(trace, options.speed, options.script, Path(place, "plan"), paths)
            profile, load = Path(place, "profile"), LoadProfile(**made, processes=options.processes)
            profile.write_text(load.to_json(), encoding="utf-8")
            many = f"{len(trace):,} requests on {len(set(trace.connection)):,} connections"
            say(f"{many} in {load.duration:.0f} s, {len(load.mix)} different ones")
            more = ["--json"] * options.json
            return runner.main([options.against, "--profile", str(profile), *more])
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
