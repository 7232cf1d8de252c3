"""Who may have what: sections of every kind, with wild cards, expressions and links, asked of both.

One file with all sections, one directory for each of them: `{d}` is a case's directory, `{u}` its URL
path, `{k}` its name, which is part of its files' names, too. The document root is a symbolic link, so
that every case also tells whether rules are by the name that was asked.
"""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from mpmkit.measure.reference_servers import find_httpd, load_lines
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import Pair, Side

FILES = ("open.txt", "{k}.ini", "{k}.b.STA", "{k}.sta.bak", ".{k}ht", "a/private/x.txt", "b/private/x.txt",
         "a/.git/config", "a/b/private/x.txt", "x*y/z.txt", "a[1]/z.txt", "ü/z.txt",
         "index.html", "a/index.html", "a/private/index.html")  # fmt: skip
# What is asked of each case: a row for each of these.
ASKED = {
    "": (*FILES, "a", "link.txt", "near/private/x.txt", "theirs.txt", "dangling.txt"),
    ", index": ("", "a/", "a/private/"),
    ", not there": ("{k}.ini/more.sta", "{k}.sta.bak/more.sta", "no/x.sta", "no.txt"),
}

DENY, GRANT, LOCAL = "Require all denied", "Require all granted", "Require local"

# <Directory>: what stands behind the case's own directory.
DIRECTORIES = ("", "/", "/a", "/a/", "/a/private", "/*/private", "/?/private", "/[ab]/private", "/[!a]/private",
    "/[^a]/private", "/*", "/*/*", "/a*", "/*a", "//a//private", "/a/../b", "/./a", "/b/../a/private/", "/a/*",
    "/[a-b]", "/[b-a]", "/[]a]", "/[a", "/a]", r"/\a", r"/[\a]", "/a?b", "/*/*/private", "/**", "/.*", "/?",
    "/x*y", r"/x\*y", r"/x\**", "/a[1]", r"/a\[1\]", "/a[[]1]", "/a/.*", "/??", "/ü", "/*/../a", "/[/]a",
    "/near", "/near/private", "/near/*", "/a/private/x.txt", "/[!]a]", "/[a-]", "/[--b]", "/a/b/pr*e",
    "/A", "/a/*/private", "/[a-", "/[!]", "/*/x.txt")  # fmt: skip
# <DirectoryMatch>: an expression for the directory below the case's own.
DIRECTORY_EXPRESSIONS = ("", "/", "$", "/$", "/a", "/a$", "/a/", "/a/$", "/.*/\\.git/", "/.*/\\.git$",
    "/.+/private",
    "/a/(?!private)", "/(a|b)/private/", "/[[:alpha:]]/", "/near/", "/open", "/.*\\.txt$",
    "/a/private/x")  # fmt: skip
# <Location>
LOCATIONS = ("", "/", "/a", "/a/", "/*/private", "/*/private/*", "/*/private/", "/a/private", "/?", "/?/", "/a*",
    "//a", "/./a", "/a/../b", "/[ab]/private/x.txt", "/[!a]/private/x.txt", "/*.txt", "/*", "/*/*", "/*/*/*",
    "/a//private", "/a/private/", "/near", "/ü", "/??/z.txt", "/x*y", r"/x\*y", "/.{k}ht", "/a%5b1]",
    "/open.tx", "/open.txt/", "/no", "/[a", r"/\a")  # fmt: skip
