"""The class, rehearsed: N students run every cell of the 90-minute kit at once on this machine.

    python -m docs._tools.rehearse                   # one walk, timed: seconds of each slot
    python -m docs._tools.rehearse --students 20     # do twenty fit on this hub?

Each student is a kernel that measures (no replay, smoke scale) and runs notebooks/class.ipynb from top to
bottom, then the model answers of the exercises that the slots name. All start at the same moment, which
is harder than a class. They fit if

* the cells of each slot take at most half of its minutes, for the slowest student: the rest is for talk;
* a tenth of the memory is free throughout (the container's limit counts);
* every student sees what the class should see (`SEEN`): a machine that is too busy changes what comes out.

When memory gets short the rehearsal ends, with all that it started. Exit status 1 if they don't fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from docs._tools.render import RenderError, execute
from mpmkit.measure import records
from mpmkit.measure.procfs import pss_mb

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "notebooks" / "class.ipynb"
HEADING = re.compile(r"^## (\d+) · (.+) \(minutes (\d+) to (\d+)\)$", re.MULTILINE)
EXERCISE = re.compile(r"\]\(exercises/([\w-]+\.ipynb)\)")
# Slot -> what its outputs say on a machine that is not too busy.
SEEN = {
    2: "the run says: 75 workers",
    3: "from one child twice as many in each second, up to 32: True",
    4: "8 clients were served at once",
    6: "a thread was idle when it came: False",
    9: "the run says: worker",
}
MOST_STUDENTS = 60
MOST_SECONDS = 1200  # of the whole rehearsal
TALK = 0.5  # share of a slot's minutes that its cells may take
FREE = 0.1  # share of the memory that stays free
ENDED = "ended before its time"


class Slot(NamedTuple):
    """A section of the class notebook. cells: the numbers of its code cells, from 1. exercises: files."""

    number: int
    title: str
    begins: int
    ends: int
    cells: list[int]
    exercises: list[str]


def slots(book: Any) -> list[Slot]:
    """The slots of the class notebook (nbformat's JSON), in order."""
    found: list[Slot] = []
    code = 0
    for cell in book["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            code += 1
            if found:
                found[-1].cells.append(code)
        elif heading := HEADING.search(text):
            number, begins, ends = (int(heading[one]) for one in (1, 3, 4))
            found.append(Slot(number, heading[2], begins, ends, [], EXERCISE.findall(text)))
    return found


@dataclass
class Walk:
    """One student's way: seconds of each slot, and the slots whose outputs did not say what they should."""

    seconds: dict[int, float] = field(default_factory=dict)
    missed: list[int] = field(default_factory=list)
    error: str = ""


def walk(path: Path = BOOK) -> Walk:
    """Run the notebook and its exercises here, each in a kernel of its own."""
    made = Walk()
    try:
        book = execute(path, timeout=MOST_SECONDS)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        for slot in slots(book):
            own = [code[number - 1] for number in slot.cells]
            took = sum(map(ran, own))
            for name in slot.exercises:
                answers = execute(path.parent / "exercises" / "solutions" / name)
                took += sum(ran(cell) for cell in answers.cells if cell.cell_type == "code")
            made.seconds[slot.number] = round(took, 1)
            said = "".join(one.get("text", "") for cell in own for one in cell.outputs)
            if SEEN.get(slot.number, "") not in said:
                made.missed.append(slot.number)
    except RenderError as error:
        made.error = str(error)
    return made


def ran(cell: Any) -> float:
    """Seconds that a cell ran, by the kernel's clock."""
    times = cell.metadata.get("execution", {})
    try:
        began, ended = (
            datetime.fromisoformat(times[one].replace("Z", "+00:00"))
            for one in ("iopub.execute_input", "shell.execute_reply")
        )
    except KeyError:
        return 0.0  # an empty cell
    return (ended - began).total_seconds()


@dataclass
class Use:
    """What all students together used of the machine. memory_mb: MB (10^6 bytes) that may be used."""

    memory_mb: float
    most_mb: float = 0.0
    least_free_mb: float = float("inf")
    cores: float = 0.0  # busy, on average
    short: bool = False  # so little was free that the rehearsal was ended

    def look(self) -> None:
        """Add a sample of the memory of every process that this one has started."""
        pids = [one.pid for one in psutil.Process().children(recursive=True)]
        used = pss_mb(pids) if pids else 0.0
        free = min(psutil.virtual_memory().available / 1e6, self.memory_mb - used)
        self.most_mb, self.least_free_mb = max(self.most_mb, used), min(self.least_free_mb, free)
        self.short = self.least_free_mb < FREE * self.memory_mb / 2


def rehearse(students: int, book: Path = BOOK) -> tuple[list[Walk], Use]:
    """So many walks at once, and what they used. Those that are left when the memory gets short, or after
    MOST_SECONDS, are ended, and their walk has an error."""
    total = psutil.virtual_memory().total / 1e6
    limit = records.machine().memory_limit_mb
    use = Use(min(total, limit * 2**20 / 1e6) if limit else total)
    command = [sys.executable, "-m", "docs._tools.rehearse", "--walk", "--book", str(book)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
    measure = {"PYTHONPATH": paths, "MPMKIT_REPLAY": "0", "MPMKIT_SCALE": "smoke"}
    how: dict[str, Any] = {"cwd": ROOT, "env": os.environ | measure, "stdout": subprocess.PIPE}
    began, before = time.monotonic(), psutil.cpu_times()
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, text=True, **how))
            for _ in range(students)
        ]
        ended: list[Any] = []
        while not ended and any(one.poll() is None for one in running):
            use.look()
            if use.short or time.monotonic() - began > MOST_SECONDS:
                ended = [one for one in running if one.poll() is None]
                for one in ended:
                    one.terminate()  # its kernels end with it, and their servers with them
            else:
                time.sleep(1)
        texts = [one.communicate()[0] for one in running]
        # What one that was ended still says, such as that its kernel died, is not the reason.
        walks = [
            Walk(error=ENDED) if one in ended else _walk_of(text)
            for one, text in zip(running, texts, strict=True)
        ]
    # user, nice, system, idle, iowait, irq, softirq; steal is not ours.
    spent = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    idle = spent[before._fields.index("idle")] + spent[before._fields.index("iowait")]
    use.cores = (sum(spent[:7]) - idle) / (time.monotonic() - began)
    return walks, use


