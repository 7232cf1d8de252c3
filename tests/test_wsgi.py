"""Scripts in the server's process: PEP 3333, and what scripts get wrong (data/scripts/cases.py)."""

import bz2
import gzip
import json
import os
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from support import servers
from support.calls import refused
from support.client import Client, asked, at_once, exchange, get, read_reply, request
from support.files import DATA, conf, section, tree, write
from support.servers import THREADED, no_more_files, one_child, open_files, serving
from support.waiting import poll_until

import mpmkit
from mpmkit.handlers.wsgi import read_head

mpm = servers.prefork_and_event
OPTIONS = {"directives": ("DirectoryIndex index.html index.py",)}
SCRIPTS = DATA / "scripts"
FILES = {str(file.relative_to(SCRIPTS)): file.read_bytes() for file in SCRIPTS.rglob("*.*")}
FILES["hello.py"] = (Path(mpmkit.__file__).parent / "htdocs" / "hello.py").read_bytes()
UNREAD = b"GET /file.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
EVERY = bytes(range(256)) * 200
CONTROLS = [chr(n) for n in (*range(9), *range(10, 32), 127)]


def case(server, name, *lines, **options):
    return get(server, f"/cases.py/{name}", *lines, **options)


@pytest.mark.parametrize("name, line, body, length", [
    ("list", "200 OK", b"onetwo", "6"), ("empty_list", "200 OK", b"", "0"),
    ("pieces", "200 OK", b"onetwothree", None), ("generator", "200 OK", b"ab", None),
    ("late_start", "201 Created", b"late", None), ("sized_pieces", "200 OK", b"abcdef", "6"),
    ("write", "200 OK", b"written first, returned", None), ("write_in_generator", "200 OK", b"12345", None),
    ("exc_info", "500 Oops", b"replaced", "8"), ("no_content", "204 No Content", b"", None),
    ("no_content_with_body", "204 No Content", b"", None), ("not_modified", "304 Not Modified", b"", None),
    ("own_reason", "200 Quite Right", b"body", "4"), ("own_status", "299 Chosen Here", b"body", "4"),
    ("own_reason/pieces", "200 Quite Right", b"onetwo", None),
    # Bytes of a subclass.
    ("subclass/list", "200 OK", b"2", "1"), ("subclass/iter", "200 OK", b"23", None),
    ("subclass/write", "200 OK", b"123", None),
])  # fmt: skip
def test_answers(server, name, line, body, length):
    """The script's own reason; the length where it is known, chunks where not; a HEAD has no body."""
    with Client(server) as client:
        reply = client.get(f"/cases.py/{name}")
        assert (reply.status_line, reply.body) == (f"HTTP/1.1 {line}", body)
        framed = length or reply.status in (204, 304)
        assert reply["Content-Length"] == length
        assert reply["Transfer-Encoding"] == (None if framed else "chunked")
        assert reply["X-First"] is None
        assert client.get(f"/cases.py/{name}", method="HEAD").status_line == reply.status_line
        again = client.get("/hello.py")
        assert (again.status_line, again.body) == ("HTTP/1.1 200 OK", b"hello world")


