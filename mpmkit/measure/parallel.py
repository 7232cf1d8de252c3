"""Calls of a function in separate processes, one per CPU at a time.

    results = in_processes(work, shared, jobs, report)  # [work(shared, job, report) for job in jobs]

The processes are forks, which have `shared` without copying it. They do not outlive the caller, however it ends.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

Report = Callable[[float, str], object]
"""``report(share, text)``: how much is done, 0 to 1, and what is going on."""
Work = Callable[[Any, Any, Report], Any]

LOOK = 0.2  # seconds between two reports
FORK = multiprocessing.get_context("fork")
_given: Any = None  # in such a process: work, shared, and the queue of its reports


def in_turn(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """One job after the other, in this process."""

    def part(number: int) -> Report:
        return lambda share, text: report((number + share) / len(jobs), text)

    return [work(shared, job, part(number)) for number, job in enumerate(jobs)]


def in_processes(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """The same, in processes. Jobs and results are pickled. Raises what a call raised, ChildProcessError if a
    process ended. All processes have ended then."""
    said, shares, text, before = FORK.SimpleQueue(), [0.0] * len(jobs), "", FORK.active_children()
    count = min(len(jobs), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(count, FORK, _begin, (work, shared, said)) as pool:
        try:
            calls = left = [pool.submit(_call, *one) for one in enumerate(jobs)]
            while left:
                done, left = map(list, wait(left, LOOK, FIRST_EXCEPTION))
                for call in done:
                    call.result()
                while not said.empty():
                    number, shares[number], text = said.get()
                report(sum(shares) / len(jobs) if left else 1.0, text)
        except BaseException as error:
            for process in set(FORK.active_children()) - set(before):
                process.kill()
            if isinstance(error, BrokenProcessPool):
                text = "a process of the simulation ended; is there too little memory?"
                raise ChildProcessError(text) from None
            raise
    return [call.result() for call in calls]


def _begin(*given: Any) -> None:
    """In a process, before its first call."""
    global _given
    _given = given
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends it
    threading.Thread(target=_end_with_caller, daemon=True).start()


def _end_with_caller() -> None:
    if caller := multiprocessing.parent_process():
        caller.join()
    os._exit(1)


def _call(number: int, job: Any) -> Any:
    work, shared, said = _given
    return work(shared, job, lambda share, text: said.put((number, share, text)))
