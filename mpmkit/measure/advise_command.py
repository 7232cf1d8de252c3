"""``mpmkit advise``: your httpd.conf and your access log; which MPM, and which numbers.

mpmkit advise -f /etc/apache2/apache2.conf --log access.log --growth 1.5 --memory 4GiB
mpmkit advise --log access.log.1.gz --log access.log --log-format "combined %D" --html report.html
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from mpmkit.config.arguments import Parser
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, SPECS, Directives
from mpmkit.config.settings import DirectiveError
from mpmkit.config.unsupported import foreign
from mpmkit.measure import advise_report, procfs, records
from mpmkit.measure.access_log import read_conf
from mpmkit.measure.advise import Advice, Cost, advise
from mpmkit.measure.command import say
from mpmkit.measure.experiment import Bar, Progress
from mpmkit.measure.monitor import StatusPage
from mpmkit.measure.parallel import in_processes, in_turn
from mpmkit.measure.sizing import Line, lines
from mpmkit.measure.stats import t_quantile
from mpmkit.measure.trace import Trace

RECORDED = "memory-demo"
OLD_NAMES = ("maxclients", "maxrequestsperchild")
HTTPD = ("apache2", "httpd")
PARALLEL = 20_000  # requests, from which on processes of their own are worth their start


def configured(file: str | None, mpm: str | None) -> tuple[str, Directives | None, list[str]]:
    """(MPM, its directives or None, notes) of an httpd.conf as it is for that MPM, by default its own. Without a
    file httpd's defaults. Of the file only what a trace meets is used. Raises ValueError with file and line."""
    if file is None:
        return mpm or "", check(mpm, ())[0] if mpm else None, []
    conf = read_conf(file, mpm)
    mpm = mpm or conf.mpm
    if mpm is None:
        return "", None, []
    wanted = {name.lower() for name in advise_report.SHOWN} | set(OLD_NAMES)
    for one in conf.settings:  # a module that is not known here may have other names
        known = one.name.lower() in SPECS or foreign(one.name)
        for close in () if known else get_close_matches(one.name.lower(), wanted, 1, 0.85):
            text = f"{one.name} is not a directive: did you mean {SPECS[close].name}?"
            raise DirectiveError.at(one, text)
    settings = [
        one for one in conf.settings
        if one.name.lower() in wanted and mpm in SPECS[one.name.lower()].mpms
    ]  # fmt: skip
    d, notes = check(mpm, settings)
    of_mpm = any(SPECS[one.name.lower()].source == "mpm" for one in settings)
    said = [] if of_mpm else [f"{file} has no numbers for {mpm}: httpd's defaults."]
    return mpm, d, [*said, *(str(note) for note in notes if note.level == "warn")]


def recorded_costs() -> dict[str, Cost]:
    """Lines of the run that the project ships: the real httpd, with few modules and a static page."""
    rows = records.read(records.recorded_folder() / f"{RECORDED}.csv")
    for row in rows:
        if row["against"] == "busy":  # against all workers, also those that idle
            row["held"] = (row["processes"] - 1) * (1 if row["mpm"] == "prefork" else 25)
    found = lines(rows, ("pss_kb", "page_tables_kb"))
    source = f"recorded with a plain httpd ({RECORDED}.csv), your modules and scripts are not in it"
    kept = {"event": found["httpd", "event", "idle"]}
    return {mpm: Cost(found["httpd", mpm, "busy"], source, kept.get(mpm)) for mpm in MPMS}


