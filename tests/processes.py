"""For the tests of running servers: start one, talk to it over plain sockets, watch its processes.

    with serve("event", ThreadsPerChild=4) as server:      a small pool over the test's own site
        client = Client(server)                            one connection
        client.get("/").body
        with Load(server, clients=8) as load: ...          many, in threads, until the block ends

No test here sleeps to let something happen: `until` polls for it, with a cap. Where something must
*not* happen, the client waits for it with a time-out, as a client would.

Every server is marked through its environment, so that `nothing_left` finds what a test leaves
behind even when the parent is gone, and never takes somebody else's server for ours.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mpmkit

MPMS = ("prefork", "worker", "event")
THREADED = ("worker", "event")

MARK = "MPMKIT_TEST_MARK"
PATIENCE = 10.0  # seconds for what takes milliseconds on a quiet machine

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, cap: float = PATIENCE, every: float = 0.01) -> T:
    """Poll until `condition()` is true and return it. `what` says what did not come."""
    end = time.monotonic() + cap
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {cap:g} s: {what} (last: {value!r})")
        time.sleep(every)


# --- The site ------------------------------------------------------------------------------------

BIG = b"".join(b"%08d\n" % i for i in range(0, 5_000_000, 9))[:5_000_000]

# Holds its worker until the file named by the query exists. The cap is for a test that failed.
GATE = """
import os, time

def application(environ, start_response):
    end = time.monotonic() + 30
    while not os.path.exists(environ["QUERY_STRING"]) and time.monotonic() < end:
        time.sleep(0.005)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

# The same without ever letting go of the interpreter: one long call of C code. No Python signal
# handler runs meanwhile, in any thread.
BUSY = """
def application(environ, start_response):
    sum(range(3_000_000_000))
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
"""

PID = """
import os

def application(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@cache
def site() -> Path:
    """A document root: index.html, big.bin, gate.py, busy.py, pid.py."""
    root = Path(tempfile.mkdtemp(prefix="mpmkit-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "index.html").write_bytes(b"<html><body><h1>It works!</h1></body></html>\n")
    (root / "big.bin").write_bytes(BIG)
    for name, text in (("gate.py", GATE), ("busy.py", BUSY), ("pid.py", PID)):
        (root / name).write_text(text)
    return root


class Gate:
    """What `/gate.py` waits for."""

    def __init__(self) -> None:
        self._file = site() / f"gate-{uuid.uuid4().hex}"
        self.path = f"/gate.py?{self._file}"

    def open(self) -> None:
        self._file.touch()


# --- Servers -------------------------------------------------------------------------------------

# Small pools that stay as they are, unless a test says otherwise: two or four children, idle ones
# within bounds, a little room to grow.
POOLS: dict[str, dict[str, Any]] = {
    "prefork": {
        "StartServers": 4, "MinSpareServers": 2, "MaxSpareServers": 8, "MaxRequestWorkers": 12,
    },
    "worker": {
        "StartServers": 2, "ThreadsPerChild": 4, "MinSpareThreads": 2, "MaxSpareThreads": 12,
        "MaxRequestWorkers": 12,
    },
    "event": {
        "StartServers": 2, "ThreadsPerChild": 4, "MinSpareThreads": 2, "MaxSpareThreads": 12,
        "MaxRequestWorkers": 12,
    },
}  # fmt: skip


def one_child(mpm: str, threads: int = 1) -> dict[str, Any]:
    """One child, and never another. (Under prefork that is one worker.)"""
    if mpm == "prefork":
        return {
            "StartServers": 1,
            "MinSpareServers": 1,
            "MaxSpareServers": 2,
            "MaxRequestWorkers": 1,
        }
    return {
        "StartServers": 1,
        "ThreadsPerChild": threads,
        "MinSpareThreads": 1,
        "MaxSpareThreads": 99,
        "MaxRequestWorkers": threads,
    }


def serve(mpm: str, *, pool: dict[str, Any] | None = None, **named: Any) -> mpmkit.Server:
    """`mpmkit.launch` over the test's site with a small pool. Options of `launch` pass through."""
    named.setdefault("document_root", site())
    return mpmkit.launch(mpm, **{**(POOLS[mpm] if pool is None else pool), **named})


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "mpmkit", *args]


