"""The FastCGI client: records as bytes, a backend that does whatever a test wants, and a real php-fpm.

The backend of most tests reads records with the functions under test, which agree with the specification's bytes
and with a real php-fpm. What does not depend on the MPM is tried under event alone.
"""

import io
import itertools
import os
import re
import shutil
import socketserver
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from support import servers
from support.calls import refused
from support.client import Client, asked, at_once, exchange, get, request
from support.files import conf, open_to_all, section, tree, write
from support.servers import no_more_files, one_child, open_files, serving
from support.waiting import poll_until

import mpmkit
from mpmkit.handlers import fastcgi as fcgi
from mpmkit.handlers.fastcgi import FastCgiError, pairs, read_records, record
from mpmkit.launcher import LaunchError
from mpmkit.measure.competitors import PhpFpm, find_php_fpm
from mpmkit.measure.reference_servers import NotInstalled

mpm = servers.prefork_and_event
END = record(fcgi.END_REQUEST, struct.pack(">IB3x", 0, 0))


def read_pairs(data: bytes) -> dict[str, str]:
    """The parameters of a request, read as the specification has them."""
    found, rest = {}, io.BytesIO(data)

    def size() -> int:
        first = rest.read(1)
        return first[0] if first < b"\x80" else int.from_bytes(first + rest.read(3)) & 0x7FFFFFFF

    while rest.tell() < len(data):
        name, value = (rest.read(length).decode("latin-1") for length in [size(), size()])
        found[name] = value
    return found


def requests_in(pieces: Iterable[bytes]) -> Iterator[tuple[bool, dict[str, str], bytes]]:
    """Of each request: whether the connection is to be kept, parameters, body."""
    data, params, body, keep = b"", b"", b"", False
    for piece in pieces:
        records, data = read_records(data + piece)
        for kind, _, content in records:
            if kind == fcgi.BEGIN_REQUEST:
                params, body, keep = b"", b"", bool(content[2] & fcgi.KEEP_CONN)
            elif kind == fcgi.PARAMS:
                params += content
            elif content:
                body += content
            else:
                yield keep, read_pairs(params), body


def test_the_bytes_of_the_specification():
    assert fcgi.stream(fcgi.STDIN, b"", end=True) == b"\1\5\0\1\0\0\0\0"
    assert fcgi.begin(True) == b"\1\1\0\1\0\10\0\0\0\1\1\0\0\0\0\0"
    assert record(fcgi.STDOUT, b"abc", 258) == b"\1\6\1\2\0\3\5\0abc\0\0\0\0\0"
    assert pairs([(b"a", b"x" * 128)]) == b"\1\x80\0\0\x80a" + b"x" * 128
    refused(FastCgiError, "FastCGI", read_records, b"\2\6\0\1\0\0\0\0")


class Fake(socketserver.ThreadingUnixStreamServer):
    """A backend on a unix socket. `answers` is called for each request, with the connection, the
    parameters and the body, and may do what it likes; True: wait for another on this connection."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, path, answers):
        super().__init__(str(path), None)
        self.answers, self.requests, self.connections, self.open = answers, [], [], set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def process_request_thread(self, conn, address):
        self.connections.append(conn)
        self.open.add(conn)
        with conn, suppress(OSError):
            for self.keep, params, body in requests_in(iter(partial(conn.recv, 65536), b"")):
                self.requests.append(params)
                if not self.answers(conn, params, body):
                    break
        self.open.remove(conn)

    def server_close(self):
        self.shutdown()
        super().server_close()


def out(data, *, end=True):
    """A backend's output, and the request's end."""
    return fcgi.stream(fcgi.STDOUT, data, end=end) + (END if end else b"")


def errors_of(server):
    return "\n".join(servers.take_errors(server))


@contextmanager
def backend(mpm, tmp_path, answers, *lines, keep=False, **options):
    """(server, fake): every .fake path is the fake's to answer."""
    (tmp_path / "root").mkdir(exist_ok=True)
    handler = f"proxy:unix:{tmp_path}/sock|fcgi://localhost"
    lines = (f'AddHandler "{handler}" .fake', *lines)
    if keep:
        lines += ("ProxySet fcgi://localhost enablereuse=on",)
    options |= {"document_root": tmp_path / "root", "directives": lines}
    with Fake(tmp_path / "sock", answers) as fake, serving(mpm, **options) as server:
        yield server, fake


