"""How many requests a second could this load's generator send at most? Asked of the fastest server at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import run_load
from mpmkit.measure.reference_servers import Nginx

PATH, LENGTH = "/index.html", 45

# The server's settings: connections for every client of WORKS, each for as long as it likes.
NGINX: dict[str, Any] = {"MaxKeepAliveRequests": 0, "MaxRequestWorkers": 4096}


def ceiling(profile: LoadProfile, seconds: float = 2.0) -> float:
    """Requests/s that this load's generator could do at most, as measured against the fastest server
    at hand: nginx, one worker process, the page of 45 bytes, no log. Where it was nginx that had no
    processor time left, what the generator used of its own is put up to a whole core.

    Users, connections and processes are the profile's, the rest is plain. Raises NotInstalled or
    ServerFailed if there is no nginx, LoadError if the generator fails.
    """
    plain = LoadProfile(
        path=PATH,
        users=profile.users,
        keep_alive=profile.keep_alive,
        requests_per_connection=profile.requests_per_connection,
        processes=profile.processes,
        duration=seconds,
        warmup_seconds=0.3,
    )
    with nginx(connections=max(NGINX["MaxRequestWorkers"], 2 * profile.users)) as server:
        run = run_load(server.url, profile=plain)
    return run.qps / min(1.0, max(0.05, run.generator_cpu))


def nginx(connections: int = NGINX["MaxRequestWorkers"]) -> Nginx:
    """The fastest server at hand, ready for `with`: one process of nginx, our pages, no log, every
    setting that makes it faster. Raises NotInstalled."""
    pages = Path(__file__).resolve().parents[1] / "htdocs"
    return Nginx(
        document_root=pages,
        workers=1,
        access_log=False,
        tuned=True,
        **{**NGINX, "MaxRequestWorkers": connections},
    )
