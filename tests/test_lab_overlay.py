"""Figures that lay servers over one another: they draw the rows that they are given, all of them."""

from __future__ import annotations

import math

import pandas
import pytest
from helpers import comparison_plots

import mpmkit
from mpmkit.lab import figures, theme


def frame(counts):
    return pandas.DataFrame({"t": range(len(counts)), "processes": counts})


@pytest.mark.parametrize("dark", ["light", "dark"])
def test_pools_have_a_line_for_each_of_whom(dark):
    simulated = mpmkit.simulate("prefork", StartServers=1, MinSpareServers=7, seconds=4).to_frame()
    runs = {
        "prefork": {
            "simulated": simulated,
            "mpmkit": frame([1, 2, 4, 8, 8]),
            "httpd": frame([1, 2, None, 8, 8]),
        },
        "event": {"mpmkit": frame([2, 3])},
    }
    figure = comparison_plots.pools(runs, theme=dark, title="growth")
    assert [(trace.name, list(trace.y)) for trace in figure.data] == [
        ("simulated", simulated["processes"].tolist()),
        ("mpmkit", [1, 2, 4, 8, 8]),
        ("httpd", [1, 2, 8, 8]),
        ("mpmkit", [2, 3]),
    ]
    assert figure.data[3].line.color == theme.stroke("event", dark)
    # Each name is in the legend once.
    assert [trace.showlegend for trace in figure.data] == [True, True, True, False]
    told = figures.alt_text(figure)
    assert "prefork, httpd: from 1 to 8" in told and told.startswith("growth")


def test_pools_refuse_another_frame():
    with pytest.raises(ValueError, match="the frame of event, mpmkit lacks 'threads'"):
        comparison_plots.pools({"event": {"mpmkit": frame([1])}}, "threads")


def test_rates_are_medians_with_their_spread():
    rows = pandas.DataFrame(
        {
            "server": ["mpmkit", "httpd", "nginx", "mpmkit", "httpd", "nginx"],
            "mpm": ["event", "event", None] * 2,
            "qps": [100.0, 50, 200, 120, 70, math.nan],
        }
    )
    bars = {(bar.name, bar.x[0]): bar for bar in comparison_plots.rates(rows).data}
    bars = {(name.split(", ")[1], x): bar for (name, x), bar in bars.items() if name}
    assert set(bars) == {("mpmkit", "event"), ("httpd", "event"), ("nginx", "nginx")}
    ours = bars["mpmkit", "event"]
    assert ours.text == ("mpmkit<br>110",) and ours.insidetextanchor == "start"
    assert ours.y[0] == 110 and ours.error_y.array[0] == ours.error_y.arrayminus[0] == 10
    assert ours.marker.color == theme.colour("event")
    assert "nginx 200" in figures.alt_text(comparison_plots.rates(rows))
    with pytest.raises(ValueError, match="there are no rows"):
        comparison_plots.rates(rows[:0])
