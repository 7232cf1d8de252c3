"""Programs that run for one request and end with it: the Common Gateway Interface (RFC 3875).

    request body ──> stdin  ┌─────────┐ stdout ──> head, then body to the client as it comes
                            │ program │
    the variables ─> env    └─────────┘ stderr ──> error log

One process per request: nothing is shared, nothing leaks from one request to the next, any language
works; and each request pays for a process (as under mod_cgi, with every MPM).

The program is started by vfork and exec (`subprocess` without preexec_fn), never by a fork of a process
with threads. It leads its own process group. The group is ended when Timeout passes between
two pieces of output, when the client is gone, and when the server's process dies: the
program holds one end of a pipe, and the kernel signals the group when the other end closes (O_ASYNC).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
from contextlib import suppress
from mmap import mmap
from stat import S_ISDIR, S_ISREG
from time import monotonic
from typing import TYPE_CHECKING, Any

from mpmkit.handlers import gateway
from mpmkit.handlers.gateway import Environ, Head, Output, Programs, Script, ScriptFailed, latin
from mpmkit.handlers.static import leads_out
from mpmkit.http.messages import Request
from mpmkit.server.connection import Connection, receive

if TYPE_CHECKING:
    from mpmkit.handlers.router import Router

SHORT = 8192  # bytes of an answer that may be waited for, and how long in seconds, for its length
SHORT_WAIT = 0.02
GRACE = 3.0  # seconds between TERM and KILL, and that a program may go on after its output's end
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TZ")  # of the server's own environment

# What to do about a program that can't be started.
REMEDIES = {
    errno.EACCES: "Permission denied: make it executable (chmod +x)",
    errno.ENOENT: "No such file: its first line (#!) names an interpreter that is missing",
    errno.ENOEXEC: "Exec format error: a script begins with #! and its interpreter",
}
F_SETSIG = 10  # Linux; the fcntl module has no name for it before 3.13


class CgiScripts(Programs):
    """The handler."""

    module = "cgi"

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        self._base |= {key: latin(os.environ[key]) for key in PASSED_ON if key in os.environ}

    def start(self, environ: Environ, request: Request, conn: Connection, script: Script) -> Output:
        """May this file be run? If so, run it. Raises ScriptFailed, in httpd's order."""
        name = script.filename
        if not script.allowed:
            remedy = "write Options +ExecCGI in its <Directory>, or use ScriptAlias"
            text = f"Options ExecCGI is off in the directory of {name}; {remedy}"
            raise ScriptFailed(403, text, "AH02809")
        try:
            mode = os.stat(name).st_mode
        except PermissionError:
            raise ScriptFailed(403, f"{name} cannot be accessed", "AH02811") from None
        except (OSError, ValueError):
            text = f"script not found or unable to stat: {name}"
            raise ScriptFailed(404, text, "AH02811") from None
        if S_ISDIR(mode):
            raise ScriptFailed(403, f"attempt to invoke directory as script: {name}", "AH02812")
        if not S_ISREG(mode) or leads_out(name, script.root):
            why = f"{name} is not a file, or a link that leads out of {script.root}"
            raise ScriptFailed(403, why)
        # A program inherits CPUs and scheduling policy from the thread that starts it, which may have one
        # CPU and SCHED_BATCH (server/child.py). So the thread has those of the server for that moment.
        own = os.sched_getaffinity(0), os.sched_getscheduler(0)
        _schedule(*gateway.OF_THE_SERVER)
        try:
            return Program(self, environ, request, conn, name)
        finally:
            _schedule(*own)


