"""What a running server has on disk: its PidFile, and its folder with its scoreboard, its logs, the key of --tls.

The PidFile is written to a temporary name and renamed, so that a reader sees a complete file or none. A killed
parent leaves a *stale* one, whose number may have been reused: httpd would signal a foreign process; here one
counts as a server only if its command line is a server's. A symbolic link in its place is refused.

The folder is locked as long as a process of the server or its launcher lives. One without a lock was left by
SIGKILL: the next start of the same user removes it, and the key in it.

The certificate is self-signed: clients have to trust it (`curl --cacert FILE`) or not to ask (`curl -k`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress

from mpmkit.config.settings import DirectiveError

COMMANDS = (b"serve", b"httpd")  # those that are servers
LONGEST = 64  # bytes of a file that can hold a process id; a longer one is something else
PREFIX = "mpmkit-server-"
YOUNG = 60.0  # seconds in which a new folder may not be locked yet
# For 30 days, with a key on a curve that every client knows.
MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
)


class PidFileError(Exception):
    """A PidFile that can't be read or written, or holds no process id; the text says what to do."""

    ah = "AH00058"


class PidFileWriteError(PidFileError):
    ah = "AH00099"


def read_pid(path: str) -> int | None:
    """The process id in a PidFile; None when there is no file. Raises PidFileError."""
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
    pid = read_pid(path)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
    except OSError:
        return None
    return pid if pid != os.getpid() and is_server_command(words) else None


def write_pid(path: str) -> int | None:
    """Make the PidFile ours; returns what a stale file said before, or None. Raises PidFileError."""
    stale = None
    with suppress(PidFileError):  # whatever it was, nothing runs under it
        stale = read_pid(path)
    temporary = f"{path}.{os.getpid()}"
    try:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link")  # another user's may lead anywhere
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        with open(temporary, "xb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(b"%d\n" % os.getpid())
        os.rename(temporary, path)
    except OSError as error:
        text = f"PidFile {path} cannot be written: {error.strerror}; name a file in a directory that exists "
        raise PidFileWriteError(f"{text}and may be written") from None
    return stale if stale != os.getpid() else None


def remove_pid(path: str) -> bool:
    """Take the PidFile away, if it is ours."""
    with suppress(PidFileError, OSError):
        if read_pid(path) == os.getpid():
            os.unlink(path)
            return True
    return False


def make() -> str:
    """A new folder, once those of this user that no process holds are gone."""
    from shutil import rmtree  # here: no child of a server needs them
    from tempfile import gettempdir, mkdtemp

    for entry in os.scandir(gettempdir()):
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
    return mkdtemp(prefix=PREFIX)


def hold(home: str) -> int:
    """A descriptor that locks a folder until all of its copies are closed."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def self_signed(directory: str) -> tuple[str, str]:
    """(certificate, private key): files in `directory`, in PEM, the key for its owner's eyes only,
    for the names localhost, 127.0.0.1 and ::1. Raises DirectiveError when none could be made."""
    import subprocess

    certificate, key = (os.path.join(directory, f"server.{end}") for end in ("crt", "key"))
    command = [*MAKE.split(), "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        why = "install the openssl package, or name your own with SSLCertificateFile and SSLCertificateKeyFile"
        text = f"there is no openssl program to make a certificate with: {why}"
        raise DirectiveError(text) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise DirectiveError(f"openssl made no certificate: {said[-1:] or error}") from None
    return certificate, key
