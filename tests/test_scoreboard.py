"""The scoreboard: what one process writes, another reads; no process writes into another's record."""

import os
from contextlib import closing

import pytest
from support.client import Client, request
from support.configured import directives as configured
from support.servers import serving
from support.waiting import poll_until

from mpmkit.policy.states import BUSY_READ, BUSY_WRITE, DEAD, GRACEFUL, LETTERS, READY, STARTING
from mpmkit.server.scoreboard import CLIENT, PROTOCOL, REQUEST, Scoreboard

DIRECTIVES = configured(ServerLimit=4, ThreadLimit=5, ThreadsPerChild=3, MaxRequestWorkers=9)


@pytest.fixture
def board():
    with closing(Scoreboard(DIRECTIVES)) as made:
        yield made


def states(board) -> list[str]:
    return ["".join(LETTERS[s] for s in row.states) for row in board.snapshot().processes]


def test_a_new_board_is_empty(board):
    snapshot = board.snapshot()
    assert (snapshot.server_limit, snapshot.thread_limit, snapshot.generation) == (4, 5, 0)
    assert states(board) == ["....."] * 4
    assert not any(row.pid for row in snapshot.processes)
    assert board.workers() == [] and board.totals() == (0, 0, 0)
    assert (board.mpm, board.process_limit, board.threads_per_child) == ("event", 3, 3)
    assert board.parent_pid == os.getpid() and board.config_generation == 1
    one = Scoreboard(configured("prefork", ServerLimit=4, MaxRequestWorkers=3))
    assert (one.thread_limit, one.process_limit, one.threads_per_child) == (1, 3, 1)
    one.close()


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
    assert states(board) == ["....."] * 4
    assert shown(board.snapshot().processes[1]) == (0, 0, 0, 0, (0, 0, 0, 0))
    # Only some states are changed.
    for thread, state in enumerate((READY, BUSY_READ, READY, BUSY_WRITE, READY)):
        board.worker(0, thread).set(state)
    board.set_states(0, GRACEFUL, 3, only=(READY,))
    assert states(board)[0] == "GRGW_"


def test_what_is_served_is_counted(board):
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


def test_a_slot_s_counts_outlive_its_process_and_a_restart_begins_from_zero(board):
    board.born(3, 100, 0)
    board.worker(3, 2).served(10, 1, 1)
    board.died(3)
    assert board.totals() == (1, 10, 1)
    board.born(3, 200, 1)
    board.worker(3, 2).served(10, 1, 2)
    (row,) = board.workers()
    assert (row.access_count, row.my_access_count, row.pid) == (2, 1, 200)
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


def test_a_board_with_a_name_can_be_read_by_any_process(tmp_path):
    path = str(tmp_path / "scoreboard")
    with closing(Scoreboard(DIRECTIVES, path)) as board, closing(Scoreboard.attach(path)) as other:
        board.born(1, 42, 3)
        board.generation = 3
        board.worker(1, 0).set(READY)
        assert other.snapshot() == board.snapshot()
        assert (other.mpm, other.process_limit, other.generation) == ("event", 3, 3)
        with pytest.raises(TypeError):
            other.generation = 5  # a reader's picture is for reading


def test_what_is_no_scoreboard(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        Scoreboard.attach(str(path))
    for content in (b"", b"\0" * 1000, b"#!/bin/sh\n" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not an mpmkit scoreboard"):
            Scoreboard.attach(str(path))


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
        with Client(server) as client:
            received = len(client.send(sent).until_closed())
        both = len(sent) + received
        poll_until(lambda: server.scoreboard().bytes_served == both, "all is counted")
