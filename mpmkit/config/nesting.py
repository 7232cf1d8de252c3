"""The sections that are open while a file is read, and the groups of lines in them.

<Directory /srv>  <Files x>  <If ...>             sections; those that may stand in another one become
                                                  a Section with an `outer`
<RequireAny>  <RequireAll>  <RequireNone>         groups: each line knows the groups around it,
<Limit GET>  <LimitExcept GET>                    `Setting.within`
"""

from __future__ import annotations

from dataclasses import replace

from mpmkit.config.settings import CONDITIONS, SECTIONS, DirectiveError, Section, Setting

KINDS = {kind.lower(): kind for kind in (*SECTIONS, *CONDITIONS)}
GROUPS = ("requireany", "requireall", "requirenone", "limit", "limitexcept")


class Nesting:
    """section: the one we are in, without its settings. Its methods raise DirectiveError."""

    def __init__(self) -> None:
        self.section: Section | None = None
        self._settings: list[list[Setting]] = []  # of each open section
        self._within: tuple[Setting, ...] = ()

    def add(self, setting: Setting, outside: list[Setting]) -> None:
        """A line goes to its section, or `outside`."""
        if self._within:
            setting = replace(setting, within=self._within)
        (self._settings[-1] if self.section else outside).append(setting)

    def open_section(self, setting: Setting) -> None:
        kind, words, outer = KINDS[setting.name.lower()], setting.args, self.section
        if outer and outer.kind in CONDITIONS:
            return  # all that is in it is the condition's
        within = self._within[-1].name if self._within else outer.kind if outer else ""
        line = self._within[-1].line if self._within else outer.line if outer else 0
        in_directory = within.startswith("Directory") and kind.startswith("Files")
        if within and not in_directory and (self._within or kind not in CONDITIONS):
            text = f"<{kind}> is inside the <{within}> of line {line}: move it out"
            raise DirectiveError.at(setting, text)
        if len(words) == 2 and words[0] == "~" and kind in ("Directory", "Files", "Location"):
            kind, words = f"{kind}Match", words[1:]  # the old way to write a pattern
        if kind in CONDITIONS:
            words = (" ".join(words),)
        if len(words) != 1:
            text = f"<{kind}> takes one argument, here are {len(words)}"
            raise DirectiveError.at(setting, text)
        self.section = Section(kind, words[0], (), setting.file, setting.line, outer)
        self._settings.append([])

    def open_group(self, setting: Setting) -> None:
        name = setting.name
        if (limit := name.lower().startswith("limit")) != bool(setting.args):
            needs = "needs names of methods" if limit else "has nothing"
            raise DirectiveError.at(setting, f"<{name}> {needs} behind its name")
        if not self.section or (
            limit and any(g.name.lower().startswith("limit") for g in self._within)
        ):
            where = "inside a <Limit>" if self.section else "outside of a <Directory> or the like"
            raise DirectiveError.at(setting, f"<{name}> is {where}: move it")
        self._within = (*self._within, setting)

    def close(self, file: str, line: int) -> Section | None:
        """The container that began there ends: the section, if it is one."""
        section, group = self.section, self._within[-1] if self._within else None
        if group and (group.file, group.line) == (file, line):
            self._within = self._within[:-1]
            if group.name.lower().startswith("require") and not any(
                group in one.within and one.name.lower() == "require" for one in self._settings[-1]
            ):
                text = f"<{group.name}> has no Require in it: add one, or take it out"
                raise DirectiveError.at(group, text)
        elif section and (section.file, section.line) == (file, line):
            self.section = section.outer
            return replace(section, settings=tuple(self._settings.pop()))
        return None

    def forget(self, file: str) -> None:
        """A file ended in the middle of what is open."""
        while self.section and self.section.file == file:
            self.section, self._within = self.section.outer, ()
            self._settings.pop()
