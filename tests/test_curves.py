"""Figures and tables of memory and sweeps: they draw the rows, label directly, say what they can't."""

from __future__ import annotations

import math
import statistics

import pytest
from helpers import memory_plots, sweep_plots
from support.experiments import memory_rows, recorded_row

from mpmkit.lab import figures, tables, theme
from mpmkit.measure import records
from mpmkit.measure.sweep import SweepTable


@pytest.fixture
def frame():
    return records.frame(
        [
            *memory_rows("prefork", cost=1000),
            *memory_rows("event", cost=100),
            *memory_rows("event", "idle", cost=3),
            *memory_rows("event", cost=50, server="httpd"),
            *memory_rows(None, "idle", cost=2, server="uvicorn"),
        ],
        "memory",
    )


def table(**values) -> SweepTable:
    """Rates by (MPM, ThreadsPerChild, users); 0 requests/s for a rate below 0 is generator-bound."""
    made = []
    for mpm in ("worker", "event"):
        for threads in (5, 25):
            for users, rate in ((10, 1000.0), (20, 2000.0), (40, 2100.0), (80, 2150.0)):
                answered = {"requests": round(rate * 2), "failures": 0, "errors": "{}"}
                load = {"qps": rate, "duration_s": 2.0, "generator_bound": users == 80}
                point = f'{{"ThreadsPerChild": {threads}, "users": {users}}}'
                where = {"mpm": mpm, "users": users, "point": point, "generator_starved": False}
                made.append(recorded_row("sweep", **where, **answered, **load, **values))
    return SweepTable(made, ("ThreadsPerChild", "users"))


def test_a_curve_goes_through_the_levels(frame):
    figure = memory_plots.memory_curve(frame)
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert list(drawn) == ["prefork", "event", "httpd event"]
    assert drawn["event"][0] == [0, 50, 100, 200]
    assert drawn["event"][1] == [
        pytest.approx((20_000 + 100 * n) / 1024) for n in (0, 50, 100, 200)
    ]
    labels = [note.text for note in figure.layout.annotations]
    assert " prefork, 1,000 KiB each" in labels and " httpd event, 50.0 KiB each" in labels
    assert figure.data[0].line.color == theme.LIGHT["prefork"]
    assert figure.data[2].line.color == theme.OTHERS["httpd"]
    assert figure.layout.yaxis.title.text == "MiB"
    assert "prefork: 20 MiB at 0, 215 at 200, 1,000 KiB each" in figures.alt_text(figure)
    idle = memory_plots.memory_curve(frame, "idle", theme="dark")
    assert [trace.name for trace in idle.data] == ["event", "uvicorn"]
    assert "idle connection costs" in idle.layout.title.text


