"""The control room's model, without a browser, and what its panel makes of a browser's messages."""

from __future__ import annotations

import os
import threading

import pytest
from support import alive, poll_until

import mpmkit
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.lab import control_room as rooms
from mpmkit.lab.control_room import Room
from mpmkit.lab.panel import GONE, Panel, control_room
from mpmkit.launcher import LaunchError

SMALL = {
    "StartServers": 1,
    "ThreadsPerChild": 4,
    "MinSpareThreads": 2,
    "MaxSpareThreads": 8,
    "MaxRequestWorkers": 16,
    "ServerLimit": 4,
}


def field(room: Room, name: str) -> rooms.Field:
    return next(field for field in room.fields() if field.name == name)


# ---------------------------------------------------------------- directives


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_the_fields_are_those_of_the_mpm_with_the_tables_bounds(mpm):
    with Room(mpm) as room:
        fields = {field.name: field for field in room.fields()}
    assert set(fields) == {name for name in rooms.NAMES if mpm in SPECS[name.lower()].mpms}
    for name, one in fields.items():
        spec = SPECS[name.lower()]
        assert one.high == spec.high_for(mpm) and one.unit == spec.unit and one.doc == spec.doc
        assert not one.advice and one.value == "" and one.low < one.reach
    assert fields["StartServers"].default == {"prefork": "5"}.get(mpm, "3")


def test_a_number_that_httpd_corrects_shows_its_message():
    with Room("event", ThreadsPerChild=100, MaxRequestWorkers=70) as room:
        one = field(room, "ThreadsPerChild")
        assert one.value == "100" and one.effective == "64"
        assert one.advice == (
            "AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used",
        )
        assert field(room, "MaxRequestWorkers").advice[0].startswith("AH00513")
        room.set("ThreadsPerChild", None)
        assert not field(room, "ThreadsPerChild").advice


def test_a_word_that_httpd_reads_as_another_number_is_told():
    with Room("worker") as room:
        for name, word, number in (
            ("Timeout", "1m", "1"),
            ("MaxKeepAliveRequests", "lots", "0"),
            ("MaxConnectionsPerChild", "1e4", "1"),
        ):
            room.set(name, word)
            one = field(room, name)
            assert one.advice == (f'"{word}" is no whole number: httpd reads {number}',)
            assert one.effective == number and not one.refused
        room.set("ThreadsPerChild", "few")  # it corrects what it has read
        assert [said[:8] for said in field(room, "ThreadsPerChild").advice] == [
            '"few" is',
            "AH00312:",
        ]
        for word in ("60", " 7 ", "-0", "+3"):
            room.set("Timeout", word)
            assert not field(room, "Timeout").advice


def test_a_word_that_cannot_be_read_is_told_and_refused_at_the_start():
    with Room("worker") as room:
        room.set("KeepAliveTimeout", "soon")
        assert "takes a time" in field(room, "KeepAliveTimeout").advice[0]
        assert field(room, "KeepAliveTimeout").refused and not field(room, "Timeout").refused
        with pytest.raises(DirectiveError, match="KeepAliveTimeout"):
            room.start()
        assert room.server is None
        with pytest.raises(DirectiveError, match="no directive 'Speed'"):
            room.set("Speed", 9)
        with pytest.raises(DirectiveError, match="not an MPM"):
            room.choose("threads")


def test_settings_of_another_mpm_wait_until_it_is_chosen():
    with Room("event", ThreadsPerChild=8) as room:
        room.choose("prefork")
        assert room.settings() == [] and not room.advice()[1]
        room.choose("worker")
        assert [s.name for s in room.settings()] == ["ThreadsPerChild"]


