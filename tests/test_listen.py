"""Listening sockets: bound, kept over a restart, and accepted from."""

import os
import select
import socket
import struct
from contextlib import ExitStack, closing

import pytest
from support.calls import refused
from support.configured import directives as configured
from support.servers import free_ports
from support.waiting import poll_until

from mpmkit.measure.procfs import listen_queue
from mpmkit.server import listen as of
from mpmkit.server.listen import Listener, ListenError, bind, open_listeners


def directives(count=1, **named):
    listen = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return configured(**{"Listen": listen, "AcceptFilter": ("http", "none")} | named)


@pytest.fixture
def opened():
    """A function that opens listeners, which are closed at the end."""
    made: list[Listener] = []

    def open_some(directives) -> list[Listener]:
        made.extend(new := open_listeners(directives, ()))
        return new

    yield open_some
    of.close_all(made)


def test_if_one_listen_fails_none_stays_open():
    with closing(bind("127.0.0.1", 0)) as taken:
        taken.listen()
        free, port = *free_ports(1), taken.getsockname()[1]
        both = directives(Listen=[f"127.0.0.1:{free}", f"127.0.0.1:{port}"])
        refused(ListenError, f"{port}", open_listeners, both)
        bind("127.0.0.1", free).close()  # free again
    (port,) = free_ports(1)
    with closing(bind("127.0.0.1", port)) as one, closing(bind("127.0.0.1", port)) as other:
        # Both bound, but only one may listen.
        of.configure(one, directives())
        refused(ListenError, f"AH00073: .*127.0.0.1:{port}", of.configure, other, directives())


def test_options_that_accepted_sockets_inherit(opened):
    """TCP_NODELAY and the time-outs are set once, on the listening socket."""
    d = directives(Timeout=7, SendBufferSize=20_000)
    (listener,) = opened(d)
    with socket.create_connection(listener.getsockname()):
        poll_until(lambda: select.select([listener], [], [], 0)[0])
        with closing(listener.accept_bare()[0]) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000  # Linux doubles
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == of.timeval(7)
            assert os.get_blocking(sock.fileno())
    for filter_, least, most in (("data", 30, 99), ("none", 0, 0)):
        (listener,) = opened(directives(AcceptFilter=("http", filter_)))
        deferred = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        assert least <= deferred <= most


@pytest.mark.parametrize("named, seconds", [
    ({"Timeout": 60}, 20), ({"Timeout": 5}, 5),
    ({"Timeout": 60, "RequestReadTimeout": ("header=0", "body=0")}, 60),
    ({"Timeout": 60, "RequestReadTimeout": ("header=3",)}, 3),
])  # fmt: skip
def test_how_long_the_first_bytes_may_take(named, seconds):
    assert of.first_timeout(directives(**named)) == seconds
    assert struct.unpack("ll", of.timeval(seconds + 0.5)) == (seconds, 500_000)
    assert struct.unpack("ll", of.timeval(0)) == (0, 1), "0 would be forever"


@pytest.mark.parametrize("host, shown", [
    ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "127.0.0.1"),
])  # fmt: skip
def test_the_url_is_one_that_a_client_here_can_use(host, shown):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    with closing(bind(host, 0)) as sock:
        assert of.url_of(sock) == f"http://{shown}:{sock.getsockname()[1]}"


@pytest.mark.parametrize("listens", [
    *"{} *:{} 0.0.0.0:{} 127.0.0.1:{} localhost:{}".split(), "{} [::]:{}", "[::]:{} {}",
])  # fmt: skip
def test_a_restart_keeps_the_sockets_it_has(opened, listens):
    """All addresses and all of IPv6's are one socket."""
    d = directives(Listen=listens.replace("{}", str(*free_ports(1))).split())
    (first,) = opened(d)
    assert open_listeners(d, [first]) == [first]


@pytest.mark.parametrize("count", [1, 2])
def test_all_that_wait_come_in_turn_and_before_the_other_descriptor(opened, count):
    """The kernel woke only this process for them: if it left, they would wait."""
    listeners = opened(directives(count))
    read, write = os.pipe()
    with ExitStack() as stack:
        for fd in (read, write):
            stack.callback(os.close, fd)
        acceptor = stack.enter_context(closing(of.Acceptor(listeners, read)))
        os.write(write, b"!")
        for listener in listeners * 3:
            stack.enter_context(socket.create_connection(listener.getsockname()))
        poll_until(lambda: all(listen_queue(one.getsockname()[1]) == 3 for one in listeners))
        ports = []
        while (accepted := acceptor.accept()) is not None:
            ports.append(accepted[0].getsockname()[1])
            accepted[0].close()
    assert len(ports) == 3 * count
    assert all(len(set(ports[n : n + count])) == count for n in range(0, 3 * count, count))
