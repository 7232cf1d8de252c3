"""A field of a form as ipywidgets: its name, a slider, a box that takes every value, and its hints."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets

from mpmkit.lab.forms import Field

Tell = Callable[[str, str], None]


class Control:
    """One row. `tell` is called with the field's name and its new text, as a reader sets it.

    live: the slider calls it while it moves, not only when it is let go.
    """

    def __init__(self, field: Field, tell: Tell, *, live: bool = False) -> None:
        self.name, self.group = field.name, field.group
        self._tell = tell
        self._showing: int | None = None  # the thread that shows a value: it is no reader's
        self._hints = ipywidgets.HTML()
        self._hints.add_class("mk-hints")
        self._slider: Any = None
        label = field.label or field.name
        if field.kind == "choice":
            self._box: Any = ipywidgets.Dropdown(description=label)
        elif field.kind == "switch":
            self._box = ipywidgets.Checkbox(description=label, indent=False)
        else:
            self._box = ipywidgets.Text(continuous_update=False, placeholder=field.default)
            self._slider = ipywidgets.FloatSlider(
                description=label,
                min=field.low,
                max=field.reach,
                step=field.step,
                readout=False,
                continuous_update=live,
            )
            self._slider.observe(self._slid, "value")
        self._box.observe(lambda change: self._set(change.new), "value")
        self._parts = (self._slider, self._box) if self._slider else (self._box,)
        for part in self._parts:
            part.tooltip = _tooltip(field)
        self.widget = ipywidgets.HBox(self._parts)
        for name in ("field", f"kind-{field.kind}", re.sub(r"\W+", "-", f"is-{field.name}")):
            self.widget.add_class(f"mk-{name}")
        self.show(field)

    def _slid(self, change: Any) -> None:
        # The browser's slider answers 16 with 15.999999999999998: that is no change.
        word, before = f"{change.new:g}", f"{change.old:g}"
        if word != before:
            self._set("" if word == self._box.placeholder else word)

    def _set(self, value: Any) -> None:
        if self._showing != threading.get_ident():
            self._tell(self.name, ("On" if value else "Off") if value in (True, False) else value)

    def show(self, field: Field | None) -> None:
        """Show the field as it is now; None: it does not apply, and is not shown."""
        if field is None:
            self.widget.add_class("mk-off")
            return
        self._showing = threading.get_ident()
        try:
            self._fill(field)
        finally:
            self._showing = None
        self._hints.value = "<br>".join(map(escape, field.hints))
        self.widget.children = (*self._parts, *([self._hints] if field.hints else []))
        for name, on in (
            ("mk-off", False),
            ("mk-set", bool(field.value)),
            ("mk-wrong", field.refused),
        ):
            (self.widget.add_class if on else self.widget.remove_class)(name)

    def _fill(self, field: Field) -> None:
        if field.kind == "choice":
            options = tuple((text, value) for value, text in field.choices)
            if self._box.options != options:
                self._box.options = options
            self._box.value = field.text
        elif field.kind == "switch":
            self._box.value = field.text.lower() == "on"
        else:
            self._box.value = field.value
            self._box.placeholder = field.default
            if (number := _number(field.text)) is not None:
                self._slider.value = min(max(number, field.low), field.reach)


def _number(text: str) -> float | None:
    """The number that a value begins with; of milliseconds, in seconds."""
    found = re.match(r"[-+]?\d+(\.\d*)?", text)
    if found is None:
        return None
    return float(found[0]) / (1000 if text.endswith("ms") else 1)


def _tooltip(field: Field) -> str:
    if field.kind == "choice":
        return f"{field.help}."
    bounds = f"{field.low:g} or more" if field.high is None else f"{field.low:g} to {field.high:,g}"
    takes = "On or Off" if field.kind == "switch" else bounds
    unit = f", {field.unit}" if field.unit else ""
    default = f"; default {field.default}" if field.default else ""
    empty = "" if field.kind == "switch" else ". An empty box is the default"
    return f"{field.help}.\n{takes}{unit}{default}{empty}"
