"""Nothing that one request, one script or one client does ends a process that serves others."""

import itertools
import re
import signal

import pytest
from support.client import Client, at_once, exchange, get, read_reply, request
from support.files import conf, program, section, tree
from support.malformed import BROKEN_OFF, FIELD, GET, HOST, LINE, NAMED, REFUSED, TARGET
from support.servers import SMALL, serving, take_errors
from support.waiting import poll_until

from mpmkit.http.messages import whole_number

OPTIONS = {"LimitRequestBody": 1_000_000_000, "Timeout": 5}
# int() refuses more than 4,300 digits: {9}, {0} and {f} are 4,400 of them.
LONG_NUMBERS = {
    "GET / HTTP/1.1|Host: a:{9}": 400, "GET http://a:{9}/ HTTP/1.1|Host: a": 400,
    "GET / HTTP/1.1|Host: a:{0}80": 200, "GET / HTTP/1.1|Host: a|Content-Length: {9}": 400,
    "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||{f}": 400,
    **{f"GET / HTTP/1.1|Host: a|Range: bytes={of}": 200 for of in ("{9}-", "0-{9}", "-{9}")},
    "GET /server-status?refresh={9} HTTP/1.1|Host: a": 200, "GET / HTTP/1.{9}|Host: a": 400,
    "GET / HTTP/1.1|Host: a|If-Modified-Since: Sun, 06 Nov {9} 08:49:37 GMT": 200,
}  # fmt: skip


def test_a_number_of_any_length_ends_no_process(server):
    before = server.processes()
    for case, status in LONG_NUMBERS.items():
        sent = re.sub(r"\{(.)\}", lambda digit: digit[1] * 4400, case).replace("|", "\r\n")
        answer = exchange(server, f"{sent}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status), (case, answer[:60])
    assert get(server, "/").status == 200
    assert set(before) <= set(server.processes())
    assert [whole_number(digits, 70) for digits in ("0070", b"71")] == [70, None]


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


def test_whatever_an_application_raises_the_process_goes_on(mpm, tmp_path):
    site = tree(tmp_path, {"raise.py": RAISING, "index.html": "here"})
    with serving(mpm, document_root=site) as server:
        before = server.processes()
        for where, name in itertools.product(("call", "first", "second", "close"), ENDS):
            reply = exchange(server, request(f"/raise.py?{where}={name}", close=True))
            failed = where in ("call", "first")
            assert reply.startswith(b"HTTP/1.1 500 ") == failed, (where, reply)
            errors = poll_until(lambda: take_errors(server), what="logged")
            shown = "traceback cannot be written" if name == "Untold" else name
            assert any(shown in error for error in errors), (where, name)
        assert get(server, "/").status == 200
        assert set(before) <= set(server.processes())


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
    idle = 2 * SMALL[mpm].get("ThreadsPerChild", 1)
    spare = {} if mpm == "prefork" else {"MinSpareThreads": idle}
    with serving(mpm, document_root=site, **spare) as server:
        for how in ("exit=15", "exit=7", "exit=1", f"kill={signal.SIGRTMIN + 1}"):
            # As in httpd, a sick child (7) while no other serves would end the server.
            poll_until(lambda: server.scoreboard().count("_") >= idle, what="both serve")
            before = server.processes()
            exchange(server, request(f"/end.py?{how}"))
            poll_until(lambda: set(before) - set(server.processes()), what="one has ended")  # noqa: B023
            assert get(server, "/").status == 200, "others serve"
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


def test_a_malformed_request_is_refused_as_the_last_and_the_server_goes_on(server):
    good = GET + HOST + b"\r\n"

    def ask(number: int) -> None:
        data, status = REFUSED[number]
        with Client(server) as client:
            if number % 2 and data[:1] not in b"\r\n":  # after a request blank lines are skipped
                assert client.ask(good).status == 200
            client.send(data + good * (status is not None))
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


def test_a_request_that_breaks_off_gets_no_page(server):
    """As httpd: 400 once the request line is whole, no answer before."""

    def ask(number: int) -> None:
        data = BROKEN_OFF[number]
        with Client(server) as client:
            client.send(data).half_close()
            whole_line = b"\r\n" in data.lstrip(b"\r\n")
            assert client.until_closed(20.0)[:13] == (b"HTTP/1.1 400 " if whole_line else b""), data

    at_once(ask, len(BROKEN_OFF))
    assert get(server).status == 200
