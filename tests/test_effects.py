"""Directives of the site and of the server's manners: each does what it says, as a client sees it.

That they are read right is test_directives.py's business; here a server runs with them. The handlers
are the same under each MPM, so one of them will do. (Error pages of hosts and sections,
AddDefaultCharset, UseCanonicalName, ExtendedStatus: tests/fidelity.)
"""

import os
import re
from functools import partial
from pathlib import Path

import pytest
from support.client import Client, exchange, get, read_reply
from support.files import conf, program, recorded_root, section, tree, write
from support.servers import serving, take_errors
from support.waiting import poll_until

from mpmkit._version import __version__
from mpmkit.http.messages import server_header

FAILING = """
def application(environ, start_response):
    if environ["QUERY_STRING"] == "own":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"the script's own page"]
    raise RuntimeError("broken")
"""
SECRET = section("Location /secret", "Require all denied")


@pytest.fixture
def root(tmp_path) -> Path:
    own = {"gone.html": "<p>gone, but not forgotten\n", "fail.py": FAILING}
    return tree(recorded_root(tmp_path / "site"), own)


@pytest.fixture
def site(root):
    """A function that starts a server with the lines of a file."""
    return lambda *lines: serving("event", document_root=root, conf=conf(*lines))


def test_error_documents(site, root):
    lines = (
        'ErrorDocument 404 "<p>no such thing as &eacute;"', "ErrorDocument 403 /gone.html",
        "ErrorDocument 405 https://elsewhere.example/x?y", "ErrorDocument 400 /nothing.html",
        'ErrorDocument 414 "too long"', "ErrorDocument 500 /gone.html", SECRET,
    )  # fmt: skip
    gone = b"<p>gone, but not forgotten\n"
    with site(*lines) as server:
        text = get(server, "/nope")
        assert (text.status, text.body) == (404, b"<p>no such thing as &eacute;")
        assert text["Content-Type"] == "text/html; charset=iso-8859-1"
        # Conditions were for another; of a script its own page is left alone, and its failure is not.
        conditions = ("Range: bytes=0-1", "If-None-Match: *")
        cases = ("/secret", 403), ("/secret", 403, *conditions), ("/fail.py", 500)
        for path, status, *more in cases:
            local = get(server, path, *more)
            assert (local.status, local.body, local["Content-Type"]) == (status, gone, "text/html")
        assert local["Connection"] == "close"
        assert any("RuntimeError: broken" in line for line in take_errors(server))
        assert get(server, "/fail.py?own").body == b"the script's own page"
        head = get(server, "/secret", method="HEAD")
        assert (head.status, head["Content-Length"]) == (403, str(len(gone)))
        away = get(server, "/file.txt", method="DELETE")
        assert (away.status, away["Location"]) == (302, "https://elsewhere.example/x?y")
        assert get(server, "/file.txt").status == 200
        with Client(server) as client:
            assert client.get("/nope").status == client.get("/nope").status == 404, "kept alive"
        # A malformed request has no path: it gets a text, not another page.
        assert b"no such thing" not in exchange(server, b"nonsense\r\n\r\n")
        long = read_reply(exchange(server, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n"))
        assert (long.status, long.body) == (414, b"too long")
    lines = ("ErrorDocument 405 /no-such", 'ErrorDocument 403 "x"', "ErrorDocument 403 default")
    with site(*lines, SECRET) as server:
        lost = get(server, "/file.txt", method="DELETE")
        assert lost.status == 405 and b"ErrorDocument /no-such: 404 Not Found" in lost.body
        assert b"<h1>Forbidden</h1>" in get(server, "/secret").body


@pytest.mark.parametrize(("tokens", "text"), [
    ("ProductOnly", "mpmkit"), ("Major", r"mpmkit/\d+"), ("Minor", r"mpmkit/\d+\.\d+"),
    ("Minimal", re.escape(f"mpmkit/{__version__}")),
    ("OS", re.escape(f"mpmkit/{__version__} (Linux)")),
    ("Full", re.escape(f"mpmkit/{__version__} (Linux) Python/") + r"3\.\d+\.\d+"),
])  # fmt: skip
def test_server_tokens(tokens, text):
    assert re.fullmatch(text, server_header(tokens))


def test_a_missing_file_is_logged_at_info_with_its_place(site, root, tmp_path):
    with site("LogLevel info", f'Alias "/other" "{tmp_path}"') as server:
        for path, file in (("/nope/x", f"{root}/nope/x"), ("/other/nope", f"{tmp_path}/nope")):
            get(server, path)
            poll_until(lambda: f"AH00128: File does not exist: {file}\n" in server.error_log())  # noqa: B023


APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"{release} " + environ["DOCUMENT_ROOT"].encode()]
"""
PROGRAM = '#!/bin/sh\nprintf "\\n{release} %s %s" "$CONTEXT_DOCUMENT_ROOT" "$DOCUMENT_ROOT"\n'
LINES = ("Alias /alias {}/files/", "ScriptAlias /cgi/ {}/cgi/", "WSGIScriptAlias /wsgi {}/app.wsgi",
         "WSGIScriptAlias /apps {}/apps", "DirectoryIndex a.html b.html")  # fmt: skip


def test_the_link_of_a_root_is_swapped(tmp_path):
    """Each request is for what the link leads to then; DOCUMENT_ROOT keeps the link's name."""
    for release in ("one", "two"):
        pages = dict.fromkeys(("root/a.txt", "files/a.txt"), release)
        app = APP.format(release=release)
        apps = dict.fromkeys(("root/app.py", "app.wsgi", "apps/app.py"), app)
        where = tree(tmp_path / release, pages | apps)
        program(where / "cgi" / "program", PROGRAM.format(release=release))
    (current := tmp_path / "current").symlink_to("one")
    root = current / "root"
    expected = {
        "/a.txt": "{0}", "/alias/a.txt": "{0}", "/cgi/program": f"{{0}} {current}/cgi/ {root}",
        "/app.py": f"{{0}} {root}", "/wsgi/x": f"{{0}} {root}", "/apps/app.py": f"{{0}} {root}",
    }  # fmt: skip
    lines = [line.format(current) for line in LINES]
    with serving("event", document_root=root, directives=lines) as server:
        for release in ("one", "two", "one"):
            (tmp_path / "next").symlink_to(release)
            os.replace(tmp_path / "next", current)
            for path, text in expected.items():
                assert get(server, path).body.decode() == text.format(release), (path, release)
        # An index file that comes later
        a, b = root / "a.html", root / "b.html"
        changes = {partial(write, b, "b"): b"b", partial(write, a, "a"): b"a", a.unlink: b"b"}
        for change, body in changes.items():
            change()
            assert [get(server, "/").body for _ in range(3)] == [body] * 3
