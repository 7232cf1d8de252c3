"""Notebooks as files. A book is its path, or its name below notebooks/."""

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
Book = Path | str


def cells(book: Book) -> list[dict[str, Any]]:
    path = book if isinstance(book, Path) else NOTEBOOKS / f"{book}.ipynb"
    return json.loads(path.read_text())["cells"]


def texts(book: Book, kind: str = "") -> list[str]:
    """The sources of its cells, or of those of a kind."""
    return ["".join(cell["source"]) for cell in cells(book) if kind in ("", cell["cell_type"])]


def headings(book: Book) -> list[str]:
    return re.findall(r"^#+ (.+)$", "\n".join(texts(book, "markdown")), re.MULTILINE)


def predictions(code: str) -> list[str]:
    """The names of the predictions in code; each is made before it is compared with a result."""
    names = re.findall(r"^(\w+) = lesson\.predict\(", code, re.MULTILINE)
    for name in names:
        assert code.index(f"{name} = lesson.predict(") < code.index(f"{name}.shown("), name
    return names
