"""Python servers to compare with, configured as close to the directives as possible: gunicorn, uvicorn, waitress,
granian and fastpysgi.

    with Gunicorn("gthread", document_root=pages, ThreadsPerChild=25, MaxRequestWorkers=400) as peer:
        measure(peer.url)

Each is its own program in a process group of its own, like those of `measure/reference_servers.py`: it comes from
the extra `rivals` (pip install 'mpmkit[rivals]'), and nothing of it is imported here. All serve the
same files and scripts (`peer_apps.py`) and write a line an answer into an access log, as httpd does.

Equivalent settings:

| directive | gunicorn sync | gunicorn gthread | uvicorn | waitress |
|---|---|---|---|---|
| stands for | prefork | worker (kept-alive connections it parks, as event does) | event | worker |
| MaxRequestWorkers | workers, at most 2 a core and 1 | workers x threads, workers at most so | - | - |
| ThreadsPerChild | - | threads | - | threads of its one process |
| KeepAliveTimeout | - (closes after each answer) | keepalive | timeout_keep_alive | channel_timeout |
| KeepAlive Off | always | keepalive 0 | Connection: close | the client asks to close |
| MaxKeepAliveRequests | - | - | - | - |
| MaxConnectionsPerChild | max_requests | max_requests | limit_max_requests | - |
| ListenBacklog | backlog | backlog | backlog | backlog |
| CustomLog … common | accesslog | accesslog | a log configuration | written by the application |
| one process a core | | | workers | no: it has one process |

granian (HTTP in Rust) and fastpysgi (HTTP in C, on libuv) run the same WSGI application, in one process a core:

| directive | granian | fastpysgi |
|---|---|---|
| stands for | worker | event |
| ThreadsPerChild | blocking_threads | - (one thread a process) |
| KeepAlive Off | no-http1-keep-alive | allow_keepalive |
| KeepAliveTimeout | - (30 s for a head) | next_req_timeout |
| ListenBacklog | backlog | backlog |
| CustomLog … common | access-log-fmt, without a length | written by the application |

A server gets the number of processes that its documentation recommends (gunicorn: two per
core plus one; uvicorn: one per core): one gunicorn worker for each of 250 clients would be slow,
and a straw man. None of them grows or shrinks, so StartServers and the spares do not apply.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpmkit.measure import competitors
from mpmkit.measure.reference_servers import NotInstalled, ReferenceServer

EXTRA = "pip install 'mpmkit[rivals]'"
WORKER_CLASSES = ("sync", "gthread")
CONNECTIONS = 20_000  # clients of a load profile at most: no limit of theirs is meant to count


class Peer(ReferenceServer):
    """A Python package that serves. Raises NotInstalled if this Python does not have it.

    `directives` are Apache's, as `mpmkit.launch` takes them; one without a counterpart (the table
    above) changes nothing.
    """

    package = ""
    parts: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        document_root: str | os.PathLike[str],
        access_log: bool = True,
        processes: int | None = None,
        **directives: Any,
    ) -> None:
        super().__init__(document_root=document_root, access_log=access_log)
        if importlib.util.find_spec(self.package) is None:
            raise NotInstalled(self.package, EXTRA)
        self._given = {name.lower(): value for name, value in directives.items()}
        self._cores = len(os.sched_getaffinity(0))
        self._processes = processes
        self._token = secrets.token_hex(8)

    @property
    def version(self) -> str:
        """As installed: `gunicorn 23.0.0`, with the parts that it uses where it finds them."""
        found = [self.package, *filter(importlib.util.find_spec, self.parts)]
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in found)

    def _number(self, name: str, default: int) -> int:
        value = self._given.get(name.lower())
        return default if value is None else int(float(str(value)))

    @property
    def _keeps_alive(self) -> bool:
        return str(self._given.get("keepalive", True)).lower() not in {"false", "off"}

    @property
    def _keep_alive_seconds(self) -> int:
        """They know whole seconds only; a fraction becomes the next one."""
        seconds = float(str(self._given.get("keepalivetimeout", 5)))
        return max(1, int(-(-seconds // 1))) if self._keeps_alive else 0

    def _environment(self) -> dict[str, str]:
        found = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("GUNICORN_", "UVICORN_", "MPMKIT_PEER"))
        }
        here = str(Path(__file__).resolve().parents[1])
        path = os.environ.get("PYTHONPATH")
        return {
            **found,
            "PYTHONPATH": f"{here}:{path}" if path else here,
            "MPMKIT_PEER_ROOT": str(self.document_root),
            "MPMKIT_PEER_TOKEN": self._token,
            "MPMKIT_PEER_LOG": str(self.root / "access_log"),
            "MPMKIT_PEER_KEEPALIVE": str(int(self._keeps_alive)),
        }

    def _log_config(self, access: str, error: str, line: dict[str, Any]) -> str:
        """A configuration of `logging` for two loggers of a server; line: the format of the first one's."""
        handlers, loggers = {}, {}
        for name, logger in (("access", access), ("error", error)):
            handlers[name] = {
                "class": "logging.FileHandler",
                "filename": str(self.root / f"{name}_log"),
                "delay": True,
            }
            loggers[logger] = {
                "handlers": [name],
                "level": "INFO" if name == "access" else "WARNING",
                "propagate": False,
            }
        handlers["access"]["formatter"] = "line"
        made = {"version": 1, "disable_existing_loggers": False, "formatters": {"line": line}}
        return json.dumps(made | {"handlers": handlers, "loggers": loggers})

    def _is_ready(self) -> bool:
        """It answers, with the token that only this one knows."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/mpmkit-ready", headers={"Connection": "close"})
            return connection.getresponse().read().decode() == self._token
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Gunicorn(Peer):
    """gunicorn with its `sync` or `gthread` workers; `processes` is its number of workers."""

    package = "gunicorn"
    config_name = "gunicorn.conf.py"

    def __init__(self, worker_class: str, **how: Any) -> None:
        super().__init__(**how)
        if worker_class not in WORKER_CLASSES:
            raise ValueError(f"no workers {worker_class!r}; choose {' or '.join(WORKER_CLASSES)}")
        self.worker_class = worker_class
        self.name = f"gunicorn {worker_class}"

    def _command(self, file: Path) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", str(file), "benchmarks.peer_apps:wsgi()"]

    def _configuration(self) -> str:
        threaded = self.worker_class == "gthread"
        threads = self._number("ThreadsPerChild", 25) if threaded else 1
        wanted = -(-self._number("MaxRequestWorkers", 400 if threaded else 256) // threads)
        settings = {
            "bind": f"127.0.0.1:{self.port}",
            "backlog": self._number("ListenBacklog", 511),
            "worker_class": self.worker_class,
            "workers": self._processes or max(1, min(wanted, 2 * self._cores + 1)),
            "threads": threads,
            "worker_connections": CONNECTIONS,
            "keepalive": self._keep_alive_seconds,
            "max_requests": self._number("MaxConnectionsPerChild", 0),
            # The parent loads the application and forks, as ours and httpd do.
            "preload_app": True,
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,
            "control_socket_disable": True,
            "accesslog": str(self.root / "access_log") if self.access_log else None,
            "access_log_format": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s',
            "errorlog": str(self.root / "error_log"),
            "loglevel": "warning",
        }
        return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


class Uvicorn(Peer):
    """uvicorn with httptools and uvloop where they are installed; `processes` is one a core."""

    package = name = "uvicorn"
    config_name = "log.json"
    parts = ("httptools", "uvloop")

    def _command(self, file: Path) -> list[str]:
        most = self._number("MaxConnectionsPerChild", 0)
        return [
            *(sys.executable, "-m", "uvicorn", "--factory", "benchmarks.peer_apps:asgi"),
            *("--loop=auto", "--http=auto", "--ws=none", "--lifespan=off", "--host=127.0.0.1"),
            f"--port={self.port}",
            f"--workers={self._processes or self._cores}",
            f"--backlog={self._number('ListenBacklog', 511)}",
            f"--timeout-keep-alive={max(1, self._keep_alive_seconds)}",
            f"--log-config={file}",
            *([f"--limit-max-requests={most}"] if most else []),
            *([] if self.access_log else ["--no-access-log"]),
        ]

    def _configuration(self) -> str:
        # It does not tell its log how many bytes it sent.
        line = '%(client_addr)s - - [%(asctime)s] "%(request_line)s" %(status_code)s -'
        common = {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": line,
            "datefmt": "%d/%b/%Y:%H:%M:%S %z",
            "use_colors": False,
        }
        return self._log_config("uvicorn.access", "uvicorn.error", common)


class Waitress(Peer):
    """waitress: one process, one thread that reads and writes, a pool of threads that answer."""

    package = name = "waitress"

    def _command(self, file: Path) -> list[str]:
        # Its limit of connections is 100 by default, and without poll it can't go beyond 1,024.
        return [
            *(sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{self.port}"),
            f"--threads={self._number('ThreadsPerChild', 25)}",
            f"--backlog={self._number('ListenBacklog', 511)}",
            f"--connection-limit={CONNECTIONS}",
            "--asyncore-use-poll",
            f"--channel-timeout={max(1, self._keep_alive_seconds)}",
            "--cleanup-interval=1",
            "--call",
            f"benchmarks.peer_apps:{'wsgi_logged' if self.access_log else 'wsgi'}",
        ]


class Granian(Peer):
    """granian: HTTP in Rust, threads that call the application; `processes` is one a core."""

    package = name = "granian"
    config_name = "log.json"

    def _command(self, file: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--factory"),
            *("--no-ws", "--log-level=warning"),
            f"--port={self.port}",
            f"--workers={self._processes or self._cores}",
            f"--blocking-threads={self._number('ThreadsPerChild', 25)}",
            f"--backlog={self._number('ListenBacklog', 511)}",
            f"--{'' if self._keeps_alive else 'no-'}http1-keep-alive",
            f"--{'' if self.access_log else 'no-'}access-log",
            '--access-log-fmt=%(addr)s - - [%(time)s] "%(method)s %(path)s %(protocol)s" %(status)d -',
            f"--log-config={file}",
            "benchmarks.peer_apps:wsgi",
        ]

    def _configuration(self) -> str:
        return self._log_config("granian.access", "_granian", {"format": "%(message)s"})


class Fastpysgi(Peer):
    """fastpysgi: HTTP in C, on libuv's loop, which also calls the application; one process a core."""

    package = name = "fastpysgi"

    def _command(self, file: Path) -> list[str]:
        return [sys.executable, str(file)]

    def _configuration(self) -> str:
        # Its command line has neither a backlog nor time-outs.
        return f"""
import fastpysgi
from benchmarks.peer_apps import wsgi, wsgi_logged
server = fastpysgi.server
server.backlog = {self._number("ListenBacklog", 511)}
server.allow_keepalive = {self._keeps_alive}
server.next_req_timeout = {self._keep_alive_seconds * 1000}
server.tcp_nodelay = 1
application = {"wsgi_logged" if self.access_log else "wsgi"}()
fastpysgi.run(application, "127.0.0.1", {self.port}, workers={self._processes or self._cores})
"""


Form = tuple[str, tuple[str, ...], tuple[str, ...], competitors.Launch]


def _form(name: str, mpms: str, kind: Callable[..., Peer], *workers: str) -> Form:
    """A form as of `competitors.FORMS`, which has the pages of all of them. mpms: the nearest first."""

    def launch(mpm: str, **directives: Any) -> Peer:
        return kind(*workers, document_root=competitors.SAMPLE_SITE, **directives)

    return name, tuple(mpms.split()), ("static", "script"), launch


# In the same rounds as httpd and nginx, for `--also`.
competitors.FORMS.update(
    {
        "gunicorn": (
            _form("gunicorn-sync", "prefork", Gunicorn, "sync"),
            _form("gunicorn-gthread", "worker event", Gunicorn, "gthread"),
        ),
        "uvicorn": (_form("uvicorn", "event worker prefork", Uvicorn),),
        "waitress": (_form("waitress", "worker event prefork", Waitress),),
        "granian": (_form("granian", "worker event prefork", Granian),),
        "fastpysgi": (_form("fastpysgi", "event worker prefork", Fastpysgi),),
    }
)
