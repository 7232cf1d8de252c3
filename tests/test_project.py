"""The project as a whole: who may import whom, one list of dependencies, notebooks without outputs.

The import rules are the house plan's "Who may import whom". They are read from the source by ast,
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

PURE = {
    "directives",
    "directives_doc",
    "states",
    "maintenance",
    "timeouts",
    "admission",
    "httpd_conf",
}
PARTS = {"scoreboard", "listen", "pod", "pidfile", "fdqueue", "logs", "log_format", "filters"}
# What joins parts to a server, lowest first: a file may import those before it, none after it.
JOINTS = ("connection", "tls", "core", "parent", "rehearsal")
# What makes a file impure: it could block, wait, fork, look at a clock or talk to the system.
EFFECTS = {
    "asyncio",
    "concurrent",
    "ctypes",
    "fcntl",
    "mmap",
    "multiprocessing",
    "random",
    "select",
    "selectors",
    "signal",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "threading",
    "_thread",
    "time",
    "urllib",
    "http",
    "logging",
    "tempfile",
    "shutil",
}
SOCKETS_AND_THREADS = {
    "asyncio",
    "concurrent",
    "multiprocessing",
    "select",
    "selectors",
    "signal",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "threading",
    "_thread",
}
# A library that would do an MPM's work for it.
READY_MADE = {"asyncio", "concurrent", "socketserver", "multiprocessing"}
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


def check(
    path: Path, *, ours: set[str], stdlib_but: set[str], theirs: set[str] = frozenset(), rule: str
) -> list[str]:
    """What a file imports against its rule: sentences, one a breach, none if it keeps the rule."""
    breaches = []
    for line, name in imports(path):
        module = inside(name)
        top = name.partition(".")[0]
        if module is not None:
            fine = within(module, ours) or module == "_version"
        elif top in STDLIB:
            fine = not within(name, stdlib_but)
        else:
            # A method that gives a DataFrame may import pandas when it is called, and only then.
            fine = top in theirs or lazy(path, line)
        if not fine:
            where = path.relative_to(ROOT)
            breaches.append(f"{where}:{line} imports {name}, but {rule}")
    return breaches


def test_pure_files_import_only_inert_modules_and_each_other():
    breaches = []
    for name in sorted(PURE):
        for path in files(f"{name}.py"):
            # httpd_conf reads files, which is all it may do to the world.
            breaches += check(
                path,
                ours=PURE,
                stdlib_but=EFFECTS
                | ({"os"} if name not in {"httpd_conf", "directives"} else set()),
                rule="a pure file may import inert stdlib modules and pure files",
            )
    assert not breaches, "\n".join(breaches)


def test_parts_import_stdlib_pure_files_and_parts():
    breaches = []
    for name in sorted(PARTS):
        for path in files(f"{name}.py"):
            # http/ is values and bytes, no socket: a log line and a status row are made of them.
            breaches += check(
                path,
                ours=PURE | PARTS | {"http"},
                stdlib_but=READY_MADE,
                rule="a part may import the stdlib, pure files, http, other parts",
            )
    assert not breaches, "\n".join(breaches)


def test_http_knows_h11_but_no_socket_and_no_thread():
    breaches = []
    for path in files("http/*.py"):
        breaches += check(
            path,
            ours={"http"} | PURE,
            stdlib_but=SOCKETS_AND_THREADS,
            theirs={"h11"},
            rule="http/ may import h11, no socket and no threads",
        )
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize("name", JOINTS)
def test_joints_import_downwards_only(name: str):
    below = set(JOINTS[: JOINTS.index(name)])
    breaches = []
    for path in files(f"{name}.py"):
        breaches += check(
            path,
            ours=PURE | PARTS | {"http"} | below,
            stdlib_but=READY_MADE,
            rule=f"{name} may import the stdlib, http, parts and pure files, "
            f"and of the joints {', '.join(below) or 'none'}",
        )
    assert not breaches, "\n".join(breaches)


def test_handlers_import_messages_and_no_server():
    breaches = []
    for path in files("handlers/*.py"):
        breaches += check(
            path,
            ours={"http", "handlers"} | PURE,
            stdlib_but={"asyncio"},
            rule="a handler may import the stdlib, http.messages and pure files",
        )
    assert not breaches, "\n".join(breaches)


def test_an_mpm_imports_neither_handlers_nor_another_mpm():
    breaches = []
    for path in files("mpm/*.py"):
        allowed = PURE | PARTS | {"http", *JOINTS}
        breaches += check(
            path,
            ours=allowed,
            stdlib_but=READY_MADE,
            rule="an MPM may import parts and pure files, no handler, no other MPM",
        )
    assert not breaches, "\n".join(breaches)


def test_simulation_is_made_of_pure_files():
    breaches = []
    for path in files("simulator.py", "simulate.py", "simulate/*.py"):
        breaches += check(
            path,
            ours=PURE | {"simulate", "simulator"},
            stdlib_but=EFFECTS - {"random"},
            rule="the simulator may import pure files only: its time is virtual",
        )
    assert not breaches, "\n".join(breaches)


def test_load_measure_and_lab_reach_servers_only_from_outside():
    server_side = PARTS | {"connection", "handlers", "http", "mpm", "control"}
    breaches = []
    for path in files("load/**/*.py", "measure/**/*.py", "lab/**/*.py"):
        for line, name in imports(path):
            module = inside(name)
            if module is not None and within(module, server_side):
                breaches.append(
                    f"{path.relative_to(ROOT)}:{line} imports {name}, but load, "
                    "measure and lab reach servers by argv, HTTP and /proc only"
                )
    assert not breaches, "\n".join(breaches)


# Locustfiles, and the files that only a locustfile imports.
RUN_BY_LOCUST = {"locustfile.py", "client.py", "books.py", "budget.py", "fast_http_user.py"}


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


def test_no_server_file_imports_a_package_other_than_h11():
    user_side = {"load", "measure", "lab"}
    breaches = []
    for path in files("**/*.py"):
        if path.relative_to(PACKAGE).parts[0] in user_side:
            continue
        for line, name in imports(path):
            top = name.partition(".")[0]
            if top not in STDLIB | {"mpmkit", "h11"} and not lazy(path, line):
                breaches.append(f"{path.relative_to(ROOT)}:{line} imports {name} at module level")
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
    graph: dict[str, set[str]] = {}
    for path in files("**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        graph[name] = {
            target
            for line, target in imports(path)
            if target.startswith("mpmkit") and not lazy(path, line)
        }

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " > ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


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
    for path in files("*.py", "http/*.py", "handlers/*.py", "mpm/*.py"):
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
    assert not loaded & UNUSED


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
    assert conda == dict(requirement(item) for item in project()["project"]["dependencies"])
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
        "mpmkit.policy.states",
        "mpmkit.policy.states",
        "mpmkit.mpm.worker",
        "mpmkit.mpm.worker",
        "typing",
        "plotly.express",
    ]
