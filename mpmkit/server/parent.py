"""The control process: it owns the listening sockets and the scoreboard, and serves nobody.

    start ──> one second ──> reap ──> look at the scoreboard ──> plan ──> fork, or pipe of death
                  ^                                                             │
                  └─────────────────────────────────────────────────────────────┘
    TERM, INT   stop             children killed, exit
    WINCH       graceful stop    listeners closed, children finish (GracefulShutdownTimeout), exit
    HUP         restart          children killed, configuration read again, a new generation
    USR1        graceful         configuration read again, a new generation; the old one finishes

The loop wakes once a second, as Apache's does: deaths, spawns and retirements happen on that grid.
What to do is decided by `maintenance.plan`, a pure function; this file only does it.

Signals are numbers in a pipe (`signal.set_wakeup_fd`): nothing is done inside a handler, and the
main loop is one `match`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from mpmkit._version import __version__
from mpmkit.config.directives import MPMS, DirectiveError, Directives, Note
from mpmkit.policy import maintenance
from mpmkit.policy.states import DEAD, GRACEFUL, LETTERS, STARTING
from mpmkit.server import pidfile
from mpmkit.server.core import Service
from mpmkit.server.listen import (
    Listener,
    ListenError,
    close_all,
    configure,
    dummy_connection,
    has_pending_connection,
    open_listeners,
    refuse_all,
    url_of,
)
from mpmkit.server.logs import ErrorLog, LogError
from mpmkit.server.pod import Lifeline, PipeOfDeath
from mpmkit.server.scoreboard import Scoreboard

if TYPE_CHECKING:
    from mpmkit.server.prewarm import Stage

# Exit statuses of a child (mpm_common.h).
OK = 0
CHILD_FAILED = 1  # an error of its own, as unforeseen as a crash
CHILD_SICK = 7  # no descriptors or memory left: come back later, start slowly
CHILD_FATAL = 15  # no child of this configuration can work

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

# What is done to children that do not exit: (seconds since they were told, signal, note).
RECLAIM = (
    (0.0, signal.SIGTERM, None),
    (
        3.0,
        signal.SIGTERM,
        ("AH00045", "warn", "child process {pid} still did not exit, sending a SIGTERM"),
    ),
    (
        5.0,
        signal.SIGTERM,
        ("AH00045", "warn", "child process {pid} still did not exit, sending a SIGTERM"),
    ),
    (
        7.0,
        signal.SIGTERM,
        ("AH00045", "warn", "child process {pid} still did not exit, sending a SIGTERM"),
    ),
    (
        9.0,
        signal.SIGKILL,
        ("AH00046", "error", "child process {pid} still did not exit, sending a SIGKILL"),
    ),
)
RECLAIM_GIVE_UP = 10.0

# What the system says when it has no more to give; "can't start new thread" is Python's word for it.
LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}

ALL_SIGNALS = tuple(map(int, signal.valid_signals()))

NOT_DEAD = tuple(range(DEAD + 1, len(LETTERS)))

# Deaths by these are somebody's wish, not a crash.
WISHED = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL}


@dataclass(frozen=True)
class Setup:
    """One reading of the configuration, ready to serve."""

    directives: Directives
    service: Service
    notes: tuple[Note, ...] = ()


class Child:
    """What a child process is given. Each MPM derives its own and defines `child_main`."""

    def __init__(self, parent: Parent | Stage, slot: int) -> None:
        self.slot = slot
        self.generation = parent.board.generation
        self.directives = parent.setup.directives
        self.service = parent.setup.service
        self.listeners = parent.listeners
        self.pod = parent.pod
        self.board = parent.board
        self.process = parent.board.process(slot)

    def child_main(self) -> int:
        """Serve until told to leave; returns the exit status."""
        raise NotImplementedError

    def stay_on_one_cpu(self) -> None:
        """Give this process one of the CPUs that the server may use, by its slot.

        For children with threads: Python's threads hold the interpreter's lock in turns, so a process
        uses one CPU at a time. On two, a thread that comes back from a system call finds another one
        running and waits for a signal from the other CPU, at every call; on one, it goes on.
        """
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) > 1:
            os.sched_setaffinity(0, {cpus[self.slot % len(cpus)]})

    def outdated(self) -> bool:
        """A restart has made this child's generation an old one."""
        return self.board.generation != self.generation


