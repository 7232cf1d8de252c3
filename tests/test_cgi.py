"""Programs, one per request (RFC 3875), started by a process and by a thread (test_samples.py has all three
MPMs): their variables, what becomes of their output, and that nothing of them is left.

The expectations about statuses, header lines and log lines are what a real httpd 2.4 answered to the same
programs.
"""

import os
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest
from support import servers
from support.client import Client, TlsClient, asked, at_once, exchange, get
from support.client import read_reply as reply_in
from support.files import program, section, tree, write
from support.servers import assert_quiet, no_more_files, open_files, serving
from support.waiting import alive, poll_until

from mpmkit.launcher import Server
from mpmkit.measure.procfs import members, tasks, text_of

mpm = servers.prefork_and_event
ENV = '#!/bin/sh\necho "Content-Type: text/plain"\necho\nenv\necho "PWD is $(pwd)"\n'
# What each of these programs says; "|" ends a line.
SAID = {
    "noend": "Content-Type: text/plain|", "empty": "", "bad": "no colon here||body",
    "badstatus": "Status: twelve||", "status": "Status: 299 Own Words|X-A: 1||body",
    "s404": "Status: 404||body", "s204": "Status: 204||body", "local": "Location: /file.txt?q=1|X-B: 1||body",
    "local2": "Location: /cgi-bin/env/pi?q=1||", "wsgi": "Location: /says.py?q=1||",
    "loop": "Location: /cgi-bin/loop||", "nowhere": "Location: /../..||", "length": "Content-Length: 4||body",
    "fields": "Content-Type: a/b|Date: x|Server: y|Connection: close|Transfer-Encoding: chunked|"
              "Set-Cookie: a|Set-Cookie: b||body",
}  # fmt: skip
# What the shell runs.
PROGRAMS = {name: 'printf "' + text.replace("|", r"\r\n") + '"' for name, text in SAID.items()} | {
    "long": "while :; do echo X: 1234567890123456789012345678901234567890; done",
    "talks": "for i in 1 2 3 4; do sleep 0.4; echo still here >&2; done\necho\necho body",
    "stderr": 'echo "one line" >&2\nprintf "two\\nlines" >&2\necho\necho body',
    "cat": "echo\ncat", "deaf": "exec <&-\necho\necho deaf",
    "hold": 'echo $$ > "$QUERY_STRING"\ntrap "" USR1\nsleep 60 &\nwait',
    "some": "echo\necho $$\nsleep 60 &\nwait",
    "stubborn": "trap '' TERM\necho $$ > \"$QUERY_STRING\"\nwhile :; do sleep 1; done",
    "endless": "echo\necho $$\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
    "noisy": 'echo\ncat >/dev/null\nfor i in 1 2 3 4 5 6 7 8; do cat "$0"; done\n' + "#" * 60000,
    "fds": 'echo\nls /proc/self/fd | tr "\\n" " "',
    "background": 'echo\necho here\n(sleep 30 & echo $! > "$QUERY_STRING") >/dev/null 2>&1',
    "cpus": "echo\ngrep Cpus_allowed_list /proc/self/status",
    "policy": f"exec {sys.executable} -c 'import os; print(); print(os.sched_getscheduler(0))'",
    "slow": "read line < \"$QUERY_STRING\"\necho\necho $line",
}  # fmt: skip

SAYS = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["".join(f"{k}={v}\\n" for k, v in environ.items() if isinstance(v, str)).encode()]
"""
# The close is a reset, not a FIN (socket(7)).
RESET = socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    where = tmp_path_factory.mktemp("cgi")
    root = where / "root"
    for name, text in PROGRAMS.items():
        program(where / "cgi-bin" / name, f"#!/bin/sh\n{text}\n")
    for path in (
        "cgi-bin/env", "cgi-bin/deep/er/env", "root/env.cgi", "root/plain/env.cgi", "root/set/any",
        "root/dir/index.cgi", "root/closed.cgi", "outside.cgi",
    ):  # fmt: skip
        program(where / path, ENV)
    program(root / "noexec.cgi", ENV, 0o644)
    program(root / "nointerpreter.cgi", "#!/nonexistent/program\n")
    program(root / "noformat.cgi", "echo\n")
    tree(root, {
        "link.cgi": where / "outside.cgi", "folder.cgi/file.txt": "in a folder", "file.txt": "file\n",
        "says.py": SAYS,
    })  # fmt: skip
    icons = {"a.txt": "aliased", "sub/index.html": "sub of an alias", "secret.txt": "x"}
    tree(where / "icons", icons)
    lines = f"""\
