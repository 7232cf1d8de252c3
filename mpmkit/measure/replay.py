"""``mpmkit replay LOG --against URL``: the requests of an access log as an open loop, at their times.

mpmkit replay access.log --against http://127.0.0.1:8080 --speed 2 --scale 1.5

Each request asks a script for as many bytes as were sent, after as many milliseconds as it took: ``/replay.py``
of the samples, or any with ``?bytes=&ms=``. Requests that the trace joins share a connection, which ends like
the logged one: closed with the last request, or kept until the server closes it. With --paths each requests
the logged path, from a server that has it. The load is Locust's (`mpmkit load`), which counts late requests,
and connections that the server closed before the log's last request.
"""

import math
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.load import cli
from mpmkit.load.profile import LoadProfile
from mpmkit.load.specs import MAX_SECONDS, MAX_USERS
from mpmkit.measure import access_log
from mpmkit.measure.access_trace import from_conf
from mpmkit.measure.advise import grown
from mpmkit.measure.command import say
from mpmkit.measure.trace import COLUMNS, Trace

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


def with_paths(
    trace: Trace, logs: Sequence[str], log_format: str, conf: str | None
) -> tuple[Trace, list[Asked]]:
    """(the requests whose path can be asked for again, those paths): a trace has none, so the logs are read once
    more. `size` of the trace is then the place of its path. Raises ValueError where there are none."""
    if "-" in logs:
        raise ValueError("paths: standard input can be read only once; write the log to a file")
    nicknames, text = access_log.NICKNAMES, log_format
    if conf is not None:
        nicknames, text, _ = from_conf(conf, logs[0], text)
    rows: list[tuple[float, bytes]] = []
    with ExitStack() as stack:
        form = access_log.LineFormat(text, nicknames) if text else None
        reader, streams = access_log.in_order(logs, form, stack)
        at = reader.form.columns.get("line")
        if at is None:
            raise ValueError("paths: the log has no request lines; %r is one")
        for name, lines in streams:
            for found, starts, _ in reader.columns(name, lines):
                rows += zip(starts, found[at], strict=True)
    rows.sort(key=itemgetter(0))
    if len(rows) != len(trace):
        raise ValueError("paths: the log changed while it was read; give a copy of it")
    places: dict[Asked, int] = {}
    good, numbers = list[int](), list[int]()
    for i, (_, line) in enumerate(rows):
        if match := AGAIN.fullmatch(line):
            asked = (match[1] or b"GET").decode(), match[2].decode()
            good.append(i)
            numbers.append(places.setdefault(asked, len(places)))
    if not good:
        raise ValueError("paths: no request of the log is a GET or HEAD of a path")
    if left := len(trace) - len(good):
        say(f"{left:,} requests are no GET or HEAD of a path: they are not sent")
    columns: dict[str, Any] = {n: [getattr(trace, n)[i] for i in good] for n in COLUMNS}
    return replace(trace, **columns | {"size": numbers}), list(places)


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
    for i, (connection, start) in enumerate(zip(trace.connection, trace.start, strict=True)):
        seconds = trace.seconds[i]
        ms = rounded(1000 * seconds if seconds == seconds else 0.0, LONGEST_MS)
        key = (trace.size[i], 0) if paths else (rounded(trace.size[i], LARGEST), ms)
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
        raise ValueError(
            f"speed: the log takes {due:,.0f} s at {speed:g}; a run at most {most:,.0f}"
        )
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
    what = made.add_mutually_exclusive_group()
    asked = "what is asked (default: /replay.py)"
    what.add_argument("--script", default="/replay.py", metavar="PATH", help=asked)
    logged = "ask for the paths of the log: the server has them"
    what.add_argument("--paths", action="store_true", help=logged)
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
        say("\n".join(f"left out: {line}" for line in read.broken))
        paths: list[Asked] = []
        if options.paths:
            read, paths = with_paths(read, options.log, options.log_format, options.conf)
        trace = grown(read, options.scale)
        with tempfile.TemporaryDirectory(prefix="mpmkit-replay-") as place:
            made = plan(trace, options.speed, options.script, Path(place, "plan"), paths)
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
