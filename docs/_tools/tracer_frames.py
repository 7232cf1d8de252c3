"""Frame times of the tracer with 200 connections: `python -m docs._tools.tracer_frames` (1 min).

Records event and worker under 200 clients at once, plays each in a headless Chromium, and prints the
time between frames and the time of the page's own code per frame.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from docs._tools import render, tracer_page, tracer_record
from docs._tools.tracer_moment import Moment
from mpmkit.lab import tracing
from mpmkit.launcher import Server
from mpmkit.policy.connection_trace import Connect, ConnectionTrace

CONNECTIONS = 200
SECONDS = 5
FOUR: dict[str, Any] = {
    "StartServers": 4,
    "ServerLimit": 4,
    "MinSpareThreads": 1,
    "MaxSpareThreads": 200,
}
POOLS: dict[str, dict[str, Any]] = {
    "worker": FOUR | {"ThreadsPerChild": 50, "MaxRequestWorkers": 200},
    "event": FOUR
    | {"ThreadsPerChild": 25, "MaxRequestWorkers": 100, "AsyncRequestWorkerFactor": 4},
}
PLAY = """(seconds) => new Promise((done) => {
  const root = document.querySelector('.tr'), times = [], busy = [], own = window.requestAnimationFrame;
  window.requestAnimationFrame = (act) => own((now) => {
    const began = performance.now(); act(now); busy.push(performance.now() - began); });
  root.querySelector('.tr-play').click();
  const tick = (now) => { times.push(now); if (now - times[0] < 1000 * seconds) own(tick);
    else done({ times, busy}); };
  own(tick); })"""


def load(server: Server) -> list[Connect]:
    """CONNECTIONS clients within two seconds; each asks four times."""
    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [
            pool.submit(
                tracer_record._client, server.port, number, began + 0.01 * number,
                ("/", 1.0, "/", 1.0, "/", 1.0, "/"),
            )
            for number in range(1, CONNECTIONS + 1)
        ]  # fmt: skip
    return [future.result() for future in futures]


def most_connections(trace: ConnectionTrace) -> tuple[int, int]:
    """(how many connections there were at once, the number of the first step with so many)"""
    moment, counts = Moment(trace.threads), []
    for step in trace.steps:
        moment.after(step)
        counts.append(len(moment.states))
    return max(counts), counts.index(max(counts)) + 1


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=render.find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        for mpm in sys.argv[1:] or POOLS:
            trace, began = tracer_record.traced(mpm, load, **POOLS[mpm])
            path = Path(folder) / f"{mpm}.html"
            path.write_text(tracer_page.page(tracing.shown(tracing.recordable(trace, began))))
            page = browser.new_page(viewport={"width": 1000, "height": 900})
            page.goto(path.as_uri())
            page.get_by_role("combobox", name="pace").select_option("3")
            most, full = most_connections(trace)
            page.evaluate(f"document.querySelector('.tr').tracer.seek({full})")
            page.wait_for_timeout(300)
            seen = page.evaluate(PLAY, SECONDS)
            gaps = sorted(b - a for a, b in zip(seen["times"], seen["times"][1:], strict=False))
            busy = sorted(seen["busy"])
            print(
                f"{mpm}: {most} connections at once, {len(trace.steps)} steps; "
                f"{len(gaps) / SECONDS:.1f} frames/s, between frames median {gaps[len(gaps) // 2]:.1f}, "
                f"p99 {gaps[int(0.99 * len(gaps))]:.1f} ms; own code median {busy[len(busy) // 2]:.2f}, "
                f"p99 {busy[int(0.99 * len(busy))]:.2f} ms of 16.7"
            )
            if picture := os.environ.get("MPMKIT_SCREENSHOTS"):
                page.screenshot(path=f"{picture}/tracer-200-{mpm}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
