"""The control room's model, and its panel, without a browser."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from support.waiting import alive, poll_until

import mpmkit
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.lab.forms import NAMES, Field
from mpmkit.lab.panel import Panel, control_room
from mpmkit.lab.room import Room
from mpmkit.launcher import LaunchError

SMALL = {
    "StartServers": 1,
    "ThreadsPerChild": 4,
    "MinSpareThreads": 2,
    "MaxSpareThreads": 8,
    "MaxRequestWorkers": 16,
    "ServerLimit": 4,
}


def field(room: Room, name: str) -> Field:
    return next(field for field in room.fields() if field.name == name)


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
            lambda: room.snapshot().get("figures", {}).get("parked") == 3,
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
        assert "first start" in field(room, "ServerLimit").hints[0]
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
    """An open loop of a mix, with idle holders and slow readers: each is seen on the server."""
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
        poll_until(lambda: (room.snapshot()["figures"]["parked"] or 0) >= 6, cap=20)
        # The slow script takes 0.1 s, the others a millisecond: half of the mix, so p99 shows it.
        poll_until(lambda: (room.snapshot()["figures"]["load_p99_ms"] or 0) > 90, cap=20)
        # An open loop of 40 a second; what comes of a random second stays well below what the
        # closed loop of thirty users would ask for.
        assert room.snapshot()["figures"]["load_qps"] < 200
        assert "open loop: Poisson" in room.status()["load_summary"]
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
        assert not room.loading and room._load_form.word("rate") == "40"
        assert room._load_form.word("users") == "1"


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
            lambda: room.snapshot()["figures"]["parked"] == 2,
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


# ---------------------------------------------------------------- the panel, as a reader uses it


@pytest.fixture
def panel():
    made = Panel(Room("event", **SMALL))
    yield made
    made.close()


def put(panel: Panel, name: str, value) -> None:
    """What the browser does when a reader sets a control's value."""
    controls = panel.load if name in panel.load else panel.directives
    controls[name]._box.value = value


def hints(panel: Panel, name: str) -> str:
    return (panel.load | panel.directives)[name]._hints.value


def shown(controls) -> set[str]:
    return {name for name, one in controls.items() if "mk-off" not in one.widget._dom_classes}


def runs(panel: Panel) -> bool:
    return panel.board.status["running"]


def test_a_click_starts_and_stops(panel):
    panel._reported(panel, {"do": "hello", "view": "a"}, [])
    assert panel.buttons["stop"].disabled and panel.load_button.disabled
    panel.buttons["start"].click()
    poll_until(lambda: runs(panel) and panel.board.frame.get("figures"))
    assert f"pid {panel.room.server.pid}" in panel.state.value
    assert not panel.buttons["stop"].disabled
    panel.buttons["stop"].click()
    poll_until(lambda: not runs(panel))
    poll_until(lambda: panel.message.value == "" and "</b>stop" in panel.events.value)


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_the_panel_shows_the_fields_of_the_mpm(panel, mpm):
    panel.choice.value = mpm
    assert panel.room.mpm == panel.board.status["mpm"] == mpm
    assert shown(panel.directives) == {n for n in NAMES if mpm in SPECS[n.lower()].mpms}


def test_a_value_sets_and_the_hint_comes_back(panel):
    put(panel, "ThreadsPerChild", "100")
    row = panel.directives["ThreadsPerChild"]
    assert "AH00507" in hints(panel, "ThreadsPerChild") and row._hints in row.widget.children
    assert row._slider.value == 64, "the slider stands at its end"
    row._slider.value = 8
    assert (row._box.value, hints(panel, "ThreadsPerChild")) == ("8", "")
    row._slider.value = 7.999999999999999  # what the browser makes of 8
    assert row._box.value == "8"
    row._slider.value = 25
    assert row._box.value == "" and "mk-set" not in row.widget._dom_classes, "the default"
    put(panel, "KeepAliveTimeout", "500ms")
    assert panel.directives["KeepAliveTimeout"]._slider.value == 0.5
    put(panel, "KeepAlive", False)
    assert panel.room._form.words()["KeepAlive"] == "Off"
    put(panel, "Timeout", "soon")
    assert "httpd reads 0" in hints(panel, "Timeout")
    put(panel, "KeepAliveTimeout", "soon")
    assert "mk-wrong" in panel.directives["KeepAliveTimeout"].widget._dom_classes


