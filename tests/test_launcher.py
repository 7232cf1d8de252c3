"""`mpmkit.launch`: what a notebook gets, and what it says to wrong arguments; a kernel that is interrupted."""

import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from support.calls import refused
from support.client import Client, get, request
from support.files import Gate, conf, program, site, write
from support.servers import environment, generation, launched, pool, ran
from support.waiting import MARK, alive, all_gone, children_of, marked, nothing_left, poll_until

import mpmkit
from mpmkit import DirectiveError, LaunchError, launcher


@pytest.fixture(autouse=True)
def everything_ends():
    with nothing_left():
        yield
    assert launcher.running() == []


def test_a_launched_server_serves_the_samples(mpm):
    with mpmkit.launch(mpm) as server:
        assert server.mpm == mpm and server.url == f"http://127.0.0.1:{server.port}"
        assert server.running and alive(server.pid)
        poll_until(lambda: set(server.processes()) == set(children_of(server.pid)))
        page, script = get(server, "/"), get(server, "/hello.py")
        assert len(page.body) == 45 and script.body == b"hello world"
        assert repr(server) == f"<mpmkit {mpm} {server.url} pid {server.pid} running>"
    assert not server.running and repr(server).endswith("stopped>")


def test_directives_arrive_as_they_were_given(tmp_path):
    root = tmp_path / "a site with spaces, a 'quote', a \"double\" and a \\"
    write(root / "start page.html", "here")
    options = {
        "ThreadsPerChild": 3, "StartServers": 2, "KeepAlive": False, "MinSpareThreads": 1,
        "DirectoryIndex": "'start page.html'", "ErrorDocument": ("404", 'a "text" \\ with both'),
        "directives": ["MaxSpareThreads 99"],
    }  # fmt: skip
    with mpmkit.launch("worker", document_root=root, **options) as server:
        board = server.scoreboard()
        assert server.directives["ThreadsPerChild"] == board.threads_per_child == 3
        assert [len(line) for line in board.letters.values()] == [3, 3]
        assert get(server, "/").body == b"here"
        assert get(server, "/gone").body == b'a "text" \\ with both'


def test_a_conf_file_may_choose_the_mpm_and_directives_come_after_it(tmp_path):
    python = program(tmp_path / "python", f'#!/bin/sh\nWHICH=own exec {sys.executable} "$@"\n')
    load, root = "LoadModule mpm_worker_module x.so", f'DocumentRoot "{site()}"'
    lines = conf(load, root, "MaxKeepAliveRequests 50", "KeepAliveTimeout 9")
    more = {"directives": "MaxKeepAliveRequests 60", "python": python}
    with mpmkit.launch(conf=lines, **more) as server, Client(server) as client:
        assert server.mpm == "worker"
        assert b"\0WHICH=own\0" in Path(f"/proc/{server.pid}/environ").read_bytes()
        assert client.get("/", "Connection: keep-alive")["Keep-Alive"] == "timeout=9, max=60"


def test_logs_can_be_read_during_and_after_and_nothing_stays_behind(tmp_path, monkeypatch):
    site()  # made elsewhere, before
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    line = '"GET /index.html HTTP/1.1" 200 45'
    before = 0
    for _ in range(3):
        with launched("prefork", access_log=True) as server:
            assert len(list(tmp_path.iterdir())) == 1
            get(server, "/index.html")
            poll_until(lambda: line in server.access_log(), "a line in the access log")
            assert "AH00163" in server.error_log() and server.trace_log() == ""
            poll_until(lambda: server.scoreboard().count("_"))
        assert line in server.access_log() and "AH00169" in server.error_log()
        refused(LaunchError, "DocumentRoot", launched, "event", document_root="/does/not/exist")
        assert list(tmp_path.iterdir()) == []
        before, after = before or len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/fd"))
    assert before == after, "no descriptor stays open"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_a_server_outlives_a_fork_of_its_launcher_and_leaves_nothing_when_that_is_killed(tmp_path):
    text = """
import mpmkit, os, signal, sys
server = mpmkit.launch("prefork", StartServers=1, tls=True)
assert {"server.key", "error.log"} <= set(os.listdir(os.path.dirname(server.certificate)))
if os.fork() == 0:
    sys.exit()
os.wait()
assert server.running and 0 in server.scoreboard().letters
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = ran("-c", text, status=-signal.SIGKILL, TMPDIR=str(tmp_path))
    all_gone([int(result.stdout)], "the server")
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_a_name_runs_on_and_ends_with_the_program(tmp_path):
    """A notebook's cell run twice: the first server has no name any more. It must not leave its
    files, nor a warning, nor itself."""
    text = """
import gc, mpmkit, os
pids = []
for _ in range(2):
    server = mpmkit.launch("prefork", StartServers=1)
    pids.append(server.pid)
