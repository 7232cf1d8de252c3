"""nginx with the settings closest to a server's directives; `--also nginx` knows it once this is imported.

with Nginx(document_root=pages, KeepAlive=True, MaxRequestWorkers=400) as nginx:
    measure(nginx.url)
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mpmkit.measure import competitors
from mpmkit.measure.reference_servers import (
    ReferenceServer,
    find_program,
    output,
    unprivileged_user,
)

# httpd's common log in nginx's words; it has no %l, and it counts body bytes as %b does.
NGINX_LOG_FORMAT = (
    "'$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent'"
)
BUFFERED_LOG_BYTES = 4096  # what httpd's BufferedLogs collects (mod_log_config: PIPE_BUF)


class Nginx(ReferenceServer):
    """nginx with the settings closest to the same Apache directives.

    | directive | here |
    |---|---|
    | KeepAlive, KeepAliveTimeout, MaxKeepAliveRequests | keepalive_timeout, keepalive_requests |
    | Timeout | send_timeout, client_header_timeout, client_body_timeout |
    | ListenBacklog | listen … backlog= |
    | EnableSendfile | sendfile |
    | MaxRequestWorkers | worker_connections of each of `workers` processes, never below 1024 |

    `workers` is nginx's worker_processes: one a core if not given, which is its own advice.
    A directive without a counterpart (StartServers, the spares …) changes nothing.
    `given` are directives and what `ReferenceServer` takes. Raises NotInstalled if there is no nginx.
    """

    name = "nginx"
    # More text for a subclass's configuration: at its top, of events and http, at the end of listen.
    more_main = more_events = more_http = more_listen = ""

    def __init__(self, *, workers: int | None = None, **given: Any) -> None:
        super().__init__(**given)
        self.workers = workers or len(os.sched_getaffinity(0))
        how = "apt install nginx-light, or: conda install -c conda-forge nginx"
        self._binary = find_program(("nginx",), "nginx", how)

    @property
    def version(self) -> str:
        """As it reports it: `nginx/1.22.1`."""
        return output(self._binary, "-v").strip().removeprefix("nginx version: ") or "unknown"

    def _command(self, file: Path) -> list[str]:
        # -e: some builds open a log under /var before they have read the configuration.
        log = str(self.root / "error_log")
        return [self._binary, "-p", str(self.root), "-c", str(file), "-e", log]

    def _configuration(self) -> str:
        given = {name.lower(): str(value).lower() for name, value in self.given.items()}
        on = given.get("keepalive") not in ("false", "off")
        sends_files = given.get("enablesendfile") in ("true", "on")
        kept = nginx_seconds(given.get("keepalivetimeout", 5)) if on else "0"
        timeout = nginx_seconds(given.get("timeout", 60))
        served = int(given.get("maxkeepaliverequests", 100))
        # httpd lets N + 1 responses through (its N counts the further ones); 0 is no limit.
        requests = served + 1 if served else 1_000_000_000
        connections = max(1024, int(given.get("maxrequestworkers", 1024)))
        log = "access_log off"
        if self.access_log:
            buffer = f" buffer={BUFFERED_LOG_BYTES}" if self.buffered_logs else ""
            log = f"log_format common {NGINX_LOG_FORMAT};\n    access_log access_log common{buffer}"
        user = unprivileged_user()
        return f"""\
{f"user {user[0]} {user[1]};" if user else ""}
daemon off;
worker_processes {self.workers};
{self.more_main}
pid pid;
error_log error_log warn;
events {{ worker_connections {connections}; {self.more_events} }}
http {{
    types {{ text/html html htm; text/plain txt; }}
    default_type application/octet-stream;
    {log};
    {self.more_http}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile {"on" if sends_files else "off"};
    keepalive_timeout {kept};
    keepalive_requests {requests};
    send_timeout {timeout};
    client_header_timeout {timeout};
    client_body_timeout {timeout};
    server {{
        listen 127.0.0.1:{self.port} backlog={given.get("listenbacklog", 511)} {self.more_listen};
        root "{self.document_root}";
        index index.html;
    }}
}}
"""


_MS = {"": 1000, "s": 1000, "ms": 1, "mi": 60_000, "min": 60_000, "h": 3_600_000}


def nginx_seconds(value: object) -> str:
    """An Apache duration in nginx's milliseconds: 5, "5", "5s", "500ms", 0.5, "2min". Raises ValueError."""
    number = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", str(value).strip().lower())
    if not number or number[2] not in _MS:
        raise ValueError(f"{value!r} is not a duration; write seconds, 500ms, 2min or 1h")
    return f"{round(float(number[1]) * _MS[number[2]])}ms"


def _launch(mpm: str, **directives: Any) -> Nginx:
    return Nginx(document_root=competitors.SAMPLE_SITE, **directives)


competitors.FORMS["nginx"] = (
    ("nginx", ("event", "worker", "prefork"), competitors.STATIC, _launch),
)
