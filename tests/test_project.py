"""The project as a whole: who may import whom, one list of dependencies, notebooks without outputs.

The import rules (docs/DESIGN.md) are read from the source by ast,
so a rule is checked without importing anything, and each failure names file, line and rule.
"""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpmkit"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 25

# ---------------------------------------------------------------- who may import whom

# The floors of the package, from the ground: a folder may import itself and what stands here.
FLOORS = {
    "config": set(),
    "policy": {"config"},
    "http": {"config"},
    "server": {"config", "policy", "http"},
    "handlers": {"config", "policy", "http", "server"},
    "mpm": {"config", "policy", "http", "server"},
    "cli": {"config", "policy", "http", "server", "handlers", "mpm"},
    "launcher": {"config", "policy", "server.scoreboard", "server.certificate", "server.home"},
    # These reach servers from outside: by argv, HTTP, the scoreboard's file and /proc.
    "load": {"config", "policy", "launcher", "measure"},
    "measure": {"config", "policy", "launcher", "load", "server.scoreboard"},
    "lab": {"config", "policy", "launcher", "load", "measure", "server.scoreboard"},
}
# What makes a file impure: it could block, wait, fork, look at a clock or talk to the system.
EFFECTS = {
    "asyncio", "concurrent", "ctypes", "fcntl", "mmap", "multiprocessing", "os", "random", "select",
    "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading", "_thread",
    "time", "urllib", "http", "logging", "tempfile", "shutil",
}  # fmt: skip
# Files that are an exception, and what they may import of EFFECTS.
PERMITTED = {
    "config/httpd_conf.py": {"os"},  # reads files, which is all that it may do to the world
    "config/environment.py": {"os"},  # asks whether files and users exist
    "policy/simulator.py": {"random"},
}
SOCKETS_AND_THREADS = {
    "asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "socket",
    "socketserver", "ssl", "subprocess", "threading", "_thread",
}  # fmt: skip
# A library that would do an MPM's work for it.
READY_MADE = {"asyncio", "concurrent", "socketserver", "multiprocessing"}
# What no file of a folder may import of the standard library.
FORBIDDEN = {
    "config": EFFECTS, "policy": EFFECTS, "http": SOCKETS_AND_THREADS, "server": READY_MADE,
    "mpm": READY_MADE, "handlers": {"asyncio"},
}  # fmt: skip
STDLIB = set(sys.stdlib_module_names)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file as (line, dotted name), relative ones made absolute.

    `from mpmkit import states` yields `mpmkit.policy.states`, so that a rule sees the file it reaches.
    Imports under `if TYPE_CHECKING:` don't run and are left out.
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other)
            elif isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                base = ".".join(filter(None, (base, child.module)))
                for alias in child.names:
                    name = f"{base}.{alias.name}"
                    yield child.lineno, name if is_module(name) else base
            else:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def files(*patterns: str) -> list[Path]:
    return sorted({path for pattern in patterns for path in PACKAGE.glob(pattern)})


def inside(name: str) -> str | None:
    """`mpmkit.http.protocol` -> `http.protocol`; None for another package's module."""
    return (
        name.removeprefix("mpmkit.")
        if name.startswith("mpmkit.")
        else ("" if name == "mpmkit" else None)
    )


def within(module: str, names: set[str]) -> bool:
    return module in names or any(module.startswith(f"{name}.") for name in names)


