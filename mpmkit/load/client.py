"""One user's connection to the server, and its requests.

HttpUser and FastHttpUser are slower than the servers that they should measure. A request costs here:

* one send, one recv, one look-up of the whole answer in a memo of answers already read and checked;
* no epoll_ctl: a watcher stays registered while a connection lives, and its callback switches straight into the
  user's greenlet. For a connection of one request there is no watcher, if its answer is there as soon as the
  other users have had their turn;
* no timer: the monitor throws TimeoutError into an overdue user (`generator_state.py`);
* two readings of the clock and one append to an array of nanoseconds.

With a new connection per request the user waits, as ab does, until the server closes the connection: so the
server's side gets the TIME_WAIT state. Abandoned connections are reset, which leaves none either.

Imported by the locustfile alone: locust and gevent belong in no other process.
"""

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import contextlib
import errno
import os
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import greenlet  # type: ignore[import-untyped]
from gevent import get_hub, getcurrent
from locust import User
from locust.user.task import LOCUST_STATE_STOPPING

from mpmkit.load.generator_state import NEVER, READ, WRITE, Planned, State, clock
from mpmkit.load.response import ResponseReader, Verdict

RECV_SIZE = 65_536
RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {on, 0 s}
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has no name for it before 3.12

MEMO_ENTRIES, MEMO_BYTES = 1_024, 8_192  # longer answers are not kept in it: it has 8 MiB at most
BACK_OFF = 0.05  # seconds after a refused connection: a dead server would use up the budget at once

KINDS: dict[type[Exception], str] = {  # of failures, as `LoadRun.errors` has them
    TimeoutError: "timeout",  # also thrown into a user whose request has passed its time
    ssl.SSLCertVerificationError: "certificate",
    ssl.SSLError: "tls",
    ConnectionRefusedError: "refused",
    ConnectionError: "reset",
    OSError: "connect",
}