def test_another_mpm_than_the_running_one_waits_for_a_start(panel):
    panel.buttons["start"].click()
    poll_until(lambda: runs(panel))
    put(panel, "StartServers", "2")
    assert "Graceful brings it in" in panel.state.value
    panel.choice.value = "worker"
    assert "Start anew ends it and starts worker" in panel.state.value
    assert "Graceful" not in panel.state.value and panel.buttons["graceful"].disabled


def test_errors_reach_the_panel(panel):
    panel.act("graceful")
    poll_until(lambda: "start one before graceful" in panel.message.value)
    panel._load_clicked()
    poll_until(lambda: "start one before the load" in panel.message.value)
    for value, text in (("many", "many"), ("1000000", "0 to 2000")):
        put(panel, "browsers", value)
        assert text in panel.message.value
    for nonsense in ("start", {}, {"do": "reboot"}, None):
        panel._reported(panel, nonsense, [])
    assert panel.room.server is None


def test_a_field_of_the_load_says_what_is_wrong_and_a_running_load_goes_on(panel):
    panel.buttons["start"].click()
    poll_until(lambda: runs(panel))
    put(panel, "users", "3")
    panel.load_button.click()
    poll_until(lambda: panel.load_button.description == "Stop load")
    first = panel.room._load
    put(panel, "users", "three")
    assert "1 to 500, not" in hints(panel, "users")
    assert panel.room._load is first and first.running
    put(panel, "users", "2")
    poll_until(lambda: panel.room._load is not first and panel.room.loading, cap=30)
    assert panel.room._load.profile.users == 2 and not first.running
    panel.load_button.click()
    poll_until(lambda: panel.load_button.description == "Start load")
    put(panel, "users", "5")
    assert not panel.room.loading, "a field starts nothing"


def test_fields_changed_one_after_the_other_all_reach_a_running_load(panel):
    """The second comes while the load is still being ended for the first."""
    panel.buttons["start"].click()
    poll_until(lambda: runs(panel))
    panel.load_button.click()
    poll_until(lambda: panel.room.loading)
    put(panel, "arrival", "poisson")
    assert "rate" in shown(panel.load) and "think_time" not in shown(panel.load)
    put(panel, "rate", "40")
    poll_until(lambda: panel.room.loading and panel.room._load.profile.rate == 40, cap=40)
    assert "open loop: Poisson" in panel.more.titles[0]
    # And Stop is the last word, though a change is under way
    put(panel, "rate", "50")
    panel.room.stop_load()
    poll_until(lambda: not panel.room.loading)


def test_a_load_goes_on_with_the_next_server(panel):
    room = panel.room
    room.start()
    room.start_load(users=2)
    room.choose("worker")
    room.start()
    assert room.server.mpm == "worker" and room.loading
    assert any(text.startswith("load: 2 users") for _, _, text in room.events())


def test_a_room_that_is_not_looked_at_any_more_stops(panel, monkeypatch):
    monkeypatch.setattr("mpmkit.lab.panel.GONE", 0.5)
    panel.buttons["start"].click()
    poll_until(lambda: runs(panel))
    panel._reported(panel, {"do": "hello", "view": "a"}, [])
    poll_until(lambda: not runs(panel), what="the room stops")
    assert any("no browser shows this room" in text for _, _, text in panel.room.events())


def test_rooms_side_by_side_take_what_fits_them():
    box = control_room("prefork", "event", ThreadsPerChild=8, KeepAliveTimeout=3)
    one, other = box.children
    try:
        prefork, event = box.rooms
        assert set(prefork._form.words()) == {"KeepAliveTimeout"}
        assert set(event._form.words()) == {"KeepAliveTimeout", "ThreadsPerChild"}
        put(one, "browsers", "7")
        put(one, "browser_think", "2")
        for room in box.rooms:
            assert (room.status()["browsers"], room.status()["think"]) == (7, 2)
        put(one, "arrival", "constant")
        assert prefork.load_fields() == event.load_fields()
        assert one.board.status["link"] == other.board.status["link"]
        assert one.load_button.description == "Start load (all)"
    finally:
        for panel in box.children:
            panel.close()
    with pytest.raises(DirectiveError):
        control_room("event", Speed=1)


def test_lab_is_there_after_import_mpmkit():
    code = "import mpmkit; mpmkit.lab.control_room; print('lab' in dir(mpmkit))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "True\n", ran.stderr
