"""The applications of the Python servers: the sample page and the hello script, for WSGI and ASGI.

Those servers' own processes import them by name ("benchmarks.peer_apps:wsgi"). For
a request they do what mpmkit's handlers do: one `stat` for a static file, whose header lines and bytes are
prepared once for each version of it, with the fields httpd sends (Last-Modified, ETag,
Accept-Ranges, Content-Length, Content-Type; Date and Server are the servers' own). A `.py` file is
a script with an `application`, loaded once.

Environment: MPMKIT_PEER_ROOT is the document root, MPMKIT_PEER_TOKEN a word in the 404 page
that identifies this very server, MPMKIT_PEER_LOG (for
servers without an access log) a file for lines in the common format.
"""

from __future__ import annotations

import functools
import os
import runpy
import time
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from typing import Any

StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
Fields = list[tuple[str, str]]

TYPES = {".html": "text/html", ".txt": "text/plain"}


class Pages:
    """Files of the document root by path: (status, fields, body), prepared once a version."""

    def __init__(self) -> None:
        self.root = os.path.realpath(os.environ["MPMKIT_PEER_ROOT"])
        self._known: dict[str, tuple[tuple[int, int, int], Fields, bytes]] = {}
        token = os.environ.get("MPMKIT_PEER_TOKEN", "").encode()
        self.missing = "404 Not Found", [("Content-Length", str(len(token)))], token

    def __call__(self, path: str) -> tuple[str, Fields, bytes]:
        try:
            # A URL path begins with "/"; whatever has ".." in it is not one of our samples.
            filename = self.root + path if ".." not in path else ""
            st = os.stat(filename)
            version = (st.st_mtime_ns, st.st_size, st.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != version:
                with open(filename, "rb") as file:
                    body = file.read()
                known = self._known[path] = version, self._fields(filename, st, len(body)), body
            return "200 OK", known[1], known[2]
        except (OSError, ValueError):
            return self.missing

    @staticmethod
    def _fields(filename: str, st: os.stat_result, length: int) -> Fields:
        kind = TYPES.get(os.path.splitext(filename)[1], "application/octet-stream")
        return [
            ("Last-Modified", formatdate(st.st_mtime, usegmt=True)),
            ("ETag", f'"{st.st_size:x}-{st.st_mtime_ns // 1000:x}"'),
            ("Accept-Ranges", "bytes"),
            ("Content-Length", str(length)),
            ("Content-Type", kind),
        ]


def script(root: str, path: str) -> Wsgi | None:
    """The `application` of ROOT/PATH, or None without such a file or name."""
    try:
        return runpy.run_path(root + path).get("application") if ".." not in path else None
    except OSError:
        return None


def wsgi() -> Wsgi:
    """The WSGI application: scripts by their suffix, everything else is a file."""
    pages = Pages()
    scripts: dict[str, Wsgi | None] = {}

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.endswith(".py"):
            if path not in scripts:
                scripts[path] = script(pages.root, path)
            found = scripts[path]
            if found is not None:
                return found(environ, start_response)
        status, fields, body = pages(path)
        start_response(status, fields)
        return [body]

    return application


def wsgi_logged() -> Wsgi:
    """`wsgi` for servers that have no access log: a line in the common format for each request.

    One write a line, as httpd does without BufferedLogs. Waitress would also warn of each request
    that waits for a thread, in a log without a use; that is switched off.
    """
    import logging

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    inner = wsgi()
    log = os.open(os.environ["MPMKIT_PEER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @functools.lru_cache(1)
    def stamp(now: int) -> str:
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(now))

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        seen: list[str] = []

        def started(status: str, fields: Fields, *more: Any) -> Any:
            length = next((v for k, v in fields if k.lower() == "content-length"), "-")
            seen[:] = status[:3], length
            return start_response(status, fields, *more)

        answer = inner(environ, started)
        request = "{REQUEST_METHOD} {PATH_INFO} {SERVER_PROTOCOL}".format_map(environ)
        line = f'{environ["REMOTE_ADDR"]} - - {stamp(int(time.time()))} "{request}" '
        os.write(log, f"{line}{' '.join(seen)}\n".encode())
        return answer

    return application


def asgi() -> Callable[..., Awaitable[None]]:
    """The ASGI application: the same files, and the hello script as ASGI has it."""
    pages = Pages()
    close = [(b"connection", b"close")] if os.environ.get("MPMKIT_PEER_KEEPALIVE") == "0" else []
    hello = [(b"content-type", b"text/html"), (b"content-length", b"11")]
    encoded: dict[int, Any] = {}

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/hello.py":
            code, fields, body = 200, hello, b"hello world"
        else:
            status, texts, body = pages(path)
            code = int(status[:3])
            # The list is the same object as long as the file's version is.
            known = encoded.get(id(texts))
            if known is None or known[0] is not texts:
                known = encoded[id(texts)] = (
                    texts,
                    [(name.lower().encode(), value.encode()) for name, value in texts],
                )
            fields = known[1]
        await send({"type": "http.response.start", "status": code, "headers": fields + close})
        await send({"type": "http.response.body", "body": body})

    return application
