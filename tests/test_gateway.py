"""What scripts say, as pure functions: no bytes of a script's become more than header lines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.config.checks import check
from mpmkit.config.keywords import from_keywords
from mpmkit.handlers.conditional import met
from mpmkit.handlers.fastcgi import _HANDLER
from mpmkit.handlers.gateway import REDIRECTS, Redirected, Script, Variables, redirected
from mpmkit.handlers.programs import Head, ScriptFailed, answer, read_head, split_head
from mpmkit.handlers.router import UrlMapping, _ends
from mpmkit.handlers.sections import ALL_OPTIONS, merge_options
from mpmkit.http.messages import Request, Response, parse_http_date

NEVER = pytest.fail
CONTROLS = {*range(32), 127} - {9}  # what no header may contain


def a_request(method: str = "GET", *headers: tuple[bytes, bytes]) -> Request:
    request = Request()
    request.method, request.headers = method, headers
    request.conditional = any(name.startswith(b"if-") for name, _ in headers)
    request.path, request.query, request.target = "/x", b"", b"/x"
    request.version, request.length, request.expect_continue = (1, 1), 0, False
    for name in Request.__slots__:
        if not hasattr(request, name):
            setattr(request, name, None)
    return request


@given(st.binary(max_size=300))
def test_whatever_a_script_says_is_header_lines_or_refused(lines):
    try:
        head = read_head(lines, "x")
    except ScriptFailed as error:
        assert error.status == 500 and str(error).isprintable()
        return
    for line in head.fields.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b": ")
        assert colon and name and not set(name) & set(b" \t:\0")
        assert not set(value) & CONTROLS
    assert not head.fields or head.fields.endswith(b"\r\n")
    assert not set(head.content_type + head.location.encode("latin-1")) & CONTROLS
    assert 200 <= head.status <= 599 and (head.length is None or head.length >= 0)
    assert head.reason is None or not set(head.reason) & CONTROLS


NAMES = st.text("abcdefgXYZ-", min_size=1, max_size=10).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
KNOWN = {b"status", b"location", b"date", b"te", b"content-type", b"content-length", b"server"}


@given(
    st.lists(st.tuples(NAMES.filter(lambda name: name.lower() not in KNOWN), VALUES), max_size=6),
    st.sampled_from([b"\n", b"\r\n"]),
    st.binary(max_size=50),
)
def test_lines_and_body_come_back(pairs, end, body):
    data = b"".join(name + b": " + value + end for name, value in pairs) + end + body
    lines, rest = split_head(data)
    assert rest == body
    assert read_head(lines, "x").fields == b"".join(b"%b: %b\r\n" % pair for pair in pairs)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_a_head_is_found_wherever_the_bytes_are_cut(lines, body):
    data = lines + b"\r\n\r\n" + body
    whole = split_head(data)
    assert whole is not None
    for cut in range(len(data)):
        found = split_head(data[:cut])
        if found is not None:  # found early: it is the same, with less of the body
            assert found[0] == whole[0] and data[:cut].endswith(found[1])
            break


@pytest.mark.parametrize("lines, said", [
    (b"Status: 99 Low", "invalid status"), (b"Status: 600", "invalid status"),
    (b"Status: 100 Continue", "invalid status"), (b"Status:", "invalid status"),
    (b"no colon", "Bad header: no colon"), (b"A: b\n c", "Bad header:  c"),
    (b"A B: c", "Bad header: A B: c"), (b"A: b\rB: c", "Bad header"),
    (b"Content-Length: -1", "Content-Length"), (b"Content-Length: 1e3", "Content-Length"),
    (b"\xff\x1b: x", r"\xff\x1b"), (b": x", "Bad header"), (b" A: x", "Bad header"),
    *((b"A: b%cc" % n, "Bad header") for n in (*range(9), *range(11, 32), 127)),
    (b"Location: /\x01", "Bad header"), (b"Content-Type: a/b\0", "Bad header"),
])  # fmt: skip
def test_bad_heads(lines, said):
    with pytest.raises(ScriptFailed) as error:
        read_head(lines, "x")
    assert said in str(error.value)


def test_reasons():
    assert read_head(b"Status: 404 Not Found", "x").reason is None
    assert read_head(b"Status: 404", "x").reason is None
    assert read_head(b"Status: 404 Gone Fishing", "x").reason == b"Gone Fishing"
    assert read_head(b"", "x") == Head(200, False, None, "", b"", b"", None, b"", b"")


class Pieces:
    """A script's output that notes what becomes of it."""

    def __init__(self, *pieces):
        self.left = list(pieces)
        self.closed = False

    def __iter__(self):
        while self.left:
            yield self.left.pop(0)

    def close(self):
        self.closed = True


