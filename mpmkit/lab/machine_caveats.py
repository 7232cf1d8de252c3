"""What figures from a small machine are good for.

Server, load generator and notebook share the machine. With two full cores the server has one for
itself; with fewer they take turns, and requests per second say as much about the generator as about
the server. `not_headline` says so; the control room, `measured_or_recorded` and the machine's table
show it with their figures.
"""

from __future__ import annotations

import math

from mpmkit.measure.records import Machine, machine

CORES = 2.0
MEMORY_MB = 2000


def share(here: Machine) -> tuple[float, float]:
    """(cores, MB of memory) that a process gets on a machine, the container's limits counted."""
    cores = min(here.cores, here.cpu_limit or here.cores)
    memory = min((mb for mb in (here.memory_mb, here.memory_limit_mb) if mb), default=math.inf)
    return cores, memory


def not_headline(here: Machine | None = None) -> str:
    """What not to quote from a machine (this one by default) with fewer than 2 cores or 2 GB, and
    what holds all the same; "" for a larger one."""
    cores, memory = share(here or machine())
    said = []
    if cores < CORES:
        said.append(
            f"{cores:g} core{'s' if cores != 1 else ''} for server, load and notebook together: don't "
            "quote requests per second, latencies or their ratios, the generator takes its share of "
            "them. Trust what happens and in which order: letters, forks, who waits, who is refused"
        )
    if memory < MEMORY_MB:
        said.append(
            f"{memory:,.0f} MB of memory: large pools are cut short, so don't quote how far one gets. "
            "Trust the memory of a process and of a connection (PSS)"
        )
    return "Not headline figures. " + ". ".join(said) + "." if said else ""
