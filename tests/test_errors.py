"""docs/ERRORS.md and QUESTIONS.md: each example prints the message it is an example of."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mpmkit.measure import competitors
from mpmkit.measure.reference_servers import NotInstalled

PAGE = (Path(__file__).parent.parent / "docs" / "ERRORS.md").read_text()
BOTH = PAGE + (Path(__file__).parent.parent / "docs" / "QUESTIONS.md").read_text()
BLOCKS = re.findall(r"```(\w+) (\w+)\n(.*?)```", BOTH, re.DOTALL)
(SETUP,) = [code for _, name, code in BLOCKS if name == "setup"]
EXAMPLES = [block for block in BLOCKS if block[1] != "setup"]
# The output that the page shows: the block without a language that follows an example.
SHOWN = dict(re.findall(r"```\w+ (\w+)\n(?:(?!```).)*```\n\n```\n(.*?)```", BOTH, re.DOTALL))


def alike(text: str, folder: Path) -> str:
    """Without what differs each time: numbers, days, and the names of folders and of the machine."""
    text = re.sub(r"\btmp\w{8}\b", "site", text.replace(str(folder), "/srv/example"))
    text = re.sub(r"unknown, \S+ is used", "unknown, laptop is used", text)
    return re.sub(r"\d+", "0", re.sub(r"(?m)^\[\w{3} \w{3} ", "[Sun Nov ", text))


@pytest.mark.parametrize(("language", "number", "code"), EXAMPLES, ids=[e[1] for e in EXAMPLES])
def test_an_example_prints_its_message(language, number, code, tmp_path, shared):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    for program in ("apache2", "curl", "h2load", "openssl"):
        if f"{program} " in code and not shutil.which(program, path=path):
            pytest.skip(f"no {program} here")
    if "cgroup" in code:
        first, second = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/cgroup.subtree_control")
        may = first.is_dir() or (second.exists() and "pids" in second.read_text())
        place = first if first.is_dir() else first.parent
        if not may or os.geteuid() or not os.access(place, os.W_OK):
            pytest.skip("no control group for tasks may be made here")
    if number == "AH00558" and "." in socket.getfqdn():
        pytest.skip("this machine has a full name")
    if "PhpFpm" in code:
        try:
            competitors.find_php_fpm()
        except NotInstalled as missing:
            pytest.skip(f"{missing}")
    place = shared if "PhpFpm" in code else tmp_path  # php-fpm's children, another user's, read it
    env = {**os.environ, "PATH": path, "TMPDIR": str(place)}
    run = ["sh", "-c", code] if language == "sh" else [sys.executable, "-c", SETUP + code]
    how = {"capture_output": True, "text": True, "timeout": 60, "env": env, "cwd": tmp_path}
    for _ in range(3 if "sleep" in code else 1):  # the machine may stand still in one of its pauses
        out = subprocess.run(run, start_new_session=True, **how)  # httpd ends its process group
        printed = alike(out.stdout + out.stderr, tmp_path)
        if alike(SHOWN[number], tmp_path) in printed:
            break
    assert number in number.lower() + out.stdout + out.stderr
    assert alike(SHOWN[number], tmp_path) in printed, printed
    assert "Traceback" not in out.stderr, out.stderr


def test_each_number_of_the_table_leads_to_its_section():
    links = re.findall(r"^\| \[.*\]\(#(.*?)\)", PAGE, re.MULTILINE)
    titles = re.findall(r"^## (.*)", PAGE, re.MULTILINE)
    slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    assert links == slugs
    numbers = re.findall(r"AH\d{5}", " ".join(titles))
    assert {number for _, number, _ in EXAMPLES if "AH" in number} <= set(numbers)
