"""Four situations in which the choice of an MPM decides: each measured, recorded and drawn.

    gil         a script that computes: processes × threads, compared with one that waits
    slow        slow readers and slow senders, eight of them for eight workers
    cold        a crowd that comes at once, second by second from the start
    starved     more kept connections than an MPM serves: how many answers did each client get?

Each returns plain rows. To record them again in data/recorded, on an idle machine:

    cd notebooks && python -m helpers.regimes [05-gil 09-slow 01-cold 07-starved]
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from helpers import misbehaving_clients
from helpers.figures import HEAT, ON_HEAT
from helpers.labels import label_lines
from plotly.subplots import make_subplots

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.lab import replay
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, mpm_line
from mpmkit.measure.monitor import Watch
from mpmkit.measure.procfs import cpu_ns
from mpmkit.measure.published import DIRECTIVES

SCRIPT = """import time

def application(environ, start_response):
    {}
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\\n"]
"""
WORK = {"computes": "sum(range(300_000))", "waits": "time.sleep(0.01)"}
SHAPES = tuple((processes, threads) for processes in (1, 2, 4) for threads in (1, 2, 4, 8))
WORKERS = 8  # of each server that has slow clients, or too many
USERS = 200  # who come at once to a server that has just been started
STEP = 0.1  # seconds that their script waits


@contextlib.contextmanager
def serving(line: str, mpm: str, **directives: Any) -> Iterator[Any]:
    """A server of a script whose body is that line, at /script.py."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-pages-") as name:
        os.chmod(name, 0o755)  # servers started by root change their user
        Path(name, "script.py").write_text(SCRIPT.format(line))
        with mpmkit.launch(mpm, document_root=name, **directives) as server:
            yield server


def pool(mpm: str, workers: int = WORKERS, processes: int = 1) -> dict[str, Any]:
    """Directives of a server with so many workers, no more and no less; under prefork each is a process."""
    if mpm == "prefork":
        return {"StartServers": workers, "MinSpareServers": 1, "MaxSpareServers": workers,
                "MaxRequestWorkers": workers, "ServerLimit": workers}  # fmt: skip
    return {"StartServers": processes, "ServerLimit": processes, "ThreadsPerChild": workers // processes,
            "MinSpareThreads": 1, "MaxSpareThreads": 2 * workers, "MaxRequestWorkers": workers}  # fmt: skip


def until(seen: Watch, what: str, number: int) -> None:
    """Wait until so many workers are in this state: idle, reading, writing."""
    seen.until(lambda sample: getattr(sample, what) == number)


# -- what is measured ------------------------------------------------------------------------------------


def gil(
    shapes: Sequence[tuple[int, int]] = SHAPES, seconds: float = 1.0, rounds: int = 3
) -> list[dict[str, float | str]]:
    """Requests/s of worker with so many processes and threads in each, for a script that computes and one
    that waits: a row a kind and shape, with the CPU seconds per second that the server used. As many
    clients as threads, each on a connection that it keeps. The best of the rounds: other work on the
    machine can only take away."""
    rows: list[dict[str, float | str]] = []
    for kind, line in WORK.items():
        for processes, threads in shapes:
            workers, found = processes * threads, []
            with serving(line, "worker", **pool("worker", workers, processes)) as server:
                with Watch(server, every=0.1) as seen:
                    until(seen, "idle", workers)
                pids = [server.pid, *server.processes()]
                for _ in range(rounds):
                    before = cpu_ns(pids)
                    run = mpmkit.run_load(server, "/script.py", users=workers, keep_alive=True,
                                          duration=seconds)  # fmt: skip
                    found.append((run.qps, (cpu_ns(pids) - before) / 1e9 / run.duration))
            qps, cores = max(found)
            rows.append({"script": kind, "processes": processes, "threads": threads, "qps": qps,
                         "cores": cores})  # fmt: skip
    return rows


