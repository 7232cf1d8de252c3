"""What a WSGI application passes to `start_response`, checked by PEP 3333 and encoded.

"200 OK", [("Content-Type", "text/plain")] ──> Head, or AssertionError
"""

import re
from functools import lru_cache
from typing import NamedTuple

from mpmkit.handlers.gateway import CONTROL, FIELD_NAME
from mpmkit.http.messages import BODYLESS_STATUSES, REASONS, whole_number

# A server adds these itself; an application must not (PEP 3333, "Other HTTP Features").
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    "upgrade".split()
)
# Three digits of a final status, a blank, and a reason: PEP 3333, and RFC 9112, 4.
_STATUS = re.compile(r"[2-9][0-9]{2} [^\x00-\x08\x0a-\x1f\x7f]*\Z")
LONGEST_HEAD = 65536  # bytes of header lines; of a CGI program's, too
HEADS_KEPT = 128  # of applications' answers: status and headers, checked and written down


class Head(NamedTuple):
    """What an application passed to `start_response`, as it goes to the client."""

    code: int
    fields: bytes  # header lines, as a Response has them
    after: bytes
    length: int | None  # its Content-Length
    reason: bytes | None  # its own phrase; None: the usual one


@lru_cache(HEADS_KEPT)
def read_head(status: str, headers: tuple[tuple[str, str], ...]) -> Head:
    """Check a status and headers by PEP 3333, and encode them. Raises AssertionError. Most applications
    repeat themselves, so valid heads are remembered."""
    if not _STATUS.match(status):
        raise AssertionError(f"status {status!r} is not like '200 OK'")
    code, reason = int(status[:3]), status[4:]
    bodyless = code in BODYLESS_STATUSES
    fields = after = ""
    length = None
    for name, value in headers:
        lower = name.lower()
        if lower in HOP_BY_HOP:
            raise AssertionError(f"header {name}: only the server may set it")
        if not FIELD_NAME.match(name.encode("utf-8", "surrogateescape")):
            raise AssertionError(f"header {name!r} is not a name; use letters, digits and hyphens")
        if CONTROL.search(value.encode("latin-1")):
            raise AssertionError(f"header {name!r} contains a control character or line break")
        if lower == "content-type":
            after = f"Content-Type: {value}\r\n"
            continue
        if lower == "content-length":
            before, length = length, whole_number(value) if value.isdecimal() else None
            if length is None or before not in (None, length) or not value.isascii():
                text = f"Content-Length {value[:30]!r} is not one whole number of bytes"
                raise AssertionError(text + (f", or not {before}" if before is not None else ""))
            if before is not None or bodyless:
                continue  # it is written once, and not where there is no body
        if lower not in ("date", "server"):
            fields += f"{name}: {value}\r\n"
    if len(fields) > LONGEST_HEAD:
        raise AssertionError(f"more than {LONGEST_HEAD} bytes of header lines: clients refuse them")
    return Head(
        code,
        fields.encode("latin-1"),
        (b"" if bodyless else after.encode("latin-1")) + b"\r\n",
        None if bodyless else length,
        None if reason == REASONS.get(code) else reason.encode("latin-1"),
    )
