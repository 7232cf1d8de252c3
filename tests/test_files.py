"""Any administrator's httpd.conf starts: what mpmkit does not have is ignored, closed or refused, by name."""

import re
import shutil
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import printed_by, refused
from support.client import get
from support.configured import checked
from support.files import open_to_all
from support.files import tree as tree_of
from support.servers import serving, take_errors
from support.waiting import poll_until

from mpmkit.cli import httpd, httpd_info
from mpmkit.config.directives import ROWS, SPECS, DirectiveError
from mpmkit.config.httpd_conf import Source, read
from mpmkit.config.unsupported import FATES, IGNORED, QUIET, REFUSED, Foreign, _table, foreign

FOREIGN = sorted(_table().values())
PUBLIC = Path(__file__).parent / "data" / "conf" / "public"
FILES = sorted(file.stem for file in PUBLIC.glob("*.conf"))
WORDS_OF = re.split(r"(?m)^\[(.+)\]\n", (PUBLIC.parent / "main.txt").read_text())[1:]
MAIN = dict(zip(WORDS_OF[::2], WORDS_OF[1::2], strict=True))
REFUSED_OF = {"hosts by a macro": "Use is a directive of mod_macro that mpmkit does not have"}
DEBIAN = Path("/etc/apache2")


def test_the_table_names_each_directive_once_and_none_that_mpmkit_has():
    assert len({row.name.lower() for row in FOREIGN}) == len(FOREIGN) > 500
    assert not [row.name for row in FOREIGN if row.name.lower() in SPECS]
    assert foreign("rewriterule") == Foreign("RewriteRule", "mod_rewrite", IGNORED, "any")


@pytest.mark.parametrize("fate", FATES)
def test_every_directive_that_is_lacking_is_ignored_closed_or_refused(fate):
    """In a section where it may be in one, else at server level: never silently accepted."""
    for row in (row for row in FOREIGN if row.fate == fate):
        name = row.name.strip("<>")
        lines = [f"{name} some words"]
        if row.name.startswith("<"):
            lines = [f"<{name} some>", "Require all denied", f"</{name}>"]
        if row.where != "server":
            lines = ["<Directory /x>", "Require all granted", *lines, "</Directory>"]
        for strict in (True, False):
            text = "\n".join(lines)
            if fate == REFUSED or (strict and fate != QUIET):
                refused(DirectiveError, "mpmkit does not have", checked, text, strict=strict)
            else:
                notes = checked(text, strict=strict)[1]
                (note,) = [note for note in notes if row.name.rstrip(">") in note.text]
                quiet = fate == QUIET and row.name != "AllowOverride"
                assert note.level == ("debug" if quiet else "warn") and "(f:" in note.text


def test_one_warning_a_module():
    lines = [f"AddIcon /i{n}.gif .x{n}" for n in range(50)]
    lines += ["IndexOptions +FancyIndexing", "SetEnv A b"]
    texts = [note.text for note in checked("\n".join(lines))[1]]
    assert len(texts) == 2
    icons = "no effect in mpmkit (mod_autoindex): AddIcon, IndexOptions (51 lines, the first f:1)"
    assert texts[0] == icons
    # A RewriteRule that forbids is named.
    for line, named in {
        "RewriteRule .* - [F,L]": True, "RewriteRule ^/old - [NC,gone]": True, "RewriteRule a - [R=403]": True,
        "RewriteRule a b [R]": False, "RewriteRule a b": False,
    }.items():  # fmt: skip
        texts = [note.text for note in checked(line)[1]]
        assert any(line in text and "protects nothing" in text for text in texts) is named


@pytest.fixture
def tree(tmp_path, monkeypatch):
    open_to_all(tmp_path)
    names = "index.html staff/x.html people/x.html forms/x.html a.php a.bak a.media"
    tree_of(tmp_path / "www", dict.fromkeys(names.split(), "a page\n"))
    (tmp_path / "logs").mkdir()
    shutil.copytree(PUBLIC / "extra", tmp_path / "conf" / "extra")
    for file in PUBLIC.glob("*.conf"):
        shutil.copy(file, tmp_path)
    monkeypatch.setenv("SITE", str(tmp_path))
    return tmp_path


