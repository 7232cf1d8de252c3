"""TraceLog, and the tracer: the steps of real connections against the scoreboard, and what is drawn of them."""

import itertools
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.calls import refused
from support.client import Client, TlsClient, parked
from support.files import conf, section
from support.jupyter import THEIR_WARNINGS, chromium
from support.servers import MPMS, launched, one_child, serving
from support.waiting import patience, poll_until

from docs._tools import tracer_page, tracer_record
from docs._tools.tracer_moment import Moment, at
from mpmkit.lab import replay, tracing
from mpmkit.launcher import LaunchError
from mpmkit.policy.connection_trace import CAUSES, ConnectionTrace

EITHER = set(itertools.pairwise(("-", "WAITING", "ACCEPTED", "R", "W", "L", "C", "CLOSED")))
EITHER.add(("LINGER", "CLOSED"))  # its client has closed already
HELD = {("L", "K"), ("K", "W"), ("K", "C"), ("C", "LINGER")}
PARKED = {
    ("L", "KEEPALIVE"), ("W", "WRITE_COMPLETION"), ("KEEPALIVE", "PROCESSING"), ("PROCESSING", "R"),
    ("WRITE_COMPLETION", "PROCESSING"), ("PROCESSING", "W"), ("PROCESSING", "CLOSED"), ("PROCESSING", "LINGER"),
    ("PROCESSING", "KEEPALIVE"), ("LINGER", "LINGER_SHORT"), ("LINGER_SHORT", "PROCESSING"),
}  # fmt: skip
LEGAL = {"prefork": EITHER | HELD, "worker": EITHER | HELD, "event": EITHER | PARKED}


@pytest.fixture(scope="module", params=MPMS)
def run(request):
    """(the trace of ten clients, when they began, and what the scoreboard showed meanwhile)"""
    seen, done = [], threading.Event()

    def look(server) -> None:
        while not done.wait(0.004):
            before, board = time.monotonic_ns(), server.scoreboard()
            seen.append((before, time.monotonic_ns(), board))

    def load(server):
        with ThreadPoolExecutor(1) as looker:
            looker.submit(look, server)
            try:
                return tracer_record.ten_clients(server)
            finally:
                done.set()

    trace, began = tracer_record.traced(request.param, load, KeepAliveTimeout=4)  # held up
    return trace, began, seen


def test_each_connection_has_a_legal_way(run):
    trace, _, _ = run
    assert sorted(trace.clients) == list(range(1, 11))
    for number in range(1, 11):
        steps = [step for step in trace.steps if step.conn == number]
        causes = [step.cause for step in steps]
        assert (*causes[:2], causes[-1]) == ("connected", "accepted", "closed")
        assert all(one.after == then.before for one, then in itertools.pairwise(steps))
        moves = {(step.before, step.after) for step in steps if step.before != step.after}
        assert moves <= LEGAL[trace.mpm]
    known = {step.cause for step in trace.steps}
    assert known <= set(CAUSES)
    assert ({"parked", "edge", "expired"} <= known) == (trace.mpm == "event")
    assert ("reserved" in known) == ("popped" in known) == (trace.mpm != "prefork")


def test_its_counts_are_the_scoreboards(run):
    """Each letter that a look found stood in the trace then; at quiet moments all is equal, counters, too."""
    trace, _, seen = run
    times = [step.ns for step in trace.steps]
    # ns between a store in the scoreboard and its step: a thread may lose its turn.
    slack = patience(6e7)
    quiet = settled = since = 0  # looks; after the last step: none while the machine stood still
    for before, after, board in seen:
        around = [ns for ns in times if before - slack <= ns <= after + slack]
        allowed = [at(trace, ns).letters for ns in (before - slack, *around)]
        for slot, letters in board.letters.items():
            for thread, letter in enumerate(letters):
                assert letter in {rows[slot][thread] for rows in allowed if slot in rows}
        since = 0 if around else since + 1
        if around:
            continue
        quiet += 1
        moment = at(trace, before)
        assert {slot: "".join(row) for slot, row in moment.letters.items()} == board.letters
        if trace.mpm == "event" and since > 30:
            settled += 1
            for row in board.snapshot.processes:
                parked = row.write_completion, row.keep_alive, row.lingering_close
                assert moment.parked(row.slot) == (row.connections, *parked)
    # Where other work queues for the CPUs, the steps may lie too close for a quiet moment.
    assert slack > 6e7 or (quiet > 20 and (settled > 5 or trace.mpm != "event"))
    assert any(set("".join(board.letters.values())) & set("KW") for _, _, board in seen)


def test_a_recording_keeps_steps_and_finds_its_lines(run):
    trace, began, _ = run
    (shown,) = tracing.shown(json.loads(json.dumps(tracing.recordable(trace, began))))
    assert [row[1:-1] for row in shown["steps"]] == [list(step[1:-1]) for step in trace.steps]
    lines = {step.line for step in trace.steps if step.line != "-"}
    assert {where for where, _ in shown["lines"] if where} == {f"mpm/{line}" for line in lines}


@pytest.mark.parametrize("run_", replay.recorded("tracer"), ids=lambda run: run["mpm"])
def test_the_lines_of_the_recorded_runs_are_in_todays_code(run_):
    (shown,) = tracing.shown(run_)
    for where, text in shown["lines"][1:]:
        file, _, number = where.partition(":")
        assert number, f"{where}: {text!r} is gone; run python -m docs._tools.tracer_record"
        path = Path(tracing.__file__).parent.parent / file
        assert path.read_text().splitlines()[int(number) - 1].strip() == text
    # A line that moved is found, and one that is gone is shown as it was.
    lines = Path(tracing.__file__).parent.parent.joinpath("mpm/event.py").read_text().splitlines()
    here = f"event.py:{1 + next(at for at, text in enumerate(lines) if 'half_close()' in text)}"
    anchor = tracing._anchor(here)
    assert tracing._found(anchor) == [f"mpm/{here}", anchor[2]]
    anchor[2] = "gone()"
    assert tracing._found(anchor) == ["mpm/event.py, as it was", "gone()"]


