"""Running a load: one call, or one command line, and one result.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

    mpmkit load http://127.0.0.1:8080/index.html --users 64 --keep-alive
    mpmkit load http://127.0.0.1:8080/ --users 400 --arrival poisson --rate 2000 --duration 20
    mpmkit load http://127.0.0.1:8080/ --steps 50,100,200,400 --step-seconds 5 --keep-alive
    mpmkit load http://127.0.0.1:8080/ --profile checkout.json --json

The generator is Locust, in a separate process, because Locust monkey-patches the process that imports it. It
needs no file on disk: the profile and the log are in memory (memfd_create). It reports through one end of a
pair of sockets, of which only this process has the other: it ends when this process does.
"""

import contextlib
import importlib.util
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mpmkit.config.arguments import Parser
from mpmkit.load.fields import listed, option
from mpmkit.load.preflight import OWN_FILES, target_of, tls_context, too_few_descriptors
from mpmkit.load.profile import LoadProfile, ProfileError, profile_with
from mpmkit.load.result import Collector, LoadRun, OnTick, known
from mpmkit.measure.procfs import ready_tasks

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

Progress = Callable[[int, float], None]
"""Called with (requests done, seconds since the first that counts), some four times a second."""

STARTUP = 30.0  # seconds for starting and ending, in addition to the profile's time limit
GRACE = 1.2  # seconds from asking it to end to killing it: a Ctrl-C is over within two
DEFAULT_SECONDS = 10.0  # of a load that nothing bounds

# A line of a plan: SECONDS,LINE or SECONDS,LINE,SECONDS of each request, then "close" perhaps.
_REQUEST = r"\d+(?:\.\d*)?,\d+(?:,\d+(?:\.\d*)?)?"
_CONNECTION = re.compile(rf"{_REQUEST}(?: {_REQUEST})*(?: close)?\n", re.ASCII)


class LoadError(RuntimeError):
    """The generator could not run, or died. The text says what happened."""


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run. `run` is what had been measured until then, or None."""

    def __init__(self, run: LoadRun | None) -> None:
        super().__init__("the load was interrupted")
        self.run = run


class Generator(subprocess.Popen):
    """Locust's process, which is gone when the `with` block is. It finds the profile as a file."""

    def __init__(self, base: str, profile: LoadProfile) -> None:
        # Locust's own environment variables would change a run behind the profile's back.
        own = ("LOCUST_", "MPMKIT_LOAD_")
        environ = {name: text for name, text in os.environ.items() if not name.startswith(own)}
        self._log = os.fdopen(os.memfd_create("log"), "rb")
        self._reports, theirs = socket.socketpair()
        self._unread, self.at_end = b"", False  # of its reports
        null = subprocess.DEVNULL
        with theirs, os.fdopen(os.memfd_create("profile"), "wb") as given:
            given.write(profile.to_json().encode())
            given.flush()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # a second, if granted
            environ["MPMKIT_LOAD_FD"] = str(theirs.fileno())
            argv = [*_locust_argv(base, profile), "--load-profile", f"@/dev/fd/{given.fileno()}"]
            super().__init__(
                argv, stdin=null, stdout=null, stderr=self._log, cwd="/",  # where no locust.conf is
                env=environ, pass_fds=(given.fileno(), theirs.fileno()), start_new_session=True,
            )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        self.end()
        self._reports.close()
        self._log.close()

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """The reports that come, waiting for the first of them at most so long."""
        lines: list[bytes] = []
        while not lines and not self.at_end and select.select([self._reports], [], [], seconds)[0]:
            data = self._reports.recv(1 << 20)
            self.at_end = not data
            *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be reused."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def end(self) -> None:
        """Have all its processes write what they have, wait a moment, and kill what is left."""
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            until = time.monotonic() + GRACE
            if not self.ended():
                os.killpg(self.pid, signal.SIGTERM)
            while not self.ended() and time.monotonic() < until:
                time.sleep(0.02)
            os.killpg(self.pid, signal.SIGKILL)  # also what its leader left behind at a regular end
        self.wait()

    def failure(self) -> LoadError:
        """Why it gave no result, once it has ended: in its own last words."""
        log = os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace").strip()
        errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
        last = errors or [line.strip() for line in log.splitlines() if line.strip()]
        words = " | ".join(last[-3:]) or "it said nothing"
        return LoadError(f"Locust ended with exit code {self.returncode} and no result: {words}")


