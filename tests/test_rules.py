"""Sections, patterns and links: who may have what. The real httpd is the judge in test_fidelity."""

import os
import subprocess
import sys

import pytest

from mpmkit.config.checks import check
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import DirectiveError, Section, Setting
from mpmkit.handlers.names import by_extension
from mpmkit.handlers.sections import Sections, forbidden_link


def rules(*sections: Section) -> Sections:
    return Sections(check("event", (), sections)[0])


@pytest.mark.parametrize(("kind", "arg", "says"), [
    ("FilesMatch", r"\p{L}", r"\p"), ("FilesMatch", "(?R)", "(?R"), ("FilesMatch", "(?|a|b)", "(?|"),
    ("FilesMatch", "(*UTF8)a", "(*"), ("FilesMatch", r"a\Kb", r"\K"), ("FilesMatch", "(?x) a", "(?x"),
    ("FilesMatch", "(?m)^a", "(?m"), ("FilesMatch", "a{,2}", "{,"), ("FilesMatch", "(?(1)a|b)", "(?("),
    ("FilesMatch", r"[\d-z]", "a range"), ("FilesMatch", "[a-\\d]", "a range"),
    ("FilesMatch", r"\x{100}", r"\x{"),
    ("FilesMatch", "[[:alfa:]]", "[:alfa:]"), ("FilesMatch", "[[.a.]]", "[."), ("FilesMatch", r"\G", r"\G"),
    *(("FilesMatch", text, text) for text in (r"\Qa\E", r"\h", r"\R", r"(?'n'a)", r"\101", r"\k<n>", "(?#a)")),
    ("FilesMatch", "[[:^alpha:]]", "[:"), ("FilesMatch", r"[\Qa\E]", r"\Q"), ("FilesMatch", r"(a)\12", r"\12"),
    ("FilesMatch", "(?<=a|bc)d", "look-behind"),
    ("LocationMatch", "(", "parenthesis"), ("LocationMatch", "a)", "parenthesis"),
    ("LocationMatch", "[a", "bracket"),
    ("FilesMatch", "(?i)a(?-i)b", "twice"), ("FilesMatch", r"\cA", r"\c"), ("DirectoryMatch", "*", "repeat"),
    ("DirectoryMatch", "a\\", "\\"), ("FilesMatch", "[b-a]", "range"),
    ("Directory", "/srv/[]a]", "begins no class"), ("Files", "[[]*", "begins no class"),
    ("Directory", "srv/private", "absolute"), ("Directory", "*", "absolute"),
])  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused_with_its_place(kind, arg, says):
    """A rule that matches nothing would protect nothing. `-t` says so, and names the line."""
    section = Section(kind, arg, (Setting("Require", ("all", "denied")),), "httpd.conf", 7)
    with pytest.raises(DirectiveError) as refused:
        check("event", (), [section])
    text = str(refused.value)
    assert text.startswith(f"httpd.conf:7: <{kind} {arg}> ") and says in text
    assert refused.value.directive == kind


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    ("a(?i)b|c", "aB C", "Ab B"), ("(a(?i)b|c)d", "aBd Cd", "aBD"), ("^(?i:a)b$", "Ab", "aB ab\n"),
    (r"^a\z", "a", "a\n"), (r"^a\Z", "a a\n", "a\n\n"),
    ("^a$", "a", "a\n"), ("^a.b$", "a\nb", "ab"), ("^[[:punct:]]+$", "!-/ []^_` {|}~", "a"),
    ("^[^[:space:]x]$", "a", "x \v"), (r"^(?<n>a)\1(?P<m>b)\2$", "aabb", "aab"),
    ("^a{2}{x$", "aa{x", "aax"), (r"^\x41\x{42}\e$", "AB\x1b", "Ab\x1b"),
    ("^é+$", "é", "éé"), (r"^[a\]b-]+$", "a]-b", "c"), (r"^\w$", "a", "é"), ("^(?>a+)b", "aab", "aa"),
    ("^a++a", "", "aaa"),
])  # fmt: skip
def test_expressions_mean_what_pcre_means(pattern, yes, no):
    """Blanks separate the texts."""
    search = section_pattern("FilesMatch", pattern).search
    assert [text for text in yes.split(" ") if text and not search(os.fsencode(text))] == []
    assert [text for text in no.split(" ") if text and search(os.fsencode(text))] == []


def test_a_directory_is_named_in_one_way():
    names = {
        "/srv": "/srv/", "//srv//a/./b/../c/": "/srv/a/c/", "/": "/", "/..": "/",
        "/srv/*/../a": "/srv/a/",
    }  # fmt: skip
    assert {arg: canonical(arg) for arg in names} == names


def test_handlers_by_extension():
    handlers = {
        "b.CGI": "cgi", "b.cgi": "cgi", "b.Py": "wsgi", "b.cgi.bak": "cgi", "b.cgi.py": "wsgi", "b.txt": None,
        "cgi": None, ".cgi": None, "..cgi": None, "b.cgi/c": None, "b.cgix": None, ".b.cgi": "cgi",
    }  # fmt: skip
    known = {".cgi": "cgi", ".py": "wsgi"}
    assert {name: by_extension(known, f"/srv/{name}") for name in handlers} == handlers


ALPHABETS = """
import sys
from mpmkit.config.checks import check
from mpmkit.config.httpd_conf import Source, read
from mpmkit.handlers.sections import Sections
from mpmkit.http.target import split_target
conf = read(Source(sys.argv[1], mpm="event"))
rules = Sections(check("event", conf.settings, conf.sections)[0]).rules
path, _ = split_target("GET", b"/%C3%BC/x")
print([rule.is_for(path, "/srv" + path) for rule in rules])
"""


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_rule_for_a_name_of_another_alphabet_holds_whatever_the_locale(utf8, tmp_path):
    """A name is bytes, in the file and in a request."""
    kinds = ("Location /ü", "LocationMatch ^/ü/", "Directory /srv/ü", 'Directory "/srv/[!a]*"')
    text = "".join(f"<{kind}>\nRequire all denied\n</{kind.split()[0]}>\n" for kind in kinds)
    (tmp_path / "f").write_text(text, encoding="utf-8")
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", ALPHABETS, str(tmp_path / "f")]
    said = subprocess.check_output(command, env=env, text=True, stderr=subprocess.STDOUT)
    assert said == f"{[True] * 4}\n"


def test_links_are_asked_for_only_where_a_rule_forbids_them(tmp_path):
    """The usual configuration costs nothing; a forbidden link is found at whatever depth it stands."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert rules().watched(f"{tmp_path}/link/sub/x") == []
    options = Setting("Options", ("None",))
    none = rules(Section("Directory", str(tmp_path), (options,)))
    watched = none.watched(f"{tmp_path}/link/sub/x")
    assert watched[0] == (f"{tmp_path}/link", False) and len(watched) == 3
    assert forbidden_link(watched) == f"{tmp_path}/link"
    assert forbidden_link(none.watched(f"{tmp_path}/real/sub/x")) is None
    assert none.watched("/elsewhere/x") == []
