"""Watching ours and a real httpd; a crowd that makes something to see; `mpmkit watch` and its alarms."""

import base64
import math
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import attrgetter
from types import SimpleNamespace

import pytest
from support.calls import refused
from support.client import Client
from support.files import write
from support.servers import SMALL, one_child, pool, serving
from support.waiting import poll_until

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure import monitor, watch_command
from mpmkit.measure.monitor import Watch, watch
from mpmkit.measure.recording import Event, Recording, Sample
from mpmkit.measure.reference_servers import Httpd
from mpmkit.measure.watch_command import Headroom, headroom, shown
from mpmkit.policy.simulator import COLUMNS, simulate

unknown = math.isnan


def settled(server, seen: Sample, alone: bool) -> Sample | None:
    """Once the page's own workers have written and closed, and no child has just been forked."""
    known = seen.processes == len(server.processes())
    known = known or (alone and server.mpm == "worker" and unknown(seen.processes))
    return seen if known and not seen.writing + seen.closing else None


def test_who_is_busy_idle_parked_and_waiting(server, mpm):
    workers = 2 * SMALL[mpm].get("ThreadsPerChild", 1)
    poll_until(lambda: server.scoreboard().counts.idle == workers, what="all first children idle")
    with Client(server) as half, Client(server) as parked:
        half.send(HALF)
        parked.get()
        poll_until(lambda: server.scoreboard().count("R") == 1)
        poll_until(lambda: watch(server, 0)[0].parked == 1, what="one parked")
        for target in (server, server.url, SimpleNamespace(url=server.url, pid=server.pid)):
            # From its status page alone no one can say how many processes a worker has.
            alone = isinstance(target, str)
            seen = lambda at=target, url=alone: settled(server, watch(at, 0).last, url)  # noqa: E731
            sample = poll_until(seen)
            assert (sample.parked, sample.reading, sample.waiting) == (1, 1, 0), target
            held = (1, 1) if mpm == "event" else (0, 2)
            assert (sample.without_thread, sample.busy) == held, target
            assert sample.workers >= workers and sample.idle == sample.workers - sample.busy, target
            assert unknown(sample.pss_mb) if alone else sample.pss_mb > 1
        assert half.ask(b"\r\n", "GET").status == 200


def test_a_block_is_recorded_and_requests_are_counted(server):
    with watch(server, every=0.05) as run:
        with Client(server) as client:
            for _ in range(20):
                client.get()
        poll_until(lambda: len(run) >= 3)
        poll_until(lambda: run[-1].accesses - run[0].accesses >= 19, what="the requests")
    times = run.column("t")
    assert times == sorted(times) and run.most("qps") > 0 and run.most("service_ms") > 0
    assert repr(run) == f"<Watch of {server.mpm}: {len(run)} samples>"
    assert list(run[:2]) == run.samples[:2] and len(list(run)) == len(run)
    run = watch(server, 0.3, every=0.1)
    assert 2 <= len(run) <= 4 and run[-1].t >= 0.3  # on a busy machine one is left out
    pandas = pytest.importorskip("pandas")
    measured = run.to_frame().assign(who="measured")
    simulated = simulate(server.mpm, seconds=2, **SMALL[server.mpm]).to_frame()
    both = pandas.concat([simulated.assign(who="simulated"), measured])
    assert both[[*COLUMNS, "who"]].notna().all().all()
    assert list(measured.columns) == [*Sample._fields, "who"]


NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(("call", "given", "how", "error", "said"), [
    (watch, (NOWHERE,), {"every": -1}, ValueError, "every: must be"),
    (watch, (NOWHERE,), {"seconds": -1}, ValueError, "seconds: must be"),
    (watch, (NOWHERE,), {"seconds": 1}, OSError, "refused"),
    (watch_command.main, ([NOWHERE, "--limit", "0"],), {}, SystemExit, "2"),
    (watch_command.main, ([NOWHERE, "--every", "nan"],), {}, SystemExit, "2"),
    (watch, ("nowhere",), {}, ValueError, "not the URL"), (watch, ("http://",), {}, ValueError, "not the URL"),
    (KeepAliveClients, ("http://192.0.2.1:80", 1), {}, ValueError, "loopback"),
    (KeepAliveClients, (NOWHERE, 5000), {}, ValueError, "0 to 2000"),
    (KeepAliveClients, (NOWHERE, 1), {"think": 0}, ValueError, "0.05 to 3600"),
])  # fmt: skip
def test_what_cannot_be_watched_or_held_is_an_error(call, given, how, error, said):
    refused(error, said, call, *given, **how)


