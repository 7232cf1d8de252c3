"""Held connections as a process, so that thousands of sockets and their memory are not the caller's.

    with HoldingProcess(server.url, "idle") as holding:
        holding.ask("hold", 5000)["held"]

The process, ``python -m mpmkit.load.holder JSON``, takes the arguments of `HeldConnections` and then lines on
standard input, each the name of a method and its number; it answers each with a `report` as a line of JSON. It
ends with its standard input, so also if the process that started it is killed.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from typing import Any, Self

from mpmkit.load.connections import HeldConnections
from mpmkit.load.preflight import raise_descriptors
from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import target_of

AGAIN = 0.5  # seconds after which an idle holder whose connection ended comes back


class HoldingProcess:
    """HeldConnections in a process of its own, until the end of a `with` block. Arguments as of
    HeldConnections."""

    def __init__(self, url: str, mode: str = "idle", **how: Any) -> None:
        given = json.dumps({"url": url, "mode": mode} | how)
        command = [sys.executable, "-m", "mpmkit.load.holder", given]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process: Any = subprocess.Popen(command, **pipes, start_new_session=True)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        with contextlib.suppress(OSError):  # it may have ended before it read everything
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def ask(self, method: str, *number: int) -> dict[str, Any]:
        """Call hold, resize, finish or report of the HeldConnections; its report then. `held` of what `finish`
        reports counts the answers. Raises RuntimeError if the process has ended."""
        line = ""
        with contextlib.suppress(OSError):
            self._process.stdin.write(" ".join([method, *map(str, number)]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"the process that holds the connections ended with {code}")
        return json.loads(line)


def idle_holders(url: str, profile: LoadProfile) -> HoldingProcess | None:
    """The idle holders of `profile`, if it has any: in a process that is started before the users and costs
    the generator no time."""
    if not profile.idle_holders:
        return None
    spec = profile.specs[0]
    request = profile.request_bytes(target_of(url).place, spec, True).decode("latin-1")
    how: dict[str, Any] = {"timeout": profile.timeout, "again": AGAIN, "request": request}
    holding = HoldingProcess(url, expect_status=spec.expect_status, **how)
    holding.ask("resize", profile.idle_holders)
    return holding


def main(argv: list[str]) -> int:
    """Hold what standard input says, until it ends."""
    raise_descriptors(math.inf)
    with HeldConnections(**json.loads(argv[0])) as connections:
        for line in sys.stdin:
            word, *numbers = line.split()
            answered = {}
            if word == "finish":
                answered = {"held": len(connections.finish())}
            elif numbers:
                getattr(connections, word)(int(numbers[0]))
            try:
                print(json.dumps(connections.report() | answered), flush=True)
            except BrokenPipeError:  # no caller is left to read the answer
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
