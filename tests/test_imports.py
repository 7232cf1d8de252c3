"""Who may import whom (docs/DESIGN.md), read from the source by ast: each failure names file, line and rule. And
what is loaded by it."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpmkit"
FILES = sorted(PACKAGE.glob("**/*.py"))

# The floors of the package, from the ground: a folder may import itself and what stands here.
FLOORS = {
    "config": set(),
    "policy": {"config"},
    "http": {"config"},
    "server": {"config", "policy", "http"},
    "handlers": {"config", "policy", "http", "server"},
    "mpm": {"config", "policy", "http", "server"},
    "cli": {"config", "policy", "http", "server", "handlers", "mpm"},
    "launcher": {"config", "policy", "server.scoreboard", "server.home"},
    # These reach servers from outside: by argv, HTTP, the scoreboard's file and /proc.
    "load": {"config", "policy", "launcher", "measure"},
    "measure": {"config", "policy", "launcher", "load", "server.scoreboard"},
    "lab": {"config", "policy", "launcher", "load", "measure", "server.scoreboard"},
}
# Libraries that would do an MPM's work for it; what waits and runs at once; what makes a file impure.
READY_MADE = {"asyncio", "concurrent", "socketserver", "multiprocessing"}
SOCKETS = READY_MADE | {*"select selectors signal socket ssl subprocess threading _thread".split()}
EFFECTS = SOCKETS | {
    *"ctypes fcntl mmap os random time urllib http logging tempfile shutil".split()
}
# Files that are an exception, and what they may import of EFFECTS.
PERMITTED = {
    "config/httpd_conf.py": {"os"},  # reads files, which is all that it may do to the world
    "policy/simulator.py": {"random"},
}
# What no file of a folder may import of the standard library.
FORBIDDEN = {
    "config": EFFECTS, "policy": EFFECTS, "http": SOCKETS, "server": READY_MADE,
    "mpm": READY_MADE, "handlers": {"asyncio"},
}  # fmt: skip
# Locustfiles, and the files that only a locustfile imports.
RUN_BY_LOCUST = {"locustfile", "client", "generator_state"}


@cache
def imports(path: Path, lazy: bool = True) -> list[tuple[int, str]]:
    """Every import of a file as (line, dotted name), relative ones made absolute; those inside functions
    only if `lazy`.

    `from mpmkit import states` yields `mpmkit.policy.states`, so that a rule sees the file it reaches.
    Imports under `if TYPE_CHECKING:` don't run and are left out.
    """
    package = ".".join(path.relative_to(ROOT).parts[:-1])

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other)
            elif isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = resolve_name("." * child.level + (child.module or ""), package)
                for alias in child.names:
                    name = f"{base}.{alias.name}"
                    place = ROOT.joinpath(*name.split("."))
                    module = place.with_suffix(".py").exists() or (place / "__init__.py").exists()
                    yield child.lineno, name if module else base
            elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from walk(child)

    return list(walk(ast.parse(path.read_text(encoding="utf-8"), str(path))))


def dotted(path: Path) -> str:
    """`mpmkit/http/__init__.py` -> `mpmkit.http`"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def within(module: str, names: set[str]) -> bool:
    return module in names or any(module.startswith(f"{name}.") for name in names)


