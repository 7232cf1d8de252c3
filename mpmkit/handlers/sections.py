"""The sections of httpd.conf for a path and its file, merged in httpd's order.

    <Directory>  by the file's directory, shortest first        Require      who may enter: access.py
    <DirectoryMatch>                                            SetHandler   the handler
    <Files>, <FilesMatch>        by the file's name             AddHandler   the handler, by extension
    <Location>, <LocationMatch>  by the URL's path              Options      may it be run, may it be
    <If>         not evaluated: closed, if it decides                        a symbolic link?

<Files> and <If> may be inside another section; then both must apply to the path.
Kinds on one line are merged in the order of the file. A file's name is the path's,
with its symbolic links unresolved: a section is written for names, not for the targets of links.

`Sections.config_for` merges the `SectionRule`s for a path over the server's own settings: a `MergedConfig`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from stat import S_ISLNK
from typing import Any

from mpmkit.config.directives import ROWS, Directives, Section, laid_over, section_values
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import CONDITIONS
from mpmkit.config.unsupported import decides
from mpmkit.config.values import Words, signed
from mpmkit.handlers.access import Access, access_of

ORDER = (
    ("Directory",), ("DirectoryMatch",), ("Files", "FilesMatch"), ("Location", "LocationMatch"), CONDITIONS,
)  # fmt: skip
SEEN = 5000  # directories that are looked into for .htaccess files
MERGED_KEPT = 1024  # of what sets of sections say together
# What a section may say, by attribute of `Directives`.
OF_SECTIONS = {row.attribute for row in ROWS if row.attribute and row.where in ("any", "section")}
# What `Options All` means: everything but MultiViews and SymLinksIfOwnerMatch, which forbids.
ALL_OPTIONS = frozenset({"Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks", "ExecCGI"})


@dataclass(frozen=True, eq=False, slots=True)
class MergedConfig:
    """What all sections together say about a path and its file."""

    # By attribute of `Directives`. LimitRequestBody is None where no section has one: the protocol applies it.
    values: Mapping[str, Any]
    by_name: bool  # a <Files> section set the handler
    access: Access

    @property
    def handler(self) -> str | None:
        """SetHandler's; None without one."""
        return self.values["SetHandler"]


class SectionRule:
    """One section: which paths it is for, and what it says about them."""

    def __init__(self, section: Section, unknown: frozenset[str] = frozenset()) -> None:
        self.kind, self.settings, self.arg = section.kind, section.settings, section.arg
        self.of_a_file = bool(section.file)  # not one of the package's own defaults
        self.outer = SectionRule(section.outer) if section.outer else None
        self.values: dict[str, Any] = {}
        if self.kind in CONDITIONS:  # not evaluated; if it would decide, it admits no client
            self.access = Access(closed=any(map(decides, self.settings)) or None)
            self.settings = ()
        else:
            self.values = section_values(section)
            self.access = access_of(self.settings, unknown)
        self.options: Words = self.values.get("Options", ())
        named = (self.values.get("SetHandler"), *self.values.get("handlers", {}).values())
        self.handlers: list[str] = list(filter(None, named))  # that it names
        if self.kind == "Directory":
            self.arg = canonical(self.arg)
        # Of how many directories the argument of a <Directory> consists; 0 for other kinds.
        self.depth = self.arg.count("/") if self.kind == "Directory" else 0
        self._pattern = None if self.kind in CONDITIONS else section_pattern(self.kind, self.arg)
        # Where it stands in the order of merging; those of one place keep the file's order.
        kind = next(at for at, kinds in enumerate(ORDER) if self.kind in kinds)
        self.place: tuple[int, ...] = (kind, self.depth, *(self.outer.place if self.outer else ()))

    def is_for(self, path: str, filename: str) -> bool:
        """Whether the section applies to a URL path and its file."""
        kind = self.kind
        if self.outer and not self.outer.is_for(path, filename):
            return False
        if kind in CONDITIONS:
            return True
        if kind.startswith("Location"):
            subject = path
        elif kind == "Directory":
            subject = filename if filename.endswith("/") else filename + "/"
        else:
            subject = filename if kind == "DirectoryMatch" else os.path.basename(filename)
        if self._pattern is not None:
            return self._pattern.search(os.fsencode(subject)) is not None
        return subject == self.arg if kind == "Files" else within(subject, self.arg)


