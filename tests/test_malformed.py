"""Malformed requests against each MPM, all kinds at the same time.

In any case the client gets one clean error page and a close, or a close without an answer where httpd
sends none either; the worker is idle again, and the next client is served.
"""

import pytest
from support.client import Client, at_once, get, read_reply
from support.malformed import BROKEN_OFF, CHUNKED, GET, HOST, REFUSED, field, host, line, target


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
    (line(b"GARBAGE"), 400), (GET + b"\r\n", 400), (target(b"/.."), 400), (CHUNKED + b"xyz\r\n", 400),
    (line(b"BREW / HTTP/1.1"), 501),
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


def test_error_pages_do_not_repeat_what_was_sent(server):
    mark = b"<script>alert(1)</script>"
    sent = (target(b"/" + mark), host(mark), field(mark), line(mark), target(b"/%3cscript%3e"))
    for data in sent:
        with Client(server) as client:
            client.send(data)
            assert b"script" not in client.reply().body
