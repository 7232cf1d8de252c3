"""Answers to exercises, looked at: right or not, why in words, and where to look next.

    checks.forks([1, 2, 4, 8, 16, 32])

Each check takes one answer, gives a `Verdict` and never raises: whatever a reader types gets a
sentence. What is right is computed by the code that the servers run (`maintenance`, `admission`,
`checks.check`), or tried on the reader's own server; nothing is looked up in a list of answers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from mpmkit.config.checks import check
from mpmkit.config.directives import Directives
from mpmkit.config.keywords import from_keywords
from mpmkit.launcher import Server
from mpmkit.policy import admission
from mpmkit.policy.simulator import simulate

PATIENCE = 6.0  # seconds that a live check waits for a pool to grow and its clients to be served

# The situations that the exercises ask about; their texts name the same numbers.
FORKS: dict[str, Any] = {
    "StartServers": 5,
    "MinSpareServers": 5,
    "MaxSpareServers": 10,
    "MaxRequestWorkers": 256,
}
CLIENTS = 40
LIMITED = {"MaxRequestWorkers": 1000, "ServerLimit": 16, "ThreadsPerChild": 25}
ADMITS = {"threads_per_child": 8, "idle": 3, "factor": 2.0}
SCOREBOARDS = {
    "RRRRRRRR": "RequestReadTimeout",
    "KKKKKKKK": "KeepAliveTimeout",
    "GGGGGGGG": "ServerLimit",
}


class Verdict(NamedTuple):
    """What a check says. True if the answer is right."""

    right: bool
    says: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"{'RIGHT' if self.right else 'NOT YET'}: {self.says}",
                *([f"Look at: {self.hint}"] if self.hint else []),
            ]
        )


def _check(look: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """A check that says so of an answer not given yet, and tells of an error instead of raising it."""

    @wraps(look)
    def safe(answer: Any) -> Verdict:
        if answer is ... or answer is None:
            return _no("there is no answer yet: put yours in the place of the ...")
        try:
            return look(answer)
        except Exception as error:
            return _no(
                f"your answer could not be tried: {type(error).__name__}: {error}",
                "the cell of the answer; run it again from the top",
            )

    return safe


def _no(says: str, hint: str = "") -> Verdict:
    return Verdict(False, says, hint)


def _number(answer: Any, unit: str) -> Verdict | None:
    """A verdict if the answer is not a finite number."""
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
        return _no(f"a number of {unit} is asked for, not {_shown(answer)}")
    if not math.isfinite(answer):
        return _no(f"{answer} is not a number of {unit}")
    return _no(f"a number of {unit} can't be below 0") if answer < 0 else None


def _shown(answer: Any) -> str:
    text = repr(answer)
    return f"{text[:40]}{'…' * (len(text) > 40)} ({type(answer).__name__})"


# ---------------------------------------------------------------- prefork and worker


@_check
def forks(answer: Any) -> Verdict:
    """How many children prefork's parent forks, second by second (a list), until there are enough."""
    if not isinstance(answer, (list, tuple)) or not all(type(n) is int for n in answer):
        return _no(f"a list of whole numbers is asked for, one a second, not {_shown(answer)}")
    run = simulate("prefork", busy=CLIENTS, seconds=12, **FORKS)
    true = [second.spawned for second in run if second.t and second.spawned]
    where = 'the figure "The pool breathes" in 01, and MinSpareServers'
    if list(answer) == true:
        return Verdict(
            True,
            "the rate doubles each second in which too few children are idle, up to 32 "
            "a second, and the parent stops when MinSpareServers are idle",
        )
    if list(answer[:1]) == [FORKS["StartServers"]]:
        return _no(
            "the StartServers were forked before the first client came; begin with the first "
            "second that follows",
            where,
        )
    if len(set(answer)) == 1 and len(answer) > 1:
        return _no(
            "the same number each second: the parent ends children one a second, but it forks "
            "faster the longer there are too few",
            where,
        )
    for second, (yours, its) in enumerate(zip(answer, true, strict=False), 1):
        if yours != its:
            return _no(
                f"in second {second} the parent forks {its}, you say {yours}: the rate is twice "
                "that of the second before",
                where,
            )
    if len(answer) < len(true):
        return _no(
            f"right so far, but after {len(answer)} seconds there are "
            f"{FORKS['StartServers'] + sum(answer)} children for {CLIENTS} clients, and "
            f"{FORKS['MinSpareServers']} shall be idle",
            where,
        )
    return _no(
        f"the parent stops after {len(true)} seconds: it has "
        f"{FORKS['StartServers'] + sum(true)} children, which is enough",
        where,
    )


