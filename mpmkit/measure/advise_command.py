"""``mpmkit advise``: your httpd.conf and your access log; which MPM, and which numbers.

mpmkit advise -f /etc/apache2/apache2.conf --log access.log --growth 1.5 --memory 4GiB
mpmkit advise --log access.log.1.gz --log access.log --log-format "combined %D" --html report.html
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, SPECS, Directives
from mpmkit.config.settings import DirectiveError
from mpmkit.config.unsupported import foreign
from mpmkit.measure import procfs, records
from mpmkit.measure.access_log import read_conf
from mpmkit.measure.advise import Advice, Case, Cost, advise
from mpmkit.measure.command import aligned, say
from mpmkit.measure.experiment import Bar, Progress
from mpmkit.measure.monitor import StatusPage
from mpmkit.measure.parallel import in_processes, in_turn
from mpmkit.measure.sizing import Line, lines
from mpmkit.measure.stats import t_quantile
from mpmkit.measure.trace import Trace

RECORDED = "memory-demo"
HTTPD = ("apache2", "httpd")
# Directives that a case depends on, in the order of a block.
SHOWN = (
    "StartServers", "MinSpareServers", "MaxSpareServers", "MinSpareThreads", "MaxSpareThreads",
    "ThreadsPerChild", "ServerLimit", "MaxRequestWorkers", "AsyncRequestWorkerFactor", "KeepAliveTimeout",
    "MaxConnectionsPerChild", "ThreadLimit", "ListenBacklog", "KeepAlive", "MaxKeepAliveRequests",
)  # fmt: skip
# What is drawn: title -> the values of a case, in its unit.
DRAWN: dict[str, Callable[[Case], Sequence[float]]] = {
    "busy workers": lambda case: case.run.series["busy"],
    "processes": lambda case: case.run.series["processes"],
    "listen queue": lambda case: case.run.series["queue"],
    "memory, MiB": lambda case: [kb / 1024 for kb in case.memory_over_time()],
}
PARALLEL = 20_000  # requests, from which on processes of their own are worth their start


def configured(file: str | None, mpm: str | None) -> tuple[str, Directives | None, list[str]]:
    """(MPM, its directives or None, notes) of an httpd.conf as it is for that MPM, by default its own. Without a
    file httpd's defaults. Of the file only what a trace meets is used. Raises ValueError with file and line."""
    conf = read_conf(file, mpm) if file is not None else None
    mpm = mpm or (conf.mpm if conf else None)
    if conf is None or not mpm:
        return mpm or "", check(mpm, ())[0] if mpm else None, []
    wanted = {*map(str.lower, SHOWN), "maxclients", "maxrequestsperchild"}
    for one in conf.settings:  # a module that is not known here may have other names
        known = one.name.lower() in SPECS or foreign(one.name)
        for close in () if known else get_close_matches(one.name.lower(), wanted, 1, 0.85):
            text = f"{one.name} is not a directive: did you mean {SPECS[close].name}?"
            raise DirectiveError.at(one, text)
    used = [(one, SPECS[one.name.lower()]) for one in conf.settings if one.name.lower() in wanted]
    used = [(one, spec) for one, spec in used if mpm in spec.mpms]
    d, notes = check(mpm, [one for one, _ in used])
    of_mpm = any(spec.source == "mpm" for _, spec in used)
    said = [f"{file} has no numbers for {mpm}: httpd's defaults."] * (not of_mpm)
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
    threads (the interval is that of the children's mean). threads: ThreadsPerChild. kept: what a kept
    connection takes, which is not seen from outside. Raises ValueError for a pid that is no parent of httpd's,
    or whose memory may not be read."""
    above = (procfs.stat(pid)[1:2] or ["0"])[0]
    name, name_above = (procfs.text_of(f"/proc/{one}/comm").strip() for one in (pid, above))
    if name not in HTTPD:
        what = f"is {name!r}, not httpd" if name else "does not run"
        raise ValueError(f"pid: process {pid} {what}; the PidFile has the right one")
    if name_above in HTTPD:
        raise ValueError(f"pid: process {pid} is a child of httpd; give its parent, {above}")
    own, *looks = map(procfs.read_smaps, (pid, *procfs.children(pid)))
    seen = [one for one in looks if one is not None]
    most = max((one.threads for one in seen), default=0)
    seen = [one for one in seen if 2 * one.threads > most]  # without mod_cgid's daemon
    if own is None or not seen:
        why = "and of its children may not be read; run this as root, while it serves"
        raise ValueError(f"pid: the memory of httpd {pid} {why}")
    shared = own.pss + sum(one.pss - one.uss for one in seen)
    each, count = [(one.uss + one.page_tables) / threads for one in seen], len(seen)
    error = statistics.stdev(each) / math.sqrt(count) if count > 1 else math.inf
    middle, reach = statistics.fmean(each), t_quantile(count - 1) * error
    line = Line(shared, middle, middle - reach, middle + reach, count, count * threads)
    return Cost(line, f"measured, {count} children of process {pid} as they are now", kept, True)


def _seconds(value: float) -> str:
    return "gave up" if math.isinf(value) else f"{value:.{0 if value >= 10 else 2}f} s"


def rows(advice: Advice) -> list[tuple[str, ...]]:
    """Of text: a head, and a row for each case."""
    found: list[dict[str, str]] = []
    for case in advice.cases:
        run, d = case.run, case.directives
        low, middle, high = (f"{kb / 1024:,.0f}" for kb in case.memory)
        reach = "" if math.isnan(case.memory[2]) else f" ({low}-{high})"
        first = next(iter(run.binds.items()), None)
        found.append({
            "MPM": case.mpm, "numbers": case.kind, "peak busy": f"{run.peak_busy:,}", "p99": f"{run.busy_p99:,}",
            "of": f"{d.process_limit * d.ThreadsPerChild:,}", "waited": f"{run.waited:.1%}",
            "p99 wait": _seconds(run.wait_quantile(0.99)), "longest": _seconds(max(run.waits)),
            "overflow": f"{run.overflow:,}", "forks": f"{run.forks:,}", "ends": f"{run.ends:,}",
            "processes": f"{run.peak_processes:,}",
            "memory at peak": f"{middle}{reach} MiB{' *' * (not case.cost.measured)}", "binds first":
            f"{first[0]}, {advice.trace.clock(first[1][0])}, {first[1][1]:,} connections" if first else "-",
        })  # fmt: skip
    return [tuple(found[0]), *(tuple(one.values()) for one in found)]


def block(case: Case) -> str:
    """The <IfModule> to paste, each number with its reason."""
    lines = [f"<IfModule mpm_{case.mpm}_module>"]
    for name in filter(case.reasons.get, SHOWN):
        lines += [f"    # {case.reasons[name]}", f"    {name} {getattr(case.directives, name):g}"]
    return "\n".join([*lines, "</IfModule>"])


def blocks(advice: Advice) -> list[str]:
    return [block(case) for case in advice.cases if case.kind == "proposed"]


def sources(advice: Advice) -> list[str]:
    """Where memory comes from, and how much there is."""
    found: dict[str, list[str]] = {}
    for mpm, cost in {case.mpm: case.cost for case in advice.cases}.items():
        mark = "Memory" if cost.measured else "* Memory"
        found.setdefault(f"{mark} of {{}}: {cost.source}.", []).append(mpm)
    room = f"Of {advice.ram / (1 << 30):.2f} GiB, {advice.room / (1 << 30):.2f} are for the server."
    return [text.format(", ".join(of)) for text, of in found.items()] + [room] * bool(advice.room)


def text(advice: Advice) -> str:
    parts = [f"{len(advice.trace):,} requests in {advice.trace.span / 3600:.2f} h"]
    parts += [f"* {note}" if advice.cases else note for note in advice.notes]
    if advice.cases:
        parts += ["", *aligned(rows(advice), left=(0, 1, 13)), "", *sources(advice)]
        parts += ["", advice.verdict(), *(f"\n{one}" for one in blocks(advice))]
    return "\n".join(parts)


def data(advice: Advice) -> dict[str, Any]:
    """The whole advice for JSON; memory in KiB, times in seconds; null for a missing number."""
    names = ("peak_busy", "busy_p99", "mean_busy", "mean_kept", "waited", "overflow", "lost", "forks", "ends",
             "peak_processes")  # fmt: skip
    cases = [{
        "mpm": case.mpm, "kind": case.kind,
        "directives": {name: getattr(case.directives, name) for name in SHOWN},
        "reasons": dict(case.reasons), **{name: getattr(case.run, name) for name in names},
        "wait": {"p99": _finite(case.run.wait_quantile(0.99)), "longest": _finite(max(case.run.waits))},
        "memory": dict(zip(("low", "expected", "high"), map(_finite, case.memory), strict=True)),
        "memory_measured": case.cost.measured, "memory_source": case.cost.source,
        "binds": {name: {"first": when, "connections": n} for name, (when, n) in case.run.binds.items()},
    } for case in advice.cases]  # fmt: skip
    return {
        "requests": len(advice.trace), "begin": advice.trace.begin, "span": advice.trace.span,
        "growth": advice.growth, "ram": advice.ram, "room": advice.room, "notes": list(advice.notes),
        "cases": cases, "verdict": advice.verdict() if cases else None, "blocks": blocks(advice),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plot(cases: Sequence[Case], title: str) -> str:
    """An SVG of one of DRAWN over time, for some cases. Of values that fall together the largest is drawn."""
    width, height = 360, 110
    series = {case.kind: DRAWN[title](case) for case in cases}
    high = max(1.0, *map(max, series.values()))
    peaks = ", ".join(f"{kind} {max(values):,.0f} at most" for kind, values in series.items())
    lines = f"<rect width='{width}' height='{height}'/>"
    for kind, values in series.items():
        step = max(1, math.ceil(len(values) / 600))  # so many points, at most
        tops = [max(values[i : i + step]) for i in range(0, len(values), step)]
        across, up = width / max(1, len(tops) - 1), height / high
        points = (f"{i * across:.1f},{height - top * up:.1f}" for i, top in enumerate(tops))
        lines += f"<polyline class='{kind}' points='{' '.join(points)}'/>"
    return (
        f"<figure><svg viewBox='-4 -4 {width + 8} {height + 8}' role='img'>"
        f"<title>{title} under {cases[0].mpm}: {peaks}</title>{lines}</svg>"
        f"<figcaption>{title}: {peaks}</figcaption></figure>"
    )


def _wide(label: str, inside: str) -> str:
    """It scrolls by itself where it is wider than the window, with the arrow keys, too: it can have the focus."""
    return f"<div class='wide' role='region' aria-label='{label}' tabindex='0'>{inside}</div>"


def html(advice: Advice, title: str) -> str:
    """One page with tables, plots (SVG) and blocks, in the reader's colour scheme; it loads nothing."""
    answer = ""
    if advice.cases:
        head, *body = ([escape(cell) for cell in row] for row in rows(advice))
        table = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
        table = f"<table><thead><tr>{table}</tr></thead><tbody>"
        for first, *others in body:
            table += f"<tr><th scope='row'>{first}</th><td>{'</td><td>'.join(others)}</td></tr>"
        answer = _wide("Under each MPM, as given and as proposed", f"{table}</tbody></table>")
        answer += "".join(f"<p>{escape(line)}</p>" for line in sources(advice))
        answer += (
            f"<p><b>{escape(advice.verdict())}</b></p><p>From {advice.trace.clock(0)} to "
            f"{advice.trace.clock(advice.trace.span)}: <span class='given'>as given</span>, "
            "<span class='proposed'>as proposed</span>.</p>"
        )
    for given, proposed in zip(advice.cases[::2], advice.cases[1::2], strict=True):
        plots = "".join(plot((given, proposed), name) for name in DRAWN)
        answer += f"<h2>{given.mpm}</h2><div class='plots'>{plots}</div>"
        answer += _wide(f"Lines for {given.mpm}", f"<pre>{escape(block(proposed))}</pre>")
    page = Template(Path(__file__).with_name("advise.html").read_text(encoding="utf-8"))
    notes = "".join(f"<li>{escape(note)}</li>" for note in advice.notes)
    return page.substitute(title=escape(title), notes=notes, answer=answer)


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
    """0: an answer. 1: none, the log has no durations. 2: an argument or file that can't be used. 130: Ctrl-C."""
    options, bar = parser().parse_args(argv), Bar()
    try:
        advice = answer(options, bar)
        if options.html:
            page = html(advice, f"mpmkit advise: {', '.join(options.log)}")
            Path(options.html).write_text(page, encoding="utf-8")
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
    finally:
        bar.close()
    print(json.dumps(data(advice)) if options.json else text(advice))
    return 0 if advice.cases else 1
