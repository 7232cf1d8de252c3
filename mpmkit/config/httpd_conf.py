"""httpd.conf: from text to settings.

The part of Apache's configuration language that this file knows::

    # a comment                              a line may be continued \
                                             on the next one
    Directive word "two words" 'so "too"'    names in any case, words quoted as httpd does
    Define NAME [value]    UnDefine NAME     ${NAME} in any later line, else the environment
    LoadModule mpm_event_module modules/...  chooses the MPM
    Include conf/extra/*.conf                relative to ServerRoot; IncludeOptional may find none
    <IfModule [!]mpm_event_module> ...       the lines within count if it holds: conditions.py
    <Directory> <Location> <Files> ...Match  a part of the site: becomes a Section (nesting.py)
    <VirtualHost addr:port ...>              a site of its own: becomes a Host
    <Proxy> <Macro> ...                      what mpmkit has not is left out, and noted (unsupported.py)

A line's way::

    logical_lines   the file, physical lines joined        (number, count, text)
      > _Reader     OBEYED directives and CONTAINERS are obeyed here
      > Conf        everything else, in order, as Setting and Section

What a directive *means* is not asked here: that is `checks.check`, afterwards, when the MPM is known.
Errors are DirectiveError and name file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from mpmkit.config import conditions
from mpmkit.config.modules import Module, Modules
from mpmkit.config.nesting import GROUPS, KINDS, Nesting
from mpmkit.config.settings import (
    SECTIONS,
    DirectiveError,
    Host,
    Note,
    Section,
    Setting,
    logical_lines,
    split_words,
)
from mpmkit.config.unsupported import foreign

# Deep enough for every real tree; a file that includes itself is found before that.
INCLUDE_DEPTH = 20

# After so many mistakes it is another kind of file, or files that include each other.
MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from; in brackets httpd's option.

    file         a file (-f); its name in messages, if there is a text
    text         read instead of the file
    mpm          the MPM it must be for: a LoadModule of another one is an error
    before       lines or Settings ahead of the file (-C); `after` behind it (-c)
    defines      names (-D), each may be "NAME=value" (httpd defines that as it is; here, NAME, too)
    server_root  ServerRoot until the file says otherwise (-d); without it, the directory that the
                 file is in (mpmkit: httpd has one compiled in)
    """

    file: str = "<string>"
    text: str | None = None
    mpm: str | None = None
    before: tuple[str | Setting, ...] = ()
    after: tuple[str | Setting, ...] = ()
    defines: tuple[str, ...] = ()
    server_root: str | None = None


@dataclass(frozen=True, slots=True)
class Included:
    """A file that was read: from which line of the file before it, and how deep (0: the first)."""

    path: str
    line: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Conf:
    """A configuration as it was written, with its conditions resolved.

    ``mpm`` is None if neither the source nor its file chose one.
    """

    mpm: str | None
    settings: tuple[Setting, ...]
    sections: tuple[Section, ...]
    defines: dict[str, str]
    includes: tuple[Included, ...]
    modules: tuple[Module, ...]
    notes: tuple[Note, ...]
    problems: tuple[DirectiveError, ...]
    hosts: tuple[Host, ...] = ()


def read(source: Source, environ: Mapping[str, str] = os.environ) -> Conf:
    """The configuration of a source.  ${NAME} that is not defined is looked for in `environ`.

    Mistakes are `Conf.problems`, so that `check` can report its own with them.

    mpmkit: httpd obeys LoadModule when it comes to the line, and an <IfModule mpm_event_module> above
    it is skipped without a word.  Here the lines are gone through again with the MPM that they
    choose, so their order makes no difference.
    """
    reader = _Reader(source, environ, source.mpm, {})
    reader.run()
    if source.mpm is None and reader.modules.loaded_mpm:
        reader = _Reader(source, environ, reader.modules.loaded_mpm, reader.texts)
        reader.run()
    return reader.conf()


