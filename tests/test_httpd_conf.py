"""httpd.conf: the article's blocks, the language's rules, and errors that name file and line."""

import os
import re
from pathlib import Path

import pytest
from support.calls import refused
from support.configured import checked
from support.files import section, tree

from mpmkit.cli.configuration import validate_environment
from mpmkit.config.checks import check
from mpmkit.config.directives import DirectiveError, Setting
from mpmkit.config.httpd_conf import Conf, Source
from mpmkit.config.httpd_conf import read as read_source
from mpmkit.config.keywords import from_keywords
from mpmkit.config.unsupported import BUILT_IN, WITHOUT_DIRECTIVES, lacking_modules

# The three blocks of the article, as a reader pastes them: no LoadModule, no Listen.
ARTICLE = (Path(__file__).parent / "data" / "article.conf").read_text()


def read(file: object, environ: dict[str, str] | None = None, **options) -> Conf:
    """The configuration of a file, or of a text; its mistakes are raised."""
    source = Source(str(file), **options)
    conf = read_source(source) if environ is None else read_source(source, environ)
    if conf.problems:
        raise DirectiveError.of(conf.problems)
    return conf


def parse(text: str, environ: dict[str, str] | None = None, **options) -> Conf:
    return read("httpd.conf", environ, text=text, **options)


def plain(conf: Conf) -> list[tuple[str, ...]]:
    """The settings as (name, word, ...)."""
    return [(setting.name, *setting.args) for setting in conf.settings]


def written(folder: Path, files: dict[str, str]) -> Path:
    """The first of these files."""
    return tree(folder, files) / next(iter(files))


@pytest.mark.parametrize("mpm, numbers", [
    ("prefork", (250, 250, 5)), ("worker", (400, 16, 3)), ("event", (400, 16, 3)),
])  # fmt: skip
def test_the_articles_blocks_work_as_they_are_and_loadmodule_chooses_one(mpm, numbers):
    conf = parse(ARTICLE, mpm=mpm)
    d, notes = check(conf.mpm, conf.settings, conf.sections)
    assert (d.MaxRequestWorkers, d.process_limit, d.StartServers) == numbers and notes == ()
    assert len(conf.settings) == (5 if mpm == "prefork" else 6)
    line = f"LoadModule mpm_{mpm}_module modules/mod_mpm_{mpm}.so\n"
    for other in (parse(line + ARTICLE), parse(ARTICLE + line), parse(ARTICLE, before=(line,))):
        assert (other.mpm, plain(other)) == (mpm, plain(conf))


def test_load_one_only_if_there_is_none():
    ifs = "<IfModule !mpm_prefork_module>\n<IfModule !mpm_worker_module>\n"
    text = ifs + "LoadModule mpm_event_module x\n" + "</IfModule>\n" * 2
    assert parse(text).mpm == "event"
    assert parse(text, mpm="worker").mpm == "worker"
    assert (parse(ARTICLE).mpm, parse(ARTICLE).settings) == (None, [])
    line = "LoadModule mpm_event_module x\n"
    assert parse(line, mpm="event").mpm == parse(line * 2).mpm == "event"
    with pytest.raises(DirectiveError, match=r"f:1: .*: worker was asked for") as asked:
        parse(line, mpm="worker")
    with pytest.raises(DirectiveError, match=r"f:2: .*: worker is loaded already") as loaded:
        parse("LoadModule mpm_worker_module x\n" + line)
    assert asked.value.ah == loaded.value.ah == "AH00534"


HAS = {  # whether <IfModule> counts, with such a LoadModule; a built-in one stays
    "": {"mpm_event_module": True, "event.c": True, "!mpm_event_module": False, "mpm_worker_module": False,
         "!worker.c": True, "mod_dir.c": True, "dir_module": True, "ssl_module": False, "!mod_ssl.c": True,
         "nonsense": False, "mod_rewrite.c": False},
    # one that a LoadModule names is there, whether mpmkit has it or not
    "http2_module": {"http2_module": True, "mod_http2.c": True}, "ldap_module": {"util_ldap.c": True},
    "ssl_module": {"ssl_module": True, "mod_ssl.c": True}, "http_module": {"http_core.c": True},
    "dir_module": {"mod_dir.c": True},
}  # fmt: skip