# ---------------------------------------------------------------- a running room


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_room_from_start_to_stop(mpm):
    frames = []
    with Room(mpm, KeepAliveTimeout=30, **(SMALL if mpm != "prefork" else {})) as room:
        room.on_frame = frames.append
        room.crowd_size(3)
        room.start()
        children = room.server.processes()
        poll_until(
            lambda: room.snapshot().get("figures", {}).get("keep_alive") == 3,
            what=lambda: str(room.snapshot().get("figures")),
        )
        frame = room.snapshot()
        assert frame["mpm"] == mpm and frames[-1]["rows"]
        assert all(len(row[5]) == frame["threads"] for row in frame["rows"])
        poll_until(lambda: room.snapshot()["figures"]["wait_ms"] is not None)

        room.set("StartServers", 2)
        assert room.unapplied() == ["StartServers"]
        room.graceful()
        assert room.unapplied() == []
        poll_until(lambda: room.snapshot()["generation"] == 1)
        poll_until(lambda: any(kind == "generation" for _, kind, _ in room.events()))
        pid = room.server.pid
        room.stop()
        assert room.server is None and not room.status()["running"]
        assert not any(alive(child) for child in [pid, *children])
        said = [text for _, kind, text in room.events() if kind == "note"]
        assert said[0].startswith(f"start {mpm}") and said[-2:] == ["graceful", "stop"]


def test_what_a_restart_cannot_change_is_told():
    with Room("event", **SMALL) as room:
        room.start()
        room.set("ServerLimit", 8)
        assert "first start" in field(room, "ServerLimit").advice[0]
        room.choose("worker")
        with pytest.raises(LaunchError, match="stop and start"):
            room.graceful()


def test_a_load_starts_shows_and_stops():
    with Room("event", **SMALL) as room:
        with pytest.raises(LaunchError, match="start one before the load"):
            room.start_load()
        room.start()
        with pytest.raises(ValueError, match="1 to 500"):
            room.start_load(users=1000)
        assert not room.loading and room.load_fields()[0].value == "", "a bad value changes nothing"
        room.start_load(users=4, keep_alive=True)
        poll_until(lambda: (room.snapshot()["figures"]["load_qps"] or 0) > 10, cap=20)
        assert room.loading and room.snapshot()["figures"]["qps"] > 10
        # Percentiles while it runs, of the last second
        poll_until(lambda: room.snapshot()["figures"]["load_p99_ms"] is not None)
        seen = room.snapshot()["figures"]
        assert 0 < seen["load_p50_ms"] <= seen["load_p95_ms"] <= seen["load_p99_ms"]
        assert seen["load_failed"] == 0
        room.stop_load()
        assert not room.loading
        said = [text for _, _, text in room.events() if text.startswith("load ended")]
        assert len(said) == 1 and "p99" in said[0] and "failed" not in said[0]


def test_all_of_the_form_reaches_the_server():
    """An open loop of a mix, idle holders and slow readers beside it: each is seen on the server."""
    with Room("event", **SMALL, KeepAliveTimeout=30) as room:
        room.start()
        for name, value in {
            "path": "mix",
            "weight /slow.py": 5,
            "arrival": "poisson",
            "rate": 40,
            "users": 30,
            "keep_alive": 0.5,
            "idle_holders": 6,
        }.items():
            room.load_set(name, value)
        room.start_load()
        poll_until(lambda: (room.snapshot()["figures"]["keep_alive"] or 0) >= 6, cap=20)
        # The slow script takes 0.1 s, the others a millisecond: half of the mix, so p99 shows it.
        poll_until(lambda: (room.snapshot()["figures"]["load_p99_ms"] or 0) > 90, cap=20)
        # An open loop of 40 a second; what comes of a random second stays well below what the
        # closed loop of thirty users would ask for.
        assert room.snapshot()["figures"]["load_qps"] < 200
        assert "open loop: at random (Poisson)" in room.status()["load_more"]
        room.start_load(
            path="/large.bin",
            arrival="closed",
            users=1,
            think_time=5,
            idle_holders=0,
            slow_readers=3,
        )
        poll_until(
            lambda: room.snapshot()["figures"]["writing"] >= 3,
            cap=20,
            what="slow readers hold up what writes to them",
        )
        room.stop_load()
        with pytest.raises(ValueError, match="rate: must be 1 to 50,000"):
            room.start_load(arrival="constant", rate="lots")
        assert not room.loading and room._form.word("rate") == "40"
        assert room._form.word("users") == "1"


