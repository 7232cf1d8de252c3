"""What the sections of httpd.conf say about a path and its file, merged in httpd's order.

    <Directory>  by the file's directory, shortest first        Require      who may have it: access.py
    <DirectoryMatch>                                            SetHandler   who answers
    <Files>, <FilesMatch>        by the file's name             AddHandler   who answers, by extension
    <Location>, <LocationMatch>  by the URL's path              Options      may it be run, may it be
    <If>         not evaluated: closed, if it decides                        a symbolic link?

<Files> and <If> may stand in another section, and then both must be for the path.
The kinds of one line stand in the order of the file. A file's name is the one that the path leads to,
with symbolic links in it as they are: a section is written for names, not for what they link to.

Each section becomes a `SectionRule` once, at the start. `Sections.config_for` lays those that apply to
a path upon the server's own settings, the later ones over the earlier ones: a `MergedConfig`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from stat import S_ISLNK
from typing import Any, NamedTuple

from mpmkit.config.access import DECIDE
from mpmkit.config.directives import Directives, Section, section_values
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import CONDITIONS
from mpmkit.config.values import etag_over
from mpmkit.handlers.access import Access, access_of

ORDER = (
    ("Directory",),
    ("DirectoryMatch",),
    ("Files", "FilesMatch"),
    ("Location", "LocationMatch"),
    CONDITIONS,
)
SEEN = 5000  # directories that are looked into for .htaccess files
# What `Options All` means: everything but MultiViews and SymLinksIfOwnerMatch, which forbids.
ALL_OPTIONS = frozenset({"Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks", "ExecCGI"})
_OTHERS = ("MultiViews", "SymLinksIfOwnerMatch")
_OPTIONS = {option.lower(): frozenset({option}) for option in (*ALL_OPTIONS, *_OTHERS)}
_OPTIONS |= {"all": ALL_OPTIONS, "none": frozenset()}


class MergedConfig(NamedTuple):
    """What all sections together say about a path and its file.

    handler     SetHandler's, "none" and None without one; `by_name`: a <Files> section set it
    by_extension, options               AddHandler's, Options'
    access      who may have it
    body        LimitRequestBody's; None where no section at all has one: then the protocol applies it
    files       what is said of files (OF_FILES), by directive
    documents, signature                ErrorDocument's, by status, and ServerSignature's
    """

    handler: str | None
    by_name: bool
    by_extension: Mapping[str, str]
    options: frozenset[str]
    access: Access
    body: int | None
    files: Mapping[str, Any]
    documents: Mapping[int, str]
    signature: str


# Directives whose value in a later section replaces the value of an earlier one.
_REPLACED = {
    "SetHandler": "handler", "LimitRequestBody": "body", "ServerSignature": "signature",
}  # fmt: skip
OF_FILES = (
    "AddDefaultCharset", "AddType", "DirectoryIndex", "DirectorySlash", "EnableMMAP", "EnableSendfile",
    "FallbackResource", "FileETag", "ForceType", "Redirect",
)  # fmt: skip


class SectionRule:
    """One section: which paths it is for, and what it says about them."""

    def __init__(self, section: Section, unknown: frozenset[str] = frozenset()) -> None:
        self.kind = section.kind
        self.arg = section.arg
        self.outer = SectionRule(section.outer) if section.outer else None
        closed = self.kind in CONDITIONS  # not evaluated; if it would decide, it admits no client
        self.settings = () if closed else section.settings
        self.values = {} if closed else section_values(section)
        self.access = access_of(self.settings, unknown)
        if closed and DECIDE & {setting.name.lower() for setting in section.settings}:
            self.access = Access(closed=True)
        self.of_a_file = bool(section.file)  # not one of the package's own defaults
        self._replaced = {
            field: self.values[name] for name, field in _REPLACED.items() if name in self.values
        }
        self._files = {name: self.values[name] for name in OF_FILES if name in self.values}
        for name in ("RedirectMatch", "RedirectPermanent", "RedirectTemp"):
            if lines := self.values.get(name):
                self._files["Redirect"] = (*self._files.get("Redirect", ()), *lines)
        self.options = [s.args for s in self.settings if s.name.lower() == "options"]
        named = [self.values["SetHandler"]] if self.values.get("SetHandler") else []
        self.handlers = [*named, *self.values.get("AddHandler", {}).values()]  # that it names
        if self.kind == "Directory":
            self.arg = canonical(self.arg)
        # Of how many directories the argument of a <Directory> consists; 0 for other kinds.
        self.depth = self.arg.count("/") if self.kind == "Directory" else 0
        pattern = section_pattern(self.kind, self.arg)
        self._search = None if pattern is None else pattern.search

    @property
    def place(self) -> tuple[int, ...]:
        """Where it stands in the order of merging; those of one place keep the file's order."""
        kind = next(at for at, kinds in enumerate(ORDER) if self.kind in kinds)
        return (kind, self.depth, *(self.outer.place if self.outer else ()))

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
        elif kind == "DirectoryMatch":
            subject = filename
        else:
            subject = filename[filename.rfind("/") + 1 :]
        if self._search is not None:
            return self._search(os.fsencode(subject)) is not None
        if kind == "Files":
            return subject == self.arg
        if not subject.startswith(self.arg):
            return False
        return self.arg[-1:] in ("/", "") or subject[len(self.arg) :][:1] in ("/", "")

    def over(self, config: MergedConfig) -> MergedConfig:
        """What holds when this section is merged upon `config`."""
        values = self.values
        changes: dict[str, Any] = {
            "access": self.access.over(config.access),
            "options": merge_options(config.options, self.options),
            **self._replaced,
        }
        if "SetHandler" in values:
            changes["by_name"] = self.kind.startswith("Files")
        if "AddHandler" in values:
            changes["by_extension"] = {**config.by_extension, **values["AddHandler"]}
        if "ErrorDocument" in values:
            changes["documents"] = {**config.documents, **values["ErrorDocument"]}
        if self._files:
            types = {**config.files.get("AddType", {}), **self._files.get("AddType", {})}
            lines = (*self._files.get("Redirect", ()), *config.files.get("Redirect", ()))
            files = {**config.files, **self._files, "AddType": types, "Redirect": lines}
            if "FileETag" in self._files:
                files["FileETag"] = etag_over(config.files.get("FileETag", ()), files["FileETag"])
            changes["files"] = files
        return config._replace(**changes)


