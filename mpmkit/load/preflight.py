"""What a load needs before it starts: a target that is yours, certificates to trust, file descriptors; and the
meaning of connection errors.
"""

import contextlib
import errno
import ipaddress
import math
import os
import resource
import ssl
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

OWN_FILES = 128  # that a generator process has open besides connections: Locust's thirty, and room
LOOPBACK_SOURCES = 200  # addresses that it goes through, from 127.0.0.1 on, when ports run out

TARGETS_VARIABLE = "MPMKIT_TARGETS"  # names hosts beyond loopback that are yours (docs/LOAD.md)


class Target(NamedTuple):
    """Where a load goes: scheme ("http" or "https"), host, port, and whether it is loopback."""

    scheme: str
    host: str
    port: int
    loopback: bool

    @property
    def place(self) -> str:
        """host:port, as in a Host field."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL without a path."""
        return f"{self.scheme}://{self.place}"


def target_of(url: object) -> Target:
    """The target of ``http://HOST:PORT`` or ``https://HOST:PORT``.

    HOST is this machine's loopback: a load generator that accepts any target is a weapon. To measure
    between two machines of your own, name them in the environment, ``MPMKIT_TARGETS=10.0.0.2,lab.example``:
    exactly those hosts, no pattern, and nothing in mpmkit sets it. Raises ValueError with the remedy for others.
    """
    example = "give one like http://127.0.0.1:8080"
    if not isinstance(url, str):
        raise ValueError(f"target: must be a server or its URL, not {url!r}; {example}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target: {url!r} is not a URL ({error}); {example}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"target: {url!r} is not an http or https URL; {example}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"target: {url!r} is more than a host and a port; give the path as path=")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    yours = os.environ.get(TARGETS_VARIABLE, "").lower().split(",")
    if not loopback and host not in map(str.strip, yours):
        only = "load goes to 127.0.0.1, [::1] or localhost only, and to hosts that you name as yours in"
        named = f"{TARGETS_VARIABLE} (see docs/LOAD.md)"
        raise ValueError(f"target: {host} is not this machine's loopback; {only} {named}")
    default = 443 if parts.scheme == "https" else 80
    return Target(parts.scheme, host, default if port is None else port, loopback)


def tls_context(ca_file: str | None, loopback: bool) -> ssl.SSLContext:
    """How certificates are checked: against `ca_file` if given; else not at all on loopback (a test server's are
    its own), and against the system's elsewhere. Raises ValueError for a file that holds no certificates."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is not None:
        try:
            made.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"ca_file: {ca_file}: {error.strerror or error}") from None
    elif loopback:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_default_certs()
    made.set_alpn_protocols(["http/1.1"])
    return made


def describe(error: OSError) -> str:
    """What a connection that could not be opened means, and the remedy."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptors are left; raise the limit (ulimit -n) or use fewer connections"
    if error.errno == errno.EADDRNOTAVAIL:
        wait = "wait a minute for those in TIME_WAIT, or use fewer connections"
        return f"no local ports are left (net.ipv4.ip_local_port_range); {wait}"
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
