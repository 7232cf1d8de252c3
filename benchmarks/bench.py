"""Ours beside the original: each MPM against the real httpd's own, same machine, same minute.

    python -m benchmarks.bench [--mpm event] [--work new keepalive] [--rounds 5]

On a shared machine two runs an hour apart differ by more than two servers do. So nothing here
compares figures of different minutes: all servers of one MPM stand side by side, and in each round
each piece of work is done with every one of them in turn, each time beginning with another. What
counts is the ratio inside a round; the median of the rounds is reported, with the lowest and the
highest. A ratio says little if the client was the brake, so the client's CPU is measured too.

Same for all: the directives, the document root, an access log in the common format, the client.
The clients are `ab` (HTTP/1.0, as in the article) and `wrk` (HTTP/1.1). wrk tells repeated request
heads from distinct ones: a server that remembers heads it has seen is faster on the first kind, so
both kinds are always measured together.

`--floor` adds the least that a Python server does under prefork and worker (`measure/floor.py`), to tell
what can be reached at all.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import mpmkit
from benchmarks import baseline
from mpmkit.config.directives import MPMS
from mpmkit.load import ab_wrk
from mpmkit.load.holder import HoldingProcess
from mpmkit.load.preflight import descriptors
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import LoadRun
from mpmkit.measure import published, records
from mpmkit.measure.procfs import cpu_ns, machine_times, members
from mpmkit.measure.reference_servers import Httpd, Nginx, NotInstalled, ServerFailed, find_program
from mpmkit.measure.text import aligned

OURS = "mpmkit"
# The two sides of a work with idle connections: both are ours.
HOLDING, FREE = "mpmkit-holding", "mpmkit-free"
FLOORS = {"floor": False, "floor-bare": True}  # name -> without stat and log line
ENOUGH_ROUNDS = 5  # for a verdict
CLIENT_BOUND = 0.9  # share of a core from which on the client may have been the brake

# The article's blocks, except that a pool that has grown may stay: the servers take turns, and
# one that shrinks while another is measured would start each turn with children yet to fork.
DIRECTIVES: dict[str, dict[str, Any]] = {
    mpm: {
        name: block["MaxRequestWorkers"] if name.startswith("MaxSpare") else value
        for name, value in block.items()
    }
    for mpm, block in published.DIRECTIVES.items()
}


@dataclass(frozen=True)
class Work:
    """One piece of work: what is asked for, by which client, how.

    `share` scales the number of requests (a 10 MB file takes longer than a page), `rival_path` is
    the counterpart on the rivals' side, `php` asks for httpd prefork with mod_php as the reference.
    `held` is a number of idle kept-alive connections that event holds meanwhile; the reference is
    then event itself without them.
    """

    name: str
    title: str
    client: str  # "ab" or "wrk"
    clients: int
    keep_alive: bool
    path: str = "/index.html"
    rival_path: str | None = None
    distinct: bool = False
    share: float = 1.0
    php: bool = False
    held: int = 0


WORKS = {
    work.name: work
    for work in (
        Work("new", "45 B page, new connection each, ab -c 200", "ab", 200, False),
        Work("keepalive", "45 B page, keep-alive, ab -k -c 64", "ab", 64, True),
        Work("repeated", "45 B page, keep-alive, wrk -c 64, same head", "wrk", 64, True),
        Work(
            "distinct",
            "45 B page, keep-alive, wrk -c 64, every head differs",
            "wrk",
            64,
            True,
            distinct=True,
        ),
        Work(
            "script-new",
            "hello script, new connection each, ab -c 200",
            "ab",
            200,
            False,
            path="/hello.py",
            rival_path="/hello.php",
            php=True,
        ),
        Work(
            "script-keepalive",
            "hello script, keep-alive, ab -k -c 64",
            "ab",
            64,
            True,
            path="/hello.py",
            rival_path="/hello.php",
            php=True,
        ),
        Work(
            "file-100k",
            "100 KB file, keep-alive, ab -k -c 64",
            "ab",
            64,
            True,
            path="/100k.txt",
            share=0.5,
        ),
        Work("file-10m", "10 MB file, ab -c 8", "ab", 8, False, path="/10m.txt", share=0.01),
        Work(
            "idle-5000",
            "event alone: 45 B page, keep-alive, ab -k -c 64, with 5,000 idle connections",
            "ab",
            64,
            True,
            held=5_000,
        ),
    )
}
DEFAULT_WORKS = ("new", "keepalive", "repeated", "distinct")

# What a ratio has to reach: (work, beside whom) -> ratio. Others have no target and no verdict.
TARGETS = {
    ("new", "httpd"): 1.2,
    ("keepalive", "httpd"): 2.0,
    ("repeated", "httpd"): 2.0,
    ("distinct", "httpd"): 1.2,
    ("script-new", "httpd-php"): 1.2,
    ("script-keepalive", "httpd-php"): 1.5,
    ("file-100k", "httpd"): 1.0,
    ("file-10m", "httpd"): 0.9,
    ("keepalive", "nginx"): 0.8,
    ("repeated", "nginx"): 0.8,
    ("idle-5000", FREE): 0.9,
}
# Works whose 99th percentile must not be worse than httpd's.
P99_COUNTS = ("new",)
# What event needs to hold idle connections; for both sides.
ROOM = {"AsyncRequestWorkerFactor": 100, "KeepAliveTimeout": 600}

# requests a turn, and seconds a turn for wrk, which knows no number of requests
# (wrk takes whole seconds: one of them is 20,000 answers or more).
SCALES = {"smoke": (1_000, 0.5), "demo": (10_000, 1.0), "full": (50_000, 8.0)}


class BenchError(RuntimeError):
    """The bench can't go on; the message says what to mend."""


