"""The status page (mod_status): `?auto` for programs, HTML for people, `?refresh=N` for both.

    scoreboard ──> StatusData ─┬─> auto    one `Key: value` a line, httpd 2.4's keys in its order
                               └─> html    status_page.py: the same numbers for a person

A program that reads httpd's status page can read this one: keys, order and number formats are
mod_status's, and tests compare them with what a real httpd answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpmkit.handlers import status_page
from mpmkit.handlers.status_data import StatusData, built, format_g, format_uptime, local, version
from mpmkit.http.messages import Request, Response, page, text, whole_number
from mpmkit.http.target import split_host

if TYPE_CHECKING:
    from mpmkit.server.connection import Connection
    from mpmkit.server.scoreboard import Scoreboard

REFRESH = 10  # seconds of a `?refresh` without a number


def auto(data: StatusData, server_name: str) -> str:
    """The text of `?auto`."""
    f, board = data, data.board
    lines = [
        server_name,
        f"ServerVersion: {version()}",
        f"ServerMPM: {f.mpm}",
        f"Server Built: {built()}",
        f"CurrentTime: {local(f.now)}",
        f"RestartTime: {local(board.restart_time / 1e9)}",
        f"ParentServerConfigGeneration: {board.config_generation}",
        f"ParentServerMPMGeneration: {board.generation}",
        f"ServerUptimeSeconds: {f.uptime}",
        f"ServerUptime:{format_uptime(f.uptime)}",
        *(f"Load{minutes}: {value:.2f}" for minutes, value in zip((1, 5, 15), f.load, strict=True)),
    ]
    if f.extended:
        lines += [
            f"Total Accesses: {f.accesses}",
            f"Total kBytes: {f.kbytes}",
            f"Total Duration: {f.duration}",
            f"CPUUser: {format_g(f.cpu.user)}",
            f"CPUSystem: {format_g(f.cpu.system)}",
            f"CPUChildrenUser: {format_g(f.cpu.children_user)}",
            f"CPUChildrenSystem: {format_g(f.cpu.children_system)}",
        ]
        if f.cpu_load:
            lines.append(f"CPULoad: {format_g(f.cpu_load)}")
        lines.append(f"Uptime: {f.uptime}")
        if f.uptime:
            lines += [
                f"ReqPerSec: {format_g(f.accesses / f.uptime)}",
                f"BytesPerSec: {format_g(1024 * f.kbytes / f.uptime)}",
            ]
        if f.accesses:
            lines += [
                f"BytesPerReq: {format_g(1024 * f.kbytes / f.accesses)}",
                f"DurationPerReq: {format_g(f.duration / f.accesses)}",
            ]
    lines += [
        f"BusyWorkers: {f.counts.busy}",
        f"GracefulWorkers: {f.counts.graceful}",
        f"IdleWorkers: {f.counts.idle}",
    ]
    if f.mpm == "event":
        lines += [
            f"Processes: {f.counts.processes}",
            f"Stopping: {f.counts.stopping}",
            f"ConnsTotal: {sum(row.connections for row in f.rows)}",
            "ConnsAsyncWaitIO: 0",
            f"ConnsAsyncWriting: {sum(row.write_completion for row in f.rows)}",
            f"ConnsAsyncKeepAlive: {sum(row.keep_alive for row in f.rows)}",
            f"ConnsAsyncClosing: {sum(row.lingering_close for row in f.rows)}",
        ]
    lines.append(f"Scoreboard: {f.letters}")
    return "\n".join(lines) + "\n"


class Status:
    """The handler. `board` is called for the scoreboard at each request.

    `name` is ServerName: the server's name on the page when the client sent no Host.
    """

    def __init__(
        self, board: Callable[[], Scoreboard], *, extended: bool = True, name: str = ""
    ) -> None:
        self._board = board
        self._extended = extended
        self._name = name
        built()  # now: a child that runs as User may not be able to stat the file

    def __call__(self, request: Request, conn: Connection) -> Response:
        if request.method not in ("GET", "HEAD"):
            return page(405, extra=b"Allow: GET,HEAD\r\n")
        # As in mod_status, a word counts wherever it stands: `?auto`, `?refresh=5&auto`.
        query = request.query.decode("latin-1")
        extra = b""
        if "refresh" in query:
            found = re.search(r"refresh=([0-9]+)", query)
            seconds = whole_number(found[1]) if found else None
            extra = b"Refresh: %d\r\n" % (seconds or REFRESH)
        data = StatusData(self._board(), self._extended, time.time())
        name = self._called(request)
        if "auto" in query:
            kind, body = b"text/plain", auto(data, name)
        else:
            kind, body = b"text/html", status_page.html(data, name, conn.local[0])
        raw = body.encode("latin-1", "xmlcharrefreplace")
        return text(200, raw, kind + b"; charset=ISO-8859-1", request.method, extra)

    def _called(self, request: Request) -> str:
        """The server's name: Host as the client sent it, without the port."""
        host = (request.get(b"host") or b"").decode("latin-1")
        return split_host(host)[0] or self._name or "localhost"