@pytest.mark.parametrize(("loaded", "condition", "counts"), [
    *((load, f"IfModule {name}", counts) for load, names in HAS.items() for name, counts in names.items()),
    # What httpd 2.4.71 says: a version that is cut short ends with zeros.
    *(("", *row) for row in (
    ("IfVersion 2.4", False), ("IfVersion 2.4.71", True), ("IfVersion >= 2.4", True),
    ("IfVersion <= 2.4", False), ("IfVersion == 2.4.71", True), ("IfVersion != 2.4.70", True),
    ("IfVersion ~ ^2.4", True), (r"IfVersion = /^2\.4/", True), ("IfVersion /^2.4/", True),
    ("IfVersion > 2", True), ("IfVersion !> 2", False), ("IfVersion !~ ^2.2", True), ("IfVersion >= 3", False),
    ("IfFile /", True), ("IfFile !/", False), ("IfFile /no/such", False), ("IfFile !no/such", True),
    ("IfDirective timeout", True), ("IfDirective !Include", False), ("IfDirective AddIcon", True),
    ("IfDirective Nonsense", False), ("IfSection directory", True), ("IfSection Proxy", True),
    ("IfSection Nonsense", False), ("IfSection !Timeout", True),
    ("IfDefine GIVEN", True), ("IfDefine GIVEN=v", True), ("IfDefine !GIVEN=w", True),
    )),
])  # fmt: skip
def test_conditions(loaded, condition, counts):
    load = f"LoadModule {loaded} x\n" * bool(loaded)
    conf = parse(load + section(condition, "Timeout 1"), mpm="event", defines=("GIVEN=v",))
    assert bool(conf.settings) is counts


def test_modules_are_listed_once_and_one_that_is_not_here_is_refused_with_a_remedy():
    names = ["mpm_event_module", "dir_module", "http2_module", "ssl_module"]
    modules = parse("\n".join(f"LoadModule {name} {name}.so" for name in names * 2)).modules
    assert modules.loaded == names
    assert set(modules.static) == {*BUILT_IN, "mpm_event_module"}
    assert WITHOUT_DIRECTIVES.isdisjoint(lacking_modules())
    (note,) = parse("LoadModule php_module x").notes
    assert note.level == "warn" and "SetHandler proxy:unix:" in note.text
    words = "nosuch_module: no such module.*mpm_prefork, mpm_worker, mpm_event.*cgi"
    refused(DirectiveError, words, parse, "LoadModule nosuch_module x")


def test_loading_mod_status_switches_extended_status_on_unless_the_file_says_no():
    load = "LoadModule status_module modules/mod_status.so\n"
    texts = ["", load, "ExtendedStatus Off\n" + load]
    assert [checked(text)[0].ExtendedStatus for text in texts] == [False, True, False]


def test_ifdefine_define_and_undefine():
    never = "LoadModule what_module x", "Include /no/such/file", 'Define Bad:Name "', "Error never"
    text = "\n".join([
        "Define Here", section("IfDefine Here", "Timeout 1", section("IfDefine !Given", "Timeout 2")),
        "UnDefine Here", section("IfDefine Here", section("IfModule dir_module", *never)),
    ])  # fmt: skip
    assert plain(parse(text)) == [("Timeout", "1"), ("Timeout", "2")]
    conf = parse(text, defines=("Given",))
    assert (plain(conf), conf.defines) == ([("Timeout", "1")], {"Given": ""})


