"""Files of the document root, as httpd's default handler serves them.

A file's response is prepared once for each version of the file: its header lines, and for a small
file its bytes. Each request then costs one `stat`, which tells whether the version is still the
same. A change of size, time or inode makes a new version; nobody sees an old page.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpmkit.http.messages import FileBody, Request, Response, http_date, page, parse_http_date

if TYPE_CHECKING:
    from mpmkit.connection import Connection

SMALL = 65536  # bytes of a file that are kept in memory with its version
VERSIONS_KEPT = 256  # files whose versions are remembered, at most SMALL bytes each

ALLOW = b"Allow: GET,POST,OPTIONS,HEAD,TRACE\r\n"

# The media types that a lab's pages need; TypesConfig names a fuller list.
TYPES = {
    ".html": "text/html", ".htm": "text/html", ".txt": "text/plain", ".css": "text/css",
    ".js": "text/javascript", ".json": "application/json", ".xml": "application/xml",
    ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
    ".gif": "image/gif", ".webp": "image/webp", ".ico": "image/vnd.microsoft.icon",
    ".pdf": "application/pdf", ".zip": "application/zip", ".gz": "application/gzip",
    ".wasm": "application/wasm", ".mp4": "video/mp4", ".woff2": "font/woff2",
    ".csv": "text/csv", ".md": "text/markdown", ".py": "text/x-python",
}  # fmt: skip


class Version:
    """One version of one file, and the responses made for it."""

    __slots__ = ("after", "etag", "fields", "filename", "get", "head", "mtime", "signature", "size")

    def __init__(
        self, filename: str, st: os.stat_result, now: float, media_type: str | None
    ) -> None:
        self.filename = filename
        self.signature = (st.st_mtime_ns, st.st_size, st.st_ino)
        self.size = st.st_size
        self.mtime = int(st.st_mtime)
        # Weak while the file may still change within the clock's grain (httpd: ap_make_etag).
        weak = "W/" if now - st.st_mtime < 1 else ""
        self.etag = f'{weak}"{st.st_size:x}-{st.st_mtime_ns // 1000:x}"'.encode()
        self.fields = b"Last-Modified: %b\r\nETag: %b\r\nAccept-Ranges: bytes\r\n" % (
            http_date(st.st_mtime).encode(), self.etag,
        )  # fmt: skip
        self.after = b"Content-Type: %b\r\n\r\n" % media_type.encode() if media_type else b"\r\n"
        # httpd leaves the length out of a HEAD's answer when it is 0.
        length = b"Content-Length: %d\r\n" % self.size
        self.head = Response(200, self.fields + (length if self.size else b""), self.after)
        self.get: Response | None = None
        if self.size <= SMALL:
            with open(filename, "rb") as file:
                body = file.read(SMALL + 1)
            if len(body) == self.size:
                self.get = Response(200, self.fields + length, self.after, body, self.size)

    def response(self) -> Response:
        """The whole file. Raises OSError when it can't be opened any more."""
        if self.get is not None:
            return self.get
        fd = os.open(self.filename, os.O_RDONLY | os.O_CLOEXEC)
        length = b"Content-Length: %d\r\n" % self.size
        return Response(
            200, self.fields + length, self.after, FileBody(fd, 0, self.size), self.size
        )


