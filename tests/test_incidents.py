"""The clinic's clients do what they are for: they hold workers, are thrown out, and leave nothing."""

import threading
import time

import pytest
from helpers import memory_limit, misbehaving_clients
from support.servers import SMALL, one_child
from support.waiting import poll_until

import mpmkit

ONE = one_child("event", 4)
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not {one.name for one in threading.enumerate()} & {"mpmkit-connections", "mpmkit-client"}


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_half_sent_requests_fill_the_server_and_no_client_gets_a_503(mpm):
    most = SMALL[mpm]["MaxRequestWorkers"]
    whole = {"StartServers": most if mpm == "prefork" else 3}
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
        assert answer["first_byte_s"] >= 0.3 and "status 200" in repr(answer)


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
    (lambda: misbehaving_clients.HalfSent(NOWHERE, 501), "count: must be 0 to 500"),
    (lambda: misbehaving_clients.Drip(NOWHERE, 1, every=0), r"every: must be 0\.05"),
    (lambda: misbehaving_clients.SlowReaders(NOWHERE, 1, rate=1), "rate: must be 10"),
    (lambda: misbehaving_clients.ask("http://192.0.2.1:80/"), "loopback"),
])  # fmt: skip
def test_what_is_refused_and_no_server(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    with pytest.raises(OSError), misbehaving_clients.HalfSent(NOWHERE, 1):
        pass
    assert misbehaving_clients.ask(NOWHERE)["error"] == "ConnectionRefusedError"


def test_a_full_control_group_ends_a_server_and_is_removed():
    try:
        (row,) = memory_limit.held(["event"], mib=40)
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    assert 0 < row["held"] < memory_limit.MOST and row["killed"] and row["lost"] > 0
    assert not [*memory_limit.V1.glob("mpmkit-*"), *memory_limit.V2.glob("mpmkit-*")]
