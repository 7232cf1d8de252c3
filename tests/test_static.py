"""Files: which path gives which bytes, what is refused, and how soon a change is seen."""

import os
import random
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.client import Client, asked, get, half_sent
from support.client import request as asking
from support.configured import directives as configured
from support.files import RECORDED, conf, recorded_root, section, tree, write
from support.servers import prefork_and_event, serving, shows
from support.waiting import poll_until

import mpmkit
from mpmkit.handlers import static
from mpmkit.handlers.router import Router
from mpmkit.handlers.static import MMAP_LIMIT, SMALL, StaticFiles
from mpmkit.http.messages import FileBody, Request, http_date
from mpmkit.http.protocol import parse_head
from mpmkit.launcher import LaunchError
from mpmkit.measure.procfs import status_numbers, text_of
from mpmkit.server.logs import ErrorLog

mpm = prefork_and_event
DIRECTIVES = configured()
CONNECTION = SimpleNamespace(peer=("127.0.0.1", 1), direct=True)
BIG = random.Random(1).randbytes(3_000_000)
SAME, BEFORE = "Tue, 02 Jan 2024 03:04:05 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"
TEXT = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
MANY = "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 600, 2))
FILES = {
    "big.bin": BIG, "py.secret.txt": "not a script", ".hidden": "hidden", "sp ace.txt": "space",
    "caf\u00e9.html": "coffee", os.fsdecode(b"latin\xe9.txt"): "latin", "100%.txt": "percent",
    "noextension": "plain", "UPPER.TXT": "upper", "a;b=c&d.txt": "odd",
}  # fmt: skip


def request(path: str, *lines: str, method: str = "GET") -> Request:
    return parse_head(asking(path, *lines, method=method), DIRECTIVES)


def answer(files: StaticFiles, path: str, *lines: str, method: str = "GET"):
    """The handler's response, without a server."""
    return files(request(path, *lines, method=method), CONNECTION)


def files_with(root: Path, age: float = 0, **named) -> StaticFiles:
    """With a clock by which all files of `root` are so many seconds older."""
    files = Router(configured(DocumentRoot=root, **named), ErrorLog(), {}).files
    files.clock = lambda: time.time() + age
    return files


@pytest.mark.parametrize("path, body, kind", [
    ("/sp%20ace.txt", b"space", "text/plain"), ("/caf%C3%A9.html", b"coffee", "text/html"),
    ("/latin%E9.txt", b"latin", "text/plain"), ("/100%25.txt", b"percent", "text/plain"),
    ("/noextension", b"plain", None), ("/UPPER.TXT", b"upper", "text/plain"),
    ("/a;b=c&d.txt?x", b"odd", "text/plain"), ("/py.secret.txt", b"not a script", "text/plain"),
    ("/.hidden", b"hidden", None),
])  # fmt: skip
def test_names(server, path, body, kind):
    reply = get(server, path)
    assert (reply.status, reply.body, reply["Content-Type"]) == (200, body, kind)


