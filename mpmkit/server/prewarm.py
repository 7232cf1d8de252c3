"""What the parent does before its first fork, to save memory in its children: it serves itself a few pages, fills
the gaps in its memory, and makes objects immortal.

A forked child shares its parent's memory until one of them writes to it; then the kernel gives the
writer a copy of the page. Code writes a lot in its first few runs: Python specialises its
bytecode, and until then each attribute is looked up by its name, whose reference count is written.
If the parent has done this, the pages are shared.

So a whole child runs here, from its birth to its end, on its own socket, with the sample pages, and leaves
no trace in the scoreboard or a log; those of worker and event with their threads, which end before the
first fork. Each of ROUNDS starts from scratch: the steps that a child does once (its start, the first head,
path and file) have to run as often as the steps of each request. It takes some 20 ms. The first round finds
out which code runs, and that code is copied into adjacent memory (`gather`): using a code object writes to it.

**Immortal objects.** Using a Python object writes its reference count: after a fork that costs a child the
page of 4 KiB around it. Since 3.12 CPython has objects whose count is never written (PEP 683), recognised by
the count itself: its low 32 bits have a value (VALUES) that no real count reaches. So writing that number
into an object, at its address (`id`), makes it immortal: by /proc/self/mem, where a write that is not allowed
is an error and no crash. That is safe here: an immortal object is an ordinary one that is never freed; the
parent does this once, without threads; children end by `os._exit`, and free nothing. What a list, a dict or
an instance contains may still change.

**Excluded.** Objects that are closed with their last reference: any type with a `close` or a `__del__`
(sockets, files, mappings, logs, generators), and TLS contexts. Objects that a restart replaces stay in the
parent, but only those of the first configuration.

**Included.** What can be reached from the modules of this package and of h11, and from the parent's
objects, but not through other modules' functions: argparse, typing and similar modules are most of the
memory. Methods of built-in types come from the garbage collector's list.

**Where.** In 64-bit CPython 3.12 to 3.14, after a trial with one object (run on 3.12 and 3.13; 3.14's number
is from its headers). `ImmortalObjects Off` is for comparison.
"""

from __future__ import annotations

import builtins
import gc
import os
import socket
import sys
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import Directives
from mpmkit.config.keywords import from_keywords
from mpmkit.config.settings import Section, Setting
from mpmkit.policy import maintenance
from mpmkit.server.child import Child, Context
from mpmkit.server.core import Handler, Service
from mpmkit.server.listen import Listener, ListenError, bind, configure
from mpmkit.server.logs import AccessLog, ErrorLog
from mpmkit.server.pod import PipeOfDeath
from mpmkit.server.scoreboard import Scoreboard

# CPython 3.11 specialises a function after 8 runs, later ones sooner. The first round is before the copy.
ROUNDS = 11
# What runs in a child or in its parent, and can't be rehearsed: its code is copied whole.
UNREHEARSED = {f"mpmkit.server.{name}" for name in ("child", "pod", "pool", "scoreboard")}
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
# What is taken over from the server's own directives: what decides which code of this package runs, and
# runs nothing else.
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
LOCKS = 2000  # of 32 bytes each by the C library, whose small gaps Python's own blocks do not fill
TASKS = "/proc/self/task"
MOST_FILLED = 4096  # objects of one size, should the memory not be as described here
_filling: list[Any] = []
_SAMPLES = (Setting("Options", ("+ExecCGI",)), Setting("AddHandler", ("wsgi-script", ".py")))

# The low 32 bits of an immortal object's count, by version.
VALUES = {(3, 12): 0xFFFFFFFF, (3, 13): 0xFFFFFFFF, (3, 14): 3 << 30}
IMMORTAL = 1 << 30  # what `sys.getrefcount` returns for an immortal object is at least this
OURS = ("mpmkit", "h11")
# What refers to nothing, or to nothing that a request uses.
_LEAVES = frozenset({str, bytes, int, float, bool, type(None), ModuleType, FrameType})
_METHODS = frozenset(map(type, (str.join, str.__add__, len, int.real, dict.fromkeys)))

# What a type has whose objects must be freed: the last is a TLS context's, which holds a private key.
_ENDS = ("close", "__del__", "session_stats")


def rehearse(
    directives: Directives, handler: Callable[[Directives, ErrorLog], Handler],
    document_root: str, child_class: type[Child],
) -> None:  # fmt: skip
    """Serve what CLIENTS send, ROUNDS times, from `document_root`, as a `child_class` would.

    `handler` makes the handler of given directives: the defaults with SITE's from `directives`. Nothing
    of the site's own runs: it may have effects, and this process may be root. Without a loopback
    interface nothing is rehearsed. `document_root` is the package's own: its hello.py runs."""
    mpm = directives.mpm
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
                gather(_code_of(partial(_serve, stage, child_class)))
            stage.pod.close()
            for sock in (*clients, listener):
                sock.close()


