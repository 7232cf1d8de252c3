"""A trace: the steps of a server's connections, as values; what TraceLog's file means.

    trace = ConnectionTrace.read(server.trace_log())

A step says which connection or thread went from which state to which, by which cause, and by which
line of mpm/*.py (server/trace.py writes it). So the scoreboard at any moment is the sum of the steps
until then: `apply` of lab/tracer.js is that rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from mpmkit.policy.states import LETTERS

HEAD = (
    "# mpmkit trace 1: {mpm}, ThreadsPerChild {threads}\n"
    "# ns child pid thread connection from to cause line\n"
)
# By number, as policy/states.py has them.
STATE_NAMES = (
    "PROCESSING", "HANDLER", "WRITE_COMPLETION", "KEEPALIVE", "ASYNC_WAITIO", "SUSPENDED", "LINGER",
    "LINGER_NORMAL", "LINGER_SHORT", "CLOSED",
)  # fmt: skip
CAUSE_OF_LETTER = dict(zip(LETTERS, (
    "ended", "starting", "idle", "reading", "handling", "waiting", "logging", "dns", "closing",
    "leaving", "idle-kill",
), strict=True))  # fmt: skip
# What each means: docs/TRACER.md. `connected` is a client's word, and not in the file.
CAUSES = frozenset({
    "connected", "accepted", "reserved", "released", "pushed", "popped", "parked", "edge", "claimed",
    "expired", "lingered", "closed", "enabled", "disabled", "born", "died", *CAUSE_OF_LETTER.values(),
})  # fmt: skip


class Step(NamedTuple):
    """One step. `pid` 0: by the control process. `thread` -1: by the listener. `conn` 0: no connection."""

    ns: int
    child: int
    pid: int
    thread: int
    conn: int
    before: str
    after: str
    cause: str
    line: str


class Connect(NamedTuple):
    """What a client knows: when its connect returned (ns), from which address:port, its own number."""

    ns: int
    address: str
    client: int


@dataclass(frozen=True)
class ConnectionTrace:
    """The steps of one server, in the order of time. Connections are numbered from 1 as they appear."""

    mpm: str
    threads: int
    steps: tuple[Step, ...]
    clients: tuple[int, ...]  # for each connection, the number of its client (or its own)

    @classmethod
    def read(cls, text: str, connects: Iterable[Connect] = ()) -> Self:
        """From the text of a TraceLog, of its last start; with `connects`, a connection begins with
        its client's. Raises ValueError for another file."""
        head, _, rest = text.rpartition("# mpmkit trace 1: ")[2].partition("\n")
        mpm, _, threads = head.partition(", ThreadsPerChild ")
        if not threads.isdigit():
            raise ValueError("this is no trace; give the text of a file that TraceLog wrote")
        rows: list[tuple[int, tuple[Any, ...]]] = []
        for line in rest.splitlines():
            if line.startswith("#"):
                continue
            words = line.split(" ")
            if len(words) != 9 or words[7] not in CAUSES or not words[0].isdigit():
                raise ValueError(f"this is no step of a trace: {line!r}")
            rows.append((int(words[0]), tuple(words[1:])))
        given = {(one.ns, one.address): one.client for one in connects}
        for ns, address in given:
            rows.append((ns, ("-1", "-", "L", address, "-", "WAITING", "connected", "-")))
        rows.sort(key=lambda row: row[0])
        steps, clients = _numbered(rows, given)
        return cls(mpm, int(threads), steps, clients)

    def to_json(self, began: int) -> dict[str, Any]:
        """Plain values: microseconds since `began` (ns), and lines by their number in `lines`."""
        lines = sorted({step.line for step in self.steps})
        steps = [[(s.ns - began) // 1000, *s[1:-1], lines.index(s.line)] for s in self.steps]
        own = {"mpm": self.mpm, "threads": self.threads, "clients": list(self.clients)}
        return own | {"lines": lines, "steps": steps}


def _numbered(
    rows: Sequence[tuple[int, tuple[Any, ...]]], given: dict[tuple[int, str], int]
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """Connections by number instead of address, which another one may have later."""
    alive: dict[tuple[str, str], int] = {}  # (pid, address) -> number
    waiting: dict[str, int] = {}  # those not accepted yet
    clients: list[int] = []
    steps = []
    for ns, (child, pid, thread, name, before, after, cause, line) in rows:
        number, key = 0, (pid, name)
        if name != "-":
            before = "WAITING" if cause == "accepted" and name in waiting else before
            if cause == "connected" or (cause == "accepted" and name not in waiting):
                clients.append(given.get((ns, name), len(clients) + 1))
                waiting[name] = len(clients)
            if cause == "accepted":
                alive[key] = waiting.pop(name)
            number = waiting[name] if cause == "connected" else alive.get(key, 0)
            if not number:
                raise ValueError(f"a step of {name}, which was not accepted: the file has no start")
        worker = -1 if thread == "L" else int(thread)
        place = int(child), 0 if pid == "-" else int(pid), worker
        steps.append(Step(ns, *place, number, before, after, cause, line))
        if cause == "closed":
            del alive[key]
    return tuple(steps), tuple(clients)
