"""Calls of a function in separate processes, one per CPU at a time.

    results = in_processes(work, shared, jobs, report)  # [work(shared, job, report) for job in jobs]

Each process has the other end of a pipe: it gets `work` and `shared`, then a job at a time, answers (share, text)
while it works and [result] at last. It ends when our end is closed: it does not outlive us, however we end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Report = Callable[[float, str], object]
"""``report(share, text)``: how much is done, 0 to 1, and what is going on."""
Work = Callable[[Any, Any, Report], Any]

ROOT = str(Path(__file__).resolve().parents[2])
LOOK = 0.2  # seconds between two reports, at most


def in_turn(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """One job after the other, in this process."""

    def part(number: int) -> Report:
        return lambda share, text: report((number + share) / len(jobs), text)

    return [work(shared, job, part(number)) for number, job in enumerate(jobs)]


def in_processes(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """The same, in processes. work: a function of a module. It, jobs and results are pickled.

    Raises what a call raised, ChildProcessError if a process ended. All processes have ended then.
    """
    results: list[Any] = [None] * len(jobs)
    todo, left, shares, said = enumerate(jobs), len(jobs), [0.0] * len(jobs), ""
    with contextlib.ExitStack() as stack:
        count = min(len(jobs), len(os.sched_getaffinity(0)))
        processes = dict(stack.enter_context(_process()) for _ in range(count))
        free, busy = [*processes], dict[Any, int]()  # busy: whose end -> the number of its job
        try:
            for end in free:
                end.send((work, shared))
            while left:
                for end, (number, job) in zip(free, todo, strict=False):
                    end.send(job)
                    busy[end] = number
                free, ready = [], list[Any](wait(busy, LOOK))
                for end in ready:
                    answer = end.recv()
                    if isinstance(answer, tuple):
                        shares[busy[end]], said = answer
                    elif isinstance(answer[0], Exception):
                        raise answer[0]
                    else:
                        number = busy.pop(end)
                        results[number], shares[number] = answer[0], 1.0
                        free.append(end)
                        left -= 1
                report(sum(shares) / len(jobs), said)
        except (EOFError, ConnectionError):
            text = f"a process of the simulation ended with status {processes[end].wait()}"
            raise ChildProcessError(f"{text}; is there too little memory?") from None
    return results


@contextlib.contextmanager
def _process() -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """A process, with our end of its pipe."""
    path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    ours, theirs = multiprocessing.Pipe()
    with theirs, ours:
        command = [sys.executable, "-P", "-m", "mpmkit.measure.parallel", str(theirs.fileno())]
        how: dict[str, Any] = {"pass_fds": [theirs.fileno()], "start_new_session": True}
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **how)
        theirs.close()
        try:
            yield ours, process
        finally:
            process.kill()
            process.wait()


def main(pipe: Connection) -> None:
    """A process: calls, until the other end is closed."""
    with contextlib.suppress(EOFError, ConnectionError):
        work, shared = pipe.recv()
        while True:
            job = pipe.recv()
            try:
                found = work(shared, job, lambda share, text: pipe.send((share, text)))
            except Exception as error:  # without a reader, it cannot be sent either
                found = error
            pipe.send([found])


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
