"""Slides from the same notebooks: a heading begins a slide, a sentence and its figure go together.

    python -m docs._tools.slides notebooks/rendered build/slides [--only 03]

Made from the executed copies, so they show results. nbconvert writes reveal.js pages. The
scripts that a page needs are fetched once with npm and put next to the slides, so that they show without a
network; without npm the pages fetch them from the network each time, with a message.

    cell                              on the slides
    --------------------------------  --------------------------------------------------------------
    text that begins with a heading   begins a slide
    other text                        begins a slide below (arrow down)
    code                              under its text; its result alone if that is a figure, on a
                                      slide below if there is much code above it
    code of imports only              left out
    with slideshow metadata           as set there (JupyterLab: property inspector, Slide Type)
    metadata `notes` of any cell      speaker notes of its slide: key S opens the speaker's window
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docs._tools.render import notebooks_and_target

PACKAGES = ("reveal.js@4.6.1", "requirejs@2.3.7", "jquery@3.7.1")
# Where nbconvert's page and reveal.js's theme ask the network for more: diagrams that no notebook
# has, and fonts. These slides need no network.
MERMAID = re.compile(r'<script type="module">\s*import mermaid .*?</script>', re.DOTALL)
REMOTE = re.compile(r"@import url\(https?://[^)]*\);?\n?")
THEME = Path("node_modules/reveal.js/dist/theme/simple.css")

ROOM = 4  # lines of code that stand above a figure without pushing it off the slide

# What reveal.js shows at 1280 x 720 without cutting it off.
STYLE = """<style>
.reveal, .reveal h1, .reveal h2, .reveal h3 { font-family: system-ui, "Segoe UI", Roboto, sans-serif; }
.reveal .slides section { overflow-y: auto; max-height: 96vh; font-size: 26px; }
.reveal .slides h1 { font-size: 1.6em; } .reveal .slides h2 { font-size: 1.3em; }
.reveal .slides pre { font-size: 16px; line-height: 1.3; box-shadow: none; }
.reveal .slides img { max-height: 62vh; margin: 0 auto; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
</style>"""


def slide_type(cell: Any) -> str:
    """Where a cell goes: nbconvert's slide, subslide, skip or "-" (with the one before)."""
    chosen = cell.get("metadata", {}).get("slideshow", {}).get("slide_type")
    if chosen:
        return str(chosen)
    if cell["cell_type"] == "markdown":
        return "slide" if "".join(cell["source"]).lstrip().startswith("#") else "subslide"
    return "skip" if only_imports("".join(cell["source"])) else "-"


def only_imports(source: str) -> bool:
    """Whether a code cell does nothing but import."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False  # a magic, for one
    return bool(body) and all(isinstance(part, (ast.Import, ast.ImportFrom)) for part in body)


def mark(book: Any) -> Any:
    """Give each cell its place on the slides, add its notes, and hide the code that draws a figure; in place."""
    lines, cells = 0, []  # lines: of code on the slide so far
    for cell in book["cells"]:
        cells += [cell, *notes(cell)]
        place, source = slide_type(cell), "".join(cell["source"])
        kinds = {kind for output in cell.get("outputs", ()) for kind in output.get("data", {})}
        figure = any(kind.startswith("image/") for kind in kinds)
        if figure:
            cell["metadata"].setdefault("tags", []).append("hide-input")
            if place == "-" and lines > ROOM:
                place = "subslide"  # both together would be cut off
        if place in ("slide", "subslide"):
            lines = 0
        if cell["cell_type"] == "code" and not figure and place != "skip":
            lines += source.count("\n") + 1
        cell["metadata"].setdefault("slideshow", {})["slide_type"] = place
    book["cells"] = cells
    return book


def notes(cell: Any) -> list[Any]:
    """The cell of the speaker's notes that a cell carries in its metadata, where nothing projects them: a line
    is an item. None of them: an empty list."""
    from nbformat.v4 import new_markdown_cell

    text = cell["metadata"].get("notes", "")
    listed = "\n".join(f"* {line}" for line in text.splitlines())
    return (
        [new_markdown_cell(listed, metadata={"slideshow": {"slide_type": "notes"}})] if text else []
    )


def fetch(place: Path) -> dict[str, str]:
    """The scripts next to the slides: nbconvert's options that name them, or none if npm can't.

    What is there is not fetched again.
    """
    scripts = {
        "reveal_url_prefix": "node_modules/reveal.js",
        "require_js_url": "node_modules/requirejs/require.js",
        "jquery_url": "node_modules/jquery/dist/jquery.min.js",
    }
    if not all((place / path).exists() for path in scripts.values()):
        print("mpmkit: fetching reveal.js with npm …", file=sys.stderr)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--fetch-retries=1"]
        try:
            given = [*command, "--prefix", str(place), *PACKAGES]
            subprocess.run(given, capture_output=True, timeout=120, check=True)
        except (OSError, subprocess.SubprocessError):
            print(
                "mpmkit: npm is missing or has no network: these slides need the network to be shown",
                file=sys.stderr,
            )
            return {}
    theme = place / THEME
    theme.write_text(REMOTE.sub("", theme.read_text()))
    return {**scripts, "mathjax_url": "", "font_awesome_url": ""}


def write(source: Path, target: Path, scripts: dict[str, str]) -> Path:
    """One notebook as TARGET/NAME.slides.html; returns that path."""
    import nbformat
    from nbconvert.exporters import SlidesExporter
    from traitlets.config import Config

    book = mark(nbformat.read(source, as_version=4))
    size = {"reveal_number": "c/t", "reveal_width": "1240", "reveal_height": "700"}
    hidden = {"enabled": True, "remove_input_tags": {"hide-input"}}
    deck = {**scripts, **size, "embed_images": True}  # the folder can be copied elsewhere
    config = Config({"SlidesExporter": deck, "TagRemovePreprocessor": hidden})
    place = {"metadata": {"path": str(source.parent)}}  # where the text's pictures are looked for
    page, _ = SlidesExporter(config=config).from_notebook_node(book, resources=place)
    page = MERMAID.sub("", page).replace('<script src=""> </script>', "")
    path = target / f"{source.stem}.slides.html"
    path.write_text(page.replace("</head>", f"{STYLE}\n</head>", 1), encoding="utf-8")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Write the slides of every notebook of a folder; 1 if it has none."""
    chosen, books = notebooks_and_target(sys.modules[__name__], argv)
    if not books:
        return 1
    chosen.target.mkdir(parents=True, exist_ok=True)
    scripts = fetch(chosen.target)
    for source in books:
        print(write(source, chosen.target, scripts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
