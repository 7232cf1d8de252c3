"""Which handler answers a request: SetHandler by location, AddHandler by file name, else a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpmkit.handlers.static import StaticFiles
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.messages import Request, Response, page

if TYPE_CHECKING:
    from mpmkit.connection import Connection

Handler = Callable[[Request, "Connection"], Response]


class Router:
    """The handler that calls the others.

    locations   (URL path prefix, handler), the first that matches wins
    extensions  file name extensions that are WSGI scripts
    trace       TraceEnable
    """

    def __init__(
        self,
        files: StaticFiles,
        scripts: WsgiScripts | None = None,
        *,
        extensions: Sequence[str] = (".py",),
        locations: Sequence[tuple[str, Handler]] = (),
        trace: bool = True,
    ) -> None:
        self._files = files
        self._scripts = scripts
        self._extensions = tuple(extensions)
        self._locations = tuple(locations)
        self._trace = trace

    def __call__(self, request: Request, conn: Connection) -> Response:
        path = request.path
        for prefix, handler in self._locations:
            if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
                return handler(request, conn)
        if request.method == "TRACE":
            return self._echo(request)
        if path == "*":
            return Response(200, b"Content-Length: 0\r\n", b"\r\n")
        if self._scripts is not None:
            for extension in self._extensions:
                at = path.find(extension)
                while at >= 0:
                    end = at + len(extension)
                    if end == len(path) or path[end] == "/":
                        return self._scripts.run(request, conn, path[:end], path[end:])
                    at = path.find(extension, end)
        return self._files(request, conn)

    def _echo(self, request: Request) -> Response:
        """TRACE (RFC 9110, 9.3.8), or 405 where TraceEnable is off."""
        if not self._trace:
            return page(405, extra=b"Allow: \r\n")
        lines = [request.line, *(name + b": " + value for name, value in request.headers)]
        body = b"\r\n".join(lines) + b"\r\n\r\n"
        return Response(200, b"Content-Length: %d\r\n" % len(body), b"Content-Type: message/http\r\n\r\n",
                        body, len(body))  # fmt: skip

