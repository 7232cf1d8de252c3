"""A connection filter that is not safe for event: the same answers, and a thread held for each client."""

import shutil
import time

import pytest
from support.client import Client, TlsClient, request
from support.servers import assert_quiet, serving, shows, total
from support.waiting import poll_until

# 75 KiB: more than is kept in memory, so that the kernel could send it
PAGE = bytes(range(256)) * 300
OPTIONS = {"ConnectionFilter": "LINE_RATE 800"}
FILES = {"page.bin": PAGE, "large.bin": PAGE * 10}


def test_the_same_answers(server):
    with Client(server) as client:
        client.send(request("/page.bin") + request("/nope") + request("/file.txt"))
        assert client.reply().body == PAGE
        assert client.reply().status == 404
        assert len(client.reply().body) == 37
        # 75 KiB at 800 KiB/s: a tenth of a second each way, nearly.
        for method, path, body in (("GET", "/page.bin", b""),) * 2 + (("POST", "/file.txt", PAGE),):
            began = time.monotonic()
            assert client.get(path, method=method, body=body).status == 200
            assert time.monotonic() - began >= 75 / 800
        assert client.get("/file.txt", "Connection: close").status == 200
        assert client.until_closed() == b""


@pytest.mark.parametrize("rate", [None, "LINE_RATE 2000"])
def test_event_holds_the_thread_of_a_client_with_a_filter(mpm, document_root, rate):
    """`K` between requests and `W` to the last byte of a response, as under worker and prefork; without
    the filter event parks both."""
    held = mpm != "event" or rate is not None
    options = {"ConnectionFilter": rate} if rate else {}
    options |= {"EnableSendfile": True, "SendBufferSize": 4096}
    with serving(mpm, document_root=document_root, **options) as server:
        with Client(server) as one, Client(server, receive_buffer=2048) as slow:
            began = time.monotonic()
            assert one.get("/page.bin").body == PAGE
            # Not past the filter, as sendfile would.
            assert rate is None or time.monotonic() - began >= 75 / 2000
            slow.send(request("/large.bin"))
            if held:
                shows(server, K=1, W=1)
            else:
                poll_until(lambda: total(server, "write_completion"), "write completion")
                assert_quiet(server)
            assert slow.reply().body == PAGE * 10
            assert one.get().status == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_over_tls(mpm, document_root):
    served = serving(mpm, document_root=document_root, tls=True, **OPTIONS)
    with served as server, TlsClient(server) as client:
        assert client.get("/page.bin").body == PAGE
        shows(server, K=1)
        assert client.get("/file.txt", "Connection: close").status == 200
        assert client.sock.recv(1) == b""
