"""TLS under every MPM: the same answers as in the clear, and no client waits for another's handshake."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import pytest
from support import servers
from support.client import Client, TlsClient, exchange, read_replies, read_reply, request, trusting
from support.configured import directives as configured
from support.files import conf, section, write
from support.recordings import DIFFERENCES, REPLAYED, compare
from support.servers import SMALL, Serve, assert_quiet, free_ports, serving, shows, total
from support.waiting import logged, patience, poll_until

import mpmkit
from mpmkit.config.directives import DirectiveError
from mpmkit.launcher import LaunchError
from mpmkit.server.home import self_signed
from mpmkit.server.tls import context_for

FILE = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
BIG = bytes(range(256)) * 12_000  # 3 MB: many records, more than any buffer of the kernel's
FILES, OPTIONS = {"big.bin": BIG, "page.bin": BIG[:60_000]}, {"tls": True}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
mpm = servers.prefork_and_event
SSL_FILES = ("SSLCertificateFile", "SSLCertificateKeyFile")
SOME = ("02-", "04-", "06-", "07-", "09-", "10-", "20-", "30-", "42-", "50-", "70-", "74-", "84-")


def hello(name: str) -> bytes:
    """The first message of a client's handshake with the server of this name."""
    client, outgoing = ssl.create_default_context(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def send_raw(client: TlsClient, data: bytes) -> None:
    """Bytes that are not encrypted."""
    with socket.socket(fileno=os.dup(client.sock.fileno())) as raw:
        raw.sendall(data)


def test_answers_as_in_the_clear(server):
    recordings = [one for one in REPLAYED if one.request and one.name.startswith(SOME)]
    assert len(recordings) >= len(SOME) - 2
    for recording in recordings:
        theirs = read_replies(recording.response, *recording.methods)
        with TlsClient(server) as client:
            client.send(recording.request)
            for their_reply, method in zip(theirs, recording.methods, strict=True):
                compare(client.reply(method), their_reply, DIFFERENCES.get(recording.name))


def test_a_large_file_a_large_body_and_a_redirect(server):
    with TlsClient(server) as client:
        assert client.get("/big.bin").body == BIG
        assert client.get("/file.txt", method="POST", body=BIG).body == FILE
        part = client.get("/big.bin", "Range: bytes=1000000-1999999")
        assert part.body == BIG[1_000_000:2_000_000]
        assert client.get("/sub")["Location"] == "https://lab.example/sub/"
    # Two records in one segment: nothing would wake the server for the second.
    with TlsClient(server) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        client.send(request("/page.bin")).send(request("/file.txt"))
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        assert [client.reply().body for _ in range(2)] == [FILES["page.bin"], FILE]
    # close_notify before the FIN: the client's OpenSSL would call anything else an attack.
    last = request("/big.bin", close=True), b"GET /file.txt HTTP/1.0\r\n\r\n"
    for sent, body in zip(last, (BIG, FILE), strict=True):
        with TlsClient(server) as client:
            assert client.ask(sent).body == body
            assert client.sock.recv(10) == b""


def test_a_renegotiation_is_refused_at_once(server):
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{server.port}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **pipes) as client:
        assert any(b"Extended master secret" in line for line in client.stdout)
        said, _ = client.communicate(b"R\n", timeout=patience())
    assert b"no renegotiation" in said


