"""Exercises for students, made from those with solutions.

    python -m docs._tools.exercises            # notebooks/exercises/solutions -> notebooks/exercises

A source notebook has, for each exercise, a cell tagged `exercise` (the student's, with `...` where the
answer goes), one tagged `solution`, and one that checks the answer. The student's copy is the source
without the cells tagged `solution`; the source itself is the instructor's, and runs from top to bottom.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from typing import Any

from docs._tools.render import notebooks_and_target


class ExerciseError(ValueError):
    """A source notebook that can't be made an exercise of; the message names it and the cell."""


def tags(cell: dict[str, Any]) -> set[str]:
    """The tags of a cell, as JupyterLab's property inspector sets them."""
    return set(cell.get("metadata", {}).get("tags", ()))


def student_copy(book: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook (nbformat's JSON) without its solutions and outputs; `book` is not changed.

    Raises ExerciseError unless each exercise is followed by its solution, and each solution has one.
    """
    made = copy.deepcopy(book)
    kept, waits = [], ""  # the exercise whose solution has not come yet
    for cell in made["cells"]:
        where = f"{name}, cell {cell.get('id', '?')}"
        kind = {"exercise", "solution"} & tags(cell)
        if len(kind) == 2:
            raise ExerciseError(f"{where} is tagged exercise and solution; a cell is one of both")
        if kind == {"solution"}:
            if not waits:
                raise ExerciseError(f"{where} is a solution without an exercise before it")
            waits = ""
            continue
        if kind and waits:
            break
        waits = where if kind else waits
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        else:
            # One folder up from the solutions: what leads out of the folder leads out of one less.
            cell["source"] = [line.replace("](../../", "](../") for line in cell["source"]]
        kept.append(cell)
    if waits:
        raise ExerciseError(f"{waits} is an exercise without a solution after it")
    return {**made, "cells": kept}


def main(argv: Sequence[str] | None = None) -> int:
    """Make every student's copy; 1 if there is nothing to make, or a source is not in order."""
    folders = {"sources": "notebooks/exercises/solutions", "target": "notebooks/exercises"}
    chosen, books = notebooks_and_target(sys.modules[__name__], argv, **folders)
    if not books:
        return 1
    for source in books:
        try:
            made = student_copy(json.loads(source.read_text(encoding="utf-8")), source.name)
        except ValueError as error:
            print(f"mpmkit: {error}", file=sys.stderr)
            return 1
        chosen.target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        made_at = chosen.target / source.name
        made_at.write_text(text, encoding="utf-8")
        print(made_at)
    return 0


if __name__ == "__main__":
    sys.exit(main())
