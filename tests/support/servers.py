"""Starting servers, from Python and as a command, and checking what they leave behind."""

import atexit
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import pytest

import mpmkit
from mpmkit.launcher import Server
from mpmkit.server.listen import bind

from .files import site
from .waiting import all_gone, patience, poll_until

MPMS = ("prefork", "worker", "event")
THREADED = ("worker", "event")


@pytest.fixture(scope="module", params=["prefork", "event"], name="mpm")
def prefork_and_event(request: pytest.FixtureRequest) -> str:
    """A thread of worker does with a connection what a process of prefork does, as test_http.py shows."""
    return request.param


# Two processes, a few threads: enough to be wrong in, and quick to start.
_THREADS = {
    "StartServers": 2, "MinSpareThreads": 4, "MaxSpareThreads": 12, "ThreadsPerChild": 4,
    "ThreadLimit": 8, "MaxRequestWorkers": 12, "ServerLimit": 4,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "prefork": {"StartServers": 2, "MinSpareServers": 2, "MaxSpareServers": 5,
                "MaxRequestWorkers": 8, "ServerLimit": 8},
    "worker": _THREADS, "event": _THREADS,
}  # fmt: skip


def pool(
    mpm: str, start: int, most: int, *, threads: int = 1, spare: tuple[int, int] = (1, 99)
) -> dict[str, Any]:
    """Directives of a pool: children at the start, workers at the most, idle ones kept."""
    kind = "Servers" if mpm == "prefork" else "Threads"
    found = {"StartServers": start, f"MinSpare{kind}": spare[0], f"MaxSpare{kind}": spare[1]}
    found |= {"MaxRequestWorkers": most}
    return found if mpm == "prefork" else found | {"ThreadsPerChild": threads}


def one_child(mpm: str, threads: int = 1) -> dict[str, Any]:
    """One child, and never another. (Under prefork that is one worker.)"""
    return pool(mpm, 1, 1 if mpm == "prefork" else threads, threads=threads)


def free_ports(count: int) -> list[int]:
    """Ports free on all addresses, as on [::1]. They stay bound, so the kernel gives them to no other process."""
    kept = [bind("", 0) for _ in range(count)]
    for sock in kept:
        atexit.register(sock.close)
    return [sock.getsockname()[1] for sock in kept]


KEPT = 60  # KeepAliveTimeout where a test does not say another: a machine may stand still for some seconds


def launched(mpm: str, *, pool: dict[str, Any] | None = None, **options: Any) -> Server:
    """A server over the tests' site, with a small pool, unless the options say otherwise; not checked."""
    conf = options.get("conf")
    if "conf" not in options:
        options = {"document_root": site(), **options}
    if conf is None or "KeepAliveTimeout" not in Path(conf).read_text():
        options = {"KeepAliveTimeout": KEPT, **options}
    return mpmkit.launch(mpm, **{**(SMALL[mpm] if pool is None else pool), **options})


@contextmanager
def serving(mpm: str, **options: Any) -> Iterator[Server]:
    """A `launched` server. Every worker is idle before the stop; after it no child is left, and the error log has
    no error that the test did not take out of it (`take_errors`)."""
    server = launched(mpm, **options)
    try:
        yield server
        if server.running:
            assert_quiet(server)
            poll_until(lambda: not total(server), "no connection is held")
    finally:
        children = server.processes() if server.running else []
        server.stop()
    all_gone(children, "after the stop")
    assert not (errors := take_errors(server)), "in the error log:\n" + "\n".join(errors)


def assert_quiet(server: Server) -> None:
    """No client is served: every slot is `_` or `.`."""

    def quiet() -> bool:
        letters = set("".join(server.scoreboard().letters.values()))
        return letters <= set("_.") and "_" in letters

    poll_until(quiet, lambda: f"the scoreboard is clean; it shows\n{server.scoreboard()}")


def shows(server: Server, **letters: int) -> None:
    """Wait until the scoreboard has so many of these letters; `idle=2` means two `_`."""
    wanted = {"_" if letter == "idle" else letter: count for letter, count in letters.items()}

    def seen() -> bool:
        board = server.scoreboard()
        return all(board.count(letter) == count for letter, count in wanted.items())

    poll_until(seen, lambda: f"{wanted} in\n{server.scoreboard()}")


