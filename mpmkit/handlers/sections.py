"""What the sections of httpd.conf say about a path and its file, merged in httpd's order.

    <Directory>  by the file's directory, shortest first        Require      who may have it
    <Files>      by the file's name                             SetHandler   who answers
    <Location>   by the URL's path                              AddHandler   who answers, by extension
                                                                Options      may it be run?

Each section becomes a `SectionRule` once, at the start. `Sections.config_for` lays those that apply to
a path upon the server's own settings, the later ones over the earlier ones: a `MergedConfig`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import NamedTuple

from mpmkit.config.directives import DirectiveError, Directives, Section, section_values

ORDER = ("Directory", "DirectoryMatch", "Files", "FilesMatch", "Location", "LocationMatch")
# What `Options All` means: everything but MultiViews.
ALL_OPTIONS = frozenset(
    {"Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks", "SymLinksIfOwnerMatch", "ExecCGI"}
)
_OPTIONS = {option.lower(): frozenset({option}) for option in (*ALL_OPTIONS, "MultiViews")}
_OPTIONS |= {"all": ALL_OPTIONS, "none": frozenset()}


class MergedConfig(NamedTuple):
    """What all sections together say about a path and its file.

    handler     SetHandler's, "none" and None without one; `by_name`: a <Files> section set it
    by_extension, options, require      AddHandler's, Options', Require's
    body        LimitRequestBody's; None where no section at all has one: then the protocol applies it
    sendfile, mmap      EnableSendfile's, EnableMMAP's
    documents, signature                ErrorDocument's, by status, and ServerSignature's
    """

    handler: str | None
    by_name: bool
    by_extension: Mapping[str, str]
    options: frozenset[str]
    require: tuple[str, ...]
    body: int | None
    sendfile: bool
    mmap: bool
    documents: Mapping[int, str]
    signature: str


# Directives whose value in a later section replaces the value of an earlier one.
_REPLACED = {
    "SetHandler": "handler", "Require": "require", "LimitRequestBody": "body", "EnableMMAP": "mmap",
    "EnableSendfile": "sendfile", "ServerSignature": "signature",
}  # fmt: skip


class SectionRule:
    """One section: which paths it is for, and what it says about them."""

    def __init__(self, section: Section) -> None:
        self.kind = section.kind
        self.arg = section.arg
        self.values = section_values(section)
        self.of_a_file = bool(section.file)  # not one of the package's own defaults
        self._replaced = {
            field: self.values[name] for name, field in _REPLACED.items() if name in self.values
        }
        self._options = [s.args for s in section.settings if s.name.lower() == "options"]
        if self.kind.endswith("Match"):
            try:
                self._pattern = re.compile(self.arg)
            except re.error as error:
                raise DirectiveError(
                    f"<{self.kind} {self.arg}>: not a regular expression: {error}",
                    directive=self.kind,
                    file=section.file,
                    line=section.line,
                ) from None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the order of merging; those of one place keep the file's order."""
        depth = self.arg.rstrip("/").count("/") if self.kind == "Directory" else 0
        return ORDER.index(self.kind), depth

    @property
    def handlers(self) -> list[str]:
        """The handlers that it names."""
        set_handler = self.values.get("SetHandler")
        return [
            *([set_handler] if set_handler else []),
            *self.values.get("AddHandler", {}).values(),
        ]

    def is_for(self, path: str, filename: str) -> bool:
        """Whether the section applies to a URL path and its file."""
        match self.kind:
            case "Location":
                return path == self.arg or path.startswith(self.arg.rstrip("/") + "/")
            case "Directory":
                return (filename + "/").startswith(self.arg.rstrip("/") + "/")
            case "Files":
                return fnmatch(os.path.basename(filename), self.arg)
            case "LocationMatch":
                return self._pattern.search(path) is not None
            case "FilesMatch":
                return self._pattern.search(os.path.basename(filename)) is not None
            case _:
                return self._pattern.search(os.path.dirname(filename)) is not None

    def over(self, config: MergedConfig) -> MergedConfig:
        """What holds when this section is merged upon `config`."""
        values = self.values
        config = config._replace(**self._replaced)
        if "SetHandler" in values:
            config = config._replace(by_name=self.kind.startswith("Files"))
        if "AddHandler" in values:
            config = config._replace(by_extension={**config.by_extension, **values["AddHandler"]})
        if "ErrorDocument" in values:
            config = config._replace(documents={**config.documents, **values["ErrorDocument"]})
        if self._options:
            config = config._replace(options=merge_options(config.options, self._options))
        return config


class Sections:
    """All sections of a configuration. Raises DirectiveError for one that can't be used."""

    def __init__(self, d: Directives) -> None:
        rules = [SectionRule(section) for section in d.sections]
        self.rules = sorted(rules, key=lambda rule: rule.place)
        limited = any("LimitRequestBody" in rule.values for rule in rules)
        self.server = MergedConfig(
            d.SetHandler,
            False,
            dict(d.handlers),
            merge_options(frozenset(), [d.Options]),
            ("all", "granted"),
            d.LimitRequestBody if limited else None,
            d.EnableSendfile,
            d.EnableMMAP,
            d.ErrorDocument,
            d.ServerSignature,
        )

    def config_for(self, path: str, filename: str) -> MergedConfig:
        """What the sections say about a URL path and the file that it leads to."""
        config = self.server
        for rule in self.rules:
            if rule.is_for(path, filename):
                config = rule.over(config)
        if config.handler is not None and config.handler.lower() == "none":
            config = config._replace(handler=None)
        return config


def merge_options(options: frozenset[str], lines: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Options lines upon others: with signs they add and take away, without they replace."""
    for words in lines:
        if not words[0].startswith(("+", "-")):
            options = frozenset()
        for word in words:
            named = _OPTIONS.get(word.lstrip("+-").lower(), frozenset())
            options = options - named if word.startswith("-") else options | named
    return options
