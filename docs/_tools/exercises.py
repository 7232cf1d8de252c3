"""Exercises for students, made from those with solutions.

    python -m docs._tools.exercises            # notebooks/exercises/solutions -> notebooks/exercises

A source notebook has, for each exercise, a cell tagged `exercise` (the student's, with `...` where the
answer goes), one tagged `solution`, and one that checks the answer. The student's copy is the source
without the cells tagged `solution`; the source itself is the instructor's, and runs from top to bottom.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ExerciseError(ValueError):
    """A source notebook that can't be made an exercise of; the message names it and the cell."""


def tags(cell: dict[str, Any]) -> set[str]:
    """The tags of a cell, as JupyterLab's property inspector sets them."""
    return set(cell.get("metadata", {}).get("tags", ()))


def student_copy(book: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook (nbformat's JSON) without its solutions and outputs; `book` is not changed.

    Raises ExerciseError if an exercise has no solution after it, or none has an exercise before it.
    """
    made = copy.deepcopy(book)
    kept, open_cell = [], ""
    for cell in made["cells"]:
        where = f"{name}, cell {cell.get('id', '?')}"
        if {"exercise", "solution"} <= tags(cell):
            raise ExerciseError(f"{where} is tagged exercise and solution; a cell is one of both")
        if "solution" in tags(cell):
            if not open_cell:
                raise ExerciseError(f"{where} is a solution without an exercise before it")
            open_cell = ""
            continue
        if "exercise" in tags(cell):
            if open_cell:
                raise ExerciseError(f"{open_cell} is an exercise without a solution after it")
            open_cell = where
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        # One folder up from the solutions: what leads out of the folder leads out of one less.
        if cell["cell_type"] == "markdown":
            cell["source"] = [line.replace("](../../", "](../") for line in cell["source"]]
        kept.append(cell)
    if open_cell:
        raise ExerciseError(f"{open_cell} is an exercise without a solution after it")
    made["cells"] = kept
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Make every student's copy; 1 if there is nothing to make, or a source is not in order."""
    parser = argparse.ArgumentParser(
        prog="python -m docs._tools.exercises",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", type=Path, nargs="?", default=Path("notebooks/exercises/solutions")
    )
    parser.add_argument("target", type=Path, nargs="?", default=Path("notebooks/exercises"))
    chosen = parser.parse_args(argv)
    books = sorted(chosen.sources.glob("*.ipynb"))
    if not books:
        print(f"mpmkit: no notebook *.ipynb in {chosen.sources}", file=sys.stderr)
        return 1
    for source in books:
        try:
            made = student_copy(json.loads(source.read_text(encoding="utf-8")), source.name)
        except ValueError as error:
            print(f"mpmkit: {error}", file=sys.stderr)
            return 1
        chosen.target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        (chosen.target / source.name).write_text(text, encoding="utf-8")
        print(chosen.target / source.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