def run_load(
    target: Any,
    path: str | None = None,
    *,
    profile: LoadProfile | None = None,
    on_progress: Progress | None = None,
    on_tick: OnTick | None = None,
    **fields: Any,
) -> LoadRun:
    """Apply a load to a server and return the results.

    target: a server (anything with a `.url`), or a URL as `target_of` takes it: http or https, loopback only.
    path, fields: the fields of a LoadProfile, described there with units and ranges (users, requests, duration,
        keep_alive, ...); None: not given.
    profile: a LoadProfile to start from. Without one, `requests`, `duration` or `stages` must be given.
    on_progress: called in this thread with (requests done, seconds) while the load runs.
    on_tick: called in this thread, some four times a second for each generator process, with a Tick:
        the results since its last one.

    Raises ValueError for a bad target or field (ProfileError), naming all problems, and for a load that this
    machine's limits do not allow, before anything starts; LoadError if the generator cannot run or dies,
    LoadInterrupted (a KeyboardInterrupt with the results so far) on Ctrl-C. A failing server does not raise:
    see `failures`, `errors` and `ended` of the result.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if path is not None:
        given["path"] = path
    base, load = _prepared(target, given, profile)
    if importlib.util.find_spec("locust") is None:
        raise LoadError("Locust is not installed for this Python; install it (pip install locust)")
    return _run_locust(base, load, on_progress, on_tick)


def _prepared(
    target: Any, given: dict[str, Any], profile: LoadProfile | None
) -> tuple[str, LoadProfile]:
    """(URL, profile) of a load, or ProfileError with everything that is wrong with it."""
    problems: list[str] = []
    place = load = None

    @contextlib.contextmanager
    def noting_problems() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            problems.append(str(error))

    with noting_problems():
        place = target_of(target if isinstance(target, str) else getattr(target, "url", target))
    with noting_problems():
        load = profile_with(given, profile)
        if load.ca_file is not None:
            tls_context(load.ca_file, False)
            load = load.but(ca_file=str(Path(load.ca_file).resolve()))  # Locust runs elsewhere
    if load is not None and place is not None:
        if load.idle_holders and place.scheme == "https":
            problems.append("idle_holders: hold connections without TLS; give an http target")
        users = -(-load.users // load.processes)
        if short := too_few_descriptors(max(users, load.idle_holders) + OWN_FILES):
            problems.append(f"users: {short}, or give more processes")
    if problems or load is None or place is None:
        raise ProfileError("; ".join(problems))
    if load.plan:
        _check_plan(load.plan, len(load.specs))
    if load.seed is None:
        load = load.but(seed=secrets.randbelow(1 << 31))
    return place.base, load


def _check_plan(path: str, lines: int) -> None:
    """Raise ProfileError for the first bad line of a plan in a file, for a mix with that many lines."""
    wrong, first = "", 0.0
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for number, text in enumerate(file, 1):
                before = first
                if not _CONNECTION.fullmatch(text):
                    form = "must be SECONDS,LINE or SECONDS,LINE,SECONDS for each request, then close or not"
                    wrong = f"{form}: {text[:60]!r}"
                elif (first := float(text.partition(",")[0])) < before:
                    wrong = f"begins at {first:g} s, the one above it at {before:g}; sort them"
                for line in re.findall(r"(?:^| )[^,]+,(\d+)", text) if not wrong else ():
                    if not 1 <= int(line) <= lines:
                        wrong = f"there is no line {line[:20]} of the mix, which has {lines}"
                if wrong:
                    raise ProfileError(f"plan: {path}, line {number}: {wrong}")
    except OSError as error:
        raise ProfileError(f"plan: {path}: {error.strerror}") from None


def _run_locust(
    base: str, profile: LoadProfile, on_progress: Progress | None, on_tick: OnTick | None
) -> LoadRun:
    collector = Collector(base, profile, profile.processes)
    ready: list[int] = []  # tasks that were ready to run, without us
    until, sampled, why = time.monotonic() + profile.time_limit + STARTUP, 0.0, ""
    with Generator(base, profile) as generator:
        try:
            while not why and not generator.ended():
                if generator.at_end:
                    time.sleep(0.005)  # its processes are gone, or will be in a moment
                for report in (reports := generator.read(0.1)):
                    tick = collector.add(report)
                    if on_tick is not None and tick is not None and tick.end > tick.begin:
                        on_tick(tick)
                if reports and on_progress is not None and collector.seconds:
                    on_progress(collector.requests, collector.seconds)
                if collector.last and (now := time.monotonic()) - sampled > 0.2:
                    sampled = now
                    ready.append(max(0, ready_tasks() - 1))
                if time.monotonic() > until:
                    late = "the generator did not end by itself"
                    why = f"time limit of {profile.time_limit:g} s ({late})"
        except KeyboardInterrupt:
            why = "interrupted"
        generator.end()
        while reports := generator.read(0):  # what it left; no more is passed on than added up
            for report in reports:
                collector.add(report)
        run = collector.run(why)
        if run is not None:
            run.run_queue = sum(ready) / max(1, len(ready)) / len(os.sched_getaffinity(0))
            run.ended = why or run.ended
        if why == "interrupted":
            raise LoadInterrupted(run)
        if run is None:
            raise generator.failure()
    return run


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["--loglevel", "WARNING", "--host", base]
    if profile.stages:
        argv += ["--stop-timeout", "5"]  # users that go may end their request first
    if profile.processes > 1:
        # Locust's default is every address of the machine and one fixed port for all runs on it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        argv += ["--processes", str(profile.processes)]
        argv += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        argv += ["--master-host", "127.0.0.1", "--master-port", port]
    return argv


# -- mpmkit load URL ---------------------------------------------------------------------------------


def parser() -> Parser:
    what = "Put a load on a server of this machine, and report what it measured."
    until = f"Goes on for {DEFAULT_SECONDS:g} s if nothing bounds it."
    parser = Parser(prog="mpmkit load", description=f"{what} {until}")
    add = parser.add_argument
    like = "like http://127.0.0.1:8080/index.html (loopback only), or https"
    add("target", metavar="URL", help=like)
    for field in fields_of(LoadProfile):
        if field.name != "path" and (how := option(field)):
            add(f"--{field.name.replace('_', '-')}", **how)
    add("--profile", metavar="FILE", help="a load profile as JSON; the other options change it")
    steps = "users (or, in the open loop, requests/s) one step after the other"
    add("--steps", type=listed(float), metavar="A,B,C", help=steps)
    add("--step-seconds", type=float, default=5.0, metavar="S", help="of each step (default: 5)")
    add("--seconds", action="store_true", help="print the run second by second, too")
    row = "print one JSON object instead: a row of data/README.md"
    add("--json", action="store_true", help=row)
    add("--out", metavar="FILE", help="write the run with its histogram to this file, as JSON")
    return parser


def load_of(options: dict[str, Any]) -> tuple[str, dict[str, Any], LoadProfile | None]:
    """(target, changed fields, profile) of a command line. Raises ValueError."""
    target = options["target"]
    parts = urlsplit(target)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if path not in ("", "/") and parts.scheme and parts.netloc and not parts.fragment:
        options["path"] = path
        target = f"{parts.scheme}://{parts.netloc}"
    profile = None
    if options["profile"]:
        try:
            profile = LoadProfile.from_json(Path(options["profile"]).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # also of what it says
            raise ProfileError(f"profile: {options['profile']}: {error}") from None
    names = {field.name for field in fields_of(LoadProfile)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    if options["steps"]:
        open_loop = given.get("arrival", profile.arrival if profile else "closed") != "closed"
        what, kind = ("rate", float) if open_loop else ("users", int)
        seconds = options["step_seconds"]
        given["stages"] = [{"seconds": seconds, what: kind(level)} for level in options["steps"]]
    if profile is None and not {"requests", "duration", "stages"} & set(given):
        given["duration"] = DEFAULT_SECONDS
    return target, given, profile


def main(argv: Sequence[str] | None = None) -> int:
    """0: all answered well. 1: not all, or the generator failed. 2: a bad argument. 130: Ctrl-C, with results."""
    options = vars(parser().parse_args(argv))
    live = sys.stderr.isatty()

    def show(done: int, seconds: float) -> None:
        print(f"\r{done:,} requests in {seconds:.1f} s ", end="", file=sys.stderr, flush=True)

    try:
        target, given, profile = load_of(options)
        run = run_load(target, profile=profile, on_progress=show if live else None, **given)
        status = 1 if run.failures or not run.complete else 0
    except LoadInterrupted as stop:
        print("mpmkit: interrupted", file=sys.stderr)
        if stop.run is None:
            return 130
        run, status = stop.run, 130
    except (LoadError, ValueError) as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1 if isinstance(error, LoadError) else 2
    if live:
        sys.stderr.write("\r" + " " * 40 + "\r")
    if options["out"]:
        try:
            Path(options["out"]).write_text(run.to_json(), encoding="utf-8")
        except OSError as error:
            print(f"mpmkit: {options['out']}: not written: {error.strerror}", file=sys.stderr)
            status = status or 1
    if options["json"]:
        print(json.dumps(known(run.row())))
        return status
    print(run.summary())
    for window in run.seconds if options["seconds"] else ():
        print(f"{window.begin:5.0f} s {window}")
    return status
