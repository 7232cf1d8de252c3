"""Bytes to requests: what is refused and remembered, how a head is read, a body ends. (Any cut: fuzz.py.)"""

import time
from typing import Any

import pytest
from fuzz import PARTS, changed, check_head, made
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configured import directives

from mpmkit.http import fastpath
from mpmkit.http.fastpath import HEADS_REMEMBERED, RequestCache
from mpmkit.http.messages import RequestError, http_date, parse_http_date
from mpmkit.http.protocol import Protocol, parse_head, partial_request
from mpmkit.http.target import quote_line, split_target

DIRECTIVES, ANY_NUMBER = directives(), directives(LimitRequestFields=0)
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET, POST = "GET / HTTP/1.1|Host: x", "POST / HTTP/1.1|Host: x"


def parse(pieces: list[bytes], cache: RequestCache | None = None, of: Any = DIRECTIVES) -> list:
    """A protocol's reading of `pieces`: paths of requests with their bodies, and how it ended."""
    protocol = Protocol(of, cache or RequestCache(of))
    found: list = []
    try:
        for piece in pieces:
            (protocol.feed_body if protocol.body else protocol.feed)(piece)
            while True:
                if protocol.body:
                    if (data := protocol.next_piece()) is None:
                        break
                    found[-1][1] += data
                    if data:
                        continue
                if not protocol.pending or (request := protocol.next_request()) is None:
                    break
                found.append([request.path, b""])
    except RequestError as error:
        found.append(error.status)
    return found


# 715 KB, within every limit; h11's own limit of 16 KiB is not ours.
LONG = b"".join(b"X-%d: %b\r\n" % (i, b"v" * 7300) for i in range(98))
LONG_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n" + LONG
BLANK = b"".join(b"X-%d:%by\r\n" % (i, b" " * 8000) for i in range(98))


@pytest.mark.parametrize(("stream", "size"), [
    (LONG_HEAD + b"\r\n", 4), (LONG_HEAD + b"\r\n", 8192),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + BLANK + b"\r\n", 1 << 20),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX:" + b" " * 8000 + b"\x01\r\n\r\n", 1 << 20),  # refused
    (b"POST /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\nX: y\r\n\r\n", 1),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\r\n" * 5_000_000, 65536),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na" + b"\r\n" * 3_000_000, 1 << 23),
    (POST_CHUNKED + b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n", 65536),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)) + b"\r\n", 1 << 20),
])  # fmt: skip
def test_the_time_of_a_request_is_linear_however_it_is_cut(stream, size):
    """Seconds of CPU where what is quadratic takes minutes. LimitRequestFields 0 lets any number come."""
    began = time.thread_time()
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    for _ in range(40 if b"\x01" in stream else 1):
        found = parse(pieces, of=ANY_NUMBER)
        if found == [400]:
            assert partial_request(stream, ANY_NUMBER).headers == ((b"host", b"x"),)
    assert len(found) == 1 and (found == [400]) == (b"\x01" in stream)
    assert time.thread_time() - began < 6


@pytest.mark.parametrize(("more", "status"), [
    (b"X: " + b"v" * 9000, 400), (b"X: y\r\n" * 101, 400), (b"X: y\n", 400), (b"X: y\r\nZ\n", 400),
    (b"X: " + b"v" * 8188, None), (b"X: y\r\n" * 99, None), (b"X: y\r\n\r", None),
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000, 20_000])
def test_a_head_is_refused_as_soon_as_no_end_can_make_it_right(more, status, size):
    stream = b"GET / HTTP/1.1\r\nHost: x\r\n" + more
    found = parse([stream[i : i + size] for i in range(0, len(stream), size)])
    assert found == ([] if status is None else [status])


def test_only_whole_heads_without_a_body_are_remembered():
    cache = RequestCache(DIRECTIVES)
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    for _ in range(2):
        parse([get + post + b"abc" + get + POST_CHUNKED + b"0\r\n\r\n" + get], cache)
    assert list(cache.known) == [get]
    # What came once is not.
    cache = RequestCache(DIRECTIVES)
    first, other = (b"GET /%d HTTP/1.1\r\nHost: x\r\nX-Number: %d\r\n\r\n" % (n, n) for n in (1, 2))
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
        assert len(cache.known) <= HEADS_REMEMBERED
        assert len(cache.lines) <= fastpath.LINES_REMEMBERED
    assert cache.known and cache.lines
    cache.known.clear()
    cache.lines.clear()
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * fastpath.LONGEST_REMEMBERED + b"\r\n\r\n"
    parse([long, long, long], cache)
    assert not cache.known and list(cache.lines) == [b"Host: x"]


