"""One colour per MPM, the same in every figure, widget and table.

The three differ in lightness, so they stay apart on a grey print, and in hue so that they stay apart under
protanopia, deuteranopia and tritanopia. The light set is Paul Tol's high-contrast scheme. Colour is never the
only sign: figures label bars and lines directly, and each MPM has a dash and a marker of its own.
"""

import os
import re
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS as MPMS
from mpmkit.policy.states import LETTERS, WORDS

LIGHT = {"prefork": "#004488", "worker": "#BB5566", "event": "#DDAA33"}
DARK = {"prefork": "#4477CC", "worker": "#EE8899", "event": "#F2D675"}

# Lines need 3:1 against their paper, words 4.5:1; where a colour has less, this is used instead.
STROKES = {"event": "#B07A00"}
TEXTS = {False: {"event": "#96690A"}, True: {"prefork": "#6C98E0"}}

DASHES = {"prefork": "solid", "worker": "dash", "event": "dot"}
MARKERS = {"prefork": "square", "worker": "circle", "event": "diamond"}

# Other servers, shown with ours: greys, since the hues are taken.
OTHERS = {
    False: {"httpd": "#555555", "nginx": "#8C8C8C"},
    True: {"httpd": "#8E8E8E", "nginx": "#C4C4C4"},
}

INK = {False: "#222222", True: "#E8E8E8"}
PAPER = {False: "#FFFFFF", True: "#16181C"}
GRID = {False: "#E3E3E3", True: "#33373E"}

# Letters of the scoreboard in Okabe and Ito's colours, which everyone can tell apart. An idle worker is quiet, an
# empty slot has the paper's. On dark paper, blue is lighter: busy workers are what is looked for.
_LETTERS = {
    "S": "#F0E442", "R": "#56B4E9", "W": "#0072B2", "K": "#E69F00", "L": "#009E73",
    "D": "#7F7F7F", "C": "#CC79A7", "G": "#D55E00", "I": "#7F7F7F", "_": "#DCE1E6", ".": PAPER[False],
}  # fmt: skip
_DARK = {"W": "#2E90D9", "R": "#A5DCFA", "_": "#434A54", ".": PAPER[True]}
LETTER_COLOURS = {False: _LETTERS, True: _LETTERS | _DARK}

THEMES = ("light", "dark")


def is_dark(theme: str | None = None) -> bool:
    """Whether to draw for dark pages: as `theme` says, else MPMKIT_THEME, else JupyterLab's settings, else light.
    Raises ValueError for a theme that is neither "light" nor "dark"."""
    chosen = theme or os.environ.get("MPMKIT_THEME") or _of_jupyterlab()
    if chosen not in THEMES:
        raise ValueError(f"no theme {chosen!r}; choose light or dark")
    return chosen == "dark"


def _of_jupyterlab() -> str:
    config = os.environ.get("JUPYTER_CONFIG_DIR") or os.path.expanduser("~/.jupyter")
    folder = Path(os.environ.get("JUPYTERLAB_SETTINGS_DIR") or f"{config}/lab/user-settings")
    try:  # JSON with comments
        text = (folder / "@jupyterlab/apputils-extension/themes.jupyterlab-settings").read_text()
    except (OSError, ValueError):  # no file, no text
        return "light"
    return "dark" if re.search(r'^\s*\{?\s*"theme":.*dark', text, re.M | re.I) else "light"


def ink(theme: str | None = None) -> str:
    """The colour of words and axes."""
    return INK[is_dark(theme)]


def colour(mpm: str, theme: str | None = None) -> str:
    """The MPM's colour as #RRGGBB. Raises ValueError for an unknown MPM or theme."""
    colours = DARK if is_dark(theme) else LIGHT
    known = colours | OTHERS[is_dark(theme)]
    if mpm not in known:
        raise ValueError(f"no colour for {mpm!r}; there is one for {', '.join(known)}")
    return known[mpm]


def stroke(mpm: str, theme: str | None = None) -> str:
    """The MPM's colour for lines and markers."""
    return colour(mpm, theme) if is_dark(theme) else STROKES.get(mpm) or colour(mpm, theme)


def text_colour(mpm: str, theme: str | None = None) -> str:
    """The MPM's colour for words."""
    return TEXTS[is_dark(theme)].get(mpm) or colour(mpm, theme)


def letter_colour(letter: str, theme: str | None = None) -> str:
    """The colour of a scoreboard letter as #RRGGBB."""
    return LETTER_COLOURS[is_dark(theme)][letter]


def pale(colour: str, share: float = 0.12) -> str:
    """The colour, shining through."""
    return f"rgba({','.join(map(str, bytes.fromhex(colour[1:])))},{share})"


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on that colour."""
    red, green, blue = bytes.fromhex(colour[1:])
    return "#FFFFFF" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#111111"


def palette() -> dict[str, Any]:
    """Colours and words for the browser, for a light page and a dark one."""
    tones = {
        tone: {
            "letters": {letter: letter_colour(letter, tone) for letter in LETTERS},
            "mpms": {mpm: colour(mpm, tone) for mpm in MPMS},
            "texts": {mpm: text_colour(mpm, tone) for mpm in MPMS},
        }
        for tone in THEMES
    }
    return tones | {"words": dict(zip(LETTERS, WORDS, strict=True))}
