"""The control room's model and its panel, without a browser; the link from the reader's browser to a server."""

import os
import urllib.request

import pytest
from support.calls import refused
from support.client import at_once
from support.jupyter import jupyter
from support.waiting import alive, poll_until

import mpmkit
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.lab import forms, proxy
from mpmkit.lab.panel import Panel, control_room
from mpmkit.lab.room import Room
from mpmkit.launcher import LaunchError, running

SMALL = {"StartServers": 1, "ThreadsPerChild": 4, "MinSpareThreads": 2, "MaxSpareThreads": 8,
         "MaxRequestWorkers": 16, "ServerLimit": 4}  # fmt: skip


def figure(room: Room, name: str) -> float:
    """A figure of the newest frame, 0 if it is not known yet."""
    return room.snapshot().get("figures", {}).get(name) or 0


def notes(room: Room) -> list[str]:
    return [text for _, kind, text in room.events() if kind == "note"]


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_room_from_start_to_stop(mpm):
    frames = []
    with Room(mpm, KeepAliveTimeout=30, **(SMALL if mpm != "prefork" else {})) as room:
        room.on_frame = frames.append
        room.load_set("browsers", 3)
        room.start()
        children = room.server.processes()
        poll_until(lambda: figure(room, "parked") == 3, what=lambda: str(room.snapshot()))
        frame = room.snapshot()
        assert frame["mpm"] == mpm and frames[-1]["rows"]
        assert all(len(row[5]) == frame["threads"] for row in frame["rows"])
        poll_until(lambda: figure(room, "wait_ms"))

        room.set("StartServers", 2)
        assert room.unapplied() == ["StartServers"]
        room.graceful()
        assert room.unapplied() == []
        poll_until(lambda: room.snapshot()["generation"] == 1)
        poll_until(lambda: any(kind == "generation" for _, kind, _ in room.events()))
        pid, home = room.server.pid, room._home.folder
        room.stop()
        assert room.server is None and not room.status()["running"]
        assert not any(alive(child) for child in [pid, *children])
        assert notes(room)[0].startswith(f"start {mpm}")
        assert notes(room)[-2:] == ["graceful", "stop"]
    room.close()
    assert not home.exists()
    refused(LaunchError, "closed", room.start)


def test_a_load_starts_shows_and_stops():
    with Room("event", **SMALL) as room:
        refused(LaunchError, "start one before the load", room.start_load)
        room.start()
        room.load_set("users", 1000)
        refused(ValueError, "1 to 500", room.start_load)
        assert not room.loading
        room.load_set("users", 4)
        room.load_set("keep_alive", True)
        room.start_load()
        # Percentiles while it runs, of the last second
        flows = lambda one: one["load_p99_ms"] and min(one["qps"] or 0, one["load_qps"] or 0) > 10  # noqa: E731
        seen = poll_until(lambda: [*filter(flows, room.history())], cap=20)[-1]
        assert seen["load_p50_ms"] <= seen["load_p95_ms"] <= seen["load_p99_ms"]
        assert room.loading and seen["load_failed"] == 0
        room.stop_load()
        assert not room.loading
        (said,) = [text for text in notes(room) if text.startswith("load ended")]
        assert "p99" in said and "failed" not in said
        # It goes on with the next server.
        room.load_set("users", 2)
        room.start_load()
        room.choose("worker")
        room.start()
        assert room.server.mpm == "worker" and room.loading
        assert any(text.startswith("load: 2 users") for text in notes(room))


def test_a_server_that_dies_is_reported_and_cleared_away():
    frames = []
    with Room("worker", **SMALL) as room:
        room.on_frame = frames.append
        room.start()
        home = room.server._home
        os.kill(room.server.pid, 9)
        poll_until(lambda: frames and frames[-1] == {}, what="an empty frame")
        assert room.server is None and not os.path.exists(home)
        assert any("ended with status -9" in text for text in notes(room))
        room.start()
        assert room.status()["running"]


