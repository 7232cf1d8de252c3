"""The 90-minute kit: the class notebook, the plans and the exercises agree; the hand-out; the rehearsal."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from support.books import headings, predictions, texts

from docs._tools import rehearse
from mpmkit.config.directives import MPMS, SPECS
from mpmkit.policy.states import LETTERS

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "INSTRUCTORS.md").read_text()
BOOK = json.loads(rehearse.BOOK.read_text())
CELLS = [("".join(cell["source"]), cell["metadata"]) for cell in BOOK["cells"]]
SLOTS = rehearse.slots(BOOK)
# [01](…), "A section", "Another": without sections all of the notebook. [E1](…), 1, 2: tasks.
SHOWN = re.compile(r'\[(E?\d+)\]\([^)]*?([\w-]+)\.ipynb\)((?:, (?:"[^"]+"|\d+))*)')


def rows(heading: str) -> list[list[str]]:
    part = GUIDE.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [re.split(r"\s*\|\s*", line.strip())[1:-1] for line in lines[1:]]


def needed(exercise: str, task: str) -> set[tuple[str, str]]:
    """(notebook, section) that a task says it needs."""
    (text,) = (one for one in texts(f"exercises/{exercise}") if one.startswith(f"## {task}. "))
    (line,) = re.findall(r"^\*Needs (.+)\.\*$", text, re.MULTILINE)
    own = [(book, re.findall('"([^"]+)"', names)) for _, book, names in SHOWN.findall(line)]
    return {(book, one) for book, names in own for one in names}


@pytest.mark.parametrize("heading", ["Ninety minutes", "Half a day"])
def test_exercises_name_only_what_was_shown_before(heading):
    shown: set[tuple[str, str]] = set()
    asked = 0
    for row in rows(heading):
        for name, book, given in SHOWN.findall(" ".join(row)):
            if name.startswith("E"):
                for task in re.findall(r"\d+", given):
                    missing = needed(book, task) - shown
                    assert not missing, f"{name}, {task} in the row {row[:2]} needs {missing}"
                    asked += 1
                continue
            own = set(re.findall('"([^"]+)"', given)) or set(headings(book))
            missing = own - set(headings(book))
            assert not missing, f"{row[:2]}: {missing} are not in {book}"
            shown |= {(book, one) for one in own}
    assert asked >= 5


def test_every_task_of_the_first_exercises_is_in_the_half_day_and_needs_something():
    plan = " ".join(map(" ".join, rows("Half a day")))
    asked = {(book, task) for _, book, given in SHOWN.findall(plan)
             for task in re.findall(r", (\d+)", given)}  # fmt: skip
    for book in ("e1-pools", "e2-event", "e3-sizes"):
        tasks = re.findall(r"^## (\d+)\. ", "\n".join(texts(f"exercises/{book}")), re.MULTILINE)
        for task in tasks:
            assert (book, task) in asked and needed(book, task), f"{book}, {task}"


def test_the_plan_has_the_slots_of_the_notebook():
    plan = [row for row in rows("Ninety minutes") if len(row) == 8]
    assert len(plan) == len(SLOTS) == 10
    assert [slot.begins for slot in SLOTS[1:]] == [slot.ends for slot in SLOTS[:-1]]
    assert (SLOTS[0].begins, SLOTS[-1].ends) == (0, 90)
    heads = [(text, meta) for text, meta in CELLS if rehearse.HEADING.search(text)]
    for slot, (text, meta), row in zip(SLOTS, heads, plan, strict=True):
        number, minutes, objective, shown, cells, *_, instead = row
        assert (number, minutes) == (str(slot.number), f"{slot.begins}–{slot.ends}")
        assert cells == (f"{slot.cells[0]}–{slot.cells[-1]}" if slot.cells else "")
        assert (instead and "\nPlan B" in meta["notes"]) or slot.number == 1, number
        said = re.search(r"^Objectives? (.+?)\. ", text, re.MULTILINE)
        assert re.findall(r"\d", objective) == (re.findall(r"\d", said[1]) if said else [])
        assert slot.exercises == [f"{book}.ipynb" for one, book, _ in SHOWN.findall(shown)
                                  if one.startswith("E")]  # fmt: skip
        for section in re.findall('"([^"]+)"', shown if ".ipynb" in shown else ""):
            assert f'"{section}"' in text, f"slot {number}: {section}"


def test_cells_are_those_of_the_notebooks_and_predictions_come_first():
    copied = [(text, meta["source"]) for text, meta in CELLS if "source" in meta]
    assert len(copied) >= 20
    for text, book in copied:
        assert text in texts(book), f"{book} has changed: {text[:60]}"
    code = "\n".join(text for text, _ in CELLS)
    assert len(predictions(code)) == 6 and code.count('quiz.Quiz(*questions.OF["class"])') == 2


def test_the_hand_out_has_every_letter_and_the_defaults():
    text = (ROOT / "docs" / "HANDOUT.md").read_text()
    assert all(f"| `{letter}` |" in text for letter in LETTERS)
    lines = re.findall(r"^\| (`[A-Z]\w.+) \|$", text, re.MULTILINE)
    assert len(lines) >= 9
    for names, *figures, _ in (re.split(r"\s*\|\s*", line) for line in lines):
        specs = [SPECS[name.lower()] for name in re.findall(r"`(\w+)`", names)]
        for mpm, figure in zip(MPMS, figures, strict=True):
            known = [f"{spec.default_for(mpm):g}" for spec in specs if mpm in spec.mpms]
            assert re.findall(r"\d+", figure) == known, (names, mpm)


PLAN = rehearse.slots({"cells": [
    {"cell_type": "markdown", "source": "## 1 · One (minutes 0 to 1)"}, {"cell_type": "code", "source": ""},
    {"cell_type": "markdown", "source": "## 2 · Two (minutes 1 to 3)"}, {"cell_type": "code", "source": ""},
]})  # fmt: skip
WELL = rehearse.Walk({1: 2.0, 2: 59.0})
ROOM = rehearse.Use(1000, 400, 500)


@pytest.mark.parametrize(("walks", "use", "says"), [
    ([WELL, WELL], ROOM, ""),
    ([WELL, rehearse.Walk({1: 31.0, 2: 61.0})], ROOM, "slot 1, slot 2 took more than 50%"),
    ([WELL, rehearse.Walk({1: 2.0, 2: 3.0}, [2])], ROOM, "1 did not see"),
    ([WELL, rehearse.Walk(error="class.ipynb: it failed")], ROOM, "1 did not get to the end"),
    ([WELL], rehearse.Use(1000, 950, 50), "memory is short"),
])  # fmt: skip
def test_whether_students_fit(walks, use, says):
    fits, text = rehearse.report(PLAN, walks, use)
    last = text.splitlines()[-1]
    assert fits == (not says) and says in last
    assert last.startswith(f"{len(walks)} student") and ("fits" in last) == fits
    assert all(one.error in text for one in walks)


@pytest.fixture
def small(tmp_path, everything_ends) -> Path:
    """A notebook with one slot whose cell takes a second, or a minute if the folder has a file `long`."""
    code = "import os, time\ntime.sleep(60 if os.path.exists('long') else 1)"
    cells = [v4.new_markdown_cell("## 1 · One (minutes 0 to 1)"), v4.new_code_cell(code)]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "small.ipynb")
    return tmp_path / "small.ipynb"


@pytest.mark.timeout(90)
def test_two_students_walk_at_once(small, capsys):
    assert rehearse.main(["--students", "2", "--book", str(small)]) == 0
    said = capsys.readouterr().out
    took, memory = (float(re.search(one, said)[1].replace(",", "")) for one in (
        r"1 One +1 +([\d.]+)", r"memory: ([\d,]+) MB at most"))  # fmt: skip
    assert 1 <= took < 30 and memory > 50 and said.endswith("2 students: fits\n")


@pytest.mark.timeout(90)
def test_a_rehearsal_is_bounded_and_leaves_nothing(small, monkeypatch, capsys):
    monkeypatch.setattr(rehearse, "MOST_SECONDS", 6)
    (small.parent / "long").touch()
    ((walk,), _) = rehearse.rehearse(1, small)
    assert walk.error == "ended before its time"
    with pytest.raises(SystemExit):
        rehearse.main(["--students", "0"])
    assert "1 to 60" in capsys.readouterr().err
