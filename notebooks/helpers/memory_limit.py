"""How many busy requests a memory limit holds: each MPM in a control group of its own, until the kernel
ends a process.

To record it again in data/recorded (as root, Linux control groups of either version):

    cd notebooks && python -m helpers.memory_limit
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from helpers import misbehaving_clients

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.lab import replay
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress
from mpmkit.measure.monitor import Watch

MIB = 48  # of memory, for a server with all its processes
STEP = 5  # busy requests more each time
MOST = 390  # busy requests: then there are connections enough
PATIENCE = 15.0  # seconds until a step's requests are busy: prefork doubles its forks every second
ROOM: dict[str, dict[str, Any]] = {
    "prefork": {"StartServers": 2, "MinSpareServers": 2, "MaxSpareServers": 20, "MaxRequestWorkers": 400,
                "ServerLimit": 400},
    "threads": {"StartServers": 1, "ServerLimit": 16, "ThreadsPerChild": 25, "MinSpareThreads": 10,
                "MaxSpareThreads": 400, "MaxRequestWorkers": 400},
}  # fmt: skip
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class ControlGroup:
    """A memory control group. What is started within `inside()` belongs to it, with all its children."""

    def __init__(self, mib: int) -> None:
        """Raises OSError where this process may not make one (it takes root, or a delegated hierarchy)."""
        first = V1.is_dir()
        self.path = (V1 if first else V2) / f"mpmkit-{os.getpid()}-{time.monotonic_ns()}"
        self._kills = self.path / ("memory.oom_control" if first else "memory.events")
        self.path.mkdir()
        try:
            # Without swap: the limit is one of memory. In this order, since v1 wants the second one larger.
            names = ("limit_in_bytes", "memsw.limit_in_bytes") if first else ("max", "swap.max")
            for name, size in zip(names, (mib << 20, mib << 20 if first else 0), strict=True):
                file = self.path / f"memory.{name}"
                if file.exists() or name == names[0]:
                    file.write_text(str(size))
        except OSError:
            self.path.rmdir()
            raise

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This process is in the group for the length of the block."""
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":", 2)[2] for line in lines if line.split(":")[1] in ("memory", ""))
        home = self.path.parent / own.lstrip("/")
        _join(self.path)
        try:
            yield
        finally:
            _join(home if home.is_dir() else self.path.parent)

    @property
    def kills(self) -> int:
        """How many processes the kernel has ended because the group was full."""
        words = self._kills.read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def remove(self) -> None:
        """Remove it. Its processes have ended; the kernel may take a moment to notice."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                return self.path.rmdir()
            time.sleep(0.05)
        return self.path.rmdir()


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def held_or_recorded(mpms: Sequence[str] = MPMS) -> list[dict[str, Any]]:
    """`held`, or what was recorded where this machine should not measure or lets no control group be made."""
    try:
        return replay.measured_or_recorded("06-limit", lambda: held(mpms))
    except OSError as error:
        print(f"RECORDED, not measured here: this takes a memory control group ({error})")
        return replay.recorded("06-limit")


def held(mpms: Sequence[str] = MPMS, mib: int = MIB) -> list[dict[str, Any]]:
    """A row an MPM: how many requests were busy before the kernel ended a process (`held`), whether it did
    (`killed`; without it MOST was reached), how many of their connections ended with it (`lost`), and
    whether the parent was left (`runs`). Raises OSError where no control group can be made."""
    rows = []
    for mpm in mpms:
        group = ControlGroup(mib)
        try:
            rows.append({"mpm": mpm, "mib": mib, **_fill(mpm, group)})
        finally:
            group.remove()
    return rows


def _fill(mpm: str, group: ControlGroup) -> dict[str, Any]:
    directives = ROOM["prefork" if mpm == "prefork" else "threads"]
    with contextlib.ExitStack() as stack:
        with group.inside():
            server = mpmkit.launch(mpm, RequestReadTimeout="header=0 body=0", **directives)
        stack.enter_context(server)
        seen = stack.enter_context(Watch(server, every=0.1))
        crowds: list[misbehaving_clients.HalfSent] = []
        busy = 0
        while busy < MOST and not group.kills:
            crowds.append(stack.enter_context(misbehaving_clients.HalfSent(server.url, STEP)))
            end = time.monotonic() + PATIENCE
            while not group.kills and time.monotonic() < end and seen.last.reading < busy + STEP:
                time.sleep(0.05)
            if seen.last.reading < busy + STEP:
                break
            busy += STEP
        killed, end = group.kills > 0, time.monotonic() + PATIENCE
        while killed and not sum(crowd.losses for crowd in crowds) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)  # until all clients of the process that ended have noticed
        lost = sum(crowd.totals["closed"] + crowd.totals["reset"] for crowd in crowds)
        return {"held": busy, "killed": killed, "lost": lost, "runs": server.running}


def figure(rows: Sequence[dict[str, Any]], predicted: dict[str, float]) -> go.Figure:
    """Bars of what was held, an MPM each; the outline is where the slope puts the limit."""
    mpms = [row["mpm"] for row in rows]
    known = [predicted[mpm] for mpm in mpms]
    more = ["" if row["killed"] else " and more" for row in rows]
    frame = {"color": "rgba(0,0,0,0)", "line": {"color": colours.ink(), "width": 1.5}}
    common: dict[str, Any] = {"textposition": "outside", "constraintext": "none", "cliponaxis": False,
                              "showlegend": False, "hoverinfo": "skip"}  # fmt: skip
    drawn = go.Figure()
    drawn.add_bar(
        x=mpms, y=known, text=[f"{n:.0f}<br>predicted" for n in known], marker=frame, **common
    )
    drawn.add_bar(
        x=mpms, y=[row["held"] for row in rows], marker={"color": [colours.colour(mpm) for mpm in mpms]},
        text=[f"{row['held']}{add}<br>held" for row, add in zip(rows, more, strict=True)], **common,
    )  # fmt: skip
    said = (f"{row['mpm']} {row['held']} (predicted {predicted[row['mpm']]:.0f})" for row in rows)
    dress(
        drawn,
        f"Busy requests until the kernel ends a process, in {rows[0]['mib']} MiB"
        "<br><sup>predicted: (limit − server at rest) / cost of one more</sup>",
        alt=f"Busy requests held in {rows[0]['mib']} MiB: {', '.join(said)}.",
        height=360,
    )
    drawn.update_yaxes(title_text="busy requests", rangemode="tozero")
    return drawn


if __name__ == "__main__":
    replay.record("06-limit", held)
