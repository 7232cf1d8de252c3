"""Before the first fork, the server serves itself a few pages, to save memory in its children.

A forked child shares its parent's memory until one of them writes to it. Code writes a lot in its first few
runs: Python specialises its bytecode, and until then each attribute is looked up by its name, whose reference
count is written. If the parent has done this, the pages stay shared.

So a whole child runs here, from its birth to its end, on its own socket, with the sample pages, and leaves
no trace in the scoreboard or a log. Each of ROUNDS starts from scratch: the steps that a child does once (its
start, the first head, path and file) have to run as often as the steps of each request. It takes some 20 ms. The
first round finds out which code runs, and that code is copied into adjacent memory (`gather`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import Directives
from mpmkit.config.keywords import from_keywords
from mpmkit.config.settings import Section, Setting
from mpmkit.policy import maintenance
from mpmkit.server.child import PARENTS_SIGNALS, Child, Context, PipeOfDeath, begin, takes_turns
from mpmkit.server.core import Handler, Service
from mpmkit.server.immortal import OURS, constants, filling, make_immortal
from mpmkit.server.listen import Listener, ListenError, bind, configure
from mpmkit.server.logs import AccessLog, ErrorLog
from mpmkit.server.scoreboard import Scoreboard

# CPython 3.11 specialises a function after 8 runs, later ones sooner. The first round is before the copy.
ROUNDS = 11
# What runs in a child or in its parent, and is not all rehearsed: its code is copied whole.
UNREHEARSED = {f"mpmkit.server.{name}" for name in ("child", "pool", "scoreboard")}
# What the clients of a round send, each in one piece. %d is the round's number: a head not seen before.
CLIENTS = (
    b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    + b"GET /hello.py HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    + b"GET /missing/%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    + b"GET /index.html?%d HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
    + b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: %b\r\n\r\n" % (b"x" * 7817)
    + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",  # it comes in two pieces: a read takes 8192 bytes
    b"GET / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: rehearsal/%d\r\n\r\n",
)
# What is taken over from the server's own directives: what decides which code of this package runs, and no more.
SITE = (
    "Timeout", "KeepAlive", "KeepAliveTimeout", "MaxKeepAliveRequests", "RequestReadTimeout",
    "LimitRequestLine", "LimitRequestFieldSize", "LimitRequestFields", "HttpProtocolOptions",
    "EnableSendfile", "EnableMMAP", "FileETag", "FlushMaxThreshold", "LogLevel", "LogFormat",
    "ExtendedStatus", "ServerTokens", "types",
)  # fmt: skip

# CPython's allocator of small objects (obmalloc.c): pools of 16 KiB behind a header of 48 bytes, each for
# one size, a multiple of 16 up to 512. Larger blocks are the C library's.
POOL, POOL_HEADER, SIZES = 1 << 14, 48, range(48, 513, 16)
LARGE_SIZES = (131008, 32768, 16384, 8192, 4096, 2048, 1536, *range(1032, 512, -16))
# Bytes by the C library: it keeps up to 16 free blocks of each size for a thread, and its small gaps are not
# filled by Python's own blocks. A thread's start takes blocks of 72, 56, 40 and 24, and some of hundreds.
SMALL, EACH = range(504, 23, -16), 17
TASKS = "/proc/self/task"
ROW = 8  # blocks in a row that only a new pool gives away
MOST_FILLED = 1 << 18  # bytes in blocks of one size, should the memory not be as described here
rehearsed: list[FunctionType] = []  # those of other modules whose code was gathered
_SAMPLES = (Setting("Options", ("+ExecCGI",)), Setting("AddHandler", ("wsgi-script", ".py")))


def rehearse(
    directives: Directives, handler: Callable[[Directives, ErrorLog], Handler],
    document_root: str, child_class: type[Child],
) -> None:  # fmt: skip
    """Serve what CLIENTS send, ROUNDS times, from `document_root`, the package's own, as a `child_class` would.

    `handler` makes the handler of given directives: the defaults with SITE's from `directives`. Nothing of the
    site's own runs, as this process may be root; without a loopback interface nothing at all."""
    mpm = directives.mpm
    if directives.threaded and takes_turns() and "MALLOC_ARENA_MAX" not in os.environ:
        one_arena()
    own: Any = {name: getattr(directives, name) for name in SITE}
    own |= dict.fromkeys(("ServerLimit", "ThreadLimit", "ThreadsPerChild"), 1)
    plain = replace(
        check(mpm, from_keywords(mpm, Listen="127.0.0.1:1"))[0],
        **own,
        DocumentRoot=document_root,
        # What decides about sections runs, too: one for each request, one for none.
        sections=(
            Section("Directory", document_root, _SAMPLES),
            Section("Location", "/rehearsal", (Setting("Require", ("local",)),)),
        ),
        ScoreBoardFile=None,
        # The child ends with the last client. worker counts a connection at its end, and takes one more.
        MaxConnectionsPerChild={"prefork": 0, "worker": len(CLIENTS) - 1}.get(mpm, len(CLIENTS)),
        CustomLog=tuple((os.devnull, *rest) for _, *rest in directives.CustomLog),
    )
    null = open(os.devnull, "wb", 0)
    with suppress(ListenError), null, closing(Scoreboard(plain)) as board, ExitStack() as logs:
        access = AccessLog(plain, logs) if plain.CustomLog else None
        errors = ErrorLog(null.fileno(), directives.LogLevel)
        for number in range(ROUNDS):
            listener = bind("127.0.0.1", 0)
            configure(listener, plain)
            service = Service(plain, handler(plain, errors), access, errors)
            stage = Context(service, [listener], board, PipeOfDeath())
            clients = [_client(listener, sent, number) for sent in CLIENTS]
            if not plain.threaded:
                stage.pod.retire_one()  # prefork's child leaves when no client waits any more
            if number:
                _serve(stage, child_class)
            else:
                copies = gather(_code_of(partial(_serve, stage, child_class)))
                if directives.ImmortalObjects:
                    make_immortal(constants(copies))
            stage.pod.close()
            for sock in (*clients, listener):
                sock.close()


