"""Exercises: solutions pass their checks, each usual slip has its sentence, students' copies lack the solutions;
E4 to E7: figures drawn for each student, hints that never hold the answer, answers tried on servers."""

import ast
import doctest
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import checks, counter_tasks, hints, machine_tasks, scoreboard_tasks, tasks
from support.books import NOTEBOOKS, cells, headings, texts
from support.calls import refused

import mpmkit
from docs._tools import exercises, otter

ROOT = Path(__file__).resolve().parent.parent
TARGET = NOTEBOOKS / "exercises"
SOLUTIONS = TARGET / "solutions"
SOURCES = sorted(SOLUTIONS.glob("*.ipynb"))
BOOKS = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
EVENT = {"StartServers": 1, "ServerLimit": 1, "ThreadsPerChild": 8, "MaxRequestWorkers": 8,
         "MinSpareThreads": 1, "MaxSpareThreads": 16}  # fmt: skip


def executed(path: Path, monkeypatch) -> list[str]:
    """The verdicts: what its cells show, run in this process one after the other, in the notebook's folder."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("sys.path", sys.path[:])
    names, shown = dict[str, Any](), []
    for code in texts(path, "code"):
        *first, last = ast.parse(code).body
        value = isinstance(last, ast.Expr)
        exec(compile(ast.Module(first if value else [*first, last], []), path.name, "exec"), names)
        if value:
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return [repr(verdict) for verdict in shown if verdict is not None]


@pytest.mark.timeout(100)
@BOOKS
def test_a_solution_passes_its_checks_and_the_students_copy_none_yet(source, monkeypatch):
    count = sum("exercise" in exercises.tags(cell) for cell in cells(source))
    for path, begins in ((source, "RIGHT"), (TARGET / source.name, "NOT YET")):
        found = executed(path, monkeypatch)
        assert len(found) == count > 0
        assert all(verdict.startswith(begins) for verdict in found), "\n".join(found)


@BOOKS
def test_the_students_copy_is_what_the_command_makes_without_solutions(source, tmp_path):
    assert exercises.main([str(source.parent), str(tmp_path)]) == 0
    whole = (TARGET / source.name).read_text()
    assert (tmp_path / source.name).read_text() == whole, "run python -m docs._tools.exercises"
    answers = [cell["source"] for cell in cells(source) if "solution" in exercises.tags(cell)]
    assert answers and not any(json.dumps("".join(one))[1:-1] in whole for one in answers)


def test_points_stars_and_needs_are_shown():
    shown: list[str] = []
    for source in SOURCES:
        whole = texts(source)
        for place, task in enumerate(whole):
            if not re.match(r"## \d\. ", task):
                continue
            code = "\n".join(whole[place:])
            name = re.search(r"checks\.(\w+)\(|(\w+) = \w*tasks\.(\w+)\(", code)
            shown.append(name[1] or name[3])
            assert f"\n*{hints.WORTH[shown[-1]]}.*\n" in task, f"{source.stem}: {shown[-1]}"
            (needs,) = re.findall(r"^\*Needs (.+)\.\*$", task, re.MULTILINE)
            for target, sections in re.findall(r'\]\(([^)]+)\)((?:, "[^"]+")+)', needs):
                there = headings(source.parent / target)
                assert {*re.findall('"([^"]+)"', sections)} <= {*there}, target
    assert sorted(shown) == sorted(hints.WORTH)
    assert len(checks.every()) >= 8 and set(checks.every()) <= set(shown), "each has its exercise"


def right(ram, rest, each):
    return max(0, int((0.8 * ram - rest) // each))


WRONG = [
    ("forks", [5, 1, 2, 4], "StartServers were forked before"),
    ("forks", [1, 1, 1, 1], "the same number each second"),
    ("forks", [1, 2, 3, 4], "second 3: it is not 3; compare with the second before"),
    ("forks", [1, 2, 4, 8, 16], "after 5 seconds there are 36 children for 40 clients"),
    ("forks", [1, 2, 4, 8, 16, 32, 32], "stops before second 7"),
    ("full_house", 503, "no worker is free to say 503"), ("full_house", "refused", "the listen queue has room"),
    ("full_house", "reset", "has just completed it"), ("real_limit", 1000, "that is what was asked for"),
    ("real_limit", 16, "so many processes"), ("real_limit", 25, "so many threads has one process"),
    ("admits", 24, "with all threads idle"), ("admits", 6, "ThreadsPerChild comes in addition"),
    ("admits", 8, "that is worker"), ("in_use", "RSS", "once for every process"), ("in_use", "uss", "is missing"),
    ("in_use", [], "a word, one of rss, uss, pss, is asked for"),
    ("sizing", lambda ram, rest, each: int((ram - rest) / each), "no fifth"),
    ("sizing", lambda ram, rest, each: int(0.8 * ram / each), "at rest is not subtracted"),
    ("sizing", lambda ram, rest, each: int(ram / each), "neither the fifth"),
    ("sizing", lambda ram, rest, each: right(ram, rest, each) + 1, "round down"),
    ("sizing", lambda ram, rest, each: int((0.8 * ram - rest) // each), "has room for 0"),
    ("sizing", lambda ram, rest, each: float(right(ram, rest, each)), "use int()"),
    ("sizing", lambda ram: 1, "could not be tried: TypeError"), ("little", 10_000, "50 ms are 0.05 s"),
    ("little", 4, "the two multiply"), ("little", 200, "stays for 50 ms only"), ("little", -1, "below 0"),
    ("little", 20, "can one worker serve"), ("closed_loop", 50, "wait for the answer"),
    ("closed_loop", 200, "also think"), ("closed_loop", 62.5, "divide"), ("closed_loop", 0.8, "there are 50"),
    ("clinic", {"RRRRRRRR": "Timeout"}, "Timeout does not fix it"),
    ("clinic", {"RRRRRRRR": "MaxRequestWorkers"}, "more workers would be in R"),
    ("clinic", {"RRRRRRRR": "RequestReadTimeout"}, "no answer for KKKKKKKK"),
    ("twenty_at_once", "prefork", "is asked for, not 'prefork'"),
]  # fmt: skip


# A function's text would be its address.
@pytest.mark.parametrize("name, answer, says", WRONG, ids=lambda v: "f" * callable(v) or f"{v}"[:30])  # fmt: skip
def test_a_wrong_answer_gets_its_own_sentence(name, answer, says):
    verdict = checks.every()[name](answer)
    assert not verdict and says in verdict.says and repr(verdict).startswith("NOT YET: ")


@pytest.mark.parametrize("name", checks.every())
def test_no_check_raises_whatever_it_gets(name):
    check = checks.every()[name]
    for nothing in (..., None):
        assert not check(nothing) and "no answer yet" in check(nothing).says
    for answer in (object(), "x" * 1000, [[]], {}, float("inf"), -3, b"\0", max):
        verdict = check(answer)
        assert not verdict and verdict.says and len(verdict.says) < 400


@pytest.mark.parametrize("name, mpm, directives, says", [
    ("twenty_at_once", "prefork", {"KeepAlive": False}, "KeepAlive is off"),
    ("twenty_at_once", "prefork", {"KeepAliveTimeout": 1}, "KeepAliveTimeout is 1 s"),
    ("twenty_at_once", "event", {"KeepAliveTimeout": 30}, "this is event"),
    ("eighty_in_eight", "event", {"KeepAliveTimeout": 30}, "eight threads have to do"),
    ("eighty_in_eight", "event", {**EVENT, "KeepAliveTimeout": 5}, "KeepAliveTimeout is 5 s"),
])  # fmt: skip
def test_a_server_that_misses_the_point_gets_a_sentence(name, mpm, directives, says):
    with mpmkit.launch(mpm, **directives) as server:
        assert says in checks.every()[name](server).says
    assert "has ended" in checks.every()[name](server).says


def source(*kinds: str) -> dict:
    same = {"cell_type": "code", "outputs": ["x"], "execution_count": 1}
    cells = [{**same, "id": f"c{n}", "metadata": {"tags": kind.split()}, "source": [kind]}
             for n, kind in enumerate(kinds)]  # fmt: skip
    return {"cells": cells}


@pytest.mark.parametrize("kinds, says", [
    (["exercise", "exercise", "solution"], "a, cell c0 is an exercise without a solution"),
    (["solution"], "c0 is a solution without an exercise"), (["exercise solution"], "one of both"),
])  # fmt: skip
def test_solutions_and_outputs_are_taken_out_and_a_source_out_of_order_is_named(kinds, says):
    made = exercises.student_copy(source("exercise", "solution", "", "exercise", "solution"), "a")
    assert [cell["source"] for cell in made["cells"]] == [["exercise"], [""], ["exercise"]]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in made["cells"])
    refused(exercises.ExerciseError, says, exercises.student_copy, source(*kinds), "a")


def test_the_export_has_a_test_a_task_that_fails_until_the_answer_is_right(tmp_path, capsys):
    assert otter.main([str(SOLUTIONS), str(tmp_path)]) == 0
    found, points = {}, {}
    for path in tmp_path.glob("*/tests/*.py"):
        known: dict = {}
        exec(path.read_text(), known)
        assert known["OK_FORMAT"] and known["test"]["name"] == path.stem
        case = known["test"]["suites"][0]["cases"][0]
        found[path.stem], points[path.stem] = case["code"], case["points"]
    assert points == {name: worth.points for name, worth in hints.WORTH.items()}
    book = (tmp_path / "e1-pools" / "e1-pools.ipynb").read_text()
    assert all(f'grader.check(\\"{name}\\")' in book for name in ("forks", "twenty_at_once"))
    assert "otter.Notebook('e1-pools.ipynb')" in book and "](" not in book
    runner = doctest.DocTestRunner(verbose=False)
    for answer, failed in (([1, 2], 1), ([1, 2, 4, 8, 16, 32], 0)):
        names = {"checks": checks, "forked": answer}
        parsed = doctest.DocTestParser().get_doctest(found["forks"], names, "forks", None, 0)
        assert runner.run(parsed, out=lambda _: None).failed == failed
    assert "... " in found["twenty_at_once"]
    refused(ValueError, "the last line of a check is its verdict", otter.doctest, "x = 1")


def test_every_try_it_of_the_notebooks_has_a_model_answer():
    page, guide = SOLUTIONS / "try-it.md", ROOT / "docs" / "INSTRUCTORS.md"
    parts = dict(re.findall(r"(?ms)^## (\S+)\n(.*?)(?=^## |\Z)", page.read_text()))

    def plain(lines: list[str]) -> list[str]:
        return [re.sub(r"\]\([^)]*\)", "]", line) for line in lines]

    wanted = set()
    for book in sorted(NOTEBOOKS.glob("*.ipynb")):
        found = [re.search(r"(?ms)^## (?:Try it|To try)\n+(.*)", text) for text in texts(book)]
        if asked := [line for one in found if one for line in re.findall(r"(?m)^\* (.+)", one[1])]:
            wanted.add(book.stem)
            quoted = re.findall(r"(?m)^> (.+)\n\n(?!>)\S.+", parts[book.stem])
            assert plain(quoted) == plain(asked), book.stem
    assert wanted == parts.keys() and len(wanted) > 8
    for path, least in ((page, 0), (guide, 15)):
        targets = re.findall(r"\]\(([^)#]+)\)", path.read_text())
        assert len(targets) > least and all((path.parent / one).exists() for one in targets)


STUDENTS = ("ada", "Grace 7", *map(str, range(20)))
# Those that need no server: what makes the task, its book, the name of the answer.
PURE = {
    "paired": (tasks.paired, "e4-noise", "ratio"), "decided": (tasks.decided, "e4-noise", "words"),
    "rounds": (tasks.rounds, "e4-noise", "many"), "ceiling": (tasks.ceiling, "e5-counter", "most"),
}  # fmt: skip
NEED = machine_tasks.Need(40, 4, 12)


def solution(book: str, task: tasks.Task, answer: str) -> Any:
    """The value that a name has in the solution of this student's task."""
    whole = texts(SOLUTIONS / f"{book}.ipynb")
    (place,) = [n for n, code in enumerate(whole) if code.startswith(f"{task.name} = ")]
    known = {task.name: task, "machine_tasks": machine_tasks, "tasks": tasks}
    exec(whole[place + 2], known)
    return known[answer]


