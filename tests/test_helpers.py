"""What notebooks compute and do: queueing formulas, the reader's own log, the clinic's clients."""

import math
import os
import threading
import time

import pytest
from helpers import memory_limit, misbehaving_clients, own_log, theory
from hypothesis import given
from hypothesis import strategies as st
from support.calls import refused
from support.files import write
from support.servers import SMALL, one_child
from support.waiting import poll_until

import mpmkit
from mpmkit.lab import plots

servers = st.integers(1, 200)
shares = st.floats(0.01, 0.99)


@pytest.mark.parametrize(("count", "erlang", "lost", "waits"), [
    (1, 0.5, 1 / 3, 0.5),  # M/M/1: a client waits with probability rho
    (2, 1.0, 0.2, 1 / 3),  # by hand: B = (1/2) / (1 + 1 + 1/2), C = 2B / (2 - (1 - B))
    (10, 5.0, 0.018385, 0.036105),  # the printed Erlang tables
])  # fmt: skip
def test_known_values(count, erlang, lost, waits):
    assert theory.erlang_b(count, erlang) == pytest.approx(lost, rel=1e-4)
    assert theory.erlang_c(count, erlang) == pytest.approx(waits, rel=1e-4)


@given(servers, st.floats(0.001, 1), shares, st.integers(1, 500), st.floats(0, 10))
def test_formulas_agree_with_each_other(count, service, share, users, think):
    """One server is M/M/1; a common line beats lines of one's own; users and servers bound a closed loop."""
    assert theory.mean_response(share / service, service, 1) == pytest.approx(service / (1 - share))
    together = theory.mean_wait(count * share / service, service, count)
    assert together <= theory.mean_wait(share / service, service, 1) * (1 + 1e-9)
    bound = theory.closed_bound(users, service, count, think)
    assert theory.little(bound, service + think) <= users * (1 + 1e-9)
    assert theory.load(bound, service) <= count * (1 + 1e-9)


def test_runs_lie_around_the_formula_and_nearer_when_they_are_longer():
    short, long = (theory.spread(300, 0.02, 8, seconds, runs=60) for seconds in (1, 20))
    expected = theory.mean_response(300, 0.02, 8)
    assert short[0] < long[0] < expected < long[1] < short[1]
    assert theory.spread(500, 0.02, 8, 1, runs=5)[0] > expected  # more than they can do
    assert theory.mean_wait(10, 1, 10) == math.inf and theory.erlang_c(10, 11) == 1


def test_figures_draw_the_formula_and_the_points():
    figure = theory.response_curve(0.02, 8, [100, 300], [0.021, 0.025])
    line, points = figure.data
    assert list(points.x) == [100, 300] and list(points.y) == [21, 25]
    assert line.y[0] == pytest.approx(20) and line.y[-1] > line.y[0] and max(line.x) < 400
    assert "25 at 300" in plots.alt_text(figure)
    spreads = [(0.019, 0.022), (0.02, 0.03)]
    barred = theory.response_curve(0.02, 8, [100, 300], [0.021, 0.025], spreads=spreads)
    assert list(barred.data[-1].y) == [20, 30] and "bars: 95% of" in barred.layout.title.text
    assert max(theory.closed_curve(0.02, 8, [4, 24], [190, 390]).data[0].y) == pytest.approx(400)


@pytest.fixture(scope="module")
def chooser():
    return own_log.Chooser()


