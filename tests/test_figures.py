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
from support.files import write
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


@pytest.mark.parametrize("page", theme.THEMES)
def test_lines_and_words_stand_out_from_the_paper_and_a_grey_print_tells_the_mpms_apart(page):
    """WCAG's contrast: 3:1 for what is drawn, 4.5:1 for what is read, 7:1 for small text. 15 steps
    of CIE's L* are far more than can just be seen."""

    def contrast(colour: str) -> float:
        low, high = sorted(map(luminance, (colour, theme.PAPER[dark])))
        return (high + 0.05) / (low + 0.05)

    dark = page == "dark"
    assert contrast(theme.ink(page)) > 7
    assert all(contrast(theme.stroke(mpm, page)) >= 3 for mpm in theme.MPMS)
    assert all(contrast(theme.text_colour(mpm, page)) >= 4.5 for mpm in theme.MPMS)
    assert all(contrast(grey) >= 3 for grey in theme.OTHERS[dark].values())
    colours = (theme.DARK if dark else theme.LIGHT).values()
    steps = sorted(116 * luminance(colour) ** (1 / 3) - 16 for colour in colours)
    assert min(b - a for a, b in itertools.pairwise(steps)) > 15


def test_the_theme_comes_from_the_environment(monkeypatch):
    for page, colours in (("light", theme.LIGHT), ("dark", theme.DARK)):
        monkeypatch.setenv("MPMKIT_THEME", page)
        assert theme.colour("event") == colours["event"] == theme.colour("event", page)
    monkeypatch.setenv("MPMKIT_THEME", "mauve")
    refused(ValueError, "choose light or dark", theme.ink)
    refused(ValueError, "no colour for 'threads'", theme.colour, "threads", "dark")


