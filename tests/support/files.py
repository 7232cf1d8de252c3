"""Document roots, and the files in them."""

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
RECORDED = 1704164645  # Tue, 02 Jan 2024 03:04:05 GMT: the time of the recorded httpd's files


def write(path: Path, data: bytes | str, mtime: float = RECORDED) -> Path:
    """A file with a time of last change; its directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, (mtime, mtime))
    return path


def tree(where: Path, files: Mapping[str, bytes | str | Path]) -> Path:
    """A folder with these files, by name; a Path is what a symbolic link leads to."""
    for name, data in files.items():
        if isinstance(data, Path):
            (where / name).unlink(missing_ok=True)
            (where / name).symlink_to(data)
        else:
            write(where / name, data)
    return where


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    """A file that may be run."""
    write(path, text).chmod(mode)
    return path


def open_to_all(folder: Path) -> None:
    """Other users (www-data, php-fpm's) may enter this folder of pytest's and read what is in it."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(place.stat().st_mode | 0o555)
    top = Path(tempfile.gettempdir())
    for place in folder.parents:
        if place.is_relative_to(top) and place != top and place.stat().st_uid == os.geteuid():
            place.chmod(place.stat().st_mode | 0o055)


def recorded_root(where: Path) -> Path:
    """The document root that the recordings in data/raw were made from."""
    (where / "noindex").mkdir(parents=True)
    return tree(where, {
        "index.html": "<html><body><h1>It works!</h1></body></html>\n", "empty.txt": "",
        "file.txt": "0123456789abcdefghijklmnopqrstuvwxyz\n", "sub/index.html": "sub index\n",
    })  # fmt: skip


BIG = b"".join(b"%08d\n" % i for i in range(0, 5_000_000, 9))[:5_000_000]

# Holds its worker until the file named by the query exists. The cap is for a test that failed.
GATE = """
import os, time

def application(environ, start_response):
    end = time.monotonic() + 30
    while not os.path.exists(environ["QUERY_STRING"]) and time.monotonic() < end:
        time.sleep(0.005)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

# The pid of the child that serves it.
PID = GATE[: GATE.index("    end =")] + GATE[GATE.index("    body =") :]
# One long call of C code that never lets go of the interpreter: no Python signal handler runs meanwhile.
BUSY = PID.replace("    body =", "    sum(range(3_000_000_000))\n    body =")


@cache
def site() -> Path:
    """A document root for all tests of this process: the recorded one, and big.bin, gate.py, busy.py, pid.py."""
    root = recorded_root(Path(tempfile.mkdtemp(prefix="mpmkit-test-")))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return tree(root, {"big.bin": BIG, "gate.py": GATE, "busy.py": BUSY, "pid.py": PID})


def section(what: str, *lines: str) -> str:
    """`<what>` with these lines in it."""
    return "\n".join([f"<{what}>", *lines, f"</{what.split()[0]}>"])


def conf(*lines: str) -> Path:
    """An httpd.conf with these lines, for as long as the tests of this process run."""
    return write(site() / f"{uuid.uuid4().hex}.conf", "\n".join(lines) + "\n")


class Gate:
    """What `/gate.py` waits for."""

    def __init__(self) -> None:
        self._file = site() / f"gate-{uuid.uuid4().hex}"
        self.path = f"/gate.py?{self._file}"

    def open(self) -> None:
        self._file.touch()
