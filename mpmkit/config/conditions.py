"""Containers whose lines count if a condition holds: <IfModule>, <IfDefine>, <IfFile>, <IfVersion> and others.

<IfModule [!]rewrite_module>   mpmkit has the module, or a LoadModule above names it
<IfDefine [!]NAME>             -D or Define has it
<IfFile [!]path>               the file is there; a relative path starts from ServerRoot
<IfDirective [!]name>          a directive or, by <IfSection>, a container that httpd or mpmkit knows
<IfVersion [[!]op] 2.4.6>      of the httpd that mpmkit is compared with; also ~ and /.../
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from operator import eq, ge, gt, le, lt
from typing import NamedTuple

from mpmkit.config.directives import SPECS
from mpmkit.config.modules import Modules
from mpmkit.config.settings import Setting
from mpmkit.config.unsupported import foreign
from mpmkit.config.values import Words

HTTPD_VERSION = (2, 4, 71)
_COMPARE = {"=": eq, "==": eq, ">": gt, ">=": ge, "<": lt, "<=": le}
NAMES = ("ifmodule", "ifdefine", "iffile", "ifdirective", "ifsection", "ifversion")


class Test(NamedTuple):
    """What conditions are about. read: what the reading itself obeys, a container with its "<"."""

    modules: Modules
    defines: Mapping[str, str]
    exists: Callable[[str], bool]
    read: Container[str]

    def holds(self, setting: Setting) -> bool:
        """Whether the condition of a container holds. Raises ValueError for words that httpd refuses."""
        name, args = setting.name.lower(), setting.args
        if name == "ifversion":
            return _version(args)
        if len(args) != 1:
            raise ValueError(f"<{setting.name}> takes one name, here are {len(args)}")
        word = args[0].removeprefix("!")
        tests: dict[str, Callable[[str], bool]] = {
            "ifmodule": self.modules.has, "ifdefine": self.defines.__contains__, "iffile": self.exists,
            "ifdirective": self._knows, "ifsection": lambda word: self._knows(f"<{word}"),
        }  # fmt: skip
        return tests[name](word) != args[0].startswith("!")

    def _knows(self, name: str) -> bool:
        return name.lower() in self.read or name.lower() in SPECS or foreign(name) is not None


def _version(words: Words) -> bool:
    """mod_version's comparison: what a version leaves out is 0."""
    *signs, wanted = words or ("",)
    sign = " ".join(signs) or "="
    compare = sign.removeprefix("!")
    slashes = re.fullmatch("/(.+)/", wanted) if compare in ("=", "==") else None
    try:
        if slashes or compare == "~":
            pattern = slashes[1] if slashes else wanted
            found = re.search(pattern, ".".join(map(str, HTTPD_VERSION))) is not None
        elif compare not in _COMPARE:
            raise ValueError(
                f'knows {" ".join(_COMPARE)} and ~, each also after a "!", not "{sign}"'
            )
        elif not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}", wanted):
            raise ValueError(f'takes a version such as 2.4 or 2.4.6, not "{wanted}"')
        else:
            numbers = [int(number) for number in wanted.split(".")]
            found = _COMPARE[compare](HTTPD_VERSION, (*numbers, 0, 0)[:3])
    except (ValueError, re.error) as error:
        raise ValueError(f"<IfVersion> {error}") from None
    return found != sign.startswith("!")
