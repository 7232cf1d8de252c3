"""The directives: reading values, httpd's corrections, keywords, and the page made from the table."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.servers import SMALL as NUMBERS  # that check() brings into agreement, per MPM

from docs._tools import directives_doc
from mpmkit.cli.configuration import validate_environment
from mpmkit.config import directives as of
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, ROWS, SPECS, THREADED, DirectiveError, Directives, Note
from mpmkit.config.httpd_conf import Source, read
from mpmkit.config.keywords import from_keywords
from mpmkit.config.settings import split_words
from mpmkit.config.values import INT_MAX, READ_TIMEOUT, ListenAddress, Stage, atoi

HERE = Path(__file__).resolve().parent

# What numpy's integers look like.
EIGHT = type("Integer", (), {"__index__": lambda self: 8, "__int__": lambda self: 8})()


def settings(*lines: str) -> tuple[of.Setting, ...]:
    """Settings from lines as they stand in a file."""
    words = [split_words(line) for line in lines]
    return tuple(of.Setting(line[0], line[1:], "httpd.conf", n) for n, line in enumerate(words, 1))


def effective(mpm: str, *lines: str) -> Directives:
    return check(mpm, settings(*lines))[0]


def ids(notes: tuple[Note, ...]) -> list[str]:
    """What httpd prints at the start: messages of warn and above that have an id."""
    return [note.ah for note in notes if note.ah and note.level not in ("info", "debug", "notice")]


def complaint(call: Callable[..., Any], *args: Any, **how: Any) -> DirectiveError:
    with pytest.raises(DirectiveError) as caught:
        call(*args, **how)
    return caught.value


LINES = re.findall("(?m)^[^#\n].*", (HERE / "data" / "bad-values.txt").read_text())
REPLAY = [tuple(cell.strip() for cell in line.split("|")) for line in LINES]
# httpd was silent about a second MPM behind -c, and ended without "Syntax OK"; mpmkit says it.
BETTER = {"LoadModule mpm_worker_module /usr/lib/apache2/modules/mod_mpm_worker.so"}


@pytest.mark.parametrize("mpm, line, status, messages", REPLAY, ids=lambda cell: cell[:40])
def test_same_verdict_and_same_messages_as_httpd(mpm, line, status, messages):
    base = "\n".join(f"{name} {value}" for name, value in NUMBERS[mpm].items())
    try:
        conf = read(Source(text=base, mpm=mpm, after=(line,)))
        directives, notes = check(mpm, conf.settings, conf.sections, problems=conf.problems)
        validate_environment(directives, conf.settings)
        ours = ("0", ids(notes))
    except DirectiveError as error:
        ours = ("1", [error.ah])
    assert ours == (("1", ["AH00534"]) if line in BETTER else (status, messages.split()))


@pytest.mark.parametrize(("mpm", "lines", "values", "messages"), [
    ("prefork", "MaxRequestWorkers 300", {"MaxRequestWorkers": 256}, "AH00180"),
    ("prefork", "MaxSpareServers 3", {"MaxSpareServers": 6}, ""),
    ("prefork", "MaxConnectionsPerChild -1", {"MaxConnectionsPerChild": 0}, ""),
    ("prefork", "StartServers 500", {"StartServers": 256}, ""),
    ("prefork", "ServerLimit 999999", {"ServerLimit": 200000}, "AH00175"),
    ("worker", "ThreadLimit 50000", {"ThreadLimit": 20000}, "AH00305"),
    ("event", "ThreadLimit 50000", {"ThreadLimit": 50000}, ""),
    *(("event", f"AsyncRequestWorkerFactor {given}", {"async_factor": counts}, "")
      for given, counts in ((0.5, 1), (2.9, 2))),
    ("event", "ThreadsPerChild 100", {"ThreadsPerChild": 64, "MaxRequestWorkers": 384}, "AH00507 AH00513"),
    ("event", "MaxRequestWorkers 410", {"MaxRequestWorkers": 400, "process_limit": 16}, "AH00513"),
    ("event", "MaxRequestWorkers 9", {"MaxRequestWorkers": 25, "process_limit": 1, "StartServers": 1}, "AH00511"),
    # the limit is obeyed, the variable stays: the famous "scoreboard is full" every second
    ("event", "MaxRequestWorkers 1000", {"MaxRequestWorkers": 1000, "process_limit": 16}, "AH00515"),
    ("worker", "MinSpareThreads 0\nMaxSpareThreads 0", {"MinSpareThreads": 1, "MaxSpareThreads": 27}, "AH00322"),
    # whatever the order of the lines, the checks come in httpd's order
    ("worker", "StartServers 0\nThreadLimit 0\nServerLimit 0",
     {"ServerLimit": 1, "ThreadLimit": 1, "ThreadsPerChild": 1, "StartServers": 1},
     "AH00302 AH00307 AH00310 AH00318 AH00320"),
    # relative names start from ServerRoot, and the machine is not asked
    ("event", "DocumentRoot docs\nErrorLog syslog:user\nPidFile /run/x.pid\nServerRoot /srv/lab\nAlias /i icons",
     {"DocumentRoot": "/srv/lab/docs", "ErrorLog": "syslog:user", "PidFile": "/run/x.pid",
      "aliases": (("Alias", "/i", "/srv/lab/icons"),)}, ""),
    ("event", "DocumentRoot htdocs", {"DocumentRoot": "htdocs"}, ""),
    ("event", "CustomLog logs/a %h\nServerRoot /srv/lab", {"CustomLog": (("/srv/lab/logs/a", "%h"),)}, ""),
])  # fmt: skip
def test_corrections(mpm, lines, values, messages):
    directives, notes = check(mpm, settings(*lines.splitlines()))
    assert {name: getattr(directives, name) for name in values} == values
    assert ids(notes) == messages.split()


integers = st.integers(-3, 130) | st.integers(-INT_MAX, 2 * INT_MAX) | st.sampled_from(
    [0, 1, 16, 64, 65, 256, 20000, 20001, 100001, 200000, 200001])  # fmt: skip
# An MPM and any integers for any of its numbers.
written = st.sampled_from(MPMS).flatmap(lambda mpm: st.tuples(
    st.just(mpm), st.dictionaries(st.sampled_from(list(NUMBERS[mpm])), integers)))  # fmt: skip


def numbers(directives: Directives) -> dict[str, int]:
    return {name: getattr(directives, name) for name in NUMBERS[directives.mpm]}


@given(written)
@example(("event", {"ThreadsPerChild": 64, "MaxRequestWorkers": 63}))
def test_whatever_is_written_the_effective_numbers_fit_together(case):
    mpm, asked = case
    d, notes = check(mpm, from_keywords(mpm, **asked))
    assert 1 <= d.process_limit <= d.ServerLimit <= (200000 if mpm == "prefork" else 20000)
    assert 1 <= d.StartServers <= d.process_limit
    assert 1 <= d.ThreadsPerChild <= d.ThreadLimit <= (100000 if mpm == "event" else 20000)
    assert d.MaxRequestWorkers >= d.ThreadsPerChild
    assert d.MaxRequestWorkers % d.ThreadsPerChild == 0
    if mpm == "prefork":
        assert 1 <= d.MinSpareServers < d.MaxSpareServers
        assert d.MaxRequestWorkers <= d.ServerLimit
        assert d.ThreadsPerChild == d.ThreadLimit == 1
    else:
        assert 1 <= d.MinSpareThreads
        assert d.MaxSpareThreads >= d.MinSpareThreads + d.ThreadsPerChild + 1
    # Every change is noted, and every note has a cause, but the one whose variable httpd does not lower.
    unlowered = {"AH00318", "AH00515"} & set(ids(notes))
    wanted = {name: SPECS[name.lower()].default_for(mpm) for name in NUMBERS[mpm]}
    wanted |= {name: min(value, INT_MAX) for name, value in asked.items()}
    changed = {name for name, value in numbers(d).items() if value != wanted[name]}
    noted = {note.text.split()[0] for note in notes}
    assert changed <= noted <= changed | ({"MaxRequestWorkers"} if unlowered else set())
    # Checking what came out changes nothing.
    twice, notes = check(mpm, from_keywords(mpm, **numbers(d)))
    assert twice == d and set(ids(notes)) <= {"AH00318", "AH00515"}


@given(written, written)
@example(("event", {"ServerLimit": 4}), ("event", {"ServerLimit": 8, "MaxRequestWorkers": 200}))
def test_a_restart_cannot_change_the_limits(first, second):
    mpm, asked = first
    running = check(mpm, from_keywords(mpm, **asked))[0]
    other = {name: value for name, value in second[1].items() if name in NUMBERS[mpm]}
    d, notes = check(mpm, from_keywords(mpm, **other), running=running)
    assert (d.ServerLimit, d.ThreadLimit) == (running.ServerLimit, running.ThreadLimit)
    # In the error log of a restart a message has the next number.
    lowest, highest = {"prefork": (176, 187), "worker": (301, 323), "event": (498, 520)}[mpm]
    assert all(lowest <= int(ah[2:]) <= highest for ah in ids(notes))
    if (other, running.ServerLimit) == ({"ServerLimit": 8, "MaxRequestWorkers": 200}, 4):
        assert ids(notes) == ["AH00501", "AH00516"]


@pytest.mark.parametrize(("mpm", "ah"), [("prefork", "188"), ("worker", "324"), ("event", "521")])
def test_old_names_are_read_with_an_info_note(mpm, ah):
    d, notes = check(mpm, settings("MaxClients 50", "MaxRequestsPerChild 7"))
    assert (d.MaxRequestWorkers, d.MaxConnectionsPerChild) == (50, 7)
    assert [(n.ah, n.level) for n in notes[:2]] == [("AH00" + ah, "info"), ("AH00545", "info")]
    assert effective(mpm, "MaxClients 50", "MaxRequestWorkers 100").MaxRequestWorkers == 100
    (negative,) = check("prefork", settings("MaxConnectionsPerChild -1"))[1]
    assert negative.text.startswith("MaxConnectionsPerChild -1 ")


@given(st.integers(-INT_MAX, INT_MAX), st.text(st.characters(exclude_categories=["Nd"])))
def test_atoi_reads_what_c_prints_and_stops_there(number, rest):
    assert atoi(f"{number}{rest}") == number
    words = {" 12x": 12, "abc": 0, "": 0, "-": 0, "+4": 4, "٣": 0, "00005": 5, "9" * 40: INT_MAX}
    assert {word: atoi(word) for word in words} == words


@pytest.mark.parametrize(("line", "value"), [
    ("Timeout 1m", 1.0), ("Timeout abc", 0.0), ("KeepAliveTimeout 1H", 3600.0),
    ("KeepAliveTimeout 2min", 120.0), ("KeepAliveTimeout 1000h", 2e6), ("keepalive oFF", False),
    ("ConnectionFilter line_rate 400", ("LINE_RATE", 400)), ("ConnectionFilter none", None),
    ("ThreadStackSize 0x10", 16), ("ThreadStackSize 010", 8), ("ThreadStackSize 08", 0), ("MaxRanges none", 0),
    ("SendBufferSize 0", 0), ("ServerTokens prod", "ProductOnly"), ("FileETag -MTime", ("-MTime",)),
    ("FileETag all", ("All",)), ("ErrorDocument 404 /x", {404: "/x"}),
    ("HttpProtocolOptions require1.0", ("Strict", "LenientMethods", "Require1.0")),
    ("LogLevel info ssl:warn", "info"), ("LogLevel ssl:debug", "warn"),
    ("RequestReadTimeout HEADER=1-9,minrate=7 body=0",
     READ_TIMEOUT | {"header": Stage(1, 9, 7), "body": Stage()}),
    ("Listen 443", (ListenAddress("", 443, "http"),)),
    ("Listen *:8443 https", (ListenAddress("", 8443, "https"),)),
    ("Listen [::1]:8080 HTTPS", (ListenAddress("::1", 8080, "https"),)),
    ("Listen 127.0.0.1:auto", (ListenAddress("127.0.0.1", 0, "http"),)),
    ("AddHandler cgi-script cgi .PL", {".cgi": "cgi-script", ".pl": "cgi-script"}),
    ("AcceptFilter http none", {"http": "none", "https": "data"}),
])  # fmt: skip
def test_values(line, value):
    spec = of.spec_for(line.split()[0], "event")
    assert getattr(effective("event", line), spec.attribute) == value


@pytest.mark.parametrize("line", [
    "KeepAlive perhaps", "KeepAliveTimeout 2m", "KeepAliveTimeout", "KeepAliveTimeout -5",
    "LimitRequestBody 1e6", "MaxRanges 0", "ConnectionFilter LINE_RATE 0", "Listen",
    "Listen auto:80x", "Listen ::1:80", "Listen 127.0.0.1", "AsyncRequestWorkerFactor inf",
    "HttpProtocolOptions Strict Unsafe", "FileETag Digest", "FileETag +All", "LogLevel loud", "LogLevel trace9",
    "RequestReadTimeout header=9-9,MinRate=1", "LimitRequestBody -+5",
    "RequestReadTimeout header", "RequestReadTimeout header=1,2", "RequestReadTimeout body=-1",
    "ErrorDocument 600 /x", "Alias icons /srv/icons", "CustomLog logs/a common if=x",
    "Options All +Indexes", "User #0", "ReceiveBufferSize 511", "ThreadsPerChild 1 2",
])  # fmt: skip
def test_refused_values_name_the_directive_the_place_and_the_value(line):
    name, *words = line.split()
    text = str(complaint(effective, "event", "KeepAlive On", line))
    assert text.startswith(f"httpd.conf:2: {name} ") and "\n" not in text
    assert len(words) != 1 or words[0] in text


def test_repeated_directives_add_up_and_others_replace():
    d = effective("event", "Listen 80", "Listen 81", "Timeout 1", "Timeout 2", "DirectoryIndex a",
                  "DirectoryIndex b c", "RequestReadTimeout header=9", "RequestReadTimeout body=8")  # fmt: skip
    assert [one.port for one in d.Listen] == [80, 81]
    assert (d.Timeout, d.DirectoryIndex) == (2.0, ("a", "b", "c"))
    assert [d.RequestReadTimeout[stage].init for stage in ("header", "body")] == [9, 8]
    # A log may use a nickname that is given later; the defaults of the next check do not have it.
    lines = ["CustomLog a mine", 'LogFormat "%h %X" mine', "TransferLog b", 'CustomLog c "%D"']
    d = effective("event", *lines, "AddHandler x .x")
    assert d.CustomLog == (("a", "%h %X"), ("b", d.LogFormat["common"]), ("c", "%D"))
    d, (misspelt,) = check("event", settings("CustomLog logs/a mine"))
    assert misspelt.level == "warn" and '"mine"' in misspelt.text and not d.handlers


@pytest.mark.parametrize(("lines", "level", "levels"), [
    ("ssl:info\nerror", "error", {}),
    ("warn\nmpm_event:debug core:Trace3", "warn", {"mpm_event": "debug", "core": "trace3"}),
    ("ssl_module:info\nmod_ssl.c:debug", "warn", {"ssl": "debug"}),
])  # fmt: skip
def test_levels_of_single_modules(lines, level, levels):
    d, notes = check("event", settings(*(f"LogLevel {line}" for line in lines.splitlines())))
    assert (d.LogLevel, d.module_levels, notes) == (level, levels, ())


def checked(*lines: str) -> tuple[Directives, tuple[Note, ...]]:
    return check("event", (), [of.Section("Directory", "/srv", settings(*lines))])


@pytest.mark.parametrize(("line", "warned"), [
    ("Options None", False), ("AddType a/b .x", False), ("AllowOverride None", False),
    ("MaxRanges 3", True), ("AllowOverride All", True),  # without effect there; .htaccess files are counted on
])  # fmt: skip
def test_what_a_section_cannot_do_is_a_warning(line, warned):
    d, notes = checked(line, "Require local")
    assert of.section_values(d.sections[0])["Require"] == (("local",),)
    assert [note.level for note in notes if note.level != "debug"] == ["warn"] * warned
    assert all(line.split()[0] in note.text and "httpd.conf:1" in note.text for note in notes)


@pytest.mark.parametrize(("where", "line", "remedy"), [
    ("<Directory>", "Timeout 5", "is not allowed in a <Directory>"),
    ("<Directory>", "Require valid-users", "knows"), ("<Directory>", "SetHandlr x", "did you mean SetHandler?"),
    *((mpm, f"Max{what}PerChild -1", "takes 0 (never) or more")
      for mpm in THREADED for what in ("Connections", "Requests")),
    ("prefork", "ThreadsPerChild 5", "belongs to worker and event, this is prefork"),
    ("prefork", "ThreadsPerChild 5", "wrap it in <IfModule mpm_event_module>"),
    ("event", "MinSpareServers 5", "belongs to prefork, this is event"),
    ("worker", "AsyncRequestWorkerFactor 2", "belongs to event, this is worker"),
    ("event", "TreadsPerChild 5", "did you mean ThreadsPerChild?"),
    ("event", "RLimitCPU 5", "directive of core that mpmkit does not have"),
    ("event", "AuthType Basic", "belongs in a <Directory>"),
    ("event", "WSGIScriptAlais / x", "did you mean WSGIScriptAlias?"),
    ("event", "Frobnicate on", "check its spelling"),
    ("event", "Timeout 5 # seconds", "put the comment on its own line"),
    ("event", "StartServers", "takes 1 argument"),
    # keywords; while the MPM is not known (None), the names of all three are right
    ("event", {"ThreadPerChild": 5}, "did you mean ThreadsPerChild"),
    ("event", {"MinSpareServers": 5}, "belongs to prefork"), ("event", {"ThreadsPerChild": 2.5}, "whole number"),
    ("event", {"ThreadsPerChild": True}, "takes a number"), ("event", {"Timeout": 0.5}, "whole number"),
    ("event", {"ServerName": object}, "cannot be"),
    (None, {"Timeuot": 5, "MinSpareServers": 5, "ThreadsPerChild": 5}, "did you mean Timeout"),
])  # fmt: skip
def test_an_error_says_what_to_do(where, line, remedy):
    if isinstance(line, dict):
        error = complaint(from_keywords, where, **line)
        assert [problem.directive for problem in error.problems] == [next(iter(line))]
    else:
        call = checked if where == "<Directory>" else partial(effective, where)
        error = complaint(call, line)
    assert remedy in str(error)


def test_all_problems_are_reported_at_once():
    error = complaint(check, "event", settings("Timeout 5", *["Nonsense on"] * 12))
    found = [(one.directive, one.file, one.line) for one in error.problems]
    assert found == [("Nonsense", "httpd.conf", n) for n in range(2, 14)]
    shown = "\n".join(map(str, error.problems[:10]))
    assert str(error) == f"{shown}\nand 2 more problems like these"


@given(
    st.sampled_from(sorted(SPECS)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5),
)
def test_any_words_survive_quoting_and_are_read_or_refused_by_name(key, words):
    line = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    assert split_words(line) == tuple(words)
    spec = SPECS[key]
    try:
        spec.read(tuple(words))
    except ValueError as error:
        assert str(error).startswith(spec.name + " ")


@pytest.mark.parametrize(("keywords", "lines"), [
    ({"KeepAlive": False, "ThreadsPerChild": 8}, "KeepAlive Off\nThreadsPerChild 8"),
    ({"ThreadsPerChild": EIGHT}, "ThreadsPerChild 8"),
    ({"KeepAliveTimeout": 0.5, "Timeout": 3.0}, "KeepAliveTimeout 500ms\nTimeout 3"),
    ({"AsyncRequestWorkerFactor": 1.5}, "AsyncRequestWorkerFactor 1.5"),
    ({"keepalive": "off", "DocumentRoot": None}, "KeepAlive off"),
    ({"DocumentRoot": Path("/srv/my site")}, "DocumentRoot '/srv/my site'"),
    ({"Listen": [8080, "[::1]:8081"]}, "Listen 8080\nListen [::1]:8081"),
    ({"DirectoryIndex": "a.html b.html"}, "DirectoryIndex a.html b.html"),
    ({"AddHandler": ("cgi-script", ".cgi", ".py")}, "AddHandler cgi-script .cgi .py"),
    ({"CustomLog": [("a b", "common"), "c combined"]}, "CustomLog 'a b' common\nCustomLog c combined"),
])  # fmt: skip
def test_keywords_are_the_lines_of_a_file(keywords, lines):
    plain = [(setting.name, setting.args) for setting in from_keywords("event", **keywords)]
    assert plain == [(setting.name, setting.args) for setting in settings(*lines.splitlines())]


@pytest.mark.parametrize(("line", "words"), [
    ("a  b\tc", ("a", "b", "c")), ("'it is' \"so\"", ("it is", "so")),
    (r'"%h \"%r\" %b" x', ('%h "%r" %b', "x")), (r"'\.php$' C:\x \\y", (r"\.php$", r"C:\x", r"\y")),
    ('"a"b c"d', ("a", "b", 'c"d')), ('""', ("",)),
])  # fmt: skip
def test_words_are_split_as_httpd_splits_them(line, words):
    assert split_words(line) == words
    with pytest.raises(ValueError, match="never closed"):
        split_words(f'{line} "/srv \\"')
    noted: list[str] = []
    assert split_words(f'{line} "/srv it', noted.append) == (*words, "/srv it") and len(noted) == 1


def test_the_page_is_up_to_date_and_has_one_row_for_each_directive():
    page = directives_doc.markdown()
    remedy = "run: python -m docs._tools.directives_doc > docs/DIRECTIVES.md"
    assert (HERE.parent / "docs" / "DIRECTIVES.md").read_text() == page, remedy
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [row.name for row in ROWS]
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
    # Each is found in any case.
    assert len(SPECS) == len(ROWS)
    assert all(of.spec_for(row.name.upper(), row.mpms[0]) is row for row in ROWS)