@dataclass(frozen=True)
class Sample:
    """What a client reported of one turn.

    requests answered well, failures (not answered, cut short or refused), seconds, requests well
    answered a second, latencies in ms, the client's CPU as a share of one core.
    """

    requests: int
    failures: int
    seconds: float
    qps: float
    p50_ms: float
    p99_ms: float
    client_cpu: float

    @property
    def client_bound(self) -> bool:
        """Whether the client was so busy that the server might have done more."""
        return self.client_cpu > CLIENT_BOUND


class Target(Protocol):
    """A server to measure; `mpmkit.launch` and the rivals all give one."""

    @property
    def url(self) -> str: ...


# ---------------------------------------------------------------- the clients


def run_client(command: Sequence[str], timeout: float) -> tuple[str, float]:
    """Output of a client program, and the CPU seconds it used, its children's included.

    Raises BenchError if it fails or takes longer than `timeout` seconds.
    """
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            status, usage = wait4(process, timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        out.seek(0)
        text = out.read()
    if status != 0:
        raise BenchError(f"{' '.join(command)} ended with {status}: {text.strip()[-300:]}")
    return text, usage


def wait4(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, float]:
    deadline = time.monotonic() + timeout
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            raise BenchError(f"{process.args!r} took longer than {timeout:g} s")
        time.sleep(0.02)


def run_ab(url: str, *, requests: int, clients: int, keep_alive: bool) -> Sample:
    """One run of ab. Raises NotInstalled or BenchError."""
    program = find_program(("ab",), "ab", "apt install apache2-utils, or dnf install httpd-tools")
    with tempfile.TemporaryDirectory() as scratch:
        percentiles = Path(scratch, "percentiles")
        command = [
            program,
            "-q",
            "-n",
            str(requests),
            "-c",
            str(min(clients, requests)),
            "-s",
            "60",
            "-e",
            str(percentiles),
            *(["-k"] if keep_alive else []),
            url,
        ]
        text, cpu = run_client(command, timeout=300)
        return parse_ab(text, percentiles.read_text(), cpu)


def parse_ab(text: str, percentiles: str, cpu: float) -> Sample:
    """ab's report as a Sample. Raises BenchError if it is not one. A response of another length than
    the first counts as failed, and is left out of qps; see `mpmkit.load.ab_wrk.parse_ab`."""
    return sample_of(
        ab_wrk.parse_ab(text, percentiles, "", LoadProfile(requests=1)), text, "ab", cpu
    )


def sample_of(run: LoadRun | None, text: str, client: str, cpu: float) -> Sample:
    """What a client's report says, with the CPU seconds it used."""
    if run is None:
        raise BenchError(f"{client} did not report: {text.strip()[-300:]}")
    seconds = run.duration
    return Sample(
        run.succeeded,
        run.failures,
        seconds,
        run.qps,
        run.latency_ms(50),
        run.latency_ms(99),
        cpu / seconds if seconds else 0.0,
    )


# args: nothing, or a prefix that makes every request distinct.
DISTINCT_HEADS = """\
local prefix, count = nil, 0
function init(args)
  prefix = args[1]
  if prefix then
    request = function()
      count = count + 1
      return wrk.format("GET", wrk.path .. "?n=" .. prefix .. count,
                        {["X-Request"] = prefix .. count})
    end
  end
end
"""


def run_wrk(url: str, *, seconds: float, clients: int, distinct: str = "") -> Sample:
    """One run of wrk on one thread. `distinct` is a prefix that no other run uses, or nothing.

    Raises NotInstalled or BenchError.
    """
    program = find_program(("wrk",), "wrk", "apt install wrk, or dnf install wrk")
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "bench.lua")
        script.write_text(ab_wrk.wrk_script() + DISTINCT_HEADS)
        whole = max(1, round(seconds))  # wrk takes whole seconds only
        command = [
            program,
            "-t1",
            f"-c{clients}",
            f"-d{whole}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            url,
            *(["--", distinct] if distinct else []),
        ]
        text, cpu = run_client(command, timeout=whole + 60)
    return parse_wrk(text, cpu)


