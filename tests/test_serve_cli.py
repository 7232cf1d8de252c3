"""`mpmkit serve`: one line when it serves, one line when it can't, and nothing forked before that."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import (
    MPMS,
    THREADED,
    Client,
    Lost,
    Serve,
    all_gone,
    children_of,
    environment,
    fetch,
    request,
    site,
    until,
)

pytestmark = pytest.mark.usefixtures("everything_ends")


# Runs the command as `python -m mpmkit` does, and tells of each fork as it happens.
WITNESS = """
import os, sys
sys.addaudithook(lambda event, args: event == "os.fork" and os.write(2, b"FORK\\n"))
from mpmkit.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def witnessed(*args: str) -> tuple[int, str, list[str]]:
    """(exit status, standard output, lines of standard error) of a command that ends by itself."""
    result = subprocess.run(
        [sys.executable, "-c", WITNESS, *args],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(),
    )
    return result.returncode, result.stdout, result.stderr.splitlines()


def conf(tmp_path, *lines: str) -> str:
    path = tmp_path / "httpd.conf"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# --- It serves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mpm", MPMS)
def test_one_line_says_where_and_term_ends_it(mpm):
    with Serve(mpm, "--port", "0", "--document-root", str(site())).ready() as server:
        assert fetch(server).status == 200
        pids = [server.pid, *children_of(server.pid)]
        os.kill(server.pid, signal.SIGTERM)
        assert server.finish() == 0
        assert re.fullmatch(rb"ready http://127\.0\.0\.1:\d+\n", server.out)
        all_gone(pids, "parent and children", 1.0)
        # The error log is standard error, in httpd's format.
        first, last = server.err.splitlines()
        shape = rf"\[\w{{3}} \w{{3}} \d\d [\d:]{{8}}\.\d{{6}} \d{{4}}\] \[mpm_{mpm}:notice\] "
        assert re.match(shape + r"\[pid \d+:tid \d+\] AH\d{5}: ", first)
        assert re.match(shape, last)