@pytest.mark.parametrize("way, values", [
    ("read", {"EnableMMAP": "Off"}), ("sendfile", {"EnableSendfile": "On"}),
    ("mapped", {"EnableMMAP": "On", "EnableSendfile": "Off"}),
])  # fmt: skip
def test_slow_readers_and_those_that_leave(mpm, document_root, way, values, tmp_path):
    """The answer takes many turns to send, and is whole. Who leaves early leaves no descriptor open."""
    big = asking("/big.bin")
    # Left to itself the kernel widens its buffer, up to where it takes the whole file at once.
    with serving(mpm, document_root=document_root, SendBufferSize=65536, **values) as server:
        with Client(server, receive_buffer=4096) as client:
            if way == "mapped":
                get_until_mapped(server, client, "/big.bin")
            client.send(big * 2)  # the next request is there while the last answer is being sent
            for _ in range(2):
                poll_until(lambda: "W" in str(server.scoreboard()) or mpm == "event")
                assert client.reply().body == BIG
            assert client.get("/file.txt").status == 200
        for number in range(10):
            with Client(server, receive_buffer=4096) as client:
                client.send(big)
                if number % 2:
                    assert client.receive()
        # The file is open when the server finds that the request's body does not come.
        unsent = ("Content-Length: 9", b"abc"), ("Transfer-Encoding: chunked", b"xyz\r\n")
        for line, body in unsent:
            with Client(server) as client:
                client.send(asking("/big.bin", line, method="POST") + body).half_close()
                client.until_closed()
        most = len(server.processes()) if way == "mapped" else 0
        poll_until(lambda: len(open_files(server, "big.bin")) <= most, what="they are closed")
    # One that takes nothing is left after Timeout; as by httpd, %X says so, and %O is what was sent.
    log, values = tmp_path / "log", {"Timeout": 2, "FlushMaxThreshold": 2 * len(BIG), **values}
    values |= {"CustomLog": f'{log} "%X %>s %B %O %T"', "SendBufferSize": 65536}
    with serving(mpm, document_root=document_root, **values) as server, Client(server) as client:
        if way == "mapped":
            get_until_mapped(server, client, "/big.bin")
        with Client(server, receive_buffer=4096) as full:
            full.send(big)
            poll_until(lambda: "X" in log.read_text(), "it is logged")
        whole, sent, seconds = log.read_text().split()[-3:]
        assert int(whole) == len(BIG) > int(sent) > 0 and 2 <= int(seconds) < 6
        cut = asked(server, "/file.txt", "Content-Length: 9", method="POST"), half_sent(server)
        shows(server, W=1, R=1)
        for gone in cut:
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(8, "little"))
            gone.sock.close()
        poll_until(lambda: len(re.findall(r"X 400 \d+ 0 ", log.read_text())) == 2, "resets")


def open_files(server, name: str) -> list[Path]:
    links = (link for pid in server.processes() for link in Path(f"/proc/{pid}/fd").iterdir())
    return [link for link in links if os.path.realpath(link).endswith("/" + name)]


def is_mapped(server, name: str) -> bool:
    maps = (text_of(f"/proc/{pid}/maps") for pid in server.processes())
    return any(re.search(rf"/{re.escape(name)}$", text, re.MULTILINE) for text in maps)


def get_until_mapped(server, client: Client, path: str) -> None:
    """A file is mapped for its second reader, once a second has passed since its last change."""

    def got() -> bool:
        assert client.get(path).status == 200
        return is_mapped(server, os.path.basename(path))

    poll_until(got, what=f"{path} mapped")


def test_a_file_that_stays_mapped(server, document_root):
    """The same answers as from a file that is read, by every way that leads to its bytes; until it changes."""
    write(document_root / "above.bin", BIG[: SMALL + 1])
    with Client(server) as client:
        get_until_mapped(server, client, "/above.bin")
        assert client.get("/above.bin").body == BIG[: SMALL + 1]
        for first, last in ((0, 0), (100, 70_000), (SMALL, SMALL)):
            reply = client.get("/above.bin", f"Range: bytes={first}-{last}")
            assert (reply.status, reply.body) == (206, BIG[first : min(last, SMALL) + 1])
        reply = client.get("/above.bin", "Range: bytes=0-9,20-29")
        assert BIG[:10] in reply.body and BIG[20:30] in reply.body
        tag = client.get("/above.bin", method="HEAD")["ETag"]
        assert client.get("/above.bin", f"If-None-Match: {tag}").status == 304
        assert client.get("/above.bin", "If-None-Match: x").body == BIG[: SMALL + 1]
        assert client.get("/above.bin", method="POST", body=b"x" * 10).body == BIG[: SMALL + 1]
        write(document_root / "new.tmp", BIG[-SMALL - 1 :]).rename(document_root / "above.bin")
        assert {client.get("/above.bin").body for _ in range(3)} == {BIG[-SMALL - 1 :]}
        os.utime(document_root / "above.bin", (1, 1))
        get_until_mapped(server, client, "/above.bin")
        tag = client.get("/above.bin", method="HEAD")["ETag"]
        with open(document_root / "above.bin", "r+b") as file:
            file.write(b"in place")
        reply = client.get("/above.bin", f"If-None-Match: {tag}")
        assert (reply.status, reply.body[:8]) == (200, b"in place")


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_that_is_cut_short_while_it_is_sent(mpm, tmp_path, mapped):
    """The connection ends, and nothing else does: to touch such a mapping would kill the process."""
    path = write(tmp_path / "cut.bin", BIG)
    options = {"document_root": tmp_path, "SendBufferSize": 65536, "EnableMMAP": mapped}
    with serving(mpm, **options) as server:
        with Client(server) as client:
            if mapped:
                get_until_mapped(server, client, "/cut.bin")
        processes = set(server.processes())
        with Client(server, receive_buffer=4096) as client:
            got = client.send(asking("/cut.bin")).receive()
            os.truncate(path, 1000)
            got += client.until_closed()
            body = got.partition(b"\r\n\r\n")[2]
            assert len(body) < len(BIG) and BIG.startswith(body[:1000])
        assert get(server, "/cut.bin").body == BIG[:1000]
        assert processes <= set(server.processes())


