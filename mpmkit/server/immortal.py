"""Immortal objects: objects that children only use stay in the memory shared with their parent.

Using a Python object writes its reference count: after a fork that costs a child the page of 4 KiB around it.
Since 3.12 CPython has objects whose count is never written (PEP 683), recognised by the count itself: its low
32 bits have a value (VALUES) that no real count reaches. From 3.14 on a flag says so, too: without it the
interpreter's stack goes on counting. So writing that number into an object, at its address (`id`), makes
it immortal: by /proc/self/mem, where a write that is not allowed is an error and no crash.

**Why that is safe here.** An immortal object is an ordinary one that is never freed. The parent does
this once, before its first fork, without threads. Children end by `os._exit`, and free nothing. What a
list, a dict or an instance contains may still change.

**Excluded.** Objects that are closed with their last reference: any type with a `close` or a `__del__`
(sockets, files, mappings, logs, generators), and TLS contexts. Objects that a restart replaces stay in the
parent, but only those of the first configuration.

**Included.** What can be reached from the modules of this package and of h11, and from the parent's
objects, but not through other modules' functions: argparse, typing and similar modules are most of the
memory. Methods of built-in types come from the garbage collector's list.

**Where.** In 64-bit CPython 3.12 to 3.15, after a trial with one object. `ImmortalObjects Off` is for comparison.
"""

from __future__ import annotations

import builtins
import gc
import os
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

# The first 8 bytes of an immortal object, by version: its count, and from bit 48 its flags.
_FLAGGED = 1 << 48 | 3 << 30
VALUES = {(3, 12): 0xFFFFFFFF, (3, 13): 0xFFFFFFFF, (3, 14): _FLAGGED, (3, 15): _FLAGGED}
IMMORTAL = 1 << 30  # what `sys.getrefcount` returns for an immortal object is at least this
OURS = ("mpmkit", "h11")
# What refers to nothing, or to nothing that a request uses.
_LEAVES = frozenset({str, bytes, int, float, bool, type(None), ModuleType, FrameType})
_METHODS = frozenset(map(type, (str.join, str.__add__, len, int.real, dict.fromkeys)))

# What a type has whose objects must be freed: the last is a TLS context's, which holds a private key.
_ENDS = ("close", "__del__", "session_stats")


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
    value = VALUES[version].to_bytes(8, "little")
    probe = object()
    before = os.pread(memory, 8, id(probe))
    more = [probe] * 7
    after = int.from_bytes(os.pread(memory, 8, id(probe)), "little")
    if after != int.from_bytes(before, "little") + len(more) or after >> 32:
        raise NoImmortals("this build keeps its reference counts elsewhere")
    os.pwrite(memory, value, id(probe))
    more *= 7
    del more
    kept = os.pread(memory, 8, id(probe)) == value and sys.getrefcount(probe) >= IMMORTAL
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
