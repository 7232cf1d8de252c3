"""httpd.conf: from text to settings.

The part of Apache's configuration language that this file knows::

    # a comment                              a line may be continued \
                                             on the next one
    Directive word "two words" 'so "too"'    names in any case, words quoted as httpd does
    Define NAME [value]    UnDefine NAME     ${NAME} in any later line, else the environment
    LoadModule mpm_event_module modules/...  chooses the MPM
    Include conf/extra/*.conf                relative to ServerRoot; IncludeOptional may find none
    <IfModule [!]mpm_event_module>           the lines within count if the module is there
    <IfDefine [!]NAME>                       the lines within count if the name is defined
    <Directory> <Location> <Files> ...Match  a part of the site: becomes a Section

A line's way::

    _Source        the file, physical lines joined        (file, number, text)
      > _Reader    conditions, definitions, includes and LoadModule are obeyed here
      > Conf       everything else, in order, as Setting and Section

What a directive *means* is not asked here: that is `mpmkit.config.directives.check`, afterwards, when the
MPM is known.  Errors are DirectiveError and name file and line.

mpmkit: a file is read twice if it is the file that chooses the MPM.  httpd obeys LoadModule when
it comes to the line, so an <IfModule mpm_event_module> above it is skipped without a word; here
the order makes no difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mpmkit.config.directives import (
    MPMS,
    SECTIONS,
    DirectiveError,
    Directives,
    Note,
    Section,
    Setting,
    split_words,
)

# Deep enough for every real tree; a file that includes itself is found before that.
INCLUDE_DEPTH = 20

# After so many mistakes it is another kind of file, or files that include each other.
MOST_PROBLEMS = 100

# Modules whose directives or effects mpmkit has itself: always there, LoadModule or not.
BUILT_IN = {
    "core_module": "core.c",
    "so_module": "mod_so.c",
    "http_module": "http_core.c",
    "log_config_module": "mod_log_config.c",
    "logio_module": "mod_logio.c",
    "unixd_module": "mod_unixd.c",
    "authz_core_module": "mod_authz_core.c",
    "authz_host_module": "mod_authz_host.c",
    "dir_module": "mod_dir.c",
    "mime_module": "mod_mime.c",
    "alias_module": "mod_alias.c",
    "status_module": "mod_status.c",
    "reqtimeout_module": "mod_reqtimeout.c",
    "cgi_module": "mod_cgi.c",
    "cgid_module": "mod_cgid.c",
    "wsgi_module": "mod_wsgi.c",
    "proxy_fcgi_module": "mod_proxy_fcgi.c",
}

# Modules that mpmkit has, too, and that are there once a LoadModule names them: files ask for them
# by <IfModule> to learn whether the administrator wants them.
OPTIONAL = {"ssl_module": "mod_ssl.c"}

# Modules that real files load and that mpmkit can do without.  The line is accepted, but the
# module is not there: <IfModule> is false for it and its directives are unknown.
ACCEPTED = {
    "access_compat_module": "mod_access_compat.c",
    "actions_module": "mod_actions.c",
    "allowmethods_module": "mod_allowmethods.c",
    "auth_basic_module": "mod_auth_basic.c",
    "authn_core_module": "mod_authn_core.c",
    "authn_file_module": "mod_authn_file.c",
    "authz_groupfile_module": "mod_authz_groupfile.c",
    "authz_user_module": "mod_authz_user.c",
    "autoindex_module": "mod_autoindex.c",
    "cache_module": "mod_cache.c",
    "deflate_module": "mod_deflate.c",
    "env_module": "mod_env.c",
    "expires_module": "mod_expires.c",
    "ext_filter_module": "mod_ext_filter.c",
    "filter_module": "mod_filter.c",
    "headers_module": "mod_headers.c",
    "http2_module": "mod_http2.c",
    "include_module": "mod_include.c",
    "info_module": "mod_info.c",
    "mime_magic_module": "mod_mime_magic.c",
    "negotiation_module": "mod_negotiation.c",
    "proxy_http_module": "mod_proxy_http.c",
    "proxy_module": "mod_proxy.c",
    "remoteip_module": "mod_remoteip.c",
    "request_module": "mod_request.c",
    "rewrite_module": "mod_rewrite.c",
    "setenvif_module": "mod_setenvif.c",
    "slotmem_shm_module": "mod_slotmem_shm.c",
    "socache_shmcb_module": "mod_socache_shmcb.c",
    "unique_id_module": "mod_unique_id.c",
    "userdir_module": "mod_userdir.c",
    "version_module": "mod_version.c",
    "vhost_alias_module": "mod_vhost_alias.c",
    "watchdog_module": "mod_watchdog.c",
}

# Modules that people look for here, and what to do instead.
INSTEAD = {
    f"php{version}_module": "PHP runs beside the server: take the line out and write "
    "SetHandler proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"
    for version in ("", "5", "7")
}

MPM_MODULES = {f"mpm_{mpm}_module": mpm for mpm in MPMS}

# Containers of httpd that mpmkit has not, and what to do about it.
REFUSED = {
    "virtualhost": "mpmkit serves one site: move its directives out of the <VirtualHost>",
    "limit": "rules for single methods are not known: use Require without <Limit>",
    "limitexcept": "rules for single methods are not known: use Require without <LimitExcept>",
    "requireall": "one Require line is all that is known: write it without <RequireAll>",
    "requireany": "one Require line is all that is known: write it without <RequireAny>",
    "requirenone": "one Require line is all that is known: write it without <RequireNone>",
    "if": "expressions are not known: take the <If> out",
    "elseif": "expressions are not known: take the <ElseIf> out",
    "else": "expressions are not known: take the <Else> out",
    "iffile": "use <IfDefine> or IncludeOptional instead of <IfFile>",
    "ifversion": "there is no version to compare with: take the <IfVersion> out",
    "ifdirective": "use <IfModule> instead of <IfDirective>",
    "ifsection": "use <IfModule> instead of <IfSection>",
    "proxy": "there is no proxy: take the <Proxy> out",
}

_SECTIONS = {kind.lower(): kind for kind in SECTIONS}
_CONDITIONS = {"ifmodule": "IfModule", "ifdefine": "IfDefine"}


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the configuration: ``how`` is "static", "shared" (LoadModule) or "accepted"."""

    name: str
    file: str
    how: str


