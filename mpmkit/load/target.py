"""Where a load may go: loopback, and hosts that their owner names in the environment."""

import ipaddress
import os
from typing import NamedTuple
from urllib.parse import urlsplit

TARGETS_VARIABLE = "MPMKIT_TARGETS"
"""Environment variable that names hosts beyond loopback that are yours to load (docs/LOAD.md)."""


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
    exactly those hosts, no pattern, and nothing in mpmkit sets it.

    Raises ValueError, with the remedy, for anything else.
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
        raise ValueError(
            f"target: {host} is not this machine's loopback; load goes to 127.0.0.1, [::1] or localhost "
            f"only, and to hosts that you name as yours in {TARGETS_VARIABLE} (see docs/LOAD.md)"
        )
    default = 443 if parts.scheme == "https" else 80
    return Target(parts.scheme, host, default if port is None else port, loopback)