LOCATION_EXPRESSIONS = ("", "/a", "/a$", "/a/$", "//a", "/[^/]+/private", "/(?i)A/", "/.*\\.txt$",
    "/a(?i)/PRIVATE|never",
    "/(?<n>a)/", "/\\Q.\\E", "/[[:lower:]]/", "/open\\.txt\\z", "/open\\.txt\\Z", "/(?:a|b)/private",
    "/(?>a)/private",
    "/a/\\.git", "/\\w+/x", "/[\\w*]+/z", "/\\x61/", "/..?/z", "/[[:^alpha:]]", "/(a)/\\1", "/\\Ba", "/\\ba\\b",
    "/[\\]a]/", "/[]a]/", "/[^]a]/", "/a{1}/", "/a{1,}/", "/a++/", "/[a-b]/", "/\\N+private", "/\\S\\H/",
    "/(?i:A)/", "/((?i)A|B)/private", "/a(?#why)/", "/(?s).*x\\.", "/[\\x61-\\x62]/", "/\\141", "/(?'n'a)/",
    "/(?P<n>a)/", "/(?=a)", "/(?!a).*/private", "/.*(?<=private)/x", "/[[:alnum:]._]+$")  # fmt: skip
# <Files>, <FilesMatch>
NAMES = ("{k}.ini", "{k}.*", "{k}.???", "{k}.[hi]ni", "{k}.[!h]ni", "*{k}*", ".{k}*", "?{k}ht", "{k}",
    "*{k}.ini", r"{k}\.ini", "{k}.INI", "{k}.ini/", "*{k}.*.*", "[k]*{k}ini")  # fmt: skip
NAME_EXPRESSIONS = ("{k}", "^{k}", "{k}\\.ini$", "^\\.{k}", "(?i){k}\\.INI", "{k}\\.(ini|bak)$",
    "{k}\\.[[:alpha:]]+$",
    "\\Q{k}.\\Eini", "(?<n>{k})\\.ini\\z", "x(?i)y|{k}\\.ini", "{k}\\.ini{{1}}$", "{k}.*(?<!ini)$",
    "^{k}\\.[^.]*$", "{k}\\.\\w*$", "{k}\\.(?i)STA")  # fmt: skip
# Links: Options of the case's directory, and of the one below it.
OPTIONS = ("None", "All", "FollowSymLinks", "-FollowSymLinks", "SymLinksIfOwnerMatch", "Indexes",
    "-FollowSymLinks +SymLinksIfOwnerMatch", "MultiViews", "FollowSymLinks SymLinksIfOwnerMatch",
    "+SymLinksIfOwnerMatch")  # fmt: skip


def section(kind: str, arg: str, *lines: str) -> str:
    return "\n".join([f'<{kind} "{arg}">', *lines, f"</{kind}>"])


def cases() -> Iterator[tuple[str, str]]:
    """(name, sections)"""
    for arg in DIRECTORIES:
        yield f"Directory {arg}", section("Directory", "{d}" + arg, DENY)
    for kind, base, args in (
        ("DirectoryMatch", "^{d}", DIRECTORY_EXPRESSIONS), ("Location", "{u}", LOCATIONS),
        ("LocationMatch", "^{u}", LOCATION_EXPRESSIONS), ("Files", "", NAMES),
        ("FilesMatch", "", NAME_EXPRESSIONS),
    ):  # fmt: skip
        for arg in args:
            text = arg.replace("{{", "{").replace("}}", "}") if kind == "FilesMatch" else arg
            yield f"{kind} {text}", section(kind, base + text, DENY)
    # By the name that was asked, and not by where its links lead.
    yield "real name", section("Directory", "{real}", DENY)
    yield "real name, all", section("Directory", "{real}/*", DENY)
    # What comes later counts: every kind with every other, in both orders.
    one = {
        "Directory": "{d}", "DirectoryMatch": "^{d}", "Files": "{k}.ini", "FilesMatch": "{k}",
        "Location": "{u}", "LocationMatch": "^{u}",
    }  # fmt: skip
    for first, second in product(one, one):
        yield (
            f"{first} denied, {second} granted",
            section(first, one[first], DENY) + "\n" + section(second, one[second], GRANT),
        )
    yield (
        "shorter after longer",
        section("Directory", "{d}/a/private", DENY) + "\n" + section("Directory", "{d}/*", GRANT),
    )
    yield (
        "same length",
        section("Directory", "{d}/a", DENY) + "\n" + section("Directory", "{d}/*", GRANT),
    )
    for lines in product((DENY, GRANT, LOCAL), repeat=2):
        yield f"{lines[0]}; {lines[1]}", section("Location", "{u}", *lines)
    for outer, inner in product(OPTIONS, ("", "None", "+FollowSymLinks", "-FollowSymLinks")):
        text = section("Directory", "{d}", f"Options {outer}")
        if inner:
            text += "\n" + section("Directory", "{d}/near", f"Options {inner}")
        yield f"Options {outer}, below {inner or 'as above'}", text
    for kind, arg in (("Location", "{u}"), ("DirectoryMatch", "^{d}"), ("FilesMatch", "{k}")):
        yield f"Options None in {kind}", section(kind, arg, "Options None")
    # A program may not be run here: what is one is 403, what is none is sent.
    for arg in (".sta", "STA", ".ini .sta", ".bak", ".{k}ht"):
        yield f"AddHandler {arg}", section("Directory", "{d}", f"AddHandler cgi-script {arg}")
    yield "AddHandler for a name", section("Files", "{k}.b.*", "AddHandler cgi-script .sta")
    yield "SetHandler for a name", section("FilesMatch", "{k}.*\\.sta$", "SetHandler cgi-script")
    yield "handler by name", section("FilesMatch", "{k}.*\\.sta", "SetHandler server-status")