def test_sections_say_how_files_are_sent_and_hold_for_any_way_to_them(tmp_path):
    """<Files> is about the file, <Location> about the path: whatever the request's spelling."""
    names = "a.bin", "sub/b.bin", "c.bin"
    root = tree(recorded_root(tmp_path / "root"), dict.fromkeys((*names, "dir/a"), BIG[:100_000]))
    rules = {f"Directory {root}/sub": "EnableMMAP Off", "Files c.bin": "EnableSendfile On"}
    rules |= dict.fromkeys(('Files "index.html"', "Location /dir"), "Require all denied")
    given = {"document_root": root, "conf": conf(*(section(*rule) for rule in rules.items()))}
    with serving("event", **given) as server, Client(server) as client:
        get_until_mapped(server, client, "/a.bin")
        for name in names * 5:
            assert client.get(f"/{name}").body == BIG[:100_000]
        assert [is_mapped(server, name[-5:]) for name in names] == [True, False, False]
        for path in "/index.html / /sub/ /dir/ //dir/ /./dir/a /%64ir/ /x/../dir/ /dir/.".split():
            assert client.get(path).status == 403, path
        assert client.get("/file.txt").status == 200


def sparse(path: Path, size: int, at: int, text: bytes) -> Path:
    """A file of holes, but for `text`."""
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(text)
    os.utime(path, (RECORDED, RECORDED))
    return path


@pytest.mark.parametrize("sendfile", [False, True])
def test_a_large_file_takes_no_memory(mpm, tmp_path, sendfile):
    """Sizes and offsets of more than 32 bits; 100 MB from there: no process grows with what it sends."""
    size, start, count = 5 * 2**30, 2**32 - 1000, 100_000_000
    sparse(tree(tmp_path, {"big.bin": BIG}) / "huge.bin", size, 2**32, b"here")
    with serving(mpm, document_root=tmp_path, EnableSendfile=sendfile) as server:
        with Client(server) as client:
            client.get("/big.bin")
            assert client.get("/huge.bin", method="HEAD")["Content-Length"] == str(size)
            reply = client.get("/huge.bin", f"Range: bytes={2**32 - 1}-{2**32 + 4}")
            assert (reply.status, reply.body) == (206, b"\0here\0")
            assert reply["Content-Range"] == f"bytes {2**32 - 1}-{2**32 + 4}/{size}"
            reply = client.get("/huge.bin", f"Range: bytes=0-1,{2**32}-{2**32 + 3}")
            assert reply.status == 206 and b"\r\n\r\nhere\r\n" in reply.body
        before = {pid: status_numbers(pid)["VmHWM"] for pid in server.processes()}
        part = f"Range: bytes={start}-{start + count - 1}"
        with asked(server, "/huge.bin", part, close=True) as client:
            head, _, begin = client.until(b"here").partition(b"\r\n\r\n")
            got, buffer = len(begin), memoryview(bytearray(1 << 20))
            while received := client.sock.recv_into(buffer):
                got += received
        assert head.startswith(b"HTTP/1.1 206 ") and got == count
        assert begin[:1000].strip(b"\0") == b"" and begin[1000:1004] == b"here"
        for pid, kib in before.items():  # a child's first response alone may touch 4 MiB
            assert status_numbers(pid)["VmHWM"] - kib < count / 1024 / 8, "it has grown"


