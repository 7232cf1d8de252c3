"""The samples show what they claim: who loses updates, and whom a crash takes along."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from support.client import Client, at_once, get, request
from support.files import GATE, Gate, tree
from support.servers import pool, serving, take_errors
from support.waiting import poll_until

from mpmkit.cli.serve import SAMPLES

CLIENTS = 6


def one_pool(mpm):
    """CLIENTS + 2 workers: as many processes, or the threads of one."""
    most, prefork = CLIENTS + 2, mpm == "prefork"
    found = pool(mpm, most if prefork else 1, most, threads=most, spare=(1, most + 1))
    return found | {"ServerLimit" if prefork else "ThreadLimit": most}


def test_a_counter_loses_updates_between_threads_only(mpm):
    """Of 6 clients with 25 requests each: none is lost under prefork, some are under worker and event."""
    answers: dict[int, list[int]] = defaultdict(list)

    def client(_):
        with Client(server) as client:
            for _ in range(25):
                pid, count = client.get("/counter.py").body.split()
                answers[int(pid)].append(int(count))

    with serving(mpm, document_root=SAMPLES, **one_pool(mpm)) as server:
        at_once(client, CLIENTS)
        bodies = [get(server, path).body for path in ("/hello.py", "/hello.cgi")]
        assert bodies == [b"hello world"] * 2
        pid, count = get(server, "/counter.py?look").body.split()
        assert int(count) in [0, *answers.get(int(pid), [])]
    assert sum(map(len, answers.values())) == CLIENTS * 25
    if mpm == "prefork":
        assert all(counts == list(range(1, len(counts) + 1)) for counts in answers.values())
    else:
        (counts,) = answers.values()  # one process, or the threads would not meet
        # While one thread sleeps between read and write, up to five others read the same number.
        assert len(counts) - max(counts) >= len(counts) // 4


def test_a_crash_takes_one_client_or_a_whole_child(mpm, tmp_path):
    """Six others are being served: prefork cuts none of them, worker and event all six."""
    gate = Gate()
    tree(tmp_path, {"gate.py": GATE, "crash.py": (Path(SAMPLES) / "crash.py").read_bytes()})
    with serving(mpm, document_root=tmp_path, **one_pool(mpm)) as server:
        with ExitStack() as stack:
            others = [stack.enter_context(Client(server)) for _ in range(CLIENTS)]
            for other in others:
                other.send(request(gate.path, close=True))
            poll_until(lambda: "".join(server.scoreboard().letters.values()).count("W") == CLIENTS)
            with Client(server) as crasher:
                crasher.send(b"GET /crash.py?now HTTP/1.1\r\nHost: x\r\n\r\n")
                assert crasher.until_closed() == b"", "it gets nothing under any MPM"
            gate.open()
            cut = sum(other.until_closed() == b"" for other in others)
        assert cut == (0 if mpm == "prefork" else CLIENTS)
        assert b"cuts every connection" in get(server, "/crash.py").body, "it is served again"
        poll_until(lambda: "SIGABRT" in server.error_log())
        take_errors(server)
