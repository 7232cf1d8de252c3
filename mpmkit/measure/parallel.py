"""Calls of a function in separate processes, one per CPU at a time.

    results = in_processes(work, shared, jobs, report)  # [work(shared, job, report) for job in jobs]

Each process has the other end of a pipe: it gets `work` and `shared`, then a job at a time, answers (share, text)
while it works and [result] at last. It ends when our end is closed: it does not outlive us, however we end.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from subprocess import Popen
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
    """The same, in processes. work: a function of a module. It, jobs and results are pickled.

    Raises what a call raised, ChildProcessError if a process ended. All processes have ended then.
    """
    results, shares, said = [None] * len(jobs), [0.0] * len(jobs), ""
    todo, left, busy = enumerate(jobs), len(jobs), dict[Any, int]()  # busy: end -> number of a job
    processes: dict[Any, Popen[bytes]] = {}  # our end of the pipe -> the process
    path = filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))
    how: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(path)}}
    try:
        for _ in range(min(left, len(os.sched_getaffinity(0)))):
            ours, theirs = Pipe()
            with theirs:  # in a session of its own: Ctrl-C is the command's
                command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
                fds = [theirs.fileno()]
                processes[ours] = Popen(command, pass_fds=fds, start_new_session=True, **how)
        free = [*processes]
        for end in free:
            end.send((work, shared))
        while left:
            for end, (number, job) in zip(free, todo, strict=False):
                end.send(job)
                busy[end] = number
            free = []
            for end in list[Any](wait(busy, LOOK)):
                answer = end.recv()
                if isinstance(answer, Exception):
                    raise answer
                if isinstance(answer, tuple):
                    shares[busy[end]], said = answer
                else:
                    results[busy[end]], shares[busy.pop(end)] = answer[0], 1.0
                    free.append(end)
                    left -= 1
            report(sum(shares) / len(jobs), said)
    except (EOFError, ConnectionError):
        text = f"a process of the simulation ended with status {processes[end].wait()}"
        raise ChildProcessError(f"{text}; is there too little memory?") from None
    finally:
        for end, process in processes.items():
            end.close()
            process.kill()
            process.wait()
    return results


def main(pipe: Connection) -> None:
    """A process: calls, until the other end is closed."""
    with contextlib.suppress(EOFError, ConnectionError):
        work, shared = pipe.recv()
        while True:
            job = pipe.recv()
            try:
                answer: Any = [work(shared, job, lambda share, text: pipe.send((share, text)))]
            except Exception as error:  # without a reader, it cannot be sent either
                answer = error
            pipe.send(answer)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
