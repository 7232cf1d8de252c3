"""Answers to exercises, looked at: right or not, why in words, and where to look next.

    checks.forks([1, 2, 4, 8, 16, 32])

Each check takes one answer, gives a `Verdict` and never raises: whatever a reader types gets a
sentence. What is right is computed by the code that the servers run (`maintenance`, `admission`,
`checks.check`), or tried on the reader's own server; words are compared with a word.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from textwrap import fill
from typing import Any, NamedTuple

from helpers.hints import hint as hint

from mpmkit.config.checks import check
from mpmkit.config.keywords import from_keywords
from mpmkit.launcher import Server
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure.monitor import Watch
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
THREADS, IDLE, FACTOR = 8, 3, 2
SCOREBOARDS = {
    "RRRRRRRR": "RequestReadTimeout",
    "KKKKKKKK": "KeepAliveTimeout",
    "GGGGGGGG": "ServerLimit",
}


def wrapped(text: str) -> str:
    """A text whose long lines break between words: an output of JupyterLab breaks them anywhere."""
    lines = text.splitlines()
    return "\n".join(fill(line, 92) if len(line) > 100 else line for line in lines)


class Verdict(NamedTuple):
    """What a check says. True if the answer is right."""

    right: bool
    says: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        hint = f"\nLook at: {self.hint}" if self.hint else ""
        return wrapped(f"{'RIGHT' if self.right else 'NOT YET'}: {self.says}{hint}")


class NotYet(Exception):
    """An answer that is not right: what the verdict says."""


Check = Callable[[Any], Verdict]
_every: dict[str, Check] = {}


def every() -> dict[str, Check]:
    """Every check by its name, in the order of this file."""
    return dict(_every)


def judged(look: Callable[[Any], str], answer: Any, hint: str = "") -> Verdict:
    """What `look` says of an answer: it returns why the answer is right, or raises NotYet. An error of the
    answer's own becomes a sentence, too. hint: where to look."""
    if answer is ... or answer is None:
        return Verdict(False, "there is no answer yet: replace the ... with yours")
    try:
        return Verdict(True, look(answer))
    except NotYet as why:
        return Verdict(False, str(why), hint)
    except Exception as error:
        says = f"your answer could not be tried: {type(error).__name__}: {error}"
        return Verdict(False, says, "the cell of the answer; run it again from the top")


def _check(hint: str) -> Callable[[Callable[[Any], str]], Check]:
    """Make a check of a function that `judged` calls. hint: where to look."""

    def made(look: Callable[[Any], str]) -> Check:
        _every[look.__name__] = wraps(look)(lambda answer: judged(look, answer, hint))
        return _every[look.__name__]

    return made


def asked_for(what: str, answer: Any) -> NotYet:
    text = repr(answer)
    shown = f"{text[:40]}{'…' * (len(text) > 40)} ({type(answer).__name__})"
    return NotYet(f"{what} is asked for, not {shown}")


def number(answer: Any, unit: str) -> float:
    """The answer as a finite number from 0."""
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
        raise asked_for(f"a number of {unit}", answer)
    if not math.isfinite(answer):
        raise NotYet(f"{answer} is not a number of {unit}")
    if answer < 0:
        raise NotYet(f"a number of {unit} can't be below 0")
    return float(answer)


def quantity(
    answer: Any, true: float, unit: str, slips: Mapping[Any, str], near: float = 0.0
) -> None:
    """Whether it is that number, or as near; the usual slips have a sentence each."""
    given = number(answer, unit)
    if math.isclose(given, true, rel_tol=near):
        return
    for value, slip in slips.items():
        if math.isclose(given, value, rel_tol=near):
            raise NotYet(f"{answer:g} {unit}: {slip}")
    raise NotYet(f"{answer:g} {unit} is too {'many' if given > true else 'few'}")


def one_word(answer: Any, true: str, slips: Mapping[str, str]) -> None:
    """Whether it is that word; each of the others has a sentence."""
    word = one_word_of(answer, (*slips, true))
    if word != true:
        raise NotYet(slips[word])


