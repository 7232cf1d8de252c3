"""E4 to E7: figures drawn for each student, hints that never hold the answer, answers tried on servers."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import counter_tasks, hints, machine_tasks, scoreboard_tasks, tasks

SOLUTIONS = Path(__file__).resolve().parent.parent / "notebooks" / "exercises" / "solutions"
STUDENTS = ("ada", "Grace 7", *map(str, range(20)))
PURE = {make.__name__: make for make in (tasks.paired, tasks.decided, tasks.rounds, tasks.ceiling)}
NEED = machine_tasks.Need(40, 4, 12)


def solution(book: str, name: str) -> str:
    """The code of the solution of a task."""
    cells = json.loads((SOLUTIONS / f"{book}.ipynb").read_text())["cells"]
    for task, (_, answer) in zip(cells, pairwise(cells[1:]), strict=False):
        if re.match(rf"{name} = ", "".join(task["source"])):
            return "".join(answer["source"])
    raise AssertionError(f"no solution of {name} in {book}")


def solved(book: str, task: tasks.Task) -> object:
    """What the solution answers to this student's task."""
    known = {task.name: task, "machine_tasks": machine_tasks, "tasks": tasks}
    exec(solution(book, task.name), known)
    names = {"paired": "ratio", "decided": "words", "rounds": "many", "ceiling": "most"}
    return known[names[task.name]]


@pytest.mark.parametrize("name", PURE)
def test_the_solution_is_right_for_every_student_and_nothing_gives_it_away(name):
    texts = set()
    for student in STUDENTS:
        task = PURE[name](student)
        texts.add(f"{task}")
        assert max(map(len, f"{task}".splitlines())) <= 100, "longer lines are broken anywhere"
        assert f"{PURE[name](f' {student.upper()} ')}" == f"{task}", "the same name and figures"
        answer = solved("e5-counter" if name == "ceiling" else "e4-noise", task)
        for wrong in (..., None, "x", -1, 1e9, {"A": "x"}, {}, [], float("nan")):
            verdict = task.check(wrong)
            assert not verdict and task.earned == 0
            if not isinstance(answer, dict):
                assert not re.search(rf"\b{answer:.4g}\b", f"{verdict.says} {verdict.hint}")
        assert task.check(answer), f"{student}: {task.check(answer)}"
        assert task.earned == hints.WORTH[name].points
        if not isinstance(answer, dict):
            for step in (1, 2):
                assert not re.search(rf"(?<![\d.]){answer:.4g}(?![\d.])", hints.hint(name, step))
            assert not task.check(answer * 2 + 1) and task.earned, "points stay"
    assert len(texts) > 0.9 * len(STUDENTS), "every student has other figures"


# What would be the answer, or most of it.
GIVEN_AWAY = {
    "forks": r"\b(16|32|63)\b|doubl|twice", "full_house": r"waits?\b|queue", "twenty_at_once": "MaxReq|ServerL",
    "real_limit": "400", "admits": r"\b14\b", "eighty_in_eight": "Async", "clinic": "Timeout|ServerLimit",
    "in_use": "pss", "sizing": r"0\.8|int\(|max\(|/ each", "little": r"\b10\b", "closed_loop": r"\b40\b|1\.25",
    "paired": r"stats\.ratio|\.value", "decided": "more|fewer|undecided", "rounds": "while|1\\.96",
    "locked": "with lock|Lock\\(", "ceiling": r"min\(", "across": "fcntl|flock",
    "scoreboards": "Timeout|Sendfile|ServerLimit|MaxReq|Async|nothing",
    "threads": "Async|event|ThreadsPerChild", "processes": r"KeepAlive|\bOff\b|False",
}  # fmt: skip


def test_no_hint_holds_the_answer():
    assert set(GIVEN_AWAY) == set(hints.WORTH)
    for name, words in GIVEN_AWAY.items():
        first, second = (hints.hint(name, step) for step in (1, 2))
        assert first != second and len(first) > 20 < len(second)
        found = re.search(words, f"{first} {second}", re.IGNORECASE)
        assert not found, f"{name}: {found[0]}"
    for name, step in (("forks", 3), ("other", 1)):
        with pytest.raises(ValueError, match="no hint"):
            hints.hint(name, step)


@pytest.mark.parametrize(("name", "answer", "says"), [
    ("paired", lambda rows: 1 / tasks.stats.ratio(*tasks._sides(rows)).value, "other way round"),
    ("paired", lambda rows: sum(r[1] for r in rows) / sum(r[0] for r in rows), "the two sums"),
    ("decided", lambda _: {"A": "more"}, "table"),
    ("decided", lambda _: {"A": "less"}, "'less' is not one of more, fewer, undecided"),
    ("rounds", lambda given: given["percent"] / 1000, "too few"),
    ("ceiling", lambda given: 1000 / given["page"], "that is one thread"),
])  # fmt: skip
def test_a_slip_has_its_own_sentence(name, answer, says):
    task = PURE[name]("ada")
    assert says in task.check(answer(task.data)).says


