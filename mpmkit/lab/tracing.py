"""The tracer: what a recorded run did with each connection, step by step, on a canvas.

    lab.tracer()                        ten clients under each MPM, as recorded
    lab.tracer(server.trace_log())      a run of your own: launch(..., trace=True)

A run is drawn by tracer.js from the steps of policy/connection_trace.py alone, without a kernel, so the
same file is on a static page (`embedded`). With each step goes the line of mpm/*.py that did it. A recording
keeps the line's text and function, so that a line that has moved since is found.
"""

import ast
import json
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mpmkit.lab import theme
from mpmkit.lab.replay import recorded
from mpmkit.policy.connection_trace import ConnectionTrace

_MODELS = Path(__file__).parent.parent / "mpm"
_HERE = Path(__file__).parent


class Tracer(anywidget.AnyWidget):
    """Runs side by side, played together. `runs` are what `shown` makes."""

    _esm = _HERE / "tracer.js"
    _css = _HERE / "tracer.css"

    runs: Any = traitlets.List().tag(sync=True)
    palette = traitlets.Dict().tag(sync=True)


def tracer(*runs: str | ConnectionTrace | dict[str, Any]) -> Tracer:
    """An animation of recorded runs to step through, side by side.

    runs    each the text of a TraceLog (`server.trace_log()`), a `ConnectionTrace` or a recorded one
            (`recordable`); none: the project's own, ten clients under each MPM

    Raises ValueError for what is no trace, RecordError if the project's own recording is missing.
    """
    return Tracer(runs=shown(*runs), palette=theme.palette())


def shown(*runs: str | ConnectionTrace | dict[str, Any]) -> list[dict[str, Any]]:
    """The runs as tracer.js draws them."""
    found = []
    for run in runs or recorded("tracer"):
        trace = ConnectionTrace.read(run) if isinstance(run, str) else run
        if isinstance(trace, ConnectionTrace):
            trace = recordable(trace, next((step.ns for step in trace.steps if step.conn), 0))
        try:
            found.append(trace | {"lines": [_found(line) for line in trace["lines"]]})
        except (KeyError, TypeError, ValueError) as error:
            text = f"this is no recorded trace: {error!r}; `recordable` makes one"
            raise ValueError(text) from None
    return found


def recordable(trace: ConnectionTrace, began: int) -> dict[str, Any]:
    """A trace as plain values: microseconds since `began` (ns); its lines, as they can be found again later."""
    lines = sorted({step.line for step in trace.steps})
    steps = [[(s.ns - began) // 1000, *s[1:-1], lines.index(s.line)] for s in trace.steps]
    own = {"mpm": trace.mpm, "threads": trace.threads, "clients": list(trace.clients)}
    return own | {"lines": [_anchor(line) for line in lines], "steps": steps}


def embedded(runs: Iterable[dict[str, Any]] | None = None, *, name: str = "mpmkit-tracer") -> str:
    """HTML for any page: an element with the id `name`, the style, the script and the runs (default: the
    project's own; else what `shown` makes). It needs no kernel, no network and no other file."""
    data = {"runs": shown() if runs is None else list(runs), "palette": theme.palette()}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script, style = ((_HERE / f"tracer.{kind}").read_text() for kind in ("js", "css"))
    call = f"mount(document.getElementById({json.dumps(name)}), {text});"
    place = f"<style>\n{style}</style>\n<div id='{name}'></div>\n"
    return f"{place}<script type='module'>\n{script}\n{call}\n</script>\n"


@cache
def _source(file: str) -> tuple[list[str], list[tuple[int, int, str]]]:
    """The lines of a file of mpm/, and (first line, last line, name) of each function."""
    text = (_MODELS / file).read_text(encoding="utf-8")
    nodes = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef)]
    places = [(one.lineno, one.end_lineno or 0, one.name) for one in nodes]
    return [line.strip() for line in text.splitlines()], places


def _anchor(line: str) -> list[Any]:
    """`event.py:170` as [file, function, text, how often the text came before in it]."""
    if line == "-":
        return []
    file, _, number = line.partition(":")
    at, (texts, functions) = int(number), _source(file)
    first, name = max((low, name) for low, high, name in functions if low <= at <= high)
    return [file, name, texts[at - 1], texts[first - 1 : at - 1].count(texts[at - 1])]


def _found(anchor: list[Any]) -> list[str]:
    """[`mpm/event.py:170`, its text], as the file is today; ["", ""] for a step of the control process."""
    if not anchor:
        return ["", ""]
    file, function, text, before = anchor
    texts, functions = _source(file)
    places = (range(low, high + 1) for low, high, name in functions if name == function)
    same = [n for n in chain.from_iterable(places) if texts[n - 1] == text]
    where = f"mpm/{file}:{same[before]}" if before < len(same) else f"mpm/{file}, as it was"
    return [where, text]
