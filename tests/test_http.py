"""HTTP as a client sees it: the same requests, byte for byte, that a real httpd was recorded with.

`data/raw` holds what httpd 2.4.71 answered. Each recording is sent to each MPM, and the answer must have the
same status, the same header names in the same order, the same values where they are not the server's own
(Date, Server, the wording of error pages), the same body and the same closing. Where we differ on purpose,
`DIFFERENCES` says how and why; nothing else may differ."""

import itertools
import re
import time
from contextlib import ExitStack, suppress

import pytest
from support.client import Client, Late, at_once, exchange, get, read_replies, read_reply, request
from support.files import conf, section
from support.recordings import DIFFERENCES, RAW, RECORDINGS, REPLAYED, compare
from support.servers import SMALL, assert_quiet, serving
from support.waiting import poll_until

from tests.fidelity.cases import ON_PURPOSE


@pytest.mark.parametrize("recording", REPLAYED, ids=repr)
def test_answers_as_httpd_did(server, recording):
    theirs = read_replies(recording.response, *recording.methods)
    kept = recording.closed_after is None or recording.closed_after > 4
    with Client(server) as client:
        if recording.request:
            client.send(recording.request)
        else:
            client.half_close()
        if kept:
            ours = [client.reply(method) for method in recording.methods]
            assert client.get().body == b"0123456789abcdefghijklmnopqrstuvwxyz\n"
            assert client.is_open() and not client.buffer
        else:
            # Well before KeepAliveTimeout: the server closes because of this request.
            ours = read_replies(client.until_closed(), *recording.methods)
    assert len(ours) == len(theirs)
    for our_reply, their_reply in zip(ours, theirs, strict=True):
        compare(our_reply, their_reply, DIFFERENCES.get(recording.name))


def test_the_table_of_differences_is_honest():
    assert all(name in RECORDINGS and f"http/{name}" in ON_PURPOSE for name in DIFFERENCES)
    assert len(REPLAYED) > 60


def recorded_limits() -> dict[str, str]:
    """`limits-boundary.txt` as {what: status line}."""
    parts = re.split(r"\n| \| ", (RAW / "limits-boundary.txt").read_text().strip())
    return dict(part.rsplit(": ", 1) for part in parts)


def line_of(length: int) -> bytes:
    return request("/" + "a" * (length - len("GET / HTTP/1.1")))


def header_of(length: int, *more: str) -> bytes:
    return request("/", "X: " + "a" * (length - 3), *more)


def fields(count: int) -> bytes:
    return request("/", *(f"H{n}: v" for n in range(count - 1)))


BOUNDARIES = {
    **{f"request line of {n} chars + CRLF (one send)": line_of(n) for n in range(8189, 8194)},
    **{f"header line of {n} chars + CRLF": header_of(n) for n in range(8189, 8193)},
    **{f"{n} header fields": fields(n) for n in (99, 100, 101)},
    **{f"{n} leading blank lines": b"\r\n" * n + request("/") for n in range(9, 13)},
    "two same-name headers merging to 9000 bytes": header_of(4503, "X: " + "b" * 4498),
    "filename of 256 chars": request("/" + "a" * 256), "255": request("/" + "a" * 255),
    "/file.txt/extra path info": request("/file.txt/extra"),
    **{one: request(one) for one in "//sub//index.html /sub%2findex.html /./file.txt /sub/../file.txt".split()},
    "HTTP/1.2": request("/", version="HTTP/1.2"),
}  # fmt: skip


@pytest.mark.parametrize("what", BOUNDARIES)
def test_limits_lie_where_httpd_has_them(server, what):
    with Client(server) as client:
        assert client.ask(BOUNDARIES[what]).status_line == recorded_limits()[what]


def test_limits_that_are_set(document_root):
    """Of heads for the whole server, of bodies by section, too; and a guarded index is found."""
    bodies = {"Location /sub": 1000, "Files file.txt": 10, "Location /empty.txt": 0}
    lines = conf(
        "LimitRequestLine 100", "LimitRequestFieldSize 50", "LimitRequestFields 3", "LimitRequestBody 100",
        *(section(where, f"LimitRequestBody {most}") for where, most in bodies.items()),
        # The index file's own guard leads back to the handler of files: not to the directory again.
        section("Location /sub", "Require local"),
    )  # fmt: skip
    heads = {line_of(102): 414, header_of(52): 400, fields(4): 400, fields(3): 200}
    with serving("event", conf=lines, document_root=document_root) as server:
        for data, status in heads.items():
            with Client(server) as client:
                assert client.ask(data).status == status
        for path, limit in (("/", 100), ("/sub/", 1000), ("/file.txt", 10), ("/empty.txt", 5000)):
            for size in (limit, limit + 1):
                status = 413 if size > limit and limit < 5000 else 200
                for body in (b"x" * size, (b"x" * size,)):
                    reply = get(server, path, method="POST", body=body)
                    assert reply.status == status, (path, size)
        assert get(server, "/sub/").body == b"sub index\n"


def test_an_idle_connection_ends_with_its_time_and_is_no_request(mpm, document_root):
    given = {"KeepAliveTimeout": "700ms", "RequestReadTimeout": "header=0 body=0"}
    with serving(mpm, document_root=document_root, access_log=True, **given) as server:
        with Client(server) as client:
            began = time.monotonic()
            assert client.get().status == 200
            client.ended(5.0)
            assert time.monotonic() - began > 0.65  # late on a busy machine, never early
        assert_quiet(server)
        assert server.access_log().count("\n") == 1