def echo(conn, params, body):
    conn.sendall(out(b"Content-Type: text/plain\r\n\r\n" + body))
    return True


def once(conn, params, body):
    conn.sendall(out(b"\r\n" + body))


def test_what_a_backend_is_told_and_complains_of(tmp_path):
    def complains(conn, params, body):
        for piece in (b"PHP message: a", b"nd b\ntwo"):
            conn.sendall(record(fcgi.STDERR, piece))
        echo(conn, params, body)

    with backend("event", tmp_path, complains) as (server, fake):
        reply = get(server, "/a.fake/pi?x=1", method="POST", body=b"abc")
        assert (reply.status, reply.body, reply["Content-Type"]) == (200, b"abc", "text/plain")
        assert reply["Content-Length"] == "3"
        expected = {
            "SCRIPT_FILENAME": f"{tmp_path}/root/a.fake", "SCRIPT_NAME": "/a.fake", "PATH_INFO": "/pi",
            "REQUEST_METHOD": "POST", "QUERY_STRING": "x=1", "CONTENT_LENGTH": "3",
            "REQUEST_URI": "/a.fake/pi?x=1",
        }  # fmt: skip
        assert expected.items() <= fake.requests[0].items()
        assert not fake.keep, "connections are kept only when ProxySet says so"
        said = re.findall("AH01071: (.*)", errors_of(server))
        assert said == ["Got error 'PHP message: and b'", "Got error 'two'"]


def test_a_link_out_of_the_root_is_not_run(tmp_path):
    """As CGI's. A file that is not here is the backend's to find."""
    elsewhere = tree(tmp_path / "elsewhere", {"a.fake": ""})
    root = tree(tmp_path / "root", {
        "in.fake": "", "notes.txt": "", "out.fake": elsewhere / "a.fake", "gone.fake": elsewhere / "nothing",
        "folder": elsewhere, "same.fake": Path("in.fake"),
    })  # fmt: skip
    with backend("event", tmp_path, echo) as (server, fake):
        for path, status in [
            ("in.fake", 200), ("same.fake", 200), ("remote.fake", 200), ("in.fake/pi", 200),
            ("out.fake", 403), ("out.fake/pi", 403), ("folder/a.fake", 403), ("gone.fake", 403),
            ("folder/none.fake", 403), ("notes.txt/x.fake", 404),
        ]:  # fmt: skip
            for _ in range(2):
                assert get(server, f"/{path}").status == status, path
        (root / "same.fake").unlink()  # a link that is turned is looked at again
        (root / "same.fake").symlink_to(elsewhere / "a.fake")
        assert get(server, "/same.fake").status == 403
        assert len(fake.requests) == 8
        assert "is a link that leads out of" in errors_of(server)


def test_sections_name_backends(tmp_path):
    tree(tmp_path / "root", dict.fromkeys(("index.page", "notes.txt"), "<?php not for php ?>"))
    handler = f'SetHandler "proxy:unix:{tmp_path}/sock|fcgi://localhost"'
    sections = [section(one, handler) for one in ('FilesMatch "\\.page$"', "Location /all")]
    file = conf("DirectoryIndex index.page", *sections)
    with backend("event", tmp_path, echo, conf=file) as (server, fake):
        for path, name, info in [
            ("/x.page", "/x.page", ""), ("/x.page/i/j", "/x.page", "/i/j"), ("/", "/index.page", ""),
            ("/all/x/y", "/all", "/x/y"),
        ]:  # fmt: skip
            assert get(server, path).status == 200
            given = fake.requests.pop()
            assert (given["SCRIPT_NAME"], given.get("PATH_INFO", "")) == (name, info)
        # Below a file there is no script, and the backend is not asked to look for one.
        for path in ("/x.txt", "/notes.txt/x.page", "/notes.txt/x.page/more", "/no/x.page"):
            assert get(server, path).status == 404
        assert not fake.requests


