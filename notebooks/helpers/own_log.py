"""An access log under each MPM: the log that the project ships or the reader's, and what sliders redraw.

The shipped log is a real httpd's. To record it again, in three minutes:

    cd notebooks && python -m helpers.own_log
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterable, Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import ipywidgets
import pandas
import plotly.graph_objects as go
from helpers.lesson import Still
from plotly.subplots import make_subplots

import mpmkit
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, DirectiveError
from mpmkit.config.keywords import from_keywords
from mpmkit.lab import replay
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress
from mpmkit.measure import advise_command
from mpmkit.measure.advise import Advice, advise, grown
from mpmkit.measure.published import DIRECTIVES
from mpmkit.measure.reference_servers import Httpd
from mpmkit.policy.trace_run import TraceRun

LOG = "11-access.log.gz"
FORMAT = '%h %{remote}p %u %t "%r" %>s %b %D %X %k %{usec}t'
SCRIPT = "#!/bin/sh\nsleep 0.3\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslept'\n"
# Browsers that read for three seconds between two pages; a link from a popular page brings the crowd.
BROWSERS: dict[str, Any] = {
    "keep_alive": True, "requests_per_connection": 8, "think_time": 3.0, "think": "exponential", "seed": 11,
    "mix": ({"path": "/index.html", "weight": 4}, {"path": "/slow.cgi"}),
    "stages": ({"seconds": 80, "users": 60}, {"seconds": 20, "users": 320}, {"seconds": 80, "users": 60}),
}  # fmt: skip
WIDE: dict[str, Any] = {"style": {"description_width": "12em"}, "layout": {"width": "40em"}}


def record() -> Path:
    """Run the real httpd under event, and browsers; keep its access log. Returns the path."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        os.chmod(name, 0o755)
        Path(name, "index.html").write_text("<!doctype html><title>A page</title>\n" + "x" * 2000)
        Path(name, "slow.cgi").write_text(SCRIPT)
        Path(name, "slow.cgi").chmod(0o755)
        quoted = FORMAT.replace('"', r"\"")
        extra = f'LogFormat "{quoted}" trace\nCustomLog "trace_log" trace\n'
        with Httpd("event", document_root=name, cgi=True, access_log=False, extra=extra) as httpd:
            mpmkit.run_load(httpd.url, **BROWSERS)
            log = (httpd.root / "trace_log").read_bytes()
    place = replay.place_of(LOG)
    place.write_bytes(gzip.compress(log, mtime=0))
    return place


# -- which log -------------------------------------------------------------------------------------------


class Chooser(Still):
    """The shipped log, until the reader uploads one or names a path. `trace` is what was read last."""

    def __init__(self) -> None:
        self.trace = mpmkit.Trace.read(replay.place_of(LOG), log_format=FORMAT)
        self._upload = ipywidgets.FileUpload(description="upload a log", multiple=False)
        self._path = ipywidgets.Text(placeholder="or its path, .gz too", description="path", **WIDE)
        self._format = ipywidgets.Text(
            placeholder='combined %D (empty: the first line decides)', description="LogFormat", **WIDE
        )  # fmt: skip
        button = ipywidgets.Button(description="Read it", button_style="primary")
        button.on_click(self._read)
        self._said = ipywidgets.HTML()
        text = (
            "<p>The shipped log is shown. In JupyterLab: upload another one, or give its path.</p>"
        )
        super().__init__(text, self._upload, self._path, self._format, button, self._said)
        self._say()

    def _read(self, _: Any) -> None:
        try:
            log: Any = self._path.value.strip()
            if self._upload.value:
                log = BytesIO(bytes(self._upload.value[0]["content"]))
            if log:
                self.trace = mpmkit.Trace.read(
                    log, log_format=self._format.value.strip()
                ).complete()
            self._say()
        except (ValueError, OSError) as error:
            self._said.value = f"<p role='alert'>{escape(str(error))}</p>"

    def _say(self) -> None:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.trace.notes)
        what = f"{len(self.trace):,} requests in {self.trace.span / 60:.0f} minutes"
        self._said.value = f"<p>{what}. Now run the cells below.</p><ul>{notes}</ul>"


# -- what it met -----------------------------------------------------------------------------------------


def advice(trace: mpmkit.Trace, growth: float = 1.0, ram: str = "4GiB") -> Advice:
    """What `mpmkit advise` says of it, for the article's directives; event wrote the shipped log."""
    given = {mpm: check(mpm, from_keywords(mpm, **DIRECTIVES[mpm]))[0] for mpm in MPMS}
    return advise(
        given, trace, advise_command.recorded_costs(), growth=growth, ram=ram, writer="event"
    )