def responded(lines: bytes, request: Request, pieces) -> Response:
    return answer(
        read_head(lines, "x"),
        pieces,
        request,
        "x",
        lambda path, fields: Response(299, fields, b"", path.encode(), len(path)),
        NEVER,
    )


def test_an_answer_with_a_body_or_none():
    pieces = Pieces(b"a", b"b")
    response = responded(b"A: b", a_request(), pieces)
    assert (response.status, response.length, b"".join(response.body)) == (200, None, b"ab")
    response.body.close()
    assert pieces.closed
    for request, lines in [
        (a_request("HEAD"), b"Content-Length: 2"),
        (a_request(), b"Status: 204"),
    ]:
        pieces = Pieces(b"a", b"b")
        response = responded(lines, request, pieces)
        assert response.length == 0
        assert not list(response.body) and not pieces.left, "the script came to its own end"
        response.body.close()
        assert pieces.closed


@pytest.mark.parametrize("lines, length, reason", [
    (b"", 4, None),
    (b"Status: 200 Own", 4, b"Own"),
    (b"Content-Length: 9", 9, None),  # what it promised, and cannot keep
])  # fmt: skip
def test_an_answer_that_has_come_whole(lines, length, reason):
    response = responded(lines, a_request(), b"body")
    assert (response.length, response.reason) == (length, reason)
    assert response.fields == b"Content-Length: %d\r\n" % length
    if length == 4:
        assert b"".join([response.body] if reason is None else response.body) == b"body"


def test_locations():
    pieces = Pieces(b"a")
    response = responded(b"Location: /there\nX: y", a_request(), pieces)
    assert (response.status, response.body, response.fields) == (299, b"/there", b"X: y\r\n")
    assert pieces.closed and not pieces.left
    response = responded(b"Location: http://x/", a_request(), Pieces())
    assert response.status == 302 and b"Location: http://x/\r\n" in response.fields
    response = responded(b"Status: 201\nLocation: /new", a_request(), Pieces(b"made"))
    assert (response.status, b"".join(response.body)) == (201, b"made")


DATE = "Tue, 02 Jan 2024 03:04:05 GMT"


@pytest.mark.parametrize("etag, name, value, method, status", [
    ('"a"', "if-none-match", '"b", W/"a"', "GET", 304), ('"a"', "if-none-match", "*", "HEAD", 304),
    ("", "if-none-match", "*", "GET", 304), ("", "if-modified-since", DATE, "GET", 304),
    ("", "if-modified-since", DATE.replace(":05", ":04"), "GET", 0), ('"a"', "if-match", '"b"', "GET", 412),
    ("", "if-match", '"b"', "GET", 412), ('"a"', "if-match", 'W/"a"', "GET", 412),
    ('"a"', "if-match", "*", "GET", 0),
    ("", "if-unmodified-since", DATE.replace(":05", ":04"), "GET", 412),
    ("", "if-unmodified-since", DATE, "GET", 0),
    ('"a"', "if-none-match", '"a"', "POST", 412), ('"a"', "if-none-match", '"b"', "POST", 0),
])  # fmt: skip
def test_validators(etag, name, value, method, status):
    request = a_request(method, (name.encode(), value.encode()))
    changed = parse_http_date(DATE.encode())
    assert met(request, etag.encode(), changed, changed + 100) == status


def test_redirects_end():
    request = a_request("POST", (b"content-length", b"3"), (b"a", b"b"))
    request.length = 3
    first = redirected(request, "/y", b"q", {"A": "b"})
    assert (first.method, first.length, first.headers) == ("GET", 0, ((b"a", b"b"),))
    assert (first.path, first.query, first.url, first.before) == ("/y", b"q", "/x", {"A": "b"})
    again: Redirected | None = first
    for _ in range(REDIRECTS - 1):
        again = redirected(again, "/y", b"", {})
    assert again.depth == REDIRECTS and redirected(again, "/y", b"", {}) is None