def _walk_of(text: str) -> Walk:
    try:
        made = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        return Walk(error=ENDED)
    seconds = {int(slot): took for slot, took in made.pop("seconds").items()}
    return Walk(seconds=seconds, **made)


def report(plan: Sequence[Slot], walks: Sequence[Walk], use: Use) -> tuple[bool, str]:
    """Whether they fit, and a text that says why."""
    lines = [f"{'slot':44} {'minutes':>9} {'cells, s':>9} {'saw it':>8}"]
    late = []
    for slot in plan:
        took = max((one.seconds.get(slot.number, 0.0) for one in walks), default=0.0)
        seen = sum(slot.number in one.seconds and slot.number not in one.missed for one in walks)
        minutes = slot.ends - slot.begins
        late += [f"slot {slot.number}"] * (took > TALK * 60 * minutes)
        saw = f"{seen}/{len(walks)}" if slot.number in SEEN else ""
        title = f"{slot.number} {slot.title}"
        lines.append(f"{title:44} {minutes:9} {took:9.1f} {saw:>8}")
    errors = sorted({one.error.splitlines()[0] for one in walks if one.error})
    missed = sum(bool(one.missed) for one in walks)
    tight = use.least_free_mb < FREE * use.memory_mb
    lines += [
        "cells, s: of the slowest student. saw it: how many saw what the class should see",
        f"memory: {use.most_mb:,.0f} MB at most, {use.most_mb / len(walks):,.0f} a student; "
        f"{use.least_free_mb:,.0f} MB of {use.memory_mb:,.0f} were free at least",
        f"processor: {use.cores:.1f} of {os.cpu_count()} cores busy on average, other work included",
        *(f"error: {one}" for one in errors),
    ]
    why = [f"{', '.join(late)} took more than {TALK:.0%} of the minutes"] if late else []
    why += [f"{missed} did not see what the class should see"] if missed else []
    why += [f"{sum(bool(one.error) for one in walks)} did not get to the end"] if errors else []
    why += ["memory is short"] if tight else []
    many = f"{len(walks)} student{'s' * (len(walks) != 1)}"
    fit = f"{many} don't fit: {'; '.join(why)}" if why else f"{many}: fits"
    return not why, "\n".join([*lines, fit])


def main(argv: Sequence[str] | None = None) -> int:
    """Rehearse, print the report; 1 if the students don't fit."""
    parser = argparse.ArgumentParser(
        prog="python -m docs._tools.rehearse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    many = f"1 to {MOST_STUDENTS}; 1 is the timed walk"
    parser.add_argument("--students", type=int, default=1, help=many)
    parser.add_argument("--book", type=Path, default=BOOK, help="another notebook with slots")
    parser.add_argument("--walk", action="store_true", help="one walk in this process, as JSON")
    chosen = parser.parse_args(argv)
    if not 1 <= chosen.students <= MOST_STUDENTS:
        parser.error(f"--students {chosen.students}: {many}")
    if chosen.walk:
        print(json.dumps(vars(walk(chosen.book.resolve()))))
        return 0
    plan = slots(json.loads(chosen.book.read_text(encoding="utf-8")))
    fits, text = report(plan, *rehearse(chosen.students, chosen.book.resolve()))
    print(text)
    return int(not fits)


if __name__ == "__main__":
    sys.exit(main())
