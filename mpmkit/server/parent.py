"""The control process: it owns the listening sockets and the scoreboard, and serves no client.

    start ──> one second ──> reap ──> look at the scoreboard ──> plan ──> fork, or pipe of death
                  ^                                                             │
                  └─────────────────────────────────────────────────────────────┘
    TERM, INT   stop             children killed, exit
    WINCH       graceful stop    listeners closed, children finish (GracefulShutdownTimeout), exit
    HUP         restart          children killed, configuration read again, a new generation
    USR1        graceful         configuration read again, a new generation; the old one finishes

The loop wakes once a second, as Apache's does. The children belong to the pool (pool.py). This file owns what
outlives them: the PidFile, the signals, the configuration that is read again at a restart, and the
generations. Signals are blocked, and wait for `sigtimedwait`: there is no handler.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mpmkit._version import __version__
from mpmkit.http.target import OwnName
from mpmkit.policy.states import DEAD, GRACEFUL, LETTERS
from mpmkit.server import home, listen
from mpmkit.server.child import OK, Child, PipeOfDeath, end_with
from mpmkit.server.core import Service
from mpmkit.server.immortal import make_immortal, used_by_children
from mpmkit.server.logs import start_programs
from mpmkit.server.pool import Pool
from mpmkit.server.prewarm import fill_gaps, rehearsed

ENDING = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH)
NOT_DEAD = tuple(range(DEAD + 1, len(LETTERS)))


class Parent(Pool):
    """One server.

    configure     reads the configuration again, at restarts
    ready         is called with the URL once clients can connect
    lifeline      a descriptor whose end of file ends the server (its launcher is gone)
    own           descriptors that the first children must not keep; `ready` closes them"""

    def __init__(
        self, child_class: type[Child], service: Service, configure: Callable[[], Service],
        listeners: Sequence[listen.Listener], *, ready: Callable[[str], None] = lambda url: None,
        lifeline: int | None = None, command_line: str = "", own: Sequence[int] = (),
    ) -> None:  # fmt: skip
        parents = [*own] if lifeline is None else [*own, lifeline]
        super().__init__(child_class, service, listeners, parents)
        self.configure, self._ready, self._closed_by_ready = configure, ready, own
        self._ends_with, self._command_line = lifeline, command_line
        self._pid_file: str | None = None  # the one that holds our number
        self._name_vhosts()

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal says otherwise; returns the exit status."""
        self.write_pid_file()
        start_programs(self.errors)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if self._ends_with is not None:
            self._own.append(end_with(self._ends_with))
        if os.geteuid() == 0 and self.directives.User:  # who may not reach Python's library
            import calendar  # noqa: F401
            import traceback  # noqa: F401
        if self.directives.ImmortalObjects:
            self.errors.write("info", make_immortal(used_by_children(self, rehearsed)))
        fill_gaps()
        self.start(self.directives.StartServers)
        try:
            if not self.alive:
                why = "no child process could be started: see the limits of this user and machine"
                self.errors.write("alert", f"{why} (ulimit -u, pids.max)")
                return 1
            self._note_running()
            self._ready(listen.url_of(self.listeners[0]))
            self._own[:] = [fd for fd in self._own if fd not in self._closed_by_ready]
            while True:
                self.reap()
                if self.fatal is not None:
                    return self.stop()
                match self._next_signal():
                    case None:
                        self.maintain()
                    case signal.SIGTERM | signal.SIGINT:
                        return self.stop()
                    case signal.SIGWINCH:
                        return self.graceful_stop()
                    case signal.SIGHUP:
                        self.restart()
                    case signal.SIGUSR1:
                        self.graceful()
        finally:
            self._remove_pid_file()
            if self.board.path is not None:
                with suppress(OSError):
                    os.unlink(self.board.path)

    def write_pid_file(self) -> None:
        """For `-k`. Twice does nothing. Raises PidFileError."""
        path = self.directives.PidFile
        if path == self._pid_file or path is None:
            return
        if (stale := home.write_pid(path)) is not None:
            text = f"{path} named process {stale}, which is no longer a server; taken over"
            self.errors.write("warn", text, ah="AH00098")
        self._remove_pid_file()
        self._pid_file = path

    def _remove_pid_file(self) -> None:
        if self._pid_file is not None and home.remove_pid(self._pid_file):
            text = f"removed {self._pid_file} (process {os.getpid()})"
            self.errors.write("info", text, ah="AH00096")
        self._pid_file = None

    def _next_signal(self, wait: float = 1.0) -> int | None:
        """The next signal; None when `wait` seconds passed without one."""
        found = signal.sigtimedwait(SIGNALS, wait)
        return found.si_signo if found else None

    # -- stop and restart ---------------------------------------------------------------------

    def stop(self) -> int:
        """TERM: cut every connection."""
        listen.close_all(self.listeners)
        self.reclaim()
        if not self.fatal:
            self.note("stop", "caught SIGTERM, shutting down")
        return self.fatal or OK

    def graceful_stop(self) -> int:
        """WINCH: refuse new connections, finish those there are, for GracefulShutdownTimeout."""
        self.note("graceful-stop", "caught SIGWINCH, shutting down gracefully")
        self.replacing = False
        self.board.generation += 1  # prefork's busy children see it after the request they are in
        self.pod.close()
        # Busy children hold the sockets, too, and a client would wait forever: refuse for all.
        listen.refuse_all(self.listeners)
        listen.close_all(self.listeners)
        self._remove_pid_file()  # at once: another server may start here while we finish
        timeout = self.directives.GracefulShutdownTimeout
        until = time.monotonic() + timeout if timeout else float("inf")
        while self.alive and time.monotonic() < until:
            if self._next_signal(0.1) in ENDING:
                break
            self.reap()
        self.reclaim()
        return OK

    def restart(self) -> None:
        """HUP: end this generation at once, read the configuration again, begin another."""
        if (pod := self._reconfigure()) is None:
            return
        self.reclaim()
        self.pod.close()
        self.note("restart", "caught SIGHUP, restarting")
        self.board.generation += 1
        self.board.restart()
        self._next_generation(pod)
        self.start(self.directives.StartServers)
        self._note_running()

    def graceful(self) -> None:
        """USR1: begin another generation with the configuration read again; let the old one finish."""
        if (pod := self._reconfigure()) is None:
            return
        self.note("graceful", "caught SIGUSR1, doing a graceful restart")
        self.board.generation += 1
        for row in () if self.directives.threaded else self.board.rows(0).processes:
            self.board.set_states(row.slot, GRACEFUL, 1, only=NOT_DEAD)
        self.old_pod = old = self.pod
        self._next_generation(pod)
        # New children first, where slots are free, so that one always accepts.
        count = self.directives.StartServers
        self.to_start = count - self.start(count)
        old.close()
        self.old_pod = None
        self.memory = self.memory.after_graceful_restart()
        self._note_running()

    def _reconfigure(self) -> PipeOfDeath | None:
        """Read the configuration again; returns the next generation's pipe. None: it is bad, this one stays."""
        service = pod = None
        try:
            service = self.configure()
            pod = PipeOfDeath()  # while there is a way back: there may be no descriptors left
            listeners = listen.open_listeners(service.directives, self.listeners)
        except Exception as error:  # whatever a file holds, the server goes on
            ah = getattr(error, "ah", "AH00526")
            why = f"the new configuration is not used: {str(error) or type(error).__name__}"
            self.errors.write_lines("error", why, ah=ah)
            if service is not None:
                service.logs.close()
            if pod is not None:
                pod.close()
            return None
        old = self.service
        listen.close_all([sock for sock in self.listeners if sock not in listeners])
        self.listeners = listeners
        self.service = service
        start_programs(self.errors)
        old.logs.close()
        try:
            self.write_pid_file()
        except home.PidFileError as error:
            self.errors.write("error", f"{error}; the old one stays", ah="AH00099")
        for note in service.notes:
            self.errors.note(note, f"mpm_{service.directives.mpm}")
        return pod

    def _next_generation(self, pod: PipeOfDeath) -> None:
        gc.unfreeze()
        gc.collect()  # the old configuration: frozen before its children's fork, it would stay for good
        self.pod = pod
        self.board.config_generation += 1
        self.board.set_limits(self.directives)
        self._name_vhosts()

    def _name_vhosts(self) -> None:
        """The server as the status page names it: ServerName's name, or else its address, and its port."""
        here = OwnName.of(listen.url_of(self.listeners[0]))
        self.board.vhost = f"{OwnName.of(self.directives.ServerName).host or here.host}:{here.port}"

    def _note_running(self) -> None:
        """At the start and after each restart."""
        self.note("running", f"mpmkit/{__version__} configured -- resuming normal operations")
        self.note("built", f"Python {sys.version.split()[0]} ({sys.platform})", "info")
        if self._command_line:
            self.errors.write("notice", f"Command line: '{self._command_line}'", ah="AH00094")
