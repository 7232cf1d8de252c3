"""Nothing that one request, one script or one client does ends a process that serves others; before the first
request, nothing of the site runs at all. Of malformed requests, all kinds at the same time, the client gets one
clean error page and a close, or a close without an answer where httpd sends none either."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.client import Client, at_once, exchange, get, read_reply, request
from support.files import conf, program, section, tree
from support.malformed import BROKEN_OFF, CHUNKED, FIELD, GET, HOST, LINE, NAMED, REFUSED, TARGET
from support.servers import serving, take_errors
from support.waiting import poll_until

from mpmkit.http.messages import LONGEST, whole_number

DIGITS = b"9" * 4400  # int() refuses more than 4,300 of them
ZEROS = b"0" * 4400

TO_A = b" HTTP/1.1\r\nHost: a"
LONG_NUMBERS = {
    "port of Host": (b"GET /" + TO_A + b":" + DIGITS, 400),
    "port of the target": (b"GET http://a:" + DIGITS + b"/" + TO_A, 400),
    "a port after zeros": (b"GET /" + TO_A + b":" + ZEROS + b"80", 200),
    "Content-Length": (b"GET /" + TO_A + b"\r\nContent-Length: " + DIGITS, 400),
    "chunk size":
        (b"POST /" + TO_A + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 4400, 400),
    "first byte of a Range": (b"GET /" + TO_A + b"\r\nRange: bytes=" + DIGITS + b"-", 200),
    "last byte of a Range": (b"GET /" + TO_A + b"\r\nRange: bytes=0-" + DIGITS, 200),
    "last bytes of a Range": (b"GET /" + TO_A + b"\r\nRange: bytes=-" + DIGITS, 200),
    "refresh": (b"GET /server-status?refresh=" + DIGITS + TO_A, 200),
    "version": (b"GET / HTTP/1." + DIGITS + b"\r\nHost: a", 400),
    "If-Modified-Since":
        (b"GET /" + TO_A + b"\r\nIf-Modified-Since: Sun, 06 Nov " + DIGITS + b" 08:49:37 GMT", 200),
}  # fmt: skip


def test_a_number_of_any_length_ends_no_process(server):
    before = server.processes()
    for case, (sent, status) in LONG_NUMBERS.items():
        answer = exchange(server, sent + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status), (case, answer[:60])
    assert get(server, "/").status == 200
    assert set(before) <= set(server.processes())


@given(st.integers(0, 1 << 70), st.integers(0, LONGEST), st.integers(0, 30))
def test_whole_numbers(value, most, zeros):
    text = "0" * zeros + str(value)
    expected = value if value <= most else None
    assert whole_number(text, most) == whole_number(text.encode(), most) == expected


ENDS = "SystemExit KeyboardInterrupt GeneratorExit CancelledError BaseException MemoryError Untold".split()
RAISING = """
import asyncio
class Untold(Exception):
    @property
    def __notes__(self):
        raise SystemExit("what the traceback module does not expect")
RAISED = {e.__name__: e for e in (SystemExit, KeyboardInterrupt, GeneratorExit,
                                  asyncio.CancelledError, BaseException, MemoryError, Untold)}

class Pieces:
    def __init__(self, where, error):
        self.where, self.error = where, error
    def __iter__(self):
        for here in ("first", "second"):
            if self.where == here:
                raise self.error
            yield b"piece"
    def close(self):
        if self.where == "close":
            raise self.error

def application(environ, start_response):
    where, name = environ["QUERY_STRING"].split("=")
    if where == "call":
        raise RAISED[name]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Pieces(where, RAISED[name])
"""


@pytest.mark.parametrize("where", ["call", "first", "second", "close"])
def test_whatever_an_application_raises_the_process_goes_on(raising, where):
    before = raising.processes()
    for name in ENDS:
        reply = exchange(raising, request(f"/raise.py?{where}={name}", close=True))
        assert reply.startswith(b"HTTP/1.1 500 ") == (where in ("call", "first")), reply
        errors = poll_until(lambda: take_errors(raising), what="logged")
        shown = "traceback cannot be written" if name == "Untold" else name
        assert any(shown in error for error in errors)
    assert get(raising, "/").status == 200
    assert set(before) <= set(raising.processes())


@pytest.fixture(scope="module")
def raising(mpm, tmp_path_factory):
    site = tree(tmp_path_factory.mktemp("raising"), {"raise.py": RAISING, "index.html": "here"})
    with serving(mpm, document_root=site) as server:
        yield server


def test_a_child_that_fails_in_its_first_second_is_replaced(mpm, tmp_path):
    faulty = """
def application(environ, start_response):
    import mpmkit.server.connection
    def closes(conn):
        raise ValueError("a fault of the server's own")
    mpmkit.server.connection.Connection.lingering_close = closes
    mpmkit.server.connection.Connection.client_is_done = closes
    start_response("200 OK", [])
    return [b"done"]
