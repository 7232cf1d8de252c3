"""The sweep panel on a page: choose, run, and move along the curves. Its model is `mpmkit.lab.sweep`.

    mpmkit.lab.sweep_panel("event", axis="ThreadsPerChild", low=4, high=64, path="/slow.py")

Measure: Run launches each server of the sweep, and the curves grow point by point. Stop keeps what there
is; the rows are in a CSV file of data/runs. Recorded: such a file, or one that the project ships. In both
the slider below the curves moves the operating point: its figures and its scoreboards are shown at once.
"""

import json
import os
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import pandas
import plotly.graph_objects as go
import traitlets

from mpmkit.config.directives import MPMS
from mpmkit.lab import diagram, sweep, theme
from mpmkit.lab.controls import Control, Frame, box, button, mark, named, text
from mpmkit.lab.plots import alt_text, dress, mpm_line
from mpmkit.lab.replay import not_headline, why_recorded
from mpmkit.lab.room import Home
from mpmkit.lab.sweep import SweepForm, SweepGrid, SweepRun, number
from mpmkit.measure import records
from mpmkit.measure.experiment import duration

MEASURE, RECORDED = "Measure", "Recorded"
NOTHING = "Nothing can be measured: the values in question are marked above"


class Page(anywidget.AnyWidget):
    """The panel's style sheet; whether the page is dark; keys stay in the focused control."""

    _esm = Path(__file__).with_name("sweep_page.js")
    _css = Path(__file__).with_name("panel.css")
    dark = traitlets.Bool(False).tag(sync=True)


