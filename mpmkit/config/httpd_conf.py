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

Directives of OBEYED and containers of CONTAINERS are obeyed here; everything else becomes a Setting of
`Conf`. Its *meaning* is decided by `checks.check`, afterwards, when the MPM is known.
Errors are DirectiveError and name file and line.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mpmkit.config import settings
from mpmkit.config.directives import SPECS
from mpmkit.config.settings import CONDITIONS, DirectiveError, Host, Note, Section, Setting
from mpmkit.config.unsupported import Modules, foreign, version_holds

INCLUDE_DEPTH = 20  # enough for every real tree; a file that includes itself is found before
DEEPEST = 100  # containers around one
MOST_PROBLEMS = 100  # after so many it is another kind of file, or files that include each other

KINDS = {kind.lower(): kind for kind in (*settings.SECTIONS, *CONDITIONS)}


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Included:
    """A file that was read: from which line of the file before it, and how deep (0: the first)."""

    path: str
    line: int = 0
    depth: int = 0


@dataclass(slots=True)
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
    """The configuration of a source.  ${NAME} that is not defined is looked for in `environ`.

    Mistakes are `Conf.problems`, so that `check` can report its own with them.

    mpmkit: httpd obeys LoadModule when it comes to the line, and skips an <IfModule mpm_event_module> above it.
    Here the lines are gone through again with the MPM that they choose: their order makes no difference."""
    conf = _Reader(source, environ, source.mpm).run()
    if source.mpm is None and conf.mpm:
        conf = _Reader(source, environ, conf.mpm).run()
    return conf


@dataclass(slots=True)
class _Container:
    """A container that is open; the lowest is the server itself.

    counts    whether the lines in it are read
    kind      "server", "host", "section", "group", "foreign"; "" for a condition, and what is left out
    section   of a section, without its settings"""

    setting: Setting
    counts: bool = False
    kind: str = ""
    section: Section | None = None
    settings: list[Setting] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.section.kind if self.section else self.setting.name

    def refusal(self, kind: str) -> ValueError:
        where = f"inside the <{self.name}> of line {self.setting.line}"
        return ValueError(f"<{kind}> is {where}: move it out")


