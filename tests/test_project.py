"""The project as a whole: its size, one list of dependencies, notebooks without outputs, its Makefile."""

import ast
import hashlib
import itertools
import json
import os
import re
import stat
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpmkit"
NOTEBOOKS = [
    path for path in sorted((ROOT / "notebooks").glob("**/*.ipynb")) if "rendered" not in path.parts
]
LONGEST_CELL = 25

# ---------------------------------------------------------------- a sense of size

# Of Python in the package, comments and docstrings included. The aim is 23,500: a change that removes
# lines lowers this number.
MOST_LINES = 26_978
LONGEST_FILE = 450
LONGEST_FUNCTION = 60
LISTED = 12  # names that `ls mpmkit` shows, but for README.md and Python's own files
TESTS = sorted((ROOT / "tests").glob("*.py")) + sorted((ROOT / "tests" / "support").glob("*.py"))
# Of Python in tests/; the comparison with httpd (tests/fidelity) is not counted.
MOST_TEST_LINES = 20299


def printed(sizes: Counter[str], most: int, capsys) -> None:
    with capsys.disabled():
        print("\n" + "\n".join(f"{count:>7,}  {name}" for name, count in sizes.most_common()))
        print(f"{sizes.total():>7,}  of {most:,}")


def test_the_package_stays_small(capsys):
    sizes: Counter[str] = Counter()
    over = []
    for path in sorted(PACKAGE.glob("**/*.py")):
        text = path.read_text(encoding="utf-8")
        where, lines = path.relative_to(PACKAGE), text.count("\n")
        sizes[where.parts[0]] += lines
        over += [f"{where} has {lines} lines"] * (lines > LONGEST_FILE)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                over += [f"{where}:{node.lineno} has {length} lines"] * (length > LONGEST_FUNCTION)
    printed(sizes, MOST_LINES, capsys)
    assert not over, "\n".join(over)
    assert sizes.total() <= MOST_LINES
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


# ---------------------------------------------------------------- one list of dependencies


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


def test_binder_installs_the_package_at_the_locked_versions():
    script = ROOT / "binder/postBuild"
    assert script.stat().st_mode & stat.S_IXUSR, "repo2docker wants postBuild executable"
    lines = script.read_text().splitlines()
    assert lines[0].startswith("#!") and "set -e" in lines
    assert any("--constraint requirements.lock '.[lab]'" in line for line in lines)


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
    anew = "cd data/recorded && sha256sum *.csv *.gz *.json > SHA256SUMS, if it is meant"
    assert not changed, f"{anew}: {changed}"


def test_binder_opens_on_the_first_notebook(tmp_path):
    # What postBuild writes, with a python that tells another prefix and a pip that does nothing.
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {tmp_path}\nexit 0\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([str(ROOT / "binder/postBuild")], check=True, cwd=ROOT, env=env)
    said = json.loads((tmp_path / "etc/jupyter/jupyter_server_config.json").read_text())
    for app in ("ServerApp", "LabApp"):
        page = said[app]["default_url"].removeprefix("/lab/tree/")
        assert (ROOT / page).is_file() and "00-" in page


def test_versions_agree():
    import mpmkit._version

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    notes = (ROOT / "CHANGELOG.md").read_text().partition("\n## ")[2]
    assert cited["version"] == mpmkit._version.__version__ == notes.partition(" ")[0]
    assert "\nIn short: " in notes.partition("\n## ")[0], "the tag's text"
    assert cited["license"] == project()["project"]["license"]


# ---------------------------------------------------------------- notebooks as sources


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


# ---------------------------------------------------------------- the tests


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
    names = ((str(path.relative_to(ROOT)), path) for path in TESTS)
    sizes = Counter({name: path.read_text(encoding="utf-8").count("\n") for name, path in names})
    printed(sizes, MOST_TEST_LINES, capsys)
    assert sizes.total() <= MOST_TEST_LINES


# name of an interpreter, whether it has venv; or .venv, which an earlier `make` has made
@pytest.mark.parametrize(("there", "given", "taken"), [
    ({"python3.11": True, "python3.12": True}, None, "python3.12"),
    ({"python3.12": True, "python3.13": False}, None, "python3.12"),
    ({"python3.13": True, "python3": True}, "python3", "python3"),
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
