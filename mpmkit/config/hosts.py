"""Virtual hosts: which of them may answer at an address.

    <VirtualHost 127.0.0.1:80>   at this address and port
    <VirtualHost 127.0.0.1>      at this address, any port        } the first of these that exists
    <VirtualHost *:80>           any address, this port           } answers: a chain of hosts; the
    <VirtualHost *>              any address and port             } name selects one, else the first
    no <VirtualHost> at all      the server itself

`_default_` is `*`. The order within a chain is that of the file. The name selects a host
for each request: server/hosts.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mpmkit.config.directives import VirtualHost
from mpmkit.config.settings import DirectiveError, Host

Address = tuple[str, int]
Chains = dict[Address, list[VirtualHost]]


def addresses(host: Host) -> tuple[Address, ...]:
    """The addresses of a <VirtualHost>; a name stays a name. Raises DirectiveError."""
    found: list[Address] = []
    for word in host.addresses:
        name, colon, port = word.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]+|\*", port) or (":" in name and name[-1:] != "]"):
            name, port = word, "*"
        if port != "*" and not 0 < int(port[:9]) < 65536:
            text = f"<VirtualHost {word}>: a port is 1..65535, or * for any"
            raise DirectiveError(text, directive="VirtualHost", file=host.file, line=host.line)
        found.append((canonical_address(name.strip("[]")), 0 if port == "*" else int(port)))
    return tuple(found)


def canonical_address(text: str) -> str:
    """An address as the kernel writes it, "" for any; a name is left as it is."""
    if text in ("*", "0.0.0.0", "::") or text.lower() == "_default_":
        return ""
    if ":" in text:
        from ipaddress import IPv6Address  # here: few files need it, and every child would carry it

        with suppress(ValueError):
            return IPv6Address(text).compressed
    return text.lower()


def chains(
    hosts: Iterable[VirtualHost], resolve: Callable[[str], Iterable[str]] = lambda name: (name,)
) -> Chains:
    """The hosts of each (address, port). `resolve` gives the addresses of a name."""
    found: Chains = {}
    for host in hosts:
        for name, port in host.addresses:
            for address in resolve(name) if name else ("",):
                chain = found.setdefault((address, port), [])
                if host not in chain:
                    chain.append(host)
    return found


def chain_at(chains: Mapping[Address, Any], address: str, port: int) -> Any:
    """The chain that answers at an address, None where that is the server itself."""
    keys = ((address, port), (address, 0), ("", port), ("", 0))
    return next((chains[key] for key in keys if key in chains), None)


def speaks_tls(hosts: Sequence[VirtualHost], address: str, port: int, protocol: str) -> bool | None:
    """Whether a listening socket speaks TLS by the SSLEngine of the first host at its address; None
    where that is the server's to say. Raises DirectiveError if hosts at one socket differ."""
    found = chains(hosts)
    here = canonical_address(address) if address else ""
    first = list(chain_at(found, here, port) or ())[:1]
    if not here:  # hosts of single addresses share the socket
        first += [chain[0] for (_, other), chain in found.items() if other in (port, 0)]
    own = [host.directives.SSLEngine for host in first]
    engines = {protocol == "https" if engine is None else engine for engine in own}
    if len(engines) > 1:
        text = f"SSLEngine is On in one <VirtualHost> at port {port} and Off in another: give each a port"
        raise DirectiveError(text, directive="SSLEngine", file=first[0].file, line=first[0].line)
    return engines.pop() if engines else None
