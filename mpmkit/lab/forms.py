"""A form as data: fields with bounds, values and what is wrong with them; and the form of the directives.

    form = DirectiveForm("event")
    form.set("ThreadsPerChild", "100")
    form.fields()      # hint: AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used

Pure. Which directives an MPM has, their bounds, defaults, units and help come from `mpmkit.config.directives`.
A value that httpd cannot read is kept, as it is typed; its hints say what is wrong, and a start refuses it.
"""

import contextlib
import re
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError, Directives, Setting
from mpmkit.config.keywords import from_keywords
from mpmkit.config.settings import Note
from mpmkit.load.fields import problem

# Which directives the form has: for each, where its slider ends. The table's bound is often far beyond
# what a lab needs. The box next to the slider takes every value, also those that httpd corrects.
GROUPS: dict[str, dict[str, float]] = {
    "Processes and threads": {
        "StartServers": 32, "MinSpareServers": 32, "MaxSpareServers": 64,
        "MinSpareThreads": 250, "MaxSpareThreads": 500, "ThreadsPerChild": 64,
        "MaxRequestWorkers": 512, "ServerLimit": 256, "ThreadLimit": 128,
        "MaxConnectionsPerChild": 1000, "AsyncRequestWorkerFactor": 8,
    },
    "Connections": {
        "KeepAlive": 1, "KeepAliveTimeout": 60, "MaxKeepAliveRequests": 500, "Timeout": 120,
        "ListenBacklog": 1024, "GracefulShutdownTimeout": 60,
    },
}  # fmt: skip
NAMES = tuple(name for names in GROUPS.values() for name in names)
KINDS = {"On|Off": "switch", "time": "time", "factor": "factor"}


class Field(NamedTuple):
    """One field of a form. `value` is the text that is set, "" for the default."""

    name: str
    group: str = ""
    kind: str = "number"  # number, whole, factor, time, switch or choice
    unit: str = ""
    help: str = ""
    default: str = ""
    low: float = 0.0
    high: float | None = None  # None: there is no upper bound
    reach: float = 0.0  # where the slider ends
    step: float = 1.0
    value: str = ""
    hints: tuple[str, ...] = ()  # what is wrong with the value, or what httpd corrects
    refused: bool = False  # nothing starts with this value
    label: str = ""  # what the form shows; "": the name
    choices: tuple[tuple[str, str], ...] = ()  # (value, text)

    @property
    def text(self) -> str:
        """The value that counts: the one that is set, or the default."""
        return self.value or self.default

    def checked(self) -> Self:
        """The field, with what is wrong with its value."""
        try:
            self.read()
        except ValueError as error:
            hint = str(error).removeprefix(f"{self.name}: ")
            return self._replace(hints=(hint,), refused=True)
        return self

    def read(self) -> Any:
        """The value as a number, a truth or the choice; None for a number that is not given. Raises
        ValueError that begins with the field's name."""
        value: Any = self.text
        if self.kind == "switch":
            value = {"on": True, "off": False}.get(value.lower(), value)
        elif self.kind in ("whole", "number"):
            if not value:
                return None
            with contextlib.suppress(ValueError):
                value = int(value) if self.kind == "whole" else float(value)
        how = {**self._asdict(), "choices": tuple(dict(self.choices)), "none": ""}
        if wrong := problem(how, value):
            raise ValueError(f"{self.name}: {wrong}")
        return value


class Form:
    """Values as a reader types them, name -> text. Any thread may set one."""

    def __init__(self, words: dict[str, str] | None = None) -> None:
        self._setting = threading.Lock()
        self._words = words or {}

    def put(self, name: str, value: Any) -> None:
        """A value more: text, a number or a truth; None or "" takes it away."""
        if isinstance(value, bool):
            value = "On" if value else "Off"
        word = "" if value is None else str(value).strip()
        with self._setting:
            # A new dict: another thread may be reading the old one.
            others = {other: text for other, text in self._words.items() if other != name}
            self._words = {**others, name: word} if word else others

    def filled(self, row: Field) -> Field:
        """A field with its value, which is "" where it is the default."""
        word = self._words.get(row.name, "")
        return row._replace(value="" if word == row.default else word)

    def rows(self) -> list[Field]:
        """The fields that apply now, with their values."""
        raise NotImplementedError

    def fields(self) -> list[Field]:
        """The rows, with what is wrong with them."""
        return [row.checked() for row in self.rows()]

    def read(self) -> dict[str, Any]:
        """What is chosen, by name. Raises ValueError naming every field at fault."""
        rows = [row.checked() for row in self.rows()]
        if wrong := [f"{row.name}: {row.hints[0]}" for row in rows if row.refused]:
            raise ValueError("; ".join(wrong))
        return {row.name: row.read() for row in rows}


