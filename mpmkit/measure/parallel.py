"""Calls of a function in separate processes, one per CPU at a time.

    results = in_processes(work, shared, jobs, report)  # [work(shared, job, report) for job in jobs]

A process reads pickles on its standard input (`work` and `shared`, then a job at a time) and writes pickles. It
ends when its input does, or when what it writes has no reader: it does not outlive the caller, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

Report = Callable[[float, str], object]
"""``report(share, text)``: how much is done, 0 to 1, and what is going on."""
Work = Callable[[Any, Any, Report], Any]

ROOT = str(Path(__file__).resolve().parents[2])
LOOK = 0.2  # seconds between two reports


def in_turn(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """One job after the other, in this process."""

    def part(number: int) -> Report:
        return lambda share, text: report((number + share) / len(jobs), text)

    return [work(shared, job, part(number)) for number, job in enumerate(jobs)]


def in_processes(work: Work, shared: Any, jobs: Sequence[Any], report: Report) -> list[Any]:
    """The same, in processes. work: a function of a module. It, jobs and results are pickled.

    Raises what a call raised, ChildProcessError if a process ended. All processes have ended then.
    """
    todo, results, shares, said = enumerate(jobs), [None] * len(jobs), [0.0] * len(jobs), [""]

    def attend(process: subprocess.Popen[bytes]) -> None:
        """Give it jobs, until all are given."""
        assert process.stdin and process.stdout
        try:
            pickle.dump((work, shared), process.stdin)
            for number, job in todo:
                pickle.dump(job, process.stdin)
                process.stdin.flush()
                while isinstance(answer := pickle.load(process.stdout), tuple):
                    shares[number], said[0] = answer
                if isinstance(answer[0], Exception):
                    raise answer[0]
                results[number], shares[number] = answer[0], 1.0
        except (EOFError, BrokenPipeError):
            text = f"a process of the simulation ended with status {process.wait()}"
            raise ChildProcessError(f"{text}; is there too little memory?") from None

    with ThreadPoolExecutor(len(jobs)) as threads, contextlib.ExitStack() as stack:
        left = set()
        for _ in range(min(len(jobs), len(os.sched_getaffinity(0)))):
            left.add(threads.submit(attend, stack.enter_context(_process())))
        while left:
            done, left = wait(left, LOOK, FIRST_EXCEPTION)
            for future in done:
                future.result()
            report(sum(shares) / len(jobs), said[0])
    return results


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mpmkit.measure.parallel"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):  # of what it has not read
            process.__exit__(None, None, None)


def main() -> None:
    """A process: calls, until its input ends."""
    source, out = sys.stdin.buffer, sys.stdout.buffer

    def send(answer: Any) -> None:
        pickle.dump(answer, out)
        out.flush()

    with contextlib.suppress(EOFError, BrokenPipeError):
        work, shared = pickle.load(source)
        while True:
            job = pickle.load(source)
            try:
                found = work(shared, job, lambda share, text: send((share, text)))
            except BrokenPipeError:
                break
            except Exception as error:
                found = error
            send([found])
    os._exit(0)  # it must not try to flush what has no reader


if __name__ == "__main__":
    main()
