"""The scoreboard, and what the status page says of it. (Its keys and formats: tests/fidelity, area status.)"""

import os
import re
import signal
from contextlib import closing
from html import unescape

import pytest
from support.calls import refused
from support.client import FINISH, Client, exchange, get, half_sent, request
from support.configured import directives as configured
from support.servers import SMALL, serving
from support.waiting import poll_until

from mpmkit.handlers.status import StatusData, cpu_of, format_g, format_uptime, size
from mpmkit.policy.states import BUSY_READ, BUSY_WRITE, DEAD, GRACEFUL, LETTERS, READY, STARTING
from mpmkit.server.scoreboard import CLIENT, PROTOCOL, REQUEST, Scoreboard

DIRECTIVES = configured(ServerLimit=4, ThreadLimit=5, ThreadsPerChild=3, MaxRequestWorkers=9)


@pytest.fixture
def board():
    with closing(Scoreboard(DIRECTIVES)) as made:
        yield made


def states(board) -> list[str]:
    return ["".join(LETTERS[s] for s in row.states) for row in board.snapshot().processes]


def shown(row) -> tuple:
    counts = (row.connections, row.write_completion, row.keep_alive, row.lingering_close)
    return row.pid, row.generation, row.quiescing, row.not_accepting, counts


def test_birth_and_death_of_a_process(board):
    board.set_states(1, STARTING, 3, only=(DEAD, GRACEFUL))
    board.born(1, 4711, 7)
    assert shown(board.snapshot().processes[1]) == (4711, 7, 0, 0, (0, 0, 0, 0))
    assert states(board) == [".....", "SSS..", ".....", "....."]
    board.quiescing(1)
    board.not_accepting(1, True)
    board.connections(1, 9, 1, 2, 5)
    assert shown(board.snapshot().processes[1]) == (4711, 7, 1, 1, (9, 1, 5, 2))
    assert board.snapshot().processes[0].connections == 0
    board.born(1, 4712, 8)  # a new child finds no trace of the last one
    assert shown(board.snapshot().processes[1]) == (4712, 8, 0, 0, (0, 0, 0, 0))
    board.died(1)
    assert states(board) == ["....."] * 4 and board.workers() == []  # as it was in the beginning
    assert shown(board.snapshot().processes[1]) == (0, 0, 0, 0, (0, 0, 0, 0))
    # Only some states are changed.
    for thread, state in enumerate((READY, BUSY_READ, READY, BUSY_WRITE, READY)):
        board.worker(0, thread).set(state)
    board.set_states(0, GRACEFUL, 3, only=(READY,))
    assert states(board)[0] == "GRGW_"


def test_what_is_served_is_counted_for_connection_process_and_slot_until_a_restart(board):
    board.born(0, 100, 0)
    worker = board.worker(0, 1)
    worker.set(READY)
    worker.tid = 101
    worker.connected("127.0.0.1")
    worker.requested(b"http/1.1", b"GET / HTTP/1.1")
    worker.served(500, 2_000_000, 10**18)
    worker.served(700, 3_000_000, 10**18 + 5)
    (row,) = board.workers()
    assert (row.process, row.thread, row.pid, row.tid, row.state) == (0, 1, 100, 101, READY)
    assert (row.conn_count, row.my_access_count, row.access_count) == (2, 2, 2)
    assert (row.conn_bytes, row.my_bytes_served, row.bytes_served) == (1200, 1200, 1200)
    assert (row.duration, row.last_duration, row.last_used) == (5_000_000, 3_000_000, 10**18 + 5)
    assert (row.client, row.protocol, row.request) == ("127.0.0.1", "http/1.1", "GET / HTTP/1.1")
    assert board.totals() == (2, 1200, 5_000_000)
    worker.connected("127.0.0.2")
    worker.served(1, 1, 10**18 + 9)
    (row,) = board.workers()
    assert (row.conn_count, row.my_access_count, row.client) == (1, 3, "127.0.0.2")
    board.died(0)
    assert board.totals() == (3, 1201, 5_000_001)
    board.born(0, 200, 1)
    board.worker(0, 1).served(10, 1, 2)
    (row,) = board.workers()
    assert (row.access_count, row.my_access_count, row.pid) == (4, 1, 200)
    before = board.restart_time
    board.generation = 4
    board.restart()
    assert board.totals() == (0, 0, 0) and board.workers() == []
    assert board.restart_time > before
    assert (board.generation, board.parent_pid) == (4, os.getpid())


