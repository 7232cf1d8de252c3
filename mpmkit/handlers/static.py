"""Files of the document root, as httpd's default handler serves them.

A file's response is prepared once for each version of the file: its header lines, and for a small
file its bytes (`CachedFile`). Each request then costs one `stat`, which shows whether the version is
still the same. A change of size, time or inode makes a new version; no client gets an old page.

Files of up to MMAP_LIMIT are mapped into memory (EnableMMAP), as by httpd. httpd maps a file for one
request and unmaps it; here the mapping stays with the version from the second request on, so that a
100 KB file costs no `open`, no `read` and no `close`, and its bytes are copied once, by the kernel,
from the page cache to the socket. All children map the same pages: it is no memory of their own.
A mapped file may be cut short. A process that reads beyond the new end in memory is killed by SIGBUS;
the kernel, which reads on its behalf in `sendmsg`, gets an error instead. So the bytes of a mapping
are never read here, and for a connection that would read them (TLS, a filter) the file is read.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.handlers.conditional import RangeLimits, precondition, ranged
from mpmkit.handlers.names import by_extension, dangling, joined, leads_out
from mpmkit.http.messages import METHODS, FileBody, Page, Request, Response, http_date, page
from mpmkit.http.target import OwnName

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

SMALL = 65536  # bytes of a file that are kept in memory with its version
FILES_KEPT = 256  # files that are remembered, at most SMALL bytes of each
MMAP_LIMIT = 4 << 20  # bytes of the largest file that is mapped; httpd maps larger ones in pieces
MAPPINGS_KEPT = 64  # files that stay mapped: each is an open descriptor, too, before Python 3.13
MAPPED_KEPT = 64 << 20  # bytes of them in all

ALLOW = b"Allow: GET,POST,OPTIONS,HEAD,TRACE\r\n"
UNLIMITED = 1 << 62

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


class FileOptions(NamedTuple):
    """What directives say about every file; defaults are httpd's.

    etag        FileETag: what a tag is made of, of INode, MTime, Size; Digest: of the file's content, and
                of nothing else; nothing: files have no tag
    limits      of Range: a request that asks for more gets the whole file, which is less work
    sendfile, mmap  EnableSendfile, EnableMMAP: how a large file is sent; with both, by sendfile
    """

    etag: tuple[str, ...] = ("MTime", "Size")
    limits: RangeLimits = RangeLimits()
    sendfile: bool = False
    mmap: bool = True

    @classmethod
    def of(cls, d: Directives) -> FileOptions:
        """The options that directives give."""
        most = (d.MaxRanges, d.MaxRangeOverlaps, d.MaxRangeReversals)
        limits = RangeLimits(*(UNLIMITED if number < 0 else number for number in most))
        return cls(d.FileETag, limits, d.EnableSendfile, d.EnableMMAP)


DEFAULTS = FileOptions()


def signature_of(st: os.stat_result) -> tuple[int, int, int, int]:
    """What differs between two versions of a file. The time of the inode's change cannot be set back: a
    copy with its old modification time is still another version."""
    return (st.st_mtime_ns, st.st_ctime_ns, st.st_size, st.st_ino)


class CachedFile:
    """One version of one file, and the responses made for it.

    get     the whole of a small file
    mapped  the whole of a file that stays mapped; the body is a memoryview of the mapping
    asked   the whole of it has been requested before
    """

    __slots__ = (
        "after", "asked", "etag", "fields", "filename", "get", "head", "mapped", "mtime",
        "sendfile", "signature", "size",
    )  # fmt: skip

    def __init__(
        self,
        filename: str,
        st: os.stat_result,
        now: float,
        media_type: str | None,
        options: FileOptions,
    ) -> None:
        self.filename = filename
        self.signature = signature_of(st)
        self.size = st.st_size
        self.mtime = int(st.st_mtime)
        # Weak while the file may still change within the clock's grain (httpd: ap_make_etag).
        weak = "W/" if now - st.st_mtime < 1 else ""
        numbers = {"INode": st.st_ino, "Size": st.st_size, "MTime": st.st_mtime_ns // 1000}
        made_of = "-".join(f"{numbers[name]:x}" for name in numbers if name in options.etag)
        if "Digest" in options.etag:
            weak, made_of = "", _digest(filename)
        self.etag = f'{weak}"{made_of}"'.encode() if made_of else b""
        self.fields = b"Last-Modified: %b\r\n%bAccept-Ranges: %b\r\n" % (
            http_date(st.st_mtime).encode(),
            b"ETag: %b\r\n" % self.etag if self.etag else b"",
            b"bytes" if options.limits.ranges else b"none",
        )
        self.after = b"Content-Type: %b\r\n\r\n" % media_type.encode() if media_type else b"\r\n"
        # httpd leaves the length out of a HEAD's answer when it is 0.
        length = b"Content-Length: %d\r\n" % self.size
        self.head = Response(200, self.fields + (length if self.size else b""), self.after)
        self.get: Response | None = None
        self.mapped: Response | None = None
        self.asked = False
        self.sendfile = options.sendfile
        if self.size <= SMALL:
            with open(filename, "rb") as file:
                body = file.read(SMALL + 1)
            if len(body) == self.size:
                self.get = Response(200, self.fields + length, self.after, body, self.size)

    def response(self, conn: Connection) -> Response:
        """The whole file. Raises OSError when it can't be opened any more."""
        if self.get is not None:
            return self.get
        mapped = self.mapped  # read once: another thread may drop it
        if mapped is not None and conn.direct:
            return mapped
        return self._whole(self._opened(0, self.size))

    def part(self, start: int, count: int, conn: Connection) -> bytes | memoryview | FileBody:
        """`count` bytes from `start`. Raises OSError when the file can't be opened any more."""
        kept = self.get or (self.mapped if conn.direct else None)
        if kept is not None:
            assert isinstance(kept.body, (bytes, memoryview))
            return kept.body[start : start + count]
        return self._opened(start, count)

    def map(self) -> None:
        """Map the file into memory for the requests to come, if it can be."""
        try:
            with open(self.filename, "rb") as file:
                mapping = mmap.mmap(
                    file.fileno(), self.size, mmap.MAP_SHARED, mmap.PROT_READ, **_NO_DUPLICATE
                )
        except (OSError, ValueError):  # the file system cannot; or the file is shorter by now
            return
        self.mapped = self._whole(memoryview(mapping))

    def _whole(self, body: memoryview | FileBody) -> Response:
        length = b"Content-Length: %d\r\n" % self.size
        return Response(200, self.fields + length, self.after, body, self.size)

    def _opened(self, start: int, count: int) -> FileBody:
        fd = os.open(self.filename, os.O_RDONLY | os.O_CLOEXEC)
        return FileBody(fd, start, count, self.sendfile)


