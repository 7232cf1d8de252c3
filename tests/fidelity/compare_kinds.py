"""Small inputs of many kinds, asked of both servers: names, requests, scripts, error documents, redirects.

One configuration for all of them, with a directory, an alias or a location for each kind that needs
lines of its own. `CASES` has the requests, one line each.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.measure.reference_servers import find_httpd, load_lines
from tests.fidelity.cases import Row
from tests.fidelity.compare_http import split
from tests.fidelity.server_pair import Pair

MODULES = ("cgi", "setenvif", "env")
OLD = 1704164645  # Tue, 02 Jan 2024 03:04:05 GMT

FILES = {
    "index.html": "index", "page.html.en": "en", "page.html.bak": "bak", "page.txt.html": "html", "a.b.c": "c",
    "page.HTML": "upper", ".html": "dot", "x.html.": "end", "x..txt": "two dots",
    "x.txt.html.zzz": "last known",
    "plain": "plain", "big.txt": "0123456789" * 20, "d/index.html": "d", "d/second.html": "second",
    "d/first.txt": "first", "none/x.txt": "x", "empty.txt": "", "sp ace.txt": "blank",
    "types/a.foo": "foo", "types/a.txt": "txt", "types/deep/a.foo": "deep", "types/a.html": "a.html",
    "types/forced/a.txt": "forced", "types/forced/plain": "plain", "off/a.txt": "a",
    "front/index.html": "front", "front/app.html": "app", "front/there.txt": "there",
    "slash/sub/index.html": "sub", "abs/x.txt": "x", "docs/a1.txt": "a1", "docs/sub/b.txt": "b",
    "tail/x.txt": "x", "fronts/there.txt": "there", "fronts/deep/x": "x",
}  # fmt: skip
# Answers with the bytes of its query, %XX decoded.
RAW = """#!/usr/bin/python3 -S
import os, sys
from urllib.parse import unquote_to_bytes
sys.stdout.buffer.write(unquote_to_bytes(os.environ["QUERY_STRING"]))
"""
ARGUMENTS = """#!/usr/bin/python3 -S
import sys, os
print("Content-Type: text/plain\\n")
print(sys.argv[1:], os.environ["QUERY_STRING"])
"""
SHOWS = """#!/usr/bin/python3 -S
import os
print("Content-Type: text/plain\\n")
for name in ("SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "HTTP_X_A",
             "REDIRECT_URL", "REDIRECT_STATUS", "REDIRECT_QUERY_STRING"):
    print(name, os.environ.get(name, "-"))
print(sorted((name, value) for name, value in os.environ.items() if name.startswith("V_")))
"""

CONF = r"""
{loads}
ScriptAlias /cgi/ "{cgi}/"
SetEnvIf Request_URI "/shows/(\w+)" V_uri=$1 V_set
SetEnvIf X-A "^a(.)?" V_a=yes$1
SetEnvIfNoCase X-A "^A" V_nocase
SetEnvIf X-None "^$" V_missing
SetEnvIf Request_Method POST !V_set V_post
BrowserMatch Moz V_moz=$0
BrowserMatchNoCase "moz(.*)" V_mozn=$1 V_b=a=b
SetEnvIf V_set 1 V_chain=x
SetEnvIf Remote_Addr "^127" V_local
SetEnvIf Request_Protocol "1\.0" V_old
<Directory "{cgi}/">
    Require all granted
</Directory>
<Directory "{pages}/abs">
    DirectoryIndex none.html /d/index.html
</Directory>
<Directory "{pages}/off">
    DirectoryIndex disabled
</Directory>
Alias /noslash "{pages}/d"
Alias /slash/d/ "{pages}/d/"
Alias /mixed/ "{pages}/d"
Alias /mixed2 "{pages}/d/"
ErrorDocument 404 "Not here"
ErrorDocument 403 "No entry"
ErrorDocument 405 /cgi/shows?e=405
<Location "/d/first.txt">
    Require all denied
