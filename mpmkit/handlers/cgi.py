"""Programs that run for one request and end with it: the Common Gateway Interface (RFC 3875).

    request body ──> stdin  ┌─────────┐ stdout ──> head, then body to the client as it comes
                            │ program │
    the variables ─> env    └─────────┘ stderr ──> error log

One process per request: nothing is shared, nothing leaks from one request to the next, any language
will do; and each request pays for a process (as under mod_cgi, with every MPM).

The program is started by vfork and exec (`subprocess` without preexec_fn), never by a fork of a process
with threads. It leads a process group of its own. The group is ended when Timeout passes between
two pieces of output, when the client is gone, and when the server's process dies: for that the
program holds one end of a pipe, and the kernel signals the group when the other end closes (O_ASYNC).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from stat import S_ISDIR, S_ISREG
from time import monotonic
from typing import TYPE_CHECKING

from mpmkit.handlers.gateway import Script, arguments, latin
from mpmkit.handlers.names import leads_out
from mpmkit.handlers.programs import (
    UNPARSED,
    Head,
    Programs,
    Redirect,
    ScriptFailed,
    StderrLines,
    take_head,
)
from mpmkit.http.messages import Request, RequestError, Response

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

PIECE = 65536  # bytes read from a program at a time: what a pipe holds
SHORT = 8192  # bytes of an answer that may be waited for, and how long in seconds, for its length
SHORT_WAIT = 0.02
GRACE = 3.0  # seconds between TERM and KILL, and that a program may go on after its output's end
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TZ")  # of the server's own environment

F_SETSIG = 10  # Linux; the fcntl module has no name for it before 3.13


class CgiScripts(Programs):
    """The handler. Programs run on `cpus` and under the scheduling policy `policy` (os.SCHED_OTHER, …),
    those of the server."""

    def __init__(
        self,
        d: Directives,
        errors: ErrorLog,
        root: str,
        redirect: Redirect,
        cpus: set[int],
        policy: int,
    ) -> None:
        super().__init__("cgi", d, errors, root, redirect)
        self._timeout = d.Timeout
        self._base |= {key: latin(os.environ[key]) for key in PASSED_ON if key in os.environ}
        self._cpus, self._policy = cpus, policy
        self._nothing = _dev_null()

    def run(self, request: Request, conn: Connection, script: Script, allowed: bool) -> Response:
        """Run a program. `allowed`: by Options ExecCGI or a ScriptAlias."""

        nph = os.path.basename(script.filename).startswith("nph-")

        def start(environ: dict[str, str]) -> tuple[Head, _Output]:
            self._check(script, allowed)
            raw = {key: value.encode("latin-1") for key, value in environ.items()}
            stdin = self._nothing if request.length == 0 else None
            with _as_the_server(self._cpus, self._policy):
                argv = [os.fsencode(script.filename), *arguments(request.query)]
                program = Program(self, argv, raw, conn, self._timeout, stdin)
            try:
                if nph:
                    return UNPARSED, _Output(program, b"")
                head, output = program.answer()
                if head.length is None and not head.location:
                    length = output.short()
                    # A HEAD without a body does not show how long the body of a GET is.
                    length = None if request.method == "HEAD" and not length else length
                    head = head._replace(length=length)
                return head, output
            except BaseException:
                program.kill()
                raise

        return self.run_by(start, request, conn, script)

    def _check(self, script: Script, allowed: bool) -> None:
        """May this file be run? Raises ScriptFailed, in httpd's order."""
        name = script.filename
        if not allowed:
            raise ScriptFailed(
                403,
                f"Options ExecCGI is off in the directory of {name}; write Options +ExecCGI in "
                "its <Directory>, or use ScriptAlias",
                "AH02809",
            )
        try:
            st = os.stat(name)
        except PermissionError:
            raise ScriptFailed(403, f"{name} may not be looked at", "AH02811") from None
        except (OSError, ValueError):
            text = f"script not found or unable to stat: {name}"
            raise ScriptFailed(404, text, "AH02811") from None
        if S_ISDIR(st.st_mode):
            raise ScriptFailed(403, f"attempt to invoke directory as script: {name}", "AH02812")
        if not S_ISREG(st.st_mode) or leads_out(name, script.root):
            raise ScriptFailed(
                403, f"{name} is not a file, or a link that leads out of {script.root}"
            )


