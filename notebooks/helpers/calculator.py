"""The MaxRequestWorkers calculator: a slider for memory, and the answer from measured slopes.

    calculator(table)          # what mpmkit.memory_table returned, or a frame of recorded rows

`answers` is the calculation, without a widget; `calculator` shows it.
"""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets
import pandas
from helpers.lesson import Still

from mpmkit.config.directives import MPMS
from mpmkit.measure.sizing import Sizing, max_request_workers_for

GIB = 1 << 30


def answer(
    memory: Any, ram_gib: float, mpm: str, *, idle: int = 0, threads_per_child: int = 25
) -> str:
    """What `max_request_workers_for` says for so many GiB, or why it can't say anything.

    Under prefork and worker an idle connection keeps a worker: `idle` counts for event only.
    """
    try:
        return str(_size(memory, ram_gib, mpm, idle, threads_per_child))
    except ValueError as error:
        return str(error)


def answers(memory: Any, ram_gib: list[float], mpms: list[str]) -> pandas.DataFrame:
    """A row for each size of memory, a column for each MPM: MaxRequestWorkers, by PSS, and what
    summed RSS would say. A machine without room for one worker has 0."""
    found: dict[tuple[str, str], list[int]] = {}
    for ram, mpm in ((ram, mpm) for ram in ram_gib for mpm in mpms):
        try:
            size = _size(memory, ram, mpm, 0, 25)
            workers = {"PSS": size.workers, "summed RSS": size.by_rss or 0}
        except ValueError:
            workers = {"PSS": 0, "summed RSS": 0}
        for how, count in workers.items():
            found.setdefault((mpm, how), []).append(count)
    return pandas.DataFrame(found, index=[f"{ram:g} GiB" for ram in ram_gib])


def _size(memory: Any, ram_gib: float, mpm: str, idle: int, threads: int) -> Sizing:
    return max_request_workers_for(
        int(ram_gib * GIB),
        mpm=mpm,
        memory=memory,
        idle=idle if mpm == "event" else 0,
        threads_per_child=threads,
    )


def calculator(memory: Any) -> Any:
    """An ipywidgets box: sliders for memory, idle connections and ThreadsPerChild, a choice of the
    MPM, and the answer below, which follows them. An executed copy has the answer they begin with."""
    records = memory.to_frame() if hasattr(memory, "to_frame") else memory
    busy = set(records[records["against"] == "busy"]["mpm"])
    there = [mpm for mpm in MPMS if mpm in busy]
    wide = {"style": {"description_width": "11em"}, "layout": {"width": "36em"}}
    ram = ipywidgets.FloatLogSlider(
        value=4,
        base=2,
        min=-1,
        max=6,
        step=0.25,
        readout_format=".2f",
        description="memory, GiB",
        **wide,
    )
    idle = ipywidgets.IntSlider(max=10_000, step=100, description="idle connections", **wide)
    threads = ipywidgets.IntSlider(value=25, min=1, max=64, description="ThreadsPerChild", **wide)
    mpm = ipywidgets.ToggleButtons(options=there, value=there[-1], description="MPM")
    result = ipywidgets.HTML()

    def show(_: object = None) -> None:
        idle.disabled, threads.disabled = mpm.value != "event", mpm.value == "prefork"
        given = {"idle": idle.value, "threads_per_child": threads.value}
        text = answer(records, ram.value, mpm.value, **given)
        result.value = f"<pre style='line-height:1.4'>{escape(text)}</pre>"

    for part in (ram, idle, threads, mpm):
        part.observe(show, "value")
    show()
    begins = f"memory {ram.value:g} GiB, {mpm.value}, no idle connections, ThreadsPerChild {threads.value}"
    still = f"<p>In JupyterLab, four controls change this. Here: {begins}.</p>{result.value}"
    return Still(still, mpm, ram, idle, threads, result)
