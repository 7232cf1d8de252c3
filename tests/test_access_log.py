"""Access logs become traces: formats, files as people have them, broken lines, connections."""

import gzip
import io
import math
import random
import re
import tracemalloc
from types import SimpleNamespace

import pytest

import mpmkit
from mpmkit.config.log_format import COMBINED, COMMON
from mpmkit.measure import access_log, trace
from mpmkit.measure.access_log import NICKNAMES, LineFormat, TraceError
from mpmkit.measure.trace import joined
from mpmkit.server import log_format

AT = "[17/May/2015:10:05:%02d +0000]"
BEGIN = 1431857100.0  # 10:05:00
NOT_UTC = "%{%Y-%m-%d %H:%M:%S}t %D"


def common(second: int, more: str = "", client: int = 1, target: str = "/") -> str:
    return f'10.0.0.{client} - - {AT % second} "GET {target} HTTP/1.1" 200 5{more}\n'


def combined(second: int, more: str = "", client: int = 1) -> str:
    return common(second, f' "-" "Agent/1.0 \\"x\\" (y)"{more}', client)


def read(text: str | bytes, log_format: str = "", **more) -> mpmkit.Trace:
    data = text if isinstance(text, bytes) else text.encode("latin-1")
    return mpmkit.Trace.read(io.BytesIO(data), log_format=log_format, **more)


def test_what_is_written_can_be_read():
    written = {
        *(key.partition("}")[2] or key for key in log_format.FIELDS),
        *log_format.WITH_TEXT,
        *log_format.OF_REQUEST,
    }
    assert written <= set(access_log.PATTERNS)


@pytest.mark.parametrize("text, line, start, seconds, size", [
    ("common", common(3), 3, None, 5), ("combined", combined(3), 3, None, 5),
    ("combined %D", combined(3, " 1500"), 3, 0.0015, 5), ("common %T", common(3, " 2"), 3, 2, 5),
    ("common %{ms}T", common(3, " 12"), 3, 0.012, 5), ("common %{us}T", common(3, " 12"), 3, 12e-6, 5),
    ("common %T %D", common(3, " 1 1200000"), 3, 1.2, 5), ("common %D", common(3, " -"), 3, None, 5),
    ("%h %t %D %b", f"::1 {AT % 3} 7 -\n", 3, 7e-6, 0), ("%t %B %O %I", f"{AT % 3} 5 300 100\n", 3, None, 300),
    ("%{usec}t %D", "1431857103250000 500000\n", 3.25, 0.5, 0), ("%{%s}t %D", "1431857103 5\n", 3, 5e-6, 0),
    ("[%{%d/%b/%Y:%T}t.%{usec_frac}t %{%z}t] %D", "[17/May/2015:10:05:03.250000 +0000] 5\n", 3.25, 5e-6, 0),
    ("%{begin:%FT%T%z}t.%{msec_frac}t", "2015-05-17T12:05:03+0200.125\n", 3.125, None, 0),
    ("%{sec}t.%{msec_frac}t %D", "1431857103.125 5\n", 3.125, 5e-6, 0),
    ("%{begin:msec}t %{end:msec}t", "1431857103000 1431857104500\n", 3, 1.5, 0),
    ("%{end:usec}t %D", "1431857103000000 500000\n", 2.5, 0.5, 0),
    ('%v:%p "%!200,304{Referer}i" %{tid}P %{hextid}P %P %t', f'a:80 "-" 140 7f0a 9 {AT % 3}\n', 3, None, 0),
    ("%u %t", f"two words {AT % 3}\n", 3, None, 0), ("%t\\t%%\\t%D", f"{AT % 3}\t%\t5\n", 3, 5e-6, 0),
    ("common", common(3).replace("\n", "\r\n"), 3, None, 5),
])  # fmt: skip
def test_formats(text, line, start, seconds, size):
    trace = read(line, text)
    got = trace.seconds[0]
    assert trace.begin - BEGIN == pytest.approx(start, abs=1e-5) and trace.size[0] == size
    assert math.isnan(got) if seconds is None else got == pytest.approx(seconds)


