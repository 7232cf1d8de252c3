"""What a load needs from the machine: file descriptors; and the meaning of connection errors.

Towards one server a client can vary only its address and port, some 28,000, and the side that closes
first keeps a connection's addresses for a minute (TIME_WAIT). docs/LOAD.md says how the generator avoids that.
"""

import contextlib
import errno
import math
import os
import resource
from collections.abc import Iterator

OWN_FILES = 128  # that a generator process has open besides connections: Locust's thirty, and room
LOOPBACK_SOURCES = 200  # addresses that it goes through, from 127.0.0.1 on, when ports run out


def describe(error: OSError) -> str:
    """What a connection that could not be opened means, and the remedy."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptors are left; raise the limit (ulimit -n) or use fewer connections"
    if error.errno == errno.EADDRNOTAVAIL:
        none = "no local ports are left (net.ipv4.ip_local_port_range)"
        return f"{none}; wait a minute for those in TIME_WAIT, or use fewer connections"
    return f"a connection failed: {os.strerror(error.errno or errno.EIO)}"


def _hard_limit() -> float:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return math.inf if hard == resource.RLIM_INFINITY else hard


def too_few_descriptors(need: int) -> str:
    """Why a process here cannot have `need` file descriptors, with the remedy; "" if it can."""
    if (hard := _hard_limit()) >= need:
        return ""
    few = f"{need:,} file descriptors are needed and the hard limit is {hard:,} (ulimit -Hn)"
    return f"{few}; use fewer connections, or raise it"


def raise_descriptors(need: float) -> tuple[int, int]:
    """Let this process have `need` descriptors, as far as the hard limit goes; the limits until now."""
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = int(min(need, _hard_limit(), 1 << 20))
    if soft != resource.RLIM_INFINITY and soft < more:
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return before


@contextlib.contextmanager
def descriptors(need: int) -> Iterator[None]:
    """Let what is started inside have `need` descriptors, as far as the hard limit goes."""
    before = raise_descriptors(need)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
