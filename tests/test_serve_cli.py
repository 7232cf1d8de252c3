"""`mpmkit serve`: one line when it serves, one line when it can't, and nothing forked before that."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.calls import printed_by
from support.client import Client, Lost, get, request
from support.files import conf, site, write
from support.servers import MPMS, THREADED, Serve, free_ports
from support.waiting import all_gone, children_of, patience, poll_until

from mpmkit.cli import serve

pytestmark = pytest.mark.usefixtures("everything_ends")


@pytest.mark.parametrize("args", ["--help", "--version", "memory --help"])
def test_a_reader_that_has_gone_leaves_no_traceback(args):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mpmkit", *args.split()]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert not done.stderr


@pytest.fixture
def says(monkeypatch, capsys):
    """A function: the one line of a command that starts nothing and forks nothing."""
    monkeypatch.setattr(os, "fork", Mock(side_effect=AssertionError("it has forked")))

    def run(args: list[str], expected: int = 1) -> str:
        status, out, err = printed_by(serve.main, args, capsys)
        assert (status, out) == (expected, ""), args
        assert re.fullmatch("mpmkit: .+\n", err), (args, err)
        return err

    return run


def test_one_line_says_where_and_term_ends_it(mpm):
    with Serve(mpm, "--port", "0", "--document-root", str(site())).ready() as server:
        assert get(server, "/").status == 200
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


def test_a_given_port_stands_above_the_files_listen_and_what_it_prints_need_not_be_read():
    (port,) = free_ports(1)
    file = str(conf("Listen 127.0.0.1:1"))
    with Serve("event", "-f", file, "--port", str(port)).ready() as server:
        assert server.port == port
        server.process.stdout.close()
        os.kill(server.pid, signal.SIGUSR1)
        poll_until(lambda: server.err.count("AH00489") == 2, "a graceful restart")
        assert get(server, "/").status == 200
        os.kill(server.pid, signal.SIGTERM)
        assert server.process.wait(patience()) == 0


def test_the_articles_file_serves(mpm):
    article = (Path(__file__).parent / "data" / "article.conf").read_text()
    load = f"LoadModule mpm_{mpm}_module modules/mod_mpm_{mpm}.so\nListen 127.0.0.1:8080\n"
    with Serve("-f", str(conf(load + article)), "--port", "0").ready() as server:
        start = 5 if mpm == "prefork" else 3  # before a request makes one of them busy
        poll_until(lambda: len(children_of(server.pid)) == start, "the children of the start")
        assert get(server, "/").status == 200
        assert get(server, "/hello.py").body == b"hello world"
        (line,) = server.err.splitlines()
        assert f"mpm_{mpm}:notice" in line, "no warning about the article's values"


def test_a_corrected_value_is_a_warning_and_it_serves():
    args = ("--port", "0", "-c", "ThreadsPerChild 4", "-c", "MaxRequestWorkers 10")
    with Serve("event", *args).ready() as server:
        assert get(server, "/").status == 200
        (line,) = [line for line in server.err.splitlines() if "AH00513" in line]
        assert line.startswith("mpmkit: ") and "8 is used" in line
        assert len(children_of(server.pid)) == 2
        assert server.err.index("AH00513") < server.err.index("resuming normal operations")


TWO = "".join(f"LoadModule mpm_{mpm}_module modules/x.so\n" for mpm in MPMS[:2])
REFUSED = [
    ([], "", "prefork, worker or event"),
    *((["event", "-c", line], "", line.split()[0]) for line in (
        "Nonsense 1", "KeepAliveTimeout never", "CustomLog /does/not/exist/log common")),
    *((["event", option, file], "", file) for option, file in (
        ("-f", "/does/not/exist.conf"), ("-f", "/"), ("--document-root", "/does/not/exist"),
        ("--document-root", __file__))),
    (["event", "--port", "70000"], "", "70000"), (["event", "-c", "Listen no.invalid:80"], "", "no.invalid"),
    (["event", "-c", "Listen 192.0.2.1:8080"], "", "192.0.2.1:8080; this machine has no such address"),
    (["-f", "FILE"], TWO, "MPM"),
    (["worker", "-f", "FILE"], "LoadModule mpm_event_module x", "worker was asked for"),
    (["event", "-f", "FILE"], "# a comment\nKeepAlive On\nNonsense 1", "FILE:3: Nonsense"),
]  # fmt: skip


def test_what_it_cannot_do_is_one_clear_line_and_status_1(tmp_path, says):
    for args, text, part in REFUSED:
        file = str(write(tmp_path / "httpd.conf", text))
        found = says([word.replace("FILE", file) for word in args])
        assert part.replace("FILE", file) in found, args
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        for args in (["--port", str(port)], ["-c", f"Listen 127.0.0.1:{port}"]):
            used = says(["worker", *args])
            assert "AH00072" in used and f"127.0.0.1:{port}; another server" in used
    for args in (["nginx"], ["event", "--bogus"], ["event", "--port", "abc"]):
        assert args[-1] in says(args, 2)


@pytest.mark.parametrize("mpm", THREADED)
def test_too_few_descriptors_for_all_clients_do_not_bring_it_down(mpm):
    """A child that can open no more leaves, others come; when it is over, it is over."""

    def answers(ask) -> bool:
        with suppress(Lost, OSError):  # TimeoutError is one
            return ask().status == 200
        return False

    server = Serve(mpm, "--port", "0", "-c", "StartServers 1", descriptors=24)
    with server.ready():
        # As httpd, it gives up if no child was ever seen healthy, and looks once a second.
        with Client(server) as client:
            client.silent(1.5)
        clients = [Client(server, wait=0.2).send(request("/")) for _ in range(40)]
        assert sum(answers(client.reply) for client in clients) > 0
        for client in clients:
            client.close()
        assert mpm != "event" or "AH02179" in server.err, "or this test shows nothing"
        serves = lambda: answers(lambda: get(server, "/", wait=2))  # noqa: E731
        poll_until(serves, "it serves again when they are gone", 15)
        assert server.process.poll() is None
