"""E6: five scoreboards of real servers, drawn for each student, and the directive that helps.

    boards = scoreboard_tasks.scoreboards("ada")      starts five servers, one after the other (ten seconds)
    scoreboard_tasks.show(boards)
    boards.check({1: "KeepAliveTimeout", 2: "nothing", 3: ..., 4: ..., 5: ...})

Which five of `CASES`, under which MPM and how large is drawn; what the board shows is what the server did.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from helpers import checks, misbehaving_clients, regimes
from helpers.checks import NotYet
from helpers.counter_tasks import OK, SCRIPTS
from helpers.tasks import Task, dice

import mpmkit
from mpmkit.lab import diagram
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure.monitor import Watch
from mpmkit.measure.recording import ScoreboardSnapshot

WAITS = f"""import time

def application(environ, start_response):
    time.sleep(60)
    body = b"report"
    {OK}
    return [body]
"""


class Board(NamedTuple):
    """A scoreboard of a real run, and what a reader may know of it."""

    picture: ScoreboardSnapshot
    queue: int  # connections in the listen queue
    page: str  # what the clients ask for
    workers: int  # MaxRequestWorkers


class Case(NamedTuple):
    """A way to fill a server. fix: the directive that helps, or "nothing". asks: for a wrong answer."""

    fix: str
    mpms: tuple[str, ...]
    asks: str
    page: str
    clients: Callable[[str, int], Any]
    full: Callable[[Any, int], bool]
    directives: Mapping[str, Any] = {}


CASES = (
    Case("KeepAliveTimeout", ("prefork", "worker"),
         "each worker has answered, and waits for its client. Who bounds that wait?", "/index.html",
         lambda url, n: KeepAliveClients(url, n + 3), lambda one, n: one.parked == n and one.waiting > 0,
         {"KeepAliveTimeout": 60}),
    Case("RequestReadTimeout", ("prefork", "worker", "event"),
         "each worker reads a request that does not come to its end. Who bounds that?", "/index.html",
         lambda url, n: misbehaving_clients.HalfSent(url, n), lambda one, n: one.reading == n,
         {"RequestReadTimeout": "header=0 body=0"}),
    Case("EnableSendfile", ("event",),
         "the clients fetch a large file slowly. Who else could hold the bytes that they have not read yet?",
         "/big.bin", lambda url, n: misbehaving_clients.SlowReaders(url, n),
         lambda one, n: one.writing == n, {"EnableSendfile": "Off"}),
    Case("MaxRequestWorkers", ("prefork", "worker", "event"),
         "every worker works for a client, and more clients come. What is missing?", "/report.py",
         lambda url, n: KeepAliveClients(url, n + 4, path="/report.py"),
         lambda one, n: one.writing == n and one.waiting > 0),
    Case("ServerLimit", ("event",),
         "children that are leaving keep their rows. Where could a new child begin?", "/big.bin",
         lambda url, n: misbehaving_clients.SlowReaders(url, n // 2 + 1),  # more than one child has threads
         lambda one, n: one.writing == n // 2 + 1),
    Case("AsyncRequestWorkerFactor", ("event",),
         "threads are idle, and clients wait in the listen queue. Which rule keeps them out?", "/index.html",
         lambda url, n: KeepAliveClients(url, 2 * n + 4),
         lambda one, n: one.without_thread >= 2 * n - 1 and one.waiting > 0,
         {"AsyncRequestWorkerFactor": 1, "KeepAliveTimeout": 60}),
    Case("nothing", ("event",),
         "are workers missing, and does any client wait?", "/index.html",
         lambda url, n: KeepAliveClients(url, n + n // 2), lambda one, n: one.without_thread == n + n // 2,
         {"KeepAliveTimeout": 60}),
)  # fmt: skip


def _run(case: Case, roll: random.Random, number: int) -> Board:
    """Play a case on a server, and keep its scoreboard. Raises TimeoutError if it does not come about."""
    mpm, workers = roll.choice(case.mpms), 2 * roll.randint(3, 5)
    shape = regimes.pool(mpm, workers, 2 if case.fix == "ServerLimit" else 1)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(misbehaving_clients.pages())
        (root / "report.py").write_text(WAITS)
        given = {**shape, **case.directives}
        server = stack.enter_context(
            mpmkit.launch(mpm, document_root=root, directives=SCRIPTS, **given)
        )
        seen = stack.enter_context(Watch(server, every=0.05))
        seen.until(lambda sample: sample.idle == workers)
        stack.enter_context(case.clients(server.url, workers))
        seen.until(lambda sample: case.full(sample, workers))
        if case.fix == "ServerLimit":
            server.graceful()
            seen.until(lambda _: "G" in "".join(server.scoreboard().letters.values()))
            stack.enter_context(KeepAliveClients(server.url, 3))
            seen.until(lambda sample: sample.waiting == 3)
        picture = seen.capture(f"scoreboard {number} ({mpm})")
        waiting = seen.last.waiting
    return Board(picture, int(waiting), case.page, workers)


def scoreboards(student: str) -> Task:
    """Five scoreboards of real servers, drawn from `CASES`: which directive helps, or nothing?"""
    roll = dice("scoreboards", student)
    cases = sorted(CASES, key=lambda _: roll.random())[:5]
    boards = [_run(case, roll, number) for number, case in enumerate(cases, 1)]
    words = sorted(case.fix for case in CASES)

    def look(answer: Any) -> str:
        if not isinstance(answer, Mapping):
            raise checks.asked_for("a dict, number: the name of a directive,", answer)
        wrong = []
        for number, case in enumerate(cases, 1):
            yours = answer.get(number)
            if yours is None or yours is ...:
                raise NotYet(f"there is no answer for scoreboard {number} yet")
            if checks.one_word_of(yours, words, f"scoreboard {number}:") != case.fix:
                wrong.append(f"scoreboard {number}: {case.asks}")
        if wrong:
            raise NotYet("\n".join([f"{5 - len(wrong)} of 5 are right", *wrong]))
        return "read by letter, connections without a thread, and listen queue"

    text = "Which directive helps, or is it nothing? One of: " + ", ".join(words) + "."
    return Task("scoreboards", text, boards, look)


def show(task: Task) -> None:
    """Display the scoreboards of a task, with what else is known of each."""
    from IPython.display import display

    for board in task.data:
        display(diagram.scoreboard(board.picture))
        print(
            f"MaxRequestWorkers {board.workers}; in the listen queue: {board.queue}; "
            f"the clients request {board.page}\n"
        )
