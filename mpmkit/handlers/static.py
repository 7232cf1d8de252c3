"""Files of the document root, as httpd's default handler serves them.

A file's response is prepared once for each version of the file: its header lines, and for a small
file its bytes. Each request then costs one `stat`, which tells whether the version is still the
same. A change of size, time or inode makes a new version; nobody sees an old page.

Files of up to MMAP_LIMIT are mapped into memory (EnableMMAP), as by httpd. httpd maps a file for one
request and unmaps it; here the mapping stays with the version from the second request on, so that a
100 KB file costs no `open`, no `read` and no `close`, and its bytes are copied once, by the kernel,
from the page cache to the socket. All children map the same pages: it is no memory of their own.
What is mapped may be cut short by somebody. Whoever reads beyond the new end in memory is killed by
SIGBUS; the kernel, which reads on our behalf in `sendmsg`, gets an error instead. So the bytes of a
mapping are never looked at here, and a connection that would look at them (TLS, a filter) has the file
read, as before.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.http.messages import (
    METHODS,
    FileBody,
    Request,
    Response,
    http_date,
    page,
    parse_http_date,
    whole_number,
)

if TYPE_CHECKING:
    from mpmkit.config.directives import Directives
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

SMALL = 65536  # bytes of a file that are kept in memory with its version
VERSIONS_KEPT = 256  # files whose versions are remembered, at most SMALL bytes each
MMAP_LIMIT = (
    4 << 20
)  # bytes of the largest file that is mapped; httpd maps larger ones piece by piece
MAPPINGS_KEPT = 64  # files that stay mapped: each is an open descriptor, too, before Python 3.13
MAPPED_KEPT = 64 << 20  # bytes of them in all

ALLOW = b"Allow: GET,POST,OPTIONS,HEAD,TRACE\r\n"

MANY = 1 << 62  # no limit
SETTLED = (
    60  # seconds after a file's change within which its date is too coarse to tell versions by
)
BOUNDARY = os.urandom(8).hex().encode()  # the same in all children: they are forked later
PIECE = 65536  # bytes of a large file's range that are read at a time

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
                of nothing else; nothing: files have none
    ranges, overlaps, reversals     MaxRanges, MaxRangeOverlaps, MaxRangeReversals: a request that asks
                for more gets the whole file, which is less work; ranges 0: there are none
    sendfile, mmap  EnableSendfile, EnableMMAP: how a large file is sent; with both, by sendfile
    """

    etag: tuple[str, ...] = ("MTime", "Size")
    ranges: int = 200
    overlaps: int = 20
    reversals: int = 20
    sendfile: bool = False
    mmap: bool = True

    @classmethod
    def of(cls, directives: Directives) -> FileOptions:
        most = (directives.MaxRanges, directives.MaxRangeOverlaps, directives.MaxRangeReversals)
        ranges, overlaps, reversals = (MANY if number < 0 else number for number in most)
        return cls(
            directives.FileETag,
            ranges,
            overlaps,
            reversals,
            directives.EnableSendfile,
            directives.EnableMMAP,
        )


DEFAULTS = FileOptions()


