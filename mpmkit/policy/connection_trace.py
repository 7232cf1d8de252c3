"""A trace: the steps of a server's connections, as values; what TraceLog's file means.

    trace = ConnectionTrace.read(server.trace_log())

A step says which connection or thread went from which state to which, by which cause, and by which
line of mpm/*.py (server/trace.py writes it). So the scoreboard at any moment is the sum of the steps
until then: `apply` of lab/tracer.js is that rule.
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

from mpmkit.policy.states import LETTERS

HEAD = "# mpmkit trace 1: {mpm}, ThreadsPerChild {threads}\n"
HEAD += "# ns child pid thread connection from to cause line\n"
# By number, as policy/states.py has them.
STATE_NAMES = (
    "PROCESSING", "HANDLER", "WRITE_COMPLETION", "KEEPALIVE", "ASYNC_WAITIO", "SUSPENDED", "LINGER",
    "LINGER_NORMAL", "LINGER_SHORT", "CLOSED",
)  # fmt: skip
_OF_LETTERS = "ended starting idle reading handling waiting logging dns closing leaving idle-kill"
CAUSE_OF_LETTER = dict(zip(LETTERS, _OF_LETTERS.split(), strict=True))
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


class ConnectionTrace(NamedTuple):
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
        rows = [line.split(" ") for line in rest.splitlines() if not line.startswith("#")]
        for row in rows:
            if len(row) != 9 or row[7] not in CAUSES or not row[0].isdigit():
                raise ValueError(f"this is no step of a trace: {' '.join(row)!r}")
        given = {(str(one.ns), one.address): one.client for one in connects}
        rows += [[ns, "-1", "-", "L", to, "-", "WAITING", "connected", "-"] for ns, to in given]
        rows.sort(key=lambda row: int(row[0]))
        # (pid, address) -> its number, for another one may have the address later; "-": not accepted yet.
        known: dict[tuple[str, str], int] = {}
        clients: list[int] = []
        steps = []
        for ns, child, pid, thread, name, before, after, cause, line in rows:
            number = 0
            if cause in ("connected", "accepted"):
                if cause == "accepted" and (number := known.pop(("-", name), 0)):
                    before = "WAITING"
                else:
                    clients.append(given.get((ns, name), len(clients) + 1))
                    number = len(clients)
                known[pid, name] = number
            elif name != "-" and not (number := known.get((pid, name), 0)):
                raise ValueError(f"a step of {name}, which was not accepted: the file has no start")
            place = int(child), 0 if pid == "-" else int(pid), -1 if thread == "L" else int(thread)
            steps.append(Step(int(ns), *place, number, before, after, cause, line))
            if cause == "closed":
                del known[pid, name]
        return cls(mpm, int(threads), tuple(steps), tuple(clients))
