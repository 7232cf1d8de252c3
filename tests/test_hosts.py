"""Virtual hosts: which one answers, logs and speaks TLS. The real httpd is the judge in test_fidelity."""

import re

import pytest
from support.calls import refused
from support.client import Client, exchange, get, request
from support.configured import checked
from support.files import open_to_all, section, tree, write
from support.servers import no_more_files, open_files, serving, take_errors
from support.waiting import logged, poll_until

from mpmkit.config.directives import DirectiveError


@pytest.fixture
def site(tmp_path):
    open_to_all(tmp_path)
    tree(tmp_path, {f"{name}/index.html": f"{name}\n" for name in ("main", "a", "b")})
    lines = [
        f"Define R {tmp_path}", "DocumentRoot ${R}/main", "ServerName main.test", 'LogFormat "%v %>s %U" short',
        "CustomLog ${R}/main_log short", 'ErrorDocument 404 "main has it not"',
        section("VirtualHost *", "ServerName first.example:99"),
        section("VirtualHost *", "ServerName a.example", "ServerAlias *.a.example", "DocumentRoot ${R}/a",
                "ErrorLog ${R}/a_errors", "CustomLog ${R}/a_log short", 'ErrorDocument 404 "a has it not"',
                section("Location /private", "Require all denied")),
        section("VirtualHost *", "ServerName b.example", "DocumentRoot ${R}/b", "CustomLog ${R}/b_log short",
                'CustomLog ${R}/b_bytes "%I"'), "",
    ]  # fmt: skip
    write(tmp_path / "site.conf", "\n".join(lines))
    return tmp_path


def test_each_host_has_its_site_its_logs_and_its_name(site):
    with serving("event", conf=site / "site.conf") as server:
        for host, path, answer in (
            ("a.example", "/", "200 a"), ("X.A.example.:8", "/", "200 a"), ("b.example", "/", "200 b"),
            ("no.example", "/", "200 main"), ("a.example", "/no", "404 a has it not"),
            ("b.example", "/no", "404 main has it not"), ("a.example", "/private", "403 "),
            ("b.example", "/private", "404 "), ("a.example", "http://b.example/", "200 b"),  # the target's name
        ):  # fmt: skip
            reply = get(server, path, host=host)
            assert f"{reply.status} {reply.body.decode()}".startswith(answer), (host, path)
        bad = b"GET / HTTP/1.1\r\nHost: a.example\r\nbad line\r\n\r\n"
        assert b" 400 " in exchange(server, bad)
        *served, wrong = (line.removeprefix("a.example ") for line in logged(site / "a_log", 5))
        assert served == ["200 /index.html", "200 /index.html", "404 /no", "403 /private"]
        assert wrong.startswith("400 ")
        found, missing = "b.example 200 /index.html", "b.example 404 /private"
        assert logged(site / "b_log", 4) == [found, "b.example 404 /no", missing, found]
        inherited = ["first.example 200 /index.html"]  # by its own name
        assert logged(site / "main_log", 1) == inherited
        assert ["AH01630" in line for line in logged(site / "a_errors", 1)] == [True]
        assert "AH01630" not in server.error_log()
        columns = {"a.example": f"a.example:{server.port}", "none": f"first.example:{server.port}"}
        with Client(server) as client:
            for name, column in columns.items():  # of the status page
                assert client.get("/", host=name).status == 200
                assert column in {worker.vhost for worker in server.scoreboard().workers}
            asked = request("/", host="b.example")
            assert client.ask(asked).status == 200
        assert logged(site / "b_bytes", 5)[-1] == str(len(asked)), "%I is its own"


def test_a_restart_changes_the_hosts_and_leaves_no_descriptor(site):
    conf = site / "site.conf"
    with serving("event", conf=conf) as server:
        before = open_files(server)
        text = conf.read_text()
        for name in ("c.example", "d.example", "a.example"):
            conf.write_text(text.replace("ServerName a.example", f"ServerName {name}"))
            server.graceful()
            poll_until(lambda name=name: get(server, "/", host=name).body == b"a\n", "known")
        conf.write_text(text.replace("${R}/b_log", "/no/such/directory/log"))
        server.graceful()
        poll_until(lambda: "is not used: AH00649" in server.error_log(), "the restart is refused")
        take_errors(server)
        no_more_files(server, before)  # old logs are closed