def build(base: Path) -> tuple[str, list[tuple[str, str]]]:
    """The site below `base`; the sections of all cases, and each case's name with its tag."""
    site = base / "releases" / "1"
    texts, names = [], []
    for number, (name, text) in enumerate(cases()):
        tag = f"k{number:03d}"
        where = site / tag
        for file in FILES:
            path = where / file.replace("{k}", tag)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text\n")
        for link, target in (("link.txt", "open.txt"), ("theirs.txt", "open.txt"), ("near", "a"),
                             ("dangling.txt", "nowhere")):  # fmt: skip
            (where / link).symlink_to(target)
        if os.geteuid() == 0:
            os.lchown(where / "theirs.txt", 33, 33)
        values = {
            "{d}": str(base / "current" / tag),
            "{u}": f"/{tag}",
            "{k}": tag,
            "{real}": str(where),
        }
        for key, value in values.items():
            text = text.replace(key, value)
        texts.append(text.replace("\\", "\\\\"))
        names.append((name, tag))
    (base / "current").symlink_to("releases/1")
    return f'DocumentRoot "{base / "current"}"\n' + "\n".join(texts), names


def ask(server: Side, tag: str, paths: Sequence[str]) -> str:
    """What paths of a case are answered with: `status: paths; status: paths`."""
    found: dict[str, list[str]] = {}
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(client):
        for path in paths:
            asked = f"/{tag}/{path.replace('{k}', tag)}"
            client.request(
                "GET", "".join(f"%{b:02x}" if b > 127 else chr(b) for b in asked.encode())
            )
            reply = client.getresponse()
            body = reply.read()
            kind = "" if reply.status != 200 or body == b"text\n" else " page"
            found.setdefault(f"{reply.status}{kind}", []).append(path or "/")
    return "; ".join(f"{answer}: {' '.join(paths)}" for answer, paths in sorted(found.items()))


def rows(base: Path, every: int = 1) -> list[Row]:
    """The rows of all cases, or of one in `every`; `base` is an empty directory that the servers' users
    may enter."""
    text, names = build(base)
    names = names[::every]
    extra = "\n".join([*load_lines(find_httpd(), ["cgid"]), text])
    found = []
    with Pair("event", base, extra) as pair, ThreadPoolExecutor(2) as pool:
        for end, paths in ASKED.items():
            answers = [
                pool.map(lambda named, side=side, paths=paths: ask(side, named[1], paths), names)
                for side in pair.sides
            ]
            for (name, _), httpd, ours in zip(names, *answers, strict=True):
                found.append(Row("rules", name + end, httpd, ours))
    return found
