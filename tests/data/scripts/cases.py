"""One WSGI application for each thing a server may meet; PATH_INFO names it."""

import ast
import bz2
import gzip
import io
import json
import os
import sys
import threading
from urllib.parse import unquote

HTML = [("Content-Type", "text/html")]
closed = []  # names of cases whose iterable was closed, in this process


class Closing:
    """An iterable that notes its close()."""

    def __init__(self, name, pieces):
        self.name = name
        self.pieces = iter(pieces)

    def __iter__(self):
        return self.pieces

    def close(self):
        closed.append(self.name)


def application(environ, start_response):
    name, _, environ["rest"] = environ["PATH_INFO"].strip("/").partition("/")
    return globals()["case_" + name](environ, start_response)


def case_environ(environ, start_response):
    known = {key: value for key, value in environ.items() if isinstance(value, (str, bool, tuple))}
    body = json.dumps(known | {"pid": os.getpid(), "thread": threading.get_ident()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def case_closed(environ, start_response):
    start_response("200 OK", HTML)
    return [json.dumps(closed).encode()]


def case_list(environ, start_response):
    start_response("200 OK", HTML)
    return [b"one", b"", b"two"]


def case_empty_list(environ, start_response):
    start_response("200 OK", HTML)
    return []


def case_pieces(environ, start_response):
    start_response("200 OK", HTML)
    return Closing("pieces", [b"one", b"", b"two", b"three"])


def case_generator(environ, start_response):
    start_response("200 OK", HTML)
    yield b"a"
    yield b"b"


def case_late_start(environ, start_response):
    """start_response as late as PEP 3333 allows: with the first piece that is not empty."""
    yield b""
    start_response("201 Created", HTML)
    yield b"late"


def case_sized_pieces(environ, start_response):
    start_response("200 OK", [*HTML, ("Content-Length", "6")])
    return Closing("sized_pieces", [b"abc", b"def"])


def case_write(environ, start_response):
    write = start_response("200 OK", HTML)
    write(b"written ")
    write(b"first, ")
    return [b"returned"]


def case_write_in_generator(environ, start_response):
    write = start_response("200 OK", HTML)
    write(b"1")
    yield b"2"
    write(b"3")
    yield b"4"
    write(b"5")


def case_write_text(environ, start_response):
    start_response("200 OK", HTML)("text")
    return []


def case_large(environ, start_response):
    start_response("200 OK", HTML)
    return (bytes([65 + i % 26]) * 10_000 for i in range(300))


def case_no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


def case_no_content_with_body(environ, start_response):
    start_response("204 No Content", [("Content-Length", "4")])
    return Closing("no_content_with_body", [b"body"])


def case_not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return [b""]


def case_raises(environ, start_response):
    raise RuntimeError("a script's mistake")


def case_raises_after_start(environ, start_response):
    start_response("200 OK", HTML)
    raise RuntimeError("a mistake after start_response")


def case_raises_before_piece(environ, start_response):
    start_response("200 OK", HTML)
    return Closing("raises_before_piece", (1 / 0 for _ in range(1)))


def case_raises_after_piece(environ, start_response):
    start_response("200 OK", HTML)

    def pieces():
        yield b"some"
        raise RuntimeError("a mistake after a piece")

    return Closing("raises_after_piece", pieces())


def case_exits(environ, start_response):
    """sys.exit() in a script, as people have it from the command line."""
    sys.exit(3)


def case_exits_late(environ, start_response):
    start_response("200 OK", HTML)
    sys.exit("never so far")
    yield b""


def case_exits_after_piece(environ, start_response):
    start_response("200 OK", HTML)
    yield b"some"
    sys.exit("too far")


def case_exc_info(environ, start_response):
    """An error after start_response, told by another one: nothing has been sent yet."""
    start_response("200 OK", [*HTML, ("X-First", "yes")])
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"replaced"]


def case_exc_info_too_late(environ, start_response):
    start_response("200 OK", HTML)
    yield b"sent"
    try:
        raise ValueError("too late for an error page")
    except ValueError:
        start_response("500 Oops", [], sys.exc_info())
    yield b"never"


def case_starts_twice(environ, start_response):
    start_response("200 OK", HTML)
    start_response("200 OK", HTML)
    return []


def case_never_starts(environ, start_response):
    return [b"body"]


def case_yields_text(environ, start_response):
    start_response("200 OK", HTML)
    return ["text"]


def case_yields_text_later(environ, start_response):
    start_response("200 OK", HTML)
    yield b"bytes"
    yield "text"


def case_returns_none(environ, start_response):
    start_response("200 OK", HTML)


def case_bad_status(environ, start_response):
    start_response("OK", HTML)
    return []


def case_hop_by_hop(environ, start_response):
    start_response("200 OK", [("Connection", "keep-alive")])
    return []


def case_split_header(environ, start_response):
    start_response("200 OK", [("X-Y", "a\r\nSet-Cookie: stolen=1")])
    return []


def case_split_name(environ, start_response):
    start_response("200 OK", [("X-Y: a\r\nSet-Cookie", "stolen=1")])
    return []


def case_split_status(environ, start_response):
    start_response("200 OK\r\nSet-Cookie: stolen=1", HTML)
    return []


def case_wrong_length(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"123"]


def case_too_long(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return Closing("too_long", [b"123", b"45HTTP/1.1 200 OK\r\n"])


def case_too_short(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return Closing("too_short", [b"123"])


def case_headers(environ, start_response):
    start_response(
        "203 Fine",
        [
            ("Set-Cookie", "a=1"),
            ("content-type", "text/x-own"),
            ("Set-Cookie", "b=2"),
            ("Date", "never"),
            ("Server", "someone else"),
            ("X-Latin", "caf\xe9"),
        ],
    )
    return [b""]


def case_errors(environ, start_response):
    environ["wsgi.errors"].write("a script says\nhello\n")
    environ["wsgi.errors"].writelines(["one line\n"])
    environ["wsgi.errors"].flush()
    print("in", "pieces", file=environ["wsgi.errors"])
    environ["wsgi.errors"].write("no end")
    start_response("200 OK", HTML)
    return []


def case_errors_then_a_mistake(environ, start_response):
    environ["wsgi.errors"].write("left over")
    raise RuntimeError("a mistake")


def case_errors_in_pieces(environ, start_response):
    start_response("200 OK", HTML)
    yield b"a"
    environ["wsgi.errors"].write("left over")


def case_read(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", HTML)
    return [b"%d bytes: %s" % (len(body), body[:50])]


def case_read_some(environ, start_response):
    body = environ["wsgi.input"].read(3)
    start_response("200 OK", HTML)
    return [body]


def case_read_lines(environ, start_response):
    lines = environ["wsgi.input"]
    start_response("200 OK", HTML)
    return [b"|".join([lines.readline(), lines.read(2), *lines.readlines()])]


def case_read_nothing(environ, start_response):
    start_response("200 OK", HTML)
    return [b"unread"]


def case_read_while_answering(environ, start_response):
    start_response("200 OK", HTML)
    return iter(lambda: environ["wsgi.input"].read(1000), b"")


def case_read_and_swallow(environ, start_response):
    try:
        environ["wsgi.input"].read()
    except Exception:
        pass
    start_response("200 OK", HTML)
    return [b"as if nothing had happened"]


def case_own_reason(environ, start_response):
    start_response("200 Quite Right", HTML)
    return iter([b"one", b"two"]) if environ["rest"] else [b"body"]


def case_own_status(environ, start_response):
    start_response("299 Chosen Here", HTML)
    return [b"body"]


def case_file(environ, start_response):
    wrapper = environ["wsgi.file_wrapper"]
    headers = [("Content-Type", "application/octet-stream")]
    if environ["rest"] == "memory":
        start_response("200 OK", headers)
        return wrapper(io.BytesIO(b"from memory"), 4)
    if environ["rest"] == "pipe":
        read, write = os.pipe()
        os.write(write, b"through a pipe")
        os.close(write)
        start_response("200 OK", headers)
        return wrapper(os.fdopen(read, "rb"))
    file = open(os.path.join(environ["DOCUMENT_ROOT"], "data.bin"), "rb")
    if environ["rest"] == "rest":
        file.seek(1000)
    if environ["rest"] == "sized":
        headers.append(("Content-Length", str(os.fstat(file.fileno()).st_size)))
    start_response("200 OK", headers)
    return wrapper(file)


def case_said(environ, start_response):
    """The status and headers of the query: repr of (status, headers)."""
    status, headers = ast.literal_eval(unquote(environ["QUERY_STRING"]))
    start_response(status, headers)
    return [b"body"]


def case_late_reader(environ, start_response):
    """A head before the body is read: a client that waits for 100 Continue gets none."""
    start_response("200 OK", [])
    yield b"head is out"
    yield environ["wsgi.input"].read()


def case_wrapped(environ, start_response):
    """wsgi.file_wrapper over objects whose read() is not what their descriptor holds."""
    path = os.path.join(os.path.dirname(__file__), "packed.")
    kind, _, length = environ["QUERY_STRING"].partition(",")
    opener = {"gz": gzip.open, "bz2": bz2.open, "raw": open}[kind]
    start_response("200 OK", [("Content-Length", length)] if length else [])
    return environ["wsgi.file_wrapper"](opener(path + kind, "rb"), 1000)


def case_write_then_raises(environ, start_response):
    start_response("200 OK", HTML)(b"some")
    raise RuntimeError("a mistake after a write")


def case_write_then_restarts(environ, start_response):
    start_response("200 OK", HTML)(b"some")
    start_response("500 Oops", HTML)
    return []


def _sized(start_response):
    return start_response("200 OK", [("Content-Length", "5")])


def case_write_too_much(environ, start_response):
    write = _sized(start_response)
    write(b"1234")
    write(b"567")
    return []


def case_write_too_little(environ, start_response):
    _sized(start_response)(b"1234")
    return []


def case_write_then_too_much(environ, start_response):
    _sized(start_response)(b"1234")
    return [b"567"]


def case_write_then_exc_info(environ, start_response):
    start_response("200 OK", HTML)(b"some")
    try:
        raise ValueError("written already")
    except ValueError:
        start_response("500 Oops", [], sys.exc_info())
