"""Each notebook is a lesson: what it is for, predictions, an answer, questions; and its regimes as recorded."""

import re
from html import escape

import pytest
from helpers import decision, lesson, questions, quiz, regimes
from support.books import NOTEBOOKS, cells, headings, predictions, texts

from mpmkit import lab

LESSONS = sorted(NOTEBOOKS.glob("[01]*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_has_the_shape_of_a_lesson(path):
    book = [(cell["cell_type"], "".join(cell["source"])) for cell in cells(path)]
    for word in ("**You will learn**", "**You need**", "**Time:**"):
        assert word in book[0][1], word
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
    with pytest.raises(ValueError, match="one right option"):
        lesson.check_yourself(two)


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
    with pytest.raises(ValueError, match="two different quizzes"):
        quiz.frame(before, quiz.Quiz(*items[:3]))


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


@pytest.mark.parametrize(("typed", "result", "said"), [
    ("", 8, "no prediction was made; the run says: 8 clients"),
    ("8", 8.2, "you predicted: 8 clients; the run says: 8.2 clients - as predicted"),
    ("1,200", 8, "1,200 clients; the run says: 8 clients - not as predicted"),
    ("many", 8, "no prediction was made"), ("", 17405.6, "the run says: 17,406 clients"),
    ("", 1, "the run says: 1 client"),
])  # fmt: skip
def test_a_prediction_is_shown_next_to_the_result(typed, result, said, capsys):
    guess = lesson.predict("How many?", unit="clients")
    guess._box.value = typed
    guess.shown(result)
    assert said in capsys.readouterr().out


def test_a_choice_is_compared_and_leaves_its_question_in_a_copy(capsys):
    guess = lesson.predict("Which <one>?", "worker", "event")
    assert guess.guess is None and "Which &lt;one&gt;?" in guess._repr_mimebundle_()["text/html"]
    guess._box.value = "event"
    guess.shown("worker")
    assert "event; the run says: worker - not as predicted" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'prefork' is no choice"):
        guess.shown("prefork")


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