@pytest.mark.parametrize("name", sorted(NICKNAMES))
def test_a_format_is_recognised_by_its_lines(name):
    more, before = (" 1 2" if name == "combinedio" else ""), ("h:80 " if "vhost" in name else "")
    line = before + (common(1) if name == "common" else combined(1, more))
    for broken_first in ("", "\0\0\0\n"):
        assert NICKNAMES[name] in read(broken_first + line * 200).notes[0]


@pytest.mark.parametrize("text, form, says", [
    ("", "", "no line"), ("", "common", "no whole line"), ("x\n" * 50, "", "no known format"),
    (combined(1, " 15"), "", "'combined %D' if it is in microseconds, 'combined %T' if in seconds"),
    (common(1) * 50 + combined(1) * 50, "", r"(?s)50 of 100 .*'combined': the log has two.*line 51:.*line 55:"),
    (combined(1, " 15") * 3, "combined", r"(?s)3 of 3 lines.*look like log_format='combined %D'\..*line 1:"),
    ("a b c\n" * 3, "common", "give its LogFormat"), (common(1), "%h %D", "no time of the request"),
    (common(1), "%{%H:%M}t", "no time of the request"), (common(1), "%é %t", "unknown"),
    (common(1), "%t %", "cut short"), (common(1), "%{%Q}t", "cannot be read"),
    (common(1).replace("17/May", "32/May"), "common", "(?s)1 of 1 lines.*line 1: .*32/May"),
    (common(1)[:-1], "common", "no whole line"), ("9" * 400 + " 5\n", "%{usec}t %D", "1 of 1 lines"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(text, form, says):
    with pytest.raises(TraceError, match=says):
        read(text, form)


@pytest.mark.parametrize("text, form, count, note", [
    (common(1) * 199 + "\0\0\0\n", "common", 199, r"(?s)1 \(.*line 200\)..*line 200: '.x00.x00.x00'"),
    ("".join(common(1) * 200 + "x" * n + "\n" for n in (1, 2, 119, 4)), "common", 800,
     r"(?s)out: 4 \(.*line 201; .*line 804\)..*line 402: 'xx'\n.*line 603: 'x{59} \.\.\. x{59}'\n.*804: 'x{4}'"),
    (common(1) * 999 + common(1).replace("17/May", "32/May") * 7, "common", 999,
     r"(?s)left out: 7 \(.*line 1000; .*line 1004, \.\.\.\)..*line 1004: .*32/May"),
    (common(1) + common(2)[:30], "common", 1, "still being written"),
    (common(1) + common(2, target="/" + "x" * 1_000_000), "common", 2, "2 lines"),
    (common(1) * 200 + "x" * (5 << 20) + "\n" + common(2), "common", 201, "left out: 1"),
    (common(10, " 5") + common(1, " 5"), "common %D", 2, "clock goes back by 9 s"),
    ("2015-10-25 01:59:59 5\n2015-10-25 01:00:00 5\n", NOT_UTC, 2, "back by 3,599 s.*end of summer time"),
    ("2015-10-25 01:59:59 5\n", NOT_UTC, 1, "no zone and are taken as UTC"),
    ("[25/Oct/2015:02:59:59 +0200] 5\n[25/Oct/2015:02:00:01 +0100] 5\n", "%t %D", 2, "2 lines"),
    (common(1, " 90000000") + common(2, " 1"), "common %D", 2, "took 90 s, longer than the .* s in which"),
    (common(1), "common", 1, "no durations: add %D"),
    (common(1, " 5"), "common %D", 1, "spread evenly"),
    (f"1431857103000000 5 {'9' * 30} {'9' * 30}\n", "%{usec}t %D %k %b", 1, "1 lines"),
])  # fmt: skip
def test_odd_logs_are_read_and_said(text, form, count, note):
    trace = read(text, form)
    assert len(trace) == count
    assert re.search(note, "\n".join((*trace.notes, *trace.broken))), trace.notes
    texts = [line.split(": ", 1)[1] for line in trace.broken]
    assert not any(text in note for text in texts for note in trace.notes), "the CSV has the notes"
    if "+0200" in text:
        assert trace.start[1] == 2.0 and not any("clock" in one for one in trace.notes)


def test_several_files_in_any_order_compressed_or_not_and_empty_ones(tmp_path):
    (tmp_path / "access.log").write_text(common(40) + common(50))
    (tmp_path / "access.log.1").write_bytes(gzip.compress((common(1) + common(2)).encode()))
    (tmp_path / "access.log.2").touch()
    trace = mpmkit.Trace.read(sorted(tmp_path.iterdir()))
    assert list(trace.start) == [0, 1, 39, 49] and trace.begin == BEGIN + 1
    (tmp_path / "cut.gz").write_bytes(gzip.compress(common(1).encode() * 999)[:60])
    bad = {"cut.gz": "damaged or cut short", "none": "No such file", ".": "directory"}
    for name, says in bad.items():
        with pytest.raises(TraceError, match=says):
            mpmkit.Trace.read(tmp_path / name, log_format="common")


def test_the_format_and_keep_alive_timeout_come_from_an_httpd_conf(tmp_path):
    conf = tmp_path / "httpd.conf"
    conf.write_text(
        f'LogFormat "{COMMON.replace(chr(34), chr(92) + chr(34))} %D" timed\nKeepAliveTimeout 1\n'
        'CustomLog logs/other.log "%t"\n<VirtualHost *:80>\nCustomLog logs/access.log timed\n</VirtualHost>\n'
    )
    log = tmp_path / "access.log.1"
    log.write_text(common(1, " 500000") + common(4, " 5"))
    trace = mpmkit.Trace.read(log, conf=conf)
    assert trace.seconds[0] == 0.5 and len(set(trace.connection)) == 2
    conf.write_text(conf.read_text().replace("Timeout 1", "Timeout 1mi"))
    assert len(set(mpmkit.Trace.read(log, conf=conf).connection)) == 1
    for text, says in (("<IfModule\n", "conf: .*:1: the"), ("Listen 80\n", "no CustomLog")):
        conf.write_text(text)
        with pytest.raises(TraceError, match=says):
            mpmkit.Trace.read(log, conf=conf)
    trace = mpmkit.Trace.read(log, conf=conf, log_format="common %D")
    assert trace.seconds[0] == 0.5, "a given format needs no CustomLog"


class Growing:
    """A log of so many lines, made while it is read: 50 a second, of 300 clients."""

    name = "growing"

    def __init__(self, lines: int) -> None:
        self.lines = iter(range(lines))

    def read(self, size: int) -> bytes:
        made = (
            f'10.0.1.{n % 300} - - [17/May/2015:10:{n // 3000 % 60:02}:{n // 50 % 60:02} +0000] "GET /{n % 999} '
            f'HTTP/1.1" 200 {n % 5000} "-" "Agent/{n % 7}" {n % 90_000}\n'
            for n in self.lines
        )
        return "".join(line for _, line in zip(range(size // 120), made, strict=False)).encode()


def test_memory_does_not_grow_with_the_lines_but_by_the_columns_of_a_trace(monkeypatch):
    """A log of millions of lines is one of thousands as far as that goes."""
    monkeypatch.setattr(access_log, "BLOCK", 1 << 14)
    form, used = "combined %D", {}
    for lines in (2000, 8000):
        for how in ("lines", "trace"):
            tracemalloc.start()
            if how == "lines":
                reader = access_log.Reader(LineFormat(form))
                for _ in reader.columns("x", access_log.blocks(Growing(lines))):
                    pass
                assert (reader.lines, reader.broken) == (lines, 0)
            else:
                assert len(mpmkit.Trace.read(Growing(lines), log_format=form)) == lines
            used[how, lines] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert used["lines", 8000] < used["lines", 2000] + 50_000
    assert used["trace", 8000] < used["trace", 2000] + 6000 * 160


@pytest.mark.parametrize("serials", [False, True])
@pytest.mark.parametrize("ports", [False, True])
@pytest.mark.parametrize(("clients", "span"), [(4, 900), (150, 200), (500, 20)])
def test_connections_are_those_of_a_search(serials, ports, clients, span, monkeypatch):
    """Concurrent, overlapping and late requests of few clients, and requests of many that come one after another,
    against the rule as docs/LOGS.md has it."""
    monkeypatch.setattr(trace, "PURGE", 100)
    chance, count, gap, tolerance = random.Random(serials), 1500, 2.0, 0.01
    steps: dict[int, int] = {}  # of clients whose %k mostly counts

    def serial(place: int) -> int:
        steps[place] = chance.choice((steps.get(place, -1) + 1,) * 6 + (0, 0, steps.get(place, 0)))
        return steps[place] if clients > 4 else chance.randrange(4)

    places = [chance.randrange(clients) for _ in range(count)]
    columns = SimpleNamespace(
        start=sorted(chance.choice((chance.uniform(0, span), chance.randrange(span))) for _ in range(count)),
        seconds=[chance.choice((math.nan, 0.0, chance.expovariate(1))) for _ in range(count)],
        place=places, serial=[serial(place) for place in places],
        kept=[chance.choice((-1, 0, 1)) for _ in range(count)], ports=ports,
    )  # fmt: skip
    waiting, numbers, kept = [], [], list(columns.kept)
    limit = (600.0 if serials else gap) + tolerance

    def search(place: int, serial: int, start: float):
        there = (one for one in waiting if one[3:] == (place, serial))
        near = (one for one in there if start - limit <= one[0] <= start + tolerance)
        return max(near, default=None)

    names = ("start", "seconds", "place", "serial", "kept")
    rows = zip(*(getattr(columns, name) for name in names), strict=True)
    for index, (start, seconds, place, serial, keeps) in enumerate(rows):
        ahead = serials and (serial or ports) and not keeps
        found = last = search(place, serial + 1, start) if ahead else None
        found = found or search(place, serial if serials else 0, start)
        numbers.append(found[1] if found else max(numbers, default=-1) + 1)
        if found:
            kept[found[2]] = 1
            waiting.remove(found)
        if keeps or (serials and serial and not last):
            end = start if math.isnan(seconds) else start + seconds
            waiting.append((end, numbers[-1], index, place, serial + 1 if serials else 0))
    got, signs, _ = joined(columns, gap, tolerance, serials=serials)
    assert (list(got), list(signs)) == (numbers, kept) and len(set(numbers)) < count * 0.95


CONNECTIONS = (  # second, client, %D in µs, %X, %k -> connection
    (1.0, 1, 100_000, "+", 0, 0), (1.0, 1, 200_000, "+", 0, 1), (1.1, 2, 1000, "-", 0, 2),
    (1.5, 1, 9000, "+", 1, 1),
    (2.0, 2, 1000, "+", 0, 3), (3.0, 1, 9000, "-", 1, 1), (4.0, 1, 9000, "+", 7, 4), (40.0, 1, 9000, "+", 0, 5),
)  # fmt: skip


def test_connections_come_from_k_or_are_inferred_from_client_and_pause():
    lines = [
        f"{int(s * 1e6 + BEGIN * 1e6)} 10.0.0.{c} {d} {x} {k}\n" for s, c, d, x, k, _ in CONNECTIONS
    ]
    whole = read("".join(lines), "%{usec}t %h %D %X %k")
    assert list(whole.connection) == [row[-1] for row in CONNECTIONS]
    assert list(whole.kept) == [1, 1, 0, 1, 1, 0, 1, 1]
    assert list(whole.client) == [0, 0, 1, 0, 1, 0, 0, 0]
    assert "1 requests go on with one that began before the log" in whole.notes[1]
    assert [round(gap, 3) for gap in whole.think_times()] == [0.3, 1.491]
    signs = read("".join(line.rpartition(" ")[0] + "\n" for line in lines), "%{usec}t %h %D %X")
    assert list(signs.connection) == [0, 1, 2, 1, 3, 1, 0, 4], "the last answered one goes on"
    alone = read("".join(line.rsplit(" ", 2)[0] + "\n" for line in lines), "%{usec}t %h %D")
    assert list(alone.connection) == [0, 1, 2, 1, 2, 1, 1, 3] and set(alone.kept) == {-1, 1}
    assert "without %k the error of that is not known" in alone.notes[1]


def test_the_last_request_of_a_connection_repeats_its_k():
    """As with httpd; and at MaxKeepAliveRequests (3) there is a - before one more."""
    ports = ((1.0, 80, "+", 0), (1.1, 80, "-", 0), (1.2, 81, "-", 0), (2.0, 82, "+", 0), (2.1, 82, "+", 1),
             (2.2, 82, "-", 2), (2.3, 82, "-", 3), (2.4, 83, "+", 0), (2.5, 83, "+", 1),
             (2.6, 83, "-", 1))  # fmt: skip
    known = "".join(f"{int(s * 1e6 + BEGIN * 1e6)} ::1 {p} 900 {x} {k}\n" for s, p, x, k in ports)
    ported = read(known, "%{usec}t %h %{remote}p %D %X %k")
    assert list(ported.connection) == [0, 0, 1, 2, 2, 2, 2, 3, 3, 3]
    assert " 0 requests go on" in ported.notes[1]


def test_a_trace_is_kept_as_csv_and_has_nothing_personal(tmp_path):
    text = "".join(combined(second, f" {second}00", client=second) for second in range(1, 9))
    last = common(9, ' "-" "b" 5', target="/a.php?q=1").replace("5 ", "- ")
    trace = read(text + last, "combined %D")
    trace.to_csv(tmp_path / "trace.csv")
    again = mpmkit.Trace.from_csv(tmp_path / "trace.csv")
    assert (again.begin, again.notes) == (trace.begin, trace.notes)
    for name in ("start", "seconds", "size", "client", "kept", "connection"):
        theirs, ours = (list(getattr(one, name)) for one in (trace, again))
        assert ours == pytest.approx(theirs, abs=1e-6), name
    assert trace.size[-1] == 0 and trace.timed
    written = (tmp_path / "trace.csv").read_text()
    assert not any(word in written for word in ("10.0.0", "Agent/1", ".php"))
    (tmp_path / "trace.csv").write_text(written + "1,2,x\n")
    with pytest.raises(TraceError, match=r"trace.csv, line \d+: is not a request: '1,2,x"):
        mpmkit.Trace.from_csv(tmp_path / "trace.csv")
    (tmp_path / "trace.csv").write_bytes(b"\xff\0")
    with pytest.raises(TraceError, match="is not a trace"):
        mpmkit.Trace.from_csv(tmp_path / "trace.csv")
    short = {"start": [1], "size": [1, 2]}
    for columns, says in (({"start": [2, 1]}, "sorted"), (short, "has 2 entries")):
        with pytest.raises(TraceError, match=says):
            mpmkit.Trace(**columns)


def test_a_line_of_the_fast_pattern_is_one_of_the_strict_pattern():
    """Blocks without a backslash are matched by the fast one; broken lines must not swallow their neighbours."""
    good = common(1, ' "-" "a"')
    for line in (combined(1).replace('"-"', '"-'), "x\n", common(1), common(1)[:20] + "\n"):
        form = LineFormat("combined")
        reader = access_log.Reader(form)
        found = list(reader.columns("x", [(good * 3 + line.replace("\\", "") + good * 2).encode()]))
        assert len(found[0][1]) == 5 and reader.broken == 1, line
    assert form.text == COMBINED