class Client:
    """One user: its `request_loop`, the `exchange` of a request and its answer, and the socket, none at first."""

    def __init__(self, user: User, state: State) -> None:
        self.user, self.state, hub = user, state, get_hub()
        self.loop = hub.loop
        self.greenlet = getcurrent()
        self.sock: Any = None
        self.watcher: Any = None
        self.watching = self.waiting = False
        self.due = NEVER
        self.called = False  # by the schedule
        # Straight into the hub: gevent's own switch() asks for hooks that no user here has.
        self.to_hub = greenlet.greenlet.switch.__get__(hub)
        self.resume = self.greenlet.switch
        self.answered_ns = 0  # when the last answer was complete
        self.served = 0  # requests on the kept connection
        self.address = state.addresses[0]
        self.elsewhere: dict[Any, tuple[Any, int]] = {}  # address -> socket, requests served on it
        self.rest: deque[Planned] = deque()  # of a plan: what is still to come on this connection
        self.kept = state.profile.keep_alive
        self.most = (state.profile.requests_per_connection or NEVER) if self.kept else 1
        self.take_line(0)

    def run(self) -> None:
        state = self.state
        state.begun_ns = state.begun_ns or clock()
        state.users.add(self)
        try:
            self.request_loop()
        finally:
            self.waiting = False
            state.users.discard(self)
            for sock in (self.sock, *(kept for kept, _ in self.elsewhere.values())):
                self.sock = sock
                self.close(reset=True)
            if self.watcher is not None:
                self.watcher.close()
        # The last one ends the run, if there is nothing left to claim.
        if not state.users and (state.exhausted or state.over or clock() >= state.deadline):
            state.finish("requests" if state.exhausted else "duration")

    def request_loop(self) -> None:
        """Claim, send, judge and count one request after the other, while there are any to claim."""
        state, user, profile = self.state, self.user, self.state.profile
        several, think, timeout_ns = len(state.specs) > 1, profile.think_time, state.timeout_ns
        closed, planned, record = state.schedule is None, profile.plan is not None, self.record
        answered = False  # a pause is due: not before the first request
        while user._state is not LOCUST_STATE_STOPPING and not state.ended:
            if think and answered and not self.pause():
                return
            if closed:
                t0 = clock()
                if t0 >= state.deadline:
                    return
                if state.left:
                    state.left -= 1
                elif not state.more():
                    return
                measured = state.measuring
                self.due = t0 + timeout_ns
            else:
                t0, measured = self.claim_due()
                if not t0:
                    return
            if planned:  # the server is to close after it where the plan says so
                _, _, line, closes = self.rest.popleft()
                self.take_line(line)
                self.most, record = 0 if closes or not self.kept else NEVER, self.record
            elif several:
                self.take_line(state.line_at(t0))
                record = self.record
            answered = True
            try:
                kind, _, length = self.exchange()
            except OSError as error:
                self.failed(error, t0, measured)
                continue
            if not measured:
                continue
            t1 = state.last_end = self.answered_ns
            if kind is None:
                record(t1 - t0)
                state.body_bytes += length
            else:
                state.fail(kind, t0, self.which)
            if planned and not self.rest and self.sock is not None:
                self.stay()

    def take_line(self, which: int) -> None:
        """The line of the mix that the next request is of."""
        once, self.request, last = self.state.requests[which]
        self.last_request = last if self.kept else once
        self.which, self.memo = which, self.state.memos[which]
        self.record = self.state.latencies[which].append
        address = self.state.addresses[which]
        if address != self.address:
            # Its connection to this port, if there is one; the other waits for the next such line.
            self.quiet()
            self.elsewhere[self.address] = self.sock, self.served
            self.address = address
            self.sock, self.served = self.elsewhere.pop(address, (None, 0))

    def stay(self) -> None:
        """Keep the connection after its last request until the server closes it, or the run ends."""
        self.due, failed = self.state.deadline, False
        try:
            self.receive()
        except OSError:
            failed = True
        self.close(reset=failed)

    def claim_due(self) -> tuple[int, bool]:
        """(due time of one more request in the open loop, now past; whether it is measured), or (0, False)."""
        state, schedule = self.state, self.state.schedule
        assert schedule is not None
        now = clock()
        if self.rest:  # at its time, or as late as the answer before it was
            t0 = max(self.rest[0][0], self.answered_ns + self.rest[0][1])
        elif now >= state.deadline:
            return 0, False
        else:
            t0, self.rest = schedule.take()
            if t0 >= state.deadline:
                state.over = True
                return 0, False
        measured = t0 >= schedule.origin
        if measured and not state.claim(schedule.origin):
            return 0, False
        if t0 > now:
            schedule.wait(t0, self)
            now = clock()
        if measured:
            state.lags.append(max(0, now - t0))
        self.due = now + state.timeout_ns
        return t0, measured

    def exchange(self) -> Verdict:
        """One request on the kept connection, or on a new one; the verdict on its answer."""
        fresh = self.sock is None
        self.served = 1 if fresh else self.served + 1
        last = self.served >= self.most
        request = self.last_request if last else self.request
        data = b""
        try:
            if fresh:
                self.open(asks_at_once=last)
            # On loopback the handshake is over when connect() returns, so sending right away nearly
            # always spares a wait for "writable".
            try:
                sent = self.sock.send(request)
            except BlockingIOError:
                sent = 0
            # With many users the answer is there once all that were ready have had their turn, and a
            # connection of one request needs no place in epoll. If it is not, watch.
            if sent != len(request):
                self.send(request[sent:])
            elif not self.kept:
                self.loop.run_callback(self.wake)
            elif not self.watching:
                self.watch()
            self.waiting = True
            self.to_hub()
            try:
                data = self.sock.recv(RECV_SIZE)
            except BlockingIOError:
                data = self.receive()
        except (ConnectionResetError, BrokenPipeError):
            if fresh:
                raise
        if not data and not fresh:
            # The server's close and our request crossed. RFC 9112, 9.3.1 lets a client send it again: once.
            self.state.retries += self.state.measuring
            self.close()
            self.served = 1
            self.open()
            self.send(request)
            data = self.receive()
        verdict = self.memo.get(data) or self.read(data)
        self.answered_ns = clock()
        if verdict[1] and not last:
            return verdict
        if data and (verdict[0] is None or not self.kept):
            self.state.reconnects += self.state.measuring and not last
            # Let the server end the connection: see the module's text on TIME_WAIT.
            try:
                if rest := self.receive():
                    verdict = ("length", False, verdict[2] + len(rest))
            except TimeoutError:
                verdict = verdict if verdict[0] else ("unclosed", False, verdict[2])
            except OSError:
                self.close(reset=True)
        self.close(reset=verdict[0] is not None)
        return verdict

    def pause(self) -> bool:
        """Think. False if the run ended meanwhile."""
        state, seconds = self.state, self.state.profile.think_time
        if state.profile.think == "exponential":
            seconds = state.random.expovariate(1 / seconds)
        self.quiet()
        until = clock() + int(seconds * 1e9)
        while (left := min(until, state.deadline) - clock()) > 0:
            # In short sleeps, so that a user who thinks for a minute does not keep the run.
            gevent.sleep(min(left / 1e9, 1.0))
            if state.ended or self.user._state is LOCUST_STATE_STOPPING:
                return False
        return True

    def failed(self, error: Exception, t0: int, measured: bool) -> None:
        state, kind = self.state, next(KINDS[kind] for kind in KINDS if isinstance(error, kind))
        self.waiting = False
        self.close(reset=True)
        if measured:
            state.last_end = clock()
            state.fail(kind, t0, self.which)
        if kind in ("refused", "connect"):
            state.refused_since += 1
            gevent.sleep(BACK_OFF)

    def read(self, data: bytes) -> Verdict:
        """Read an answer that the memo does not know, from its first bytes `data` on."""
        spec = self.state.specs[self.which]
        reader = ResponseReader(spec.method, spec.expect_status, spec.expect_length)
        if (verdict := reader.feed(data)) is not None and 0 < len(data) <= MEMO_BYTES:
            if len(self.memo) >= MEMO_ENTRIES:
                self.memo.clear()
            self.memo[data] = verdict
        while verdict is None:
            verdict = reader.feed(self.receive())
        return verdict

    # The socket. `wake` and `expire` run in the hub, the others in the user's greenlet.

    def wake(self) -> None:
        # A watcher outlives the wait, so it may fire for a greenlet that waits for something else.
        if self.waiting:
            self.waiting = False
            self.resume()

    def expire(self) -> None:
        if self.waiting and clock() >= self.due:
            self.waiting = False
            self.greenlet.throw(TimeoutError())

    def wait(self) -> None:
        self.waiting = True
        self.to_hub()

    def open(self, asks_at_once: bool = False) -> None:
        """Connect. Raises OSError. asks_at_once: a request follows, and the acknowledgement that ends the
        handshake may go with it (TCP_QUICKACK off): on loopback we carry each packet to the server's end
        ourselves."""
        state = self.state
        plain = state.tls is None
        self.sock = sock = (_socket.socket if plain else TlsSocket)(state.family, state.kind)
        state.connections += 1
        if state.source:
            sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{1 + state.source}", 0))
        if asks_at_once:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(self.address)
        if code == errno.EADDRNOTAVAIL and state.source < state.sources:
            # All ephemeral ports towards the target are in TIME_WAIT: go on from another address.
            state.source += 1
            self.close()
            return self.open(asks_at_once)
        if code and code != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
        if not plain:
            if code:
                self.wait_writable()
            self.receive(self.sock.secure(state.tls, state.host))
            self.quiet()  # a watcher that is watching cannot be given another socket

    def send(self, data: bytes) -> None:
        """Send all, waiting where the connection is not there yet or the buffer is full, then watch."""
        sock = self.sock
        self.quiet()  # else an early answer would wake us again and again
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self.wait_writable()
        self.watch()

    def wait_writable(self) -> None:
        """Until the connection is there, or its buffer has room. Raises OSError if it failed."""
        with self.loop.io(self.sock.fileno(), WRITE) as watcher:
            watcher.start(self.wake)
            self.wait()
        if code := self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            raise OSError(code, os.strerror(code)) from None

    def watch(self) -> None:
        if self.watcher is None:
            self.watcher = self.loop.io(self.sock.fileno(), READ)
        else:
            self.watcher.fd = self.sock.fileno()
        self.watcher.start(self.wake)
        self.watching = True

    def quiet(self) -> None:
        """Watch no more until the next request: a server that closes meanwhile would wake us on and on."""
        if self.watching:
            self.watcher.stop()
            self.watching = False

    def receive(self, step: Callable[[], Any] | None = None) -> Any:
        """What has come, waiting if need be; b"" at the end. Or the result of another `step` that may wait."""
        while True:
            try:
                return step() if step else self.sock.recv(RECV_SIZE)
            except BlockingIOError:
                if not self.watching:
                    self.watch()
                self.wait()

    def close(self, reset: bool = False) -> None:
        if self.watching:
            self.quiet()
        sock, self.sock = self.sock, None
        if sock is not None:
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()


class TlsSocket(_socket.socket):
    """A raw socket that has TLS on it from `secure` on. It waits for nothing: `recv` and `send` raise
    BlockingIOError where they would have to, as a socket's do."""

    def secure(self, how: Any, host: str) -> Callable[[], Any]:
        """The handshake: to be called again after each BlockingIOError, when the server has answered."""
        # What gevent's own ssl calls: the public wrap_socket() takes no C socket.
        self._tls = how._wrap_socket(self, False, host)
        return partial(self._do, self._tls.do_handshake)

    def send(self, data: bytes) -> int:  # type: ignore[override]
        return self._do(self._tls.write, data)

    def recv(self, size: int) -> bytes:  # type: ignore[override]
        """Up to a record's bytes; b"" at the end."""
        try:
            return self._do(self._tls.read, size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # An end without close_notify is the HTTP reader's to judge: it knows the length.
            return b""

    def _do(self, step: Callable[..., Any], *given: Any) -> Any:
        try:
            return step(*given)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
