"""The command line: `mpmkit serve | httpd | qps | load`, also as `python -m mpmkit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# name -> (module with main(argv) -> exit status, what it does)
COMMANDS = {
    "serve": ("mpmkit.serve", "run a server: prefork, worker or event"),
    "httpd": ("mpmkit.control", "a server driven by httpd's own command line"),
    "qps": ("mpmkit.measure.qps", "the article's static and script tables, on this machine"),
    "load": ("mpmkit.load.command", "one load against one server"),
    "memory": ("mpmkit.measure.memory", "memory of busy requests and idle connections; how many fit"),
    "sweep": ("mpmkit.measure.sweep", "a grid of directives and loads, point by point"),
    "fidelity": ("mpmkit.measure.fidelity", "ours and the real httpd, case by case"),
    "bench": ("mpmkit.measure.suite", "all tables: generators, requests/s, memory, rivals"),
}


def usage() -> str:
    lines = [f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items()]
    return (
        "usage: mpmkit COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nmpmkit COMMAND --help says more.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if args[0] in ("-V", "--version"):
        from mpmkit import __version__

        print(f"mpmkit {__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(
            f"mpmkit: unknown command {args[0]!r}; it is one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 1
    return import_module(COMMANDS[args[0]][0]).main(args[1:])


if __name__ == "__main__":
    sys.exit(main())