class Parent:
    """`configure()` reads the configuration again, at restarts.

    inherited: the listening sockets are somebody else's, and Listen does not apply.
    ready is called with the URL once clients can connect. lifeline is a descriptor whose end of
    file ends the server (whoever launched it is gone), or None. command_line is told in the log.
    httpd_restarts: a HUP or USR1 with a bad configuration ends the server, as it does httpd.
    """

    def __init__(
        self,
        child_class: type[Child],
        setup: Setup,
        configure: Callable[[], Setup],
        listeners: Sequence[Listener],
        *,
        inherited: bool = False,
        ready: Callable[[str], None] = lambda url: None,
        lifeline: int | None = None,
        command_line: str = "",
        httpd_restarts: bool = False,
    ) -> None:
        self.child_class = child_class
        self.setup = setup
        self.configure = configure
        self.listeners = list(listeners)
        self._inherited = inherited
        self.board = Scoreboard(setup.directives, setup.directives.ScoreBoardFile)
        self.board.vhost = self._vhost()
        self.pod = PipeOfDeath()
        self._old_pod: PipeOfDeath | None = None  # while the old generation has not been told yet
        self.memory = maintenance.Memory()
        self._ready = ready
        self._lifeline = lifeline
        self._command_line = command_line
        self._httpd_restarts = httpd_restarts
        self._pid_file: str | None = None  # the one that holds our number
        self._children_line = Lifeline()
        self._slots: dict[int, int] = {}  # pid -> slot
        self._extra: set[int] = set()  # children whose row a newer one took over (worker)
        self._to_start = 0  # children still owed after a graceful restart or a crash
        self._deaths_in_series = 0
        self._killed = False  # a child was, and somebody may wait for it
        self._fatal: int | None = None  # the exit status, once it is clear that no child can serve
        self._replacing = True  # False while children are meant to end
        self._signals: list[int] = []
        self._wakeup_read, self._wakeup_write = os.pipe()

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal says otherwise; returns the exit status."""
        self.write_pid_file()
        self._watch_signals()
        _import_what_comes_late(self.setup.directives)
        self._startup_children(self.setup.directives.StartServers)
        self._note_running()
        self._ready(url_of(self.listeners[0]))
        status: int | None = None
        try:
            while status is None:
                self._reap()
                if self._fatal is not None:
                    return self.stop()
                match self._next_signal():
                    case None:
                        self._one_second()
                    case signal.SIGTERM | signal.SIGINT:
                        status = self.stop()
                    case signal.SIGWINCH:
                        status = self.graceful_stop()
                    case signal.SIGHUP:
                        status = self.restart()
                    case signal.SIGUSR1:
                        status = self.graceful()
            return status
        finally:
            self._clean_up()

    def run_alone(self) -> int:
        """httpd -X, for a debugger: this process is its own only child. There is no second one, no
        maintenance and no restart; the first signal ends it, wherever it is.

        Under worker and event it has its threads, and the signal reaches the main one.
        """

        def leave(number: int, frame: object) -> NoReturn:
            # Not SystemExit: it would end the request that it meets, and not the process.
            self._flush_and_clean_up()
            os._exit(OK)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, leave)
        self.write_pid_file()
        self.board.set_states(0, STARTING, self.setup.directives.threads_per_child, only=(DEAD,))
        self.board.born(0, os.getpid(), self.board.generation)
        try:
            self._note_running()
            self._ready(url_of(self.listeners[0]))
            _become(self.setup.directives)
            if self.setup.directives.threaded:
                import threading

                self._thread_stacks(threading.stack_size)
            return self.child_class(self, 0).child_main()
        finally:
            self._flush_and_clean_up()

    def _flush_and_clean_up(self) -> None:
        if self.setup.service.access is not None:
            self.setup.service.access.flush()
        self._clean_up()

    def write_pid_file(self) -> None:
        """Say where we are, for `-k`. Twice does nothing. Raises PidFileError."""
        path = self.setup.directives.PidFile
        if path == self._pid_file or path is None:
            return
        stale = pidfile.write(path)
        if stale is not None:
            self.errors.write(
                "warn",
                f"{path} named process {stale}, which is no server any more: it is ours now",
                ah="AH00098",
            )
        self._remove_pid_file()
        self._pid_file = path

    def _remove_pid_file(self) -> None:
        if self._pid_file is not None and pidfile.remove(self._pid_file):
            self.errors.write(
                "info", f"removed {self._pid_file} (process {os.getpid()})", ah="AH00096"
            )
        self._pid_file = None

    def _one_second(self) -> None:
        """A second has passed: start the children still owed; if there are none, one pass of idle
        maintenance."""
        self._deaths_in_series = 0
        self._reap()  # the slots of children that died during this second are free
        if self._to_start:
            self._startup_children(self._to_start)
            self._to_start = 0
            return
        d = self.setup.directives
        seen = maintenance.look(self.board.snapshot(), d, self.memory)
        if self._killed and seen.idle:
            self._wake_for_those_who_wait()
        plan = maintenance.plan(seen, d, self.memory)
        self.memory = plan.memory
        for note in plan.notes:
            self.errors.note(note, self._module)
        if plan.shutdown:
            self._fatal = 1
        for slot in plan.spawn:
            self._make_child(slot)
        if plan.retire:
            self.pod.retire_one()

    def _wake_for_those_who_wait(self) -> None:
        """The kernel wakes one child for each connection (EPOLLEXCLUSIVE). If that one is killed before it
        accepts, the connection would wait for the next to come. So let there be a next one."""
        waiting = [sock for sock in self.listeners if has_pending_connection(sock)]
        for sock in waiting:
            dummy_connection(sock)
        self._killed = bool(waiting)  # look again in a second

    @property
    def errors(self) -> ErrorLog:
        return self.setup.service.errors

    # -- signals ------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        os.set_blocking(self._wakeup_write, False)
        os.set_blocking(self._wakeup_read, False)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGWINCH,
        ):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._wakeup_read, select.POLLIN)
        if self._lifeline is not None:
            self._poll.register(self._lifeline, select.POLLIN)

    def _next_signal(self, wait: float = 1.0) -> int | None:
        """The next signal; None when `wait` seconds passed without one."""
        if not self._signals:
            for fd, _ in self._poll.poll(wait * 1000):
                if fd == self._wakeup_read:
                    self._signals.extend(os.read(fd, 64))
                elif not os.read(fd, 64):  # the launcher is gone
                    self._signals.append(signal.SIGTERM)
        return self._signals.pop(0) if self._signals else None

    # -- children -----------------------------------------------------------------------------

    def _startup_children(self, count: int) -> int:
        """Fork up to `count` children into the lowest free slots; returns how many there were."""
        started = 0
        for row in self.board.snapshot().processes[: self._slots_in_use()]:
            if started == count:
                break
            if not row.pid:
                self._make_child(row.slot)
                started += 1
        return started

    def _slots_in_use(self) -> int:
        """Event may use every slot of ServerLimit, the others only those for MaxRequestWorkers."""
        d = self.setup.directives
        return d.process_slots if d.mpm == "event" else d.process_limit

    def _make_child(self, slot: int) -> None:
        # The row may still be a finishing child's (worker): that pid is remembered without its row.
        for pid, its_slot in list(self._slots.items()):
            if its_slot == slot:
                del self._slots[pid]
                self._extra.add(pid)
        self.board.set_states(
            slot, STARTING, self.setup.directives.threads_per_child, only=(DEAD, GRACEFUL)
        )
        gc.freeze()  # what exists now is never collected: the children's pages stay shared
        # A signal for the new child waits until the child's own handlers stand: the mask is inherited.
        # By the C functions: what this writes between two forks, each child has a copy of.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            pid = os.fork()
        except OSError as error:
            self._note("fork", f"fork: {error.strerror}; no child for slot {slot}", "error")
            self.board.died(slot)
            return
        else:
            if pid == 0:
                self._child(slot)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        self.board.born(slot, pid, self.board.generation)
        self._slots[pid] = slot

    def _child(self, slot: int) -> None:
        """Runs in the child, and does not return."""
        status = CHILD_FATAL
        try:
            _child_signals()
            _let_finish()
            os.close(self._wakeup_read)
            os.close(self._wakeup_write)
            if self._lifeline is not None:
                os.close(self._lifeline)
            self.pod.only_read()
            if self._old_pod is not None:
                self._old_pod.close()  # or the old generation would not see its end of file
            self._children_line.hold()
            _become(self.setup.directives)
            if self.setup.directives.threaded:
                import threading

                threading.excepthook = self._thread_failed
                self._thread_stacks(threading.stack_size)
            status = self.child_class(self, slot).child_main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        except BaseException as error:
            status = self._failed(error)
        finally:
            if self.setup.service.access is not None:
                self.setup.service.access.flush()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _thread_stacks(self, set_size: Callable[[int], int]) -> None:
        """ThreadStackSize, for threads that are still to be started."""
        size = self.setup.directives.ThreadStackSize
        try:
            set_size(size)
        except ValueError:
            self._note(
                "stack", f"ThreadStackSize {size} cannot be: the system's own is used", "warn"
            )

    def _thread_failed(self, failure: Any) -> None:
        """In a child: an error in the server's own code ends the process, as a crash of httpd's would.
        A process that goes on without one of its threads would be worse."""
        os._exit(self._failed(failure.exc_value))

    def _failed(self, error: BaseException) -> int:
        """Write to the error log what ends this child; returns its exit status.

        Only a lack of descriptors, memory or threads makes a child sick. All else is like a crash:
        the parent replaces the child, however young it was.
        """
        self.errors.failure(f"child process {os.getpid()} failed", error)
        lacking = isinstance(error, MemoryError) or getattr(error, "errno", 0) in LACKING
        return CHILD_SICK if lacking or "start new thread" in str(error) else CHILD_FAILED

    def _reap(self) -> None:
        """Bury all dead children, and replace at once those that were killed (worker, event)."""
        while self._slots or self._extra:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._bury(pid, status)

    def _bury(self, pid: int, status: int) -> None:
        """Clear the slot of a dead child, and draw conclusions."""
        slot = self._slots.pop(pid, None)
        if slot is None and pid not in self._extra:
            self._note("unknown", f"child process {pid} was nobody's in the scoreboard", "warn")
        self._extra.discard(pid)
        current = (
            slot is not None
            and self.board.snapshot().processes[slot].generation == self.board.generation
        )
        if slot is not None:
            self.board.died(slot)
        code = os.waitstatus_to_exitcode(status)
        self._killed |= code < 0 or code == CHILD_FAILED
        if code == CHILD_SICK:
            self.memory = self.memory.with_sick_child()
        elif code == CHILD_FATAL and current:
            self.errors.write(
                "alert",
                f"child process {pid} cannot serve with this configuration; the server stops",
                ah="AH00050",
            )
            self._fatal = 1
        elif code < 0 and -code not in WISHED:
            name = signal.Signals(-code).name
            self.errors.write(
                "notice", f"child process {pid} was ended by signal {name} ({-code})", ah="AH00052"
            )
        if not self._replacing:
            return
        if not current and self._to_start and slot is not None:
            # After a graceful restart: a child of the old generation makes room for a new one.
            self._to_start -= self._startup_children(1)
        elif (code < 0 or code == CHILD_FAILED) and current and self.setup.directives.threaded:
            # Worker and event replace a killed child at once, unless they die one after the other.
            self._deaths_in_series += 1
            if self._deaths_in_series < 3:
                self._startup_children(1)
            elif self._deaths_in_series % 10 == 3:
                self._note("series", "children are dying one after the other", "warn")

    def _reclaim(self) -> None:
        """Kill all children, politely at first (RECLAIM), and wait until they are gone."""
        self._replacing = False
        began = time.monotonic()
        step = 0
        pause = 0.001
        while self._slots or self._extra:
            elapsed = time.monotonic() - began
            while step < len(RECLAIM) and elapsed >= RECLAIM[step][0]:
                _, number, note = RECLAIM[step]
                for pid in (*self._slots, *self._extra):
                    if note is not None:
                        ah, level, text = note
                        self.errors.write(level, text.format(pid=pid), ah=ah)
                    _kill(pid, number)
                step += 1
            if elapsed > RECLAIM_GIVE_UP:
                for pid in (*self._slots, *self._extra):
                    self.errors.write(
                        "error", f"could not make child process {pid} exit", ah="AH00047"
                    )
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
            self._reap()
        self._replacing = True

    # -- stop and restart ---------------------------------------------------------------------

    def stop(self) -> int:
        """TERM: cut every connection."""
        close_all(self.listeners)
        self._reclaim()
        self._note("stop", "caught SIGTERM, shutting down")
        return self._fatal or OK

    def graceful_stop(self) -> int:
        """WINCH: refuse new connections, finish those there are, for GracefulShutdownTimeout."""
        self._note("graceful-stop", "caught SIGWINCH, shutting down gracefully")
        self._replacing = False
        self.board.generation += 1  # prefork's busy children see it after the request they are in
        self.pod.retire_all()
        if not self._inherited:
            # Busy children hold the sockets, too, and a client would wait in vain: refuse for all.
            refuse_all(self.listeners)
        close_all(self.listeners)
        self._remove_pid_file()  # at once: another server may start here while we finish
        timeout = self.setup.directives.GracefulShutdownTimeout
        until = time.monotonic() + timeout if timeout else float("inf")
        while (self._slots or self._extra) and time.monotonic() < until:
            if self._next_signal(0.1) in (signal.SIGTERM, signal.SIGINT):
                break
            self._reap()
        self._reclaim()
        return OK

    def restart(self) -> int | None:
        """HUP: end this generation at once, read the configuration again, begin another.

        Returns an exit status if that is the end (see `httpd_restarts`), else None."""
        if self._reconfigure():
            self._reclaim()
            self._note("restart", "caught SIGHUP, restarting")
            self.board.generation += 1
            self.board.restart()
            self._next_generation()
            self._startup_children(self.setup.directives.StartServers)
            self._note_running()
        elif self._httpd_restarts:
            self._reclaim()
            return self._abandon()
        return None

    def graceful(self) -> int | None:
        """USR1: begin another generation with the configuration read again; let the old one finish.

        Returns an exit status if that is the end (see `httpd_restarts`), else None."""
        if self._reconfigure():
            self._note("graceful", "caught SIGUSR1, doing a graceful restart")
            self.board.generation += 1
            if not self.setup.directives.threaded:
                for slot in self._slots.values():
                    self.board.set_states(slot, GRACEFUL, 1, only=NOT_DEAD)
            self._old_pod = old = self.pod
            self._next_generation()
            # New children first, where slots are free, so that somebody always accepts.
            count = self.setup.directives.StartServers
            self._to_start = count - self._startup_children(count)
            old.retire_all()
            self._old_pod = None
            self.memory = maintenance.after_graceful_restart(self.memory)
            self._note_running()
        elif self._httpd_restarts:
            self._replacing = False
            self.board.generation += 1
            self.pod.retire_all()
            return self._abandon()
        return None

    def _abandon(self) -> int:
        """What httpd does after a raw HUP or USR1 with a bad configuration: the parent exits, nobody
        serves any more, and the PidFile stays behind."""
        self._pid_file = None
        return 1

    def _reconfigure(self) -> bool:
        """Read the configuration again. If it is bad, say so and go on with the one there is
        (httpd's parent exits then, unless apachectl looked first)."""
        try:
            setup = self.configure()
            listeners = self.listeners
            if not self._inherited:
                listeners = open_listeners(setup.directives, self.listeners)
            else:
                for sock in listeners:
                    configure(sock, setup.directives, "https" if setup.directives.tls else "http")
        except (DirectiveError, ListenError, LogError, OSError) as error:
            ah = getattr(error, "ah", "AH00526")
            self.errors.write("error", f"the new configuration is not used: {error}", ah=ah)
            return False
        old = self.setup.service
        close_all([sock for sock in self.listeners if sock not in listeners])
        self.listeners = listeners
        self.setup = setup
        if old.access is not None:
            old.access.close()
        if old.errors.fd not in (2, setup.service.errors.fd):
            os.close(old.errors.fd)
        try:
            self.write_pid_file()
        except pidfile.PidFileError as error:
            self.errors.write("error", f"{error}; the old one stays", ah="AH00099")
        for note in setup.notes:
            self.errors.note(note, self._module)
        return True

    def _next_generation(self) -> None:
        self.pod = PipeOfDeath()
        self.board.config_generation += 1
        self.board.set_limits(self.setup.directives)
        self.board.vhost = self._vhost()

    def _vhost(self) -> str:
        """The server as the status page names it, `name:port`: ServerName, or else its address."""
        address, _, port = url_of(self.listeners[0]).removeprefix("http://").rpartition(":")
        name = self.setup.directives.ServerName or address
        return name if name.rpartition(":")[2].isdecimal() else f"{name}:{port}"

    @property
    def _module(self) -> str:
        return f"mpm_{self.setup.directives.mpm}"

    def _note(self, what: str, text: str, level: str = "notice") -> None:
        ah = AH[what][MPMS.index(self.setup.directives.mpm)]
        self.errors.write(level, text, ah=ah, module=self._module)

    def _note_running(self) -> None:
        """At the start and after each restart."""
        self._note("running", f"mpmkit/{__version__} configured -- resuming normal operations")
        self._note("built", f"Python {sys.version.split()[0]} ({sys.platform})", "info")
        if self._command_line:
            self.errors.write("notice", f"Command line: '{self._command_line}'", ah="AH00094")

    def _clean_up(self) -> None:
        self._remove_pid_file()
        signal.set_wakeup_fd(-1)
        if self.board.path is not None:
            try:
                os.unlink(self.board.path)
            except OSError:
                pass


def _child_signals() -> None:
    """TERM ends a child at once, in the middle of a request if need be (as httpd's children): by the
    kernel, since a Python handler would wait until a script's C code returns. The others are the
    parent's business.

    The functions are those of the C module: `signal`'s own make an enum of each number, and the
    pages that this writes to would be 0.3 MB more of each child's own memory.
    """
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGWINCH):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ALL_SIGNALS)


