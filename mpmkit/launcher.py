"""Launch a server from Python: `with mpmkit.launch("event", ThreadsPerChild=25) as server: …`.

The server is a separate process (`python -m mpmkit serve`), never a fork of this one, which may be a
notebook's kernel. It holds the reading end of a pipe whose writing end is here. However this process
ends, even by SIGKILL, the server sees the end of the pipe, stops and removes its files.
"""

import atexit
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from mpmkit.config.directives import MPMS, DirectiveError
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.config.keywords import from_keywords
from mpmkit.policy.states import DEAD, LETTERS, Counts, Snapshot
from mpmkit.server import home as folder
from mpmkit.server.scoreboard import Scoreboard, WorkerRow

FileName = str | os.PathLike[str]
READY_WITHIN = 10.0  # seconds for a server to begin; importing Python takes most of it
LOGS = ("error.log", "access.log", "trace.log")
STOPPED_WITHIN = 15.0  # seconds for it to end: longer than the parent gives its children

# In the kernel's words, and in Apache's.
SIGNALS = {"TERM": "stop", "HUP": "restart", "USR1": "graceful", "WINCH": "graceful-stop"}

# Also those without a name (a notebook's cell run twice): they are stopped when the interpreter ends.
_running: set["Server"] = set()


class LaunchError(Exception):
    """The server did not start; the text is its error output."""


class ScoreboardView:
    """A frozen picture of a server's scoreboard. `snapshot` has the processes, `workers` a row per thread slot
    that is or was in use, `counts` the status page's busy and idle workers, `letters` those of each slot."""

    def __init__(self, board: Scoreboard) -> None:
        self.mpm = board.mpm
        self.snapshot: Snapshot = board.snapshot()
        self.workers: tuple[WorkerRow, ...] = tuple(board.workers())
        self.process_limit = board.process_limit
        self.threads_per_child = board.threads_per_child
        self.counts: Counts = self.snapshot.count(self.threads_per_child)
        self.accesses, self.bytes_served, _ = board.totals()
        rows = [row for row in self.snapshot.processes if row.pid]
        states = {row.slot: row.states[: self.threads_per_child] for row in rows}
        self.letters = {slot: "".join(LETTERS[s] for s in row) for slot, row in states.items()}

    def count(self, letter: str) -> int:
        """How many slots of living processes show `letter`."""
        return sum(line.count(letter) for line in self.letters.values())

    def __str__(self) -> str:
        return "\n".join(self.letters.values())

    def __repr__(self) -> str:
        states = "".join(self.letters.values())
        counted = ", ".join(f"{states.count(c)} {c}" for c in LETTERS if states.count(c))
        return f"<scoreboard of {self.mpm}: {len(self.letters)} processes, {counted or 'empty'}>"

    def to_frame(self) -> DataFrame:
        """One row a thread slot of a living process."""
        rows = [(*row, LETTERS[row.state]) for row in self.workers if row.state != DEAD]
        return data_frame(rows, columns=[*WorkerRow._fields, "letter"])


