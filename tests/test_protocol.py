"""Bytes to requests: what is refused, what is remembered, how a head is read and a body ends.

Hypothesis makes heads, well-formed and not; our verdict is compared with plain h11's. That neither the way
the bytes are cut nor the memory of heads makes a difference is what tests/fuzz.py checks.
"""

from __future__ import annotations

import os
import posixpath
import re
import time
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.configured import directives

from mpmkit.http.fastpath import (
    HEADS_REMEMBERED,
    LINES_REMEMBERED,
    LONGEST_REMEMBERED,
    RequestCache,
)
from mpmkit.http.messages import Request, RequestError, http_date, parse_http_date
from mpmkit.http.protocol import Protocol, parse_head
from mpmkit.http.target import quote_line, split_target

DIRECTIVES = directives()
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def picture(request: Request) -> dict:
    """Everything that is known of a request."""
    return {name: getattr(request, name) for name in Request.__slots__}


def parse(pieces: list[bytes], cache: RequestCache | None = None) -> list:
    """All that a protocol makes of `pieces`: requests with their bodies, and how it ended."""
    protocol = Protocol(DIRECTIVES, cache or RequestCache(DIRECTIVES))
    found: list = []
    try:
        for piece in pieces:
            if protocol.in_body:
                protocol.feed_body(piece)
            else:
                protocol.feed(piece)
            while True:
                if protocol.in_body:
                    if (data := protocol.next_piece()) is None:
                        break
                    found[-1][1] += data
                    if data:
                        continue
                if not protocol.pending or (request := protocol.next_request()) is None:
                    break
                found.append([picture(request), b""])
    except RequestError as error:
        found.append(error.status)
    return found


# -- material -------------------------------------------------------------------------------------

PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
METHOD = st.sampled_from(["GET"] * 9 + ["HEAD", "POST", "PUT", "OPTIONS", "get", "BREW", "G@T", ""])
TARGET = st.one_of(
    st.sampled_from(["/", "/file.txt", "/a/../b", "http://h/p?q", "/../x", "*", "/%41%zz", "x", "/#f", "/\xff"]),
    *[st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%#"),
              min_size=1, max_size=20).map("/".__add__)] * 2,
    st.text(PRINTABLE, max_size=20).map("/".__add__),
)  # fmt: skip
VERSION = st.sampled_from(
    ["HTTP/1.1"] * 9 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/11", "HTTP/1.1 ", ""]
)  # fmt: skip
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=12)
ANY = st.text(
    st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=12
)
FIELD = st.one_of(
    *(st.tuples(st.just(name), st.sampled_from(values)) for name, values in {
        "Content-Length": ["0", "3", "0", "3", "3, 3", "-1", "x", "9" * 23],
        "Connection": ["close", "keep-alive", "Close, x"],
        "Transfer-Encoding": ["chunked", "Chunked", "gzip", "chunked, chunked"],
        "Expect": ["100-continue", "100-Continue", "x"],
        "Host": ["x", "a.example:80", "", "a b", "[::1]:1", "x/y"],
    }.items()),
    st.tuples(st.sampled_from(["X-A", "Range", "If-Match", "Upgrade"]), VALUE),
    st.tuples(st.sampled_from(["X-A", "X Y", "", "é"]), ANY),
)  # fmt: skip
END = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\n ", "\r\n\t"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head of well-formed and malformed parts."""
    lines = [f"{draw(METHOD)} {draw(TARGET)} {draw(VERSION)}"]
    if draw(st.integers(0, 4)):
        lines.append("Host: lab.example")
    lines += [f"{name}: {value}" for name, value in draw(st.lists(FIELD, max_size=5))]
    return ("".join(line + draw(END) for line in lines) + "\r\n").encode("latin-1")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in zip(places, places[1:], strict=False) if a < b]


# -- limits, and how long it takes -----------------------------------------------------------------


FIELDS = b"".join(b"X-%d: %b\r\n" % (i, b"v" * 7300) for i in range(98))
LONG_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELDS  # 715 KB, within every limit


