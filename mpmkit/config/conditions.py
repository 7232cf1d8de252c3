"""Containers whose lines count if a condition holds: <IfModule>, <IfDefine>, <IfFile>, <IfVersion> and others.

<IfModule [!]rewrite_module>   mpmkit has the module, or a LoadModule above names it
<IfDefine [!]NAME>             -D or Define has it
<IfFile [!]path>               the file is there; a relative path starts from ServerRoot
<IfDirective [!]name>          a directive or, by <IfSection>, a container that httpd or mpmkit knows
<IfVersion [[!]op] 2.4.6>      of the httpd that mpmkit is compared with; also ~ and /.../
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from operator import eq, ge, gt, le, lt

from mpmkit.config.directives import SPECS
from mpmkit.config.modules import Modules
from mpmkit.config.settings import Setting
from mpmkit.config.unsupported import foreign
from mpmkit.config.values import Words

HTTPD_VERSION = (2, 4, 71)
_COMPARE = {"=": eq, "==": eq, ">": gt, ">=": ge, "<": lt, "<=": le}
NAMES = ("ifmodule", "ifdefine", "iffile", "ifdirective", "ifsection", "ifversion")


def holds(
    setting: Setting, modules: Modules, defines: Container[str],
    exists: Callable[[str], bool], read: Container[str],
) -> bool:  # fmt: skip
    """Whether the condition of a container holds. Raises ValueError for words that httpd refuses.

    read: what the reading itself obeys, a container with its "<"."""
    name, args = setting.name.lower(), setting.args
    if name == "ifversion":
        return _version(args)
    if len(args) != 1:
        raise ValueError(f"<{setting.name}> takes one name, here are {len(args)}")
    word = args[0].removeprefix("!")
    known = f"<{word}".lower()[name != "ifsection" :]
    tests: dict[str, Callable[[], bool]] = {
        "ifmodule": lambda: modules.has(word), "ifdefine": lambda: word in defines,
        "iffile": lambda: exists(word),
    }  # fmt: skip
    test = tests.get(name, lambda: known in read or known in SPECS or foreign(known) is not None)
    return test() != args[0].startswith("!")


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
            known = f'{" ".join(_COMPARE)} and ~, each also after a "!"'
            raise ValueError(f'knows {known}, not "{sign}"')
        elif not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}", wanted):
            raise ValueError(f'takes a version such as 2.4 or 2.4.6, not "{wanted}"')
        else:
            numbers = [int(number) for number in wanted.split(".")]
            found = _COMPARE[compare](HTTPD_VERSION, (*numbers, 0, 0)[:3])
    except (ValueError, re.error) as error:
        raise ValueError(f"<IfVersion> {error}") from None
    return found != sign.startswith("!")
