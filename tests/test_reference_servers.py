"""httpd, nginx and Python's servers: they serve, have the settings asked for, end, and say what is wrong."""

import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
from support.calls import refused
from support.client import Client, Reply
from support.files import tree
from support.servers import environment
from support.waiting import poll_until

import mpmkit
from benchmarks.nginx import Nginx
from benchmarks.python_servers import Fastpysgi, Granian, Gunicorn, Uvicorn, Waitress
from mpmkit.measure import competitors, experiment, procfs, reference_servers
from mpmkit.measure.reference_servers import Httpd, NotInstalled, ServerFailed

ROOT = Path(mpmkit.__file__).parent / "htdocs"
PAGE = (ROOT / "index.html").read_bytes()
MPMS = mpmkit.MPMS
PYTHON_SERVERS = {
    "gunicorn sync": partial(Gunicorn, "sync"), "gunicorn gthread": partial(Gunicorn, "gthread"),
    "uvicorn": Uvicorn, "waitress": Waitress, "granian": Granian, "fastpysgi": Fastpysgi,
}  # fmt: skip
SMALL = {"ThreadsPerChild": 4, "MaxRequestWorkers": 8}


@pytest.fixture
def pages():
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        Path(name).chmod(0o755)
        yield tree(Path(name), {"index.html": PAGE, "hello.php": '<?php echo "hello world";'})


def made(build, *given, **how):
    """The server, or a skip that says what is missing."""
    try:
        return build(*given, **how)
    except NotInstalled as missing:
        pytest.skip(str(missing))


def python_server(name: str, **how):
    return made(PYTHON_SERVERS[name], document_root=ROOT, **how)


def page(server, path: str = "/index.html", *lines: str) -> Reply:
    with Client(server) as client:
        return client.get(path, *lines)


def logged(server, line: str) -> bool:
    return poll_until(lambda: line in (server.root / "access_log").read_text(), line)


@pytest.mark.rival
@pytest.mark.parametrize("mpm", MPMS)
def test_httpd_serves_the_page_and_leaves_no_process(mpm, pages):
    directives = {"StartServers": 2, "MaxKeepAliveRequests": 7, "KeepAliveTimeout": 3}
    with made(Httpd, mpm, document_root=pages, KeepAlive=True, **directives) as httpd:
        reply = page(httpd, "/index.html", "Connection: keep-alive")
        assert (reply.status, reply.body) == (200, PAGE) and reply["Server"].startswith("Apache")
        assert reply["Keep-Alive"] == "timeout=3, max=7"
        poll_until(lambda: len(httpd.processes()) >= 3, "the parent and two children")
        group = httpd.processes()
        assert group[0] == httpd.pid
        assert logged(httpd, f'"GET /index.html HTTP/1.1" 200 {len(PAGE)}')
        directory = httpd.root
        binary, conf = httpd._binary, str(directory / "server.conf")
        assert f"Server MPM:     {mpm}" in reference_servers.output(binary, "-f", conf, "-V")
        assert httpd.version.startswith("Apache/2")
        refused(ServerFailed, "already running", httpd.start)
    assert not directory.exists() and not procfs.members(httpd.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)
    httpd.stop()  # once more does no harm


@pytest.mark.rival
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a server under another user")
def test_a_document_root_closed_to_the_servers_user_is_served_all_the_same(pages):
    pages.chmod(0o700)
    (pages / "index.html").chmod(0o600)
    with made(Httpd, "prefork", document_root=pages, php=True, access_log=False) as httpd:
        assert page(httpd).body == PAGE and not (httpd.root / "access_log").exists()
        reply = page(httpd, "/hello.php")
        assert (reply.status, reply.body) == (200, b"hello world")


@pytest.mark.rival
def test_nginx_serves_the_page_with_the_directives_counterparts(pages):
    directives = {"KeepAliveTimeout": 3, "MaxKeepAliveRequests": 2, "MaxRequestWorkers": 400}
    nginx = made(Nginx, document_root=pages, KeepAlive=True, workers=1, **directives)
    with nginx, Nginx(document_root=pages, KeepAlive=False, workers=1) as closing:
        with Client(nginx) as client:
            answers = [client.get("/") for _ in range(3)]
        assert [(one.status, one.body) for one in answers] == [(200, PAGE)] * 3
        assert [one["Connection"] for one in answers] == ["keep-alive", "keep-alive", "close"]
        assert logged(nginx, 'GET / HTTP/1.1" 200') and nginx.version.startswith("nginx/")
        assert closing.port != nginx.port and page(closing)["Connection"] == "close"
        group = nginx.processes()
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)


@pytest.mark.rival
def test_a_child_that_ignores_term_is_killed(pages, monkeypatch):
    httpd = made(Httpd, "prefork", document_root=pages, StartServers=1)
    monkeypatch.setattr(httpd, "stop_within", 0.2)
    httpd.start()
    os.kill(httpd.pid, signal.SIGSTOP)  # it will not hear TERM
    httpd.stop()
    assert not procfs.members(httpd.pid)


@pytest.mark.rival
def test_a_killed_interpreter_leaves_no_server(pages):
    made(Httpd, "event", document_root=pages)
    program = f"""import time
from mpmkit.measure.reference_servers import Httpd
httpd = Httpd('event', document_root={str(pages)!r}).start()
print(httpd.pid, httpd.root, flush=True), time.sleep(60)"""
    pipe = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen([sys.executable, "-c", program], **pipe) as child:
        pid, directory = child.stdout.readline().split()
        assert procfs.members(int(pid))
        child.kill()
    poll_until(lambda: not procfs.members(int(pid)), cap=8, what="the guard ends the group")
    subprocess.run(["rm", "-rf", directory], check=True)  # no process was left to remove it


