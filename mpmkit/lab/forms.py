"""A form as data: fields with bounds, values and what is wrong with them. Pure. The control room's two forms:

    form = DirectiveForm("event")
    form.set("ThreadsPerChild", "100")
    form.fields()      # hint: AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used

    form = LoadForm()
    form.set("rate", "300")
    form.profile(60)   # the LoadProfile, or ValueError with everything that is wrong

Bounds, defaults, units and help come from `config.directives` and LoadProfile's fields. A value that cannot be is
kept, as it is typed: its hints say what is wrong. What does not apply (a rate in the closed loop) is kept, too.
"""

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple, Self

from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError, Directives, Setting
from mpmkit.config.keywords import from_keywords
from mpmkit.config.settings import Note
from mpmkit.load.connections import MOST
from mpmkit.load.fields import problem
from mpmkit.load.profile import ARRIVALS, THINKS, LoadProfile, ProfileError, RequestSpec

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

    @property
    def meaning(self) -> Any:
        """The value as a number, a truth or the choice; None for a number that is not given."""
        value: Any = self.text
        if self.kind == "switch":
            return {"on": True, "off": False}.get(value.lower(), value)
        if self.kind in ("whole", "number"):
            with contextlib.suppress(ValueError):
                return (int if self.kind == "whole" else float)(value) if value else None
        return value

    def checked(self) -> Self:
        """The field, with what is wrong with its value."""
        how = {**self._asdict(), "choices": tuple(dict(self.choices)), "none": "no value"}
        wrong = problem(how, self.meaning)
        return self._replace(hints=(wrong,), refused=True) if wrong else self


class Form:
    """Values as a reader types them, name -> text. Any thread may set one."""

    def __init__(self, **words: str) -> None:
        self._setting, self._words = threading.Lock(), words

    def put(self, name: str, value: Any) -> None:
        """A value more: text, a number or a truth; None or "" takes it away."""
        if isinstance(value, bool):
            value = "On" if value else "Off"
        word = "" if value is None else str(value).strip()
        with self._setting:  # a new dict: another thread may be reading the old one
            self._words = {**self._words, name: word}

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

    def read(self, *only: str) -> dict[str, Any]:
        """What is chosen, by name: of all fields that apply, or these. Raises ValueError naming each at fault."""
        rows = [row.checked() for row in self.rows() if not only or row.name in only]
        if wrong := [f"{row.name}: {row.hints[0]}" for row in rows if row.refused]:
            raise ValueError("; ".join(wrong))
        return {row.name: row.meaning for row in rows}


class DirectiveForm(Form):
    """An MPM and directives for it, as a reader chooses them. Directives that the MPM does not have are kept
    until an MPM is chosen that has them. Raises DirectiveError for an MPM or a directive that does not exist."""

    effective: Directives | None = None  # in a running server, if these are for its restart

    def __init__(self, mpm: str, **directives: Any) -> None:
        self.choose(mpm)
        settings = from_keywords(mpm, **directives)
        super().__init__(**{setting.name: " ".join(setting.args) for setting in settings})

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
        mine = [name for name in self._words if self.mpm in SPECS[name.lower()].mpms]
        return {name: word for name in mine if (word := self._words[name])}

    def checked(
        self, running: Directives | None = None, without: Iterable[str] = ()
    ) -> tuple[Directives, tuple[Note, ...]]:
        """httpd's reading of the form: the effective directives, and what it corrects. running: what a running
        server has, if these are for its restart. without: directives that are not read. Raises DirectiveError
        with all that httpd would refuse."""
        settings = [Setting(name, (w,)) for name, w in self.words().items() if name not in without]
        same = running is not None and running.mpm == self.mpm
        return check(self.mpm, settings, running=running if same else None)

    def fields(self) -> list[Field]:
        """The fields of the chosen MPM with their values, each with what httpd says about it."""
        hints, notes = defaultdict[str, list[str]](list), tuple[Note, ...]()
        try:
            _, notes = self.checked(self.effective)
        except DirectiveError as error:
            for problem in error.problems:
                hints[problem.directive].append(problem.text)
            with contextlib.suppress(DirectiveError):  # what it would correct of the others
                _, notes = self.checked(self.effective, hints)
        refused = set(hints)
        for note in notes:  # it begins with the directive's name
            hints[re.split(r"\W", note.text)[0]].append(str(note))
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
                hints=(*filter(None, [value and spec.misread(value)]), *hints[name]),
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


MIX = "mix"
# (path, text, weight in the mix): what a room serves.
PAGES = (
    ("/index.html", "static page", 8),
    ("/hello.py", "script", 2),
    ("/slow.py", "slow script, 0.1 s", 0),
    ("/large.bin", "file of 5 MB", 0),
)
FIRST, BROWSERS = "Load", "Browsers"
ARRIVAL_TEXTS = ("closed loop: after the answer", "open loop: evenly", "open loop: Poisson")
THINK_TEXTS = ("all the same", "random (exponential)")
FILES = tuple((path, text) for path, text, _ in PAGES)

