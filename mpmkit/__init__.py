"""mpmkit: Apache's prefork, worker and event request models as real servers in Python, and their measurement.

Everything public is named here and loaded on first use, so that a server process, which also imports
`mpmkit`, loads only what it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmkit._version import __version__

if TYPE_CHECKING:
    from mpmkit.launcher import Server, launch
    from mpmkit.load.runner import LoadRun, run_load
    from mpmkit.measure.capacity import capacity_table
    from mpmkit.measure.demand import demand_table
    from mpmkit.measure.memory import memory_of, memory_table
    from mpmkit.measure.monitor import watch
    from mpmkit.measure.qps import qps_table
    from mpmkit.measure.records import recorded
    from mpmkit.measure.sizing import max_request_workers_for
    from mpmkit.measure.sweep import sweep
    from mpmkit.measure.trace import Trace
    from mpmkit.policy.simulator import simulate

# Where each public name lives: name -> module.
_PUBLIC = {
    "launch": "mpmkit.launcher",
    "Server": "mpmkit.launcher",
    "LaunchError": "mpmkit.launcher",
    "run_load": "mpmkit.load.runner",
    "LoadRun": "mpmkit.load.runner",
    "qps_table": "mpmkit.measure.qps",
    "demand_table": "mpmkit.measure.demand",
    "capacity_table": "mpmkit.measure.capacity",
    "recorded": "mpmkit.measure.records",
    "memory_table": "mpmkit.measure.memory",
    "memory_of": "mpmkit.measure.memory",
    "max_request_workers_for": "mpmkit.measure.sizing",
    "simulate": "mpmkit.policy.simulator",
    "sweep": "mpmkit.measure.sweep",
    "watch": "mpmkit.measure.monitor",
    "Trace": "mpmkit.measure.trace",
    "DirectiveError": "mpmkit.config.directives",
    "MPMS": "mpmkit.config.directives",
    "lab": "",  # the subpackage itself
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'mpmkit' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    from importlib import import_module

    module = _PUBLIC[name]
    value = getattr(import_module(module), name) if module else import_module(f"mpmkit.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
