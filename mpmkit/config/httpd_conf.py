"""httpd.conf: from text to settings.

The part of Apache's configuration language that this file knows::

    # a comment                              a line may be continued \
                                             on the next one
    Directive word "two words" 'so "too"'    names in any case, words quoted as httpd does
    Define NAME [value]    UnDefine NAME     ${NAME} in any later line, else the environment
    LoadModule mpm_event_module modules/...  chooses the MPM
    Include conf/extra/*.conf                relative to ServerRoot; IncludeOptional may find none
    <IfModule [!]mpm_event_module> ...       the lines within count if it holds
    <Directory> <Location> <Files> ...Match  a part of the site: becomes a Section
    <RequireAll> <Limit GET> ...             groups: each line knows those around it, Setting.within
    <VirtualHost addr:port ...>              a site of its own: becomes a Host
    <Proxy> <Macro> ...                      not in mpmkit: left out, and noted (unsupported.py)

OBEYED and CONTAINERS have what is obeyed here; everything else becomes a Setting of `Conf`, whose *meaning* is
decided by `checks.check`, when the MPM is known. Errors are DirectiveError and name file and line.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mpmkit.config import settings
from mpmkit.config.directives import SPECS
from mpmkit.config.settings import CONDITIONS, DirectiveError, Host, Note, Section, Setting
from mpmkit.config.unsupported import Modules, foreign, version_holds

INCLUDE_DEPTH = 20  # enough for every real tree; a file that includes itself is found before
DEEPEST = 100  # containers around one
MOST_PROBLEMS = 100  # after so many it is another kind of file, or files that include each other

_ALL = Setting("")  # where a file ends: the end of every container that is open
KINDS = {kind.lower(): kind for kind in (*settings.SECTIONS, *CONDITIONS)}


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """Where a configuration comes from; in brackets httpd's option.

    file         a file (-f); its name in messages, if there is a `text`, which is then read instead
    mpm          the MPM it must be for: a LoadModule of another one is an error
    before       lines or Settings ahead of the file (-C); `after` behind it (-c)
    defines      names (-D), each may be "NAME=value" (httpd defines that as it is; here, NAME, too)
    server_root  ServerRoot, unless the file sets it (-d); None: the file's directory (mpmkit)"""

    file: str = "<string>"
    text: str | None = None
    mpm: str | None = None
    before: tuple[str | Setting, ...] = ()
    after: tuple[str | Setting, ...] = ()
    defines: tuple[str, ...] = ()
    server_root: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Included:
    """A file that was read: from which line of the file before it, and how deep (0: the first)."""

    path: str
    line: int = 0
    depth: int = 0


@dataclass(eq=False, slots=True)
class Conf:
    """A configuration as it was written, with its conditions resolved."""

    modules: Modules
    defines: dict[str, str]
    settings: list[Setting] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    includes: list[Included] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    problems: list[DirectiveError] = field(default_factory=list)

    @property
    def mpm(self) -> str | None:
        """None if neither the source nor its file chose one."""
        return self.modules.mpm


def read(source: Source, environ: Mapping[str, str] = os.environ) -> Conf:
    """The configuration of a source; its mistakes are `Conf.problems`, for `check` to report with its own.
    ${NAME} that is not defined is looked for in `environ`.

    mpmkit: httpd obeys LoadModule when it comes to the line, and skips an <IfModule mpm_event_module> above it.
    Here the lines are gone through again with the MPM that they choose: their order makes no difference."""
    conf = _Reader(source, environ, source.mpm).run()
    if source.mpm is None and conf.mpm:
        conf = _Reader(source, environ, conf.mpm).run()
    return conf


@dataclass(frozen=True, eq=False, slots=True)
class _Place:
    """Where a line is.

    settings, sections   of the server or the host that it is in; a section has `settings` of its own
    counts               whether it is read
    host, section        what it is in, the section without its settings
    groups               the <Limit>, <RequireAll> and the like around it, the outer first
    open, depth          containers of its file around it; how many there are, those of other files included"""

    settings: list[Setting]
    sections: list[Section]
    counts: bool = True
    host: Setting | None = None
    section: Section | None = None
    groups: tuple[Setting, ...] = ()
    open: tuple[str, ...] = ()
    depth: int = 1


