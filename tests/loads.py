"""What the load's tests share: command lines, run as a user runs them; waiting for a load and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from misbehaving import Misbehaving

from mpmkit.load import runner

ROOT = Path(__file__).resolve().parent.parent
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
LOCUST = f"locust -f {runner.LOCUSTFILE}"


def argv(line: str) -> list[str]:
    """A line like "mpmkit load URL --users 2" for this Python; words are parted by blanks."""
    return [sys.executable, "-m", *line.split()]


def run(line: str, environ: dict[str, str] | None = None, **how: Any) -> Any:
    """Run it to its end; what it printed is captured."""
    environ = {**ENVIRON, **(environ or {})}
    return subprocess.run(
        argv(line), capture_output=True, text=True, env=environ, timeout=60, **how
    )


def wait_for_load(server: Misbehaving, path: str = "GET /ok HTTP/1.0") -> None:
    until = time.monotonic() + 30
    while server.counts().get(path, 0) < 10:
        assert time.monotonic() < until, "no load came"
        time.sleep(0.05)


def wait_for_silence(server: Misbehaving) -> None:
    """Return once nothing came for 0.3 s; what was still in the server's queue may come before."""
    until = time.monotonic() + 5
    server.counts()
    time.sleep(0.3)
    while server.counts() != {"connections": 0}:
        assert time.monotonic() < until, "the load goes on"
        time.sleep(0.3)
