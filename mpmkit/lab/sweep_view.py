"""The sweep panel on a page: choose, run, and move along the curves.

    mpmkit.lab.sweep_panel()                                        three MPMs, kept connections
    mpmkit.lab.sweep_panel("event", axis="ThreadsPerChild", low=4, high=64, path="/slow.py")

Measure: Run launches each server of the sweep, and the curves grow point by point. Stop keeps what there
is; the rows are in a CSV file of data/runs. Recorded: such a file, or one that the project ships. In both
the slider below the curves moves the operating point: its figures and its scoreboards are shown at once.
What is chosen is `sweep_form.SweepForm`, what is measured `sweep_run`; here are widgets only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from mpmkit.config.directives import MPMS
from mpmkit.lab import diagram, theme
from mpmkit.lab.cells import panels_of_this_run
from mpmkit.lab.controls import Control
from mpmkit.lab.machine_caveats import not_headline
from mpmkit.lab.plots import alt_text, dress
from mpmkit.lab.replay import why_recorded
from mpmkit.lab.room import write_pages
from mpmkit.lab.sweep_form import AXES, LABELS, SweepForm
from mpmkit.lab.sweep_run import METRICS, SweepGrid, SweepRun
from mpmkit.measure import records
from mpmkit.measure.experiment import duration

if TYPE_CHECKING:
    import plotly.graph_objects as go

MODES = ("Measure", "Recorded")
RANGE = ("low", "high", "steps")


class Page(anywidget.AnyWidget):
    """The panel's style sheet; whether the page is dark; keys stay in the focused control."""

    _esm = Path(__file__).with_name("sweep_page.js")
    _css = Path(__file__).with_name("panel.css")
    dark = traitlets.Bool(False).tag(sync=True)


