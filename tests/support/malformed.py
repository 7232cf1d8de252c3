"""Requests that no server may accept, and what httpd's status for each is: for several tests."""

HOST = b"Host: x\r\n"
GET = b"GET /file.txt HTTP/1.1\r\n"
POST = b"POST /file.txt HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# Requests with this line, header line, target, Host; a POST with these lines about its body, Content-Length.
LINE, FIELD = b"%b\r\n" + HOST + b"\r\n", GET + HOST + b"%b\r\n\r\n"
TARGET, NAMED = LINE % b"GET %b HTTP/1.1", GET + b"Host: %b\r\n\r\n"
FRAMED = POST + b"%b\r\n\r\n"
LENGTH = FRAMED % b"Content-Length: %b"


# 400 for each, by what is wrong with it.
LINES = [
    b"GARBAGE", b"GET /", b"GET HTTP/1.1", b"/ HTTP/1.1", b"GET / x HTTP/1.1", b"GET  / HTTP/1.1",
    b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ", b"GET / http/1.1", b"GET / HTTP/0.9", b"GET / HTTP/1", b"GET / HTTP/1.x",
    b"GET / HTTP/1.10", b"GET / HTTPS/1.1", b"G@T / HTTP/1.1", b"G/T / HTTP/1.1", b"\0 / HTTP/1.1",
    b"G\xc9T / HTTP/1.1", b"GET /\r HTTP/1.1", b"GET / HTTP/1.1\0",
]  # fmt: skip
# Line ends and blank lines that are wrong; other protocols.
STREAMS = [
    b"GET / HTTP/1.1\n" + HOST + b"\r\n", b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\rHost: x\r\n\r\n", b"\r\n" * 11 + GET + HOST + b"\r\n",
    b"\r\r\r\n" + GET + HOST + b"\r\n", b"\r" + GET + HOST + b"\r\n", b"\n\n" + GET + HOST + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,  # a TLS hello
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"EHLO x\r\n", b"   \r\n\r\n", b"\0" * 100 + b"\r\n\r\n",
    bytes(range(128, 256)) + b"\r\n\r\n", "GET / HTTP/1.1\r\n\r\n".encode("utf-16") + b"\r\n\r\n",
    b"\xef\xbb\xbf" + GET + HOST + b"\r\n",
]  # fmt: skip
TARGETS = [
    b"file.txt", b"../file.txt", b"*", b"http:///file.txt", b"http://user:pw@x/", b"ftp://x/",
    b"x:80", b"/..", b"/" + b"../" * 50 + b"etc/passwd", b"/sub/../../x", b"/%2e%2E/x", b"/.%2E/x",
    b"/%4", b"/%g1", b"/9%", b"/%-1", b"/a#b", b"/?a#b", b"/\x01", b"/\x7f", b"/\xe9", b"/a\0.html",
]  # fmt: skip
HOSTS = [
    b"", b"   ", b"a b", b"a, b", b"x/../y", b"user@x", b"x:http", b"x:1:2", b"[::1", b"[x]", b'"x"',
    b"a\\b", b"http://x/", b"x:0", b"x:65536", b"x..y", b"x%41", b"*", b"()", b";", b"\xff", b"::1",
]  # fmt: skip
FIELDS = [
    b"NoColon", b": value", b"X : y", b"X\t: y", b"X/Y: z", b"X\xe9: y", b"X\0Y: z", b"X: a\0b",
    b"X: a\x01b", b"X: a\x7f", b"X: a\r\n  \r\n b", b"X: a\nY: b", b"X: a\rY: b",
    b"X: " + b"y" * 9000, b"X" * 9000 + b": y", b"X: " + b"y" * 4500 + b"\r\nX: " + b"y" * 4500,
    b"X: y" + b"\r\n " + b"y" * 4500 + b"\r\n " + b"y" * 4500,
]  # fmt: skip
HEADS = [
    GET + b"\r\n", GET + HOST + HOST + b"\r\n", GET + HOST + b"Host: y\r\n\r\n",
    POST + b"X: \x1b\r\nContent-Length: 0\r\n\r\n", GET + b" folded: y\r\n" + HOST + b"\r\n",
    GET + GET + HOST + b"\r\n", *(GET + HOST + b"X: y\r\n" * n + b"\r\n" for n in (100, 1000)),
    GET + HOST + b"X: y\r\n" * 200, GET + HOST + b"X: " + b"y" * 20_000,  # without an end
]  # fmt: skip
LENGTHS = [
    (b"abc", b""), (b"-1", b""), (b"+3", b"abc"), (b"0x3", b"abc"), (b"3.0", b"abc"), (b"", b""),
    (b"1 2", b""), (b"1_0", b""), ("３".encode(), b""), (b"3\r\nContent-Length: 3", b"abc"),
    (b"3, 3", b"abc"), (b"3\r\n ,3", b"abc"), (b"3\r\nContent-Length: 4", b"abcd"), (b"3, 4", b"abcd"),
    (b"18446744073709551617", b""), (b"9" * 100, b""),
]  # fmt: skip
CODINGS = [
    b"gzip", b"identity", b"chunked, gzip", b"chunked, chunked", b"chunked\r\nTransfer-Encoding: chunked",
    b"", b"xchunked", b"\x0bchunked",
]  # fmt: skip
CHUNKS = [
    b"\r\nabc\r\n0\r\n\r\n", b"xyz\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"f" * 30 + b"\r\nabc\r\n",
    b"3\r\nabcdef\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n",
    GET + HOST + b"\r\n", b"3;" + b"x" * 100_000, b"0\r\nX: " + b"x" * 100_000,
    b"0\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"0\r\nno colon\r\n\r\n",
    b"0\r\nX: y\n\r\n", b"0\r\nX: y\n\n", b"0\nX: y\r\n\r\n", b"0\r\n\n", b"0\r\nX: a\nY: b\r\n\r\n",
    b"0\r\nX: a\rY: b\r\n\r\n", b"0\r\nX: \x00\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX : y\r\n\r\n",
    b"3;a\rb\r\nabc\r\n0\r\n\r\n", b"3;\r\r\nabc\r\n0\r\n\r\n", b"3\r\r\nabc\r\n0\r\n\r\n",
    b"3;a\x7f\r\nabc\r\n0\r\n\r\n", b"3;\x00\r\nabc\r\n0\r\n\r\n", b"3;a\nabc\r\n0\r\n\r\n",
    b"3 x\r\nabc\r\n0\r\n\r\n", b"3 0\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\r\n0\r\n\r\n",
]  # fmt: skip
OTHERS = [
    (LINE % b"BREW / HTTP/1.1", 501), (LINE % b"get / HTTP/1.1", 501), (FIELD % b"Expect: the unexpected", 417),
    (TARGET % (b"/" + b"a" * 9000), 414), (b"GET /" + b"a" * 20_000, 414), (TARGET % (b"/?" + b"a" * 9000), 414),
    (LINE % (b"A" * 9000 + b" / HTTP/1.1"), 414), (LENGTH % b"2000000000", 413),
    (b"TRACE / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", 413),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (CHUNKED + b"7fffffff\r\n" + b"a" * 100, None),  # a chunk may be as large as it likes
]  # fmt: skip

# (bytes, status); None: 400 once the client closes its side, for it has not sent the whole body.
REFUSED: list[tuple[bytes, int | None]] = OTHERS + [(data, 400) for data in (
    *(form % one for form, some in ((LINE, LINES), (TARGET, TARGETS), (NAMED, HOSTS), (FIELD, FIELDS))
      for one in some), *STREAMS, *HEADS, *(CHUNKED + chunks for chunks in CHUNKS),
    *(LENGTH % length + body for length, body in LENGTHS),
    *(FRAMED % (b"Transfer-Encoding: " + coding) for coding in CODINGS),
)]  # fmt: skip

# Requests that break off: the client sends no more, and closes its side.
BROKEN_OFF = [
    b"", b"\r\n", b"\r", b"GE", b"GET /file.txt HT", GET, GET[:-1], GET + b"Ho", GET + HOST,
    GET + HOST + b"\r", LENGTH % b"10" + b"abc", LENGTH % b"10", CHUNKED, CHUNKED + b"1",
    CHUNKED + b"a\r\nabc", CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n",
]  # fmt: skip