@pytest.mark.parametrize("mpm", MPMS)
def test_a_crash_ends_the_connections_of_its_process(mpm):
    with serving(mpm, pool=one_child(mpm, 2), trace=True, KeepAliveTimeout=30) as server:
        with parked(server):
            poll_until(lambda: "K" in f"{server.scoreboard()}" or mpm == "event", "it is kept")
            (child,) = server.processes()
            os.kill(child, signal.SIGKILL)
            poll_until(lambda: server.processes() not in ([], [child]), "another child")
            poll_until(lambda: " died " in server.trace_log(), "it is reaped")
        trace = ConnectionTrace.read(server.trace_log())
        (died,) = [step for step in trace.steps if step.cause == "died"]
        assert at(trace, died.ns - 1).states and not at(trace, died.ns).states
    assert server.trace_log().startswith("# mpmkit trace 1: ")  # kept after the stop


def test_what_is_wrong_is_named():
    nowhere, read = "/no/such/place/x", ConnectionTrace.read
    refused(LaunchError, f"TraceLog {nowhere}: No such file", launched, "event", TraceLog=nowhere)
    refused(ValueError, "no trace; give the text of a file that TraceLog", read, "127.0.0.1 -")
    begun = "# mpmkit trace 1: event, ThreadsPerChild 2\nx\n"
    refused(ValueError, "no step of a trace: 'x'", read, begun)
    refused(ValueError, "no recorded trace: KeyError", tracing.tracer, {"mpm": "event"})
    # Script, style and page without a recording: what a page has to load.
    assert len(tracing.embedded([])) < 300_000 and len(tracer_page.page([])) < 300_000


@pytest.mark.browser
@THEIR_WARNINGS
def test_the_page_shows_at_each_step_what_the_trace_says(run, tmp_path):
    """Without a kernel; the letters and counters after each step are those of docs/_tools/tracer_moment.py."""
    trace, began, _ = run
    path = tmp_path / "tracer.html"
    path.write_text(tracer_page.page(tracing.shown(tracing.recordable(trace, began))))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
        wrong = []
        page.on("pageerror", lambda error: wrong.append(error))
        page.goto(path.as_uri())
        shown = page.evaluate(
            "() => { const t = document.querySelector('.tr').tracer;"
            " return [...Array(t.steps).keys()].map((n) => { t.seek(n + 1); return t.shown()[0]; }); }"
        )
        assert len(shown) == len(trace.steps)
        moment = Moment(trace.threads)
        for step, one in zip(trace.steps, shown, strict=True):
            moment.after(step)
            letters = {str(slot): "".join(row) for slot, row in moment.letters.items()}
            assert {slot: row for slot, row in one["letters"].items() if slot in letters} == letters
            assert all(one["parked"][slot] == list(moment.parked(int(slot))) for slot in letters)
        page.get_by_label("follow").select_option("3")
        page.locator(".tr").focus()
        page.keyboard.press("Home")
        said = []
        for _ in [one for one in trace.steps if one.conn == trace.clients.index(3) + 1]:
            page.keyboard.press("ArrowRight")
            said.append(page.locator(".tr-say").inner_text())
        assert all(text.startswith("Client 3") for text in said) and "closes the socket" in said[-1]
        assert page.locator(".tr-code b").inner_text().startswith("mpm/") and not wrong


# Moves that the ten clients have not: not listened to; a handshake that fails; the next request or the end early.
EARLY = {
    ("-", "ACCEPTED"), ("R", "C"), ("C", "LINGER"), ("LINGER", "LINGER_NORMAL"), ("LINGER_NORMAL", "PROCESSING"),
    ("L", "CLOSED"), ("L", "R"),
}  # fmt: skip


@pytest.mark.parametrize("mpm", MPMS)
def test_over_tls_and_with_virtual_hosts_it_traces_the_same_way(mpm):
    """A kept connection with requests for two hosts, one that ends, and one that says nothing."""
    own = "ServerName b.example", 'ErrorDocument 404 "b has it not"'
    hosts = section("VirtualHost *", "ServerName a.example"), section("VirtualHost *", *own)
    with serving(mpm, trace=True, KeepAliveTimeout=20, tls=True, conf=conf(*hosts)) as server:
        with TlsClient(server) as kept, TlsClient(server) as short:
            addresses = [one.sock.getsockname() for one in (kept, short)]
            bodies = [kept.get("/none", host=f"{host}.example").body for host in "aba"]
            assert b"b has it not" in bodies[1] and bodies[0] == bodies[2] != bodies[1]
            short.get("/none", host="b.example", close=True)
        with Client(server) as broken:  # it hangs up within the handshake
            broken.send(b"\x16\x03\x01")
        poll_until(lambda: server.trace_log().count(" closed ") == 3, "all are closed")
        trace = ConnectionTrace.read(server.trace_log())
    assert len(trace.clients) == 3
    handled = []
    for number in (1, 2, 3):
        steps = [step for step in trace.steps if step.conn == number]
        assert (steps[0].cause, steps[-1].cause) == ("accepted", "closed")
        assert all(one.after == then.before for one, then in itertools.pairwise(steps))
        assert {(s.before, s.after) for s in steps if s.before != s.after} <= LEGAL[mpm] | EARLY
        handled.append(sum(step.cause == "handling" for step in steps))
    assert sorted(handled) == [0, 1, 3]
    assert all(f" {host}:{port} " in server.trace_log() for host, port in addresses)
