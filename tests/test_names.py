"""Names of files while a server runs: links that are swapped, index files that come later."""

import os
from pathlib import Path

import pytest
from support.client import get
from support.files import program, write
from support.servers import serving

APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"{release} " + environ["DOCUMENT_ROOT"].encode()]
"""
PROGRAM = '#!/bin/sh\nprintf "\\n{release} %s %s" "$CONTEXT_DOCUMENT_ROOT" "$DOCUMENT_ROOT"\n'
LINES = """
Alias /alias {current}/files/
ScriptAlias /cgi/ {current}/cgi/
WSGIScriptAlias /wsgi {current}/app.wsgi
WSGIScriptAlias /apps {current}/apps
AddHandler wsgi-script .py
"""


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("releases")
    for release in ("one", "two"):
        root = where / release
        for name in ("root/a.txt", "files/a.txt"):
            write(root / name, release)
        for name in ("root/app.py", "app.wsgi", "apps/app.py"):
            write(root / name, APP.format(release=release))
        program(root / "cgi" / "program", PROGRAM.format(release=release))
    (where / "current").symlink_to("one")
    return where


def swap(where: Path, release: str) -> None:
    (where / "next").symlink_to(release)
    os.replace(where / "next", where / "current")


def test_the_link_of_a_root_is_swapped(releases):
    """Each request is for what the link leads to then; DOCUMENT_ROOT keeps the link's name."""
    current, root = releases / "current", releases / "current" / "root"
    expected = {
        "/a.txt": "{0}", "/alias/a.txt": "{0}", "/cgi/program": f"{{0}} {current}/cgi/ {root}",
        "/app.py": f"{{0}} {root}", "/wsgi/x": f"{{0}} {root}", "/apps/app.py": f"{{0}} {root}",
    }  # fmt: skip
    lines = LINES.format(current=current).strip().splitlines()
    with serving("event", document_root=root, directives=lines) as server:
        for release in ("one", "two", "one"):
            swap(releases, release)
            for path, text in expected.items():
                assert get(server, path).body.decode() == text.format(release), (path, release)


def test_an_index_file_that_comes_later(tmp_path):
    write(tmp_path / "b.html", "b")
    index = "DirectoryIndex a.html b.html"
    with serving("event", document_root=tmp_path, directives=index) as server:
        assert [get(server, "/").body for _ in range(3)] == [b"b"] * 3
        write(tmp_path / "a.html", "a")
        assert [get(server, "/").body for _ in range(3)] == [b"a"] * 3
        (tmp_path / "a.html").unlink()
        assert get(server, "/").body == b"b"
