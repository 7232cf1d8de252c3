"""The control process: it owns the listening sockets and the scoreboard, and serves no client.

    start ──> one second ──> reap ──> look at the scoreboard ──> plan ──> fork, or pipe of death
                  ^                                                             │
                  └─────────────────────────────────────────────────────────────┘
    TERM, INT   stop             children killed, exit
    WINCH       graceful stop    listeners closed, children finish (GracefulShutdownTimeout), exit
    HUP         restart          children killed, configuration read again, a new generation
    USR1        graceful         configuration read again, a new generation; the old one finishes

The loop wakes once a second, as Apache's does: deaths, forks and retirements happen at these times.
The children belong to the pool (pool.py). This file owns what outlives them: the PidFile, the signals,
the configuration that is read again at a restart, and the generations. Signals are numbers in a pipe
(`signal.set_wakeup_fd`): a handler does nothing.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mpmkit._version import __version__
from mpmkit.http.target import split_host
from mpmkit.policy import maintenance
from mpmkit.policy.states import DEAD, GRACEFUL, LETTERS
from mpmkit.server import listen, pidfile
from mpmkit.server.child import OK, Child, Setup
from mpmkit.server.immortal import make_immortal
from mpmkit.server.logs import close_logs
from mpmkit.server.pod import PipeOfDeath
from mpmkit.server.pool import Pool
from mpmkit.server.prewarm import fill_gaps
from mpmkit.server.process import preload_modules
from mpmkit.server.scoreboard import Scoreboard

ENDING = (signal.SIGTERM, signal.SIGINT)
NOT_DEAD = tuple(range(DEAD + 1, len(LETTERS)))


class Parent:
    """One server.

    configure     reads the configuration again, at restarts
    ready         is called with the URL once clients can connect
    lifeline      a descriptor whose end of file ends the server (its launcher is gone)
    own           descriptors that the first children must not keep; `ready` closes them
    """

    def __init__(
        self, child_class: type[Child], setup: Setup, configure: Callable[[], Setup],
        listeners: Sequence[listen.Listener], *, ready: Callable[[str], None] = lambda url: None,
        lifeline: int | None = None, command_line: str = "", own: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.configure, self._ready, self._closed_by_ready = configure, ready, own
        self._lifeline, self._command_line = lifeline, command_line
        self._pid_file: str | None = None  # the one that holds our number
        self._signals: list[int] = []
        wakeup = self._wakeup_read, self._wakeup_write = os.pipe()
        self._own = [*wakeup, *own, *(() if lifeline is None else (lifeline,))]
        self.board = Scoreboard(setup.directives, setup.directives.ScoreBoardFile)
        self.pool = Pool(child_class, setup, listeners, self.board, self._own)
        self._name_vhosts()

    @property
    def setup(self) -> Setup:
        return self.pool.setup

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal says otherwise; returns the exit status."""
        self.write_pid_file()
        self.pool.start_programs()
        self._watch_signals()
        preload_modules(self.setup.directives)
        if self.setup.directives.ImmortalObjects:
            self.pool.errors.write("info", make_immortal(self))
        fill_gaps()
        self.pool.start(self.setup.directives.StartServers)
        try:
            if not self.pool.alive:
                why = "no child process could be started: see the limits of this user and machine"
                self.pool.errors.write("alert", f"{why} (ulimit -u, pids.max)")
                return 1
            self._note_running()
            self._ready(listen.url_of(self.pool.listeners[0]))
            self._own[:] = [fd for fd in self._own if fd not in self._closed_by_ready]
            while True:
                self.pool.reap()
                if self.pool.fatal is not None:
                    return self.stop()
                match self._next_signal():
                    case None:
                        self.pool.maintain()
                    case signal.SIGTERM | signal.SIGINT:
                        return self.stop()
                    case signal.SIGWINCH:
                        return self.graceful_stop()
                    case signal.SIGHUP:
                        self.restart()
                    case signal.SIGUSR1:
                        self.graceful()
        finally:
            self._clean_up()

    def write_pid_file(self) -> None:
        """For `-k`. Twice does nothing. Raises PidFileError."""
        path = self.setup.directives.PidFile
        if path == self._pid_file or path is None:
            return
        if (stale := pidfile.write(path)) is not None:
            text = f"{path} named process {stale}, which is no longer a server; taken over"
            self.pool.errors.write("warn", text, ah="AH00098")
        self._remove_pid_file()
        self._pid_file = path

    def _remove_pid_file(self) -> None:
        if self._pid_file is not None and pidfile.remove(self._pid_file):
            text = f"removed {self._pid_file} (process {os.getpid()})"
            self.pool.errors.write("info", text, ah="AH00096")
        self._pid_file = None

    # -- signals ------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        os.set_blocking(self._wakeup_write, False)
        os.set_blocking(self._wakeup_read, False)
        for number in (*ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
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

    # -- stop and restart ---------------------------------------------------------------------

    def stop(self) -> int:
        """TERM: cut every connection."""
        listen.close_all(self.pool.listeners)
        self.pool.reclaim()
        if not self.pool.fatal:
            self.pool.note("stop", "caught SIGTERM, shutting down")
        return self.pool.fatal or OK

    def graceful_stop(self) -> int:
        """WINCH: refuse new connections, finish those there are, for GracefulShutdownTimeout."""
        pool = self.pool
        pool.note("graceful-stop", "caught SIGWINCH, shutting down gracefully")
        pool.replacing = False
        self.board.generation += 1  # prefork's busy children see it after the request they are in
        pool.pod.close()
        # Busy children hold the sockets, too, and a client would wait forever: refuse for all.
        listen.refuse_all(pool.listeners)
        listen.close_all(pool.listeners)
        self._remove_pid_file()  # at once: another server may start here while we finish
        timeout = self.setup.directives.GracefulShutdownTimeout
        until = time.monotonic() + timeout if timeout else float("inf")
        while pool.alive and time.monotonic() < until:
            if self._next_signal(0.1) in ENDING:
                break
            pool.reap()
        pool.reclaim()
        return OK

    def restart(self) -> None:
        """HUP: end this generation at once, read the configuration again, begin another."""
        if (pod := self._reconfigure()) is None:
            return
        self.pool.reclaim()
        self.pool.note("restart", "caught SIGHUP, restarting")
        self.board.generation += 1
        self.board.restart()
        self._next_generation(pod)
        self.pool.start(self.setup.directives.StartServers)
        self._note_running()

    def graceful(self) -> None:
        """USR1: begin another generation with the configuration read again; let the old one finish."""
        if (pod := self._reconfigure()) is None:
            return
        pool = self.pool
        pool.note("graceful", "caught SIGUSR1, doing a graceful restart")
        self.board.generation += 1
        for slot in () if self.setup.directives.threaded else pool.slots:
            self.board.set_states(slot, GRACEFUL, 1, only=NOT_DEAD)
        pool.old_pod = old = pool.pod
        self._next_generation(pod)
        # New children first, where slots are free, so that one always accepts.
        count = self.setup.directives.StartServers
        pool.to_start = count - pool.start(count)
        old.close()
        pool.old_pod = None
        pool.memory = maintenance.after_graceful_restart(pool.memory)
        self._note_running()

    def _reconfigure(self) -> PipeOfDeath | None:
        """Read the configuration again; returns the next generation's pipe. None: it is bad, which is said,
        and the present one stays (httpd's parent exits then, unless apachectl looked first)."""
        pool = self.pool
        setup = pod = None
        try:
            setup = self.configure()
            pod = PipeOfDeath()  # while there is a way back: there may be no descriptors left
            listeners = listen.open_listeners(setup.directives, pool.listeners)
        except Exception as error:  # whatever a file holds, the server goes on
            ah = getattr(error, "ah", "AH00526")
            why = f"the new configuration is not used: {str(error) or type(error).__name__}"
            self.pool.errors.write_lines("error", why, ah=ah)
            if setup is not None:
                close_logs(setup.service.errors, setup.service.access)
            if pod is not None:
                pod.close()
            return None
        old = pool.setup.service
        listen.close_all([sock for sock in pool.listeners if sock not in listeners])
        pool.listeners = listeners
        pool.setup = setup
        pool.start_programs()
        close_logs(old.errors, old.access)
        try:
            self.write_pid_file()
        except pidfile.PidFileError as error:
            self.pool.errors.write("error", f"{error}; the old one stays", ah="AH00099")
        for note in setup.notes:
            self.pool.errors.note(note, f"mpm_{setup.directives.mpm}")
        return pod

    def _next_generation(self, pod: PipeOfDeath) -> None:
        gc.unfreeze()
        gc.collect()  # the old configuration: frozen before its children's fork, it would stay for good
        self.pool.pod = pod
        self.board.config_generation += 1
        self.board.set_limits(self.setup.directives)
        self._name_vhosts()

    def _name_vhosts(self) -> None:
        """The server as the status page names it: ServerName's name, or else its address, and its port."""
        address, port = split_host(listen.url_of(self.pool.listeners[0]).partition("://")[2])
        name = self.setup.directives.ServerName.rpartition("://")[2]
        self.board.vhost = f"{split_host(name)[0] or address}:{port}"
        hosts = self.setup.service.hosts
        self.board.make_slot = hosts.slot if hosts is not None else None

    def _note_running(self) -> None:
        """At the start and after each restart."""
        self.pool.note("running", f"mpmkit/{__version__} configured -- resuming normal operations")
        self.pool.note("built", f"Python {sys.version.split()[0]} ({sys.platform})", "info")
        if self._command_line:
            self.pool.errors.write("notice", f"Command line: '{self._command_line}'", ah="AH00094")

    def _clean_up(self) -> None:
        self._remove_pid_file()
        signal.set_wakeup_fd(-1)
        for number in ENDING:  # a second Ctrl-C meets the default that Python's end restores
            signal.signal(number, signal.SIG_IGN)
        if self.board.path is not None:
            with suppress(OSError):
                os.unlink(self.board.path)
