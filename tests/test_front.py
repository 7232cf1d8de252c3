"""The README's picture of ratios: it draws what was measured, and only that."""

from __future__ import annotations

import pytest

from mpmkit.lab import front
from mpmkit.lab.figures import alt_text
from mpmkit.measure.bench import FREE, Cell


def cell(work: str, mpm: str, median: float, *, rival: str = "httpd", target: float | None = 1.2):
    return Cell(mpm, work, rival, 5, median, median - 0.2, median + 0.3, 1, 1, 1, 1, 0, 0, target)


def test_each_cell_is_a_marker_a_range_and_a_target():
    found = [cell("new", "prefork", 1.5), cell("new", "event", 1.1),
             cell("new", "event", 0.4, rival="nginx"),
             cell("idle-5000", "event", 0.95, rival=FREE, target=0.9)]
    figure = front.ratios(found)
    markers = [trace.x[0] for trace in figure.data
               if trace.mode == "markers" and trace.marker.symbol != "line-ns-open"]
    ranges = [tuple(trace.x) for trace in figure.data if trace.mode == "lines+text"]
    targets = [trace.x[0] for trace in figure.data
               if trace.mode == "markers" and trace.marker.symbol == "line-ns-open"]
    assert markers == [1.5, 1.1, 0.95]
    assert ranges[0] == pytest.approx((1.3, 1.8))
    assert targets == [1.2, 1.2, 0.9]
    assert "new prefork 1.50" in alt_text(figure) and "0.40" not in alt_text(figure)
    assert list(figure.layout.yaxis.ticktext) == ["new", "idle-5000"]


def test_without_httpd_there_is_no_picture():
    with pytest.raises(ValueError, match="mpmkit bench --only bench"):
        front.ratios([cell("new", "event", 1.0, rival="nginx")])