@pytest.mark.parametrize("name", PURE)
def test_the_solution_is_right_for_every_student_and_nothing_gives_it_away(name):
    shown, (make, book, variable) = set(), PURE[name]
    for student in STUDENTS:
        task = make(student)
        shown.add(f"{task}")
        assert max(map(len, f"{task}".splitlines())) <= 100, "longer lines are broken anywhere"
        assert f"{make(f' {student.upper()} ')}" == f"{task}", "the same name and figures"
        answer = solution(book, task, variable)
        said = []
        for wrong in (..., None, "x", -1, 1e9, {"A": "x"}, {}, [], float("nan")):
            verdict = task.check(wrong)
            assert not verdict and task.earned == 0
            said += [verdict.says, verdict.hint]
        assert task.check(answer), f"{student}: {task.check(answer)}"
        assert task.earned == hints.WORTH[name].points
        if not isinstance(answer, dict):
            assert not re.search(rf"\b{answer:.4g}\b", " ".join(map(str, said)))
            for step in (1, 2):
                assert not re.search(rf"(?<![\d.]){answer:.4g}(?![\d.])", hints.hint(name, step))
            assert not task.check(answer * 2 + 1) and task.earned, "points stay"
    assert len(shown) > 0.9 * len(STUDENTS), "every student has other figures"


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
        assert not re.search(words, f"{first} {second}", re.IGNORECASE), name
    refused(ValueError, "no hint", hints.hint, "forks", 3)
    refused(ValueError, "no hint", hints.hint, "other", 1)


