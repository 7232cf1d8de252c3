"""Scripts in the server's own process: a `.py` file of the document root with a WSGI `application`.

The counterpart of mod_php and mod_wsgi, by PEP 3333. A script is loaded on its first request in
each process, and again when its file has changed. `wsgi.multithread` and `wsgi.multiprocess` say
what the MPM does: under prefork a script has its process to itself, under worker and event other
threads run the same module at the same time.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mpmkit.http.messages import BODYLESS_STATUSES, SERVER, Request, Response, page

if TYPE_CHECKING:
    from mpmkit.connection import Connection
    from mpmkit.logs import ErrorLog

# A server adds these itself; an application must not (PEP 3333, "Other HTTP Features").
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class Script:
    """One `.py` file: its application, loaded anew when the file changes."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self._lock = Lock()
        self._signature: tuple[int, int, int] | None = None
        self._application: Callable[..., Iterable[bytes]] | None = None

    def application(self) -> Callable[..., Iterable[bytes]]:
        """Raises OSError when the file is gone, whatever its module raises, and LookupError when the
        module has no `application`."""
        st = os.stat(self.filename)
        signature = (st.st_mtime_ns, st.st_size, st.st_ino)
        if signature != self._signature:
            with self._lock:
                if signature != self._signature:
                    self._application = self._load()
                    self._signature = signature
        assert self._application is not None
        return self._application

    def _load(self) -> Callable[..., Iterable[bytes]]:
        with open(self.filename, "rb") as file:
            source = file.read()
        module = ModuleType(os.path.splitext(os.path.basename(self.filename))[0])
        module.__file__ = self.filename
        exec(compile(source, self.filename, "exec"), module.__dict__)
        application = getattr(module, "application", None)
        if not callable(application):
            raise LookupError(
                f"{self.filename} has no callable named `application`; define one (PEP 3333)"
            )
        return application


