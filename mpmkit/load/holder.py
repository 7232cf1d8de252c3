"""Held connections as a process, so that thousands of sockets and their memory are not the caller's.

    with HoldingProcess(server.url, "idle") as holding:
        holding.hold(5000)["held"]

The process, ``python -m mpmkit.load.holder JSON``, takes the arguments of `HeldConnections` and then
lines on standard input; it answers each with a `report` as a line of JSON:

    hold N      have N connections held, and come back when they are, or nothing moves any more
    resize N    have N connections, and come back when they were begun
    finish      send what half-sent requests lack; held: how many were answered
    report      how it is now

It ends with its standard input, so also if the process that started it is killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

from mpmkit.load.connections import HeldConnections
from mpmkit.load.preflight import raise_descriptors
from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import target_of

AGAIN = 0.5  # seconds after which a background client whose connection ended comes back


class HoldingProcess:
    """HeldConnections in a process of its own, for the length of a `with` block.

    Arguments as of HeldConnections. Its methods raise RuntimeError if the process has ended.
    """

    def __init__(self, url: str, mode: str = "idle", **how: Any) -> None:
        self._how = json.dumps({"url": url, "mode": mode} | how)
        self._process: Any = None

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> HoldingProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mpmkit.load.holder", self._how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        with contextlib.suppress(OSError):  # it may have ended before it read everything
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def hold(self, number: int) -> dict[str, Any]:
        """As of HeldConnections."""
        return self._ask(f"hold {number}")

    def resize(self, number: int) -> dict[str, Any]:
        """As of HeldConnections."""
        return self._ask(f"resize {number}")

    def held(self) -> int:
        """How many are held now."""
        return int(self.report()["held"])

    def finish(self) -> dict[str, Any]:
        """Complete half-sent requests and wait for the answers: `held` of the report counts them."""
        return self._ask("finish")

    def report(self) -> dict[str, Any]:
        """As of HeldConnections."""
        return self._ask("report")

    def _ask(self, command: str) -> dict[str, Any]:
        line = ""
        with contextlib.suppress(OSError):
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"the process that holds the connections ended with {code}")
        return json.loads(line)


class Background:
    """The background clients of `profile`, for the length of a `with` block: each kind in one process.

    They are started before the users, and what they do costs the generator no time.
    """

    def __init__(self, url: str, profile: LoadProfile) -> None:
        place, idle = target_of(url).place, "idle" if profile.idle_request else "silent"
        modes = {"idle": (idle, profile.idle_holders), "slow": ("slow", profile.slow_readers)}
        self._kinds: dict[str, tuple[HoldingProcess, int]] = {}
        for name, (mode, count) in modes.items():
            process = HoldingProcess(
                url,
                mode,
                request=profile.request_bytes(place, keep=name == "idle").decode("latin-1"),
                rate=profile.read_rate,
                expect_status=profile.specs[0].expect_status,
                timeout=profile.timeout,
                again=AGAIN,
                ca_file=profile.ca_file,
            )
            if count:
                self._kinds[name] = process, count
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Background:
        for process, count in self._kinds.values():
            self._stack.enter_context(process).resize(count)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def totals(self) -> Counter[str]:
        """What they did until now, like {"idle opened": 5}; of a kind that died, nothing."""
        made: Counter[str] = Counter()
        for name, (process, _) in self._kinds.items():
            with contextlib.suppress(RuntimeError):
                totals = process.report()["totals"]
                made.update({f"{name} {what}": count for what, count in totals.items()})
        return made


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
