"""What a call refuses, and what a command prints."""

from collections.abc import Callable
from typing import Any

import pytest


def refused(
    error: type[Exception], words: str, call: Callable[..., Any], /, *args: Any, **how: Any
) -> None:
    """Fails unless the call raises this error, in words that this pattern is found in."""
    with pytest.raises(error, match=words):
        call(*args, **how)


def printed_by(
    main: Callable[[list[str]], int], argv: list[str], capsys: Any
) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a command, also where argparse ends it."""
    try:
        status = main(argv)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()