@dataclass(frozen=True, slots=True)
class Included:
    """A file that was read: from which line of the file before it, and how deep (0: the first)."""

    path: str
    line: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Conf:
    """A configuration as it was written, with its conditions resolved.

    ``mpm`` is None if neither the caller nor the file chose one.
    """

    mpm: str | None
    settings: tuple[Setting, ...]
    sections: tuple[Section, ...]
    defines: dict[str, str]
    includes: tuple[Included, ...]
    modules: tuple[Module, ...]
    notes: tuple[Note, ...] = ()
    problems: tuple[DirectiveError, ...] = ()


def read(
    path: str | os.PathLike[str],
    *,
    mpm: str | None = None,
    defines: Iterable[str] | Mapping[str, str] = (),
    server_root: str | None = None,
    before: Iterable[str | Setting] = (),
    after: Iterable[str | Setting] = (),
    default_mpm: str | None = None,
    environ: Mapping[str, str] | None = None,
    keep_going: bool = False,
) -> Conf:
    """The configuration in a file.

    mpm          the MPM it must be for; a LoadModule of another one is an error
    default_mpm  the MPM if neither `mpm` nor the file chooses one
    defines      names (httpd -D), each may be "NAME=value", or a mapping from name to value
    server_root  ServerRoot until the file says otherwise (httpd -d); without it, the directory
                 that the file is in (mpmkit: httpd has one compiled in)
    before       lines or Settings ahead of the file (httpd -C); `after` behind it (httpd -c)
    environ      what ${NAME} falls back to; os.environ if not given
    keep_going   put mistakes into Conf.problems instead of raising them, so that `check` can add
                 its own and tell all of them at once

    Raises DirectiveError, with every mistake and its file and line.
    """
    name = os.path.abspath(os.fspath(path))
    root = server_root or os.path.dirname(name)
    first = [Setting("ServerRoot", (root,)), *before]
    return _choose(
        lambda reader: reader.include(name, Setting("the configuration")),
        mpm,
        default_mpm,
        defines,
        root,
        first,
        after,
        environ,
        keep_going,
    )


