"""gunicorn, uvicorn and waitress beside ours: the same answers, the settings asked for, no process left."""

from __future__ import annotations

import http.client
import os
import time
from pathlib import Path

import pytest
from test_rivals import get, logged, made

import mpmkit
from benchmarks.python_servers import Gunicorn, Uvicorn, Waitress
from mpmkit.measure import competitors, procfs, reference_servers
from mpmkit.measure.reference_servers import NotInstalled, RivalFailed

ROOT = Path(mpmkit.__file__).parent / "htdocs"
PAGE = (ROOT / "index.html").read_bytes()
MAKERS = {
    "gunicorn sync": lambda **how: Gunicorn("sync", document_root=ROOT, **how),
    "gunicorn gthread": lambda **how: Gunicorn("gthread", document_root=ROOT, **how),
    "uvicorn": lambda **how: Uvicorn(document_root=ROOT, **how),
    "waitress": lambda **how: Waitress(document_root=ROOT, **how),
}
SMALL = {"ThreadsPerChild": 4, "MaxRequestWorkers": 8}


@pytest.fixture(params=MAKERS)
def make(request):
    return lambda **how: made(lambda: MAKERS[request.param](**{**SMALL, **how}))


def ask(connection: http.client.HTTPConnection, path: str):
    connection.request("GET", path)
    response = connection.getresponse()
    response.content = response.read()
    return response


def connect(peer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", peer.port, timeout=5)


@pytest.mark.rival
def test_a_peer_serves_page_and_script_and_leaves_no_process(make):
    with make(KeepAlive=True, KeepAliveTimeout=3) as peer:
        page, script, none = (
            get(peer.url, path) for path in ("/index.html", "/hello.py", "/../secret")
        )
        assert (page.status, page.content) == (200, PAGE)
        st = (ROOT / "index.html").stat()
        assert page.headers["ETag"].endswith(f'"{st.st_size:x}-{st.st_mtime_ns // 1000:x}"')
        for name in ("Date", "Server", "Last-Modified", "Accept-Ranges", "Content-Length"):
            assert page.headers[name], name
        assert page.headers["Content-Type"] == script.headers["Content-Type"] == "text/html"
        assert (script.status, script.content) == (200, b"hello world")
        assert none.status == 404
        kept = connect(peer)
        for _ in range(2):
            closes = ask(kept, "/index.html").headers["Connection"] == "close"
        kept.close()
        assert closes == (peer.name == "gunicorn sync")
        deadline = time.monotonic() + 3
        while "/index.html" not in logged(peer) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert '"GET /index.html HTTP/1.1" 200' in logged(peer)
        group, directory = peer.processes(), peer.root
        assert peer.version.startswith(peer.package)
        assert not (directory / "error_log").exists() or not (directory / "error_log").read_text()
    assert not directory.exists()
    assert group and not procfs.members(group[0])


@pytest.mark.rival
def test_without_keep_alive_and_log(make):
    with make(KeepAlive=False, access_log=False) as peer:
        connection = connect(peer)
        connection.request("GET", "/index.html", headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.read() == PAGE and connection.sock is None  # the server closed
        assert not (peer.root / "access_log").exists()


@pytest.mark.rival
def test_processes_and_threads_are_those_asked_for():
    gthread = made(lambda: MAKERS["gunicorn gthread"](processes=2, **SMALL))
    with gthread:
        settings = (gthread.root / "gunicorn.conf.py").read_text()
        assert "workers = 2\n" in settings and "threads = 4\n" in settings
        deadline = time.monotonic() + 5
        while len(gthread.processes()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(gthread.processes()) == 3
    cores = len(os.sched_getaffinity(0))
    sync = made(lambda: MAKERS["gunicorn sync"](MaxRequestWorkers=250, ListenBacklog=77))
    assert f"workers = {min(250, 2 * cores + 1)}\n" in sync._configuration()
    assert "backlog = 77\n" in sync._configuration()


@pytest.mark.rival
def test_a_peer_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = made(lambda: MAKERS["gunicorn sync"]())
    monkeypatch.setattr(type(broken), "_configuration", lambda self: "workers = 'many'\n")
    with pytest.raises(RivalFailed, match="many"):
        broken.start()
    assert not procfs.members(broken.pid)


def test_unknown_workers_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ValueError, match="no workers 'eventlet'; choose sync or gthread"):
        made(lambda: Gunicorn("eventlet", document_root=ROOT))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(NotInstalled, match=r"waitress is not installed; pip install 'mpmkit\[riv"):
        Waitress(document_root=ROOT)


# -- who stands beside whom ----------------------------------------------------------------------


def test_contestants_of_each_mpm():
    def named(mpms, names=("httpd", *competitors.FORMS)):
        return [
            (one.server, one.mpm, one.stands_for) for one in competitors.of(names, mpms)
        ]

    assert named(("prefork", "worker", "event")) == [
        ("httpd", "prefork", "prefork"),
        ("httpd", "worker", "worker"),
        ("httpd", "event", "event"),
        ("nginx", "", "event"),
        ("gunicorn-sync", "", "prefork"),
        ("gunicorn-gthread", "", "worker"),
        ("uvicorn", "", "event"),
        ("waitress", "", "worker"),
    ]
    assert named(("event",), ("gunicorn", "gunicorn")) == [("gunicorn-gthread", "", "event")]
    assert named(("prefork",), ("uvicorn",)) == [("uvicorn", "", "prefork")]


def test_missing_rivals_are_named_once(monkeypatch):
    wanted = competitors.of(("httpd", "waitress"))
    monkeypatch.setattr(reference_servers.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    here, missing = competitors.installed(wanted)
    assert here == [] and len(missing) == 2
    assert missing[0].startswith("without httpd: Apache httpd") and "apt install" in missing[0]
    assert missing[1].startswith("without waitress: waitress is not installed; pip install")