def test_a_server_that_dies_is_told_and_cleared_away():
    told = []
    with Room("worker", **SMALL) as room:
        room.on_frame = told.append
        room.start()
        home = room.server._home
        os.kill(room.server.pid, 9)
        poll_until(lambda: told and told[-1] == {}, what="the view is told")
        assert room.server is None and not os.path.exists(home)
        assert any("ended with status -9" in text for _, _, text in room.events())
        room.start()
        assert room.status()["running"]


def test_a_closed_room_leaves_nothing():
    room = Room("event", **SMALL)
    room.start()
    assert os.path.isdir(room._home)
    children = room.server.processes()
    room.close()
    room.close()
    assert not any(map(alive, children))
    assert not os.path.exists(room._home)
    with pytest.raises(LaunchError, match="closed"):
        room.start()


def test_callbacks_from_many_threads_do_not_corrupt_the_room():
    """Widget callbacks may come on any thread: everybody turns every knob at once."""
    failures: list[BaseException] = []
    with Room("event", **SMALL) as room:
        room.start()

        def turn(number: int) -> None:
            try:
                for n in range(25):
                    room.set("StartServers", 1 + (n + number) % 4)
                    room.crowd_size((n * number) % 7, 1 + n)
                    assert field(room, "StartServers").value in "1234"
                    assert room.status()["running"]
                    room.snapshot(), room.events(), room.history()
                    if n == 10 and number % 2:
                        room.graceful()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=turn, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        # Not long: who is told `Connection: close` by a leaving child comes back when it has thought.
        room.crowd_size(2, 0.5)
        poll_until(
            lambda: room.snapshot()["figures"]["keep_alive"] == 2,
            what=lambda: "\n".join(
                map(str, [room.snapshot(), room._crowd.counts(), room._crowd.lost, room.server])
            ),
        )


def test_two_starts_at_once_make_one_server():
    with Room("event", **SMALL) as room:
        threads = [threading.Thread(target=room.start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        from mpmkit.launcher import running

        ours = [server for server in running() if server.running]
        assert ours == [room.server]


# ---------------------------------------------------------------- the panel, as a browser talks to it


@pytest.fixture
def panel():
    made = Panel(Room("event", **SMALL))
    yield made
    made.close()


def tell(panel: Panel, **content) -> None:
    panel._told(panel, content, [])


def test_a_click_starts_and_stops(panel):
    tell(panel, do="hello", view="a")
    tell(panel, do="start", view="a")
    poll_until(lambda: panel.status["running"] and panel.frame.get("figures"))
    assert panel.frame["status"]["pid"] == panel.room.server.pid
    tell(panel, do="stop")
    poll_until(lambda: not panel.status["running"])
    assert panel.message == ""


def test_a_slider_sets_and_the_message_comes_back(panel):
    tell(panel, do="set", name="ThreadsPerChild", value="100")
    shown = {field["name"]: field for field in panel.fields}["ThreadsPerChild"]
    assert shown["value"] == "100" and "AH00507" in shown["advice"][0]
    tell(panel, do="choose", mpm="prefork")
    assert panel.status["mpm"] == "prefork"
    assert "ThreadsPerChild" not in {field["name"] for field in panel.fields}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"do": "reboot"}, "doesn't know 'reboot'"),
        ({}, "doesn't know"),
        ("start", "doesn't know"),
        ({"do": "choose", "mpm": "threads"}, "not an MPM"),
        ({"do": "set", "name": "Speed", "value": 1}, "no directive"),
        ({"do": "crowd", "count": "many", "think": 1}, "many"),
        ({"do": "crowd", "count": 1e6, "think": 1}, "0 to 2000"),
        ({"do": "set"}, "name"),
        ({"do": "load_set", "name": "speed", "value": 1}, "no such field"),
        ({"do": "load_set"}, "name"),
    ],
)
def test_nonsense_from_a_browser_is_a_message(panel, content, said):
    panel._told(panel, content, [])
    assert said in panel.message


