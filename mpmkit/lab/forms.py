"""The control room's directives as a form: fields with bounds, values and httpd's corrections.

    form = DirectiveForm("event")
    form.set("ThreadsPerChild", "100")
    form.fields()      # hint: AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used

Pure: no server, no thread. Which directives an MPM has, their bounds, defaults, units and help come
from the table in `mpmkit.config.directives`. A value that httpd cannot read is kept, as it is typed;
its hints say what is wrong, and a start refuses it.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, SPECS, DirectiveError, Directives, Setting, Spec
from mpmkit.config.keywords import from_keywords

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
    group: str
    kind: str  # number, factor, time, switch or choice
    unit: str
    help: str
    default: str
    low: float
    high: float | None  # None: the table has no upper bound
    reach: float  # where the slider ends
    step: float
    value: str
    hints: tuple[str, ...] = ()  # what is wrong with the value, or what httpd corrects
    effective: str = ""  # what httpd uses instead, "" if that is the value
    refused: bool = False  # nothing starts with this value
    label: str = ""  # what the form shows; "": the name
    choices: tuple[tuple[str, str], ...] = ()  # (value, text)

    @property
    def text(self) -> str:
        """The value that counts: the one that is set, or the default."""
        return self.value or self.default


def check_mpm(mpm: str) -> str:
    """The MPM's name. Raises DirectiveError for an MPM that does not exist."""
    if mpm not in MPMS:
        raise DirectiveError(f"{mpm!r} is not an MPM; use one of {', '.join(MPMS)}")
    return mpm


class DirectiveForm:
    """An MPM and directives for it, as a reader chooses them. Directives that the MPM does not have
    are kept until an MPM is chosen that has them.

    Raises DirectiveError for an MPM or a directive that does not exist.
    """

    def __init__(self, mpm: str, **directives: Any) -> None:
        self.mpm = check_mpm(mpm)
        settings = from_keywords(mpm, **directives)
        self._words = {setting.name: " ".join(setting.args) for setting in settings}

    def set(self, name: str, value: str | float | bool | None) -> None:
        """A directive's value, as words of a configuration line; None or "" for the default.

        Raises DirectiveError only for a directive that does not exist.
        """
        spec = SPECS.get(name.lower())
        if spec is None:
            raise DirectiveError(f"there is no directive {name!r}")
        if isinstance(value, bool):
            value = "On" if value else "Off"
        word = "" if value is None else str(value).strip()
        self._words.pop(spec.name, None)
        if word:
            self._words[spec.name] = word

    def words(self) -> dict[str, str]:
        """What is set of the directives that the MPM has: name -> words of a configuration line."""
        return {
            name: words
            for name, words in self._words.items()
            if self.mpm in SPECS[name.lower()].mpms
        }

    def check(
        self, running: Directives | None = None
    ) -> tuple[Directives | None, dict[str, list[str]]]:
        """What httpd makes of the form: (effective directives, None if it would refuse them; its
        messages by directive, those about no directive of the form under "").

        running: what a running server has, if these are for its restart.
        """
        hints: dict[str, list[str]] = {}
        if running is not None and running.mpm != self.mpm:
            running = None
        settings = [Setting(name, (words,)) for name, words in self.words().items()]
        try:
            effective, notes = check(self.mpm, settings, running=running)
        except DirectiveError as error:
            for problem in error.problems:
                hints.setdefault(problem.directive, []).append(problem.text)
            return None, hints
        for note in notes:
            first = re.match(r"[A-Za-z]+", note.text)  # a note begins with the directive's name
            about = first[0] if first and first[0] in NAMES else ""
            hints.setdefault(about, []).append(str(note))
        return effective, hints

    def checked(self, running: Directives | None = None) -> Directives:
        """The effective directives. Raises DirectiveError with all that httpd would refuse."""
        effective, hints = self.check(running)
        if effective is None:
            raise DirectiveError("; ".join(text for texts in hints.values() for text in texts))
        return effective

    def fields(self, running: Directives | None = None) -> list[Field]:
        """The fields of the chosen MPM, with values and hints."""
        effective, hints = self.check(running)
        defaults, _ = check(self.mpm)
        made = []
        for group, names in GROUPS.items():
            for name in names:
                spec = SPECS[name.lower()]
                if self.mpm not in spec.mpms:
                    continue
                value = self._words.get(name, "")
                own = [spec.misread(value)] if value and spec.misread(value) else []
                field = _field(
                    spec,
                    group,
                    self.mpm,
                    default=written(getattr(defaults, spec.attribute)),
                    value=value,
                    hints=(*own, *hints.get(name, ())),
                    refused=effective is None and name in hints,
                )
                used = written(getattr(effective, spec.attribute)) if effective else ""
                corrected = bool(field.hints) and used != field.text
                made.append(field._replace(effective=used if corrected else ""))
        return made


def written(value: Any) -> str:
    """A directive's value as it is written in a file."""
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, float):
        return f"{value:g}" if value >= 1 or value == 0 else f"{value * 1000:.0f}ms"
    return str(value)


def _field(spec: Spec, group: str, mpm: str, **shown: Any) -> Field:
    kind = KINDS.get(spec.takes, "number")
    high = spec.high_for(mpm)
    return Field(
        name=spec.name,
        group=group,
        kind=kind,
        unit=spec.unit,
        help=spec.doc,
        low=1.0 if kind == "factor" else float(spec.low or 0),
        high=high,
        reach=float(min(GROUPS[group][spec.name], high or math.inf)),
        step=0.5 if kind in ("time", "factor") else 1.0,
        **shown,
    )
