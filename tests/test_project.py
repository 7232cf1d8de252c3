"""The project as a whole: its size, one list of dependencies, notebooks without outputs, its Makefile; who may
import whom, read from the source by ast, each failure with file, line and rule; what is loaded by it."""

import ast
import difflib
import graphlib
import hashlib
import itertools
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support.files import program
from support.servers import ran

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpmkit"
FILES = sorted(PACKAGE.glob("**/*.py"))
NOTEBOOKS = [
    path for path in sorted((ROOT / "notebooks").glob("**/*.ipynb")) if "rendered" not in path.parts
]
LONGEST_CELL = 25

# ---------------------------------------------------------------- a sense of size

# Of Python in the package, comments and docstrings included. The aim is 23,500: a change that removes
# lines lowers this number.
MOST_LINES = 25_883
LONGEST_FILE = 450
LONGEST_FUNCTION = 60
LISTED = 12  # names that `ls mpmkit` shows, but for README.md and Python's own files
TESTS = sorted((ROOT / "tests").glob("*.py")) + sorted((ROOT / "tests" / "support").glob("*.py"))
# Of Python in tests/; the comparison with httpd (tests/fidelity) is not counted.
MOST_TEST_LINES = 17_999


def fits(sizes: Counter[str], most: int, capsys) -> bool:
    with capsys.disabled():
        print("\n" + "\n".join(f"{count:>7,}  {name}" for name, count in sizes.most_common()))
        print(f"{sizes.total():>7,}  of {most:,}")
    return sizes.total() <= most


def test_the_package_stays_small(capsys):
    sizes: Counter[str] = Counter()
    over = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        where, lines = path.relative_to(PACKAGE), text.count("\n")
        sizes[where.parts[0]] += lines
        over += [f"{where} has {lines} lines"] * (lines > LONGEST_FILE)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                over += [f"{where}:{node.lineno} has {length} lines"] * (length > LONGEST_FUNCTION)
    assert fits(sizes, MOST_LINES, capsys) and not over, "\n".join(over)
    shown = {path.name for path in PACKAGE.iterdir()} - {"README.md", "py.typed", "__pycache__"}
    assert len({name for name in shown if not name.startswith("_")}) <= LISTED


def test_the_lecture_is_short():
    texts = {}
    for name, most in {"prefork": 80, "worker": 100, "event": 320}.items():
        texts[name] = (PACKAGE / "mpm" / f"{name}.py").read_text(encoding="utf-8").splitlines()
        assert len(texts[name]) <= most, name
    diff = difflib.ndiff(texts["worker"], texts["event"])
    changed = [line for line in diff if line[:1] in "+-"]
    assert len(changed) <= 250, "diff worker.py event.py is a lecture"


def bounds(requirements: list[str]) -> dict[str, SpecifierSet]:
    """Name -> versions. (conda's `python=3.13` is `python==3.13`.)"""
    found = (Requirement(re.sub(r"(?<=\w)=(?=\d)", "==", text)) for text in requirements)
    return {canonicalize_name(one.name): one.specifier for one in found}


def environment(name: str) -> dict[str, SpecifierSet]:
    listed = yaml.safe_load((ROOT / name).read_text())["dependencies"]
    assert all(isinstance(item, str) for item in listed), "no pip section: postBuild brings mpmkit"
    return bounds(listed)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_environment_and_pyproject_list_the_same_dependencies():
    conda, binder = environment("environment.yml"), environment("binder/environment.yml")
    assert conda.items() >= binder.items() >= {"pip": SpecifierSet()}.items(), "the same Python"
    pinned = re.fullmatch(r"==3\.(\d+)", str(conda.pop("python")))
    assert pinned, "Binder takes an old Python unless one is pinned"
    floor = int(re.fullmatch(r">=3\.(\d+)", project()["project"]["requires-python"])[1])
    assert floor <= int(pinned[1]) <= 14
    conda.pop("pip")
    extras = project()["project"]["optional-dependencies"]
    assert conda == bounds(project()["project"]["dependencies"] + extras["lab"])


def test_binder_installs_the_locked_versions_and_opens_on_the_first_notebook(tmp_path):
    script = ROOT / "binder/postBuild"
    assert script.stat().st_mode & stat.S_IXUSR, "repo2docker wants postBuild executable"
    lines = script.read_text().splitlines()
    assert lines[0].startswith("#!") and "set -e" in lines
    assert any("--constraint requirements.lock '.[lab]'" in line for line in lines)
    # What it writes, with a python that tells another prefix and a pip that does nothing.
    program(tmp_path / "python", f'#!/bin/sh\n[ "$1" = -c ] && echo {tmp_path}\nexit 0\n')
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([str(script)], check=True, cwd=ROOT, env=env)
    said = json.loads((tmp_path / "etc/jupyter/jupyter_server_config.json").read_text())
    for app in ("ServerApp", "LabApp"):
        page = said[app]["default_url"].removeprefix("/lab/tree/")
        assert (ROOT / page).is_file() and "00-" in page