"""
    site = tree(tmp_path, {"fault.py": faulty, "index.html": "here"})
    pool = {"StartServers": 1} | ({"MinSpareServers": 1} if mpm == "prefork" else {})
    with serving(mpm, document_root=site, **pool) as server:
        first = set(server.processes())
        exchange(server, b"GET /fault.py HTTP/1.0\r\n\r\n")
        exchange(server, b"GET / HTTP/1.0\r\n\r\n")
        poll_until(lambda: not first & set(server.processes()), what="the child is gone")
        assert get(server, "/").status == 200
        errors = poll_until(lambda: take_errors(server), what="it is logged")
        assert any("a fault of the server's own" in error for error in errors)
        assert not any("AH02324" in error or "AH02325" in error for error in errors)


def test_a_child_ends_as_it_may_the_server_goes_on(mpm, tmp_path):
    """Statuses that a child has for the parent, when a script ends it; a signal without a name."""
    ending = """
import os
def application(environ, start_response):
    kind, number = environ["QUERY_STRING"].split("=")
    os._exit(int(number)) if kind == "exit" else os.kill(os.getpid(), int(number))
"""
    site = tree(tmp_path, {"end.py": ending, "index.html": "here"})
    with serving(mpm, document_root=site) as server:
        for how in ("exit=15", "exit=7", "exit=1", f"kill={signal.SIGRTMIN + 1}"):
            before = server.processes()
            exchange(server, request(f"/end.py?{how}"))
            poll_until(lambda: set(before) - set(server.processes()), what="one has ended")  # noqa: B023
            poll_until(lambda: get(server, "/").status == 200, what="others serve")
        poll_until(lambda: "ended by signal SIGRT (35)" in server.error_log(), what="it is named")


@pytest.mark.parametrize("lines", [
    ("Alias /cgi {0}/cgi", "WSGIScriptAlias /mark {0}/mark.wsgi", "ScriptAlias /bin {0}/cgi/",
     "AddHandler wsgi-script .py", "DirectoryIndex mark.py", "ErrorDocument 404 /mark.py",
     section("Location /set", "SetHandler wsgi-script")),
    ("SetHandler wsgi-script",), ("WSGIScriptAlias / {0}/mark.wsgi",),
], ids=["aliases", "handler", "root"])  # fmt: skip
def test_nothing_of_the_site_runs_before_the_first_request(mpm, tmp_path, lines):
    marks = """
import os, pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
def application(environ, start_response):
    pathlib.Path(__file__).with_suffix(".called").touch()
    os._exit(0)
"""
    site = tree(tmp_path / "site", dict.fromkeys(("mark.wsgi", "mark.py", "index.html"), marks))
    for name in ("index.html", "missing"):
        program(site / "cgi" / name, f"#!/bin/sh\ntouch {site}/cgi.called\n")
    before = set(site.rglob("*"))
    with serving(mpm, document_root=site, conf=conf(*(line.format(site) for line in lines))):
        assert set(site.rglob("*")) == before


@pytest.fixture(scope="module")
def directives():
    return {"LimitRequestBody": 1_000_000_000, "Timeout": 5}


def test_a_malformed_request_is_refused_and_the_server_goes_on(server):
    def ask(number: int) -> None:
        data, status = REFUSED[number]
        with Client(server) as client:
            client.send(data)
            if status is None:
                client.half_close()
            answer = client.until_closed(20.0)
        reply, what = read_reply(answer), repr(data)[:80]
        got = (reply.status, reply["Connection"], reply.size, reply["Content-Type"])
        assert got == (status or 400, "close", len(answer), "text/html; charset=iso-8859-1"), what
        assert int(reply["Content-Length"]) == len(reply.body) > 50, what

    at_once(ask, len(REFUSED))
    assert get(server).status == 200
    # Error pages do not repeat what was sent.
    mark = b"<script>alert(1)</script>"
    sent = [form % mark for form in (TARGET % b"/%b", NAMED, FIELD, LINE)]
    for data in (*sent, TARGET % b"/%3cscript%3e"):
        with Client(server) as client:
            assert b"script" not in client.ask(data).body


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_request_that_breaks_off_gets_no_page(server, vanishes):
    """As httpd: 400 once the request line is whole, no answer before."""

    def ask(number: int) -> None:
        data = BROKEN_OFF[number]
        with Client(server) as client:
            client.send(data)
            if not vanishes:
                client.half_close()
                whole_line = b"\r\n" in data.lstrip(b"\r\n")
                answer = client.until_closed(20.0)
                assert answer[:13] == (b"HTTP/1.1 400 " if whole_line else b""), data

    at_once(ask, len(BROKEN_OFF))
    assert get(server).status == 200


@pytest.mark.parametrize("data, status", [
    (LINE % b"GARBAGE", 400), (GET + b"\r\n", 400), (TARGET % b"/..", 400), (CHUNKED + b"xyz\r\n", 400),
    (LINE % b"BREW / HTTP/1.1", 501),
])  # fmt: skip
def test_after_good_requests_the_bad_one_is_the_last(server, data, status):
    """Kept alive and pipelined: the requests before it are answered, those after it are not."""
    good = GET + HOST + b"\r\n"
    with Client(server) as client:
        assert client.ask(good).status == 200
        client.send(good + data + good)
        assert client.reply().status == 200
        reply = client.reply()
        assert (reply.status, reply["Connection"]) == (status, "close")
        assert client.until_closed(4.0) == b""