# Python keeps a copy of a mapping's descriptor, unless the mapping is declared never to be resized.
_NO_DUPLICATE: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class NoIndex(FileNotFoundError):
    """A directory in which there is no DirectoryIndex."""


def _digest(filename: str) -> str:
    """A file's content as a tag: SHA-1 in Base64, as httpd has it (FileETag Digest). Raises OSError."""
    import base64  # neither is in a server's memory without need
    import hashlib

    with open(filename, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha1").digest()).decode()


class StaticFiles:
    """The handler. `root` is the document root, `index` the DirectoryIndex names. With the `prefix` of
    an Alias: URL paths begin with it, and `root` is what it stands for.

    handler_of(path) is the handler of a path, file_of(path) its file; they are called for a directory's
    index file, which may be a script, or denied.
    """

    own = OwnName()  # ServerName, for redirects
    # AddDefaultCharset, for text/html and text/plain without a charset of their own.
    charset = ""
    slash = True  # DirectorySlash
    forced: str | None = None  # ForceType
    # mod_autoindex is loaded: it answers for a directory without an index file.
    listings = False
    errors: ErrorLog | None = None
    handler_of: Callable[[str], Callable[[Request, Connection], Response]] | None = None
    file_of: Callable[[str], str] | None = None

    def __init__(
        self,
        root: str,
        index: tuple[str, ...] = ("index.html",),
        types: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        prefix: str = "",
        options: FileOptions = DEFAULTS,
    ) -> None:
        # With its links: rules are written for names.
        self.root = os.path.abspath(root) + ("/" if prefix and root.endswith("/") else "")
        self._skip = len(prefix)
        self.index = index
        self.types = {**TYPES, **(types or {})}
        self.options = options
        self._clock = clock
        self._cached: dict[str, CachedFile] = {}
        self._maps = options.mmap and not options.sendfile

    def variant(self, root: str, prefix: str, said: Mapping[str, Any]) -> StaticFiles:
        """The same handler for an Alias, or with what sections have said of files, by directive."""
        fields = {"EnableSendfile": "sendfile", "EnableMMAP": "mmap", "FileETag": "etag"}
        changes = {fields[name]: said[name] for name in fields if name in said}
        index = said.get("DirectoryIndex", self.index)
        types = {**self.types, **said.get("AddType", {})}
        options = self.options._replace(**changes)
        other = StaticFiles(root, index, types, self._clock, prefix, options)
        other.slash, other.forced = said.get("DirectorySlash", self.slash), said.get("ForceType")
        other.handler_of, other.file_of, other.errors = self.handler_of, self.file_of, self.errors
        other.own = self.own
        other.charset = said.get("AddDefaultCharset", self.charset)
        other.listings = self.listings
        return other

    def __call__(self, request: Request, conn: Connection) -> Response:
        file = self._cached.get(request.path)
        if file is not None:
            try:
                st = os.stat(file.filename)
            except OSError:
                file = None
            else:
                if signature_of(st) != file.signature:
                    file = None
            if file is None:
                self._cached.pop(request.path, None)
        if file is None:
            found = self.find(request, conn)
            if isinstance(found, Response):
                return found
            file = found
        try:
            match request.method:
                case "GET" | "POST" if not request.conditional:
                    if file.get is None:
                        self._before_large(file)
                    return file.response(conn)
                case "HEAD" if not request.conditional:
                    return file.head
                case "GET" | "HEAD" | "POST":
                    return self._conditional(request, file, conn)
                case "OPTIONS":
                    return Response(200, ALLOW + b"Content-Length: 0\r\n", file.after)
                case _:
                    return self._not_allowed(request, conn)
        except OSError as error:
            return self._refused(error, request, conn)

    def _before_large(self, file: CachedFile) -> None:
        """A whole file that is not kept in memory is requested: map it, if it is worth it.

        The first time it is not: a mapping costs more than to read the file once. A version that is not
        remembered is always requested for the first time.
        """
        if not file.asked:
            file.asked = True
        elif file.mapped is None and self._maps and file.size <= MMAP_LIMIT:
            mapped = [other for other in list(self._cached.values()) if other.mapped is not None]
            total = sum(other.size for other in mapped) + file.size
            if len(mapped) >= MAPPINGS_KEPT or total > MAPPED_KEPT:
                for other in mapped:
                    other.mapped = None
            file.map()

    def _conditional(self, request: Request, file: CachedFile, conn: Connection) -> Response:
        """The answer to a request with a Range or an If-… header."""
        now = self._clock()
        if (refusal := precondition(request, file, now)) is not None:
            return refusal
        if request.method == "HEAD":
            return file.head
        return ranged(request, file, self.options.limits, now, conn) or file.response(conn)

    def find(self, request: Request, conn: Connection) -> CachedFile | Response:
        """The file that the request's path names, or the response that refuses it."""
        path = request.path
        known = request.method in ("GET", "HEAD", "POST", "OPTIONS")
        if not path.startswith("/"):
            return page(404, request.method) if known else self._not_allowed(request, conn)
        filename = self._file(path).rstrip("/")
        try:
            st = os.stat(filename)
            if stat.S_ISDIR(st.st_mode):
                if not path.endswith("/"):
                    if not self.slash:
                        raise NoIndex(filename)
                    return moved(request, conn, quote_path(path) + b"/", self.own)
                url, filename, st = self._index_of(path)
                handler = self.handler_of(url) if self.handler_of is not None else self
                # An earlier name may come later: only the first is remembered for the directory's path.
                if handler is not self or url != path + self.index[0] or not known:
                    return _answered_by(handler, request.for_path(Request, url), conn)
            elif known and path.endswith("/"):
                return page(404, request.method)
            if not known:
                return self._not_allowed(request, conn)
            if leads_out(filename, self.root):
                text = f"a symbolic link leads out of {self.root}: {filename}"
                return self._forbidden("AH00037", text, request, conn)
            if not stat.S_ISREG(st.st_mode) or not os.access(filename, os.R_OK):
                text = f"not a file that this server may read: {filename}"
                return self._forbidden("AH00132", text, request, conn)
            now = self._clock()
            file = CachedFile(filename, st, now, self._media_type(filename), self.options)
        except (OSError, ValueError) as error:
            if not known:
                return self._not_allowed(request, conn)
            if isinstance(error, FileNotFoundError) and (link := dangling(filename)):
                text = f"Symbolic link not allowed or link target not accessible: {link}"
                return self._forbidden("AH00037", text, request, conn)
            return self._refused(error, request, conn)
        # A file that has just changed may change again within the same tick of its clock.
        if now - st.st_ctime >= 1:
            if len(self._cached) >= FILES_KEPT:
                self._cached.clear()
            self._cached[path] = file
        return file

    def _media_type(self, filename: str) -> str | None:
        kind = self.forced or by_extension(self.types, filename)
        if self.charset and kind in ("text/html", "text/plain"):
            return f"{kind}; charset={self.charset}"
        return kind

    def _file(self, path: str) -> str:
        return joined(self.root, path[self._skip :])

    def _index_of(self, path: str) -> tuple[str, str, os.stat_result]:
        """The first DirectoryIndex that exists: its URL path, its file. A name that begins with a slash is
        a path of the site. Raises NoIndex."""
        for name in self.index:
            url = name if name.startswith("/") else path + name
            filename = self.file_of(url) if self.file_of is not None else self._file(url)
            try:
                return url, filename, os.stat(filename)
            except (FileNotFoundError, NotADirectoryError):
                continue
        raise NoIndex(self._file(path).rstrip("/"))

    def _refused(self, error: Exception, request: Request, conn: Connection) -> Response:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
        if missing and request.method == "OPTIONS":  # asks for methods, not for a file
            return Response(200, ALLOW + b"Content-Length: 0\r\n", b"\r\n")
        if isinstance(error, NoIndex) and self.listings:
            text = f"none of {', '.join(self.index)} in {error}/, and directories are not listed"
            return self._forbidden("AH01276", text, request, conn, module="autoindex")
        if missing:
            return page(404, request.method)
        ah = "AH00036" if getattr(error, "errno", 0) == errno.ENAMETOOLONG else "AH00035"
        return self._forbidden(ah, f"no access to {request.path}: {error}", request, conn)

    def _forbidden(
        self, ah: str, why: str, request: Request, conn: Connection, module: str = "core"
    ) -> Response:
        """403, with the reason in the error log, as by httpd."""
        if self.errors is not None:
            self.errors.write("error", why, ah=ah, module=module, client=conn.peer)
        return page(403, request.method)

    def _not_allowed(self, request: Request, conn: Connection) -> Response:
        """405 for a method that files don't have, 501 for an unknown one."""
        if request.method in METHODS:
            return page(405, extra=ALLOW)
        if self.errors is not None:
            text = f"unknown method: {request.log_line}"
            self.errors.write("error", text, ah="AH00135", module="core", client=conn.peer)
        return page(501, extra=ALLOW)


def _answered_by(handler: Callable, request: Request, conn: Connection) -> Response:
    """The answer of an index file; an error page is that file's, too."""
    answer: Response = handler(request, conn)
    if type(answer) is Page:
        answer.request = answer.request or request
    return answer


def read_types(file: str) -> dict[str, str]:
    """A table of media types, as TypesConfig names: `text/html  html htm` a line. Raises OSError."""
    types: dict[str, str] = {}
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            media_type, *extensions = line.partition("#")[0].split() or [""]
            types |= {f".{extension.lower()}": media_type for extension in extensions}
    return types


def moved(request: Request, conn: Connection, path: bytes, own: OwnName) -> Response:
    """301 to another path of this server, with the request's query."""
    start = own.url(request.get(b"host"), conn.scheme).encode("latin-1", "replace")
    query = b"?" + request.query if request.query else b""
    return page(301, request.method, extra=b"Location: %b%b%b\r\n" % (start, path, query))


def quote_path(path: str) -> bytes:
    """A decoded path as a link may hold it."""
    return b"".join(_QUOTED[byte] for byte in os.fsencode(path))


_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-._~$!&'()*+,;=:@"
_QUOTED = [bytes([byte]) if byte in _PLAIN else b"%%%02x" % byte for byte in range(256)]
