"""The reports of running generator processes, added up to one result.

A generator process reports some four times a second its results since the last report: latencies by path,
failures, and progress. The reports of all processes, on one machine or several, are added up here; there
is no other result. So a process that dies loses only its work since its last report.

Imports neither locust nor gevent.
"""

import array
from collections import Counter
from typing import Any

from mpmkit.load.histogram import Histogram, unpack
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import LoadRun
from mpmkit.load.windows import Tick

USUAL = ("requests", "duration")


class Collector:
    """The sum of the reports of `expected` generator processes."""

    def __init__(self, target: str, profile: LoadProfile, expected: int) -> None:
        self.target, self.profile, self.expected = target, profile, expected
        self.last: dict[str, dict[str, Any]] = {}  # by process
        self.ticks: list[tuple[float, Tick]] = []  # with the time at which its process began
        self.lag = Histogram()
        self.paths: dict[str, Histogram] = {}
        self.background: Counter[str] = Counter()
        self.requests = 0
        self.seconds = 0.0

    def add(self, report: dict[str, Any]) -> Tick | None:
        """One report; what is new in it, with its time in the process's own seconds. The last report of all is
        {"background": ...}, what background clients got."""
        if "background" in report:
            self.background = Counter(report["background"])
            return None
        failures, found = Counter(report["failures"]), array.array("q")
        for path, text in report["paths"].items():
            part = unpack(text)
            found += part
            if self.profile.mix:
                self.paths.setdefault(path, Histogram()).record(part)
        self.lag.record(unpack(report["lag"]))
        begin = self.last.get(report["process"], {"end": 0.0})["end"]
        tick = Tick(begin, report["end"], failures, found, report["origin"])
        self.ticks.append((report["started_at"], tick))
        self.last[report["process"]] = report
        self.requests += len(found) + failures.total()
        self.seconds = max(self.seconds, report["end"])
        return tick

    def run(self, why: str = "") -> LoadRun | None:
        """The result until now; None if no process has reported. why: what ended the run, where the processes
        could not say it."""
        parts = list(self.last.values())
        if not parts:
            return None
        started = [part for part in parts if part["started_at"]]
        began = min((part["started_at"] for part in started), default=0.0)
        last = max((part["started_at"] + part["last_end"] for part in started), default=began)
        names = ("late", "retries", "reconnects", "connections")
        total = {name: sum(part[name] for part in parts) for name in names}
        opened = (count for what, count in self.background.items() if what.endswith(" opened"))
        total["connections"] += sum(opened)
        ticks = (
            tick._replace(begin=tick.begin + at - began, end=tick.end + at - began)
            for at, tick in self.ticks
        )
        cpu, wait = (tuple(part[name] for part in started) for name in ("cpu", "wait"))
        return LoadRun(
            self.target, self.profile, max(0.0, last - began), tuple(ticks), started_at=began,
            processes_cpu=cpu, processes_wait=wait, paths=self.paths, lag=self.lag, background=self.background,
            ended=self._reason(parts, why), version=parts[0]["version"], **total,
        )  # fmt: skip

    def _reason(self, parts: list[dict[str, Any]], why: str) -> str:
        reasons = [part["ended"] for part in parts if part["ended"]]
        missing = self.expected - len(reasons)
        for reason in sorted(reasons, key=USUAL.__contains__):
            if reason not in USUAL or not missing:
                return reason
        lost = ", ".join(part["process"] for part in parts if not part["ended"])
        which = f" ({lost})" if lost else ""
        died = f"{missing} of {self.expected} generator processes died{which}"
        return why or f"{died}; what they did last is lost"
