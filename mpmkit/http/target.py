"""Where a request leads: its target and its Host (RFC 9112, 3.2), and a request line as text for a log."""

import os
import re
from typing import NamedTuple, Self

from mpmkit.http.messages import RequestError

ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)")
# A host name or an address, and a port. Nothing else may appear in a link that the server writes.
_HOST = re.compile(
    rb"(?:(\.?[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*)\.?|\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\])(?::0*([1-9][0-9]{0,4}))?\Z"
)
# A name of digits and dots is an IPv4 address, and the last part of a name begins with a letter (RFC 1123, 2.1).
_IPV4 = re.compile(rb"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){3}\Z")
_ESCAPE = re.compile(b"%([0-9A-Fa-f]{2})")
_NO_NAME = re.compile(b"%(?:2[Ff]|00)")
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')
# Control characters that C has a letter for, and the backslash (httpd's ap_escape_logitem).
ESCAPES = {"\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}
_ESCAPES = ESCAPES | {'"': '\\"'}


def is_host(text: bytes) -> bool:
    """A name or an address, and a port from 1 to 65535 or no port."""
    found = _HOST.match(text)
    if found is None:
        return False
    name, address, port = found.groups()
    return (_is_name(name) if address is None else _is_ipv6(address)) and int(port or 0) <= 65535


def _is_ipv6(address: bytes) -> bool:
    """Eight groups of at most four digits, or fewer with one `::`; the last two may be an IPv4 address."""
    head, last = address.rsplit(b":", 1)
    if b"." in last:
        if not _IPV4.match(last) or any(int(part[:4]) > 255 for part in last.split(b".")):
            return False
        address = head + b":0:0"
    before, gap, after = address.partition(b"::")
    groups = [group for part in (before, after) if part for group in part.split(b":")]
    complete = len(groups) == 8 or (bool(gap) and len(groups) < 8)
    return complete and all(0 < len(group) < 5 for group in groups)


def _is_name(name: bytes) -> bool:
    if not name.strip(b"0123456789."):
        return _IPV4.match(name) is not None
    _, dot, last = name.rpartition(b".")
    return not dot or last[:1].isalpha()


class OwnName(NamedTuple):
    """ServerName, `[scheme://]host[:port]`, and UseCanonicalName: the name in links, scripts, logs."""

    host: str = ""  # "" without a ServerName
    port: str = ""
    scheme: str = ""
    canonical: bool = False

    @classmethod
    def of(cls, text: str, canonical: bool = False) -> Self:
        """From the directives."""
        scheme, found, host = text.rpartition("://")
        return cls(*split_host(host), scheme.lower() if found else "", canonical and bool(text))

    def place(self, asked: bytes | None, scheme: str) -> tuple[str, str]:
        """Name and port for a request with the Host `asked`: the client's, unless it named none or
        UseCanonicalName is On; then the server's own. Without either's port, that of the scheme."""
        name = port = ""
        if asked and not self.canonical:
            name, port = split_host(asked.decode("latin-1").lower())
            name, port = name.removesuffix("."), port.lstrip("0")
        default = "443" if scheme == "https" else "80"
        return name or self.host or "localhost", port or self.port or default

    def url(self, asked: bytes | None, scheme: str) -> str:
        """How links to this server begin: `http://name[:port]`."""
        name, port = self.place(asked, scheme)
        end = "" if port == ("443" if scheme == "https" else "80") else f":{port}"
        return f"{self.scheme or scheme}://{name}{end}"


def split_host(text: str) -> tuple[str, str]:
    """Name and port of `name[:port]`; the port may be "". `[::1]:80` is `[::1]` and 80."""
    name, colon, port = text.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (text, "")


def split_target(method: str, target: bytes) -> tuple[str, bytes]:
    """The path, decoded and normalised, and the query of a request target: origin form, absolute form (its
    authority is ignored here) and `*` for OPTIONS. A path with `%2F` (AllowEncodedSlashes Off) or `%00` names no
    resource: it comes back empty. Raises RequestError 400 for a path that leaves the root or a bad escape."""
    if target == b"*" and method == "OPTIONS":
        return "*", b""
    if absolute := ABSOLUTE.match(target):
        target = b"/" + target[absolute.end() :].removeprefix(b"/")
    elif method == "CONNECT" and not target.startswith(b"/"):
        return "", b""
    elif not target.startswith(b"/"):
        raise RequestError(400, "the request target does not begin with a slash", ah="AH03450")
    if b"#" in target:
        raise RequestError(400, "a fragment in the request target", ah="AH02421")
    raw, _, query = target.partition(b"?")
    if b"%" in raw:
        raw = _unquote(raw)
    if b"//" in raw or b"/." in raw:
        raw = _normalise(raw)
    return os.fsdecode(raw), query


def _unquote(raw: bytes) -> bytes:
    if len(_ESCAPE.findall(raw)) < raw.count(b"%"):
        raise RequestError(400, f"a bad %-escape in the path {os.fsdecode(raw)}", ah="AH10244")
    if _NO_NAME.search(raw):
        return b""  # no resource has such a name
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), raw)


def _normalise(raw: bytes) -> bytes:
    """The path without `//`, `/./` and `/../`. Raises RequestError 400 for one that leaves the root."""
    kept: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                why = f"the path {os.fsdecode(raw)} leads above the root"
                raise RequestError(400, why, ah="AH10244")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    slash = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + slash


def quote_line(line: bytes) -> str:
    """Bytes of a client as a log may hold them: no quote, backslash or control character raw."""
    text = line.decode("latin-1")
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda m: _ESCAPES.get(m[0]) or f"\\x{ord(m[0]):02x}", text)