def environment(**more: str) -> dict[str, str]:
    """For a process started elsewhere: the same package, wherever the tests were started from."""
    package = str(Path(mpmkit.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more


class Serve:
    """`mpmkit serve …` as a command in a terminal would be: a session and process group of its own.

    `ready` waits for the line that tells the URL; `finish` waits for the end and has what was
    printed in `out` and `err`.
    """

    def __init__(self, *args: str, descriptors: int | None = None) -> None:
        self._err = tempfile.TemporaryFile()
        argv = command("serve", *args)
        if descriptors is not None:
            # By the shell: this process, with a whole test run behind it, may have more open itself.
            argv = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *argv]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._err,
            env=environment(),
            start_new_session=True,
        )
        self.out = b""
        self.url = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def err(self) -> str:
        return os.pread(self._err.fileno(), 1 << 20, 0).decode()

    def ready(self) -> Serve:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.out += line
        assert line.startswith((b"ready http://", b"ready https://")), (line, self.err)
        self.url = line.split()[1].decode()
        return self

    def terminal(self, number: int) -> None:
        """A key of the terminal: the signal goes to every process of the group."""
        os.killpg(self.pid, number)

    def finish(self, within: float = PATIENCE) -> int:
        assert self.process.stdout is not None
        status = self.process.wait(within)
        self.out += self.process.stdout.read()
        return status

    def __enter__(self) -> Serve:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._err.close()


# --- Processes -----------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, parent's pid) of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, spaces and parentheses included.
    state, ppid = text.rpartition(")")[2].split()[:2]
    return state, int(ppid)


def alive(pid: int) -> bool:
    """Running or sleeping. A zombie is dead: it only waits for somebody to read its status.

    But the first thread of a process may be a zombie while others still hold its sockets.
    """
    stat = _stat(pid)
    if stat is None or stat[0] == "X":
        return False
    try:
        return stat[0] != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of(parent: int) -> list[int]:
    """Living children of a process, read from /proc: no server is asked."""
    return [pid for pid in _pids() if (stat := _stat(pid)) and stat[1] == parent and alive(pid)]


def marked(mark: str) -> list[int]:
    """Living processes that were started with `mark` in their environment."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        try:
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and alive(pid):
                found.append(pid)
        except (OSError, ProcessLookupError):
            pass  # gone meanwhile, or not ours to read
    return found


def all_gone(pids: list[int], what: str, cap: float = 5.0) -> None:
    until(lambda: not any(map(alive, pids)), f"{what}: all of {pids} gone", cap)


@contextmanager
def nothing_left(cap: float = 5.0) -> Iterator[None]:
    """Fails when a process started within still lives afterwards, and ends it.

    Also closes what sockets a failing test has left open.
    """
    mark = uuid.uuid4().hex
    before = os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield
        until(lambda: not marked(mark), "every server and child of this test ended", cap)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        while _clients:
            _clients.pop().close()
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before


# --- Clients -------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Lost(Exception):
    """The connection ended before the answer was whole. `started`: some of it had come."""

    def __init__(self, text: str, started: bool) -> None:
        super().__init__(text)
        self.started = started


def request(path: str = "/", *, close: bool = False, extra: str = "") -> bytes:
    last = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n{extra}{last}\r\n".encode()


_clients: list[Client] = []  # all of this test's, so that a failing one leaves no socket open


class Client:
    """One connection. `wait`: how long a read may take; `buffer`: the socket's receive buffer."""

    def __init__(
        self, server: Any, *, wait: float = PATIENCE, buffer: int = 0, port: int = 0
    ) -> None:
        self.sock = socket.socket()
        _clients.append(self)
        self._data = b""
        try:
            if buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.sock.settimeout(wait)
            self.sock.connect(("127.0.0.1", port or server.port))
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Client:
        self.sock.sendall(data)
        return self

    def get(self, path: str = "/", *, close: bool = False, extra: str = "") -> Answer:
        try:
            self.send(request(path, close=close, extra=extra))
        except OSError as error:
            raise Lost(str(error), started=False) from None
        return self.answer()

    def answer(self) -> Answer:
        """The next answer, whole. Raises Lost, or TimeoutError after `wait` seconds of silence."""
        while b"\r\n\r\n" not in self._data:
            self._more("within the head")
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers["content-length"])
        pieces = [self._data]
        missing = length - len(self._data)
        while missing > 0:
            self._data = b""
            self._more("within the body", started=True)
            pieces.append(self._data)
            missing -= len(self._data)
        body = b"".join(pieces)
        self._data = body[length:]
        return Answer(int(first.split()[1]), headers, body[:length])

    def _more(self, where: str, started: bool = False) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            raise
        except OSError as error:
            raise Lost(f"{error} {where}", started or bool(self._data)) from None
        if not data:
            raise Lost(f"closed {where}", started or bool(self._data))
        self._data += data

    def ended(self, within: float) -> float:
        """Wait for the server's FIN or reset, with no data before it; how many seconds it took."""
        began = time.monotonic()
        self.sock.settimeout(within)
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            raise AssertionError(f"the connection was still open after {within:g} s") from None
        except ConnectionResetError:
            data = b""
        assert not data, f"data instead of the connection's end: {data[:80]!r}"
        return time.monotonic() - began

    def silent(self, seconds: float) -> None:
        """Nothing comes from the server for so long, not even the connection's end."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            self.sock.settimeout(PATIENCE)
            return
        raise AssertionError(f"expected silence, got {data[:80]!r}")


def fetch(server: Any, path: str = "/", **options: Any) -> Answer:
    """One request over a connection of its own."""
    with Client(server, **options) as client:
        return client.get(path, close=True)


def half_sent(server: Any) -> Client:
    """A client in the middle of its request's head."""
    return Client(server).send(b"GET / HTTP/1.1\r\nHost: te")


