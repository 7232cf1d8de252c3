"""What scripts say, as pure functions: no bytes of a script's become more than header lines."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import refused
from support.client import request
from support.configured import directives

from mpmkit.config.values import signed
from mpmkit.handlers import gateway
from mpmkit.handlers.gateway import Script, ScriptFailed, Variables, read_head, redirected
from mpmkit.handlers.router import UrlMapping
from mpmkit.handlers.sections import ALL_OPTIONS, allowed
from mpmkit.http.messages import Request
from mpmkit.http.protocol import parse_head

CONTROLS = {*range(32), 127} - {9}  # what no header may contain
NAMES = st.text("abcdefgXYZ-", min_size=1, max_size=10).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
ENDS = st.sampled_from([b"\n", b"\r\n"])


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
    assert head.status in (0, *range(200, 600)) and (head.length is None or head.length >= 0)
    assert head.reason is None or not set(head.reason) & CONTROLS


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), ENDS, st.binary(max_size=50))
def test_lines_and_body_come_back_wherever_the_bytes_are_cut(pairs, end, body):
    data = b"".join(name + b": " + value + end for name, value in pairs) + end + body
    lines, rest = whole = gateway.split_head(data)
    assert rest == body
    assert read_head(lines, "x").fields == b"".join(b"%b: %b\r\n" % pair for pair in pairs)
    for cut in range(len(data)):
        found = gateway.split_head(data[:cut])
        if found is not None:  # found early: it is the same, with less of the body
            assert found[0] == whole[0] and data[:cut].endswith(found[1])
            break


@pytest.mark.parametrize("lines, said", [
    *((b"Status:" + one, "invalid status") for one in (b" 99 Low", b" 600", b" 100 Continue", b"")),
    (b"no colon", "Bad header: no colon"), (b"A: b\rB: c", "Bad header"), (b": x", "Bad header"),
    (b"Content-Length: -1", "Content-Length"), (b"\xff\x1b: x", r"\xff\x1b"),
])  # fmt: skip
def test_bad_heads(lines, said):
    refused(ScriptFailed, re.escape(said), read_head, lines, "x")


def test_the_eleventh_internal_redirect_is_refused():
    again = parse_head(request("/x", method="POST", body=b"abc"), directives())
    while (more := redirected(again, "/y", b"", {})) is not None:
        again = more
        url = "/x" if again.depth == 1 else "/y"
        assert (again.method, again.length, again.url) == ("GET", 0, url)
    assert again.depth == 10, "httpd's LimitInternalRecursion"


@pytest.mark.parametrize("prefix, root, path, file", [
    ("/icons/", "/usr/icons/", "/icons/a", "/usr/icons/a"),
    ("/icons/", "/usr/icons", "/icons/a", "/usr/iconsa"),  # as httpd: only the prefix is replaced
    ("/icons", "/usr/icons", "/icons", "/usr/icons"), ("/icons", "/usr/icons", "/iconsx", None),
    ("/icons", "/", "/icons/a", "/a"), ("/icons/", "/usr/icons/", "/icons", None),
    ("/icons", "//usr/./share//../icons/.", "/icons/a", "/usr/icons/a"),
])  # fmt: skip
def test_aliases_stand_for_whole_segments(prefix, root, path, file):
    place = UrlMapping.of("Alias", prefix, root)
    assert (place.file(path) if place.holds(path) else None) == file


@pytest.mark.parametrize("before, line, after", [
    ("FollowSymLinks", "+ExecCGI", {"FollowSymLinks", "ExecCGI"}), ("ExecCGI", "Indexes", {"Indexes"}),
    ("All", "-ExecCGI -Indexes", ALL_OPTIONS - {"ExecCGI", "Indexes"}), ("ExecCGI", "None", set()),
])  # fmt: skip
def test_options_add_up(before, line, after):
    assert allowed(signed((before,), tuple(line.split()))) == after


def test_what_a_head_decides_is_made_once_and_never_changes():
    """A Request that comes again, from another client, to another script, in another redirect."""
    variables = Variables(directives("prefork"), "/pages")
    request_ = parse_head(request("/x", "X-A: 1", host="lab.example:81"), directives())
    one = Script("/pages/one.py", "/one.py", "", "/pages", "", "")
    other = Script("/pages/other.py", "/other.py", "/more", "/pages", "/pages/more", "")

    def made(asked: Request, script: Script, port: int, scheme: str = "http") -> dict:
        environ: dict = {}
        conn = SimpleNamespace(local=("127.0.0.1", 80), peer=("192.0.2.1", port), scheme=scheme)
        variables.add(environ, asked, conn, script)
        return environ

    first = made(request_, one, 1000)
    assert (first["HTTP_X_A"], first["SERVER_PORT"], first["REMOTE_PORT"]) == ("1", "81", "1000")
    expected = {**first, "REMOTE_PORT": "2000"}
    first.clear()
    assert made(request_, one, 2000) == expected
    plain = parse_head(request("/x"), directives())
    ports = [made(plain, one, 1, scheme)["SERVER_PORT"] for scheme in ("http", "https", "http")]
    assert ports == ["80", "443", "80"]
    second = made(request_, other, 2000)
    assert (second["SCRIPT_NAME"], second["PATH_INFO"]) == ("/other.py", "/more")
    new = redirected(request_, "/other.py", b"q=1", {"X": "y"})
    assert new is not None
    third = made(new, other, 2000)
    assert (third["QUERY_STRING"], third["REDIRECT_X"]) == ("q=1", "y")
    assert made(request_, one, 2000) == expected
