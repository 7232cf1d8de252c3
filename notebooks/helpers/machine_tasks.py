"""E7: directives for a machine of 1 GB, proved on a running server.

    need = machine_tasks.threads("ada")
    print(need)
    need.check({"mpm": "event", "MaxRequestWorkers": 50, ...})

The check starts the server, makes every worker busy and measures its memory (PSS), then lets browsers come and
asks as a newcomer. It goes up in steps, and stops as soon as the machine's share is passed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from helpers import checks, misbehaving_clients
from helpers.checks import NotYet
from helpers.counter_tasks import OK, SCRIPTS, folder
from helpers.tasks import Task, dice

import mpmkit
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS
from mpmkit.config.keywords import from_keywords
from mpmkit.launcher import LaunchError
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure import memory

RAM = 1024  # MiB
MAY_TAKE = 0.8 * RAM  # the rest is the kernel's and the page cache's
PATIENCE = 12.0  # seconds until all workers are busy
AT_ONCE = 1.0  # seconds that a newcomer may wait
CACHE = f"""import os, time

KEPT = bytearray(b"x") * ({{mib}} << 20)      # a framework and its cache, in each process

def application(environ, start_response):
    while not os.path.exists(os.path.join(os.path.dirname(environ["SCRIPT_FILENAME"]), "go")):
        time.sleep(0.05)
    body = b"done"
    {OK}
    return [body]
"""


class Need(NamedTuple):
    """What the site is. cache: MiB in each process. busy: requests at the same time. browsers: clients who
    have loaded a page, and look at it."""

    cache: int
    busy: int
    browsers: int


def _shape(answer: Any, mpms: tuple[str, ...], need: Need) -> tuple[str, dict[str, Any], int]:
    """(MPM, directives, the most processes) of an answer that may be tried. Raises NotYet."""
    if not isinstance(answer, Mapping) or "mpm" not in answer:
        raise checks.asked_for('a dict, {"mpm": "event", "MaxRequestWorkers": ...},', answer)
    given = {name: value for name, value in answer.items() if name != "mpm"}
    if ... in given.values():
        raise NotYet("there is still a ... among the directives")
    mpm = checks.one_word_of(answer["mpm"], mpms, "mpm:")
    read, notes = check(mpm, from_keywords(mpm, **given))
    if notes:
        raise NotYet(f"the server would correct this: {notes[0].text}")
    if read.MaxRequestWorkers < need.busy:
        raise NotYet(f"MaxRequestWorkers {read.MaxRequestWorkers}: {need.busy} requests at once")
    each = 1 if mpm == "prefork" else read.ThreadsPerChild
    most = -(-read.MaxRequestWorkers // each)
    if most * need.cache > RAM:
        raise NotYet(
            f"{most} processes would keep {most * need.cache:,} MiB of caches alone, on a machine of "
            f"{RAM:,}: this is not tried"
        )
    return mpm, given, read.MaxRequestWorkers


def _room() -> None:
    """Raises NotYet where a proof might take memory that this machine does not have."""
    with open("/proc/meminfo") as file:
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in file)}
    if kib["MemAvailable"] / 1024 < 1.25 * RAM:
        raise NotYet(
            f"{kib['MemAvailable'] / 1024:,.0f} MiB are free here, and the proof may take {RAM:,}: run it "
            "on another machine"
        )


def _fits(answer: Any, mpms: tuple[str, ...], need: Need) -> str:
    """Start the answer's server, make every worker busy, measure; then let the browsers come."""
    mpm, given, workers = _shape(answer, mpms, need)
    _room()
    with folder(script=CACHE.format(mib=need.cache)) as root:
        try:
            server = mpmkit.launch(mpm, document_root=root, directives=SCRIPTS, **given)
        except LaunchError as error:
            raise NotYet(f"the server does not start: {error}") from None
        with server:
            used = _filled(server, workers)
            (root / "go").touch()
            waited = _newcomer(server, need.browsers)
    if waited > AT_ONCE:
        raise NotYet(
            f"{used:,.0f} MiB fit, but with {need.browsers} browsers that look at their page a newcomer waits "
            f"{waited:.1f} s"
        )
    return (
        f"{workers} busy workers take {used:,.0f} MiB of {MAY_TAKE:,.0f}, and a newcomer among "
        f"{need.browsers} browsers waits {1000 * waited:.0f} ms"
    )


def _filled(server: Any, workers: int) -> float:
    """MiB of the server when every worker is busy. Raises NotYet as soon as it is more than the machine may
    give, or if the workers do not all get busy."""
    used = _mib(server)
    with KeepAliveClients(server.url, path="/script.py") as clients:
        until = time.monotonic() + PATIENCE
        while (busy := server.scoreboard().count("W")) < workers:
            if time.monotonic() > until:
                raise NotYet(
                    f"{busy} of {workers} workers were busy after {PATIENCE:g} s: does the pool grow as far?"
                )
            clients.resize(min(workers, busy + 8))  # in steps: a limit that is passed is noticed
            time.sleep(0.1)
            used = _mib(server)
        # A worker is busy before its cache is there: wait until the memory has come to rest.
        before = 0.0
        while used > 1.002 * before:
            before = used
            time.sleep(0.4)
            used = _mib(server)
        return used


def _mib(server: Any) -> float:
    used = float(memory.memory_of(server)["pss"].sum()) / 1024
    if used > MAY_TAKE:
        raise NotYet(
            f"{used:,.0f} MiB are in use and the workers are not all busy yet, or just are: the server may "
            f"take {MAY_TAKE:,.0f}"
        )
    return used


def _newcomer(server: Any, browsers: int) -> float:
    """Seconds that a newcomer waits when so many browsers have come."""
    with KeepAliveClients(server.url, browsers) as crowd:
        until = time.monotonic() + 3
        while crowd.answered < browsers and time.monotonic() < until:
            time.sleep(0.05)
        return misbehaving_clients.ask(server.url, patience=5)["first_byte_s"]


def _machine(name: str, student: str, mpms: tuple[str, ...], need: Need, why: str) -> Task:
    text = (
        f"A machine of {RAM:,} MiB, of which a fifth stays free. {why} Each process keeps {need.cache} MiB "
        f"(a framework and its cache). {need.busy} requests run at the same time, {need.browsers} browsers have "
        f"loaded a page and look at it, and a newcomer waits at most {AT_ONCE:g} s. Choose the directives. The "
        "check makes every worker busy and measures."
    )
    return Task(name, text, need, lambda answer: _fits(answer, mpms, need))


def threads(student: str) -> Task:
    """Directives for code that is thread-safe."""
    roll = dice("threads", student)
    need = Need(8 * roll.randint(8, 12), 5 * roll.randint(5, 8), 10 * roll.randint(10, 15))
    return _machine("threads", student, MPMS, need, "The code is thread-safe.")


def processes(student: str) -> Task:
    """Directives for code that is not thread-safe."""
    roll = dice("processes", student)
    need = Need(4 * roll.randint(8, 10), roll.randint(10, 14), 5 * roll.randint(8, 12))
    return _machine(
        "processes", student, ("prefork",), need, "The code is not thread-safe: prefork."
    )