class _Reader:
    """Obeys the lines that shape the reading, and collects the others."""

    def __init__(self, source: Source, environ: Mapping[str, str], mpm: str | None) -> None:
        self.source = source
        self.environ = environ
        given = (name.partition("=") for name in source.defines)
        defines = {name: value for name, _, value in given} | dict.fromkeys(source.defines, "")
        self.conf = conf = Conf(Modules(mpm), defines)
        self.root = ""
        server = Setting("the configuration")
        self.containers = [_Container(server, True, "server", None, conf.settings, conf.sections)]
        self.open_files: list[str] = []  # the chain of includes, to find a circle

    def run(self) -> Conf:
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
                self.include(os.path.abspath(source.file), self.containers[0].setting)
            else:
                self.lines(settings.logical_lines(source.text), source.file)
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
                self.setting(option)
            else:
                number += 1
                self.lines([(number, 1, option.strip())], name)

    def lines(self, lines: Iterable[tuple[int, int, str]], file: str) -> None:
        """One file's lines; every container that opens here must close here."""
        outside = len(self.containers)
        for line, count, text in lines:
            if not text or text.startswith("#"):
                if count > 1:
                    why = f"the comment ends with a backslash and takes in {count - 1} more"
                    self.conf.notes.append(Note("", "warn", f"{why} ({file}:{line})"))
                continue
            tag, kind, name = re.findall(r"^(</?)\s*([^\s>]*)|^(\S+)", text)[0]
            where = Setting(kind or name, (), file, line)
            try:
                if tag == "</":
                    self.close(where, outside)
                elif tag:
                    self.open(where, text)
                elif self.containers[-1].counts:
                    self.directive(self.words(where, text))
            except ValueError as problem:
                self.problem(problem, where)
        if len(self.containers) > outside:
            last = self.containers[-1].setting
            del self.containers[outside:]
            self.problem(ValueError(f"<{last.name}> is never closed: add </{last.name}>"), last)

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

    # ---- containers: what follows raises ValueError, or DirectiveError for the line of another setting

    def around(self, *kinds: str) -> _Container | None:
        """The innermost open container of these kinds."""
        return next((one for one in reversed(self.containers) if one.kind in kinds), None)

    def groups(self) -> tuple[Setting, ...]:
        return tuple(one.setting for one in self.containers if one.kind == "group")

    def open(self, where: Setting, text: str) -> None:
        """Enter a container. What is inside one that can't be used does not count, either."""
        counts = self.containers[-1].counts
        here = _Container(where)
        self.containers.append(here)
        if len(self.containers) > DEEPEST:
            raise ValueError(f"<{where.name}> is inside {DEEPEST} others: move it out")
        if not counts:
            return
        inside, closed, _ = text[1:].rpartition(">")
        if not closed:
            raise ValueError(f'the ">" is missing: {text}>')
        name = where.name
        here.setting = self.words(where, inside.strip())
        if enter := CONTAINERS.get(name.lower()):
            enter(self, here)
        elif foreign(f"<{name}"):
            here.kind = "foreign"
        else:
            known = ", ".join(f"<{kind}>" for kind in settings.SECTIONS)
            raise ValueError(f"<{name}> cannot be used, it is unknown: use {known}")

    def close(self, end: Setting, outside: int) -> None:
        """Leave a container of this file, that is, one above the first `outside`."""
        name = end.name
        if len(self.containers) == outside:
            raise ValueError(f"</{name}> closes nothing: no <{name}> is open")
        begun = self.containers.pop()
        self.leave(begun)
        if (setting := begun.setting).name.lower() != name.lower():
            if name.lower() in [one.setting.name.lower() for one in self.containers[outside:]]:
                self.close(end, outside)  # the inner one was forgotten
            meets = f"meets the <{setting.name}> of line {setting.line}: close that one first"
            raise ValueError(f"</{name}> {meets}")

    def leave(self, one: _Container) -> None:
        setting, lines = one.setting, tuple(one.settings)
        if one.kind == "foreign":
            self.setting(replace(setting, name=f"<{setting.name}"))
        elif one.kind == "host":
            place = setting.file, setting.line
            self.conf.hosts.append(Host(setting.args, lines, tuple(one.sections), *place))
        elif one.section and (site := self.around("host", "server")):
            site.sections.append(replace(one.section, settings=lines))
        elif one.kind == "group" and setting.name.lower().startswith("require"):
            around = self.around("section")
            inside = [line for line in around.settings if setting in line.within] if around else []
            if not any(line.name.lower() == "require" for line in inside):
                text = f"<{setting.name}> has no Require in it: add one, or take it out"
                raise DirectiveError.at(setting, text)

    def condition(self, here: _Container) -> None:
        """<IfModule> and the like: their lines count if it holds. A "!" turns the answer round."""
        name, args = here.setting.name, here.setting.args
        if name.lower() == "ifversion":
            here.counts = version_holds(args)
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
        here.counts = holds != args[0].startswith("!")

    def open_host(self, here: _Container) -> None:
        setting = here.setting
        if inside := self.around("section", "host"):
            raise inside.refusal(setting.name)
        if not setting.args:
            raise ValueError(f"<{setting.name}> takes an address or more, such as *:80, here are 0")
        here.kind, here.counts = "host", True

    def open_section(self, here: _Container) -> None:
        """<Files> and <If> may stand in another section, if the first is in a <Directory>."""
        setting, outer = here.setting, self.around("section")
        kind, words = KINDS[setting.name.lower()], setting.args
        if outer and outer.name in CONDITIONS:
            here.counts = True  # all that is in it is the condition's
            return
        group = self.around("group")
        if inside := group or outer:
            in_directory = inside.name.startswith("Directory") and kind.startswith("Files")
            if group or not (in_directory or kind in CONDITIONS):
                raise inside.refusal(kind)
        if len(words) == 2 and words[0] == "~" and kind in ("Directory", "Files", "Location"):
            kind, words = f"{kind}Match", words[1:]  # the old way to write a pattern
        if kind in CONDITIONS:
            words = (" ".join(words),)
        if len(words) != 1:
            raise ValueError(f"<{kind}> takes one argument, here are {len(words)}")
        around = outer.section if outer else None
        here.section = Section(kind, words[0], (), setting.file, setting.line, around)
        here.kind, here.counts = "section", True

    def open_group(self, here: _Container) -> None:
        setting, name = here.setting, here.setting.name
        if (limit := name.lower().startswith("limit")) != bool(setting.args):
            needs = "needs names of methods" if limit else "has nothing"
            raise ValueError(f"<{name}> {needs} behind its name")
        in_limit = limit and any(one.name.lower().startswith("limit") for one in self.groups())
        if in_limit or not self.around("section"):
            where = "inside a <Limit>" if in_limit else "outside of a <Directory> or the like"
            raise ValueError(f"<{name}> is {where}: move it")
        here.kind, here.counts = "group", True

    # ---- directives

    def directive(self, setting: Setting) -> None:
        plain = _Reader.setting, 0, len(setting.args)
        obey, least, most = OBEYED.get(setting.name.lower(), plain)
        if not least <= len(setting.args) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            wanted = f"{wanted} argument{'s' * (most > 1)}, here are {len(setting.args)}"
            raise ValueError(f"{setting.name} takes {wanted}")
        obey(self, setting)

    def setting(self, setting: Setting) -> None:
        """A line goes to its section, its host or the server."""
        if setting.name.lower() == "serverroot" and setting.args:
            self.root = setting.args[0]  # from here on, for Include
        if groups := self.groups():
            setting = replace(setting, within=groups)
        (self.around("section", "host") or self.containers[0]).settings.append(setting)

    def define(self, setting: Setting) -> None:
        name, *value = setting.args
        if ":" in name:
            raise ValueError(f'a name has no ":" in it, "{name}" has')
        self.conf.defines[name] = value[0] if value else ""

    def error(self, setting: Setting) -> None:
        raise ValueError(f"Error: {' '.join(setting.args)}")

    # ---- files

    def find(self, setting: Setting) -> None:
        """Include: a file, a directory (all files below it), or a pattern, each in order."""
        from glob import glob, has_magic

        pattern = os.path.join(self.root, setting.args[0])
        magic = has_magic(pattern)
        names = glob(pattern) if magic else [pattern] * os.path.exists(pattern)
        if not names and setting.name.lower() == "include":
            what = f"{'no file matches' if magic else 'there is no'} {pattern}"
            raise ValueError(f"{setting.name}: {what}: correct the name or use IncludeOptional")
        for name in sorted(names, key=lambda name: name.split("/")):  # a/x is before a-b/x
            self.include(name, setting, INCLUDE_DEPTH)

    def include(self, path: str, where: Setting, directories: int = 0) -> None:
        """Read a file, or what is in a directory and so many below it at most; ``where`` is the line for it."""
        if (real := os.path.realpath(path)) in self.open_files:
            raise ValueError(f"{where.name}: {path} includes itself")
        if len(self.open_files) > INCLUDE_DEPTH:
            raise ValueError(f"{where.name}: more than {INCLUDE_DEPTH} files deep: {path}")
        try:
            if directories and os.path.isdir(path):
                for name in sorted(os.listdir(path)):
                    self.include(os.path.join(path, name), where, directories - 1)
                return
            text = _text_of(path)
        except OSError as error:
            why = f"{where.name} {path} cannot be read: {error.strerror or error}"
            raise DirectiveError.at(where, why) from None
        self.conf.includes.append(Included(path, where.line, len(self.open_files)))
        self.open_files.append(real)
        self.lines(settings.logical_lines(text.replace("\r\n", "\n").replace("\r", "\n")), path)
        self.open_files.pop()


