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

import numpy

from mpmkit.config.directives import MPMS, SPECS
from mpmkit.lab.forms import GROUPS, Field, check_mpm
from mpmkit.lab.load_form import FILES
from mpmkit.load.profile import LoadProfile
from mpmkit.measure.sweep_grid import SweepPlan, plan

LABELS = {"users": "users", "idle_holders": "kept connections", "think_time": "think time, s"}
# What can be swept, and where its slider ends: fields of the load, directives with a range of numbers.
AXES = {"users": 200.0, "idle_holders": 1000.0, "think_time": 5.0} | {
    name: reach
    for names in GROUPS.values()
    for name, reach in names.items()
    if SPECS[name.lower()].takes != "On|Off"
}
# Where a sweep begins to be of interest; the others go from their lowest value to their slider's end.
RANGES = {
    "idle_holders": (0, 400), "think_time": (0, 2), "MaxRequestWorkers": (25, 250), "ThreadsPerChild": (5, 50),
    "MaxSpareServers": (10, 64), "MaxSpareThreads": (100, 500), "ServerLimit": (16, 256), "StartServers": (1, 16),
}  # fmt: skip
FRACTIONS = ("think_time", "AsyncRequestWorkerFactor")  # the others take whole numbers
RANGE = (
    Field("low", label="from", default="0", high=100_000),
    Field("high", label="to", high=100_000),
    Field("steps", label="points", kind="whole", default="6", low=1, high=16, reach=16),
)
LOAD = (
    Field("users", kind="whole", default="8", low=1, high=1000, reach=200),
    Field("idle_holders", kind="whole", default="0", high=5000, reach=1000),
    Field("think_time", default="0", high=60, reach=5, step=0.1),
    Field("seconds", label="seconds a point", default="2", low=0.5, high=30, reach=10, step=0.5),
    Field("warmup", label="and before it", default="2", high=30, reach=10, step=0.5),
    Field("path", kind="choice", label="page", default=FILES[0][0], choices=FILES),
)


@dataclass
class SweepForm:
    """The choices, each with a value that can run. directives: over the article's, at all points.

    low, high, steps: the values of the axis, evenly.
    seconds: of load a point; warmup: before they count, for pools to grow.
    Raises DirectiveError for an MPM that does not exist, ValueError for an axis that cannot be swept.
    """

    mpms: tuple[str, ...] = MPMS
    axis: str = "idle_holders"
    low: float = 0
    high: float = 400
    steps: int = 6
    users: int = 8
    idle_holders: int = 0
    think_time: float = 0.0
    path: str = FILES[0][0]
    keep_alive: bool = False
    seconds: float = 2.0
    warmup: float = 2.0
    directives: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for mpm in self.mpms:
            check_mpm(mpm)
        if self.axis not in AXES:
            raise ValueError(f"axis: must be one of {', '.join(AXES)}, not {self.axis!r}")

    def turn_to(self, axis: str) -> None:
        """Another axis, over a range that is of interest."""
        self.axis, spec = axis, SPECS.get(axis.lower())
        self.low, self.high = RANGES.get(axis, ((spec and spec.low) or 1, AXES[axis]))

    def set(self, name: str, text: str) -> None:
        """A field's value, as it is typed. Raises ValueError for what is not a number in its range."""
        row = next(row for row in self.fields() if row.name == name)
        setattr(self, name, row._replace(value=text).read())

    def fields(self) -> list[Field]:
        """The numbers of the form, as rows for `Control`; the field that is the axis is left out."""
        reach: dict[str, Any] = {
            "reach": AXES[self.axis],
            "step": 0.5 if self.axis in FRACTIONS else 1.0,
        }
        low, high, steps = RANGE
        ends = low._replace(**reach), high._replace(**reach, default=f"{reach['reach']:g}")
        made = []
        for row in (*ends, steps, *LOAD):
            if row.name != self.axis:
                now, label = getattr(self, row.name), row.label or LABELS[row.name]
                value = now if isinstance(now, str) else f"{now:g}"
                made.append(row._replace(value=value, label=label, help=label))
        return made

    def values(self) -> list[float]:
        """The axis's values, rising, none twice. MaxRequestWorkers is a multiple of ThreadsPerChild."""
        count = int(self.steps) if self.high > self.low else 1
        found = [float(value) for value in numpy.linspace(self.low, self.high, count)]
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
        same = ("path", "users", "idle_holders", "think_time", "keep_alive")
        fields = {name: getattr(self, name) for name in same}
        timeout = max(1.0, self.seconds)
        return LoadProfile(
            **fields, duration=self.seconds, timeout=timeout, warmup_seconds=self.warmup
        )
