"""The clients of the bench: ab and wrk, each with the CPU time that it used."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.works import BenchError
from mpmkit.measure.reference_servers import find_program

CLIENT_BOUND = 0.9  # share of a core from which on the client may have been the bottleneck


@dataclass(frozen=True)
class ClientReport:
    """What a client reported of one turn: requests answered well, failures (not answered, cut short or refused),
    seconds, requests well answered a second, latencies in ms, the client's CPU as a share of one core."""

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

    @property
    def per_core(self) -> float:
        """Requests per second of the client's CPU time."""
        return self.qps / self.client_cpu if self.client_cpu > 0 else math.nan


def run_client(command: Sequence[str], timeout: float) -> tuple[str, float]:
    """Output of a client program, and the CPU seconds it used, its children's included.

    Raises BenchError if it fails or takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    raise BenchError(f"{process.args!r} took longer than {timeout:g} s")
                time.sleep(0.02)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        process.returncode = status = os.waitstatus_to_exitcode(found[1])
        out.seek(0)
        text = out.read()
    if status != 0:
        raise BenchError(f"{' '.join(command)} ended with {status}: {text.strip()[-300:]}")
    return text, found[2].ru_utime + found[2].ru_stime


def run_ab(
    url: str,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    clients: int,
    keep_alive: bool,
    curve: list[int] | None = None,
) -> ClientReport:
    """One run of ab, by requests or by time. curve: gets the requests begun in each second. Raises
    NotInstalled or BenchError."""
    program = find_program(("ab",), "ab", "apt install apache2-utils, or dnf install httpd-tools")
    with tempfile.TemporaryDirectory() as scratch:
        percentiles = Path(scratch, "percentiles")
        command = [program, "-q", "-r", "-c", str(min(clients, requests or clients)), "-s", "60"]
        command += ["-e", str(percentiles), *(["-k"] if keep_alive else [])]
        every = Path(scratch, "every")
        command += ["-g", str(every)] if curve is not None else []
        if seconds is not None:
            command += ["-t", str(math.ceil(seconds))]  # sets -n, so -n must follow it
        command += ["-n", str(requests or 5_000_000), url]
        text, cpu = run_client(command, timeout=300)
        # ab writes no percentiles if nothing was answered.
        table = percentiles.read_text() if percentiles.exists() else ""
        if curve is not None and every.exists():
            curve += begun_each_second(every.read_text())
        return parse_ab(text, table, cpu)


def begun_each_second(text: str) -> list[int]:
    """How many requests of ab's record (-g) began in the first second, the second one and so on."""
    counts = Counter(int(line.split("\t")[1]) for line in text.splitlines()[1:])
    return [counts[second] for second in range(min(counts), max(counts) + 1)] if counts else []


def parse_ab(text: str, csv: str, cpu: float) -> ClientReport:
    """What ab printed, and its file of percentiles (-e). Raises BenchError if it is not a report.

    An answer of another length than the first one's is a failure to ab; it counts answers that are not
    2xx apart. Those usually have another length, too, so they are not counted twice here.
    """

    def number(label: str) -> float:
        match = re.search(rf"^{label}:\s+([\d.]+)", text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    requests, rate = int(number("Complete requests")), number("Requests per second")
    if not requests or not rate:
        raise BenchError(f"ab did not report: {text.strip()[-300:]}")
    split = re.search(r"\(Connect: (\d+), Receive: (\d+), Length: (\d+), Exceptions: (\d+)\)", text)
    connect, receive, length, exceptions = map(int, split.groups()) if split else (0, 0, 0, 0)
    failed = connect + receive + exceptions + max(length, int(number("Non-2xx responses")))
    # ab rounds the rank, counted from 0, and with fewer than 50 requests reads the 99th percentile from
    # behind its own table. What it never measured is left out; the slowest stands for it.
    table = {
        float(share): float(ms)
        for share, ms in re.findall(r"^(\d+),([\d.]+)$", csv, re.MULTILINE)
        if share == "100" or math.floor(0.5 + requests * int(share) / 100) < requests
    }
    if longest := re.search(r"^\s*100%\s+(\d+)", text, re.MULTILINE):
        table.setdefault(100.0, float(longest[1]))
    # A refused connection counts as several failures with ab, but it is one request.
    return _report(requests, min(requests, failed), requests / rate, table, cpu)


def _report(
    requests: int, failures: int, seconds: float, table: dict[float, float], cpu: float
) -> ClientReport:
    """A report; table: percentile -> ms. cpu: seconds that the client used."""

    good = requests - failures

    def at(percent: float) -> float:
        known = good and 100.0 in table
        return table[min(p for p in table if p >= percent)] if known else math.nan

    qps, share = (good / seconds, cpu / seconds) if seconds else (0.0, 0.0)
    return ClientReport(good, failures, seconds, qps, at(50), at(99), share)


# wrk's script. args: nothing, or a prefix that makes every request distinct.
WRK_SCRIPT = """\
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
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("MPMKIT %d %d %d %d %d %d %d\\n", summary.requests,
    summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
  io.write(string.format("MPMKIT-P 50 %d\\nMPMKIT-P 99 %d\\nMPMKIT-P 100 %d\\n",
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def run_wrk(
    url: str, *, seconds: float, clients: int, keep_alive: bool = True, distinct: str = ""
) -> ClientReport:
    """One run of wrk on one thread. `distinct` is a prefix that no other run uses, or nothing.

    Raises NotInstalled or BenchError.
    """
    program = find_program(("wrk",), "wrk", "apt install wrk, or dnf install wrk")
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "bench.lua")
        script.write_text(WRK_SCRIPT)
        whole = max(1, round(seconds))  # wrk takes whole seconds only
        command = [program, "-t1", f"-c{clients}", f"-d{whole}s", "--timeout", "30s"]
        command += ["-s", str(script), *(() if keep_alive else ("-H", "Connection: close"))]
        command += [url, *(["--", distinct] if distinct else [])]
        text, cpu = run_client(command, timeout=whole + 60)
    return parse_wrk(text, cpu)


def parse_wrk(text: str, cpu: float) -> ClientReport:
    """What our script prints at wrk's end. Raises BenchError if it is not there.

    wrk counts a read error for a connection that ended between two answers as well as within one; the
    first kind loses no request, and wrk does not distinguish them: they do not count as failures.
    """
    match = re.search(r"^MPMKIT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
    if not match:
        raise BenchError(f"wrk did not report: {text.strip()[-300:]}")
    answers, micros, connect, _, write, status, timeout = map(int, match.groups())
    table = {
        float(p): int(us) / 1e3
        for p, us in re.findall(r"^MPMKIT-P (\d+) (\d+)$", text, re.MULTILINE)
    }
    # Only answers are requests to wrk; what failed without one is added.
    lost = connect + write + timeout
    return _report(answers + lost, lost + status, micros / 1e6, table, cpu)
