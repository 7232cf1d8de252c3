"""Calls of a function, one after the other, or each in a process of its own.

    results = in_processes(work, shared, jobs, report)  # [work(shared, job, report) for job in jobs]

A process sends (share, text) while it works, and [result] or an exception at last. It ends at the next of these
when our end of the pipe is closed: it does not outlive us, however we end.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any

Report = Callable[[float, str], object]
"""``report(share, text)``: how much is done, 0 to 1, and what is going on."""
Work = Callable[[Any, Any, Report], Any]

LOOK = 0.2  # seconds between two reports, at most


def in_turn(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """One job after the other, in this process."""

    def part(number: int) -> Report:
        return lambda share, text: report((number + share) / len(jobs), text)

    return [work(shared, job, part(number)) for number, job in enumerate(jobs)]


def in_processes(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """The same, in processes, as many at a time as there are CPUs. work: a function of a module. It, jobs and
    results are pickled; a script has its call below ``if __name__ == "__main__"`` (multiprocessing, spawn).

    Raises what a call raised, ChildProcessError if a process ended. All processes have ended then.
    """
    context, todo, busy = multiprocessing.get_context("spawn"), enumerate(jobs), dict[Any, Any]()
    results, shares, said = dict[int, Any](), [0.0] * len(jobs), ""
    try:
        while len(results) < len(jobs):
            for number, job in islice(todo, len(os.sched_getaffinity(0)) - len(busy)):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_call, args=(theirs, work, shared, job))
                busy[ours] = number, process
                with contextlib.suppress(ConnectionError):  # it has ended: its pipe says so, below
                    process.start()
                theirs.close()
            for end in list[Any](wait(busy, LOOK)):
                number, process = busy[end]
                try:
                    answer = end.recv()
                except (EOFError, OSError):
                    if process.pid:
                        process.join()
                    text = f"a process of the simulation ended with status {process.exitcode}"
                    raise ChildProcessError(f"{text}; is there too little memory?") from None
                if isinstance(answer, Exception):
                    raise answer
                if isinstance(answer, tuple):
                    shares[number], said = answer
                else:
                    results[number], shares[number] = answer[0], 1.0
                    process.join()
                    del busy[end]
            report(sum(shares) / len(jobs), said)
    finally:
        for _, process in busy.values():
            if process.pid:
                process.kill()
                process.join()
    return [results[number] for number in range(len(jobs))]


def _call(pipe: Connection, work: Work, shared: Any, job: Any) -> None:
    """A process. Ctrl-C is its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ConnectionError):
        try:
            answer: Any = [work(shared, job, lambda share, text: pipe.send((share, text)))]
        except Exception as error:  # without a reader, it cannot be sent either
            answer = error
        pipe.send(answer)
