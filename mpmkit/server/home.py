"""The folder of a running server: its scoreboard, its logs, the key of --tls.

It is locked as long as a process of the server or its launcher lives. One without a lock was left by
SIGKILL: the next start of the same user removes it, and the key in it.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

PREFIX = "mpmkit-server-"
YOUNG = 60.0  # seconds in which a new folder may not be locked yet


def make() -> str:
    """A new folder, once those that are left from other servers are gone."""
    from tempfile import gettempdir, mkdtemp  # here: no child of a server needs them

    remove_left(gettempdir())
    return mkdtemp(prefix=PREFIX)


def hold(home: str) -> int:
    """A descriptor that locks a folder until all of its copies are closed."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def remove_left(where: str) -> None:
    """Remove this user's folders in `where` that no process holds."""
    from shutil import rmtree

    for entry in os.scandir(where):
        if not entry.name.startswith(PREFIX):
            continue
        try:
            st = entry.stat(follow_symlinks=False)
            if st.st_uid != os.geteuid() or time.time() - st.st_mtime < YOUNG:
                continue
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another start was faster
            continue
        with suppress(OSError):  # its server runs
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rmtree(entry.path, ignore_errors=True)
        os.close(fd)