def slow(mpms: Sequence[str] = MPMS) -> list[dict[str, Any]]:
    """Eight slow clients for eight workers, and what a newcomer meets: a row an MPM and kind. Readers fetch
    a large file at 10 kB a second (EnableSendfile On); senders send a header line each half second
    (RequestReadTimeout off). A newcomer without an answer gives up after three seconds."""
    rows = []
    for mpm in mpms:
        for kind in ("readers", "senders"):
            given: dict[str, Any] = {
                "EnableSendfile": "On",
                "RequestReadTimeout": "header=0 body=0",
            }
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(misbehaving_clients.pages())
                server = stack.enter_context(
                    mpmkit.launch(mpm, document_root=folder, **given, **pool(mpm))
                )
                seen = stack.enter_context(Watch(server, every=0.1))
                seen.until(lambda sample: sample.idle == WORKERS)
                stack.enter_context(
                    misbehaving_clients.SlowReaders(server.url, WORKERS)
                    if kind == "readers"
                    else misbehaving_clients.Drip(server.url, WORKERS, every=0.5)
                )
                what = "writing" if kind == "readers" else "reading"
                until(seen, what, WORKERS)
                time.sleep(0.5)
                sample = seen.last
                answer = misbehaving_clients.ask(server.url, patience=3)
            rows.append({"mpm": mpm, "kind": kind, "busy": sample.busy, "idle": sample.idle,
                         "without": sample.without_thread, "status": answer["status"],
                         "wait": answer["first_byte_s"]})  # fmt: skip
    return rows


def cold(mpms: Sequence[str] = MPMS, seconds: int = 15) -> dict[str, Any]:
    """A crowd at once: MPM -> requests/s, processes and idle workers of each second, with the
    article's directives. USERS clients who keep their connections ask for a script that waits STEP seconds:
    each worker can answer 1 / STEP a second."""
    found = {}
    for mpm in mpms:
        with (
            serving(f"time.sleep({STEP})", mpm, **DIRECTIVES[mpm]) as server,
            Watch(server, every=0.2) as seen,
        ):
            begins: list[float] = []
            run = mpmkit.run_load(
                server, "/script.py", users=USERS, keep_alive=True, duration=seconds, timeout=30,
                on_progress=lambda *_, begins=begins, seen=seen: begins or begins.append(seen.now),
            )  # fmt: skip
            whole = run.seconds[:seconds]
            edges = [begins[0] + one.end for one in whole]
            last = [[one for one in seen.samples if one.t <= edge][-1] for edge in edges]
        found[mpm] = {
            "qps": [one.qps for one in whole],
            "processes": [one.processes for one in last],
            "idle": [one.idle for one in last],
        }
    return found


def starved(
    mpms: Sequence[str] = MPMS, users: int = 32, seconds: float = 4.0
) -> dict[str, list[int]]:
    """MPM -> answers that each of the users got, sorted. Each keeps its connection and asks again as soon as
    it is answered (by a script that waits 20 ms); there are eight workers."""
    found = {}
    for mpm in mpms:
        with (
            serving("time.sleep(0.02)", mpm, **pool(mpm)) as server,
            Watch(server, every=0.1) as seen,
        ):
            seen.until(lambda sample: sample.idle == WORKERS)
            until = time.monotonic() + seconds
            with ThreadPoolExecutor(users) as crowd:
                asked = [crowd.submit(_answers, server.port, until) for _ in range(users)]
                found[mpm] = sorted(one.result() for one in asked)
    return found


def _answers(port: int, until: float) -> int:
    """How many answers a client gets until then. One whose connection is ended comes again at once."""
    answers = 0
    while (left := until - time.monotonic()) > 0:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=left)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(client):
            kept = True
            while kept and time.monotonic() < until:
                client.request("GET", "/script.py")
                reply = client.getresponse()
                reply.read()
                answers += 1
                kept = not reply.will_close
    return answers


RECORDINGS: dict[str, Callable[[], Any]] = {
    "05-gil": gil, "09-slow": slow, "01-cold": cold, "07-starved": starved,
}  # fmt: skip


# -- what is drawn and said ------------------------------------------------------------------------------