def test_the_shipped_log_is_read_with_its_connections(chooser):
    trace = chooser.trace
    assert len(trace) > 4000 and trace.timed and 175 < trace.span < 185
    think = sorted(trace.think_times())
    assert 1.3 < think[len(think) // 2] < 1.8, "an exponential of 3 s, cut off at KeepAliveTimeout"
    assert " 0 requests go on with one that began before" in " ".join(trace.notes)
    # Kept connections are what fills prefork and worker.
    run = own_log.runs(chooser.trace)
    assert run["prefork"].peak_busy == 250 and run["prefork"].waited > run["worker"].waited
    assert run["event"].peak_busy < 0.3 * run["worker"].peak_busy and run["event"].waited < 0.01
    shorter = own_log.runs(chooser.trace, KeepAliveTimeout=1)
    assert shorter["worker"].peak_busy < 0.7 * run["worker"].peak_busy


def test_another_log_is_read_and_a_bad_one_says_why(chooser, tmp_path):
    line = '10.0.0.1 - - [29/Nov/2026:09:57:{:02} +0000] "GET / HTTP/1.1" 200 5 2000\n'
    other = write(tmp_path / "access.log", "".join(line.format(second) for second in range(30)))
    mine = own_log.Chooser()
    mine._path.value, mine._format.value = str(other), "common %D"
    mine._read(None)
    assert len(mine.trace) == 30 and "30 requests" in mine._said.value
    mine._path.value = str(tmp_path / "none.log")
    mine._read(None)
    assert "role='alert'" in mine._said.value and "none.log" in mine._said.value
    assert len(mine.trace) == 30, "what was read stays"


def test_sliders_redraw(chooser):
    growth, keep, workers, said, drawn = own_log.explore(chooser).children
    before = list(drawn.data[0].y), drawn.layout.annotations[0].text
    keep.value = 1
    assert list(drawn.data[0].y) != before[0] and drawn.layout.annotations[0].text != before[1]
    workers.value = 25
    assert {shape.y0 for shape in drawn.layout.shapes} == {25} and not said.value
    assert growth.value == 1.0 and not keep.continuous_update


ONE = one_child("event", 4)
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not {one.name for one in threading.enumerate()} & {"mpmkit-connections", "mpmkit-client"}


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_half_sent_requests_fill_the_server_and_no_client_gets_a_503(mpm):
    most = SMALL[mpm]["MaxRequestWorkers"]
    whole = {"StartServers": most if mpm == "prefork" else 3, "KeepAliveTimeout": 1}
    with mpmkit.launch(mpm, **{**SMALL[mpm], **whole}) as server:
        with misbehaving_clients.HalfSent(server.url, most) as held:
            poll_until(lambda: server.scoreboard().count("R") == most)
            one_more = misbehaving_clients.BackgroundRequest(server.url)
            impatient = misbehaving_clients.ask(server.url, patience=0.3)
            assert impatient["status"] is None and impatient["first_byte_s"] >= 0.3
            assert impatient["error"] and "no answer" in repr(impatient) and one_more.is_alive()
            assert held.lost() == 0
            assert held.finish() == [200] * most
            answer = one_more.answer()
        assert answer["status"] == 200 and answer["connect_s"] < answer["first_byte_s"]
        assert "status 200" in repr(answer)


def test_slowloris_holds_every_thread_until_the_head_has_a_limit():
    with mpmkit.launch("event", RequestReadTimeout="header=0 body=0", **ONE) as server:
        with misbehaving_clients.Drip(server.url, 6, every=0.1) as drip:
            poll_until(lambda: server.scoreboard().count("R") == 4)
            assert misbehaving_clients.ask(server.url, patience=0.5)["status"] is None
            assert drip.lost() == 0
        # They have hung up, and the server serves on.
        assert misbehaving_clients.ask(server.url)["status"] == 200
    with mpmkit.launch("event", RequestReadTimeout="header=1", **ONE) as server:
        began = time.monotonic()
        with misbehaving_clients.Drip(server.url, 4, every=0.1) as drip:
            poll_until(lambda: drip.lost() == 4)
            assert time.monotonic() - began > 0.9
            assert misbehaving_clients.ask(server.url)["status"] == 200


@pytest.mark.parametrize("sendfile", ["Off", "On"])
def test_slow_readers_hold_threads_without_sendfile(sendfile):
    def counts() -> tuple[int, int]:
        board = server.scoreboard()
        return board.count("W"), sum(row.write_completion for row in board.snapshot.processes)

    with (
        misbehaving_clients.pages() as folder,
        mpmkit.launch("event", document_root=folder, EnableSendfile=sendfile, **ONE) as server,
        misbehaving_clients.SlowReaders(server.url, 4, rate=5_000) as readers,
    ):
        wanted = (4, 0) if sendfile == "Off" else (0, 4)
        poll_until(lambda: counts() == wanted, what=lambda: f"W and parked: {counts()}")
        poll_until(lambda: readers.received > 0)
        asked = misbehaving_clients.ask(server.url, patience=0.5 if sendfile == "Off" else 30)
        assert asked["status"] == (200 if sendfile == "On" else None)
    assert not folder.exists()


@pytest.mark.parametrize(("call", "words"), [
    (lambda: theory.erlang_c(2, -1), "erlang: must be 0 or more"),
    (lambda: theory.mean_wait(math.inf, 1, 1), "rate: must be 0 or more, and finite"),
    (lambda: theory.closed_bound(1, 0, 1), "service: must be above 0"),
    (lambda: theory.spread(1e6, 1, 1, 1000), "5,000,000 clients in all at most"),
    (lambda: theory.spread(1, 1, 0, 1), "servers: must be a whole number from 1"),
    (lambda: misbehaving_clients.HalfSent(NOWHERE, 501), "count: must be 0 to 500"),
    (lambda: misbehaving_clients.Drip(NOWHERE, 1, every=0), r"every: must be 0\.05"),
    (lambda: misbehaving_clients.SlowReaders(NOWHERE, 1, rate=1), "rate: must be 10"),
    (lambda: misbehaving_clients.ask("http://192.0.2.1:80/"), "loopback"),
])  # fmt: skip
def test_what_is_refused(call, words):
    refused(ValueError, words, call)


def test_clients_without_a_server():
    refused(OSError, "refused", misbehaving_clients.HalfSent(NOWHERE, 1).__enter__)
    assert misbehaving_clients.ask(NOWHERE)["error"] == "ConnectionRefusedError"


def test_a_full_control_group_ends_a_server_and_is_removed():
    try:
        (row,) = memory_limit.held(["event"], mib=32)
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    assert 0 < row["held"] < memory_limit.MOST and row["killed"] and row["lost"] > 0
    mine = f"mpmkit-{os.getpid()}-*"
    assert not [*memory_limit.V1.glob(mine), *memory_limit.V2.glob(mine)]