def test_pipelined_requests_are_answered_in_order(server):
    post = request("/file.txt", method="POST", body=b"abcde")
    trailed = request("/sub/", "Transfer-Encoding: chunked", method="POST")
    trailed += b"3\r\nGET\r\n0\r\nTrailer: x\r\n\r\n"
    expected = [(200, 37), (404, None), (200, 10), (200, 0), (200, 37), (200, 10)] * 10
    paths = ("/file.txt", "/nope", "/sub/", "/empty.txt")
    with Client(server) as client:
        client.send(b"".join((*map(request, paths), post, trailed)) * 10)
        for status, size in expected:
            reply = client.reply()
            assert reply.status == status and size in (None, len(reply.body))
        assert client.is_open() and not client.buffer


def test_a_blank_line_after_a_request_costs_no_worker(server, mpm):
    """Some clients send one after a body. The connection waits as any kept-alive one does."""
    bodies, blanks = (b"abcde", b""), (b"\r\n", b"\r\n" * 3)
    with Client(server) as client:
        for body, blank, apart in itertools.product(bodies, blanks, (False, True)):
            asked = request("/file.txt", method="POST" if body else "GET", body=body)
            assert client.ask(asked + blank * (not apart), "GET").status == 200
            client.send(blank * apart)
            if mpm == "event":
                assert_quiet(server)
            else:
                poll_until(lambda: server.scoreboard().count("K") == 1, what="K")
                assert server.scoreboard().count("R") == 0
        assert client.get().status == 200


def test_a_client_that_stops_in_the_middle(mpm, document_root):
    """As recorded, with three seconds for httpd's twenty. A silent one is closed silently. (TCP_DEFER_ACCEPT
    would keep it in the kernel for half a minute.)"""
    names = ("t2-partial-request-line", "t3-partial-headers", "t4-partial-body")
    sent = [b"", *((RAW / f"{name}.req").read_bytes() for name in names)]

    def stopping(number: int) -> bytes:
        began = time.monotonic()
        data = exchange(server, sent[number], 50)
        assert 2.9 < time.monotonic() - began < 50  # Timeout (60 s) is out of the question
        return data

    limits = "RequestReadTimeout header=3-4,MinRate=500 body=3,MinRate=500"
    lines = (limits, "AcceptFilter http none")
    with serving(mpm, document_root=document_root, access_log=True, directives=lines) as server:
        *nothing, head, body = at_once(stopping, len(sent))
        assert nothing == [b"", b""]
        logged = ['"-" 408 -'] * 2
        for name, data in zip(names[1:], (head, body), strict=True):
            compare(read_reply(data), read_reply((RAW / f"{name}.resp").read_bytes()))
            logged.append(f'" 408 {len(read_reply(data).body)}')
        assert_quiet(server)
        log = server.access_log()
        assert log.count("\n") == 4 and all(log.count(line) == 2 for line in logged), log


def test_a_body_may_take_as_long_as_its_rate_allows(document_root):
    """RequestReadTimeout body=3,MinRate=100: 250 bytes each 0.4 s are fast enough, 5 are not."""
    rule = {"directives": ("RequestReadTimeout body=3,MinRate=100",)}
    head = b"POST /file.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 2500\r\n\r\n"

    def sending(count: int, times: int, status: int) -> None:
        with Client(server) as client:
            client.send(head)
            for _ in range(times):
                with suppress(Late):
                    client.buffer = client.receive(0.4)
                    break
                client.send(b"x" * count)
            assert client.reply("POST").status == status

    with serving("event", document_root=document_root, **rule) as server:
        at_once(lambda number: sending(*((250, 10, 200), (5, 40, 408))[number]), 2)


def test_a_silent_client_takes_no_worker(mpm, document_root):
    """TCP_DEFER_ACCEPT: more silent connections than workers, and the next client is served."""
    with serving(mpm, document_root=document_root) as server, ExitStack() as stack:
        for _ in range(SMALL[mpm]["MaxRequestWorkers"] + 2):
            silent = stack.enter_context(Client(server))
        assert get(server).status == 200
        assert_quiet(server)
        assert silent.get().status == 200, "and it is served when it speaks"


def test_a_response_is_not_lost_to_a_reset(server):
    """A request with megabytes behind it that is the last one: the client still reads the whole answer."""
    refused = request("/", "Content-Length: 2000000000", method="POST")
    for sent, status in ((refused, 413), (request("/", close=True), 200)):
        with Client(server) as client:
            client.send(sent + b"x" * 200_000)
            assert client.reply().status == status
            client.send(b"x" * 100_000)
            assert client.until_closed() == b""


def test_what_needs_no_body_or_no_file(server):
    head, full = (get(server, "/server-status?auto", method=method) for method in ("HEAD", "GET"))
    assert (head.status, head.names) == (full.status, full.names) == (200, full.names)
    assert get(server, "/nope", method="OPTIONS").status == 200
    for value in ("bytes=0-0", "bytes=-5", "bytes=0-"):  # no range of an empty file is wrong
        assert get(server, "/empty.txt", f"Range: {value}").status == 200


def test_redirect_goes_where_the_client_came_from(server):
    with Client(server) as client:
        for target, host, location in [
            ("/sub", "a.example:8080", "a.example:8080/sub/"), ("/sub", "a.example:80", "a.example/sub/"),
            ("/sub?a=b&c", "a.example", "a.example/sub/?a=b&c"), ("//sub", "a.example", "a.example/sub/"),
            ("http://b.example/sub", "a.example", "b.example/sub/"), ("/./s%75b", "a.example", "a.example/sub/"),
        ]:  # fmt: skip
            reply = client.get(target, host=host)
            assert (reply.status, reply["Location"]) == (301, f"http://{location}")
