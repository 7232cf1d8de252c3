"""mpmkit bench: parts in order, how long they take, recorded only when whole."""

import shutil

import pytest
from misbehaving import Misbehaving
from support.experiments import printed_by
from support.loads import run
from support.rows import GENERATORS, MEMORY

from benchmarks import generators, run_all
from benchmarks.clients import ClientReport
from mpmkit.load.runner import LoadError
from mpmkit.measure import command, competitors, records
from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.records import RecordFile


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "recorded"
    folder.mkdir(parents=True)
    monkeypatch.setattr(records, "recorded_folder", lambda: folder)
    monkeypatch.setattr(OtherWork, "share", lambda self: 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    return folder


def parts(monkeypatch, **runs):
    """The parts become these: name -> what `run` does."""
    takes = dict.fromkeys(command.SCALE_NAMES, 61.0)
    made = {name: run_all.Part(name, f"the {name}", takes, run) for name, run in runs.items()}
    monkeypatch.setattr(run_all, "PARTS", made)


def writes(row, status=0, error=None):
    def run(scale, also, path):
        RecordFile(path, row["table"]).append(row)
        print("the table")
        if error:
            raise error
        return status

    return run


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_parts_run_in_order_and_whole_ones_are_recorded(place, monkeypatch, capsys):
    parts(monkeypatch, generators=writes(GENERATORS), memory=writes(MEMORY))
    assert run_all.main(["--record", "--scale", "smoke"]) == 0
    out, err = capsys.readouterr()
    assert out.index("== the generators") < out.index("== the memory")
    assert "scale smoke, about 2 min: generators 61 s, memory 61 s" in err
    assert names(place) == ["generators-smoke.csv", "memory-smoke.csv"]
    assert records.recorded("memory")["held"].to_list() == [MEMORY["held"]]


def test_what_is_not_whole_replaces_no_record_and_keeps_its_rows(place, monkeypatch, capsys):
    (place / "memory-demo.csv").write_text("as it was")
    full = writes(GENERATORS, error=records.RecordError("disk full"))
    stopped = writes(MEMORY, error=KeyboardInterrupt())
    parts(monkeypatch, generators=full, memory=stopped, bench=writes(GENERATORS))
    assert run_all.main(["--record"]) == 130
    out, err = capsys.readouterr()
    assert "mpmkit: disk full" in err and "== the memory" in out and "== the bench" not in out
    assert (place / "memory-demo.csv").read_text() == "as it was"
    assert names(place) == ["memory-demo.csv"]
    kept = list((place.parent / "runs").iterdir())
    assert sorted(file.name.split("-")[0] for file in kept) == ["generators", "memory"]
    assert all(len(records.read(file)) == 1 for file in kept)
    assert err.count("not whole, so not recorded") == 2
    # Whole, but not alone
    monkeypatch.setattr(OtherWork, "share", lambda self: 0.06)
    assert run_all.main(["--record", "--only", "bench"]) == 0
    assert "other work took 6% of this machine meanwhile" in capsys.readouterr().err
    assert names(place) == ["memory-demo.csv"]


def test_competitors_are_handed_on(place, monkeypatch):
    asked = []
    parts(monkeypatch, qps=lambda scale, also, path: asked.append((scale, also)) or 0)
    given = {"all": tuple(competitors.FORMS), "none": (), "httpd,nginx": ("httpd", "nginx")}
    for also, names in given.items():
        assert run_all.main(["--also", also]) == 0
        assert asked[-1] == ("demo", names)
    monkeypatch.setenv("MPMKIT_SCALE", "full")
    run_all.main(["--also", "none"])
    assert asked[-1][0] == "full"


def test_python_peers_are_judged_by_the_fastest_of_them_within_the_rounds():
    def row(server, mpm, number, qps, kind="static", bound=False, cpu=None):
        who = {"server": server, "mpm": mpm, "round": number, "kind": kind, "script": None}
        return {**who, "qps": qps, "generator_bound": bound, "server_cpu_us": cpu}

    rows = [
        row("mpmkit", "event", 1, 300.0), row("mpmkit", "event", 2, 150.0), row("nginx", None, 1, 900.0),
        *(row("gunicorn-sync", None, number, 60.0) for number in (1, 2)),
        *(row("uvicorn", None, number, 300.0 - 100 * number) for number in (1, 2)),
        row("mpmkit", "event", 1, 5.0, "script"),
    ]  # fmt: skip
    said = "static, event: 1.50 times the fastest Python peer, uvicorn "
    assert run_all.peer_verdicts(rows) == [said + "(95%: 1.50 to 1.50; target 2, missed by 25%)"]
    assert run_all.peer_verdicts(rows[:2]) == []
    rows[1]["qps"] = 300.0
    (line,) = run_all.peer_verdicts(rows)
    assert line.endswith("; target 2, reached)")
    # What the generator could not ask for, ours could not show.
    rows = [row("mpmkit", "event", 1, 300.0, bound=True, cpu=20.0)]
    rows.append(row("uvicorn", None, 1, 200.0, cpu=50.0))
    limit = "open: the generator was at its limit in 1 of 1 rounds)"
    by_cpu = "; 2.50 times by CPU time (20.0 and 50.0 µs a request)"
    assert run_all.peer_verdicts(rows) == [f"{said}(one round; target 2, {limit}{by_cpu}"]


def sample(qps: float, cpu: float, failures: int) -> ClientReport:
    return ClientReport(0, failures, 1.0, qps, 1.0, 2.0, cpu)


def test_generators_go_into_their_table(place, monkeypatch, capsys):
    def missing(*_, **how):
        raise LoadError("wrk is not installed")

    made = {"FastHttpUser": lambda *_, **how: sample(100, 1.0, 2), "wrk": missing}
    made = {"mpmkit (Locust)": lambda url, *, clients, **_: sample(clients * 10, 0.5, 0)} | made
    monkeypatch.setattr(generators, "GENERATORS", made)
    path = place / "generators.csv"
    line = f"--scale smoke --out {path} --url http://127.0.0.1:1/x"
    status, out, err = printed_by(generators.main, line.split(), capsys)
    rows = records.read(path)
    assert [(row["work"], row["generator"], row["qps"], row["failures"]) for row in rows] == [
        ("new", "mpmkit (Locust)", 2000, 0), ("new", "FastHttpUser", 100, 2),
        ("keep-alive", "mpmkit (Locust)", 640, 0), ("keep-alive", "FastHttpUser", 100, 2),
    ]  # fmt: skip
    assert status == 0 and "20.00" in out
    assert err.count("without wrk") == 1 and "wrk is not installed" in err
    # Medians, and ratios to FastHttpUser and ab
    ours = [sample(9000, 0.9, 0), sample(11000, 1.0, 0), sample(10000, 0.8, 2)]
    others = {"FastHttpUser": [sample(1000, 0.5, 0)], "ab": [sample(20000, 1.0, 0)]}
    line = generators.table("work", {"mpmkit (Locust)": ours, **others}).splitlines()[2]
    figures = "10,000 9,000 to 11,000 90% 11,000 10.00 0.50 5.50 2 FAILED"
    assert line.split()[2:] == figures.split()


def test_generators_measure_a_server(capsys, tmp_path):
    with Misbehaving() as server:
        line = f"--url {server.url}/ok --users 2 --seconds 1 --rounds 1 --work new"
        argv = [*line.split(), "--out", f"{tmp_path}/x.csv"]
        status, out, err = printed_by(generators.main, argv, capsys)
    made = ["mpmkit (Locust)", "FastHttpUser", *filter(shutil.which, ("ab", "wrk"))]
    assert status == 0 and "FAILED" not in out
    assert [name for name in made if f"\n{name} " not in out] == [], err


def test_the_command_is_there():
    done = run("mpmkit bench --estimate --scale smoke")
    assert done.returncode == 0 and "scale smoke, about" in done.stderr
