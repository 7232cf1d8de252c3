"""Who may have what: sections of every kind, with wild cards, expressions and links, asked of both.

One file with all sections, one directory for each of them: `{d}` is a case's directory, `{u}` its URL
path, `{k}` its name, which is part of its files' names, too. The document root is a symbolic link, so
that every case also tells whether rules are by the name that was asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from urllib.parse import quote

from tests.fidelity.cases import Row, block, grouped, placed, tables, tree
from tests.fidelity.clients import Client
from tests.fidelity.server_pair import Case, Pair, Side

FILES = ("open.txt", "{k}.ini", "{k}.b.STA", "{k}.sta.bak", ".{k}ht", "a/private/x.txt", "b/private/x.txt",
         "a/.git/config", "a/b/private/x.txt", "x*y/z.txt", "a[1]/z.txt", "ü/z.txt",
         "index.html", "a/index.html", "a/private/index.html")  # fmt: skip
# What is asked of each case: a row for each of these.
ASKED = {
    "": (*FILES, "a", "link.txt", "near/private/x.txt", "theirs.txt", "dangling.txt"),
    ", index": ("", "a/", "a/private/"),
    ", not there": ("{k}.ini/more.sta", "{k}.sta.bak/more.sta", "no/x.sta", "no.txt"),
}
LINKS = {"link.txt": "open.txt", "theirs.txt": "open.txt", "near": "a", "dangling.txt": "nowhere"}

DENY, GRANT, LOCAL = "Require all denied", "Require all granted", "Require local"
# Links: Options of the case's directory, and of the one below it.
OPTIONS = ("None", "All", "FollowSymLinks", "-FollowSymLinks", "SymLinksIfOwnerMatch", "Indexes",
    "-FollowSymLinks +SymLinksIfOwnerMatch", "MultiViews", "FollowSymLinks SymLinksIfOwnerMatch",
    "+SymLinksIfOwnerMatch")  # fmt: skip
# What each kind of section has for all that is a case's own.
WHOLE = {
    "Directory": "{d}", "DirectoryMatch": "^{d}", "Location": "{u}", "LocationMatch": "^{u}",
    "Files": "{k}.ini", "FilesMatch": "{k}",
}  # fmt: skip


def section(kind: str, arg: str, *lines: str) -> str:
    return block(f'{kind} "{arg}"', *lines)


def cases() -> Iterator[tuple[str, str]]:
    """(name, sections)"""
    for kind, lines in tables("patterns.txt").items():
        base = "" if kind.startswith("Files") else WHOLE[kind]
        for arg in " ".join(lines).replace('""', "").split(" "):
            yield f"{kind} {arg}", section(kind, base + arg, DENY)
    # By the name that was asked, and not by where its links lead.
    yield "real name", section("Directory", "{real}", DENY)
    yield "real name, all", section("Directory", "{real}/*", DENY)
    # What comes later counts: every kind with every other, in both orders.
    for first, second in product(WHOLE, WHOLE):
        texts = section(first, WHOLE[first], DENY), section(second, WHOLE[second], GRANT)
        yield f"{first} denied, {second} granted", "\n".join(texts)
    for name, longer in (("shorter after longer", "{d}/a/private"), ("same length", "{d}/a")):
        texts = section("Directory", longer, DENY), section("Directory", "{d}/*", GRANT)
        yield name, "\n".join(texts)
    for one, other in product((DENY, GRANT, LOCAL), repeat=2):
        yield f"{one}; {other}", section("Location", "{u}", one, other)
    for outer, inner in product(OPTIONS, ("", "None", "+FollowSymLinks", "-FollowSymLinks")):
        text = section("Directory", "{d}", f"Options {outer}")
        if inner:
            text += "\n" + section("Directory", "{d}/near", f"Options {inner}")
        yield f"Options {outer}, below {inner or 'as above'}", text
    for kind in ("Location", "DirectoryMatch", "FilesMatch"):
        yield f"Options None in {kind}", section(kind, WHOLE[kind], "Options None")
    # However an alias is written, a file has one name.
    private = section("Directory", "{d}/a/private", DENY)
    for to in ("/b/../a/", "/./a/", "//a/", "/a/./", "/nothing/../a/"):
        yield f"Alias to {to}", f'Alias "{{u}}/near/" "{{d}}{to}"\n{private}'
    for start, to in product(("/near/", "/nea"), ("/a/./$1", "/b/../a/$1", "//a//$1", "/a/.$1")):
        alias = f'AliasMatch "^{{u}}{start}(.*)" "{{d}}{to}"'
        yield f"AliasMatch {start} to {to}", f"{alias}\n{private}"
    # No program may run here: a file that is one gets 403, any other file is sent.
    for arg in (".sta", "STA", ".ini .sta", ".bak", ".{k}ht"):
        yield f"AddHandler {arg}", section("Directory", "{d}", f"AddHandler cgi-script {arg}")
    yield "AddHandler for a name", section("Files", "{k}.b.*", "AddHandler cgi-script .sta")
    yield "SetHandler for a name", section("FilesMatch", "{k}.*\\.sta$", "SetHandler cgi-script")
    yield "handler by name", section("FilesMatch", "{k}.*\\.sta", "SetHandler server-status")


def furnish(where: Path) -> None:
    """A case's directory: its files, and links to them."""
    tree(where, {file.replace("{k}", where.name): "text\n" for file in FILES})
    for link, target in LINKS.items():
        (where / link).symlink_to(target)
    if os.geteuid() == 0:
        os.lchown(where / "theirs.txt", 33, 33)


def ask(server: Side, tag: str, paths: Sequence[str]) -> str:
    """What paths of a case are answered with."""
    said = []
    with closing(Client(server)) as client:
        for path in paths:
            target = quote(f"/{tag}/{path.replace('{k}', tag)}", safe="/*[]")
            status, _, body = client.ask("GET", target)
            page = body != b"text\n" and status == 200
            said.append((path or "/", f"{status}{' page' * page}"))
    return grouped(said)


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all cases, or of one in `every`; `base` is an empty directory that the servers' users
    may enter."""
    site, link = base / "releases" / "1", base / "current"
    chosen = list(placed(list(cases())[::every], link, real=str(site)))
    for _, tag, _ in chosen:
        furnish(site / tag)
    link.symlink_to("releases/1")
    texts = (text.replace("\\", "\\\\") for *_, text in chosen)
    extra = "\n".join([f'DocumentRoot "{link}"', *texts])

    def asked() -> Iterable[Case]:
        for end, paths in ASKED.items():
            for name, tag, _ in chosen:
                yield name + end, partial(ask, tag=tag, paths=paths)

    with Pair("event", base, extra, modules=["cgid"]) as pair:
        return pair.rows("rules", asked())
