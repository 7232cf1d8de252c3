"""`mpmkit watch`: headroom and alarms from letters, and from a running server."""

import base64
import math
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.client import Client, request
from support.servers import pool
from support.waiting import poll_until

from mpmkit.config.directives import MPMS
from mpmkit.measure import watch_command
from mpmkit.measure.reference_servers import Httpd
from mpmkit.measure.watch_command import Headroom, headroom, shown

PAGE = '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
HALF = b"GET / HTTP/1.1\r\n"


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


def test_a_running_server_and_what_is_no_status_page(server, mpm, capsys):
    url = server.url
    with Client(server) as half:
        half.send(b"GET /file.txt HTTP/1.1\r\nHost: x\r\n")
        poll_until(lambda: server.scoreboard().count("R") == 1)
        # The page's own worker, asked a moment ago, may still be writing.
        csv = [url, "--seconds", "0", "--format", "csv"]
        one = lambda: watch_command.main(csv) == 0 and capsys.readouterr().out.split(",")[6] == "1"  # noqa: E731
        poll_until(one)
        full = [url, "--seconds", "0", "--limit", "1"]
        poll_until(lambda: watch_command.main(full) == watch_command.ALARM_STATUS)
        assert "full of R (reading a request)" in capsys.readouterr().out
    for bad in (f"{url}/file.txt", f"{url}/nothing", "ftp://x", "http://127.0.0.1:1"):
        assert watch_command.main([bad, "--seconds", "0"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("mpmkit: ") and said.count(bad) == 1


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
        assert watch_command.main(full) == watch_command.ALARM_STATUS
        assert "1 free; ALARM: full of K (keep-alive)" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            watch_command.main([*full[:-1], "/nothing"])
        assert "/nothing" in capsys.readouterr().err
        page.shutdown()


def test_what_does_not_speak_http(capsys):
    with socket.create_server(("127.0.0.1", 0)) as port:

        def greet() -> None:
            with port.accept()[0] as client:
                client.sendall(b"SSH-2.0-x\r\n")

        (answer := threading.Thread(target=greet)).start()
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        assert watch_command.main([url, "--seconds", "0"]) == 1
        answer.join()
    assert re.search("does not answer in HTTP|reset", capsys.readouterr().err)


@pytest.mark.rival
@pytest.mark.parametrize("mpm", MPMS)
def test_alarms_of_the_real_httpd(mpm, httpd, tmp_path, capsys):
    """Two of three workers read half a request, or are kept. Event keeps connections without a worker."""
    (tmp_path / "index.html").write_text("x")
    three = pool(mpm, 3 if mpm == "prefork" else 1, 3, threads=3) | {"KeepAliveTimeout": 60}
    with Httpd(mpm, document_root=tmp_path, modules=["status"], extra=PAGE, **three) as server:
        watched = [server.url, "--seconds", "0"]

        def status_is(wanted: int, says: str) -> bool:
            found = watch_command.main(watched)
            return found == wanted and says in capsys.readouterr().out

        for sent, letter in ((HALF, "R"), (request("/"), "K")):
            with Client(server) as one, Client(server) as two:
                one.send(sent), two.send(sent)
                if letter == "K":
                    one.reply(), two.reply()
                if (mpm, letter) == ("event", "K"):
                    poll_until(lambda: status_is(0, "0 busy, 3 idle, "))
                else:
                    says = f"full of {letter} ("
                    poll_until(lambda: status_is(watch_command.ALARM_STATUS, says))  # noqa: B023
            poll_until(lambda: status_is(0, "0 busy"))
