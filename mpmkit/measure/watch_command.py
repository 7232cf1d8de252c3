"""``mpmkit watch URL``: the status page (`?auto`) of any Apache as lines over time, with its headroom.

mpmkit watch http://127.0.0.1:8080 -f httpd.conf              until Ctrl-C or an alarm
mpmkit watch http://user:password@www.example.org/status      behind a login
mpmkit watch http://127.0.0.1:8080 --seconds 0 --format prometheus
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from mpmkit.config.arguments import Parser
from mpmkit.measure.advise_command import configured
from mpmkit.measure.command import say
from mpmkit.measure.monitor import StatusPage

ALARMS = {"G": "finishing gracefully", "K": "keep-alive", "R": "reading a request"}
ALARM_STATUS = 3
GROWTH_SECONDS = 600.0  # over which the growth of busy workers is taken
FEWEST = 5  # samples for that


class Headroom(NamedTuple):
    """What one look at the scoreboard shows."""

    t: float  # seconds since the first look
    busy: int  # workers with a connection or leaving; the one that answers us is left out
    idle: int
    free: int  # idle ones and those that may still be started
    full_in: float  # minutes until free is 0 at the present growth; nan: busy does not grow
    alarm: str  # a letter of ALARMS; "": not full, or full of different letters


def headroom(t: float, letters: str, limit: int, before: Sequence[Headroom]) -> Headroom:
    """limit: MaxRequestWorkers, or 0: all slots of the scoreboard. before: earlier looks. Full is a server with
    one free worker at most, or where no other than the one that answers us was idle in two looks: idle
    maintenance could not fork, as where children that finish gracefully hold all slots."""
    letters = letters.replace("W", "_", 1)  # one answers us
    idle = letters.count("_") + letters.count("S")
    busy = len(letters) - idle - letters.count(".")
    free, slope = max(0, (limit or len(letters)) - busy), 0.0
    if len(before) >= FEWEST:
        slope = statistics.linear_regression([b.t for b in before], [b.busy for b in before]).slope
    most = max(ALARMS, key=letters.count)
    full = free <= 1 or (idle <= 1 and bool(before) and before[-1].idle <= 1)
    alarm = most if full and 2 * letters.count(most) > busy else ""
    full_in = free / slope / 60 if slope > 0 else float("nan")
    return Headroom(t, busy, idle, free, full_in, alarm)


def shown(one: Headroom, form: str) -> str:
    """As a line of text or CSV, or as Prometheus's text format."""
    if form == "csv":
        return f"{one.t:.1f},{one.busy},{one.idle},{one.free},{one.full_in:.1f},{one.alarm}"
    if form == "prometheus":
        workers = {f'{{state="{n}"}}': getattr(one, n) for n in Headroom._fields[1:4]}
        alarms = {f'{{letter="{key}"}}': int(one.alarm == key) for key in ALARMS}
        found = {"workers": workers, "full_in_minutes": {"": f"{one.full_in:.1f}"}, "alarm": alarms}
        lines = []
        for name, values in found.items():
            lines.append(f"# TYPE mpmkit_{name} gauge")
            lines += [f"mpmkit_{name}{labels} {value}" for labels, value in values.items()]
        return "\n".join(lines)
    grows = f", at this growth full in {one.full_in:.0f} min" if one.full_in == one.full_in else ""
    alarm = f"; ALARM: full of {one.alarm} ({ALARMS[one.alarm]})" if one.alarm else ""
    return f"{one.t:7.1f} s  {one.busy} busy, {one.idle} idle, {one.free} free{grows}{alarm}"


def parser() -> Parser:
    what = "Read the status page of a running Apache httpd or mpmkit."
    made = Parser(prog="mpmkit watch", description=what)
    add, limit = made.add_argument, made.add_mutually_exclusive_group().add_argument
    add("url", metavar="URL", help="of the server, or of its status page (default: /server-status)")
    add("--every", type=_seconds, default=5.0, metavar="S", help="between two looks (default: 5)")
    until = "to run (default: until Ctrl-C or an alarm)"
    add("--seconds", type=_seconds, metavar="S", help=until)
    words = "its MaxRequestWorkers (default: as many as the scoreboard has slots)"
    limit("--limit", type=_workers, default=0, metavar="N", help=words)
    limit("-f", dest="conf", metavar="FILE", help="its httpd.conf, which has that")
    add("--format", choices=("text", "csv", "prometheus"), default="text")
    return made


def _seconds(text: str) -> float:
    if not 0 <= float(text) < 1e9:
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, not {text!r}")
    return float(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _limit_of(conf: str | None, mpm: str) -> int:
    """MaxRequestWorkers of an httpd.conf, as it is for that MPM; 0: not known. Exits with 2 for a bad file."""
    try:
        d = configured(conf, mpm or None)[1] if conf else None
    except (OSError, ValueError) as error:
        parser().error(str(error))
    return d.process_limit * d.ThreadsPerChild if d else 0


def main(argv: Sequence[str] | None = None) -> int:
    """0: no alarm. 1: no status page. 2: a bad argument. 3: the scoreboard is full of G, K or R. 130: Ctrl-C."""
    options = parser().parse_args(argv)
    if options.format == "csv":
        print(",".join(Headroom._fields))
    before, began = list[Headroom](), time.monotonic()
    try:
        page = StatusPage(options.url, max(options.every, 5.0))
        limit = options.limit or _limit_of(options.conf, page.mpm.lower())
        while True:
            t = time.monotonic() - began
            letters = page.read(page.patience)["Scoreboard"]
            before = [one for one in before if one.t >= t - GROWTH_SECONDS]
            found = headroom(t, letters, limit, before)
            before.append(found)
            print(shown(found, options.format), flush=True)
            if found.alarm:
                return ALARM_STATUS
            if options.seconds is not None and t + options.every > options.seconds:
                return 0
            time.sleep(max(0.2, options.every))
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        say(str(error))
        return 1
