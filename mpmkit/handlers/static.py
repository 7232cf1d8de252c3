"""Files of the document root, as httpd's default handler serves them.

A file's response is prepared once for each version of the file (`CachedFile`): its header lines, and for a
small file its bytes. Each request then costs one `stat`, which shows whether the version is still the same.

Files of up to MMAP_LIMIT stay mapped with their version from the second request on (EnableMMAP); httpd maps
a file for one request. Such a file may be truncated, and a process that reads beyond the new end is killed by
SIGBUS; the kernel, which reads for `sendmsg`, reports an error instead. So the bytes of a mapping are never
read here, and a connection that has to read them (TLS, a filter) reads the file.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mpmkit.config.access import METHODS
from mpmkit.config.alias import expression, quote_path, substituted
from mpmkit.config.values import etag_parts
from mpmkit.handlers.conditional import precondition, ranged
from mpmkit.handlers.sections import OF_SECTIONS, within
from mpmkit.http.messages import FileBody, Page, Request, Response, http_date, page
from mpmkit.http.target import OwnName

if TYPE_CHECKING:
    from mpmkit.handlers.router import Router
    from mpmkit.server.connection import Connection

SMALL = 65536  # bytes of a file that are kept in memory with its version
FILES_KEPT = 256  # files that are remembered, at most SMALL bytes of each
MMAP_LIMIT = 4 << 20  # bytes of the largest file that is mapped; httpd maps larger ones in pieces
MAPPINGS_KEPT = 64  # files that stay mapped: each is an open descriptor, too, before Python 3.13
MAPPED_KEPT = 64 << 20  # bytes of them in all

LINK = "Symbolic link not allowed or link target not accessible: {}"
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


def signature_of(st: os.stat_result) -> tuple[int, int, int, int]:
    """What differs between two versions of a file: a copy may have the old mtime, but not the ctime."""
    return (st.st_mtime_ns, st.st_ctime_ns, st.st_size, st.st_ino)


class CachedFile:
    """One version of one file, and the responses made for it."""

    __slots__ = (
        "after", "asked", "etag", "fields", "filename", "get", "head", "mapped", "maps", "mtime",
        "sendfile", "signature", "size",
    )  # fmt: skip

    def __init__(self, filename: str, st: os.stat_result, files: StaticFiles) -> None:
        values, kind = files.values, files.type_of(files.values, filename)
        self.filename = filename
        self.signature = signature_of(st)
        self.size = st.st_size
        self.mtime = int(st.st_mtime)
        # Weak while the file may still change within the clock's grain (httpd: ap_make_etag).
        weak = "W/" if files.clock() - st.st_mtime < 1 else ""
        numbers = {"INode": st.st_ino, "Size": st.st_size, "MTime": st.st_mtime_ns // 1000}
        parts = etag_parts(values["FileETag"])
        made_of = "-".join(f"{numbers[name]:x}" for name in numbers if name in parts)
        self.etag = f'{weak}"{made_of}"'.encode() if made_of else b""
        self.fields = b"Last-Modified: %b\r\n%bAccept-Ranges: %b\r\n" % (
            http_date(st.st_mtime).encode(),
            b"ETag: %b\r\n" % self.etag if self.etag else b"",
            b"bytes" if files.ranges else b"none",
        )
        charset = values["AddDefaultCharset"]
        if charset and kind in ("text/html", "text/plain"):
            kind = f"{kind}; charset={charset}"
        self.after = b"Content-Type: %b\r\n\r\n" % kind.encode() if kind else b"\r\n"
        # httpd leaves the length out of a HEAD's answer when it is 0.
        length = b"Content-Length: %d\r\n" % self.size
        self.head = Response(200, self.fields + (length if self.size else b""), self.after)
        self.get: Response | None = None  # the whole of a small file
        self.mapped: Response | None = None  # of one that stays mapped: a memoryview of the mapping
        self.asked = False  # the whole of it has been requested before
        self.sendfile = values["EnableSendfile"]
        self.maps = values["EnableMMAP"] and not self.sendfile
        if self.size <= SMALL:
            with open(filename, "rb", 0) as file:  # a buffer would take 128 KiB
                body = file.read(SMALL + 1)
            if len(body) == self.size:
                self.get = self._whole(body)

    def response(self, conn: Connection) -> Response:
        """The whole file. Raises OSError when it can't be opened any more."""
        if self.get is not None:
            return self.get
        return (self.mapped if conn.direct else None) or self._whole(self._opened(0, self.size))

    def part(self, start: int, count: int, conn: Connection) -> bytes | memoryview | FileBody:
        """`count` bytes from `start`. Raises OSError when the file can't be opened any more."""
        kept = self.get or (self.mapped if conn.direct else None)
        if kept is not None:
            assert isinstance(kept.body, (bytes, memoryview))
            return kept.body[start : start + count]
        return self._opened(start, count)

    def map(self) -> None:
        """Map the file into memory for the requests to come, if it can be."""
        with suppress(OSError, ValueError), open(self.filename, "rb") as file:
            # The file system may be unable to; or the file is shorter by now.
            mapping = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ, **_FIXED)
            self.mapped = self._whole(memoryview(mapping))

    def _whole(self, body: bytes | memoryview | FileBody) -> Response:
        length = b"Content-Length: %d\r\n" % self.size
        return Response(200, self.fields + length, self.after, body, self.size)

    def _opened(self, start: int, count: int) -> FileBody:
        fd = os.open(self.filename, os.O_RDONLY | os.O_CLOEXEC)
        return FileBody(fd, start, count, self.sendfile)