@pytest.mark.parametrize(("stream", "size"), [
    (LONG_HEAD + b"\r\n", 4), (LONG_HEAD + b"\r\n", 8192),
    (b"POST /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\nX: y\r\n\r\n", 1),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\r\n" * 5_000_000, 65536),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na" + b"\r\n" * 3_000_000, 1 << 23),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
     + b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n", 65536),
])  # fmt: skip
def test_the_time_of_a_request_is_linear_however_it_is_cut(stream, size):
    """Seconds of CPU where what is quadratic takes minutes."""
    began = time.thread_time()
    found = parse([stream[i : i + size] for i in range(0, len(stream), size)])
    assert time.thread_time() - began < 6
    assert len(found) == 1 and found[0][0]["path"]


@pytest.mark.parametrize(("more", "status"), [
    (b"X: " + b"v" * 9000, 400), (b"X: y\r\n" * 101, 400), (b"X: y\n", 400), (b"X: y\r\nZ\n", 400),
    (b"X: " + b"v" * 8188, None), (b"X: y\r\n" * 99, None), (b"X: y\r\n\r", None),
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000, 20_000])
def test_a_head_is_refused_as_soon_as_no_end_can_make_it_right(more, status, size):
    stream = b"GET / HTTP/1.1\r\nHost: x\r\n" + more
    found = parse([stream[i : i + size] for i in range(0, len(stream), size)])
    assert found == ([] if status is None else [status])


def test_a_line_just_within_its_limit_in_two_pieces():
    """The carriage return of a line that is as long as allowed may come before its line feed."""
    line = b"GET /" + b"a" * (8191 - len("GET / HTTP/1.1")) + b" HTTP/1.1"
    stream = line + b"\r\nHost: x\r\n\r\n"
    assert len(line) == 8191
    for place in range(8188, 8196):
        ((request, _),) = parse(cut(stream, [place]))
        assert request["line"] == line


# -- what is remembered ----------------------------------------------------------------------------


def test_only_whole_heads_without_a_body_are_remembered():
    cache = RequestCache(DIRECTIVES)
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    for _ in range(2):
        parse([get + post + b"abc" + get + POST_CHUNKED + b"0\r\n\r\n" + get], cache)
    assert list(cache.known) == [get]


def test_what_came_once_is_not_remembered():
    cache = RequestCache(DIRECTIVES)
    first = b"GET /1 HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\n\r\n"
    other = b"GET /2 HTTP/1.1\r\nHost: x\r\nX-Number: 2\r\n\r\n"
    parse([first], cache)
    assert not cache.known and not cache.lines
    parse([other], cache)
    assert not cache.known and list(cache.lines) == [b"Host: x"]
    parse([first], cache)
    assert list(cache.known) == [first] and set(cache.lines) == {b"Host: x", b"X-Number: 1"}


def test_the_memory_is_bounded():
    cache = RequestCache(DIRECTIVES)
    for number in range(3 * HEADS_REMEMBERED):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\nX-Number: %d\r\n\r\n" % (number, number)
        assert parse([head], cache) == parse([head], cache)
        assert len(cache.known) <= HEADS_REMEMBERED and len(cache.lines) <= LINES_REMEMBERED
    assert cache.known and cache.lines
    cache.known.clear()
    cache.lines.clear()
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * LONGEST_REMEMBERED + b"\r\n\r\n"
    parse([long, long, long], cache)
    assert not cache.known and list(cache.lines) == [b"Host: x"]


# -- compared with h11 -----------------------------------------------------------------------------------


def by_h11(head: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def httpd_refuses(head: bytes, event: h11.Request) -> bool:
    """Whether httpd's rules refuse what h11 accepts."""

    def values(name: bytes) -> list[bytes]:
        return [value for key, value in event.headers if key == name]

    target, old = event.target, event.http_version == b"1.0"
    hosts = values(b"host")
    return (
        b"\n" in head.replace(b"\r\n", b"")
        or any((c < 32 and c not in b"\t\r\n") or c == 127 for c in head)
        or any(line and not line.strip() for line in head.split(b"\r\n"))
        or sum(line.lower().startswith(b"content-length:") for line in head.split(b"\r\n")) > 1
        or re.search(rb"(?i)\ncontent-length:[^\r]*,", head) is not None
        or event.http_version < b"1"
        or (not old and not hosts)
        or (not old and hosts == [b""])
        or any(set(host) & set(b" /\t") for host in hosts)
        or b", ".join(values(b"expect")).lower() not in (b"", b"100-continue")
        or (old and bool(values(b"transfer-encoding")))
        or not (
            target.startswith((b"/", b"http://")) or (target == b"*" and event.method == b"OPTIONS")
        )
        or b"#" in target
        or bad_path(target.partition(b"?")[0])
    )


def bad_path(path: bytes) -> bool:
    """A bad escape, or a way out of the root: by the standard library's means."""
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path):
        return True
    depth = 0
    for segment in unquote_to_bytes(path).split(b"/"):
        depth += -1 if segment == b".." else segment not in (b"", b".")
        if depth < 0:
            return b"%2f" not in path.lower() and b"%00" not in path  # 404, not 400
    return False