def one_arena() -> None:
    """Let malloc serve all threads from its heap (mallopt(3): M_ARENA_MAX is -8). Else it makes places of their
    own for most threads, and each touches two pages there; threads that take turns do not need them."""
    with suppress(ImportError, OSError):  # another C library has no mallopt
        from _ctypes import FUNCFLAG_CDECL, CFuncPtr, dlopen, dlsym  # a fraction of ctypes

        function = type("Mallopt", (CFuncPtr,), {"_flags_": FUNCFLAG_CDECL})
        function(dlsym(dlopen("", os.RTLD_NOW), "mallopt"))(-8, 1)


def fill_gaps() -> None:
    """Take up the gaps in the parent's memory: a child that uses a free block has a copy of its page, which was a
    quarter of its memory. It costs the parent 0.5 MB, once."""
    gc.freeze()
    gc.collect()  # empties the lists of free objects; there is nothing else to collect
    gc.unfreeze()
    highest = 0
    for size in LARGE_SIZES:
        last = 0
        for _ in range(max(MOST_FILLED // size, 8)):
            # `bytes` is by calloc, which takes none of those up to 1032 that malloc keeps for a thread.
            filling.append(b" " * (size - 33) if size <= 1032 else bytes(size - 33))
            here = id(filling[-1])
            if here > highest and here - last == (size + 23) & -16:  # in a row, from the heap's end
                break
            last = here
            if size > 1032:  # a smaller one may be another thread's, from elsewhere
                highest = max(highest, here)
    for size in sorted((*SMALL,) * EACH, reverse=True):
        # A new value, which is kept, with "_=" and its end.
        os.putenv("_", f"{time.monotonic_ns():0{size - 3}}")
    os.unsetenv("_")
    makers = {16: object, 32: lambda: 1 << 40 | len(filling)}
    for size in (*makers, *SIZES):
        make = makers.get(size) or partial(bytes, size - sys.getsizeof(b""))
        filling.append(make)  # or it would leave a gap
        row = 0
        for _ in range(MOST_FILLED // size):
            filling.append(make())
            place = id(filling[-1]) % POOL - POOL_HEADER
            row = row + 1 if place == row * size else place == 0
            if row == ROW:  # the first of a new pool: no other has room
                break


def _client(listener: Listener, sent: bytes, number: int) -> socket.socket:
    """A client that has sent all it will send: the kernel keeps it until it is due."""
    # Not `create_connection`: it looks names up, which loads tables of all characters.
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    client.sendall(sent.replace(b"%d", b"%d" % number))
    client.shutdown(socket.SHUT_WR)
    return client


def _code_of(run: Callable[[], None]) -> set[int]:
    """The addresses of the code objects that it executes."""
    ran: dict[int, CodeType] = {}  # by address: equal code objects are not the same
    before = sys.getprofile()
    sys.setprofile(lambda frame, *_: ran.setdefault(id(frame.f_code), frame.f_code))
    try:
        run()
    finally:
        sys.setprofile(before)
    return set(ran)


def gather(ran: set[int]) -> Iterable[CodeType]:
    """Copy the code of functions that have run, so that it lies side by side: its count and inline caches are
    written where it runs. It takes 0.1 MB of the parent. Returns the copies."""
    every = ((one, one.__code__) for one in gc.get_objects() if type(one) is FunctionType)
    # With the old code, whose place a copy must not take.
    found = [pair for pair in every if id(pair[1]) in ran or pair[0].__module__ in UNREHEARSED]
    texts = {id(code): code.co_code for _, code in found}  # not to lie between the copies
    fill_gaps()  # nor the copies in the gaps
    copies: dict[int, CodeType] = {}

    def copy(code: CodeType) -> CodeType:
        if id(code) not in copies:
            inner = (copy(one) if id(one) in ran else one for one in code.co_consts)
            text = texts.get(id(code)) or code.co_code
            # The last instruction again, never run: small copies would be in a pool for each size.
            text += text[-2:] * max(0, (SIZES.stop + 8 - sys.getsizeof(code)) // 2 + 1)
            copies[id(code)] = code.replace(co_code=text, co_consts=tuple(inner))
        return copies[id(code)]

    for function, code in found:
        function.__code__ = copy(code)
    rehearsed.extend(one for one, _ in found if not str(one.__module__).startswith(OURS))
    return copies.values()


def _serve(stage: Context, child_class: type[Child]) -> None:
    """What CLIENTS have sent, one after the other; then what the parent does once a second."""
    directives = stage.directives
    _begin()
    cpus, threads = os.sched_getaffinity(0), len(os.listdir(TASKS))
    child_class(stage, 0).child_main()
    os.sched_setaffinity(0, cpus)  # a child with threads chooses one
    threading: Any = sys.modules.get("threading")
    if threading and threading.active_count() == 1:  # what each fork runs; it changes nothing here
        getattr(threading, "_after_fork", int)()
    until = time.monotonic() + 1.0
    while len(os.listdir(TASKS)) > threads and time.monotonic() < until:
        time.sleep(0.0001)  # they have run, and the system has yet to end them: a fork comes next
    memory = maintenance.Memory()
    seen = maintenance.look(stage.board.rows(maintenance.MAX_SPAWN_RATE), directives, memory)
    maintenance.plan(seen, directives, memory)


def _begin() -> None:
    """A child's first steps, and what takes them back in this process."""
    signals = {number: _signal.getsignal(number) for number in (_signal.SIGTERM, *PARENTS_SIGNALS)}
    if None in signals.values():  # a handler that Python does not know
        return
    mask, policy = _signal.pthread_sigmask(_signal.SIG_BLOCK, ()), os.sched_getscheduler(0)
    reading, writing = os.pipe()
    with closing(PipeOfDeath()) as pod:
        os.close(begin(pod, (reading, os.dup(writing))))
    os.close(writing)  # not before the other: its end of file would be a SIGTERM
    for number, handler in signals.items():
        _signal.signal(number, handler)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    if policy == os.SCHED_OTHER:
        os.sched_setscheduler(0, policy, os.sched_param(0))
