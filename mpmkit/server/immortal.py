"""Immortal objects: objects that children only use stay in the memory shared with their parent.

Using a Python object writes its reference count: after a fork that costs a child the page of 4 KiB around it.
Since 3.12 CPython has objects whose count is never written (PEP 683), recognised by the count itself: its low
32 bits have a value (VALUES) that no real count reaches. From 3.14 on a flag says so, too: without it the
interpreter's stack goes on counting. So writing that number into an object, at its address (`id`), makes
it immortal: by ctypes, since a write to /proc/self/mem takes 1.4 µs, a quarter of a start in all.

**Why that is safe here.** An immortal object is an ordinary one that is never freed. The parent does
this once, before its first fork, without threads. Children end by `os._exit`, and free nothing. What a
list, a dict or an instance contains may still change. What is written is the count of an object that a local
variable holds: the interpreter has just written it itself.

**Excluded.** Objects that are closed with their last reference: any type with a `close` or a `__del__`
(sockets, files, mappings, logs, generators), and TLS contexts. Objects that a restart replaces stay in the
parent, but only those of the first configuration.

**Included.** What can be reached from the modules of this package and of h11, and from the parent's
objects, but not through other modules' functions: argparse, typing and similar modules are most of the
memory. Of those that the rehearsal ran it is their code, and what that names; of all modules, the dict.
Methods of built-in types come from the garbage collector's list.

**Where.** In 64-bit CPython 3.12 to 3.15, after a trial with one object. `ImmortalObjects Off` is for comparison.
"""

from __future__ import annotations

import builtins
import gc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import Field
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

# The first 8 bytes of an immortal object, by version: its count, and from bit 48 its flags. From 3.14 on what the
# stack holds is still uncounted later, and a count below 3 << 30 would count again.
_FLAGGED = 1 << 48 | 3 << 30 | 1 << 20
VALUES = {(3, 12): 0xFFFFFFFF, (3, 13): 0xFFFFFFFF, (3, 14): _FLAGGED, (3, 15): _FLAGGED}
IMMORTAL = 1 << 30  # what `sys.getrefcount` returns for an immortal object is at least this
OURS = ("mpmkit", "h11")
filling: list[Any] = []  # fills gaps (prewarm.py): no one uses it
# What refers to nothing, or to nothing that a request uses; and what no request uses: most by far
# would be the names of files that the finders of modules keep.
_LEAVES = frozenset({str, bytes, int, float, bool, type(None), ModuleType})
_UNUSED = frozenset({FrameType, Field, *map(type, sys.path_importer_cache.values())})
_METHODS = frozenset(map(type, (str.join, str.__add__, len, int.real, dict.fromkeys)))

# What a type has whose objects must be freed: the last is a TLS context's, which holds a private key.
_ENDS = frozenset({"close", "__del__", "session_stats"})


class NoImmortals(Exception):
    """This Python has no immortal objects, or they are not as expected; the text says which."""


def make_immortal(addresses: Iterable[int]) -> str:
    """Make the objects at `addresses` immortal, which are not so yet; returns what the log should say."""
    collecting = gc.isenabled()
    gc.disable()
    count = 0
    try:
        memory, value = trial()
        for address in addresses:
            memory[address >> 3] = value
            count += 1
        return f"{count:,} objects are immortal"
    except (NoImmortals, ImportError) as error:
        return f"no immortal objects: {error}"
    finally:
        if collecting:
            gc.enable()


def trial() -> tuple[Any, int]:
    """This process' memory, as an array of words of 8 bytes, and the word that makes an object immortal, tried
    with one object. Raises NoImmortals, and ImportError where Python was built without ctypes."""
    version = sys.version_info[:2]
    if version not in VALUES or sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        raise NoImmortals(f"not known for {sys.implementation.name} {version[0]}.{version[1]}")
    from _ctypes import _SimpleCData  # without its package, which takes ten times as long

    word: Any = type("word", (_SimpleCData,), {"_type_": "Q"})
    memory = (word * (sys.maxsize >> 3)).from_address(0)
    probe = object()
    at = id(probe) >> 3
    before = memory[at]
    more = [probe] * 7
    if memory[at] != before + len(more) or memory[at] >> 32:
        raise NoImmortals("this build keeps its reference counts elsewhere")
    memory[at] = VALUES[version]
    more *= 7
    del more
    kept = memory[at] == VALUES[version] and sys.getrefcount(probe) >= IMMORTAL
    if not kept or not getattr(sys, "_is_immortal", lambda _: True)(probe):
        raise NoImmortals("this build goes on counting")
    return memory, VALUES[version]


def constants(codes: Iterable[CodeType]) -> Iterator[int]:
    """The addresses of those of `codes`, which have not run: from 3.14 on the first run decides for good whether
    loading a constant counts."""
    return (id(one) for code in codes for one in code.co_consts if sys.getrefcount(one) < IMMORTAL)


def used_by_children(root: Any, ran: Iterable[FunctionType] = ()) -> Iterator[int]:
    """The addresses of what a request may use and is not immortal, `root` and what the functions that `ran` name
    included. Each becomes so before the next is asked for: so leaves, which are most of it, need not be
    remembered, and the parent's memory has fewer gaps afterwards."""
    gc.collect()  # what the warm-up has left
    modules = [one for one in list(sys.modules.values()) if isinstance(one, ModuleType)]
    ours = [vars(one) for one in modules if one.__name__.partition(".")[0] in OURS]
    followed = {id(one) for one in ours}
    named = {id(one): one for space in ours for one in space.values() if type(one) is ModuleType}
    there = [value for one in (*named.values(), builtins) for value in vars(one).values()]
    there += [*ours, root, *(one for one in gc.get_objects() if type(one) in _METHODS)]
    found = {id(vars(one)) for one in modules} - followed
    count, lasting = sys.getrefcount, dict[type, bool]()
    for function in ran:
        known = function.__globals__
        there += [function, function.__code__, *map(known.get, function.__code__.co_names)]
    yield from found
    found.add(id(filling))
    while there:
        parts: list[Any] = []
        others = []
        for one in there:
            kind = type(one)
            if kind in _LEAVES:
                if count(one) < IMMORTAL:
                    yield id(one)
            elif kind not in _UNUSED and (address := id(one)) not in found:
                found.add(address)
                if kind not in lasting:
                    # Not by `hasattr`: it would leave its names in the cache that the rehearsal has filled.
                    lasting[kind] = all(map(_ENDS.isdisjoint, map(vars, kind.__mro__)))
                if lasting[kind] and count(one) < IMMORTAL:
                    yield address
                if kind is CodeType:  # not by the collector; its other names are immortal already
                    parts += (one.co_qualname, *one.co_consts)
                elif kind is not FunctionType:
                    others.append(one)
                elif id(one.__globals__) in followed:  # without texts and annotations
                    parts += one.__code__, one.__defaults__, one.__kwdefaults__, one.__closure__
        there = parts + gc.get_referents(*others)
