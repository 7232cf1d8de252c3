"""The clients of the bench: ab and wrk, each with the CPU time that it used."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.works import BenchError, Work
from mpmkit.load import ab_wrk
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import LoadRun
from mpmkit.measure.reference_servers import find_program

CLIENT_BOUND = 0.9  # share of a core from which on the client may have been the bottleneck


@dataclass(frozen=True)
class ClientReport:
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


def run_ab(url: str, *, requests: int, clients: int, keep_alive: bool) -> ClientReport:
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


def parse_ab(text: str, percentiles: str, cpu: float) -> ClientReport:
    """ab's report as a ClientReport. Raises BenchError if it is not one. A response of another length than
    the first counts as failed, and is left out of qps; see `mpmkit.load.ab_wrk.parse_ab`."""
    return sample_of(
        ab_wrk.parse_ab(text, percentiles, "", LoadProfile(requests=1)), text, "ab", cpu
    )


def sample_of(run: LoadRun | None, text: str, client: str, cpu: float) -> ClientReport:
    """What a client's report says, with the CPU seconds it used."""
    if run is None:
        raise BenchError(f"{client} did not report: {text.strip()[-300:]}")
    seconds = run.duration
    return ClientReport(
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


def run_wrk(url: str, *, seconds: float, clients: int, distinct: str = "") -> ClientReport:
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


def parse_wrk(text: str, cpu: float) -> ClientReport:
    """What our script prints at wrk's end. Raises BenchError if it is not there."""
    return sample_of(ab_wrk.parse_wrk(text, "", LoadProfile(duration=1)), text, "wrk", cpu)


def turn(work: Work, url: str, *, requests: int, seconds: float, nonce: str) -> ClientReport:
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