def test_errors_of_the_server_reach_the_panel(panel):
    tell(panel, do="graceful")
    poll_until(lambda: "start one before graceful" in panel.message)
    tell(panel, do="load")
    poll_until(lambda: "start one before the load" in panel.message)


def test_a_field_of_the_load_says_what_is_wrong_and_a_running_load_goes_on(panel):
    tell(panel, do="start")
    poll_until(lambda: panel.status["running"])
    tell(panel, do="load_set", name="users", value="3")
    tell(panel, do="load")
    poll_until(lambda: panel.status["loading"])
    first = panel.room._load
    tell(panel, do="load_set", name="users", value="three")
    shown = {field["name"]: field for field in panel.load}["users"]
    assert shown["refused"] and "1 to 500, not 'three'" in shown["advice"][0]
    assert panel.room._load is first and first.running
    tell(panel, do="load_set", name="users", value="2")
    poll_until(lambda: panel.room._load is not first and panel.room.loading)
    assert panel.room._load.profile.users == 2 and not first.running
    tell(panel, do="unload")
    poll_until(lambda: not panel.status["loading"])
    tell(panel, do="load_set", name="users", value="5")
    assert not panel.room.loading, "a field starts nothing"


def test_fields_changed_one_after_the_other_all_reach_a_running_load(panel):
    """The second comes while the load is still being ended for the first."""
    tell(panel, do="start")
    poll_until(lambda: panel.status["running"])
    tell(panel, do="load")
    poll_until(lambda: panel.status["loading"])
    tell(panel, do="load_set", name="arrival", value="poisson")
    tell(panel, do="load_set", name="rate", value="40")
    poll_until(lambda: panel.room.loading and panel.room._load.profile.rate == 40)
    # And Stop is the last word, though a change is under way
    tell(panel, do="load_set", name="rate", value="50")
    tell(panel, do="unload")
    poll_until(
        lambda: (
            not [
                thread
                for thread in threading.enumerate()
                if thread.name in ("mpmkit-renew_load", "mpmkit-stop_load")
            ]
        )
    )
    assert not panel.room.loading and not panel.status["loading"]


def test_when_nobody_looks_any_more_the_server_stops(panel, monkeypatch):
    tell(panel, do="start")
    poll_until(lambda: panel.status["running"])
    assert GONE > 30
    monkeypatch.setattr("mpmkit.lab.panel.GONE", 0.5)
    tell(panel, do="hello", view="a")
    poll_until(lambda: not panel.status["running"], what="the room stops")
    assert any("nobody is looking" in text for _, _, text in panel.room.events())


def test_rooms_side_by_side_take_what_fits_them():
    box = control_room("prefork", "event", ThreadsPerChild=8, KeepAliveTimeout=3)
    try:
        prefork, event = box.rooms
        assert [s.name for s in prefork.settings()] == ["KeepAliveTimeout"]
        assert {s.name for s in event.settings()} == {"KeepAliveTimeout", "ThreadsPerChild"}
        tell(box.children[0], do="crowd", count=7, think=2)
        assert prefork.status()["browsers"] == event.status()["browsers"] == 7
        tell(box.children[0], do="load_set", name="arrival", value="constant")
        assert prefork.load_fields() == event.load_fields()
        assert box.children[0].status["link"] == box.children[1].status["link"]
    finally:
        for panel in box.children:
            panel.close()
    with pytest.raises(DirectiveError):
        control_room("event", Speed=1)