</Location>
AliasMatch "^/docs/(a[0-9]*)$" "{pages}/docs/$1.txt"
AliasMatch "(?i)^/Shelf/(.*)" "{pages}/docs/$1"
AliasMatch "^/dollar(.)" "{pages}/docs/a1.txt\\$1"
ScriptAliasMatch "^/run/([^/]+)(.*)" "{cgi}/$1$2"
Redirect /old /d/second.html
Redirect permanent /older http://else.example/x
Redirect 307 /oldest/ /d/
Redirect seeother /see /d/?own
Redirect gone /gone
Redirect 403 /shut
Redirect 418 /tea
RedirectPermanent /perm https://else.example
RedirectTemp /temp /d/
RedirectMatch "^/match/(.*)\.gif$" "/pics/$1.jpg"
RedirectMatch 301 "^/m(\d)\d*$" "http://e.example/$1?n=$1#f"
RedirectMatch gone "\.exe$"
RedirectMatch 404 "^/\."
Redirect /d/old.html /d/
<Location "/loc">
    Redirect 302 http://loc.example/y
</Location>
<Directory "{pages}/tail">
    Redirect /tail/x.txt /d/x
    RedirectMatch "/tail/(y.*)" "http://tail.example/$1"
</Directory>
<Location "/none/denied">
    Require all denied
    Redirect / /d/
</Location>
<Directory "{pages}/types">
    AddType text/x-foo .foo
    AddType text/x-own .txt
    DirectoryIndex a.foo a.txt
</Directory>
<Directory "{pages}/types/deep">
    AddType text/x-deep foo
</Directory>
<Directory "{pages}/types/forced">
    ForceType image/x-own
</Directory>
<Files "a.html">
    ForceType none
    AddType text/x-files html
</Files>
<Directory "{pages}/front">
    FallbackResource /front/app.html
</Directory>
<Directory "{pages}/fronts">
    FallbackResource /cgi/shows
</Directory>
<Directory "{pages}/fronts/deep">
    FallbackResource disabled
</Directory>
<Directory "{pages}/slash">
    DirectorySlash Off
