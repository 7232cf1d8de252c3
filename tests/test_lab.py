"""What the notebooks show: colours that everyone can tell apart, figures and tables of real rows."""

import itertools

import pandas
import pytest
from helpers import figures, order, tables

from mpmkit.lab import plots, theme
from mpmkit.lab.replay import not_headline
from mpmkit.measure import published, records
from mpmkit.measure.published import PAGES, SCRIPTS
from mpmkit.measure.qps import QpsTable

THREE = {"prefork": [90, 100, 110], "worker": [130, 120, 125], "event": [105, 95, 115]}


def luminance(colour: str) -> float:
    """WCAG's: 0 is black, 1 is white."""
    parts = (part / 255 for part in theme.rgb(colour))
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
    with pytest.raises(ValueError, match="choose light or dark"):
        theme.ink()
    with pytest.raises(ValueError, match="no colour for 'threads'"):
        theme.colour("threads", "dark")


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


def qps_table(rounds, *, kinds=("static", "script"), server="mpmkit") -> QpsTable:
    """A table made of given rounds: MPM -> requests per second of each round."""
    same = {"server": server, "requests": 100, "failures": 0, "run_id": "r", "server_cpu_us": None}
    same |= dict.fromkeys(("generator_bound", "generator_starved"), False)
    cells = [(mpm, n, float(qps)) for mpm, each in rounds.items() for n, qps in enumerate(each, 1)]
    rows = [{**same, "mpm": m, "round": n, "qps": qps} for m, n, qps in cells]
    rows = [{**row, "kind": kind} for kind in kinds for row in rows]
    return QpsTable(rows, published.figures())


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
    with pytest.raises(ValueError, match="there are none"):
        tables.qps(QpsTable([], published.figures()), "static")


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
    text = not_headline(here)
    assert said in text and bool(text) == bool(said)
    assert ("requests per second" in text) == (min(cores, limit or cores) < 2)
    frame = tables.machine(here)
    assert ("Trust" in text) == bool(said) == ("caveat" in frame.index)
    assert {"cores", "kernel", "python", "mpmkit"} <= set(frame.index)
    assert "None" not in set(frame["value"])
