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

from mpmkit.config import access
from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.config.httpd_conf import Conf
from mpmkit.config.settings import CONDITIONS, Setting
from mpmkit.config.unsupported import CLOSED, FATES, IGNORED, REFUSED, foreign

SERVED = "served"


def report_of(conf: Conf) -> str:
    """The page of a configuration that was read."""
    problems = list(conf.problems)
    try:
        check(conf.mpm or "event", conf.settings, conf.sections, conf.hosts, problems=problems)
    except DirectiveError as error:
        problems = list(error.problems)
    refused = {(problem.file, problem.line, problem.directive.lower()) for problem in problems}
    found: dict[str, dict[str, Counter[str]]] = {}
    totals: Counter[str] = Counter(dict.fromkeys((SERVED, *FATES), 0))
    for setting, inside in _lines(conf):
        if (setting.file, setting.line, setting.name.lower()) in refused:
            continue
        module, fate, name = _place(setting, inside)
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


def _lines(conf: Conf) -> Iterator[tuple[Setting, str]]:
    """Every line of a file, and what becomes of it by the <If> that it is in."""
    parts = [(conf.settings, conf.sections), *((one.settings, one.sections) for one in conf.hosts)]
    for settings, sections in parts:
        yield from ((one, "") for one in settings if one.line)
        for section in sections:
            fate = ""
            if section.kind in CONDITIONS:
                decides = any(one.name.lower() in access.DECIDE for one in section.settings)
                fate = CLOSED if decides else IGNORED
            yield from ((one, fate) for one in section.settings)


def _place(setting: Setting, fate: str) -> tuple[str, str, str]:
    """The module of a line, what becomes of it, and the name as it is usually written."""
    fate = CLOSED if access.closed_by(setting) else fate
    if spec := SPECS.get(setting.name.lower()):
        return spec.source, fate or (SERVED if spec.effect else IGNORED), spec.name
    row = foreign(setting.name)
    if row is None:
        return "unknown", REFUSED, setting.name
    return row.module, fate or row.fate_of(setting), row.name