FINISH = b"st\r\n\r\n"  # the other half


def parked(server: Any) -> Client:
    """A client that has had one answer and stays."""
    client = Client(server)
    answer = client.get("/")
    assert answer.status == 200 and not answer.closes
    return client


def refused(port: int) -> bool:
    """Does a new client get nowhere?"""
    with socket.socket() as sock:
        sock.settimeout(2)
        return sock.connect_ex(("127.0.0.1", port)) != 0


class Load:
    """Clients in threads, each asking for `path` again and again: until the block ends, or
    `requests` times each.

    keep_alive   stay on one connection while the server allows it
    retry        ask again after a connection error (what failed is still counted)

    answers      (status, body) of all that came whole
    failures     what went wrong, in words
    reopened     kept-alive connections that had ended before the next request: every client has to
                 expect that and ask again (RFC 9112, 9.3.1), so it is no failure
    """

    def __init__(
        self,
        server: Any,
        path: str = "/",
        *,
        clients: int = 6,
        keep_alive: bool = False,
        retry: bool = False,
        requests: int | None = None,
        seconds: float = 30.0,
    ) -> None:
        self._server = server
        self._path = path
        self._keep_alive = keep_alive
        self._retry = retry
        self._requests = requests
        self._end = time.monotonic() + seconds
        self._stop = threading.Event()
        self.answers: list[tuple[int, bytes]] = []
        self.failures: list[str] = []
        self.reopened = 0
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def join(self) -> Load:
        """Wait for clients that have a number of requests to make."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client did not come to an end"
        return self

    def wait_for(self, more: int) -> None:
        """Until so many more answers have come."""
        goal = len(self.answers) + more
        until(lambda: len(self.answers) >= goal, f"{more} more answers", 20)

    def _client(self) -> None:
        done = 0
        client: Client | None = None
        try:
            while not self._stop.is_set() and done != self._requests:
                if time.monotonic() > self._end:
                    break
                client = self._ask(client)
                done += 1
        finally:
            if client is not None:
                client.close()

    def _ask(self, client: Client | None) -> Client | None:
        """One request to its answer, or to its failure. The connection, if it can be used again."""
        for _ in range(20 if self._retry else 2):
            fresh = client is None
            try:
                if client is None:
                    client = Client(self._server)
                answer = client.get(self._path, close=not self._keep_alive)
            except (Lost, OSError) as error:
                if client is not None:
                    client.close()
                    client = None
                if not fresh and isinstance(error, Lost) and not error.started:
                    self.reopened += 1
                    continue
                self.failures.append(f"{type(error).__name__}: {error}")
                if self._retry:
                    continue
                return None
            if answer.status != 200:
                self.failures.append(f"status {answer.status}")
            self.answers.append((answer.status, answer.body))
            if answer.closes or not self._keep_alive:
                client.close()
                return None
            return client
        self.failures.append("gave up")
        return None
