"""What the tracer shows of a moment: the rule of tracer.js, for tests and for the choice of what to record."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpmkit.policy.connection_trace import CAUSE_OF_LETTER, ConnectionTrace, Step

OF_A_THREAD = frozenset(CAUSE_OF_LETTER.values())


@dataclass
class Moment:
    """What a scoreboard shows after some steps.

    letters    slot -> the letters of its threads
    states     connection -> its state
    holders    connection -> (slot, pid) of the process that has it
    """

    threads: int
    letters: dict[int, list[str]] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    holders: dict[int, tuple[int, int]] = field(default_factory=dict)
    _pids: dict[int, int] = field(default_factory=dict)

    def after(self, step: Step) -> None:
        """Go on by one step."""
        row = self.letters.setdefault(step.child, ["."] * self.threads) if step.child >= 0 else []
        if step.cause == "born":
            self._pids[step.child] = step.pid
        elif step.cause == "died":
            row[:] = "." * self.threads
            dead = step.child, self._pids.pop(step.child, 0)
            for conn in [one for one, holder in self.holders.items() if holder == dead]:
                del self.states[conn], self.holders[conn]
        elif step.cause in OF_A_THREAD:
            row[step.thread] = step.after
        if step.conn:
            self.states[step.conn] = step.after
            self.holders[step.conn] = step.child, step.pid
            if step.cause == "closed":
                del self.states[step.conn], self.holders[step.conn]

    def parked(self, slot: int) -> tuple[int, int, int, int]:
        """The connections of a process of event: all, in write completion, in keep-alive, lingering."""
        states = [state for conn, state in self.states.items() if self.holders[conn][0] == slot]
        lingering = states.count("LINGER_NORMAL") + states.count("LINGER_SHORT")
        writing, keeping = states.count("WRITE_COMPLETION"), states.count("KEEPALIVE")
        return len(states), writing, keeping, lingering


def at(trace: ConnectionTrace, ns: int) -> Moment:
    """The moment `ns`: all steps until then, that one included."""
    moment = Moment(trace.threads)
    for step in trace.steps:
        if step.ns > ns:
            break
        moment.after(step)
    return moment
