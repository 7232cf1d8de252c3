"""Each notebook is a lesson: what it is for, predictions, an answer, questions, its regimes as recorded. And the
90-minute kit: the class notebook, the plans and the exercises agree; the hand-out; the rehearsal."""

import json
import re
from html import escape
from pathlib import Path

import nbformat
import pytest
from helpers import decision, lesson, questions, quiz, regimes
from nbformat import v4
from support.books import NOTEBOOKS, cells, headings, predictions, texts
from support.calls import printed_by, refused

from docs._tools import rehearse
from mpmkit import lab
from mpmkit.config.directives import MPMS, SPECS
from mpmkit.policy.states import LETTERS

LESSONS = sorted(NOTEBOOKS.glob("[01]*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_has_the_shape_of_a_lesson(path):
    book = [(cell["cell_type"], "".join(cell["source"])) for cell in cells(path)]
    assert all(word in book[0][1] for word in ("**You will learn**", "**You need**", "**Time:**"))
    code = "\n".join(texts(path, "code"))
    assert predictions(code), "a prediction before the experiment"
    predicted = False
    for kind, text in book:
        if kind == "markdown" and re.search(r"^## ", text, re.MULTILINE):
            predicted = "## The tables" in text  # of the measurement before them
        predicted |= "lesson.predict(" in text
        assert predicted or kind != "code" or "measured_or_recorded(" not in text, text
    (answer,) = (text for _, text in book if text.startswith("## The answer"))
    assert len(re.findall(r"[.!?](?=\s|$)", answer)) == 2, "the answer in two sentences"
    assert f'lesson.check_yourself(*questions.OF["{path.name[:2]}"])' in code
    assert "MPMKIT_REPLAY=1` both are the recorded" not in str(book), "a run next to itself"


def test_the_course_is_read_in_three_hours():
    """As stated, which is at least 200 words a minute and 3 s for a line of code."""
    numbers, total = {"ten": 10, "twelve": 12, "fifteen": 15, "twenty-five": 25}, 0
    for path in LESSONS:
        prose, code = ("\n".join(texts(path, kind)) for kind in ("markdown", "code"))
        (stated,) = re.findall(r"([a-z-]+) minutes to read", prose)
        lines = len([line for line in code.splitlines() if line.strip()])
        assert numbers[stated] >= len(re.findall(r"\w+", prose)) / 200 + lines / 20, path
        total += numbers[stated]
    assert total <= 180


def test_questions_have_one_right_option_and_a_sentence_for_each_wrong_one():
    assert set(questions.OF) == {path.name[:2] for path in LESSONS} | {"class"}
    for name, items in questions.OF.items():
        assert len(items) == (8 if name == "class" else 3)
        shown = lesson.check_yourself(*items)
        boxes, said = shown.children[1::3], shown.children[2::3]
        for item, box, text in zip(items, boxes, said, strict=True):
            assert all(f"<li>{escape(one)}<" in shown.still for one in item.options), name
            replies = set()
            for option, why in item.options.items():
                box.value = option
                replies.add(text.value)
                assert text.value.startswith("No: " if why else "Right."), (name, option)
            assert len(replies) == len(item.options)
    two = lesson.Item("?", {"a": lesson.RIGHT, "b": lesson.RIGHT, "c": "no"})
    refused(ValueError, "one right option", lesson.check_yourself, two)


def test_the_quiz_says_nothing_until_both_are_there(capsys):
    items = questions.OF["class"]
    before, after = quiz.Quiz(*items), quiz.Quiz(*items)
    for item in items:
        assert item.see[1] in headings(item.see[0]), item.question
        assert escape(item.question) in before.still
    assert not any(why and why in before.still for item in items for why in item.options.values())
    for one, box in enumerate(before._boxes[:3]):
        box.value = next(way for way, why in items[one].options.items() if why)
    for item, box in zip(items, after._boxes, strict=True):
        box.value = next(way for way, why in item.options.items() if not why)
    after._boxes[0].value = before._boxes[0].value
    made = quiz.side_by_side(before, after).data
    said = capsys.readouterr().out
    assert "before: 0 of 8 right (5 without an answer)\nafter: 7 of 8 right" in said
    assert made["before"].str[0].tolist() == ["✗"] * 3 + ["–"] * 5
    assert made["why"][1].startswith("No: ") and set(made["why"][1:]) == {"Right."}
    assert '"00-start-here.ipynb#Launch"' in made["shown in"][1]
    assert ', "Launch"<' in made["shown in"][1]
    assert quiz.frame(before, before)["shown in"][8] == '03, "Why event exists"'
    refused(ValueError, "two different quizzes", quiz.frame, before, quiz.Quiz(*items[:3]))


def test_the_decision_table_has_what_was_recorded_and_leaves_open_what_is_undecided():
    made = decision.table()
    assert {"03-cliffs.json", "demand-demo.csv", "memory-demo.csv"} <= set(made["recorded"])
    take = made.set_index("recorded")["take"]
    assert made["take"].iloc[0] == "event" and take["05-counter.json"] == "prefork"
    assert take["demand-demo.csv"] == "prefork", "worker / prefork: 1 is not in the interval"
    kept = made.iloc[0]
    for mpm, limit in (("prefork", 250), ("worker", 400), ("event", 1200)):
        well, late = (int(one.replace(",", "")) for one in kept[mpm].split(" to "))
        assert well < limit < late


@pytest.mark.parametrize(("options", "typed", "result", "said"), [
    ((), "", 8, "no prediction was made; the run says: 8 clients"),
    ((), "8", 8.2, "you predicted: 8 clients; the run says: 8.2 clients - as predicted"),
    ((), "1,200", 8, "1,200 clients; the run says: 8 clients - not as predicted"),
    ((), "many", 8, "no prediction was made"), ((), "", 17405.6, "the run says: 17,406 clients"),
    ((), "", 1, "the run says: 1 client"),
    (("worker", "event"), "event", "worker", "event; the run says: worker - not as predicted"),
])  # fmt: skip
def test_a_prediction_is_shown_next_to_the_result(options, typed, result, said, capsys):
    guess = lesson.predict("Which <one>?", *options, **{} if options else {"unit": "clients"})
    # A copy has its question.
    assert guess.guess is None and "Which &lt;one&gt;?" in guess._repr_mimebundle_()["text/html"]
    guess._box.value = typed
    guess.shown(result)
    assert said in capsys.readouterr().out
    if options:
        refused(ValueError, "'prefork' is no choice", guess.shown, "prefork")


# The regimes, as recorded; notebooks 01, 05, 07 and 09 measure them (test_notebooks).
def test_threads_of_one_process_compute_no_more_than_one():
    rows = lab.recorded("05-gil")
    threads, processes = (regimes.grows(rows, "computes", k) for k in ("threads", "processes"))
    # The question is about eight threads, not about the best of all numbers of them.
    assert threads[0] == 8 and threads[1] < 1.25 < 2 < processes[1]
    assert all(regimes.grows(rows, "waits", key)[1] > 3 for key in ("threads", "processes"))
    assert max(row["cores"] for row in rows if row["processes"] == 1) < 1.1
    # Event bears slow readers, and no MPM bears slow senders.
    served = {(row["mpm"], row["kind"]): row["status"] == 200 for row in lab.recorded("09-slow")}
    well = [case for case, served_well in served.items() if served_well]
    assert len(served) == 6 and well == [("event", "readers")]


def test_a_cold_start_takes_prefork_longest():
    cold = lab.recorded("01-cold")
    second = {mpm: regimes.reached(one["qps"]) for mpm, one in cold.items()}
    assert max(second, key=second.get) == "prefork" and second["prefork"] > 2 * second["worker"]
    # Connections stay with the children that accepted them: clients wait while later children are idle.
    event = cold["event"]
    assert max(event["qps"]) * regimes.STEP < regimes.USERS and event["idle"][-1] > 40
    # Newcomers of a full server get nothing.
    for mpm, answers in lab.recorded("07-starved").items():
        assert len(answers) == 32 and answers[0] == 0 < answers[-1], mpm
        assert answers.count(0) >= 4, mpm


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
    asked = set()
    for row in rows(heading):
        for name, book, given in SHOWN.findall(" ".join(row)):
            if name.startswith("E"):
                for task in re.findall(r"\d+", given):
                    missing = needed(book, task) - shown
                    assert not missing, f"{name}, {task} in the row {row[:2]} needs {missing}"
                    asked.add((book, task))
                continue
            own = set(re.findall('"([^"]+)"', given)) or set(headings(book))
            missing = own - set(headings(book))
            assert not missing, f"{row[:2]}: {missing} are not in {book}"
            shown |= {(book, one) for one in own}
    assert len(asked) >= 5
    for book in ("e1-pools", "e2-event", "e3-sizes") if heading == "Half a day" else ():
        whole = "\n".join(texts(f"exercises/{book}"))
        for task in re.findall(r"^## (\d+)\. ", whole, re.MULTILINE):
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
    status, said, _ = printed_by(rehearse.main, ["--students", "2", "--book", str(small)], capsys)
    took, memory = (float(re.search(one, said)[1].replace(",", "")) for one in (
        r"1 One +1 +([\d.]+)", r"memory: ([\d,]+) MB at most"))  # fmt: skip
    assert status == 0 and 1 <= took < 30 and memory > 50 and said.endswith("2 students: fits\n")


@pytest.mark.timeout(90)
def test_a_rehearsal_is_bounded_and_leaves_nothing(small, monkeypatch, capsys):
    monkeypatch.setattr(rehearse, "MOST_SECONDS", 6)
    (small.parent / "long").touch()
    ((walk,), _) = rehearse.rehearse(1, small)
    assert walk.error == "ended before its time"
    assert "1 to 60" in printed_by(rehearse.main, ["--students", "0"], capsys)[2]