def test_bodies_and_pieces(mpm, tmp_path):
    """A short chunked body has a length. Pieces come as they are made."""
    big, gate = bytes(range(256)) * 4000, threading.Event()

    def answers(conn, params, body):
        if params["QUERY_STRING"] != "slow":
            return echo(conn, params, body)
        conn.sendall(out(b"\r\nfirst", end=False))
        assert gate.wait(10)
        conn.sendall(out(b"second"))
        return True

    with backend(mpm, tmp_path, answers, keep=True) as (server, fake), Client(server) as client:
        assert client.get("/a.fake").body == b""
        assert client.get("/a.fake", method="POST", body=big).body == big
        for body, length in [(b"", "0"), (b"abc", "3"), (big[:16384], "16384"), (big, None)]:
            reply = client.get("/a.fake", method="POST", body=(body,))
            assert reply.body == body and fake.requests[-1].get("CONTENT_LENGTH") == length
        assert client.get("/a.fake", method="HEAD").body == b""
        client.send(request("/a.fake?slow")).until(b"first")
        gate.set()
        assert client.reply().body == b"firstsecond"
        assert fake.keep


@pytest.mark.parametrize("answers, keep, least, most", [
    (echo, True, 1, 19), (once, False, 20, 20),
    (once, True, 20, 20),  # closed though it was asked to stay: that is noticed before the next request
], ids=["kept", "not kept", "stale"])  # fmt: skip
def test_connections_are_used_again(mpm, tmp_path, answers, keep, least, most):
    with backend(mpm, tmp_path, answers, keep=keep) as (server, fake), Client(server) as client:
        for number in range(20):
            body = b"%d" % number * 1000
            assert client.get("/a.fake", method="POST", body=body).body == body
            poll_until(lambda: answers is echo or not fake.open, what="the backend has closed")
        assert least <= len(fake.connections) <= most


def test_a_connection_that_dies_when_it_is_used(tmp_path):
    """The request was read, and nothing came back: it may have been carried out, and is not repeated."""
    turn = itertools.count(1)

    def dies(conn, params, body):
        if odd := next(turn) % 2:  # else it ends without an answer
            conn.sendall(out(b"\r\n" + body))
        return odd

    one = one_child("event", threads=1)
    with backend("event", tmp_path, dies, keep=True, **one) as (server, _):
        with Client(server) as client:
            got = [client.get("/a.fake", method="POST", body=b"1").status for _ in range(8)]
        assert got == [200, 502] * 4 and next(turn) == 9
        assert errors_of(server).count("AH01067") == 4