def folder(path: Path) -> str:
    """The floor a file stands on: `mpmkit/http/protocol.py` -> `http`, `launcher.py` -> `launcher`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def breaches(wrong: Callable[[Path, str], bool], paths: Iterable[Path] = FILES) -> str:
    """`file:line imports name` for each import of those files that is wrong."""
    found = [(path, *one) for path in paths for one in imports(path) if wrong(path, one[1])]
    lines = (f"{path.relative_to(ROOT)}:{line} imports {name}" for path, line, name in found)
    return "\n".join(lines)


def floor_above(path: Path, name: str) -> bool:
    allowed = FLOORS.get(folder(path))
    if allowed is None or not name.startswith("mpmkit."):
        return False
    return not within(name.removeprefix("mpmkit."), {*allowed, folder(path), "_version"})


def other_mpm(path: Path, name: str) -> bool:
    shared = {"mpmkit.mpm.threaded"} if path.name != "prefork.py" else set()
    return folder(path) == "mpm" and name.startswith("mpmkit.mpm.") and name not in shared


def effect_or_ready_made(path: Path, name: str) -> bool:
    permitted = PERMITTED.get(str(path.relative_to(PACKAGE)), set())
    return within(name, FORBIDDEN.get(folder(path), set()) - permitted)


def outside(path: Path, name: str) -> bool:
    return name.partition(".")[0] in {"benchmarks", "docs", "tests", "helpers", "notebooks"}


def run_by_locust(path: Path, name: str) -> bool:
    """Locust and gevent patch the whole process."""
    theirs = {"locust", "gevent", *(f"mpmkit.load.{one}" for one in RUN_BY_LOCUST)}
    return within(name, theirs) and not (folder(path) == "load" and path.stem in RUN_BY_LOCUST)


RULES = (floor_above, other_mpm, effect_or_ready_made, outside, run_by_locust)


@pytest.mark.parametrize("wrong", RULES)
def test_a_file_imports_what_its_floor_may(wrong):
    assert not (found := breaches(wrong)), found


def test_a_server_imports_h11_and_no_other_package():
    known = sys.stdlib_module_names | {"mpmkit", "h11"}
    servers = [path for path in FILES if folder(path) not in {"load", "measure", "lab"}]
    found = [(path, line, name) for path in servers for line, name in imports(path, lazy=False)]
    assert [one for one in found if one[2].partition(".")[0] not in known] == []
    assert {"h11", "mpmkit.http.messages"} <= {name for *_, name in found}, "all spellings are seen"
    # Imports inside functions count, too: they hide a circle and don't remove it.
    graph = {dotted(path): {name for _, name in imports(path)} for path in FILES}
    assert "mpmkit.server.tls" in graph["mpmkit.server.core"]
    graph = {name: targets & set(graph) for name, targets in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_no_test_module_imports_another():
    """Data and functions that two of them need are in tests/support."""
    tests = [*(ROOT / "tests").glob("*.py"), *(ROOT / "tests" / "support").glob("*.py")]
    pattern = re.compile(r"(tests\.)?test_|.*\.conftest")
    assert not (found := breaches(lambda path, name: bool(pattern.match(name)), tests)), found


# ---------------------------------------------------------------- what is loaded

HEAVY = ("locust", "gevent", "pandas", "numpy", "plotly", "IPython", "ipywidgets", "asyncio")
# Import each of the modules, one after the other, and print those that were the first to load a heavy one.
IMPORTING = """
import importlib, sys
heavy, *modules = sys.argv[1:]
for module in modules:
    before = set(sys.modules)
    importlib.import_module(module)
    for name in {*heavy.split()} & set(sys.modules) - before:
        print(f"import {module} loads {name}")
"""


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A Python program of its own. -I would hide an editable install: the checkout goes on the path."""
    return subprocess.run(
        [sys.executable, "-c", program, *args], cwd=ROOT, text=True, timeout=60, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_importing_a_server_module_loads_nothing_heavy():
    servers = [*(one for one in FLOORS if one not in ("load", "measure", "lab")), "__init__"]
    modules = [dotted(path) for path in FILES if folder(path) in servers]
    modules += ["mpmkit.load.runner", "mpmkit.measure.qps"]  # what a notebook runs, in its process
    assert len(modules) > 50
    done = run(IMPORTING, " ".join(HEAVY), *modules)
    assert done.stdout + done.stderr == ""


# What no server without TLS, programs and backends has any use for: each is paid for in the time to
# start and in the memory of every child.
UNUSED = set(
    "shutil zlib bz2 lzma unicodedata encodings.idna subprocess tempfile ssl asyncio logging json random "
    "hashlib base64 urllib http.client mpmkit.server.trace".split()
)


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_a_running_server_has_loaded_nothing_it_does_not_use(mpm: str):
    # No site: what an editable install or a distribution loads before us is not the server's doing.
    serve = "-S -X importtime -m mpmkit serve".split()
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    argv = [sys.executable, *serve, mpm, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environ = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(argv, cwd=ROOT, env=environ, **pipes) as server:
        ready = server.stdout.readline()
        server.terminate()
        _, said = server.communicate(timeout=30)
    assert ready.startswith("ready "), said
    loaded = {line.rpartition("|")[2].strip() for line in said.splitlines() if "|" in line}
    assert "mpmkit.server.core" in loaded
    assert not loaded & UNUSED, loaded & UNUSED


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
    done = run(program)
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
    done = run(program)
    assert "most requests/s under" in done.stdout, done.stderr