@_check
def full_house(answer: Any) -> Verdict:
    """What a client sees when all workers are busy: "503", "refused", "reset" or "waits"."""
    where = 'the listen queue in 01, "When processes run out", and ListenBacklog'
    why = {
        "503": "no: no worker is free to say 503. A status is an answer, and an answer takes a worker",
        "refused": "no: the kernel completes the connection as long as the listen queue has room",
        "reset": "no: a reset would end the connection, and the kernel has just completed it",
    }
    if not isinstance(answer, (str, int)) or isinstance(answer, bool):
        return _no(f"one of the four words is asked for, not {_shown(answer)}")
    word = str(answer).strip().lower()
    if word == "waits":
        return Verdict(
            True,
            "it is connected, sits in the listen queue, and is served when a worker is "
            "free; the error log says AH00161 (prefork) once",
        )
    return _no(why.get(word, f"{_shown(answer)} is not one of 503, refused, reset, waits"), where)


@_check
def real_limit(answer: Any) -> Verdict:
    """How many connections worker serves at once with LIMITED."""
    if (bad := _number(answer, "connections")) is not None:
        return bad
    read, notes = check("worker", from_keywords("worker", **LIMITED))
    true = min(read.MaxRequestWorkers, read.ServerLimit * read.ThreadsPerChild)
    warned = next((note for note in notes if note.ah == "AH00318"), None)
    where = "ServerLimit, ThreadsPerChild, and the warnings at the start (mpmkit -t)"
    if answer == true:
        return Verdict(
            True,
            f"{read.ServerLimit} processes of {read.ThreadsPerChild} threads"
            + (f"; the server warns, {warned.ah}: {warned.text}" if warned else ""),
        )
    if answer == read.MaxRequestWorkers:
        return _no(
            "that is what was asked for, but threads live in processes, and there can't be as "
            "many processes as that takes",
            where,
        )
    if answer == read.ServerLimit:
        return _no("so many processes; each of them has several threads", where)
    if answer == read.ThreadsPerChild:
        return _no("so many threads has one process; there are several", where)
    return _no(
        f"{answer:g} is too {'many' if answer > true else 'few'}: how many processes may there be, "
        "and how many threads has each?",
        where,
    )


def _held(server: Any, mpm: str, count: int, hint: str) -> Verdict | int:
    """How many of `count` kept-alive clients the reader's server serves at the same time."""
    from mpmkit.lab.clients import KeepAliveClients
    from mpmkit.measure.monitor import Watch

    if not isinstance(server, Server):
        return _no(
            f'a server is asked for, what mpmkit.launch("{mpm}", ...) returns, not {_shown(server)}'
        )
    if not server.running:
        return _no(
            "this server has ended; launch it again, and check while it runs (not after its "
            "with block)"
        )
    if server.mpm != mpm:
        return _no(f"this is {server.mpm}; the exercise is about {mpm}", hint)
    import time

    with Watch(server, every=0.1), KeepAliveClients(server.url, count) as crowd:
        until = time.monotonic() + PATIENCE
        served = 0
        while served < count and time.monotonic() < until:
            time.sleep(0.05)
            served += len(crowd.take())
    return min(served, count)


def _read(server: Server) -> Directives:
    """What the directives that the server was launched with by name come to, defaults included."""
    return check(server.mpm, from_keywords(server.mpm, **server.directives))[0]


def _keeps(server: Server) -> Verdict | None:
    """A verdict if connections are closed during a live check, which would make room for others."""
    if not _read(server).KeepAlive:
        return _no(
            "KeepAlive is off, so no client keeps its connection; the exercise wants it on",
            "KeepAlive",
        )
    if _read(server).KeepAliveTimeout < 10:
        return _no(
            f"KeepAliveTimeout is {_read(server).KeepAliveTimeout:g} s: clients are sent away "
            "to make room, and not served at the same time; set it to 10 or more",
            "KeepAliveTimeout",
        )
    return None


@_check
def twenty_at_once(server: Any) -> Verdict:
    """A prefork server that serves twenty clients at once though each keeps its connection."""
    where = "MaxRequestWorkers (and ServerLimit, its ceiling under prefork), and the queue in 01"
    served = _held(server, "prefork", 20, where)
    if isinstance(served, Verdict):
        return served
    if (bad := _keeps(server)) is not None:
        return bad
    if served == 20:
        return Verdict(True, "twenty clients, twenty processes in K, and the listen queue is empty")
    return _no(
        f"{served} of 20 were served within {PATIENCE:g} s, the others wait in the listen queue: "
        f"there are {_read(server).MaxRequestWorkers} processes at most, and each keeps one "
        "client",
        where,
    )


