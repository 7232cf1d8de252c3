"""A quiz before and after a class: the same questions, no feedback until both have been answered.

before = quiz.Quiz(*questions.OF["class"])
before                               # choose; nothing says what is right
...
quiz.side_by_side(before, after)     # a row a question: both answers, and why one is wrong
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any
from zlib import crc32

import pandas
from helpers.lesson import RIGHT, Item, Still, _choices, _question, feedback


class Quiz(Still):
    """Questions with radio buttons. `answers`: the option chosen for each, None for none yet."""

    def __init__(self, *items: Item) -> None:
        self.items = items
        # By checksum: the right option may be anywhere, and is at the same place both times.
        ways = [sorted(item.options, key=lambda one: crc32(one.encode())) for item in items]
        self._boxes: list[Any] = [_choices(options) for options in ways]
        rows, still = [], []
        for number, (item, box) in enumerate(zip(items, self._boxes, strict=True), 1):
            rows += [_question(f"{number}. {item.question}"), box]
            listed = "".join(f"<li>{escape(option)}</li>" for option in box.options)
            asked = f"<p><b>{number}. {escape(item.question)}</b></p><ul>{listed}</ul>"
            still.append(f'<div style="break-inside: avoid">{asked}</div>')
        columns = (
            f'<div style="columns: 20em; font-size: 0.75em">{"".join(still)}</div>'  # on one slide
        )
        super().__init__(columns, *rows)

    @property
    def answers(self) -> list[str | None]:
        return [box.value for box in self._boxes]

    def right(self) -> int:
        """How many answers are right."""
        pairs = zip(self.items, self.answers, strict=True)
        return sum(chosen is not None and item.options[chosen] == RIGHT for item, chosen in pairs)


def where(item: Item, link: bool = False) -> str:
    """The section that shows the answer, in words: 01, "The pool breathes"; as a link that JupyterLab opens,
    if wished: an executed copy has its notebooks elsewhere."""
    notebook, heading = item.see
    said = f'{notebook[:2]}, "{heading}"'
    place = f"{notebook}.ipynb#{heading.replace(' ', '-')}"
    return f'<a href="{place}" target="_blank">{said}</a>' if link else said


def frame(before: Quiz, after: Quiz) -> pandas.DataFrame:
    """A row a question: the answers before and after, the feedback on the later one, and where the
    answer is shown. Raises ValueError for two different quizzes."""
    if before.items != after.items:
        raise ValueError("these are two different quizzes: make both of the same questions")
    asked = zip(before.items, before.answers, after.answers, strict=True)
    rows = [
        {
            "question": item.question,
            "before": _marked(item, first),
            "after": _marked(item, last),
            "why": feedback(item, last) if last else "",
            "shown in": where(item, link=bool(last)),
        }
        for item, first, last in asked
    ]
    return pandas.DataFrame(rows, index=range(1, len(rows) + 1))


def _marked(item: Item, chosen: str | None) -> str:
    if chosen is None:
        return "–"
    return f"{'✓' if item.options[chosen] == RIGHT else '✗'} {chosen}"


def side_by_side(before: Quiz, after: Quiz) -> Any:
    """Print how many were right each time, and give the table, with its text to the left."""
    for when, one in (("before", before), ("after", after)):
        print(f"{when}: {one.right()} of {len(one.items)} right", _unanswered(one.answers))
    left = {"text-align": "left", "white-space": "normal"}
    return frame(before, after).style.set_properties(None, **left)


def _unanswered(answers: Sequence[str | None]) -> str:
    left = answers.count(None)
    return f"({left} without an answer)" if left else ""
