"""What both panels are made of: named boxes, a field of a form as ipywidgets, and the panel's end.

A panel ends when it is closed, with its kernel, or when the cell that made it runs again.
"""

import re
import threading
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import ipywidgets
from IPython import get_ipython

from mpmkit.lab.forms import Field

_made: dict[str, tuple[str, list[Any]]] = {}  # cell id -> (one id for each run of it, its panels)


def named(name: str, widget: Any) -> Any:
    """The widget, with a name by which panel.css finds it."""
    widget.add_class(f"mk-{name}")
    return widget


def box(name: str, *children: Any) -> Any:
    """Widgets in a box; the layout is panel.css's."""
    return named(name, ipywidgets.Box(children))


def text(name: str) -> ipywidgets.HTML:
    """A text, empty at first."""
    return named(name, ipywidgets.HTML())


def button(name: str, label: str, act: Callable[[], Any], tip: str = "") -> ipywidgets.Button:
    """A button that does `act`."""
    made = named(name, ipywidgets.Button(description=label, tooltip=tip))
    made.on_click(lambda _: act())
    return made


def mark(widget: Any, name: str, on: Any) -> None:
    """Put a mark on a widget, or take it away."""
    (widget.add_class if on else widget.remove_class)(f"mk-{name}")


class Frame(ipywidgets.VBox):
    """A panel on the page. In a notebook, those that an earlier run of the same cell made are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("mk")
        try:
            parent = get_ipython().kernel.get_parent()  # type: ignore[union-attr,no-untyped-call]
            cell, run = parent["metadata"]["cellId"], parent["header"]["msg_id"]
        except (AttributeError, KeyError, TypeError):  # outside a notebook
            return
        before, panels = _made.get(cell, (run, []))
        if before != run:
            for panel in panels:
                panel.close()
            panels = []
        _made[cell] = (run, [*panels, self])

    def close(self) -> None:
        """Take the widgets from the page."""
        inside = list(self.children)
        for widget in inside:  # which grows by what is inside of these
            inside += getattr(widget, "children", ())
            widget.close()
        super().close()


class Control:
    """One row. `tell` is called with the field's name and new value; live: also while the slider moves."""

    def __init__(self, field: Field, tell: Callable[[str, Any], None], live: bool = False) -> None:
        self.name, self.group = field.name, field.group
        self._tell = tell
        self._showing: int | None = None  # the thread that shows a value: it is no reader's
        self._hints = text("hints")
        label = field.label or field.name
        self._slider: Any = None
        if field.kind == "choice":
            options = [(shown, value) for value, shown in field.choices]
            self._box: Any = ipywidgets.Dropdown(options=options, description=label)
        elif field.kind == "switch":
            self._box = ipywidgets.Checkbox(description=label, indent=False)
        else:
            self._box = ipywidgets.Text(continuous_update=False, placeholder=field.default)
            self._slider = ipywidgets.FloatSlider(
                min=field.low, max=field.reach, step=field.step, description=label,
                readout=False, continuous_update=live,
            )  # fmt: skip
            self._slider.observe(self._slid, "value")
        self._box.observe(lambda change: self._set(change.new), "value")
        self._parts = (self._slider, self._box) if self._slider else (self._box,)
        for part in self._parts:
            part.tooltip = _tooltip(field)
        self.widget = box("field", *self._parts)
        named(f"kind-{field.kind}", named(re.sub(r"\W+", "-", f"is-{field.name}"), self.widget))
        self.show(field)

    def _slid(self, change: Any) -> None:
        # The browser's slider answers 16 with 15.999999999999998: that is no change.
        word, before = f"{change.new:g}", f"{change.old:g}"
        if word != before:
            self._set("" if word == self._box.placeholder else word)

    def _set(self, value: Any) -> None:
        if self._showing != threading.get_ident():
            self._tell(self.name, value)

    def show(self, field: Field | None) -> None:
        """Show the field as it is now; None: it does not apply, and is not shown."""
        mark(self.widget, "off", field is None)
        if field is None:
            return
        self._showing = threading.get_ident()
        try:
            if field.kind in ("choice", "switch"):
                on = field.text.lower() == "on"
                self._box.value = on if field.kind == "switch" else field.text
            else:
                self._box.value, self._box.placeholder = field.value, field.default
                if found := re.match(r"[-+]?\d+(\.\d*)?", field.text):
                    number = float(found[0]) / (1000 if field.text.endswith("ms") else 1)
                    self._slider.value = min(max(number, field.low), field.reach)
        finally:
            self._showing = None
        self._hints.value = "<br>".join(map(escape, field.hints))
        self.widget.children = (*self._parts, *([self._hints] if field.hints else []))
        mark(self.widget, "set", field.value)
        mark(self.widget, "wrong", field.refused)


def _tooltip(field: Field) -> str:
    if field.kind in ("choice", "switch"):
        return f"{field.help}."
    bounds = f"{field.low:g} or more" if field.high is None else f"{field.low:g} to {field.high:,g}"
    unit = f", {field.unit}" if field.unit else ""
    default = f"; default {field.default}" if field.default else ""
    return f"{field.help}.\n{bounds}{unit}{default}. An empty box is the default"


def groups(controls: Iterable[Control]) -> list[Any]:
    """The controls' rows, in a box a group with its heading."""
    rows: dict[str, list[Any]] = {}
    for control in controls:
        rows.setdefault(control.group, []).append(control.widget)
    heads = {group: ipywidgets.HTML(f"<h4>{escape(group)}</h4>") for group in rows}
    return [box("part", heads[group], *widgets) for group, widgets in rows.items()]
