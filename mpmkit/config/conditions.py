"""Containers whose lines count if a condition holds: <IfModule>, <IfDefine>, <IfFile>, <IfVersion> …

<IfModule [!]rewrite_module>   mpmkit has the module, or a LoadModule above names it
<IfDefine [!]NAME>             -D or Define has it
<IfFile [!]path>               the file is there; a relative path starts from ServerRoot
<IfVersion [[!]op] 2.4.6>      of the httpd that mpmkit is compared with; also ~ and /.../
<IfDirective [!]Name>          the directive is known        <IfSection [!]Directory>   the container
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from operator import eq, ge, gt, le, lt

from mpmkit.config.directives import SPECS
from mpmkit.config.modules import Modules
from mpmkit.config.settings import DirectiveError, Setting
from mpmkit.config.unsupported import foreign

HTTPD_VERSION = (2, 4, 71)
_COMPARE = {"=": eq, "==": eq, ">": gt, ">=": ge, "<": lt, "<=": le}
NAMES = ("ifmodule", "ifdefine", "iffile", "ifdirective", "ifsection", "ifversion")


def holds(
    setting: Setting,
    modules: Modules,
    defines: Mapping[str, str],
    exists: Callable[[str], bool],
    sections: Container[str],
) -> bool:
    """Whether the condition of a container holds. `sections` are the containers that are obeyed.

    Raises DirectiveError for words that httpd refuses."""
    if setting.name.lower() == "ifversion":
        return _version(setting)
    if len(setting.args) != 1:
        text = f"<{setting.name}> takes one name, here are {len(setting.args)}"
        raise DirectiveError.at(setting, text)
    tests: tuple[Callable[[str], bool], ...] = (
        modules.has,
        defines.__contains__,
        exists,
        lambda name: name.lower() in SPECS or foreign(name) is not None,
        lambda name: name.lstrip("<").lower() in sections or foreign(f"<{name}") is not None,
    )
    word = setting.args[0]
    test = tests[NAMES.index(setting.name.lower())]
    return test(word.removeprefix("!")) != word.startswith("!")


def _version(setting: Setting) -> bool:
    """mod_version's comparison: what a version leaves out is 0."""
    *operators, wanted = setting.args or ("",)
    sign = operators[0] if operators else "="
    compare = sign.removeprefix("!") if sign != "!" else sign
    pattern = wanted if compare == "~" else ""
    if compare in ("=", "==") and len(wanted) > 1 and wanted[0] == wanted[-1] == "/":
        pattern = wanted[1:-1]
    if pattern:
        try:
            found = re.search(pattern, ".".join(map(str, HTTPD_VERSION))) is not None
        except re.error as error:
            raise DirectiveError.at(setting, f"<IfVersion> {wanted}: {error}") from None
    elif compare not in _COMPARE or len(operators) > 1:
        text = f'<IfVersion> knows {" ".join(_COMPARE)} and ~, each also after a "!", not "{sign}"'
        raise DirectiveError.at(setting, text)
    elif not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}", wanted):
        text = f'<IfVersion> takes a version such as 2.4 or 2.4.6, not "{wanted}"'
        raise DirectiveError.at(setting, text)
    else:
        numbers = [int(number) for number in wanted.split(".")]
        found = _COMPARE[compare](HTTPD_VERSION, (*numbers, 0, 0)[:3])
    return found != sign.startswith("!")
