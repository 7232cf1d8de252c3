"""The shape of a lesson: a prediction before an experiment, and three questions at its end.

    guess = lesson.predict("How many of twenty clients are served at once?", unit="clients")
    guess                       # a box to type into
    guess.shown(8)              # what was predicted, next to what was measured

    lesson.check_yourself(lesson.Item("What does a client see when all workers are busy?", {
        "it waits": RIGHT, "503": "a status is an answer, and an answer takes a worker"}))

Both leave their question and its choices in an executed copy, where there is no kernel to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple
from zlib import crc32

import ipywidgets
import pandas

from mpmkit.lab.replay import say as say

RIGHT = ""
WIDE = {"layout": {"width": "auto"}}


class Still(ipywidgets.VBox):
    """Widgets with a text that stands for them where nothing is alive (`docs._tools.render` keeps it)."""

    def __init__(self, still: str, *children: Any) -> None:
        super().__init__(children)
        self.still = still

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle:
            bundle["text/html"] = self.still
        return bundle


def _choices(options: Sequence[str]) -> Any:
    return ipywidgets.RadioButtons(options=list(options), value=None, **WIDE)


def _question(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f"<b>{escape(text)}</b>")


class Prediction(Still):
    """A question before an experiment. `guess` is what the reader chose or typed, None as long as that is
    nothing."""

    def __init__(self, question: str, options: Sequence[str] = (), unit: str = "") -> None:
        self.question, self.unit = question, unit
        self._box: Any = _choices(options) if options else ipywidgets.Text(placeholder="a number")
        ways = " · ".join(map(escape, options)) or f"a number of {escape(unit)}"
        row = [self._box, *([] if options else [ipywidgets.Label(unit)])]
        still = f"<p><b>Predict:</b> {escape(question)}<br>{ways}</p>"
        super().__init__(still, _question(f"Predict: {question}"), ipywidgets.HBox(row))

    @property
    def guess(self) -> str | float | None:
        """The choice, or the number typed. None for nothing, or for what is not a number."""
        value = self._box.value
        if isinstance(self._box, ipywidgets.RadioButtons) or not value:
            return value or None
        try:
            return float(value.replace(",", ""))
        except ValueError:
            return None

    def shown(self, result: str | float) -> None:
        """Print the prediction next to the result. Raises ValueError for a result that is not a choice."""
        options = getattr(self._box, "options", ())
        if options and result not in options:
            raise ValueError(f"{result!r} is no choice of {', '.join(options)}")
        said = _text(result, self.unit)
        if self.guess is None:
            print(f"no prediction was made; the run says: {said}")
        elif isinstance(result, str):
            print(
                f"you predicted: {self.guess}; the run says: {said}", _judged(self.guess == result)
            )
        else:
            near = abs(float(self.guess) - result) <= 0.1 * abs(result)
            print(
                f"you predicted: {_text(self.guess, self.unit)}; the run says: {said}",
                _judged(near),
            )


def _text(value: str | float, unit: str) -> str:
    if isinstance(value, str):
        return value
    if value == 1 and len(unit) > 2 and unit.isalpha():  # one connection
        unit = unit.removesuffix("es" if unit == "processes" else "s")
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.4g} {unit}"


def _judged(right: bool) -> str:
    return "- as predicted" if right else "- not as predicted: why?"


def predict(question: str, *options: str, unit: str = "") -> Prediction:
    """Ask for a prediction: one of the options, or without any a number in `unit`."""
    return Prediction(question, options, unit)


class Item(NamedTuple):
    """A question with its options: option -> what is wrong with it, or RIGHT. see: notebook and heading of
    the section that shows the answer, where another notebook has it."""

    question: str
    options: Mapping[str, str]
    see: tuple[str, str] = ("", "")


def feedback(item: Item, chosen: str) -> str:
    """The feedback on a choice."""
    return "Right." if item.options[chosen] == RIGHT else f"No: {item.options[chosen]}."


def check_yourself(*items: Item) -> Still:
    """Three questions of one right option each, with a sentence for each wrong one.

    Raises ValueError for an item without exactly one right option, or fewer than three options.
    """
    rows, still = [], []
    for number, item in enumerate(items, 1):
        options = sorted(
            item.options, key=lambda one: crc32(one.encode())
        )  # the right one anywhere
        if list(item.options.values()).count(RIGHT) != 1 or len(item.options) < 3:
            raise ValueError(f"{item.question}: one right option and two wrong ones are needed")
        box, said = _choices(options), ipywidgets.HTML()
        box.observe(
            lambda change, item=item, said=said: setattr(
                said, "value", escape(feedback(item, change.new))
            ),
            "value",
        )
        rows += [_question(f"{number}. {item.question}"), box, said]
        ways = "".join(f"<li>{escape(option)}</li>" for option in options)
        still.append(f"<p><b>{number}. {escape(item.question)}</b></p><ul>{ways}</ul>")
    return Still("".join(still), *rows)


def side_by_side(yours: pandas.DataFrame, recorded: pandas.DataFrame) -> Any:
    """What was measured here next to the recorded run; nothing is compared with itself: a replayed run
    gives a sentence."""
    pair = {"yours": yours, "recorded": recorded}
    if yours.equals(recorded):
        print(
            "What is shown is the recorded run. Measure here (MPMKIT_REPLAY=0) to compare the two."
        )
        return None
    return pandas.concat(pair, axis="columns")
