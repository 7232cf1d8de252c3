"""Load from several generator processes by Locust's own means: a master and its workers.

On loopback, as two machines would do it over a network; and in network namespaces of the test's
own, where there are really two hosts, where the system lets us make some.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from misbehaving import Misbehaving
from support.loads import ENVIRON, LOCUST, ROOT, argv, wait_for_load
from support.waiting import poll_until

from mpmkit.load import runner
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import LoadRun


@pytest.fixture
def bad():
    with Misbehaving() as server:
        yield server


def locust(options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv(f"{LOCUST} --only-summary {options}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRON,
        start_new_session=True,
    )


class Fleet:
    """A master and two workers, all gone at the end; `run` once the master has ended."""

    def __init__(self, url: str, profile: LoadProfile, folder: Path) -> None:
        port = free_port()
        (folder / "profile.json").write_text(profile.to_json())
        self.out = folder / "run.json"
        bind = f"--master-bind-host 127.0.0.1 --master-bind-port {port}"
        files = f"--load-profile @{folder / 'profile.json'} --load-results {self.out}"
        self.master = locust(f"--headless --master --expect-workers 2 {bind} --host {url} {files}")
        worker = f"--headless --worker --master-host 127.0.0.1 --master-port {port}"
        self.workers = [locust(worker) for _ in range(2)]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.master):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self) -> LoadRun:
        said, _ = self.master.communicate(timeout=60)
        assert self.out.exists(), said
        return LoadRun.from_json(self.out.read_text())


def test_two_workers_share_the_work_and_the_master_adds_it_up(bad, tmp_path):
    profile = LoadProfile(
        path="/ok", users=7, requests=501, keep_alive=True, idle_holders=4, expect_length=45
    )
    with Fleet(bad.url, profile, tmp_path) as fleet:
        run = fleet.run()
    counts = bad.counts()
    assert (run.requests, run.failures, run.ended) == (501, 0, "requests")
    # The idle holders asked once each; each worker knows its share of the 501.
    assert counts["GET /ok HTTP/1.1"] == 501 + run.background["idle answered"]
    assert run.background["idle opened"] == 4
    assert len(run.histogram) == 501 and len(run.processes_cpu) == 2
    assert 0 < run.latency_ms(50) <= run.latency_ms(99.99) and run.qps > 0
    assert sum(slot.requests for slot in run.seconds) == 501


def test_an_open_loop_is_one_rate_over_all_workers(bad, tmp_path):
    profile = LoadProfile(
        path="/ok",
        users=10,
        keep_alive=True,
        arrival="constant",
        stages=[{"seconds": 1, "rate": 100}, {"seconds": 1, "rate": 200}],
    )
    with Fleet(bad.url, profile, tmp_path) as fleet:
        run = fleet.run()
    assert run.requests == pytest.approx(300, abs=3) and run.ended == "duration"
    assert run.succeeded + run.errors["unsent"] == run.requests
    assert [slot.load for slot in run.stages] == [100, 200]


def test_a_killed_worker_ends_nothing_and_is_told(bad, tmp_path):
    profile = LoadProfile(
        users=4,
        duration=7,
        think_time=0.01,
        keep_alive=True,
        mix=[{"path": "/ok"}, {"path": "/ok", "method": "HEAD"}],
    )
    with Fleet(bad.url, profile, tmp_path) as fleet:
        wait_for_load(bad, "GET /ok HTTP/1.1", requests=200)  # both have sent a report by then
        os.killpg(fleet.workers[0].pid, signal.SIGKILL)
        run = fleet.run()
    assert run.ended.endswith("; what they did last is lost") and not run.complete
    assert run.succeeded > 100 and len(run.processes_cpu) == 2
    assert sum(len(found) for found in run.paths.values()) == run.succeeded  # the dead one's, too


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asked(url: str, **form: str) -> dict:
    """Locust's page, asked as its own buttons do."""
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        return json.load(answer)