class SweepPanel(ipywidgets.VBox):
    """The panel. `form` is what is chosen, `grid` what is shown; `run` and `stop` are the buttons."""

    def __init__(self, form: SweepForm, folder: Path) -> None:
        super().__init__()
        self.form, self.folder = form, folder
        self.grid = SweepGrid([])
        self.running: SweepRun | None = None
        self._home = tempfile.mkdtemp(prefix="mpmkit-sweep-")
        self._tidy = weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        write_pages(Path(self._home) / "htdocs")
        self.page = Page()
        self.page.observe(lambda _: self._draw(), "dark")
        self._build()
        self._turned()
        self._mode_chosen()

    # -- widgets ------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.mode = ipywidgets.ToggleButtons(
            options=MODES,
            value=MODES[bool(why_recorded())],
            tooltips=("Run servers", "Open a file"),
        )
        self.mode.observe(self._mode_chosen, "value")
        self.mpms = {mpm: self._box_for(mpm in self.form.mpms, mpm) for mpm in MPMS}
        axes = [(LABELS.get(name, name), name) for name in AXES]
        self.axis = ipywidgets.Dropdown(options=axes, value=self.form.axis, description="sweep")
        self.ratios = self._box_for(self.form.log, "equal ratios")
        metrics = [(text, name) for name, text in METRICS.items()]
        self.metric = ipywidgets.Dropdown(options=metrics, value="wait_p99_ms", description="draw")
        self.files = ipywidgets.Dropdown(description="file")
        self.button = ipywidgets.Button(description="Run", tooltip="Launch each server, measure")
        self.button.on_click(lambda _: self.stop() if self._runs() else self.run())
        self.bar = ipywidgets.FloatProgress(max=1.0)
        self.state, self.hints, self.figures, self.boards = (ipywidgets.HTML() for _ in range(4))
        self.range, self.load = ipywidgets.Box(), ipywidgets.Box()
        self.slider = ipywidgets.SelectionSlider(options=[0], description="at")
        self.plot = ipywidgets.Output()
        for widget in (*self.mpms.values(), self.ratios):
            widget.observe(self._chosen, "value")
        self.axis.observe(self._axis_chosen, "value")
        self.metric.observe(lambda _: self._draw(), "value")
        self.files.observe(self._file_chosen, "value")
        self.slider.observe(lambda _: self._move(), "value")
        self.ask = self._box("mk-ask", self.axis, self.range, self.ratios, self.load)
        room = self._box(
            "mk-sweep", self._box("mk-head", self.mode, *self.mpms.values(), self.metric, self.files,
                                  self.button, self.bar, self.state),
            self.ask, self.hints, self.plot, self.slider, self.figures, self.boards, self.page,
        )  # fmt: skip
        names = {
            "mk-choices": self.mode, "mk-parts": self.load, "mk-range": self.range, "mk-go": self.button,
            "mk-axis": self.axis, "mk-metric": self.metric, "mk-file": self.files, "mk-state": self.state,
            "mk-note": self.hints, "mk-at": self.slider, "mk-figures": self.figures, "mk-boards": self.boards,
        }  # fmt: skip
        for name, widget in names.items():
            widget.add_class(name)
        self.add_class("mk")
        self.children = [room]

    @staticmethod
    def _box_for(on: bool, text: str) -> ipywidgets.Checkbox:
        return ipywidgets.Checkbox(on, description=text, indent=False)

    @staticmethod
    def _box(name: str, *children: Any) -> ipywidgets.Box:
        box = ipywidgets.Box(children)
        box.add_class(name)
        return box

    # -- what is chosen -----------------------------------------------------------------------------

    def _mode_chosen(self, _: Any = None) -> None:
        """Measure shows the form; Recorded the files, and opens the first."""
        measures = self.mode.value == MODES[0]
        for widget in (self.ask, self.button, self.bar, self.hints, self.files):
            shown = measures is not (widget is self.files)
            (widget.remove_class if shown else widget.add_class)("mk-off")
        for widget in self.mpms.values():
            widget.disabled = not measures
        if measures:
            self._say(why_recorded())
            self._show(self.running.rows if self.running else [])
        else:
            self.files.options = found = self._recordings()
            self.files.value = self.files.value or (found[0][1] if found else None)
            self._file_chosen()

    def _recordings(self) -> list[tuple[str, str]]:
        shipped = sorted(records.recorded_folder().glob("sweep-*.csv"))
        own = sorted(self.folder.glob("sweep-panel-*.csv"), reverse=True)
        return [(path.stem.removeprefix("sweep-"), str(path)) for path in (*shipped, *own)]

    def _file_chosen(self, _: Any = None) -> None:
        if self.mode.value == MODES[0] or self.files.value is None:
            return
        try:
            rows = records.read(self.files.value)
            self._show(rows)
            self._say(f"{len(rows)} points, measured on {records.Machine.of(rows[-1])}")
        except (records.RecordError, ValueError, IndexError) as error:
            self._say(str(error))

    def _axis_chosen(self, change: Any) -> None:
        self.form.turn_to(change.new)
        self._turned()
        self.ratios.value = self.form.log

    def _turned(self) -> None:
        """Rows for the numbers of the form, made anew: an axis has a range of its own."""
        rows = self.form.fields()
        self.controls = {row.name: Control(row, self._set) for row in rows}
        self.range.children = [self.controls[name].widget for name in RANGE]
        self.load.children = [
            self.controls[row.name].widget for row in rows if row.name not in RANGE
        ]
        self._check()

    def _set(self, name: str, text: str) -> None:
        try:
            self.form.set(name, text)
        except ValueError as error:
            row = next(row for row in self.form.fields() if row.name == name)
            self.controls[name].show(row._replace(value=text, hints=(str(error),), refused=True))
            return
        self._check()

    def _chosen(self, _: Any = None) -> None:
        self.form.mpms = tuple(mpm for mpm, box in self.mpms.items() if box.value)
        self.form.log = self.ratios.value
        self._check()

    def _check(self) -> None:
        """Show the form, and what httpd would refuse or correct of it."""
        for row in self.form.fields():
            self.controls[row.name].show(row)
        said = self.form.hints()
        try:
            plan = self.form.plan()
            values = ", ".join(f"{value:g}" for value in self.form.values())
            fixed = ", ".join(f"{name} {value}" for name, value in self.form.fixed().items())
            what = f"{values}: {len(plan.points)} points, about {duration(plan.seconds)}"
            said.insert(0, f"{what}; the article's directives, and {fixed} at all of them")
            self.button.disabled = False
        except ValueError as error:
            said, self.button.disabled = [*said, *str(error).splitlines()], not self._runs()
        caveat = [not_headline()] if not_headline() else []
        self.hints.value = "<br>".join(map(escape, [*dict.fromkeys(said), *caveat]))

    # -- running ------------------------------------------------------------------------------------

    def _runs(self) -> bool:
        return self.running is not None and self.running.running

    def run(self) -> None:
        """Start the sweep of the form. Raises ValueError if the form has no sweep."""
        self.folder.mkdir(parents=True, exist_ok=True)
        out = self.folder / f"sweep-panel-{records.new_run_id()}.csv"
        self.running = SweepRun(self.form, out, Path(self._home) / "htdocs", self._progress)
        self._progress(self.running)

    def stop(self) -> None:
        """End a sweep; its finished points stay, on the page and in the file."""
        if self.running is not None:
            self.running.stop()

    def close(self) -> None:
        """Stop, and take the widgets from the page."""
        self.stop()
        self._tidy()
        super().close()

    def _progress(self, run: SweepRun) -> None:
        self.button.description = "Stop" if run.running else "Run"
        self.bar.value = run.progress.share if run.progress else 0.0
        self._say(run.text)
        if self.mode.value == MODES[0] and len(run.rows) != self._shown:
            self._show(run.rows)

    def _say(self, text: str) -> None:
        self.state.value = escape(text)

    # -- what is seen -------------------------------------------------------------------------------

    def _show(self, rows: list[records.Row]) -> None:
        """Draw these rows; the operating point stays where it was, or is the last one."""
        self.grid, self._shown = SweepGrid(rows), len(rows)
        values = self.grid.values
        before = self.slider.value
        self.slider.options = [(f"{value:g}", value) for value in values] or [0]
        self.slider.value = before if before in values else (values or [0])[-1]
        self._move()

    def _draw(self) -> None:
        """The curves of the chosen figure, an MPM a line, with the operating points on them. It is set as
        the Output's value: that can be done in any thread."""
        figure = self.figure()
        shown = json.loads(figure.to_json()) | {
            "config": {"responsive": True, "displayModeBar": False}
        }
        data = {"application/vnd.plotly.v1+json": shown, "text/plain": alt_text(figure)}
        self.plot.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    def figure(self) -> go.Figure:
        """What the panel draws now, as a plotly figure of its own."""
        import plotly.graph_objects as go

        grid, metric, tone = self.grid, self.metric.value, theme.THEMES[self.page.dark]
        label, axis = METRICS[metric], LABELS.get(grid.axis, grid.axis or self.form.label)
        ring = {
            "size": 19,
            "symbol": "circle-open",
            "line": {"width": 3},
            "color": theme.INK[self.page.dark],
        }
        traces, said, bounds = [], [], False
        for mpm in grid.mpms:
            points = grid.line(mpm, metric)
            bounds |= any(bound for *_, bound in points)
            sign = theme.MARKERS[mpm]
            traces.append(go.Scatter(
                x=[x for x, *_ in points], y=[y for _, y, _ in points], name=mpm, mode="lines+markers",
                line={"color": theme.stroke(mpm, tone), "dash": theme.DASHES[mpm], "width": 2.5},
                marker={"size": 9, "symbol": [sign + "-open" * bound for *_, bound in points]},
            ))  # fmt: skip
            here = [one for one in points if one[0] == self.slider.value]
            traces.append(go.Scatter(x=[x for x, *_ in here], y=[y for _, y, _ in here], mode="markers",
                                     marker=ring, showlegend=False, hoverinfo="skip"))  # fmt: skip
            said.append(f"{mpm}: " + ", ".join(f"{y:,.4g} at {x:g}" for x, y, _ in points))
        figure = go.Figure(traces)
        hollow = "<br><sup>hollow: a bound, the true figure lies beyond</sup>" if bounds else ""
        dress(
            figure,
            f"{label} against {axis}{hollow}",
            tone,
            alt=f"{label} against {axis}. {'; '.join(said)}.",
            width=None,
            height=340,
            autosize=True,
            showlegend=True,
            margin={"l": 70, "r": 20, "t": 60, "b": 50},
        )
        figure.update_xaxes(title_text=axis)
        figure.update_yaxes(title_text=label, type="log" if metric.startswith("wait") else "linear")
        return figure

    def _move(self) -> None:
        """The operating point: rings on the curves, its figures, its scoreboards."""
        value, grid = self.slider.value, self.grid
        self._draw()
        described = {mpm: grid.describe(mpm, value) for mpm in grid.mpms}
        heads = list(dict.fromkeys(name for one in described.values() for name in one))
        lines = ["<tr><th>" + "".join(f"<th>{escape(head)}" for head in heads)] if heads else []
        lines += [
            f"<tr><th>{mpm}" + "".join(f"<td>{one.get(head, '')}" for head in heads)
            for mpm, one in described.items()
        ]
        self.figures.value = f"<table>{''.join(lines)}</table>"
        boards = [board for mpm in grid.mpms if (board := grid.board(mpm, value)) is not None]
        tone = theme.THEMES[self.page.dark]
        self.boards.value = "".join(diagram.scoreboard(one, theme=tone).text for one in boards)


def sweep_panel(
    *mpms: str, folder: str | os.PathLike[str] = "data/runs", **choices: Any
) -> SweepPanel:
    """A panel that sweeps one directive, or one field of the load, under one to three MPMs.

    folder     where the rows of a sweep are kept, a CSV file each
    choices    fields of `sweep_form.SweepForm` to begin with (axis="KeepAliveTimeout", low=1, high=15,
               steps=5, users=40, path="/slow.py", seconds=2 …); others are directives for all points

    Returns the widget. Run the cell again, and a sweep of its last run is stopped. Raises DirectiveError
    for an MPM that does not exist, ValueError for an axis that cannot be swept.
    """
    known = {
        name: choices.pop(name) for name in list(choices) if name in SweepForm.__dataclass_fields__
    }
    form = SweepForm(mpms or MPMS, **known, directives=choices)
    if "axis" in known and not known.keys() & {"low", "high"}:
        form.turn_to(form.axis)
    panels = panels_of_this_run()
    panels.append(SweepPanel(form, Path(folder)))
    return panels[-1]