class Sections:
    """All sections of a configuration; `checks.check` has read them before."""

    def __init__(self, d: Directives) -> None:
        rules = [SectionRule(section, d.unknown) for section in d.sections]
        self.rules = sorted(rules, key=lambda rule: rule.place)
        self._directories = [rule for rule in self.rules if rule.kind == "Directory"]
        limited = d.own_body or any("LimitRequestBody" in rule.values for rule in rules)
        values = {name: getattr(d, name) for name in OF_SECTIONS}
        values["redirects"] = ()  # the server's own come before its aliases (Router.decide)
        values["LimitRequestBody"] = d.LimitRequestBody if limited else None
        self.server = MergedConfig(values, False, access_of(d.closed, d.unknown))
        self._merged = lru_cache(MERGED_KEPT)(self._merge)
        # Links may be followed everywhere: then no file has to be asked whether it is one.
        all_of_them = [signed(("All",), rule.options) for rule in self._directories if rule.options]
        self._follows = all(map(_follows, (d.Options, *all_of_them)))

    def config_for(self, path: str, filename: str) -> MergedConfig:
        """What the sections say about a URL path and the file that it leads to."""
        return self._merged(tuple([rule for rule in self.rules if rule.is_for(path, filename)]))

    def _merge(self, rules: tuple[SectionRule, ...]) -> MergedConfig:
        config = self.server
        for rule in rules:
            said = "SetHandler" in rule.values
            by_name = rule.kind.startswith("Files") if said else config.by_name
            values = laid_over(config.values, rule.values)
            config = MergedConfig(values, by_name, rule.access.over(config.access))
        return config

    def watched(self, filename: str) -> list[tuple[str, bool]]:
        """The parts of a file's path that may not be symbolic links, and whether a link is allowed that
        has the owner of what it leads to. Only Options of the server and of <Directory> count."""
        if self._follows:
            return []
        rules = [rule for rule in self._directories if rule.is_for("", filename)]
        options = self.server.values["Options"]
        found = []
        parts = filename.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            for rule in rules:
                if rule.depth == depth and rule.options:
                    options = signed(options, rule.options)
            if not _follows(options):
                if_owner = "SymLinksIfOwnerMatch" in allowed(options)
                found.append(("/".join(parts[: depth + 1]), if_owner))
        return found


def within(path: str, prefix: str) -> bool:
    """Does `path` begin with whole segments of the prefix?"""
    rest = path[len(prefix) : len(prefix) + 1]
    return path.startswith(prefix) and (rest in ("", "/") or prefix[-1:] in ("", "/"))


def unread(d: Directives, names: Iterable[str]) -> Iterator[str]:
    """The .htaccess files that AllowOverride would have httpd obey, in the first SEEN directories."""
    lines = [
        (rule, [word.lower() for word in setting.args] != ["none"])
        for rule in Sections(d).rules
        for setting in rule.settings
        if rule.kind.startswith("Directory") and setting.name.lower() == "allowoverride"
    ]
    if not any(obeyed for _, obeyed in lines):
        return
    roots = {root for root in (d.DocumentRoot, *(alias[2] for alias in d.aliases)) if root}
    for directory, _, files in islice(chain.from_iterable(map(os.walk, sorted(roots))), SEEN):
        if [obeyed for rule, obeyed in lines if rule.is_for("", directory)][-1:] == [True]:
            yield from (os.path.join(directory, name) for name in names if name in files)


def _follows(words: Words) -> bool:
    """Any link may be followed. With both options the owner counts."""
    options = allowed(words)
    return "FollowSymLinks" in options and "SymLinksIfOwnerMatch" not in options


def forbidden_link(watched: Iterable[tuple[str, bool]]) -> str | None:
    """The first of `Sections.watched` that is a link that may not be followed."""
    for name, if_owner in watched:
        try:
            st = os.lstat(name)
        except (OSError, ValueError):
            return None  # a missing path is no link, nor is anything below it
        try:
            if S_ISLNK(st.st_mode) and not (if_owner and os.stat(name).st_uid == st.st_uid):
                return name
        except OSError:
            return name
    return None


def allowed(words: Words) -> frozenset[str]:
    """The options that the words of Options' lines leave, by all lines that are for a place."""
    options: set[str] = set()
    for word in words:
        name = word.lstrip("+-")
        named = ALL_OPTIONS if name == "All" else {name}
        options = options - named if word.startswith("-") else options | named
    return frozenset(options - {"None"})
