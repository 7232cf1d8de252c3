"""Locust's process: started in a session of its own, ended by a signal or killed; what it reports and says.

Two pipes lead to it. By one it reports. Of the other it holds one end and only we the other: it ends when
we do, however we end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mpmkit.load.reports import Collector
from mpmkit.load.result import LoadRun
from mpmkit.load.windows import OnTick

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
    """A generator that writes its log into `folder`. It is gone when the `with` block is."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.log_path = folder / "log"
        # Locust's own environment variables would change a run behind the profile's back.
        own = ("LOCUST_", "MPMKIT_LOAD_")
        environ = {name: text for name, text in os.environ.items() if not name.startswith(own)}
        self.reports, theirs = os.pipe()
        life, self._life = os.pipe()
        environ |= {"MPMKIT_LOAD_REPORTS_FD": str(theirs), "MPMKIT_LOAD_LIFE_FD": str(life)}
        with contextlib.suppress(OSError):  # room for a second, if the system grants it
            fcntl.fcntl(self.reports, fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd=folder,
                    env=environ,
                    pass_fds=(theirs, life),
                    start_new_session=True,
                )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs)
            os.close(life)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._close()

    def _close(self) -> None:
        os.close(self.reports)
        os.close(self._life)

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be
        reused."""
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
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def failure(self) -> LoadError:
        """Why it gave no result, once it has ended: in its own last words."""
        with open(self.log_path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            log = file.read().decode(errors="replace").strip()
        errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
        last = errors or [line.strip() for line in log.splitlines() if line.strip()]
        words = " | ".join(last[-3:]) or "it said nothing"
        code = self.process.returncode
        return LoadError(f"Locust ended with exit code {code} and no result: {words}", log)


class Reader:
    """Reads reports from a pipe, adds them up and passes them on."""

    def __init__(
        self, fd: int, collector: Collector, on_progress: Progress | None, on_tick: OnTick | None
    ) -> None:
        self._fd, self._collector = fd, collector
        self._on_progress, self._on_tick = on_progress, on_tick
        self._unread = b""
        self.at_end = self.reported = False

    def read(self, seconds: float) -> None:
        """What comes, waiting for it at most so long."""
        if self.at_end or not select.select([self._fd], [], [], seconds)[0]:
            return
        data = os.read(self._fd, 1 << 20)
        self.at_end = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        self.reported = self.reported or bool(lines)
        for line in lines:
            tick = self._collector.add(json.loads(line))
            if self._on_tick is not None and tick is not None and tick.end > tick.begin:
                self._on_tick(tick)
        if lines and self._on_progress is not None and self._collector.seconds:
            self._on_progress(self._collector.requests, self._collector.seconds)

    def rest(self) -> None:
        """What the generator left in the pipe; no more is passed on than added up."""
        self._on_progress = self._on_tick = None
        while not self.at_end and select.select([self._fd], [], [], 0)[0]:
            self.read(0)
