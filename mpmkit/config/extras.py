"""Packages that the base installation does not bring."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any


def require(module: str) -> Any:
    """The module of that name. Raises ImportError, which names mpmkit[lab], if it or its packages are missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or "mpmkit"
        if missing.partition(".")[0] == "mpmkit":
            raise
        text = f"{missing} is not installed; pip install 'mpmkit[lab]' brings it"
        raise ImportError(text, name=missing) from None


def data_frame(rows: Any, columns: Any = None) -> DataFrame:
    """Rows as a frame. pandas is imported here, when the first one is made."""
    return require("pandas").DataFrame(rows, columns=columns)
