"""An `Advice` as text, as JSON, and as one HTML file with its plots."""

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mpmkit.measure.advise import Advice, Case
from mpmkit.measure.command import aligned

HEAD = (
    "MPM", "numbers", "peak busy", "p99", "of", "waited", "p99 wait", "longest", "overflow", "forks", "ends",
    "processes", "memory at peak", "binds first",
)  # fmt: skip
# Directives that a case depends on, in the order of a block.
SHOWN = (
    "StartServers", "MinSpareServers", "MaxSpareServers", "MinSpareThreads", "MaxSpareThreads",
    "ThreadsPerChild", "ServerLimit", "MaxRequestWorkers", "AsyncRequestWorkerFactor", "KeepAliveTimeout",
    "MaxConnectionsPerChild", "ThreadLimit", "ListenBacklog", "KeepAlive", "MaxKeepAliveRequests",
)  # fmt: skip
COLUMNS = 600  # points of a plot, at most
# What is drawn: title -> the values of a case, in its unit.
DRAWN: dict[str, Callable[[Case], Sequence[float]]] = {
    "busy workers": lambda case: case.run.series["busy"],
    "processes": lambda case: case.run.series["processes"],
    "listen queue": lambda case: case.run.series["queue"],
    "memory, MiB": lambda case: [kb / 1024 for kb in case.memory_over_time()],
}


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "gave up"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def rows(advice: Advice) -> list[tuple[str, ...]]:
    """A row of text for each case, below HEAD."""
    found: list[tuple[str, ...]] = [HEAD]
    for case in advice.cases:
        run, d = case.run, case.directives
        low, middle, high = (f"{kb / 1024:,.0f}" for kb in case.memory)
        reach = "" if math.isnan(case.memory[2]) else f" ({low}-{high})"
        first = next(iter(run.binds.items()), None)
        found.append((
            case.mpm, case.kind, f"{run.peak_busy:,}", f"{run.busy_p99:,}",
            f"{d.process_limit * d.ThreadsPerChild:,}", f"{run.waited:.1%}", _seconds(run.wait_quantile(0.99)),
            _seconds(max(run.waits)), f"{run.overflow:,}", f"{run.forks:,}", f"{run.ends:,}",
            f"{run.peak_processes:,}", f"{middle}{reach} MiB{' *' * (not case.cost.measured)}",
            f"{first[0]}, {advice.trace.clock(first[1][0])}, {first[1][1]:,} connections" if first else "-",
        ))  # fmt: skip
    return found


def block(case: Case) -> str:
    """The <IfModule> to paste, each number with its reason."""
    lines = []
    for name in SHOWN:
        if why := case.reasons.get(name):
            lines += [f"    # {why}", f"    {name} {getattr(case.directives, name):g}"]
    return "\n".join([f"<IfModule mpm_{case.mpm}_module>", *lines, "</IfModule>"])


def blocks(advice: Advice) -> list[str]:
    return [block(case) for case in advice.cases if case.kind == "proposed"]


def sources(advice: Advice) -> list[str]:
    """Where memory comes from, and how much there is."""
    found: dict[str, list[str]] = {}
    for case in advice.cases:
        mark = "Memory" if case.cost.measured else "* Memory"
        mpms = found.setdefault(f"{mark} of {{}}: {case.cost.source}.", [])
        mpms += [case.mpm] * (case.mpm not in mpms)
    room = f"Of {advice.ram / (1 << 30):.2f} GiB, {advice.room / (1 << 30):.2f} are for the server."
    return [text.format(", ".join(of)) for text, of in found.items()] + [room] * bool(advice.room)


def text(advice: Advice) -> str:
    """All of it, for a terminal."""
    parts = [f"{len(advice.trace):,} requests in {advice.trace.span / 3600:.2f} h"]
    parts += [f"* {note}" if advice.cases else note for note in advice.notes]
    if advice.cases:
        parts += ["", *aligned(rows(advice), left=(0, 1, len(HEAD) - 1)), "", *sources(advice)]
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
    """An SVG of one of DRAWN over time: the cases of an MPM, as given and as proposed. Of several values that
    fall together the largest is drawn."""
    width, height = 360, 110
    series = {case.kind: DRAWN[title](case) for case in cases}
    high = max(1.0, *map(max, series.values()))
    peaks = ", ".join(f"{kind} {max(values):,.0f} at most" for kind, values in series.items())
    lines = f"<rect width='{width}' height='{height}'/>"
    for kind, values in series.items():
        step = max(1, math.ceil(len(values) / COLUMNS))
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
    """What may be wider than the window scrolls by itself, with the arrow keys, too: it can have the focus."""
    return f"<div class='wide' role='region' aria-label='{label}' tabindex='0'>{inside}</div>"


def _table(advice: Advice) -> str:
    head, *body = (tuple(map(escape, row)) for row in rows(advice))
    made = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    made = f"<table><thead><tr>{made}</tr></thead><tbody>"
    for first, *others in body:
        made += f"<tr><th scope='row'>{first}</th><td>{'</td><td>'.join(others)}</td></tr>"
    return _wide("Under each MPM, as given and as proposed", f"{made}</tbody></table>")


def html(advice: Advice, title: str) -> str:
    """One page with tables, plots (SVG) and blocks, in the reader's colour scheme; it loads nothing."""
    answer = ""
    if advice.cases:
        answer = _table(advice) + "".join(f"<p>{escape(line)}</p>" for line in sources(advice))
        when = f"{advice.trace.clock(0)} to {advice.trace.clock(advice.trace.span)}"
        answer += (
            f"<p><b>{escape(advice.verdict())}</b></p><p>From {when}: "
            "<span class='given'>as given</span>, <span class='proposed'>as proposed</span>.</p>"
        )
    for case in [one for one in advice.cases if one.kind == "proposed"]:
        both = [one for one in advice.cases if one.mpm == case.mpm]
        plots = "".join(plot(both, name) for name in DRAWN)
        answer += f"<h2>{case.mpm}</h2><div class='plots'>{plots}</div>"
        answer += _wide(f"Lines for {case.mpm}", f"<pre>{escape(block(case))}</pre>")
    page = Template(Path(__file__).with_name("advise.html").read_text(encoding="utf-8"))
    notes = "".join(f"<li>{escape(note)}</li>" for note in advice.notes)
    return page.substitute(title=escape(title), notes=notes, answer=answer)