def test_what_is_not_tls_ends_the_connection(server):
    reply = read_reply(exchange(server, request("/")))
    assert (reply.status, reply["Connection"]) == (400, "close")
    assert b"write https://" in reply.body
    for nonsense in (b"\x16\x03\x01\xff\xff" + b"nonsense" * 100, b"\0" * 100):
        exchange(server, nonsense)
    with TlsClient(server) as client:
        client.get()
        # A record that was tampered with on its way.
        send_raw(client, b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with suppress(ssl.SSLError):
            assert client.receive(5.0) == b""


def test_a_client_that_leaves_at_any_moment_costs_nothing(server):
    for count in range(0, 20, 3):
        with Client(server) as client:
            client.send(hello("127.0.0.1")[: 20 * count])
        with TlsClient(server) as client:
            client.send(request("/big.bin"))
        with TlsClient(server) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    with TlsClient(server) as client:
        assert client.get().status == 200


def test_keep_alive_goes_back_to_the_listener(server, mpm):
    """More kept-alive clients than workers: event serves them all; elsewhere each holds a worker."""
    count, clients = SMALL[mpm]["MaxRequestWorkers"] + 4 if mpm == "event" else 2, []
    with ExitStack() as stack:
        for _ in range(count):
            clients.append(stack.enter_context(TlsClient(server)))
            clients[-1].get()
        assert all(client.get().body == FILE for client in clients)
        shows(server, K=0 if mpm == "event" else 2, R=0, W=0)


def test_a_stalled_handshake_holds_nobody_else(mpm, document_root):
    """One worker each, for as long as RequestReadTimeout allows, and no more."""
    rule = {"tls": True, "RequestReadTimeout": "handshake=2"}
    with serving(mpm, document_root=document_root, **rule) as server:
        with Client(server) as one, Client(server) as other:
            began, stalled = time.monotonic(), (one, other)
            for client in stalled:
                client.send(hello("127.0.0.1")[:100])

            def late() -> bool:  # the machine stood still, and their time is over
                return time.monotonic() - began > 1.9

            poll_until(lambda: server.scoreboard().count("R") == 2 or late(), "two handshakes")
            with TlsClient(server) as client:
                assert client.get().status == 200
            assert all(one.is_open() for one in stalled) or late(), "it was served meanwhile"
            for client in stalled:
                client.ended(6.0)
            assert late()
        assert_quiet(server)


def test_after_the_handshake_a_silent_client_and_a_trickling_record_are_closed(document_root):
    """Each byte of the record comes in time for a read, and the record as a whole does not."""
    rule = {"directives": ("RequestReadTimeout header=1 body=1",)}
    with serving("event", document_root=document_root, tls=True, **rule) as server:
        began = time.monotonic()
        with TlsClient(server) as half, TlsClient(server) as silent, TlsClient(server) as client:
            half.send(b"GET / HTTP/1.1\r\nHo")
            late = time.monotonic() - began > 0.9  # half was silent, too
            with suppress(OSError):  # an alert, the server's end
                for byte in b"\x17\x03\x03\x04\x00" + b"x" * 1000:
                    send_raw(client, bytes([byte]))
                    assert time.monotonic() - began < patience(8), "the server still waits"
                    with suppress(TimeoutError):
                        if client.receive(0.1) == b"":
                            break
            assert time.monotonic() - began > 0.9
            assert silent.until_closed(6.0) == b""
            assert late or read_reply(half.until_closed(6.0)).status == 408


@pytest.mark.parametrize("path, options", [
    ("/page.bin", {"SendBufferSize": 4096}),
    # Encrypted bytes are memory, so a thread waits, whatever EnableSendfile says, as in httpd.
    ("/big.bin", {"SendBufferSize": 65536, "EnableSendfile": True}),
])  # fmt: skip
def test_a_slow_reader_gets_all_and_may_free_event_s_thread(mpm, document_root, path, options):
    with serving(mpm, document_root=document_root, tls=True, **options) as server:
        with TlsClient(server, receive_buffer=2048) as client:
            client.send(request(path) + request("/file.txt"))
            if mpm == "event" and path == "/page.bin":
                poll_until(lambda: total(server, "write_completion"), "write completion")
                assert_quiet(server)
            else:
                shows(server, W=1)
            assert client.reply().body == (document_root / path[1:]).read_bytes()
            assert client.reply().body == FILE


def test_a_session_is_resumed_by_any_child(server):
    """The key of the tickets is made before the fork."""
    context, session, children = trusting(server), None, set()
    for number in range(13):
        with TlsClient(server, context=context, session=session) as client:
            children |= {row.pid for row in server.scoreboard().snapshot.processes if row.pid}
            assert client.sock.session_reused is (number > 0)
            client.get("/file.txt", "Connection: close")
            session = client.sock.session
    assert len(children) > 1


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return [self_signed(str(tmp_path_factory.mktemp("pair"))) for _ in range(2)]


def test_certificates_that_cannot_be_used_or_made(pairs, tmp_path, monkeypatch):
    (certificate, key), (other, _) = pairs
    text = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
    nonsense = write(tmp_path / "nonsense.pem", text)
    locked = str(tmp_path / "locked.key")
    lock = ["openssl", "pkey", "-in", key, "-out", locked, "-aes128", "-passout", "pass:secret"]
    subprocess.run(lock, check=True, capture_output=True)
    file, key_file = SSL_FILES
    for values, said in [
        ({}, r"TLS needs SSLCertificateFile: name a certificate"),
        ({file: "/nowhere.pem"}, r"File /nowhere\.pem: No such file or directory: name a file"),
        ({file: certificate, key_file: "/nowhere.key"}, r"KeyFile /nowhere\.key: No such file"),
        ({file: key, key_file: key}, r"File \S+server\.key: no certificate in PEM: name one"),
        ({file: certificate}, r"File \S+: no private key in PEM: name the certificate's key"),
        ({file: certificate, key_file: certificate}, r"KeyFile \S+: no private key in PEM"),
        ({file: other, key_file: key}, r"KeyFile \S+: the key is not that of \S+: name the one made with it"),
        ({file: nonsense, key_file: key}, r"KeyFile \S+: OpenSSL cannot use it"),
        ({file: certificate, key_file: locked}, r"KeyFile \S+: OpenSSL .* a key must not be encrypted"),
        ({file: certificate, key_file: key, "SSLCipherSuite": "NONSENSE"}, "NONSENSE: OpenSSL finds no cipher"),
    ]:  # fmt: skip
        with pytest.raises(DirectiveError, match=said) as caught:
            context_for(configured(SSLEngine="On", **values))
        assert "\n" not in str(caught.value)
    with pytest.raises(LaunchError, match="-c:2: SSLCertificateFile /nowhere"):
        mpmkit.launch("event", SSLEngine=True, SSLCertificateFile="/nowhere.pem")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="install the openssl package, or name your own"):
        mpmkit.launch("event", tls=True)


