"""FastCGI 1.0 as bytes: records and name-value pairs, made and read. No socket here.

record   version 1 │ type │ request id (2) │ length of content (2) │ of padding │ 0 │ content │ padding
stream   records of one type, ended by one without content (PARAMS, STDIN, STDOUT, STDERR)
pair     length of name (1 or 4) │ length of value (1 or 4) │ name │ value
"""

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

BEGIN_REQUEST, _, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR = range(1, 8)

RESPONDER = 1  # the role of a backend that makes a response
KEEP_CONN = 1  # flag of BEGIN_REQUEST: the connection stays after END_REQUEST
COMPLETE, _, OVERLOADED, _ = range(4)  # END_REQUEST's protocol status

ID = 1  # of the one request that a connection carries at a time
MOST = 65528  # bytes of content in a record, a multiple of 8: the specification advises it
_HEAD = Struct(">BBHHBx")
_BEGIN = Struct(">HB5x")
_END = Struct(">IB3x")


class FastCgiError(ValueError):
    """Bytes that are not FastCGI 1.0."""


class Record(NamedTuple):
    type: int
    request: int
    content: bytes


def record(kind: int, content: bytes = b"", request: int = ID) -> bytes:
    """One record, padded to a multiple of 8."""
    padding = -len(content) % 8
    return _HEAD.pack(1, kind, request, len(content), padding) + content + bytes(padding)


def stream(kind: int, data: bytes, *, end: bool = False) -> bytes:
    """`data` as records of a stream, and with `end` the one that ends it."""
    pieces = [record(kind, data[at : at + MOST]) for at in range(0, len(data), MOST)]
    return b"".join((*pieces, record(kind) if end else b""))


def begin(keep: bool) -> bytes:
    """BEGIN_REQUEST for a responder."""
    return record(BEGIN_REQUEST, _BEGIN.pack(RESPONDER, KEEP_CONN if keep else 0))


def read_end(content: bytes) -> tuple[int, int]:
    """(application's status, protocol's status) of an END_REQUEST. Raises FastCgiError."""
    if len(content) != _END.size:
        raise FastCgiError("an END_REQUEST of another length")
    return _END.unpack(content)


def pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Name-value pairs."""
    parts: list[bytes] = []
    for name, value in items:
        sizes = len(name), len(value)
        parts += (bytes(sizes) if max(sizes) < 128 else b"".join(map(_length, sizes)), name, value)
    return b"".join(parts)


def _length(count: int) -> bytes:
    return bytes((count,)) if count < 128 else (count | 1 << 31).to_bytes(4, "big")


def read_records(data: bytes) -> tuple[list[Record], bytes]:
    """The whole records that `data` begins with, and the rest. Raises FastCgiError."""
    found: list[Record] = []
    at = 0
    while len(data) - at >= _HEAD.size:
        version, kind, request, length, padding = _HEAD.unpack_from(data, at)
        if version != 1:
            raise FastCgiError(f"version {version} of FastCGI, or something else altogether")
        start = at + _HEAD.size
        if len(data) < start + length + padding:
            break
        found.append(Record(kind, request, data[start : start + length]))
        at = start + length + padding
    return found, data[at:]
