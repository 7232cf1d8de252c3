"""Figures and tables of memory and sweeps: they draw the rows, label directly, say what they can't."""

import itertools
import json
import math
import re
import statistics
from html import unescape

import pandas
import pytest
from helpers import calculator, comparison_plots, memory_plots, sweep_plots, tables
from support.experiments import memory_rows
from support.rows import row

import mpmkit
from mpmkit.lab import plots, theme
from mpmkit.measure import published, records
from mpmkit.measure.qps import QpsTable
from mpmkit.measure.sweep import SweepTable


@pytest.fixture
def frame():
    rows = memory_rows("prefork", cost=1000) + memory_rows("event", cost=100)
    rows += memory_rows("event", "idle", cost=3) + memory_rows("event", cost=50, server="httpd")
    rows += memory_rows(None, "idle", cost=2, server="uvicorn")
    return records.frame(rows, "memory")


def table() -> SweepTable:
    """Rates by (MPM, ThreadsPerChild, users); with 80 users the generator was the limit."""
    made, rates = [], {10: 1000.0, 20: 2000.0, 40: 2100.0, 80: 2150.0}
    cells = itertools.product(("worker", "event"), (5, 25), rates.items())
    for mpm, threads, (users, rate) in cells:
        answered = {"requests": round(rate * 2), "failures": 0, "errors": "{}", "qps": rate}
        load = {"duration_s": 2.0, "generator_bound": users == 80, "generator_starved": False}
        point = json.dumps({"ThreadsPerChild": threads, "users": users})
        where = {"mpm": mpm, "users": users, "point": point}
        made.append(row("sweep", **where, **answered, **load))
    return SweepTable(made, ("ThreadsPerChild", "users"))


def test_a_curve_goes_through_the_levels(frame):
    figure = memory_plots.memory_curve(frame)
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert list(drawn) == ["prefork", "event", "httpd with event"]
    assert drawn["event"][0] == [0, 50, 100, 200]
    rising = [(20_000 + 100 * n) / 1024 for n in (0, 50, 100, 200)]
    assert drawn["event"][1] == pytest.approx(rising)
    labels = [note.text for note in figure.layout.annotations]
    assert "prefork, 1,000 KiB" in labels and "httpd with event, 50.0 KiB" in labels
    assert figure.data[0].line.color == theme.LIGHT["prefork"]
    assert figure.data[2].line.color == theme.OTHERS[False]["httpd"]
    axis = figure.layout.yaxis
    assert (axis.title.text, axis.type) == ("MiB, logarithmic", "log")
    assert "prefork: 20 MiB at 0, 215 at 200, 1,000 KiB each" in plots.alt_text(figure)
    idle = memory_plots.memory_curve(frame, "idle")
    assert [trace.name for trace in idle.data] == ["event", "uvicorn"]
    assert "idle connection costs" in idle.layout.title.text


def test_the_parts_of_memory_are_shares_of_pss(frame):
    figure = memory_plots.memory_parts(frame)
    assert [trace.name for trace in figure.data] == list(memory_plots.PARTS.values())
    for place, cost in enumerate((1000, 100, 50)):
        assert sum(trace.x[place] for trace in figure.data) == pytest.approx(100)
        parts = sum(trace.customdata[place] for trace in figure.data)
        assert parts == pytest.approx((20_000 + 200 * cost) / 1024)
        assert f"PSS {parts:,.0f} MiB, summed RSS {8 * parts:,.0f}" in figure.data[0].y[place]
    assert figure.data[0].y[0].startswith("prefork<br><sup>200 busy: PSS ")
    with pytest.raises(ValueError, match="the rows lack server; give MemoryTable"):
        memory_plots.memory_curve(frame.drop(columns=["server"]))
    with pytest.raises(ValueError, match="nothing was measured against idle"):
        memory_plots.memory_curve(frame[frame["against"] == "busy"], "idle")
    with pytest.raises(ValueError, match="against: 'asleep' is not one of busy, idle"):
        memory_plots.memory_curve(frame, "asleep")


