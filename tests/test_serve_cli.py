"""`mpmkit serve`: one line when it serves, one line when it can't, and nothing forked before that."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support.client import Client, Lost, get, request
from support.files import conf, site, write
from support.servers import MPMS, THREADED, Serve, environment, free_ports
from support.waiting import all_gone, children_of, patience, poll_until

pytestmark = pytest.mark.usefixtures("everything_ends")


# Runs commands one after the other, as `python -m mpmkit serve` does: status, standard error, forks.
WITNESS = """
import contextlib, io, json, sys
forks = []
sys.addaudithook(lambda event, args: forks.append(1) if event == "os.fork" else None)
from mpmkit.__main__ import main
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(["serve", *argv])
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, errors.getvalue().splitlines(), len(forks)]), flush=True)
"""


@pytest.mark.parametrize("args", ["--help", "--version", "memory --help"])
def test_a_reader_that_has_gone_leaves_no_traceback(args):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mpmkit", *args.split()]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert not done.stderr


def refused(*commands: list[str], status: int = 1) -> list[list[str]]:
    """The lines of standard error of commands that start nothing and fork nothing; all are their own."""
    argv = [sys.executable, "-c", WITNESS, json.dumps(commands)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment())
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(commands), result.stderr
    assert [(code, forks) for code, _, forks in found] == [(status, 0)] * len(commands)
    assert all(line.startswith("mpmkit: ") for _, lines, _ in found for line in lines)
    return [lines for _, lines, _ in found]


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


def test_the_witness_sees_a_fork():
    """Or the tests below, which see none, would say nothing."""
    argv = json.dumps([["prefork", "--port", "0", "-c", "StartServers 2"]])
    command = [sys.executable, "-c", WITNESS, argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    assert process.stdout.readline().startswith(b"ready ")
    process.terminate()
    status, _, forks = json.loads(process.communicate(timeout=20)[0])
    assert (status, forks) == (0, 2)


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


@pytest.mark.parametrize(("mpm", "options", "ah", "says", "children"), [
    ("event", ["ThreadsPerChild 4", "MaxRequestWorkers 10"], "AH00513", "8 is used", 2),
    ("prefork", ["ServerLimit 3", "MaxRequestWorkers 9"], "AH00180", "3", 3),
])  # fmt: skip
def test_a_corrected_value_is_a_warning_and_it_serves(mpm, options, ah, says, children):
    args = [word for option in options for word in ("-c", option)]
    with Serve(mpm, "--port", "0", *args).ready() as server:
        assert get(server, "/").status == 200
        (line,) = [line for line in server.err.splitlines() if ah in line]
        assert line.startswith("mpmkit: ") and says in line
        assert len(children_of(server.pid)) == children
        assert server.err.index(ah) < server.err.index("resuming normal operations")


PORT = ["--port", "0"]
TWO = "".join(f"LoadModule mpm_{mpm}_module modules/x.so\n" for mpm in MPMS[:2])
REFUSED = [
    (PORT, "", "prefork, worker or event"),
    *((["event", "-c", line, *PORT], "", line.split()[0]) for line in (
        "Nonsense 1", "KeepAliveTimeout never", "KeepAliveTimeout", "ErrorLog /does/not/exist/log",
        "CustomLog /does/not/exist/log common", "ScoreBoardFile /does/not/exist/b")),
    (["prefork", "-c", "ThreadsPerChild 3", *PORT], "", "ThreadsPerChild"),
    *((["event", option, file, *PORT], "", file) for option, file in (
        ("-f", "/does/not/exist.conf"), ("-f", "/"), ("--document-root", "/does/not/exist"),
        ("--document-root", __file__))),
    (["event", "--port", "70000"], "", "70000"), (["event", "-c", "Listen no.invalid:80"], "", "no.invalid"),
    (["event", "-c", "Listen 192.0.2.1:8080"], "", "192.0.2.1:8080; this machine has no such address"),
    (["-f", "FILE", *PORT], TWO, "MPM"),
    (["worker", "-f", "FILE", *PORT], "LoadModule mpm_event_module x", "worker was asked for"),
    (["event", "-f", "FILE", *PORT], "# a comment\nKeepAlive On\nNonsense 1", "FILE:3: Nonsense"),
]  # fmt: skip


def test_what_it_cannot_do_is_one_clear_line_and_status_1(tmp_path):
    files = [str(write(tmp_path / f"{n}.conf", text)) for n, (_, text, _) in enumerate(REFUSED)]
    cases = [([word.replace("FILE", file) for word in args], says.replace("FILE", file))
             for file, (args, _, says) in zip(files, REFUSED, strict=True)]  # fmt: skip
    for (args, says), lines in zip(cases, refused(*(args for args, _ in cases)), strict=True):
        assert len(lines) == 1 and says in lines[0], args


def test_a_used_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        ways = (["--port", str(port)], ["-c", f"Listen 127.0.0.1:{port}"])
        for (line,) in refused(*(["worker", *args] for args in ways)):
            assert f"127.0.0.1:{port}" in line and "AH00072" in line
            assert "another server" in line, "and what to do about it"
    # A mistyped command line, too, and status 2
    wrong = ["nginx"], ["event", "--bogus"], ["event", "--port", "abc"]
    for args, (line,) in zip(wrong, refused(*wrong, status=2), strict=True):
        assert args[-1] in line


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