@dataclass(eq=False, repr=False)
class Server:
    """A running server. Made by `launch`; a context manager that stops it."""

    mpm: str
    directives: dict[str, Any]  # those given by name
    certificate: str | None  # with `tls=True`: the file that clients must trust (curl --cacert)
    _process: subprocess.Popen
    _home: str
    _held: ExitStack  # what lasts as long as it: its lifeline, its folder
    url: str = "http://127.0.0.1:0"
    _logs: dict[str, str] = field(default_factory=dict)  # once it has stopped: file name -> text
    _owner: int = field(default_factory=os.getpid)

    @property
    def pid(self) -> int:
        """The parent process."""
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<mpmkit {self.mpm} {self.url} pid {self.pid} {state}>"

    def scoreboard(self) -> ScoreboardView:
        """What every worker is doing now, from shared memory. Raises LaunchError when the server has stopped."""
        try:
            board = Scoreboard.attach(os.path.join(self._home, "scoreboard"))
        except FileNotFoundError:
            raise LaunchError(f"{self!r} has no scoreboard any more; launch another") from None
        try:
            return ScoreboardView(board)
        finally:
            board.close()

    def processes(self) -> list[int]:
        """Pids of the children in the scoreboard."""
        return [row.pid for row in self.scoreboard().snapshot.processes if row.pid]

    def error_log(self) -> str:
        """What the server has written to its error log."""
        return self._log("error.log")

    def access_log(self) -> str:
        """What the server has written to its access log ("" without `access_log=True`)."""
        return self._log("access.log")

    def trace_log(self) -> str:
        """What the server has written to its TraceLog ("" without `trace=True`), for `lab.tracer`."""
        return self._log("trace.log")

    def _log(self, name: str) -> str:
        try:
            with open(os.path.join(self._home, name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return self._logs.get(name, "")

    def signal(self, name: str) -> None:
        """Send one of SIGNALS, by either name. Raises ValueError, and LaunchError when the server has stopped."""
        if not (sent := [one for one, word in SIGNALS.items() if name in (one, word)]):
            known = ", ".join(f"{one}, {word}" for one, word in SIGNALS.items())
            raise ValueError(f"{name!r} is not a signal of a server; use one of {known}")
        if not self.running:
            raise LaunchError(f"{self!r} has no process to signal any more; launch another")
        self._process.send_signal(signal.Signals[f"SIG{sent[0]}"])

    def graceful(self) -> None:
        """SIGUSR1: a new generation; requests being served are finished."""
        self.signal("USR1")

    def restart(self) -> None:
        """SIGHUP: a new generation at once; connections are cut."""
        self.signal("HUP")

    def stop(self) -> None:
        """SIGTERM, and wait until it and its children are gone. Twice does nothing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its children see the end of its pipes
                self._process.wait()
        self._logs = {name: self._log(name) for name in LOGS}
        self._held.close()
        _running.discard(self)


def launch(
    mpm: str | None = None, *, conf: FileName | None = None, document_root: FileName | None = None,
    port: int = 0, access_log: bool = False, trace: bool = False, tls: bool = False,
    directives: Sequence[str] | str = (), python: FileName = sys.executable, **named: Any,
) -> Server:  # fmt: skip
    """Start a server and return once clients can connect.

    mpm             "prefork", "worker" or "event"; may be left out where `conf` has a LoadModule
    conf            an httpd.conf to read first
    document_root   served instead of the samples that come with the package
    port            on 127.0.0.1; 0: any free one
    access_log      write the common log format to a file; `server.access_log()` reads it
    trace           write each step of each connection to a file; `server.trace_log()` reads it
    tls             use TLS, with a certificate made for this server: see `server.certificate`
    directives      further lines, as in a file: "AddHandler wsgi-script .wsgi"; containers need `conf`
    python          the interpreter that the server runs in: another version or build that has mpmkit
    named           directives by name: ThreadsPerChild=25, KeepAlive=False

    Raises DirectiveError for a directive that httpd would refuse, LaunchError if the server does not start."""
    if mpm not in MPMS and (mpm is not None or conf is None):
        wrong = "name an MPM" if mpm is None else f"{mpm!r} is not an MPM"
        raise DirectiveError(f"{wrong}; use one of {', '.join(MPMS)}")
    command = [os.fspath(python), "-m", "mpmkit", "serve", *([mpm] if mpm else [])]
    command += ["-f", os.fspath(conf)] if conf is not None else []
    command += ["--document-root", os.fspath(document_root)] if document_root is not None else []
    command += ["--port", str(port), *(["--tls"] if tls else [])]
    lines = [_line(setting.name, *setting.args) for setting in from_keywords(mpm, **named)]
    with ExitStack() as held:  # and given back if the start fails
        home = folder.make()
        held.callback(shutil.rmtree, home, ignore_errors=True)
        held.callback(os.close, folder.hold(home))
        lines.append(_line("ScoreBoardFile", f"{home}/scoreboard"))
        lines += [_line("CustomLog", f"{home}/access.log", "common")] if access_log else []
        lines += [_line("TraceLog", f"{home}/trace.log")] if trace else []
        lines += [directives] if isinstance(directives, str) else directives
        process = _start(command, lines, home, held)
        certificate = f"{home}/server.crt" if tls else None
        server = Server(mpm or "", dict(named), certificate, process, home, held.pop_all())
    _running.add(server)
    try:
        server.url, server.mpm = _ready_line(process), server.scoreboard().mpm
    except BaseException as error:
        server.stop()
        if not isinstance(error, LaunchError):
            raise
        said = (line for line in server.error_log().splitlines() if "WARN" not in line)
        why = "\n".join(line.removeprefix("mpmkit: ") for line in said) or str(error)
        if "No module named" in why:
            why += f"; install mpmkit there: {python} -m pip install mpmkit"
        raise LaunchError(why) from None
    return server


def _start(
    command: Sequence[str], lines: Sequence[str], home: str, held: ExitStack
) -> subprocess.Popen:
    """The process of `mpmkit serve`; what it lasts with is `held`."""
    reading, writing = os.pipe()
    held.callback(os.close, writing)
    words = [word for line in lines for word in ("-c", line)]
    words += ["--lifeline", str(reading), "--home", home]
    try:
        with open(reading, "rb", 0), open(os.path.join(home, "error.log"), "ab") as log:
            process = subprocess.Popen(
                [*command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                pass_fds=[reading], start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise LaunchError(f"{error.filename or command[0]}: {error.strerror}") from None
    held.callback(process.stdout.close)  # type: ignore[union-attr]
    return process


def _ready_line(process: Any) -> str:
    """The URL of the line `ready URL`. Raises LaunchError when it does not come."""
    if not select.select([process.stdout], [], [], READY_WITHIN)[0]:
        raise LaunchError(f"the server was not ready within {READY_WITHIN:.0f} s")
    line = process.stdout.readline()  # it is written at once
    if not line:
        raise LaunchError(f"the server ended with status {process.wait()}")
    return line.decode().split()[1]


def _line(name: str, *args: str) -> str:
    words = (arg.replace("\\", "\\\\").replace('"', '\\"') for arg in args)
    return " ".join([name, *(f'"{word}"' for word in words)])


def running() -> list[Server]:
    """The servers that this process has launched and not stopped."""
    return list(_running)


@atexit.register
def _stop_all() -> None:
    for server in running():
        if server._owner == os.getpid():  # a fork of the launching process leaves its servers alone
            server.stop()