def test_a_map_of_a_sweep():
    summary = table().summary()
    figure = sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild", mpm="event")
    (heat,) = figure.data
    assert (list(heat.x), list(heat.y)) == (["10", "20", "40", "80"], ["5", "25"])
    assert [list(line) for line in heat.z] == [[1000, 2000, 2100, 2150]] * 2
    assert list(heat.text[0]) == ["1,000", "2,000", "2,100", "2,150*"]
    assert "*: the load generator or" in figure.layout.title.text
    assert "8 points" in plots.alt_text(figure) and "2,150" in plots.alt_text(figure)
    with pytest.raises(ValueError, match="say which MPM: worker, event"):
        sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild")
    with pytest.raises(ValueError, match="do not tell the points apart"):
        sweep_plots.sweep_heat(summary, "users", "users", mpm="event")
    with pytest.raises(ValueError, match="the rows lack KeepAliveTimeout"):
        sweep_plots.sweep_heat(summary, "users", "KeepAliveTimeout", mpm="event")
    # A machine that was the limit is marked like the generator.
    summary["generator_starved"] = summary["users"] == 10
    figure = sweep_plots.sweep_heat(summary, "users", "ThreadsPerChild", mpm="event")
    assert list(figure.data[0].text[0]) == ["1,000*", "2,000", "2,100", "2,150*"]
    curve = sweep_plots.sweep_curve(summary[summary["ThreadsPerChild"] == 5], "users")
    hollow = [symbol.endswith("-open") for symbol in curve.data[0].marker.symbol]
    assert hollow == [True, False, False, True]
    assert "or its machine was the limit" in curve.layout.title.text


def test_the_knee_of_a_sweep_is_marked():
    summary = table().summary()
    figure = sweep_plots.sweep_curve(summary[summary["ThreadsPerChild"] == 5], "users")
    assert [trace.name for trace in figure.data] == ["worker", "event"]
    assert list(figure.data[0].y) == [1000, 2000, 2100, 2150]
    assert figure.data[0].marker.symbol[-1] == f"{theme.MARKERS['worker']}-open"
    notes = [note.text for note in figure.layout.annotations]
    assert notes.count("knee: 20") == 2 and "worker" in notes and "event" in notes
    assert "knee at 20" in plots.alt_text(figure)
    with pytest.raises(ValueError, match="not made of numbers"):
        sweep_plots.sweep_curve(summary.assign(users="many"), "users")


def test_ours_next_to_the_real_httpd():
    def table(name):
        rows = records.read(records.recorded_folder() / f"{name}.csv")
        return QpsTable(rows, published.figures())

    rivals = table("qps-demo")
    made = tables.compared(rivals)
    assert list(made.columns) == ["published /s", "mpmkit /s", "httpd /s", "mpmkit / httpd"]
    row = made.loc["static page, worker"]
    sides = [list(rivals.rounds("static", who)["worker"].values()) for who in ("mpmkit", "httpd")]
    medians = [statistics.median(side) for side in sides]
    assert row["published /s"] == 11_038 and list(row.iloc[1:3]) == medians
    ratios = (a / b for a, b in zip(*sides, strict=True))
    assert row["mpmkit / httpd"] == pytest.approx(statistics.geometric_mean(ratios))
    # What one of the two does not have: WSGI under httpd, and an httpd that took no part.
    assert math.isnan(tables.compared(table("qps-scripts")).loc["script, event", "httpd /s"])
    assert tables.compared(table("qps-full"))["httpd /s"].isna().all()
    html = tables.styled(made).to_html()
    assert f"{medians[0]:,.0f}" in html and "#" in html.partition("<table")[0]


def test_yours_next_to_the_recorded(frame):
    recorded = mpmkit.recorded("qps")
    mine = recorded.assign(qps=recorded["qps"] * 2)
    made = tables.compared_recorded(mine, recorded, ["server", "mpm", "kind"])
    cells = recorded.groupby(["server", "mpm", "kind"], dropna=False).ngroups
    assert list(made["yours / recorded"]) == [pytest.approx(2)] * cells
    with pytest.raises(ValueError, match="the rows lack qps; give those of the same table"):
        tables.compared_recorded(frame, recorded, ["server"])
    with pytest.raises(ValueError, match="no server in common"):
        tables.compared_recorded(mine.assign(server="x"), recorded, ["server"])