def gil_map(rows: list[dict[str, Any]]) -> go.Figure:
    """Requests/s for each number of processes and threads: a map for each script."""
    kinds = list(dict.fromkeys(row["script"] for row in rows))
    figure = make_subplots(cols=len(kinds), subplot_titles=[f"a script that {one}" for one in kinds],
                           horizontal_spacing=0.1)  # fmt: skip
    said = []
    for place, kind in enumerate(kinds, 1):
        own = [row for row in rows if row["script"] == kind]
        xs, ys = (list(dict.fromkeys(row[key] for row in own)) for key in ("threads", "processes"))
        cells = {(row["processes"], row["threads"]): row["qps"] for row in own}
        table = [[cells.get((y, x)) for x in xs] for y in ys]
        figure.add_heatmap(
            x=list(map(str, xs)), y=list(map(str, ys)), z=table, zmin=0, colorscale=HEAT, showscale=False,
            texttemplate="%{z:,.0f}", textfont_color=ON_HEAT, xgap=2, ygap=2, row=1, col=place,
            hovertemplate="%{y} processes × %{x} threads: %{z:,.0f}/s<extra></extra>",
        )  # fmt: skip
        parts = (f"{r['qps']:,.0f} with {r['processes']} × {r['threads']}" for r in own)
        said.append(f"a script that {kind}: {', '.join(parts)}")
    dress(
        figure,
        "Requests/s of worker<br><sup>processes × threads in each; a scale for each map</sup>",
        alt="Requests per second by processes × threads. " + "; ".join(said) + ".",
        height=380,
    )
    figure.update_xaxes(title_text="threads in each process", type="category")
    figure.update_yaxes(title_text="processes", type="category")
    return figure


def grows(rows: list[dict[str, Any]], script: str, key: str) -> tuple[int, float]:
    """The most threads in one process (key "threads"), or the most processes of one thread (key "processes"),
    and how many times the requests/s of one they bring."""
    other = {"threads": "processes", "processes": "threads"}[key]
    own = {row[key]: row["qps"] for row in rows if row["script"] == script and row[other] == 1}
    return max(own), own[max(own)] / own[1]


def cold_figure(found: dict[str, Any]) -> go.Figure:
    """Requests/s, second by second from the start, a line an MPM."""
    figure, said = go.Figure(), []
    for mpm, one in found.items():
        ys = one["qps"]
        figure.add_trace(mpm_line(mpm, [n + 1 for n in range(len(ys))], ys))
        said.append(f"{mpm}: {', '.join(f'{y:,.0f}' for y in ys)}")
    dress(
        figure,
        f"A cold start: {USERS} clients from the first second<br><sup>the script waits {STEP:g} s, "
        f"so {USERS / STEP:,.0f}/s at most</sup>",
        alt="Requests per second, second by second. " + "; ".join(said) + ".",
    )
    last = max(len(one["qps"]) for one in found.values())
    figure.update_xaxes(title_text="seconds", range=[0.5, 1.14 * last])
    figure.update_yaxes(title_text="requests per second", rangemode="tozero")
    label_lines(figure, [(line, line.name, colours.text_colour(line.name)) for line in figure.data])
    return figure


def reached(curve: Sequence[float], share: float = 0.9) -> int:
    """In which second (from 1) a curve first has that share of its highest value."""
    return next(n for n, value in enumerate(curve, 1) if value >= share * max(curve))


def starved_figure(found: dict[str, list[int]]) -> go.Figure:
    """Answers of each client, sorted, a panel an MPM."""
    figure = make_subplots(cols=len(found), subplot_titles=list(found), shared_yaxes=True)
    said = []
    for place, (mpm, answers) in enumerate(found.items(), 1):
        xs = [n + 1 for n in range(len(answers))]
        bars = go.Bar(x=xs, y=answers, marker={"color": colours.colour(mpm)}, showlegend=False,
                      hovertemplate="client %{x}: %{y} answers<extra></extra>")  # fmt: skip
        figure.add_trace(bars, row=1, col=place)
        said.append(
            f"{mpm}: {answers.count(0)} of {len(answers)} got nothing, the most {answers[-1]}"
        )
    dress(
        figure,
        "Answers of each client<br><sup>eight workers, kept connections; clients sorted</sup>",
        alt="Answers of each client. " + "; ".join(said) + ".",
        height=360,
        bargap=0.1,
    )
    figure.update_xaxes(title_text="client")
    figure.update_yaxes(title_text="answers", col=1)
    return figure


def main(names: Sequence[str]) -> int:
    """Measure and record these, or all."""
    unknown = [name for name in names if name not in RECORDINGS]
    if unknown:
        print(f"{', '.join(unknown)}: choose from {', '.join(RECORDINGS)}", file=sys.stderr)
        return 2
    for name in names or RECORDINGS:
        replay.record(name, RECORDINGS[name])
        print(replay.place_of(name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
