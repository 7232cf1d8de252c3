"""Conditional requests and ranges of a file (RFC 9110, 13 and 14).

If-Match, If-Unmodified-Since        412: it is not the version that the client means
If-None-Match, If-Modified-Since     304: the client has it already
If-Range, Range                      206: a part of it, or several as multipart/byteranges; 416
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpmkit.http.messages import LONGEST, Request, Response, page, parse_http_date, whole_number

if TYPE_CHECKING:
    from mpmkit.handlers.static import CachedFile
    from mpmkit.server.connection import Connection

SETTLED = 60  # seconds after a file's change within which its date is too coarse for If-Range
BOUNDARY = os.urandom(8).hex().encode()  # the same in all children: they are forked later
PIECE = 65536  # bytes of a large file's range that are read at a time
MOST = 20  # ranges that overlap or touch the one ahead of them
Ranges = list[tuple[int, int]]  # first and last byte of each


def precondition(request: Request, file: CachedFile, now: float) -> Response | None:
    """The answer to If-Match, If-None-Match and the dates; None: go on to Range."""
    status = met(request, file.etag, file.mtime, now)
    if status == 412:
        length = b"Content-Length: %d\r\n" % (file.size if request.method == "HEAD" else 0)
        return Response(412, file.fields + length, file.after)
    return Response(304, file.fields, b"\r\n") if status else None


def met(request: Request, etag: bytes, changed: int, now: float) -> int:
    """412 or 304 by the request's conditions (RFC 9110, 13.2.2), 0 if they are met. changed: in seconds."""
    match, none_match = request.get(b"if-match"), request.get(b"if-none-match")
    if match is not None:
        if not etag_in(match, etag, strong=True):
            return 412
    else:
        when = parse_http_date(request.get(b"if-unmodified-since") or b"")
        if when is not None and changed > when:
            return 412
    if none_match is not None:
        same = etag_in(none_match, etag, strong=False)
    else:
        when = parse_http_date(request.get(b"if-modified-since") or b"")
        # A date in the future is not a Last-Modified of ours: it is ignored.
        same = when is not None and changed <= when <= now
    if same and request.method in ("GET", "HEAD"):
        return 304
    return 412 if same and none_match is not None else 0


def ranged(
    request: Request, file: CachedFile, most: int, now: float, conn: Connection
) -> Response | None:
    """The answer to Range (RFC 9110, 14.2); None: send the whole file. most: of ranges. Raises OSError."""
    header = request.get(b"range")
    size = file.size
    if header is None or not size or request.method == "POST" or not _if_range(request, file, now):
        return None
    ranges = parse_ranges(header, size, most)
    if ranges is None:
        return None
    if not ranges:
        return page(416)
    if len(ranges) == 1:
        start, end = ranges[0]
        count = end + 1 - start
        lines = b"Content-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n"
        fields = file.fields + lines % (count, start, end, size)
        return Response(206, fields, file.after, file.part(start, count, conn), count)
    kind = file.after.replace(b"Content-Type", b"Content-type").removesuffix(b"\r\n")
    begin = b"\r\n--%b\r\n%bContent-range: bytes " % (BOUNDARY, kind)
    heads = [begin + b"%d-%d/%d\r\n\r\n" % (start, end, size) for start, end in ranges]
    last = b"\r\n--%b--\r\n" % BOUNDARY
    length = sum(map(len, heads)) + sum(end + 1 - start for start, end in ranges) + len(last)
    fields = file.fields + b"Content-Length: %d\r\n" % length
    after = b"Content-Type: multipart/byteranges; boundary=%b\r\n\r\n" % BOUNDARY
    return Response(206, fields, after, _parts(file, heads, ranges, last), length)


def _parts(file: CachedFile, heads: list[bytes], ranges: Ranges, last: bytes) -> Iterator[bytes]:
    """The body of a multipart/byteranges response, a piece at a time."""
    with open(file.filename, "rb", buffering=0) as opened:
        for head, (start, end) in zip(heads, ranges, strict=True):
            yield head
            while start <= end:
                data = os.pread(opened.fileno(), min(PIECE, end + 1 - start), start)
                if not data:
                    raise OSError(f"{file.filename} became shorter while it was sent")
                start += len(data)
                yield data
    yield last


def parse_ranges(header: bytes, size: int, most: int = 200) -> Ranges | None:
    """First and last bytes that a Range header asks for; neighbours that touch are joined. []: all of them are
    beyond the file. None: the header is ignored: it is invalid, or more work than the whole file."""
    unit, _, text = header.partition(b"=")
    if unit.lower() != b"bytes":
        return None
    asked = [one for one in text.split(b",") if one.strip()]
    if not asked or len(asked) > most:
        return None
    ranges: Ranges = []
    joined = 0
    for one in asked:
        first, dash, last = one.strip().partition(b"-")
        if not dash or not (first or last) or not (first + last).isdigit():
            return None
        low, high = whole_number(first), whole_number(last)
        if low is None or high is None:
            return None
        if first:
            start, end = low, high if last else LONGEST
        else:
            start, end = max(0, size - high), LONGEST if high else -1
        if end < start:
            return None  # also for the last 0 bytes: no range at all
        if start >= size:
            continue
        end = min(end, size - 1)
        if ranges:
            before, until = ranges[-1]
            if start <= until + 1 and end + 1 >= before:
                joined += 1
                start, end = min(start, before), max(end, until)
                ranges.pop()
        ranges.append((start, end))
    if joined > MOST or sum(end + 1 - start for start, end in ranges) > size:
        return None
    return ranges


def _if_range(request: Request, file: CachedFile, now: float) -> bool:
    """Does If-Range, if there is one, mean this version? A weak tag never does, nor does the date of a
    file that has just changed: it may have had two versions within that second."""
    validator = request.get(b"if-range")
    if validator is None:
        return True
    if validator.endswith(b'"'):
        return validator == file.etag and not validator.startswith(b"W/")
    return parse_http_date(validator) == file.mtime and now - file.mtime >= SETTLED


def etag_in(header: bytes, etag: bytes, *, strong: bool) -> bool:
    """Is `etag` among the listed ones? Strong comparison never matches a weak tag."""
    if header.strip() == b"*":
        return True
    if not etag:
        return False
    listed = [tag.strip() for tag in header.split(b",")]
    if strong:
        return not etag.startswith(b"W/") and etag in listed
    return etag.removeprefix(b"W/") in [tag.removeprefix(b"W/") for tag in listed]