class _Reader:
    """Obeys the lines that shape the reading, and collects the others."""

    def __init__(self, source: Source, environ: Mapping[str, str], mpm: str | None) -> None:
        self.source = source
        self.environ = environ
        given = (name.partition("=") for name in source.defines)
        defines = {name: value for name, _, value in given} | dict.fromkeys(source.defines, "")
        self.conf = conf = Conf(Modules(mpm), defines)
        self.root = ""
        self.server = _Place(conf.settings, conf.sections)
        self.open_files: list[str] = []  # the chain of includes, to find a circle

    def run(self) -> Conf:
        """Read all of the source."""
        source = self.source
        root = source.server_root
        if root is None and source.text is None:
            root = os.path.dirname(os.path.abspath(source.file))
        try:
            if root:
                self.setting(Setting("ServerRoot", (root,)), self.server)
            self.options(source.before, "-C")
            if source.text is None:
                where = Setting("the configuration")
                self.include(os.path.abspath(source.file), where, self.server)
            else:
                self.lines(settings.logical_lines(source.text), source.file, self.server)
            self.options(source.after, "-c")
        except DirectiveError as error:  # the file itself can't be read, or there is no end to it
            self.conf.problems.append(error)
        if "status_module" in self.conf.modules.loaded:
            # Loading mod_status switches ExtendedStatus on; any line in the file still wins.
            self.conf.settings.insert(0, Setting("ExtendedStatus", ("On",)))
        return self.conf

    # ---- lines

    def options(self, options: Iterable[str | Setting], name: str) -> None:
        number = 0  # a line is an option's; Settings are the program's own
        for option in options:
            if isinstance(option, Setting):
                self.setting(option, self.server)
            else:
                number += 1
                self.lines(iter([(number, 1, option.strip())]), name, self.server)

    def lines(self, lines: Iterator, file: str, place: _Place) -> Setting | None:
        """Lines up to an end tag, which is returned, or to the end of their file (None)."""
        for line, count, text in lines:
            if not text or text.startswith("#"):
                if count > 1:
                    why = f"the comment ends with a backslash and takes in {count - 1} more"
                    self.conf.notes.append(Note("", "warn", f"{why} ({file}:{line})"))
                continue
            tag, kind, name = re.findall(r"^(</?)\s*([^\s>]*)|^(\S+)", text)[0]
            where = Setting(kind or name, (), file, line)
            try:
                if tag == "<":
                    if end := self.container(where, text, lines, place):
                        return end
                elif tag and place.open:
                    return where
                elif tag:
                    raise ValueError(f"</{kind}> closes nothing: no <{kind}> is open")
                elif place.counts:
                    self.directive(self.words(where, text), place)
            except ValueError as problem:
                self.problem(problem, where)
        return None

    def words(self, where: Setting, text: str) -> Setting:
        """A line with its words. ${NAME} becomes its value; an unknown one stays as it is, with a note."""

        def unclosed(wrong: str) -> None:
            why = f"{where.name}: {wrong}: it ends with the line{where.place}"
            self.conf.notes.append(Note("", "warn", why))

        def value(found: re.Match[str]) -> str:
            if (value := self.conf.defines.get(found[1], self.environ.get(found[1]))) is not None:
                return value
            why = f"{found[0]} is neither defined nor in the environment{where.place}"
            self.conf.notes.append(Note("AH00111", "warn", why))
            return found[0]

        rest = re.sub(r"\$\{([^}]*)\}", value, text[len(where.name) :])
        return replace(where, args=settings.split_words(rest, unclosed))

    def problem(self, error: ValueError, where: Setting) -> None:
        """Remember a mistake and read on, so that all of them are reported at once."""
        if not isinstance(error, DirectiveError):
            error = DirectiveError.at(where, str(error))
        if len(self.conf.problems) >= MOST_PROBLEMS:
            raise error
        self.conf.problems.append(error)

    # ---- containers: a generator yields the place of the lines in one, and goes on when it is left

    def container(
        self, where: Setting, text: str, lines: Iterator, place: _Place
    ) -> Setting | None:
        """A container and all that is in it; returns the end tag where that ends one around it, too. What is
        inside one that can't be used does not count, either."""
        name, inner = where.name, replace(place, counts=False)
        steps: Iterator[_Place] = iter(())
        try:
            if place.depth >= DEEPEST:
                raise ValueError(f"<{name}> is inside {DEEPEST} others: move it out")
            if place.counts:
                inside, closed, _ = text[1:].rpartition(">")
                if not closed:
                    raise ValueError(f'the ">" is missing: {text}>')
                enter = CONTAINERS.get(name.lower(), _Reader.foreign)
                steps = enter(self, self.words(where, inside.strip()), place)
                inner = next(steps)
        except ValueError as problem:
            self.problem(problem, where)
        inner = replace(inner, open=(*place.open, name.lower()), depth=place.depth + 1)
        if (end := self.lines(lines, where.file, inner)) is None:
            self.problem(ValueError(f"<{name}> is never closed: add </{name}>"), where)
            return _ALL
        if end is not _ALL:
            next(steps, None)
            if end.name.lower() == name.lower():
                return None
            meets = f"meets the <{name}> of line {where.line}: close that one first"
            self.problem(ValueError(f"</{end.name}> {meets}"), end)
        return end if end is _ALL or end.name.lower() in place.open else None

    def foreign(self, setting: Setting, place: _Place) -> Iterator[_Place]:
        if not foreign(f"<{setting.name}"):
            known = ", ".join(f"<{kind}>" for kind in settings.SECTIONS)
            raise ValueError(f"<{setting.name}> cannot be used, it is unknown: use {known}")
        yield replace(place, counts=False)
        self.setting(replace(setting, name=f"<{setting.name}"), place)

    def condition(self, setting: Setting, place: _Place) -> Iterator[_Place]:
        """<IfModule> and the like: their lines count if it holds. A "!" turns the answer round."""
        name, args = setting.name, setting.args
        if name.lower() == "ifversion":
            yield replace(place, counts=version_holds(args))
            return
        if len(args) != 1:
            raise ValueError(f"<{name}> takes one name, here are {len(args)}")
        word = args[0].removeprefix("!")
        match name.lower():
            case "ifmodule":
                holds = self.conf.modules.has(word)
            case "ifdefine":
                holds = word in self.conf.defines
            case "iffile":
                holds = os.path.exists(os.path.join(self.root, word))
            case _:  # <IfDirective> and <IfSection>: httpd or mpmkit knows such a one
                known = f"<{word}".lower()[name.lower() != "ifsection" :]
                obeyed = {*OBEYED, *map("<".__add__, CONTAINERS)}
                holds = known in obeyed or known in SPECS or foreign(known) is not None
        yield replace(place, counts=holds != args[0].startswith("!"))

    def host(self, setting: Setting, place: _Place) -> Iterator[_Place]:
        if around := place.section or place.host:
            raise _refusal(setting.name, around)
        if not setting.args:
            raise ValueError(f"<{setting.name}> takes an address or more, such as *:80, here are 0")
        yield (inner := replace(place, settings=[], sections=[], host=setting))
        parts = tuple(inner.settings), tuple(inner.sections)
        self.conf.hosts.append(Host(setting.args, *parts, setting.file, setting.line))

    def section(self, setting: Setting, place: _Place) -> Iterator[_Place]:
        """<Files> and <If> may stand in another section, if the first is in a <Directory>."""
        kind, words, outer = KINDS[setting.name.lower()], setting.args, place.section
        if outer and outer.kind in CONDITIONS:
            yield place  # all that is in it is the condition's
            return
        if outer:
            in_directory = outer.kind.startswith("Directory") and kind.startswith("Files")
            if place.groups or not (in_directory or kind in CONDITIONS):
                raise _refusal(kind, place.groups[-1] if place.groups else outer)
        if len(words) == 2 and words[0] == "~" and kind in ("Directory", "Files", "Location"):
            kind, words = f"{kind}Match", words[1:]  # the old way to write a pattern
        if kind in CONDITIONS:
            words = (" ".join(words),)
        if len(words) != 1:
            raise ValueError(f"<{kind}> takes one argument, here are {len(words)}")
        section = Section(kind, words[0], (), setting.file, setting.line, outer)
        yield (inner := replace(place, settings=[], section=section))
        place.sections.append(replace(section, settings=tuple(inner.settings)))

    def group(self, setting: Setting, place: _Place) -> Iterator[_Place]:
        name = setting.name
        if (limit := name.lower().startswith("limit")) != bool(setting.args):
            needs = "needs names of methods" if limit else "has nothing"
            raise ValueError(f"<{name}> {needs} behind its name")
        in_limit = limit and any(one.name.lower().startswith("limit") for one in place.groups)
        if in_limit or not place.section:
            where = "inside a <Limit>" if in_limit else "outside of a <Directory> or the like"
            raise ValueError(f"<{name}> is {where}: move it")
        yield replace(place, groups=(*place.groups, setting))
        inside = [line.name.lower() for line in place.settings if setting in line.within]
        if not limit and "require" not in inside:
            text = f"<{name}> has no Require in it: add one, or take it out"
            raise DirectiveError.at(setting, text)

    # ---- directives: these raise ValueError

    def directive(self, setting: Setting, place: _Place) -> None:
        plain = _Reader.setting, 0, len(setting.args)
        obey, least, most = OBEYED.get(setting.name.lower(), plain)
        if not least <= len(setting.args) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            wanted = f"{wanted} argument{'s' * (most > 1)}, here are {len(setting.args)}"
            raise ValueError(f"{setting.name} takes {wanted}")
        obey(self, setting, place)

    def setting(self, setting: Setting, place: _Place) -> None:
        if setting.name.lower() == "serverroot" and setting.args:
            self.root = setting.args[0]  # from here on, for Include
        place.settings.append(replace(setting, within=place.groups))

    def define(self, setting: Setting, place: _Place) -> None:
        name, *value = setting.args
        if ":" in name:
            raise ValueError(f'a name has no ":" in it, "{name}" has')
        self.conf.defines[name] = value[0] if value else ""

    def error(self, setting: Setting, place: _Place) -> None:
        raise ValueError(f"Error: {' '.join(setting.args)}")

    # ---- files

    def find(self, setting: Setting, place: _Place) -> None:
        """Include: a file, a directory (all files below it), or a pattern, each in order."""
        from glob import glob, has_magic

        pattern = os.path.join(self.root, setting.args[0])
        magic = has_magic(pattern)
        names = glob(pattern) if magic else [pattern] * os.path.exists(pattern)
        if not names and setting.name.lower() == "include":
            what = f"{'no file matches' if magic else 'there is no'} {pattern}"
            raise ValueError(f"{setting.name}: {what}: correct the name or use IncludeOptional")
        for name in sorted(names, key=lambda name: name.split("/")):  # a/x is before a-b/x
            self.include(name, setting, place, INCLUDE_DEPTH)

    def include(self, path: str, where: Setting, place: _Place, directories: int = 0) -> None:
        """Read a file, or what is in a directory and so many below it at most; `where` is the line for it."""
        if (real := os.path.realpath(path)) in self.open_files:
            raise ValueError(f"{where.name}: {path} includes itself")
        if len(self.open_files) > INCLUDE_DEPTH:
            raise ValueError(f"{where.name}: more than {INCLUDE_DEPTH} files deep: {path}")
        try:
            if directories and os.path.isdir(path):
                for name in sorted(os.listdir(path)):
                    self.include(os.path.join(path, name), where, place, directories - 1)
                return
            if not os.path.isfile(path) and os.path.exists(path) and path != os.devnull:
                raise OSError("it is no file")  # a pipe or a device, which may have no end
            with open(path, "rb") as file:  # a text's decoder is looked up as `split_words` says
                text = os.fsdecode(file.read().removeprefix(b"\xef\xbb\xbf"))
            if "\0" in text:
                raise OSError("it holds NULs: write it as UTF-8")
        except OSError as error:
            why = f"{where.name} {path} cannot be read: {error.strerror or error}"
            raise DirectiveError.at(where, why) from None
        self.conf.includes.append(Included(path, where.line, len(self.open_files)))
        self.open_files.append(real)
        lines = settings.logical_lines(text.replace("\r\n", "\n").replace("\r", "\n"))
        self.lines(lines, path, replace(place, open=()))
        self.open_files.pop()