def _let_finish() -> None:
    """Run under SCHED_BATCH (sched(7)): a thread that wakes up waits until the running one sleeps.

    By default the kernel lets a woken thread interrupt the one that woke it. Under Python the woken
    one can't go on: it wants the interpreter's lock, which the other is about to take again. With 25
    threads that made 7 switches of each request, now there is one in four requests.

    Only in place of the default: SCHED_IDLE or SCHED_FIFO is what somebody wanted (chrt(1)).
    """
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass  # forbidden here: it only costs speed


def _import_what_comes_late(directives: Directives) -> None:
    """Import what a child would import only when it needs it: once it is somebody else (User), Python's
    library may be out of its reach, in root's home for instance."""
    if os.geteuid() == 0 and directives.User is not None:
        import calendar  # noqa: F401
        import traceback  # noqa: F401


def _become(directives: Directives) -> None:
    """User and Group: only root can become somebody else; for others they have no effect (as in httpd).

    First the groups, then the user: afterwards it would be too late.
    """
    if os.geteuid() != 0 or (directives.User is None and directives.Group is None):
        return
    import grp
    import pwd

    user, group = directives.User or "#0", directives.Group
    uid = int(user[1:]) if user.startswith("#") else pwd.getpwnam(user).pw_uid
    if group is None:
        gid = pwd.getpwuid(uid).pw_gid
    else:
        gid = int(group[1:]) if group.startswith("#") else grp.getgrnam(group).gr_gid
    os.setgid(gid)
    if user.startswith("#"):
        os.setgroups([gid])
    else:
        os.initgroups(user, gid)
    os.setuid(uid)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