class SweepPanel(Frame):
    """The panel. `form` is what is chosen, `grid` what is shown; `run` and `stop` are the buttons."""

    def __init__(self, form: SweepForm, folder: Path) -> None:
        super().__init__()
        self.form, self.folder = form, folder
        self.running: SweepRun | None = None
        self._home = Home(self)
        self._build()
        self._show([])
        self._axis_chosen()
        self._mode_chosen()

    def _build(self) -> None:
        self.page = Page()
        self.mode = named("choices", ipywidgets.ToggleButtons(options=(MEASURE, RECORDED)))
        self.mode.value = RECORDED if why_recorded() else MEASURE
        self.mpms = {
            mpm: ipywidgets.Checkbox(mpm in self.form.mpms, description=mpm, indent=False)
            for mpm in MPMS
        }
        axes = [(sweep.LABELS.get(name, name), name) for name in sweep.AXES]
        self.axis = _choice("axis", "sweep", axes, self.form.axis)
        metrics = [(label, name) for name, label in sweep.METRICS.items()]
        self.metric = _choice("metric", "draw", metrics, "wait_p99_ms")
        self.files = _choice("file", "file", [], None)
        self.button = button(
            "go", "Run", lambda: self.stop() if self._runs() else self.run(), "Launch and measure"
        )
        self.bar = ipywidgets.FloatProgress(max=1.0)
        names = ("state", "note", "figures", "boards")
        self.state, self.hints, self.figures, self.boards = map(text, names)
        self.range, self.load = box("range"), box("parts")
        self.slider = named("at", ipywidgets.SelectionSlider(options=[-1], description="at"))
        self.plot = ipywidgets.Output()
        for widget, act in (
            (self.page, self._move), (self.mode, self._mode_chosen), (self.axis, self._axis_chosen),
            (self.metric, self._move), (self.files, self._file_chosen), (self.slider, self._move),
            *((one, self._chosen) for one in self.mpms.values()),
        ):  # fmt: skip
            widget.observe(lambda _, act=act: act(), "dark" if widget is self.page else "value")
        asked = (self.mode, *self.mpms.values(), self.metric, self.files)
        head = box("head", *asked, self.button, self.bar, self.state)
        self.ask = box("ask", self.axis, self.range, self.load)
        self.seen = (self.plot, self.slider, self.figures, self.boards)
        self.children = [box("sweep", head, self.ask, self.hints, *self.seen, self.page)]

    def _mode_chosen(self) -> None:
        """Measure shows the form; Recorded the files, and opens the first."""
        measures = self.mode.value == MEASURE
        for widget in (*self.mpms.values(), self.ask, self.button, self.bar, self.hints):
            mark(widget, "off", not measures)
        mark(self.files, "off", measures)
        if measures:
            self.state.value = escape(why_recorded())
            self._show(self.running.rows if self.running else [])
            return
        shipped = sorted(records.recorded_folder().glob("sweep-*.csv"))
        own = sorted(self.folder.glob("sweep-panel-*.csv"), reverse=True)
        files = [(path.stem.removeprefix("sweep-"), str(path)) for path in (*shipped, *own)]
        self.files.options = files
        self.files.value = self.files.value or (files[0][1] if files else None)
        self._file_chosen()

    def _file_chosen(self) -> None:
        if self.mode.value == MEASURE or self.files.value is None:
            return
        try:
            rows = records.read(self.files.value)
            self._show(rows)
            said = f"{len(rows)} points, measured on {records.Machine.of(rows[-1])}"
        except (records.RecordError, ValueError, IndexError) as error:
            said = str(error)
        self.state.value = escape(said)

    def _axis_chosen(self) -> None:
        """Rows for the numbers of the form, made again: each axis has its own range."""
        self.form.turn_to(self.axis.value)
        self.controls = {row.name: Control(row, self._set) for row in self.form.fields()}
        widgets = [control.widget for control in self.controls.values()]
        ends = len(sweep.RANGE)
        self.range.children, self.load.children = widgets[:ends], widgets[ends:]
        self._check()

    def _set(self, name: str, word: str) -> None:
        self.form.put(name, word)
        self._check()

    def _chosen(self) -> None:
        self.form.mpms = [mpm for mpm, on in self.mpms.items() if on.value]
        self._check()

    def _check(self) -> None:
        """Show the form, at each field what is refused or left out of it, and what a run would measure."""
        form, rows, plan = self.form, self.form.fields(), None
        for row in rows:
            self.controls[row.name].show(row)
        said = [f"{mpm} has no {form.axis}" for mpm in form.mpms if mpm not in form.taking()]
        try:
            plan = form.plan()
            values = ", ".join(f"{value:g}" for value in form.measured())
            fixed = ", ".join(f"{name} {value}" for name, value in form.fixed().items())
            takes = duration(sum(cell.seconds for cell in plan.cells))
            what = f"{values}: {len(plan.cells)} points, about {takes}"
            said.insert(0, f"{what}; the article's directives, and {fixed} at all of them")
        except ValueError as error:
            said.append(NOTHING if any(row.hints for row in rows) else str(error))
        self.button.disabled = plan is None and not self._runs()
        self.hints.value = "<br>".join(map(escape, filter(None, [*said, not_headline()])))

    def _runs(self) -> bool:
        return self.running is not None and self.running.running

    def run(self) -> None:
        """Start the sweep of the form. Raises ValueError if the form has no sweep."""
        self.folder.mkdir(parents=True, exist_ok=True)
        out = self.folder / f"sweep-panel-{records.new_run_id()}.csv"
        self.running = SweepRun(self.form, out, self._home.pages, self._progress)
        self._progress(self.running)

    def stop(self) -> None:
        """End a sweep; its finished points stay, on the page and in the file."""
        if self.running is not None:
            self.running.stop()

    def close(self) -> None:
        """Stop, and take the widgets from the page."""
        self.stop()
        self._home.remove()
        super().close()

    def _progress(self, run: SweepRun) -> None:
        self.button.description = "Stop" if run.running else "Run"
        self.bar.value = run.progress.share if run.progress else 0.0
        self.state.value = escape(run.text)
        if self.mode.value == MEASURE and len(run.rows) != self._shown:
            self._show(run.rows)

    def _show(self, rows: list[records.Row]) -> None:
        """Draw these rows; the operating point stays where it was, or is the last one."""
        self.grid, self._shown = SweepGrid(rows), len(rows)
        for widget in self.seen:
            mark(widget, "off", not rows)
        values = self.grid.values or [-1]
        before = self.slider.value
        self.slider.options = [(f"{value:g}", value) for value in values]
        self.slider.value = before if before in values else values[-1]
        self._move()

    def _move(self) -> None:
        """Draw the curves, figures and scoreboards. An Output's value can be set in any thread."""
        value, grid, figure = self.slider.value, self.grid, self.figure()
        shown = json.loads(figure.to_json())
        shown["config"] = {"responsive": True, "displayModeBar": False}
        data = {"application/vnd.plotly.v1+json": shown, "text/plain": alt_text(figure)}
        self.plot.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
        described = {mpm: grid.describe(mpm, value) for mpm in grid.mpms}
        table = pandas.DataFrame.from_dict(described, orient="index")
        self.figures.value = table.to_html(na_rep="", border=0)
        boards = [board for mpm in grid.mpms if (board := grid.board(mpm, value)) is not None]
        tone = theme.THEMES[self.page.dark]
        self.boards.value = "".join(diagram.scoreboard(one, theme=tone).text for one in boards)

    def figure(self) -> go.Figure:
        """The chosen figure's curves in plotly: an MPM a line, a ring on each at the operating point."""
        grid, metric, tone = self.grid, self.metric.value, theme.THEMES[self.page.dark]
        label, axis = sweep.METRICS[metric], grid.axis or self.form.axis
        axis = sweep.LABELS.get(axis, axis)
        ring = {"size": 19, "symbol": "circle-open", "line": {"width": 3}, "color": theme.ink(tone)}
        figure, said, bounds = go.Figure(), [], False
        for mpm in grid.mpms:
            points = grid.line(mpm, metric)
            xs, ys, hollow = zip(*points, strict=True) if points else ((), (), ())
            bounds |= any(hollow)
            figure.add_trace(mpm_line(mpm, xs, ys, theme=tone, hollow=hollow, showlegend=True))
            at = [(x, y) for x, y, _ in points if x == self.slider.value]
            here = {"x": [x for x, _ in at], "y": [y for _, y in at], "marker": ring}
            figure.add_scatter(mode="markers", showlegend=False, hoverinfo="skip", **here)
            said.append(f"{mpm}: " + ", ".join(f"{number(y)} at {x:g}" for x, y, _ in points))
        bound = "<br><sup>hollow: a bound, the true figure lies beyond</sup>" * bounds
        dress(
            figure, label + bound, alt=f"{label} against {axis}. {'; '.join(said)}.", theme=tone, height=340,
            showlegend=True, margin={"l": 50, "r": 20, "t": 60, "b": 50},
        )  # fmt: skip
        scale = "log" if metric.startswith("wait") else "linear"
        return figure.update_xaxes(title_text=axis).update_yaxes(type=scale, rangemode="tozero")


def _choice(name: str, label: str, options: Any, value: Any) -> ipywidgets.Dropdown:
    return named(name, ipywidgets.Dropdown(options=options, value=value, description=label))


def sweep_panel(
    *mpms: str, folder: str | os.PathLike[str] = "data/runs", **choices: Any
) -> SweepPanel:
    """A panel that sweeps one directive, or one field of the load, under one to three MPMs.

    folder     where the rows of a sweep are kept, a CSV file each
    choices    fields of `sweep.SweepForm` to begin with (axis="KeepAliveTimeout", low=1, high=15,
               steps=5, users=40, path="/slow.py", seconds=2 …); others are directives for all points

    Returns the widget. Run the cell again, and a sweep of its last run is stopped. Raises DirectiveError
    for an MPM that does not exist, ValueError for an axis that cannot be swept.
    """
    known = {name: choices.pop(name) for name in list(choices) if name in sweep.NAMES}
    return SweepPanel(SweepForm(mpms or MPMS, **known, directives=choices), Path(folder))