@dataclass(slots=True)
class _Container:
    """A container that is open. ``counts``: whether what is inside is read. ``foreign``: the line of one
    that mpmkit does not have."""

    kind: str
    line: int
    counts: bool = False
    foreign: Setting | None = None


class _Reader:
    """Obeys the lines that shape the reading, and collects the others."""

    def __init__(
        self, source: Source, environ: Mapping[str, str], mpm: str | None, texts: dict[str, str]
    ) -> None:
        self.source = source
        self.environ = environ
        self.modules = Modules(mpm)
        self.texts = texts  # files that were read before, by name
        self.defines = {
            name: value for name, _, value in (d.partition("=") for d in source.defines)
        } | {name: "" for name in source.defines if "=" in name}
        self.root = ""
        # Of the server; within a <VirtualHost> the host's, and the server's wait in `outside`.
        self.settings: list[Setting] = []
        self.sections: list[Section] = []
        self.hosts: list[Host] = []
        self.host: Host | None = None  # the one we are in
        self.outside = self.settings, self.sections
        self.includes: list[Included] = []
        self.notes: list[Note] = []
        self.problems: list[DirectiveError] = []
        self.open_files: list[str] = []  # the chain of includes, to find a circle
        self.nesting = Nesting()

    def run(self) -> None:
        """Read all of the source."""
        source = self.source
        root = source.server_root
        if root is None and source.text is None:
            root = os.path.dirname(os.path.abspath(source.file))
        try:
            if root:
                self.setting(Setting("ServerRoot", (root,)))
            self.options(source.before, "-C")
            if source.text is None:
                self.include(os.path.abspath(source.file), Setting("the configuration"))
            else:
                self.lines(logical_lines(source.text), source.file)
            self.options(source.after, "-c")
        except DirectiveError as error:  # the file itself can't be read, or there is no end to it
            self.problems.append(error)

    def conf(self) -> Conf:
        if self.modules.loaded("status_module"):
            # Loading mod_status switches ExtendedStatus on; any line in the file still wins.
            self.settings.insert(0, Setting("ExtendedStatus", ("On",)))
        return Conf(
            self.modules.mpm,
            tuple(self.settings),
            tuple(self.sections),
            self.defines,
            tuple(self.includes),
            self.modules.all(),
            tuple(self.notes),
            tuple(self.problems),
            tuple(self.hosts),
        )

    # ---- lines

    def options(self, options: Iterable[str | Setting], name: str) -> None:
        for number, option in enumerate(options, 1):
            if isinstance(option, Setting):
                self.setting(option)
            else:
                self.lines([(number, 1, option.strip())], name)

    def lines(self, lines: Iterable[tuple[int, int, str]], file: str) -> None:
        """One file's lines; every container that opens here must close here."""
        opened: list[_Container] = []
        for line, count, text in lines:
            if not text or text.startswith("#"):
                if count > 1:
                    why = f"the comment ends with a backslash and takes in {count - 1} more"
                    self.notes.append(Note("", "warn", f"{why} ({file}:{line})"))
                continue
            try:
                if text.startswith("</"):
                    self.close(Setting(text[2:].partition(">")[0].strip(), (), file, line), opened)
                elif text.startswith("<"):
                    self.open(text, file, line, opened)
                elif not opened or opened[-1].counts:
                    self.directive(self.words(text, file, line))
            except DirectiveError as problem:
                self.problem(problem)
        if opened:
            last = Setting(opened[-1].kind, (), file, opened[-1].line)
            text = f"<{last.name}> is never closed: add </{last.name}>"
            self.problem(DirectiveError.at(last, text))
            self.nesting.forget(file)
            self.close_host(file, opened[0].line)

    def words(self, text: str, file: str, line: int) -> Setting:
        """The name and the words of a line, with every ${NAME} replaced."""
        name = (text.split(None, 1) or [""])[0]
        plain = Setting(name, (), file, line)
        try:
            return Setting(name, split_words(self.expand(text[len(name) :], plain)), file, line)
        except ValueError as error:
            raise DirectiveError.at(plain, f"{name}: {error}") from None

    def expand(self, text: str, where: Setting) -> str:
        """${NAME} becomes its value; an unknown one stays as it is, with a note."""

        def value(found: re.Match[str]) -> str:
            value = self.defines.get(found[1], self.environ.get(found[1]))
            if value is not None:
                return value
            why = f"{found[0]} is neither defined nor in the environment{where.place}"
            self.notes.append(Note("AH00111", "warn", why))
            return found[0]

        return re.sub(r"\$\{([^}]*)\}", value, text)

    def problem(self, problem: DirectiveError) -> None:
        """Remember a mistake and read on, so that all of them are reported at once."""
        if len(self.problems) >= MOST_PROBLEMS:
            raise problem
        self.problems.append(problem)

    # ---- containers

    def open(self, text: str, file: str, line: int, opened: list[_Container]) -> None:
        """Enter a container. What is inside one that can't be used does not count, either."""
        kind = (text[1:].rstrip(">").split(None, 1) or [""])[0]
        counts = not opened or opened[-1].counts
        opened.append(_Container(kind, line))
        if not counts:
            return
        inside, closed, _ = text[1:].rpartition(">")
        if not closed:
            raise DirectiveError(f'the ">" is missing: {text}>', file=file, line=line)
        setting = self.words(inside.strip(), file, line)
        enter = CONTAINERS.get(setting.name.lower())
        if enter is not None:
            opened[-1].counts = enter(self, setting)
        elif foreign(f"<{setting.name}"):
            opened[-1].foreign = replace(setting, name=f"<{setting.name}")
        else:
            known = f"use {', '.join(f'<{kind}>' for kind in SECTIONS)}"
            text = f"<{setting.name}> cannot be used, it is unknown: {known}"
            raise DirectiveError.at(setting, text)

    def close(self, end: Setting, opened: list[_Container]) -> None:
        kind = end.name
        if not opened:
            raise DirectiveError.at(end, f"</{kind}> closes nothing: no <{kind}> is open")
        begun = opened.pop()
        if begun.counts and (section := self.nesting.close(end.file, begun.line)):
            self.sections.append(section)
        self.close_host(end.file, begun.line)
        if begun.foreign:
            self.setting(begun.foreign)
        if begun.kind.lower() != kind.lower():
            if any(outer.kind.lower() == kind.lower() for outer in opened):
                self.close(end, opened)  # the inner one was forgotten
            text = f"</{kind}> meets the <{begun.kind}> of line {begun.line}: close that one first"
            raise DirectiveError.at(end, text)

    def condition(self, setting: Setting) -> bool:
        return conditions.holds(
            setting,
            self.modules,
            self.defines,
            lambda file: os.path.exists(os.path.join(self.root, file)),
            CONTAINERS,
        )

    def open_host(self, setting: Setting) -> bool:
        section = self.nesting.section
        if inside := section or self.host:
            kind = section.kind if section else "VirtualHost"
            text = f"<{setting.name}> is inside the <{kind}> of line {inside.line}: move it out"
            raise DirectiveError.at(setting, text)
        if not setting.args:
            text = f"<{setting.name}> takes an address or more, such as *:80, here are 0"
            raise DirectiveError.at(setting, text)
        self.host = Host(setting.args, (), (), setting.file, setting.line)
        self.settings, self.sections = [], []
        return True

    def close_host(self, file: str, line: int) -> None:
        """The container that began at `line` is closed: was it the <VirtualHost>?"""
        host = self.host
        if host and (host.file, host.line) == (file, line):
            settings, sections = tuple(self.settings), tuple(self.sections)
            self.hosts.append(replace(host, settings=settings, sections=sections))
            self.host = None
            self.settings, self.sections = self.outside

    def open_section(self, setting: Setting) -> bool:
        self.nesting.open_section(setting)
        return True

    def open_group(self, setting: Setting) -> bool:
        self.nesting.open_group(setting)
        return True

    # ---- directives

    def directive(self, setting: Setting) -> None:
        obeyed = OBEYED.get(setting.name.lower())
        if obeyed is None:
            self.setting(setting)
            return
        obey, least, most = obeyed
        if not least <= len(setting.args) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            text = f"{setting.name} takes {wanted} argument{'s' * (most > 1)}"
            raise DirectiveError.at(setting, f"{text}, here are {len(setting.args)}")
        obey(self, setting)

    def setting(self, setting: Setting) -> None:
        if setting.name.lower() == "serverroot" and setting.args:
            self.root = setting.args[0]  # from here on, for Include
        self.nesting.add(setting, self.settings)

    def define(self, setting: Setting) -> None:
        name, *value = setting.args
        if ":" in name:
            raise DirectiveError.at(setting, f'a name has no ":" in it, "{name}" has')
        self.defines[name] = value[0] if value else ""

    def undefine(self, setting: Setting) -> None:
        self.defines.pop(setting.args[0], None)

    def error(self, setting: Setting) -> None:
        raise DirectiveError.at(setting, f"Error: {' '.join(setting.args)}")

    def load_module(self, setting: Setting) -> None:
        note = self.modules.load(setting)
        if note is not None:
            self.notes.append(note)

    # ---- files

    def find(self, setting: Setting) -> None:
        """Include: a file, a directory (all files below it), or a pattern, each in order."""
        from glob import glob, has_magic

        pattern = os.path.join(self.root, setting.args[0])
        magic = has_magic(pattern)
        names = sorted(glob(pattern)) if magic else [pattern] * os.path.exists(pattern)
        if not names and setting.name.lower() == "include":
            what = "no file matches" if magic else "there is no"
            remedy = "correct the name or use IncludeOptional"
            raise DirectiveError.at(setting, f"{setting.name}: {what} {pattern}: {remedy}")
        for name in names:
            if os.path.isdir(name):
                for directory, below, files in os.walk(name):
                    below.sort()
                    for file in sorted(files):
                        self.include(os.path.join(directory, file), setting)
            else:
                self.include(name, setting)

    def include(self, path: str, where: Setting) -> None:
        """Read a file; ``where`` is the line that asks for it."""
        real = os.path.realpath(path)
        if real in self.open_files:
            raise DirectiveError.at(where, f"{where.name}: {path} includes itself")
        if len(self.open_files) > INCLUDE_DEPTH:
            text = f"{where.name}: more than {INCLUDE_DEPTH} files deep: {path}"
            raise DirectiveError.at(where, text)
        try:
            if path not in self.texts:
                with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                    self.texts[path] = file.read()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DirectiveError.at(
                where, f"{where.name} {path} cannot be read: {reason}"
            ) from None
        self.includes.append(Included(path, where.line, len(self.open_files)))
        self.open_files.append(real)
        self.lines(logical_lines(self.texts[path]), path)
        self.open_files.pop()


# What a container does; its method says whether the lines inside count.
CONTAINERS: dict[str, Callable[[_Reader, Setting], bool]] = {
    **dict.fromkeys(conditions.NAMES, _Reader.condition),
    **dict.fromkeys(KINDS, _Reader.open_section),
    **dict.fromkeys(GROUPS, _Reader.open_group),
    "virtualhost": _Reader.open_host,
}
# What a directive that shapes the reading does, with the fewest and the most words behind it.
OBEYED: dict[str, tuple[Callable[[_Reader, Setting], None], int, int]] = {
    "define": (_Reader.define, 1, 2),
    "undefine": (_Reader.undefine, 1, 1),
    "error": (_Reader.error, 0, 1 << 31),
    "loadmodule": (_Reader.load_module, 2, 2),
    "include": (_Reader.find, 1, 1),
    "includeoptional": (_Reader.find, 1, 1),
}
