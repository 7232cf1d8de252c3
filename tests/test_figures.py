"""What the notebooks show: colours that everyone can tell apart, figures and tables that draw the rows, label
directly, and say what they can't."""

import itertools
import json
import math
import re
import statistics
from html import unescape

import pandas
import pytest
from helpers import calculator, comparison_plots, figures, memory_plots, order, sweep_plots, tables
from support.calls import refused
from support.experiments import memory_rows, qps_table
from support.rows import row

import mpmkit
from mpmkit.lab import plots, replay, theme
from mpmkit.measure import published, records, sweep
from mpmkit.measure.published import PAGES, SCRIPTS
from mpmkit.measure.qps import QpsTable

THREE = {"prefork": [90, 100, 110], "worker": [130, 120, 125], "event": [105, 95, 115]}


def luminance(colour: str) -> float:
    """WCAG's: 0 is black, 1 is white."""
    parts = (part / 255 for part in bytes.fromhex(colour[1:]))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=theme.THEMES)
def test_a_grey_print_tells_the_mpms_apart(colours):
    """The L* of CIE: 15 steps are far more than can just be seen."""
    steps = sorted(116 * luminance(colour) ** (1 / 3) - 16 for colour in colours.values())
    assert min(b - a for a, b in itertools.pairwise(steps)) > 15


@pytest.mark.parametrize("page", theme.THEMES)
def test_lines_and_words_stand_out_from_the_paper(page):
    """WCAG's contrast: 3:1 for what is drawn, 4.5:1 for what is read, 7:1 for small text."""

    def contrast(colour: str) -> float:
        low, high = sorted(map(luminance, (colour, paper)))
        return (high + 0.05) / (low + 0.05)

    paper = theme.PAPER[page == "dark"]
    assert contrast(theme.ink(page)) > 7
    for mpm in theme.MPMS:
        assert contrast(theme.stroke(mpm, page)) >= 3
        assert contrast(theme.text_colour(mpm, page)) >= 4.5
    assert all(contrast(grey) >= 3 for grey in theme.OTHERS[page == "dark"].values())


def test_the_theme_comes_from_the_environment(monkeypatch):
    assert theme.colour("event") == theme.LIGHT["event"]
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    assert theme.colour("event") == theme.DARK["event"]
    assert theme.colour("event", "light") == theme.LIGHT["event"]
    monkeypatch.setenv("MPMKIT_THEME", "mauve")
    refused(ValueError, "choose light or dark", theme.ink)
    refused(ValueError, "no colour for 'threads'", theme.colour, "threads", "dark")


