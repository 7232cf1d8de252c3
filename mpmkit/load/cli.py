"""``mpmkit load URL``: one load from the command line, and its results.

mpmkit load http://127.0.0.1:8080/index.html --users 64 --keep-alive
mpmkit load http://127.0.0.1:8080/ --users 400 --arrival poisson --rate 2000 --duration 20
mpmkit load http://127.0.0.1:8080/ --steps 50,100,200,400 --step-seconds 5 --keep-alive
mpmkit load http://127.0.0.1:8080/ --profile checkout.json --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mpmkit.config.arguments import Parser
from mpmkit.load.fields import listed, option
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.result import known
from mpmkit.load.runner import LoadError, LoadInterrupted, run_load

DEFAULT_SECONDS = 10.0  # of a load that nothing bounds


def parser() -> Parser:
    what = "Put a load on a server of this machine, and report what it measured."
    until = f"Goes on for {DEFAULT_SECONDS:g} s if nothing bounds it."
    parser = Parser(prog="mpmkit load", description=f"{what} {until}")
    add = parser.add_argument
    target = "like http://127.0.0.1:8080/index.html (loopback only), or https"
    add("target", metavar="URL", help=target)
    for field in fields(LoadProfile):
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
    names = {field.name for field in fields(LoadProfile)}
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
    """0: every request was answered well. 1: some were not, or the generator failed. 2: a bad argument. 130:
    Ctrl-C; what was measured until then is printed."""
    options = vars(parser().parse_args(argv))
    live = sys.stderr.isatty()

    def show(done: int, seconds: float) -> None:
        sys.stderr.write(f"\r{done:,} requests in {seconds:.1f} s ")
        sys.stderr.flush()

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