def _text_of(path: str) -> str:
    """A file of lines. Raises OSError, also for a pipe or a device, which may have no end, and for NULs."""
    if not os.path.isfile(path) and os.path.exists(path) and path != os.devnull:
        raise OSError("it is no file")
    with open(path, "rb") as file:  # a text's decoder is looked up as `split_words` says
        text = os.fsdecode(file.read().removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text:
        raise OSError("it holds NULs: write it as UTF-8")
    return text


# What a container does when it is entered.
IF = ("ifmodule", "ifdefine", "iffile", "ifdirective", "ifsection", "ifversion")
GROUPS = ("requireany", "requireall", "requirenone", "limit", "limitexcept")
CONTAINERS: dict[str, Callable[[_Reader, _Container], None]] = {
    **dict.fromkeys(IF, _Reader.condition),
    **dict.fromkeys(KINDS, _Reader.open_section),
    **dict.fromkeys(GROUPS, _Reader.open_group),
    "virtualhost": _Reader.open_host,
}
# What a directive that shapes the reading does, with the fewest and the most words behind it.
OBEYED: dict[str, tuple[Callable[[_Reader, Setting], object], int, int]] = {
    "define": (_Reader.define, 1, 2),
    "undefine": (lambda r, line: r.conf.defines.pop(line.args[0], None), 1, 1),
    "error": (_Reader.error, 0, 1 << 31),
    "loadmodule": (lambda r, line: r.conf.notes.extend(r.conf.modules.load(line)), 2, 2),
    "include": (_Reader.find, 1, 1),
    "includeoptional": (_Reader.find, 1, 1),
}