def test_large_answers_headers_and_http_1_0_which_gets_no_chunks(server):
    expected = b"".join(bytes([65 + i % 26]) * 10_000 for i in range(300))
    assert case(server, "large").body == expected
    data = exchange(server, b"GET /cases.py/generator HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = read_reply(data)
    assert (reply["Transfer-Encoding"], reply["Connection"], reply.body) == (None, "close", b"ab")
    reply = case(server, "headers")
    assert [v for name, v in reply.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert (reply.status, reply.headers[-1]) == (203, ("Content-Type", "text/x-own"))
    assert reply["Date"] != "never" and reply["Server"].startswith("mpmkit/")
    assert reply["X-Latin"] == "caf\xe9"
    names = ["Date", "Server", "Content-Length", "Connection", "Content-Type"]
    assert get(server, "/hello.py").names == names


def test_what_is_made_is_sent_at_once(server, tmp_path):
    """Each write(), each piece, reaches the client before the next is made, and the connection stays right."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    chunk, bare = b"6\r\npiece%d\r\n", b"piece%d"
    for how, version, framed in [
        ("yielded", "HTTP/1.1", chunk), ("written", "HTTP/1.1", chunk), ("written", "HTTP/1.0", bare),
    ]:  # fmt: skip
        with asked(server, f"/cases.py/gated/{how}?{gate}", version=version) as client:
            for number in range(3):
                assert client.until(framed % number).endswith(framed % number)
                gate.write_text("go")
            whole = b"piece0piece1piece2" + (b"last" if how == "written" else b"")
            if framed is bare:
                assert client.until_closed().endswith(whole)
                continue
            reply = client.reply()
            assert (reply.body, reply.reason) == (whole, "Right")
            assert client.get("/nothing").status == 404


@pytest.mark.parametrize("name, said, end", [
    ("write_then_raises", "after a write", b"4\r\nsome\r\n"),
    ("write_then_exc_info", "written already", b"4\r\nsome\r\n"),
    ("write_then_restarts", "second time", b"4\r\nsome\r\n"),
    ("write_too_much", "more bytes than Content-Length 5", b"\r\n\r\n12345"),
    ("write_too_little", "1 bytes less than", b"\r\n\r\n1234"),
    ("write_then_too_much", "more bytes than Content-Length 1", b"\r\n\r\n12345"),
    ("raises_after_piece", "a mistake after a piece", b"4\r\nsome\r\n"),
    ("exc_info_too_late", "too late for an error page", b"4\r\nsent\r\n"),
    ("yields_text_later", "str", b"5\r\nbytes\r\n"), ("exits_after_piece", "SystemExit", b"some\r\n"),
    ("too_long", "Content-Length", b"\r\n\r\n12345"), ("too_short", "Content-Length", b"\r\n\r\n123"),
])  # fmt: skip
def test_a_mistake_in_the_middle_cuts_the_answer(server, errors, name, said, end):
    """The head is sent, so only the missing last chunk can show it; a length is never exceeded."""
    with asked(server, f"/cases.py/{name}") as client:
        data = client.until_closed()
    assert data.startswith(b"HTTP/1.1 200 ") and data.endswith(end)
    assert data.count(b"HTTP/1.1") == 1 and said in errors()


@pytest.mark.parametrize("sendfile", ["On", "Off"])
def test_files_of_a_script(mpm, document_root, sendfile):
    """wsgi.file_wrapper: from where a file was read to, up to its length; what is no regular file."""
    data = bytes(range(256)) * 4000
    write(document_root / "data.bin", data)
    with serving(mpm, document_root=document_root, EnableSendfile=sendfile) as server:
        with Client(server) as client:
            for path, body in [
                ("file", data), ("file/rest", data[1000:]), ("file/sized", data),
                ("file/memory", b"from memory"), ("file/pipe", b"through a pipe"),
            ]:  # fmt: skip
                reply = client.get(f"/cases.py/{path}")
                assert (reply.status, reply.body) == (200, body), path
                assert client.get(f"/cases.py/{path}", method="HEAD").body == b""
            assert client.get("/cases.py/file")["Content-Length"] == str(len(data))
            assert client.get("/cases.py/file/memory")["Transfer-Encoding"] == "chunked"
            for kind, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("raw", bytes)):
                write(document_root / f"packed.{kind}", pack(data[:25600]))
                for length in ("", "25600", "1", "0", "999", "1000", "1001"):
                    reply = client.get(f"/cases.py/wrapped?{kind},{length}")
                    assert not reply.closes and reply.body == data[: int(length or 25600)]
        for number in range(40):
            if number == 20:  # at first, children may still be opening what they keep
                before = open_files(server)
            get(server, "/cases.py/file")
        no_more_files(server, before)


def test_environ(server, mpm, document_root):
    lines = "X-Twice: a|X-Twice: b|Content-Type: text/x|Proxy: http://x|X_Low: spoofed".split("|")
    environ = json.loads(case(server, "environ/?a=%20b&c", *lines).body)
    expected = {
        "SCRIPT_NAME": "/cases.py", "PATH_INFO": "/environ/", "QUERY_STRING": "a=%20b&c",
        "HTTP_X_TWICE": "a, b", "CONTENT_TYPE": "text/x", "SCRIPT_FILENAME": str(document_root / "cases.py"),
        "wsgi.version": [1, 0], "wsgi.url_scheme": "http", "wsgi.multithread": mpm != "prefork",
        "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    assert {key: environ.get(key) for key in expected} == expected
    assert not {"HTTP_PROXY", "HTTP_X_LOW", "HTTP_CONTENT_TYPE"} & set(environ)
    # PEP 3333: the path's bytes as latin-1. /environ is reached by a detour.
    file = write(document_root / "\u65e5" / "caf\xe9.py", FILES["cases.py"])
    path = "/%E6%97%A5/caf%C3%A9.py", "/environ/%E6%97%A5"
    environ = json.loads(get(server, f"/.{path[0]}/%e2%82%ac/..{path[1]}").body)
    raw = [environ[name].encode("latin-1") for name in ("SCRIPT_NAME", "PATH_INFO")]
    assert raw == [unquote_to_bytes(part) for part in path]
    assert os.fsencode(environ["SCRIPT_FILENAME"]) == os.fsencode(file)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
        assert json.loads(case(server, "environ", method=method).body)["REQUEST_METHOD"] == method


def test_flask_runs_unchanged(server, errors):
    with Client(server) as client:
        ask = lambda path, *lines, **how: client.get(f"/flaskapp.py/{path}", *lines, **how)  # noqa: E731
        assert ask("?name=%C3%A9").body.decode() == "<p>hello é</p>"
        for path, kind, method, body, answer in (
            ("form", "application/x-www-form-urlencoded", "POST", b"a=1&b=two",
             {"fields": {"a": "1", "b": "two"}, "files": {}}),
            ("json", "application/json", "PUT", (b'{"a": [1', b', "x"]}'), {"a": [1, "x"]}),
        ):  # fmt: skip
            reply = ask(path, f"Content-Type: {kind}", method=method, body=body)
            assert json.loads(reply.body) == answer
        assert ask("stream").body == b"0\n1\n2\n"
        assert ask("away")["Location"] == "/flaskapp.py/?name=again"
        for path, method, status in (
            ("gone", "GET", 410), ("", "HEAD", 200), ("", "DELETE", 405), ("broken", "GET", 500),
        ):  # fmt: skip
            assert ask(path, method=method).status == status
    assert "a view's mistake" in errors()


@pytest.mark.parametrize("path, body, answer", [
    *((f"cases.py/{name}", body, answer) for name, body, answer in [
        ("read", b"abc", b"3 bytes: abc"), ("read", b"", b"0 bytes: "),
        ("read", b"x" * 200_000, b"200000 bytes: " + b"x" * 50),
        ("read_lines", b"one\ntwo\nthree", b"one\n|tw|o\n|three"), ("read_some", UNREAD, b"GET"),
        ("read_nothing", UNREAD, b"unread"), ("generator", UNREAD, b"ab"),
        ("read_while_answering", EVERY, EVERY)]),
    # The standard library's validator is content.
    *((f"validated.py{name}", b"x" * n, b"read %d" % n) for name in ("", "/pieces") for n in (0, 1234)),
])  # fmt: skip
def test_bodies(server, path, body, answer):
    """What the script leaves unread is read by the server, or the next request could not be found."""
    with Client(server) as client:
        for sent in (body, (body[:2], body[2:])):
            assert client.get(f"/{path}", method="POST", body=sent).body == answer
        assert client.get("/hello.py").body == b"hello world"
        assert client.is_open() and not client.buffer


def test_a_body_comes_with_the_head_or_later_and_continue_when_it_is_read(server):
    whole = request("/cases.py/read", method="POST", body=b"abcdef")
    with Client(server) as client:
        for cut in range(len(whole) - 6, len(whole) + 1):
            assert client.send(whole[:cut]).ask(whole[cut:]).body == b"6 bytes: abcdef"
    # 100 Continue is sent only when the script reads, and not after the head.
    expecting = "Content-Length: 3", "Expect: 100-continue"

    def head(name: str) -> bytes:
        return request(f"/cases.py/{name}", *expecting, method="POST")

    with Client(server) as client:
        assert client.get("/cases.py/pieces").status == 200
        interim = client.ask(head("read"))
        assert (interim.status, interim.names) == (100, [])
        assert client.ask(b"abc").body == b"3 bytes: abc"
        client.send(head("late_reader")).until(b"head is out")
        client.send(b"abc")
        assert b"100 Continue" not in client.buffer
        assert client.reply().body == b"head is outabc"
    reply = read_reply(exchange(server, head("read_nothing")))
    assert (reply.status, reply["Connection"], reply.body) == (200, "close", b"unread")


@pytest.mark.parametrize("name", ["read", "read_nothing", "read_and_swallow"])
def test_a_badly_chunked_body_ends_the_connection(server, name):
    """Also where the script swallows the error: where the next request begins is unknown."""
    post = request(f"/cases.py/{name}", "Transfer-Encoding: chunked", method="POST")
    data = exchange(server, post + b"3\r\nabc\r\nXYZ\r\n" + request("/hello.py"))
    reply = read_reply(data)
    assert (reply.status, reply["Connection"], reply.size) == (400, "close", len(data))


@pytest.mark.parametrize("name, said", [
    ("raises", "a script's mistake"), ("raises_after_start", "a mistake after start_response"),
    ("raises_before_piece", "division by zero"), ("starts_twice", "second time"),
    ("never_starts", "did not call start_response"), ("yields_text", "str"), ("write_text", "str"),
    ("returns_none", "NoneType"), ("bad_status", "status"), ("hop_by_hop", "Connection"),
    ("split_header", "line break"), ("split_name", "is not a name"), ("split_status", "is not like"),
    ("wrong_length", "Content-Length"), ("unknown_case", "KeyError"), ("exits", "SystemExit"),
    ("exits_late", "SystemExit"), ("long_head", "more than 65536 bytes of header lines"),
])  # fmt: skip
def test_a_mistake_is_500_and_a_line_in_the_log(server, errors, name, said):
    children = set(server.processes())
    with Client(server) as client:
        reply = client.get(f"/cases.py/{name}")
        assert (reply.status, reply["Connection"]) == (500, "close")
        assert reply["Set-Cookie"] is None
        assert b"Traceback" not in reply.body and b"mistake" not in reply.body
        assert client.until_closed() == b""
    assert said in errors()
    assert get(server, "/hello.py").body == b"hello world"
    assert children <= set(server.processes())


@pytest.mark.parametrize("said, status, headers", [
    *(("is not like '200 OK'", status, []) for status in (
        "", "200", "200OK", "20 OK", "2000 OK", "000 None", "100 Continue", "101 Switch", "199 x",
        "\u0662\u0660\u0660 OK", "200 O\x01K", "200 OK\x7f", "200 OK\0", "-20 OK")),
    *(("control character", "200 OK", [("X-A", f"b{char}c")]) for char in CONTROLS),
    *(("control character", "200 OK", [("Content-Type", f"a/b{char}")]) for char in CONTROLS),
    *(("is not a name", "200 OK", [(name, "x")]) for name in (
        "", " ", "A B", "A:", ":", "A\t", "caf\xe9", "\u20ac", "A\r", "A\n", "A\0", *'"(),/;<=>?@[]{}\\')),
    *(("one whole number", "200 OK", [("Content-Length", value)]) for value in (
        "1_0", "+10", "-1", "", " 4", "4 ", "4,4", "0x4", "4.0", "\xb2", "9" * 20, "9" * 5000)),
    ("not 4", "200 OK", [("Content-Length", "4"), ("Content-Length", "5")]),
])  # fmt: skip
def test_a_head_that_breaks_the_rules(said, status, headers):
    refused(AssertionError, said, read_head, status, tuple(headers))


def test_a_head_that_is_right():
    length = ("Content-Length", "4")
    said = (("X-A", "a\tb \xe9\xff"), ("!#$%&'*+-.^_`|~9z", ""), length, length)
    head = read_head("200 OK", said)
    assert head.fields == b"X-A: a\tb \xe9\xff\r\n!#$%&'*+-.^_`|~9z: \r\nContent-Length: 4\r\n"
    assert (head.code, head.after, head.length, head.reason) == (200, b"\r\n", 4, None)


def test_iterables_are_closed(mpm, document_root):
    """In any case, also when the client leaves. One child, so that it can be asked."""
    names = ["pieces", "sized_pieces", "no_content_with_body", "raises_before_piece", "raises_after_piece",
             "too_long", "too_short"]  # fmt: skip
    with serving(mpm, document_root=document_root, pool=one_child(mpm, 4)) as server:
        closed = lambda: sorted(json.loads(case(server, "closed").body))  # noqa: E731
        for name in names:
            exchange(server, f"GET /cases.py/{name} HTTP/1.0\r\n\r\n".encode())
        assert closed() == sorted(names) and servers.take_errors(server)
        exchange(server, b"HEAD /cases.py/pieces HTTP/1.0\r\n\r\n")
        with asked(server, "/cases.py/endless") as client:
            assert client.receive()
        poll_until(lambda: closed() == sorted([*names, "pieces", "endless"]), "all closed")


def test_wsgi_errors_is_the_error_log(server, errors):
    assert case(server, "errors").status == 200
    lines = errors().splitlines()
    said = ["a script says", "hello", "one line", "in pieces", "no end"]
    assert [line.rpartition("] ")[2] for line in lines] == said
    assert all("[wsgi:error]" in line for line in lines)
    for count, name in enumerate(("errors_then_a_mistake", "errors_in_pieces"), 1):
        case(server, name)
        poll_until(lambda n=count: server.error_log().count("left over\n") == n)
    assert errors()


def script(text: str) -> str:
    return f"def application(e, start):\n    start('200 OK', [])\n    return [b{text!r}]\n"


@pytest.mark.parametrize("source, said", [
    ("def application(", "SyntaxError"), ("raise RuntimeError('at load')", "at load"),
    ("app = 1", "no callable named `application`"), ("application = 1", "no callable named `application`"),
])  # fmt: skip
def test_a_script_that_does_not_load(server, errors, document_root, source, said):
    path = write(document_root / "changing.py", source, time.time())
    assert get(server, "/changing.py").status == 500
    assert said in errors()
    # Repaired, it works: a change is used at once.
    for number in range(3):
        write(path, script(f"version {number}"), time.time())
        for _ in range(8):
            assert get(server, "/changing.py").body == b"version %d" % number
    path.unlink()
    assert {get(server, "/changing.py").status for _ in range(8)} == {404}


@pytest.mark.parametrize("mpm", THREADED)
def test_two_threads_load_a_script_once(mpm, tmp_path):
    slow = "import time\ntime.sleep(0.2)\nhere = object()\n"
    write(tmp_path / "slow.py", slow + script("%d").replace("b'%d'", "b'%d' % id(here)"))
    with serving(mpm, document_root=tmp_path, pool=one_child(mpm, 4)) as server:
        assert len(set(at_once(lambda _: get(server, "/slow.py").body, 4))) == 1


def test_a_script_s_source_is_never_sent(server):
    rest = ("", "/", "/x", "?x", "/.", "/..", "%00", "%00.txt", "%20", ".", ";x", "%2f", "~", "%0a")
    for path in (
        *(f"/hello.py{end}" for end in rest), "//hello.py", "/./hello.py", "/templates/../hello.py",
        "/hello%2epy", "/%68ello.py", "/hello.p%79", "/HELLO.PY",
    ):  # fmt: skip
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "BREW"):
            for lines in ((), ("Range: bytes=0-1000",)):
                reply = get(server, path, *lines, method=method)
                assert b"def application" not in reply.body and b"start_response" not in reply.body
                assert reply.status in (200, 206, 400, 403, 404, 405, 501), (path, method)


def test_where_no_program_may_run_no_application_does(document_root):
    """As under mod_wsgi: Options without ExecCGI, but for what a WSGIScriptAlias names."""
    closed = section(f"Directory {document_root}", "Options -ExecCGI")
    lines = conf(closed, f"WSGIScriptAlias /app {document_root}/hello.py process-group=x")
    with serving("event", document_root=document_root, conf=lines) as server:
        assert [get(server, path).status for path in ("/hello.py", "/app")] == [403, 200]
        (error,) = servers.take_errors(server)
        assert f"Options ExecCGI is off in the directory of {document_root}/hello.py" in error


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_names_that_are_scripts_and_that_are_not(server, document_root, tmp_path, method):
    outside = write(tmp_path / "outside.py", script("outside"))
    tree(document_root, {"dir/index.py": script("index"), "folder.py/x": "", "link.py": outside})
    places = {"/dir/": 200, "/link.py": 403, "/folder.py": 403, "/nothing.py": 404,
              "/file.txt/x.py": 404, "/" + "x" * 300 + ".py": 403}  # fmt: skip
    assert {path: get(server, path, method=method).status for path in places} == places
    assert get(server, "/dir/").body == b"index"