SOME = out(b"\r\nsome", end=False)
BAD = {  # status, a word of the error log, what is sent; a silent one stays
    "dies": (502, "AH01067", b""), "half": (502, "AH01067", record(fcgi.STDOUT, b"Content-Type: te")),
    "garbage": (502, "AH01068", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "silent": (504, "AH01075", b""),
    "overloaded": (503, "AH01075", record(fcgi.END_REQUEST, b"\0\0\0\0\2\0\0\0")),
    "multiplex": (502, "AH01075", record(fcgi.END_REQUEST, b"\0\0\0\0\1\0\0\0")),
    "other": (502, "AH01068", record(fcgi.STDOUT, b"\r\n", 9)),
    "headless": (500, "AH01070", out(b"")), "badhead": (500, "malformed header", out(b"no colon\r\n\r\n")),
    "longhead": (500, "AH01070", out(b"X: 1234567\r\n" * 10_000 + b"\r\n")),
    # After the head only the connection's end can show it.
    "cut-later": (200, "AH01067", SOME), "silent-later": (200, "AH01075", SOME),
    "long": (200, "Content-Length", out(b"Content-Length: 4\r\n\r\nsomething", end=False)),
    "short": (200, "Content-Length", out(b"Content-Length: 6\r\n\r\nsome")),
}  # fmt: skip


def test_bad_backends(tmp_path):
    gone = threading.Event()

    def answers(conn, params, body):
        how = params["QUERY_STRING"]
        conn.sendall(BAD[how][2] if how else out(b"\r\nfine"))
        if "silent" in how:
            gone.wait(10)

    def ask(number: int) -> bytes:
        return exchange(server, request(f"/a.fake?{list(BAD)[number]}", close=True))

    missing = f"unix:{tmp_path}/none|fcgi://localhost", "fcgi://127.0.0.1:1", "fcgi://[::1]:1/x"
    lines = [f'AddHandler "proxy:{place}" .gone{n}' for n, place in enumerate(missing)]
    with backend("event", tmp_path, answers, *lines, ProxyTimeout=3) as (server, _):
        assert {get(server, f"/a.gone{n}").status for n in range(len(missing))} == {503}
        assert server.error_log().count("AH01079: failed to make connection to backend") == 3
        replies = at_once(ask, len(BAD))
        said, words = errors_of(server), [word for _, word, _ in BAD.values()]
        for data, (how, (status, word, _)) in zip(replies, BAD.items(), strict=True):
            assert data.startswith(b"HTTP/1.1 %d" % status), how
            if status == 200:
                assert not data.endswith(b"0\r\n\r\n"), how
                assert b"some" in data and b"something" not in data, how
            assert said.count(word) >= words.count(word), (how, said)
        gone.set()
        assert get(server, "/a.fake").body == b"fine"


def test_many_at_once_and_a_client_that_leaves_hold_nothing(mpm, tmp_path):
    def answers(conn, params, body):
        conn.sendall(out(b"\r\n" + body, end=bool(body)))
        while not body:
            conn.sendall(out(b"x" * 10_000, end=False))

    def client(number):
        for _ in range(5):
            assert get(server, "/a.fake", method="POST", body=b"%d" % number).body == b"%d" % number

    with backend(mpm, tmp_path, answers) as (server, fake):
        at_once(client, 10)
        before = open_files(server)
        at_once(client, 10)
        with asked(server, "/a.fake") as leaving:
            leaving.receive()
        poll_until(lambda: not fake.open, "the backend's connection is closed")
        no_more_files(server, before)


@pytest.mark.parametrize("line, said", [
    *((f'SetHandler "proxy:{place}"', "names no backend") for place in ("unix:relative|fcgi://localhost", "fcgi://")),
    *((f"Proxy{line}", "Proxy") for line in (
        "Set fcgi://localhost", "Set fcgi://localhost reuse=on", "Set fcgi://localhost max=0", "Timeout -1")),
])  # fmt: skip
def test_bad_directives_stop_the_start(line, said):
    refused(LaunchError, said, mpmkit.launch, "event", directives=(line,))


@pytest.fixture(scope="module")
def fpm():
    try:
        find_php_fpm()
    except NotInstalled as error:
        pytest.skip(str(error))
    with PhpFpm(children=4) as fpm:
        yield fpm
        children = fpm.processes()
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}/exe")]
    assert not fpm.root.name


@pytest.mark.rival
def test_php_fpm_runs_the_sample(mpm, fpm, tmp_path):
    from mpmkit.cli.serve import SAMPLES

    root = tmp_path / "root"
    shutil.copytree(SAMPLES, root)
    write(root / "far.php", '<?php header("HTTP/1.1 418 Teapot"); header("X-A: b");')
    write(root / "dies.php", '<?php echo getmypid(), " "; flush(); sleep(20);')
    open_to_all(tmp_path)  # php-fpm's children are another user's
    with serving(mpm, document_root=root, directives=fpm.directives()) as server:
        with Client(server) as client:
            for _ in range(5):
                reply = client.get("/hello.php")
                assert (reply.status, reply.body) == (200, b"hello world")
            far = client.get("/far.php")
            assert (far.status_line, far["X-A"]) == ("HTTP/1.1 418 Teapot", "b")
        assert get(server, "/none.php").status == 404
        assert "Primary script unknown" in errors_of(server)
        with asked(server, "/dies.php") as client:
            os.kill(int(client.until(b" \r\n").split()[-1]), 9)
            assert not client.until_closed().endswith(b"0\r\n\r\n")
        assert "closed the connection within its answer" in errors_of(server)
        for _ in range(8):
            assert get(server, "/hello.php").body == b"hello world"
