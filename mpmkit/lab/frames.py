"""What the control room shows of a moment: one frame a sample, plain values that become JSON.

figures     counts, rates and times, None for what is not known (yet)
rows        a list per process: slot, pid, generation, quiescing, not accepting, letters, and how
            many connections are parked (event)
slots, threads, generation, mpm     the scoreboard's shape
"""

from __future__ import annotations

from typing import Any

from mpmkit.lab.clients import KeepAliveClients
from mpmkit.lab.running_load import RunningLoad
from mpmkit.launcher import ScoreboardView
from mpmkit.measure.recording import Sample

PROBE_THINK = 0.25  # seconds between two requests of the probe: what a new client meets
RECENT = 5.0  # seconds of the probe's answers that its percentiles are made of

# What a frame has of a Sample as it is.
SAMPLED = (
    "t", "qps", "service_ms", "processes", "threads", "idle", "busy", "reading", "writing",
    "parked", "without_thread", "closing", "waiting", "pss_mb",
)  # fmt: skip


class Probe:
    """A client that connects anew for each request, and how long its last requests took."""

    def __init__(self, url: str) -> None:
        self._client = KeepAliveClients(url, 1, think=PROBE_THINK, keep=False)
        self._waits: list[tuple[float, float]] = []  # (second, ms)

    def close(self) -> None:
        self._client.close()

    def percentiles(self, now: float) -> dict[str, float | None]:
        """What a new client meets, in ms; None as long as nothing is known."""
        waits = self._waits
        waits += [(now, 1000 * seconds) for seconds in self._client.take()]
        # While the probe waits, its wait so far is the best that is known of the answer.
        if (waiting := self._client.longest_wait()) > PROBE_THINK:
            waits.append((now, 1000 * waiting))
        while waits and waits[0][0] < now - RECENT:
            waits.pop(0)
        if not waits:
            return {"wait_p50_ms": None, "wait_ms": None}
        ms = sorted(ms for _, ms in waits)
        return {"wait_p50_ms": ms[len(ms) // 2], "wait_ms": ms[int(0.99 * len(ms))]}


def frame(
    sample: Sample, board: ScoreboardView, load: RunningLoad | None, probe: Probe | None
) -> dict[str, Any]:
    """The frame of a sample, with the load's and the probe's figures of the same moment."""
    seen: dict[str, Any] = {name: getattr(sample, name) for name in SAMPLED}
    seen |= load.live() if load is not None and load.running else RunningLoad.NOTHING
    seen |= probe.percentiles(sample.t) if probe is not None else {}
    letters = board.letters
    return {
        "figures": {
            name: None if value is None or value != value else round(value, 3)
            for name, value in seen.items()
        },
        "rows": [
            [
                row.slot,
                row.pid,
                row.generation,
                row.quiescing,
                row.not_accepting,
                letters[row.slot],
                row.keep_alive + row.write_completion + row.lingering_close,
            ]
            for row in board.snapshot.processes
            if row.pid
        ],
        "slots": board.process_limit,
        "threads": board.threads_per_child,
        "generation": sample.generation,
        "mpm": board.mpm,
    }