@pytest.mark.parametrize("words, versions", [
    ("all -SSLv3", ("TLSv1.2", "TLSv1.3")), ("-all +TLSv1 +TLSv1.1 +TLSv1.2", ("TLSv1.2",)),
    ("-all +TLSv1.3", ("TLSv1.3",)), ("All -TLSv1 -TLSv1.1 -tlsv1.2", ("TLSv1.3",)),
    ("all -SSLv2 +SSLv3", ("TLSv1.2", "TLSv1.3")), ("TLSv1", None), ("-all", None), ("TLSv9", None),
])  # fmt: skip
def test_ssl_protocol(words, versions):
    with nullcontext() if versions else pytest.raises(DirectiveError, match="SSLProtocol"):
        assert configured(SSLProtocol=words).SSLProtocol == versions


def test_the_versions_that_are_spoken_and_what_a_log_counts_as_received(document_root, tmp_path):
    log = tmp_path / "log"
    lines = ('LogFormat "%I" counted', f"CustomLog {log} counted")
    options = {"tls": True, "SSLProtocol": "TLSv1.2", "directives": lines}
    with serving("event", document_root=document_root, **options) as server:
        with TlsClient(server) as client:
            assert client.sock.version() == "TLSv1.2"
            sent = request("/big.bin"), request(method="POST", body=b"x" * 1000)
            assert [client.ask(one).body for one in sent] == [BIG, FILE]
            assert logged(log, 2) == [str(len(one)) for one in sent]
        offers = trusting(server)
        for protocols, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
            offers.set_alpn_protocols(protocols)
            with TlsClient(server, context=offers) as client:
                assert client.sock.selected_alpn_protocol() == chosen
                assert client.get().status == 200
        newest = trusting(server)
        newest.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(ssl.SSLError):
            TlsClient(server, context=newest)