def parse(
    text: str,
    *,
    name: str = "<string>",
    mpm: str | None = None,
    defines: Iterable[str] | Mapping[str, str] = (),
    server_root: str | None = None,
    before: Iterable[str | Setting] = (),
    after: Iterable[str | Setting] = (),
    default_mpm: str | None = None,
    environ: Mapping[str, str] | None = None,
    keep_going: bool = False,
) -> Conf:
    """The configuration in a string; ``name`` stands in for the file in messages.

    Parameters are those of `read`; without server_root, relative names start from the current
    directory.
    """
    first = [Setting("ServerRoot", (server_root,)), *before] if server_root else before
    return _choose(
        lambda reader: reader.lines(_logical_lines(text), name),
        mpm,
        default_mpm,
        defines,
        server_root or "",
        first,
        after,
        environ,
        keep_going,
    )


def parse_option(text: str, *, file: str = "-c", line: int = 1) -> Setting:
    """One directive as it stands behind the command line's -c or -C."""
    try:
        words = split_words(text)
    except ValueError as error:
        raise DirectiveError(str(error), file=file, line=line) from None
    if not words or words[0].startswith(("#", "<")):
        wanted = "write a name and its values"
        raise DirectiveError(f'"{text}" is no directive: {wanted}', file=file, line=line)
    return Setting(words[0], words[1:], file, line)


def format_problems(
    settings: Iterable[Setting], complaint: Callable[[str], str]
) -> list[DirectiveError]:
    """Formats of access logs that can't be used. `complaint` says what is wrong with one, "" for
    nothing; a word without a per cent sign is a nickname."""
    at = {"logformat": 0, "customlog": 1}
    problems = []
    for setting in settings:
        key = setting.name.lower()
        if key in at and len(setting.args) > at[key]:
            text = setting.args[at[key]]
            wrong = complaint(text) if "%" in text else ""
            if wrong:
                problems.append(DirectiveError.at(setting, f"{setting.name}: {wrong}"))
    return problems


def check_machine(
    directives: Directives, settings: Iterable[Setting] = (), *, document_root: bool = True
) -> None:
    """What httpd asks the machine before it starts: do the directories, user and group exist?

    settings       where the values came from, so that messages can name file and line
    document_root  False leaves out the question for DocumentRoot (httpd -T)

    Raises DirectiveError with every problem.
    """
    import grp
    import pwd

    written = {setting.name.lower(): setting for setting in settings}
    problems = []

    def wrong(name: str, text: str, ah: str = "AH00526") -> None:
        setting = written.get(name.lower(), Setting(name))
        problems.append(DirectiveError.at(setting, f"{name} {text}", ah))

    core = written.get("coredumpdirectory")
    folders = {
        "ServerRoot": directives.ServerRoot,
        "DocumentRoot": directives.DocumentRoot if document_root else None,
        "CoreDumpDirectory": core.args[0] if core else None,
    }
    for name, path in folders.items():
        if path is not None and not os.path.isdir(path):
            wrong(name, f"{path} is not a directory that can be read: create it or name another")
    for name, path in (
        ("SSLCertificateFile", directives.SSLCertificateFile),
        ("SSLCertificateKeyFile", directives.SSLCertificateKeyFile),
    ):
        if path is not None and not os.path.isfile(path):
            wrong(name, f"{path}: No such file or directory: name a file in PEM that can be read")
    for name, who, find, ah in (
        ("User", directives.User, pwd.getpwnam, "AH00543"),
        ("Group", directives.Group, grp.getgrnam, "AH00544"),
    ):
        if who is None:
            continue
        try:
            # "#1000" is a number and needs no name on this machine
            number = int(who[1:]) if who.startswith("#") else find(who)[2]
        except (KeyError, ValueError):
            wrong(name, f"{who} does not exist on this machine: name one that does", ah)
            continue
        if name == "User" and number == 0:
            wrong(name, f"{who} is root by another name: name an ordinary user")
    if problems:
        raise DirectiveError.of(problems)


# ---------------------------------------------------------------------------------------------


