"""Malformed requests, with the status that each is refused with (None: a close without a word), and
requests that break off."""

from __future__ import annotations

HOST = b"Host: x\r\n"
GET = b"GET /file.txt HTTP/1.1\r\n"
POST = b"POST /file.txt HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def line(text: bytes) -> bytes:
    """A request with that request line."""
    return text + b"\r\n" + HOST + b"\r\n"


def field(text: bytes) -> bytes:
    """A request with that header line."""
    return GET + HOST + text + b"\r\n\r\n"


def target(text: bytes) -> bytes:
    return line(b"GET " + text + b" HTTP/1.1")


def host(text: bytes) -> bytes:
    return GET + b"Host: " + text + b"\r\n\r\n"


def chunks(text: bytes) -> bytes:
    return CHUNKED + text


# name -> (bytes, status)
REFUSED: dict[str, tuple[bytes, int]] = {
    # the request line
    "one word": (line(b"GARBAGE"), 400),
    "no version for POST": (line(b"POST /"), 400),
    "no target": (line(b"GET HTTP/1.1"), 400),
    "no method": (line(b"/ HTTP/1.1"), 400),
    "four words": (line(b"GET / x HTTP/1.1"), 400),
    "two spaces before the target": (line(b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (line(b"GET /  HTTP/1.1"), 400),
    "tab before the target": (line(b"GET\t/ HTTP/1.1"), 400),
    "tab before the version": (line(b"GET /\tHTTP/1.1"), 400),
    "space before the method": (line(b" GET / HTTP/1.1"), 400),
    "tab before the method": (line(b"\tGET / HTTP/1.1"), 400),
    "space after the version": (line(b"GET / HTTP/1.1 "), 400),
    "tab after the version": (line(b"GET / HTTP/1.1\t"), 400),
    "lower-case version": (line(b"GET / http/1.1"), 400),
    "HTTP/0.9": (line(b"GET / HTTP/0.9"), 400),
    "HTTP/1": (line(b"GET / HTTP/1"), 400),
    "HTTP/11": (line(b"GET / HTTP/11"), 400),
    "HTTP/1.10": (line(b"GET / HTTP/1.10"), 400),
    "HTTP/1.x": (line(b"GET / HTTP/1.x"), 400),
    "HTTP/ 1.1": (line(b"GET / HTTP/ 1.1"), 400),
    "HTTP-1.1": (line(b"GET / HTTP-1.1"), 400),
    "HTTPS/1.1": (line(b"GET / HTTPS/1.1"), 400),
    "at sign in the method": (line(b"G@T / HTTP/1.1"), 400),
    "slash in the method": (line(b"G/T / HTTP/1.1"), 400),
    "quoted method": (line(b'"GET" / HTTP/1.1'), 400),
    "NUL in the method": (line(b"G\0T / HTTP/1.1"), 400),
    "8-bit method": (line(b"G\xc9T / HTTP/1.1"), 400),
    "unknown method": (line(b"BREW / HTTP/1.1"), 501),
    "lower-case method": (line(b"get / HTTP/1.1"), 501),
    "bare line feed after the request line": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare carriage return in the request line": (line(b"GET /\r HTTP/1.1"), 400),
    "bare carriage return after the request line": (b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    "NUL after the version": (line(b"GET / HTTP/1.1\0"), 400),
    "request line of 9000": (target(b"/" + b"a" * 9000), 414),
    "request line without an end": (b"GET /" + b"a" * 20_000, 414),
    "query of 9000": (target(b"/?" + b"a" * 9000), 414),
    "method of 9000": (line(b"A" * 9000 + b" / HTTP/1.1"), 414),
    "eleven blank lines": (b"\r\n" * 11 + GET + HOST + b"\r\n", 400),
    "blank bare carriage returns": (b"\r\r\r\n" + GET + HOST + b"\r\n", 400),
    "a carriage return before the request line": (b"\r" + GET + HOST + b"\r\n", 400),
    "blank bare line feeds": (b"\n\n" + GET + HOST + b"\r\n", 400),
    "a reply": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    "SMTP": (b"EHLO mail.example\r\n", 400),
    "FTP": (b"USER anonymous\r\n\r\n", 400),
    "shell": (b"() { :; }; echo x\r\n\r\n", 400),
    "only spaces": (b"   \r\n\r\n", 400),
    "only NULs": (b"\0" * 100 + b"\r\n\r\n", 400),
    "binary": (bytes(range(128, 256)) + b"\r\n\r\n", 400),
    "UTF-16": ("GET / HTTP/1.1\r\n\r\n".encode("utf-16") + b"\r\n\r\n", 400),
    "byte order mark": (b"\xef\xbb\xbf" + GET + HOST + b"\r\n", 400),
    # the target
    "relative target": (target(b"file.txt"), 400),
    "dot-dot target": (target(b"../file.txt"), 400),
    "star for GET": (target(b"*"), 400),
    "empty host in the target": (target(b"http:///file.txt"), 400),
    "user in the target": (target(b"http://user:pw@x/"), 400),
    "another scheme": (target(b"ftp://x/"), 400),
    "script scheme": (target(b"javascript:alert(1)"), 400),
    "authority for GET": (target(b"x:80"), 400),
    "above the root": (target(b"/.."), 400),
    "above the root and back": (target(b"/../htdocs/file.txt"), 400),
    "far above the root": (target(b"/" + b"../" * 50 + b"etc/passwd"), 400),
    "above the root from inside": (target(b"/sub/../../etc/passwd"), 400),
    "above the root, encoded": (target(b"/%2e%2e/etc/passwd"), 400),
    "above the root, half encoded": (target(b"/.%2E/etc/passwd"), 400),
    "bad escape": (target(b"/%zz"), 400),
    "cut escape": (target(b"/file%2"), 400),
    "lone percent": (target(b"/100%"), 400),
    "unicode escape": (target(b"/%u0041"), 400),
    "negative escape": (target(b"/%-1"), 400),
    "fragment": (target(b"/file.txt#part"), 400),
    "fragment in the query": (target(b"/?a#b"), 400),
    "control character in the target": (target(b"/\x01"), 400),
    "delete in the target": (target(b"/\x7f"), 400),
    "8-bit target": (target(b"/caf\xe9"), 400),
    "NUL in the target": (target(b"/file.txt\0.html"), 400),
    # Host
    "no Host": (GET + b"\r\n", 400),
    "empty Host": (host(b""), 400),
    "blank Host": (host(b"   "), 400),
    "two Hosts": (GET + HOST + HOST + b"\r\n", 400),
    "two different Hosts": (GET + HOST + b"Host: y\r\n\r\n", 400),
    "space in Host": (host(b"a b"), 400),
    "list in Host": (host(b"a, b"), 400),
    "path in Host": (host(b"x/../y"), 400),
    "user in Host": (host(b"user@x"), 400),
    "letters for a port": (host(b"x:http"), 400),
    "two ports": (host(b"x:1:2"), 400),
    "open bracket in Host": (host(b"[::1"), 400),
    "no address in brackets": (host(b"[x]"), 400),
    "quotes in Host": (host(b'"x"'), 400),
    "markup in Host": (host(b"<script>"), 400),
    "backslash in Host": (host(b"a\\b"), 400),
    "URL in Host": (host(b"http://x/"), 400),
    # header lines
    "no colon": (field(b"NoColon"), 400),
    "only a colon": (field(b": value"), 400),
    "space before the colon": (field(b"X : y"), 400),
    "tab before the colon": (field(b"X\t: y"), 400),
    "space in a name": (field(b"X Y: z"), 400),
    "slash in a name": (field(b"X/Y: z"), 400),
    "quotes in a name": (field(b'"X": y'), 400),
    "8-bit name": (field(b"X\xe9: y"), 400),
    "NUL in a name": (field(b"X\0Y: z"), 400),
    "NUL in a value": (field(b"X: a\0b"), 400),
    "control character in a value": (field(b"X: a\x01b"), 400),
    "delete in a value": (field(b"X: a\x7f"), 400),
    "control character beside a body": (POST + b"X: \x1b\r\nContent-Length: 0\r\n\r\n", 400),
    "a continuation line of blanks": (field(b"X: a\r\n  \r\n b"), 400),
    "bare line feed in a value": (field(b"X: a\nY: b"), 400),
    "bare carriage return in a value": (field(b"X: a\rY: b"), 400),
    "fold as the first header": (GET + b" folded: y\r\n" + HOST + b"\r\n", 400),
    "request line twice": (GET + GET + HOST + b"\r\n", 400),
    "101 headers": (GET + HOST + b"X: y\r\n" * 100 + b"\r\n", 400),
    "1000 headers": (GET + HOST + b"X: y\r\n" * 1000 + b"\r\n", 400),
    "headers without an end": (GET + HOST + b"X: y\r\n" * 200, 400),
    "header of 9000": (field(b"X: " + b"y" * 9000), 400),
    "header name of 9000": (field(b"X" * 9000 + b": y"), 400),
    "header without an end": (GET + HOST + b"X: " + b"y" * 20_000, 400),
    "equal headers of 9000 together": (field(b"X: " + b"y" * 4500 + b"\r\nX: " + b"y" * 4500), 400),
    "folded header of 9000": (field(b"X: y" + b"\r\n " + b"y" * 4500 + b"\r\n " + b"y" * 4500), 400),
    "unknown expectation": (field(b"Expect: the unexpected"), 417),
    # framing
    "letters for a length": (POST + b"Content-Length: abc\r\n\r\n", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "fractional length": (POST + b"Content-Length: 3.0\r\n\r\nabc", 400),
    "empty length": (POST + b"Content-Length: \r\n\r\n", 400),
    "spaced length": (POST + b"Content-Length: 1 2\r\n\r\n", 400),
    "length with underscores": (POST + b"Content-Length: 1_0\r\n\r\n", 400),
    "length of other digits": (POST + "Content-Length: ３\r\n\r\n".encode(), 400),
    "the same length twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a list of lengths in two lines": (POST + b"Content-Length: 3\r\n ,3\r\n\r\nabc", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "list of lengths": (POST + b"Content-Length: 3, 4\r\n\r\nabcd", 400),
    "length over its limit": (POST + b"Content-Length: 2000000000\r\n\r\n", 413),
    "length over 64 bits": (POST + b"Content-Length: 18446744073709551617\r\n\r\n", 400),
    "length without an end": (POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "coding without chunks": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "chunked, then gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunked in two fields": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", 400),
    "empty coding": (POST + b"Transfer-Encoding: \r\n\r\n", 400),
    "misspelt coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "coding with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "chunked in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # chunks
    "no chunk size": (chunks(b"\r\nabc\r\n0\r\n\r\n"), 400),
    "letters for a chunk size": (chunks(b"xyz\r\nabc\r\n0\r\n\r\n"), 400),
    "negative chunk size": (chunks(b"-3\r\nabc\r\n0\r\n\r\n"), 400),
    "prefixed chunk size": (chunks(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "space before a chunk size": (chunks(b" 3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size over 64 bits": (chunks(b"f" * 30 + b"\r\nabc\r\n"), 400),
    "chunk over the body's limit": (chunks(b"7fffffff\r\n" + b"a" * 100), None),
    "chunk longer than it says": (chunks(b"3\r\nabcdef\r\n0\r\n\r\n"), 400),
    "chunk without its end": (chunks(b"3\r\nabc0\r\n\r\n"), 400),
    "bare line feed after a chunk size": (chunks(b"3\nabc\r\n0\r\n\r\n"), 400),
    "bare line feed after a chunk": (chunks(b"3\r\nabc\n0\r\n\r\n"), 400),
    "TRACE with a body": (b"TRACE / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", 413),
    "request instead of a chunk": (chunks(GET + HOST + b"\r\n"), 400),
    "chunk extension without an end": (chunks(b"3;" + b"x" * 100_000), 400),
    "trailer without an end": (chunks(b"0\r\nX: " + b"x" * 100_000), 400),
    "trailer of 100,000 bytes": (chunks(b"0\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), 400),
    "malformed trailer": (chunks(b"0\r\nno colon\r\n\r\n"), 400),
}  # fmt: skip

# Requests that break off: the client sends no more, and closes its side.
BROKEN_OFF: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "half a blank line": b"\r",
    "half a method": b"GE",
    "half a request line": b"GET /file.txt HT",
    "a request line": GET,
    "a request line without its line feed": GET[:-1],
    "half a header": GET + b"Ho",
    "headers without the blank line": GET + HOST,
    "half the blank line": GET + HOST + b"\r",
    "half a body": POST + b"Content-Length: 10\r\n\r\nabc",
    "no body": POST + b"Content-Length: 10\r\n\r\n",
    "no chunk": CHUNKED,
    "half a chunk size": chunks(b"1"),
    "half a chunk": chunks(b"a\r\nabc"),
    "no last chunk": chunks(b"3\r\nabc\r\n"),
    "no end of the trailer": chunks(b"3\r\nabc\r\n0\r\nX: y\r\n"),
}
