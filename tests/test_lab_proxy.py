"""The link from the reader's browser to a server: on the own machine, and behind a hub's proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.waiting import poll_until

import mpmkit
from mpmkit.lab import proxy

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "JUPYTERHUB_SERVICE_PREFIX"


@pytest.fixture
def server():
    with mpmkit.launch("event", StartServers=1, MinSpareThreads=1) as running:
        yield running


def test_locally_the_link_is_the_servers_own(server, monkeypatch):
    monkeypatch.delenv(PREFIX, raising=False)
    link = proxy.status_link(server)
    assert link == f"{server.url}/server-status"
    with urllib.request.urlopen(link, timeout=5) as page:
        assert b"Server Version" in page.read()
    assert f'href="{link}"' in link._repr_html_()


def test_behind_a_hub_the_link_leads_through_the_proxy(server, monkeypatch):
    monkeypatch.setenv(PREFIX, "/user/ann/")
    assert proxy.status_link(server) == f"/user/ann/proxy/{server.port}/server-status"
    assert proxy.status_link(server, "/a?b=1&c=2")._repr_html_().count("&amp;") == 2


def test_behind_a_hub_without_the_proxy_it_says_what_to_install(server, monkeypatch):
    monkeypatch.setenv(PREFIX, "/user/ann/")
    monkeypatch.setattr(proxy, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="pip install jupyter-server-proxy"):
        proxy.status_link(server)


def test_a_path_without_slash_and_an_ended_server_are_told(server):
    with pytest.raises(ValueError, match=r"try '/index\.html'"):
        proxy.status_link(server, "index.html")
    server.stop()
    with pytest.raises(ValueError, match="event server has ended"):
        proxy.status_link(server)


@pytest.mark.timeout(90)
def test_the_proxied_link_opens_the_status_page(server, monkeypatch, tmp_path):
    """A real Jupyter under the same prefix, with its proxy extension."""
    pytest.importorskip("jupyter_server_proxy", reason="jupyter-server-proxy is not installed")
    monkeypatch.setenv(PREFIX, "/user/ann/")
    link = proxy.status_link(server)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(tmp_path / "log", "wb") as log:
        jupyter = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyter_server",
                "--no-browser",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                "--IdentityProvider.token=",
                "--ServerApp.password=",
                "--ServerApp.allow_root=True",
                "--ServerApp.base_url=/user/ann/",
                f"--ServerApp.root_dir={tmp_path}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
    try:

        def answers() -> bool:
            assert jupyter.poll() is None, (tmp_path / "log").read_text()[-2000:]
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/user/ann/api", timeout=2).close()
                return True
            return False

        poll_until(answers, lambda: (tmp_path / "log").read_text()[-2000:], 40)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{link}", timeout=10) as page:
            assert b"Server Version" in page.read()
    finally:
        jupyter.send_signal(signal.SIGTERM)
        try:
            jupyter.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(jupyter.pid, signal.SIGKILL)
            jupyter.wait()


@pytest.mark.timeout(60)
def test_repo2docker_can_read_the_binder_folder():
    program = shutil.which("jupyter-repo2docker") or shutil.which(
        "jupyter-repo2docker", path=str(Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("jupyter-repo2docker is not installed: pip install jupyter-repo2docker")
    done = subprocess.run(
        [program, "--no-build", "--debug", "."],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout + done.stderr
    assert "apache2-utils" in told and "postBuild" in told
