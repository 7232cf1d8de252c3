"""Logs to a program (`CustomLog "|rotatelogs …"`): a pipe that the server writes to and a program reads.

The pipe lasts as long as the configuration. The program is the parent's child, with the parent's user:
it is started before the server's first child, and again, on the same pipe, when it ends. So lines
written in between are not lost.
"""

from __future__ import annotations

import os
import signal
from typing import Any

_pipes: dict[int, PipedLog] = {}  # by the end that is written to
_ended: set[int] = set()  # programs of former configurations, which end by themselves


class PipedLog:
    """`|program arguments`, also with a second `|`; `|$line` is a line for the shell."""

    def __init__(self, log: str) -> None:
        self.name, self.argv = log.removeprefix("|").removeprefix("|"), command(log)
        self.pid = 0
        self.reading, self.writing = os.pipe()

    def start(self) -> None:
        """Start the program. Raises OSError."""
        reads = [(os.POSIX_SPAWN_DUP2, self.reading, 0)]
        given: Any = {"file_actions": reads, "setsigdef": [signal.SIGPIPE], "setsigmask": []}
        self.pid = os.posix_spawnp(self.argv[0], self.argv, os.environ, **given)


def command(log: str) -> list[str]:
    """The words of the program's line. Raises ValueError for one that cannot be read."""
    from shlex import split  # here: few servers have such a log

    line = log.removeprefix("|").removeprefix("|")
    if not (words := ["/bin/sh", "-c", line[1:]] if line.startswith("$") else split(line)):
        raise ValueError("no program is named")
    return words


def open_pipe(log: str) -> int:
    """The end that is written to. Raises ValueError as `command`, OSError."""
    pipe = PipedLog(log)
    _pipes[pipe.writing] = pipe
    return pipe.writing


def close_pipe(fd: int) -> None:
    """Close a log; its program, if it has one, sees the end once no process writes any more."""
    os.close(fd)
    if pipe := _pipes.pop(fd, None):
        os.close(pipe.reading)
        _ended.add(pipe.pid)


def start_programs() -> list[str]:
    """Start those that do not run; what went wrong, a line each."""
    failed = []
    for pipe in _pipes.values():
        if not pipe.pid:
            try:
                pipe.start()
            except OSError as error:
                failed.append(f"unable to start piped log program '{pipe.name}': {error.strerror}")
    return failed


def program_ended(pid: int) -> str | None:
    """Was this process one of the programs? Its name then, "" if it was to end."""
    if pid in _ended:
        _ended.discard(pid)
        return ""
    for pipe in _pipes.values():
        if pipe.pid == pid:
            pipe.pid = 0
            return pipe.name
    return None