class Program(Output):
    """One running program, and its answer. Raises ScriptFailed when it can't be started."""

    says = "stderr from {}: {}", "AH01215"
    late = "Timeout waiting for output from CGI script {0.file}", "AH01220", "warn"

    def __init__(
        self, handler: CgiScripts, environ: Environ, request: Request, conn: Connection, file: str
    ) -> None:
        super().__init__(handler, conn, file, os.path.basename(file))
        self._is_head = request.method == "HEAD"
        self.complete = request.length == 0
        held: tuple[int, ...] = ()
        try:
            held = os.pipe()  # the program holds the first of these; see the module's docstring
            env = {key: value.encode("latin-1") for key, value in environ.items()}
            how: Any = {"cwd": os.path.dirname(file), "env": env, "process_group": 0, "bufsize": 0}
            how |= {"stdin": subprocess.DEVNULL if self.complete else subprocess.PIPE}
            how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self._process = subprocess.Popen([os.fsencode(file)], pass_fds=held[:1], **how)
        except (OSError, ValueError) as error:
            for fd in held:
                os.close(fd)
            why = REMEDIES.get(getattr(error, "errno", 0) or 0) or getattr(error, "strerror", None)
            raise ScriptFailed(500, f"exec of '{file}' failed: {why or error}", "AH01223") from None
        self._held, self._line = held
        self._pipes: Any = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (pipe.fileno() if pipe else -1 for pipe in self._pipes)
        self.poll.register(self._out, select.POLLIN)
        self.poll.register(self._err, select.POLLIN)
        if self._in >= 0:
            os.set_blocking(self._in, False)
            self.poll.register(self._in, select.POLLOUT)
        # From now on the group gets SIGTERM when this process dies, in any way.
        fcntl.fcntl(self._held, fcntl.F_SETOWN, -self._process.pid)
        fcntl.fcntl(self._held, F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(self._held, fcntl.F_SETFL, os.O_ASYNC)

    def head(self) -> Head:
        """Its length, too, if all of a body of at most SHORT bytes comes within SHORT_WAIT seconds."""
        head, until = super().head(), monotonic() + SHORT_WAIT
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        while head.length is None and not head.location and len(self.first) <= SHORT:
            if not self.ended and not poll.poll(max(0.0, until - monotonic()) * 1000):
                break
            self.take(self._out)
            if self.ended:
                # A HEAD without a body does not show how long the body of a GET is.
                return head._replace(length=len(self.first) or (None if self._is_head else 0))
            self.first += self.came.pop()
        return head

    def fed(self) -> None:
        if self._in >= 0:
            self.poll.unregister(self._in)
            self._pipes[0].close()
            self._in = -1

    def take(self, fd: int) -> None:
        if fd == self._in:  # it reads no more, as it may
            self.out, self.complete = memoryview(b""), True
        elif fd == self._err:
            if data := os.read(self._err, gateway.PIECE):
                self.stderr(data)
            else:
                self.poll.unregister(self._err)
        elif piece := receive(self, gateway.PIECE):
            self.came.append(piece)
        else:
            self.ended = True

    def recv_into(self, buffer: mmap, size: int, _: int) -> int:
        return os.readv(self._out, (memoryview(buffer)[:size],))

    def close(self) -> None:
        """At its output's end it may take GRACE seconds for its own exit. Otherwise the whole group gets
        TERM, and what is left of it KILL. No zombie and no descriptor is left."""
        if self._held < 0:
            return
        if not (self.ended and self._exits()):
            # The leader is not waited for yet, so the group's number cannot have been reused.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
                self._exits()
                os.killpg(self._process.pid, signal.SIGKILL)
        fcntl.fcntl(self._held, fcntl.F_SETFL, 0)  # what it left running in the background may stay
        self._process.wait()
        os.set_blocking(self._err, False)
        with suppress(BlockingIOError):  # what it left running could still write something
            while data := os.read(self._err, gateway.PIECE):
                self.stderr(data)
        self.stderr(b"\n")
        for pipe in filter(None, self._pipes):
            pipe.close()
        os.close(self._held)
        os.close(self._line)
        self._held = -1

    def _exits(self) -> bool:
        """Wait GRACE seconds for the leader's exit, and leave it a zombie: the group's number stays its
        own. Without a descriptor to wait with it counts as running."""
        try:
            pid = os.pidfd_open(self._process.pid)
        except OSError:
            return False
        poll = select.poll()
        poll.register(pid, select.POLLIN)
        exits = bool(poll.poll(GRACE * 1000))
        os.close(pid)
        return exits


def _schedule(cpus: set[int], policy: int) -> None:
    os.sched_setaffinity(0, cpus)
    if os.sched_getscheduler(0) != policy:
        os.sched_setscheduler(0, policy, os.sched_param(0))
