"""Memory: what servers cost, measured and from recorded smaps; room for workers; CPU time and queues."""

import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.calls import printed_by, refused
from support.experiments import memory_rows as rows
from support.servers import environment, free_ports, pool
from support.waiting import poll_until

import mpmkit
from benchmarks import python_servers  # noqa: F401  Python's servers are competitors, too
from benchmarks.usage import usage
from mpmkit.load import connections, preflight
from mpmkit.measure import competitors, experiment, procfs, published, records
from mpmkit.measure.experiment import ExperimentError
from mpmkit.measure.memory import PATIENT, MemoryTable, main, memory_of, memory_table
from mpmkit.measure.procfs import Footprint, kind_of, mappings, parse_smaps
from mpmkit.measure.sizing import max_request_workers_for, size_in_bytes, slope
from mpmkit.policy.simulator import settled

plan = memory_table.__wrapped__
SMALL = {mpm: pool(mpm, 2, 6, threads=3, spare=(3, 6)) for mpm in ("worker", "event")}
SMALL["prefork"] = pool("prefork", 6, 6, spare=(2, 6))


@pytest.fixture
def quick(monkeypatch):
    """Looks only as long as a test needs it."""
    monkeypatch.setattr(procfs, "STEADY", 0.2)
    monkeypatch.setattr(procfs, "BETWEEN", 0.01)
    monkeypatch.setenv("MPMKIT_HOLDER_PATIENCE", "3")
    monkeypatch.setattr(published, "DIRECTIVES", SMALL)


@pytest.mark.parametrize("mpm", ("worker", "event"))
def test_what_is_held_keeps_workers_busy_but_idle_connections_under_event(mpm, monkeypatch):
    monkeypatch.setenv("MPMKIT_HOLDER_PATIENCE", "3")
    with mpmkit.launch(mpm, **SMALL[mpm], **PATIENT) as server:
        with connections.HoldingProcess(server.url, "half-sent") as holding:
            assert holding.ask("hold", 4)["held"] == 4
            poll_until(lambda: server.scoreboard().count("R") == 4)
            said = holding.ask("finish")
            assert (said["held"], said["lost"]) == (4, 0)
            poll_until(lambda: server.scoreboard().count("R") == 0)
        with connections.HoldingProcess(server.url, "idle") as holding:
            said = holding.ask("hold", 9)
            slots = 9 if mpm == "event" else 6
            assert (said["held"], said["waiting"], said["lost"]) == (slots, 9 - slots, 0)
            assert holding.ask("report")["held"] == slots
            poll_until(lambda: server.scoreboard().count("K") == (0 if mpm == "event" else 6))
            server.stop()
            poll_until(lambda: holding.ask("report")["held"] == 0)


def test_a_holder_ends_with_who_started_it():
    with mpmkit.launch("worker", KeepAlive=False, **SMALL["worker"]) as server:
        program = f"""import time
from mpmkit.load.connections import HoldingProcess
with HoldingProcess({server.url!r}, 'half-sent') as holding:
    holding.ask('hold', 2), print(holding.pid, flush=True), time.sleep(60)"""
        pipe = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
        with subprocess.Popen([sys.executable, "-c", program], **pipe) as child:
            pid = int(child.stdout.readline())
            assert procfs.alive(pid)
            child.kill()
        poll_until(lambda: not procfs.alive(pid))
        # A server that closes after each answer holds nothing.
        with connections.HoldingProcess(server.url, "idle") as holding:
            assert holding.ask("hold", 3)["error"] == ""
            poll_until(lambda: holding.ask("report")["held"] == 0)
            assert holding.ask("report")["lost"] >= 3
    # No server and a holder that dies are errors.
    with connections.HoldingProcess("http://127.0.0.1:1", "idle") as holding:
        said = holding.ask("hold", 1)
        assert said["held"] == 0 and said["error"] == "a connection failed: Connection refused"
        os.kill(holding.pid, signal.SIGKILL)
        refused(RuntimeError, "ended with -9", holding.ask, "report")