def _choose(
    body: Callable[[_Reader], None],
    mpm: str | None,
    default_mpm: str | None,
    defines: Iterable[str] | Mapping[str, str],
    root: str,
    before: Iterable[str | Setting],
    after: Iterable[str | Setting],
    environ: Mapping[str, str] | None,
    keep_going: bool,
) -> Conf:
    """Read until the MPM that was assumed for <IfModule> is the one that comes out."""
    for name in (mpm, default_mpm):
        if name is not None and name not in MPMS:
            raise DirectiveError(f"there is no MPM {name!r}: use prefork, worker or event")
    before, after = tuple(before), tuple(after)
    if not isinstance(defines, Mapping):
        defines = {one.partition("=")[0]: one.partition("=")[2] for one in defines}
    given = dict(defines)

    def once(assumed: str | None) -> _Reader:
        reader = _Reader(assumed, dict(given), root, os.environ if environ is None else environ)
        try:
            reader.options(before, "-C")
            body(reader)
            reader.options(after, "-c")
        except DirectiveError as error:  # the file itself can't be read, or there is no end to it
            reader.problems.append(error)
        return reader

    reader = once(mpm)
    if mpm is None and (reader.loaded or default_mpm):
        chosen = reader.loaded or default_mpm
        reader = once(chosen)
        mpm = reader.loaded or chosen
    if reader.problems and not keep_going:
        raise DirectiveError.of(reader.problems)
    return reader.conf(mpm)