# -- where a path leads ---------------------------------------------------------------------------


@given(st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=5), st.booleans())
def test_the_ends_of_a_path_are_its_segments(segments, slash):
    path = "/" + "/".join(segments) + "/" * slash
    ends = list(_ends(path, 0))
    assert ends == sorted(set(ends)) and ends[-1] == len(path)
    assert [path[:end] for end in ends] == [
        "/" + "/".join(segments[: n + 1]) for n in range(len(segments))
    ] + [path] * slash


@pytest.mark.parametrize("prefix, root, path, file", [
    ("/icons/", "/usr/icons/", "/icons/a", "/usr/icons/a"),
    ("/icons/", "/usr/icons", "/icons/a", "/usr/iconsa"),  # as httpd: only the prefix is replaced
    ("/icons", "/usr/icons", "/icons/a", "/usr/icons/a"),
    ("/icons", "/usr/icons", "/icons", "/usr/icons"), ("/icons", "/usr/icons", "/iconsx", None),
    ("/icons/", "/usr/icons/", "/icons", None), ("/", "/srv/", "/a", "/srv/a"),
])  # fmt: skip
def test_aliases_stand_for_whole_segments(prefix, root, path, file):
    place = UrlMapping("Alias", prefix, root)
    assert place.holds(path) is (file is not None)
    if file is not None:
        assert place.file(path) == file


@pytest.mark.parametrize("before, lines, after", [
    ("", ["FollowSymLinks", "+ExecCGI"], "FollowSymLinks ExecCGI"),
    ("ExecCGI", ["Indexes"], "Indexes"),
    ("", ["All"], " ".join(sorted(ALL_OPTIONS))),
    ("", ["All", "-ExecCGI -Indexes -MultiViews"], " ".join(sorted(ALL_OPTIONS - {"ExecCGI", "Indexes"}))),
    ("ExecCGI", ["None"], ""),
])  # fmt: skip
def test_options_add_up(before, lines, after):
    words = [tuple(line.split()) for line in lines]
    assert merge_options(frozenset(before.split()), words) == set(after.split())


@pytest.mark.parametrize("handler, path, host, port", [
    ("proxy:unix:/run/php/php-fpm.sock|fcgi://localhost", "/run/php/php-fpm.sock", "localhost", None),
    ("proxy:unix:/a|fcgi://localhost/", "/a", "localhost", None),
    ("proxy:fcgi://127.0.0.1:9000", None, "127.0.0.1", "9000"),
    ("proxy:fcgi://[::1]:9000/x", None, "[::1]", "9000"),
])  # fmt: skip
def test_backends_are_read_as_httpd_writes_them(handler, path, host, port):
    found = _HANDLER.match(handler)
    assert (found["path"], found["host"], found["port"]) == (path, host, port)


def test_what_a_head_decides_is_made_once_and_never_changes():
    """A Request that comes again, from another client, to another script, in another redirect."""
    directives, _ = check("prefork", from_keywords("prefork", Listen="8080"))
    variables = Variables(directives, "/pages")
    request = a_request("GET", (b"host", b"lab.example:81"), (b"x-a", b"1"))
    one = Script("/pages/one.py", "/one.py", "", "/pages", "", "")
    other = Script("/pages/other.py", "/other.py", "/more", "/pages", "/pages/more", "")

    def told(asked: Request, script: Script, port: int) -> dict:
        environ: dict = {}
        conn = SimpleNamespace(local=("127.0.0.1", 80), peer=("192.0.2.1", port), scheme="http")
        variables.add(environ, asked, conn, script)
        return environ

    first = told(request, one, 1000)
    assert (first["HTTP_X_A"], first["SERVER_PORT"], first["REMOTE_PORT"]) == ("1", "81", "1000")
    expected = {**first, "REMOTE_PORT": "2000"}
    first.clear()
    assert told(request, one, 2000) == expected
    second = told(request, other, 2000)
    assert (second["SCRIPT_NAME"], second["PATH_INFO"]) == ("/other.py", "/more")
    new = redirected(request, "/other.py", b"q=1", {"X": "y"})
    assert new is not None
    third = told(new, other, 2000)
    assert (third["QUERY_STRING"], third["REDIRECT_X"]) == ("q=1", "y")
    assert told(request, one, 2000) == expected
