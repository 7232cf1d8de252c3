"""Progress where it is looked for: a bar in a notebook, lines of text elsewhere.

    qps_table(on_progress=Progress())
    run_load(server, requests=20_000, on_progress=Progress(total=20_000))

A bar is an ipywidgets widget whose traits are set; nothing is printed, so it works from whichever
thread the measurement calls in. MPMKIT_PROGRESS=text asks for text in a notebook too: an executed
copy shows no widget.
"""

from __future__ import annotations

import os
import sys
from typing import Any

MODES = ("auto", "bar", "text")


class Progress:
    """A callable for `on_progress`.

    It takes either one value with a `.share` from 0 to 1 whose text says what is done (that is
    `qps_table`'s; when such a value carries a finished row, text mode prints it), or requests done
    and seconds passed (that is `run_load`'s; `total` is then how many requests there will be).

    `mode` is "bar", "text", or "auto": a bar under a Jupyter kernel that has ipywidgets, unless
    MPMKIT_PROGRESS says otherwise. Raises ValueError for another mode.
    """

    def __init__(self, total: int | None = None, *, mode: str | None = None) -> None:
        chosen = mode or os.environ.get("MPMKIT_PROGRESS") or "auto"
        if chosen not in MODES:
            raise ValueError(f"no mode {chosen!r}; choose {', '.join(MODES)}")
        self.total = total
        self.share = 0.0
        self.text = ""
        self._told = 0  # tenths already printed in text mode
        self._bar: Any = None
        self._label: Any = None
        if chosen == "bar" or (chosen == "auto" and in_notebook()):
            self._show_bar()

    @property
    def mode(self) -> str:
        """ "bar" or "text": how it shows."""
        return "text" if self._bar is None else "bar"

    def __call__(self, told: Any, seconds: float | None = None) -> None:
        if seconds is None:
            share, text, finished = float(told.share), str(told), getattr(told, "row", None)
        else:
            share = min(1.0, told / self.total) if self.total else 0.0
            text, finished = f"{told:,} requests in {seconds:.1f} s", None
        self.share, self.text = share, text
        if self._bar is not None:
            self._bar.value = share
            self._label.value = text
            if share >= 1:
                self._bar.bar_style = "success"
        elif finished is not None:
            print(text, file=sys.stdout, flush=True)
        elif seconds is not None and int(share * 10) > self._told:
            self._told = int(share * 10)
            print(f"{share:4.0%}  {text}", file=sys.stdout, flush=True)

    def _show_bar(self) -> None:
        try:
            import ipywidgets
            from IPython.display import display
        except ImportError:
            return  # text it is
        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0, layout={"width": "40%"})
        self._label = ipywidgets.Label()
        display(ipywidgets.HBox([self._bar, self._label]))


def in_notebook() -> bool:
    """Whether this runs under a Jupyter kernel; a terminal's IPython is none."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