def test_variables(monkeypatch):
    text = "\n".join([
        "Define Root /srv/site", 'Define Logs "${Root}/two logs"', "DocumentRoot ${Root}/htdocs",
        'ErrorLog "${Logs}/error"', "ServerName ${HOST}:${PORT}", section("Directory ${Root}", "Options None"),
        'LogFormat "%{Referer}i $HOST" x', "ServerAdmin a${Nope}b${",
    ])  # fmt: skip
    environ = {"HOST": "lab", "PORT": "8080", "Root": "unused"}
    conf = parse(text, environ)
    assert plain(conf) == [
        ("DocumentRoot", "/srv/site/htdocs"), ("ErrorLog", "/srv/site/two logs/error"),
        ("ServerName", "lab:8080"), ("LogFormat", "%{Referer}i $HOST", "x"), ("ServerAdmin", "a${Nope}b${"),
    ]  # fmt: skip
    assert (conf.sections[0].arg, conf.defines["Logs"]) == ("/srv/site", "/srv/site/two logs")
    (note,) = conf.notes
    assert (note.ah, note.level) == ("AH00111", "warn") and "(httpd.conf:10)" in note.text
    assert plain(parse("Listen ${PORT}", environ, defines=("PORT=81",))) == [("Listen", "81")]
    monkeypatch.setenv("MPMKIT_TEST_PORT", "8081")
    assert plain(parse("Listen ${MPMKIT_TEST_PORT}")) == [("Listen", "8081")]


def test_comments_continuations_and_line_numbers():
    text = "# one\n\n  Timeout \\\r\n  5\r\n\t# two\nkeepalive Off\nDirectoryIndex a\\\n b"
    assert read("f", text=text).settings == [
        Setting("Timeout", ("5",), "f", 3), Setting("keepalive", ("Off",), "f", 6),
        Setting("DirectoryIndex", ("a", "b"), "f", 7),
    ]  # fmt: skip
    conf = read("f", text="# C:\\temp\\\nTimeout 5\nKeepAlive On")
    assert plain(conf) == [("KeepAlive", "On")]
    assert "(f:1)" in conf.notes[0].text, "a comment that takes in the next line is noted"


def test_sections():
    text = "\n".join([
        section('Directory "/srv/my site"', section("IfModule !worker.c", "Options None")),
        "<Location /x>", section("IfDefine No", section("Files y")), "SetHandler no", "</location>",
        section('Files ~ "^\\.ht"', "Require all denied"), "Timeout 9",
    ])  # fmt: skip
    conf = parse(text, mpm="event")
    assert [(s.kind, s.arg, s.line, s.settings) for s in conf.sections] == [
        ("Directory", "/srv/my site", 1, (Setting("Options", ("None",), "httpd.conf", 3),)),
        ("Location", "/x", 6, (Setting("SetHandler", ("no",), "httpd.conf", 11),)),
        ("FilesMatch", r"^\.ht", 13, (Setting("Require", ("all", "denied"), "httpd.conf", 14),)),
    ]
    assert plain(conf) == [("Timeout", "9")]


def test_what_httpd_takes_and_warns_of():
    conf = parse("\n".join([
        "LoadModule alias_module x", "LoadModule alias_module x", "Alias /a /srv", "Alias /a/b /srv",
        "AliasMatch ^/x /srv", "ScriptAlias /xy /srv", 'ErrorDocument 404 "it is %{REQUEST_URI}"',
        'ErrorDocument 403 "it is not',
    ]))  # fmt: skip
    directives, notes = check("event", conf.settings, conf.sections)
    assert directives.ErrorDocument[403] == "it is not"
    said = [(note.ah, note.text.rpartition(":")[2]) for note in (*conf.notes, *notes)]
    assert said == [("AH01574", "2)"), ("", "8)"), ("AH00671", "4)"), ("AH00671", "6)"), ("", "7)")]


