"""Before the first fork: a rehearsal serves pages, and leaves nothing behind; objects become immortal where
Python has such, so that children share more, and nothing grows or stays open."""

import dataclasses
import json
import os
import statistics
import sys
import threading
from contextlib import ExitStack
from unittest.mock import Mock

from support.calls import refused
from support.client import Client
from support.configured import directives
from support.servers import MPMS, launched, pool, ran
from support.waiting import poll_until

from mpmkit.cli.serve import SAMPLES
from mpmkit.config.settings import Section, Setting
from mpmkit.handlers.router import Router
from mpmkit.measure.procfs import children, read_smaps, status_numbers
from mpmkit.mpm import event, prefork, worker
from mpmkit.server import immortal, prewarm
from mpmkit.server.immortal import NoImmortals, trial
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
    immortal.make_immortal(())  # loads libffi, which may keep its own file open
    before, threads = os.listdir("/proc/self/fd"), threading.active_count()
    rehearse(given, handlers, SAMPLES, CHILDREN[mpm])
    assert set(os.listdir("/proc/self/fd")) <= set(before)  # others' may be collected
    assert handlers.served == ANSWERS * ROUNDS
    assert handlers.made == ROUNDS, "each round begins with nothing remembered"
    assert threading.active_count() <= threads, "a fork must not come upon a thread"
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
    copies = prewarm.gather(prewarm._code_of(ran))
    new = ran.__code__
    assert new is not old and new.co_code.startswith(old.co_code) and ran() == 3
    assert any(one is new for one in copies)
    assert sys.getsizeof(new) > prewarm.SIZES[-1], "together with larger ones"
    inner = [next(c for c in code.co_consts if hasattr(c, "co_code")) for code in (old, new)]
    assert inner[0] is not inner[1], "what each call makes again, too"
    assert idle.__code__ is other and sys.getprofile() is None


def test_a_start_that_is_rehearsed_is_taken_back():
    program = """
import os, signal
from mpmkit.server.prewarm import _begin
def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return handlers, mask, os.sched_getscheduler(0), os.listdir("/proc/self/fd")
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
before = state()
_begin()
assert state() == before"""
    ran("-c", program)  # and no SIGTERM has ended it


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
        assert places.isdisjoint(map(id, after))
        small = {id(one): one for one in (bytes(79) for _ in range(3000))}
        first = [one for one in small if one % 16384 == 48]  # of their pools, which have other gaps, too
        gone = {*first, *list(small)[::50]}
        for one in gone:
            del small[one]
        fill_gaps()
        assert len(first) > 5 and gone.isdisjoint(map(id, [bytes(79) for _ in range(100)]))"""
    # `threading` does something in each forked child, in 0.4 MB of its own.
    light = "import sys, mpmkit.mpm.prefork, mpmkit.cli.serve"
    for text in (program, f"{light}; assert 'threading' not in sys.modules"):
        ran("-c", text)


KNOWN = sys.version_info[:2] in immortal.VALUES
POOL = {mpm: pool(mpm, 4 if mpm == "prefork" else 1, 4, threads=4) for mpm in MPMS}


def own_memory(mpm: str, immortal_objects: str) -> tuple[float, str]:
    """KiB that are a busy child's own, and the server's error log."""
    options = {"ImmortalObjects": immortal_objects, "LogLevel": "info", "KeepAliveTimeout": 60}
    with launched(mpm, pool=POOL[mpm], **options) as server, ExitStack() as clients:
        busy = [clients.enter_context(Client(server)) for _ in range(4)]
        for number in range(20):
            for client in busy:
                assert client.get(f"/file.txt?{number % 3 * number}").status == 200
        found = [read_smaps(child).uss for child in children(server.pid)]
        return statistics.median(found), server.error_log()


def test_a_busy_child_shares_what_it_only_reads(mpm):
    without, silent = own_memory(mpm, "Off")
    assert "immortal" not in silent
    own, log = own_memory(mpm, "On")
    if KNOWN:
        assert "objects are immortal\n" in log
        assert own < (0.7 if mpm == "prefork" else 0.85) * without
    else:
        version = ".".join(map(str, sys.version_info[:2]))
        assert f"no immortal objects: not known for {sys.implementation.name} {version}\n" in log


def test_what_must_end_still_ends():
    program = """
import json, os, posixpath, socket, sys
from mpmkit.server.immortal import IMMORTAL, constants, make_immortal, used_by_children

class Root: pass

def pieces():
    yield b"piece"

root = Root()
root.kept = ["a string of its own" * 2, 3.25]
root.call = os.getpgrp
root.ends = [socket.socket(), open(os.devnull), pieces()]
fds = [one.fileno() for one in root.ends[:2]]
constant = lambda: word("a constant of its own")
make_immortal(constants([constant.__code__]))
said = make_immortal(used_by_children(root, [posixpath.basename]))
immortal = lambda one: sys.getrefcount(one) >= IMMORTAL
with open("/proc/self/mem", "rb", 0) as memory:
    word = lambda one: os.pread(memory.fileno(), 8, id(one)).hex()
    words = {word(root.call) for _ in "abcd" if os.getpgrp()}, {constant(), constant()}
    words[1].add(word(constant.__code__.co_consts[-1]))
kept = [immortal(one) for one in (root, root.kept, *root.kept, root.call)]
kept += map(immortal, (posixpath.basename.__code__, posixpath._get_sep, vars(os)))
ends = [immortal(one) for one in root.ends]
root.ends.clear()
open_ = [os.path.exists(f"/proc/self/fd/{fd}") for fd in fds]
print(json.dumps([said, kept, list(map(len, words)), ends, open_, "ctypes" in sys.modules]))
"""
    said, kept, words, ends, still_open, loaded = json.loads(ran("-c", program).stdout)
    assert ("objects are immortal" in said) is KNOWN
    assert kept == [KNOWN] * 8 and ends == [False] * 3
    assert not KNOWN or words == [1, 1], "a use writes"
    assert still_open == [False, False] and not loaded


def test_a_version_that_is_not_known_is_left_alone(monkeypatch):
    monkeypatch.setattr(immortal, "VALUES", {})
    refused(NoImmortals, "not known for", trial)


def test_a_parent_does_not_grow_with_its_restarts():
    """The first configuration stays behind once; the ones after it do not."""
    with launched("prefork", pool=POOL["prefork"]) as server:

        def restart(times: int) -> int:
            for _ in range(times):
                before = server.scoreboard().snapshot.generation
                server.graceful()
                poll_until(lambda n=before: server.scoreboard().snapshot.generation > n)
            return status_numbers(server.pid)["RssAnon"]

        first = restart(5)
        assert restart(12) - first < 60, "KiB of its own"
