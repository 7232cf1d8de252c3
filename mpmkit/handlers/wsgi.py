"""Scripts in the server's own process: a `.py` file of the document root with a WSGI `application`.

The counterpart of mod_php and mod_wsgi, by PEP 3333. Each process loads a script at its first request, and again
when its file has changed. `wsgi.multithread` and `wsgi.multiprocess` reflect the MPM: under prefork a script has
its process to itself, under worker and event other threads run the same module at the same time.
"""

import io
import os
import re
import sys
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from stat import S_ISREG
from types import ModuleType
from typing import Any, NamedTuple

from mpmkit.config.directives import Directives
from mpmkit.handlers import gateway
from mpmkit.handlers.gateway import CONTROL, FIELD_NAME, Redirected, Script, Variables, measured
from mpmkit.handlers.static import leads_out, signature_of
from mpmkit.http import messages
from mpmkit.http.messages import BODYLESS_STATUSES, LONGEST, FileBody, Request, Response, page
from mpmkit.server.connection import Connection
from mpmkit.server.core import Begun, Service
from mpmkit.server.logs import ErrorLog

# Three digits of a final status, a blank, and a reason: PEP 3333, and RFC 9112, 4.
_STATUS = re.compile(r"[2-9][0-9]{2} [^\x00-\x08\x0a-\x1f\x7f]*\Z")
HEADS_KEPT = 128  # of applications' answers: status and headers, checked and written down


class Application:
    """One `.py` file: its application, loaded again when the file changes."""

    _application: Callable[..., Iterable[bytes]]

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        self.filename = path  # where it leads, symbolic links followed
        self._root = root
        self._name = "_mpmkit_wsgi" + "".join(c if c.isalnum() else "_" for c in path)
        self._lock = allocate_lock()
        self._signature: tuple[int, int, int, int] | None = None

    def version(self) -> tuple[int, int, int, int]:
        """The file's version now. Raises OSError; PermissionError for no file, or a link out of the root."""
        signature = signature_of(st := os.stat(self.path))
        if signature != self._signature:
            if leads_out(self.path, self._root) or not S_ISREG(st.st_mode):
                raise PermissionError(self.path)
            self.filename = os.path.realpath(self.path)
        return signature

    def application(self, signature: tuple[int, int, int, int]) -> Callable[..., Iterable[bytes]]:
        """That of the file's version. Raises what the module raises; LookupError without an `application`."""
        if signature == self._signature:
            return self._application
        with self._lock:
            if signature != self._signature:
                with open(self.filename, "rb") as file:
                    code = compile(file.read(), self.filename, "exec", dont_inherit=True)
                # Frameworks look into sys.modules for the folder of their templates (Flask), and classes
                # for the module they are from.
                sys.modules[self._name] = module = ModuleType(self._name)
                module.__file__ = self.filename
                exec(code, module.__dict__)
                if not callable(made := getattr(module, "application", None)):
                    why = f"{self.filename} has no callable named `application`"
                    raise LookupError(f"{why}; define one (PEP 3333)")
                self._application, self._signature = made, signature
        return self._application


class WsgiScripts:
    """The handler for WSGI scripts. The MPM decides wsgi.multithread and wsgi.multiprocess."""

    def __init__(self, directives: Directives, errors: ErrorLog) -> None:
        assert directives.DocumentRoot is not None
        self._variables = Variables(directives, os.path.abspath(directives.DocumentRoot))
        self._sendfile = directives.EnableSendfile
        self._applications: dict[str, Application] = {}
        self.service: Service | None = None  # what write() needs to send before the end
        self._errors = errors
        self.stderr = _ErrorStream(errors)
        self._base: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": directives.threaded,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.errors": self.stderr,
            "wsgi.file_wrapper": FileWrapper,
            **self._variables.base,
        }

    def run(self, request: Request, conn: Connection, script: Script) -> Response:
        """Run the application in a script's file."""
        name = script.filename
        if not script.allowed:  # as mod_wsgi
            text = f"Options ExecCGI is off in the directory of {name}"
            self._errors.write("error", text, module="wsgi", client=conn.peer)
            return page(403, request.method)
        application = self._applications.get(name) or Application(script.root, name)
        try:
            version = application.version()
        except (OSError, ValueError) as error:
            self._applications.pop(name, None)
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
            return page(404 if missing else 403, request.method)
        # Two threads at a script's first request must use the same module.
        application = self._applications.setdefault(name, application)
        function = application.application(version)
        environ = self._base.copy()
        self._variables.add(environ, request, conn, script)
        environ["SCRIPT_FILENAME"] = application.filename
        environ["wsgi.url_scheme"] = conn.scheme
        reads = request.length != 0
        environ["wsgi.input"] = io.BufferedReader(_Body(conn)) if reads else io.BytesIO()
        if request.length is None:
            environ["wsgi.input_terminated"] = True  # chunked: the stream ends by itself
        call = _Call(request, conn, self)
        try:
            response = call.run(function, environ)
        finally:
            if self.stderr.held:
                self.stderr.flush()
        if type(response.body) is FileBody:
            response.body.sendfile = self._sendfile
        return response


