"""The demand of a trace, and the numbers of an MPM that follow from it, each with its reason."""

import math
import statistics
from array import array
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.measure.trace import Trace
from mpmkit.policy.trace_run import TraceRun

HEADROOM = 1.25  # MaxRequestWorkers over the peak of the demand
FORK_SECONDS = 2  # until idle maintenance has seen a rise, and a child is there
WAITING_SHARE = 0.001  # of the requests may wait under a proposal
MOST = 20_000  # workers of a proposal
FEWEST_PAUSES = 20  # on kept connections, for a KeepAliveTimeout to be proposed


def holds(d: Directives) -> float:
    """Seconds for which a kept connection holds a worker."""
    return d.KeepAliveTimeout if d.KeepAlive and d.mpm != "event" else 0.0


def demand(trace: Trace, keep: float, factor: float = 1.0) -> array:
    """For each second the most workers that would be busy if no request had to wait.

    keep: seconds for which a kept connection holds a worker. factor: of the durations, which all requests
    must have.
    """
    following: dict[int, float] = {}
    until = array("d", bytes(8 * len(trace)))
    for i in range(len(trace) - 1, -1, -1):
        start, connection = trace.start[i], trace.connection[i]
        end = start + factor * trace.seconds[i]
        if keep and trace.kept[i]:
            end = max(end, min(following.get(connection, math.inf), end + keep))
        following[connection], until[i] = start, end
    found, ends = array("L", [0]), list[float]()
    for start, end in zip(trace.start, until, strict=True):
        while len(found) <= start:
            while ends and ends[0] <= len(found):
                heappop(ends)
            found.append(len(ends))
        while ends and ends[0] <= start:
            heappop(ends)
        heappush(ends, end)
        found[-1] = max(found[-1], len(ends))
    return found


class Proposal:
    """Directives for a trace. reasons: name -> why it has that number.

    given: the present values, kept where there is no reason to change them. most: workers that fit in memory,
    and `why_most`, for the reason.
    """

    def __init__(self, given: Directives, trace: Trace, most: int, why_most: str) -> None:
        self.given, self.threads, self.why_most = given, given.ThreadsPerChild, why_most
        self.kind = "Threads" if given.threaded else "Servers"
        self.reasons = why = dict[str, str]()
        self.keep = given.KeepAliveTimeout
        pauses = trace.think_times()
        if holds(given) and len(pauses) >= FEWEST_PAUSES:  # no longer than most clients need
            found = max(1, math.ceil(statistics.quantiles(pauses, n=20)[-1]))
            if found < self.keep:
                self.keep = float(found)
                come = f"95% of the next requests on a connection come within {found} s"
                why["KeepAliveTimeout"] = f"{come}, and each kept connection holds a worker"
        self.most = max(self.threads, min(most, MOST) // self.threads * self.threads)
        load = demand(trace, self.keep if holds(given) else 0.0)
        self.peak, self.mean = max(load), statistics.fmean(load)
        self.when = trace.clock(load.index(self.peak))
        self.rise = max(map(int.__sub__, load[FORK_SECONDS:], load), default=self.peak)
        self.wanted = self._whole(self.peak * HEADROOM, 2)
        self.spare = min(self._whole(self.rise), self.wanted)
        self.factor = given.AsyncRequestWorkerFactor
        if given.mpm == "event" and given.KeepAlive:
            # A factor that lets the pool hold all connections (policy/admission.py).
            most = max(demand(trace, self.keep))
            children = self._whole(min(self.peak + self.spare, self.most)) // self.threads
            needed = math.ceil((most * HEADROOM - children * self.threads) / self.spare)
            if needed > self.factor:
                self.factor = float(needed)
                free = f"{children} children with {self.spare} idle threads"
                why["AsyncRequestWorkerFactor"] = f"{most} connections at the peak, {free}"

    def _whole(self, workers: float, least: int = 1) -> int:
        """Rounded up to children."""
        return max(least, math.ceil(workers / self.threads)) * self.threads

    def raised(self, run: TraceRun) -> bool:
        """Raise what lets most clients wait. False: few wait, or nothing can be raised."""
        binds = {name: count for name, (_, count) in run.binds.items() if name != "ListenBacklog"}
        name = max(binds, key=binds.__getitem__, default="")
        if run.waited <= WAITING_SHARE:
            return False
        if name == f"MinSpare{self.kind}" and self.spare < min(self.wanted, self.most):
            self.spare = min(self._whole(2 * self.spare), self.wanted)
        elif name == "AsyncRequestWorkerFactor":
            self.reasons[name] = f"with {self.factor:g} connections waited while threads were idle"
            self.factor *= 2
        elif name in ("MaxRequestWorkers", "ServerLimit") and self.wanted < self.most:
            self.wanted = self._whole(self.wanted * HEADROOM)
        else:
            return False
        return True

    def directives(self) -> Directives:
        """As they are now; fills `reasons`."""
        given, why, kind, threads = self.given, self.reasons, self.kind, self.threads
        workers = min(self.wanted, self.most)
        spare, children = min(self.spare, workers), workers // threads
        finishing = math.ceil(children / 4) if given.mpm == "event" else 0
        start = min(children, math.ceil((self.mean + min(spare, self.rise)) / threads))
        values: dict[str, Any] = {
            "StartServers": max(1, start), f"MinSpare{kind}": spare,
            f"MaxSpare{kind}": max(2 * spare, spare + threads + 1), "ServerLimit": children + finishing,
            "MaxRequestWorkers": workers, "AsyncRequestWorkerFactor": self.factor,
            "KeepAliveTimeout": self.keep,
        }  # fmt: skip
        why["StartServers"] = f"{self.mean:.0f} busy on average, plus spares"
        more = f"; with fewer than {spare}, too many wait" * (spare > self._whole(self.rise))
        rise = f"busy workers rise by up to {self.rise} in the {FORK_SECONDS} s that a fork takes"
        why[f"MinSpare{kind}"] = rise + more
        why[f"MaxSpare{kind}"] = "twice the minimum, so children do not keep ending and starting"
        if given.threaded:
            why["ThreadsPerChild"] = "unchanged"
        each = "MaxRequestWorkers" + " / ThreadsPerChild" * given.threaded
        more = ", plus a quarter for processes that finish gracefully" * bool(finishing)
        why["ServerLimit"] = each + more
        more = "plus a quarter" if workers == self.wanted else f"but {self.why_most}"
        why["MaxRequestWorkers"] = f"{self.peak} busy at the peak ({self.when}), {more}"
        return replace(given, **values)
