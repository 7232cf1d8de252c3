"""The PidFile: how a later command finds a server that runs in the background.

One line, the parent's process id. It is written to a temporary name and renamed, so that a reader sees
a complete file or none. A killed parent leaves a *stale* one, whose number may have been reused: httpd would
signal a foreign process; here one counts as a server only if its command line is a server's. A symbolic
link in the file's place is refused: another user may have made it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

COMMANDS = (b"serve", b"httpd")  # those that are servers
LONGEST = 64  # bytes of a file that can hold a process id; a longer one is something else


class PidFileError(Exception):
    """The file can't be read, is no PidFile, or can't be written; the text says what to do."""

    ah = "AH00058"


class PidFileWriteError(PidFileError):
    ah = "AH00099"


def read(path: str) -> int | None:
    """The process id in the file; None when there is no file. Raises PidFileError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            text = file.read(LONGEST) or b""
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise PidFileError(f"PidFile {path} cannot be read: {why}") from None
    number = text.strip()
    if not number.isdigit() or len(text) == LONGEST or not 0 < int(number) < 1 << 31:
        raise PidFileError(f"PidFile {path} holds no process id")
    return int(number)


def is_server_command(words: list[bytes]) -> bool:
    """Whether a command line is `python -m mpmkit serve`, `python /bin/mpmkit httpd` or the like."""
    words = [*words, *[b""] * 4]
    if not os.path.basename(words[0]).startswith(b"python"):
        return False
    while words[1].startswith(b"-") and words[1] not in (b"-m", b"-c"):
        del words[1 : 3 if words[1] in (b"-X", b"-W") else 2]  # the interpreter's own options
    module = words[1] == b"-m"
    name, command = words[1 + module : 3 + module]
    return (name if module else os.path.basename(name)) == b"mpmkit" and command in COMMANDS


def running(path: str) -> int | None:
    """The server that the file names, if it still runs. Our own process does not count: a container's
    first one has the same number each time. Raises PidFileError."""
    pid = read(path)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
    except OSError:
        return None
    return pid if pid != os.getpid() and is_server_command(words) else None


def write(path: str) -> int | None:
    """Make it ours; returns what a stale file said before, or None. Raises PidFileError."""
    stale = None
    with suppress(PidFileError):  # whatever it was, nothing runs under it
        stale = read(path)
    temporary = f"{path}.{os.getpid()}"
    try:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link")
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        with open(temporary, "xb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(b"%d\n" % os.getpid())
        os.rename(temporary, path)
    except OSError as error:
        where = "name a file in a directory that exists and may be written"
        text = f"PidFile {path} cannot be written: {error.strerror}; {where}"
        raise PidFileWriteError(text) from None
    return stale if stale != os.getpid() else None


def remove(path: str) -> bool:
    """Take it away, if it is ours."""
    with suppress(PidFileError, OSError):
        if read(path) == os.getpid():
            os.unlink(path)
            return True
    return False