def test_links_below_the_root_lead_nowhere_else(tmp_path):
    """/srv/www-private is next to /srv/www, not below it; a root that is a link is followed."""
    private = tmp_path / "www-private"
    links = {"link.txt": private / "secret.txt", "way-out": private, "loop": Path("loop"),
             "dangling": Path("nothing"), "up": Path(".."), "in.txt": Path("file.txt")}  # fmt: skip
    www = tree(tmp_path / "www", {"file.txt": "text", **links})
    tree(private, {"secret.txt": "secret", "index.html": "secret"})
    (tmp_path / "root").symlink_to(www)
    out = "/link.txt /way-out/ /way-out/secret.txt /sub/../way-out/index.html /loop /dangling /up/www-private/"
    for root in ("www", "root"):
        files = files_with(tmp_path / root)
        assert {answer(files, path).status for path in out.split()} == {403}
        assert answer(files, "/file.txt").body == answer(files, "/in.txt").body == b"text"


@pytest.mark.parametrize("status, paths", [
    # No way out of the root.
    (400, "/../file.txt /%2e%2e/%2e%2e/etc/passwd /sub/%2e%2e/%2e%2e/etc/passwd /file.txt/../../../etc/passwd"),
    (404, "/..%2ffile.txt /..%c0%af..%c0%afetc/passwd /....//....//etc/passwd /..%5c..%5cetc/passwd "
          "//etc/passwd /sub/..;/..;/etc/passwd /%252e%252e/etc/passwd /..%00/etc/passwd /etc/passwd "
          "/proc/self/environ /" + "x" * 255),
    (403, "/pipe /unreadable.txt /" + "x" * 256 + " /" + "x/" * 3000),
])  # fmt: skip
def test_what_is_not_a_file_of_the_root_is_not_served(server, document_root, status, paths):
    if not (pipe := document_root / "pipe").exists():
        os.mkfifo(pipe)
        write(document_root / "unreadable.txt", "secret").chmod(0)
    for path in paths.split():
        if path != "/unreadable.txt" or os.geteuid():  # root may read every file
            found = {get(server, path, method=one).status for one in ("GET", "HEAD")}
            assert found == {status}, path


@pytest.mark.parametrize("root", ["/", "//"])
def test_the_root_of_the_machine_may_be_that_of_the_site(root):
    with serving("prefork", document_root=root, directives=[f"Alias /all/ {root}"]) as server:
        found = [get(server, path).status for path in ("/", "/all/", "/no", "/etc")]
        assert found == [404, 404, 404, 301]
        assert get(server, "/proc/version").status == get(server, "/all/proc/version").status == 200


def test_a_change_is_seen_at_once(server, document_root):
    """The very next request, in any process: also a change that keeps size and time, by a rename."""
    path = document_root / "coming"
    with Client(server) as client, Client(server) as other:
        for number in range(20):
            if number % 2:
                write(document_root / "new.tmp", f"version {number:02}").rename(path)
            else:
                path.write_text(f"version {number:02}")
            for one in (client, other):
                assert one.get("/coming").body == b"version %02d" % number
        for _ in range(3):
            path.unlink()
            assert client.get("/coming").status == 404
            write(path, "here")
            assert client.get("/coming").body == b"here"
        path.unlink()
        write(path / "index.html", "index")  # and now it is a directory
        assert client.get("/coming/").body == b"index"
        (path / "index.html").unlink()
        path.rmdir()
        write(path, "a file now")
        assert client.get("/coming/").status == 404
        assert client.get("/coming").body == b"a file now"
    path.unlink()