</Directory>
"""

CLOSE = "Connection: close"


def get(
    path: str, *fields: str, method: str = "GET", version: str = "1.1", body: str = ""
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *fields, *([CLOSE] if version == "1.1" else [])]
    if not any(field.lower().startswith("host:") for field in fields) and version == "1.1":
        lines.insert(1, "Host: lab.example")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def raw(head: str) -> str:
    return "/cgi/raw?" + head.replace(" ", "%20").replace("\n", "%0a").replace("#", "%23")


PATHS = [
    "/page.html.en", "/page.html.bak", "/page.txt.html", "/a.b.c", "/page.HTML", "/.html", "/x.html.",
    "/x..txt",
    "/x.txt.html.zzz", "/plain", "/abs/", "/abs", "/off/", "/off", "/none/", "/none", "/d", "/d?q=1",
    "/d/first.txt",
    "/noslash", "/noslash/", "/noslashed", "/noslash/second.html", "/slash/d", "/slash/d/",
    "/slash/d/second.html",
    "/mixed", "/mixed/", "/mixed/index.html", "/mixed//index.html", "/mixed2", "/mixed2/",
    "/mixed2/second.html",
    "/nosuch", "/plain/more", "/sp%20ace.txt", "/empty.txt", "/%", "/a%2fb", "//d//", "/d/../d/", "/d/./",
    "/cgi/args?a+b", "/cgi/args?a=b+c", "/cgi/args?a%20b+c", "/cgi/args?", "/cgi/args", "/cgi/args?%zz+c",
    "/cgi/args?a+'b", "/cgi/args?a%00b", "/cgi/args/p?x+y", "/cgi/args?%3d", "/cgi/args?a++b", "/cgi/args?+a",
    "/cgi/", "/cgi", "/cgi/nosuch", "/cgi/shows/a/b?c=d",
    "/docs/a1", "/docs/a1.txt", "/docs/a", "/docs/b1", "/shelf/a1.txt", "/SHELF/sub/b.txt", "/shelf/",
    "/shelf/sub",
    "/shelf/sub/", "/shelf/no", "/dollarx", "/run/shows/a/b?c=d", "/run/shows", "/run/nosuch/x", "/run/",
    "/run/args?x+y",
    "/old", "/old/", "/old/x", "/older", "/older/a%20b", "/older?q=1", "/oldest", "/oldest/",
    "/oldest/a/b?x=%20",
    "/see", "/see/x", "/see?q", "/gone", "/gone/x", "/shut", "/tea", "/perm", "/perm/a", "/perm?x",
    "/temp/a%c3%a9",
    "/match/a.gif", "/match/a%20b.gif?q=1", "/match/.gif", "/m1", "/m12", "/m12?q", "/x.exe", "/d/x.exe?q",
    "/.hidden",
    "/d/old.html", "/loc", "/loc/x", "/loc?q", "/tail/x.txt", "/tail/y/z", "/tail/none", "/tail/",
    "/none/denied/x",
    "/types/a.foo", "/types/a.txt", "/types/", "/types", "/types/deep/a.foo", "/types/a.html",
    "/types/forced/a.txt",
    "/types/forced/plain", "/front/", "/front", "/front/there.txt", "/front/no", "/front/no/deep?q=1",
    "/front/there.txt/more", "/front/app.html", "/front/app.html/x", "/fronts/", "/fronts/a/b?c=d",
    "/fronts/there.txt",
    "/fronts/deep/no", "/fronts/deep/", "/fronts/no.cgi", "/slash/sub", "/slash/sub/", "/slash", "/slash/",
]  # fmt: skip
METHODS = [
    (path, method)
    for path in ("/d", "/d/", "/plain", "/nosuch", "/none/", "/cgi/shows", "/noslash", "/plain/x")
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "UNKNOWN", "TRACE", "PROPFIND")
]  # fmt: skip
HEADS = [  # of a program: its head, and a client's fields
    ("ETag: \"x\"\n\nbody", ()), ("ETag: \"x\"\n\nbody", ('If-None-Match: "x"',)),
    ("ETag: \"x\"\n\nbody", ('If-None-Match: "y"',)), ("ETag: \"x\"\n\nbody", ('If-Match: "y"',)),
    ("ETag: \"x\"\n\nbody", ('If-Match: "x"',)), ("ETag: \"x\"\n\nbody", ("If-Match: *",)), ("\nbody",
    ("If-Match: *",)),
    ("\nbody", ("If-None-Match: *",)), ("\nbody", ('If-Match: "x"',)),
    ("Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT\n\nb",
    ("If-Modified-Since: Tue, 02 Jan 2024 03:04:05 GMT",)),
    ("Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT\n\nb",
    ("If-Unmodified-Since: Mon, 01 Jan 2024 03:04:05 GMT",)),
    ("Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT\n\nb",
    ("If-Unmodified-Since: Tue, 02 Jan 2024 03:04:05 GMT",)),
    ("Status: 201\nETag: \"x\"\n\nbody", ('If-None-Match: "x"',)), ("Status: 200\nETag: \"x\"\n\nb",
    ('If-None-Match: "x"',)),
    ("Status: 404\nETag: \"x\"\n\nbody", ('If-Match: "y"',)),
    ("Status: 204\nContent-Type: text/plain\n\n", ()), ("Status: 204\n\nbody", ()), ("Status: 205\n\nbody", ()),
    ("Status: 205\n\n", ()), ("Status: 304\nContent-Type: text/plain\n\nbody", ()),
    ("Status: 304\nETag: \"x\"\n\n", ()),
    *((f"Status: {code}\n\nbody", ()) for code in (
        199, 206, 207, 208, 226, 299, 300, 303, 305, 306, 307, 308, 399, 401, 402, 404, 406, 407, 409, 410,
        411, 412, 415, 418,
        419, 420, 421, 422, 423, 424, 425, 426, 427, 428, 429, 430, 431, 451, 498, 499, 505, 506, 507, 508, 509,
        510, 511, 512, 599, 600, 999, "000", 100, 101)),
    ("Status: abc\n\nbody", ()), ("Status: 20\n\nbody", ()), ("Status: 2000\n\nbody", ()), ("Status:\n\nbody",
    ()),
    ("Status: 404 Own\n\nbody", ()), ("Status: 421 Own words\n\nbody", ()),
    ("Location: /d/second.html#part\n\n", ()), ("Location: /d/#x\n\n", ()), ("Location: http://h/p#x\n\n", ()),
    ("Location: /d/second.html?q#part\n\n", ()), ("Location: d/second.html\n\n", ()),
    ("Location: /cgi/shows?a#b\n\n", ()),
    ("Location: /nosuch#x\n\n", ()), ("Location: http://h/\nStatus: 301\n\nbody", ()),
    ("Location: /d/\nStatus: 302\n\nb", ()),
    ("Location: //h/x\n\n", ()), ("Location: \n\nbody", ()), ("Location: http://h/\nX-A: 1\n\nbody", ()),
    ("Content-Type: text/html\n\n<b>", ()), ("Content-Type: \n\nbody", ()), ("Content-Length: 3\n\nbody", ()),
    ("Content-Length: 9\n\nbody", ()), ("Content-Type: a\nContent-Type: b\n\nbody", ()),
]  # fmt: skip
HOSTS = [
    "127.1", "0x7f.1", "127.0.0.1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4.", "[1.2.3.4]", "[::1]",
    "[4712::abcd::]",
    "[::]", "[::ffff:1.2.3.4]", "[1:2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7:8:9]", "[fe80::1%25eth0]", "[::1%lo]",
    "[::g]",
    "h:", "h:80", "h:0", "h:65536", "h:080", "h:abc", "1", "0", "12345", "0x7f000001", "a.1", "1.a", "1.2.a",
    "a..b", ".a",
    "a.", "a..", "-a", "a-", "_a", "a_b", "LAB.Example", "lab.example.", "*", "a b", "a,b", "a/b", "a@b", "ü",
    "a%41",
    "[]", "[::1]:", "[::1]:80", "[::1]80", "[v1.a]", "", "1.2.3.4:80", "127.0.0.1:", "1e1.2", "1.2.3.0x4",
    "01.2.3.4",
    "999.999.999.999", "1.2.3.04", "[::1.2.3.4]", "[::1.2.3.400]", "[1::2:3:4:5:6:7:8]", "[:1]", "[1:]",
    "[:::]",
]  # fmt: skip
BYTES = {  # whole connections
    "host of the target, no port": b"GET http://h:/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "host of the target, digits": b"GET http://127.1/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "target in upper case": b"GET HTTP://LAB.Example/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "target of https": b"GET https://h/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "target of ftp": b"GET ftp://h/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "target without host": b"GET http:///d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "target with a user": b"GET http://u@h/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "1.0 without Host, redirect": b"GET /d HTTP/1.0\r\n\r\n",
    "1.0 with an empty Host": b"GET /d HTTP/1.0\r\nHost:\r\n\r\n",
    "bad line, half-close": b"GARBAGE\r\n", "bad line without its end": b"GARBAGE", "half a line": b"GET /pl",
    "half a head": b"GET /plain HTTP/1.1\r\nHost: x\r\n", "half a field": b"GET /plain HTTP/1.1\r\nHos",
    "a line and no more": b"GET /plain HTTP/1.1\r\n", "nothing": b"", "CRLF": b"\r\n", "blank": b" ",
    "bad version, half-close": b"GET / HTTP/9\r\n", "bad method, half-close": b"G@T / HTTP/1.1\r\n",
    "bad field, half-close": b"GET / HTTP/1.1\r\nHost: x\r\nBad Field: 1\r\n",
    "short body": b"POST /cgi/shows HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    "short body of a file": b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    "short chunk": b"POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "short chunk line": b"POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5",
    "no last chunk": b"POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "no end of trailers": b"POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "bad Host of a HEAD": b"HEAD / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    "no Host of a HEAD": b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n",
    "bad length of a HEAD": b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "bad target of a HEAD": b"HEAD x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "bad field of a HEAD": b"HEAD / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    "bad version of a HEAD": b"HEAD / HTTP/1\r\nHost: x\r\n\r\n",
    "417 of a HEAD": b"HEAD / HTTP/1.1\r\nHost: x\r\nExpect: y\r\nConnection: close\r\n\r\n",
    "413 of a HEAD": b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
}  # fmt: skip
VARIABLES = [(), ("X-A: ab",), ("X-A: AB",), ("User-Agent: Mozilla/5",), ("User-Agent: mozart",), ("X-None:",),
    ("X-None: 1", "X-A: b", "X-A: a")]  # fmt: skip
FOLDED = [
    "a\r\n b",
    "a \r\n b",
    "a\r\n  b ",
    "a\t\r\n\tb",
    "\r\n b",
    " \r\n b",
    "a\r\n b\r\n c",
    "a \t \r\n \t b",
]
CHUNKED = [
    b"3\r\nabc", b"3 \r\nabc", b" 3\r\nabc", b"3\t\r\nabc", b"3 ;a\r\nabc", b"3; a=b\r\nabc",
    b"3;a\x7fb\r\nabc", b"3;\r\nabc",
    b"3;a\x01b\r\nabc", b"3;a\tb\r\nabc", b"3;\xff\r\nabc", b"03\r\nabc", b"0x3\r\nabc", b"+3\r\nabc",
    b"3g\r\nabc", b"3 a\r\nabc",
    b"\r\nabc", b"3;a=\"x\"\r\nabc", b"00000000000000000000000003\r\nabc", b"3  \t \r\nabc", b"3\x0b\r\nabc",
    b"3 \t;a\r\nabc",
    b"3\x00\r\nabc", b"3;a\x00\r\nabc", b"3\x7f\r\nabc",
]  # fmt: skip


def cases() -> Iterator[tuple[str, bytes]]:
    """(name, all that the client sends; then it closes its half)"""
    for path in PATHS:
        yield f"GET {path}", get(path)
    for path, method in METHODS:
        yield f"{method} {path}", get(path, method=method)
    for head, fields in HEADS:
        shown = head.replace("\n", "|")
        for method in ("GET", "HEAD"):
            yield (
                f"{method} script {shown} {' '.join(fields)}".rstrip(),
                get(raw(head), *fields, method=method),
            )
    for host in HOSTS:
        yield f"Host: {host}", get("/d", f"Host: {host}")
    yield from BYTES.items()
    for fields in VARIABLES:
        for path in ("/cgi/shows", "/cgi/shows/word"):
            for method in ("GET", "POST"):
                yield f"variables {method} {path} {fields}", get(path, *fields, method=method)
    yield "variables of HTTP/1.0", get("/cgi/shows/word", version="1.0")
    for value in FOLDED:
        yield f"folded {value!r}", get("/cgi/shows", f"Host: x\r\nX-A: {value}")
    for body in CHUNKED:
        start = b"POST /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield f"chunk {body!r}", start + body + b"\r\n0\r\n\r\n"


SHOWN = ("Location", "Content-Type", "Allow", "Content-Length", "X-A", "ETag", "Connection")


def shown(data: bytes, received: bytes) -> str:
    """What a client gets, in one line."""
    method = data.split(b" ", 1)[0].decode("latin-1")
    texts = []
    answer = split(received, [method], True)
    first = received.split(b"\r\n", 1)[0].decode("latin-1")
    for reply in answer.replies:
        fields = dict(reply.headers)
        error = reply.body.startswith(b"<!DOCTYPE")
        if (
            error
            or reply.status >= 300
            or method == "HEAD"
            or re.search(rb" /(cgi|run|fronts)/", data[:20])
        ):
            fields.pop("Content-Length", None)
        if "Allow" in fields:  # httpd's order depends on what its threads did before
            fields["Allow"] = ",".join(sorted(fields["Allow"].split(",")))
        kept = [f"{name}: {fields[name]}" for name in SHOWN if name in fields]
        body = "page" if error else reply.body.decode("latin-1")
        texts.append(f"{first.removeprefix('HTTP/1.1 ')} [{'; '.join(kept)}] {body!r}")
    rest = b"page" if answer.rest.startswith(b"<!DOCTYPE") else answer.rest[:80]
    return " + ".join([*texts, *([repr(rest)] if rest else [])]) or "closed"


def ask(port: int, data: bytes) -> str:
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as sock:
        try:
            sock.sendall(data)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                received += piece
        except TimeoutError:
            return "silence"
        except OSError:
            received = received or b"reset"
    return shown(data, received).replace(f":{port}", ":PORT")


def site(where: Path) -> Path:
    pages, cgi = where / "pages", where / "cgi"
    for name, text in FILES.items():
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (OLD, OLD))
    cgi.mkdir()
    for name, text in {"raw": RAW, "args": ARGUMENTS, "shows": SHOWS}.items():
        (cgi / name).write_text(text)
        (cgi / name).chmod(0o755)
    return pages


def rows(where: Path, mpm: str = "event", only: str = "") -> list[Row]:
    """Every request. `where` is an empty directory that other users may enter."""
    found = [case for case in cases() if re.search(only, case[0])]
    pages = site(where)
    loads = "\n".join(load_lines(find_httpd(), MODULES))
    extra = CONF.format(pages=pages, cgi=where / "cgi", loads=loads)
    with Pair(mpm, pages, extra) as pair, ThreadPoolExecutor(4) as pool:

        def row(case: tuple[str, bytes]) -> Row:
            name, data = case
            return Row("kinds", name, *(ask(side.port, data) for side in pair.sides))

        return list(pool.map(row, found))