def _logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(first physical line, how many, text): continuations joined, blanks at the ends removed.

    A backslash at the very end of a line continues it, even in a comment (httpd: the same).
    """
    parts: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        continued = line.endswith("\\")
        parts.append(line[:-1] if continued else line)
        if not continued:
            yield number + 1 - len(parts), len(parts), "".join(parts).strip()
            parts.clear()
    if parts:
        yield number + 1 - len(parts), len(parts), "".join(parts).strip()


class _Reader:
    """Obeys the lines that shape the reading, and collects the others."""

    def __init__(
        self, mpm: str | None, defines: dict[str, str], root: str, environ: Mapping[str, str]
    ) -> None:
        self.mpm = mpm  # the one <IfModule> believes in
        self.loaded: str | None = None  # the one a LoadModule named
        self.defines = defines
        self.root = root
        self.environ = environ
        self.settings: list[Setting] = []
        self.sections: list[Section] = []
        self.includes: list[Included] = []
        self.modules: list[Module] = []
        self.notes: list[Note] = []
        self.problems: list[DirectiveError] = []
        self.open_files: list[str] = []  # the chain of includes, to find a circle
        self.section: tuple[str, str, str, int] | None = None
        self.section_settings: list[Setting] = []

    def conf(self, mpm: str | None) -> Conf:
        modules = [Module(name, file, "static") for name, file in BUILT_IN.items()]
        shared = {module.name for module in self.modules}
        modules = [module for module in modules if module.name not in shared] + self.modules
        if mpm and f"mpm_{mpm}_module" not in shared:
            modules.append(Module(f"mpm_{mpm}_module", f"{mpm}.c", "static"))
        settings = list(self.settings)
        if "status_module" in shared:
            # Loading mod_status switches ExtendedStatus on; any line in the file still wins.
            settings.insert(0, Setting("ExtendedStatus", ("On",)))
        return Conf(
            mpm,
            tuple(settings),
            tuple(self.sections),
            dict(self.defines),
            tuple(self.includes),
            tuple(modules),
            tuple(self.notes),
            tuple(self.problems),
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
        opened: list[tuple[str, int]] = []  # containers we are in, and where they began
        skipped: int | None = None  # how deep the container lies whose inside does not count
        for line, count, text in lines:
            if not text or text.startswith("#"):
                if count > 1:
                    why = f"the comment ends with a backslash and takes in {count - 1} more"
                    self.notes.append(Note("", "warn", f"{why} ({file}:{line})"))
                continue
            try:
                if text.startswith("</"):
                    kind = text[2:].partition(">")[0].strip()
                    try:
                        self.close(kind, opened, file, line)
                    finally:
                        if skipped is not None and len(opened) < skipped:
                            skipped = None
                elif text.startswith("<"):
                    opened.append(((text[1:].rstrip(">").split(None, 1) or [""])[0], line))
                    if skipped is None:
                        # The inside of a container that can't be used is skipped, too.
                        skipped = len(opened)
                        kind, arg = self.container(text, file, line)
                        if self.open(kind, arg, file, line):
                            skipped = None
                elif skipped is None:
                    self.directive(text, file, line)
            except DirectiveError as problem:
                self.problem(problem)
        if opened:
            kind, line = opened[-1]
            self.problem(self.error(f"<{kind}> is never closed: add </{kind}>", kind, file, line))
            if self.section and self.section[2] == file:
                self.section = None
                self.section_settings.clear()

    def problem(self, problem: DirectiveError) -> None:
        """Remember a mistake and read on, so that all of them are told at once."""
        if len(self.problems) >= MOST_PROBLEMS:
            raise problem
        self.problems.append(problem)

    def container(self, text: str, file: str, line: int) -> tuple[str, str]:
        """The kind and the argument of ``<Kind argument>``."""
        inside, closed, _ = text[1:].rpartition(">")
        if not closed:
            raise self.error(f'the ">" is missing: {text}>', "", file, line)
        kind, *arg = inside.split(None, 1) or [""]
        return kind, arg[0].strip() if arg else ""

    def open(self, kind: str, arg: str, file: str, line: int) -> bool:
        """Enter a container; False if what is inside does not count."""
        key = kind.lower()
        arg = self.expand(arg, file, line)
        if key in _CONDITIONS:
            return self.condition(key, kind, arg, file, line)
        if key not in _SECTIONS:
            why = REFUSED.get(key) or f"it is unknown: use {', '.join(f'<{k}>' for k in SECTIONS)}"
            raise self.error(f"<{kind}> cannot be used, {why}", kind, file, line)
        if self.section:
            outer = f"<{self.section[0]}> of line {self.section[3]}"
            raise self.error(f"<{kind}> is inside the {outer}: move it out", kind, file, line)
        words = self.words(arg, kind, file, line)
        kind = _SECTIONS[key]
        if len(words) == 2 and words[0] == "~" and not kind.endswith("Match"):
            kind, words = f"{kind}Match", words[1:]  # the old way to write a pattern
        if len(words) != 1:
            text = f"<{kind}> takes one argument, here are {len(words)}"
            raise self.error(text, kind, file, line)
        self.section = (kind, words[0], file, line)
        return True

    def close(self, kind: str, opened: list[tuple[str, int]], file: str, line: int) -> None:
        if not opened:
            raise self.error(f"</{kind}> closes nothing: no <{kind}> is open", kind, file, line)
        begun, where = opened.pop()
        self.end_section(file, where)
        if begun.lower() != kind.lower():
            if any(outer.lower() == kind.lower() for outer, _ in opened):
                self.close(kind, opened, file, line)  # the inner one was forgotten
            text = f"</{kind}> meets the <{begun}> of line {where}: close that one first"
            raise self.error(text, kind, file, line)

    def end_section(self, file: str, where: int) -> None:
        """The container that began there is closed; if it is the section we are in, it is whole."""
        section = self.section
        if section and section[2:] == (file, where):
            settings = tuple(self.section_settings)
            self.sections.append(Section(section[0], section[1], settings, file, where))
            self.section = None
            self.section_settings.clear()

    def condition(self, key: str, kind: str, arg: str, file: str, line: int) -> bool:
        words = self.words(arg, kind, file, line)
        if len(words) != 1:
            raise self.error(f"<{kind}> takes one name, here are {len(words)}", kind, file, line)
        name = words[0].removeprefix("!")
        there = self.has_module(name) if key == "ifmodule" else name in self.defines
        return there != words[0].startswith("!")

    def has_module(self, name: str) -> bool:
        """By identifier (dir_module) or by source file (mod_dir.c), as <IfModule> takes both."""
        if self.mpm and name in (f"mpm_{self.mpm}_module", f"{self.mpm}.c"):
            return True
        if name in BUILT_IN or name in BUILT_IN.values():
            return True
        return any(
            name in (one.name, OPTIONAL.get(one.name))
            for one in self.modules
            if one.how == "shared"
        )

    def directive(self, text: str, file: str, line: int) -> None:
        name = text.split(None, 1)[0]
        rest = self.expand(text[len(name) :], file, line)
        args = self.words(rest, name, file, line)
        setting = Setting(name, args, file, line)
        key = name.lower()
        if key == "define":
            self.define(setting)
        elif key == "undefine":
            self.count(setting, 1, 1)
            self.defines.pop(args[0], None)
        elif key == "loadmodule":
            self.load_module(setting)
        elif key in ("include", "includeoptional"):
            self.count(setting, 1, 1)
            self.find(setting, optional=key == "includeoptional")
        elif key == "error":
            raise DirectiveError.at(setting, f"Error: {' '.join(args)}")
        else:
            self.setting(setting)

    def setting(self, setting: Setting) -> None:
        if setting.name.lower() == "serverroot" and setting.args:
            self.root = setting.args[0]  # from here on, for Include
        (self.section_settings if self.section else self.settings).append(setting)

    # ---- definitions

    def define(self, setting: Setting) -> None:
        self.count(setting, 1, 2)
        name = setting.args[0]
        if ":" in name:
            raise DirectiveError.at(setting, f'a name has no ":" in it, "{name}" has')
        self.defines[name] = setting.args[1] if len(setting.args) > 1 else ""

    def expand(self, text: str, file: str, line: int) -> str:
        """${NAME} becomes its value; an unknown one stays as it is, with a note."""
        done = ""
        while True:
            before, start, rest = text.partition("${")
            name, end, after = rest.partition("}")
            if not start or not end:
                return done + text
            value = self.defines.get(name, self.environ.get(name))
            if value is None:
                text_of = f"${{{name}}} is neither defined nor in the environment"
                self.notes.append(Note("AH00111", "warn", f"{text_of} ({file}:{line})"))
                value = f"${{{name}}}"
            done, text = done + before + value, after

    # ---- modules

    def load_module(self, setting: Setting) -> None:
        self.count(setting, 2, 2)
        name, file = setting.args
        if name in MPM_MODULES:
            asked, had = MPM_MODULES[name], self.loaded or self.mpm
            if had and had != asked:
                source = "is loaded already" if self.loaded else "was asked for"
                raise DirectiveError.at(
                    setting,
                    f"LoadModule {name}: {had} {source}, and there is one MPM: keep one of them",
                    "AH00534",
                )
            self.loaded = self.mpm = asked
        elif name in ACCEPTED:
            self.notes.append(
                Note("", "debug", f"{name} is accepted, though mpmkit has no such module")
            )
        elif name in INSTEAD:
            raise DirectiveError.at(setting, f"LoadModule {name}: {INSTEAD[name]}")
        elif name not in BUILT_IN and name not in OPTIONAL:
            known = ", ".join(
                one.removesuffix("_module") for one in (*MPM_MODULES, *BUILT_IN, *OPTIONAL)
            )
            raise DirectiveError.at(
                setting,
                f"LoadModule {name}: no such module here, take the line out; there are {known}",
            )
        how = "accepted" if name in ACCEPTED else "shared"
        if name not in {module.name for module in self.modules}:
            self.modules.append(Module(name, file, how))

    # ---- files

    def find(self, setting: Setting, *, optional: bool) -> None:
        """Include: a file, a directory (all files below it), or a pattern, each in order."""
        from glob import glob, has_magic

        pattern = os.path.join(self.root, setting.args[0])
        names = sorted(glob(pattern)) if has_magic(pattern) else [pattern]
        if not names or not (has_magic(pattern) or os.path.exists(pattern)):
            if optional:
                return
            what = "no file matches" if has_magic(pattern) else "there is no"
            raise DirectiveError.at(
                setting, f"{setting.name}: {what} {pattern}: mend the name or use IncludeOptional"
            )
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
        what = where.name
        real = os.path.realpath(path)
        if real in self.open_files:
            raise DirectiveError.at(where, f"{what}: {path} includes itself")
        if len(self.open_files) > INCLUDE_DEPTH:
            raise DirectiveError.at(where, f"{what}: more than {INCLUDE_DEPTH} files deep: {path}")
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                text = file.read()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DirectiveError.at(where, f"{what} {path} cannot be read: {reason}") from None
        self.includes.append(Included(path, where.line, len(self.open_files)))
        self.open_files.append(real)
        self.lines(_logical_lines(text), path)
        self.open_files.pop()

    # ---- errors

    def words(self, text: str, name: str, file: str, line: int) -> tuple[str, ...]:
        try:
            return split_words(text)
        except ValueError as error:
            raise self.error(f"{name}: {error}", name, file, line) from None

    def count(self, setting: Setting, least: int, most: int) -> None:
        if not least <= len(setting.args) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            text = f"{setting.name} takes {wanted} argument{'s' * (most > 1)}"
            raise DirectiveError.at(setting, f"{text}, here are {len(setting.args)}")

    def error(self, text: str, directive: str, file: str, line: int) -> DirectiveError:
        return DirectiveError(text, directive=directive, file=file, line=line)
