"""One user's connection to the server, and what is sent on it.

Why it is not HttpUser or FastHttpUser: on loopback the generator is slower than the servers it should
measure, so whoever uses those measures the generator. What a request costs here:

* one send, one recv, one look-up of the whole answer in a memo of answers already read and checked;
* a socket watcher that stays registered while a connection lives (no epoll_ctl per request), whose
  callback switches straight into the user's greenlet; none at all for a connection of one request
  whose answer is there as soon as the other users have had their turn;
* two readings of the clock and one append to an array of nanoseconds;
* no timer per request: one clerk greenlet per process looks for the overdue, several times a
  second (`State.clerk`).

A user claims a request from the budget, sends, waits for the whole answer, checks it, records it, and
claims again. The two plain loads (one request, closed loop, connections all kept or none) have loops of
their own; a third loop, somewhat slower, does all that a profile can say: mixes, think times, shares, the
open loop. In the open loop a claim comes with the time at which the request is due, and a timerfd wakes
the user then: gevent's own timers end with a whole millisecond, more than a request takes. Latency counts
from the due time, also where every user was busy by then.

Latency is counted in ns from just before the connection is opened (new connection per request) or
the request is sent (keep-alive) to the last byte of the body. With a new connection per request
the user then waits, as ab does, until the server ends the connection, before it goes on: so it is
the server's side that gets the TIME_WAIT state, and a run of millions of connections leaves the
client's ephemeral ports free. Where a server does not close first and ports run out after all,
the users move on to another loopback source address (127.0.0.2, ...), each with ports of its own.
Connections that must be given up are reset, which leaves no TIME_WAIT either.

Imported by the locustfile alone: locust and gevent belong in no other process.
"""

from __future__ import annotations

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import bisect
import errno
import hashlib
import os
import ssl
import time
from typing import Any

import gevent
import greenlet  # type: ignore[import-untyped]
from gevent import get_hub, getcurrent
from locust import User, events
from locust.user.task import LOCUST_STATE_STOPPING

from mpmkit.load import tls
from mpmkit.load.budget import NEVER, READ, WRITE
from mpmkit.load.generator_state import state
from mpmkit.load.response import ResponseReader
from mpmkit.load.specs import RequestSpec

clock = time.perf_counter_ns
RECV_SIZE = 65_536

MEMO_ENTRIES = 1_024
MEMO_BYTES = 8_192
"""An answer longer than this is not kept in the memo; with MEMO_ENTRIES it bounds it to 8 MiB."""

BACK_OFF = 0.05
"""Seconds that a user waits after a connection that could not be opened. A refused connection costs
microseconds, so without a pause a dead server would use up the budget in an instant."""

HOLD_OFF = 0.5
"""Seconds after which an idle holder or a slow reader tries again when its connection failed."""

READ_TICK = 0.1
"""Seconds between two sips of a slow reader."""

RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {on, 0 s}
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has no name for it before 3.12
MAX_SOURCES = 200


class Overdue(Exception):
    """Thrown into a user whose request has passed its time."""


