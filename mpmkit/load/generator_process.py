"""A generator's process: started in a session of its own, ended by a signal or killed, its last words."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpmkit.load.result import LoadRun

Progress = Callable[[int, float], None]
"""Called with (requests done, seconds since the first that counts), some four times a second."""

STARTUP = 30.0
"""Seconds granted to a generator for starting and ending, in addition to the profile's time limit."""

GRACE = 1.2
"""Seconds between asking a generator to end and killing it. With what Python needs to get there, a
Ctrl-C is over within two seconds."""


class LoadError(RuntimeError):
    """The generator could not run, or died. The text says what happened; `log` is what it
    printed."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run. `run` is what had been measured until then, or None."""

    def __init__(self, run: LoadRun | None) -> None:
        super().__init__("the load was interrupted")
        self.run = run


class Generator:
    """A child process in a session of its own, which is gone when the `with` block is."""

    def __init__(self, argv: list[str], folder: Path, **how: Any) -> None:
        self.log_path = folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                **how,
            )
        self.rusage: Any = None

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be
        reused."""
        if self.process.returncode is not None:
            return True
        return (
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )

    def ask_to_end(self, number: int) -> None:
        """Send a signal to all its processes and wait a moment for them to write what they have."""
        self._signal(number)
        until = time.monotonic() + GRACE
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)

    def log(self) -> str:
        """The end of what it printed on standard error."""
        with open(self.log_path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return file.read().decode(errors="replace").strip()

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def _kill(self) -> None:
        # Also after a regular end: whatever its leader left behind goes with it.
        self._signal(signal.SIGKILL)
        if self.process.returncode is None:
            _, status, self.rusage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)


def last_words(log: str, lines: int = 3) -> str:
    errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
    said = errors or [line.strip() for line in log.splitlines() if line.strip()]
    return " | ".join(said[-lines:]) if said else "it said nothing"


def scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="mpmkit-load-")
    except OSError as error:
        raise LoadError(
            f"cannot make a folder in {tempfile.gettempdir()}: {error.strerror}; set "
            f"TMPDIR to another one"
        ) from None