# Python keeps a copy of a mapping's descriptor, unless the mapping is declared never to be resized.
_FIXED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class NoIndex(FileNotFoundError):
    """A directory in which there is no DirectoryIndex."""


class StaticFiles:
    """The handler of the document root, or by `variant` of an Alias: of the paths of its `mapping`."""

    def __init__(self, site: Router, types: dict[str, str] = TYPES, listings: bool = False) -> None:
        """site: it knows the handler of a directory's index file: it may be a script, or denied. types:
        TypesConfig's. listings: mod_autoindex is loaded, it answers for what has no index file."""
        self._site, d = site, site.directives
        assert d.DocumentRoot is not None
        # With its links: rules are written for names.
        root = tidy(d.DocumentRoot).rstrip("/") or "/"
        self.mapping = UrlMapping("DocumentRoot", "", root)
        # What directives say here, by attribute.
        self.values: Mapping[str, Any] = {name: getattr(d, name) for name in OF_SECTIONS}
        self.types, self.ranges = types, d.MaxRanges
        self._own = OwnName.of(d.ServerName, d.UseCanonicalName == "On")
        self._listings = listings
        self.clock: Callable[[], float] = time.time
        self._cached: dict[str, CachedFile] = {}

    def variant(self, mapping: UrlMapping, values: Mapping[str, Any]) -> StaticFiles:
        """The same handler for an Alias, or with what directives say there, by attribute."""
        other = StaticFiles.__new__(StaticFiles)  # not by `copy`, which writes on ten pages
        other._site, other.types, other._listings = self._site, self.types, self._listings
        other.ranges, other._own, other.clock = self.ranges, self._own, self.clock
        other.mapping, other.values, other._cached = mapping, values, {}
        return other

    def type_of(self, values: Mapping[str, Any], filename: str) -> str | None:
        """The media type of a file, for which directives say `values`."""
        return values["ForceType"] or by_extension(filename, values["types"], self.types)

    def __call__(self, request: Request, conn: Connection) -> Response:
        file = self._cached.get(request.path)
        try:
            if file is not None and signature_of(os.stat(file.filename)) != file.signature:
                file = None
        except OSError:
            file = None
        if file is None:
            self._cached.pop(request.path, None)
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
                    now = self.clock()
                    answer = precondition(request, file, now)
                    if request.method == "HEAD":
                        return answer or file.head
                    answer = answer or ranged(request, file, self.ranges, now, conn)
                    return answer or file.response(conn)
                case "OPTIONS":
                    return Response(200, ALLOW + b"Content-Length: 0\r\n", file.after)
                case _:
                    return self._not_allowed(request, conn)
        except OSError as error:
            return self._refused(error, request, conn)

    def _before_large(self, file: CachedFile) -> None:
        """Map a file that is asked for again: a mapping costs more than to read the file once."""
        if not file.asked:
            file.asked = True
        elif file.mapped is None and file.maps and file.size <= MMAP_LIMIT:
            mapped = [other for other in list(self._cached.values()) if other.mapped is not None]
            total = sum(other.size for other in mapped) + file.size
            if len(mapped) >= MAPPINGS_KEPT or total > MAPPED_KEPT:
                for other in mapped:
                    other.mapped = None
            file.map()

    def find(self, request: Request, conn: Connection) -> CachedFile | Response:
        """The file that the request's path names, or the response that refuses it."""
        path, values, refuse = request.path, self.values, self._site.refuse
        filename, root = self.mapping.file(path).rstrip("/") or "/", self.mapping.root
        known = request.method in ("GET", "HEAD", "POST", "OPTIONS")
        if not path.startswith("/") or not (known or os.path.isdir(filename)):
            return page(404, request.method) if known else self._not_allowed(request, conn)
        try:
            st = os.stat(filename)
            if stat.S_ISDIR(st.st_mode):
                if not path.endswith("/"):
                    if not values["DirectorySlash"]:
                        raise NoIndex(filename)
                    return self.moved(301, quote_path(path) + b"/", request, conn)
                url, filename, st = self._index_of(path)
                handler = self._site.decide(url)
                # An earlier name may come later: only the first is remembered for the directory's path.
                first = path + values["DirectoryIndex"][0]
                if handler is not self or url != first or not known:
                    return answered_by(handler, request.for_path(Request, url), conn)
            elif path.endswith("/"):
                return page(404, request.method)
            if leads_out(filename, root):
                text = f"a symbolic link leads out of {root}: {filename}"
                return refuse(403, text, request, conn, ah="AH00037")
            if not stat.S_ISREG(st.st_mode) or not os.access(filename, os.R_OK):
                text = f"not a file that the server may read: {filename}"
                return refuse(403, text, request, conn, ah="AH00132")
            file = CachedFile(filename, st, self)
        except (OSError, ValueError) as error:
            if not known:
                return self._not_allowed(request, conn)
            if isinstance(error, FileNotFoundError) and (link := dangling(filename)):
                return refuse(403, LINK.format(link), request, conn, ah="AH00037")
            return self._refused(error, request, conn)
        # A file that has just changed may change again within the same tick of its clock.
        if self.clock() - st.st_ctime >= 1:
            if len(self._cached) >= FILES_KEPT:
                self._cached.clear()
            self._cached[path] = file
        return file

    def _index_of(self, path: str) -> tuple[str, str, os.stat_result]:
        """The first DirectoryIndex that exists: path (`/x` is the site's), file. Raises NoIndex."""
        for name in self.values["DirectoryIndex"]:
            url = name if name.startswith("/") else path + name
            url = tidy(url) if "/." in url else url
            filename = self._site.file(url)
            try:
                return url, filename, os.stat(filename)
            except (FileNotFoundError, NotADirectoryError):
                continue
        raise NoIndex(self.mapping.file(path).rstrip("/"))

    def moved(self, status: int, url: bytes, request: Request, conn: Connection) -> Response:
        """A redirect. A path gets this server's name, and a URL without a query the request's."""
        if url.startswith(b"/"):
            own = self._own.url(request.get(b"host"), conn.scheme)
            url = own.encode("latin-1", "replace") + url
        if request.query and b"?" not in url:
            url += b"?" + request.query
        return page(status, request.method, extra=b"Location: %b\r\n" % url)

    def _refused(self, error: Exception, request: Request, conn: Connection) -> Response:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
        if missing and request.method == "OPTIONS":  # asks for methods, not for a file
            return Response(200, ALLOW + b"Content-Length: 0\r\n", b"\r\n")
        if isinstance(error, NoIndex) and self._listings:
            names = ", ".join(self.values["DirectoryIndex"])
            text = f"none of {names} in {error}/, and directories are not listed"
            where = {"ah": "AH01276", "module": "autoindex"}
            return self._site.refuse(403, text, request, conn, **where)
        if missing:
            return page(404, request.method)
        ah = "AH00036" if getattr(error, "errno", 0) == errno.ENAMETOOLONG else "AH00035"
        return self._site.refuse(403, f"no access to {request.path}: {error}", request, conn, ah=ah)

    def _not_allowed(self, request: Request, conn: Connection) -> Response:
        """405 for a method that files don't have, 501 for an unknown one."""
        if request.method in METHODS:
            return page(405, extra=ALLOW)
        self._site.refuse(501, f"unknown method: {request.log_line}", request, conn, ah="AH00135")
        return page(501, extra=ALLOW)