class Program:
    """One running program. It ends by the close of its output (`answer`), or by `kill`.

    Raises ScriptFailed when it can't be started.
    """

    def __init__(
        self,
        handler: Programs,
        argv: list[bytes],
        environ: dict[str, bytes],
        conn: Connection,
        timeout: float,
        stdin: int | None,
    ) -> None:
        self._filename = filename = os.fsdecode(argv[0])
        self._name = os.path.basename(filename)
        self._conn = conn
        self._timeout = timeout
        self._silent = False  # stderr is at its end
        self._stderr = StderrLines(
            lambda text: handler.log("error", f"stderr from {filename}: {text}", "AH01215", conn)
        )
        self._piece = memoryview(b"")  # of the request's body, not yet taken by the program
        opened: list[int] = []
        try:
            out, theirs_out = _pipe(opened)
            err, theirs_err = _pipe(opened)
            line, self._line = _pipe(opened)  # the program holds `line`; see the module's docstring
            into = -1
            theirs_in = stdin
            if theirs_in is None:
                theirs_in, into = _pipe(opened)
                os.set_blocking(into, False)
            self._process = subprocess.Popen(
                argv,
                env=environ,
                cwd=os.path.dirname(filename),
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=theirs_err,
                pass_fds=(line,),
                process_group=0,
            )
        except (OSError, ValueError) as error:
            for fd in opened:
                os.close(fd)
            text = f"exec of '{filename}' failed: {_why(error)}"
            raise ScriptFailed(500, text, "AH01223") from None
        for fd in (theirs_out, theirs_err, *((theirs_in,) if stdin is None else ())):
            os.close(fd)
        self._out, self._err, self._in, self._held = out, err, into, line
        self._poll = select.poll()
        self._poll.register(out, select.POLLIN)
        self._poll.register(err, select.POLLIN)
        self._poll.register(
            conn.fd, 0
        )  # only a reset counts: a half-closed client still waits for the answer
        # From now on the group gets SIGTERM when this process dies, in any way.
        fcntl.fcntl(line, fcntl.F_SETOWN, -self._process.pid)
        fcntl.fcntl(line, F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC)

    # -- its answer ---------------------------------------------------------------------------

    def answer(self) -> tuple[Head, _Output]:
        """Its head, and the pieces of its body. Raises ScriptFailed, or RequestError when the client
        is at fault."""
        head, first = take_head(self.read, self._name)
        return head, _Output(self, first)

    def read(self) -> bytes:
        """The next piece of its output, b"" at the end. Meanwhile it is given the request's body, and
        its stderr goes to the error log.

        Raises ScriptFailed when Timeout passes and nothing moves; RequestError when the client is
        gone, or sends an invalid body.
        """
        until = monotonic() + self._timeout
        while True:
            self._next_piece()
            events = self._poll.poll(max(0.0, until - monotonic()) * 1000)
            if not events:
                text = f"Timeout waiting for output from CGI script {self._filename}"
                raise ScriptFailed(504, text, "AH01220", "warn")
            for fd, _ in events:
                if fd == self._out:
                    piece = os.read(fd, PIECE)
                    if piece:
                        return piece
                    self._poll.unregister(fd)
                    return b""
                if fd == self._err:
                    self._read_stderr()
                elif fd == self._in:
                    if self._give():
                        until = monotonic() + self._timeout
                else:
                    raise RequestError(500, "the client left while its script ran", silent=True)

    def more(self, seconds: float) -> bytes | None:
        """The next piece of its output, if it comes within `seconds`; b"" at the end, else None."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if not poll.poll(max(0.0, seconds) * 1000):
            return None
        piece = os.read(self._out, PIECE)
        if not piece:
            self._poll.unregister(self._out)
        return piece

    def _next_piece(self) -> None:
        """The body's next piece, when the program has taken the one before."""
        if self._in < 0 or self._piece:
            return
        piece = self._conn.read_body()
        if piece:
            self._piece = memoryview(piece)
            self._poll.register(self._in, select.POLLOUT)
        else:
            self._end_of_body()

    def _give(self) -> bool:
        """Write some of the body to the program. True: it took something."""
        try:
            self._piece = self._piece[os.write(self._in, self._piece) :]
        except BlockingIOError:
            return False
        except OSError:  # it reads no more, as it may
            self._end_of_body()
            return False
        if not self._piece:
            self._poll.unregister(self._in)
        return True

    def _end_of_body(self) -> None:
        if self._piece:
            self._poll.unregister(self._in)
            self._piece = memoryview(b"")
        os.close(self._in)
        self._in = -1

    def _read_stderr(self) -> None:
        """What it writes to stderr, for the error log."""
        data = os.read(self._err, PIECE)
        if not data:
            self._poll.unregister(self._err)
            self._silent = True
        self._stderr.feed(data or b"\n")

    # -- its end ------------------------------------------------------------------------------

    def end(self) -> None:
        """Its output is at an end: wait up to GRACE seconds for its exit; then `kill`."""
        if self._process.returncode is None and not self._exits_within(GRACE):
            self.kill()
        else:
            self._clean_up()

    def kill(self) -> None:
        """End the whole group: TERM, and KILL for what is left of it. Harmless after the end."""
        if self._held < 0:
            return
        # The leader is not waited for yet, so the group's number cannot have been reused.
        self._signal(signal.SIGTERM)
        self._exits_within(GRACE)
        self._signal(signal.SIGKILL)
        self._clean_up()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _exits_within(self, seconds: float) -> bool:
        """Wait for the leader's exit, and leave it a zombie: the group's number stays its own."""
        try:
            pid = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor is left for it
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        try:
            poll = select.poll()
            poll.register(pid, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        finally:
            os.close(pid)

    def _clean_up(self) -> None:
        """No zombie and no descriptor is left."""
        if self._held < 0:
            return
        fcntl.fcntl(self._held, fcntl.F_SETFL, 0)  # what it left running in the background may stay
        self._process.wait()
        os.set_blocking(self._err, False)
        try:
            while not self._silent:
                self._read_stderr()
        except BlockingIOError:  # what it left running could still write something
            pass
        for fd in (self._out, self._err, self._held, self._line, self._in):
            if fd >= 0:
                os.close(fd)
        self._held = self._in = -1


class _Output:
    """A program's body, piece by piece. The end of the iteration is the end of the program."""

    def __init__(self, program: Program, first: bytes) -> None:
        self._program = program
        self._first = first
        self._whole = False

    def short(self) -> int | None:
        """Its length, if all of it comes within SHORT_WAIT seconds and is at most SHORT bytes."""
        until = monotonic() + SHORT_WAIT
        while len(self._first) <= SHORT:
            piece = self._program.more(until - monotonic())
            if piece is None:
                return None
            if not piece:
                self._whole = True
                return len(self._first)
            self._first += piece
        return None

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while not self._whole and (piece := self._program.read()):
            yield piece
        self._whole = True

    def close(self) -> None:
        self._program.end() if self._whole else self._program.kill()


@contextmanager
def _as_the_server(cpus: set[int], policy: int) -> Iterator[None]:
    """A program gets the CPUs and the scheduling policy that the server was started with.

    It inherits both from the thread that starts it, which may have one CPU (parent.stay_on_one_cpu)
    and SCHED_BATCH (parent._let_finish); so the thread is without them while it starts the program.
    """
    own_cpus, own_policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    if own_cpus != cpus:
        os.sched_setaffinity(0, cpus)
    if own_policy != policy:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    try:
        yield
    finally:
        if own_policy != policy:
            os.sched_setscheduler(0, own_policy, os.sched_param(0))
        if own_cpus != cpus:
            os.sched_setaffinity(0, own_cpus)


@cache
def _dev_null() -> int:
    """Opened once a process, however often the configuration is read."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _pipe(opened: list[int]) -> tuple[int, int]:
    ends = os.pipe()
    opened += ends
    return ends


def _why(error: Exception) -> str:
    """What to do about a program that can't be started."""
    if isinstance(error, PermissionError):
        return "Permission denied: make it executable (chmod +x)"
    if isinstance(error, FileNotFoundError):
        return "No such file: its first line (#!) names an interpreter that is not here"
    if isinstance(error, OSError) and error.errno == 8:
        return "Exec format error: a script begins with #! and its interpreter"
    return str(getattr(error, "strerror", None) or error)
