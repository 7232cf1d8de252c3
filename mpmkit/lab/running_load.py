"""The control room's load: Locust in a thread, with its percentiles while it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from mpmkit.load.histogram import Histogram
from mpmkit.load.runner import LoadError, LoadInterrupted, LoadRun, run_load
from mpmkit.load.windows import Tick

LIVE = 1.2  # seconds of the load's answers that its live percentiles are made of


class RunningLoad:
    """`run_load` in a thread: it can be stopped, and what it gets is seen while it runs.

    note    is called with a line of text when the load has ended, or could not run
    """

    NOTHING = dict.fromkeys(
        ("load_qps", "load_failed", "load_p50_ms", "load_p95_ms", "load_p99_ms"), math.nan
    )

    def __init__(self, url: str, profile: Any, note: Callable[[str], None]) -> None:
        self.profile = profile
        self._note = note
        self._stop = threading.Event()
        self._ticks: list[Tick] = []
        self._thread = threading.Thread(
            target=self._run, args=(url,), name="mpmkit-load", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def live(self) -> dict[str, float]:
        """Good answers and failures per second and percentiles of latency, over about the last
        second; NaN for what is not known."""
        ticks = list(self._ticks)
        ticks = [tick for tick in ticks if tick.end > ticks[-1].end - LIVE]
        seconds = ticks[-1].end - ticks[0].begin if ticks else 0.0
        if seconds <= 0:
            return self.NOTHING
        found = Histogram()
        for tick in ticks:
            found.merge(tick.latencies)
        live = {
            "load_qps": len(found) / seconds,
            "load_failed": sum(tick.failures.total() for tick in ticks) / seconds,
        }
        for percent in (50, 95, 99):
            live[f"load_p{percent}_ms"] = (
                found.percentile(percent) / 1e6 if len(found) else math.nan
            )
        return live

    def stop(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _tick(self, tick: Tick) -> None:
        self._ticks.append(tick)
        del self._ticks[:-10]

    def _progress(self, done: int, seconds: float) -> None:
        if self._stop.is_set():
            # What Ctrl-C does in the foreground: the generator is ended with care, and what it
            # measured comes along.
            raise KeyboardInterrupt

    def _run(self, url: str) -> None:
        run: LoadRun | None
        try:
            run = run_load(
                url, profile=self.profile, on_progress=self._progress, on_tick=self._tick
            )
        except LoadInterrupted as stopped:
            run = stopped.run
        except (LoadError, ValueError, OSError) as error:
            self._note(f"load: {error}")
            return
        if run is None or not run.requests:
            self._note("load: ended before its first answer")
            return
        failed = f", {run.failures:,} failed" if run.failures else ""
        bound = (
            ", the generator was the limit"
            if run.generator_bound
            else ", the machine, which the load shares with the server, was the limit"
            if run.generator_starved
            else ""
        )
        self._note(
            f"load ended: {run.qps:,.0f}/s, p50 {run.latency_ms(50):.3g} ms, "
            f"p99 {run.latency_ms(99):.3g} ms{failed}{bound}"
        )