class DirectiveForm(Form):
    """An MPM and directives for it, as a reader chooses them. Directives that the MPM does not have are kept
    until an MPM is chosen that has them. Raises DirectiveError for an MPM or a directive that does not exist."""

    def __init__(self, mpm: str, **directives: Any) -> None:
        self.choose(mpm)
        settings = from_keywords(mpm, **directives)
        super().__init__({setting.name: " ".join(setting.args) for setting in settings})

    def choose(self, mpm: str) -> None:
        """Another MPM. Raises DirectiveError if it does not exist."""
        check(mpm)
        self.mpm = mpm

    def set(self, name: str, value: str | float | bool | None) -> None:
        """A directive's value, as words of a configuration line; None or "" for the default. Raises
        DirectiveError only for a directive that does not exist."""
        if (spec := SPECS.get(name.lower())) is None:
            raise DirectiveError(f"there is no directive {name!r}")
        self.put(spec.name, value)

    def words(self) -> dict[str, str]:
        """What is set of the directives that the MPM has: name -> words of a configuration line."""
        return {n: words for n, words in self._words.items() if self.mpm in SPECS[n.lower()].mpms}

    def checked(
        self, running: Directives | None = None, without: Iterable[str] = ()
    ) -> tuple[Directives, tuple[Note, ...]]:
        """httpd's reading of the form: the effective directives, and what it corrects. running: what a running
        server has, if these are for its restart. without: directives that are not read. Raises DirectiveError
        with all that httpd would refuse."""
        given = {name: words for name, words in self.words().items() if name not in without}
        settings = [Setting(name, (words,)) for name, words in given.items()]
        same = running is not None and running.mpm == self.mpm
        return check(self.mpm, settings, running=running if same else None)

    def fields(self, running: Directives | None = None) -> list[Field]:
        """The fields of the chosen MPM with their values, each with what httpd says about it."""
        hints: dict[str, list[str]] = {}
        refused: set[str] = set()
        notes: tuple[Note, ...] = ()
        try:
            _, notes = self.checked(running)
        except DirectiveError as error:
            for problem in error.problems:
                hints.setdefault(problem.directive, []).append(problem.text)
            refused = set(hints)
            with contextlib.suppress(DirectiveError):  # what it would correct of the others
                _, notes = self.checked(running, refused)
        for note in notes:  # it begins with the directive's name
            hints.setdefault(re.split(r"\W", note.text)[0], []).append(str(note))
        defaults, _ = check(self.mpm)
        made = []
        for group, name in ((group, name) for group, names in GROUPS.items() for name in names):
            spec = SPECS[name.lower()]
            if self.mpm not in spec.mpms:
                continue
            value, high = self._words.get(name, ""), spec.high_for(self.mpm)
            kind, reach = KINDS.get(spec.takes, "number"), GROUPS[group][name]
            low, step = float(spec.low or 0), 0.5 if kind in ("time", "factor") else 1.0
            default = written(getattr(defaults, spec.attribute))
            made.append(Field(
                name, group, kind, spec.unit, spec.doc, default, low=1.0 if kind == "factor" else low,
                high=high, reach=float(min(reach, high or reach)), step=step, value=value,
                hints=(*filter(None, [value and spec.misread(value)]), *hints.get(name, ())),
                refused=name in refused,
            ))  # fmt: skip
        return made


def written(value: Any) -> str:
    """A directive's value as it is written in a file."""
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, float):
        return f"{value:g}" if value >= 1 or value == 0 else f"{value * 1000:.0f}ms"
    return str(value)
