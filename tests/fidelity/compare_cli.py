"""Both programs' command lines: exit statuses, message ids, and the shape of what they print.

Wording is each one's own. Compared is what a script looks at: the status, on which stream something
comes, ids like AH00526, and the form of the lines (`Key: value`, ` name_module (static)`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpmkit.measure import procfs
from mpmkit.measure.reference_servers import find_httpd, free_port
from tests.fidelity.cases import Row, tables
from tests.fidelity.clients import until
from tests.fidelity.server_pair import MPMKIT, POOLS, conf_text

# What a line looks like, first match counts.
FORMS = (
    (r".*?(AH\d{5}): .*", r"\1"),
    (r" \w+_module \((static|shared)\)", "module (kind)"),
    (r"  \w+\.c", "file.c"),
    (r" -D .*", "-D define"),
    (r"(<?/?\w[\w.]*>?) \([\w.]+\)", "directive (file)"),
    (r"\s+\S.*", "indented text"),
    # Which there are depends on the modules, their order on a hash.
    (r"Mutex [\w-]+: .*", "Mutex:"),
    (r"([A-Za-z][\w '.-]*?):( .*)?", r"\1:"),
)


class Program:
    """One of the two, with a directory and a configuration of its own."""

    def __init__(self, argv: Sequence[str], root: Path) -> None:
        self.argv = list(argv)
        self.root = root
        self.port = free_port()
        self.conf = root / "server.conf"
        self.write("")
        (root / "mime.types").write_text("text/plain txt\n")

    def write(self, extra: str, mpm: str = "event") -> None:
        self.conf.write_text(conf_text(mpm, self.root, self.port, self.root, POOLS[mpm], extra))

    def run(self, *args: str) -> str:
        """Run it to its end; what it did, in words that both have in common."""
        how: Any = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
        command = [*self.argv, "-d", str(self.root), "-f", str(self.conf), *args]
        done = subprocess.run(command, timeout=30, **how)
        texts = [f"exit {done.returncode}"]
        for name, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            if done.returncode:  # an error's words are each one's own; its ids are not
                said = re.findall(r"AH\d{5}(?=: )", text)
            else:
                said = list(dict.fromkeys(filter(None, map(self._form, text.splitlines()))))
            if said:
                texts.append(f"{name}: {', '.join(said)}")
        return "; ".join(texts)

    def _form(self, line: str) -> str:
        line = line.replace(str(self.root), "ROOT").replace(str(self.port), "PORT")
        for pattern, form in FORMS:
            if found := re.fullmatch(pattern, line):
                return found.expand(form).strip()
        line = re.sub(r"^(apache2|httpd|mpmkit httpd|mpmkit)\b", "httpd", line)
        return re.sub(r"\d+", "N", line).strip()

    def pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.root / "pid").read_text())
        return None

    def alive(self) -> bool:
        pid = self.pid()
        return pid is not None and procfs.alive(pid)

    def wait(self, up: bool, seconds: float = 8.0) -> None:
        end = time.monotonic() + seconds
        while self.alive() != up and time.monotonic() < end:
            time.sleep(0.05)

    def end(self) -> None:
        """Whatever a scenario has started ends here."""
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(OSError):
            while str(self.root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
                self.wait(False, 5)
                os.kill(pid, signal.SIGKILL)


# --- What is tried ------------------------------------------------------------------------------------

Case = Callable[[Program], str]


def _with(text: str, *args: str) -> Case:
    """With these lines at the end of the file."""

    def case(p: Program) -> str:
        p.write(text)
        return p.run(*args)

    return case


def _changed(old: str, new: str, *args: str) -> Case:
    def case(p: Program) -> str:
        p.conf.write_text(p.conf.read_text().replace(old, new))
        return p.run(*args)

    return case


def _mpms(*names: str) -> Case:
    """A file with these MPMs loaded, none or two included."""

    def case(p: Program) -> str:
        lines = p.conf.read_text().splitlines()
        mpm = next(line for line in lines if "mpm_event_module" in line)
        kept = [line for line in lines if not line.startswith(("Threads", "MinSpare", "MaxSpare"))]
        at = kept.index(mpm)
        kept[at : at + 1] = [mpm.replace("mpm_event", f"mpm_{name}") for name in names]
        p.conf.write_text("\n".join(kept) + "\n")
        return p.run("-t")

    return case


def _pid_file(text: str) -> Case:
    def case(p: Program) -> str:
        (p.root / "pid").write_text(f"{text}\n")
        said = p.run("-k", "stop")
        (p.root / "pid").unlink(missing_ok=True)
        return said

    return case


def _port_taken(p: Program) -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", p.port))
        sock.listen()
        return p.run("-k", "start")


def cases() -> Iterator[tuple[str, Case]]:
    found = {title: [line.replace(r"\n", "\n").split(" | ") for line in lines]
             for title, lines in tables("cli.txt").items()}  # fmt: skip
    yield from ((name, _with("", *shlex.split(name))) for (name,) in found["options"])
    yield from ((name, _with(lines, *shlex.split(words))) for name, lines, words in found["lines"])
    for name, old, new, words in found["changed"]:
        yield name, _changed(old, new, *shlex.split(words))
    for name, text in found["pid files"]:
        yield f"-k stop, {name} pid file", _pid_file(text)
    yield "-t, no MPM", _mpms()
    yield "-t, two MPMs", _mpms("event", "worker")
    yield "-k start, port taken", _port_taken


CASES = dict(cases())
LIFE = "life"


def life(p: Program) -> Iterator[tuple[str, str]]:
    """A server started, asked everything, and stopped, by `-k`."""
    yield "-k graceful, not running", p.run("-k", "graceful")
    p.wait(True)
    yield "-k start, running", p.run("-k", "start")
    pid = p.pid()
    yield "-k graceful", p.run("-k", "graceful")
    yield "-k restart", p.run("-k", "restart")
    until(lambda: (p.root / "error_log").read_text().count("resuming") >= 3, 3)  # or two in one
    good = p.conf.read_text()
    p.write("NoSuchDirective on")
    for word in ("graceful", "restart"):
        yield f"-k {word}, broken file", p.run("-k", word)
    yield "after that", "running" if p.alive() and p.pid() == pid else "gone"
    p.conf.write_text(good)
    yield "-k graceful-stop", p.run("-k", "graceful-stop")
    p.wait(False)
    yield "after graceful-stop", "running" if p.alive() else "gone"
    yield "-k start", p.run("-k", "start")
    p.wait(True)
    yield "-k stop", p.run("-k", "stop")
    p.wait(False)
    yield "after stop", "running" if p.alive() else "gone"
    p.run("-k", "start")
    p.wait(True)
    p.write("NoSuchDirective on")
    yield "-k stop, broken file", p.run("-k", "stop")


@contextmanager
def _program(argv: Sequence[str]) -> Iterator[Program]:
    with tempfile.TemporaryDirectory(prefix="mpmkit-cli-") as where:
        os.chmod(where, 0o755)
        program = Program(argv, Path(where))
        try:
            yield program
        finally:
            program.end()


def rows(only: Iterable[str] = ()) -> list[Row]:
    """Every option and situation, and one server's life; or only the named cases."""
    sides: list[dict[str, str]] = []
    for argv in ([find_httpd()], MPMKIT):
        said: dict[str, str] = {}
        for name in tuple(only) or (*CASES, LIFE):
            with _program(argv) as program:
                said |= dict(life(program)) if name == LIFE else {name: CASES[name](program)}
        sides.append(said)
    theirs, ours = sides
    return [Row("cli", name, said, ours.get(name, "")) for name, said in theirs.items()]