def one_word_of(answer: Any, words: Iterable[str], what: str = "") -> str:
    """The answer, if it is one of the words (capital or small letters); as the list has it."""
    known = {word.lower(): word for word in words}
    if isinstance(answer, bool) or not isinstance(answer, (str, int)):
        raise asked_for(f"{what}: a word, one of {', '.join(known.values())},".lstrip(": "), answer)
    word = str(answer).strip().lower()
    if word not in known:
        raise NotYet(f"{what} {word[:40]!r} is not one of {', '.join(known.values())}".lstrip())
    return known[word]


# ---------------------------------------------------------------- prefork and worker


@_check('the figure "The pool breathes" in 01, and MinSpareServers')
def forks(answer: Any) -> str:
    """How many children prefork's parent forks, second by second (a list), until there are enough."""
    if not isinstance(answer, (list, tuple)) or not all(type(n) is int for n in answer):
        raise asked_for("a list of whole numbers, one a second,", answer)
    run = simulate("prefork", busy=CLIENTS, seconds=12, **FORKS)
    true = [second.spawned for second in run if second.t and second.spawned]
    first, idle = FORKS["StartServers"], FORKS["MinSpareServers"]
    if list(answer[:1]) == [first]:
        raise NotYet(
            "the StartServers were forked before the first client came; begin with the first "
            "second that follows"
        )
    if len(set(answer)) == 1 and len(answer) > 1:
        raise NotYet(
            "the same number each second: the parent ends children one a second, but it forks "
            "faster the longer there are too few"
        )
    for second, (yours, its) in enumerate(zip(answer, true, strict=False), 1):
        if yours != its:
            raise NotYet(
                f"second {second}: it is not {yours}; compare with the second before, and with how many "
                "are missing"
            )
    if len(answer) < len(true):
        raise NotYet(
            f"right so far, but after {len(answer)} seconds there are {first + sum(answer)} children "
            f"for {CLIENTS} clients, and {idle} shall be idle"
        )
    if len(answer) > len(true):
        raise NotYet(
            f"the parent stops before second {len(answer)}: count the children that there are by then"
        )
    return (
        "the rate doubles each second in which too few children are idle, up to 32 a second, and the "
        "parent stops when MinSpareServers are idle"
    )


@_check('the listen queue in 01, "When processes run out", and ListenBacklog')
def full_house(answer: Any) -> str:
    """What a client sees when all workers are busy: "503", "refused", "reset" or "waits"."""
    slips = {
        "503": "no: no worker is free to say 503. A status is an answer, and an answer takes a worker",
        "refused": "no: the kernel completes the connection as long as the listen queue has room",
        "reset": "no: a reset would end the connection, and the kernel has just completed it",
    }
    one_word(answer, "waits", slips)
    return (
        "it is connected, sits in the listen queue, and is served when a worker is free; the error log "
        "says AH00161 (prefork) once"
    )


@_check("ServerLimit, ThreadsPerChild, and the warnings at the start (mpmkit -t)")
def real_limit(answer: Any) -> str:
    """How many connections worker serves at once with LIMITED."""
    read, notes = check("worker", from_keywords("worker", **LIMITED))
    warned = next(note for note in notes if note.ah == "AH00318")
    slips = {
        LIMITED[
            "MaxRequestWorkers"
        ]: "that is what was asked for, but threads live in processes, and "
        "there can't be as many processes as that takes",
        read.ServerLimit: "so many processes; each of them has several threads",
        read.ThreadsPerChild: "so many threads has one process; there are several",
    }
    true = min(read.MaxRequestWorkers, read.ServerLimit * read.ThreadsPerChild)
    quantity(answer, true, "connections", slips)
    return (
        f"{read.ServerLimit} processes of {read.ThreadsPerChild} threads; the server warns, "
        f"{warned.ah}: {warned.text}"
    )


