"""Small inputs sent to the real httpd and to mpmkit, started from one file: what both say is compared."""

import os
import re
import signal
from pathlib import Path

import pytest
from support.client import exchange
from support.files import program, recorded_root, section, tree
from support.servers import serving
from support.waiting import logged, poll_until

from mpmkit.measure.reference_servers import find_httpd, module_directory
from tests.fidelity.server_pair import Pair

pytestmark = [pytest.mark.rival, pytest.mark.usefixtures("httpd")]
PLACES = "/ /d/ /d /d/?k /file.txt?q=1 /none?n=1 /slash/ /slash /slash/second.html /plain/ /plain /plain/no /no/"


def test_httpd_escapes_the_same(tmp_path):
    """In the error log (a refused path) and in the access log (%U, %q, %{Referer}i)."""
    root = recorded_root(tmp_path / "root")
    rule = section('LocationMatch "^/no"', "Require all denied")
    logs = f'{rule}\nCustomLog lines "%U|%q|%{{Referer}}i"'
    paths = [*(b"%%%02x" % byte for byte in range(1, 256) if byte != 47), b"%0a%1b[2J", b"%C3%A9"]
    with Pair("event", root, logs) as pair:
        found = []
        for side in pair.sides:
            for path in paths:
                fields = b'Host: h\r\nConnection: close\r\nReferer: "\xff\t\\'
                head = b'GET /no%b?q"\\ HTTP/1.1\r\n%b\r\n\r\n' % (path, fields)
                exchange(side, head)
            lines = logged(side.root / "lines", len(paths))
            denied = re.findall(r"AH01630: .*?/no(.*?)(?:, referer: .*)?\n", side.log())
            assert len(denied) == len(paths)
            found.append((lines, denied))
    assert found[0] == found[1]


def test_what_is_logged_of_where_a_path_leads(shared):
    """Of directories their index, of internal redirects the last; what is not known is a hyphen."""
    where = r"""
SetEnvIf Request_URI "file" v=7
ErrorDocument 404 /file.txt?e=1
Alias /slash "{root}/d/"
Alias /plain "{root}/d"
DirectoryIndex none.html second.html
LogFormat "%U|%>U|%<U|%q|%f|%{{v}}e|%m|%>s|%{{SSL_PROTOCOL}}x|%{{a}}n|%{{b}}^ti" where
CustomLog where where
"""
    root = tree(recorded_root(shared / "root"), {"d/second.html": "second"})
    modules = ("setenvif", "socache_shmcb", "ssl")
    with Pair("event", root, where.format(root=root), modules=modules) as pair:

        def what(side) -> list[str]:
            for path in PLACES.split():
                exchange(side, f"GET {path} HTTP/1.0\r\n\r\n".encode())
            lines = logged(side.root / "where", len(PLACES.split()))
            return sorted(line.replace(str(side.root), "") for line in lines)

        theirs, ours = pair.both(what)
        assert ours == theirs and any("/d/second.html" in line for line in ours)


def said(file: Path) -> str:
    """What a program has written; it may not have opened its file yet."""
    return file.read_text() if file.exists() else ""


def test_logs_to_programs(tmp_path):
    """The program is the parent's child, is started again when it ends, and goes on after a restart."""
    text = """#!/bin/sh
echo $$ > {folder}/$PPID.$1.pid
exec cat >> {folder}/$PPID.$1.log
"""
    script = program(tmp_path / "program", text.format(folder=tmp_path))
    ways = {"one": f"|{script} one", "two": f"||{script} two", "sh": f"|$exec {script} sh"}
    logs = "\n".join(f'CustomLog "{way}" "%U"' for way in ways.values())
    with Pair("event", recorded_root(tmp_path / "root"), logs) as pair:

        def ask(side, path: str) -> None:
            exchange(side, f"GET {path} HTTP/1.0\r\n\r\n".encode())
            for name in ways:
                file = tmp_path / f"{side.pid}.{name}.log"
                poll_until(lambda: path in said(file).split(), path, cap=20)  # noqa: B023

        def what(side) -> int:
            ask(side, "/first")
            for name in ways:
                pid = (tmp_path / f"{side.pid}.{name}.pid").read_text()
                os.kill(int(pid), signal.SIGTERM)
                started = tmp_path / f"{side.pid}.{name}.pid"
                poll_until(lambda: started.read_text() not in ("", pid), "again", cap=20)  # noqa: B023
            ask(side, "/second")
            before = set(side.children())
            os.kill(side.pid, signal.SIGUSR1)
            poll_until(lambda: side.log().count("resuming normal operations") == 2, "restarted")
            # A line of httpd's old generation may be lost: its programs are ended at once.
            poll_until(lambda: not before & set(side.children()), "the old generation left", cap=20)
            ask(side, "/third")
            return side.log().count("AH00106")

        assert pair.both(what) == [3, 3]
    with serving("event", directives=[f'ErrorLog "|{script} errors"']) as server:
        exchange(server, b"GET /%2f HTTP/1.0\r\n\r\n")
        errors = tmp_path / f"{server.pid}.errors.log"
        poll_until(lambda: "resuming normal operations" in said(errors))


def test_lines_of_some_requests(tmp_path):
    logs = r"""
SetEnvIf Request_URI "\.gif$" image=$0
SetEnvIfNoCase X-A yes wanted
BrowserMatch bot !wanted robot
CustomLog images "%U %{image}e %{none}e" env=image
CustomLog others "%U" env=!image
CustomLog wanted "%U %{wanted}e %{robot}e" env=wanted
CustomLog robots "%U" "env=robot"
CustomLog last "%U"
"""
    paths = ["/a.gif", "/file.txt", "/b.gif?x", "/none", "/c.gifs"]
    fields = ["", "X-A: YES\r\n", "X-A: yes\r\nUser-Agent: a bot\r\n"]
    logs = f"LoadModule setenvif_module {module_directory(find_httpd())}/mod_setenvif.so\n{logs}"
    with Pair("event", recorded_root(tmp_path), logs) as pair:

        def what(side) -> dict[str, str]:
            for path in paths:
                for field in fields:
                    exchange(side, f"GET {path} HTTP/1.0\r\n{field}\r\n".encode())
            logged(side.root / "last", len(paths) * len(fields))
            names = ("images", "others", "wanted", "robots", "last")
            return {name: sorted((side.root / name).read_text().split("\n")) for name in names}

        theirs, ours = pair.both(what)
        assert ours == theirs and len(ours["wanted"]) == len(paths) + 1
