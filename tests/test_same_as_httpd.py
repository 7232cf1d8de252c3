"""Small inputs sent to the real httpd and to mpmkit, started from one file: what both say is compared."""

import itertools
import os
import re
import signal
from pathlib import Path

import pytest
from support.client import exchange
from support.files import program, recorded_root, tree
from support.servers import serving
from support.waiting import logged, poll_until

from tests.fidelity.server_pair import Pair

pytestmark = [pytest.mark.rival, pytest.mark.usefixtures("httpd")]
LOGS = r"""
<LocationMatch "^/refused">
Require all denied
</LocationMatch>
SetEnvIf Request_URI "file" v=7
SetEnvIf Request_URI "\.gif$" image=$0
SetEnvIfNoCase X-A yes wanted
BrowserMatch bot !wanted robot
ErrorDocument 404 /file.txt?e=1
Alias /slash "{root}/d/"
Alias /plain "{root}/d"
DirectoryIndex none.html second.html
LogFormat "%U|%>U|%<U|%q|%f|%{v}e|%m|%>s|%{SSL_PROTOCOL}x|%{a}n|%{b}^ti" where
CustomLog where where
CustomLog escaped "%U|%q|%{Referer}i"
CustomLog images "%U %{image}e %{none}e" env=image
CustomLog others "%U" env=!image
CustomLog wanted "%U %{wanted}e %{robot}e" env=wanted
CustomLog robots "%U" "env=robot"
CustomLog last "%U"
"""
NAMES = re.findall(r"CustomLog (\w+)", LOGS)
PLACES = """/ /d/ /d /d/?k /file.txt?q=1 /none?n=1 /slash/ /slash /slash/second.html /plain/ /plain /plain/no
    /no/ /a.gif /b.gif?x /c.gifs"""
FIELDS = "", "X-A: YES\r\n", "X-A: yes\r\nUser-Agent: a bot\r\n"
ODD = [*(b"%%%02x" % byte for byte in range(1, 256) if byte != 47), b"%0a%1b[2J", b"%C3%A9"]


def test_logs_say_the_same(shared):
    """Escapes, in the error log, too; where a path leads: of directories their index, of internal redirects the
    last, and what is not known is a hyphen; lines of some requests."""
    head = b'GET /refused%b?q"\\ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nReferer: "\xff\t\\\r\n\r\n'
    requests = [head % path for path in ODD]
    for path, field in itertools.product(PLACES.split(), FIELDS):
        requests.append(f"GET {path} HTTP/1.0\r\n{field}\r\n".encode())
    root = tree(recorded_root(shared / "root"), {"d/second.html": "second"})
    modules = ("setenvif", "socache_shmcb", "ssl")
    with Pair("event", root, LOGS.replace("{root}", str(root)), modules=modules) as pair:

        def what(side) -> dict[str, list[str]]:
            for one in requests:
                exchange(side, one)
            logged(side.root / "last", len(requests))
            denied = re.findall(r"AH01630: .*?/refused(.*?)(?:, referer: .*)?\n", side.log())
            found = {"denied": denied}
            for name in NAMES:
                text = (side.root / name).read_text().replace(str(side.root), "")
                found[name] = sorted(text.split("\n"))
            return found

        theirs, ours = pair.both(what)
        assert ours == theirs and any("/d/second.html" in line for line in ours["where"])
        assert len(ours["denied"]) == len(ODD) and len(ours["wanted"]) == 16 + 1


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
                started = tmp_path / f"{side.pid}.{name}.pid"
                os.kill(int(pid := started.read_text()), signal.SIGTERM)
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