def watched(counts):
    return pandas.DataFrame({"t": range(len(counts)), "processes": counts})


def test_pools_have_a_line_for_each_server(monkeypatch):
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    simulated = mpmkit.simulate("prefork", StartServers=1, MinSpareServers=7, seconds=4).to_frame()
    ours, theirs = watched([1, 2, 4, 8, 8]), watched([1, 2, None, 8, 8])
    runs = {
        "prefork": {"simulated": simulated, "mpmkit": ours, "httpd": theirs},
        "event": {"mpmkit": watched([2, 3])},
    }
    figure = comparison_plots.pools(runs, title="growth")
    assert [(trace.name, list(trace.y)) for trace in figure.data] == [
        ("simulated", simulated["processes"].tolist()), ("mpmkit", [1, 2, 4, 8, 8]),
        ("httpd", [1, 2, 8, 8]), ("mpmkit", [2, 3]),
    ]  # fmt: skip
    assert figure.data[3].line.color == theme.stroke("event", "dark")
    assert [trace.showlegend for trace in figure.data] == [True, True, True, False]
    said = plots.alt_text(figure)
    assert "prefork, httpd: from 1 to 8" in said and said.startswith("growth")
    with pytest.raises(ValueError, match=r"lack threads; give a frame of .* for event, mpmkit"):
        comparison_plots.pools({"event": {"mpmkit": watched([1])}}, "threads")


def test_rates_are_medians_with_their_spread():
    servers = {"server": ["mpmkit", "httpd", "nginx"] * 2, "mpm": ["event", "event", None] * 2}
    rows = pandas.DataFrame({**servers, "qps": [100.0, 50, 200, 120, 70, math.nan]})
    figure = comparison_plots.rates(rows)
    bars = {(bar.name.split(", ")[1], bar.x[0]): bar for bar in figure.data if bar.name}
    assert list(bars) == [("mpmkit", "event"), ("httpd", "event"), ("nginx", "nginx")]
    ours = bars["mpmkit", "event"]
    assert ours.text == ("mpmkit<br>110",) and ours.insidetextanchor == "start"
    assert ours.y[0] == 110 and ours.error_y.array[0] == ours.error_y.arrayminus[0] == 10
    assert ours.marker.color == theme.colour("event")
    assert "nginx 200" in plots.alt_text(figure)
    with pytest.raises(ValueError, match="there are no rows"):
        comparison_plots.rates(rows[:0])


@pytest.fixture(scope="module")
def sizes():
    return mpmkit.recorded("memory-demo")


def test_the_calculator_says_what_the_sizing_says(sizes):
    said = calculator.answer(sizes, 4, "prefork")
    assert said == str(mpmkit.max_request_workers_for("4GiB", mpm="prefork", memory=sizes))
    # An idle connection counts under event only: prefork would refuse it.
    assert calculator.answer(sizes, 4, "prefork", idle=100) == said
    assert "100 kept-alive connections" in calculator.answer(sizes, 4, "event", idle=100)
    assert calculator.answer(sizes, 0.001, "prefork").startswith("reserve: ")
    assert calculator.answers(sizes, [0.001], ["event"]).loc["0.001 GiB", ("event", "PSS")] == 0


def test_the_answer_follows_the_sliders(sizes):
    shown = calculator.calculator(sizes)
    mpm, ram, idle, threads, result = shown.children
    assert result.value in shown.still, "an executed copy has an answer, too"

    def workers() -> int:
        return int(re.search(r"MaxRequestWorkers (\d+)", unescape(result.value))[1])

    assert mpm.value == "event" and not idle.disabled and not threads.disabled
    at_four = workers()
    ram.value = 16
    assert workers() > at_four
    ram.value, idle.value = 4, 5000
    assert workers() < at_four and "5,000 kept-alive" in result.value
    threads.value = 64
    assert workers() % 64 == 0
    mpm.value = "prefork"
    assert "for prefork" in result.value and idle.disabled and threads.disabled
