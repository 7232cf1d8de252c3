"""The exercises for otter-grader: a folder each, in its file format. otter itself is not needed for this.

    python -m docs._tools.otter              # notebooks/exercises/solutions -> build/otter

Each folder has the student's notebook with `grader.check` behind each check, `tests/` in the OK format (a
test a task, with its points), the helpers that the checks need, and requirements.txt. With otter-grader:

    cd build/otter/e4-noise
    otter check -q paired e4-noise.ipynb             one task of a student's notebook
    otter generate -t tests -r requirements.txt helpers     autograder.zip (Gradescope, otter grade)

The tests call the same checks as the notebook does, so a task that says RIGHT has its points.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pprint import pformat
from typing import Any

from docs._tools.exercises import student_copy
from docs._tools.render import notebooks_and_target

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "notebooks" / "helpers"
CHECK = re.compile(r"^(?:checks\.(\w+)\(|(\w+)\.check\(|.*\bchecks\.(\w+)\()", re.MULTILINE)
MADE = re.compile(r"^(\w+) = \w*tasks\.(\w+)\(", re.MULTILINE)
GRADER = "import otter\n\ngrader = otter.Notebook({!r})"


def doctest(code: str) -> str:
    """A check's cell as a doctest that fails unless its last expression is true, and then shows it."""
    lines = code.splitlines()
    *before, last = ast.parse(code).body
    shown = []
    for statement in before:
        first, *rest = lines[statement.lineno - 1 : statement.end_lineno]
        shown += [f">>> {first}", *(f"... {line}" for line in rest)]
    if not isinstance(last, ast.Expr):
        raise ValueError(f"the last line of a check is its verdict, not {ast.unparse(last)!r}")
    verdict = ast.unparse(last)
    return "\n".join([*shown, f">>> verdict = {verdict}", ">>> assert verdict, verdict", ""])


def tasks(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[int, str, str]]:
    """(number of the cell, name of the task, code) of each check."""
    named: dict[str, str] = {}
    for place, cell in enumerate(cells):
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        named |= dict(MADE.findall(code))
        if found := CHECK.search(code):
            name = next(filter(None, found.groups()))
            yield place, named.get(name, name), code


def test_file(name: str, points: int, code: str) -> str:
    """The text of tests/NAME.py, in the OK format."""
    case = {"code": doctest(code), "hidden": False, "locked": False, "points": points}
    suite = {"cases": [case], "scored": True, "setup": "", "teardown": "", "type": "doctest"}
    test = {"name": name, "points": points, "suites": [suite]}
    return f"OK_FORMAT = True\n\ntest = {pformat(test, sort_dicts=False)}\n"


def export(source: Path, target: Path, worth: dict[str, Any]) -> Path:
    """Write the folder of one exercise; its path. Raises ValueError for a source that is not in order."""
    book = student_copy(json.loads(source.read_text(encoding="utf-8")), source.name)
    folder = target / source.stem
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tests").mkdir(parents=True)
    shutil.copytree(HELPERS, folder / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    code: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
    }
    for place, name, check in reversed([*tasks(book["cells"])]):
        (folder / "tests" / f"{name}.py").write_text(test_file(name, worth[name].points, check))
        call = {**code, "id": f"grade-{name}", "source": [f'grader.check("{name}")']}
        book["cells"].insert(place + 1, call)
    begin = GRADER.format(source.name).splitlines(keepends=True)
    book["cells"].insert(1, {**code, "id": "grader", "source": begin})
    text = json.dumps(book, indent=1, ensure_ascii=False)
    # Links lead to the notebooks of the course, which are not here.
    text = re.sub(r"\[(\d\d)\]\(\.\./[\w-]+\.ipynb\)", r"\1", text)
    (folder / source.name).write_text(text + "\n", encoding="utf-8")
    (folder / "requirements.txt").write_text(f"mpmkit[lab] @ {ROOT.as_uri()}\n")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Export every exercise; 1 without exercises, or if a source has a mistake."""
    from helpers.hints import WORTH

    folders = {"sources": "notebooks/exercises/solutions", "target": "build/otter"}
    chosen, books = notebooks_and_target(sys.modules[__name__], argv, **folders)
    for source in books:
        try:
            print(export(source, chosen.target, WORTH))
        except ValueError as error:
            print(f"mpmkit: {source.name}: {error}", file=sys.stderr)
            return 1
    return int(not books)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "notebooks"))
    sys.exit(main())
