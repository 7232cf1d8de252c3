"""Figures: functions that take rows and return plotly figures. They draw what is in the rows, only.

Each figure carries its description for a reader who cannot see it in `layout.meta["alt"]` (see
`alt_text`), labels its bars directly, and draws the spread of the rounds. `save` writes it as PNG
and SVG. Drawn elsewhere: `lab.timeline` (what a watch recorded) and `diagram` (a scoreboard).
"""

from mpmkit.lab.figures_qps import KIND_TITLES, qps_bars
from mpmkit.lab.plots import OURS, WIDTH, alt_text, dress, find_browser, save

__all__ = [
    "KIND_TITLES", "OURS", "WIDTH", "alt_text", "dress", "find_browser", "qps_bars", "save",
]  # fmt: skip