@pytest.mark.rival
@pytest.mark.parametrize("name", PYTHON_SERVERS)
def test_a_python_server_serves_page_and_script_and_leaves_no_process(name):
    with python_server(name, **SMALL, KeepAlive=True, KeepAliveTimeout=3) as server:
        paths = ("/index.html", "/hello.py", "/../secret")
        static, script, none = (page(server, path) for path in paths)
        assert (static.status, static.body) == (200, PAGE)
        st = (ROOT / "index.html").stat()
        assert static["ETag"].endswith(f'"{st.st_size:x}-{st.st_mtime_ns // 1000:x}"')
        for field in ("Date", "Server", "Last-Modified", "Accept-Ranges", "Content-Length"):
            assert static[field], field
        assert static["Content-Type"] == script["Content-Type"] == "text/html"
        assert (script.status, script.body) == (200, b"hello world") and none.status == 404
        with Client(server) as client:
            assert client.get("/index.html").closes == (server.name == "gunicorn sync")
        assert logged(server, '"GET /index.html HTTP/1.1" 200')
        group, directory = server.processes(), server.root
        assert server.version.startswith(server.package)
        assert not (directory / "error_log").exists() or not (directory / "error_log").read_text()
    assert not directory.exists() and group and not procfs.members(group[0])


@pytest.mark.rival
def test_processes_and_threads_are_those_asked_for():
    how = {**SMALL, "KeepAlive": False, "access_log": False}
    with python_server("gunicorn gthread", processes=2, **how) as gthread:
        settings = (gthread.root / "gunicorn.conf.py").read_text()
        assert "workers = 2\n" in settings and "threads = 4\n" in settings
        poll_until(lambda: len(gthread.processes()) == 3)
        with Client(gthread) as client:
            assert client.get("/index.html", close=True).body == PAGE
            client.ended(10)
        assert not (gthread.root / "access_log").exists()
    cores = len(os.sched_getaffinity(0))
    sync = python_server("gunicorn sync", MaxRequestWorkers=250, ListenBacklog=77)
    assert f"workers = {min(250, 2 * cores + 1)}\n" in sync._configuration()
    assert "backlog = 77\n" in sync._configuration()


@pytest.mark.rival
def test_a_server_that_refuses_its_settings_is_cited(pages, monkeypatch):
    httpd = made(Httpd, "prefork", document_root=pages, ThreadsPerChild=25)
    refused(ServerFailed, "Invalid command 'ThreadsPerChild'", httpd.start)
    broken = python_server("gunicorn sync")
    monkeypatch.setattr(type(broken), "_configuration", lambda self: "workers = 'many'\n")
    refused(ServerFailed, "many", broken.start)
    assert not procfs.members(httpd.pid) and not procfs.members(broken.pid)


def test_a_missing_program_is_named_with_its_package(pages, monkeypatch):
    monkeypatch.setattr(reference_servers.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    for build, said in (
        (partial(Httpd, "event"), r"Apache httpd .* installed; apt install"),
        (Nginx, "nginx is not installed; apt install"),
        (Waitress, r"waitress is not installed; pip install 'mpmkit\["),
    ):
        refused(NotInstalled, said, build, document_root=pages)
    here, missing = experiment.installed(competitors.of(("httpd", "waitress")))
    assert here == [] and len(missing) == 2, "each is named once"
    assert missing[0].startswith("without httpd: Apache httpd") and "apt install" in missing[0]
    assert missing[1].startswith("without waitress: waitress is not installed; pip install")


@pytest.mark.parametrize(("build", "error", "said"), [
    (lambda at: Httpd("event", document_root=at, modules=["no_such"]), NotInstalled, "httpd's module no_such"),
    (lambda at: Httpd("threads", document_root=at), ValueError, "choose prefork, worker or"),
    (lambda at: Httpd("event", document_root=at, php=True), ValueError, "prefork only"),
    (lambda at: Httpd("event", document_root=at / "nowhere").start(), FileNotFoundError, "nowhere"),
    (lambda at: Gunicorn("eventlet", document_root=at), ValueError, "no workers 'eventlet'; choose sync or"),
])  # fmt: skip
def test_wrong_use_is_refused_before_anything_starts(pages, build, error, said):
    made(Httpd, "event", document_root=pages), made(Gunicorn, "sync", document_root=pages)
    refused(error, said, build, pages)


@pytest.mark.parametrize(("mpms", "names", "expected"), [
    (MPMS, "httpd gunicorn uvicorn waitress granian fastpysgi nginx",
     "httpd:prefork:prefork httpd:worker:worker httpd:event:event gunicorn-sync::prefork "
     "gunicorn-gthread::worker uvicorn::event waitress::worker granian::worker fastpysgi::event nginx::event"),
    (["event"], "gunicorn gunicorn", "gunicorn-gthread::event"), (["prefork"], "uvicorn", "uvicorn::prefork"),
])  # fmt: skip
def test_competitors_of_each_mpm(mpms, names, expected):
    found = competitors.of(names.split(), mpms)
    assert [f"{one.server}:{one.mpm}:{one.stands_for}" for one in found] == expected.split()