def test_a_snapshot_needs_a_scoreboard(server):
    run = watch(server, 0)
    snapshot = run.capture("now")
    assert run.snapshot("now") == snapshot and "now" in run.event_log()
    assert snapshot.count("_") == sum(text.count("_") for _, text, _ in snapshot.rows) > 0
    refused(KeyError, "no snapshot 'then'; there are", run.snapshot, "then")
    refused(ValueError, r"mpmkit\.launch", watch(server.url, 0).capture, "now")
    refused(OSError, "not a status page", watch, server.url + "/file.txt")


def test_the_watch_ends_with_the_server(mpm, document_root):
    ended = []
    with serving(mpm, document_root=document_root) as server:
        with Watch(server, every=0.05, on_end=lambda: ended.append(1)) as seen:
            os.kill(server.pid, 9)
            poll_until(lambda: ended)
            assert len(seen) >= 1
        server.stop()
    refused(mpmkit.LaunchError, "ended|stopped|not run", watch, server, 0)


def test_a_status_page_that_does_not_come_leaves_the_children_known():
    with serving("prefork", pool=pool("prefork", 2, 2, spare=(2, 3))) as server:
        run = watch(SimpleNamespace(url=server.url, pid=server.pid), 0, every=0.05)
        with Client(server) as one, Client(server) as two:
            one.get()
            two.get()
            sample = run.look()
        assert sample.processes == 2 and sample.pss_mb > 1 and sample.waiting == 0
        assert all(map(unknown, (sample.busy, sample.parked, sample.threads, sample.accesses)))


@pytest.mark.parametrize("mpm", ("prefork", "event"))
def test_a_crowd_that_holds_connections_is_seen(mpm):
    with serving(mpm, KeepAliveTimeout=30) as server:
        with Watch(server, every=0.1) as seen, KeepAliveClients(server.url, 0) as crowd:
            assert (seen.last.parked, seen.last.waiting) == (0, 0)
            crowd.resize(6)
            # Of the last answer's worker the scoreboard may say W for a moment more.
            expected = (6, 6, 0) if mpm == "event" else (6, 0, 6)
            three = attrgetter("parked", "without_thread", "busy")
            poll_until(lambda: three(seen.last) == expected, what=lambda: str(seen.last))
            poll_until(lambda: crowd.states["held"] == 6)
            assert len(crowd.take()) == 6 and crowd.answered == 6 and not crowd.losses
            crowd.resize(1)
            poll_until(lambda: seen.last.parked == 1, what=lambda: str(seen.last))
        recording = seen.recording()
    assert recording.most("accesses") == 6 and recording.most("pss_mb") > 1
    assert sum(recording.forks()) >= SMALL[mpm]["StartServers"]
    again = Recording.from_json(recording.to_json())
    assert again.mpm == mpm and again.column("parked") == recording.column("parked")
    assert again.snapshots == recording.snapshots and len(again.events) == len(recording.events)


def test_those_who_wait_are_in_the_listen_queue():
    server = mpmkit.launch("worker", **one_child("worker", 2), KeepAliveTimeout=30)
    with server, Watch(server, every=0.1) as seen, KeepAliveClients(server.url, 5) as crowd:
        seen.until(lambda sample: sample.busy == 2 and sample.waiting >= 2)
        poll_until(lambda: crowd.states["asking"] == 3, what=lambda: str(crowd.states))
        assert crowd.longest_wait() > 0
        poll_until(lambda: "AH00286" in seen.event_log(), what=seen.event_log)
        refused(TimeoutError, "the last sample", seen.until, lambda one: one.busy == 3, seconds=0.2)