DocumentRoot "{root}"
DirectoryIndex index.html index.cgi
AddHandler cgi-script .cgi
AddHandler wsgi-script .py
ScriptAlias /cgi-bin/ "{where}/cgi-bin/"
ScriptAlias /closed/ "{where}/cgi-bin/"
ScriptAlias /one "{where}/cgi-bin/env"
Alias /icons/ "{where}/icons/"
Alias /one-icon "{where}/icons/a.txt"
WSGIScriptAlias /app "{root}/says.py"
Timeout 10"""
    sections = {
        f"Directory {root}": "Options +ExecCGI", f"Directory {root}/plain": "Options -ExecCGI",
        f"Directory {root}/set": "SetHandler cgi-script", "Location /closed": "Require all denied",
        'FilesMatch "^(secret\\.txt|closed\\.cgi)$"': "Require all denied",
    }  # fmt: skip
    write(where / "httpd.conf", "\n".join([lines, *map(section, sections, sections.values()), ""]))
    return where


@pytest.fixture(scope="module")
def document_root(site):
    return None


@pytest.fixture(scope="module")
def directives(site):
    return {"conf": site / "httpd.conf"}


def variables(reply) -> dict[str, str]:
    return dict(line.split("=", 1) for line in reply.body.decode().splitlines() if "=" in line)


def test_the_environment_is_httpd_s(server, site):
    lines = "Authorization: Basic eA==|Proxy: bad|X_Y: 1|X-Y: 2|X-Y: 3|Content-Type: t/x".split("|")
    reply = get(server, "/env.cgi/pi/a%20b?x=1", *lines, method="PUT", body=b"abc")
    assert (reply.status, reply["Content-Type"]) == (200, "text/plain")
    env, root = variables(reply), str(site / "root")
    expected = {
        "CONTEXT_DOCUMENT_ROOT": root, "CONTEXT_PREFIX": "", "DOCUMENT_ROOT": root,
        "GATEWAY_INTERFACE": "CGI/1.1", "HTTP_CONNECTION": "close", "HTTP_HOST": "lab.example",
        "HTTP_X_Y": "2, 3", "PATH": os.environ["PATH"], "PATH_INFO": "/pi/a b",
        "PATH_TRANSLATED": f"{root}/pi/a b", "QUERY_STRING": "x=1", "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "PUT", "REQUEST_SCHEME": "http", "SCRIPT_NAME": "/env.cgi",
        "REQUEST_URI": "/env.cgi/pi/a%20b?x=1", "SCRIPT_FILENAME": f"{root}/env.cgi",
        "SERVER_ADDR": "127.0.0.1", "SERVER_NAME": "lab.example", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SIGNATURE": "", "SERVER_ADMIN": "[no address given]",
        "CONTENT_LENGTH": "3", "CONTENT_TYPE": "t/x",
    }  # fmt: skip
    assert {key: env.get(key) for key in expected} == expected
    assert env["REMOTE_PORT"].isdigit() and env["SERVER_SOFTWARE"].startswith("mpmkit/")
    more = set("REMOTE_PORT SERVER_SOFTWARE LD_LIBRARY_PATH TZ PWD SHLVL _ OLDPWD".split())
    assert not (left := set(env) - set(expected) - more), f"httpd does not pass {left}"
    assert f"PWD is {root}\n".encode() in reply.body


@pytest.mark.parametrize("path, name, info", [
    ("/cgi-bin/env/pi", "/cgi-bin/env", "/pi"), ("/cgi-bin/deep/er/env/x", "/cgi-bin/deep/er/env", "/x"),
    ("/one/x", "/one", "/x"), ("/set/any/x", "/set/any", "/x"), ("/set/any", "/set/any", None),
    ("/dir/?x", "/dir/index.cgi", None), ("/app/users/7?x", "/app", "/users/7"), ("/app", "/app", ""),
])  # fmt: skip
def test_which_part_of_a_path_is_the_script(server, site, path, name, info):
    """Below a ScriptAlias, by an alias of one script, by SetHandler, as an index, by WSGIScriptAlias."""
    env = variables(get(server, path))
    assert (env["SCRIPT_NAME"], env.get("PATH_INFO"), env["REQUEST_URI"]) == (name, info, path)
    file = {"/app": "root/says.py", "/cgi-bin/env": "cgi-bin/env"}.get(name)
    assert file is None or env["SCRIPT_FILENAME"] == f"{site}/{file}"
    if name == "/cgi-bin/env":
        assert (env["DOCUMENT_ROOT"], env["CONTEXT_PREFIX"]) == (f"{site}/root", "/cgi-bin/")


def test_the_server_s_own_name_tls_and_an_error_s_program(site):
    errors = ["404 /env.cgi", "403 /cgi-bin/env"]
    own = {"UseCanonicalName": "On", "ServerName": "own.example:81", "ServerAdmin": "a@b.example"}
    how = {"conf": site / "httpd.conf", "tls": True, "ErrorDocument": errors, **own}
    with serving("event", **how) as server, TlsClient(server) as client:
        same = {"HTTPS": "on", "REQUEST_SCHEME": "https"}
        same |= {"SERVER_NAME": "own.example", "SERVER_PORT": "81"}
        lost = {"REDIRECT_STATUS": "404", "REDIRECT_URL": "/nothing", "REQUEST_URI": "/nothing"}
        for path, status, more in (
            ("/env.cgi", 200, {"SERVER_ADMIN": "a@b.example"}), ("/says.py", 200, {"wsgi.url_scheme": "https"}),
            ("/nothing", 404, {**lost, "SCRIPT_NAME": "/env.cgi"}),
        ):  # fmt: skip
            reply = client.get(path)
            assert reply.status == status and variables(reply).items() >= {**same, **more}.items()
        assert client.get("/cgi-bin/s404").body == b"body", "a script's own 404 is its own"


def test_it_gets_what_the_server_was_started_with_and_no_descriptor_of_its_children(server):
    """0, 1, 2, the pipe that ends it with the server, and what `ls` itself opens; CPUs and policy."""
    fds = get(server, "/cgi-bin/fds").body.split()
    assert len(fds) <= 5 and {b"0", b"1", b"2"} < set(fds)
    allowed = get(server, "/cgi-bin/cpus").body.split()[-1].decode()
    assert f"Cpus_allowed_list:\t{allowed}\n" in Path("/proc/self/status").read_text()
    own = os.sched_getscheduler(server.pid)
    threads = os.SCHED_BATCH if own == os.SCHED_OTHER else own
    assert [int(get(server, "/cgi-bin/policy").body) for _ in range(3)] == [own] * 3

    def policies() -> set[int]:
        tasks = (task for pid in server.processes() for task in os.listdir(f"/proc/{pid}/task"))
        return {os.sched_getscheduler(int(task)) for task in tasks}

    poll_until(lambda: policies() == {threads}, what="a thread is under its own policy again")


def test_a_short_answer_has_a_length_and_the_connection_stays(server):
    """Also for HTTP/1.0, which has no chunks; what does not end at once has none."""
    ask = b"GET /cgi-bin/%b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with Client(server) as client:
        for name, body in [("s404", b"body"), ("deaf", b"deaf\n"), ("status", b"body")]:
            reply = client.ask(ask % name.encode())
            assert (reply.body, reply["Content-Length"]) == (body, str(len(body)))
            assert reply["Connection"] == "Keep-Alive"
        head = client.get("/cgi-bin/s404", method="HEAD")
        assert (head["Content-Length"], head.body) == ("4", b"")
        assert client.get("/cgi-bin/s204")["Content-Length"] is None
    with Client(server) as client:
        head = client.send(ask % b"some").until(b"\r\n\r\n")
        assert b"Content-Length" not in head and b"Connection: close" in head
        client.sock.setsockopt(*RESET)


def test_header_lines_and_what_follows_a_local_location(server):
    reply = get(server, "/cgi-bin/fields")
    assert [v for n, v in reply.headers if n == "Set-Cookie"] == ["a", "b"]
    assert reply["Date"] != "x" and reply["Server"].startswith("mpmkit/")
    assert reply["Transfer-Encoding"] is None and reply["Content-Type"] == "a/b"
    assert reply["Content-Length"] == get(server, "/cgi-bin/length")["Content-Length"] == "4"
    reply = get(server, "/cgi-bin/local")
    assert (reply.body, reply["X-B"], reply["ETag"] is not None) == (b"file\n", "1", True)
    env = variables(get(server, "/cgi-bin/local2", "Content-Type: t/x", method="POST", body=b"abc"))
    expected = {
        "REQUEST_METHOD": "GET", "REQUEST_URI": "/cgi-bin/local2", "SCRIPT_NAME": "/cgi-bin/env",
        "PATH_INFO": "/pi", "QUERY_STRING": "q=1", "REDIRECT_STATUS": "200", "CONTENT_LENGTH": None,
        "REDIRECT_URL": "/cgi-bin/local2", "REDIRECT_SCRIPT_NAME": "/cgi-bin/local2",
    }  # fmt: skip
    assert {key: env.get(key) for key in expected} == expected
    env = variables(get(server, "/cgi-bin/wsgi"))
    assert (env["SCRIPT_NAME"], env["REDIRECT_URL"]) == ("/says.py", "/cgi-bin/wsgi")


@pytest.mark.parametrize("path, status, said", [
    ("/noexec.cgi", 500, "Permission denied: make it executable"),
    ("/nointerpreter.cgi", 500, "names an interpreter that is missing"),
    ("/noformat.cgi", 500, "Exec format error"), ("/plain/env.cgi", 403, "AH02809: Options ExecCGI is off"),
    ("/none.cgi", 404, "AH02811: script not found"), ("/cgi-bin/none", 404, "AH02811: script not found"),
    ("/cgi-bin/", 403, "AH02812: attempt to invoke directory"),
    ("/link.cgi", 403, "a link that leads out of"),
    ("/cgi-bin/noend", 500, "Premature end of script headers: noend"),
    ("/cgi-bin/empty", 500, "End of script output before headers: empty"),
    ("/cgi-bin/bad", 500, "malformed header from script 'bad': Bad header: no colon here"),
    ("/cgi-bin/badstatus", 500, "invalid status"), ("/cgi-bin/long", 500, "bytes of headers: long"),
    ("/cgi-bin/loop", 500, "AH00124"), ("/cgi-bin/nowhere", 500, "Location '/../..' is invalid"),
    # Sections and aliases
    ("/closed/env", 403, ""), ("/closed.cgi", 403, ""), ("/closed.cgi/", 403, ""),
    ("/closed.cgi/more/of/it", 403, ""), ("/./closed.cgi/x", 403, ""), ("/icons/secret.txt", 403, ""),
    ("/cgi-binx", 404, ""), ("/iconsx/a.txt", 404, ""), ("/icons", 404, ""), ("/application", 404, ""),
    ("/icons/sub", 301, "/icons/sub/"), ("/icons/a.txt", 200, "aliased"), ("/icons/sub/", 200, "sub of an alias"),
    ("/one-icon", 200, "aliased"), ("/icons/../file.txt", 200, "file\n"),
    ("/folder.cgi/file.txt", 200, "in a folder"),
])  # fmt: skip
def test_mistakes_sections_and_aliases(server, errors, path, status, said):
    reply = get(server, path)
    assert reply.status == status
    if status < 400:
        assert said == reply.body.decode() if status == 200 else reply["Location"].endswith(said)
    elif said:
        assert said in errors()


def test_stderr_is_the_error_log(server, errors):
    assert get(server, "/cgi-bin/stderr").body == b"body\n"
    poll_until(lambda: ": lines\n" in server.error_log())  # the last one, when the answer has gone
    lines = errors().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["one line", "two", "lines"]
    assert all("[cgi:error]" in line and "AH01215: stderr from" in line for line in lines)


def test_bodies_go_through(server):
    """Also where a program writes more than a pipe holds before it has read all, and the other way round."""
    body = bytes(range(256)) * 4000
    with Client(server) as client:
        for name, sent, found in (
            ("cat", b"abc", b"abc"), ("cat", body, body), ("cat", (body, b"x"), body + b"x"),
            ("deaf", body, b"deaf\n"),
        ):  # fmt: skip
            assert client.get(f"/cgi-bin/{name}", method="POST", body=sent).body == found
        assert client.get("/cgi-bin/cat").body == b""
        assert len(client.get("/cgi-bin/noisy", method="POST", body=body).body) > 400_000
        assert client.get("/file.txt").body == b"file\n"
    # A program is asked only when it is continued.
    head = b"POST /cgi-bin/cat HTTP/1.1\r\nHost: x\r\n"
    with Client(server) as client:
        assert client.ask(head + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n").status == 100
        assert client.ask(b"abc").body == b"abc"
    data = exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\nXYZ\r\n")
    assert reply_in(data).status == 400
    poll_until(lambda: not running(server))


def running(server: Server) -> list[str]:
    """The programs of a server's children, zombies included."""
    lists = (f"{task}/children" for child in server.processes() for task in tasks(child))
    return [pid for one in lists for pid in text_of(one).split()]


