"""The record of a watched server: samples over time, events, snapshots of the scoreboard.

Plain values, without the server: they can be drawn, put into a frame, saved and read again.
`mpmkit.measure.monitor` makes them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.launcher import ScoreboardView
from mpmkit.policy.simulator import COLUMNS

NAN = float("nan")


class Sample(NamedTuple):
    """One look. Counts, unless a unit is in the name; NaN: not known (yet).

    The first columns are those of `mpmkit.simulate`. A server whose status page does not come in
    time has NaN in all but `t`, `waiting` and, if its pid is known, `processes` and `pss_mb`.
    """

    t: float  # seconds since the watch began
    processes: float = NAN  # children that exist, those that are leaving included
    workers: float = NAN  # processes or threads that are up and not leaving: idle and busy ones
    idle: float = NAN  # by the status page's rules, as is busy
    busy: float = NAN
    waiting: float = NAN  # connections in the listen queue: not accepted yet
    parked: float = NAN  # kept-alive, without a request; under prefork and worker also busy (K)
    threads: float = NAN  # slots of the scoreboard that are in use
    reading: float = NAN
    writing: float = NAN
    closing: float = NAN
    without_thread: float = NAN  # what event's listener holds: parked, writing or closing
    generation: float = NAN
    accesses: float = NAN  # requests since the start; needs ExtendedStatus
    qps: float = NAN  # requests per second since the sample before
    service_ms: float = NAN  # mean time of those requests, in the server
    pss_mb: float = NAN  # of parent and children: shared pages counted once


assert Sample._fields[: len(COLUMNS)] == COLUMNS


class Event(NamedTuple):
    """Something that happened between two samples. `kind`: forked, ended, generation, log, note."""

    t: float
    kind: str
    text: str


class ScoreboardSnapshot(NamedTuple):
    """The scoreboard at one moment: (slot, letters, connections without a thread) a process."""

    label: str
    t: float
    mpm: str
    rows: tuple[tuple[int, str, int], ...]

    @classmethod
    def of(cls, board: ScoreboardView, label: str = "", t: float = 0.0) -> Self:
        """From what `server.scoreboard()` returns."""
        held = {
            row.slot: row.keep_alive + row.write_completion + row.lingering_close
            for row in board.snapshot.processes
        }
        rows = tuple((slot, letters, held[slot]) for slot, letters in board.letters.items())
        return cls(label, round(t, 2), board.mpm, rows)

    def count(self, letter: str) -> int:
        """How many slots show the letter."""
        return sum(letters.count(letter) for _, letters, _ in self.rows)


@dataclass
class Recording(Sequence[Sample]):
    """The samples of one server, with events and snapshots. `to_json` and `from_json` keep it."""

    mpm: str
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    snapshots: list[ScoreboardSnapshot] = field(default_factory=list)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.mpm}: {len(self)} samples>"

    @property
    def last(self) -> Sample:
        """The newest sample. Raises IndexError before the first."""
        return self.samples[-1]

    def column(self, name: str) -> list[Any]:
        """One field of all samples: `recording.column("processes")`."""
        return [getattr(sample, name) for sample in self]

    def most(self, name: str) -> Any:
        """The largest value of a field; what isn't known doesn't count."""
        return max((v for v in self.column(name) if v == v), default=NAN)

    def snapshot(self, label: str) -> ScoreboardSnapshot:
        """The snapshot of that label. Raises KeyError if none was taken."""
        labels = [one.label for one in self.snapshots]
        if label not in labels:
            raise KeyError(f"no snapshot {label!r}; there are {labels}")
        return self.snapshots[labels.index(label)]

    def forks(self) -> list[int]:
        """How many children each burst of forks had, in order: the parent forks once a second."""
        bursts: list[int] = []
        began = -math.inf
        for event in (event for event in self.events if event.kind == "forked"):
            # Two samples may fall into one burst: the next burst is a second away.
            if event.t - began >= 0.7:
                bursts.append(0)
                began = event.t
            bursts[-1] += int((re.findall(r"\d+", event.text) or [1])[0])
        return bursts

    def event_log(self) -> str:
        """The events, one a line, with their second."""
        return "\n".join(f"{event.t:6.1f} s  {event.text}" for event in list(self.events))

    def to_frame(self) -> DataFrame:
        """One row a sample."""
        return data_frame(list(self), columns=Sample._fields)

    def to_json(self) -> dict[str, Any]:
        """Plain values: samples as lists in the order of `fields`, NaN as None."""
        return {
            "mpm": self.mpm,
            "fields": list(Sample._fields),
            "samples": [[None if v != v else round(v, 3) for v in s] for s in self],
            "events": [[round(e.t, 2), e.kind, e.text] for e in self.events],
            "snapshots": [list(one) for one in self.snapshots],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises ValueError for what `to_json` did not make."""
        try:
            if tuple(data["fields"]) != Sample._fields:
                raise ValueError(f"its fields are {data['fields']}")
            samples = [Sample(*(NAN if v is None else v for v in row)) for row in data["samples"]]
            snapshots = [
                ScoreboardSnapshot(name, t, mpm, tuple((int(a), b, int(c)) for a, b, c in rows))
                for name, t, mpm, rows in data["snapshots"]
            ]
            return cls(data["mpm"], samples, [Event(*one) for one in data["events"]], snapshots)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no recording of a watch: {error!r}") from None