def _refusal(kind: str, around: Setting | Section) -> ValueError:
    name = around.kind if isinstance(around, Section) else around.name
    return ValueError(f"<{kind}> is inside the <{name}> of line {around.line}: move it out")


# How a container reads the lines in it.
IF = ("ifmodule", "ifdefine", "iffile", "ifdirective", "ifsection", "ifversion")
GROUPS = ("requireany", "requireall", "requirenone", "limit", "limitexcept")
CONTAINERS: dict[str, Callable[[_Reader, Setting, _Place], Iterator[_Place]]] = {
    **dict.fromkeys(IF, _Reader.condition),
    **dict.fromkeys(KINDS, _Reader.section),
    **dict.fromkeys(GROUPS, _Reader.group),
    "virtualhost": _Reader.host,
}
# What a directive that shapes the reading does, with the fewest and the most words behind it.
OBEYED: dict[str, tuple[Callable[[_Reader, Setting, _Place], object], int, int]] = {
    "define": (_Reader.define, 1, 2),
    "undefine": (lambda r, line, _: r.conf.defines.pop(line.args[0], None), 1, 1),
    "error": (_Reader.error, 0, 1 << 31),
    "loadmodule": (lambda r, line, _: r.conf.notes.extend(r.conf.modules.load(line)), 2, 2),
    "include": (_Reader.find, 1, 1),
    "includeoptional": (_Reader.find, 1, 1),
}