@pytest.mark.parametrize(("name", "answer", "says"), [
    ("paired", lambda rows: 1 / tasks.stats.ratio(*tasks._sides(rows)).value, "other way round"),
    ("paired", lambda rows: sum(r[1] for r in rows) / sum(r[0] for r in rows), "the two sums"),
    ("decided", lambda _: {"A": "more"}, "table"),
    ("decided", lambda _: {"A": "less"}, "'less' is not one of more, fewer, undecided"),
    ("rounds", lambda given: given["percent"] / 1000, "too few"),
    ("ceiling", lambda given: 1000 / given["page"], "that is one thread"),
])  # fmt: skip
def test_a_slip_has_its_own_sentence(name, answer, says):
    task = PURE[name][0]("ada")
    assert says in task.check(answer(task.data)).says


def test_points_and_a_name(capsys):
    one, other = tasks.ceiling("ada"), tasks.rounds("ada")
    one.check(solution("e5-counter", one, "most"))
    tasks.score(one, other)
    assert capsys.readouterr().out.endswith("points       2 of 5\n")
    refused(ValueError, "STUDENT is empty", tasks.paired, "  ")


def test_a_counter_is_tried_under_worker():
    task, fixed = counter_tasks.locked("ada"), counter_tasks.IN_ONE_PROCESS
    late = re.sub(r"    time.sleep\(.*\n", "", fixed)
    inside = late.replace("with lock:\n", f"with lock:\n        time.sleep({counter_tasks.WORK})\n")
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
    assert any(task.check(fixed) for _ in range(3)) and task.earned == 3  # next to busy tests
    assert "another request" in counter_tasks.across("ada").check(fixed).says