def _serves(server: Any, mpm: str, count: int, most_workers: float = math.inf) -> Any:
    """Whether the reader's server serves `count` clients at the same time, each of which keeps its
    connection. How many it served, if not all, and its directives."""
    if not isinstance(server, Server):
        raise asked_for(f'a server, what mpmkit.launch("{mpm}", ...) returns,', server)
    if not server.running:
        raise NotYet(
            "this server has ended; launch it again, and check while it runs (not after its with block)"
        )
    if server.mpm != mpm:
        raise NotYet(f"this is {server.mpm}; the exercise is about {mpm}")
    read, _ = check(mpm, from_keywords(mpm, **server.directives))
    if read.MaxRequestWorkers > most_workers:
        raise NotYet(f"MaxRequestWorkers is {read.MaxRequestWorkers}: eight threads have to do")
    if not read.KeepAlive:
        raise NotYet(
            "KeepAlive is off, so no client keeps its connection; the exercise wants it on"
        )
    if read.KeepAliveTimeout < 10:
        raise NotYet(
            f"KeepAliveTimeout is {read.KeepAliveTimeout:g} s: clients are sent away to make room, and "
            "not served at the same time; set it to 10 or more"
        )
    with Watch(server, every=0.1), KeepAliveClients(server.url, count) as crowd:
        until = time.monotonic() + PATIENCE
        while crowd.answered < count and time.monotonic() < until:
            time.sleep(0.05)
        served = min(crowd.answered, count)
    return served, read


@_check('"When processes run out" in 01, and the ceiling of a pool in 02')
def twenty_at_once(server: Any) -> str:
    """A prefork server that serves twenty clients at once though each keeps its connection."""
    served, read = _serves(server, "prefork", 20)
    if served < 20:
        raise NotYet(
            f"{served} of 20 were served within {PATIENCE:g} s, the others wait in the listen queue: "
            f"there are {read.MaxRequestWorkers} processes at most, and each keeps one client"
        )
    return "twenty clients, twenty processes in K, and the listen queue is empty"


# ---------------------------------------------------------------- event


@_check("AsyncRequestWorkerFactor, and connections_above_limit in 03")
def admits(answer: Any) -> str:
    """At how many connections one child of event stops accepting: THREADS, of which IDLE are idle."""
    slips = {
        THREADS * (1 + FACTOR): "that is with all threads idle; count only those that are idle now",
        IDLE
        * FACTOR: "those are the connections beyond the threads; ThreadsPerChild comes in addition",
        THREADS: "that is worker, where a connection is a thread; event takes more for each idle thread",
    }
    quantity(answer, admission.connection_limit(IDLE, THREADS, FACTOR), "connections", slips)
    return f"{THREADS} threads + {FACTOR} for each of {IDLE} idle ones"


@_check('"Many connections, few threads" in 03')
def eighty_in_eight(server: Any) -> str:
    """An event server of eight threads at most that holds eighty kept-alive connections."""
    served, _ = _serves(server, "event", 80, 8)
    if served < 80:
        raise NotYet(
            f"{served} of 80 were served within {PATIENCE:g} s: a child takes no more connections than its "
            "rule allows"
        )
    return "eighty connections are held by the listener, and the threads are free"


# ---------------------------------------------------------------- memory


@_check('"What top shows" in 06, and smaps_rollup in proc(5)')
def in_use(answer: Any) -> str:
    """Which of rss, pss and uss to sum over the processes for the memory in use."""
    slips = {
        "rss": "the sum of RSS counts a shared page once for every process that has it mapped",
        "uss": "the sum of USS counts pages of one process alone; what they share is missing",
    }
    one_word(answer, "pss", slips)
    return "a page that n processes share counts 1/n in each of them: the sum is what is in use"