def test_neighbours_keep_their_texts(board):
    """Fields are of a fixed size, side by side: the longest must not reach the next."""
    workers = [board.worker(slot, thread) for slot in range(4) for thread in range(5)]
    for number, worker in enumerate(workers):
        worker.connected(f"client {number:<100}")
        worker.vhost(f"host {number:<100}")
        worker.requested(b"p" * 100, b"line %-100d" % number)
        worker.served(number, number, number)
    for number, row in enumerate(board.workers()):
        assert row.client == f"client {number:<100}"[: CLIENT - 1]
        assert (row.vhost, row.protocol) == (f"host {number:<100}"[:31], "p" * (PROTOCOL - 1))
        assert row.request == f"line {number:<100}"[: REQUEST - 1]
        assert row.bytes_served == number


def test_what_is_no_scoreboard(tmp_path):
    path = tmp_path / "file"
    refused(FileNotFoundError, "No such file", Scoreboard.attach, str(path))
    for content in (b"", b"\0" * 1000, b"#!/bin/sh\n" * 100):
        path.write_bytes(content)
        refused(ValueError, "not an mpmkit scoreboard", Scoreboard.attach, str(path))


def test_what_the_parent_looks_at_follows_its_children():
    """ServerLimit 200000 costs no pass and no start: rows that no child ever had are not touched."""
    board = Scoreboard(configured("prefork", ServerLimit=200_000, MaxRequestWorkers=200_000))
    assert len(board.rows(32).processes) == 32
    board.born(99, 4711, 3)
    assert len(board.rows(32).processes) == 132 and board.generation_of(99) == 3
    assert [row.pid for row in board.rows(1).processes if row.pid] == [4711]
    board.restart()
    assert len(board.rows(32).processes) == 32
    assert not any(row.pid for row in board.rows(100).processes)


def test_bytes_are_counted_in_both_directions():
    """As by mod_logio, which mod_status asks: head and body of the request, and the response."""
    sent = request("/file.txt", method="POST", body=b"x" * 3000) + request("/file.txt", close=True)
    with serving("event") as server:
        both = len(sent) + len(exchange(server, sent))
        poll_until(lambda: server.scoreboard().bytes_served == both, "all is counted")


