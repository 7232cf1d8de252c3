"""A Jupyter server of the tests' own, and a browser to look at it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs._tools.render import find_browser
from support.waiting import poll_until

OPTIONS = (
    "--no-browser", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
    "--ServerApp.password=", "--ServerApp.allow_root=True",
)  # fmt: skip
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
# Playwright's event loop and Jupyter's sockets are theirs.
THEIR_WARNINGS = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@contextlib.contextmanager
def jupyter(module: str, root: Path, *options: str, base: str = "", **env: str) -> Iterator[str]:
    """The address of `python -m MODULE` that serves a folder, under the path `base`: on loopback, without
    a token, its log next to the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = root.parent / f"{root.name}.log"
    address = f"http://127.0.0.1:{port}{base}"
    where = (
        f"--port={port}",
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.base_url={base or '/'}",
    )
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *OPTIONS, *where, *options],
            env={**os.environ, "HOME": str(root.parent), **env},
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, path.read_text()[-2000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api", timeout=2).close()
            return True
        return False

    try:
        poll_until(answers, lambda: path.read_text()[-2000:], 40)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; the test is skipped without one."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here; apt install chromium, or set BROWSER_PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()
