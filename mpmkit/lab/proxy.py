"""The way from the reader's browser to a server that a notebook started: on the loopback of the machine where the
kernel runs. On Binder or a JupyterHub that is not the browser's machine: there JUPYTERHUB_SERVICE_PREFIX is set
in the kernel's environment (/user/ann/), and jupyter-server-proxy passes /user/ann/proxy/PORT/... on.
"""

import os
from html import escape
from importlib.util import find_spec

from mpmkit.launcher import Server


class Link(str):
    """An address; a notebook shows it as a link that opens a new tab."""

    def _repr_html_(self) -> str:
        address = escape(str(self))
        return f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'


def status_link(server: Server, path: str = "/server-status") -> Link:
    """Where the reader's browser finds a page of the server; the status page by default.

    server  what `mpmkit.launch` returned
    path    begins with "/"; `/server-status?refresh=1` reloads itself every second

    Raises ValueError if the server has ended, or the path does not begin with "/"; RuntimeError
    behind a hub where jupyter-server-proxy is not installed: nothing would answer.
    """
    if not path.startswith("/"):
        raise ValueError(f"path: must begin with '/', not {path!r}; try '/{path}'")
    if not server.running:
        ask = "launch one, and ask while it runs (inside its `with` block)"
        raise ValueError(f"the {server.mpm} server has ended and has no page; {ask}")
    if not (prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")):
        return Link(f"{server.url}{path}")
    if find_spec("jupyter_server_proxy") is None:
        lacks = "this Jupyter runs behind a hub, and jupyter-server-proxy is not installed"
        remedy = f"no browser reaches port {server.port}; pip install jupyter-server-proxy"
        raise RuntimeError(f"{lacks}: {remedy}")
    return Link(f"{prefix.rstrip('/')}/proxy/{server.port}{path}")