# What is answered, by path; a closed one is 403.
ANSWERS = {
    "shop": {"/index.html": 200, "/staff/x.html": 403, "/a.bak": 403, "/server-info": 403, "/.git/x": 403,
             "/.well-hidden": 404, "/old/x": 301, "/media/index.html": 200, "/media/a.bak": 403, "/a.php": 403},
    "proxy": {"/index.html": 200, "/balancer-manager": 403, "/a.php": 403, "/a.media": 403, "/a.bak": 403,
              "/staff/x.html": 403},
    "intranet": {"/index.html": 200, "/people/x.html": 403, "/forms/x.html": 200},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_public_files_start_protect_and_have_a_report(name, tree, capsys):
    with serving(None, conf=tree / f"{name}.conf", pool={}) as server:
        found = {path: get(server, path, version="HTTP/1.0").status for path in ANSWERS[name]}
        take_errors(server)  # what was denied
    assert found == ANSWERS[name]
    status = httpd.main(["-d", str(tree), "-t", "--report", f"{name}.conf"])
    out = capsys.readouterr().out
    assert status == 0 and ", 0 refused (lines)" in out
    assert all(fate in out for fate in ("    served   ", "    ignored  ", "    closed   "))


def main_file(kind: str, root: Path) -> tuple[Path, list[str]]:
    """A file of that kind, and the words of its first line."""
    for name in ("htdocs", "logs"):
        (root / name).mkdir(exist_ok=True)
    tree_of(root / "conf", {"mime.types": "text/plain txt\n", "magic": ""})
    first, rest = re.match(r"((?:.+\n )*.+)\n((?s:.*))", MAIN[kind]).groups()
    loaded = ["mpm_event", *(word for word in first.split() if word != "closed")]
    loads = "\n".join(f"LoadModule {one}_module modules/mod_{one}.so" for one in loaded)
    own = f'Define SITE {root}\nServerRoot "{root}"\nServerName main.example\nListen 8080\n'
    (root / "main.conf").write_text(f'{own}{loads}\nDocumentRoot "htdocs"\n{rest}')
    return root / "main.conf", first.split()


@pytest.mark.parametrize("kind", MAIN)
def test_main_files_of_each_kind_start(kind, tmp_path, capsys):
    file, words = main_file(kind, tmp_path)
    status, _, said = printed_by(httpd.main, ["-f", str(file), "-t"], capsys)
    if kind in REFUSED_OF:
        assert status == 1 and REFUSED_OF[kind] in said
    else:
        assert (status, said.splitlines()[-1]) == (0, "Syntax OK"), said
        assert ("answers 403" in said or "admits no client" in said) is ("closed" in words), said


@pytest.mark.rival
@pytest.mark.skipif(not DEBIAN.exists(), reason="no configuration of Debian (package apache2)")
def test_debians_own_file_starts(tmp_path, monkeypatch):
    """As installed, but for its port: the site that it has enabled answers."""
    open_to_all(tmp_path)
    shutil.copytree(DEBIAN, tmp_path / "apache2")
    site = tmp_path / "apache2" / "sites-enabled" / "000-default.conf"
    site.write_text(site.read_text().replace("*:80", "*"))
    values = {"RUN_DIR": tmp_path, "PID_FILE": tmp_path / "x.pid", "LOG_DIR": tmp_path,
              "RUN_USER": "www-data", "RUN_GROUP": "www-data"}  # fmt: skip
    for key, value in values.items():
        monkeypatch.setenv(f"APACHE_{key}", str(value))
    conf = tmp_path / "apache2" / "apache2.conf"
    with serving(None, conf=conf, pool={}) as server:
        assert get(server, "/").status in (200, 403, 404)
        assert get(server, "/server-status").status == 200
        log = tmp_path / "access.log"
        poll_until(lambda: '"GET /server-status' in log.read_text(), "it is in the site's own log")
        take_errors(server)


@pytest.mark.rival
@pytest.mark.skipif(not DEBIAN.exists(), reason="no configuration of Debian (package apache2)")
def test_whatever_debian_can_enable_is_read(tmp_path, monkeypatch, capsys):
    """All of its modules, sites and the rest at once; httpd itself would not take two MPMs."""
    for name in ("RUN_DIR", "LOG_DIR", "LOCK_DIR"):
        monkeypatch.setenv(f"APACHE_{name}", str(tmp_path))
    kinds = "mods-available/*.load", *(f"{of}-available/*.conf" for of in ("mods", "conf", "sites"))
    files = [file for kind in kinds for file in sorted(DEBIAN.glob(kind))]
    files = [file for file in files if not file.name.startswith("mpm_")]
    start = f"Listen 8080\nServerRoot {DEBIAN}\n"
    start += f"DocumentRoot {tmp_path}\nErrorLog {tmp_path}/log\nPidFile {tmp_path}/pid"
    (tmp_path / "all.conf").write_text("\n".join([start, *(f"Include {file}" for file in files)]))
    load = "LoadModule mpm_event_module x"
    status = httpd.main(["-t", "-f", str(tmp_path / "all.conf"), "-C", load])
    assert (status, len(files) > 100) == (0, True), capsys.readouterr().err


WORDS = ("x", "*", "On", "none", "all", "granted", "127.0.0.1:80", "[L,F]", '"a b"', "${x}", "~", "(", "-1",
         "from", "header=" + "9" * 400, "=~ /[^x]/", "|'", "a..b", "gone", "proxy:http://x")  # fmt: skip
NAMES = [spec.name for spec in ROWS] + [row.name for row in FOREIGN if row.name[0] != "<"]
CONTAINERS = ["Directory", "Files", "LocationMatch", "VirtualHost", "If", "Limit", "RequireAny", "IfModule",
              "IfVersion", "Proxy", "Macro"]  # fmt: skip
words = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
plain = st.tuples(st.sampled_from(NAMES), words).map(" ".join)
opening = st.tuples(st.sampled_from(CONTAINERS), words).map(lambda pair: f"<{' '.join(pair)}>")
closing = st.sampled_from(CONTAINERS).map(lambda name: f"</{name}>")


@hypothesis.settings(max_examples=200)
@given(st.lists(st.one_of(plain, plain, opening, closing, st.text(max_size=9)), max_size=12))
def test_no_lines_crash_the_reading_or_the_report(lines):
    """They are read, or refused with their places; and what was read has a report."""
    conf = read(Source("f", "\n".join(lines), mpm="event"), {})
    assert all(one.line >= 1 and str(one).startswith("f:") for one in conf.problems)
    assert "served" in httpd_info.report(conf)
    try:
        checked("\n".join(lines))
    except DirectiveError as error:
        assert error.problems and all(str(problem) for problem in error.problems)