def test_callbacks_from_many_threads_do_not_corrupt_the_room():
    """Each thread turns every knob at once; and two starts at once make one server."""
    with Room("event", **SMALL) as room:
        at_once(lambda _: room.start(), 2)
        assert [server for server in running() if server.running] == [room.server]

        def turn(number: int) -> None:
            for n in range(25):
                room.set("StartServers", 1 + (n + number) % 4)
                room.load_set("browsers", (n * number) % 7)
                room.load_set("browser_think", 1 + n)
                (field,) = [field for field in room.fields() if field.name == "StartServers"]
                assert field.value in "1234" and room.status()["running"]
                room.snapshot(), room.events(), room.history()
                if n == 10 and number % 2:
                    room.graceful()

        at_once(turn, 4)
        # Not long: a client whose answer said `Connection: close` comes back when it has thought.
        room.load_set("browsers", 2)
        room.load_set("browser_think", 0.5)
        seen = lambda: f"{room.snapshot()} {room._crowd.states} {room._crowd.totals}"  # noqa: E731
        poll_until(lambda: figure(room, "parked") == 2, seen)


@pytest.fixture
def panel():
    made = Panel(Room("event", **SMALL))
    yield made
    made.close()


def put(panel: Panel, name: str, value) -> None:
    """What the browser does when a reader sets a control's value."""
    (panel.load | panel.directives)[name]._box.value = value


def hints(panel: Panel, name: str) -> str:
    return (panel.load | panel.directives)[name]._hints.value


def shown(controls) -> set[str]:
    return {name for name, one in controls.items() if "mk-off" not in one.widget._dom_classes}


def start(panel: Panel) -> None:
    panel.buttons["start"].click()
    poll_until(lambda: panel.board.status["running"])


def test_the_panel_shows_the_fields_of_the_mpm(panel):
    for mpm in mpmkit.MPMS:
        panel.choice.value = mpm
        assert panel.room.mpm == panel.board.status["mpm"] == mpm
        assert shown(panel.directives) == {n for n in forms.NAMES if mpm in SPECS[n.lower()].mpms}


def test_a_value_sets_and_the_hint_comes_back(panel):
    put(panel, "ThreadsPerChild", "100")
    row = panel.directives["ThreadsPerChild"]
    assert "AH00507" in hints(panel, "ThreadsPerChild") and row._hints in row.widget.children
    assert row._slider.value == 64, "the slider stands at its end"
    for value, text in ((8, "8"), (7.999999999999999, "8"), (25, "")):  # 25 is the default
        row._slider.value = value
        assert (row._box.value, hints(panel, "ThreadsPerChild")) == (text, "")
    assert "mk-set" not in row.widget._dom_classes
    put(panel, "KeepAliveTimeout", "500ms")
    assert panel.directives["KeepAliveTimeout"]._slider.value == 0.5
    put(panel, "KeepAlive", False)
    assert panel.room.words()["KeepAlive"] == "Off"
    put(panel, "Timeout", "soon")
    assert "httpd reads 0" in hints(panel, "Timeout")
    put(panel, "KeepAliveTimeout", "soon")
    assert "mk-wrong" in panel.directives["KeepAliveTimeout"].widget._dom_classes


def test_what_a_running_server_cannot_take_waits_for_a_start(panel):
    assert panel.buttons["stop"].disabled and panel.load_button.disabled
    start(panel)
    assert f"pid {panel.room.server.pid}" in panel.state.value
    assert not panel.buttons["stop"].disabled
    put(panel, "StartServers", "2")
    assert "Graceful brings it in" in panel.state.value
    put(panel, "ServerLimit", "8")
    assert "first start" in hints(panel, "ServerLimit")
    panel.choice.value = "worker"
    assert "Start again ends it and starts worker" in panel.state.value
    assert "Graceful" not in panel.state.value and panel.buttons["graceful"].disabled
    refused(LaunchError, "stop and start", panel.room.graceful)


def test_errors_reach_the_panel(panel):
    panel.act("graceful")
    poll_until(lambda: "start one before graceful" in panel.message.value)
    panel._load_clicked()
    poll_until(lambda: "start one before the load" in panel.message.value)
    for value in ("many", "1000000"):
        put(panel, "browsers", value)
        assert "0 to 2,000" in hints(panel, "browsers")
    assert panel.room.server is None


