"""How mpmkit treats a configuration, module by module (`mpmkit httpd -t --report FILE`).

mod_autoindex
    ignored  AddIcon 32, IndexOptions
mod_mime
    served   AddType 4, TypesConfig
    ignored  AddLanguage 80
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from mpmkit.config import access, unsupported
from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError
from mpmkit.config.httpd_conf import Conf
from mpmkit.config.settings import CONDITIONS, Host, Setting
from mpmkit.config.unsupported import CLOSED, IGNORED, QUIET, REFUSED, foreign

SERVED = "served"
FATES = (SERVED, IGNORED, CLOSED, REFUSED)


def report_of(conf: Conf) -> str:
    """The page of a configuration that was read."""
    problems: Sequence[DirectiveError] = conf.problems
    try:
        check(conf.mpm or "event", conf.settings, conf.sections, conf.hosts, problems=problems)
    except DirectiveError as error:
        problems = error.problems
    refused = {(problem.file, problem.line, problem.directive.lower()) for problem in problems}
    found: dict[str, dict[str, Counter[str]]] = {}
    totals = Counter({REFUSED: len(problems)})
    for setting, inside in _lines(conf):
        if (setting.file, setting.line, setting.name.lower()) not in refused:
            module, fate, name = _place(setting, inside)
            found.setdefault(module, {}).setdefault(fate, Counter())[name] += 1
            totals[fate] += 1
    lines = [", ".join(f"{totals[fate]} {fate}" for fate in FATES) + " (lines)"]
    for module in sorted(found):
        lines.append(module)
        for fate in FATES:
            names = found[module].get(fate, {}).items()
            words = [f"{name} {count}" if count > 1 else name for name, count in names]
            lines += [f"    {fate:8} {', '.join(words)}"] if words else []
    return "\n".join([*lines, *(["refused"] * bool(problems)), *(f"    {one}" for one in problems)])


def _lines(conf: Conf) -> Iterator[tuple[Setting, str]]:
    """Every line of a file, and what becomes of it by the <If> that it is in."""
    parts: list[Conf | Host] = [conf, *conf.hosts]
    for part in parts:
        yield from ((one, "") for one in part.settings if one.line)
        for section in part.sections:
            fate = CLOSED if any(map(unsupported.decides, section.settings)) else IGNORED
            fate = fate if section.kind in CONDITIONS else ""
            yield from ((one, fate) for one in section.settings)


def _place(setting: Setting, fate: str) -> tuple[str, str, str]:
    """The module of a line, what becomes of it, and the name as it is usually written."""
    if access.closed_by(setting) or unsupported.closes(setting):
        fate = CLOSED
    if spec := SPECS.get(setting.name.lower()):
        return spec.source, fate or SERVED, spec.name
    if row := foreign(setting.name):
        own = row.fate_of(setting)
        return row.module, fate or (IGNORED if own == QUIET else own), row.name
    return "unknown", REFUSED, setting.name