def test_a_fresh_file_has_a_weak_tag(tmp_path):
    """It may change again within the same tick of the clock (and then it is strong)."""
    files, now = files_with(tmp_path), time.time()
    files.clock = lambda: now
    for age, weak in [(0, True), (0.5, True), (5, False)]:
        write(tmp_path / "file.txt", "text", now - age)
        assert (b'ETag: W/"' in answer(files, "/file.txt").fields) is weak
    # Nor does a date name its version.
    write(tmp_path / "file.txt", "hello")
    for age, status in ((59, 200), (61, 206)):
        files.clock = lambda at=RECORDED + age: at
        lines = ("Range: bytes=0-1", f"If-Range: {http_date(RECORDED)}")
        assert answer(files, "/file.txt", *lines).status == status


@pytest.mark.parametrize("size, most", [
    (4, static.FILES_KEPT), (SMALL + 1, static.MAPPINGS_KEPT), (MMAP_LIMIT, static.MAPPINGS_KEPT),
])  # fmt: skip
def test_few_files_are_remembered_and_mapped_and_each_once(size, most, tmp_path):
    sparse(write(tmp_path / "a" / "b.txt", ""), size, 0, b"text")
    files = files_with(tmp_path, age=2)
    for path in ("/a/b.txt", "//a//b.txt", "/a/./b.txt", "/x/../a/b.txt", "/%61/b.txt"):
        assert way_of(answer(files, path)) in ("kept", "read", "mapped")
    assert len(files._cached) == 1
    for number in range(most + 50):
        sparse(tmp_path / f"{number}.bin", size, 0, b"%04d" % number)
        ways = [way_of(answer(files, f"/{number}.bin")) for _ in range(2)]
        assert ways == (["kept"] * 2 if size == 4 else ["read", "mapped"])
        assert bytes(answer(files, f"/{number}.bin").body[:4]) == b"%04d" % number
        kept = [version for version in files._cached.values() if version.mapped]
        assert len(kept) <= static.MAPPINGS_KEPT and len(files._cached) <= static.FILES_KEPT
        assert sum(version.size for version in kept) <= static.MAPPED_KEPT
    assert way_of(answer(files, "/0.bin")) == ("kept" if size == 4 else "mapped")  # again


def way_of(response) -> str:
    """How a response would be sent; closes its file."""
    if not isinstance(response.body, FileBody):
        return "mapped" if isinstance(response.body, memoryview) else "kept"
    os.close(response.body.fd)
    return "sendfile" if response.body.sendfile else "read"


@pytest.mark.parametrize("named, size, ways", [
    ({}, SMALL, ["kept", "kept", "kept"]), ({}, MMAP_LIMIT + 1, ["read", "read", "read"]),
    ({"EnableMMAP": "Off"}, SMALL + 1, ["read", "read", "read"]),
    ({"EnableSendfile": "On"}, SMALL + 1, ["sendfile", "sendfile", "sendfile"]),
])  # fmt: skip
def test_ways_to_send_a_file(named, size, ways, tmp_path):
    sparse(tmp_path / "file.bin", size, 0, b"")
    files = files_with(tmp_path, age=2, **named)
    assert [way_of(answer(files, "/file.bin")) for _ in ways] == ways


