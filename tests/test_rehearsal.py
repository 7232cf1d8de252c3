"""The rehearsal before the first fork: it serves pages, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

from mpmkit import rehearsal
from mpmkit.directives import check, from_keywords
from mpmkit.handlers.static import StaticFiles
from mpmkit.listen import ListenError
from mpmkit.rehearsal import CONNECTIONS, REQUESTS, rehearse
from mpmkit.serve import SAMPLES


def directives(mpm: str, **named):
    return check(mpm, from_keywords(mpm, Listen="8080", **named))[0]


class Handlers:
    """Makes the handler that the rehearsal asks for, and counts what it serves."""

    def __init__(self) -> None:
        self.given = None
        self.served = []

    def __call__(self, directives, errors):
        self.given = directives
        files = StaticFiles(directives.DocumentRoot)

        def handler(request, conn):
            response = files(request, conn)
            self.served.append(response.status)
            return response

        return handler


def test_pages_are_served_and_nothing_is_left(tmp_path, mpm):
    log = tmp_path / "access.log"
    handlers = Handlers()
    before = os.listdir("/proc/self/fd")
    rehearse(directives(mpm, CustomLog=f"{log} common"), handlers, SAMPLES)
    assert os.listdir("/proc/self/fd") == before
    assert handlers.served == [200] * CONNECTIONS * len(REQUESTS)
    assert not log.exists(), "a rehearsal is nobody's request"


def test_the_site_takes_no_part(tmp_path, mpm):
    handlers = Handlers()
    given = directives(mpm, DocumentRoot=str(tmp_path), SetHandler="wsgi-script")
    rehearse(given, handlers, SAMPLES)
    assert handlers.given.DocumentRoot == SAMPLES
    assert handlers.given.SetHandler is None and handlers.given.sections == ()


def test_without_a_loopback_interface_nothing_is_rehearsed(monkeypatch):
    def refuse(address, port):
        raise ListenError("no such address")

    monkeypatch.setattr(rehearsal, "bind", refuse)
    handlers = Handlers()
    rehearse(directives("prefork"), handlers, SAMPLES)
    assert handlers.given is None


def test_prefork_has_no_threads_to_remember():
    """`threading` does something in each forked child, in 0.4 MB of its own."""
    program = ("import sys, mpmkit.serve, mpmkit.mpm.prefork\n"
               "sys.exit('threading' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