@given(heads())
@settings(max_examples=600, deadline=None)
def test_the_verdict_is_h11_s_but_for_httpd_s_rules(head):
    head, blank, _ = head.partition(b"\r\n\r\n")
    assume(blank)
    head += blank
    ours = parse([head])
    theirs = by_h11(head)
    refused = theirs is None or httpd_refuses(head, theirs)
    assert (ours[:1] in ([400], [417])) is refused


PLAIN = (
    b"GET /a?b=1 HTTP/1.1\r\nHost: x:80\r\nUser-Agent: a b (c)\r\nAccept: */*\r\n"
    b"Connection: keep-alive\r\nCookie: a=1; b=\xe4\r\nIf-Match: *\r\nX:\r\n\r\n"
)


CHANGES = [
    b"\r\n", b"\r\n ", b": ", b"\r\nHost: y", b"\r\nExpect: 1", b"\r\ncontent-length: 3",
    b"\r\nUpgrade: h2c", b"\r\n\r\n", b"\r\nConnection: close, x", b"\r\nRange: bytes=0-1", b"/..",
    b"//", b"%41", b"%00", b"?", *(bytes([c]) for c in range(256)),
]  # fmt: skip


@given(st.lists(
    st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 2), st.sampled_from(CHANGES)),
    max_size=3,
))  # fmt: skip
@settings(max_examples=1500, deadline=None)
def test_a_plain_head_is_what_h11_reads(changes):
    """Bytes of a plain head replaced, added and removed: whatever is still taken for plain is accepted
    by h11, and the Requests are the same in everything; the first time, and with all lines known."""
    head = PLAIN
    for place, removed, added in changes:
        head = head[:place] + added + head[place + removed :]
    head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    cache = RequestCache(DIRECTIVES)
    for _ in range(3):
        try:
            request = cache.read_plain(head)
        except RequestError as error:
            with pytest.raises(RequestError) as h11_s:
                parse_head(head, DIRECTIVES)
            assert (error.status, error.ah) == (h11_s.value.status, h11_s.value.ah)
            return
        if request is None:
            return
        assert picture(request) == picture(parse_head(head, DIRECTIVES))
        event = by_h11(head)
        assert event is not None
        assert (request.method.encode(), request.target) == (event.method, event.target)
        assert b"%d.%d" % request.version == event.http_version
        assert list(request.headers) == list(event.headers)


@pytest.mark.parametrize(("old", "new"), [
    (b"1.1\r\n", b"1.0\r\n"), (b"keep-alive", b"close"), (b"keep-alive", b"Close , Keep-Alive"),
    (b"Connection: keep-alive\r\n", b""), (b"If-Match", b"X-Match"), (b"/a?b=1", b"/a?"),
    (b"/a?b=1", b"/%7Ea/./b//c/../d?e%20f"), (b"GET", b"VERSION-CONTROL"), (b"Cookie:", b"COOKIE: \t"),
    (b"X:", b"X: \t "), (b"Accept: */*", b"Connection: close"),
])  # fmt: skip
def test_the_usual_heads_are_plain(old, new):
    """Otherwise the short way would never be taken, and no other test would show it."""
    assert old in PLAIN
    head = PLAIN.replace(old, new)
    request = RequestCache(DIRECTIVES).read_plain(head)
    assert request is not None
    assert picture(request) == picture(parse_head(head, DIRECTIVES))


@pytest.mark.parametrize(("old", "new"), [
    (b"X:", b"Expect: 100-continue"), (b"X:", b"Host: y"), (b"Host", b"Post"), (b"x:80", b"x:0"),
    (b"GET", b"BREW"), (b"/a", b"http://y/a"), (b"/a", b'/"'), (b"/a", b"/\\"), (b"X:", b" X:"),
    (b"Accept: */*", b"Connection: Keep-Alive"), (b"\r\n", b"\n"), (b"b (c)", b"b\r(c)"),
    (b"X:\r\n", b"\r\n"), (b"/a", b"/\xe4"),
])  # fmt: skip
def test_other_heads_are_not(old, new):
    assert old in PLAIN
    assert RequestCache(DIRECTIVES).read_plain(PLAIN.replace(old, new, 1)) is None