# ---------------------------------------------------------------- event


@_check
def admits(answer: Any) -> Verdict:
    """At how many connections one child of event stops accepting, with ADMITS."""
    if (bad := _number(answer, "connections")) is not None:
        return bad
    threads, idle, factor = ADMITS["threads_per_child"], ADMITS["idle"], int(ADMITS["factor"])
    true = admission.connection_limit(int(idle), int(threads), factor)
    where = "AsyncRequestWorkerFactor, and connections_above_limit in 03"
    if answer == true:
        return Verdict(True, f"{threads:g} threads + {factor} for each of {idle:g} idle ones")
    if answer == threads * (1 + factor):
        return _no("that is with all threads idle; count only those that are idle now", where)
    if answer == idle * factor:
        return _no(
            "those are the connections beyond the threads; ThreadsPerChild comes in addition", where
        )
    if answer == threads:
        return _no(
            "that is worker, where a connection is a thread; event takes more for each idle thread",
            where,
        )
    return _no(
        f"{answer:g} is too {'many' if answer > true else 'few'}: ThreadsPerChild, and how many "
        "for each idle thread?",
        where,
    )


@_check
def eighty_in_eight(server: Any) -> Verdict:
    """An event server of eight threads at most that holds eighty kept-alive connections."""
    where = 'AsyncRequestWorkerFactor, and "Many connections, few threads" in 03'
    if isinstance(server, Server) and server.mpm == "event" and _read(server).MaxRequestWorkers > 8:
        return _no(
            f"MaxRequestWorkers is {_read(server).MaxRequestWorkers}: eight threads have to do",
            "MaxRequestWorkers and ThreadsPerChild",
        )
    served = _held(server, "event", 80, where)
    if isinstance(served, Verdict):
        return served
    if (bad := _keeps(server)) is not None:
        return bad
    if served == 80:
        return Verdict(
            True, "eighty connections are held by the listener, and the threads are free"
        )
    return _no(
        f"{served} of 80 were served within {PATIENCE:g} s: with AsyncRequestWorkerFactor "
        f"{_read(server).AsyncRequestWorkerFactor:g} a child takes no more",
        where,
    )


# ---------------------------------------------------------------- memory


@_check
def sizing(answer: Any) -> Verdict:
    """A function (ram, rest, each) in MiB -> MaxRequestWorkers; a fifth of ram stays free."""
    where = '"MaxRequestWorkers from memory" in 06'
    if not callable(answer):
        return _no(f"a function of ram, rest and each is asked for, not {_shown(answer)}")
    for ram, rest, each in ((4096, 40, 3.3), (1024, 20, 7.0), (512, 100, 0.25)):
        got = answer(ram, rest, each)
        if (bad := _number(got, "workers")) is not None:
            return _no(f"for {ram} MiB your function gives {_shown(got)}: {bad.says}", where)
        true = math.floor((0.8 * ram - rest) / each)
        if got == true:
            if not isinstance(got, numbers.Integral):
                return _no(
                    f"{got!r} is right, but MaxRequestWorkers is a whole number: use int()", where
                )
            continue
        slips = {
            (ram - rest) / each: "the kernel and the page cache have no fifth of the memory",
            0.8 * ram / each: "what the server takes at rest is not subtracted",
            ram / each: "neither the fifth for the kernel nor the server at rest is subtracted",
        }
        for value, why in slips.items():
            if got in (value, math.floor(value), round(value), math.ceil(value)):
                return _no(
                    f"with {ram} MiB, {rest} at rest and {each:g} each you give {got:g}: {why}",
                    where,
                )
        if 0 < got - true <= 1:
            return _no(
                f"you give {got:g}: round down, part of a worker does not exist, and one too many "
                "is swapped out",
                where,
            )
        return _no(
            f"with {ram} MiB, {rest} at rest and {each:g} each you give {got:g}, and "
            f"{true} have room",
            where,
        )
    none = answer(100, 200, 5.0)
    if none != 0:
        return _no(
            f"a machine of 100 MiB whose server takes 200 at rest has room for 0, not {none!r}",
            where,
        )
    return Verdict(
        True,
        "a fifth stays free, the server at rest is subtracted, the rest is divided and "
        "rounded down, and never below 0",
    )


