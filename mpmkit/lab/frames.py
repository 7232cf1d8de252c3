"""What the control room shows of a moment: one frame a sample, plain values that become JSON.

figures     counts, rates and times, None for what is not known (yet)
rows        a list per process: slot, pid, generation, quiescing, not accepting, letters, and how
            many connections are parked (event)
slots, threads, generation, mpm     the scoreboard's shape

Apart from the server's there are the figures of the room's load, and of a probe.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

from mpmkit.lab.clients import KeepAliveClients
from mpmkit.launcher import ScoreboardView
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import Tick, windows
from mpmkit.load.runner import LoadError, LoadInterrupted, LoadRun, run_load
from mpmkit.measure.recording import Sample

PROBE_THINK = 0.25  # seconds between two requests of the probe: what a new client meets
RECENT = 5.0  # seconds of the probe's answers that its percentiles are made of
LIVE = 1.2  # seconds of the load's answers that its live percentiles are made of

# What a frame has of a Sample as it is.
SAMPLED = (
    "t", "qps", "service_ms", "processes", "threads", "idle", "busy", "reading", "writing",
    "parked", "without_thread", "closing", "waiting", "pss_mb",
)  # fmt: skip
OF_LOAD = ("load_qps", "load_failed", "load_p50_ms", "load_p95_ms", "load_p99_ms")


class Probe(KeepAliveClients):
    """A client that opens a connection for each request, and how long its last requests took."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 1, think=PROBE_THINK, keep=False)
        self._seen: list[tuple[float, float]] = []  # (second, ms)

    def percentiles(self, now: float) -> dict[str, float]:
        """What a new client meets, in ms; nothing as long as nothing is known."""
        ended = self.take()
        # While the probe waits, its wait so far is the best that is known of the answer.
        ended += [wait for wait in self.waits() if wait > PROBE_THINK]
        self._seen += [(now, 1000 * seconds) for seconds in ended]
        self._seen = [one for one in self._seen if one[0] >= now - RECENT]
        ms = sorted(one for _, one in self._seen)
        if not ms:
            return {}
        return {"wait_p50_ms": ms[len(ms) // 2], "wait_ms": ms[int(0.99 * len(ms))]}


class RunningLoad:
    """`run_load` in a thread: it can be stopped, and what it gets is seen while it runs.

    note    is called with a line of text when the load has ended, or could not run
    """

    def __init__(self, url: str, profile: LoadProfile, note: Callable[[str], None]) -> None:
        self.profile = profile
        self._note = note
        self._stop = threading.Event()
        self._ticks: list[Tick] = []
        self._thread = threading.Thread(target=self._run, args=(url,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def live(self) -> dict[str, float]:
        """Good answers and failures per second and percentiles of latency, over about the last
        second; nothing as long as nothing is known."""
        ticks = list(self._ticks)
        end = ticks[-1].end if ticks else 0.0
        (now,) = windows(ticks, (end - LIVE, end), lambda _: 0.0, 1)
        if not now.duration:
            return {}
        values = (now.qps, now.failures / now.duration, *map(now.latency_ms, (50, 95, 99)))
        return dict(zip(OF_LOAD, values, strict=True))

    def stop(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _tick(self, tick: Tick) -> None:
        self._ticks.append(tick)
        del self._ticks[:-10]
        if self._stop.is_set():
            # What Ctrl-C does in the foreground: the generator is ended with care, and what it
            # measured comes along.
            raise KeyboardInterrupt

    def _run(self, url: str) -> None:
        run: LoadRun | None
        try:
            run = run_load(url, profile=self.profile, on_tick=self._tick)
        except LoadInterrupted as stopped:
            run = stopped.run
        except (LoadError, ValueError, OSError) as error:
            self._note(f"load: {error}")
            return
        if run is None or not run.requests:
            self._note("load: ended before its first answer")
            return
        limit = "generator" if run.generator_bound else "machine" * run.generator_starved
        self._note(f"load ended: {run}" + f", the {limit} was the limit" * bool(limit))


def frame(
    sample: Sample, board: ScoreboardView, load: RunningLoad | None, probe: Probe | None
) -> dict[str, Any]:
    """The frame of a sample, with the load's and the probe's figures of the same moment."""
    seen: dict[str, Any] = {name: getattr(sample, name) for name in SAMPLED}
    seen |= dict.fromkeys((*OF_LOAD, "wait_p50_ms", "wait_ms"), math.nan)
    seen |= load.live() if load is not None and load.running else {}
    seen |= probe.percentiles(sample.t) if probe is not None else {}
    letters = board.letters
    rows = []
    for row in filter(lambda row: row.pid, board.snapshot.processes):
        held = row.keep_alive + row.write_completion + row.lingering_close
        own = [row.slot, row.pid, row.generation, row.quiescing, row.not_accepting]
        rows.append([*own, letters[row.slot], held])
    figures = {name: None if v != v else round(v, 3) for name, v in seen.items()}
    shape = {"slots": board.process_limit, "threads": board.threads_per_child, "mpm": board.mpm}
    return {"figures": figures, "rows": rows, "generation": sample.generation, **shape}
