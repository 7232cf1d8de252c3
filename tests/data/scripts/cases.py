"""One WSGI application for each thing a server may meet; PATH_INFO names it."""

import bz2
import gzip
import io
import itertools
import json
import os
import sys
import threading

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


# Those that only answer: status, headers, pieces.
PLAIN = {
    "list": ("200 OK", HTML, [b"one", b"", b"two"]), "empty_list": ("200 OK", HTML, []),
    "no_content": ("204 No Content", [], []), "not_modified": ("304 Not Modified", [("ETag", '"x"')], [b""]),
    "own_status": ("299 Chosen Here", HTML, [b"body"]), "read_nothing": ("200 OK", HTML, [b"unread"]),
    "headers": ("203 Fine", [("Set-Cookie", "a=1"), ("content-type", "text/x-own"), ("Set-Cookie", "b=2"),
                             ("Date", "never"), ("Server", "someone else"), ("X-Latin", "caf\xe9")], [b""]),
    # Mistakes.
    "yields_text": ("200 OK", HTML, ["text"]), "bad_status": ("OK", HTML, []),
    "hop_by_hop": ("200 OK", [("Connection", "keep-alive")], []),
    "split_header": ("200 OK", [("X-Y", "a\r\nSet-Cookie: stolen=1")], []),
    "split_name": ("200 OK", [("X-Y: a\r\nSet-Cookie", "stolen=1")], []),
    "split_status": ("200 OK\r\nSet-Cookie: stolen=1", HTML, []),
    "wrong_length": ("200 OK", [("Content-Length", "5")], [b"123"]),
    "long_head": ("200 OK", [("X", "x" * 70000)], []),
}  # fmt: skip
# As those, but for an iterable that notes its close().
CLOSING = {
    "pieces": ("200 OK", HTML, [b"one", b"", b"two", b"three"]),
    "sized_pieces": ("200 OK", [*HTML, ("Content-Length", "6")], [b"abc", b"def"]),
    "no_content_with_body": ("204 No Content", [("Content-Length", "4")], [b"body"]),
    "too_long": ("200 OK", [("Content-Length", "5")], [b"123", b"45HTTP/1.1 200 OK\r\n"]),
    "too_short": ("200 OK", [("Content-Length", "5")], [b"123"]),
}  # fmt: skip


def application(environ, start_response):
    name, _, environ["rest"] = environ["PATH_INFO"].strip("/").partition("/")
    if name in PLAIN or name in CLOSING:
        status, headers, pieces = PLAIN.get(name) or CLOSING[name]
        start_response(status, headers)
        return Closing(name, pieces) if name in CLOSING else pieces
    return globals()["case_" + name](environ, start_response)


def case_environ(environ, start_response):
    known = {key: value for key, value in environ.items() if isinstance(value, (str, bool, tuple))}
    body = json.dumps(known | {"pid": os.getpid(), "thread": threading.get_ident()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def case_closed(environ, start_response):
    start_response("200 OK", HTML)
    return [json.dumps(closed).encode()]


def case_generator(environ, start_response):
    start_response("200 OK", HTML)
    yield b"a"
    yield b"b"


def case_late_start(environ, start_response):
    """start_response as late as PEP 3333 allows: with the first piece that is not empty."""
    yield b""
    start_response("201 Created", HTML)
    yield b"late"


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


def case_yields_text_later(environ, start_response):
    start_response("200 OK", HTML)
    yield b"bytes"
    yield "text"


def case_returns_none(environ, start_response):
    start_response("200 OK", HTML)


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


def case_gated(environ, start_response):
    """Each piece is made when the pipe of the query says "go"; yielded, or written."""
    send = start_response("200 Right", [])

    def pieces():
        for number in range(3):
            yield b"piece%d" % number
            with open(environ["QUERY_STRING"]) as file:
                assert file.read() == "go"

    if environ["rest"] == "yielded":
        return pieces()
    for piece in pieces():
        send(piece)
    return [b"", b"last"]


def case_endless(environ, start_response):
    start_response("200 OK", HTML)
    return Closing("endless", itertools.repeat(b"x" * 10_000))


class Bytes(bytes):
    """No bytes object itself."""


def case_subclass(environ, start_response):
    how = environ["rest"]
    start_response("200 OK", HTML)(Bytes(b"1" * (how == "write")))
    return [Bytes(b"2")] if how == "list" else iter([Bytes(b"2"), Bytes(b"3")])
