"""A Jupyter server of the tests' own, and a browser to look at it."""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs._tools.render import find_browser
from support.servers import free_ports
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
    """The address of `python -m MODULE` that serves a folder below `base`; its log is next to the folder."""
    (port,) = free_ports(1)
    path = root.parent / f"{root.name}.log"
    address = f"http://127.0.0.1:{port}{base}"
    where = (f"--port={port}", f"--ServerApp.root_dir={root}", f"--ServerApp.base_url={base}/")
    argv = [sys.executable, "-m", module, *OPTIONS, *where, *options]
    environ = {**os.environ, "HOME": str(root.parent), **env}
    with open(path, "wb") as log:
        how = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(argv, env=environ, cwd=root, **how)

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
