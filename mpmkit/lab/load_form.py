"""The control room's load as a form, and the LoadProfile that comes of it.

    form = LoadForm()
    form.set("arrival", "poisson")
    form.set("rate", "300")
    form.fields()        # those that apply now, with what is wrong with each
    form.profile(60)     # the LoadProfile, or ProfileError with everything that is wrong

Pure: no server, no thread. Kinds, help, units and ranges are those of LoadProfile's fields; some ranges
are narrower, as a lab needs them. A value that cannot be is kept, as it is typed, and its field says
what is wrong. What does not apply (a rate in the closed loop) is kept until it does.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mpmkit.lab.forms import Field
from mpmkit.load.profile import ARRIVALS, THINKS, LoadProfile, ProfileError
from mpmkit.load.specs import RequestSpec

MIX = "mix"
# (path, text, weight in the mix): what a room serves.
PAGES = (
    ("/index.html", "static page", 8),
    ("/hello.py", "script", 2),
    ("/slow.py", "slow script, 0.1 s", 0),
    ("/large.bin", "file of 5 MB", 0),
)
FIRST, MORE, PARTS, OTHERS = "Load", "Requests", "The mix, by weight", "Background clients"

ARRIVAL_TEXTS = ("closed loop: after the answer", "open loop: evenly", "open loop: Poisson")
THINK_TEXTS = ("all the same", "random (exponential)")
FILES = (*((path, text) for path, text, _ in PAGES), (MIX, "a mix of these"))

_OF = {field.name: field.metadata for field in fields(LoadProfile)}


def _field(group: str, name: str, label: str, default: str, reach: float = 0, **more: Any) -> Field:
    """A field of the form as it opens: what LoadProfile says of it, and what the form changes."""
    how = _OF[name]
    made = {
        "kind": how["kind"], "unit": how["unit"], "help": how["help"],
        "low": how["low"] or 0, "high": how["high"], "step": 1,
    }  # fmt: skip
    return Field(
        name=name, group=group, label=label, default=default, reach=reach, value="",
        **made | more,
    )  # fmt: skip


def _weight(path: str) -> str:
    return f"weight {path}"


_ROWS = (
    _field(FIRST, "users", "Users", "50", 200, high=500),
    _field(FIRST, "path", "request", "/index.html", kind="choice", choices=FILES),
    _field(FIRST, "keep_alive", "keep-alive, %", "0", 100, step=10, high=100, unit="% of the users",
           help="Users that keep their connection; the others open one for each request"),
    _field(MORE, "arrival", "Arrivals", "closed",
           choices=tuple(zip(ARRIVALS, ARRIVAL_TEXTS, strict=True))),
    _field(MORE, "rate", "Rate, requests/s", "500", 5000, step=50, low=1, high=50_000),
    _field(MORE, "think_time", "Think time, s", "0", 5, step=0.1),
    _field(MORE, "think", "Think times are", "constant",
           choices=tuple(zip(THINKS, THINK_TEXTS, strict=True))),
    _field(MORE, "ramp", "Ramp, s", "0", 60, high=600),
    _field(MORE, "requests_per_connection", "Requests per connection", "", 200, high=100_000),
    _field(MORE, "timeout", "Time-out, s", "30", 60, step=0.5),
    *(Field(_weight(path), PARTS, "number", "", f"How often {path}, in relation to the others",
            str(weight), 0, 1000, 10, 1, "", label=text) for path, text, weight in PAGES),
    _field(OTHERS, "slow_readers", "Slow readers", "0", 100, high=200,
           help="Clients that fetch what the users request (of a mix, the largest) and read slowly. "
           "What fits into the sockets is no burden to the server: choose the file of 5 MB"),
    _field(OTHERS, "read_rate", "they read, bytes/s", "10000", 100_000, step=1000),
    _field(OTHERS, "idle_holders", "Idle holders", "0", 400, high=1000),
    _field(OTHERS, "idle_request", "with one request", "On",
           help="On: a kept connection after one request. Off: a connection without a request; the "
           "kernel keeps those from the server for a while (TCP_DEFER_ACCEPT)"),
)  # fmt: skip
ROWS = {row.name: row for row in _ROWS}


class LoadForm:
    """What a reader chooses of a LoadProfile. Names are LoadProfile's; `keep_alive` is in percent
    on the form; of `mix` the form has the weights."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def set(self, name: str, value: Any) -> None:
        """One value: text as typed into the form, or what LoadProfile takes; None or "" for the
        default. Raises ProfileError for a name that the form does not have."""
        if name not in ROWS:
            raise ProfileError(
                f"{name}: the load's form has no such field, it has {', '.join(ROWS)}"
            )
        if name == "keep_alive" and not isinstance(value, str) and value is not None:
            value = f"{100 * value:g}"
        elif isinstance(value, bool):
            value = "On" if value else "Off"
        word = "" if value is None else str(value).strip()
        self._words.pop(name, None)
        if word and word != ROWS[name].default:
            self._words[name] = word

    def copy(self) -> LoadForm:
        """Another form with the same values."""
        made = LoadForm()
        made._words = dict(self._words)
        return made

    def word(self, name: str) -> str:
        """The text of a field, the default's where none is set."""
        return self._words.get(name, ROWS[name].default)

    @property
    def is_open(self) -> bool:
        """Whether requests are due at times of their own."""
        return self.word("arrival") != "closed"

    def _applies(self, name: str) -> bool:
        if name not in _OF:
            return self.word("path") == MIX
        if name == "requests_per_connection":
            return self.word("keep_alive") != "0"
        return _OF[name]["loop"] in ("", "open" if self.is_open else "closed")

    def _applying(self) -> list[Field]:
        """The fields that apply now, with the choices that they have now."""
        made = []
        for row in ROWS.values():
            word = self.word(row.name)
            if row.name == "path" and word.startswith("/") and word not in dict(row.choices):
                row = row._replace(choices=(*row.choices, (word, word)))
            if self._applies(row.name):
                made.append(row._replace(value=self._words.get(row.name, "")))
        return made

    def _check(self, duration: float) -> tuple[LoadProfile | None, dict[str, str]]:
        """The profile, or what is wrong by field."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for field in self._applying():
            try:
                values[field.name] = _read(field)
            except ProfileError as error:
                wrong[field.name] = str(error)
        if wrong:
            return None, wrong
        given = {name: values[name] for name in _OF if values.get(name) is not None}
        given["keep_alive"] /= 100
        if given["path"] == MIX:
            del given["path"]
            # The largest first: that is the one that slow readers fetch.
            weights = [(path, values[_weight(path)]) for path, _, _ in reversed(PAGES)]
            given["mix"] = tuple(RequestSpec(path, weight=w) for path, w in weights if w)
            if not given["mix"]:
                return None, {_weight(PAGES[0][0]): "mix: no page has a weight; give one above 0"}
        try:
            return LoadProfile(duration=duration, **given), {}
        except ProfileError as error:
            for text in str(error).split("; "):
                name = text.partition(":")[0]
                wrong[name if name in ROWS else "users"] = text
            return None, wrong

    def profile(self, duration: float) -> LoadProfile:
        """The load, for so many seconds. Raises ProfileError naming every field at fault."""
        made, wrong = self._check(duration)
        if made is None:
            raise ProfileError("; ".join(wrong.values()))
        return made

    def fields(self) -> list[Field]:
        """The fields that apply now, with what is wrong with them."""
        _, wrong = self._check(1.0)
        return [
            field._replace(hints=(wrong[field.name].removeprefix(f"{field.name}: "),), refused=True)
            if field.name in wrong
            else field
            for field in self._applying()
        ]

    def summary(self) -> str:
        """What is set apart from the defaults and the form's first group, in a few words."""
        parts = []
        for field in self._applying():
            if field.value and field.group != FIRST:
                text = dict(field.choices).get(field.value, field.value)
                parts.append(text if field.name == "arrival" else f"{field.label} {text}")
        return ", ".join(parts)


def _read(field: Field) -> Any:
    """The value of a field. Raises ProfileError that begins with the field's name."""
    word = field.text
    if field.kind == "choice":
        values = [value for value, _ in field.choices]
        if word not in values:
            raise ProfileError(f"{field.name}: must be one of {', '.join(values)}, not {word!r}")
        return word
    if field.kind == "switch":
        if word.lower() not in ("on", "off"):
            raise ProfileError(f"{field.name}: must be On or Off, not {word!r}")
        return word.lower() == "on"
    if not word:
        return None
    whole = field.kind == "whole"
    try:
        value: float = int(word) if whole else float(word)
    except ValueError:
        value = float("nan")
    if not field.low <= value <= (field.high or 0):
        must = f"{'a whole number from ' if whole else ''}{field.low:g} to {field.high:,g}"
        unit = f" {field.unit}" if field.unit else ""
        raise ProfileError(f"{field.name}: must be {must}{unit}, not {word!r}")
    return value