class FileWrapper:
    """wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling"): a file as an iterable. A regular
    file is sent as a static one: by sendfile where that is on, under event without a waiting thread."""

    def __init__(self, file: Any, block_size: int = 65536) -> None:
        self.file = file
        self.most = LONGEST  # bytes to send: the application's Content-Length
        self._block_size = block_size
        self.close = getattr(file, "close", lambda: None)

    def __iter__(self) -> Iterator[bytes]:
        left = self.most
        while left > 0 and (data := self.file.read(min(self._block_size, left))):
            yield data
            left -= len(data)

    def body(self) -> FileBody | None:
        """What is left of the file, by a descriptor of its own; None: it is not a regular file, or too short,
        or what read() gives is not its bytes as they are (gzip, bz2, a text, any class of another kind)."""
        file = self.file
        raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
        if type(raw) is not io.FileIO:
            return None
        try:
            fd, at = file.fileno(), file.tell()
            st = os.fstat(fd)
            left = max(0, st.st_size - at)
            whole = S_ISREG(st.st_mode) and (self.most == LONGEST or left >= self.most)
            return FileBody(os.dup(fd), at, min(left, self.most)) if whole else None
        except (AttributeError, OSError, ValueError):
            return None


class Head(NamedTuple):
    """What an application passed to `start_response`, as it goes to the client."""

    code: int
    fields: bytes  # header lines, as a Response has them
    after: bytes
    length: int | None  # its Content-Length
    reason: bytes | None  # its own phrase; None: the usual one


@lru_cache(HEADS_KEPT)
def read_head(status: str, headers: tuple[tuple[str, str], ...]) -> Head:
    """A status and headers, checked by PEP 3333, encoded, and remembered. Raises AssertionError."""
    if not _STATUS.match(status):
        raise AssertionError(f"status {status!r} is not like '200 OK'")
    code, reason = int(status[:3]), status[4:]
    bodyless = code in BODYLESS_STATUSES
    fields = after = ""
    length = None
    for name, value in headers:
        lower = name.lower()
        if lower in gateway.HOP_BY_HOP:
            raise AssertionError(f"header {name}: only the server may set it")
        if not FIELD_NAME.match(name.encode("utf-8", "surrogateescape")):
            raise AssertionError(f"header {name!r} is not a name; use letters, digits and hyphens")
        if CONTROL.search(value.encode("latin-1")):
            raise AssertionError(f"header {name!r} contains a control character or line break")
        if lower == "content-type":
            after = f"Content-Type: {value}\r\n"
            continue
        if lower == "content-length":
            before, length = length, messages.whole_number(value) if value.isdecimal() else None
            if length is None or before not in (None, length) or not value.isascii():
                text = f"Content-Length {value[:30]!r} is not one whole number of bytes"
                raise AssertionError(text + (f", or not {before}" if before is not None else ""))
            if before is not None or bodyless:
                continue  # it is written once, and not where there is no body
        if lower not in ("date", "server"):
            fields += f"{name}: {value}\r\n"
    if len(fields) > gateway.LONGEST_HEAD:
        text = f"more than {gateway.LONGEST_HEAD} bytes of header lines: clients refuse them"
        raise AssertionError(text)
    if bodyless:
        after, length = "", None
    own = None if reason == messages.REASONS.get(code) else reason.encode("latin-1")
    return Head(code, fields.encode("latin-1"), f"{after}\r\n".encode("latin-1"), length, own)


