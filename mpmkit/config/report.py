"""What mpmkit makes of a configuration, module by module (`mpmkit httpd -t --report FILE`).

mod_autoindex
    ignored  AddIcon 32, IndexOptions
mod_mime
    served   AddType 4, TypesConfig
    ignored  AddLanguage 80
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mpmkit.config.access import closed_by
from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.config.httpd_conf import Conf
from mpmkit.config.settings import Setting
from mpmkit.config.unsupported import CLOSED, FATES, IGNORED, REFUSED, foreign

SERVED = "served"


def report_of(conf: Conf) -> str:
    """The page of a configuration that was read."""
    problems = list(conf.problems)
    try:
        check(conf.mpm or "event", conf.settings, conf.sections, problems=problems)
    except DirectiveError as error:
        problems = list(error.problems)
    refused = {(problem.file, problem.line, problem.directive.lower()) for problem in problems}
    found: dict[str, dict[str, Counter[str]]] = {}
    totals: Counter[str] = Counter(dict.fromkeys((SERVED, *FATES), 0))
    for setting in _lines(conf):
        if (setting.file, setting.line, setting.name.lower()) in refused:
            continue
        module, fate, name = _place(setting)
        found.setdefault(module, {}).setdefault(fate, Counter())[name] += 1
        totals[fate] += 1
    totals[REFUSED] += len(problems)
    lines = [", ".join(f"{totals[fate]} {fate}" for fate in totals) + " (lines)"]
    for module in sorted(found):
        lines.append(module)
        for fate in totals:
            if names := found[module].get(fate):
                words = [f"{name} {count}" if count > 1 else name for name, count in names.items()]
                lines.append(f"    {fate:8} {', '.join(words)}")
    if problems:
        lines += ["refused", *(f"    {problem}" for problem in problems)]
    return "\n".join(lines) + "\n"


def _lines(conf: Conf) -> Iterator[Setting]:
    for setting in (
        *conf.settings,
        *(one for section in conf.sections for one in section.settings),
    ):
        if setting.file:
            yield setting


def _place(setting: Setting) -> tuple[str, str, str]:
    """The module of a line, what becomes of it, and the name as it is usually written."""
    if spec := SPECS.get(setting.name.lower()):
        fate = CLOSED if closed_by(setting) else SERVED if spec.effect else IGNORED
        return spec.source, fate, spec.name
    row = foreign(setting.name)
    if row is None:
        return "unknown", REFUSED, setting.name
    return row.module, row.fate_of(setting), row.name