def test_what_has_been_accepted_and_read():
    """Not: what is unread, what no process has accepted (no inode), another port, the listening socket."""
    row = " 0: 0100007F:{} 0100007F:8001 {} 00000000:{:08X} 00:00000000 00000000 0 0 {} 1".format
    rows = [row("1F90", "01", *one) for one in ((0, 4711), (37, 4712), (0, 0))]
    rows += [row("8001", "01", 0, 4713), row("1F90", "0A", 2, 4714)]
    assert connections.taken("\n".join(["head", *rows]), 8080) == 1


def test_descriptors_are_foreseen(monkeypatch):
    limits = [(1000, 4000)]
    monkeypatch.setattr("resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _, pair: limits.append(pair))
    assert preflight.too_few_descriptors(4000) == ""
    needed = "5,000 file descriptors are needed and the hard limit is 4,000"
    assert needed in preflight.too_few_descriptors(5000)
    with preflight.descriptors(3000):
        assert limits[-1] == (3000, 4000)
    assert limits[-1] == (1000, 4000)
    said = "levels: 10,200 file descriptors are needed"
    refused(ValueError, said, plan, ("event",), ("idle",), idle=(10_000,))


def test_a_slope_and_its_interval_by_hand():
    """y = 1, 2, 4 at 0, 1, 2: slope 1.5, residuals 1/6, -1/3, 1/6; standard error sqrt(1/12)."""
    line = slope([0, 1, 2], [1, 2, 4])
    assert (line.slope, line.base) == (pytest.approx(1.5), pytest.approx(5 / 6))
    half = [line.high - line.slope, line.slope - line.low]
    assert half == pytest.approx([12.706 * (1 / 12) ** 0.5] * 2)
    assert (line.at(4), line.points, line.most) == (pytest.approx(6 + 5 / 6), 3, 2)
    assert slope([0, 1], [1, 2]).high == float("inf")
    refused(ValueError, "two different levels", slope, [5, 5], [1, 2])


def test_room_for_workers():
    """(1000 MiB - 256 - 20,000 KiB) / (1000 + 80 KiB)"""
    sized = max_request_workers_for("1000MiB", mpm="prefork", memory=rows())
    assert sized.workers == ((1000 - 256) * 1024 - 20_000) // 1080
    assert sized.reserve == 256 << 20 and sized.per_request == 1080 * 1024
    assert sized.by_rss == (744 * 1024 - 160_000) // 8000
    said = str(sized)
    assert said.startswith(f"MaxRequestWorkers {sized.workers} for prefork in 1,000.0 MiB")
    assert "no more than 200 were busy at once" in said and "summed RSS would have" in said
    table = MemoryTable(rows())
    assert max_request_workers_for("1000MiB", mpm="prefork", memory=table) == sized
    assert max_request_workers_for("1000MiB", mpm="prefork", memory=table.to_frame()) == sized
    # The cost is the upper end of its interval, where levels lie off the line.
    noisy = max_request_workers_for("1000MiB", mpm="prefork", memory=rows(noise=200))
    room = (1000 << 20) - noisy.reserve - noisy.base
    assert noisy.per_request > sized.per_request and noisy.workers == room // noisy.per_request
    # Threads come in whole children, and idle connections take room.
    memory = rows("event", cost=100, tables=9) + rows("event", "idle", cost=3, tables=0)
    how = {"mpm": "event", "memory": memory, "reserve": "100MiB"}
    sized = max_request_workers_for("1GiB", **how)
    assert sized.workers % 25 == 0 and "ServerLimit" in str(sized)
    less = max_request_workers_for("1GiB", **how, idle=50_000)
    assert less.workers < sized.workers and "50,000 kept-alive connections" in str(less)
    assert max_request_workers_for("1GiB", **how, threads_per_child=64).workers % 64 == 0
    sizes = {1024: 1024, "4GiB": 4 << 30, "4G": 4 << 30, "4GB": 4_000_000_000, "512m": 512 << 20,
             "1.5 GiB": 3 << 29, "1TiB": 1 << 40, "100B": 100}  # fmt: skip
    assert {text: size_in_bytes(text) for text in sizes} == sizes


def test_what_the_table_says():
    own = {"pss_kb": 777, "uss_kb": 700, "rss_kb": 900, "code_kb": 777}
    child = {**rows()[0], "scope": "child", "processes": 1, **own}
    levels = [*rows(), child, *rows("event", "idle", cost=4)]
    table = MemoryTable(levels, planned=9, left_out=["without nginx: nginx is not installed"])
    text = table.text()
    busy, idle = text.partition("\n\nmemory in MiB against kept")[::2]
    costs = text[text.index("what one more costs") :].split("\n\n", 1)[0]
    small = text.rsplit("\n\n", 1)[1]
    assert "mpmkit prefork\n" in busy and "mpmkit event\n" in idle
    assert busy.splitlines()[-1].split()[:5] == "200 200 205 30 214.8".split()
    assert "777" in busy.splitlines()[4]
    line = "mpmkit prefork, busy request 1,000.0 1,000.0 to 1,000.0 +80.0 19.5 8,000.0"
    assert costs.splitlines()[1].split() == line.split()
    assert "summed RSS counts a shared p" in small and "NOT COMPLETE: 8 of 9 levels" in small
    assert small.endswith("without nginx: nginx is not installed")
    frame = table.costs()
    assert list(frame["cost"]) == [pytest.approx(1000), pytest.approx(4)]
    assert list(frame["cost_page_tables"]) == [pytest.approx(80)] * 2
    assert MemoryTable([]).text() == "no level was finished"
    assert "one level alone has no slope" in MemoryTable(rows()[:1]).text()


def test_levels_of_a_plan(monkeypatch):
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    todo = plan(scale="demo", also=("httpd", "gunicorn"))
    levels = {}
    for one in todo.cells:
        levels.setdefault((one.server, one.mpm, one.against), []).append(one.level)
    assert levels["mpmkit", "prefork", "busy"] == [0, 62, 125, 188, 250]
    # What prefork and worker can't hold is asked for once.
    once = levels["mpmkit", "prefork", "idle"]
    assert once == levels["httpd", "worker", "idle"] == [0, 100, 250, 1000]
    assert levels["mpmkit", "event", "idle"] == [0, 100, 250, 1000, 2500]
    assert ("httpd", "event", "busy") in levels
    assert ("gunicorn-sync", "", "idle") in levels and ("gunicorn-sync", "", "busy") not in levels
    event = next(one for one in todo.cells if (one.mpm, one.against) == ("event", "idle"))
    # 3 children of 25 threads hold 75 * (factor + 1) connections.
    assert 75 * (event.directives["AsyncRequestWorkerFactor"] + 1) > 2500 * 1.4
    assert len(todo.cells) == sum(map(len, levels.values())) and todo.repeats == 1


def test_a_pool_as_idle_maintenance_leaves_it():
    started = {("prefork", 0): 5, ("prefork", 100): 105, ("prefork", 250): 250, ("worker", 0): 3,
               ("worker", 1): 4, ("event", 100): 7, ("event", 400): 16}  # fmt: skip
    given = published.DIRECTIVES
    checked = {mpm: mpmkit.simulate(mpm, seconds=0, **given[mpm]).directives for mpm in given}
    assert {(mpm, n): settled(checked[mpm], n) for mpm, n in started} == started


def test_memory_of_a_server_now():
    with mpmkit.launch("event", **SMALL["event"]) as server:
        # The second child may still be starting its threads.
        poll_until(lambda: (memory_of(server)["threads"][1:] > 3).all())
        frame = memory_of(server)
        assert list(frame["role"]) == ["parent"] + ["child"] * 2
        assert frame["pid"][0] == server.pid and set(frame["pid"][1:]) == set(server.processes())
        assert (frame["uss"] <= frame["pss"]).all() and (frame["pss"] <= frame["rss"]).all()
        parts = frame[["code", "heap", "anonymous", "stacks", "shm"]].sum(axis=1)
        assert (parts == frame["pss"]).all() and (frame["page_tables"] > 0).all()
    refused(ValueError, "no server runs", memory_of, server)


def test_a_whole_measurement(quick, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    argv = f"--mpm event,prefork --busy 0,6 --idle 8 --out {path}".split()
    status, out, err = printed_by(main, argv, capsys)
    assert status == 0, err
    found = records.read(path)
    whole = [row for row in found if row["scope"] == "server"]
    levels = [(row["mpm"], row["against"], row["level"], row["held"]) for row in whole]
    assert levels == [
        (mpm, *level) for mpm, idle in (("prefork", 6), ("event", 8))
        for level in (("busy", 0, 0), ("busy", 6, 6), ("idle", 8, idle))
    ]  # fmt: skip
    for row in found:
        assert row["scope"] == "server" or row["processes"] == 1
        assert row["uss_kb"] <= row["pss_kb"] + 8 <= row["rss_kb"] + 16
    assert all(row["processes"] == 7 for row in whole if row["mpm"] == "prefork")
    assert "MaxRequestWorkers=6" in found[0]["directives"]
    assert "memory in MiB against requests being served" in out and "what one more costs" in out
    assert "6 levels, about" in err and "[6/6] round 1, mpmkit event, 8 idle: " in err


def test_the_answer_for_a_machine_is_printed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(MemoryTable, "run", lambda *_, **__: MemoryTable(rows()))
    argv = ["--mpm", "prefork", "--out", str(tmp_path / "rows.csv"), "--ram"]
    assert main([*argv, "2GiB"]) == 0 and "\nMaxRequestWorkers " in capsys.readouterr().out
    assert main([*argv, "270MiB"]) == 1
    assert "mpmkit: ram: 270.0 MiB have no room for 1 worker" in capsys.readouterr().err


@pytest.mark.parametrize(("how", "said"), [
    ({"ram": "much"}, "ram: must be a size like 4GiB, 512M or 4GB, not 'much'"),
    ({"ram": "0"}, "ram: must be more than nothing"),
    ({"ram": "270MiB"}, "ram: 270.0 MiB have no room for 1 worker of prefork: that takes"),
    ({"ram": "1GiB", "reserve": "2GiB"}, "reserve: 2,048.0 MiB of 1,024.0 MiB leave nothing"),
    ({"reserve": "some"}, "reserve: must be a size like 4GiB, 512M or 4GB, not 'some'"),
    ({"mpm": "winnt"}, "mpm: 'winnt' is not one of"),
    ({"mpm": "worker"}, "no two levels of busy requests under mpmkit worker; there are"),
    ({"server": "httpd"}, "under httpd prefork; there are mpmkit prefork"),
    ({"idle": 5}, "idle: under prefork a kept-alive connection keeps a worker"),
    ({"threads_per_child": 0}, "threads_per_child: must be a whole number from 1"),
    ({"memory": []}, "memory: give what memory_table returns"),
    ({"memory": rows(cost=0, noise=500, tables=0)}, "memory: growth with the number"),
    ({"ram": "x", "mpm": "y", "idle": -1}, "mpm: .*; idle: .*; ram: "),
])  # fmt: skip
def test_impossible_input_is_named(how, said):
    how = {"ram": "4GiB", "mpm": "prefork", "memory": rows(), **how}
    refused(ValueError, said, max_request_workers_for, **how)


def test_a_page_that_is_not_there_and_a_server_that_does_not_start(quick):
    small, lost = (("worker",), ("busy",)), {"ErrorLog": "/no/such/log"}
    said = r"/no\.html: HTTP Error 404: Not Found; give a page"
    refused(ExperimentError, said, memory_table, *small, busy=(0,), path="/no.html")
    refused(ExperimentError, "no/such", memory_table, *small, busy=(0,), directives=lost)


@pytest.mark.rival
def test_httpd_in_the_same_table(quick):
    here, missing = experiment.installed(competitors.of(("httpd",), ("worker",)))
    if not here:
        pytest.skip("; ".join(missing))
    table = memory_table(("worker",), busy=(0, 6), idle=(4,), also=("httpd",))
    whole = [row for row in table.records if row["scope"] == "server"]
    found = {(row["server"], row["against"], row["level"]): row for row in whole}
    assert len(found) == 6
    assert all(row["held"] == level for (_, _, level), row in found.items())
    assert found["httpd", "busy", 6]["pss_kb"] < found["mpmkit", "busy", 6]["pss_kb"]
    assert len(table.lines()) == 2


SAMPLES = Path(__file__).resolve().parent / "data" / "smaps"
NO_PROCESS = 2**22 + 1  # above the kernel's largest pid
# name -> stacks: one a thread, and in httpd that of one that has ended, which the C library keeps.
STACKS = {"prefork": 1, "event": 7, "httpd-worker": 8}


def text(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", STACKS)
def test_a_recorded_process_adds_up_and_each_thread_has_a_stack(name):
    memory = parse_smaps(text(name))
    assert memory.code + memory.heap + memory.anonymous + memory.stacks + memory.shm == memory.pss
    assert 0 < memory.uss < memory.pss < memory.rss and memory.swap == 0
    # The kernel's own sum rounds once, each mapping's is rounded down.
    whole = procfs.numbers(str(SAMPLES / f"{name}-rollup.txt"))
    assert whole["Rss"] == memory.rss
    found = mappings(text(name))
    assert memory.pss <= whole["Pss"] <= memory.pss + len(found)
    kinds = [kind_of(one, below) for one, below in zip(found, [None, *found], strict=False)]
    assert kinds.count("stacks") == STACKS[name] and kinds.count("heap") == 1 and "shm" in kinds
    for one, kind in zip(found, kinds, strict=True):
        if one.name.endswith((".so", "/scoreboard")) or ".so." in one.name:
            assert kind == ("shm" if one.name.endswith("/scoreboard") else "code"), one


# Address, permissions, name, flags, and the KiB of Rss, Pss, Private_Clean + Private_Dirty, SwapPss.
MADE = [
    ("55d0c0000000-55d0c0001000", "r-xp", "/usr/bin/python3.11 (deleted)", "rd ex", 40, 10, 4, 0),
    ("55d0c1000000-55d0c1001000", "rw-p", "[heap]", "rd wr", 100, 90, 80, 7),
    ("7f0000000000-7f0000021000", "rw-p", "", "rd wr nr", 8, 8, 8, 0),
    ("7f0000021000-7f0004000000", "---p", "", "nr", 0, 0, 0, 0),
    ("7f0004000000-7f0004800000", "rw-p", "", "rd wr", 5, 5, 5, 0),
    ("7f0004800000-7f0004801000", "---p", "", "mr", 0, 0, 0, 0),
    ("7f0004801000-7f0005001000", "rw-p", "", "rd wr", 12, 12, 12, 0),
    ("7f0006000000-7f0006800000", "rw-p", "", "rd wr gu", 4, 4, 4, 0),
    ("7f0007000000-7f0007001000", "rw-s", "/dev/zero (deleted)", "rd wr sh", 4, 1, 0, 0),
    ("7ffc00000000-7ffc00021000", "rw-p", "[stack]", "rd wr gd", 20, 20, 20, 0),
]
MADE_TEXT = "".join(
    f"{where} {permissions} 00000000 00:00 0   {name}\nRss: {rss} kB\nPss: {pss} kB\n"
    f"Private_Clean: 0 kB\nPrivate_Dirty: {own} kB\nSwapPss: {swap} kB\nVmFlags: {flags}\n"
    for where, permissions, name, flags, rss, pss, own, swap in MADE
)


def test_kinds_of_mappings():
    """An arena of malloc has its reserve above it; a stack has a guard below it, or guard pages (gu)."""
    parts = {"code": 10, "heap": 90, "anonymous": 13, "stacks": 36, "shm": 1}
    assert parse_smaps(MADE_TEXT) == Footprint(pss=150, uss=133, rss=193, swap=7, **parts)


def test_a_process_that_has_ended_has_no_memory():
    assert parse_smaps("") == Footprint()
    assert procfs.read_smaps(NO_PROCESS) is None and procfs.status_numbers(NO_PROCESS) == {}
    assert math.isnan(procfs.pss_mb([NO_PROCESS])) and procfs.pss_mb([os.getpid()]) > 1
    assert usage([NO_PROCESS]) == (0, 0, 0) and procfs.cpu_ns([NO_PROCESS]) == 0
    assert not procfs.alive(NO_PROCESS) and procfs.children(NO_PROCESS) == []
    memory = procfs.read_smaps(os.getpid())  # this very process has some
    assert memory.uss > 1000 and (memory + memory).pss == 2 * memory.pss


def test_a_zombie_is_no_living_child():
    child = Burner()
    assert child.pid in procfs.children(os.getpid()) and procfs.members(child.pid) == [child.pid]
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.stat(child.pid)[0] == "Z" and not procfs.alive(child.pid)
    assert child.pid not in procfs.children(os.getpid()) and not procfs.members(child.pid)
    child.stdout.close()
    child.wait()


def test_children_that_were_waited_for_count_in_their_parent():
    with Burner("subprocess.run([sys.executable, '-c', 'sum(range(3_000_000))'])") as parent:
        parent.work()
        own = sum(map(procfs.ran_for, procfs.tasks(parent.pid)))
        assert procfs.cpu_ns([parent.pid]) - own >= 2 * procfs.TICK_NS
        parent.stdin.close()


class Burner(subprocess.Popen):
    """A process group of Python that works when it is asked to."""

    def __init__(self, work: str = "sum(range(3_000_000))") -> None:
        program = f"import subprocess, sys\nfor line in sys.stdin:\n {work}; print(flush=True)"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__([sys.executable, "-c", program], process_group=0, **pipes)

    def work(self) -> None:
        print(file=self.stdin, flush=True)
        self.stdout.readline()


def test_the_meter_counts_from_the_first_report_to_the_end():
    with Burner() as server:
        meter = procfs.Meter(server.pid)
        server.work()
        meter.progress(0)
        assert meter.per_request(100) is None, "nothing was reported yet"
        before = procfs.cpu_ns([server.pid])
        meter.progress(40)
        server.work()
        meter.progress(50)
        meter.LEAST = 60.0
        assert meter.per_request(100) is None, "it took less than that"
        meter.LEAST = 0.0
        used = meter.per_request(100)
        assert used == pytest.approx((procfs.cpu_ns([server.pid]) - before) / 60 / 1000, rel=0.05)
        assert meter.per_request(40) is None, "no request since"
        assert procfs.Meter(None).per_request(100) is None
        server.stdin.close()


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_clients_that_no_one_accepts_wait_in_the_queue(family, host, tmp_path):
    (port,) = free_ports(1)  # on all addresses: the queue of another's would count
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(16)
        assert procfs.listen_queue(port) == 0
        clients = [socket.create_connection((host, port)) for _ in range(3)]
        poll_until(lambda: procfs.listen_queue(port) == 3, what="three wait")
        for client in clients:
            client.close()
    assert math.isnan(procfs.listen_queue(port))
    assert math.isnan(procfs.listen_queue(1, [str(tmp_path / "missing")]))
