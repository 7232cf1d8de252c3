"""The folder of a running server: its scoreboard, its logs, the key of --tls.

It is locked as long as a process of the server or its launcher lives. One without a lock was left by
SIGKILL: the next start of the same user removes it, and the key in it.

The certificate is self-signed, for localhost: clients do not know it, and have to be configured to trust it
(`curl --cacert FILE`, `ssl.create_default_context(cafile=FILE)`) or not to ask (`curl -k`).
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from mpmkit.config.settings import DirectiveError

PREFIX = "mpmkit-server-"
YOUNG = 60.0  # seconds in which a new folder may not be locked yet
# For 30 days, with a key on a curve that every client knows.
MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
)


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


def self_signed(directory: str) -> tuple[str, str]:
    """(certificate, private key): files in `directory`, in PEM, the key for its owner's eyes only.

    For the names localhost, 127.0.0.1 and ::1. Raises DirectiveError when none could be made."""
    import subprocess

    certificate = os.path.join(directory, "server.crt")
    key = os.path.join(directory, "server.key")
    command = [*MAKE.split(), "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        text = "there is no openssl program to make a certificate with: install the openssl package"
        own = "or name your own with SSLCertificateFile and SSLCertificateKeyFile"
        raise DirectiveError(f"{text}, {own}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise DirectiveError(f"openssl made no certificate: {said[-1:] or error}") from None
    return certificate, key