def parse_wrk(text: str, cpu: float) -> Sample:
    """What our script prints at wrk's end. Raises BenchError if it is not there."""
    return sample_of(ab_wrk.parse_wrk(text, "", LoadProfile(duration=1)), text, "wrk", cpu)


def turn(work: Work, url: str, *, requests: int, seconds: float, nonce: str) -> Sample:
    """One turn of a server at a piece of work."""
    if work.client == "wrk":
        return run_wrk(
            url, seconds=seconds, clients=work.clients, distinct=nonce if work.distinct else ""
        )
    return run_ab(
        url,
        requests=max(work.clients, round(requests * work.share)),
        clients=work.clients,
        keep_alive=work.keep_alive,
    )


def expected_seconds(
    works: Iterable[Work],
    mpms: Iterable[str] = MPMS,
    *,
    rounds: int,
    requests: int,
    seconds: float,
    nginx: bool = True,
) -> float:
    """About how long `measure` takes for all of these MPMs, on a slow day of a machine with 2 cores."""
    total = 0.0
    works = list(works)
    for mpm in mpms:
        total += 8.0  # starts, stops, and a look at every answer
        for work in works:
            if work.held and mpm != "event":
                continue
            if work.client == "wrk":
                turn_takes = float(max(1, round(seconds)) + max(1, round(seconds / 5)))
            else:
                size = sum(max(work.clients, n * work.share) for n in (requests, requests / 5))
                turn_takes = size / (
                    150 if work.share < 0.1 else 15_000 if work.keep_alive else 8_000
                )
            sides = 2 if work.held or work.php or not nginx else 3
            total += rounds * sides * (turn_takes + 0.2)
    return total


# ---------------------------------------------------------------- the pages and the servers


