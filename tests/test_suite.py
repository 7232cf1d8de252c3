"""mpmkit bench: parts in order, told how long, recorded only when whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.rows import GENERATORS, MEMORY

from benchmarks import run_all
from benchmarks.generators import Sample
from mpmkit.measure import records
from mpmkit.measure.records import RecordFile
from mpmkit.measure.reference_servers import Nginx, NotInstalled

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def place(tmp_path, monkeypatch):
    """data/recorded of this test."""
    folder = tmp_path / "data" / "recorded"
    folder.mkdir(parents=True)
    monkeypatch.setattr(records, "recorded_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    return folder


def parts(monkeypatch, **runs):
    """The parts become these: name -> what `run` does."""
    monkeypatch.setattr(
        run_all,
        "PARTS",
        {
            name: run_all.Part(name, f"the {name}", lambda scale, rivals: 61.0, run)
            for name, run in runs.items()
        },
    )


def writes(row, status=0, error=None):
    def run(scale, rivals, path):
        RecordFile(path, row["table"]).append(row)
        print("the table")
        if error:
            raise error
        return status

    return run


def test_parts_run_in_order_and_whole_ones_are_recorded(place, monkeypatch, capsys):
    parts(monkeypatch, generators=writes(GENERATORS), memory=writes(MEMORY))
    assert run_all.main(["--record", "--scale", "smoke"]) == 0
    out, err = capsys.readouterr()
    assert out.index("== the generators") < out.index("== the memory")
    assert "scale smoke, about 2 min: generators 61 s, memory 61 s" in err
    assert sorted(file.name for file in place.iterdir()) == [
        "generators-smoke.csv",
        "memory-smoke.csv",
    ]
    assert records.recorded("memory")["held"].to_list() == [9]


def test_what_is_not_whole_replaces_no_record(place, monkeypatch, capsys):
    (place / "memory-demo.csv").write_text("as it was")
    parts(
        monkeypatch,
        generators=writes(GENERATORS, status=1),
        memory=writes(MEMORY, error=KeyboardInterrupt()),
        bench=writes(GENERATORS),
    )
    assert run_all.main(["--record"]) == 130
    err = capsys.readouterr().err
    assert (place / "memory-demo.csv").read_text() == "as it was"
    assert [file.name for file in place.iterdir()] == ["memory-demo.csv"]
    kept = list((place.parent / "runs").iterdir())
    assert sorted(file.name.split("-")[0] for file in kept) == ["generators", "memory"]
    assert all(len(records.read(file)) == 1 for file in kept)
    assert err.count("not whole, so not recorded") == 2


def test_a_part_that_fails_does_not_keep_the_next_from_running(place, monkeypatch, capsys):
    parts(
        monkeypatch,
        generators=writes(GENERATORS, error=records.RecordError("disk full")),
        memory=writes(MEMORY),
    )
    assert run_all.main([]) == 1
    out, err = capsys.readouterr()
    assert "mpmkit: disk full" in err and "== the memory" in out
    assert list(place.iterdir()) == [] and len(list(Path("data/runs").iterdir())) == 2


def test_rivals_are_handed_on(place, monkeypatch):
    asked = []
    parts(monkeypatch, qps=lambda scale, rivals, path: asked.append((scale, rivals)) or 0)
    for beside, rivals in (
        ("all", list(run_all.beside.NAMES)),
        ("none", []),
        ("httpd,nginx", ["httpd", "nginx"]),
    ):
        assert run_all.main(["--beside", beside]) == 0
        assert asked[-1] == ("demo", rivals)
    monkeypatch.setenv("MPMKIT_SCALE", "full")
    run_all.main(["--beside", "none"])
    assert asked[-1][0] == "full"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "tea"], "argument --only: invalid choice: 'tea'"),
        (["--scale", "big"], "argument --scale: invalid choice: 'big'"),
        (["--beside", "iis"], "beside: 'iis' is none of httpd"),
    ],
)
def test_bad_command_lines(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        run_all.main(argv)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_python_peers_are_judged_by_the_fastest_of_them_within_the_rounds():
    def row(server, mpm, number, qps, kind="static", bound=False, cpu=None):
        return {
            "server": server,
            "mpm": mpm,
            "round": number,
            "qps": qps,
            "kind": kind,
            "script": None,
            "generator_bound": bound,
            "server_cpu_us": cpu,
        }

    rows = [
        row("mpmkit", "event", 1, 300.0),
        row("mpmkit", "event", 2, 150.0),
        row("gunicorn-sync", None, 1, 60.0),
        row("gunicorn-sync", None, 2, 20.0),
        row("uvicorn", None, 1, 200.0),
        row("uvicorn", None, 2, 100.0),
        row("nginx", None, 1, 900.0),
        row("mpmkit", "event", 1, 5.0, "script"),
    ]
    (said,) = run_all.peer_verdicts(rows)
    assert said == (
        "static, event: 1.50 times the fastest Python peer, uvicorn "
        "(50%: 1.50 to 1.50; target 2, missed by 25%)"
    )
    assert run_all.peer_verdicts(rows[:2]) == []
    # What the generator could not ask for, ours could not show.
    rows = [
        row("mpmkit", "event", 1, 300.0, bound=True, cpu=20.0),
        row("uvicorn", None, 1, 200.0, cpu=50.0),
    ]
    (said,) = run_all.peer_verdicts(rows)
    assert said == (
        "static, event: 1.50 times the fastest Python peer, uvicorn "
        "(one round; target 2, open: the generator was at its limit in 1 of 1 rounds)"
        "; 2.50 times by processor time (20.0 and 50.0 µs a request)"
    )


def test_the_demo_scale_is_over_in_25_minutes():
    from mpmkit.measure import competitors

    assert (
        sum(part.seconds("demo", competitors.names()) for part in run_all.PARTS.values()) < 25 * 60
    )


@pytest.mark.parametrize("scale", run_all.SCALES)
def test_every_part_says_how_long_it_takes(scale):
    for part in run_all.PARTS.values():
        with_all = part.seconds(scale, run_all.beside.NAMES)
        assert (
            0
            < part.seconds(scale, ())
            <= with_all
            < {"smoke": 5, "demo": 20, "full": 180}[scale] * 60
        )


@pytest.mark.rival
def test_generators_go_into_their_table(place, monkeypatch, capsys):
    try:
        Nginx(document_root=ROOT)
    except NotInstalled as missing:
        pytest.skip(str(missing))
    from benchmarks import generators
    from mpmkit.load.runner import LoadError

    def missing(*_):
        raise LoadError("wrk is not installed")

    monkeypatch.setattr(
        generators,
        "GENERATORS",
        {
            "mpmkit (Locust)": lambda url, users, seconds, keep_alive: Sample(users * 10, 0.5, 0),
            "FastHttpUser": lambda *_: Sample(100, 1.0, 2),
            "wrk": missing,
        },
    )
    path = place / "generators.csv"
    assert run_all._generators("smoke", (), path) == 0
    rows = records.read(path)
    assert [(row["work"], row["generator"], row["qps"], row["failures"]) for row in rows] == [
        ("new", "mpmkit (Locust)", 2000, 0),
        ("new", "FastHttpUser", 100, 2),
        ("keep-alive", "mpmkit (Locust)", 640, 0),
        ("keep-alive", "FastHttpUser", 100, 2),
    ]
    out, err = capsys.readouterr()
    assert "20.00" in out and "without wrk: wrk is not installed" in err


def test_the_command_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "mpmkit", "bench", "--estimate", "--scale", "smoke"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "scale smoke, about" in done.stderr