@pytest.mark.parametrize(("text", "words"), [
    ("<IfModule dir_module>\nTimeout 1", "httpd.conf:1: <IfModule> is never closed"),
    ("\n</Files>", "httpd.conf:2: </Files> closes nothing"),
    ("<IfDefine !A>\n<Files x>\n</IfDefine>", "httpd.conf:3: </IfDefine> meets the <Files> of line 2"),
    ("<IfDefine A>\n</IfModule>", "httpd.conf:2: </IfModule> meets the <IfDefine> of line 1"),
    ("<Directory /a>\n<Location b>\n</Location>\n</Directory>",
     "httpd.conf:2: <Location> is inside the <Directory> of line 1"),
    ("<Location /a>\n<Files b>\n</Files>\n</Location>", "<Files> is inside the <Location> of line 1"),
    ("<Location /a>\n<Limit GET>\n<If true>\n</If>\n</Limit>\n</Location>", "<If> is inside the <Limit>"),
    ("<Location /a>\n<Limit GET>\n<Limit PUT>\n</Limit>\n</Limit>\n</Location>", "<Limit> is inside a <Limit>"),
    ("<Location /a>\n<Limit>\n</Limit>\n</Location>", "<Limit> needs names of methods"),
    ("<Location /a>\n<RequireAny>\nOptions None\n</RequireAny>\n</Location>", "no Require in it"),
    ("<RequireAll>\n</RequireAll>", "is outside of a <Directory>"),
    ("<IfVersion 2.x>\n</IfVersion>", "takes a version such as 2.4 or 2.4.6"),
    ("<IfVersion => 2.4>\n</IfVersion>", 'knows = == > >= < <= and ~, each also after a "!"'),
    ("<IfVersion ~ (>\n</IfVersion>", "<IfVersion>"),
    ("<IfFile a b>\n</IfFile>", "takes one name, here are 2"),
    ("<Directroy /a>\n</Directroy>", "it is unknown: use <Directory>"),
    ("<Directory /a b>\n</Directory>", "takes one argument, here are 2"),
    ("<Directory /a\n</Directory>", 'the ">" is missing: <Directory /a>'),
    ("Define a:b c", 'httpd.conf:1: a name has no ":"'),
    ("LoadModule mpm_event_module", "LoadModule takes 2 arguments, here are 1"),
    ("Error stop here", "httpd.conf:1: Error: stop here"),
    ("Include /no/such/file.conf", "there is no /no/such/file.conf"),
    ("Include /no/such/*.conf", "no file matches /no/such/*.conf"),
])  # fmt: skip
def test_errors_name_the_place_and_the_remedy(text, words):
    with pytest.raises(DirectiveError) as caught:
        parse(text)
    message = str(caught.value)
    assert words in message and message.startswith("httpd.conf:") and "\n" not in message


def test_includes_start_from_server_root_and_are_sorted(tmp_path):
    """A directory with all below it by name, of files, directories or links to them, as httpd."""
    main = """Include extra/b.conf\nInclude extra/*.conf\nIncludeOptional none/*.conf
IncludeOptional none/file.conf\nTimeout 9\nInclude */w.conf\nInclude d"""
    files = {"main.conf": main, "extra/b.conf": "Timeout 2", "extra/a.conf": "Timeout 1",
             "s-t/w.conf": "Timeout 4", "s/w.conf": "Timeout 3"}  # fmt: skip
    names = ["d/b", "d/z", "d/a", "d/f/c", "d/h/c", "other/c", "d/e/c", "d/g/c"]
    path = written(tmp_path, files | {name: f"ServerName {name}" for name in names})
    (tmp_path / "d/link").symlink_to("../other")
    order = ["d/a", "d/b", "d/e/c", "d/f/c", "d/g/c", "d/h/c", "other/c", "d/z"]
    conf = read(path)
    assert [s.args[0] for s in conf.settings] == [str(tmp_path), *"212934", *order]
    assert [(os.path.basename(i.path), i.line, i.depth) for i in conf.includes[:6]] == [
        ("main.conf", 0, 0), ("b.conf", 1, 1), ("a.conf", 2, 1), ("b.conf", 2, 1),
        ("w.conf", 6, 1), ("w.conf", 6, 1),
    ]  # fmt: skip