PLAIN = (
    b"GET /a?b=1 HTTP/1.1\r\nHost: x:80\r\nUser-Agent: a b (c)\r\nAccept: */*\r\n"
    b"Connection: keep-alive\r\nCookie: a=1; b=\xe4\r\nIf-Match: *\r\nX:\r\n\r\n"
)
ADDED = st.sampled_from(PARTS) | st.binary(min_size=1, max_size=1)
CHANGE = st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 2), ADDED)


@given(st.lists(CHANGE, max_size=3))
@settings(max_examples=500)
def test_a_plain_head_is_what_h11_reads(changes):
    head = changed(PLAIN, changes)
    check_head(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


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
    plain = made(RequestCache(DIRECTIVES).read_plain, head)
    assert plain is not None and plain == made(parse_head, head, DIRECTIVES)


@pytest.mark.parametrize("body, pieces, status", [
    (b"!\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", [], 400),
    (b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", [b"abc"], 413),
    (b"!\r\n0\r\n\r\nGET / HTTP/1.1\r\n", [], 400), (b"0\r\nX Y: z\r\n\r\nGET / HTTP/1.1\r\n", [], 400),
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
        assert protocol.body and protocol.unread


@pytest.mark.parametrize("target, path, query", [
    (b"/", "/", b""), (b"/?", "/", b""), (b"/?a?b", "/", b"a?b"),
    (b"/a/./b//c/../d", "/a/b/d", b""), (b"/a/..", "/", b""), (b"/a/b/..", "/a/", b""),
    (b"/a/.", "/a/", b""), (b"//a//b", "/a/b", b""), (b"/.hidden", "/.hidden", b""), (b"/a..b", "/a..b", b""),
    (b"/%2f", "", b""), (b"/a%2Fb?q", "", b"q"), (b"/%00", "", b""), (b"/%252e", "/%2e", b""),
    (b"/%ff%E9%0a?%zz", "/\udcff\udce9\n", b"%zz"), (b"/b/%2e%2e/c/.%2E/%2e", "/", b""),
    (b"http://x", "/", b""), (b"http://x?q", "/", b"q"), (b"HTTPS://x:1/a?q", "/a", b"q"),
])  # fmt: skip
def test_targets(target, path, query):
    assert split_target("GET", target) == (path, query)


@pytest.mark.parametrize("head, expected", [
    (GET, {"close": False, "asks_keep_alive": False, "length": 0, "version": (1, 1)}),
    (GET + "|Connection: close", {"close": True, "asks_keep_alive": False}),
    (GET + "|Connection: keep-alive", {"close": False, "asks_keep_alive": True}),
    (GET + "|Connection: Keep-Alive, CLOSE", {"close": True, "asks_keep_alive": True}),
    (GET + "|Connection: upgrade|Connection: close", {"close": True, "asks_keep_alive": False}),
    (GET + "|Connection: x-close", {"close": False, "asks_keep_alive": False}),
    ("GET / HTTP/1.0", {"close": True, "asks_keep_alive": False, b"host": None}),
    ("GET / HTTP/1.0|Connection: keep-alive", {"close": False, "asks_keep_alive": True}),
    (POST + "|Content-Length: 7", {"length": 7, "expect_continue": False}),
    (POST + "|Content-Length: 007|Expect: 100-Continue", {"length": 7, "expect_continue": True}),
    (POST + "|Expect: 100-continue", {"length": 0, "expect_continue": False}),
    (POST + "|Transfer-Encoding: Chunked", {"length": None, "close": False}),
    # Of two framings only one is left.
    (POST + "|Content-Length: 7|Transfer-Encoding: chunked",
     {"length": None, "close": True, b"content-length": None}),
    # The target's host is the host.
    ("GET http://a.example/ HTTP/1.1|Host: x", {b"host": b"a.example", "path": "/"}),
    ("OPTIONS * HTTP/1.2|Host: x", {"path": "*", "version": (1, 1)}),
    (GET + "|X: a |\t b|y:|Z: \xe9", {b"x": b"a b", b"y": b"", b"z": b"\xe9"}),
    *((f"GET / HTTP/1.1|Host: {host}", {b"host": host.encode()}) for host in (
        "x .x a.example a.example:80 [::1] [::1]:8080 127.0.0.1:1 a_b a. a-b:65535".split())),
])  # fmt: skip
def test_what_is_made_of_a_head(head, expected):
    request = parse_head(f"{head}||".replace("|", "\r\n").encode("latin-1"), DIRECTIVES)
    for name, value in expected.items():
        assert (request.get(name) if isinstance(name, bytes) else getattr(request, name)) == value


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
    ("Sun, 06 Nov 1994 08:49:-7 GMT", None), ("Sun, 06 Nov 99999999999 08:49:37 GMT", None),
    ("\xff", None), ("Tue, 02 Jan 2024 03:04:05 CET", None), ("", None),
])  # fmt: skip
def test_forms_of_a_date(text, seconds):
    assert parse_http_date(text.encode("latin-1")) == seconds
