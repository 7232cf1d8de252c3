"""The rehearsal before the first fork: it serves pages, and leaves nothing behind."""

import dataclasses
import os
import subprocess
import sys
import threading
from unittest.mock import Mock

from support.configured import directives
from support.servers import MPMS

from mpmkit.cli.serve import SAMPLES
from mpmkit.config.settings import Section, Setting
from mpmkit.handlers.router import Router
from mpmkit.mpm import event, prefork, worker
from mpmkit.server import prewarm
from mpmkit.server.listen import ListenError
from mpmkit.server.prewarm import ROUNDS, rehearse

CHILDREN = dict(
    zip(MPMS, (prefork.PreforkChild, worker.WorkerChild, event.EventChild), strict=True)
)
# What each round's clients get, in the order in which they come.
ANSWERS = [200] * 4 + [404] + [200] * 4


class Handlers:
    """Makes the handler that the rehearsal asks for, and counts what it serves."""

    given, made = None, 0

    def __call__(self, directives, errors):
        self.given, self.served = directives, getattr(self, "served", [])
        self.made += 1
        files = Router(directives, errors, {}).files

        def handler(request, conn):
            response = files(request, conn)
            self.served.append(response.status)
            return response

        return handler


def test_pages_are_served_and_nothing_is_left(tmp_path, mpm):
    """Nor does a limit of connections end the rehearsal, or the site take part in it."""
    handlers, log = Handlers(), tmp_path / "access.log"
    limits = {"MaxConnectionsPerChild": 1, "CustomLog": f"{log} common"}
    given = directives(mpm, DocumentRoot=str(tmp_path), SetHandler="wsgi-script", **limits)
    site = Section("Directory", str(tmp_path), (Setting("SetHandler", ("wsgi-script",)),))
    given = dataclasses.replace(given, sections=(site,))
    before, threads = os.listdir("/proc/self/fd"), threading.active_count()
    rehearse(given, handlers, SAMPLES, CHILDREN[mpm])
    assert os.listdir("/proc/self/fd") == before
    assert handlers.served == ANSWERS * ROUNDS
    assert handlers.made == ROUNDS, "each round begins with nothing remembered"
    assert threading.active_count() == threads, "a fork must not come upon a thread"
    assert not log.exists(), "a rehearsal is no client's request"
    assert handlers.given.DocumentRoot == SAMPLES
    assert handlers.given.SetHandler is None and site not in handlers.given.sections
    assert {one.arg for one in handlers.given.sections} == {SAMPLES, "/rehearsal"}


def test_without_a_loopback_interface_nothing_is_rehearsed(monkeypatch):
    monkeypatch.setattr(prewarm, "bind", Mock(side_effect=ListenError("no such address")))
    handlers = Handlers()
    rehearse(directives("prefork"), handlers, SAMPLES, prefork.PreforkChild)
    assert handlers.given is None


def test_code_that_has_run_is_copied_and_no_other():
    def ran():
        return (lambda: 3)()

    def idle():
        return 4

    old, other = ran.__code__, idle.__code__
    prewarm.gather(prewarm._code_of(ran))
    new = ran.__code__
    assert new is not old and new.co_code.startswith(old.co_code) and ran() == 3
    assert sys.getsizeof(new) > prewarm.SIZES[-1], "together with larger ones"
    inner = [next(c for c in code.co_consts if hasattr(c, "co_code")) for code in (old, new)]
    assert inner[0] is not inner[1], "what each call makes again, too"
    assert idle.__code__ is other and sys.getprofile() is None


def test_blocks_that_malloc_keeps_for_a_thread_are_gaps_too():
    """What is made after `fill_gaps` does not take the place of what was freed before."""
    program = """if True:
        from mpmkit.server.prewarm import fill_gaps
        def made():
            return [b"x" * (size - 33) for size in range(528, 1033, 16) for _ in range(9)]
        before, wall = made(), bytes(3000)
        places = set(map(id, before))
        del before
        fill_gaps()
        after = made()
        assert places.isdisjoint(map(id, after))"""
    # `threading` does something in each forked child, in 0.4 MB of its own.
    light = (
        "import sys, mpmkit.mpm.prefork, mpmkit.cli.serve; assert 'threading' not in sys.modules"
    )
    for text in (program, light):
        subprocess.run([sys.executable, "-c", text], timeout=60, check=True)
