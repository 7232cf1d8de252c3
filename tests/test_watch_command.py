"""`mpmkit watch`: headroom and alarms from letters, and from a running server."""

from __future__ import annotations

import math

import pytest
from support.client import Client
from support.waiting import poll_until

from mpmkit.measure import watch_command
from mpmkit.measure.watch_command import headroom, shown


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


def test_growth_gives_the_minutes_until_it_is_full():
    before = [(60.0 * minute, 2 * minute) for minute in range(6)]
    found = headroom(300.0, "W" + "K" * 10 + "_" * 20, 0, before)
    assert found.full_in == pytest.approx(21 / 2) and "full in 10 min" in shown(found, "text")
    assert math.isnan(headroom(300.0, "W___", 0, [(t, 1) for t, _ in before]).full_in)


def test_a_running_server_and_what_is_no_status_page(server, mpm, capsys):
    url = server.url
    with Client(server) as half:
        half.send(b"GET /file.txt HTTP/1.1\r\nHost: x\r\n")
        poll_until(lambda: server.scoreboard().count("R") == 1)
        # The page's own worker, asked a moment ago, may still be writing.
        csv = [url, "--seconds", "0", "--format", "csv"]
        poll_until(
            lambda: watch_command.main(csv) == 0 and capsys.readouterr().out.split(",")[6] == "1"
        )
        full = [url, "--seconds", "0", "--limit", "1"]
        poll_until(lambda: watch_command.main(full) == watch_command.ALARM_STATUS)
        assert "full of R (reading a request)" in capsys.readouterr().out
    for bad in (f"{url}/file.txt", f"{url}/nothing", "ftp://x", "http://127.0.0.1:1"):
        assert watch_command.main([bad, "--seconds", "0"]) == 1
        assert capsys.readouterr().err.startswith(f"mpmkit: {bad}: ")