def generation(server: Server) -> int:
    """How many graceful restarts there were."""
    return server.scoreboard().snapshot.generation


def total(server: Server, field: str = "connections") -> int:
    """Event: a counter over all its processes, as of at most a second ago."""
    return sum(getattr(row, field) for row in server.scoreboard().snapshot.processes if row.pid)


def open_files(server: Server) -> dict[int, int]:
    """How many descriptors its parent has, and each of its children."""
    found = {}
    for pid in (server.pid, *server.processes()):
        with suppress(OSError):  # it has ended meanwhile
            found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


def no_more_files(server: Server, before: dict[int, int]) -> None:
    """Wait until the parent has as few as before, and no child that is still there more than any had before."""

    def none() -> bool:
        now, own, most = open_files(server), server.pid, max(before.values())
        return now[own] <= before[own] and all(now.get(pid, 0) <= most for pid in before)

    poll_until(none, lambda: f"no more descriptors than {before}: {open_files(server)}")


# Lines below the level of an error; and corrections of the configuration, as a terminal shows them.
GOOD = re.compile(
    r"\[[^\]]+\] \[\w+:(?!error|crit|alert|emerg)\w+\] \[pid \d+:tid \d+\] .*|mpmkit: (AH|\w+_module is ).*"
)
# Errors of clients: what was asked for is not to be had.
CLIENTS = re.compile(r"\[client [^]]+\] (AH00135|AH10244|AH01630|AH00132|AH0003[567]|AH01276): ")

# Every worker was busy when the parent looked, once a second: a report, and not of a server's error.
FULL = re.compile(r"\] AH00(16[12]|28[67]|48[45]): ")

# Lines of a server's error log that a test has seen.
_taken: WeakKeyDictionary[Server, int] = WeakKeyDictionary()


def take_errors(server: Server) -> list[str]:
    """The error log's errors since the last call: what is worse than a warning, and what is no log line."""
    text = server.error_log() + "\n" * (not server.running)  # else its last line may be half
    lines = text.rpartition("\n")[0].splitlines()
    new, _taken[server] = lines[_taken.get(server, 0) :], len(lines)
    harmless = CLIENTS.search, FULL.search, GOOD.fullmatch
    return [line for line in new if not any(matches(line) for matches in harmless)]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "mpmkit", *args]


def environment(**more: str) -> dict[str, str]:
    """For a process started elsewhere: the same package, wherever the tests were started from."""
    package = str(Path(mpmkit.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more


def ran(*argv: str, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """A program, or this Python with options, run to its end; stderr is empty where it succeeds."""
    command = argv if argv[0][:1] != "-" else (sys.executable, *argv)
    how = {"capture_output": True, "text": True, "timeout": 60, "env": environment(**more)}
    done = subprocess.run(command, **how)
    assert done.returncode == status and (status or not done.stderr), done.stderr
    return done


class Serve:
    """`mpmkit serve …` as a command in a terminal would be: a session and process group of its own. `ready` waits
    for the line with the URL, `finish` for the end; what was printed is in `out` and `err`."""

    def __init__(self, *args: str, descriptors: int | None = None) -> None:
        self._err = tempfile.TemporaryFile()
        argv = command("serve", *args)
        if descriptors is not None:
            # By the shell: this process, with a whole test run behind it, may have more open itself.
            argv = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *argv]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": self._err}
        self.process = subprocess.Popen(argv, **pipes, env=environment(), start_new_session=True)
        self.pid = self.process.pid
        self.out, self.url = b"", ""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def err(self) -> str:
        return os.pread(self._err.fileno(), 1 << 20, 0).decode()

    def ready(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.out += line
        assert line.startswith((b"ready http://", b"ready https://")), (line, self.err)
        self.url = line.split()[1].decode()
        return self

    def finish(self, within: float = 10.0) -> int:
        assert self.process.stdout is not None
        status = self.process.wait(patience(within))
        self.out += self.process.stdout.read()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._err.close()
