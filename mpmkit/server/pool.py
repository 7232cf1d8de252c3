"""The child processes of the server, and their rows of the scoreboard. policy/maintenance.py, a pure function,
decides what to do; the control process (parent.py), when."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from _thread import stack_size
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from mpmkit.config.directives import MPMS
from mpmkit.policy import maintenance
from mpmkit.policy.states import DEAD, GRACEFUL, STARTING
from mpmkit.server import child
from mpmkit.server.child import Child, Context, PipeOfDeath
from mpmkit.server.core import Service
from mpmkit.server.listen import Listener, dummy_connection, has_pending_connection
from mpmkit.server.logs import ErrorLog, program_ended
from mpmkit.server.scoreboard import Scoreboard

# Messages that differ only in their number: (prefork, worker, event).
AH = {
    "running": ("AH00163", "AH00292", "AH00489"),
    "stop": ("AH00169", "AH00295", "AH00491"),
    "graceful-stop": ("AH00170", "AH00296", "AH00492"),
    "graceful": ("AH00171", "AH00297", "AH00493"),
    "restart": ("AH00173", "AH00298", "AH00494"),
    "built": ("AH00164", "AH00293", "AH00490"),
    "fork": ("AH00159", "AH00283", "AH00481"),
    "unknown": ("AH00167", "AH00291", "AH00488"),
    "stack": ("", "AH02435", "AH02436"),
    "series": ("", "AH10393", "AH10392"),
}

# How children are ended (ap_reclaim_child_processes): a signal, its second, and that of what follows.
RECLAIM = [(signal.SIGTERM, s, to) for s, to in ((0.0, 3.0), (3.0, 5.0), (5.0, 7.0), (7.0, 9.0))]
RECLAIM.append((signal.SIGKILL, 9.0, 10.0))

# Deaths by these were ordered, they are no crash.
EXPECTED_SIGNALS = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL}


class Pool(Context):
    """The children of one server. own: descriptors that a child must not keep."""

    def __init__(
        self, child_class: type[Child], service: Service, listeners: Sequence[Listener], own: list[int],
    ) -> None:  # fmt: skip
        board = Scoreboard(service.directives, service.directives.ScoreBoardFile)
        super().__init__(service, list(listeners), board, PipeOfDeath())
        self.old_pod: PipeOfDeath | None = None  # while the old generation is still to be retired
        self.child_class = child_class
        self.memory = maintenance.Memory()
        self.to_start = 0  # children still owed after a graceful restart
        self.replacing = True  # False while children are meant to end
        self.fatal: int | None = None  # the exit status, once it is clear that no child can serve
        self._own = own
        self._lifeline = os.pipe()
        self.alive: dict[int, int | None] = {}  # pid -> slot; None: that is a newer one's (worker)
        self._deaths_in_series = 0
        self._killed = False  # a child was, and a connection may wait for it
        self._waited: set[Listener] = set()  # where one waited at the last look

    @property
    def errors(self) -> ErrorLog:
        return self.service.errors

    def note(self, what: str, text: str, level: str = "notice") -> None:
        """A line of the error log for which each MPM has a number of its own (AH)."""
        mpm = self.directives.mpm
        self.errors.write(level, text, ah=AH[what][MPMS.index(mpm)], module=f"mpm_{mpm}")

    def start(self, count: int) -> int:
        """Fork up to `count` children into the lowest slots that are free; returns how many there were."""
        d = self.directives
        usable = d.ServerLimit if d.mpm == "event" else d.process_limit
        rows = self.board.rows(count).processes[:usable]
        free = [row.slot for row in rows if not row.pid][:count]
        for slot in free:
            self.make_child(slot)
        return len(free)

    def make_child(self, slot: int) -> None:
        # The row may still be a finishing child's (worker).
        self.alive |= {pid: None for pid, its_slot in self.alive.items() if its_slot == slot}
        threads = self.directives.ThreadsPerChild
        self.board.set_states(slot, STARTING, threads, only=(DEAD, GRACEFUL))
        gc.freeze()  # what exists now is never collected: the children's pages stay shared
        try:
            pid = os.fork()  # signals are blocked until `set_child_signals`
        except OSError as error:
            self.note("fork", f"fork: {error.strerror}; no child for slot {slot}", "error")
            self.board.died(slot)
            return
        if pid == 0:
            self._child(slot)
        self.board.born(slot, pid, self.board.generation)
        self.alive[pid] = slot

    def _child(self, slot: int) -> None:
        """Runs in the child, and does not return."""
        status = child.CHILD_FATAL
        try:
            if self.old_pod is not None:
                self.old_pod.close()  # or the old generation would not see its end of file
            child.begin(self.pod, self._lifeline, self._own)
            status = self.serve(slot)
        except BaseException as error:
            status = self.failed(error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def serve(self, slot: int) -> int:
        """Be the child of that slot; returns its exit status."""
        try:
            child.drop_privileges(self.directives)
        except (OSError, KeyError, OverflowError) as error:
            text = f"cannot become User and Group: {error}"
            self.errors.write("alert", text, ah="AH02162", module="unixd")
            return child.CHILD_FATAL
        if self.directives.threaded:
            size = self.directives.ThreadStackSize
            try:
                stack_size(size)
            except (ValueError, OverflowError):
                text = f"ThreadStackSize {size} is impossible: the system's own is used"
                self.note("stack", text, "warn")
        return self.child_class(self, slot).child_main()

    def failed(self, error: BaseException) -> int:
        """Write to the error log what ends this child; returns its exit status: sick for lack of descriptors,
        memory or threads. Any other error is like a crash: the child is replaced, however young it was."""
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else child.CHILD_FAILED
        self.errors.exception(f"child process {os.getpid()} failed", level="alert", module="core")
        lacking = isinstance(error, MemoryError) or getattr(error, "errno", 0) in child.LACKING
        # "can't start new thread" is all that Python says when the system refuses one.
        sick = lacking or "start new thread" in str(error)
        return child.CHILD_SICK if sick else child.CHILD_FAILED

    def maintain(self) -> None:
        """A second has passed: start the children still owed, or else one pass of idle maintenance."""
        self._deaths_in_series = 0
        died = self.reap()  # the slots of children that died during this second are free
        if self.to_start:
            self.start(self.to_start)
            self.to_start = 0
            return
        d = self.directives
        seen = maintenance.look(self.board.rows(maintenance.MAX_SPAWN_RATE), d, self.memory)
        # httpd learns of these deaths one pass later: for event, which waits for those that leave.
        seen = replace(seen, total=seen.total + died)
        if seen.idle:
            self._wake_for_waiting_connections()
        plan = maintenance.plan(seen, d, self.memory)
        self.memory = plan.memory
        for note in plan.notes:
            self.errors.note(note, f"mpm_{d.mpm}")
        if plan.shutdown:
            self.fatal = 1
        for slot in plan.spawn:
            self.make_child(slot)
        if plan.retire:
            self.pod.retire_one()

    def _wake_for_waiting_connections(self) -> None:
        """The kernel wakes one child for each connection. If that is killed before it accepts, the connection
        would wait for the next: so make one, at once after a child was killed, else at the second look."""
        waiting = {sock for sock in self.listeners if has_pending_connection(sock)}
        for sock in waiting if self._killed else waiting & self._waited:
            dummy_connection(sock)
        self._waited = waiting
        self._killed &= bool(waiting)  # look again in a second

    def reap(self) -> int:
        """Collect all dead children; worker and event replace at once those that crashed. Returns a count."""
        count = 0
        while self.alive:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._handle_exit(pid, status)
            count += 1
        return count

    def _handle_exit(self, pid: int, status: int) -> None:
        """Clear the slot of a dead child, and draw conclusions."""
        if pid not in self.alive:
            if not program_ended(pid, self.errors):
                self.note("unknown", f"child process {pid} was not in the scoreboard", "warn")
            return
        slot = self.alive.pop(pid)
        current = began = False
        if slot is not None:
            current = self.board.generation_of(slot) == self.board.generation
            began = self.board.began(slot)
            self.board.died(slot)
        code = os.waitstatus_to_exitcode(status)
        crashed = code < 0 or code == child.CHILD_FAILED
        self._killed |= crashed
        if code == child.CHILD_SICK:
            self.memory = self.memory.with_sick_child()
        elif code == child.CHILD_FATAL and current and not began:  # no script has ended it
            text = f"child process {pid} cannot serve with this configuration; the server stops"
            self.errors.write("alert", text, ah="AH00050")
            self.fatal = 1
        elif code < 0 and -code not in EXPECTED_SIGNALS:
            # Of most real-time signals `signal.Signals` knows no name.
            name = next((one.name for one in signal.Signals if one == -code), "SIGRT")
            text = f"child process {pid} was ended by signal {name} ({-code})"
            self.errors.write("notice", text, ah="AH00052")
        if not self.replacing:
            return
        if not current and self.to_start and slot is not None:
            # After a graceful restart: a child of the old generation makes room for a new one.
            self.to_start -= self.start(1)
        elif crashed and current and self.directives.threaded:
            # Worker and event replace a crashed child at once, unless they die one after the other.
            self._deaths_in_series += 1
            if self._deaths_in_series < 3:
                self.start(1)
            elif self._deaths_in_series % 10 == 3:
                self.note("series", "children are dying one after the other", "warn")

    def reclaim(self) -> None:
        """End all children, by SIGTERM at first (RECLAIM), and wait until they are gone."""
        self.replacing = False
        pause, began = 0.001, time.monotonic()
        for number, seconds, until in RECLAIM:
            for pid in self.alive:
                if seconds:
                    text = f"child process {pid} still did not exit, sending a {number.name}"
                    level, ah = ("error", 46) if number == signal.SIGKILL else ("warn", 45)
                    self.errors.write(level, text, ah=f"AH000{ah}")
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(pid, number)
            waits = True
            while self.alive and waits:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
                waits = time.monotonic() - began < until  # asked before the look, which may be late
                self.reap()
        for pid in self.alive:
            text = f"could not make child process {pid} exit"
            self.errors.write("error", text, ah="AH00047")
        self.replacing = True
