"""Load from a master and its workers, Locust's own means: on loopback, as machines would do it over a network."""

import contextlib
import json
import os
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
from support.loads import ENVIRON, LOCUST, argv, in_a_network, wait_for_load
from support.servers import free_ports
from support.waiting import poll_until

from mpmkit.load.profile import LoadProfile


def locust(options: str) -> subprocess.Popen[str]:
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": ENVIRON}
    line = argv(f"{LOCUST} --only-summary {options}")
    return subprocess.Popen(line, start_new_session=True, **how)


class Fleet:
    """A master and two workers, all gone at the end; `run` once the master has ended."""

    def __init__(self, url: str, folder: Path, **fields: Any) -> None:
        (port,) = free_ports(1)
        (folder / "profile.json").write_text(LoadProfile(keep_alive=True, **fields).to_json())
        self.out = folder / "run.json"
        bind = f"--master-bind-host 127.0.0.1 --master-bind-port {port}"
        files = f"--load-profile @{folder / 'profile.json'} --load-results {self.out}"
        self.master = locust(f"--headless --master --expect-workers 2 {bind} --host {url} {files}")
        worker = f"--headless --worker --master-host 127.0.0.1 --master-port {port}"
        self.workers = [locust(worker) for _ in range(2)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.master):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self) -> dict[str, Any]:
        said, _ = self.master.communicate(timeout=60)
        assert self.out.exists(), said
        return json.loads(self.out.read_text())


def test_two_workers_share_one_rate_and_the_master_adds_it_up(bad, tmp_path):
    stages = [{"seconds": 1, "rate": 100}, {"seconds": 1, "rate": 200}]
    fields = {"users": 10, "arrival": "constant", "idle_holders": 4, "expect_length": 45}
    with Fleet(bad.url, tmp_path, path="/ok", stages=stages, **fields) as fleet:
        run = fleet.run()
    counts, row = bad.counts(), run["row"]
    assert row["requests"] == pytest.approx(300, abs=3) and row["ended"] == "duration"
    assert set(json.loads(row["errors"])) <= {"unsent"}
    good = row["requests"] - row["failures"]
    # The idle holders asked once each.
    assert run["background"]["idle opened"] == run["background"]["idle answered"] == 4
    assert counts["GET /ok HTTP/1.1"] == good + 4
    assert sum(count for _, count in run["histogram"]) == good
    assert sum(count for slot in run["seconds"] for _, count in slot["histogram"]) == good
    assert [slot["load"] for slot in run["stages"]] == [100, 200]
    assert 0 < row["p50_ms"] <= row["p9999_ms"] and row["qps"] > 0


def test_a_killed_worker_ends_nothing_and_is_reported(bad, tmp_path):
    mix = [{"path": "/ok"}, {"path": "/ok", "method": "HEAD"}]
    fields = {"users": 4, "duration": 6, "think_time": 0.01, "mix": mix}
    with Fleet(bad.url, tmp_path, **fields) as fleet:
        wait_for_load(bad, "GET /ok HTTP/1.1", requests=200)  # both have sent a report by then
        os.killpg(fleet.workers[0].pid, signal.SIGKILL)
        run = fleet.run()
    assert run["row"]["ended"].endswith("; what they did last is lost")
    good = sum(count for _, count in run["histogram"])
    # The dead one's, too.
    assert sum(count for _, count in run["paths"]["/ok"]) == good > 100


def asked(url: str, **form: str) -> dict:
    """Locust's page, asked as its own buttons do."""
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        return json.load(answer)


def test_locusts_own_page_starts_the_load_as_often_as_one_likes(bad):
    (port,) = free_ports(1)
    page = f"http://127.0.0.1:{port}"
    profile = '{"path":"/ok","requests":60,"keep_alive":true}'
    options = f"--web-host 127.0.0.1 --web-port {port} --load-profile {profile}"
    with locust(options) as process:
        try:
            came = 0

            def started() -> bool:
                with contextlib.suppress(OSError):
                    asked(page + "/swarm", user_count="3", spawn_rate="3", host=bad.url)
                    return True
                return False

            def done() -> bool:
                """The page still says "stopped" when it has just been asked to start."""
                nonlocal came
                came += bad.counts().get("GET /ok HTTP/1.1", 0)
                return came >= 60 and asked(page + "/stats/requests")["state"] == "stopped"

            for _ in range(2):
                came = 0
                poll_until(started, "the page", 20)
                poll_until(done, "60 requests and the end", 20)
                seen = asked(page + "/stats/requests")["stats"][0]
                assert (came, seen["name"], seen["num_requests"]) == (60, "/ok", 60)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            said, _ = process.communicate(timeout=20)
    assert said.count("60 good answers") == 2


def test_a_load_goes_to_another_host_only_if_it_is_named():
    """A network of the test's own, whose address is not loopback."""
    program = """
import http.server, os, threading
from mpmkit.load.runner import run_load
server = http.server.ThreadingHTTPServer(("10.77.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.RequestHandlerClass.log_message = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
how = {"users": 4, "requests": 60, "processes": 2}
url = f"http://10.77.0.1:{server.server_port}"
try:
    run_load(url, **how)
except ValueError as error:
    print("name as yours in MPMKIT_TARGETS" in str(error))
os.environ["MPMKIT_TARGETS"] = "10.77.0.1"
run = run_load(url, **how)
print(run.requests, run.failures)
"""
    assert in_a_network("ip addr add 10.77.0.1/24 dev lo", program).split() == ["True", "60", "0"]
