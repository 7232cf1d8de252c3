"""What tests of experiments share: rows of memory and of requests, launches of a server that is not ours."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from misbehaving import Misbehaving

from mpmkit.measure import published
from mpmkit.measure.qps import QpsTable

from .rows import row


def memory_rows(
    mpm: str | None = "prefork", against: str = "busy", cost: int = 1000, base: int = 20_000,
    server: str = "mpmkit", noise: int = 0, tables: int = 80,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of memory on a straight line: a level costs so many KiB of PSS, and noise up and down."""
    made = []
    for number, level in enumerate((0, 50, 100, 200)):
        pss = base + cost * level + noise * (-1) ** number
        sizes = {"pss_kb": pss, "uss_kb": pss // 2, "rss_kb": pss * 8, "code_kb": pss}
        parts = dict.fromkeys(("heap_kb", "anonymous_kb", "stacks_kb", "shm_kb"), 0)
        where = {"mpm": mpm, "server": server, "against": against, "level": level, "held": level}
        counts = {"processes": level + 5, "threads": 30, "page_tables_kb": tables * level}
        made.append(row("memory", **where, **counts, **sizes, **parts))
    return made


def qps_row(mpm: str, kind: str, number: int, qps: float, **changes: Any) -> dict[str, Any]:
    """Two seconds at so many requests per second."""
    load = {"requests": round(2 * qps), "failures": 0, "errors": "{}", "duration_s": 2.0}
    load |= {"qps": float(qps), "server_cpu_us": None}
    return row("qps", mpm=mpm, kind=kind, round=number, **{**load, **changes})


def qps_table(
    rounds: dict[str, Any], kinds: Iterable[str] = ("static", "script"), **changes: Any
) -> QpsTable:
    """Made of given rounds: MPM -> requests per second of each round."""
    cells = [(mpm, n, qps) for mpm, each in rounds.items() for n, qps in enumerate(each, 1)]
    rows = [qps_row(mpm, kind, n, qps, **changes) for kind in kinds for mpm, n, qps in cells]
    return QpsTable(rows, published.figures(), planned=len(rows))


class FakeServer(Misbehaving):
    """With what an experiment needs of a server besides its url."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def error_log(self) -> str:
        return "[mpm:notice] AH00163: ready\n[mpm:emerg] AH99999: the roof is on fire\n"


class Launches:
    """A launch() of fake servers. dies: whether the server of this launch (from 1) is dead when handed out."""

    def __init__(self, dies: Callable[[int], bool] = lambda number: False) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.stopped = 0
        self.dies = dies

    @contextlib.contextmanager
    def __call__(self, mpm: str, **directives: Any) -> Iterator[FakeServer]:
        self.made.append((mpm, directives))
        with FakeServer() as server:
            if self.dies(len(self.made)):
                server.die()
                server.process.wait()
            yield server
        self.stopped += 1