@pytest.mark.parametrize(("text", "says"), [
    ("<VirtualHost>\n</VirtualHost>", "f:1: <VirtualHost> takes an address or more"),
    ("<VirtualHost *>\n<VirtualHost *>\n</VirtualHost>\n</VirtualHost>",
     "f:2: <VirtualHost> is inside the <VirtualHost> of line 1"),
    ("<Directory />\n<VirtualHost *>\n</VirtualHost>\n</Directory>",
     "f:2: <VirtualHost> is inside the <Directory> of line 1"),
    ("<VirtualHost *>\nTimeout 5", "f:1: <VirtualHost> is never closed"),
    ("<VirtualHost *:99999>\n</VirtualHost>", "f:1: <VirtualHost *:99999>: a port is 1..65535"),
    *((f"<VirtualHost *>\n{line}\n</VirtualHost>", f"f:2: {line.split()[0]} cannot occur within <VirtualHost>")
      for line in ("Listen 80", "PidFile x", "User x", "StartServers 5", "ServerTokens Prod")),
    ("ServerAlias x", "f:1: ServerAlias only used in <VirtualHost>"),
    ("<VirtualHost *>\nNonsense 1\n</VirtualHost>", "f:2: Nonsense is not a directive"),
    ("Listen 443\n<VirtualHost 127.0.0.1:443>\nSSLEngine On\n</VirtualHost>\n<VirtualHost *:443>\n"
     "SSLEngine Off\n</VirtualHost>", "f:5: SSLEngine is On in one <VirtualHost> at port 443"),
])  # fmt: skip
def test_what_a_virtual_host_may_not_have(text, says):
    refused(DirectiveError, re.escape(says), checked, text)


def test_addresses():
    found = {
        "*": ("", 0), "*:*": ("", 0), "_default_:80": ("", 80), "0.0.0.0:80": ("", 80), "[::1]": ("::1", 0),
        "127.0.0.1": ("127.0.0.1", 0), "[::1]:80": ("::1", 80), "[2001:DB8:0::1]:80": ("2001:db8::1", 80),
        "www.Example.org:8080": ("www.example.org", 8080), "example.org": ("example.org", 0),
    }  # fmt: skip
    directives, _ = checked(section(f"VirtualHost {' '.join(found)}"))
    assert list(directives.hosts[0].addresses) == list(found.values())


@pytest.mark.parametrize(("listen", "hosts", "speaks"), [
    ("443", "", False), ("443", "SSLCertificateFile x", True), ("443", "SSLEngine On", True),
    ("443", "<VirtualHost *:443>\nSSLEngine On\n</VirtualHost>", True),
    ("443", "<VirtualHost *:443>\nSSLEngine Off\n</VirtualHost>", False),
    ("8443", "<VirtualHost *:8443>\nSSLEngine On\n</VirtualHost>", True),
    ("8443", "<VirtualHost *:8444>\nSSLEngine On\n</VirtualHost>", False),
    *((f"{address}:81", "<VirtualHost 127.0.0.1>\nSSLEngine On\n</VirtualHost>\n<VirtualHost *>\n</VirtualHost>",
       address == "127.0.0.1") for address in ("127.0.0.1", "127.0.0.2")),
    ("81 https", "<VirtualHost *>\n</VirtualHost>", True),
])  # fmt: skip
def test_which_sockets_speak_tls(listen, hosts, speaks):
    assert checked(f"Listen {listen}\n{hosts}")[0].tls is speaks


def test_what_a_host_has_of_the_server():
    lines = (
        "ServerName main", "AddType a/b .x", "CustomLog server common", "Timeout 7", "ServerRoot /r",
        section("VirtualHost *", "AddType c/d .y", "ErrorLog logs/own", "KeepAliveTimeout 1"),
        section("VirtualHost 127.0.0.1", 'CustomLog own "%U"'),
    )  # fmt: skip
    directives, notes = checked("\n".join(lines))
    one, two = (host.directives for host in directives.hosts)
    assert (one.types, two.types) == ({".x": "a/b", ".y": "c/d"}, {".x": "a/b"})
    assert directives.types == {".x": "a/b"}
    assert (one.ErrorLog, two.ErrorLog) == ("/r/logs/own", None)
    assert one.CustomLog == directives.CustomLog and two.CustomLog == (("/r/own", "%U"),)
    assert (one.ServerName, two.ServerName, one.Timeout) == ("main", "127.0.0.1", 7)
    said = "KeepAliveTimeout applies to the whole server: in a <VirtualHost> it has no effect (f:9)"
    assert [note.text for note in notes] == [said]