def test_clients_come_back_keep_nothing_if_asked_to_and_count_their_losses():
    with serving("event", KeepAliveTimeout=0.2) as server:
        with KeepAliveClients(server.url, 2) as crowd:
            poll_until(lambda: crowd.answered >= 6, what=lambda: str(crowd.answered))
            poll_until(lambda: 0 < crowd.losses == crowd.totals["closed"])  # counted one by one
        with KeepAliveClients(server.url, 1, think=0.05, keep=False) as probe:
            poll_until(lambda: probe.answered >= 3)
            assert all(0 < seconds < 5 for seconds in probe.take())
            assert server.scoreboard().count("K") == 0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with KeepAliveClients(f"http://127.0.0.1:{closed.getsockname()[1]}", 1) as crowd:
            poll_until(lambda: crowd.totals["refused"] >= 1)
        assert set(crowd.totals) == {"refused"}


def test_log_lines_for_an_operator_bursts_of_forks_and_what_is_no_recording():
    text = "[Tue] [mpm_event:error] [pid 1:tid 1] AH00484: reached\n"
    text += "[Tue] [core:debug] [pid 1:tid 1] chatter\nTraceback\n"
    assert monitor.log_lines(text) == ["AH00484: reached"]
    # Forks within one second are one burst.
    times = ((0.0, "5 children"), (1.1, "a child"), (2.1, "2 children"), (2.4, "2 children"))
    events = [Event(t, "forked", f"forked {who}") for t, who in (*times, (3.2, "8 children"))]
    recording = Recording("prefork", [], events)
    assert recording.forks() == [5, 1, 4, 8]
    assert unknown(recording.most("qps"))
    broken = {"mpm": "event", "fields": ["t"], "samples": [[1]], "events": []}
    refused(ValueError, "no recording", Recording.from_json, broken)


PAGE = '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
HALF = b"GET /file.txt HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("letters, limit, busy, idle, free, alarm", [
    ("W___....", 0, 0, 4, 8, ""), ("WKK_....", 4, 2, 2, 2, ""), ("WKKK", 0, 3, 1, 1, "K"),
    ("KKKW", 4, 3, 1, 1, "K"),
    ("WGGGGGK_", 0, 6, 2, 2, ""), ("GGGGGKKW", 0, 7, 1, 1, "G"), ("RRRRW", 0, 4, 1, 1, "R"),
    ("WWWWK", 0, 4, 1, 1, ""), ("WRGK", 0, 3, 1, 1, ""), ("KKKW....", 3, 3, 1, 0, "K"),
])  # fmt: skip
def test_headroom_and_alarm(letters, limit, busy, idle, free, alarm):
    found = headroom(9.0, letters, limit, ())
    assert found[1:4] == (busy, idle, free) and found.alarm == alarm and math.isnan(found.full_in)
    assert ("ALARM" in shown(found, "text")) == bool(alarm)
    assert f'mpmkit_workers{{state="free"}} {free}' in shown(found, "prometheus")


def looks(*of: tuple[float, int, int]) -> list[Headroom]:
    """Of (t, busy, idle)."""
    return [Headroom(t, busy, idle, 9, math.nan, "") for t, busy, idle in of]


def test_slots_that_no_child_can_take_and_growth_gives_the_minutes_until_it_is_full():
    """Two looks in which none but the worker that answers was idle: nothing could be forked."""
    for letters, idle, alarm in (
        ("WGGG........", 1, "G"), ("WGGG........", 2, ""), ("W_GGG.......", 1, ""), ("WCCG....", 1, ""),
    ):  # fmt: skip
        assert headroom(5.0, letters, 0, looks((0, 3, idle))).alarm == alarm, letters
    before = looks(*((60.0 * minute, 2 * minute, 20) for minute in range(6)))
    found = headroom(300.0, "W" + "K" * 10 + "_" * 20, 0, before)
    assert found.full_in == pytest.approx(21 / 2) and "full in 10 min" in shown(found, "text")
    assert math.isnan(headroom(300.0, "W___", 0, looks(*((t, 1, 2) for t in range(5)))).full_in)