@pytest.mark.timeout(120)
def test_each_case_is_what_the_model_answer_reads_in_it():
    cure = solution("e6-scoreboards", tasks.Task("boards", "", [], str), "cure")
    for case in scoreboard_tasks.CASES:
        for mpm in case.mpms:
            board = scoreboard_tasks._run(case._replace(mpms=(mpm,)), tasks.dice("test", mpm), 1)
            assert cure(board) == case.fix, (mpm, board)
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
        for wrong, says in (
            ({**fixes, 2: fixes[1]}, "4 of 5 are right\nscoreboard 2: "),
            ({1: ...}, "no answer for scoreboard 1"),
            ({1: "x"}, "scoreboard 1: 'x' is not one of Async"),
        ):  # fmt: skip
            said = task.check(wrong).says
            assert says in said and (len(wrong) < 5 or fixes[2] not in said)
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
    (prefork(6, StartServers=2, KeepAlive=False), ""),  # the pool grows while the check waits
    (prefork(4), "MiB are free here"),  # a small machine proves nothing
], ids=str)  # fmt: skip
def test_directives_are_looked_at_then_tried(answer, says, monkeypatch):
    if "free" in says:
        monkeypatch.setattr(machine_tasks, "RAM", 10_000_000)
    task = machine_tasks._machine("processes", "ada", ("prefork",), NEED, "")
    tries = map(task.check, [answer] * 3)  # a second's standstill makes a newcomer wait
    verdict = next(one for one in tries if one.right == (not says))
    assert says in verdict.says, verdict
    if verdict:
        words = re.search(r"busy workers take ([\d,]+) MiB", verdict.says)[1]
        assert 6 * 40 <= float(words.replace(",", "")) < 6 * 40 + 80
