"""The choices in the sweep panel, and the resulting sweep.

    form = SweepForm(("prefork", "event"), axis="MaxRequestWorkers", low=50, high=800, steps=5)
    form.values()      # [50, 238, 425, 612, 800]
    form.remarks()     # {612: ("left out", "prefork: AH00180: ... 256 is used"), ...}
    form.fields()      # the rows, with these remarks at the ends of the range
    form.plan()        # a SweepTable without rows, or ValueError with everything that is wrong

Pure: no server, no thread. The axis is a directive with a range of numbers or a field of the load.
Which values httpd would refuse or correct is found by `sweep.plan`, value by value.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, SPECS
from mpmkit.config.keywords import from_keywords
from mpmkit.lab.forms import GROUPS, Field, Form
from mpmkit.lab.load_form import FILES
from mpmkit.load.profile import LoadProfile
from mpmkit.measure.sweep import SweepTable, plan

# What can be swept, and where its slider ends: fields of the load, directives with a range of numbers.
FIELDS = (
    Field("users", kind="whole", label="users", default="8", low=1, high=1000, reach=200),
    Field(
        "idle_holders", kind="whole", label="kept connections", default="0", high=5000, reach=1000
    ),
    Field("think_time", label="think time, s", default="0", high=60, reach=5, step=0.1),
)
LABELS = {row.name: row.label for row in FIELDS}
BYTES = {"ThreadStackSize": 1 << 19, "SendBufferSize": 1 << 18, "ReceiveBufferSize": 1 << 18}
AXES: dict[str, float] = {**{row.name: row.reach for row in FIELDS}, **BYTES}
for names in GROUPS.values():
    AXES |= {one: reach for one, reach in names.items() if SPECS[one.lower()].takes != "On|Off"}
# Where a sweep begins to be of interest; the others go from their lowest value to their slider's end.
RANGES = {
    "idle_holders": (0, 400), "think_time": (0, 2), "MaxRequestWorkers": (25, 250), "ThreadsPerChild": (5, 50),
    "MaxSpareServers": (10, 64), "MaxSpareThreads": (100, 500), "ServerLimit": (16, 256), "StartServers": (1, 16),
    "ThreadStackSize": (1 << 17, 1 << 19),
}  # fmt: skip
FRACTIONS = ("think_time", "AsyncRequestWorkerFactor")  # the others take whole numbers
RANGE = (
    Field("low", label="from", high=999_999),
    Field("high", label="to", high=999_999),
    Field("steps", label="points", kind="whole", default="6", low=1, high=16, reach=16),
)
MORE = (
    Field("seconds", label="seconds a point", default="2", low=0.5, high=30, reach=10, step=0.5),
    Field("warmup", label="and before it", default="2", high=30, reach=10, step=0.5),
    Field("path", kind="choice", label="page", default=FILES[0][0], choices=FILES),
    Field("keep_alive", kind="switch", label="keep-alive", default="Off"),
)
LEFT_OUT, CORRECTED = "left out", "measured with a correction"  # what becomes of a value
NAMES = ("axis", *(row.name for row in (*RANGE, *FIELDS, *MORE)))


class SweepForm(Form):
    """The choices. directives: over the article's, at all points. chosen: values of the rows, by name.

    low, high, steps: the values of the axis, evenly. seconds: of load a point; warmup: before they count, for
    pools to grow. Raises DirectiveError for an MPM that does not exist, ValueError for an axis that cannot be
    swept.
    """

    def __init__(
        self,
        mpms: Sequence[str] = MPMS,
        axis: str = "idle_holders",
        *,
        directives: Mapping[str, Any] | None = None,
        **chosen: Any,
    ) -> None:
        super().__init__()
        self.mpms = list(mpms)
        for mpm in mpms:
            check(mpm)  # that there is one
        if axis not in AXES:
            raise ValueError(f"axis: must be one of {', '.join(AXES)}, not {axis!r}")
        self.axis, self.directives = axis, directives or {}
        for name, value in chosen.items():
            self.put(name, value)

    def turn_to(self, axis: str) -> None:
        """Another axis, over a range that is of interest."""
        self.axis = axis
        self.put("low", None)
        self.put("high", None)

    def rows(self) -> list[Field]:
        """The fields with their values; the one that is the axis is left out."""
        spec = SPECS.get(self.axis.lower())
        ends = RANGES.get(self.axis, ((spec and spec.low) or 1, AXES[self.axis]))
        own: dict[str, Any] = {
            "reach": AXES[self.axis],
            "step": 0.5 if self.axis in FRACTIONS else 1.0,
        }
        low, high, steps = RANGE
        pair = zip((low, high), ends, strict=True)
        low, high = (row._replace(default=f"{end:g}", **own) for row, end in pair)
        rows = (low, high, steps, *FIELDS, *MORE)
        return [self.filled(row)._replace(help=row.label) for row in rows if row.name != self.axis]

    def values(self) -> list[float]:
        """The axis's values, rising, none twice. MaxRequestWorkers is a multiple of ThreadsPerChild."""
        form = self.read()
        count = form["steps"] if form["high"] > form["low"] else 1
        found = [float(value) for value in numpy.linspace(form["low"], form["high"], count)]
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

    def remarks(self) -> dict[float, tuple[str, str]]:
        """What httpd says about values: it would refuse one or replace it, which is LEFT_OUT, or would correct
        another directive because of it; with its words."""
        made = {value: self._remark(value) for value in self.values()}
        return {value: remark for value, remark in made.items() if remark}

    def _remark(self, value: float) -> tuple[str, str] | None:
        try:
            points = self._plan([value]).cells
        except ValueError as error:
            where, _, text = str(error).splitlines()[0].partition(": ")
            said = re.search(r"\((.*)\)$", text)  # httpd's own words, if there are some
            return LEFT_OUT, f"{where.split()[0]}: {said[1] if said else text}"
        for point in points:
            for note in check(point.mpm, from_keywords(point.mpm, **point.directives))[1]:
                return CORRECTED, f"{point.mpm}: {note}"
        return None

    def fields(self) -> list[Field]:
        """The rows, with what is wrong with them, and the remarks: that about the lowest value at "from", about
        the highest at "to", about those between at "points"; at "from" what is said about all of them."""
        rows = super().fields()
        if any(row.refused for row in rows):
            return rows
        values, remarks = self.values(), self.remarks()
        ends = {values[-1]: "high", values[0]: "low"}
        if len(remarks) == len(values) and len({*remarks.values()}) == 1:
            ends = dict.fromkeys(values, "low")
        found: dict[tuple[str, str], list[tuple[float, str]]] = {}
        for value, (what, why) in remarks.items():
            found.setdefault((ends.get(value, "steps"), what), []).append((value, why))
        hints: dict[str, tuple[str, ...]] = {}
        for (name, what), ((value, why), *more) in found.items():
            are = f"and {len(more)} more are" if more else "is"
            hints[name] = (*hints.get(name, ()), f"{value:g} {are} {what}: {why}")
        return [row._replace(hints=hints.get(row.name, ())) for row in rows]

    def measured(self) -> list[float]:
        """The values that remain. Raises ValueError with all that is wrong, also if no MPM or value remains."""
        if not self.taking():
            raise ValueError(f"choose an MPM that has {self.axis}")
        said = {value: why for value, (what, why) in self.remarks().items() if what == LEFT_OUT}
        if values := [value for value in self.values() if value not in said]:
            return values
        raise ValueError(next(iter(said.values())))

    def plan(self) -> SweepTable:
        """The sweep over these. Raises ValueError as `measured` does."""
        return self._plan(self.measured())

    def fixed(self) -> dict[str, Any]:
        """Directives of all points, apart from the article's. A kept connection outlives its point."""
        base = {"KeepAlive": "On", "KeepAliveTimeout": 15} | dict(self.directives)
        return {name: value for name, value in base.items() if name != self.axis}

    def _plan(self, values: list[float]) -> SweepTable:
        return plan(self.taking(), {self.axis: values}, self.profile(), directives=self.fixed())

    def profile(self) -> LoadProfile:
        """The load of all points; the axis, if it is a field of the load, changes it."""
        form = self.read()
        same = ("path", "keep_alive", *LABELS)
        fields = {name: form[name] for name in same if name in form}
        times = {"duration": form["seconds"], "timeout": max(1.0, form["seconds"])}
        return LoadProfile(**fields, **times, warmup_seconds=form["warmup"])