def is_held(pid: int) -> bool:
    """The kernel will tell it of the server's end: it holds a descriptor that is O_ASYNC."""
    texts = (file.read_text() for file in Path(f"/proc/{pid}/fdinfo").iterdir())
    return any(int(text.partition("flags:")[2].split()[0], 8) & os.O_ASYNC for text in texts)


def leader(path: Path) -> int:
    return int(poll_until(lambda: path.exists() and path.read_text().strip(), "the program runs"))


def test_timeout_ends_the_group_and_is_504(mpm, site, tmp_path):
    """TERM, and then KILL for what does not obey it."""
    with serving(mpm, conf=site / "httpd.conf", Timeout=1) as server:
        for name in ("hold", "stubborn")[: 1 + (mpm == "prefork")]:
            replies = (get(server, f"/cgi-bin/{name}?{tmp_path}/{name}") for _ in range(9))
            reply = next(one for one in replies if text_of(tmp_path / name))  # it got so far
            assert (reply.status, reply["Connection"]) == (504, "close")
            pid = leader(tmp_path / name)
            poll_until(lambda pid=pid: not members(pid))

        def begun() -> bytes:  # its head came in time
            with asked(server, "/cgi-bin/some") as client:
                data = client.until_closed()
            return data if data.startswith(b"HTTP/1.1 200") else b""

        poll_until(lambda: get(server, "/cgi-bin/talks").body == b"body\n", "stderr counts, too")
        data = poll_until(begun)
        assert not data.endswith(b"0\r\n\r\n")
        other = int(data.partition(b"\r\n\r\n")[2].split()[1])
        poll_until(lambda: not members(other) and not running(server))
        said = server.error_log()
        assert said.count("AH01220: Timeout waiting for output from CGI script") >= 2
        servers.take_errors(server)