def answered_by(handler: Callable, request: Request, conn: Connection) -> Response:
    """The answer to a request that the server made of the client's; an error page is that one's, too."""
    answer: Response = handler(request, conn)
    if type(answer) is Page:
        answer.request = answer.request or request
    return answer


def read_types(file: str) -> dict[str, str]:
    """A table of media types, as TypesConfig names: `text/html  html htm` a line. Raises OSError."""
    types: dict[str, str] = {}
    with open(file, "rb") as lines:  # a text's decoder would be looked up at each restart
        for line in lines:
            media_type, *found = line.partition(b"#")[0].decode("utf-8", "replace").split() or [""]
            types |= {f".{extension.lower()}": media_type for extension in found}
    return types


# -- names of files. A name keeps its symbolic links: sections are written for names, and a link that is
# swapped while the server runs (`current` → `releases/2`) leads to the new files at once: nothing is cached.


def tidy(name: str) -> str:
    """An absolute name without `//`, `/./` and `/../`, as rules have it; a slash at its end stays."""
    whole = os.path.abspath(name).replace("//", "/")  # POSIX leaves two at the beginning
    return whole + "/" if name.endswith("/") and whole != "/" else whole


class UrlMapping(NamedTuple):
    """A part of the site: the URL paths below `prefix` are the files below `root`. With a `pattern`
    (AliasMatch): the paths that it matches are what `root` becomes with its groups."""

    kind: str  # DocumentRoot, Alias, ScriptAlias or WSGIScriptAlias
    prefix: str
    root: str
    pattern: re.Pattern[bytes] | None = None

    @classmethod
    def of(cls, kind: str, path: str, root: str) -> Self:
        """That of a line."""
        if kind.endswith("Match"):
            return cls(kind.removesuffix("Match"), "", root, expression(path))
        return cls(kind, path, tidy(root))

    def holds(self, path: str) -> bool:
        """Does `path` begin with the prefix, or match the pattern?"""
        if self.pattern is not None:
            return self.pattern.search(os.fsencode(path)) is not None
        return within(path, self.prefix)

    def file(self, path: str) -> str:
        """The file of a path. Only a doubled slash goes: as in httpd, `Alias /a/ /srv/b` makes /a/x /srv/bx."""
        rest = path[len(self.prefix) :]
        return self.root + (rest[1:] if self.root.endswith("/") and rest.startswith("/") else rest)

    def at(self, path: str) -> Self:
        """For one path: a pattern is the Alias that does the same to this path."""
        if self.pattern is None:
            return self
        found = self.pattern.search(os.fsencode(path))
        name = tidy(substituted(self.root, found) if found else "")
        alike = len(os.path.commonprefix((path[::-1], name[::-1])))  # noqa: RUF071 - up to any character
        prefix, root = path[: len(path) - alike], name[: len(name) - alike] or "/"
        return self._replace(prefix=prefix, root=root, pattern=None)


def by_extension(filename: str, *tables: Mapping[str, str]) -> str | None:
    """What the first of `tables` has for a file name's extensions, in any case: of several, the last that one
    knows (mod_mime: `page.html.en` is text/html, `a.cgi.bak` a program)."""
    names = ["." + ext for ext in os.path.basename(filename).lstrip(".").lower().split(".")[:0:-1]]
    return next((table[name] for name in names for table in tables if name in table), None)


def leads_out(filename: str, root: str) -> bool:
    """A symbolic link in a file's name leads out of `root`, whose own links are followed."""
    real = os.path.realpath(filename)
    return real != filename and not within(real, os.path.realpath(root).rstrip("/"))


def dangling(filename: str) -> str:
    """The link in a missing file's path that leads nowhere, "" if there is no such link."""
    while not os.path.lexists(filename):
        filename = os.path.dirname(filename)
    return "" if os.path.exists(filename) else filename
