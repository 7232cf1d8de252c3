"""Locust's process: started in a session of its own, ended by a signal or killed; what it reports and says.

It needs no file on disk: the profile and the log are in memory (memfd_create). It reports through one
pipe. Of a second pipe it holds one end and only this process the other: it ends when this process does.
"""

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from mpmkit.load.result import LoadRun

Progress = Callable[[int, float], None]
"""Called with (requests done, seconds since the first that counts), some four times a second."""

STARTUP = 30.0  # seconds for starting and ending, in addition to the profile's time limit
GRACE = 1.2  # seconds from asking it to end to killing it: a Ctrl-C is over within two


class LoadError(RuntimeError):
    """The generator could not run, or died. The text says what happened."""


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run. `run` is what had been measured until then, or None."""

    def __init__(self, run: LoadRun | None) -> None:
        super().__init__("the load was interrupted")
        self.run = run


class Generator:
    """A generator, which is gone when the `with` block is. profile: as JSON; it finds it as a file."""

    def __init__(self, argv: Sequence[str], profile: str) -> None:
        # Locust's own environment variables would change a run behind the profile's back.
        own = ("LOCUST_", "MPMKIT_LOAD_")
        environ = {name: text for name, text in os.environ.items() if not name.startswith(own)}
        self._log, given = os.memfd_create("log"), os.memfd_create("profile")
        os.write(given, profile.encode())
        self._reports, theirs = os.pipe()
        life, self._life = os.pipe()
        environ |= {"MPMKIT_LOAD_REPORTS_FD": str(theirs), "MPMKIT_LOAD_LIFE_FD": str(life)}
        with contextlib.suppress(OSError):  # room for a second, if the system grants it
            fcntl.fcntl(self._reports, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._unread = b""
        self.at_end = False  # of its reports
        try:
            null, passed = subprocess.DEVNULL, (given, theirs, life)
            pipes: Any = {"stdin": null, "stdout": null, "stderr": self._log, "pass_fds": passed}
            place: Any = {"cwd": "/", "env": environ}  # where no locust.conf is
            command = [*argv, "--load-profile", f"@/dev/fd/{given}"]
            self.process = subprocess.Popen(command, **pipes, **place, start_new_session=True)
        except BaseException:
            self._close()
            raise
        finally:
            for fd in (given, theirs, life):
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._close()

    def _close(self) -> None:
        for fd in (self._log, self._reports, self._life):
            os.close(fd)

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """The reports that come, waiting for the first of them at most so long."""
        if self.at_end or not select.select([self._reports], [], [], seconds)[0]:
            return []
        data = os.read(self._reports, 1 << 20)
        self.at_end = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def rest(self) -> Iterator[dict[str, Any]]:
        """The reports that it left."""
        while not self.at_end and select.select([self._reports], [], [], 0)[0]:
            yield from self.read(0)

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be reused."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, how) is not None

    def ask_to_end(self) -> None:
        """Signal all its processes and wait a moment for them to write what they have."""
        self._signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)

    def kill(self) -> None:
        """End it. Also after a regular end: whatever its leader left behind goes with it."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def failure(self) -> LoadError:
        """Why it gave no result, once it has ended: in its own last words."""
        start = max(0, os.fstat(self._log).st_size - 8192)
        log = os.pread(self._log, 8192, start).decode(errors="replace").strip()
        errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
        last = errors or [line.strip() for line in log.splitlines() if line.strip()]
        words = " | ".join(last[-3:]) or "it said nothing"
        code = self.process.returncode
        return LoadError(f"Locust ended with exit code {code} and no result: {words}")
