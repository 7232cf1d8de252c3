"""The logs' formats, and that no client can write lines of its own into them."""

import os
import re
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.client import Client, exchange, request
from support.configured import directives
from support.files import conf, recorded_root, section, write
from support.load import Load
from support.servers import serving
from support.waiting import logged, poll_until

from mpmkit.cli.configuration import Configuration
from mpmkit.config.directives import Note
from mpmkit.config.httpd_conf import Source
from mpmkit.config.values import COMMON, FormatError
from mpmkit.http.messages import RequestError
from mpmkit.http.protocol import parse_head
from mpmkit.server import logs
from mpmkit.server.log_format import FIELDS, OF_REQUEST, Site, compile_format
from mpmkit.server.logs import AccessLog, ErrorLog, LogError, open_log

NOW = 1_700_000_000_123_456_789
STAMP = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
LINE = r"\[\w{3} \w{3} \d\d \d\d:\d\d:\d\d\.\d{6} \d{4}\] \[(\w+):(\w+)\] \[pid \d+:tid \d+\] (.*)"


def connection(head=b"GET /a?b HTTP/1.1\r\nHost: x\r\nReferer: r\r\n\r\n", **changes):
    """What a log sees of a connection."""
    values = {
        "request": parse_head(head, directives()), "peer": ("192.0.2.7", 1234), "status": 200,
        "started": NOW - 1_500_000, "body_sent": 45, "sent": 300, "unsent": 0, "keep_alive": True, "kept": 2,
        "protocol": SimpleNamespace(line=b""), "scheme": "http", "response": None,
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


def line(text: str, conn=None) -> str:
    log = compile_format(text + "\n", Site(directives(MaxKeepAliveRequests=3)))
    return log(conn or connection(), NOW).removesuffix("\n")


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "error.log"
    fd = open_log(str(path), "ErrorLog")
    yield lambda level="warn", **options: (ErrorLog(fd, level, **options), path.read_text)
    os.close(fd)


def test_the_common_format():
    """There is a faster way for it than the table; the text must be the same."""
    assert re.fullmatch(rf'192\.0\.2\.7 - - {STAMP} "GET /a\?b HTTP/1\.1" 200 45', line(COMMON))
    slowly = compile_format(COMMON + "%%")
    for conn in (connection(), connection(status=404, body_sent=0), connection(request=None)):
        assert line(COMMON, conn) + "%" == slowly(conn, NOW)


@pytest.mark.parametrize("text, expected, changes", [
    *((text, expected, {}) for text, expected in (
        ("%h|%a|%l|%u", "192.0.2.7|192.0.2.7|-|-"), ("%>s %s %b %B %O", "200 200 45 45 300"),
        ("%D %T %X %k", "1500 0 - 2"), ("%m %U", "GET /a"),
        ("%{Referer}i %{User-Agent}i %{host}i", "r - x"),
        ("100%% \\o/ %r", "100% \\o/ GET /a?b HTTP/1.1"), ("", ""), ("plain", "plain"),
        ("a\\tb\\n\\\\n", "a\tb\n\\n"), ("%<s %>r %>U", "200 GET /a?b HTTP/1.1 /a"),
        ("%q %H %{c}a %{c}h %{remote}p", "?b HTTP/1.1 192.0.2.7 192.0.2.7 1234"),
        ("%{ms}T %{us}T %{s}T", "1 1500 0"),
        ("%200{Referer}i %404,500{Referer}i %!200{Referer}i %!404s %200,206>s", "r - - 200 200"),
        ("%{sec}t %{msec}t %{usec_frac}t %{end:usec}t", "1700000000 1700000000121 121956 1700000000123456"),
        ("%{%Y}t %{begin:%Y}t", "2023 2023"), ("%{none}C %{MPMKIT_NO_SUCH_NAME}e", "- -"),
        ("%{SSL_PROTOCOL}x %{a}n %{a}^ti %{a}^to %L %R %{日}o", "- - - - - - -"),
        ("%{pid}P %P %{PATH}e %{tid}P",
         f"{os.getpid()} {os.getpid()} {os.environ['PATH']} {threading.get_native_id()}"))),
    ("%b %B", "- 0", {"body_sent": 0}), ("%X", "-", {"keep_alive": False}),
    # As httpd counts, with MaxKeepAliveRequests 3: the last of four repeats a number if the client closes.
    *(("%X %k", shown, {"kept": kept, "keep_alive": keep_alive}) for kept, keep_alive, shown in (
        (0, False, "- 0"), (0, True, "+ 0"), (1, True, "+ 1"), (2, False, "- 1"), (3, False, "- 3"))),
    # Refused before there was a request: its first line, if one came.
    ("%r %m %U %{Referer}i", "- - - -", {"request": None}),
    ("%r", r"BAD \"line\"\x01", {"request": None, "protocol": SimpleNamespace(line=b'BAD "line"\x01')}),
    ("%{a}C %{b}C %{c}C", r'1 \"2\" -',
     {"head": b'GET / HTTP/1.1\r\nHost: x\r\nCookie: a=1; b="2"; c\r\n\r\n'}),
])  # fmt: skip
def test_formats(text, expected, changes):
    assert line(text, connection(**changes)) == expected


def test_the_program_of_a_hosts_error_log_ends_with_its_configuration(tmp_path):
    text = f"LoadModule mpm_event_module x\nDocumentRoot {tmp_path}\n"
    text += "<VirtualHost *:80>\nErrorLog |cat\n</VirtualHost>\n"
    service = Configuration(Source("f", text)).service()
    (fd,) = logs._pipes
    service.logs.close()
    assert fd not in logs._pipes


@pytest.mark.parametrize("text", [
    "%y", "%", "%{x}y", "%{x", "%>", "%20s", "%!s", "%{x}T", "%{x}P", "%{x}p", "%{x}a", "%é", "100%",
])  # fmt: skip
def test_what_is_no_format(text, tmp_path):
    with pytest.raises(FormatError):
        compile_format(text)
    with pytest.raises(LogError, match="LogFormat"):
        AccessLog(directives(CustomLog=(str(tmp_path / "log"), text)), ExitStack())
    assert not list(tmp_path.iterdir()), "nothing was opened"


FREE = [f"%{f}" for f in (*FIELDS, *OF_REQUEST) if f not in ("t", "A", "I", "S", "{local}p")]


@given(st.binary(max_size=20), st.sampled_from(FREE))
def test_a_client_cannot_write_lines_or_quotes_of_its_own(raw, field):
    value = bytes(byte for byte in raw if byte not in b"\r\n\0").strip()
    path = b"".join(b"%%%02x" % byte for byte in raw if byte)
    head = b"GET /%b HTTP/1.1\r\nHost: x\r\nReferer: a%bz\r\n\r\n" % (path, value)
    try:
        conn = connection(head)
    except Exception:
        return  # no request at all: then there is its line, tested above
    for text in (line(f'"{field}"', conn), line('"%{Referer}i"', conn)):
        inside = text[1:-1]
        assert '"' not in inside.replace('\\"', "")
        assert inside.isprintable() and inside.isascii()


def test_what_the_server_is(tmp_path):
    write(tmp_path / "sub" / "index.htm", "")
    named = {"DocumentRoot": str(tmp_path), "Alias": ("/else", "/srv/else")}
    named |= {"ServerName": "lab.example:81", "DirectoryIndex": ("index.html", "index.htm")}
    for text, path, host, expected, more in (
        ("%v %V %p", "/", "h:8080", "lab.example h 8080", {}), ("%v %V %p", "/", "h", "lab.example h 81", {}),
        ("%f", "/sub/", "h", f"{tmp_path}/sub/index.htm", {}), ("%f", "/sub/x", "h", f"{tmp_path}/sub/x", {}),
        ("%f", "/else/x", "h", "/srv/else/x", {}), ("%f", "/elsewhere", "h", f"{tmp_path}/elsewhere", {}),
        ("%V %p", "/", "x", "lab.example 81", {"UseCanonicalName": "On"}),
        ("%v", "/", "h", r"\xe4\xbe\x8b.example", {"ServerName": "例.example"}),  # in bytes
    ):  # fmt: skip
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        site = Site(directives(**named | more))
        assert compile_format(text, site)(connection(head), NOW) == expected


def test_a_log_that_can_t_be_opened_names_its_directive_and_a_full_disk_costs_lines_not_service():
    with pytest.raises(LogError, match=r"CustomLog /nothing/access.log: .*; name a file"):
        AccessLog(directives(CustomLog=("/nothing/access.log", COMMON)), ExitStack())
    for path in ("syslog", "syslog:local7"):
        with pytest.raises(LogError, match="name a file"):
            open_log(path, "ErrorLog")
    with ExitStack() as opened:
        AccessLog(directives(CustomLog=("/dev/full", COMMON)), opened).log(connection(), NOW)
    ErrorLog(os.open("/dev/full", os.O_WRONLY)).write("error", "text")


def test_a_line_of_the_error_log(log):
    errors, read = log()
    errors.write("error", "text", ah="AH00001", module="mpm_event", client=("192.0.2.7", 80))
    found = re.fullmatch(LINE, read().rstrip("\n")).groups()
    assert found == ("mpm_event", "error", "[client 192.0.2.7:80] AH00001: text")
    errors.note(Note("AH00484", "error", "reached"))
    assert read().splitlines()[1].endswith("AH00484: reached")
    # A message is one line of printable ASCII.
    raw = 'caf\u00e9 \udcff \ud800 a\nb\r\t\b\v\0\x1b[2J\x7f \x85 \u2028 \\ "quoted"'
    errors.write("error", raw)
    escaped = r'caf\xc3\xa9 \xff \xed\xa0\x80 a\nb\r\t\b\v\x00\x1b[2J\x7f \xc2\x85 \xe2\x80\xa8 \\ "quoted"'
    assert read().splitlines()[2].endswith(f"] {escaped}")
    # Several lines are several lines of the log.
    errors.write_lines("error", "one\ntwo\r\nthree")
    errors.write("error", "")
    try:
        raise RuntimeError("broken\nforged")
    except RuntimeError:
        errors.exception("a script failed", client=("192.0.2.7", 80))
    texts = [re.fullmatch(LINE, text)[3] for text in read().splitlines()[3:]]
    assert texts[:4] == ["one", "two", "three", ""]
    said = "a script failed", "RuntimeError: broken", "forged"
    assert [texts[4], *texts[-2:]] == [f"[client 192.0.2.7:80] {one}" for one in said]


def test_levels_also_of_single_modules(log):
    errors, read = log("warn", levels={"ssl": "debug", "core": "error"})
    for module in ("core", "ssl", "mpm_event"):
        for level in ("error", "notice", "warn", "debug", "trace8"):
            errors.write(level, "text", module=module)
    assert errors.enabled("notice") and not errors.enabled("info", "mpm_event")
    errors.refused(RequestError(400, "no Host", ah="AH00569"), ("192.0.2.7", 80))
    seen = [":".join(re.fullmatch(LINE, text).groups()[:2]) for text in read().splitlines()]
    assert seen == [
        "core:error", "core:notice", "ssl:error", "ssl:notice", "ssl:warn", "ssl:debug",
        "mpm_event:error", "mpm_event:notice", "mpm_event:warn",
    ]  # fmt: skip


def test_a_server_s_access_logs(mpm, tmp_path):
    path, other = tmp_path / "lab.log", tmp_path / "bytes.log"
    root = recorded_root(tmp_path / "root")
    layout = "%I %O %S %{Content-Length}o %{Connection}o %{Server}o %{X-None}o %f %v %{local}p"
    logs = [(str(path), "%h %r %>s %b %X %k %{X-Y}i"), (str(other), layout)]
    named = {"ServerName": "lab.example", "ServerTokens": "Prod", "CustomLog": logs}
    with serving(mpm, document_root=root, access_log=True, **named) as server:
        sent = [
            request("/file.txt", "X-Y: a\tb"), request("/a%0ab", "Connection: keep-alive"),
            request(method="HEAD"), request("/", close=True), b"nonsense\r\n\r\n",
            request("/file.txt", "Transfer-Encoding: chunked", method="POST", close=True)
            + b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nA: trailer\r\n\r\n",
        ]  # fmt: skip
        with Client(server) as client:
            replies = [client.ask(one) for one in sent[:4]]
        sizes, page = [reply.size for reply in replies], str(len(replies[1].body))
        for count in (5, 6):
            logged(other, count - 1)  # the next connection may be another process's
            sizes.append(len(exchange(server, sent[count - 1])))
        *lines, nonsense, last = logged(path, 6)
        rows = [text.split() for text in logged(other, 6)]
        common = server.access_log().splitlines()
        # Lines of many processes never mix.
        with Load(server, "/file.txt", clients=4, keep_alive=True, requests=100) as load:
            load.join()
        poll_until(lambda: len(server.access_log().splitlines()) == 406)
        many = server.access_log().splitlines()[6:]
    assert lines == [
        "127.0.0.1 GET /file.txt HTTP/1.1 200 37 + 0 a\\tb",
        f"127.0.0.1 GET /a%0ab HTTP/1.1 404 {page} + 1 -",
        "127.0.0.1 HEAD /file.txt HTTP/1.1 200 - + 2 -",
        "127.0.0.1 GET / HTTP/1.1 200 45 - 2 -",
    ]
    assert re.fullmatch(r"127\.0\.0\.1 nonsense 400 \d+ - 0 -", nonsense)
    assert last == "127.0.0.1 POST /file.txt HTTP/1.1 200 37 - 0 -"
    pattern = rf'127\.0\.0\.1 - - {STAMP} "GET /file\.txt HTTP/1\.1" 200 37'
    assert all(re.fullmatch(pattern, text) for text in (common[0], *many)) and len(common) == 6
    columns = [*zip(*rows, strict=True)]
    assert [list(map(int, column)) for column in columns[:2]] == [list(map(len, sent)), sizes]
    assert all(int(row[2]) == int(row[0]) + int(row[1]) for row in rows)
    assert columns[3] == ("37", page, "37", "45", "-", "37")
    assert columns[4] == ("-", "Keep-Alive", "-", "close", "close", "close")
    assert [set(column) for column in columns[5:7]] == [{"mpmkit"}, {"-"}]
    names = "file.txt", r"a\nb", "file.txt", "index.html", "file.txt"
    assert [name for name in columns[7] if name != "-"] == [f"{root}/{name}" for name in names]
    assert [set(column) for column in columns[8:]] == [{"lab.example"}, {str(server.port)}]


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FULL = b"GET /a?b HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\n"

# What a client sends; how httpd logs it: module, level, id, and of some (408: but for the last field) the line.
REFUSED = [
    (FULL + b"A : b\r\nB: c\r\n\r\n", "core:debug AH02426", "GET /a ?b HTTP/1.1 400 x me - -"),
    (FULL.replace(b"Host: x\r\n", b"") + b"\r\n", "core:debug AH00569",
     "GET /a ?b HTTP/1.1 400 - me - -"),
    (FULL.replace(b"x\r\n", b"x\r\nHost: y\r\n") + b"\r\n", "core:debug AH00550",
     "GET /a ?b HTTP/1.1 400 x, y me - -"),
    (FULL + b"B: " + b"x" * 300 + b"\r\nA: b\r\n\r\n", "core:info AH00561",
     "GET /a ?b HTTP/1.1 400 x me - -"),
    (FULL + b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n", "core:info AH00563", "GET /a ?b HTTP/1.1 400 x me 1 2"),
    (FULL.replace(b"/a?b", b"/%2F%zz") + b"\r\n", "core:error AH10244",
     "GET /%2F%zz  HTTP/1.1 400 x me - -"),
    (b"POST" + FULL[3:] + b"Content-Length: 100\r\n\r\n", "http:info AH01588",
     "POST /a ?b HTTP/1.1 413 x me - -"),
    (FULL + b"A: 1", "reqtimeout:info AH01382", "GET /a ?b HTTP/1.1 408 x me - -"),
    (b"GET /" + b"x" * 500 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "core:info AH00565", "- -  - 414 - - - -"),
    *((sent, said, "") for sent, said in (
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "core:debug AH00550"),
        (HEAD + b"no colon\r\n\r\n", "core:debug AH02426"),
        (HEAD + b"Expect: what\r\n\r\n", "core:info AH00570"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "core:debug AH00566"),
        (b"GET /#x HTTP/1.0\r\n\r\n", "core:debug AH02421"),
        (b"GET x HTTP/1.0\r\n\r\n", "core:debug AH03450"),
        (b"FOOBAR / HTTP/1.0\r\n\r\n", "core:error AH00135"),
        (b"GET /../x HTTP/1.0\r\n\r\n", "core:error AH10244"),
        (b"\r\n\rGET / HTTP/1.0\r\n\r\n", "core:debug AH03447"),
        (b"G@T / HTTP/1.0\r\n\r\n", "core:debug AH03445"),
        (b"GET  / HTTP/1.0\r\n\r\n", "core:debug AH03448"),
        (b"GET / http/1.0\r\n\r\n", "core:debug AH02418"),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", "core:debug AH03442"),
        (HEAD + b"A: b\x01c\r\n\r\n", "core:debug AH02427"),
        (HEAD + b"A: b\r\n  \r\n\r\n", "core:debug AH03443"),
        (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "core:debug AH10242"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", "core:debug AH02539"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", "http:info AH01595"),
        (b"GET /a%2fb HTTP/1.0\r\n\r\n", "core:info AH00026"),
        (b"GET /" + b"x" * 300 + b" HTTP/1.0\r\n\r\n", "core:error AH00036"),
        (b"GET /nope HTTP/1.0\r\n\r\n", "core:info AH00128"),
        (b"GET /sub/ HTTP/1.0\r\n\r\n", "authz_core:error AH01630"),
        (b"GET /noindex/ HTTP/1.0\r\n\r\n", "autoindex:error AH01276"),
        (CHUNKED + b"zz\r\n", "http:info AH01590"),
        (CHUNKED + b"1ff\r\n%b\r\n0\r\n\r\n" % (b"x" * 511), "http:info AH01591"),
        (POST + b"Content-Length: 9\r\n\r\nab", "reqtimeout:info AH01382"),
    )),
]  # fmt: skip


def test_what_is_logged_of_a_refused_request(tmp_path):
    """As httpd logs it: by the same ids at the same levels, and with what was right of it."""
    path = tmp_path / "lab.log"
    options = {
        "CustomLog": (str(path), "%m %U %q %H %>s %{Host}i %{User-Agent}i %{A}i %{B}i"),
        "LogLevel": "debug", "RequestReadTimeout": "header=1 body=1", "LimitRequestBody": 9,
        "LimitRequestFields": 4, "LimitRequestFieldSize": 100, "LimitRequestLine": 400,
        "conf": conf("LoadModule autoindex_module x", section("Location /sub/", "Require all denied")),
    }  # fmt: skip
    with serving("event", document_root=recorded_root(tmp_path / "root"), **options) as server:
        for number, (sent, said, line) in enumerate(REFUSED, 1):
            before = len(server.error_log())
            exchange(server, sent)
            where, ah = said.split()
            line_of = rf"\[{where}\] \[pid \d+:tid \d+\] \[client 127\.0\.0\.1:\d+\] {ah}: "
            poll_until(lambda: re.search(line_of, server.error_log()[before:]), what=said)  # noqa: B023
            assert line in ("", logged(path, number)[-1]), sent[:80]
