"""The parser of every command line of mpmkit (`mpmkit httpd` has httpd's own)."""

import argparse
from functools import partial
from typing import Any, NoReturn

HELP_WIDTH = 80  # characters


class Parser(argparse.ArgumentParser):
    """argparse without abbreviated options; a wrong command line prints one line, and ends with status 2."""

    def __init__(self, **options: Any) -> None:
        # The width is fixed: argparse would ask shutil for it, with three compression libraries, in every child.
        formatter = partial(argparse.HelpFormatter, width=HELP_WIDTH)
        super().__init__(**{"allow_abbrev": False, "formatter_class": formatter, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")

    # 3.14 tries each option's help with a formatter, for which it imports colours: 4 ms of a server's start.
    @property
    def _get_validation_formatter(self) -> NoReturn:
        raise AttributeError