def table(found: Advice) -> pandas.DataFrame:
    """Its cases as a table, without the directive that binds."""
    head, *body = advise_command.rows(found)
    return (
        pandas.DataFrame(body, columns=head)
        .set_index(["MPM", "numbers"])
        .drop(columns="binds first")
        .map(lambda text: text.replace(" ", "\u00a0"))  # a number and its unit stay in one line
    )


def first_bound(found: Advice, kind: str = "given") -> Iterable[str]:
    """A sentence for each MPM: which directive let clients wait first, when."""
    for case in found.cases:
        if case.kind == kind:
            bound = next(iter(case.run.binds.items()), None)
            yield f"{case.mpm:>7}: " + (
                f"{bound[0]} let the first client wait after {bound[1][0]:.0f} s, {bound[1][1]:,} in all"
                if bound else "no client had to wait for a worker"
            )  # fmt: skip


def runs(trace: mpmkit.Trace, growth: float = 1.0, **more: Any) -> dict[str, TraceRun]:
    """MPM -> what the trace met under the article's directives with some changed. Raises DirectiveError."""
    load = grown(trace, growth)
    return {mpm: mpmkit.simulate(mpm, trace=load, **DIRECTIVES[mpm] | more) for mpm in MPMS}


def figure(found: Mapping[str, TraceRun]) -> go.Figure:
    """Busy workers over time, a panel an MPM, with the limit; what waited for one is filled above it."""
    drawn = make_subplots(cols=len(found), subplot_titles=list(found), shared_yaxes=True)
    said = []
    for place, (mpm, run) in enumerate(found.items(), 1):
        limit = run.directives.process_limit * run.directives.ThreadsPerChild
        t, busy, queue = (list(run.series[name]) for name in ("t", "busy", "queue"))
        look = {"color": colours.stroke(mpm), "width": 2}
        drawn.add_scatter(x=t, y=busy, mode="lines", line=look, showlegend=False, row=1, col=place,
                          hovertemplate="%{y:.0f} busy<extra></extra>")  # fmt: skip
        drawn.add_scatter(x=t, y=[a + b for a, b in zip(busy, queue, strict=True)], mode="lines",
                          line={**look, "width": 0.5}, fill="tonexty", showlegend=False, row=1, col=place,
                          hovertemplate="%{y:.0f} busy or waiting<extra></extra>")  # fmt: skip
        drawn.add_hline(
            y=limit, line={"color": colours.ink(), "width": 1, "dash": "dot"}, col=place
        )
        waited = f"{run.waited:.1%} waited, p99 {run.wait_quantile(0.99):.2f} s"
        drawn.layout.annotations[place - 1].text = f"{mpm}<br><sup>{waited}</sup>"
        said.append(f"{mpm}: at most {run.peak_busy} of {limit} workers busy, {waited}")
    dress(
        drawn,
        "Busy workers, and filled above them who waits for one<br><sup>dotted: MaxRequestWorkers</sup>",
        alt="Busy workers over time. " + "; ".join(said) + ".",
        height=400,
        margin={"t": 125},
    )
    drawn.update_xaxes(title_text="seconds")
    drawn.update_yaxes(title_text="workers", rangemode="tozero", col=1)
    return drawn


def explore(chooser: Chooser) -> Any:
    """Sliders for growth, KeepAliveTimeout and MaxRequestWorkers; the figure follows them."""
    growth = ipywidgets.FloatSlider(1.0, min=0.5, max=4, step=0.25, description="growth", **WIDE)
    keep = ipywidgets.IntSlider(5, min=1, max=30, description="KeepAliveTimeout, s", **WIDE)
    workers = ipywidgets.IntSlider(
        250, min=25, max=400, step=25, description="MaxRequestWorkers", **WIDE
    )
    drawn, said = go.FigureWidget(figure(runs(chooser.trace))), ipywidgets.HTML()

    def show(_: Any) -> None:
        changed = {"KeepAliveTimeout": keep.value, "MaxRequestWorkers": workers.value}
        try:
            new = figure(runs(chooser.trace, growth.value, **changed))
        except DirectiveError as error:
            said.value = f"<p role='alert'>{escape(str(error))}</p>"
            return
        said.value = ""
        with drawn.batch_update():
            for old, line in zip(drawn.data, new.data, strict=True):
                old.update(x=line.x, y=line.y)
            drawn.layout.annotations, drawn.layout.shapes = (
                new.layout.annotations,
                new.layout.shapes,
            )

    for slider in (growth, keep, workers):
        slider.continuous_update = False
        slider.observe(show, "value")
    still = "<p>In JupyterLab, three sliders (growth, KeepAliveTimeout, MaxRequestWorkers) redraw the figure.</p>"
    return Still(still, growth, keep, workers, said, drawn)


if __name__ == "__main__":
    print(record())
