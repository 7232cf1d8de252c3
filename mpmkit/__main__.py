"""The command line: `mpmkit serve | httpd | qps | load`, also as `python -m mpmkit`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

# name -> (module with main(argv) -> exit status, what it does)
COMMANDS = {
    "serve": ("mpmkit.cli.serve", "run a server: prefork, worker or event"),
    "httpd": ("mpmkit.cli.httpd", "a server driven by httpd's own command line"),
    "qps": ("mpmkit.measure.qps", "the article's static and script tables, on this machine"),
    "load": ("mpmkit.load.runner", "one load against one server"),
    "memory": ("mpmkit.measure.memory", "memory of busy requests and idle connections; how many fit"),
    "demand": ("mpmkit.measure.demand", "CPU time of a request under each MPM, with decisions"),
    "capacity": ("mpmkit.measure.capacity", "the highest rate at which p99 stays under a limit"),
    "compare": ("mpmkit.measure.compare", "two files of rows: cheaper, dearer, the same, undecided"),
    "watch": ("mpmkit.measure.watch_command", "the status page of a running Apache, with its headroom"),
    "advise": ("mpmkit.measure.advise_command", "which MPM and which numbers for the requests of an access log"),
    "replay": ("mpmkit.measure.replay", "the requests of an access log against a server, at their times"),
    "sweep": ("mpmkit.measure.sweep", "a grid of directives and loads, point by point"),
}  # fmt: skip
# What compares mpmkit with other servers is not part of the package: it is in a checkout, and runs as a
# program of its own.
CHECKOUT = {
    "fidelity": ("tests.fidelity.fidelity", "mpmkit and the real httpd, case by case"),
    "bench": ("benchmarks.run_all", "all tables: generators, requests/s, memory, other servers"),
}


def usage() -> str:
    lines = [f"  {name:<10}{what}\n" for name, (_, what) in {**COMMANDS, **CHECKOUT}.items()]
    end = "\nmpmkit COMMAND --help says more.\n"
    return "".join(["usage: mpmkit COMMAND [options]\n\n", *lines, end])


def run_in_checkout(name: str, *args: str) -> int:
    """Run a program that is no part of the installed package; returns its exit status."""
    module = CHECKOUT[name][0]
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if not os.path.exists(os.path.join(root, *module.split(".")) + ".py"):
        print(f"mpmkit: {name} needs a checkout of mpmkit: `make {name}` there", file=sys.stderr)
        return 1
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = (sys.executable, "-m", module, *args)
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 1 where the reader of its output has gone (`| head`)."""
    try:
        try:
            return command(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout:  # None where the descriptor was closed
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return 1


def command(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if args[0] in ("-V", "--version"):
        from mpmkit import __version__

        print(f"mpmkit {__version__}")
        return 0
    if args[0] in CHECKOUT:
        return run_in_checkout(*args)
    if args[0] not in COMMANDS:
        known = ", ".join((*COMMANDS, *CHECKOUT))
        print(f"mpmkit: unknown command {args[0]!r}; it is one of {known}", file=sys.stderr)
        return 1
    return import_module(COMMANDS[args[0]][0]).main(args[1:])


if __name__ == "__main__":
    sys.exit(main())