gc.collect()
print(*pids, len(list(mpmkit.launcher.running())), flush=True)
os.kill(pids[0], 0)
"""
    result = ran("-W", "error", "-X", "dev", "-c", text, TMPDIR=str(tmp_path))
    *pids, count = map(int, result.stdout.split())
    assert count == 2
    all_gone(pids, "both servers")
    assert list(tmp_path.iterdir()) == []


def test_the_scoreboard_is_a_frozen_picture(mpm):
    pandas = pytest.importorskip("pandas")
    gate = Gate()
    # So many that none is forked meanwhile.
    with launched(mpm, pool=pool(mpm, 2, 8, threads=4), access_log=True) as server:
        poll_until(lambda: set(str(server.scoreboard())) <= {"_", "\n"}, "every worker idle")
        with Client(server).send(request(gate.path)):
            at_gate = lambda b: b.count("W") == 1 and "gate.py" in str(b.workers)  # noqa: E731
            busy = poll_until(lambda: at_gate(b := server.scoreboard()) and b)
            assert server.access_log() == "", "to read it costs no request"
            gate.open()
            poll_until(lambda: server.scoreboard().accesses == 1, "the script ended")
        idle = 1 if mpm == "prefork" else 7
        frame = busy.to_frame()
        assert isinstance(frame, pandas.DataFrame) and set(frame.pid) == set(server.processes())
        assert sorted(frame.letter) == ["W", *"_" * idle]
        assert (busy.count("W"), busy.count("_"), busy.count(".")) == (1, idle, 0)
        assert str(busy).count("\n") == len(busy.letters) - 1
        (row,) = [row for row in busy.workers if row.state == 4]
        assert row.pid in server.processes() and row.client == "127.0.0.1"
        assert row.request.startswith("GET /gate.py?")
        refused(AttributeError, "generation", setattr, busy.snapshot, "generation", 5)
        assert f"of {mpm}: " in repr(busy) and "1 W" in repr(busy)


def test_signals_by_name():
    with launched("event") as server:
        refused(ValueError, r"'KILL' is not a signal.*TERM.*graceful-stop", server.signal, "KILL")
        server.signal("restart")
        poll_until(lambda: generation(server) == 1 and server.processes(), "a generation")
        assert get(server).status == 200
        server.signal("stop")
        poll_until(lambda: not server.running, "the server ended")
        refused(LaunchError, "no process to signal", server.signal, "USR1")


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_server_has_no_process_and_no_scoreboard_and_stops_twice(killed):
    server = launched("worker")
    children = server.processes()
    if killed:
        os.kill(server.pid, signal.SIGKILL)
        poll_until(lambda: not server.running, "it is noticed")
    server.stop()
    assert not server.running
    all_gone(children, "the children")
    server.stop()
    with server:
        pass
    assert killed or "AH00295" in server.error_log()
    for ask in (server.scoreboard, server.processes):
        refused(LaunchError, "launch another", ask)


@pytest.mark.parametrize(("mpm", "options", "says"), [
    ("nginx", {}, r"'nginx' is not an MPM.*prefork, worker, event"), (None, {}, "name an MPM"),
    ("event", {"threads": 5}, "threads"), ("prefork", {"ThreadsPerChild": 5}, "ThreadsPerChild"),
    ("event", {"ThreadsPerChild": True}, "takes a number"),
    # What the server refuses is the text of the error.
    ("event", {"KeepAliveTimeout": "never"}, "KeepAliveTimeout"),
    ("event", {"directives": ["Nonsense 1"]}, "Nonsense"),
    ("event", {"document_root": "/does/not/exist"}, "/does/not/exist"),
    ("event", {"conf": "/does/not/exist.conf"}, "/does/not/exist.conf"),
    ("event", {"python": "/does/not/exist"}, "/does/not/exist: No such file"),
])  # fmt: skip
def test_what_cannot_be_launched_is_refused_in_one_line_and_nothing_is_left(mpm, options, says):
    with pytest.raises((DirectiveError, LaunchError), match=says) as caught:
        mpmkit.launch(mpm, **options)
    text = str(caught.value)
    assert "Traceback" not in text and "\n" not in text and not text.startswith("mpmkit: ")
    assert marked(os.environ[MARK]) == []


ROOM = """
from mpmkit.lab import Room
room = Room("event")
room.start()
"""


@pytest.mark.timeout(100)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_leaves_the_room_in_charge_and_no_orphan():
    """A kernel is interrupted while a control room runs: nothing is left that the room does not hold."""
    from jupyter_client.manager import KernelManager

    word = uuid.uuid4().hex
    # Unix sockets: a TCP port that is chosen now may be another process's when the kernel takes it.
    sockets = os.path.join(tempfile.mkdtemp(prefix="mpmkit-kernel-", dir=site()), "kernel")
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=sockets)
    kernel.start_kernel(env=environment(**{MARK: word}))
    client = kernel.blocking_client()
    client.start_channels()

    def once(code: str) -> tuple[str, str]:
        printed: list[str] = []
        hook = lambda message: printed.append(message["content"].get("text", ""))  # noqa: E731
        said = client.execute_interactive(code, timeout=40, output_hook=hook)["content"]
        return said.get("ename", said["status"]), "".join(printed)

    def ran(code: str) -> tuple[str, str]:
        # For a moment after an error the kernel aborts what it is sent, and has not run it then.
        return poll_until(lambda: (said := once(code))[0] != "aborted" and said, "it runs", 20)

    try:
        client.wait_for_ready(timeout=40)
        itself = [kernel.provisioner.pid]
        assert marked(word) == itself
        assert ran(ROOM + "room.start_load()")[0] == "ok"
        client.execute("print('waits', flush=True)\nimport time\ntime.sleep(60)")
        while client.get_iopub_msg(timeout=20)["content"].get("text", "") != "waits\n":
            pass
        kernel.interrupt_kernel()
        assert client.get_shell_msg(timeout=20)["content"]["ename"] == "KeyboardInterrupt"
        # The server is still the room's: it runs, or has ended and the room knows; stop ends all.
        assert ran("print(room.server is None or room.server.running)") == ("ok", "True\n")
        assert ran("room.stop_load(); room.stop(); room.close()")[0] == "ok"
        poll_until(lambda: marked(word) == itself, lambda: f"{marked(word)} end", 15)
        # And once more, with the kernel shut down instead of the room.
        assert ran(ROOM)[0] == "ok" and marked(word) != itself
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()
    poll_until(lambda: not marked(word), lambda: f"{marked(word)} end", 15)
