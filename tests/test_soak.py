"""benchmarks/soak.py at its smallest, and whether it notices what it is there for."""

import gc
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support.files import tree
from support.servers import serving

from benchmarks import soak
from benchmarks.socket_fuzz import ECHO, Sent, fuzzed, is_wrong
from mpmkit.config import httpd_conf, values
from mpmkit.handlers.static import read_types
from mpmkit.server import connection

pytestmark = pytest.mark.usefixtures("everything_ends")


@pytest.mark.parametrize("mpm", soak.MPMS)
def test_restarts_kills_and_any_bytes_do_no_harm(mpm):
    lines = list(soak.soaked(mpm, restarts=10, kills=4, requests=200, posts=240, kept=2400))
    assert not [line for line in lines if "WRONG" in line], "\n".join(lines)
    assert [line.partition(":")[0] for line in lines if " requests" in line and ":" in line] == [
        "10 restarts", "4 kills", "any bytes", "any bytes over TLS", "posts", "kept alive",
        *(f"posts over TLS to echo.{kind}" for kind in ("py", "cgi", "fcgi")),
    ]  # fmt: skip
    assert len([line for line in lines if line.startswith("the children's")]) == 5


def test_an_answer_is_missing_unless_the_one_before_says_that_it_is_the_last():
    sent = Sent([b"", b""], [b"id=a 1 1", b"id=b 1 1"], whole=True)
    kept, last = (b"HTTP/1.1 200 OK\r\n%b\r\n" % line for line in (b"", b"Connection: close\r\n"))
    for received, wrong in (
        (last + b"id=a 1 1", False), (kept + b"id=a 1 1" + last + b"id=b 1 1", False), (b"", True),
        (kept + b"id=a 1 1", True), (last + b"id=b 1 1", True), (last + b"id=a 1 1" + kept, True),
    ):  # fmt: skip
        assert bool(is_wrong(sent, received)) == wrong, received


@pytest.mark.parametrize(("kib", "descriptors", "grow"), [
    (range(0, 6000, 500), [9] * 12, ["KiB"]), (range(12), [9] * 12, []), ([5000, 0] * 6, [9, 8] * 6, []),
    ([0] * 8 + [2000] * 4, [9] * 12, []),  # once
    ([0] * 12, range(12), ["descriptors"]), (range(6000, 0, -500), range(12, 0, -1), []),
])  # fmt: skip
def test_what_grows_is_named(kib, descriptors, grow):
    seen = [{"KiB": a, "descriptors": b} for a, b in zip(kib, descriptors, strict=True)]
    *wrong, line = soak.growth("the parent's", seen, "each", most=256)
    assert [one.split()[3] for one in wrong] == grow and line.endswith(" each")


def test_a_buffer_is_for_one_read_at_a_time(monkeypatch):
    """And comes back, also from a read that fails: or each one would be memory that is never used again."""
    monkeypatch.setattr(connection, "_spare", [])
    (ours, theirs), (other, its) = socket.socketpair(), socket.socketpair()
    with ours, theirs, other, its, ThreadPoolExecutor(1) as thread:
        for sent in (b"a" * 60_000, b"b"):
            theirs.sendall(sent)
            assert connection.receive(ours, 65536) == sent
        with pytest.raises(BlockingIOError):
            connection.receive(ours, 10, socket.MSG_DONTWAIT)
        assert len(connection._spare) == 1
        waiting = thread.submit(connection.receive, other, 100)
        soak.until(lambda: not connection._spare, "the thread reads")
        theirs.sendall(b"cd")
        assert connection.receive(ours, 1) == b"c"
        its.sendall(b"e")
        assert waiting.result() == b"e" and len(connection._spare) == 2
        # A head of any length is one read, and takes a buffer only if it is long.
        for length in (1, 478, 479, 480, 5000, 8192):
            monkeypatch.setattr(connection, "_spare", [])
            its.sendall(bytes(length))
            assert len(connection.receive_head(other, 8192)) == length
            assert len(connection._spare) == (length >= connection.SHORT)
        its.sendall(bytes(9000))
        assert [len(connection.receive_head(other, 8192)) for _ in range(2)] == [8192, 808]
        with pytest.raises(BlockingIOError):
            connection.receive_head(other, 8192, socket.MSG_DONTWAIT)


def test_a_parent_keeps_nothing_of_a_configuration_that_was_read(tmp_path):
    """No names made at run time, which the interpreter's cache of look-ups holds: one for each word, at first."""
    conf = tmp_path / "httpd.conf"
    lines = ("LogFormat '%h %>s' x", "KeepAlive On", "SetEnvIf Host ^ a=$", "AddType a/b .c") * 5
    conf.write_text("\n".join(lines))
    grown = []
    for _ in range(3):
        before = sys.getallocatedblocks()
        for _ in range(40):
            assert read_types(str(conf))  # of any text: as TypesConfig's file
            settings = httpd_conf.read(httpd_conf.Source(str(conf), mpm="event")).settings
            assert list(values.pieces(settings[1].args[0]))
        del settings
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    assert min(grown[1:]) < 8, grown  # a thread of the test run may have kept something meanwhile


def test_an_answer_to_another_request_is_noticed(tmp_path):
    confused = tree(tmp_path, {"echo.py": ECHO.replace("environ['QUERY_STRING']", "'5eed'")})
    with serving("event", document_root=confused, KeepAlive=False) as server:
        count, *wrong = fuzzed(server.port, 8, seed=0)
        assert " 0 wrong" not in count and "id=5eed" in wrong[0]
        with soak.Load(server) as load:
            soak.until(lambda: load.wrong, "a wrong answer")
        assert "id=5eed" in load.wrong[0]


@pytest.mark.parametrize(("kept", "kills", "failed"), [
    (False, (), 1), (False, (1.5,), 0), (False, (3.0,), 1), (True, (), 0),
])  # fmt: skip
def test_a_request_may_fail_only_while_a_child_is_killed(kept, kills, failed):
    load = soak.Load(SimpleNamespace(port=0, certificate=None))
    load.lost = [(1.0, 2.0, kept)]
    assert load.result(kills)[1] == failed