def test_server_root_of_the_caller_and_of_the_file(tmp_path):
    main, root = "Include one.conf\nServerRoot ${D}/two\nInclude one.conf", str(tmp_path)
    files = {"conf/main.conf": main, "one.conf": "Timeout 1", "two/one.conf": "Timeout 2"}
    conf = read(written(tmp_path, files), {"D": root}, server_root=root)
    assert [s.args[0] for s in conf.settings if s.name == "Timeout"] == ["1", "2"]
    assert check("event", conf.settings)[0].ServerRoot == f"{root}/two"


@pytest.mark.parametrize(("inner", "words"), [
    ("Include main.conf", "in.conf:1: Include: {root}/main.conf includes itself"),
    ("</Directory>", "in.conf:1: </Directory> closes nothing"),
    ("<IfDefine A>", "in.conf:1: <IfDefine> is never closed"),
    ("Include gone.conf", "in.conf:1: Include: there is no {root}/gone.conf"),
])  # fmt: skip
def test_errors_in_included_files_name_that_file(tmp_path, inner, words):
    main = "<Directory /x>\nInclude in.conf\n</Directory>"
    words = re.escape(f"{tmp_path}/" + words.format(root=tmp_path))
    refused(DirectiveError, words, read, written(tmp_path, {"main.conf": main, "in.conf": inner}))


def test_files_that_cannot_be_read(tmp_path):
    names = {f"f{n}.conf": f"Include f{n + 1}.conf" for n in range(30)}
    refused(DirectiveError, "more than 20 files deep", read, written(tmp_path, names))
    for path in (tmp_path / "none.conf", tmp_path):
        refused(DirectiveError, f"{path} cannot be read", read, path)
    # Other bytes, and a mark at the start, can.
    path = tmp_path / "httpd.conf"
    path.write_bytes(b"\xef\xbb\xbfServerName caf\xe9\r\n")
    assert os.fsencode(read(path).settings[1].args[0]) == b"caf\xe9"


def test_lines_before_and_behind_the_file():
    after = ("Timeout 3", *from_keywords("event", Timeout=6))
    conf = read("f", text="Timeout ${T}", before=("Define T 2", "Timeout 1"), after=after)
    assert conf.settings == [
        Setting("Timeout", ("1",), "-C", 2), Setting("Timeout", ("2",), "f", 1),
        Setting("Timeout", ("3",), "-c", 1), Setting("Timeout", ("6",)),
    ]  # fmt: skip
    for line in ("<IfModule x>", "</Files>"):  # the program's own lines are not counted
        before = (Setting("KeepAlive", ("On",)), "Timeout 1", line)
        refused(DirectiveError, "^-C:2: ", parse, "", before=before)


def test_what_the_machine_must_have(tmp_path):
    def problems_of(text: str, **options) -> list[tuple[str, int, str]]:
        conf = parse(text, mpm="event")
        with pytest.raises(DirectiveError) as caught:
            validate_environment(check("event", conf.settings)[0], conf.settings, **options)
        assert all(": " in problem.text for problem in caught.value.problems), "each has a remedy"
        return [(one.directive, one.line, one.ah) for one in caught.value.problems]

    missing = [
        ("DocumentRoot", f"{tmp_path}/none", "AH00526"), ("User", "nosuchuser", "AH00543"),
        ("Group", "nosuchgroup", "AH00544"), ("CoreDumpDirectory", f"{tmp_path}/none", "AH00526"),
        ("SSLCertificateFile", "/nowhere.pem", "AH00526"), ("SSLCertificateKeyFile", "/nowhere.pem", "AH00526"),
    ]  # fmt: skip
    text = "\n".join(f"{name} {value}" for name, value, _ in missing)
    found = [(name, line, ah) for line, (name, _, ah) in enumerate(missing, 1)]
    assert problems_of(text) == found
    assert problems_of(text, document_root=False) == found[1:]
    assert problems_of("User #00") == [("User", 1, "AH00526")], "root by number is root"
    lines = f"ServerRoot {tmp_path}\nDocumentRoot .\nUser #1234\nGroup #1234"
    assert validate_environment(checked(lines)[0]) == []