@contextlib.contextmanager
def pages() -> Iterator[Path]:
    """A document root that every server may read, whatever user it runs as."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-bench-") as name:
        root = Path(name)
        root.chmod(0o755)
        samples = resources.files("mpmkit") / "htdocs"
        for sample in ("index.html", "hello.py"):
            (root / sample).write_bytes((samples / sample).read_bytes())
        (root / "hello.php").write_text('<?php echo "hello world";')
        line = b"A line of text, sixty-four bytes long with its newline at the end.\n"[-64:]
        (root / "100k.txt").write_bytes((line * 1600)[:100_000])
        (root / "10m.txt").write_bytes((line * 160_000)[:10_000_000])
        for file in root.iterdir():
            file.chmod(0o644)
        yield root


def contestants(
    mpm: str,
    works: Iterable[Work],
    root: Path,
    directives: Mapping[str, Any],
    *,
    nginx: bool,
    buffered_logs: bool,
    floors: bool = False,
) -> dict[str, Callable[[], Any]]:
    """Name -> how to start it, for one MPM: ours, httpd's, mod_php's where scripts are, nginx, and the
    floors where there are such."""
    both = {**DIRECTIVES[mpm], **directives}
    works = list(works)
    plain = any(not work.php and not work.held for work in works)
    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: mpmkit.launch(mpm, document_root=root, access_log=True, **both)
    }
    if plain:
        found["httpd"] = lambda: Httpd(mpm, document_root=root, buffered_logs=buffered_logs, **both)
    if any(work.php for work in works):
        found["httpd-php"] = lambda: Httpd(
            "prefork",
            document_root=root,
            php=True,
            buffered_logs=buffered_logs,
            **{**DIRECTIVES["prefork"], **directives},
        )
    if mpm == "event" and any(work.held for work in works):
        for name in (HOLDING, FREE):
            found[name] = lambda: mpmkit.launch(
                mpm, document_root=root, access_log=True, **{**both, **ROOM}
            )
    if nginx and plain:
        found["nginx"] = lambda: Nginx(document_root=root, buffered_logs=buffered_logs, **both)
    if floors and mpm in baseline.MODELS and any(takes_part("floor", work) for work in works):
        for name, bare in FLOORS.items():
            found[name] = lambda bare=bare: baseline.Floor(  # type: ignore[misc]
                mpm, document_root=root, bare=bare, **both
            )
    return found


def takes_part(server: str, work: Work) -> bool:
    """Scripts are measured beside mod_php only, and everything else not; a floor has one page."""
    if server in FLOORS:
        return work.path == f"/{baseline.PAGE}" and not work.held
    if work.held or server in (HOLDING, FREE):
        return bool(work.held) and server in (HOLDING, FREE)
    return server == OURS or (server == "httpd-php") == work.php


def side_of_ours(work: Work) -> str:
    return HOLDING if work.held else OURS


def path_for(server: str, work: Work) -> str:
    return work.path if server.startswith(OURS) else work.rival_path or work.path


@dataclass(frozen=True)
class Reply:
    """One answer, looked at before the measuring: the servers must do the same work."""

    status: int
    body: bytes
    headers: tuple[str, ...]


def ask(url: str, path: str, *, keep_alive: bool) -> Reply:
    """One request as the clients send it. Raises BenchError if nobody answers."""
    host = url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", path, headers={} if keep_alive else {"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        names = tuple(sorted({name.lower() for name in response.headers}))
        return Reply(response.status, body, names)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{url}{path} did not answer: {error}") from None
    finally:
        connection.close()


def compare_replies(works: Iterable[Work], urls: Mapping[str, str]) -> list[str]:
    """Sentences on how the servers' answers differ; raises BenchError if a body does.

    Header fields may differ (nginx sends no Keep-Alive), and the reader should know which.
    """
    remarks: dict[str, list[str]] = {}
    for work in works:
        replies = {
            server: ask(url, path_for(server, work), keep_alive=work.keep_alive)
            for server, url in urls.items()
            if takes_part(server, work)
        }
        mine = replies[side_of_ours(work)]
        for server, reply in replies.items():
            if reply.status != 200:
                raise BenchError(f"{server} answers {work.name} with status {reply.status}")
            if reply.body.strip() != mine.body.strip():
                raise BenchError(
                    f"{server} answers {work.name} with another body than {OURS}: "
                    f"{len(reply.body)} and {len(mine.body)} bytes"
                )
            more = set(mine.headers) - set(reply.headers)
            less = set(reply.headers) - set(mine.headers)
            if more or less:
                told = [f"{OURS} alone sends {', '.join(sorted(more))}"] if more else []
                told += [f"{server} alone sends {', '.join(sorted(less))}"] if less else []
                remarks.setdefault("; ".join(told), []).append(work.name)
    return [f"{', '.join(names)}: {told}" for told, names in remarks.items()]


# ---------------------------------------------------------------- rounds


Row = dict[str, Any]


def measure(
    mpm: str,
    works: Sequence[Work],
    *,
    rounds: int,
    requests: int,
    seconds: float,
    directives: Mapping[str, Any] | None = None,
    nginx: bool = True,
    buffered_logs: bool = False,
    floors: bool = False,
    on_row: Callable[[Row], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Measure one MPM beside its original: a list of rows, one a server, work and round.

    `requests` is the length of a turn with ab, `seconds` with wrk; a fifth of a turn, not counted,
    goes before each. `on_row` hears of each row at once. Rivals that are not installed are left
    out and said; ours must start. Raises BenchError, or what `mpmkit.launch` raises.
    """
    rows: list[Row] = []
    works = runnable(works, say, mpm)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(pages())
        servers: dict[str, Any] = {}
        makers = contestants(
            mpm,
            works,
            root,
            directives or {},
            nginx=nginx,
            buffered_logs=buffered_logs,
            floors=floors,
        )
        for name, make in makers.items():
            try:
                servers[name] = stack.enter_context(make())
            except (NotInstalled, ServerFailed) as missing:
                say(f"without {name}: {missing}")
        urls = {name: server.url for name, server in servers.items()}
        for remark in compare_replies(works, urls):
            say(f"response headers, {remark}")
        for work in works:
            if work.held:
                hold(stack, servers[HOLDING].url, work)
        versions = {name: getattr(server, "version", "") for name, server in servers.items()}
        for number in range(1, rounds + 1):
            for work in works:
                for place, name in enumerate(order(urls, work, number), 1):
                    url = urls[name] + path_for(name, work)
                    nonce = f"{mpm[0]}{number}{name[0]}{time.monotonic_ns() % 10**9}x"
                    turn(work, url, requests=requests // 5, seconds=seconds / 5, nonce=nonce + "w")
                    used = cpu_ns(members(servers[name].pid))
                    sample = turn(work, url, requests=requests, seconds=seconds, nonce=nonce)
                    used = cpu_ns(members(servers[name].pid)) - used
                    asked = sample.requests + sample.failures
                    row = {
                        "mpm": mpm,
                        "work": work.name,
                        "round": number,
                        "place": place,
                        "server": name,
                        "version": versions[name],
                        **asdict(sample),
                        "client_bound": sample.client_bound,
                        "server_cpu_us": used / asked / 1000 if asked else None,
                    }
                    rows.append(row)
                    if on_row:
                        on_row(row)
    return rows


def hold(stack: contextlib.ExitStack, url: str, work: Work) -> None:
    """Idle connections, as long as the stack stands. Raises BenchError if the server takes fewer."""
    with descriptors(work.held + 100):
        holding = stack.enter_context(HoldingProcess(url, "idle", path=work.path))
    held = holding.hold(work.held)["held"]
    if held < work.held:
        raise BenchError(
            f"{work.name}: {held:,} of {work.held:,} connections are held; "
            "more descriptors (ulimit -n) or more time may help"
        )


def order(servers: Iterable[str], work: Work, number: int) -> list[str]:
    """Who is measured when in round `number`: each round another server begins."""
    names = [name for name in servers if takes_part(name, work)]
    first = (number - 1) % len(names)
    return names[first:] + names[:first]


def runnable(works: Sequence[Work], say: Callable[[str], None], mpm: str = "event") -> list[Work]:
    """The works whose client is installed, and that are `mpm`'s. Raises BenchError if none is."""
    works = [work for work in works if mpm == "event" or not work.held]
    missing = {
        client
        for client in {work.client for work in works}
        if not shutil.which(client, path=os.environ.get("PATH", "") + ":/usr/sbin")
    }
    for client in sorted(missing):
        names = [work.name for work in works if work.client == client]
        say(f"without {', '.join(names)}: {client} is not installed")
    left = [work for work in works if work.client not in missing]
    if not left:
        raise BenchError("no client is installed; apt install apache2-utils wrk")
    return left


# ---------------------------------------------------------------- what came out


@dataclass(frozen=True)
class Cell:
    """Ours against one rival at one work: the ratios of the rounds in one figure and its spread.

    failures are ours, over all rounds; client_bound is the number of rounds in which the client
    may have been what limited us, so that the ratio is a lower bound. The cpu_us are what a request
    cost the server, in µs of CPU time, medians; nan if not known.
    """

    mpm: str
    work: str
    rival: str
    rounds: int
    median: float
    lowest: float
    highest: float
    ours_qps: float
    rival_qps: float
    ours_p99_ms: float
    rival_p99_ms: float
    failures: int
    client_bound: int
    target: float | None
    ours_cpu_us: float = math.nan
    rival_cpu_us: float = math.nan

    @property
    def verdict(self) -> str:
        """`reached`, `missed by N%`, the number of rounds if they are too few to judge by, or
        nothing where there is no target. `open` where it was not reached and the client was at its
        limit in most rounds. Where the 99th percentile counts, what it is, too."""
        if self.target is None:
            return ""
        if self.rounds < ENOUGH_ROUNDS:
            return f"{self.rounds} round{'s' * (self.rounds != 1)}"
        if self.median >= self.target:
            verdict = "reached"
        elif 2 * self.client_bound > self.rounds:
            verdict = "open"
        else:
            verdict = f"missed by {1 - self.median / self.target:.0%}"
        if self.work in P99_COUNTS and self.rival == "httpd":
            worse = self.ours_p99_ms / self.rival_p99_ms - 1
            verdict += f", p99 worse by {worse:.0%}" if worse > 0 else ", p99 no worse"
        return verdict


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Ratios per round, put together; rounds in which one of the two is missing don't count."""
    by_key: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        servers = by_key.setdefault((row["mpm"], row["work"]), {})
        servers.setdefault(row["server"], {})[row["round"]] = row
    found = []
    for (mpm, work), servers in by_key.items():
        ours = HOLDING if HOLDING in servers else OURS
        mine = servers.get(ours, {})
        for rival, theirs in servers.items():
            shared = [number for number in mine if number in theirs and theirs[number]["qps"] > 0]
            if rival == ours or not shared:
                continue
            ratios = [mine[n]["qps"] / theirs[n]["qps"] for n in shared]

            def middle(side: dict[int, Row], column: str, numbers: list[int] = shared) -> float:
                return statistics.median(side[n][column] for n in numbers)

            found.append(
                Cell(
                    mpm,
                    work,
                    rival,
                    len(shared),
                    statistics.median(ratios),
                    min(ratios),
                    max(ratios),
                    middle(mine, "qps"),
                    middle(theirs, "qps"),
                    middle(mine, "p99_ms"),
                    middle(theirs, "p99_ms"),
                    sum(mine[n]["failures"] for n in shared),
                    sum(mine[n]["client_bound"] for n in shared),
                    TARGETS.get((work, rival)),
                    cpu_us(mine[n] for n in shared),
                    cpu_us(theirs[n] for n in shared),
                )
            )
    return found


def cpu_us(rows: Iterable[Mapping[str, Any]]) -> float:
    """The median CPU time of a request, in µs, over the rows that know it; nan if none does."""
    known = [row["server_cpu_us"] for row in rows if row.get("server_cpu_us") is not None]
    return statistics.median(known) if known else math.nan


def floor_lines(rows: Sequence[Row]) -> list[str]:
    """For each MPM and work with a floor: where it lies beside httpd, and where ours does."""
    lines = []
    for name in FLOORS:
        # The floor in the place of ours: the same ratios, within the same rounds.
        as_ours = [
            {**row, "server": OURS} if row["server"] == name else row
            for row in rows
            if row["server"] in (name, "httpd")
        ]
        ours = {(cell.mpm, cell.work): cell.median for cell in cells(rows) if cell.rival == "httpd"}
        for cell in cells(as_ours):
            if (cell.mpm, cell.work) in ours:
                lines.append(
                    f"{name}, {cell.mpm}, {cell.work}: {cell.median:.2f} times httpd "
                    f"({cell.lowest:.2f}–{cell.highest:.2f}); {OURS}: {ours[cell.mpm, cell.work]:.2f}"
                )
    return lines


HEADINGS = (
    "work",
    "MPM",
    "beside",
    "ratio",
    "low–high",
    "ours/s",
    "theirs/s",
    "p99 ms",
    "µs CPU",
    "target",
    "verdict",
    "remarks",
)


def table(found: Iterable[Cell]) -> str:
    """The cells as aligned text: the ratio first, the figures it comes from behind it."""
    lines = [HEADINGS]
    for cell in found:
        remarks = [f"{cell.failures} failed"] if cell.failures else []
        if cell.client_bound:
            remarks.append(f"client at its limit in {cell.client_bound} of {cell.rounds} rounds")
        lines.append(
            (
                cell.work,
                cell.mpm,
                cell.rival,
                f"{cell.median:.2f}",
                f"{cell.lowest:.2f}–{cell.highest:.2f}",
                f"{cell.ours_qps:,.0f}",
                f"{cell.rival_qps:,.0f}",
                f"{cell.ours_p99_ms:.1f} | {cell.rival_p99_ms:.1f}",
                ""
                if math.isnan(cell.ours_cpu_us + cell.rival_cpu_us)
                else f"{cell.ours_cpu_us:,.1f} | {cell.rival_cpu_us:,.1f}",
                f"≥ {cell.target:g}" if cell.target and cell.verdict else "",
                cell.verdict,
                ", ".join(remarks),
            )
        )
    return "\n".join(aligned(lines, left={0, 1, 2, 10, 11}))


# ---------------------------------------------------------------- the command


def recorded_row(
    row: Row, extra: Mapping[str, Any], started: float, steal: float | None = None
) -> Row:
    """A row as the records table `bench` has it. started: when its turn began; steal: the share of
    the processors' time since then that the host took away."""
    return {
        **row,
        "version": row["version"] or None,
        **extra,
        "table": "bench",
        "started_at": records.utc(started),
        "load1": records.load1(),
        "steal": steal,
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description="Measure mpmkit's MPMs beside the real httpd's and nginx, interleaved.",
        epilog="works: " + "; ".join(f"{work.name} ({work.title})" for work in WORKS.values()),
    )
    parser.add_argument("--mpm", nargs="+", choices=MPMS, default=list(MPMS))
    parser.add_argument("--work", nargs="+", choices=[*WORKS, "all"], default=list(DEFAULT_WORKS))
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 for a verdict (5)")
    parser.add_argument("--requests", type=int, help="requests a turn with ab")
    parser.add_argument("--seconds", type=float, help="seconds a turn with wrk")
    parser.add_argument(
        "-c",
        "--directive",
        action="append",
        default=[],
        metavar="'Name value'",
        help="a directive for every server, over the article's; may be repeated",
    )
    parser.add_argument("--no-nginx", action="store_true", help="leave nginx out")
    parser.add_argument(
        "--floor",
        action="store_true",
        help="the least that a Python server does under prefork and worker, too",
    )
    parser.add_argument(
        "--buffered-logs",
        action="store_true",
        help="let the rivals collect their log lines (BufferedLogs On)",
    )
    parser.add_argument("--out", type=Path, help="CSV of all rows (a new one in data/bench)")
    chosen = parser.parse_args(argv)
    scale = os.environ.get("MPMKIT_SCALE", "demo")
    if scale not in SCALES:
        parser.error(f"MPMKIT_SCALE is {scale!r}; choose {', '.join(SCALES)}")
    chosen.scale = "custom" if chosen.requests or chosen.seconds else scale
    chosen.requests = SCALES[scale][0] if chosen.requests is None else chosen.requests
    chosen.seconds = SCALES[scale][1] if chosen.seconds is None else chosen.seconds
    if chosen.rounds < 1 or chosen.requests < 5 or not 0 < chosen.seconds <= 600:
        parser.error("--rounds from 1, --requests from 5, --seconds over 0 and at most 600")
    chosen.work = list(WORKS) if "all" in chosen.work else list(dict.fromkeys(chosen.work))
    # Repeated heads alone would flatter a server that remembers them.
    for one, other in (("repeated", "distinct"), ("distinct", "repeated")):
        if one in chosen.work and other not in chosen.work:
            chosen.work.append(other)
    chosen.directives = {}
    for text in chosen.directive:
        name, _, value = text.strip().partition(" ")
        if not value.strip():
            parser.error(f"-c {text!r}: write a directive and its value, -c 'KeepAliveTimeout 5'")
        chosen.directives[name] = value.strip()
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench as asked, print the table, leave the rows in a CSV file; 1 on failure."""
    chosen = arguments(argv)
    works = [WORKS[name] for name in chosen.work]
    rows: list[Row] = []

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    total = chosen.rounds
    run_id, machine = records.new_run_id(), records.machine()
    begun = time.time(), machine_times()
    extra = {
        "run_id": run_id,
        "directives": "; ".join(chosen.directive) or None,
        "scale": chosen.scale or "custom",
        "buffered_logs": chosen.buffered_logs,
        **machine.row(),
    }
    place = chosen.out or Path("data/bench", f"bench-{run_id}.csv")
    try:
        if chosen.out is None:
            place.parent.mkdir(parents=True, exist_ok=True)
        file = records.RecordFile(place, "bench")
    except (records.RecordError, OSError) as error:
        say(f"mpmkit: {error}")
        return 1

    def on_row(row: Row) -> None:
        nonlocal begun
        rows.append(row)
        started, before = begun
        begun = time.time(), machine_times()
        file.append(recorded_row(row, extra, started, begun[1].steal_since(before)))
        say(
            f"{row['mpm']:8}round {row['round']}/{total}  {row['work']:17}{row['server']:10}"
            f"{row['qps']:10,.0f}/s" + ("  client at its limit" if row["client_bound"] else "")
        )

    try:
        for mpm in chosen.mpm:
            measure(
                mpm,
                works,
                rounds=chosen.rounds,
                requests=chosen.requests,
                seconds=chosen.seconds,
                directives=chosen.directives,
                nginx=not chosen.no_nginx,
                buffered_logs=chosen.buffered_logs,
                floors=chosen.floor,
                on_row=on_row,
                say=say,
            )
    except KeyboardInterrupt:
        say("interrupted; what was measured so far:")
        status = 130
    except (BenchError, NotInstalled, ServerFailed, ValueError, OSError, RuntimeError) as error:
        say(f"mpmkit: {error}")
        status = 1
    else:
        status = 0
    if rows:
        print()
        print(table(cells(rows)))
        print("".join(f"\n{line}" for line in floor_lines(rows)), end="")
        print(
            f"\nratios: ours / theirs within a round, median of the interleaved rounds, "
            f"low–high their extremes; p99: ours | theirs\nmeasured on {machine}\n"
            f"rows in {file.path}"
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
