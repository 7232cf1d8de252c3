"""benchmarks/soak.py at its smallest, and whether it notices what it is there for."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from support.servers import environment

from benchmarks import soak
from benchmarks.socket_fuzz import fuzzed

pytestmark = pytest.mark.usefixtures("everything_ends")


@pytest.mark.parametrize("mpm", soak.MPMS)
def test_restarts_kills_and_any_bytes_do_no_harm(mpm):
    lines = list(soak.soaked(mpm, restarts=4, kills=4, requests=200, posts=240, kept=2400))
    assert not [line for line in lines if "WRONG" in line], "\n".join(lines)
    assert [line.partition(":")[0] for line in lines if " requests" in line and ":" in line] == [
        "4 restarts", "4 kills", "any bytes", "any bytes over TLS", "posts", "kept alive"
    ]  # fmt: skip
    assert len([line for line in lines if line.startswith("the children's")]) == 2


@pytest.mark.parametrize(("kib", "descriptors", "grow"), [
    (range(0, 6000, 500), [9] * 12, ["KiB"]), (range(12), [9] * 12, []), ([5000, 0] * 6, [9, 8] * 6, []),
    ([0] * 12, range(12), ["descriptors"]), (range(6000, 0, -500), range(12, 0, -1), []),
])  # fmt: skip
def test_what_grows_is_named(kib, descriptors, grow):
    seen = [{"KiB": a, "descriptors": b} for a, b in zip(kib, descriptors, strict=True)]
    *wrong, line = soak.growth("the parent's", seen, "each", most=256)
    assert [one.split()[3] for one in wrong] == grow and line.endswith(" each")


READS = """
import random, socket, sys
from mpmkit.measure.procfs import status_numbers
from mpmkit.server.connection import receive

ours, theirs = socket.socketpair()
read, source = receive if sys.argv[1] == "receive" else socket.socket.recv, random.Random(1)
for number in range(2000):
    if number == 20:
        before = status_numbers("self")["RssAnon"]
    theirs.sendall(bytes(source.randint(500, 950)))
    data = read(ours, 65536)
print(status_numbers("self")["RssAnon"] - before)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("receive", 0, 128), ("recv", 1_000, 50_000)])
def test_reads_of_any_length_leave_no_holes(how, least, most):
    """KiB that a process grows by. The socket's own `recv` shows that it would."""
    command = [sys.executable, "-c", READS, how]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert least <= int(done.stdout) <= most


class Confused(BaseHTTPRequestHandler):
    """Answers each request with an id of its own."""

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"id=5eed 0 0")

    def log_message(self, *_):
        pass


@pytest.fixture
def confused():
    with ThreadingHTTPServer(("127.0.0.1", 0), Confused) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield SimpleNamespace(port=server.server_port, certificate=None)
        server.shutdown()
        thread.join()


def test_an_answer_to_another_request_is_noticed(confused):
    count, *wrong = fuzzed(confused.port, 8, seed=0)
    assert "0 wrong" not in count and "b'id=5eed 0 0'" in wrong[0]
    with soak.Load(confused) as load:
        soak.until(lambda: load.wrong, "a wrong answer")
    assert "id=5eed" in load.wrong[0]


@pytest.mark.parametrize(("kept", "kills", "failed"), [
    (False, (), 1), (False, (1.5,), 0), (False, (3.0,), 1), (True, (), 0),
])  # fmt: skip
def test_a_request_may_fail_only_while_a_child_is_killed(kept, kills, failed):
    load = soak.Load(SimpleNamespace(port=0, certificate=None))
    load.lost = [(1.0, 2.0, kept)]
    assert load.result(kills)[1] == failed