def test_the_witness_sees_a_fork():
    """Or the tests below, which see none, would say nothing."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITNESS, "serve", "prefork", "--port", "0", "-c", "StartServers 2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout.readline().startswith(b"ready ")
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert err.count(b"FORK") == 2


def test_a_client_can_connect_as_soon_as_the_line_is_there():
    for _ in range(5):
        with Serve("event", "--port", "0").ready() as server:
            assert fetch(server).status == 200


def test_a_given_port_is_used_and_stands_above_the_files_listen(tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    file = conf(tmp_path, "Listen 127.0.0.1:1")
    with Serve("prefork", "-f", file, "--port", str(port)).ready() as server:
        assert server.port == port
        assert fetch(server).status == 200


def test_nobody_has_to_read_what_it_prints():
    """Started by something that closes its end of the pipe, it serves all the same."""
    with Serve("event", "--port", "0").ready() as server:
        server.process.stdout.close()
        os.kill(server.pid, signal.SIGUSR1)
        until(lambda: server.err.count("AH00489") == 2, "a graceful restart")
        assert fetch(server).status == 200
        os.kill(server.pid, signal.SIGTERM)
        assert server.process.wait(10) == 0


ARTICLE = (Path(__file__).parent / "data" / "article.conf").read_text()


@pytest.mark.parametrize("mpm", MPMS)
def test_the_articles_file_serves_with_the_mpm_that_its_load_module_names(mpm, tmp_path):
    load = f"LoadModule mpm_{mpm}_module modules/mod_mpm_{mpm}.so"
    file = conf(tmp_path, load, "Listen 127.0.0.1:8080", ARTICLE)
    with Serve("-f", file, "--port", "0").ready() as server:
        assert fetch(server).status == 200
        assert fetch(server, "/hello.py").body == b"hello world"
        assert len(children_of(server.pid)) == (5 if mpm == "prefork" else 3)
        (line,) = server.err.splitlines()
        assert f"mpm_{mpm}:notice" in line, "no warning about the article's values"


@pytest.mark.parametrize("mpm", MPMS)
def test_the_articles_file_serves_with_the_mpm_of_the_command_line(mpm, tmp_path):
    with Serve(mpm, "-f", conf(tmp_path, ARTICLE), "--port", "0").ready() as server:
        assert fetch(server).status == 200
        assert len(children_of(server.pid)) == (5 if mpm == "prefork" else 3)


@pytest.mark.parametrize(
    ("mpm", "options", "ah", "says", "children"),
    [
        ("event", ["ThreadsPerChild 4", "MaxRequestWorkers 10"], "AH00513", "8 is used", 2),
        ("worker", ["ThreadsPerChild 4", "MaxRequestWorkers 10"], "AH00316", "8 is used", 2),
        ("prefork", ["StartServers 0"], "AH00184", "1", 1),
        ("prefork", ["ServerLimit 3", "MaxRequestWorkers 9"], "AH00180", "3", 3),
    ],
)
def test_a_corrected_value_is_a_warning_and_it_serves(mpm, options, ah, says, children):
    args = [word for option in options for word in ("-c", option)]
    with Serve(mpm, "--port", "0", *args).ready() as server:
        assert fetch(server).status == 200
        (line,) = [line for line in server.err.splitlines() if ah in line]
        assert line.startswith("mpmkit: ") and says in line
        assert len(children_of(server.pid)) == children
        assert server.err.index(ah) < server.err.index("resuming normal operations")


# --- It can't ------------------------------------------------------------------------------------

CANNOT = {
    "no MPM": ([], "prefork, worker or event"),
    "unknown directive": (["event", "-c", "Nonsense 1"], "Nonsense"),
    "bad value": (["event", "-c", "KeepAliveTimeout never"], "KeepAliveTimeout"),
    "no value": (["event", "-c", "KeepAliveTimeout"], "KeepAliveTimeout"),
    "directive of another MPM": (["prefork", "-c", "ThreadsPerChild 3"], "ThreadsPerChild"),
    "missing file": (["event", "-f", "/does/not/exist.conf"], "/does/not/exist.conf"),
    "file is a directory": (["event", "-f", "/"], "/"),
    "missing document root": (["event", "--document-root", "/does/not/exist"], "/does/not/exist"),
    "document root is a file": (["event", "--document-root", __file__], __file__),
    "port out of range": (["event", "--port", "70000"], "70000"),
    "no such address": (["event", "-c", "Listen 192.0.2.1:8080"], "192.0.2.1:8080"),
    "access log": (["event", "-c", "CustomLog /does/not/exist/log common"], "CustomLog"),
    "error log": (["event", "-c", "ErrorLog /does/not/exist/log"], "ErrorLog"),
    "scoreboard file": (["event", "-c", "ScoreBoardFile /does/not/exist/b"], "ScoreBoardFile"),
    "closed descriptor": (["event", "--listen-fd", "77"], "--listen-fd 77"),
}


@pytest.mark.parametrize("what", CANNOT)
def test_what_it_cannot_do_is_one_clear_line_and_status_1(what):
    args, says = CANNOT[what]
    own_port = what in ("port out of range", "no such address", "closed descriptor")
    status, out, err = witnessed("serve", *args, *([] if own_port else ["--port", "0"]))
    assert (status, out) == (1, "")
    (line,) = err
    assert line.startswith("mpmkit: ") and says in line


def test_a_used_port_is_one_clear_line_and_nothing_is_forked():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        for args in (["--port", str(port)], ["-c", f"Listen 127.0.0.1:{port}"]):
            status, out, err = witnessed("serve", "worker", *args)
            assert (status, out) == (1, "")
            (line,) = err
            assert f"127.0.0.1:{port}" in line and "AH00072" in line
            assert "another server" in line, "and what to do about it"


def test_an_error_in_a_file_names_file_and_line(tmp_path):
    file = conf(tmp_path, "# a comment", "KeepAlive On", "Nonsense 1")
    status, out, err = witnessed("serve", "event", "-f", file, "--port", "0")
    assert (status, out) == (1, "")
    (line,) = err
    assert f"{file}:3: " in line and "Nonsense" in line


def test_every_error_of_a_file_is_told_a_line_each(tmp_path):
    file = conf(tmp_path, "Nonsense 1", "KeepAliveTimeout never", "ThreadsPerChild 3")
    status, out, err = witnessed("serve", "prefork", "-f", file, "--port", "0")
    assert (status, out) == (1, "")
    assert [line.split(":")[2] for line in err if line.startswith(f"mpmkit: {file}:")] == list(
        "123"
    )


def test_a_file_that_loads_two_mpms_is_refused(tmp_path):
    file = conf(tmp_path, *(f"LoadModule mpm_{mpm}_module modules/x.so" for mpm in MPMS[:2]))
    status, out, err = witnessed("serve", "-f", file, "--port", "0")
    assert (status, out) == (1, "")
    assert len(err) == 1 and "MPM" in err[0]


def test_a_file_that_loads_another_mpm_than_the_command_line_names(tmp_path):
    """Either it is refused in one line, or the command line wins; nobody gets a traceback."""
    file = conf(tmp_path, "LoadModule mpm_event_module modules/mod_mpm_event.so")
    status, out, err = witnessed("serve", "worker", "-f", file, "--port", "0")
    assert (status, out) == (1, "")
    assert len(err) == 1 and "event" in err[0] and "worker" in err[0]


@pytest.mark.parametrize("args", [["nginx"], ["event", "--bogus"], ["event", "--port", "abc"]])
def test_a_mistyped_command_line_is_one_line_and_status_2(args):
    status, out, err = witnessed("serve", *args)
    assert (status, out) == (2, "")
    (line,) = err
    assert line.startswith("mpmkit: ") and args[-1] in line


@pytest.mark.parametrize("mpm", THREADED)
def test_too_few_descriptors_for_all_clients_do_not_bring_it_down(mpm):
    """A child that can open no more leaves, others come; when it is over, it is over."""
    server = Serve(mpm, "--port", "0", "-c", "StartServers 1", descriptors=20)
    with server.ready():
        # As httpd, it gives up if no child was ever seen healthy, and looks once a second.
        with Client(server) as client:
            client.silent(1.5)
        clients = [Client(server, wait=0.2).send(request()) for _ in range(40)]
        answered = sum(answers(client) for client in clients)
        for client in clients:
            client.close()
        assert answered > 0
        if mpm == "event":
            assert "AH02179" in server.err, "or this test shows nothing"
        until(lambda: served(server), "it serves again when they are gone", 15)
        assert server.process.poll() is None


def answers(client) -> bool:
    try:
        return client.answer().status == 200
    except (Lost, TimeoutError):
        return False


def served(server) -> bool:
    try:
        return fetch(server, wait=2).status == 200
    except (Lost, OSError):
        return False
