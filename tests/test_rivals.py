"""The real httpd and nginx as context managers: they serve, they end, they say what is wrong."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mpmkit.measure import procfs, reference_servers
from mpmkit.measure.reference_servers import Httpd, Nginx, NotInstalled, RivalFailed

PAGE = b"<html><body><h1>It works!</h1></body></html>\n"
pytestmark = pytest.mark.rival


@pytest.fixture
def pages():
    """A document root that every user may read."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "index.html").write_bytes(PAGE)
        (root / "hello.php").write_text('<?php echo "hello world";')
        yield root


def made(build):
    """The rival, or a skip that says what is missing."""
    try:
        return build()
    except NotInstalled as missing:
        pytest.skip(str(missing))


def get(url: str, path: str = "/index.html", headers=()) -> http.client.HTTPResponse:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        response.content = response.read()
        return response
    finally:
        connection.close()


@pytest.mark.parametrize("mpm", reference_servers.MPMS)
def test_httpd_serves_the_page_and_leaves_no_process(mpm, pages):
    directives = {
        "StartServers": 2,
        "KeepAlive": True,
        "MaxKeepAliveRequests": 7,
        "KeepAliveTimeout": 3,
    }
    httpd = made(lambda: Httpd(mpm, document_root=pages, **directives))
    with httpd:
        response = get(httpd.url)
        assert (response.status, response.content) == (200, PAGE)
        assert response.headers["Server"].startswith("Apache")
        kept = get(httpd.url, headers={"Connection": "keep-alive"})
        assert kept.headers["Keep-Alive"] == "timeout=3, max=7"
        group = httpd.processes()
        assert group[0] == httpd.pid and len(group) >= 3
        assert f'"GET /index.html HTTP/1.1" 200 {len(PAGE)}' in logged(httpd)
        directory = httpd.root
    assert not directory.exists()
    assert not procfs.members(httpd.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)
    httpd.stop()  # once more does no harm


def logged(rival) -> str:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        text = (rival.root / "access_log").read_text()
        if text:
            return text
        time.sleep(0.02)
    return ""


@pytest.mark.parametrize("mpm", reference_servers.MPMS)
def test_httpd_runs_the_mpm_asked_for(mpm, pages):
    httpd = made(lambda: Httpd(mpm, document_root=pages))
    with httpd:
        told = subprocess.run(
            [httpd._binary, "-f", str(httpd.root / "server.conf"), "-V"],
            capture_output=True,
            text=True,
        ).stdout
    assert f"Server MPM:     {mpm}" in told
    assert httpd.version.startswith("Apache/2")


def test_mod_php_says_hello(pages):
    httpd = made(lambda: Httpd("prefork", document_root=pages, php=True))
    with httpd:
        response = get(httpd.url, "/hello.php")
    assert (response.status, response.content) == (200, b"hello world")


def test_nginx_serves_the_page_with_the_directives_counterparts(pages):
    nginx = made(
        lambda: Nginx(
            document_root=pages,
            KeepAlive=True,
            KeepAliveTimeout=3,
            MaxKeepAliveRequests=2,
            MaxRequestWorkers=400,
            workers=1,
        )
    )
    with nginx:
        host = nginx.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=5)
        answers = []
        for _ in range(3):
            connection.request("GET", "/")
            response = connection.getresponse()
            answers.append((response.status, response.read(), response.headers["Connection"]))
        connection.close()
        assert answers == [(200, PAGE, "keep-alive")] * 2 + [(200, PAGE, "close")]
        assert 'GET / HTTP/1.1" 200' in logged(nginx)
        assert nginx.version.startswith("nginx/")
        group = nginx.processes()
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)


def test_nginx_without_keep_alive_closes(pages):
    nginx = made(lambda: Nginx(document_root=pages, KeepAlive=False, workers=1))
    with nginx:
        assert get(nginx.url).headers["Connection"] == "close"


def test_two_rivals_run_beside_each_other(pages):
    first = made(lambda: Httpd("event", document_root=pages, access_log=False))
    second = made(lambda: Httpd("worker", document_root=pages))
    with first, second:
        assert first.port != second.port
        assert get(first.url).content == get(second.url).content == PAGE
        assert not (first.root / "access_log").exists()


