"""Names at lines, where they cross no line and no other name.

Places are tried in pixels: next to the last points of a line, from the end on, then higher and lower. A
figure is as wide as its cell, so a place has to be free in a narrow cell and in a still picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import Any

import plotly.graph_objects as go

from mpmkit.lab.plots import WIDTH

WIDTHS = (WIDTH, 568)  # CSS pixels: a still picture; a cell at 1,000 pixels next to Lab's side bar
LETTER, LINE, SIZE = 7.0, 18.0, 13  # pixels: a letter's mean width, a line's height, the font
POINTS = 6  # of a line at which its name may stand, from its end on
FAR = 25.0  # pixels that a point counts which is one farther from the end; twice that, another line near a name
GAP, NEAR = 9.0, 6.0  # pixels from a point to its name; from a name to another line

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, right, top, bottom
Place = tuple[float, float, float, float, float]  # how far; x, y; pixels to the right, and down


def label_lines(figure: go.Figure, names: Iterable[tuple[Any, str, str]]) -> None:
    """Write names (a line of the figure, its name, the colour) next to the lines. Call it when the figure
    has its layout. Ranges that plotly would choose are chosen here: the places depend on them."""
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        letter, name = axis.plotly_name[0], axis.plotly_name.replace("axis", "")
        lines = [one for one in figure.data if (one[f"{letter}axis"] or letter) == name]
        _choose_range(axis, [value for one in lines for value in one[letter]])
    views: dict[tuple[str, str], list[View]] = {}
    for line, text, colour in names:
        axes = line.xaxis or "x", line.yaxis or "y"
        if axes not in views:
            views[axes] = [View(figure, *axes, width) for width in WIDTHS]
        own, wide = views[axes], LETTER * len(text)
        best = min(
            _places(line, wide), key=lambda at: at[0] + sum(v.cost(line, at, wide) for v in own)
        )
        for view in own:
            view.taken.append(view.box(best, wide))
        _, x, y, right, down = best
        place: dict[str, Any] = {"showarrow": False, "xshift": right, "yshift": -down}
        if abs(down) > LINE:  # it stands apart: a thin line leads to its point
            place = {"ax": right, "ay": down, "arrowhead": 0, "arrowwidth": 1, "standoff": 6}
        figure.add_annotation(
            x=_on(view.x, x), y=_on(view.y, y), xref=axes[0], yref=axes[1], text=text, xanchor="left",
            font={"color": colour, "size": SIZE}, arrowcolor=colour, **place,
        )  # fmt: skip


def _places(line: Any, wide: float) -> Iterator[Place]:
    known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y == y]
    for number, (x, y) in enumerate(known[: -POINTS - 1 : -1]):
        for right, down in product((GAP, -wide / 2, -wide - GAP), range(-64, 65, 8)):
            if right != -wide / 2 or abs(down) > LINE / 2:
                yield abs(down) + FAR * number + (right < 0) * 8, x, y, right, float(down)


def _choose_range(axis: Any, values: list[float]) -> None:
    values = [_on(axis, value) for value in values if value == value]
    if axis.range is None and values:
        low = 0.0 if axis.rangemode == "tozero" else min(values)
        room = 0.06 * (max(values) - low or 1.0)
        axis.range = [low - room * (axis.rangemode != "tozero"), max(values) + room]


def _on(axis: Any, value: float) -> float:
    return math.log10(value) if axis.type == "log" else value


class View:
    """A subplot at one width of its figure: what is where, in pixels from the figure's top left corner."""

    def __init__(self, figure: go.Figure, x: str, y: str, width: int) -> None:
        layout, self.width = figure.layout, width
        self.x, self.y = layout[f"xaxis{x[1:]}"], layout[f"yaxis{y[1:]}"]
        space = layout.margin
        wide, high = width - space.l - space.r, layout.height - space.t - space.b
        self.left, self.right = (space.l + share * wide for share in self.x.domain or (0, 1))
        self.bottom, self.top = (space.t + (1 - up) * high for up in self.y.domain or (0, 1))
        own = [one for one in figure.data if (one.xaxis or "x", one.yaxis or "y") == (x, y)]
        self.parts: list[tuple[Any, Point, Point]] = [
            (one, start, end) for one in own for start, end in pairwise(self.points(one))
        ]
        for one in layout.shapes:  # lines across
            if one.xref == x:
                place, _ = self.at(one.x0, one.x0)
                self.parts.append((one, (place, self.top), (place, self.bottom)))
        self.taken: list[Box] = []

    def at(self, x: float, y: float) -> Point:
        (first, last), (low, high) = self.x.range, self.y.range
        right = (_on(self.x, x) - first) / (last - first) * (self.right - self.left)
        up = (_on(self.y, y) - low) / (high - low) * (self.bottom - self.top)
        return self.left + right, self.bottom - up

    def points(self, line: Any) -> Iterator[Point]:
        return (self.at(x, y) for x, y in zip(line.x, line.y, strict=True) if y == y)

    def box(self, place: Place, wide: float) -> Box:
        """What a name of that width covers there."""
        _, x, y, right, down = place
        left, middle = (a + b for a, b in zip(self.at(x, y), (right, down), strict=True))
        return left, left + wide, middle - LINE / 2, middle + LINE / 2

    def cost(self, line: Any, place: Place, wide: float) -> float:
        """Pixels that lines and names count which a name of this line would cover, other lines that come near,
        and a frame that cuts it off."""
        left, right, top, bottom = box = self.box(place, wide)
        inside = left > self.left + 2 and right < self.width
        inside &= top > self.top + 1 and bottom < self.bottom + 9
        names = sum(a < right and left < b and c < bottom and top < d for a, b, c, d in self.taken)
        lines = sum(crosses(start, end, box) for _, start, end in self.parts)
        x, y = self.at(*place[1:3])  # a line between a name and its point makes it another line's
        room = min(left - NEAR, x), max(right + NEAR, x), min(top - NEAR, y), max(bottom + NEAR, y)
        near = any(one is not line and one.type == "scatter" and crosses(start, end, room)
                   for one, start, end in self.parts)  # fmt: skip
        return 1e6 * (not inside) + 1e4 * (names + lines) + 2 * FAR * near


def crosses(start: Point, end: Point, box: Box) -> bool:
    """Whether a segment has a point in a box."""
    enter, leave = 0.0, 1.0
    for a, b, low, high in zip(start, end, box[::2], box[1::2], strict=True):
        if a == b:
            if not low <= a <= high:
                return False
            continue
        near, far = sorted(((low - a) / (b - a), (high - a) / (b - a)))
        enter, leave = max(enter, near), min(leave, far)
    return enter <= leave
