"""What the notebooks import: the control room, the sweep panel, a watch, colours, timelines.

Nothing here measures. It shows what `mpmkit.measure` and `mpmkit.load` give, and what a server's
scoreboard says. Modules are loaded on first use.
"""

# Where each name lives: name -> module, with another name there behind a colon.
_PUBLIC = {
    "control_room": "mpmkit.lab.panel",
    "sweep_panel": "mpmkit.lab.sweep_view",
    "Room": "mpmkit.lab.room",
    "KeepAliveClients": "mpmkit.load.connections",
    "Crowd": "mpmkit.load.connections:KeepAliveClients",  # what notebooks call it
    "watch": "mpmkit.measure.monitor:Watch",
    "Recording": "mpmkit.measure.recording",
    "ScoreboardSnapshot": "mpmkit.measure.recording",
    "Picture": "mpmkit.measure.recording:ScoreboardSnapshot",
    "measured_or_recorded": "mpmkit.lab.replay",
    "recorded": "mpmkit.lab.replay",
    "tracer": "mpmkit.lab.tracing",
    "timeline": "mpmkit.lab.plots",
    "status_link": "mpmkit.lab.proxy",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        offers = f"it offers {', '.join(_PUBLIC)}"
        raise AttributeError(f"module 'mpmkit.lab' has no attribute {name!r}; {offers}")
    from mpmkit.config.extras import require

    module, _, other = _PUBLIC[name].partition(":")
    value = getattr(require(module), other or name)
    globals()[name] = value
    return value
