"""Who may have what, as sections, patterns and links decide it. The live comparison is in test_fidelity."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.calls import refused
from support.configured import checked
from support.files import section, tree

from mpmkit.cli.configuration import Configuration
from mpmkit.config import access
from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS
from mpmkit.config.httpd_conf import CONTAINERS, OBEYED, Source
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import DirectiveError, Section, Setting
from mpmkit.config.unsupported import CLOSED, REFUSED, _table, foreign
from mpmkit.handlers.sections import Sections, forbidden_link
from mpmkit.handlers.static import by_extension
from mpmkit.measure.reference_servers import module_directory
from tests.fidelity.compare_conf import ADDRESSES

SECTIONS = {
    "Directory": ("/srv", "/other"), "DirectoryMatch": ("^/srv/a", "^/other"), "Files": ("*.txt", "*.html"),
    "FilesMatch": ("txt$", "html$"), "Location": ("/a", "/b"), "LocationMatch": ("^/a", "^/b"),
}  # fmt: skip


def answers(*lines: str, client: str = "203.0.113.9", scheme: str = "http") -> int:
    """403 if a request for /a/x.txt is refused under these lines, else 0."""
    directives, notes = checked("\n".join(lines))
    answers.notes = [note.text for note in notes]  # type: ignore[attr-defined]
    rule = Sections(directives).config_for("/a/x.txt", "/srv/a/x.txt").access
    conn = SimpleNamespace(peer=(client, 1), local=("192.0.2.1", 80), scheme=scheme)
    admitted = rule.admits_all or rule.admits(SimpleNamespace(method="GET"), conn)  # type: ignore[arg-type]
    return 0 if admitted else 403


# Each directive of httpd that restricts access, by itself or with a Require.
RESTRICTS = [
    *(f"Require {kind} x" for kind in access.CLOSED_REQUIREMENTS),
    "Require all denied", "Require local", "Require ip 10", "Require host example.org", "Require method PUT",
    "Require env nothing", "Require ssl", "Order allow,deny\nAllow from 10", "Order allow,deny",
    "Order mutual-failure", "Deny from all", "Deny from 203.0.113", "Deny from env=!x", "AllowMethods PUT",
    "SSLRequireSSL", "AuthMerging And\nRequire all denied", "Satisfy All\nRequire all denied", "RemoveHandler .x",
    "SSLVerifyClient require", "SSLRequire true", "AuthType Basic", "<Limit GET>\nRequire all denied\n</Limit>",
    "<LimitExcept PUT>\nRequire all denied\n</LimitExcept>",
    "<RequireAny>\nRequire valid-user\nRequire local\n</RequireAny>",
    *(f"<RequireAll>\nRequire all granted\n{line}\n</RequireAll>" for line in (
        "Require not ip 203.0.113.9", "Require not user x", "Require not expr true",
        "<RequireNone>\nRequire user x\n</RequireNone>")),
    "<ElseIf true>\nDeny from all\n</ElseIf>", "<Else>\nAllowMethods GET\n</Else>",
    *(f"<If true>\n{line}\n</If>" for line in (
        "Require all granted", "Redirect 403 /", "RedirectMatch gone .", "AddType application/x-httpd-php .x",
        "<Files x>\nRequire local\n</Files>")),
    "<If \"%{HTTP_HOST} =~ /[^x]/\">\nRequire all denied\n</If>",
    "<Files *.txt>\nRequire all denied\n</Files>", "<FilesMatch x>\nRequire user y\n</FilesMatch>",
    # How users are found says nothing by itself: with what asks for one it is closed.
    *(f"<{row.name[1:-1]} x>\n</{row.name[1:]}" if row.name[0] == "<" else
      f"{row.name} some" + "\nRequire valid-user" * (row.name.lower() not in access.CLOSED)
      for row in _table().values() if row.fate == CLOSED and (row.name[0] == "<" or row.where != "server")),
]  # fmt: skip


@pytest.mark.parametrize("lines", RESTRICTS, ids=lambda text: text.replace("\n", " "))
def test_every_directive_that_restricts_does_so_in_each_kind_of_section(lines):
    """Or it is refused at the start, as httpd refuses it: a <Files> in a <Files> or a <Location>."""
    text = lines.replace("SSLVerifyClient some", "SSLVerifyClient require")
    for kind, args in SECTIONS.items():
        here, elsewhere = (section(f'{kind} "{arg}"', text) for arg in args)
        if lines.startswith("<Files") and not kind.startswith("Directory"):
            refused(DirectiveError, "is inside the", answers, here)
        else:
            assert (answers(here), answers(elsewhere)) == (403, 0), kind


# Modules that others need.
FIRST = "mpm_event proxy dav session cache slotmem_shm socache_shmcb ldap dbd authn_core ssl xml2enc".split()
# What by its module or name might restrict, and neither admits nor refuses a client.
HARMLESS = set(
    """AuthName AuthDigestShmemSize AuthLDAPCharsetConfig AuthnCacheSOCache AuthnCacheEnable AuthnCacheContext
    AuthnCacheProvideFor AuthnCacheTimeout AuthnzFcgiDefineProvider MDRequireHttps
    <AuthnProviderAlias <AuthzProviderAlias""".split()
)


@pytest.mark.rival
def test_what_the_installed_httpd_has_to_restrict_access_is_restricted_or_refused(httpd, tmp_path):
    """Of all modules that are installed: `apache2 -L` names the directives."""
    static = re.findall(r"mod_(\w+)\.c", subprocess.check_output([httpd, "-l"], text=True))
    files = sorted(Path(module_directory(httpd)).glob("mod_*.so"))
    there = {file.stem.removeprefix("mod_"): file for file in files}
    names = dict.fromkeys((*FIRST, *(name for name in there if not name.startswith("mpm_"))))
    dynamic = [name for name in names if name in there.keys() - {*static}]
    lines = [f"LoadModule {name}_module {there[name]}" for name in dynamic]
    (tmp_path / "f").write_text("\n".join([f"ServerRoot {tmp_path}", "ErrorLog log", *lines]))
    listed = subprocess.check_output([httpd, "-f", tmp_path / "f", "-L"], text=True)
    found = re.findall(r"(?m)^([<A-Za-z]\S*) \((\S+)\)$", listed)
    known = SPECS.keys() | OBEYED.keys() | {f"<{name}" for name in CONTAINERS}
    unknown = [name for name, _ in found if name.lower() not in known and foreign(name) is None]
    assert len(found) > 300 and not unknown
    tried = {name for text in RESTRICTS for name in re.findall(r"(?m)^<?\w+", text.lower())}
    words = (
        r"(?i)mod_(auth|access_compat|allow)|require|verifyclient|hook(acc|auth|check)|stricthost"
    )
    some = [name for name, module in found if re.search(words, f"{name} {module}")]
    assert len(some) > 30
    for name in some:
        row = foreign(name)
        assert name in HARMLESS or name.lower() in tried or (row and row.fate == REFUSED), name


@pytest.mark.parametrize(("variable", "rules", "status"), [
    ("SetEnvIf User-Agent x bad=1", "Require not env bad", 403),
    ("SetEnvIf User-Agent x y", "Require not env bad", 0),
    ("BrowserMatch x !bad", "Require not env bad", 403), ("SetEnvIfExpr true bad", "Require not env bad", 403),
    ("RewriteRule x y [L,E=bad:1]", "Require not env bad", 403),
    ("RewriteRule x y [L]", "Require not env bad", 0), ("", "Require not env bad", 0),
    ("", "Require not env REDIRECT_STATUS", 403), ("RemoteIPHeader X-Forwarded-For", "Require not ip 10", 403),
    ("RemoteIPHeader X-Forwarded-For", "Require ip 203.0.113.9", 403), ("", "Require ip 203.0.113.9", 0),
    ("RemoteIPHeader X-Forwarded-For", "Require not local", 403), ("", "Require not host %{HTTP_HOST}", 403),
])  # fmt: skip
def test_what_another_module_would_know_of_a_client_is_not_guessed(variable, rules, status):
    granted = ["Require all granted"] * (" not " in rules)
    given = answers(variable, section("Location /", section("RequireAll", *granted, rules)))
    assert given == status
    compat = {"bad": "Deny from env=bad", "10": "Deny from 10", "local": "Deny from example.org"}
    if line := compat.get(rules.split()[-1]):
        assert answers(variable, section("Location /", line)) == status


@pytest.mark.parametrize(("line", "status"), [
    ("SSLRequireSSL", 403), ("Require ssl", 403), ("SSLRequireSSL\nAllowMethods reset", 403),
    *((line, 0) for line in (
        "<If true>\nHeader set A b\n</If>", "<If true>\nRedirect 301 / https://x/\n</If>", "AuthType None",
        "SSLVerifyClient optional", "AuthMerging Off")),
])  # fmt: skip
def test_what_is_for_tls_alone_and_what_restricts_nothing(line, status):
    rule = section("Location /", line)
    assert answers(rule) == status and answers(rule, scheme="https") == 0
    # What closes the whole site.
    for whole in ("SSLVerifyClient require", "LuaHookAccessChecker /x.lua y"):
        assert answers(whole, section("Location /", "Require all granted")) == 403
        assert any(whole in note and note.startswith("closed: ") for note in answers.notes)


def test_the_error_log_says_once_what_is_closed(tmp_path):
    rules = dict.fromkeys((".rules", "a/.rules", "a/b/.rules"), "Require all denied\n")
    root, log = tree(tmp_path / "site", rules), tmp_path / "log"
    lines = ["LoadModule mpm_event_module x", f"DocumentRoot {root}", f"ErrorLog {log}",
             "AccessFileName .htaccess .rules",
             section(f"Directory {root}/*", "AllowOverride AuthConfig", "Require valid-user"),
             section("DirectoryMatch /a/b", "AllowOverride None")]  # fmt: skip
    service = Configuration(Source("f", "\n".join(lines))).service()
    service.logs.close()
    (line,) = log.read_text().splitlines()
    assert "[authz_core:warn]" in line and line.endswith(
        "closed: Require valid-user admits no client, because mpmkit has no authentication (f:7)"
    )
    (unread,) = [note.text for note in service.notes if note.text.startswith("not read")]
    assert unread.endswith(f" {root}/a/.rules")


@pytest.mark.parametrize(("text", "client", "within"), [
    ("10", "10.9.8.7", True), ("10.", "10.9.8.7", True), ("10.1", "10.10.0.1", False),
    ("10.1.2.3", "10.1.2.3", True), ("10.1.2.3", "10.1.2.4", False),
    ("10.0.0.1/8", "10.255.0.0", True), ("10.0.0.0/255.0.255.0", "10.9.0.9", True),
    ("10.0.0.0/255.0.255.0", "10.9.1.9", False), ("::1", "::1", True), ("010.01", "10.1.0.0", True),
    ("2001:db8::/33", "2001:db8:8000::1", False), ("2001:db8::/32", "2001:db8:8000::1", True),
    ("10.1.2.3", "::ffff:10.1.2.3", True), ("0", "::1", False),
    *((text, "", None) for text in (*ADDRESSES[20:], "1e3", "1" * 5000)),  # httpd refuses these, too
])  # fmt: skip
def test_subnets(text, client, within):
    rule = section("Location /", f"Require ip {text}")
    if within is None:
        refused(DirectiveError, "Require", answers, rule)
    else:
        assert answers(rule, client=client) == (0 if within else 403)


@pytest.mark.parametrize(("kind", "args", "says"), [
    *(("FilesMatch", text, text) for text in (
        r"\Qa\E", r"\h", r"\R", r"(?'n'a)", r"\101", r"\k<n>", "(?#a)", r"\G", r"\p{L}", "(?R)",
        "(?|a|b)", "(*UTF8)a", r"a\Kb", "(?x) a", "(?m)^a", "a{,2}", "(?(1)a|b)", r"\cA", r"(a)\12",
        r"\x{100}", "[[:alfa:]]", "[[.a.]]", "[[:^alpha:]]", r"[\Qa\E]")),
    ("FilesMatch", r"[\d-z]", "a range"), ("FilesMatch", "[a-\\d]", "a range"),
    ("FilesMatch", "(?<=a|bc)d", "look-behind"), ("LocationMatch", "(", "parenthesis"),
    ("LocationMatch", "a)", "parenthesis"), ("LocationMatch", "[a", "bracket"),
    ("FilesMatch", "(?i)a(?-i)b", "twice"), ("DirectoryMatch", "*", "repeat"),
    ("DirectoryMatch", "a\\", "\\"), ("FilesMatch", "[b-a]", "range"),
    ("Directory", "/srv/[]a]", "begins no class"), ("Files", "[[]*", "begins no class"),
    ("Directory", "srv/private", "absolute"), ("Directory", "*", "absolute"),
])  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused_with_its_place(kind, args, says):
    """A rule that matches nothing would protect nothing. `-t` says so, and names the line."""
    rule = Section(kind, args, (Setting("Require", ("all", "denied")),), "httpd.conf", 7)
    with pytest.raises(DirectiveError) as error:
        check("event", (), [rule])
    text = str(error.value)
    assert text.startswith(f"httpd.conf:7: <{kind} {args}> ") and says in text
    assert error.value.directive == kind


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    ("a(?i)b|c", "aB C", "Ab B"), ("(a(?i)b|c)d", "aBd Cd", "aBD"), ("^(?i:a)b$", "Ab", "aB ab\n"),
    (r"^a\z", "a", "a\n"), (r"^a\Z", "a a\n", "a\n\n"),
    ("^a$", "a", "a\n"), ("^a.b$", "a\nb", "ab"), ("^[[:punct:]]+$", "!-/ []^_` {|}~", "a"),
    ("^[^[:space:]x]$", "a", "x \v"), (r"^(?<n>a)\1(?P<m>b)\2$", "aabb", "aab"),
    ("^a{2}{x$", "aa{x", "aax"), (r"^\x41{2}\x{42}\e$", "AAB\x1b", "AB\x1b"),
    ("^é+$", "é", "éé"), (r"^[a\]b-]+$", "a]-b", "c"), (r"^\w$", "a", "é"), ("^(?>a+)b", "aab", "aa"),
    ("^a++a", "", "aaa"),
])  # fmt: skip
def test_expressions_mean_what_pcre_means(pattern, yes, no):
    """Blanks separate the texts."""
    search = section_pattern("FilesMatch", pattern).search
    found = [text for text in f"{yes} {no}".split(" ") if text and search(os.fsencode(text))]
    assert found == [text for text in yes.split(" ") if text]


def test_a_directory_is_named_in_one_way_and_a_handler_by_extensions():
    names = {"/srv": "/srv/", "//srv//./b/../c": "/srv/c/", "/..": "/", "/srv/*/../a": "/srv/a/"}
    assert {arg: canonical(arg) for arg in names} == names
    handlers = {"b.CGI": "cgi", "b.cgi.bak": "cgi", "b.cgi.py": "wsgi", "..cgi": None,
                "b.cgi/c": None, "b.cgix": None, ".b.cgi": "cgi"}  # fmt: skip
    known = {".cgi": "cgi", ".py": "wsgi"}
    assert {name: by_extension(f"/srv/{name}", known) for name in handlers} == handlers


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_rule_for_a_name_of_another_alphabet_holds_whatever_the_locale(utf8, tmp_path):
    """A name is bytes, in the file and in a request."""
    program = """
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
    kinds = ("Location /ü", "LocationMatch ^/ü/", "Directory /srv/ü", 'Directory "/srv/[!a]*"')
    text = "\n".join(section(kind, "Require all denied") for kind in kinds)
    (tmp_path / "f").write_text(text, encoding="utf-8")
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, str(tmp_path / "f")]
    said = subprocess.check_output(command, env=env, text=True, stderr=subprocess.STDOUT)
    assert said == f"{[True] * 4}\n"


def test_links_are_asked_for_only_where_a_rule_forbids_them(tmp_path):
    """The usual configuration costs nothing; a forbidden link is found at whatever depth it stands."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    usual, none = (Sections(checked(text)[0]).watched for text in (
        "", section(f"Directory {tmp_path}", "Options None")))  # fmt: skip
    assert usual(f"{tmp_path}/link/sub/x") == none("/elsewhere/x") == []
    watched = none(f"{tmp_path}/link/sub/x")
    assert watched[0] == (f"{tmp_path}/link", False) and len(watched) == 3
    assert forbidden_link(watched) == f"{tmp_path}/link"
    assert forbidden_link(none(f"{tmp_path}/real/sub/x")) is None
