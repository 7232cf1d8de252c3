"""What the load's tests share: command lines, run as a user runs them; waiting for a load and its end."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Misbehaving

from mpmkit.load import runner

from .waiting import poll_until

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
LOCUST = f"locust -f {runner.LOCUSTFILE}"


def argv(line: str) -> list[str]:
    """A line like "mpmkit load URL --users 2" for this Python; words are parted by blanks."""
    return [sys.executable, "-m", *line.split()]


def run(line: str, environ: dict[str, str] | None = None, **how: Any) -> Any:
    """Run it to its end; what it printed is captured."""
    how |= {"env": {**ENVIRON, **(environ or {})}, "timeout": 60}
    return subprocess.run(argv(line), capture_output=True, text=True, **how)


def in_a_network(setup: str, script: str) -> str:
    """What a script prints in a network namespace, after shell commands; skipped where none can be made."""
    up = f"ip link set lo up && {setup}"
    namespace = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    programs = shutil.which("unshare") and shutil.which("ip")
    if not programs or subprocess.run([*namespace, up], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    environ = {**ENVIRON, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    environ.pop("MPMKIT_TARGETS", None)
    command = [*namespace, f'{up} && exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environ)
    assert not done.returncode, done.stderr
    return done.stdout


def wait_for_load(server: Misbehaving, path: str = "GET /ok HTTP/1.0", requests: int = 10) -> None:
    """Return once so many requests have come. The server restarts its count after each look."""
    come = 0

    def enough() -> bool:
        nonlocal come
        come += server.counts().get(path, 0)
        return come >= requests

    poll_until(enough, "a load comes", 30)


def wait_for_silence(server: Misbehaving) -> None:
    """Return once nothing came for 0.3 s; what was still in the server's queue may come before."""
    heard = time.monotonic()

    def silent() -> bool:
        nonlocal heard
        if server.counts() != {"connections": 0}:
            heard = time.monotonic()
        return time.monotonic() - heard > 0.3

    poll_until(silent, "the load ends", 5)