class Client:
    """The socket of one user, and its loop in three forms: `keep_alive`, `new_connections`, `anything`."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.hub = get_hub()
        self.loop = self.hub.loop
        self.greenlet = getcurrent()
        self.sock: Any = None
        self.watcher: Any = None
        self.waiting = False
        self.due = NEVER
        self.which = 0
        self.called = False  # by the schedule
        # Straight into the hub: gevent's own switch() asks for hooks that no user here has.
        self.to_hub = greenlet.greenlet.switch.__get__(self.hub)
        self.resume = self.greenlet.switch

    # These two run in the hub.

    def wake(self) -> None:
        # A watcher outlives the wait (that saves two epoll_ctl per request), so it may fire for a
        # greenlet that waits for something else.
        if self.waiting:
            self.waiting = False
            self.resume()

    def expire(self) -> None:
        if self.waiting and clock() >= self.due:
            self.waiting = False
            self.greenlet.throw(Overdue())

    # These run in the user's greenlet.

    def wait(self) -> None:
        self.waiting = True
        try:
            self.to_hub()
        finally:
            self.waiting = False

    def open(self, asks_at_once: bool = False):
        """A connected socket. Raises OSError, or Overdue.

        asks_at_once: a request follows without a wait, so the acknowledgement that ends the handshake
        may go with it (TCP_QUICKACK off) and need not be a packet of its own. On loopback we carry
        each packet to the server's end ourselves, in our own time.
        """
        sock = _socket.socket(state.family, state.kind)
        self.sock = sock
        state.connections += 1
        if state.source:
            sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{1 + state.source}", 0))
        if asks_at_once:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(state.address)
        if code == errno.EADDRNOTAVAIL and self.next_source():
            self.close()
            return self.open(asks_at_once)
        if code and code != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
        if state.tls is not None:
            return self.secure(sock, code)
        return sock

    def secure(self, sock, code: int):
        """The TLS handshake on a socket that is connected, or will be."""
        if code:
            self.wait_writable()
        assert state.tls is not None
        made = tls.TlsSocket(sock, state.tls, state.host)
        self.sock = made
        self.watch()
        while True:
            try:
                made.handshake()
                self.quiet()  # a watcher that is watching cannot be given another socket
                return made
            except BlockingIOError:
                self.wait()

    def next_source(self) -> bool:
        """All ephemeral ports towards the target are in TIME_WAIT: go on from another address."""
        if state.family != _socket.AF_INET or state.source >= MAX_SOURCES or not state.loopback:
            return False
        state.source += 1
        return True

    def send(self, data: bytes) -> None:
        """Send all, waiting where the connection is not there yet or the buffer is full, then
        watch."""
        sock = self.sock
        if self.watcher is not None:
            self.watcher.stop()  # else an early answer would wake us again and again
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self.wait_writable()
        self.watch()

    def wait_writable(self) -> None:
        """Until the connection is there, or its buffer has room. Raises OSError if it failed."""
        watcher = self.loop.io(self.sock.fileno(), WRITE)
        watcher.start(self.wake)
        try:
            self.wait()
        finally:
            watcher.stop()
            watcher.close()
        code = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None

    def watch(self) -> None:
        if self.watcher is None:
            self.watcher = self.loop.io(self.sock.fileno(), READ)
        else:
            self.watcher.fd = self.sock.fileno()
        self.watcher.start(self.wake)

    def quiet(self) -> None:
        """Watch no more until the next request: a server that closes meanwhile would wake us on and
        on."""
        if self.watcher is not None:
            self.watcher.stop()

    def receive(self) -> bytes:
        """What has come, waiting for it if need be; b"" at the end of the connection."""
        while True:
            try:
                return self.sock.recv(RECV_SIZE)
            except BlockingIOError:
                self.wait()

    def close(self, reset: bool = False) -> None:
        if self.watcher is not None:
            self.watcher.stop()
        sock, self.sock = self.sock, None
        if sock is not None:
            try:
                if reset:
                    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, RESET_ON_CLOSE)
            except OSError:
                pass
            sock.close()

    def read(self, data: bytes):
        """Read an answer that the memo does not know, from its first bytes `data` on."""
        spec = state.specs[self.which]
        hasher = None
        if spec.expect_body is not None and (
            len(data) <= MEMO_BYTES
            or (spec.expect_body == "same" and self.which not in state.bodies)
            or state.random.random() < state.profile.body_sample
        ):
            hasher = hashlib.sha256()
        reader = ResponseReader(spec.method, spec.expect_status, spec.expect_length, hasher)
        first = data
        while True:
            verdict = reader.feed(data) if data else reader.eof()
            if verdict is not None:
                if hasher is not None and verdict[0] is None:
                    verdict = self.compare(spec, hasher.hexdigest(), verdict)
                if data is first and len(data) <= MEMO_BYTES:
                    memo = state.memos[self.which]
                    if len(memo) >= MEMO_ENTRIES:
                        memo.clear()
                    if data:
                        memo[data] = verdict
                return verdict
            data = self.receive()

    def compare(self, spec: RequestSpec, digest: str, verdict: tuple) -> tuple:
        """The verdict, unless the body is another than it should be."""
        wanted = (
            state.bodies.setdefault(self.which, digest)
            if spec.expect_body == "same"
            else spec.expect_body
        )
        return verdict if digest == wanted else ("body", verdict[1], verdict[2])

    def run(self) -> None:
        if not state.prepared:
            return  # the test was refused when it began; Locust starts its users all the same
        if not state.begun_ns:
            state.begun_ns = clock()
        state.users.add(self)
        state.running += 1
        try:
            if not state.profile.plain:
                self.anything()
            elif state.profile.keep_alive:
                self.keep_alive()
            else:
                self.new_connections()
        finally:
            state.running -= 1
            state.users.discard(self)
            self.close(reset=True)
            if self.watcher is not None:
                self.watcher.close()
        state.left_loop()

    # The two plain loops. They say the same things twice, and spell out what could be a method, because
    # a call costs a hundredth of a request here and there would be five of them.

    def new_connections(self) -> None:
        shared, user, budget, memo = state, self.user, state.budget, state.memo
        request, size, timeout_ns = state.request, len(state.request), state.timeout_ns
        record = state.latencies.append
        each = state.profile.events == "each"
        after_the_others, wake = self.loop.run_callback, self.wake
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            t0 = clock()
            if t0 >= shared.deadline:
                return
            if budget.left:
                budget.left -= 1
            elif not budget.more():
                return
            measured = budget.measuring
            self.due = t0 + timeout_ns
            verdict = None
            try:
                sock = self.open(asks_at_once=True)
                # On loopback the handshake is over when connect() returns, so sending right away
                # nearly always spares a wait for "writable".
                try:
                    sent = sock.send(request)
                except BlockingIOError:
                    sent = 0
                # With many users the answer is there once all that were ready have had their turn,
                # and a connection of one request needs no place in epoll. If it is not, watch.
                watched = sent != size
                if watched:
                    self.send(request[sent:])
                else:
                    after_the_others(wake)
                self.waiting = True
                self.to_hub()
                try:
                    data = sock.recv(RECV_SIZE)
                except BlockingIOError:
                    if not watched:
                        watched = True
                        self.watch()
                    data = self.receive()
                verdict = memo.get(data)
                if verdict is None:
                    if not watched:
                        watched = True
                        self.watch()  # the rest of it may be to come
                    verdict = self.read(data)
                t1 = clock()
                if data:
                    # The server ends the connection: see the module's text on TIME_WAIT.
                    try:
                        rest = sock.recv(RECV_SIZE)
                    except BlockingIOError:
                        if not watched:
                            self.watch()
                        rest = self.receive()
                    if rest:
                        verdict = ("length", False, verdict[2] + len(rest))
                self.close(reset=verdict[0] is not None)
            except (Overdue, OSError) as error:
                if verdict is None or verdict[0] is not None:
                    self.failed(kind_of(error), t0, measured)
                    continue
                # The answer was complete; only the end of the connection went wrong.
                if isinstance(error, Overdue):
                    self.failed("unclosed", t0, measured)
                    continue
                self.close(reset=True)
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                record(t1 - t0)
                shared.body_bytes += length
                shared.last_end = t1
                if each:
                    fire(t1 - t0, length)
            else:
                self.failed(kind, t0, True)

    def keep_alive(self) -> None:
        shared, user, budget, memo = state, self.user, state.budget, state.memo
        request, size, timeout_ns = state.request, len(state.request), state.timeout_ns
        record = state.latencies.append
        each = state.profile.events == "each"
        sock: Any = None
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            t0 = clock()
            if t0 >= shared.deadline:
                return
            if budget.left:
                budget.left -= 1
            elif not budget.more():
                return
            measured = budget.measuring
            self.due = t0 + timeout_ns
            try:
                fresh = sock is None
                try:
                    if fresh:
                        sock = self.open()
                        self.send(request)
                    else:
                        sent = sock.send(request)
                        if sent != size:
                            self.send(request[sent:])
                    self.waiting = True
                    self.to_hub()
                    try:
                        data = sock.recv(RECV_SIZE)
                    except BlockingIOError:
                        data = self.receive()
                except (ConnectionResetError, BrokenPipeError):
                    if fresh:
                        raise
                    data = b""
                if not data and not fresh:
                    # The server's close and our request crossed. That is nobody's fault (RFC 9112,
                    # 9.3.1 lets a client send it again): once, on a new connection.
                    if measured:
                        shared.retries += 1
                    self.close()
                    sock = self.open()
                    self.send(request)
                    data = self.receive()
                verdict = memo.get(data) or self.read(data)
                t1 = clock()
                if not verdict[1]:
                    # It will not be used again. After a good answer, let the server close first.
                    if verdict[0] is None:
                        shared.reconnects += measured
                        self.drain()
                    self.close(reset=verdict[0] is not None)
                    sock = None
            except BlockingIOError:
                # Only a buffer that is full at the very first byte of a reused connection's
                # request.
                self.failed("connect", t0, measured)
                sock = None
                continue
            except (Overdue, OSError) as error:
                self.failed(kind_of(error), t0, measured)
                sock = None
                continue
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                record(t1 - t0)
                shared.body_bytes += length
                shared.last_end = t1
                if each:
                    fire(t1 - t0, length)
            else:
                shared.last_end = t1
                shared.fail(kind, t0, length)

    def anything(self) -> None:
        """All that a profile can say, one request after the other."""
        shared, user, budget, profile = state, self.user, state.budget, state.profile
        schedule = shared.schedule
        several = len(shared.specs) > 1
        exponential = profile.think == "exponential"
        # So many of the users keep their connections, spread evenly over their numbers.
        shared.serial += 1
        keep = int(shared.serial * profile.keep_share) > int(
            (shared.serial - 1) * profile.keep_share
        )
        most = profile.requests_per_connection or NEVER
        served = 0
        rest = False  # a pause is due: not before the first request
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            if rest and profile.think_time:
                pause = (
                    shared.random.expovariate(1 / profile.think_time)
                    if exponential
                    else profile.think_time
                )
                if not self.pause(pause):
                    return
            rest = True
            now = clock()
            if now >= shared.deadline:
                return
            if schedule is not None:
                t0 = schedule.take()
                if t0 >= shared.deadline:
                    shared.over = True
                    return
                measured = t0 >= schedule.origin
                if measured:
                    if not budget.claim():
                        return
                    if not shared.started_ns:
                        shared.measure(schedule.origin)
                if t0 > now:
                    schedule.wait(t0, self)
                    now = clock()
                if measured:
                    shared.lags.append(max(0, now - t0))
            else:
                t0 = now
                if budget.left:
                    budget.left -= 1
                elif not budget.more():
                    return
                measured = budget.measuring
            which = self.which = (
                bisect.bisect(shared.weights, shared.random.random() * shared.weights[-1])
                if several
                else 0
            )
            last = keep and served + 1 >= most
            request = shared.requests[which][keep + last]
            self.due = now + shared.timeout_ns
            verdict = None
            try:
                verdict = self.exchange(request, which)
                t1 = clock()
                served += 1
                if not verdict[1] or last or not keep:
                    if verdict[0] is None:
                        if keep and not last:
                            shared.reconnects += measured
                        # The server is to end the connection: see the module's text on TIME_WAIT.
                        self.drain()
                    self.close(reset=verdict[0] is not None)
                    served = 0
            except (Overdue, OSError, ssl.SSLError) as error:
                self.failed(kind_of(error), t0, measured, which)
                served = 0
                continue
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                shared.latencies.append(t1 - t0)
                if several:
                    shared.which.append(which)
                shared.body_bytes += length
                shared.last_end = t1
                if profile.events == "each":
                    fire(t1 - t0, length, which)
            else:
                shared.last_end = t1
                shared.fail(kind, t0, length, which)

    def exchange(self, request: bytes, which: int):
        """Send on the connection there is, or on a new one; the verdict on the answer."""
        fresh = self.sock is None
        data = b""
        try:
            if fresh:
                self.open()
            self.send(request)
            data = self.receive()
        except (ConnectionResetError, BrokenPipeError):
            if fresh:
                raise
        if not data and not fresh:
            # The server's close and our request crossed: once more, on a new connection.
            state.retries += bool(state.started_ns)
            self.close()
            self.open()
            self.send(request)
            data = self.receive()
        return state.memos[which].get(data) or self.read(data)

    def pause(self, seconds: float) -> bool:
        """Think. False if the run ended meanwhile."""
        self.quiet()
        until = clock() + int(seconds * 1e9)
        while (left := min(until, state.deadline) - clock()) > 0:
            # In short sleeps, so that a user who thinks for a minute does not keep the run.
            gevent.sleep(min(left / 1e9, 1.0))
            if state.ended or self.user._state is LOCUST_STATE_STOPPING:
                return False
        return True

    def drain(self) -> None:
        """Wait for the server's end of the connection, one second at most: it said it would
        close."""
        self.due = clock() + 1_000_000_000
        try:
            while self.receive():
                pass
        except (Overdue, OSError):
            pass

    def failed(self, kind: str, t0: int, measured: bool, which: int = 0) -> None:
        """A request that failed with its connection."""
        self.waiting = False
        self.close(reset=True)
        if measured:
            state.last_end = clock()
            state.fail(kind, t0, 0, which)
        if kind in ("refused", "connect"):
            state.refused_since += 1
            gevent.sleep(BACK_OFF)


class Beside(Client):
    """A client beside the users. It never ends the run, and what it gets is counted apart."""

    def run(self) -> None:
        if not state.prepared:
            return
        state.users.add(self)
        try:
            while self.user._state is not LOCUST_STATE_STOPPING and not state.ended:
                try:
                    self.live()
                except (Overdue, OSError) as error:
                    state.background[f"{self.name} {kind_of(error)}"] += 1
                    gevent.sleep(HOLD_OFF)
                finally:
                    self.waiting = False
                    self.close(reset=True)
        finally:
            state.users.discard(self)
            if self.watcher is not None:
                self.watcher.close()

    name = ""

    def live(self) -> None:
        raise NotImplementedError

    def count(self, what: str, how_many: int = 1) -> None:
        state.background[f"{self.name} {what}"] += how_many


class Holder(Beside):
    """Connects, asks once if the profile says so, and stays until the server ends it."""

    name = "idle"

    def live(self) -> None:
        profile = state.profile
        self.due = clock() + state.timeout_ns
        self.open()
        self.count("opened")
        if profile.idle_request:
            self.send(state.requests[0][1])
            verdict = self.read(self.receive())
            if verdict[0] is not None:
                self.count(verdict[0])
                gevent.sleep(HOLD_OFF)
                return
            self.count("answered")
            if not verdict[1]:
                self.count("closed")
                gevent.sleep(HOLD_OFF)
                return
        else:
            self.watch()
        self.due = NEVER
        while self.receive():
            pass
        self.count("closed")
        gevent.sleep(BACK_OFF)


class Reader(Beside):
    """Fetches the page again and again, a sip at a time. A tenth of a second's worth is taken at
    once; the small receive buffer lets the server feel it."""

    name = "slow"

    def live(self) -> None:
        profile, spec = state.profile, state.specs[0]
        self.which = 0
        sip = max(1, int(profile.read_rate * READ_TICK))
        self.due = clock() + state.timeout_ns
        sock = self.open()
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 4096)
        self.send(state.requests[0][0])
        self.count("opened")
        reader = ResponseReader(spec.method, spec.expect_status, spec.expect_length)
        verdict = None
        while verdict is None:
            # Each sip has its own time-out: slow is not dead.
            self.due = clock() + state.timeout_ns
            try:
                data = self.sock.recv(sip)
            except BlockingIOError:
                self.wait()
                continue
            verdict = reader.feed(data) if data else reader.eof()
            self.count("bytes", len(data))
            # What lies ready must not wake us while we pause.
            self.quiet()
            gevent.sleep(len(data) / profile.read_rate)
            if state.ended or self.user._state is LOCUST_STATE_STOPPING:
                return
            self.watch()
        self.count(verdict[0] or "answered")
        if verdict[0] is not None:
            gevent.sleep(HOLD_OFF)


def kind_of(error: Exception) -> str:
    if isinstance(error, Overdue):
        return "timeout"
    if isinstance(error, ssl.SSLError):
        return "certificate" if isinstance(error, ssl.SSLCertVerificationError) else "tls"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "reset"
    return "connect"


def fire(ns: int, length: int, which: int = 0) -> None:
    spec = state.specs[which]
    events.request.fire(
        request_type=spec.method,
        name=spec.path,
        context={},
        response_time=ns / 1e6,
        response_length=length,
        exception=None,
    )