@pytest.mark.parametrize(
    "theme_name", ["JupyterLab Dark", "JupyterLab Dark High Contrast", "JupyterLab Light", ""]
)
def test_without_it_the_theme_is_that_of_jupyterlab(monkeypatch, tmp_path, theme_name):
    monkeypatch.delenv("MPMKIT_THEME", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "lab/user-settings/@jupyterlab/apputils-extension"
    if theme_name:
        folder.mkdir(parents=True)
        text = f'{{\n  // Theme "dark"\n  "theme": "{theme_name}",\n  "overrides": {{}}\n}}'
        (folder / "themes.jupyterlab-settings").write_text(text)
    assert theme.is_dark() == ("Dark" in theme_name)


def bars(figure, name):
    return [bar for bar in figure.data if bar.name == name]


def test_a_bar_is_as_high_as_its_row_says():
    figure = figures.qps_bars(qps_table(THREE).summary())
    for mpm, median in (("prefork", 100), ("worker", 125), ("event", 105)):
        static, script = bars(figure, f"{mpm}, mpmkit")
        assert list(static.y) == list(script.y) == [median]
        assert static.marker.color == theme.LIGHT[mpm]
        above = figure.data[figure.data.index(static) + 1]
        assert (static.text, above.text) == ((f"{median}",), ("",))
        (published, _) = bars(figure, f"{mpm}, published")
        assert published.yaxis != static.yaxis, "two machines on one axis"
        low, high = min(THREE[mpm]), max(THREE[mpm])
        assert (above.y[0], above.y[0] - above.error_y.arrayminus[0]) == (high, low)
        ends = static.error_y.array[0], static.error_y.arrayminus[0]
        assert ends == (high - median, median - low)
    assert [bar.y[0] for bar in bars(figure, "worker, published")] == [11038, 7411]
    assert "slowest and fastest round" in figure.layout.title.text


def test_one_round_claims_no_spread_and_a_limited_bar_has_a_mark():
    figure = figures.qps_bars(qps_table({"event": [100], "prefork": [90]}).summary())
    assert "no spread is known" in figure.layout.title.text
    assert not any(bar.error_y.visible for bar in figure.data)
    table = qps_table({"event": [9000, 9500], "prefork": [9100, 9300]}, kinds=("static",))
    assert "*" not in figures.qps_bars(table.summary()).layout.title.text
    table.records[0]["generator_bound"] = True
    figure = figures.qps_bars(table.summary())
    assert bars(figure, "event, mpmkit")[0].text == ("9,250*",)
    assert bars(figure, "prefork, mpmkit")[0].text == ("9,200",)
    assert "*: in some rounds" in figure.layout.title.text


def test_another_server_is_grey_and_the_theme_is_followed(monkeypatch):
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    table = qps_table(THREE)
    table.records += qps_table({"event": [80, 90, 85]}, kinds=("static",), server="httpd").records
    figure = figures.qps_bars(table.summary())
    (bar,) = bars(figure, "event, httpd")
    assert (bar.y[0], bar.marker.color) == (85, theme.OTHERS[True]["httpd"])
    assert "grey: httpd" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == theme.PAPER[True]
    assert bars(figure, "event, mpmkit")[0].marker.color == theme.DARK["event"]
    assert set(figures.KIND_TITLES) == {*PAGES, *SCRIPTS}, "each way to run a script has a title"


def test_a_figure_can_be_read_aloud():
    summary = qps_table(THREE, kinds=("static",)).summary()
    said = plots.alt_text(figures.qps_bars(summary))
    assert "as published: prefork 9,556; worker 11,038" in said and "worker 125" in said
    dots = order.ratio_dots(summary)
    said = plots.alt_text(dots)
    assert "worker, static page: 1.25 measured (0.92 to 1.71), 1.16 published" in said
    (bar,) = (one for one in dots.data if one.y == ("worker, static page<br>1.25 (0.92 to 1.71)",)
              and one.error_x.array)  # fmt: skip
    ends = bar.x[0] - bar.error_x.arrayminus[0], bar.x[0] + bar.error_x.array[0]
    assert ends == pytest.approx((0.92, 1.71), abs=0.005)
    alone = plots.alt_text(order.ratio_dots(qps_table({"prefork": [90], "event": [99]}).summary()))
    assert "event, static page: 1.10 measured, 1.07 published" in alone, "one round has no interval"
    for rounds in (THREE, {"event": [100, 110]}):  # inside the frame, with room for labels
        figure = order.ratio_dots(qps_table(rounds).summary())
        low, high = figure.layout.xaxis.range
        assert low < 1 < high
        assert all(low < x < high for line in figure.data for x in line.x if x == x)


def test_the_table_keeps_numbers_and_writes_them_for_reading():
    frame = tables.qps(qps_table(THREE), "static")
    assert list(frame.index) == ["prefork", "worker", "event"]
    assert frame.loc["worker", "measured /s"] == 125
    assert frame.loc["worker", "× prefork, measured"] == pytest.approx(1.2535, abs=1e-4)
    html = tables.styled(frame, "Static page").to_html()
    assert "11,038" in html and "1.25" in html and "Static page" in html
    assert theme.LIGHT["event"] in html
    with pytest.raises(ValueError, match="lack server"):
        figures.qps_bars(pandas.DataFrame({"kind": ["static"], "mpm": ["event"]}))
    with pytest.raises(ValueError, match=r"no row of kind 'script' .* there are static, on mpmkit"):
        tables.qps(qps_table(THREE, kinds=("static",)), "script")
    refused(ValueError, "there are none", tables.qps, QpsTable([], published.figures()), "static")


def test_pairs_say_what_came_out_and_nothing_of_a_limited_table():
    rounds = {"prefork": [90, 100, 110], "event": [100, 95, 120], "worker": [150, 145, 185]}
    table = qps_table(rounds)
    frame = order.pairs(table.verdict("static"))
    assert list(frame.index) == ["worker / event", "event / prefork"]
    assert list(frame["came out"]) == ["yes", "not decidable"]
    assert frame["95% interval"].iloc[0] == "1.47 to 1.58" and order.pairs(None).empty
    table.records[0]["generator_bound"] = True
    limited = order.pairs(table.verdict("static"))
    assert set(limited["came out"]) == {"not decidable"} and limited["measured"].isna().all()
    frame = order.noise(qps_table({"prefork": [90, 100, 110], "event": [100]}).summary())
    assert list(frame["noise"]) == ["10.0%", "unknown"] * 2, "the standard deviation of logarithms"


@pytest.mark.parametrize(("cores", "limit", "memory", "said"), [
    (8, None, 16_000, ""), (2, None, 2_000, ""), (4, 0.5, 16_000, "0.5 cores for server"),
    (1, None, 900, "1 core for server"), (2, None, 1_024, "1,024 MB of memory"),
])  # fmt: skip
def test_a_small_machine_says_what_not_to_quote(cores, limit, memory, said):
    has = {"cores": cores, "cpu_limit": limit, "memory_mb": memory, "memory_limit_mb": None}
    here = records.Machine(**vars(records.machine()) | has)
    text = replay.not_headline(here)
    assert said in text and bool(text) == bool(said)
    assert ("requests per second" in text) == (min(cores, limit or cores) < 2)
    frame = tables.machine(here)
    assert ("Trust" in text) == bool(said) == ("caveat" in frame.index)
    assert {"cores", "kernel", "python", "mpmkit"} <= set(frame.index)
    assert "None" not in set(frame["value"])


@pytest.fixture
def frame():
    rows = memory_rows("prefork", cost=1000) + memory_rows("event", cost=100)
    rows += memory_rows("event", "idle", cost=3) + memory_rows("event", cost=50, server="httpd")
    rows += memory_rows(None, "idle", cost=2, server="uvicorn")
    return records.frame(rows, "memory")


def table() -> sweep.SweepTable:
    """Rates by (MPM, ThreadsPerChild, users); with 80 users the generator was the limit."""
    made, rates = [], {10: 1000.0, 20: 2000.0, 40: 2100.0, 80: 2150.0}
    cells = itertools.product(("worker", "event"), (5, 25), rates.items())
    for mpm, threads, (users, rate) in cells:
        answered = {"requests": round(rate * 2), "failures": 0, "errors": "{}", "qps": rate}
        load = {"duration_s": 2.0, "generator_bound": users == 80, "generator_starved": False}
        point = json.dumps({"ThreadsPerChild": threads, "users": users})
        where = {"mpm": mpm, "users": users, "point": point}
        made.append(row("sweep", **where, **answered, **load))
    return sweep.SweepTable(made, ("ThreadsPerChild", "users"))


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


def test_the_knee_of_a_sweep_is_marked():
    summary = table().summary()
    figure = sweep_plots.sweep_curve(summary[summary["ThreadsPerChild"] == 5], "users")
    assert [trace.name for trace in figure.data] == ["worker", "event"]
    assert list(figure.data[0].y) == [1000, 2000, 2100, 2150]
    assert figure.data[0].marker.symbol[-1] == f"{theme.MARKERS['worker']}-open"
    notes = [note.text for note in figure.layout.annotations]
    assert notes.count("knee: 20") == 2 and "worker" in notes and "event" in notes
    assert "knee at 20" in plots.alt_text(figure) and "hollow: " in figure.layout.title.text
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
    refused(ValueError, "there are no rows", comparison_plots.rates, rows[:0])


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
