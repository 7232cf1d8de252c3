"""Virtual hosts: which of them may answer at an address.

    <VirtualHost 127.0.0.1:80>   at this address and port
    <VirtualHost 127.0.0.1>      at this address, any port        } the first of these that exists
    <VirtualHost *:80>           any address, this port           } answers: a chain of hosts; the
    <VirtualHost *>              any address and port             } name selects one, else the first
    no <VirtualHost> at all      the server itself

`_default_` is `*`. A chain has the order of the file; server/hosts.py selects by the name of a request.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mpmkit.config.directives import VirtualHost
from mpmkit.config.settings import DirectiveError, Host, Setting
from mpmkit.config.values import ListenAddress

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


def tls_sockets(values: Mapping, hosts: Sequence[VirtualHost]) -> tuple[ListenAddress, ...]:
    """Listen, with "https" just for the sockets that speak TLS: by the SSLEngine of the first host at their
    address, or else by the server's. Raises DirectiveError if hosts at one socket differ."""
    engine, listen = values["SSLEngine"], values["Listen"]
    everywhere = engine and not any(one.protocol == "https" for one in listen)
    files = [values["SSLCertificateFile"], *(host.directives.SSLCertificateFile for host in hosts)]
    found, sockets = chains(hosts), []
    for one in listen:
        # Debian's file has 443 before there is a site for it: that is HTTP, as by httpd.
        https = one.protocol == "https" and bool(engine or any(files) or one.port != 443)
        here = canonical_address(one.address) if one.address else ""
        first = list(chain_at(found, here, one.port) or ())[:1]
        if not here:  # hosts of single addresses share the socket
            first += [chain[0] for (_, port), chain in found.items() if port in (one.port, 0)]
        own = [host.directives.SSLEngine for host in first]
        tls = {https if on is None else on for on in own}
        tls = tls or {everywhere or (engine is not False and https)}
        if len(tls) > 1:
            text = f"SSLEngine is On in one <VirtualHost> at port {one.port} and Off in another: give each a port"
            where = Setting("SSLEngine", (), first[0].file, first[0].line)
            raise DirectiveError.at(where, text)
        sockets.append(replace(one, protocol="https" if tls.pop() else "http"))
    return tuple(sockets)