OPTIONS = {"ServerName": "lab.example"}
BURN = """
def application(environ, start_response):
    import time
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""
FILES = {"big.txt": b"x" * 600_000, "burn.py": BURN}


def page(server, query: str = "") -> str:
    reply = get(server, f"/server-status{query}")
    kind = "plain" if query else "html"
    assert (reply.status, reply["Content-Type"]) == (200, f"text/{kind}; charset=ISO-8859-1")
    return reply.body.decode("latin-1")


def values(server) -> dict[str, str]:
    return dict(line.split(":", 1) for line in page(server, "?auto").splitlines()[1:])


def number(server, *keys: str) -> float:
    found = values(server)
    return sum(float(found[key]) for key in keys)


def test_what_a_scraper_reads(server, mpm):
    before = number(server, "Total Accesses")
    for _ in range(5):
        get(server, "/big.txt")
    with half_sent(server), Client(server) as parked:
        assert parked.get().status == 200

        letters = "R" if mpm == "event" else "RK"

        def agree() -> dict[str, str] | None:
            """All is counted, one R, one K where a thread holds the connection; page and launcher agree."""
            found, view = values(server), server.scoreboard()
            alone = all(found["Scoreboard"].count(one) == 1 for one in letters)
            # The page is served by a worker of its own, which is idle again when we look.
            same = number_of(found) == (view.counts.busy + 1, view.counts.idle - 1)
            counted = 2900 < float(found["Total kBytes"]) < 3700
            return found if alone and same and counted else None

        number_of = lambda found: tuple(int(found[key]) for key in ("BusyWorkers", "IdleWorkers"))  # noqa: E731
        seen = poll_until(agree)
        if mpm == "event":  # connections that no thread holds
            poll_until(lambda: number(server, "ConnsAsyncKeepAlive") == 1, cap=5.0)
            assert number(server, "ConnsTotal") >= 2
    poll_until(lambda: server.scoreboard().counts.processes == len(server.processes()), "alike")
    assert float(seen["Total Accesses"]) - before >= 6
    assert seen["Uptime"] == seen["ServerUptimeSeconds"]
    board = seen["Scoreboard"]
    assert board.count("W") >= 1  # this very request
    assert number_of(seen) == (sum(map(board.count, "RWKCL")), board.count("_"))
    own = (" 2", " 0", True) if mpm == "event" else (None, None, False)
    assert (seen.get("Processes"), seen.get("Stopping"), "ConnsTotal" in seen) == own


def test_a_status_request_does_not_count_itself_nor_write_markup(server):
    shown = number(server, "Total Accesses")
    poll_until(lambda: server.scoreboard().accesses > shown, "it is counted when it is done")
    with Client(server) as client:
        client.get("/<script>alert(1)</script>")
        reply = get(server, "/server-status")
    assert b"<script>" not in reply.body and b"&lt;script&gt;" in reply.body


def test_the_cpu_figures_are_the_kernels(server, mpm):
    get(server, "/burn.py")
    shown = number(server, "CPUUser", "CPUSystem")
    of_all = [sum(cpu_of(pid)[:2]) for pid in (server.pid, *server.processes())]
    assert shown > 0.25 and abs(shown - sum(of_all)) < 0.2, (shown, of_all)
    assert number(server, "CPULoad") > 0
    # A child that ends takes its CPU time to the parent: it moves to the children's, none is lost.
    lost, busiest = max((sum(cpu_of(pid)[:2]), pid) for pid in server.processes())
    os.kill(busiest, signal.SIGTERM)
    children = lambda: number(server, "CPUChildrenUser", "CPUChildrenSystem")  # noqa: E731
    poll_until(lambda: children() >= lost - 0.02, what=lambda: f"{children()} of {lost}")


def rows(text: str) -> list[list[str]]:
    lines = (re.findall(r"<td>(.*?)</td>", line) for line in re.findall(r"<tr>.*?</tr>", text))
    whole = (row for row in lines if len(row) == 15)
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in whole]


def test_the_worker_table_says_who_asked_for_what(server, mpm):
    with Client(server) as client:
        client.get("/big.txt?this-one")

        def row_of_it():
            asked = "GET /big.txt?this-one HTTP/1.1"
            shown = [row for row in rows(page(server)) if row[14] == asked]
            return shown and shown[0][3] != "W" and shown[0]  # W until its answer is logged

        shown = poll_until(row_of_it, what="the request's row")
        srv, pid, acc, mode, _, ss, req, dur, conn, child, slot, *texts = shown
        assert re.fullmatch(r"\d+-0", srv) and int(pid) in server.processes()
        assert re.fullmatch(r"\d+/\d+/\d+", acc)
        assert mode in ("_L" if mpm == "event" else "KL")
        assert texts[:3] == ["127.0.0.1", "http/1.1", f"lab.example:{server.port}"]
        assert int(ss) >= 0 and int(req) >= 0 and int(dur) >= int(req)
        assert float(slot) >= float(child) >= 0.57
        if mpm != "event":
            assert float(conn) > 580 and acc.startswith("1/")


def test_old_generations_and_leaving_processes_are_shown(document_root):
    pool = {**SMALL["event"], "ServerLimit": 8}
    with serving("event", document_root=document_root, pool=pool) as server:
        with half_sent(server) as half:
            poll_until(lambda: server.scoreboard().count("R") == 1)
            server.graceful()
            poll_until(lambda: "yes (old gen)" in page(server), "a leaving process of the old gen")
            # The one that was seen may have been another, which had nothing to finish and is gone.
            keys = {"Stopping": 1, "Processes": 3}
            poll_until(lambda: all(number(server, key) >= n for key, n in keys.items()), str(keys))
            # Its R is on the scoreboard and in no count: busy is the one that answers us.
            poll_until(lambda: values(server)["BusyWorkers"] == " 1", what="one is busy")
            assert "R" in values(server)["Scoreboard"]
            assert half.ask(FINISH).status == 200


def test_a_limit_on_slots_is_on_the_page_and_nothing_beyond():
    limits = {"ThreadsPerChild": 4, "ThreadLimit": 8, "MaxRequestWorkers": 8, "ServerLimit": 4}
    with closing(Scoreboard(configured("worker", **limits))) as board:
        assert StatusData(board, False, 0.0).letters == "." * 8
        board.worker(3, 6).set(4)
        assert StatusData(board, False, 0.0).letters == "." * 8 + "W"


@pytest.mark.parametrize("function, texts", [
    (format_g, {0: "0", 0.8: ".8", 1 / 3: ".333333", 1.666667: "1.66667", 341.3333: "341.333", 3072: "3072",
                204.8: "204.8", 12345.678: "12345.7", 160000512: "160001000", 8e7: "80000000"}),
    (format_uptime, {0: "", 1: " 1 second", 7200: " 2 hours", 61: " 1 minute 1 second",
                     93784: " 1 day 2 hours 3 minutes 4 seconds"}),
    (size, {0: "0 B", 5119: "5119 B", 5120: "5.0 kB", 524287: "512.0 kB", 524288: "0.5 MB",
            512 << 20: "0.5 GB"}),
])  # fmt: skip
def test_formats_of_numbers(function, texts):
    assert {number: function(number) for number in texts} == texts