def running_cost(pid: int, threads: int, kept: Line | None) -> Cost:
    """The line of a running httpd: what its processes share once, and for each worker a child's own pages /
    threads (the interval is that of the children's mean).

    threads: ThreadsPerChild. kept: what a kept connection takes, which is not seen from outside. Raises
    ValueError for a pid that is no parent of httpd's, or whose memory may not be read.
    """
    name, above = _name(pid), (procfs.stat(pid)[1:2] or ["0"])[0]
    if name not in HTTPD:
        what = f"is {name!r}, not httpd" if name else "does not run"
        raise ValueError(f"pid: process {pid} {what}; the PidFile has the right one")
    if _name(above) in HTTPD:
        raise ValueError(f"pid: process {pid} is a child of httpd; give its parent, {above}")
    looks = [(procfs.read_smaps(one), procfs.status_numbers(one)) for one in procfs.children(pid)]
    most = max((said.get("Threads", 1) for _, said in looks), default=0)
    # Without mod_cgid's daemon, which has one thread.
    looks = [(memory, said) for memory, said in looks if 2 * said.get("Threads", 1) > most]
    seen = [(memory, said.get("VmPTE", 0)) for memory, said in looks if memory is not None]
    own = procfs.read_smaps(pid)
    if own is None or not seen:
        why = "and of its children may not be read; run this as root, while it serves"
        raise ValueError(f"pid: the memory of httpd {pid} {why}")
    shared = own.pss + sum(memory.pss - memory.uss for memory, _ in seen)
    each = [(memory.uss + tables) / threads for memory, tables in seen]
    middle, reach = statistics.fmean(each), math.inf
    if len(each) > 1:
        reach = t_quantile(len(each) - 1) * statistics.stdev(each) / math.sqrt(len(each))
    line = Line(shared, middle, middle - reach, middle + reach, len(each), len(each) * threads)
    source = f"measured, {len(each)} children of process {pid} as they are now"
    return Cost(line, source, kept, True)


def _name(pid: int | str) -> str:
    return procfs.text_of(f"/proc/{pid}/comm").strip()


def parser() -> Parser:
    what = "Which MPM, and which numbers, for the requests of an access log."
    made = Parser(prog="mpmkit advise", description=what)
    add, logs = made.add_argument, "access log; several, .gz, or -"
    add("--log", action="append", required=True, metavar="FILE", help=logs)
    add("-f", dest="conf", metavar="FILE", help="httpd.conf (default: httpd's default numbers)")
    add("--log-format", default="", metavar="FORMAT", help='its LogFormat, or "combined %%D"')
    live = made.add_mutually_exclusive_group()
    pid = "of the running httpd: its memory counts"
    live.add_argument("--pid", type=int, metavar="PID", help=pid)
    live.add_argument("--status", metavar="URL", help="of its status page: its MPM counts")
    add("--memory", default=0, metavar="SIZE", help="of the machine, like 4GiB")
    add("--growth", type=float, default=1.0, metavar="N", help="times the connections (default: 1)")
    add("--json", action="store_true", help="print JSON")
    add("--html", metavar="FILE", help="write a page with plots, too")
    return made


def answer(options: argparse.Namespace, bar: Bar) -> Advice:
    """Read everything, and simulate. Raises ValueError, OSError."""
    own = writer = configured(options.conf, None)[0]  # the MPM that writes the log; "": not known
    if options.status is not None:
        page = StatusPage(options.status, 5.0)
        writer = page.mpm.lower() or own
        if own and writer != own:
            raise ValueError(f"{page.page}: runs {writer}, but {options.conf} loads {own}")
    found = [configured(options.conf, mpm) for mpm in MPMS]
    given, costs = {mpm: d for mpm, d, _ in found if d}, recorded_costs()
    if options.pid is not None:
        if not writer:
            raise ValueError("pid: give -f, too, with the LoadModule of its MPM")
        threads, kept = given[writer].ThreadsPerChild, costs[writer].kept
        costs[writer] = running_cost(options.pid, threads, kept)
    trace = Trace.read(options.log, log_format=options.log_format, conf=options.conf)
    say("\n".join(f"left out: {line}" for line in trace.broken))
    advice = advise(
        given, trace, costs, growth=options.growth, ram=options.memory, writer=writer,
        on_progress=lambda share, text: bar(Progress(0, 1, text, share)),
        calls=in_processes if len(trace) * options.growth >= PARALLEL else in_turn,
    )  # fmt: skip
    return replace(advice, notes=(*(note for *_, notes in found for note in notes), *advice.notes))


def main(argv: Sequence[str] | None = None) -> int:
    """0: an answer. 1: a log without durations gives no answer. 2: an argument, a log or a file that
    cannot be used. 130: Ctrl-C."""
    options, bar = parser().parse_args(argv), Bar()
    try:
        advice = answer(options, bar)
        if options.html:
            page = advise_report.html(advice, f"mpmkit advise: {', '.join(options.log)}")
            Path(options.html).write_text(page, encoding="utf-8")
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
    finally:
        bar.close()
    print(json.dumps(advise_report.data(advice)) if options.json else advise_report.text(advice))
    return 0 if advice.cases else 1