class Sections:
    """All sections of a configuration; `checks.check` has read them before."""

    def __init__(self, d: Directives) -> None:
        rules = [SectionRule(section, d.unknown) for section in d.sections]
        self.rules = sorted(rules, key=lambda rule: rule.place)
        self._directories = [rule for rule in self.rules if rule.kind == "Directory"]
        limited = d.own_body or any("LimitRequestBody" in rule.values for rule in rules)
        self.server = MergedConfig(
            d.SetHandler,
            False,
            dict(d.handlers),
            merge_options(frozenset(), [d.Options]),
            access_of(d.closed, d.unknown),
            d.LimitRequestBody if limited else None,
            {"FallbackResource": d.FallbackResource} if d.FallbackResource else {},
            d.ErrorDocument,
            d.ServerSignature,
        )
        # Links may be followed everywhere: then no file has to be asked whether it is one.
        options = [merge_options(ALL_OPTIONS, rule.options) for rule in self._directories]
        self._follows = all(map(_follows, (self.server.options, *options)))

    def config_for(self, path: str, filename: str) -> MergedConfig:
        """What the sections say about a URL path and the file that it leads to."""
        config = self.server
        for rule in self.rules:
            if rule.is_for(path, filename):
                config = rule.over(config)
        if config.handler is not None and config.handler.lower() == "none":
            config = config._replace(handler=None)
        return config

    def watched(self, filename: str) -> list[tuple[str, bool]]:
        """The parts of a file's path that may not be symbolic links, and whether a link is allowed that
        has the owner of what it leads to. Only Options of the server and of <Directory> count."""
        if self._follows:
            return []
        rules = [rule for rule in self._directories if rule.is_for("", filename)]
        options = self.server.options
        found = []
        parts = filename.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            for rule in rules:
                if rule.depth == depth:
                    options = merge_options(options, rule.options)
            if not _follows(options):
                found.append(("/".join(parts[: depth + 1]), "SymLinksIfOwnerMatch" in options))
        return found


def unread(d: Directives, names: Iterable[str] = (".htaccess",)) -> Iterator[str]:
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


def _follows(options: frozenset[str]) -> bool:
    """Any link may be followed. With both options the owner counts."""
    return "FollowSymLinks" in options and "SymLinksIfOwnerMatch" not in options


def forbidden_link(watched: Iterable[tuple[str, bool]]) -> str | None:
    """The first of `Sections.watched` that is a link that may not be followed."""
    for name, if_owner in watched:
        try:
            st = os.lstat(name)
        except (OSError, ValueError):
            return None  # what is not there is no link, nor is anything below it
        if not S_ISLNK(st.st_mode):
            continue
        try:
            if not if_owner or os.stat(name).st_uid != st.st_uid:
                return name
        except OSError:
            return name
    return None


def merge_options(options: frozenset[str], lines: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Options lines upon others: with signs they add and take away, without they replace."""
    for words in lines:
        if not words[0].startswith(("+", "-")):
            options = frozenset()
        for word in words:
            named = _OPTIONS.get(word.lstrip("+-").lower(), frozenset())
            options = options - named if word.startswith("-") else options | named
    return options