def test_limits_of_plain_heads():
    """Where a limit might be passed, h11's way looks closely."""
    for name, value, plain in (
        ("LimitRequestFields", 6, False), ("LimitRequestLine", 100, False),
        ("LimitRequestFieldSize", 100, False), ("LimitRequestFields", 7, True),
        ("LimitRequestFields", 0, True),
    ):  # fmt: skip
        request = RequestCache(directives(**{name: value})).read_plain(PLAIN)
        assert (request is not None) is plain, (name, value)


def test_a_head_as_large_as_the_limits_allow():
    """h11's own limit of 16 KiB is not ours."""
    lines = [b"X-%d: " % i + b"v" * 8000 for i in range(99)]
    head = b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *lines, b"", b""])
    ((request, _),) = parse(cut(head, list(range(0, len(head), 5000))))
    assert len(request["headers"]) == 100


# -- bodies ---------------------------------------------------------------------------------------


def test_a_body_s_end_is_the_next_request_s_beginning():
    chunked = POST_CHUNKED.replace(b"/", b"/1", 1)
    counted = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    get = b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n"
    stream = chunked + b"4\r\nGET \r\n0\r\nT: x\r\n\r\n" + counted + b"GET " + get
    for place in range(len(stream)):
        found = parse(cut(stream, [place]))
        bodies = [(request["path"], body) for request, body in found]
        assert bodies == [("/1", b"GET "), ("/2", b"GET "), ("/3", b"")]


