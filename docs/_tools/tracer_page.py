"""The tracer as one HTML file without a kernel: `python -m docs._tools.tracer_page FILE [TRACELOG ...]`.

With TraceLogs the page shows these, else the recorded ten clients. To embed it in another page, use
`mpmkit.lab.tracing.embedded()`, as the body does here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpmkit.lab.tracing import embedded, shown

STYLE = """:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 12px; max-width: 1200px; background: #ffffff; color: #222222;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 20px; margin: 0 0 4px; } p.lead { margin: 0 0 10px; max-width: 75ch; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e8e8e8; } }"""
LEAD = """Three real runs with the same ten clients and four workers: prefork has four processes, worker and event
two processes of two threads. Every step comes from the run's TraceLog."""


def page(runs: Iterable[dict[str, Any]] | None = None, lead: str = LEAD) -> str:
    """The whole page; runs as `mpmkit.lab.tracing.shown` makes them, by default the recorded ones."""
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>mpmkit: one connection's way</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>One connection's way through prefork, worker and event</h1>\n<p class='lead'>{lead}</p>\n"
        f"{embedded(runs)}</body>\n</html>\n"
    )


def main(argv: list[str]) -> None:
    if not argv:
        raise SystemExit(__doc__)
    runs = shown(*(Path(name).read_text() for name in argv[1:])) if argv[1:] else None
    lead = "Real runs; every step comes from their TraceLog." if runs else LEAD
    Path(argv[0]).write_text(page(runs, lead), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