@pytest.mark.parametrize("mpm, how", [("prefork", "graceful"), ("event", "restart")])
def test_a_restart_takes_a_changed_certificate(mpm, document_root, pairs, tmp_path, how):
    files = [str(tmp_path / name) for name in ("server.crt", "server.key")]

    def shown() -> str:
        """The certificate that a new client is shown; "" if it is shown none."""
        with suppress(OSError):
            return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=5)
        return ""

    shutil.copy(pairs[0][0], files[0]), shutil.copy(pairs[0][1], files[1])
    used = {"SSLEngine": True, **dict(zip(SSL_FILES, files, strict=True))}
    with serving(mpm, document_root=document_root, **used) as server:
        texts = [Path(pair[0]).read_text() for pair in pairs]
        assert server.url.startswith("https://") and shown() == texts[0]
        # A file that can't be used is reported, and the server goes on with what it has.
        Path(files[1]).write_text("nothing")
        getattr(server, how)()
        poll_until(lambda: "no private key in PEM" in server.error_log(), what="the error")
        assert shown() == texts[0]
        servers.take_errors(server)
        shutil.copy(pairs[1][0], files[0]), shutil.copy(pairs[1][1], files[1])
        getattr(server, how)()
        poll_until(lambda: {shown() for _ in range(4)} == {texts[1]}, "the new certificate")


def test_listeners_of_both_kinds(document_root, pairs):
    ports, kinds = free_ports(4), ("", " https", " http", " https")
    lines = [f"Listen 127.0.0.1:{port}{kind}" for port, kind in zip(ports, kinds, strict=True)]
    lines += map(" ".join, zip(SSL_FILES, pairs[0], strict=True))
    options = [word for line in lines for word in ("-c", line)]
    context = ssl.create_default_context(cafile=pairs[0][0])
    with Serve("worker", "--document-root", str(document_root), *options).ready() as server:
        assert f"ready http://127.0.0.1:{ports[0]}".encode() in server.out
        for port, kind in [*zip(ports, kinds, strict=True)] * 3:
            scheme = kind.strip() or "http"
            made = TlsClient(port, context=context) if scheme == "https" else Client(port)
            with made as client:
                assert client.get("/sub")["Location"] == f"{scheme}://lab.example/sub/"


def test_a_name_that_is_not_ascii_ends_its_handshake_alone(document_root, pairs):
    """RFC 6066, 3. No traceback in a log that any client could fill."""
    (port,) = free_ports(1)
    engine = "SSLEngine on", *map(" ".join, zip(SSL_FILES, pairs[0], strict=True))
    host = section(f"VirtualHost *:{port}", "ServerName a.test", *engine)
    file = conf(f"Listen 127.0.0.1:{port} https", *engine, host)
    context = ssl.create_default_context(cafile=pairs[0][0])
    with Serve("event", "-f", str(file), "--document-root", str(document_root)).ready() as server:
        with Client(port) as client:
            client.send(hello("abcd.test").replace(b"abcd.test", b"\xff\xfe\x80\x81.test"))
            assert client.sock.recv(1) == b"\x15", "an alert"
        with TlsClient(port, context=context) as client:
            assert client.get("/file.txt").body == FILE
        assert "Traceback" not in server.err


def test_serve_makes_a_certificate_on_request():
    with Serve("prefork", "--port", "0", "--tls").ready() as server:
        file = re.search(r"clients have to trust (\S+)", server.err)[1]
        with TlsClient(server, context=ssl.create_default_context(cafile=file)) as client:
            assert client.get("/").status == 200
        os.kill(server.pid, signal.SIGTERM)
        server.finish()
        assert not os.path.exists(os.path.dirname(file))