def test_what_is_no_status_page(server, capsys):
    url = server.url
    with socket.create_server(("127.0.0.1", 0)) as port:

        def greet() -> None:
            with port.accept()[0] as client:
                client.sendall(b"SSH-2.0-x\r\n")

        (answer := threading.Thread(target=greet)).start()
        ssh = f"http://127.0.0.1:{port.getsockname()[1]}"
        for bad in (f"{url}/file.txt", f"{url}/nothing", "ftp://x", "http://127.0.0.1:1", ssh):
            assert watch_command.main([bad, "--seconds", "0"]) == 1
            said = capsys.readouterr().err
            assert said.startswith("mpmkit: ") and said.count(bad) == 1
        assert re.search("does not answer in HTTP|reset", said)
        answer.join()


ALARM = watch_command.ALARM_STATUS
CSV = "--format", "csv", "--limit", "2"  # as many as are busy: no more is free


class Login(BaseHTTPRequestHandler):
    """The status page of an httpd 2.2 behind a login."""

    def do_GET(self) -> None:
        good = self.headers["Authorization"] == "Basic " + base64.b64encode(b"me:p w").decode()
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(b"BusyWorkers: 1\nScoreboard: WKKK_\n" * good)

    def log_message(self, *_: object) -> None: ...


def test_a_page_behind_a_login(tmp_path, capsys):
    with HTTPServer(("127.0.0.1", 0), Login) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        there = f"127.0.0.1:{page.server_port}"
        conf = tmp_path / "httpd.conf"
        conf.write_text("LoadModule mpm_prefork_module x.so\nServerLimit 4\nMaxRequestWorkers 4\n")
        for who, status, says in (
            ("", 1, r"answers 401, not a status page; put USER:PASSWORD@ before the host"),
            ("me:wrong@", 1, rf"^mpmkit: http://{there}/.*answers 401.*give the right password"),
            ("me:p%20w@", 0, r"3 busy, 2 idle, 2 free"),
        ):
            assert watch_command.main([f"http://{who}{there}", "--seconds", "0"]) == status
            said = capsys.readouterr()
            assert re.search(says, said.out + said.err)
        full = [f"http://me:p%20w@{there}", "--seconds", "0", "-f", str(conf)]
        assert watch_command.main(full) == ALARM
        assert "1 free; ALARM: full of K (keep-alive)" in capsys.readouterr().out
        refused(SystemExit, "2", watch_command.main, [*full[:-1], "/nothing"])
        assert "/nothing" in capsys.readouterr().err
        page.shutdown()


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("whose", ["ours", pytest.param("httpd", marks=pytest.mark.rival)])
def test_alarms(mpm, whose, request, tmp_path, capsys):
    """Two of three workers read half a request, or are kept. Event keeps connections without a worker."""
    write(tmp_path / "file.txt", "x")
    three = pool(mpm, 3 if mpm == "prefork" else 1, 3, threads=3) | {"KeepAliveTimeout": 60}
    if whose == "ours":
        made = serving(mpm, pool=three, document_root=tmp_path)
    else:
        request.getfixturevalue("httpd")
        made = Httpd(mpm, document_root=tmp_path, modules=["status"], extra=PAGE, **three)
    with made as server:

        def status_is(wanted: int, says: str, *more: str) -> bool:
            found = watch_command.main([server.url, "--seconds", "0", *more])
            return found == wanted and bool(re.search(says, capsys.readouterr().out))

        for letter, what in (("R", "reading a request"), ("K", "keep-alive")):
            with Client(server) as one, Client(server) as two:
                for client in (one, two):
                    client.send(HALF) if letter == "R" else client.get()
                if (mpm, letter) == ("event", "K"):
                    poll_until(lambda: status_is(0, "0 busy, 3 idle, "))
                else:
                    says = rf"full of {letter} \({what}"
                    poll_until(lambda: status_is(ALARM, says))  # noqa: B023
                if letter == "R":  # busy, idle and free, below their names
                    poll_until(lambda: status_is(ALARM, "^([^,]*,){6}2,1,0,", *CSV))
            poll_until(lambda: status_is(0, "0 busy"))