def test_without_it_the_theme_is_that_of_jupyterlab(monkeypatch, tmp_path):
    monkeypatch.delenv("MPMKIT_THEME", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert not theme.is_dark()
    file = "lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
    for name in ("JupyterLab Dark", "JupyterLab Light", "JupyterLab Dark High Contrast"):
        text = f'{{\n  // Theme "dark"\n  "theme": "{name}",\n  "overrides": {{}}\n}}'
        write(tmp_path / file, text)
        assert theme.is_dark() == ("Dark" in name)


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
    # One round has no spread.
    figure = figures.qps_bars(qps_table({"event": [100], "prefork": [90]}).summary())
    assert "no spread is known" in figure.layout.title.text
    assert not any(bar.error_y.visible for bar in figure.data)
    assert set(figures.KIND_TITLES) == {*PAGES, *SCRIPTS}, "each way to run a script has a title"


def test_a_limited_bar_has_a_mark_and_another_server_is_grey(monkeypatch):
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    table = qps_table({"event": [9000, 9500], "prefork": [9100, 9300]}, kinds=("static",))
    table.records += qps_table({"event": [80, 90, 85]}, kinds=("static",), server="httpd").records
    assert "*" not in figures.qps_bars(table.summary()).layout.title.text
    table.records[0]["generator_bound"] = True
    figure = figures.qps_bars(table.summary())
    assert [bar.text for bar in bars(figure, "event, mpmkit")] == [("9,250*",)]
    assert [bar.text for bar in bars(figure, "prefork, mpmkit")] == [("9,200",)]
    (bar,) = bars(figure, "event, httpd")
    assert (bar.y[0], bar.marker.color) == (85, theme.OTHERS[True]["httpd"])
    assert "*: in some rounds" in figure.layout.title.text
    assert "grey: httpd" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == theme.PAPER[True]
    assert bars(figure, "event, mpmkit")[0].marker.color == theme.DARK["event"]


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
    assert dict(frame["measured /s"]) == {"prefork": 100, "worker": 125, "event": 105}
    assert frame.loc["worker", "× prefork, measured"] == pytest.approx(1.2535, abs=1e-4)
    html = tables.styled(frame, "Static page").to_html()
    assert all(one in html for one in ("11,038", "1.25", "Static page", theme.LIGHT["event"]))


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


MEMORY = records.frame([
    *memory_rows("prefork", cost=1000), *memory_rows("event", cost=100), *memory_rows("event", "idle", cost=3),
    *memory_rows("event", cost=50, server="httpd"), *memory_rows(None, "idle", cost=2, server="uvicorn"),
], "memory")  # fmt: skip


def swept() -> pandas.DataFrame:
    """Rates by (MPM, ThreadsPerChild, users); with 80 users the generator was the limit."""
    made, rates = [], {10: 1000.0, 20: 2000.0, 40: 2100.0, 80: 2150.0}
    cells = itertools.product(("worker", "event"), (5, 25), rates.items())
    for mpm, threads, (users, rate) in cells:
        load = {"mpm": mpm, "users": users, "generator_bound": users == 80, "duration_s": 2.0}
        answered = {"requests": round(rate * 2), "failures": 0, "errors": "{}", "qps": rate}
        point = json.dumps({"ThreadsPerChild": threads, "users": users})
        made.append(row("sweep", point=point, **load, **answered))
    return sweep.SweepTable(made, ("ThreadsPerChild", "users")).summary()


def heat(*axes, **how):
    return sweep_plots.sweep_heat(swept(), *axes, **how)


def test_a_curve_of_memory_goes_through_the_levels_and_its_parts_are_drawn():
    figure = memory_plots.memory_curve(MEMORY)
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
    idle = memory_plots.memory_curve(MEMORY, "idle")
    assert [trace.name for trace in idle.data] == ["event", "uvicorn"]
    assert "idle connection costs" in idle.layout.title.text
    # The parts of memory are shares of PSS.
    figure = memory_plots.memory_parts(MEMORY)
    assert [trace.name for trace in figure.data] == list(memory_plots.PARTS.values())
    for place, cost in enumerate((1000, 100, 50)):
        assert sum(trace.x[place] for trace in figure.data) == pytest.approx(100)
        parts = sum(trace.customdata[place] for trace in figure.data)
        assert parts == pytest.approx((20_000 + 200 * cost) / 1024)
        assert f"PSS {parts:,.0f} MiB, summed RSS {8 * parts:,.0f}" in figure.data[0].y[place]
    assert figure.data[0].y[0].startswith("prefork<br><sup>200 busy: PSS ")


def test_a_map_and_curves_of_a_sweep_mark_limits_and_the_knee():
    figure = heat("users", "ThreadsPerChild", mpm="event")
    (drawn,) = figure.data
    assert (list(drawn.x), list(drawn.y)) == (["10", "20", "40", "80"], ["5", "25"])
    assert [list(line) for line in drawn.z] == [[1000, 2000, 2100, 2150]] * 2
    assert list(drawn.text[0]) == ["1,000", "2,000", "2,100", "2,150*"]
    assert "*: the load generator or" in figure.layout.title.text
    assert "8 points" in plots.alt_text(figure) and "2,150" in plots.alt_text(figure)
    # A machine that was the limit is marked like the generator.
    starved = swept().assign(generator_starved=lambda one: one["users"] == 10)
    figure = sweep_plots.sweep_heat(starved, "users", "ThreadsPerChild", mpm="event")
    assert list(figure.data[0].text[0]) == ["1,000*", "2,000", "2,100", "2,150*"]
    figure = sweep_plots.sweep_curve(swept()[lambda one: one["ThreadsPerChild"] == 5], "users")
    drawn = {one.name: list(one.y) for one in figure.data}
    assert drawn == {mpm: [1000, 2000, 2100, 2150] for mpm in ("worker", "event")}
    assert figure.data[0].marker.symbol[-1] == f"{theme.MARKERS['worker']}-open"
    notes = [note.text for note in figure.layout.annotations]
    assert notes.count("knee: 20") == 2 and "worker" in notes and "event" in notes
    assert "knee at 20" in plots.alt_text(figure) and "hollow: " in figure.layout.title.text


def test_ours_next_to_the_real_httpd_and_yours_next_to_the_recorded():
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
    # Yours next to the recorded
    recorded = mpmkit.recorded("qps")
    mine = recorded.assign(qps=recorded["qps"] * 2)
    made = tables.compared_recorded(mine, recorded, ["server", "mpm", "kind"])
    cells = recorded.groupby(["server", "mpm", "kind"], dropna=False).ngroups
    assert list(made["yours / recorded"]) == [pytest.approx(2)] * cells


def watched(counts):
    return pandas.DataFrame({"t": range(len(counts)), "processes": counts})


def test_pools_have_a_line_for_each_server(monkeypatch):
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    simulated = mpmkit.simulate("prefork", StartServers=1, MinSpareServers=7, seconds=4).to_frame()
    ours, theirs = watched([1, 2, 4, 8, 8]), watched([1, 2, None, 8, 8])
    runs = {"simulated": simulated, "mpmkit": ours, "httpd": theirs}
    runs = {"prefork": runs, "event": {"mpmkit": watched([2, 3])}}
    figure = comparison_plots.pools(runs, title="growth")
    assert [(trace.name, list(trace.y)) for trace in figure.data] == [
        ("simulated", simulated["processes"].tolist()), ("mpmkit", [1, 2, 4, 8, 8]),
        ("httpd", [1, 2, 8, 8]), ("mpmkit", [2, 3]),
    ]  # fmt: skip
    assert figure.data[3].line.color == theme.stroke("event", "dark")
    assert [trace.showlegend for trace in figure.data] == [True, True, True, False]
    said = plots.alt_text(figure)
    assert "prefork, httpd: from 1 to 8" in said and said.startswith("growth")


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


def test_the_calculator_says_what_the_sizing_says_and_follows_the_sliders():
    sizes = mpmkit.recorded("memory-demo")
    said = calculator.answer(sizes, 4, "prefork")
    assert said == str(mpmkit.max_request_workers_for("4GiB", mpm="prefork", memory=sizes))
    # An idle connection counts under event only: prefork would refuse it.
    assert calculator.answer(sizes, 4, "prefork", idle=100) == said
    assert "100 kept-alive connections" in calculator.answer(sizes, 4, "event", idle=100)
    assert calculator.answer(sizes, 0.001, "prefork").startswith("reserve: ")
    assert calculator.answers(sizes, [0.001], ["event"]).loc["0.001 GiB", ("event", "PSS")] == 0
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


@pytest.mark.parametrize(("words", "draw"), [
    (r"no row of kind 'script' .* there are static, on mpmkit",
     lambda: tables.qps(qps_table(THREE, kinds=("static",)), "script")),
    ("there are none", lambda: tables.qps(QpsTable([], published.figures()), "static")),
    ("lack server; give MemoryTable", lambda: memory_plots.memory_curve(MEMORY.drop(columns=["server"]))),
    ("nothing was measured against idle", lambda: memory_plots.memory_curve(MEMORY[:4], "idle")),
    ("against: 'asleep' is not one of busy, idle", lambda: memory_plots.memory_curve(MEMORY, "asleep")),
    ("say which MPM: worker, event", lambda: heat("users", "ThreadsPerChild")),
    ("do not tell the points apart", lambda: heat("users", "users", mpm="event")),
    ("lack KeepAliveTimeout", lambda: heat("users", "KeepAliveTimeout", mpm="event")),
    ("not made of numbers", lambda: sweep_plots.sweep_curve(swept().assign(users="many"), "users")),
    ("no server in common",
     lambda: tables.compared_recorded(*(mpmkit.recorded("qps").assign(server=one) for one in "xy"), ["server"])),
    ("there are no rows", lambda: comparison_plots.rates(mpmkit.recorded("qps")[:0])),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_with_a_remedy(words, draw):
    refused(ValueError, words, draw)