_OF = {field.name: field.metadata for field in fields(LoadProfile)}


def _field(name: str, label: str, default: str, reach: float = 0, **more: Any) -> Field:
    """A field of the form as it opens: what LoadProfile says of it, and what the form changes."""
    made = {"step": 1, "low": 0} | more
    how = {name: one for name, one in _OF.get(name, {}).items() if name in Field._fields and one}
    return Field(name, label=label, default=default, reach=reach, **{**made, **how, **more})


_GROUPS: dict[str, tuple[Field, ...]] = {
    FIRST: (
        _field("users", "Users", "50", 200, high=500),
        _field("path", "request", "/index.html", kind="choice", choices=(*FILES, (MIX, "a mix of these"))),
        _field("keep_alive", "keep-alive", "Off"),
    ),
    "Requests": (
        _field("arrival", "Arrivals", "closed", choices=tuple(zip(ARRIVALS, ARRIVAL_TEXTS, strict=True))),
        _field("rate", "Rate, requests/s", "500", 5000, step=50, low=1, high=50_000),
        _field("think_time", "Think time, s", "0", 5, step=0.1),
        _field("think", "Think times are", "constant", choices=tuple(zip(THINKS, THINK_TEXTS, strict=True))),
        _field("ramp", "Ramp, s", "0", 60, high=600),
        _field("requests_per_connection", "Requests per connection", "", 200, high=100_000),
        _field("timeout", "Time-out, s", "30", 60, step=0.5),
    ),
    "The mix, by weight": tuple(
        _field(f"weight {path}", text, str(weight), 10, high=1000,
               help=f"How often {path}, in relation to the others") for path, text, weight in PAGES
    ),
    "Further clients": (_field("idle_holders", "Idle holders", "0", 400, high=1000),),
    # No part of the load: the room has its own clients for these.
    BROWSERS: (
        _field("browsers", "number", "0", 300, high=MOST, kind="whole",
               help="Clients of which each keeps its connection, sends a request, waits for so many "
               "seconds, and sends the next"),
        _field("browser_think", "think, s", "60", 60, step=0.5, low=0.05, high=3600, unit="s",
               help="How long a browser waits between an answer and its next request"),
    ),
}  # fmt: skip
ROWS = {row.name: row._replace(group=group) for group, rows in _GROUPS.items() for row in rows}


class LoadForm(Form):
    """What a reader chooses of a LoadProfile (of `mix`, the weights), and the room's browsers."""

    def set(self, name: str, value: Any) -> None:
        """One value: text as typed into the form, or what LoadProfile takes; None or "" for the
        default. Raises ProfileError for a name that the form does not have."""
        if name not in ROWS:
            raise ProfileError(f"{name}: the form has no such field, it has {', '.join(ROWS)}")
        self.put(name, value)

    def row(self, name: str) -> Field:
        """A field with its value."""
        return self.filled(ROWS[name])

    def _applies(self, name: str) -> bool:
        if name not in _OF:
            return ROWS[name].group == BROWSERS or self.row("path").text == MIX
        if name == "requests_per_connection":
            return self.row("keep_alive").text.lower() == "on"
        loop = "closed" if self.row("arrival").text == "closed" else "open"
        return _OF[name]["loop"] in ("", loop)

    def rows(self) -> list[Field]:
        return [self.row(name) for name in ROWS if self._applies(name)]

    def profile(self, duration: float) -> LoadProfile:
        """The load, for so many seconds. Raises ValueError naming every field at fault."""
        values = self.read()
        given = {name: values[name] for name in _OF if values.get(name) is not None}
        if given["path"] == MIX:
            del given["path"]
            weights = [(path, values[f"weight {path}"]) for path, _ in FILES]
            given["mix"] = tuple(RequestSpec(path, weight=w) for path, w in weights if w)
            if not given["mix"]:
                raise ProfileError("weight /index.html: no page of the mix has a weight")
        return LoadProfile(duration=duration, **given)

    def browsers(self) -> tuple[int, float]:
        """How many browsers, and how long they think. Raises ValueError for a value that cannot be."""
        count, think = self.read("browsers", "browser_think").values()
        return count, think

    def summary(self) -> str:
        """What is set apart from the defaults and the form's first group, in a few words."""
        parts = []
        for field in self.rows():
            if field.value and field.group not in (FIRST, BROWSERS):
                text = dict(field.choices).get(field.value, field.value)
                parts.append(text if field.name == "arrival" else f"{field.label} {text}")
        return ", ".join(parts)