def fill_gaps() -> None:
    """Take up the gaps in the parent's memory: a child that uses a free block has a copy of its page. With blocks
    of 40 sizes in as many gaps that was a quarter of a child's memory. It costs the parent 0.5 MB, once."""
    gc.collect()  # empties the interpreter's lists of free objects, too
    highest = 0
    for size in LARGE_SIZES:
        rising = 0
        while rising < 2 and len(_filling) < MOST_FILLED:  # until they come from the heap's end
            # `bytes` is by calloc, which takes none of those up to 1032 that malloc keeps for a thread.
            _filling.append(b" " * (size - 33) if size <= 1032 else bytes(size - 33))
            rising = rising + 1 if id(_filling[-1]) > highest else 0
            highest = max(highest, id(_filling[-1]))
    _filling.extend(allocate_lock() for _ in range(LOCKS))
    for number in range(LOCKS):  # 24 bytes each, which are kept; a thread's start takes as many
        os.putenv("_", str(1 << 60 | number))
    os.unsetenv("_")
    makers = [object, lambda: 1 << 40 | len(_filling)]  # of 16 and 32 bytes
    makers += [partial(bytes, size - sys.getsizeof(b"")) for size in SIZES]
    for make in makers:
        for _ in range(MOST_FILLED):
            _filling.append(make())
            if id(_filling[-1]) % POOL == POOL_HEADER:  # the first of its pool: no other has room
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


def gather(ran: set[int]) -> None:
    """Copy the code of functions that have run, so that it lies side by side: its count and inline caches are
    written where it runs. It takes 0.1 MB of the parent."""
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


def _serve(stage: Context, child_class: type[Child]) -> None:
    """What CLIENTS have sent, one after the other; then what the parent does once a second."""
    directives = stage.directives
    cpus, threads = os.sched_getaffinity(0), len(os.listdir(TASKS))
    child_class(stage, 0).child_main()
    os.sched_setaffinity(0, cpus)  # a child with threads chooses one
    until = time.monotonic() + 1.0
    while len(os.listdir(TASKS)) > threads and time.monotonic() < until:
        time.sleep(0.0001)  # they have run, and the system has yet to end them: a fork comes next
    memory = maintenance.Memory()
    seen = maintenance.look(stage.board.rows(maintenance.MAX_SPAWN_RATE), directives, memory)
    maintenance.plan(seen, directives, memory)


class NoImmortals(Exception):
    """This Python has no immortal objects, or they are not as expected; the text says which."""


def make_immortal(root: Any) -> str:
    """Make immortal what children will use, `root` included; returns what the log should say."""
    collecting = gc.isenabled()
    gc.disable()
    count = 0
    try:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            value = trial(memory.fileno())
            gc.collect()  # what the warm-up has left
            for address in _addresses(root):
                os.pwrite(memory.fileno(), value, address)
                count += 1
        return f"{count:,} objects are immortal"
    except NoImmortals as error:
        return f"no immortal objects: {error}"
    except OSError as error:
        done = f"{count:,} objects are immortal, no more" if count else "no immortal objects"
        return f"{done}: /proc/self/mem: {error.strerror}"
    finally:
        if collecting:
            gc.enable()


def trial(memory: int) -> bytes:
    """The bytes that make an object immortal, tried with one object. Raises NoImmortals, OSError."""
    version = sys.version_info[:2]
    if version not in VALUES or sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        raise NoImmortals(f"not known for {sys.implementation.name} {version[0]}.{version[1]}")
    value = VALUES[version].to_bytes(4, "little")
    probe = object()
    before = os.pread(memory, 4, id(probe))
    more = [probe] * 7
    after = os.pread(memory, 4, id(probe))
    if int.from_bytes(after, "little") - int.from_bytes(before, "little") != len(more):
        raise NoImmortals("this build keeps its reference counts elsewhere")
    os.pwrite(memory, value, id(probe))
    more *= 7
    kept = os.pread(memory, 4, id(probe)) == value and sys.getrefcount(probe) >= IMMORTAL
    if not kept or not getattr(sys, "_is_immortal", lambda _: True)(probe):
        raise NoImmortals("this build goes on counting")
    return value


def _addresses(root: Any) -> Iterator[int]:
    """Of what a request may use and is not immortal. Each becomes so before the next is asked for: so leaves,
    which are most of it, need not be remembered, and the parent's memory has fewer gaps afterwards."""
    modules = [one for one in list(sys.modules.values()) if isinstance(one, ModuleType)]
    ours = [one for one in modules if one.__name__.partition(".")[0] in OURS]
    foreign = {id(vars(one)) for one in modules} - {id(vars(one)) for one in ours}
    # But for what fills prewarm's gaps: no one uses it.
    named_values = (item for one in ours for item in vars(one).items())
    fresh = _by_address(value for name, value in named_values if name != "_filling")
    named = [one for one in (*fresh.values(), builtins) if type(one) is ModuleType]
    fresh |= _by_address(value for one in named for value in vars(one).values())
    fresh |= _by_address(one for one in gc.get_objects() if type(one) in _METHODS)
    fresh[id(root)] = root
    found, count, lasting = set(foreign), sys.getrefcount, {FrameType: False}
    while fresh:
        followed = []
        for address, one in fresh.items():
            kind = type(one)
            if kind not in lasting:
                lasting[kind] = not any(hasattr(kind, name) for name in _ENDS)
            if lasting[kind] and count(one) < IMMORTAL:
                yield address
            if kind not in _LEAVES:
                found.add(address)
                if kind is not FunctionType or id(one.__globals__) not in foreign:
                    followed.append(one)
        there = gc.get_referents(*followed)
        for one in followed:
            if type(one) is CodeType:  # the collector does not look into these
                there += one.co_consts, one.co_names, one.co_name, one.co_qualname
        fresh = _by_address(
            one
            for one in there
            if id(one) not in found and (type(one) not in _LEAVES or count(one) < IMMORTAL)
        )


def _by_address(objects: Iterable[Any]) -> dict[int, Any]:
    return {id(one): one for one in objects}