@pytest.mark.parametrize("body, pieces, status", [
    (b"!\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", [], 400),
    (b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", [b"abc"], 413),
])  # fmt: skip
def test_a_refused_body_stays_refused(body, pieces, status):
    """However often a script asks: what follows must never pass for a request."""
    few = directives(LimitRequestBody=4)
    protocol = Protocol(few, RequestCache(few))
    protocol.feed(POST_CHUNKED + body)
    protocol.next_request()
    assert [protocol.next_piece() for _ in pieces] == pieces
    for _ in range(3):
        with pytest.raises(RequestError) as caught:
            protocol.next_piece()
        assert caught.value.status == status
        assert protocol.in_body and protocol.unread


# -- paths ----------------------------------------------------------------------------------------

SEGMENT = st.one_of(
    st.sampled_from(["..", ".", "", "%2e%2e", "%2E.", "a", "..%2f", "%2f", "%00", "...", "%", "%4",
                     "é", "%c3%a9", "%ff", "%25"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=5),
)  # fmt: skip


@given(st.lists(SEGMENT, max_size=8))
@settings(max_examples=600, deadline=None)
def test_a_path_never_leads_above_the_root(segments):
    target = ("/" + "/".join(segments)).encode("utf-8")
    try:
        path, _ = split_target("GET", target)
    except RequestError as error:
        assert error.status == 400
        return
    if path == "":
        assert b"%2f" in target.lower() or b"%00" in target
        return
    assert path.startswith("/") and "\0" not in path
    assert "//" not in path
    assert not {"..", "."} & set(path.split("/"))
    root = "/srv/www"
    joined = posixpath.normpath(root + path)
    assert joined == root or joined.startswith(root + "/")


@given(st.binary(max_size=20))
def test_a_path_is_decoded_to_its_bytes(raw):
    assume(b"/" not in raw and b"\0" not in raw and raw not in (b".", b".."))
    target = b"/" + b"".join(b"%%%02X" % byte for byte in raw)
    path, query = split_target("GET", target + b"?%zz")
    assert os.fsencode(path) == b"/" + raw
    assert query == b"%zz"


@pytest.mark.parametrize("target, path, query", [
    (b"/", "/", b""), (b"/?", "/", b""), (b"/?a?b", "/", b"a?b"),
    (b"/a/./b//c/../d", "/a/b/d", b""), (b"/a/..", "/", b""), (b"/a/b/..", "/a/", b""),
    (b"/a/.", "/a/", b""), (b"/.hidden", "/.hidden", b""), (b"/a..b", "/a..b", b""),
    (b"/%2f", "", b""), (b"/a%2Fb?q", "", b"q"), (b"/%00", "", b""), (b"/%252e", "/%2e", b""),
    (b"http://x", "/", b""), (b"http://x?q", "/", b"q"), (b"HTTPS://x:1/a?q", "/a", b"q"),
])  # fmt: skip
def test_targets(target, path, query):
    assert split_target("GET", target) == (path, query)


# -- what is made of a head -----------------------------------------------------------------------


def request_of(head: str) -> Request:
    return parse_head(head.encode("latin-1"), DIRECTIVES)


@pytest.mark.parametrize("lines, version, close, asks", [
    ("", "1.1", False, False), ("Connection: close\r\n", "1.1", True, False),
    ("Connection: keep-alive\r\n", "1.1", False, True),
    ("Connection: Keep-Alive, CLOSE\r\n", "1.1", True, True),
    ("Connection: upgrade\r\nConnection: close\r\n", "1.1", True, False), ("", "1.0", True, False),
    ("Connection: keep-alive\r\n", "1.0", False, True),
    ("Connection: x-close\r\n", "1.1", False, False),
])  # fmt: skip
def test_whether_the_client_stays(lines, version, close, asks):
    request = request_of(f"GET / HTTP/{version}\r\nHost: x\r\n{lines}\r\n")
    assert (request.close, request.asks_keep_alive) == (close, asks)


@pytest.mark.parametrize("lines, length, expects", [
    ("", 0, False),
    ("Content-Length: 7\r\n", 7, False),
    ("Transfer-Encoding: chunked\r\n", None, False),
    ("Content-Length: 7\r\nExpect: 100-Continue\r\n", 7, True),
    ("Expect: 100-continue\r\n", 0, False),
])  # fmt: skip
def test_how_a_body_is_framed(lines, length, expects):
    request = request_of(f"POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
    assert (request.length, request.expect_continue) == (length, expects)


def test_of_two_framings_only_one_is_left():
    request = request_of(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert request.length is None and request.close
    assert request.get(b"content-length") is None


def test_the_target_s_host_is_the_host():
    request = request_of("GET http://target.example/ HTTP/1.1\r\nHost: field.example\r\n\r\n")
    assert request.get(b"host") == b"target.example"


@pytest.mark.parametrize(
    "host", "x .x a.example a.example:80 [::1] [::1]:8080 127.0.0.1:1 a_b a. a-b:65535".split()
)
def test_hosts(host):
    assert request_of(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").get(b"host") == host.encode()


def test_http_1_0_needs_no_host():
    assert request_of("GET / HTTP/1.0\r\n\r\n").get(b"host") is None


@given(st.binary(max_size=40))
def test_a_quoted_line_is_one_line_and_shows_its_quotes(line):
    text = quote_line(line)
    assert text.isascii() and text.isprintable()
    assert '"' not in text.replace('\\"', "")


@given(st.integers(0, 4_000_000_000))
def test_dates_are_read_as_written(seconds):
    assert parse_http_date(http_date(seconds).encode()) == seconds


@pytest.mark.parametrize("text, seconds", [
    ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777), ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
    ("Sun Nov  6 08:49:37 1994", 784111777), ("Sunday, 06-Nov-69 08:49:37 GMT", 3150953377),
    ("Sunday, 06-Nov-70 08:49:37 GMT", 26729377), ("Sunday, 06-Nov-00 08:49:37 GMT", 973500577),
    ("Sun Nov 6 08:49 1994", None), ("Sun, 06 Nov 1994 08:49:-7 GMT", None), ("", None),
    ("Sun, 06 Nov 99999999999 08:49:37 GMT", None), ("yesterday", None), ("\xff", None),
    ("Tue, 02 Jan 2024 03:04:05", None), ("Tue, 02 Jan 2024 03:04:05 CET", None),
    ("Tue, 02 Foo 2024 03:04:05 GMT", None), ("Tue, 02 Jan 2024 03:04 GMT", None),
    ("02 Jan 2024 03:04:05 GMT", None), ("Tue, xx Jan 2024 03:04:05 GMT", None),
])  # fmt: skip
def test_forms_of_a_date(text, seconds):
    assert parse_http_date(text.encode("latin-1")) == seconds
