"""What all figures share: paper and ink, labels at lines' ends, descriptions, pictures as files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

OURS = "mpmkit"
LIMITED = "the load generator was the limit, or the machine that it shares"
WIDTH = 960  # CSS pixels: a Lab page holds it, and the labels of six bars a panel fit
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def dress(
    figure: go.Figure, title: str, theme: str | None, *, alt: str = "", **layout: Any
) -> None:
    """Title, colours, fonts and quiet axes, as all figures have them, and the description `alt`.

    layout: plotly's settings that differ from those.
    """
    settings = colours.layout(theme)
    axes = settings.pop("xaxis"), settings.pop("yaxis")
    shared = {"showlegend": False, "width": WIDTH, "height": 460}
    figure.update_layout(**shared | settings | layout)
    figure.update_layout(title={"text": title, "x": 0, "xref": "paper"}, meta={"alt": alt})
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])


def alt_text(figure: go.Figure) -> str:
    """What the figure shows, in words and numbers, for a reader who cannot see it."""
    meta: Any = figure.layout.meta
    return str((meta or {}).get("alt", ""))


def need(frame: pandas.DataFrame, columns: tuple[str, ...], give: str) -> None:
    """Raises ValueError if columns are missing; `give` is what has them."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give {give}")


def label_ends(
    figure: go.Figure, ends: list[tuple[float, float, str]], theme: str | None, shift: float = 0
) -> None:
    """Write labels at lines' ends, (y, x, text), moved up so that none covers another."""
    room = 0.055 * max((y for y, *_ in ends), default=0)
    width = 0.4 * max((x for _, x, _ in ends), default=0)
    placed: list[tuple[float, float]] = []
    for y, x, text in sorted(ends):
        below = [other for other, place in placed if abs(place - x) < width]
        if below and y - max(below) < room:
            y = max(below) + room
        placed.append((y, x))
        figure.add_annotation(
            x=x,
            y=y,
            text=text,
            showarrow=False,
            xanchor="left",
            xshift=shift,
            font={"color": colours.INK[colours.is_dark(theme)], "size": 13},
        )


def server_colour(server: str, mpm: str, theme: str | None, *, line: bool = False) -> str:
    """The MPM's colour for our server, grey for another."""
    ours = colours.stroke if line else colours.colour
    return ours(mpm, theme) if server == OURS else colours.OTHERS.get(server, "#777777")


def count(value: float) -> str:
    """A number without decimals, thousands separated; a dash for NaN."""
    return f"{value:,.0f}" if value == value else "–"


def rgb(colour: str) -> tuple[int, int, int]:
    """#RRGGBB as numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def pale(colour: str, share: float = 0.12) -> str:
    """The colour, shining through."""
    red, green, blue = rgb(colour)
    return f"rgba({red},{green},{blue},{share})"


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on that colour."""
    red, green, blue = rgb(colour)
    return "#FFFFFF" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#111111"


def save(
    figure: go.Figure,
    stem: str | os.PathLike[str],
    *,
    width: int = WIDTH,
    height: int | None = None,
    scale: float = 2,
) -> tuple[Path, Path]:
    """Write STEM.png and STEM.svg; returns both paths. Pixels are CSS pixels times `scale`; the
    height is the figure's own by default.

    Needs kaleido and a Chromium; raises RuntimeError that says which of them is missing.
    """
    browser = find_browser()
    if browser is None:
        raise RuntimeError(
            "a figure becomes a picture in a Chromium, which is not installed; "
            "apt install chromium, or set BROWSER_PATH"
        )
    os.environ.setdefault("BROWSER_PATH", browser)
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise RuntimeError("kaleido is not installed; pip install kaleido") from None
    paths = Path(f"{os.fspath(stem)}.png"), Path(f"{os.fspath(stem)}.svg")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_image(
            path, width=width, height=height or figure.layout.height or 460, scale=scale
        )
    return paths


def find_browser() -> str | None:
    """A Chromium for kaleido, or None. BROWSER_PATH wins, as it does in kaleido itself."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)
