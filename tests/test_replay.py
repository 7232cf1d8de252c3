"""`mpmkit replay`: what is asked when, and a log that comes out as it went in."""

from __future__ import annotations

import json

import pytest
from support.client import get

import mpmkit
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import replay
from mpmkit.measure.trace import Trace


def test_a_plan_has_each_request_at_its_time_with_its_size_and_duration(tmp_path):
    trace = Trace([0, 2, 2, 4], [0.1, 0.1, 2, float("nan")], [0, 1000, 1000, 1 << 40])
    made = replay.plan(trace, 2.0, "/x.php", tmp_path / "plan")
    lines = [line.split(",") for line in (tmp_path / "plan").read_text().splitlines()]
    due = [float(seconds) for seconds, _ in lines]
    assert due == pytest.approx([0, 1, 1, 2], abs=1e-4) and len(set(due)) == 4
    assert [int(line) for _, line in lines] == [1, 2, 3, 4]
    sizes = [line["expect_length"] for line in made["mix"]]
    assert sizes[0] == 0 and sizes[1:3] == pytest.approx([1000] * 2, rel=0.05)
    assert made["mix"][3]["path"].startswith("/x.php?bytes=") and "&ms=0" in made["mix"][3]["path"]
    assert LoadProfile(**made).open_loop and made["duration"] == pytest.approx(2.1, abs=0.01)
    with pytest.raises(ProfileError, match="plan: only the open loop has it"):
        LoadProfile(plan="/x", requests=1)


@pytest.mark.parametrize("value, most", [(0.4, 10), (1, 10), (777, 1e9), (1e12, 1e5)])
def test_rounding(value, most):
    assert replay.rounded(value, most) == pytest.approx(min(value, most), rel=0.05, abs=0.5)


@pytest.fixture(scope="module")
def samples():
    with mpmkit.launch("event") as server:
        yield server


SAID = {"bytes=300&ms=20": 200, "": 200, "bytes=x": 400, "ms=9999999": 400}


@pytest.mark.parametrize("query, status", SAID.items())
def test_the_script(samples, query, status):
    answer = get(samples, f"/replay.py?{query}")
    assert answer.status == status
    assert status == 400 or len(answer.body) == (300 if query else 0)


def test_a_log_is_replayed(samples, tmp_path, capsys):
    stamps = range(1772359200, 1772359200 + 40)
    log = tmp_path / "log"
    log.write_text("".join(f"{s} {20_000 + 1000 * (s % 9)} {100 + s % 7}\n" for s in stamps))
    argv = [str(log), "--log-format", "%{sec}t %D %b", "--against", samples.url, "--json"]
    assert replay.main([*argv, "--speed", "20", "--scale", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["failures"]) == (80, 0) and found["mean_ms"] > 20
    assert found["qps"] == pytest.approx(80 / 2, rel=0.2)
    assert replay.main([*argv, "--speed", "0"]) == 2
    assert "speed, scale: must be more than 0" in capsys.readouterr().err
    assert replay.main([*argv[:-2], "http://192.0.2.1"]) == 2