def test_a_refused_directive_is_told_in_httpds_words(pages):
    httpd = made(lambda: Httpd("prefork", document_root=pages, ThreadsPerChild=25))
    with pytest.raises(RivalFailed, match="Invalid command 'ThreadsPerChild'"):
        httpd.start()
    assert not procfs.members(httpd.pid)


def test_a_child_that_ignores_term_is_killed(pages, monkeypatch):
    httpd = made(lambda: Httpd("prefork", document_root=pages, StartServers=1))
    monkeypatch.setattr(httpd, "stop_within", 0.2)
    httpd.start()
    os.kill(httpd.pid, signal.SIGSTOP)  # it will not hear TERM
    group = httpd.processes()
    httpd.stop()
    assert not any(pid in procfs.members(httpd.pid) for pid in group)


def test_a_killed_interpreter_leaves_no_rival(pages):
    made(lambda: Httpd("event", document_root=pages))
    program = (
        "import time\nfrom mpmkit.measure.reference_servers import Httpd\n"
        f"httpd = Httpd('event', document_root={str(pages)!r}).start()\n"
        "print(httpd.pid, httpd.root, flush=True)\ntime.sleep(60)\n"
    )
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    with child:
        pid, directory = child.stdout.readline().split()
        assert procfs.members(int(pid))
        child.kill()
    deadline = time.monotonic() + 8
    while procfs.members(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not procfs.members(int(pid))
    subprocess.run(["rm", "-rf", directory], check=True)  # nobody was left to remove it


def test_a_missing_program_is_named_with_its_package(pages, monkeypatch):
    monkeypatch.setattr(reference_servers.shutil, "which", lambda *_, **__: None)
    with pytest.raises(NotInstalled, match=r"Apache httpd .* is not installed; apt install"):
        Httpd("event", document_root=pages)
    with pytest.raises(NotInstalled, match="nginx is not installed; apt install"):
        Nginx(document_root=pages)


def test_a_missing_module_is_named(pages):
    made(lambda: Httpd("event", document_root=pages))
    with pytest.raises(NotInstalled, match="httpd's module no_such"):
        Httpd("event", document_root=pages, modules=["no_such"])


def test_wrong_use_is_refused_before_anything_starts(pages):
    with pytest.raises(ValueError, match="choose prefork, worker or event"):
        Httpd("threads", document_root=pages)
    with pytest.raises(ValueError, match="prefork only"):
        Httpd("event", document_root=pages, php=True)


def test_a_document_root_that_is_not_there(tmp_path):
    httpd = made(lambda: Httpd("event", document_root=tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        httpd.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the rival under another user")
def test_a_document_root_closed_to_the_rivals_user_is_served_all_the_same(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "index.html").write_bytes(PAGE)
    (closed / "index.html").chmod(0o600)
    httpd = made(lambda: Httpd("event", document_root=closed))
    with httpd:
        assert get(httpd.url).content == PAGE


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("KeepAlive", True, "KeepAlive On"),
        ("KeepAlive", False, "KeepAlive Off"),
        ("KeepAliveTimeout", 0.5, "KeepAliveTimeout 500ms"),
        ("KeepAliveTimeout", 5.0, "KeepAliveTimeout 5"),
        ("AsyncRequestWorkerFactor", 1.5, "AsyncRequestWorkerFactor 1.5"),
        ("MaxRequestWorkers", 400, "MaxRequestWorkers 400"),
    ],
)
def test_directives_are_written_as_httpd_reads_them(name, value, line):
    assert reference_servers.directive_lines({name: value}) == [line]


def test_repeated_and_absent_directives():
    assert reference_servers.directive_lines({"AddType": ["a .b", "c .d"], "Timeout": None}) == [
        "AddType a .b",
        "AddType c .d",
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "5000ms"),
        ("5", "5000ms"),
        (0.5, "500ms"),
        ("500ms", "500ms"),
        ("2min", "120000ms"),
        ("1h", "3600000ms"),
        ("3s", "3000ms"),
    ],
)
def test_durations_for_nginx(value, told):
    assert reference_servers.nginx_seconds(value) == told


def test_a_duration_nginx_could_not_read():
    with pytest.raises(ValueError, match="is not a duration"):
        reference_servers.nginx_seconds("soon")