def test_a_client_that_leaves_ends_the_group_and_a_half_closed_one_is_answered(server, tmp_path):
    with asked(server, "/cgi-bin/endless") as client:
        client.receive()
    poll_until(lambda: not running(server), what="the program ends")
    # It resets, and the program is silent.
    with asked(server, f"/cgi-bin/hold?{tmp_path}/held") as client:
        pid = leader(tmp_path / "held")
        client.sock.setsockopt(*RESET)
    poll_until(lambda: not members(pid), what="the group ends")
    os.mkfifo(gate := tmp_path / "gate")
    with asked(server, f"/cgi-bin/slow?{gate}", close=True) as client:
        client.half_close()
        gate.write_text("in time\n")
        assert reply_in(client.until_closed()).body == b"in time\n"
    # What a program leaves in the background may stay.
    assert get(server, f"/cgi-bin/background?{tmp_path}/pid").body == b"here\n"
    pid = leader(tmp_path / "pid")
    poll_until(lambda: not running(server))
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_program_outlives_its_server(mpm, site, tmp_path, how):
    holding = f"/cgi-bin/hold?{tmp_path}/pid"
    with serving(mpm, conf=site / "httpd.conf") as server, asked(server, holding):
        pid = leader(tmp_path / "pid")
        poll_until(lambda: len(members(pid)) == 2 and is_held(pid))
        children = server.processes()
        os.kill(server.pid, how)
        poll_until(lambda: not members(pid), what="the group ends")
        poll_until(lambda: not server.running and not any(map(alive, children)))


def test_many_at_once_leave_nothing(server):
    def client(number: int) -> None:
        body = f"client {number} ".encode() * 500
        for _ in range(2):
            if number % 4 == 3:
                with asked(server, "/cgi-bin/endless") as leaving:
                    leaving.receive()
            else:
                assert get(server, "/cgi-bin/cat", method="POST", body=body).body == body

    for _ in range(2):  # the first time, children may still be opening what they keep
        assert_quiet(server)
        before = open_files(server)
        at_once(client, 12)
        poll_until(lambda: not running(server), what=lambda: f"{running(server)} are reaped")
    no_more_files(server, before)