def test_the_lock_file_satisfies_pyproject():
    """One version of each package, within every bound, and nothing is missing."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    locked = {canonicalize_name(name): version for name, version in pins}
    assert len(locked) == len(pins), "a package is locked twice"
    extras = project()["project"]["optional-dependencies"]
    for text in itertools.chain(project()["project"]["dependencies"], *extras.values()):
        wanted = Requirement(text)
        version = locked.get(canonicalize_name(wanted.name), "nothing")
        fits = wanted.name == "mpmkit" or version in wanted.specifier
        assert fits, f"{text} is wanted, {version} is locked: make lock"


def test_recorded_runs_are_those_that_were_recorded():
    folder = ROOT / "data" / "recorded"
    there = sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".gz", ".json"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in there]
    changed = sorted(set(sums) ^ set((folder / "SHA256SUMS").read_text().splitlines()))
    again = "cd data/recorded && sha256sum *.csv *.gz *.json > SHA256SUMS, if it is meant"
    assert not changed, f"{again}: {changed}"


def test_versions_agree():
    import mpmkit._version

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    notes = (ROOT / "CHANGELOG.md").read_text().partition("\n## ")[2]
    assert cited["version"] == mpmkit._version.__version__ == notes.partition(" ")[0]
    assert "\nIn short: " in notes.partition("\n## ")[0], "the tag's text"
    assert cited["license"] == project()["project"]["license"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_sources_carry_no_outputs_and_cells_are_short(path: Path):
    book = json.loads(path.read_text(encoding="utf-8"))
    code = (cell for cell in book["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(code, 1):
        assert not cell["outputs"], f"code cell {number} carries outputs"
        assert cell["execution_count"] is None, f"code cell {number} carries an execution count"
        length = len("".join(cell["source"]).splitlines())
        assert length <= LONGEST_CELL, f"code cell {number} has {length} lines"
    assert "widgets" not in book["metadata"], "widget state is saved in the notebook"


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
    sizes = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in TESTS}
    assert fits(Counter(sizes), MOST_TEST_LINES, capsys)


# name of an interpreter, whether it has venv; or .venv, which an earlier `make` has made
@pytest.mark.parametrize(("there", "given", "taken"), [
    ({"python3.11": True, "python3.12": True}, None, "python3.12"),
    ({"python3.12": True, "python3.13": False}, None, "python3.12"),
    ({"python3.13": True, ".venv/bin/python": True}, None, ".venv/bin/python"),
    ({"python3.13": True, ".venv/bin/python": False}, None, "python3.13"),
    ({"python3.13": True, ".venv/bin/python": True}, "python3.13", "python3.13"),
])  # fmt: skip
def test_make_takes_the_newest_interpreter_unless_one_is_chosen(tmp_path, there, given, taken):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    missing = dict.fromkeys(("python3", *(f"python3.{minor}" for minor in range(11, 15))), False)
    for name, usable in (missing | there).items():
        file = tmp_path / name if "/" in name else tmp_path / "bin" / name
        program(file, f"#!/bin/sh\nexit {0 if usable else 1}\n")
        if "/" in name:
            (file.parent / "pip").touch()
    how = {"cwd": tmp_path, "env": {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}}
    command = ["make", "-n", "venv", *([f"PYTHON={given}"] if given else [])]
    done = subprocess.run(command, text=True, timeout=60, capture_output=True, **how)
    assert f"\n{taken} -c 'import venv, ensurepip'" in done.stdout, done.stdout + done.stderr


# ---------------------------------------------------------------- who may import whom (docs/DESIGN.md)

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
    pattern = re.compile(r"(tests\.)?test_|.*\.conftest")
    found = [(path.name, *one) for path in TESTS for one in imports(path) if pattern.match(one[1])]
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


def test_importing_a_server_module_loads_h11_and_no_other_package():
    servers = FLOORS.keys() - {"load", "measure", "lab"} | {"__init__", "__main__"}
    modules = [dotted(path) for path in FILES if folder(path) in servers]
    modules += ["mpmkit.load.runner", "mpmkit.measure.qps"]  # what a notebook runs, in its process
    assert len(modules) > 50
    assert ran("-c", IMPORTING, *modules).stdout == "import mpmkit.measure.qps loads {'psutil'}\n"


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
    said = ran("-c", program).stdout
    assert said.count("pip install 'mpmkit[lab]' brings it") == 3, said
    assert "most requests/s under" in said
