"""The Common Gateway Interface as values (RFC 3875, 4): the variables of a script, and its redirects.

WSGI, CGI and FastCGI pass a script the same variables in different encodings. Nothing here waits.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from mpmkit.config.alias import variables_of
from mpmkit.config.directives import Directives
from mpmkit.http.messages import Request, server_header
from mpmkit.http.target import OwnName
from mpmkit.server.connection import Connection

# What a header's name is made of, and what its value may not contain (RFC 9110, 5.1 and 5.5).
FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# CPUs and scheduling policy that the server was started with. This file is read before its first fork.
OF_THE_SERVER = os.sched_getaffinity(0), os.sched_getscheduler(0)
Environ = dict[str, Any]  # a script's variables
REDIRECTS = 10  # internal redirects of one request (LimitInternalRecursion)


class Script(NamedTuple):
    """The script of a request."""

    filename: str  # its file; it may not lead out of `root`
    name: str  # its URL path (SCRIPT_NAME)
    path_info: str  # the rest of the request's path
    root: str
    translated: str = ""  # the file of path_info, taken as a URL path (PATH_TRANSLATED)
    prefix: str = ""  # the Alias that the path came by, "" without one (CONTEXT_PREFIX)
    allowed: bool = True  # it may be run, by Options ExecCGI or an alias for scripts


class Redirected(Request):
    """A request that the server made from another one: for a script's `Location: /path`, or for an
    ErrorDocument."""

    __slots__ = ("before", "depth", "status", "url", "url_query")

    before: dict[str, str]  # the variables of the redirecting script
    depth: int  # how many redirects led here
    status: int  # the error's, or 200
    url: str  # the path that was requested
    url_query: bytes


class Variables:
    """The variables of scripts, as far as the configuration decides them. The name and port are those of
    the client's Host; under UseCanonicalName On, ServerName's."""

    def __init__(self, directives: Directives, document_root: str) -> None:
        self._own = OwnName.of(directives.ServerName, directives.UseCanonicalName == "On")
        self._root = document_root
        self._rules = directives.variables
        self._admin = directives.ServerAdmin or "[no address given]"
        self.base = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SIGNATURE": "",
            "SERVER_SOFTWARE": server_header(directives.ServerTokens),
            "DOCUMENT_ROOT": document_root,
        }

    def add(self, environ: Environ, request: Request, conn: Connection, script: Script) -> None:
        """Add to a copy of `base` what RFC 3875, 4.1 and httpd have in common: text, bytes as latin-1. What does
        not depend on the connection is made once for each Request, which the same head sent again is."""
        environ["SERVER_ADDR"] = conn.local[0]
        if self._rules:
            environ.update(variables_of(self._rules, request, conn))
        environ["REMOTE_ADDR"] = conn.peer[0]
        environ["REMOTE_PORT"] = str(conn.peer[1])
        environ["REQUEST_SCHEME"] = self._own.scheme or conn.scheme
        if conn.scheme == "https":
            environ["HTTPS"] = "on"
        if isinstance(request, Redirected):
            environ.update(self._of_request(request, script, conn.scheme))
            environ.update((f"REDIRECT_{key}", value) for key, value in request.before.items())
            environ["REDIRECT_STATUS"] = str(request.status)
            environ["REDIRECT_URL"] = latin(request.url)
            if request.url_query:
                environ["REDIRECT_QUERY_STRING"] = request.url_query.decode("latin-1")
            return
        memo = request.memo
        if memo is None or memo[0] is not script or memo[1] is not conn.scheme:
            variables = self._of_request(request, script, conn.scheme)
            memo = request.memo = (script, conn.scheme, variables)
        environ.update(memo[2])

    def _of_request(self, request: Request, script: Script, scheme: str) -> dict[str, str]:
        """The variables that a request's head and a script's place decide. A header that would become a
        variable with another meaning is left out."""
        environ = {
            "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
            "REQUEST_METHOD": request.method,
            "REQUEST_URI": request.target.decode("latin-1"),
            "QUERY_STRING": request.query.decode("latin-1"),
            "SCRIPT_NAME": latin(script.name),
            "SCRIPT_FILENAME": script.filename,
            "PATH_INFO": latin(script.path_info),
        }
        if script.path_info:
            environ["PATH_TRANSLATED"] = latin(script.translated)
        for name, value in request.headers:
            if key := variable_of(name):
                text = value.decode("latin-1")
                environ[key] = f"{environ[key]}, {text}" if key in environ else text
        asked = environ.get("HTTP_HOST", "").encode("latin-1")
        environ["SERVER_NAME"], environ["SERVER_PORT"] = self._own.place(asked, scheme)
        return environ

    def of_cgi(self, environ: Environ, request: Request, conn: Connection, script: Script) -> None:
        """The same for CGI and FastCGI: what httpd passes there, and no credentials, as other users
        may see a process's environment (CGIPassAuth Off)."""
        self.add(environ, request, conn, script)
        if not script.path_info:
            del environ["PATH_INFO"]
        environ["SCRIPT_FILENAME"] = latin(script.filename)
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
        environ["SERVER_ADMIN"] = self._admin
        environ["CONTEXT_PREFIX"] = latin(script.prefix)
        environ["CONTEXT_DOCUMENT_ROOT"] = latin(script.root if script.prefix else self._root)


@lru_cache(256)  # header names are few
def variable_of(header: bytes) -> str:
    """The variable of a header, "" if it is left out."""
    if header in (b"content-type", b"content-length"):
        return header.decode().upper().replace("-", "_")
    # X_Y would become the same variable as X-Y, which a proxy may have checked; httpd drops it, too. And
    # HTTP_PROXY means something else to many libraries (httpoxy).
    plain = header.replace(b"-", b"").isalnum() and header != b"proxy"
    return "HTTP_" + header.decode("latin-1").upper().replace("-", "_") if plain else ""


def latin(path: str) -> str:
    """A decoded path's bytes as latin-1 text, which is how WSGI and the handlers here hold them."""
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


def redirected(
    request: Request, path: str, query: bytes, before: Mapping[str, str], status: int = 200
) -> Redirected | None:
    """`request` as one for another path: a GET without a body (a HEAD stays one). None: too many."""
    depth = request.depth + 1 if isinstance(request, Redirected) else 1
    if depth > REDIRECTS:
        return None
    new = request.for_path(Redirected, path)
    new.method = "HEAD" if request.method == "HEAD" else "GET"
    new.url, new.url_query, new.query = request.path, request.query, query
    of_body = (b"content-length", b"content-type")
    new.headers = tuple(field for field in request.headers if field[0] not in of_body)
    new.length = 0
    new.expect_continue = False
    new.depth, new.before, new.status = depth, dict(before), status
    return new
