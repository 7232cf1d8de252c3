"""What stands on the control room's panel: fields with bounds, and the load's form.

    form = LoadForm()
    form.set("arrival", "poisson")
    form.set("rate", "300")
    form.fields()        # those that apply now, with what is wrong with each
    form.profile(60)     # the LoadProfile, or ProfileError with everything that is wrong

Pure: no server, no thread. A value that can't be is kept, as a reader types it, and told in its
field; `profile` refuses it. What does not apply (a rate in the closed loop) is kept, too, until it
does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mpmkit.load.profile import ARRIVALS, THINKS, LoadProfile, ProfileError
from mpmkit.load.specs import RequestSpec


class Field(NamedTuple):
    """One directive, or one setting of the load. `value` is the text that is set, "" for the
    default."""

    name: str
    group: str
    kind: str  # number, factor, time, switch or choice
    unit: str
    doc: str
    default: str
    low: float
    high: float | None  # None: no upper bound in the table
    reach: float  # where the slider ends
    step: float
    value: str
    advice: tuple[str, ...]  # what is wrong with the value, or what httpd corrects
    effective: str  # what httpd would use instead, "" if it is the value
    refused: bool  # nothing starts with this value
    label: str = ""  # where the name is not it
    choices: tuple[tuple[str, str], ...] = ()  # (value, text)

    def plain(self) -> dict[str, Any]:
        return self._asdict()


MIX = "mix"
# (path, text, weight in the mix): what a room serves.
PAGES = (
    ("/index.html", "static page", 8),
    ("/hello.py", "script", 2),
    ("/slow.py", "slow script, 0.1 s", 0),
    ("/large.bin", "file of 5 MB", 0),
)

FIRST, MORE, PARTS, BESIDE = "load", "How they ask", "The mix, by weight", "Beside the users"


class Knob(NamedTuple):
    """One line of the form. `when` says, from the form, whether it applies."""

    name: str
    group: str
    label: str
    kind: str
    unit: str
    default: str
    low: float
    high: float
    reach: float
    step: float
    doc: str
    choices: tuple[tuple[str, str], ...] = ()
    when: Callable[[LoadForm], bool] = lambda form: True


def _weight(path: str) -> str:
    return f"weight {path}"


KNOBS = (
    Knob(
        "users",
        FIRST,
        "Users",
        "number",
        "",
        "50",
        1,
        500,
        200,
        1,
        "Locust's users. Closed loop: each asks again when it was answered. Open loop: the most "
        "requests under way at once",
    ),
    Knob(
        "path",
        FIRST,
        "ask for",
        "choice",
        "",
        "/index.html",
        0,
        0,
        0,
        1,
        "What they ask for",
        (*((path, text) for path, text, _ in PAGES), (MIX, "a mix of these")),
    ),
    Knob(
        "keep_alive",
        FIRST,
        "kept, %",
        "number",
        "% of the users",
        "0",
        0,
        100,
        100,
        10,
        "How many of the users keep their connection; the others open one for each request",
    ),
    Knob(
        "arrival",
        MORE,
        "Arrivals",
        "choice",
        "",
        "closed",
        0,
        0,
        0,
        1,
        "When a request is sent: after the last answer, or at times of its own. There latency counts "
        "from when it was due",
        tuple(
            zip(
                ARRIVALS,
                (
                    "closed loop: after the answer",
                    "open loop: evenly",
                    "open loop: at random (Poisson)",
                ),
                strict=True,
            )
        ),
    ),
    Knob(
        "rate",
        MORE,
        "Rate, requests/s",
        "number",
        "requests/s",
        "500",
        1,
        50_000,
        5000,
        50,
        "Requests a second that are due in all",
        when=lambda form: form.is_open,
    ),
    Knob(
        "think_time",
        MORE,
        "Think time, s",
        "time",
        "s",
        "0",
        0,
        600,
        5,
        0.1,
        "Between an answer and the user's next request",
        when=lambda form: not form.is_open,
    ),
    Knob(
        "think",
        MORE,
        "Think times are",
        "choice",
        "",
        "constant",
        0,
        0,
        0,
        1,
        "All the same, or at random with that mean",
        tuple(zip(THINKS, ("all the same", "at random (exponential)"), strict=True)),
        when=lambda form: not form.is_open,
    ),
    Knob(
        "ramp",
        MORE,
        "Ramp, s",
        "time",
        "s",
        "0",
        0,
        600,
        60,
        1,
        "Over how long the users appear; 0: all at once",
        when=lambda form: not form.is_open,
    ),
    Knob(
        "requests_per_connection",
        MORE,
        "Requests a connection",
        "number",
        "",
        "",
        1,
        100_000,
        200,
        1,
        "After how many a user closes its kept connection; empty: the server decides",
        when=lambda form: form.word("keep_alive") != "0",
    ),
    Knob(
        "timeout",
        MORE,
        "Time-out, s",
        "time",
        "s",
        "30",
        0.05,
        600,
        60,
        0.5,
        "A request that takes longer has failed",
    ),
    *(
        Knob(
            _weight(path),
            PARTS,
            text,
            "number",
            "",
            str(weight),
            0,
            1000,
            10,
            1,
            f"How often {path}, in relation to the others",
            when=lambda form: form.word("path") == MIX,
        )
        for path, text, weight in PAGES
    ),
    Knob(
        "slow_readers",
        BESIDE,
        "Slow readers",
        "number",
        "",
        "0",
        0,
        200,
        100,
        1,
        "Clients that fetch what the users ask for (of a mix, the largest), and read slowly. What fits "
        "into the sockets is no burden to the server: let them ask for the large file",
    ),
    Knob(
        "read_rate",
        BESIDE,
        "they read, bytes/s",
        "number",
        "bytes/s",
        "10000",
        1,
        10_000_000,
        100_000,
        1000,
        "How fast each of them reads",
    ),
    Knob(
        "idle_holders",
        BESIDE,
        "Idle holders",
        "number",
        "",
        "0",
        0,
        1000,
        400,
        1,
        "Clients that connect and stay",
    ),
    Knob(
        "idle_request",
        BESIDE,
        "they ask once",
        "switch",
        "",
        "On",
        0,
        1,
        1,
        1,
        "On: a kept connection after one request. Off: a connection that never sends one; the kernel "
        "keeps those from the server for a while (TCP_DEFER_ACCEPT)",
    ),
)
KNOB = {knob.name: knob for knob in KNOBS}


class LoadForm:
    """What a reader chooses of a LoadProfile. Names are LoadProfile's; `keep_alive` is in percent
    on the form; of `mix` the form has the weights."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def set(self, name: str, value: Any) -> None:
        """One value: text as typed into the form, or what LoadProfile takes; None or "" for the
        default. Raises ProfileError for a name that the form does not have."""
        if name not in KNOB:
            raise ProfileError(
                f"{name}: the load's form has no such field, it has "
                f"{', '.join(knob.name for knob in KNOBS)}"
            )
        if name == "keep_alive" and not isinstance(value, str) and value is not None:
            value = f"{100 * value:g}"
        elif isinstance(value, bool):
            value = "On" if value else "Off"
        word = "" if value is None else str(value).strip()
        self._words.pop(name, None)
        if word and word != KNOB[name].default:
            self._words[name] = word

    def copy(self) -> LoadForm:
        """Another form with the same values."""
        made = LoadForm()
        made._words = dict(self._words)
        return made

    def word(self, name: str) -> str:
        """The text of a field, the default's where none is set."""
        return self._words.get(name, KNOB[name].default)

    @property
    def is_open(self) -> bool:
        """Whether requests are due at times of their own."""
        return self.word("arrival") != "closed"

    def _read(self, knob: Knob) -> Any:
        """The value of a field. Raises ProfileError that begins with the field's name."""
        word = self.word(knob.name)
        if knob.kind == "choice":
            values = [value for value, _ in knob.choices]
            if word not in values and not (knob.name == "path" and word.startswith("/")):
                raise ProfileError(f"{knob.name}: must be one of {', '.join(values)}, not {word!r}")
            return word
        if knob.kind == "switch":
            if word.lower() not in ("on", "off"):
                raise ProfileError(f"{knob.name}: must be On or Off, not {word!r}")
            return word.lower() == "on"
        if not word:
            return None
        whole = knob.kind == "number" and not knob.name.startswith(
            ("keep", "weight", "rate", "read")
        )
        try:
            value: float = int(word) if whole else float(word)
        except ValueError:
            value = float("nan")
        if not knob.low <= value <= knob.high:
            what = "a whole number from " if whole else ""
            unit = f" {knob.unit}" if knob.unit else ""
            raise ProfileError(
                f"{knob.name}: must be {what}{knob.low:g} to {knob.high:,g}{unit}, not {word!r}"
            )
        return value

    def _check(self, duration: float) -> tuple[LoadProfile | None, dict[str, str]]:
        """The profile, or what is wrong by field."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for knob in KNOBS:
            if knob.when(self):
                try:
                    values[knob.name] = self._read(knob)
                except ProfileError as error:
                    wrong[knob.name] = str(error)
        if wrong:
            return None, wrong
        given = {
            name: value for name, value in values.items() if " " not in name and value is not None
        }
        given["keep_alive"] /= 100
        if given["path"] == MIX:
            del given["path"]
            # The largest first: that is the one slow readers fetch.
            asks = [
                RequestSpec(path, weight=values[_weight(path)])
                for path, _, _ in reversed(PAGES)
                if values[_weight(path)]
            ]
            if not asks:
                return None, {_weight(PAGES[0][0]): "mix: no page has a weight; give one above 0"}
            given["mix"] = tuple(asks)
        try:
            return LoadProfile(duration=duration, **given), {}
        except ProfileError as error:
            for text in str(error).split("; "):
                name = text.partition(":")[0]
                wrong[name if name in KNOB else "users"] = text
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
        made = []
        for knob in KNOBS:
            if not knob.when(self):
                continue
            said = wrong.get(knob.name, "").removeprefix(f"{knob.name}: ")
            choices = knob.choices
            word = self.word(knob.name)
            if knob.name == "path" and word not in dict(choices):
                choices = (*choices, (word, word))
            made.append(
                Field(
                    knob.name,
                    knob.group,
                    knob.kind,
                    knob.unit,
                    knob.doc,
                    knob.default,
                    knob.low,
                    knob.high,
                    knob.reach,
                    knob.step,
                    self._words.get(knob.name, ""),
                    (said,) if said else (),
                    "",
                    bool(said),
                    knob.label,
                    choices,
                )
            )
        return made

    def told(self, groups: tuple[str, ...] = (MORE, PARTS, BESIDE)) -> str:
        """What is set besides the defaults, in a few words."""
        said = []
        for knob in KNOBS:
            if knob.group in groups and knob.name in self._words and knob.when(self):
                text = dict(knob.choices).get(self.word(knob.name), self.word(knob.name))
                said.append(text if knob.name == "arrival" else f"{knob.label} {text}")
        return ", ".join(said)
