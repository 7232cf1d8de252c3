"""Who may import whom (docs/DESIGN.md), read from the source by ast: each failure names file, line and rule. And
what is loaded by it."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
    "config/environment.py": {"os"},  # asks whether files and users exist
    "policy/simulator.py": {"random"},
}
# What no file of a folder may import of the standard library.
FORBIDDEN = {
    "config": EFFECTS, "policy": EFFECTS, "http": SOCKETS, "server": READY_MADE,
    "mpm": READY_MADE, "handlers": {"asyncio"},
}  # fmt: skip
# Locustfiles, and the files that only a locustfile imports; Locust and gevent patch the whole process.
RUN_BY_LOCUST = {"locustfile", "client", "generator_state"}
PATCHING = {"locust", "gevent", *(f"load.{one}" for one in RUN_BY_LOCUST)}


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Every import of a file, inside functions, too, as (line, dotted name); relative ones are made absolute.

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
            else:
                yield from walk(child)

    return list(walk(ast.parse(path.read_text(encoding="utf-8"), str(path))))


def dotted(path: Path) -> str:
    """`mpmkit/http/__init__.py` -> `mpmkit.http`"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def within(module: str, names: set[str]) -> bool:
    return module in names or any(module.startswith(f"{name}.") for name in names)


def folder(path: Path) -> str:
    """The floor a file stands on: `mpmkit/http/protocol.py` -> `http`, `launcher.py` -> `launcher`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def broken_rules(path: Path, name: str) -> list[str]:
    """Those that this import breaks."""
    floor, own = folder(path), name.removeprefix("mpmkit.")
    permitted = PERMITTED.get(str(path.relative_to(PACKAGE)), set())
    allowed = {*FLOORS.get(floor, [own]), floor, "_version"}
    shared = path.name != "prefork.py" and own == "mpm.threaded"
    rules = {
        "a floor above": own != name and not within(own, allowed),
        "another MPM": floor == "mpm" and own.startswith("mpm.") and not shared,
        "an effect, or ready-made": within(name, FORBIDDEN.get(floor, set()) - permitted),
        "outside": within(name, {"benchmarks", "docs", "tests", "helpers", "notebooks"}),
        "patches": within(own, PATCHING) and not (floor == "load" and path.stem in RUN_BY_LOCUST),
    }
    return [rule for rule, broken in rules.items() if broken]


def test_a_file_imports_what_its_floor_may_and_never_in_a_circle():
    found = [(path, *one) for path in FILES for one in imports(path)]
    lines = [f"{path.relative_to(ROOT)}:{line} imports {name}: {rules}"
             for path, line, name in found if (rules := broken_rules(path, name))]  # fmt: skip
    assert not lines, "\n".join(lines)
    # Imports inside functions hide a circle and don't remove it.
    graph = {dotted(path): {name for _, name in imports(path)} for path in FILES}
    assert "mpmkit.server.tls" in graph["mpmkit.server.core"]
    assert {"h11", "mpmkit.http.messages"} <= set().union(*graph.values()), "all spellings are seen"
    graph = {name: targets & set(graph) for name, targets in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_no_test_module_imports_another():
    """Data and functions that two of them need are in tests/support."""
    tests = [*(ROOT / "tests").glob("*.py"), *(ROOT / "tests" / "support").glob("*.py")]
    pattern = re.compile(r"(tests\.)?test_|.*\.conftest")
    found = [(path.name, *one) for path in tests for one in imports(path) if pattern.match(one[1])]
    assert not found


# ---------------------------------------------------------------- what is loaded

# Import each of the modules, and print those that were the first to load a package, or asyncio.
IMPORTING = """
import importlib, sys
known = sys.stdlib_module_names - {"asyncio"} | {"mpmkit", "h11"}
for module in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(module)
    found = {name.partition(".")[0] for name in set(sys.modules) - before} - known
    if found:
        print(f"import {module} loads {found}")
"""


def printed(program: str, *args: str) -> str:
    """By a program of its own. -I would hide an editable install: the checkout goes on the path."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", program, *args]
    done = subprocess.run(argv, cwd=ROOT, env=environ, text=True, timeout=60, capture_output=True)
    assert not done.stderr
    return done.stdout


def test_importing_a_server_module_loads_h11_and_no_other_package():
    servers = FLOORS.keys() - {"load", "measure", "lab"} | {"__init__", "__main__"}
    modules = [dotted(path) for path in FILES if folder(path) in servers]
    modules += ["mpmkit.load.runner", "mpmkit.measure.qps"]  # what a notebook runs, in its process
    assert len(modules) > 50
    assert printed(IMPORTING, *modules) == "import mpmkit.measure.qps loads {'psutil'}\n"


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


def test_without_the_notebooks_packages_the_extra_is_named_and_a_sweep_is_printed():
    program = """
import json, sys
for name in ("pandas", "plotly", "ipywidgets", "anywidget"):
    sys.modules[name] = None
import mpmkit
from mpmkit import lab
from mpmkit.measure import records, sweep
for use in (lambda: mpmkit.simulate("event").to_frame(), lambda: lab.control_room,
            lambda: mpmkit.recorded("memory-demo").to_frame()):
    try:
        use()
    except ImportError as error:
        print(error)
rows = records.read(records.recorded_folder() / "07-users.csv")
print(sweep.SweepTable(rows, names=tuple(json.loads(rows[0]["point"]))).text())
"""
    said = printed(program)
    assert said.count("pip install 'mpmkit[lab]' brings it") == 3, said
    assert "most requests/s under" in said