def test_labels_do_not_lie_on_each_other(frame):
    close = frame.assign(pss_kb=frame["pss_kb"] // 1000 + 50_000)
    notes = sorted(note.y for note in memory_plots.memory_curve(close).layout.annotations)
    assert all(b - a > 0.05 * notes[-1] * 0.9 for a, b in zip(notes, notes[1:], strict=False))


def test_the_parts_of_memory_add_up_in_the_bar(frame):
    figure = memory_plots.memory_parts(frame)
    bars = {trace.name: list(trace.y) for trace in figure.data}
    pss = [sum(bars[title][i] for title in memory_plots.PARTS.values()) for i in range(3)]
    assert pss == [pytest.approx((20_000 + 200 * cost) / 1024) for cost in (1000, 100, 50)]
    assert bars["summed RSS"] == [pytest.approx(8 * one) for one in pss]
    assert figure.data[0].x[0] == "prefork<br>200 busy"


def test_a_map_of_a_sweep():
    summary = table().summary()
    figure = sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild", mpm="event")
    (heat,) = figure.data
    assert (list(heat.x), list(heat.y)) == (["10", "20", "40", "80"], ["5", "25"])
    assert [list(line) for line in heat.z] == [[1000, 2000, 2100, 2150]] * 2
    assert list(heat.text[0]) == ["1,000", "2,000", "2,100", "2,150*"]
    assert "*: the load generator was the limit" in figure.layout.title.text
    assert "8 points" in figures.alt_text(figure) and "2,150" in figures.alt_text(figure)
    with pytest.raises(ValueError, match="say which MPM: worker, event"):
        sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild")
    with pytest.raises(ValueError, match="do not tell the points apart"):
        sweep_plots.sweep_heat(summary, "users", "users", mpm="event")
    with pytest.raises(ValueError, match="the rows lack KeepAliveTimeout"):
        sweep_plots.sweep_heat(summary, "users", "KeepAliveTimeout", mpm="event")


def test_a_machine_that_was_the_limit_is_marked_like_the_generator():
    summary = table().summary()
    summary["generator_starved"] = summary["users"] == 10
    figure = sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild", mpm="event")
    assert list(figure.data[0].text[0]) == ["1,000*", "2,000", "2,100", "2,150*"]
    curve = sweep_plots.sweep_curve(summary[summary["ThreadsPerChild"] == 5], "users")
    hollow = [symbol.endswith("-open") for symbol in curve.data[0].marker.symbol]
    assert hollow == [True, False, False, True]
    assert "the machine that it shares" in curve.layout.title.text


def test_the_knee_of_a_sweep_is_marked():
    summary = table().summary()
    figure = sweep_plots.sweep_curve(summary[summary["ThreadsPerChild"] == 5], "users")
    assert [trace.name for trace in figure.data] == ["worker", "event"]
    assert list(figure.data[0].y) == [1000, 2000, 2100, 2150]
    assert figure.data[0].marker.symbol[-1] == f"{theme.MARKERS['worker']}-open"
    notes = [note.text for note in figure.layout.annotations]
    assert notes.count("knee: 20") == 2 and " worker" in notes and " event" in notes
    assert "knee at 20" in figures.alt_text(figure)
    with pytest.raises(ValueError, match="not made of numbers"):
        sweep_plots.sweep_curve(summary.assign(users="many"), "users")


def test_rows_of_another_table_are_refused(frame):
    with pytest.raises(ValueError, match="the rows lack server; give MemoryTable"):
        memory_plots.memory_curve(frame.drop(columns=["server"]))
    with pytest.raises(ValueError, match="nothing was measured against idle"):
        memory_plots.memory_curve(frame[frame["against"] == "busy"], "idle")
    with pytest.raises(ValueError, match="against: 'asleep' is not one of busy, idle"):
        memory_plots.memory_curve(frame, "asleep")


def test_ours_beside_the_real_httpd():
    import mpmkit
    from mpmkit.measure import published
    from mpmkit.measure.qps_table import QpsTable

    def table(name):
        rows = (
            mpmkit.recorded(name).astype(object).where(lambda f: f.notna(), None).to_dict("records")
        )
        return QpsTable(rows, published.figures())

    rivals = table("qps-demo")
    made = tables.compared(rivals)
    assert list(made.columns) == ["published /s", "mpmkit /s", "httpd /s", "mpmkit / httpd"]
    row = made.loc["static page, worker"]
    sides = [list(rivals.rounds("static", who)["worker"].values()) for who in ("mpmkit", "httpd")]
    medians = [statistics.median(side) for side in sides]
    assert row["published /s"] == 11_038 and list(row.iloc[1:3]) == medians
    assert row["mpmkit / httpd"] == pytest.approx(
        statistics.geometric_mean(a / b for a, b in zip(*sides, strict=True))
    )
    # What one of the two does not have: WSGI under httpd, and an httpd that took no part.
    assert math.isnan(tables.compared(table("qps-scripts")).loc["script, event", "httpd /s"])
    assert tables.compared(table("qps-full"))["httpd /s"].isna().all()
    html = tables.styled(made).to_html()
    assert f"{medians[0]:,.0f}" in html and "#" in html.partition("<table")[0]


def test_yours_beside_the_recorded(frame):
    import mpmkit

    recorded = mpmkit.recorded("qps")
    mine = recorded.assign(qps=recorded["qps"] * 2)
    made = tables.compared_recorded(mine, recorded, ["server", "mpm", "kind"])
    cells = recorded.groupby(["server", "mpm", "kind"], dropna=False).ngroups
    assert list(made["yours / recorded"]) == [pytest.approx(2)] * cells
    with pytest.raises(ValueError, match="the rows of yours lack qps"):
        tables.compared_recorded(frame, recorded, ["server"])
    with pytest.raises(ValueError, match="no server in common"):
        tables.compared_recorded(mine.assign(server="x"), recorded, ["server"])