class _Call:
    """One call of an application: what it passed to `start_response`, and what write() has sent. The first
    piece is taken before the head is sent, because an application may call start_response as late as then."""

    def __init__(self, request: Request, conn: Connection, scripts: WsgiScripts) -> None:
        self._request, self._conn, self._stderr = request, conn, scripts.stderr
        # An answer that another one becomes a part of (ErrorDocument, Location) has its head later.
        self._service = None if isinstance(request, Redirected) else scripts.service
        self._head: Head | None = None
        self._left: int | None = None  # bytes of the Content-Length that follow
        self._begun: Begun | None = None  # the response that write() has begun to send
        self._written: list[bytes] = []  # what write() could not send
        self._sent = False

    def run(self, application: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> Response:
        """Raises what the application raises, and AssertionError where it breaks PEP 3333; but when write()
        has sent the head already, the Response's body raises it."""
        try:
            result = application(environ, self.start_response)
            if not self._written and self._begun is None:
                if type(result) in (list, tuple):
                    # The whole body is at hand: one send, and its length is known.
                    body = b"".join(result)
                    return self._response(body, len(body))
                if type(result) is FileWrapper and (file := self._file(result)) is not None:
                    return self._response(file, file.count)
            pieces = self._body(result)
            try:
                next(pieces)
                return self._response(pieces, None)
            except BaseException:
                pieces.close()
                raise
        except BaseException as error:
            if self._begun is None:
                raise
            return self._response(_raising(error), None)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None):
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no reference cycle through the traceback
            self._written.clear()  # it belonged to the response that this one replaces
        elif self._head is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        self._head = read_head(status, tuple(map(tuple, headers)))
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's old way: sent at once; or once the iterable is being sent, with its next piece."""
        if type(data) is not bytes:
            data = _plain(data)
        if not data:
            return
        head = self._head
        assert head is not None
        if self._begun is None:
            if self._service is None or self._sent or self._written or self._bodyless(head):
                self._written.append(data)
                return
            self._begun = Begun(self._conn, self._request, self._response([], None), self._service)
            self._sent = True
        left = len(data) if head.length is None else head.length - self._begun.count
        self._begun.write(data[:left])
        if left < len(data):
            raise AssertionError(f"more bytes than Content-Length {head.length}")

    def _bodyless(self, head: Head) -> bool:
        return head.code in BODYLESS_STATUSES or self._request.method == "HEAD"

    def _file(self, wrapper: FileWrapper) -> FileBody | None:
        """The file, if it can be the body as it is."""
        if (head := self._head) is None:
            return None
        wrapper.most = LONGEST if head.length is None else head.length
        if self._bodyless(head) or head.reason is not None or (file := wrapper.body()) is None:
            return None
        wrapper.close()
        return file

    def _response(self, body: Any, length: int | None) -> Response:
        if (head := self._head) is None:
            raise AssertionError("the application did not call start_response")
        code, fields, declared = head.code, head.fields, head.length
        if self._bodyless(head):
            if declared is None and length and code not in BODYLESS_STATUSES:
                fields += b"Content-Length: %d\r\n" % length
            getattr(body, "close", int)()
            body, declared = b"", 0
        elif declared is None and length is not None:
            fields += b"Content-Length: %d\r\n" % length
            declared = length
        elif declared is not None and length is not None and declared != length:
            raise AssertionError(f"Content-Length says {declared}, the body has {length} bytes")
        self._left = declared
        if head.reason is not None:
            body = [body] if type(body) is bytes else body  # only this way sends a reason
        if self._begun is not None:  # write() has sent the head, and some of the body
            if declared is not None:
                self._left = declared - self._begun.count
            self._begun.rest, body = body, self._begun
        return Response(code, fields, head.after, body, declared, reason=head.reason)

    def _body(self, result: Iterable[bytes]) -> Generator[bytes, None, None]:
        """The body; before it b"": start_response has been called by then. Closes `result`."""
        try:
            pieces: Iterator[bytes] = self._pieces(result)
            first = next(pieces, b"")
            yield b""
            self._sent = True
            pieces, left = chain((first,), pieces), self._left
            yield from pieces if left is None else measured(pieces, left, AssertionError)
        finally:
            try:
                getattr(result, "close", int)()
            finally:
                if self._stderr.held:
                    self._stderr.flush()

    def _pieces(self, result: Iterable[bytes]) -> Iterator[bytes]:
        for piece in result:
            data = piece if type(piece) is bytes else _plain(piece)
            while self._written:
                yield self._written.pop(0)
            if data:
                yield data
        yield from self._written


def _raising(error: BaseException) -> Iterator[bytes]:
    raise error
    yield b""


def _plain(data: Any) -> bytes:
    """What an application sends; also of a subclass of bytes."""
    if not isinstance(data, bytes):
        raise AssertionError(f"the application sends {type(data).__name__}, not bytes")
    return bytes(memoryview(data))


class _Body(io.RawIOBase):
    """The request's body as a raw stream, under `io.BufferedReader` for read, readline and the rest."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(self._conn.read_body())
        taken, self._piece = self._piece[: len(buffer)], self._piece[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def readall(self) -> bytes:
        piece, self._piece = self._piece, memoryview(b"")
        return b"".join((piece, *iter(self._conn.read_body, b"")))


class _ErrorStream:
    """wsgi.errors: lines for the error log. held: begun lines, by thread: print(a, b) writes in pieces."""

    def __init__(self, errors: ErrorLog) -> None:
        self._errors = errors
        self.held: dict[int, str] = {}

    def write(self, text: str) -> None:
        thread = get_ident()
        text = self.held.pop(thread, "") + text
        if not text.endswith("\n") and len(text) < gateway.STDERR_LINE:
            text, _, rest = text.rpartition("\n")
            self.held[thread] = rest
        if text.strip():
            self._errors.write_lines("error", text, module="wsgi")

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if rest := self.held.pop(get_ident(), ""):
            self.write(f"{rest}\n")
