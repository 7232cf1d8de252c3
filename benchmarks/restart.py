"""What does a graceful restart do to the clients of event? Measured on the real httpd, and predicted.

    python -m benchmarks.restart proxy [cgi] [cgi-reaped] [--slots 6] [--after 7.8]

Restarts httpd in the middle of the steady load of `benchmarks.advise`, once for each page: one that httpd fetches
by mod_proxy, or the CGI program (`cgi-reaped`: below a process that reaps orphans at once). The prediction has
the durations in the log of the same run.
"""

import os
import signal
import statistics
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mpmkit
from benchmarks.advise import LOG, PATH, SLACK, late, load, served, site, tight
from mpmkit.config.arguments import Parser
from mpmkit.load.profile import LoadProfile
from mpmkit.measure import procfs, replay
from mpmkit.measure.reference_servers import Httpd

# Runs a program, and reaps each orphan below it when it ends.
REAPER = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
program = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: program.terminate())
while os.wait()[0] != program.pid:
    pass
"""


class Reaped(Httpd):
    """Its orphans are reaped at once; `pid` is not httpd's, but that of its parent."""

    def _command(self, file: Path) -> list[str]:
        return [sys.executable, "-c", REAPER, *super()._command(file)]


class Backend(BaseHTTPRequestHandler):
    """What the CGI program does, behind mod_proxy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = dict(word.split("=") for word in self.path.partition("?")[2].split("&"))
        time.sleep(int(asked["ms"]) / 1000)
        self.send_response(200)
        self.send_header("Content-Length", asked["bytes"])
        self.end_headers()
        self.wfile.write(b"x" * int(asked["bytes"]))

    def log_message(self, *_: Any) -> None: ...


class Restarter(threading.Thread):
    """Sends USR1 to httpd so many seconds after the first line of its log, and sees its children begin."""

    def __init__(self, pid: int, log: Path, after: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.log, self.after, self.at, self.done = pid, log, after, 0.0, threading.Event()
        self.born: dict[int, float] = {}

    def run(self) -> None:
        due = 0.0
        while not self.done.wait(0.02):
            now = time.time()
            if not due and self.log.exists() and self.log.stat().st_size:
                due = now + self.after
            elif due and not self.at and now >= due:
                self.at = now
                os.kill(self.pid, signal.SIGUSR1)
            for child in procfs.children(self.pid):
                if procfs.status_numbers(child).get("Threads", 1) > 1:
                    self.born.setdefault(child, now)


def restarted(kind: str, root: Path, slots: int, after: float) -> str:
    """A row of the table: what a graceful restart did."""
    profile = LoadProfile(**replay.plan(load("steady"), 1.0, PATH, root / "steady.plan"))
    limits = {**tight("event", "steady"), "ServerLimit": slots}
    backend = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    backend.socket.listen(128)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    how: dict[str, Any] = {"httpd": Reaped} if kind == "cgi-reaped" else {}
    if kind == "proxy":
        how["modules"] = ("status", "proxy", "proxy_http")
        how["more"] = f'ProxyPass "{PATH}" "http://127.0.0.1:{backend.server_port}{PATH}"\n'
    with served("event", root, log=f"{LOG} %P", **how, **limits) as httpd:
        pid = procfs.children(httpd.pid)[0] if kind == "cgi-reaped" else httpd.pid
        restarter = Restarter(pid, httpd.root / "trace_log", after)
        restarter.start()
        run = mpmkit.run_load(httpd.url, profile=profile)
        restarter.done.set()
        restarter.join(60)
        rows = [line.split() for line in (httpd.root / "trace_log").read_text().splitlines()]
        full = (httpd.root / "error_log").read_text().count("AH03490")
    backend.shutdown()
    at, asked = restarter.at, load("steady")
    # Start, end and process of each request.
    times = [(int(row[-3]) / 1e6, int(row[-6]) / 1e6, int(row[-1])) for row in rows]
    requests = sorted((begin, begin + took, process) for begin, took, process in times)
    old = [child for child, born in restarter.born.items() if born <= at]
    new = sorted(born - at for born in restarter.born.values() if born > at)
    busy = [sum(b <= at < e for b, e, process in requests if process == one) for one in old]
    took = [end - begin for begin, end, _ in requests]
    asked.seconds[: len(took)] = array("d", took[: len(asked)])
    shares = []
    for moment in (at - requests[0][0] + 0.37 * n for n in range(-5, 6)):
        one = mpmkit.simulate("event", trace=asked, restarts=[moment], **limits)
        shares.append(one.waited_longer(SLACK))
    cells = (kind, slots, f"{statistics.fmean(took):.3f}",
             f"{min(shares):.0%} to {max(shares):.0%}", f"{late(run):.0%}", str(sorted(busy))[1:-1],
             ", ".join(f"{born:.1f}" for born in new), full)  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python -m benchmarks.restart", description="What a graceful restart does."
    )
    parser.add_argument("page", nargs="+", choices=("proxy", "cgi", "cgi-reaped"))
    parser.add_argument("--slots", type=int, default=3, help="ServerLimit")
    parser.add_argument("--after", type=float, default=8.0, help="seconds of the load")
    options = parser.parse_args(argv)
    print(
        "| page | slots | mean s | waited: predicted | measured | busy then | forked, s after | AH03490 |"
    )
    with site() as root:
        for page in options.page:
            print(restarted(page, root, options.slots, options.after), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