class WsgiScripts:
    """The handler for scripts under `root`. `mpm` decides wsgi.multithread and wsgi.multiprocess."""

    def __init__(
        self, root: str, mpm: str, errors: ErrorLog, server_name: str = "localhost"
    ) -> None:
        self.root = os.path.realpath(root)
        self._errors = errors
        self._scripts: dict[str, Script] = {}
        self._base = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": mpm != "prefork",
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.errors": _ErrorStream(errors),
            "SERVER_SOFTWARE": SERVER,
            "SERVER_NAME": server_name,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "DOCUMENT_ROOT": self.root,
        }

    def run(self, request: Request, conn: Connection, script_name: str, path_info: str) -> Response:
        """Run the script at URL path `script_name`; `path_info` is the rest of the path."""
        script = self._scripts.get(script_name)
        if script is None:
            filename = os.path.realpath(self.root + script_name)
            if not filename.startswith(self.root.rstrip("/") + "/"):
                return page(403, request.method)  # a symbolic link leads out of the document root
            script = self._scripts[script_name] = Script(filename)
        try:
            application = script.application()
        except FileNotFoundError:
            self._scripts.pop(script_name, None)
            return page(404, request.method)
        return run_application(
            application, self._environ(request, conn, script, script_name, path_info), request
        )

    def _environ(
        self, request: Request, conn: Connection, script: Script, script_name: str, path_info: str
    ) -> dict[str, Any]:
        environ = self._base.copy()
        host, port = conn.sock.getsockname()[:2]
        environ["REQUEST_METHOD"] = request.method
        environ["SCRIPT_NAME"] = _latin(script_name)
        environ["PATH_INFO"] = _latin(path_info)
        environ["QUERY_STRING"] = request.query.decode("latin-1")
        environ["REQUEST_URI"] = request.target.decode("latin-1")
        environ["SERVER_PROTOCOL"] = f"HTTP/1.{request.version[1]}"
        environ["SERVER_ADDR"] = host
        environ["SERVER_PORT"] = str(port)
        environ["REMOTE_ADDR"] = conn.peer[0]
        environ["REMOTE_PORT"] = str(conn.peer[1])
        environ["SCRIPT_FILENAME"] = script.filename
        environ["wsgi.input"] = (
            io.BytesIO() if request.length == 0 else io.BufferedReader(_Body(conn))
        )
        if request.length is None:
            environ["wsgi.input_terminated"] = True  # chunked: the stream ends by itself
        for name, value in request.headers:
            key = name.decode("latin-1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                if key == "PROXY":
                    continue  # HTTP_PROXY means something else to many libraries (httpoxy)
                key = "HTTP_" + key
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
        return environ


def run_application(
    application: Callable[..., Iterable[bytes]], environ: dict[str, Any], request: Request
) -> Response:
    """Call the application and make a Response of what it says.

    Raises whatever the application raises, and AssertionError where it breaks PEP 3333.
    """
    call = _Call(request)
    result = application(environ, call.start_response)
    if isinstance(result, (list, tuple)) and not call.written:
        # All of it is at hand: one send, and its length is known.
        body = result[0] if len(result) == 1 else b"".join(result)
        return call.response(body, len(body))
    pieces = _Pieces(result, call)
    return call.response(pieces, None)


class _Call:
    """One call of an application: what it told `start_response`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []
        self.sent = False

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None):
        if exc_info is not None:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no reference cycle through the traceback
        elif self.status:
            raise AssertionError("start_response was called a second time without exc_info")
        if not (len(status) >= 4 and status[:3].isdigit() and status[3] == " "):
            raise AssertionError(f"status {status!r} is not like '200 OK'")
        for name, value in headers:
            if name.lower() in HOP_BY_HOP:
                raise AssertionError(
                    f"header {name}: is the server's to set, not the application's"
                )
            if "\n" in value or "\r" in value or "\n" in name:
                raise AssertionError(f"header {name!r} contains a line break")
        self.status = status
        self.headers = headers
        return self.written.append

    def response(self, body: Any, length: int | None) -> Response:
        if not self.status:
            raise AssertionError("the application did not call start_response")
        code = int(self.status[:3])
        fields = after = ""
        declared = None
        for name, value in self.headers:
            lower = name.lower()
            if lower == "content-type":
                after = f"Content-Type: {value}\r\n"
            elif lower not in ("date", "server"):
                if lower == "content-length":
                    declared = int(value)
                fields += f"{name}: {value}\r\n"
        if code in BODYLESS_STATUSES or self.request.method == "HEAD":
            if declared is None and length and self.request.method == "HEAD":
                fields += f"Content-Length: {length}\r\n"
            if hasattr(body, "close"):
                body.close()
            body, declared = b"", 0
        elif declared is None and length is not None:
            fields += f"Content-Length: {length}\r\n"
            declared = length
        elif declared is not None and length is not None and declared != length:
            raise AssertionError(f"Content-Length says {declared}, the body has {length} bytes")
        return Response(
            code, fields.encode("latin-1"), after.encode("latin-1") + b"\r\n", body, declared
        )


class _Pieces:
    """An application's iterable. The first piece is taken before the head is sent, because an
    application may call start_response as late as then."""

    def __init__(self, result: Iterable[bytes], call: _Call) -> None:
        self._result = result
        self._iterator = iter(result)
        self._call = call
        self._first: list[bytes] = []
        try:
            while not call.written:
                piece = next(self._iterator)
                self._first.append(piece)
                if piece:
                    break
        except StopIteration:
            pass
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        self._call.sent = True
        written = self._call.written
        while written:
            yield written.pop(0)
        yield from self._first
        for piece in self._iterator:
            while written:
                yield written.pop(0)
            yield piece

    def close(self) -> None:
        close = getattr(self._result, "close", None)
        if close is not None:
            close()


class _Body(io.RawIOBase):
    """The request's body as a raw stream, under `io.BufferedReader` for read, readline and the rest."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._piece = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = self._conn.read_body()
        taken, self._piece = self._piece[: len(buffer)], self._piece[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


class _ErrorStream:
    """wsgi.errors: lines for the error log."""

    def __init__(self, errors: ErrorLog) -> None:
        self._errors = errors

    def write(self, text: str) -> None:
        if text.strip():
            self._errors.write("error", text.rstrip("\n"), module="wsgi")

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass


def _latin(path: str) -> str:
    """A decoded path as PEP 3333 wants it: the bytes, as latin-1."""
    return os.fsencode(path).decode("latin-1")