def folder(path: Path) -> str:
    """The floor a file stands on: `mpmkit/http/protocol.py` -> `http`, `launcher.py` -> `launcher`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_no_file_imports_from_a_floor_above_its_own():
    breaches = []
    for path in files("**/*.py"):
        allowed = FLOORS.get(folder(path))
        for line, name in imports(path) if allowed is not None else ():
            module = inside(name)
            if module and not within(module, {*allowed, folder(path), "_version"}):
                breaches.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not breaches, "\n".join(breaches)


def test_an_mpm_imports_no_other_mpm():
    breaches = [
        f"{path.name}:{line} imports {name}"
        for path in files("mpm/*.py")
        for line, name in imports(path)
        if name.startswith("mpmkit.mpm.") and name != "mpmkit.mpm.threaded"
    ]
    assert not breaches, "\n".join(breaches)
    prefork = PACKAGE / "mpm" / "prefork.py"
    assert all("threaded" not in name for _, name in imports(prefork)), "prefork has no threads"


def test_policy_is_pure_and_no_server_part_is_ready_made():
    breaches = []
    for path in files("**/*.py"):
        permitted = PERMITTED.get(str(path.relative_to(PACKAGE)), set())
        forbidden = FORBIDDEN.get(folder(path), set()) - permitted
        breaches += [
            f"{path.relative_to(ROOT)}:{line} imports {name}"
            for line, name in imports(path)
            if within(name, forbidden)
        ]
    assert not breaches, "\n".join(breaches)


def test_the_package_imports_nothing_that_is_outside_of_it():
    outside = {"benchmarks", "docs", "tests", "helpers", "notebooks"}
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("**/*.py")
        for line, name in imports(path)
        if name.partition(".")[0] in outside
    ]
    assert not breaches, "\n".join(breaches)


# Locustfiles, and the files that only a locustfile imports.
RUN_BY_LOCUST = {"locustfile.py", "client.py", "generator_state.py", "budget.py"}


def test_nobody_else_imports_what_locust_runs():
    run_by_locust = {PACKAGE / "load" / name for name in RUN_BY_LOCUST}
    theirs = {f"mpmkit.load.{name.removesuffix('.py')}" for name in RUN_BY_LOCUST}
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("**/*.py")
        if path not in run_by_locust
        for line, name in imports(path)
        if name in theirs
    ]
    assert not breaches, "\n".join(breaches)


def test_only_what_locust_runs_imports_locust_and_gevent():
    run_by_locust = {PACKAGE / "load" / name for name in RUN_BY_LOCUST}
    breaches = []
    for path in files("**/*.py"):
        for line, name in imports(path):
            if name.partition(".")[0] in {"locust", "gevent"} and path not in run_by_locust:
                breaches.append(
                    f"{path.relative_to(ROOT)}:{line} imports {name}: it patches the "
                    f"whole process; only {', '.join(sorted(RUN_BY_LOCUST))} of load/ may"
                )
    assert not breaches, "\n".join(breaches)


def test_a_server_imports_h11_and_no_other_package():
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {name} at module level"
        for path in files("**/*.py")
        if folder(path) not in {"load", "measure", "lab"}
        for line, name in imports(path)
        if name.partition(".")[0] not in STDLIB | {"mpmkit", "h11"} and not lazy(path, line)
    ]
    assert not breaches, "\n".join(breaches)


def lazy(path: Path, line: int) -> bool:
    """Whether the import on that line stands inside a function, that is, runs only when needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(tree)
    )


