"""Tasks of the exercises: points, hints, and figures that are drawn for each student.

    paired = tasks.paired("ada")     the same name draws the same figures on every machine
    print(paired)                    the task, with this student's figures
    paired.check(1.25)               a Verdict, as in helpers.checks
    tasks.hint("paired", 1)          where to look; 2: how to go about it. No hint holds the answer
    tasks.score(paired, decided)     points so far

`counter_tasks`, `scoreboard_tasks` and `machine_tasks` have the tasks whose answer is tried on a server.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from helpers import checks
from helpers.checks import NotYet, Verdict
from helpers.hints import WORTH
from helpers.hints import hint as hint

from mpmkit.measure import stats

Rows = list[tuple[int, ...]]
"""A row a round: requests/s of prefork and of event, then, where known, how busy the generator was (%)."""


class Task:
    """One task for one student. data: its figures. `str` is the task in words."""

    def __init__(self, name: str, text: str, data: Any, look: Callable[[Any], str]) -> None:
        self.name, self.text, self.data, self._look = name, text, data, look
        self.earned = 0

    def __str__(self) -> str:
        return checks.wrapped(self.text)

    def check(self, answer: Any) -> Verdict:
        """Whether an answer is right. It never raises; points are kept once earned."""
        verdict = checks.judged(self._look, answer, f'tasks.hint("{self.name}", 1), then 2')
        self.earned = max(self.earned, WORTH[self.name].points * verdict.right)
        return verdict


def score(*tasks: Task) -> None:
    """Print the points of these tasks."""
    for task in tasks:
        print(f"{task.name:12} {task.earned} of {WORTH[task.name].points}")
    most = sum(WORTH[task.name].points for task in tasks)
    print(f"{'points':12} {sum(task.earned for task in tasks)} of {most}")


def dice(name: str, student: str) -> random.Random:
    """The dice of a task and a student. Raises ValueError for no name."""
    if not str(student).strip():
        raise ValueError('STUDENT is empty: put your name or number there, such as "ada"')
    return random.Random(f"{name} {str(student).strip().lower()}")


# ---------------------------------------------------------------- E4: noise and pairing


def _rounds(roll: random.Random, ratio: float, noise: float, many: int) -> Rows:
    """Requests/s of two servers in each round: the machine is another one in each round (for both), and
    the second server is `ratio` times the first, but for the noise."""
    made = []
    for _ in range(many):
        speed = 6000 * math.exp(roll.gauss(0, 0.35))
        pair = (speed * math.exp(roll.gauss(0, noise) / math.sqrt(2)) for _ in range(2))
        made.append(tuple(round(one * by) for one, by in zip(pair, (1, ratio), strict=True)))
    return made


def _table(rows: Rows, *names: str) -> str:
    head = "round " + " ".join(f"{name:>12}" for name in names)
    lines = (f"{n:5} " + " ".join(f"{x:12,}" for x in row) for n, row in enumerate(rows, 1))
    return "\n".join([head, *lines])


def _sides(rows: Rows) -> tuple[list[int], list[int]]:
    """(the second server, the first): what `stats.ratio` takes."""
    return [row[1] for row in rows], [row[0] for row in rows]


def paired(student: str) -> Task:
    """How many times as many requests/s: the geometric mean of the ratios within the rounds."""
    roll = dice("paired", student)
    while True:
        rows = _rounds(roll, roll.choice((0.86, 0.9, 1.1, 1.15, 1.2)), 0.04, 7)
        new, old = _sides(rows)
        true = stats.ratio(new, old).value
        medians = statistics.median(new) / statistics.median(old)
        means = sum(new) / sum(old)
        # The usual slips are other numbers here, or the task would not ask anything.
        if min(abs(one / true - 1) for one in (medians, means, 1 / true)) > 0.004:
            break
    slips = {
        medians: "that is the ratio of the two medians, which come from different rounds",
        means: "that is the ratio of the two sums: a fast minute counts more than a slow one",
        1 / true: "that is the other way round: prefork's requests/s for one of event's",
    }

    def look(answer: Any) -> str:
        checks.quantity(answer, true, "times", slips, 0.001)
        return "the speed of the machine is in both figures of a round, and the ratio has lost it"

    text = (
        "Requests/s of two servers that were measured one after the other in each round, while the machine "
        "had other work:\n\n" + _table(rows, "prefork", "event")
    )
    return Task("paired", text, rows, look)


WORDS = ("more", "fewer", "undecided")


def decided(student: str) -> Task:
    """Three tables: does the second server do more requests/s, fewer, or is it undecided?"""
    roll = dice("decided", student)
    up = roll.choice((True, False))
    made: dict[str, tuple[Rows, str, str]] = {}
    while not made:
        clear = _rounds(roll, 1.12 if up else 0.89, 0.03, 8)
        vague = _rounds(roll, 1.03 if up else 0.97, 0.12, 5)
        bound = [(*row, roll.randint(96, 100), roll.randint(96, 100))
                 for row in _rounds(roll, 0.93 if up else 1.07, 0.02, 6)]  # fmt: skip
        word = WORDS[0 if up else 1]
        (new, old), between = _sides(clear), stats.ratio(*_sides(clear))
        overlap = min(new) < max(old) and min(old) < max(new)
        held = not stats.ratio(*_sides(vague)).excludes(1.0)
        if between.excludes(1.0) and (between.value > 1) == up and overlap and held:
            cells = [
                (_with_cores(roll, clear), word, "the ranges overlap, but compare within the rounds: does "
                 "the interval of the ratio hold 1?"),
                (_with_cores(roll, vague), "undecided", "these are few rounds and much noise: what does the "
                 "95% interval hold?"),
                (bound, "undecided", "look at the generator first: what was measured here, the server?"),
            ]  # fmt: skip
            roll.shuffle(cells)
            made = dict(zip("ABC", cells, strict=True))

    def look(answer: Any) -> str:
        if not isinstance(answer, Mapping):
            raise checks.asked_for('a dict, {"A": "more", ...},', answer)
        for name, (_, true, why) in made.items():
            yours = answer.get(name)
            if yours is None or yours is ...:
                raise NotYet(f"there is no answer for table {name} yet")
            checks.one_word_of(yours, WORDS, f"table {name}")
            if str(yours).strip().lower() != true:
                raise NotYet(f"table {name}: not {yours}; {why}")
        return (
            "a difference is real if the interval of the paired ratio excludes 1 and the server was the "
            "limit"
        )

    names = "prefork", "event", "generator %", "generator %"
    text = (
        "Requests/s of prefork and of event, and what share of its core the load generator was busy "
        "(first for prefork, then for event):\n\n"
        + "\n\n".join(f"{name}\n{_table(rows, *names)}" for name, (rows, *_) in made.items())
    )
    return Task("decided", text, {name: rows for name, (rows, *_) in made.items()}, look)


def _with_cores(roll: random.Random, rows: Rows) -> Rows:
    return [(*row, roll.randint(35, 60), roll.randint(35, 60)) for row in rows]


def rounds(student: str) -> Task:
    """How many rounds until the interval of a ratio is as narrow as wished."""
    roll = dice("rounds", student)
    while True:
        spread, percent = roll.randint(40, 90) / 1000, roll.choice((2, 3, 4, 5))
        reach = math.log1p(percent / 100)
        true = next(
            n for n in range(2, 2000) if stats.t_quantile(n - 1) * spread / math.sqrt(n) <= reach
        )
        normal = math.ceil((1.96 * spread / reach) ** 2)
        if true > 6 and normal != true:
            break
    slips = {
        normal: "that is with 1.96, as if the spread were known; it is estimated from these few rounds",
        math.ceil(1.96 * spread / reach): "the reach shrinks with the square root of the rounds",
        math.ceil((spread / reach) ** 2): "that is one standard error, not a 95% interval",
    }
    slips.pop(true, None)

    def look(answer: Any) -> str:
        checks.quantity(answer, true, "rounds", slips)
        return (
            "t · s / √n has come below the wished reach: half the width takes four times the rounds"
        )

    text = (
        f"The logarithms of the ratios within the rounds have a standard deviation of {spread:g}. After how "
        f"many rounds does the 95% interval reach at most {percent}% above the ratio (a factor of "
        f"{1 + percent / 100:g})? The spread stays as it is."
    )
    return Task("rounds", text, {"spread": spread, "percent": percent}, look)


# ---------------------------------------------------------------- E5: one number


def ceiling(student: str) -> Task:
    """The most requests/s of threads that each hold one lock for a part of the request."""
    roll = dice("ceiling", student)
    threads, page, lock = roll.randint(8, 20), roll.randint(20, 50), roll.randint(2, 10)
    bounds = threads / page * 1000, 1000 / lock
    true = min(bounds)
    slips = {
        max(bounds): "so many one of the two bounds allows; the other one is lower",
        1000 / page: "that is one thread",
        1000 / (page * threads): "the threads work at the same time, but for the lock",
        threads
        * 1000
        / (page + lock): "the lock is held within those milliseconds, not after them",
    }
    slips = {value: why for value, why in slips.items() if abs(value / true - 1) > 0.01}

    def look(answer: Any) -> str:
        checks.quantity(answer, true, "requests/s", slips, 0.005)
        return (
            "the smaller of threads / request and 1 / lock: what is locked is done by one at a time"
        )

    text = (
        f"{threads} threads of one process. A request takes {page} ms (it waits for a database, no CPU), and "
        f"holds a lock for {lock} of them; all requests share this lock. How many requests/s at most?"
    )
    return Task("ceiling", text, {"threads": threads, "page": page, "lock": lock}, look)