def test_a_mapping_is_only_for_who_hands_it_to_the_kernel_and_goes_with_its_version(tmp_path):
    """TLS and filters look at the bytes: they get the file."""
    path = write(tmp_path / "file.bin", "x" * (SMALL + 1))
    files = files_with(tmp_path, age=2)
    ask, ask_part = request("/file.bin"), request("/file.bin", "Range: bytes=0-9")
    looking = SimpleNamespace(peer=CONNECTION.peer, direct=False)
    assert [way_of(files(ask, CONNECTION)) for _ in range(2)] == ["read", "mapped"]
    assert [way_of(files(one, looking)) for one in (ask, ask_part)] == ["read", "read"]
    assert [way_of(files(one, CONNECTION)) for one in (ask, ask_part)] == ["mapped", "mapped"]
    assert f"{path}\n" in Path("/proc/self/maps").read_text()
    path.unlink()
    assert files(ask, CONNECTION).status == 404
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("lines, status", [
    (["If-None-Match: TAG"], 304), (["If-None-Match: W/TAG"], 304),
    (['If-None-Match: "a", TAG, "b"'], 304), (["If-None-Match: *"], 304),
    (['If-None-Match: "a"', f"If-Modified-Since: {SAME}"], 200),
    ([f"If-Modified-Since: {BEFORE}"], 200), (["If-Modified-Since: yesterday"], 200),
    (["If-Modified-Since: Tuesday, 02-Jan-24 03:04:05 GMT"], 304),
    (["If-Modified-Since: Tue Jan  2 03:04:05 2024"], 304),
    (["If-Modified-Since: Sun, 02 Jan 2124 03:04:05 GMT"], 200),
    (["If-Match: TAG"], 200), (["If-Match: *"], 200), (["If-Match: W/TAG"], 412),
    (["If-Match: TAG", "If-None-Match: TAG"], 304),
    ([f"If-Unmodified-Since: {SAME}"], 200), ([f"If-Unmodified-Since: {BEFORE}"], 412),
    ([f"If-Unmodified-Since: {BEFORE}", "If-Match: TAG"], 200),
    (["Range: bytes=0-1", "If-Range: TAG"], 206), (["Range: bytes=0-1", f"If-Range: {SAME}"], 206),
    (["Range: bytes=0-1", 'If-Range: "x"'], 200), (["Range: bytes=0-1", "If-Range: W/TAG"], 200),
    (["Range: bytes=0-1", f"If-Range: {SAME.replace(':05', ':06')}"], 200),
    # Without a tag: FileETag None.
    *(([line, ""], status) for line, status in (
        ('If-None-Match: ""', 200), ("If-None-Match:", 200), ('If-Match: "x"', 412), ("If-Match: *", 200))),
])  # fmt: skip
def test_conditions_are_checked_in_the_standard_s_order(tmp_path, lines, status):
    """A range is for GET alone (RFC 9110, 14.2), and what matches If-None-Match is 412 for others (13.1.2)."""
    write(tmp_path / "file.txt", TEXT)
    files = files_with(tmp_path, FileETag="MTime Size" if lines[-1] else "None")
    tag = re.findall(r"ETag: (\S+)", answer(files, "/file.txt").fields.decode())
    assert len(tag) == bool(lines[-1])
    lines = [line.replace("TAG", "".join(tag)) for line in filter(None, lines)]
    assert answer(files, "/file.txt", *lines).status == status
    head = answer(files, "/file.txt", *lines, method="HEAD").status
    assert head == (200 if status == 206 else status)
    if status == 304 and "None-Match" in lines[-1]:
        assert answer(files, "/file.txt", *lines, method="POST").status == 412


