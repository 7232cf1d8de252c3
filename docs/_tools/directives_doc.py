"""The table of directives as a page: ``python -m docs._tools.directives_doc > docs/DIRECTIVES.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpmkit.config.directives import MPMS, ROWS, Spec
from mpmkit.config.values import READ_TIMEOUT


def markdown() -> str:
    """The whole page: one table for each chapter of `mpmkit.config.directives.ROWS`."""
    return _HEAD + "".join(
        f"\n## {title}\n\n{_TABLE_HEAD}{''.join(_table_row(row) for row in rows)}"
        for title, rows in _chapters()
    )


_HEAD = """# Directives

This file is written by `python -m docs._tools.directives_doc`; edit the table in `mpmkit/config/directives.py`.

Names are Apache's, in any case. Numbers are read as in C: `12x` is 12 and
`abc` is 0. A number marked *corrected* is brought within its bounds, with a note; one marked
*refused* stops the start, as does every other mistake. The last line for a name wins, except for
those that may be repeated. Defaults compiled into httpd that differ are in brackets.
`mpmkit/config/httpd_directives.txt` lists httpd's other directives and their treatment.
"""
_TABLE_HEAD = (
    "| directive | what it does | takes | default | bounds | from |\n|---|---|---|---|---|---|\n"
)


def _chapters() -> list[tuple[str, list[Spec]]]:
    starts = {
        "StartServers": "Processes and threads",
        "Listen": "Listening",
        "ServerRoot": "The server and its files",
        "Timeout": "Connections",
        "SSLEngine": "TLS",
        "EnableSendfile": "Responses",
        "DirectoryIndex": "The site",
    }
    chapters: list[tuple[str, list[Spec]]] = []
    for row in ROWS:
        if row.name in starts:
            chapters.append((starts[row.name], []))
        chapters[-1][1].append(row)
    return chapters


def _table_row(row: Spec) -> str:
    bounds = ""
    if row.low is not None or row.high is not None:
        high = row.high
        most = (
            ", ".join(f"{number} ({mpm})" for mpm, number in high.items())
            if isinstance(high, Mapping)
            else str(high)
        )
        bounds = f"from {row.low}" if high is None else f"{row.low} to {most}"
        bounds += ", refused" if row.refused else ", corrected"
    unit = f" ({row.unit})" if row.unit else ""
    only = "" if row.mpms == MPMS else f" *{' and '.join(row.mpms)} only.*"
    repeated = " *May be repeated.*" if row.repeated else ""
    inside = {"any": " *Also in sections.*", "section": " *Only in sections.*"}
    doc = f"{row.doc}.{only}{repeated}{inside.get(row.where, '')}"
    cells = (f"`{row.name}`", doc, f"{row.takes}{unit}", _default_cell(row), bounds, row.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default_cell(row: Spec) -> str:
    def show(value: Any) -> str:
        if value is READ_TIMEOUT:
            return "`handshake=0 header=20-40,MinRate=500 body=20,MinRate=500`"
        if isinstance(value, bool):
            return "On" if value else "Off"
        if isinstance(value, float):
            return f"{value:g}"
        if isinstance(value, tuple):
            return " ".join(value)
        if isinstance(value, dict):
            return ", ".join(f"{key}: `{one}`" for key, one in value.items())
        return "" if value is None else str(value)

    if not row.attribute or row.renamed:
        return ""
    if row.per_mpm:
        text = ", ".join(f"{show(row.default[mpm])} ({mpm})" for mpm in row.mpms)
    else:
        text = show(row.default)
    return f"{text or 'none'}{f' [{row.httpd}]' if row.httpd else ''}"


if __name__ == "__main__":
    print(markdown(), end="")
