"""The real httpd and nginx, and Python's servers as context managers: they serve, have the settings asked
for, end, and say what is wrong."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.waiting import poll_until

import mpmkit
from benchmarks.nginx import Nginx, nginx_seconds
from benchmarks.python_servers import Fastpysgi, Granian, Gunicorn, Uvicorn, Waitress
from mpmkit.measure import competitors, process_group, procfs
from mpmkit.measure.reference_servers import Httpd, NotInstalled, ServerFailed

ROOT = Path(mpmkit.__file__).parent / "htdocs"
PAGE = (ROOT / "index.html").read_bytes()
MPMS = mpmkit.MPMS
PYTHON_SERVERS = {
    "gunicorn sync": lambda **how: Gunicorn("sync", document_root=ROOT, **how),
    "gunicorn gthread": lambda **how: Gunicorn("gthread", document_root=ROOT, **how),
    "uvicorn": lambda **how: Uvicorn(document_root=ROOT, **how),
    "waitress": lambda **how: Waitress(document_root=ROOT, **how),
    "granian": lambda **how: Granian(document_root=ROOT, **how),
    "fastpysgi": lambda **how: Fastpysgi(document_root=ROOT, **how),
}
SMALL = {"ThreadsPerChild": 4, "MaxRequestWorkers": 8}


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
    """The server, or a skip that says what is missing."""
    try:
        return build()
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=PYTHON_SERVERS)
def make(request):
    return lambda **how: made(lambda: PYTHON_SERVERS[request.param](**{**SMALL, **how}))


def connect(server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)


def ask(connection, path: str = "/index.html", headers=()) -> http.client.HTTPResponse:
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    response.content = response.read()
    return response


def get(server, path: str = "/index.html", headers=()) -> http.client.HTTPResponse:
    connection = connect(server)
    try:
        return ask(connection, path, headers)
    finally:
        connection.close()


def logged(server, line: str) -> bool:
    """Whether the access log has the line, or gets it soon."""
    return poll_until(lambda: line in (server.root / "access_log").read_text(), cap=3, what=line)


# -- httpd and nginx -----------------------------------------------------------------------------


@pytest.mark.rival
@pytest.mark.parametrize("mpm", MPMS)
def test_httpd_serves_the_page_and_leaves_no_process(mpm, pages):
    directives = {"StartServers": 2, "MaxKeepAliveRequests": 7, "KeepAliveTimeout": 3}
    httpd = made(lambda: Httpd(mpm, document_root=pages, KeepAlive=True, **directives))
    with httpd:
        response = get(httpd)
        assert (response.status, response.content) == (200, PAGE)
        assert response.headers["Server"].startswith("Apache")
        kept = get(httpd, headers={"Connection": "keep-alive"})
        assert kept.headers["Keep-Alive"] == "timeout=3, max=7"
        group = httpd.processes()
        assert group[0] == httpd.pid and len(group) >= 3
        assert logged(httpd, f'"GET /index.html HTTP/1.1" 200 {len(PAGE)}')
        directory = httpd.root
        binary, conf = httpd._binary, str(directory / "server.conf")
        assert f"Server MPM:     {mpm}" in process_group.output(binary, "-f", conf, "-V")
        assert httpd.version.startswith("Apache/2")
        with pytest.raises(ServerFailed, match="already running"):
            httpd.start()
    assert not directory.exists()
    assert not procfs.members(httpd.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)
    httpd.stop()  # once more does no harm


@pytest.mark.rival
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a server under another user")
def test_a_document_root_closed_to_the_servers_user_is_served_all_the_same(pages):
    pages.chmod(0o700)
    (pages / "index.html").chmod(0o600)
    with made(lambda: Httpd("event", document_root=pages)) as httpd:
        assert get(httpd).content == PAGE


@pytest.mark.rival
def test_mod_php_says_hello(pages):
    with made(lambda: Httpd("prefork", document_root=pages, php=True)) as httpd:
        response = get(httpd, "/hello.php")
    assert (response.status, response.content) == (200, b"hello world")


@pytest.mark.rival
def test_nginx_serves_the_page_with_the_directives_counterparts(pages):
    directives = {"KeepAliveTimeout": 3, "MaxKeepAliveRequests": 2, "MaxRequestWorkers": 400}
    nginx = made(lambda: Nginx(document_root=pages, KeepAlive=True, workers=1, **directives))
    with nginx:
        connection = connect(nginx)
        answers = [ask(connection, "/") for _ in range(3)]
        connection.close()
        assert [(one.status, one.content) for one in answers] == [(200, PAGE)] * 3
        closes = [one.headers["Connection"] for one in answers]
        assert closes == ["keep-alive", "keep-alive", "close"]
        assert logged(nginx, 'GET / HTTP/1.1" 200') and nginx.version.startswith("nginx/")
        group = nginx.processes()
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)


@pytest.mark.rival
def test_two_servers_run_at_the_same_time_without_log_and_keep_alive(pages):
    first = made(lambda: Httpd("event", document_root=pages, access_log=False))
    second = made(lambda: Nginx(document_root=pages, KeepAlive=False, workers=1))
    with first, second:
        assert first.port != second.port and get(first).content == PAGE
        assert get(second).headers["Connection"] == "close"
        assert not (first.root / "access_log").exists()


@pytest.mark.rival
def test_a_child_that_ignores_term_is_killed(pages, monkeypatch):
    httpd = made(lambda: Httpd("prefork", document_root=pages, StartServers=1))
    monkeypatch.setattr(httpd, "stop_within", 0.2)
    httpd.start()
    os.kill(httpd.pid, signal.SIGSTOP)  # it will not hear TERM
    httpd.stop()
    assert not procfs.members(httpd.pid)


def test_a_group_that_does_not_end_in_time_is_named_and_its_first_process_waited_for(monkeypatch):
    """SIGKILL that does not reach the group: the message names who is left, nothing is left running."""
    program = "import os, signal, time; os.fork(); time.sleep(60)"
    group = process_group.ProcessGroup()
    monkeypatch.setattr(group, "_command", lambda file: [sys.executable, "-c", program])
    monkeypatch.setattr(group, "_is_ready", lambda: len(procfs.members(group.pid)) == 2)
    monkeypatch.setattr(process_group, "GONE_WITHIN", 0.2)
    with monkeypatch.context() as deaf:
        group.start()
        process, root = group._process, group.root
        deaf.setattr(os, "killpg", lambda *_: None)
        with pytest.raises(ServerFailed, match=r"processes \[\d+\] outlive SIGKILL"):
            group.stop()
    assert process.returncode is not None and not root.exists()
    process_group.end_group(group.pid)
    assert not procfs.members(group.pid)


@pytest.mark.rival
def test_a_killed_interpreter_leaves_no_server(pages):
    made(lambda: Httpd("event", document_root=pages))
    program = (
        "import time\nfrom mpmkit.measure.reference_servers import Httpd\n"
        f"httpd = Httpd('event', document_root={str(pages)!r}).start()\n"
        "print(httpd.pid, httpd.root, flush=True)\ntime.sleep(60)\n"
    )
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=where
    ) as child:
        pid, directory = child.stdout.readline().split()
        assert procfs.members(int(pid))
        child.kill()
    poll_until(lambda: not procfs.members(int(pid)), cap=8, what="the guard ends the group")
    subprocess.run(["rm", "-rf", directory], check=True)  # no process was left to remove it


# -- Python's servers ----------------------------------------------------------------------------


@pytest.mark.rival
def test_a_python_server_serves_page_and_script_and_leaves_no_process(make):
    with make(KeepAlive=True, KeepAliveTimeout=3) as server:
        page, script, none = (
            get(server, path) for path in ("/index.html", "/hello.py", "/../secret")
        )
        assert (page.status, page.content) == (200, PAGE)
        st = (ROOT / "index.html").stat()
        assert page.headers["ETag"].endswith(f'"{st.st_size:x}-{st.st_mtime_ns // 1000:x}"')
        for name in ("Date", "Server", "Last-Modified", "Accept-Ranges", "Content-Length"):
            assert page.headers[name], name
        assert page.headers["Content-Type"] == script.headers["Content-Type"] == "text/html"
        assert (script.status, script.content) == (200, b"hello world")
        assert none.status == 404
        kept = connect(server)
        closes = [ask(kept).headers["Connection"] == "close" for _ in range(2)]
        kept.close()
        assert closes[-1] == (server.name == "gunicorn sync")
        assert logged(server, '"GET /index.html HTTP/1.1" 200')
        group, directory = server.processes(), server.root
        assert server.version.startswith(server.package)
        assert not (directory / "error_log").exists() or not (directory / "error_log").read_text()
    assert not directory.exists()
    assert group and not procfs.members(group[0])


@pytest.mark.rival
def test_processes_and_threads_are_those_asked_for():
    how = {**SMALL, "KeepAlive": False, "access_log": False}
    with made(lambda: PYTHON_SERVERS["gunicorn gthread"](processes=2, **how)) as gthread:
        settings = (gthread.root / "gunicorn.conf.py").read_text()
        assert "workers = 2\n" in settings and "threads = 4\n" in settings
        poll_until(lambda: len(gthread.processes()) == 3)
        connection = connect(gthread)
        assert ask(connection, headers={"Connection": "close"}).content == PAGE
        assert connection.sock is None  # the server closed
        assert not (gthread.root / "access_log").exists()
    cores = len(os.sched_getaffinity(0))
    sync = made(lambda: PYTHON_SERVERS["gunicorn sync"](MaxRequestWorkers=250, ListenBacklog=77))
    assert f"workers = {min(250, 2 * cores + 1)}\n" in sync._configuration()
    assert "backlog = 77\n" in sync._configuration()


# -- what cannot start says why --------------------------------------------------------------------


@pytest.mark.rival
def test_a_server_that_refuses_its_settings_is_cited(pages, monkeypatch):
    httpd = made(lambda: Httpd("prefork", document_root=pages, ThreadsPerChild=25))
    with pytest.raises(ServerFailed, match="Invalid command 'ThreadsPerChild'"):
        httpd.start()
    broken = made(lambda: PYTHON_SERVERS["gunicorn sync"]())
    monkeypatch.setattr(type(broken), "_configuration", lambda self: "workers = 'many'\n")
    with pytest.raises(ServerFailed, match="many"):
        broken.start()
    assert not procfs.members(httpd.pid) and not procfs.members(broken.pid)


def test_a_missing_program_is_named_with_its_package(pages, monkeypatch):
    monkeypatch.setattr(process_group.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    for build, said in (
        (lambda: Httpd("event", document_root=pages), r"Apache httpd .* installed; apt install"),
        (lambda: Nginx(document_root=pages), "nginx is not installed; apt install"),
        (lambda: Waitress(document_root=ROOT), r"waitress is not installed; pip install 'mpmkit\["),
    ):
        with pytest.raises(NotInstalled, match=said):
            build()
    wanted = competitors.of(("httpd", "waitress"))
    here, missing = competitors.installed(wanted)
    assert here == [] and len(missing) == 2, "each is named once"
    assert missing[0].startswith("without httpd: Apache httpd") and "apt install" in missing[0]
    assert missing[1].startswith("without waitress: waitress is not installed; pip install")


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda at: Httpd("event", document_root=at, modules=["no_such"]), NotInstalled,
         "httpd's module no_such"),
        (lambda at: Httpd("threads", document_root=at), ValueError, "choose prefork, worker or"),
        (lambda at: Httpd("event", document_root=at, php=True), ValueError, "prefork only"),
        (lambda at: Httpd("event", document_root=at / "nowhere").start(), FileNotFoundError,
         "nowhere"),
        (lambda at: Gunicorn("eventlet", document_root=at), ValueError,
         "no workers 'eventlet'; choose sync or gthread"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_before_anything_starts(pages, build, error, said):
    made(lambda: (Httpd("event", document_root=pages), Gunicorn("sync", document_root=pages)))
    with pytest.raises(error, match=said):
        build(pages)


@pytest.mark.parametrize("given", [5, "5", 5.0, "5s", "5000ms"])
def test_durations_for_nginx(given):
    assert nginx_seconds(given) == "5000ms"
    with pytest.raises(ValueError, match="is not a duration"):
        nginx_seconds("soon")


# -- which server is compared with which -----------------------------------------------------------


@pytest.mark.parametrize(
    ("mpms", "names", "expected"),
    [
        (MPMS, ("httpd", "gunicorn", "uvicorn", "waitress", "granian", "fastpysgi", "nginx"), [
            ("httpd", "prefork", "prefork"), ("httpd", "worker", "worker"),
            ("httpd", "event", "event"), ("gunicorn-sync", "", "prefork"),
            ("gunicorn-gthread", "", "worker"), ("uvicorn", "", "event"),
            ("waitress", "", "worker"), ("granian", "", "worker"), ("fastpysgi", "", "event"),
            ("nginx", "", "event"),
        ]),
        (("event",), ("gunicorn", "gunicorn"), [("gunicorn-gthread", "", "event")]),
        (("prefork",), ("uvicorn",), [("uvicorn", "", "prefork")]),
    ],
)  # fmt: skip
def test_competitors_of_each_mpm(mpms, names, expected):
    found = [(one.server, one.mpm, one.stands_for) for one in competitors.of(names, mpms)]
    assert found == expected