def test_locusts_own_page_starts_the_load_as_often_as_one_likes(bad):
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    options = f"--web-host 127.0.0.1 --web-port {port} --path /ok --requests 60 --keep-alive"
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
                told = asked(page + "/stats/requests")["stats"][0]
                assert (came, told["name"], told["num_requests"]) == (60, "/ok", 60)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            said, _ = process.communicate(timeout=20)
    assert said.count("60 good answers") == 2


def namespaces() -> str:
    """Why there are no network namespaces to be made here, or nothing."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "no ip or unshare here"
    script = (
        "mount -t tmpfs none /run && mkdir -p /run/netns && ip netns add a && "
        "ip link add x type veth peer name y netns a"
    )
    tried = subprocess.run(
        ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", script], capture_output=True
    )
    return tried.stderr.decode().strip() if tried.returncode else ""


HOSTS = """
set -e
mount -t tmpfs none /run
mkdir -p /run/netns
ip link set lo up
ip netns add far
ip link add near type veth peer name far netns far
ip addr add 10.77.0.1/24 dev near
ip link set near up
ip -n far addr add 10.77.0.2/24 dev far
ip -n far link set far up
ip -n far link set lo up
exec "$0" -c "$1"
"""

TWO_HOSTS = """
import os, subprocess, sys, time, urllib.request
sys.path[:0] = [{root!r}, {tests!r}]
locust = [sys.executable, "-m", "locust", "-f", {locustfile!r}, "--headless", "--only-summary"]
server = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "10.77.0.1", "8080",
                           "--protocol", "HTTP/1.1", "--directory", {pages!r}],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
far = ["ip", "netns", "exec", "far"]
try:
    for _ in range(100):
        try:
            urllib.request.urlopen("http://10.77.0.1:8080/index.html").read()
            break
        except OSError:
            time.sleep(0.1)
    def go(**environ):
        master = subprocess.Popen([*far, *locust, "--master", "--expect-workers", "1",
            "--master-bind-host", "10.77.0.2", "--host", "http://10.77.0.1:8080", "--path",
            "/index.html", "--requests", "60", "-u", "3", "-r", "3", "--load-results", {out!r}],
            env={{**os.environ, **environ}}, stderr=subprocess.PIPE, text=True)
        worker = subprocess.Popen([*far, *locust, "--worker", "--master-host", "10.77.0.2"],
            env={{**os.environ, **environ}}, stderr=subprocess.DEVNULL)
        try:
            _, said = master.communicate(timeout=40)
        finally:
            master.kill()
            worker.kill()
            worker.wait()
        return said
    print("name as yours in MPMKIT_TARGETS" in go(), os.path.exists({out!r}))
    said = go(MPMKIT_TARGETS="10.77.0.1")
    print(os.path.exists({out!r}) or said)
finally:
    server.kill()
    server.wait()
"""


@pytest.mark.slow
def test_between_two_hosts_only_to_those_that_are_named(tmp_path):
    """Server on one host, generator on the other: refused, unless the target is named as ours."""
    lacking = namespaces()
    if lacking:
        pytest.skip(f"no network namespaces: {lacking}")
    out = tmp_path / "run.json"
    script = TWO_HOSTS.format(
        root=str(ROOT),
        tests=str(ROOT / "tests"),
        out=str(out),
        locustfile=str(runner.LOCUSTFILE),
        pages=str(ROOT / "mpmkit" / "htdocs"),
    )
    environ = {name: value for name, value in ENVIRON.items() if name != "MPMKIT_TARGETS"}
    done = subprocess.run(
        [*"unshare --map-root-user --net --mount sh -c".split(), HOSTS, sys.executable, script],
        capture_output=True,
        text=True,
        timeout=110,
        env=environ,
    )
    assert done.stdout.split() == ["True", "False", "True"], done.stdout + done.stderr
    run = LoadRun.from_json(out.read_text())
    assert (run.requests, run.failures, run.target) == (60, 0, "http://10.77.0.1:8080")