class StaticFiles:
    """The handler. `root` is the document root, `index` the DirectoryIndex names."""

    def __init__(
        self,
        root: str,
        index: tuple[str, ...] = ("index.html",),
        types: Mapping[str, str] | None = None,
    ) -> None:
        self.root = os.path.realpath(root)
        self.index = index
        self.types = {**TYPES, **(types or {})}
        self._versions: dict[str, Version] = {}

    def __call__(self, request: Request, conn: Connection) -> Response:
        version = self._versions.get(request.path)
        if version is not None:
            try:
                st = os.stat(version.filename)
            except OSError:
                version = None
            else:
                if (st.st_mtime_ns, st.st_size, st.st_ino) != version.signature:
                    version = None
        if version is None:
            found = self.find(request)
            if isinstance(found, Response):
                return found
            version = found
        try:
            match request.method:
                case "GET" | "POST" if not request.conditional:
                    return version.response()
                case "HEAD" if not request.conditional:
                    return version.head
                case "GET" | "HEAD" | "POST":
                    return _conditional(request, version) or (
                        version.head if request.method == "HEAD" else version.response()
                    )
                case "OPTIONS":
                    return Response(200, ALLOW + b"Content-Length: 0\r\n", b"\r\n")
                case _:
                    return page(405, extra=ALLOW)
        except OSError as error:
            return self._refused(error, request)

    def find(self, request: Request) -> Version | Response:
        """The file that the request's path names, or the response that says why there is none."""
        path = request.path
        if not path.startswith("/"):
            return page(404, request.method)
        filename = self.root + path.rstrip("/") if path != "/" else self.root
        try:
            st = os.stat(filename)
            if stat.S_ISDIR(st.st_mode):
                if not path.endswith("/"):
                    return moved(request, request.target.partition(b"?")[0] + b"/")
                filename, st = self._index_of(filename)
            elif path.endswith("/"):
                return page(404, request.method)
            real = os.path.realpath(filename)
            if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
                return page(403, request.method)  # a symbolic link leads out of the document root
            if not stat.S_ISREG(st.st_mode) or not os.access(filename, os.R_OK):
                return page(403, request.method)
            now = time.time()
            version = Version(
                filename, st, now, self.types.get(os.path.splitext(filename)[1].lower())
            )
        except (OSError, ValueError) as error:
            return self._refused(error, request)
        # A file that has just changed may change again within the same tick of its clock.
        if now - st.st_mtime >= 1:
            if len(self._versions) >= VERSIONS_KEPT:
                self._versions.clear()
            self._versions[path] = version
        return version

    def _index_of(self, directory: str) -> tuple[str, os.stat_result]:
        for name in self.index:
            filename = os.path.join(directory, name)
            try:
                return filename, os.stat(filename)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(directory)

    @staticmethod
    def _refused(error: Exception, request: Request) -> Response:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
        return page(404 if missing else 403, request.method)


def moved(request: Request, path: bytes) -> Response:
    """301 to another path of the host that the client named."""
    host = request.get(b"host") or b"localhost"
    return page(301, request.method, extra=b"Location: http://%b%b\r\n" % (host, path))


def _conditional(request: Request, version: Version) -> Response | None:
    """The answer to If-Match, If-None-Match and the dates (RFC 9110, 13.2.2); None: send the file."""
    match = request.get(b"if-match")
    if match is not None:
        if not _etag_in(match, version.etag, strong=True):
            return Response(412, version.fields + b"Content-Length: 0\r\n", version.after)
    else:
        since = request.get(b"if-unmodified-since")
        when = parse_http_date(since) if since else None
        if when is not None and version.mtime > when:
            return Response(412, version.fields + b"Content-Length: 0\r\n", version.after)
    none_match = request.get(b"if-none-match")
    if none_match is not None:
        unchanged = _etag_in(none_match, version.etag, strong=False)
    else:
        since = request.get(b"if-modified-since")
        when = parse_http_date(since) if since else None
        unchanged = when is not None and version.mtime <= when
    if unchanged and request.method in ("GET", "HEAD"):
        return Response(304, version.fields, b"\r\n")
    return None


def _etag_in(header: bytes, etag: bytes, *, strong: bool) -> bool:
    """Is `etag` among the listed ones? Strong comparison never matches a weak tag."""
    if header.strip() == b"*":
        return True
    listed = [tag.strip() for tag in header.split(b",")]
    if strong:
        return not etag.startswith(b"W/") and etag in listed
    return etag.removeprefix(b"W/") in [tag.removeprefix(b"W/") for tag in listed]