@pytest.mark.parametrize("row", [
    ("bytes=0-0", 206, "0-0", b"0"), ("bytes=30-", 206, "30-36", b"uvwxyz\n"),
    ("bytes=30-1000", 206, "30-36", b"uvwxyz\n"), ("bytes=-1000", 206, "0-36", TEXT),
    ("bytes=0-1, 1-3", 206, "0-3", b"0123"), ("bytes=0-0,", 206, "0-0", b"0"),
    ("bytes=37-, 36-", 206, "36-36", b"\n"), ("bytes=37-", 416, None, None),
    # Those that touch or overlap are one.
    ("bytes=0-1,2-3", 206, "0-3", b"0123"), ("bytes=0-5,2-3", 206, "0-5", b"012345"),
    ("bytes=5-6,0-4", 206, "0-6", b"0123456"), ("bytes=5-6,0-3", 206, None, None),
    *((value, 200, None, TEXT) for value in (
        "Bytes = 2-3", "bytes=5", "bytes=0-20,30-36,0-20", "bytes=3-2", "bytes=--1", "bytes=", "lines=1-2",
        "bytes=1-2,x", "bytes=-0", "bytes=,",
        "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 36, 2)) + ",0-" * 201,
    )),
    # A small request must not make a large answer (CVE-2011-3192).
    ("bytes=0-1", 200, None, TEXT, "none"), ("bytes=0-0,2-2", 206, None, None, "2"),
    ("bytes=0-0,2-2,4-4", 200, None, TEXT, "2"),
    (MANY, 206, None, None, "unlimited", 30), (MANY, 200, None, None, "default", 30),
    *(("bytes=" + ",".join(ranges), status, None, None, "default", 30) for count, status in ((21, 206), (22, 200))
      for ranges in (["0-9"] * count, [f"{n}-{n}" for n in range(count, 0, -1)])),
])  # fmt: skip
def test_ranges(tmp_path, row):
    """(Range, status, Content-Range, body), then MaxRanges and how often the file has the text."""
    value, status, content_range, body, most, times = *row, *("default", 1)[len(row) - 4 :]
    write(tmp_path / "file.txt", TEXT * times)
    response = answer(files_with(tmp_path, MaxRanges=most), "/file.txt", f"Range: {value}")
    assert response.status == status and (body is None or response.body == body)
    found = re.findall(r"Content-Range: bytes (\S+)/37\r\n", response.fields.decode())
    assert found == [content_range] * (content_range is not None)
    assert (b"Accept-Ranges: none" in response.fields) is (most == "none")


@pytest.mark.parametrize("name, path", [
    ("a b\u00e9", "/a%20b%c3%a9"), ("a\r\nX-Injected: 1", "/a%0d%0aX-Injected:%201"),
    ("\"#%<>?\\^`{|}\x7f", "/%22%23%25%3c%3e%3f%5c%5e%60%7b%7c%7d%7f"),
])  # fmt: skip
def test_a_directory_s_name_is_quoted_in_a_redirect(server, document_root, name, path):
    (document_root / name).mkdir(exist_ok=True)
    reply = get(server, path)
    assert reply.status == 301 and reply["X-Injected"] is None
    assert reply["Location"] == f"http://lab.example{path}/"


@pytest.mark.parametrize("words, shape", [
    ("MTime Size", "SIZE-MTIME"), ("All", "INODE-SIZE-MTIME"), ("Size", "SIZE"), ("INode", "INODE"),
    ("MTime INode", "INODE-MTIME"), ("-Size", "SIZE-MTIME"), ("+INode", "INODE"),
])  # fmt: skip
def test_file_etag(words, shape, tmp_path):
    st = write(tmp_path / "file.txt", "hello").stat()
    for name, value in (("INODE", st.st_ino), ("SIZE", 5), ("MTIME", st.st_mtime_ns // 1000)):
        shape = shape.replace(name, f"{value:x}")
    found = answer(files_with(tmp_path, FileETag=words), "/file.txt").fields
    assert f'ETag: "{shape}"\r\n'.encode() in found


def test_types_config(tmp_path):
    table = "# a table\ntext/x-lab  lab LAB2 # these\n\nimage/none\ntext/x-other html\n"
    types = str(write(tmp_path / "mime.types", table))
    kinds = "text/x-lab", "text/x-lab", "text/x-other", None, "text/x-mine"
    expected = dict(zip(("a.lab", "b.lab2", "c.html", "d.css", "e.lab3"), kinds, strict=True))
    root = tree(tmp_path / "root", dict.fromkeys(expected, "x"))
    options = {"TypesConfig": types, "AddType": "text/x-mine .lab3"}
    with serving("event", document_root=root, **options) as server:
        for name, media_type in expected.items():
            assert get(server, f"/{name}")["Content-Type"] == media_type
    with pytest.raises(LaunchError, match=r"TypesConfig /nowhere: No such file .*: name a table"):
        mpmkit.launch("event", TypesConfig="/nowhere")