def signature_of(st: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one version of a file from the next. The time of the inode's change is the part that
    nobody can set back: a copy with its old modification time is still another version."""
    return (st.st_mtime_ns, st.st_ctime_ns, st.st_size, st.st_ino)


class Version:
    """One version of one file, and the responses made for it.

    get     the whole of a small file
    mapped  the whole of a file that stays mapped; the body is a memoryview of the mapping
    asked   somebody has asked for the whole of it before
    """

    __slots__ = (
        "after",
        "asked",
        "etag",
        "fields",
        "filename",
        "get",
        "head",
        "mapped",
        "mtime",
        "sendfile",
        "signature",
        "size",
    )

    def __init__(
        self,
        filename: str,
        st: os.stat_result,
        now: float,
        media_type: str | None,
        options: FileOptions = DEFAULTS,
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
            b"bytes" if options.ranges else b"none",
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
        except (OSError, ValueError):  # no file system for it; or the file is shorter by now
            return
        self.mapped = self._whole(memoryview(mapping))

    def _whole(self, body: memoryview | FileBody) -> Response:
        length = b"Content-Length: %d\r\n" % self.size
        return Response(200, self.fields + length, self.after, body, self.size)

    def _opened(self, start: int, count: int) -> FileBody:
        fd = os.open(self.filename, os.O_RDONLY | os.O_CLOEXEC)
        return FileBody(fd, start, count, self.sendfile)


# Python keeps a copy of a mapping's descriptor, unless it is told that nobody will resize the mapping.
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
    """The handler. `root` is the document root, `index` the DirectoryIndex names. With a `prefix`, an
    Alias's: URL paths begin with it, and `root` is what it stands for.

    handler_of(path) is the handler that a path has; it is asked about a directory's index file,
    which may be a script, or nobody's to see.
    """

    # UseCanonicalName On: whose name redirects tell, instead of that the client asked for.
    canonical: bytes | None = None
    # AddDefaultCharset, told of text/html and text/plain without a charset of their own.
    charset = ""
    # mod_autoindex is loaded: it is who answers for a directory without an index file.
    listings = False
    errors: ErrorLog | None = None
    handler_of: Callable[[str], Callable[[Request, Connection], Response]] | None = None

    def __init__(
        self,
        root: str,
        index: tuple[str, ...] = ("index.html",),
        types: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        prefix: str = "",
        options: FileOptions = DEFAULTS,
    ) -> None:
        self.root = os.path.realpath(root)
        self._skip = len(prefix.rstrip("/"))
        self.index = index
        self.types = {**TYPES, **(types or {})}
        self.options = options
        self._clock = clock
        self._versions: dict[str, Version] = {}
        self._maps = options.mmap and not options.sendfile

    def __call__(self, request: Request, conn: Connection) -> Response:
        version = self._versions.get(request.path)
        if version is not None:
            try:
                st = os.stat(version.filename)
            except OSError:
                version = None
            else:
                if signature_of(st) != version.signature:
                    version = None
            if version is None:
                self._versions.pop(request.path, None)
        if version is None:
            found = self.find(request, conn)
            if isinstance(found, Response):
                return found
            version = found
        try:
            match request.method:
                case "GET" | "POST" if not request.conditional:
                    if version.get is None:
                        self._before_large(version)
                    return version.response(conn)
                case "HEAD" if not request.conditional:
                    return version.head
                case "GET" | "HEAD" | "POST":
                    return self._conditional(request, version, conn)
                case "OPTIONS":
                    return Response(200, ALLOW + b"Content-Length: 0\r\n", version.after)
                case _:
                    return self._not_allowed(request, conn)
        except OSError as error:
            return self._refused(error, request, conn)

    def _before_large(self, version: Version) -> None:
        """A whole file that is not kept in memory is asked for: map it, if it is worth it.

        The first time it is not: a mapping costs more than to read the file once. A version that is not
        remembered is always asked for the first time.
        """
        if not version.asked:
            version.asked = True
        elif version.mapped is None and self._maps and version.size <= MMAP_LIMIT:
            mapped = [other for other in list(self._versions.values()) if other.mapped is not None]
            if len(mapped) >= MAPPINGS_KEPT or (
                sum(other.size for other in mapped) + version.size > MAPPED_KEPT
            ):
                for other in mapped:
                    other.mapped = None
            version.map()

    def _conditional(self, request: Request, version: Version, conn: Connection) -> Response:
        """The answer to a request with a Range or an If-… header."""
        now = self._clock()
        if (refusal := _precondition(request, version, now)) is not None:
            return refusal
        if request.method == "HEAD":
            return version.head
        return _ranged(request, version, self.options, now, conn) or version.response(conn)

    def find(self, request: Request, conn: Connection) -> Version | Response:
        """The file that the request's path names, or the response that says why there is none."""
        path = request.path
        if request.method not in ("GET", "HEAD", "POST", "OPTIONS"):
            return self._not_allowed(request, conn)
        if not path.startswith("/"):
            return page(404, request.method)
        filename = self.root + path[self._skip :].rstrip("/")
        try:
            st = os.stat(filename)
            if stat.S_ISDIR(st.st_mode):
                if not path.endswith("/"):
                    return moved(request, conn, quote_path(path) + b"/", self.canonical)
                name, filename, st = self._index_of(filename)
                handler = self.handler_of(path + name) if self.handler_of is not None else self
                if handler is not self:
                    return handler(_for_path(request, path + name), conn)
            elif path.endswith("/"):
                return page(404, request.method)
            real = os.path.realpath(filename)
            if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
                text = f"a symbolic link leads out of {self.root}: {filename}"
                return self._forbidden("AH00037", text, request, conn)
            if not stat.S_ISREG(st.st_mode) or not os.access(filename, os.R_OK):
                text = f"no file that this server may read: {filename}"
                return self._forbidden("AH00132", text, request, conn)
            now = self._clock()
            version = Version(filename, st, now, self._media_type(filename), self.options)
        except (OSError, ValueError) as error:
            return self._refused(error, request, conn)
        # A file that has just changed may change again within the same tick of its clock.
        if now - st.st_ctime >= 1:
            if len(self._versions) >= VERSIONS_KEPT:
                self._versions.clear()
            self._versions[path] = version
        return version

    def _media_type(self, filename: str) -> str | None:
        kind = self.types.get(os.path.splitext(filename)[1].lower())
        if self.charset and kind in ("text/html", "text/plain"):
            return f"{kind}; charset={self.charset}"
        return kind

    def _index_of(self, directory: str) -> tuple[str, str, os.stat_result]:
        for name in self.index:
            filename = os.path.join(directory, name)
            try:
                return name, filename, os.stat(filename)
            except FileNotFoundError:
                continue
        raise NoIndex(directory)

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
        """403, and the operator is told why, as by httpd."""
        if self.errors is not None:
            self.errors.write("error", why, ah=ah, module=module, client=conn.peer)
        return page(403, request.method)

    def _not_allowed(self, request: Request, conn: Connection) -> Response:
        """405 for a method that files don't have, 501 for one that nobody has."""
        if request.method in METHODS:
            return page(405, extra=ALLOW)
        if self.errors is not None:
            text = f"no known method: {request.log_line}"
            self.errors.write("error", text, ah="AH00135", module="core", client=conn.peer)
        return page(501, extra=ALLOW)


def _for_path(request: Request, path: str) -> Request:
    """The same request, for another path: whoever answers it must not find the directory again."""
    other = Request()
    for name in Request.__slots__:
        setattr(other, name, getattr(request, name))
    other.path = path
    return other


def read_types(file: str) -> dict[str, str]:
    """A table of media types, as TypesConfig names: `text/html  html htm` a line. Raises OSError."""
    types: dict[str, str] = {}
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            media_type, *extensions = line.partition("#")[0].split() or [""]
            types |= {f".{extension.lower()}": media_type for extension in extensions}
    return types


def moved(
    request: Request, conn: Connection, path: bytes, canonical: bytes | None = None
) -> Response:
    """301 to another path of the host that the client named (or of `canonical`), with its query."""
    host = canonical or request.get(b"host") or b"localhost"
    host = host.removesuffix(b":443" if conn.scheme == "https" else b":80")
    query = b"?" + request.query if request.query else b""
    start = b"Location: %b://" % conn.scheme.encode()
    return page(301, request.method, extra=b"%b%b%b%b\r\n" % (start, host, path, query))


def quote_path(path: str) -> bytes:
    """A decoded path as a link may hold it."""
    return b"".join(_QUOTED[byte] for byte in os.fsencode(path))


_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-._~$!&'()*+,;=:@"
_QUOTED = [bytes([byte]) if byte in _PLAIN else b"%%%02x" % byte for byte in range(256)]


def _precondition(request: Request, version: Version, now: float) -> Response | None:
    """The answer to If-Match, If-None-Match and the dates (RFC 9110, 13.2.2); None: send the file."""
    match = request.get(b"if-match")
    length = b"Content-Length: %d\r\n" % (version.size if request.method == "HEAD" else 0)
    if match is not None:
        if not _etag_in(match, version.etag, strong=True):
            return Response(412, version.fields + length, version.after)
    else:
        since = request.get(b"if-unmodified-since")
        when = parse_http_date(since) if since else None
        if when is not None and version.mtime > when:
            return Response(412, version.fields + length, version.after)
    none_match = request.get(b"if-none-match")
    if none_match is not None:
        unchanged = _etag_in(none_match, version.etag, strong=False)
    else:
        since = request.get(b"if-modified-since")
        when = parse_http_date(since) if since else None
        # A date that is still to come is nobody's Last-Modified.
        unchanged = when is not None and version.mtime <= when <= now
    if unchanged and request.method in ("GET", "HEAD"):
        return Response(304, version.fields, b"\r\n")
    if unchanged and none_match is not None:
        return Response(412, version.fields + b"Content-Length: 0\r\n", version.after)
    return None


def _ranged(
    request: Request, version: Version, options: FileOptions, now: float, conn: Connection
) -> Response | None:
    """The answer to Range (RFC 9110, 14.2); None: send the whole file. Raises OSError."""
    header = request.get(b"range")
    if (
        header is None
        or request.method == "POST"
        or not version.size
        or not _if_range(request, version, now)
    ):
        return None
    size = version.size
    ranges = parse_ranges(header, size, options)
    if ranges is None:
        return None
    if not ranges:
        return page(416)
    if len(ranges) == 1:
        start, end = ranges[0]
        count = end + 1 - start
        fields = version.fields + b"Content-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n" % (
            count,
            start,
            end,
            size,
        )
        return Response(206, fields, version.after, version.part(start, count, conn), count)
    kind = version.after.replace(b"Content-Type", b"Content-type").removesuffix(b"\r\n")
    heads = [
        b"\r\n--%b\r\n%bContent-range: bytes %d-%d/%d\r\n\r\n" % (BOUNDARY, kind, start, end, size)
        for start, end in ranges
    ]
    last = b"\r\n--%b--\r\n" % BOUNDARY
    length = sum(map(len, heads)) + sum(end + 1 - start for start, end in ranges) + len(last)
    fields = version.fields + b"Content-Length: %d\r\n" % length
    after = b"Content-Type: multipart/byteranges; boundary=%b\r\n\r\n" % BOUNDARY
    return Response(206, fields, after, _parts(version, heads, ranges, last), length)


def _parts(
    version: Version, heads: list[bytes], ranges: list[tuple[int, int]], last: bytes
) -> Iterator[bytes]:
    """The body of a multipart/byteranges response, a piece at a time."""
    with open(version.filename, "rb", buffering=0) as file:
        for head, (start, end) in zip(heads, ranges, strict=True):
            yield head
            while start <= end:
                data = os.pread(file.fileno(), min(PIECE, end + 1 - start), start)
                if not data:
                    raise OSError(f"{version.filename} became shorter while it was sent")
                start += len(data)
                yield data
    yield last


def parse_ranges(
    header: bytes, size: int, options: FileOptions = DEFAULTS
) -> list[tuple[int, int]] | None:
    """First and last bytes that a Range header asks for; neighbours that touch are joined.

    []: none of them is in the file. None: the header is to be ignored, because it is no valid one
    or asks for more work than the whole file.
    """
    unit, _, text = header.partition(b"=")
    if unit.lower() != b"bytes":
        return None
    asked = [one for one in text.split(b",") if one.strip()]
    if not asked or len(asked) > options.ranges:
        return None
    ranges: list[tuple[int, int]] = []
    overlaps = reversals = 0
    for one in asked:
        first, dash, last = one.strip().partition(b"-")
        if not dash or not (first or last) or not (first + last).isdigit():
            return None
        low, high = whole_number(first), whole_number(last)
        if low is None or high is None:
            return None
        if first:
            start, end = low, high if last else size - 1
            if last and end < start:
                return None
        else:
            if not high:
                return None  # the last 0 bytes: no range at all
            start, end = max(0, size - high), size - 1
        if start >= size:
            continue
        end = min(end, size - 1)
        if ranges:
            before, until = ranges[-1]
            reversals += start < before
            if start <= until + 1 and end + 1 >= before:
                overlaps += 1
                start, end = min(start, before), max(end, until)
                ranges.pop()
        ranges.append((start, end))
    if overlaps > options.overlaps or reversals > options.reversals:
        return None
    if sum(end + 1 - start for start, end in ranges) > size:
        return None
    return ranges


def _if_range(request: Request, version: Version, now: float) -> bool:
    """Is If-Range, if there is one, about this very version? Weak tags are about none, and no more is
    the date of a file that has just changed: it may have had two versions within that second."""
    validator = request.get(b"if-range")
    if validator is None:
        return True
    if validator.endswith(b'"'):
        return validator == version.etag and not validator.startswith(b"W/")
    return parse_http_date(validator) == version.mtime and now - version.mtime >= SETTLED


def _etag_in(header: bytes, etag: bytes, *, strong: bool) -> bool:
    """Is `etag` among the listed ones? Strong comparison never matches a weak tag."""
    if header.strip() == b"*":
        return True
    if not etag:
        return False
    listed = [tag.strip() for tag in header.split(b",")]
    if strong:
        return not etag.startswith(b"W/") and etag in listed
    return etag.removeprefix(b"W/") in [tag.removeprefix(b"W/") for tag in listed]
