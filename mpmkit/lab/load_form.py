"""The control room's load as a form, and the resulting LoadProfile.

    form = LoadForm()
    form.set("arrival", "poisson")
    form.set("rate", "300")
    form.fields()        # those that apply now, with what is wrong with each
    form.profile(60)     # the LoadProfile, or ValueError with everything that is wrong

Pure. Kinds, help, units and ranges are those of LoadProfile's fields; some ranges are narrower, as a lab needs
them. A value that cannot be is kept, as it is typed. What does not apply (a rate in the closed loop) is kept
until it does.
"""

from dataclasses import fields
from typing import Any

from mpmkit.lab.clients import MOST
from mpmkit.lab.forms import Field, Form
from mpmkit.load.profile import ARRIVALS, THINKS, LoadProfile, ProfileError, RequestSpec

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


def _weight(path: str) -> str:
    return f"weight {path}"


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
        _field(_weight(path), text, str(weight), 10, high=1000,
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
    """What a reader chooses of a LoadProfile, and the room's browsers. Names are LoadProfile's;
    of `mix` the form has the weights."""

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
            weights = [(path, values[_weight(path)]) for path, _ in FILES]
            given["mix"] = tuple(RequestSpec(path, weight=w) for path, w in weights if w)
            if not given["mix"]:
                raise ProfileError(f"{_weight(FILES[0][0])}: no page of the mix has a weight")
        return LoadProfile(duration=duration, **given)

    def browsers(self) -> tuple[int, float]:
        """How many browsers, and how long they think. Raises ValueError for a value that cannot be."""
        return self.row("browsers").read(), self.row("browser_think").read()

    def summary(self) -> str:
        """What is set apart from the defaults and the form's first group, in a few words."""
        parts = []
        for field in self.rows():
            if field.value and field.group not in (FIRST, BROWSERS):
                text = dict(field.choices).get(field.value, field.value)
                parts.append(text if field.name == "arrival" else f"{field.label} {text}")
        return ", ".join(parts)