@_check('"MaxRequestWorkers from memory" in 06')
def sizing(answer: Any) -> str:
    """A function (ram, rest, each) in MiB -> MaxRequestWorkers; a fifth of ram stays free."""
    if not callable(answer):
        raise asked_for("a function of ram, rest and each", answer)
    for ram, rest, each in ((4096, 40, 3.3), (1024, 20, 7.0), (512, 100, 0.25)):
        given = answer(ram, rest, each)
        got, true = number(given, "workers"), math.floor((0.8 * ram - rest) / each)
        case = f"with {ram} MiB, {rest} at rest and {each:g} each you give {got:g}"
        if got == true and not isinstance(given, numbers.Integral):
            raise NotYet(f"{given!r} is right, but MaxRequestWorkers is a whole number: use int()")
        slips = {
            (ram - rest) / each: "the kernel and the page cache have no fifth of the memory",
            0.8 * ram / each: "what the server takes at rest is not subtracted",
            ram / each: "neither the fifth for the kernel nor the server at rest is subtracted",
        }
        for value, why in slips.items():
            if got != true and abs(got - value) < 1:
                raise NotYet(f"{case}: {why}")
        if 0 < got - true <= 1:
            raise NotYet(
                f"you give {got:g}: round down, part of a worker does not exist, and one too many "
                "is swapped out"
            )
        if got != true:
            raise NotYet(f"{case}, and {true} have room")
    if (least := answer(100, 200, 5.0)) != 0:
        raise NotYet(
            f"a machine of 100 MiB whose server takes 200 at rest has room for 0, not {least!r}"
        )
    return (
        "a fifth stays free, the server at rest is subtracted, the rest is divided and rounded down, "
        "and never below 0"
    )


# ---------------------------------------------------------------- queueing


@_check("Little's law: L = λ·W, in 08")
def little(answer: Any) -> str:
    """Busy workers on average at 200 requests a second of 50 ms each."""
    slips = {
        200 * 50: "50 ms are 0.05 s; the rate is per second",
        200 / 50: "the two multiply: the longer a request takes, the more are there at once",
        200: "so many come in a second; but each stays for 50 ms only",
        1 / 0.05: "so many requests can one worker serve in a second",
    }
    quantity(answer, 200 * 0.050, "workers", slips, 0.005)
    return "a worker is busy for 50 ms, 200 times a second"


@_check("closed and open loop in 08; users and think")
def closed_loop(answer: Any) -> str:
    """Requests a second of 50 users who think for 1 s and wait 0.25 s for an answer."""
    slips = {
        50 / 1: "the users also wait for the answer, 0.25 s",
        50 / 0.25: "the users also think, 1 s between an answer and the next request",
        50 * 1.25: "the longer a round takes, the fewer there are: divide",
        1 / 1.25: "that is one user; there are 50",
    }
    quantity(answer, 50 / 1.25, "requests a second", slips, 0.005)
    return "each user goes round once in 1.25 s"


# ---------------------------------------------------------------- troubleshooting


@_check("09, and the letters in 00")
def clinic(answer: Any) -> str:
    """Which directive fixes which scoreboard: a dict, letters -> the directive's name."""
    if not isinstance(answer, dict):
        raise asked_for('a dict, scoreboard: "Directive",', answer)
    means = {
        "R": "every worker reads a request that does not come to its end: who bounds that?",
        "K": "every worker waits for the next request of its client: who bounds that?",
        "G": "old processes finish what they have and keep their rows: who gives more rows?",
    }
    for letters, directive in SCOREBOARDS.items():
        yours, why = answer.get(letters), means[letters[0]]
        if yours is None or yours is ...:
            raise NotYet(f"there is no answer for {letters} yet")
        if not isinstance(yours, str):
            raise asked_for(f"{letters}: the name of a directive", yours)
        if yours.strip().lower() == "maxrequestworkers":
            more = f"more workers would be in {letters[0]} as soon, and cost memory"
            raise NotYet(f"{letters}: {more}; {why}")
        if yours.strip().lower() != directive.lower():
            raise NotYet(f"{letters}: {yours[:40]} does not fix it; {why}")
    return (
        "R is bounded by RequestReadTimeout, K by KeepAliveTimeout (or use event), and G needs rows: a "
        "higher ServerLimit, or shorter requests"
    )
