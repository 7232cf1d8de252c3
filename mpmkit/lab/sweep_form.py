"""What a reader of the sweep panel chooses, and the sweep that comes of it.

    form = SweepForm("prefork", "event", axis="MaxRequestWorkers", low=50, high=800, steps=5)
    form.values()      # [50, 238, 425, 612, 800]
    form.left_out()    # {612: "the server would use ...", ...}: not measured, and why
    form.plan()        # a SweepPlan, or ValueError with everything that is wrong

Pure: no server, no thread. The axis is a directive with a range of numbers or a field of the load.
Which values httpd would refuse or correct is found by `sweep_grid.plan`, value by value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpmkit.config.directives import MPMS, SPECS
from mpmkit.lab.forms import GROUPS, Field, check_mpm
from mpmkit.lab.load_form import PAGES, ROWS
from mpmkit.load.profile import LoadProfile
from mpmkit.measure.sweep_grid import SweepPlan, plan

LOAD_AXES = {"users": 200, "idle_holders": 1000, "think_time": 5}  # and where their sliders end
DIRECTIVE_AXES = {
    name: reach
    for names in GROUPS.values()
    for name, reach in names.items()
    if SPECS[name.lower()].takes != "On|Off"
}
AXES = {**LOAD_AXES, **DIRECTIVE_AXES}
LABELS = {"users": "users", "idle_holders": "kept connections", "think_time": "think time, s"}
# Where a sweep begins to be of interest; the others go from their lowest value to their slider's end.
RANGES = {
    "idle_holders": (0, 400), "think_time": (0, 2), "MaxRequestWorkers": (25, 250), "ThreadsPerChild": (5, 50),
    "MaxSpareServers": (10, 64), "MaxSpareThreads": (100, 500), "ServerLimit": (16, 256), "StartServers": (1, 16),
}  # fmt: skip
MOST_STEPS = 16
FRACTIONS = ("think_time", "AsyncRequestWorkerFactor")  # the others take whole numbers


def _field(name: str, label: str, default: float, low: float, high: float, **more: Any) -> Field:
    made: dict[str, Any] = {"kind": "number", "unit": "", "step": 1.0, "reach": high} | more
    made |= {"default": f"{default:g}", "low": low, "high": high, "value": ""}
    return Field(name=name, group="", help=label, label=label, **made)


@dataclass
class SweepForm:
    """The choices, each with a value that can run. directives: over the article's, at all points.

    low, high, steps: the values of the axis; log: each the same times as large as the one before.
    seconds: of load a point; warmup: before they count, for pools to grow.
    Raises DirectiveError for an MPM that does not exist, ValueError for an axis that cannot be swept.
    """

    mpms: tuple[str, ...] = MPMS
    axis: str = "idle_holders"
    low: float = 0
    high: float = 400
    steps: int = 6
    log: bool = False
    users: int = 8
    idle_holders: int = 0
    think_time: float = 0.0
    path: str = PAGES[0][0]
    keep_alive: bool = False
    seconds: float = 2.0
    warmup: float = 2.0
    directives: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for mpm in self.mpms:
            check_mpm(mpm)
        if self.axis not in AXES:
            raise ValueError(f"axis: must be one of {', '.join(AXES)}, not {self.axis!r}")

    @property
    def label(self) -> str:
        """The axis as a reader calls it."""
        return LABELS.get(self.axis, self.axis)

    def turn_to(self, axis: str) -> None:
        """Another axis, over a range that is of interest."""
        self.axis, spec = axis, SPECS.get(axis.lower())
        self.low, self.high = RANGES.get(axis, ((spec and spec.low) or 1, AXES[axis]))
        self.log = self.high >= 20 * self.low > 0

    def set(self, name: str, text: str) -> None:
        """A field's value, as it is typed. Raises ValueError for what is not a number in its range."""
        row = next(row for row in self.fields() if row.name == name)
        if row.kind == "choice":
            self.path = text or row.default
            return
        try:
            value = float(text or row.default)
        except ValueError:
            value = float("nan")
        if not row.low <= value <= (row.high or value):
            raise ValueError(f"{row.label}: must be {row.low:g} to {row.high:g}, not {text!r}")
        setattr(self, name, value if isinstance(getattr(self, name), float) else round(value))

    def fields(self) -> list[Field]:
        """The numbers of the form, as rows for `Control`; the field that is the axis is left out."""
        reach = AXES[self.axis]
        step = 0.5 if self.axis in FRACTIONS else 1.0
        rows = [
            _field("low", "from", 0, 0, 100_000, reach=reach, step=step),
            _field("high", "to", reach, 0, 100_000, reach=reach, step=step),
            _field("steps", "points", 6, 1, MOST_STEPS),
            _field("users", "users", 8, 1, 1000, reach=200),
            _field("idle_holders", "kept connections", 0, 0, 5000, reach=1000),
            _field("think_time", "think time, s", 0, 0, 60, reach=5, step=0.1),
            _field("seconds", "seconds a point", 2, 0.5, 30, reach=10, step=0.5),
            _field("warmup", "and before it", 2, 0, 30, reach=10, step=0.5),
            ROWS["path"]._replace(
                group="", label="page", choices=tuple((p, text) for p, text, _ in PAGES)
            ),
        ]
        shown = [row._replace(value=_text(getattr(self, row.name))) for row in rows]
        return [row for row in shown if row.name != self.axis]

    def values(self) -> list[float]:
        """The axis's values, rising, none twice. MaxRequestWorkers is a multiple of ThreadsPerChild."""
        count, low, high = max(1, int(self.steps)), float(self.low), float(self.high)
        if count == 1 or high <= low:
            found = [low]
        elif self.log:
            first = low or (0.1 if self.axis in FRACTIONS else 1.0)
            many = count - (low == 0)
            rise = (high / first) ** (1 / max(1, many - 1))
            found = [0.0] * (low == 0) + [first * rise**n for n in range(many)]
        else:
            found = [low + (high - low) * n / (count - 1) for n in range(count)]
        if self.axis in FRACTIONS:
            return sorted({round(value, 2) for value in found})
        threads = 1
        if self.axis == "MaxRequestWorkers" and set(self.mpms) - {"prefork"}:
            threads = int(self.directives.get("ThreadsPerChild", 25))
        return sorted({max(threads, threads * round(v / threads)) if v else 0 for v in found})

    def taking(self) -> list[str]:
        """The chosen MPMs that have the axis."""
        spec = SPECS.get(self.axis.lower())
        return [mpm for mpm in self.mpms if spec is None or mpm in spec.mpms]

    def left_out(self) -> dict[float, str]:
        """The values that are not measured: what httpd would refuse, or would replace by another."""
        wrong = {}
        for value in self.values():
            try:
                self._plan([value])
            except ValueError as error:
                first = str(error).splitlines()[0]
                said = re.search(r"\((\w+: .*)\)$", first)  # httpd's own words, if there are some
                wrong[value] = f"{first.split()[0]}: {said[1]}" if said else first
        return wrong

    def hints(self) -> list[str]:
        """What a reader should know of the choice before it runs."""
        said = [f"{mpm} has no {self.axis}" for mpm in self.mpms if mpm not in self.taking()]
        return said + [f"{value:g} is left out: {why}" for value, why in self.left_out().items()]

    def plan(self) -> SweepPlan:
        """The sweep over the values that remain. Raises ValueError with all that is wrong, also if
        no MPM or no value remains."""
        if not self.taking():
            raise ValueError(f"choose an MPM that has {self.axis}")
        wrong = self.left_out()
        values = [value for value in self.values() if value not in wrong]
        if not values:
            raise ValueError(next(iter(wrong.values())))
        return self._plan(values)

    def fixed(self) -> dict[str, Any]:
        """Directives of all points, apart from the article's. A kept connection outlives its point."""
        base = {"KeepAlive": "On", "KeepAliveTimeout": 15} | dict(self.directives)
        return {name: value for name, value in base.items() if name != self.axis}

    def _plan(self, values: list[float]) -> SweepPlan:
        return plan(self.taking(), {self.axis: values}, self.profile(), directives=self.fixed())

    def profile(self) -> LoadProfile:
        """The load of all points; the axis, if it is a field of the load, changes it."""
        return LoadProfile(
            path=self.path,
            users=int(self.users),
            idle_holders=int(self.idle_holders),
            think_time=float(self.think_time),
            keep_alive=self.keep_alive,
            duration=float(self.seconds),
            timeout=max(1.0, float(self.seconds)),
            warmup_seconds=float(self.warmup),
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