def test_points_and_a_name(capsys):
    one, other = tasks.ceiling("ada"), tasks.rounds("ada")
    one.check(solved("e5-counter", one))
    tasks.score(one, other)
    assert capsys.readouterr().out.endswith("points       2 of 5\n")
    with pytest.raises(ValueError, match="STUDENT is empty"):
        tasks.paired("  ")


def test_a_counter_is_tried_under_worker():
    task = counter_tasks.locked("ada")
    fixed = counter_tasks.IN_ONE_PROCESS
    made = f"    time.sleep({counter_tasks.WORK})       # the page is made: a query to a database\n"
    late = fixed.replace(made, "")
    assert late != fixed
    lock = "    with lock:\n"
    inside = late.replace(lock, f"{lock}        time.sleep({counter_tasks.WORK})\n")
    for script, says in (
        (counter_tasks.COUNTER, "got a count that another request had got"),
        (inside, "but the rate is"), (late, "the page is not made any more"),
        (fixed.replace("str(count)", '"many"'), "the body has to be the count, not b'many'"),
        (fixed.replace("count += 1", "count += 2"), "requests, but the counts go from"),
        ("1 +", "SyntaxError"), ("application = 1", "the script answers 500"),
        (7, "the text of a script is asked for, not 7"),
    ):  # fmt: skip
        verdict = task.check(script)
        assert not verdict and says in verdict.says, verdict
    assert task.check(fixed) and task.earned == 3
    # A lock of one process is not one of all.
    task = counter_tasks.across("ada")
    assert "another request" in task.check(counter_tasks.IN_ONE_PROCESS).says


@pytest.mark.timeout(120)
def test_each_case_is_what_the_model_answer_reads_in_it():
    known: dict = {"boards": tasks.Task("scoreboards", "", [], str)}
    exec(solution("e6-scoreboards", "boards"), known)
    for case in scoreboard_tasks.CASES:
        for mpm in case.mpms:
            board = scoreboard_tasks._run(case._replace(mpms=(mpm,)), tasks.dice("test", mpm), 1)
            assert known["cure"](board) == case.fix, (mpm, board)
            assert case.fix.lower() not in f"{board} {case.asks}".lower().replace("queue=", "")


def test_five_boards_and_wrong_answers(monkeypatch):
    """The boards of a student, with pictures in place of servers: the words are what is tested."""
    monkeypatch.setattr(scoreboard_tasks, "_run", lambda case, roll, number: case)
    sets = set()
    for student in STUDENTS:
        task = scoreboard_tasks.scoreboards(student)
        fixes = {number: case.fix for number, case in enumerate(task.data, 1)}
        sets.add(tuple(fixes.values()))
        assert len(set(fixes.values())) == 5 and task.check(fixes).right
        wrong = task.check({**fixes, 2: fixes[1]})
        assert "4 of 5 are right\nscoreboard 2: " in wrong.says and fixes[2] not in wrong.says
        assert "no answer for scoreboard 1" in task.check({1: ...}).says
        assert "scoreboard 1: 'x' is not one of Async" in task.check({1: "x"}).says
    assert len(sets) > 15


def prefork(workers: int, **more: object) -> dict:
    return {"mpm": "prefork", "StartServers": workers, "MaxRequestWorkers": workers, "ServerLimit": workers,
            "MinSpareServers": 1, "MaxSpareServers": workers, **more}  # fmt: skip


@pytest.mark.parametrize(("answer", "says"), [
    ({}, "is asked for, not {}"), ({"mpm": "event"}, "mpm: 'event' is not one of prefork"),
    ({"mpm": "prefork", "MaxRequestWorkers": ...}, "still a ..."),
    ({"mpm": "prefork", "MaxRequestWorkers": 999}, "the server would correct this"),
    (prefork(3), "MaxRequestWorkers 3: 4 requests at once"),
    (prefork(26), "26 processes would keep 1,040 MiB of caches alone"),
    ({"mpm": "prefork", "Nonsense": 1}, "could not be tried: "),
    (prefork(21), "the server may take 819"), (prefork(5), "a newcomer waits"),
    ({**prefork(6), "StartServers": 2}, ""),
], ids=str)  # fmt: skip
def test_directives_are_looked_at_then_tried(answer, says):
    task = machine_tasks._machine("processes", "ada", ("prefork",), NEED, "")
    if not says:  # the pool grows while the check waits
        answer = {**answer, "KeepAlive": False}
    verdict = task.check(answer)
    assert verdict.right == (not says) and says in verdict.says, verdict
    if verdict:
        words = re.search(r"busy workers take ([\d,]+) MiB", verdict.says)[1]
        taken = float(words.replace(",", ""))
        assert 6 * 40 <= taken < 6 * 40 + 80


def test_a_small_machine_proves_nothing(monkeypatch):
    monkeypatch.setattr(machine_tasks, "RAM", 10_000_000)
    task = machine_tasks._machine("processes", "ada", ("prefork",), NEED, "")
    assert "MiB are free here" in task.check(prefork(4)).says