@_check
def in_use(answer: Any) -> Verdict:
    """Which of rss, pss and uss to sum over the processes for the memory in use."""
    where = '"What top shows" in 06, and smaps_rollup in proc(5)'
    if not isinstance(answer, str):
        return _no(f'a name is asked for, "rss", "pss" or "uss", not {_shown(answer)}')
    word = answer.strip().lower()
    if word == "pss":
        return Verdict(
            True,
            "a page that n processes share counts 1/n in each of them: the sum is what is in use",
        )
    why = {
        "rss": "the sum of RSS counts a shared page once for every process that has it mapped",
        "uss": "the sum of USS counts pages of one process alone; what they share is missing",
    }
    return _no(why.get(word, f"{_shown(answer)} is not one of rss, pss, uss"), where)


# ---------------------------------------------------------------- queueing


@_check
def little(answer: Any) -> Verdict:
    """Busy workers on average at 200 requests a second of 50 ms each."""
    return _quantity(
        answer,
        200 * 0.050,
        "workers",
        "Little's law: L = λ·W, in 08",
        "a worker is busy for 50 ms, 200 times a second",
        {
            200 * 50: "50 ms are 0.05 s; the rate is per second",
            200 / 50: "the two multiply: the longer a request takes, the more are there at once",
            200: "so many come in a second; but each stays for 50 ms only",
            1 / 0.05: "so many requests can one worker serve in a second",
        },
    )


@_check
def closed_loop(answer: Any) -> Verdict:
    """Requests a second of 50 users who think for 1 s and wait 0.25 s for an answer."""
    return _quantity(
        answer,
        50 / 1.25,
        "requests a second",
        "closed and open loop in 08; users and think",
        "each user goes round once in 1.25 s",
        {
            50 / 1: "the users also wait for the answer, 0.25 s",
            50 / 0.25: "the users also think, 1 s between an answer and the next request",
            50 * 1.25: "the longer a round takes, the fewer there are: divide",
            1 / 1.25: "that is one user; there are 50",
        },
    )


def _quantity(
    answer: Any, true: float, unit: str, hint: str, why: str, slips: dict[float, str]
) -> Verdict:
    if (bad := _number(answer, unit)) is not None:
        return bad
    if math.isclose(answer, true, rel_tol=0.005):
        return Verdict(True, why)
    for value, slip in slips.items():
        if math.isclose(answer, value, rel_tol=0.005):
            return _no(f"{answer:g} {unit}: {slip}", hint)
    return _no(f"{answer:g} {unit} is too {'many' if answer > true else 'few'}", hint)


# ---------------------------------------------------------------- troubleshooting


@_check
def clinic(answer: Any) -> Verdict:
    """Which directive fixes which scoreboard: a dict, letters -> the directive's name."""
    if not isinstance(answer, dict):
        return _no(f'a dict is asked for, scoreboard: "Directive", not {_shown(answer)}')
    means = {
        "RRRRRRRR": "every worker reads a request that does not come to its end: who bounds that?",
        "KKKKKKKK": "every worker waits for the next request of its client: who bounds that?",
        "GGGGGGGG": "old processes finish what they have and keep their rows: who gives more rows?",
    }
    for letters, directive in SCOREBOARDS.items():
        yours = answer.get(letters)
        if yours is None or yours is ...:
            return _no(f"there is no answer for {letters} yet", "09, and the letters in 00")
        if not isinstance(yours, str):
            return _no(f"{letters}: the name of a directive is asked for, not {_shown(yours)}")
        if yours.strip().lower() == directive.lower():
            continue
        if yours.strip().lower() == "maxrequestworkers":
            return _no(
                f"{letters}: more workers would be in {letters[0]} as soon, and cost memory; "
                + means[letters],
                "09, and the letters in 00",
            )
        return _no(
            f"{letters}: {yours[:40]} does not fix it; {means[letters]}",
            "09, and the letters in 00",
        )
    return Verdict(
        True,
        "R is bounded by RequestReadTimeout, K by KeepAliveTimeout (or use event), and "
        "G needs rows: a higher ServerLimit, or shorter requests",
    )


def every() -> dict[str, Callable[[Any], Verdict]]:
    """Every check by its name, in the order of the exercises."""
    return {
        check.__name__: check
        for check in (
            forks,
            full_house,
            real_limit,
            twenty_at_once,
            admits,
            eighty_in_eight,
            in_use,
            sizing,
            little,
            closed_loop,
            clinic,
        )
    }