def test_a_changed_field_reaches_a_running_load_and_a_wrong_one_does_not(panel):
    start(panel)
    put(panel, "users", "3")
    panel.load_button.click()
    poll_until(lambda: panel.load_button.description == "Stop load")
    first = panel.room._load
    put(panel, "users", "three")
    assert "1 to 500, not" in hints(panel, "users")
    put(panel, "browsers", "2")
    assert panel.room._load is first and first.running
    put(panel, "users", "2")
    poll_until(lambda: panel.room._load is not first and panel.room.loading, cap=30)
    assert panel.room._load.profile.users == 2 and not first.running
    # The second comes while the load is still being ended for the first.
    put(panel, "arrival", "poisson")
    assert "rate" in shown(panel.load) and "think_time" not in shown(panel.load)
    put(panel, "rate", "40")
    poll_until(lambda: panel.room.loading and panel.room._load.profile.rate == 40, cap=40)
    assert "open loop: Poisson" in panel.more.titles[0]
    # And Stop is the last word, though a change is under way
    put(panel, "rate", "50")
    panel.room.stop_load()
    poll_until(lambda: not panel.room.loading)
    put(panel, "users", "5")
    assert not panel.room.loading, "a field starts nothing"


def test_rooms_side_by_side_take_what_fits_them():
    both = control_room("prefork", "event", ThreadsPerChild=8, KeepAliveTimeout=3)
    one, other = both.children
    try:
        prefork, event = both.rooms
        assert set(prefork.words()) == {"KeepAliveTimeout"}
        assert set(event.words()) == {"KeepAliveTimeout", "ThreadsPerChild"}
        put(one, "browsers", "7")
        put(one, "browser_think", "2")
        assert [room._load_form.browsers() for room in both.rooms] == [(7, 2)] * 2
        put(one, "arrival", "constant")
        assert prefork.load_fields() == event.load_fields()
        assert one.board.status["link"] == other.board.status["link"]
        assert one.load_button.description == "Start load (all)"
    finally:
        for panel in both.children:
            panel.close()
    refused(DirectiveError, "Speed", control_room, "event", Speed=1)


def test_sweep_opens_below_the_room_with_its_choices_and_closes(panel):
    panel._set("KeepAliveTimeout", "7")
    panel._load_set("path", "/hello.py")
    panel.sweep_button.click()
    _, sweep = panel.children
    assert (sweep.form.mpms, sweep.form.profile().path) == ([panel.room.mpm], "/hello.py")
    assert sweep.form.directives["KeepAliveTimeout"] == "7"
    panel.sweep_button.click()
    assert len(panel.children) == 1 and sweep.comm is None, "closed"


PREFIX = "JUPYTERHUB_SERVICE_PREFIX"


@pytest.fixture
def server():
    with mpmkit.launch("event", StartServers=1, MinSpareThreads=1) as running:
        yield running


def test_the_link_is_the_servers_own_or_leads_through_the_proxy(server, monkeypatch):
    monkeypatch.delenv(PREFIX, raising=False)
    link = proxy.status_link(server)
    assert link == f"{server.url}/server-status"
    with urllib.request.urlopen(link, timeout=5) as page:
        assert b"Server Version" in page.read()
    assert f'href="{link}"' in link._repr_html_()
    refused(ValueError, r"try '/index\.html'", proxy.status_link, server, "index.html")
    monkeypatch.setenv(PREFIX, "/user/ann/")
    assert proxy.status_link(server) == f"/user/ann/proxy/{server.port}/server-status"
    assert proxy.status_link(server, "/a?b=1&c=2")._repr_html_().count("&amp;") == 2
    monkeypatch.setattr(proxy, "find_spec", lambda _: None)
    refused(RuntimeError, "pip install jupyter-server-proxy", proxy.status_link, server)
    server.stop()
    refused(ValueError, "event server has ended", proxy.status_link, server)


@pytest.mark.timeout(90)
def test_the_proxied_link_opens_the_status_page(server, monkeypatch, tmp_path):
    pytest.importorskip("jupyter_server_proxy", reason="jupyter-server-proxy is not installed")
    monkeypatch.setenv(PREFIX, "/user/ann/")
    link = proxy.status_link(server)
    (tmp_path / "root").mkdir()
    with jupyter("jupyter_server", tmp_path / "root", base="/user/ann") as address:
        with urllib.request.urlopen(address.removesuffix("/user/ann") + link, timeout=30) as page:
            assert b"Server Version" in page.read()