def test_imports_make_no_circle():
    """Imports inside functions count, too: they hide a circle and don't remove it."""
    graph: dict[str, set[str]] = {}
    for path in files("**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        graph[name] = {target for _, target in imports(path) if target.startswith("mpmkit.")}

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " > ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


# ---------------------------------------------------------------- a sense of size

# Of Python in the package, comments and docstrings included. The aim is 23,500: a change that removes
# lines lowers this number.
MOST_LINES = 32_700
LONGEST_FILE = 450
LONGEST_FUNCTION = 60
LISTED = 12  # names that `ls mpmkit` shows, but for README.md and Python's own files


def test_the_package_stays_small(capsys):
    sizes: dict[str, int] = {}
    over = []
    for path in files("**/*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        where = path.relative_to(PACKAGE)
        sizes[where.parts[0]] = sizes.get(where.parts[0], 0) + lines
        if lines > LONGEST_FILE:
            over.append(f"{where} has {lines} lines, more than {LONGEST_FILE}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    over.append(f"{where}:{node.lineno} {node.name} has {length} lines")
    with capsys.disabled():
        print("\n" + "\n".join(f"{n:>7,}  {name}" for name, n in sorted(sizes.items())))
        print(f"{sum(sizes.values()):>7,}  lines of Python in mpmkit/")
    assert not over, "\n".join(over)
    assert sum(sizes.values()) <= MOST_LINES


def test_the_package_shows_few_names():
    shown = {path.name for path in PACKAGE.iterdir()} - {"README.md", "py.typed", "__pycache__"}
    assert len({name for name in shown if not name.startswith("_")}) <= LISTED


def test_the_lecture_is_short():
    def lines(name: str) -> list[str]:
        return (PACKAGE / "mpm" / name).read_text(encoding="utf-8").splitlines()

    for name, most in {"prefork.py": 80, "worker.py": 100, "event.py": 320}.items():
        assert len(lines(name)) <= most, name
    files = [str(PACKAGE / "mpm" / name) for name in ("worker.py", "event.py")]
    diff = subprocess.run(["diff", *files], text=True, capture_output=True).stdout
    changed = [line for line in diff.splitlines() if line[:1] in "<>"]
    assert len(changed) <= 250, "diff worker.py event.py is a lecture"


HEAVY = ("locust", "gevent", "pandas", "numpy", "plotly", "IPython", "ipywidgets", "asyncio")


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    # -S -I would hide an editable install; the checkout goes on the path explicitly instead.
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        text=True,
        timeout=30,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def server_modules() -> list[str]:
    names = []
    for path in files(
        "*.py", *(f"{one}/*.py" for one in FLOORS if one not in ("load", "measure", "lab"))
    ):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] not in {"__main__", "_version"}:
            names.append(".".join(part for part in parts if part != "__init__"))
    return names


@pytest.mark.parametrize("module", server_modules())
def test_importing_a_server_module_loads_nothing_heavy(module: str):
    heavy = loaded_after(f"import {module}")
    assert not heavy, f"import {module} loads {', '.join(sorted(heavy))}"


# What no server without TLS, programs and backends has any use for: each is paid for in the time to
# start and in the memory of every child.
UNUSED = {
    "shutil",
    "zlib",
    "bz2",
    "lzma",
    "unicodedata",
    "encodings.idna",
    "subprocess",
    "tempfile",
    "ssl",
    "asyncio",
    "logging",
    "json",
    "random",
    "hashlib",
    "base64",
    "urllib",
    "http.client",
}


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_a_running_server_has_loaded_nothing_it_does_not_use(mpm: str):
    # No site: what an editable install or a distribution loads before us is not the server's doing.
    command = [
        sys.executable,
        "-S",
        "-X",
        "importtime",
        "-m",
        "mpmkit",
        "serve",
        mpm,
        "--port",
        "0",
    ]
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        server.terminate()
        _, told = server.communicate(timeout=30)
    assert ready.startswith("ready "), told
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines() if "|" in line}
    assert "mpmkit.server.core" in loaded
    assert not loaded & UNUSED, loaded & UNUSED


# ---------------------------------------------------------------- one list of dependencies


def requirement(text: str) -> tuple[str, frozenset[str]]:
    """`pandas >=2.2,<4` -> ("pandas", {">=2.2", "<4"}): equal whatever the order and spacing."""
    name, bounds = re.fullmatch(r"\s*([A-Za-z0-9_.-]+?)\s*((?:[<>=!~].*)?)", text).groups()
    return name.lower(), frozenset(b.strip() for b in bounds.split(",") if b.strip())


def environment(path: Path) -> dict[str, frozenset[str]]:
    listed = yaml.safe_load(path.read_text())["dependencies"]
    assert all(isinstance(item, str) for item in listed), "no pip section: postBuild brings mpmkit"
    return dict(requirement(item) for item in listed)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_binder_reads_the_same_environment():
    assert (ROOT / "environment.yml").read_text() == (ROOT / "binder/environment.yml").read_text()


def test_environment_and_pyproject_list_the_same_dependencies():
    conda = environment(ROOT / "environment.yml")
    python = conda.pop("python")
    conda.pop("pip")
    wanted = project()["project"]["dependencies"]
    wanted = wanted + project()["project"]["optional-dependencies"]["lab"]
    assert conda == dict(requirement(item) for item in wanted)
    pinned = re.fullmatch(r"==?3\.(\d+)", *python)
    assert pinned, "Binder takes an old Python unless one is pinned"
    floor = int(re.fullmatch(r">=3\.(\d+)", project()["project"]["requires-python"])[1])
    assert floor <= int(pinned[1]) <= 14


def test_binder_installs_the_package_itself_and_nothing_else():
    script = ROOT / "binder/postBuild"
    assert script.stat().st_mode & stat.S_IXUSR, "repo2docker wants postBuild executable"
    lines = script.read_text().splitlines()
    assert lines[0].startswith("#!") and "set -e" in lines
    assert any("--no-deps" in line for line in lines)


def test_binder_opens_on_the_first_notebook(tmp_path):
    # What postBuild writes, with a python that tells another prefix and a pip that does nothing.
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {tmp_path}\nexit 0\n')
    fake.chmod(0o755)
    subprocess.run(
        [str(ROOT / "binder/postBuild")],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    told = json.loads((tmp_path / "etc/jupyter/jupyter_server_config.json").read_text())
    for app in ("ServerApp", "LabApp"):
        page = told[app]["default_url"].removeprefix("/lab/tree/")
        assert (ROOT / page).is_file() and "00-" in page


def test_versions_agree():
    import mpmkit._version

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == mpmkit._version.__version__
    assert cited["license"] == project()["project"]["license"]


# ---------------------------------------------------------------- notebooks as sources


def code_cells(path: Path) -> list[dict]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_sources_carry_no_outputs(path: Path):
    for number, cell in enumerate(code_cells(path), 1):
        assert not cell["outputs"], f"code cell {number} carries outputs"
        assert cell["execution_count"] is None, f"code cell {number} carries an execution count"
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert "widgets" not in metadata, "widget state is saved in the notebook"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_cells_are_short(path: Path):
    for number, cell in enumerate(code_cells(path), 1):
        length = len("".join(cell["source"]).splitlines())
        assert length <= LONGEST_CELL, f"code cell {number} has {length} lines"


# ---------------------------------------------------------------- the rules themselves


def test_the_import_reader_sees_every_spelling(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    where = tmp_path / "mpmkit" / "mpm"
    where.mkdir(parents=True)
    (tmp_path / "mpmkit" / "states.py").touch()
    (where / "worker.py").touch()
    source = where / "event.py"
    source.write_text(
        "from __future__ import annotations\nimport os.path\nfrom .. import states\n"
        "from ..states import LETTERS\nfrom .worker import run\nfrom mpmkit.mpm import worker\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    import plotly.express\n"
    )
    assert [name for _, name in imports(source)] == [
        "__future__",
        "os.path",
        "mpmkit.states",
        "mpmkit.states",
        "mpmkit.mpm.worker",
        "mpmkit.mpm.worker",
        "typing",
        "plotly.express",
    ]


# ---------------------------------------------------------------- the tests

TESTS = sorted((ROOT / "tests").glob("*.py")) + sorted((ROOT / "tests" / "support").glob("*.py"))
# Of Python in tests/; the comparison with httpd (tests/fidelity) is not counted.
MOST_TEST_LINES = 27_500


def test_no_test_module_imports_another():
    """Data and functions that two of them need are in tests/support."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in TESTS
        for line, name in imports(path)
        if re.match(r"(tests\.)?test_|.*\.conftest", name)
    ]
    assert wrong == []


def test_no_test_sleeps_to_let_something_happen():
    """`poll_until` waits for the thing itself, with a cap. Programs that are given as text may sleep."""
    sleeps = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]
    assert len(sleeps) == 1 and sleeps[0].startswith("tests/support/waiting.py:"), sleeps


def test_the_tests_stay_small(capsys):
    lines = {
        str(path.relative_to(ROOT / "tests")): path.read_text(encoding="utf-8").count("\n")
        for path in TESTS
    }
    with capsys.disabled():
        print()
        for name, count in sorted(lines.items(), key=lambda item: -item[1]):
            print(f"{count:6,}  tests/{name}")
        print(f"{sum(lines.values()):6,}  of {MOST_TEST_LINES:,}")
    assert sum(lines.values()) <= MOST_TEST_LINES


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it():
    """As in an installation without the notebooks: pandas, plotly and widgets can't be imported."""
    program = """
import sys
for name in ("pandas", "plotly", "ipywidgets", "anywidget"):
    sys.modules[name] = None
import mpmkit
from mpmkit import lab
for use in (lambda: mpmkit.simulate("event").to_frame(), lambda: lab.control_room,
            lambda: mpmkit.recorded("memory-demo").to_frame()):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, timeout=60, capture_output=True
    )
    said = done.stdout.splitlines()
    assert len(said) == 3, done.stdout + done.stderr
    assert all("pip install 'mpmkit[lab]' brings it" in line for line in said)


def test_a_sweep_is_printed_without_pandas():
    program = """
import json, sys
sys.modules["pandas"] = None
from mpmkit.measure import records, sweep
rows = records.read(records.recorded_folder() / "07-users.csv")
print(sweep.SweepTable(rows, names=tuple(json.loads(rows[0]["point"]))).text())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, timeout=60, capture_output=True
    )
    assert "most requests/s under" in done.stdout, done.stderr


# name of an interpreter, whether it has venv; or .venv, which an earlier `make` has made
@pytest.mark.parametrize(
    ("there", "given", "taken"),
    [
        ({"python3.11": True, "python3.12": True}, None, "python3.12"),
        ({"python3.12": True, "python3.13": False}, None, "python3.12"),
        ({"python3.13": True, "python3": True}, "python3", "python3"),
        ({"python3.13": True, ".venv/bin/python": True}, None, ".venv/bin/python"),
        ({"python3.13": True, ".venv/bin/python": False}, None, "python3.13"),
        ({"python3.13": True, ".venv/bin/python": True}, "python3.13", "python3.13"),
    ],
)
def test_make_takes_the_newest_interpreter_unless_one_is_chosen(tmp_path, there, given, taken):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    missing = dict.fromkeys(("python3", *(f"python3.{minor}" for minor in range(11, 15))), False)
    for name, usable in (missing | there).items():
        file = tmp_path / name if "/" in name else tmp_path / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\nexit {0 if usable else 1}\n")
        file.chmod(0o755)
        if "/" in name:
            (file.parent / "pip").touch()
    done = subprocess.run(
        ["make", "-n", "venv", *([f"PYTHON={given}"] if given else [])],
        cwd=tmp_path, text=True, timeout=60, capture_output=True,
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
    )  # fmt: skip
    assert f"\n{taken} -c 'import venv, ensurepip'" in done.stdout, done.stdout + done.stderr
