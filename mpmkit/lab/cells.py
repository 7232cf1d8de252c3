"""Panels by the cell that made them: those of a cell's last run are closed when it runs again."""

from __future__ import annotations

import sys
from typing import Any

_made: dict[str, tuple[str, list[Any]]] = {}  # cell id -> (one id for each run of it, its panels)


def panels_of_this_run() -> list[Any]:
    """The list to which a new panel is added; what an earlier run of the cell made is closed. Outside a
    notebook nothing is kept."""
    cell, run = _cell()
    before, panels = _made.get(cell, ("", []))
    if before != run:
        for panel in panels:
            panel.close()
        panels = []
    if cell:
        _made[cell] = (run, panels)
    return panels


def _cell() -> tuple[str, str]:
    """(the id of the cell that runs, an id of this run of it); ("", "") outside a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return "", ""
    try:
        parent = kernel.get_parent()
        return str(parent["metadata"]["cellId"]), str(parent["header"]["msg_id"])
    except (AttributeError, KeyError, TypeError):
        return "", ""
