"""Files that a server makes: through no link of another user, on a full disk, for no stranger's process."""

import fcntl
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from support.calls import refused
from support.configured import directives
from support.files import write
from support.servers import Serve, command, free_ports, ran, serving
from support.waiting import all_gone, children_of, poll_until

from mpmkit.measure.procfs import stat
from mpmkit.server import home
from mpmkit.server.scoreboard import Scoreboard

DIRECTIVES = directives()
VICTIM = "what must stay\n"


def not_started(*argv: str) -> str:
    """What a server says that does not start."""
    done = ran(*argv, status=1)
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def victim(tmp_path) -> Path:
    return write(tmp_path / "victim", VICTIM)


def test_a_scoreboard_is_written_through_no_link_and_a_full_disk_is_named(victim, tmp_path):
    """ulimit -f: what a file may have is what is left of the disk."""
    board = tmp_path / "board"
    argv = command("serve", "event", "--port", "0", "-c", f"ScoreBoardFile {board}")
    for make in (os.symlink, os.link):
        make(victim, board)
        assert f"AH00004: the scoreboard {board} cannot be made: it is " in not_started(*argv)
        assert victim.read_text() == VICTIM
        board.unlink()
    said = not_started("sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *argv)
    assert f"AH00004: the scoreboard {board} cannot be made: File too large" in said
    assert not board.exists()


def test_a_scoreboard_replaces_what_an_older_server_left(tmp_path):
    path = tmp_path / "board"
    path.write_bytes(b"x" * 10_000_000)
    board = Scoreboard(DIRECTIVES, str(path))
    assert path.stat().st_size < 10_000_000 and board.workers() == []
    assert path.stat().st_blocks * 512 >= path.stat().st_size, "all of its blocks are there"
    board.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others in its reach")
def test_a_scoreboard_is_not_another_user_s_file(victim):
    os.chown(victim, 65534, 65534)
    refused(PermissionError, "remove it, or name another", Scoreboard, DIRECTIVES, str(victim))
    assert victim.read_text() == VICTIM


def test_a_pid_file_is_neither_read_nor_written_through_a_link(victim, tmp_path):
    path = tmp_path / "pid"
    for target in (victim, tmp_path / "nothing"):
        path.symlink_to(target)
        refused(home.PidFileError, "it is a symbolic link", home.read_pid, str(path))
        refused(home.PidFileWriteError, "it is a symbolic link", home.write_pid, str(path))
        path.unlink()
    temporary = tmp_path / f"pid.{os.getpid()}"
    temporary.symlink_to(victim)
    home.write_pid(str(path))
    assert path.read_text() == f"{os.getpid()}\n" and victim.read_text() == VICTIM


@pytest.mark.parametrize(("line", "server"), [
    ("tail -m mpmkit serve", False), ("python3 -c mpmkit -m mpmkit serve", False), ("", False),
    ("python3 -m mpmkit bench serve", False), ("python3 mpmkit.py serve", False), ("python", False),
    ("/usr/bin/python3 -m mpmkit serve event", True), ("python3 /venv/bin/mpmkit httpd", True),
    ("python3.13t -X dev -I -W error -m mpmkit httpd -k start", True),
])  # fmt: skip
def test_a_server_is_known_by_its_whole_command_line(line, server):
    assert home.is_server_command([word.encode() for word in line.split(" ")]) is server


def test_a_server_that_can_fork_no_child_is_not_ready(tmp_path):
    program = """
import sys
def refuse(event, args):
    if event == "os.fork" and sys.argv[1] == "serve":
        raise BlockingIOError(11, "Resource temporarily unavailable")
sys.addaudithook(refuse)
from mpmkit.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    pid_file = tmp_path / "pid"
    serve = ["serve", "event", "--port", "0", "-c", f"PidFile {pid_file}"]
    said = not_started("-c", program, *serve)
    assert "no child process could be started" in said and not pid_file.exists()


def test_a_child_that_only_sigkill_ends_is_waited_for():
    """The last signal, and AFTER_KILL after it: nothing is left, and nothing is reported as left."""
    one = ("-c", "StartServers 1", "-c", "MaxRequestWorkers 1")
    with Serve("prefork", "--port", "0", *one).ready() as server:
        (child,) = children_of(server.pid)
        os.kill(child, signal.SIGSTOP)
        # A SIGTERM that comes before the child has stopped would end it: the lower number goes first.
        poll_until(lambda: stat(child)[0] == "T", "the child has stopped")
        os.kill(server.pid, signal.SIGTERM)
        assert server.finish(30) == 0  # after nine seconds
        assert "sending a SIGKILL" in server.err and "AH00047" not in server.err
    all_gone([child], "the stopped child")


def own_address() -> str:
    """An address of this machine that is not a loopback one, "" without any."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # sends nothing
        return str(sock.getsockname()[0])
    return ""


@pytest.mark.skipif(not own_address(), reason="this machine has loopback addresses only")
def test_the_status_page_of_a_public_listen_is_for_this_machine():
    (port,) = free_ports(1)
    with Serve("event", "-c", f"Listen 0.0.0.0:{port}").ready():
        for source, status in (("127.0.0.1", b"200"), (own_address(), b"403")):
            with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as sock:
                sock.sendall(b"GET /server-status HTTP/1.0\r\n\r\n")
                assert sock.recv(100).split()[1] == status


def test_the_folder_of_a_killed_server_goes_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, held, young = (Path(home.make()) for _ in range(3))
    (left / "key.pem").write_text("secret")
    for folder in (left, held):
        os.utime(folder, (1, 1))
    lock = home.hold(str(held))
    made = Path(home.make())
    assert sorted(tmp_path.iterdir()) == sorted([held, young, made])
    os.close(lock)


def test_a_launcher_and_its_server_hold_their_folder():
    with serving("event") as server:
        words = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        folder = words[words.index("--home") + 1]
        fd = os.open(folder, os.O_RDONLY)
        refused(BlockingIOError, "unavailable", fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
