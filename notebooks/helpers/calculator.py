"""The MaxRequestWorkers calculator: a slider for memory, and the answer from measured slopes.

    calculator(table)          # what mpmkit.memory_table returned, or a frame of recorded rows

`answers` is the calculation, without a widget; `calculator` shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.measure.sizing import Sizing, max_request_workers_for

if TYPE_CHECKING:
    import pandas

GIB = 1 << 30
RAM = (0.5, 64.0)  # GiB, the slider's ends


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
    import pandas

    rows = []
    for ram in ram_gib:
        row: dict[tuple[str, str], int] = {}
        for mpm in mpms:
            try:
                size = _size(memory, ram, mpm, 0, 25)
                row[mpm, "PSS"], row[mpm, "summed RSS"] = size.workers, size.by_rss or 0
            except ValueError:
                row[mpm, "PSS"] = row[mpm, "summed RSS"] = 0
        rows.append(row)
    return pandas.DataFrame(
        rows,
        index=pandas.Index([f"{ram:g} GiB" for ram in ram_gib]),
        columns=pandas.MultiIndex.from_tuples(list(rows[0]) if rows else []),
    )


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
    MPM, and the answer below, which follows them."""
    import ipywidgets

    records = memory.to_frame() if hasattr(memory, "to_frame") else memory
    there = [
        mpm
        for mpm in ("prefork", "worker", "event")
        if len(records[(records["mpm"] == mpm) & (records["against"] == "busy")])
    ]
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
    idle = ipywidgets.IntSlider(
        value=0, min=0, max=10_000, step=100, description="idle connections", **wide
    )
    threads = ipywidgets.IntSlider(value=25, min=1, max=64, description="ThreadsPerChild", **wide)
    mpm = ipywidgets.ToggleButtons(options=there, value=there[-1], description="MPM")
    result = ipywidgets.HTML()

    def show(_: object = None) -> None:
        from html import escape

        idle.disabled, threads.disabled = mpm.value != "event", mpm.value == "prefork"
        text = answer(
            records, ram.value, mpm.value, idle=idle.value, threads_per_child=threads.value
        )
        result.value = f"<pre style='line-height:1.4'>{escape(text)}</pre>"

    for part in (ram, idle, threads, mpm):
        part.observe(show, "value")
    show()
    return ipywidgets.VBox([mpm, ram, idle, threads, result])
