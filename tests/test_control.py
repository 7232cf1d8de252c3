"""`mpmkit httpd`: httpd's command line, its exit statuses and the shapes of its output, a server in
the background, its PidFile, and the real httpd beside it where there is one."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.client import Client, request
from support.files import open_to_all
from support.servers import command, environment
from support.waiting import alive, all_gone, children_of, poll_until

from mpmkit.cli import httpd
from mpmkit.server import pidfile
from mpmkit.server.pidfile import PidFileError

CLI = Path(__file__).parent / "data" / "cli"


pytestmark = pytest.mark.usefixtures("everything_ends")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class House:
    """A ServerRoot with a configuration, and the command that works on it."""

    def __init__(self, root: Path, mpm: str = "event") -> None:
        self.root = root
        self.port = free_port()
        self.file = root / "httpd.conf"
        for name in ("logs", "htdocs"):
            (root / name).mkdir()
        (root / "htdocs" / "index.html").write_text("hello\n")
        self.write(mpm)

    def write(self, mpm: str = "event", *lines: str) -> None:
        self.file.write_text(
            "\n".join(
                [
                    f"LoadModule mpm_{mpm}_module modules/mod_mpm_{mpm}.so",
                    f"Listen 127.0.0.1:{self.port}",
                    "ServerName lab.example",
                    "LogLevel info",
                    "StartServers 1",
                    *lines,
                    "",
                ]
            )
        )

    def run(self, *args: str, within: float = 20) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("httpd", "-f", str(self.file), *args),
            capture_output=True,
            text=True,
            timeout=within,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )

    def start(self, *args: str) -> int:
        done = self.run("-k", "start", *args)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        return self.pid

    @property
    def pid_file(self) -> Path:
        return self.root / "logs" / "httpd.pid"

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def log(self) -> str:
        return (self.root / "logs" / "error_log").read_text()

    def get(self) -> bytes:
        with Client(self) as client:
            return client.send(request("/", close=True)).reply().body


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path)


def called(*args: str, capsys) -> tuple[int, str, str]:
    """The command in this process: for what starts no server."""
    status = httpd.main(args)
    out, err = capsys.readouterr()
    return status, out, err


# -- what it prints -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mpm", "recorded"), [
    ("event", "apache2-V.txt"), ("prefork", "apache2-V-prefork.txt"),
])  # fmt: skip
def test_V_has_the_lines_of_httpd(mpm, recorded, tmp_path, capsys):
    House(tmp_path, mpm)
    status, out, err = called("-f", str(tmp_path / "httpd.conf"), "-V", capsys=capsys)
    assert (status, err) == (0, "")

    def lines(text: str) -> list[str]:
        """Names and their blanks; all of the lines about the MPM."""
        head = text.partition("Server compiled with")[0].splitlines()
        return [
            line if re.match("Server MPM| ", line) else re.match(r"[^:]+: *", line)[0]
            for line in head
        ]

    recording = (CLI / recorded).read_text()
    assert lines(out) == lines(recording)
    assert "Server compiled with....\n -D " in out
    ours = set(re.findall(r"-D (\w+)", out))
    assert ours and ours <= set(re.findall(r"-D (\w+)", recording))
    assert f'HTTPD_ROOT="{tmp_path}"' in out


def test_v_needs_no_file(capsys):
    status, out, err = called("-v", "-f", "/does/not/exist", capsys=capsys)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"Server version: mpmkit/[\d.]+ \(Linux\)\nServer built:   \S+\n", out)


def test_S_has_the_lines_of_httpd(house, capsys):
    status, out, _ = called("-f", str(house.file), "-S", capsys=capsys)
    recorded = [
        line.partition(":")[0]
        for line in (CLI / "apache2-S.txt").read_text().splitlines()
        if line[0] != "[" and "watchdog" not in line
    ]
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == recorded
    assert f'PidFile: "{house.pid_file}"\n' in out
    assert f'ServerRoot: "{house.root}"\n' in out


def test_run_settings_name_what_is_defined_and_who_it_runs_as(house, capsys):
    house.write("event", "Define COLOUR red", "User nobody", "PidFile run/x.pid")
    status, out, _ = called(
        "-f", str(house.file), "-D", "LAB", "-t", "-D", "DUMP_RUN_CFG", capsys=capsys
    )
    assert status == 0
    assert "Define: LAB\nDefine: DUMP_RUN_CFG\nDefine: COLOUR=red\n" in out
    assert re.search(r'User: name="nobody" id=\d+\n', out)
    assert f'PidFile: "{house.root}/run/x.pid"' in out


def test_M_lists_static_modules_then_loaded_ones(house, capsys):
    house.write("event", "LoadModule deflate_module modules/mod_deflate.so")
    status, out, _ = called("-f", str(house.file), "-M", capsys=capsys)
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "Loaded Modules:")
    kinds = [re.fullmatch(r" (\w+_module) \((static|shared)\)", line)[2] for line in lines[1:]]
    assert kinds == sorted(kinds, reverse=True), "static first"
    assert lines[-2:] == [" mpm_event_module (shared)", " deflate_module (shared)"]
    known = set(re.findall(r"(\w+_module)", (CLI / "apache2-M.txt").read_text()))
    assert known - set(re.findall(r"(\w+_module)", out)) == {"watchdog_module", "version_module"}


def test_the_files_that_were_read(house, capsys):
    (house.root / "more.conf").write_text("KeepAlive On\n")
    house.write("event", "Include more.conf")
    status, out, _ = called("-f", str(house.file), "-t", "-D", "DUMP_INCLUDES", capsys=capsys)
    recorded = (CLI / "apache2-t-D-DUMP_INCLUDES.txt").read_text()
    shape = re.sub(r"\S+\.conf", "FILE", re.sub(r"\(\d+\)", "(N)", recorded))
    assert status == 0
    assert re.sub(r"\S+\.conf", "FILE", re.sub(r"\(\d+\)", "(N)", out)) == shape


def test_h_lists_every_option_and_ends_with_1(capsys):
    status, out, err = called("-h", capsys=capsys)
    recorded = (CLI / "apache2-h.txt").read_text()
    assert (status, out) == (1, "")
    options = re.compile(r"^  (-\w)\b", re.M)
    assert set(options.findall(err)) == set(options.findall(recorded))
    assert "-k start|restart|graceful|graceful-stop|stop" in err


def test_L_tells_of_this_mpms_directives(house, capsys):
    status, out, _ = called("-f", str(house.file), "-L", capsys=capsys)
    names = re.findall(r"^(\w+) \(\w+\.c\)$", out, re.M)
    assert status == 0 and {"ThreadsPerChild", "AsyncRequestWorkerFactor", "Require"} <= set(names)
    assert "MinSpareServers" not in names
    assert out.count("\tAllowed in *.conf ") == len(names)


def test_l_lists_the_files_of_the_modules(capsys):
    status, out, _ = called("-l", capsys=capsys)
    assert status == 0
    assert out.startswith("Compiled in modules:\n  core.c\n  mod_so.c\n")


@pytest.mark.parametrize(("args", "first"), [
    (["-q"], "httpd: illegal option -- q"),
    (["-f"], "httpd: option requires an argument -- f"),
    (["-k"], "httpd: illegal option -- k"),
    (["-k", "bogus"], "httpd: illegal option -- k"),
    (["-k", "stop", "-k", "start"], "httpd: illegal option -- k"),
    (["word"], "Usage: mpmkit httpd [-D name]"),
    (["-e", "loud"], "Usage: mpmkit httpd [-D name]"),
])  # fmt: skip
def test_a_command_line_that_is_none(args, first, capsys):
    status, out, err = called(*args, capsys=capsys)
    assert (status, out) == (1, "")
    assert err.startswith(first) and "Usage: " in err


# -- -t -------------------------------------------------------------------------------------------


def test_a_right_file_is_ok_and_nothing_is_made(house, capsys):
    assert called("-f", str(house.file), "-t", capsys=capsys) == (0, "", "Syntax OK\n")
    assert not list((house.root / "logs").iterdir())


@pytest.mark.parametrize(("line", "says"), [
    ("Nonsense on", "Nonsense"),
    ("KeepAlive perhaps", "On or Off"),
    ("LogFormat %y", "%y"),
    ("LoadModule nonsense_module x.so", "no such module here"),
    ("<FilesMatch \"(\">\nRequire all denied\n</FilesMatch>", "regular expression"),
    ("DocumentRoot /does/not/exist", "DocumentRoot"),
])  # fmt: skip
def test_a_wrong_line_is_named_with_its_file(house, line, says, capsys):
    house.write("event", line)
    status, out, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert (status, out) == (1, "")
    where, what = err.splitlines()
    assert where == f"AH00526: Syntax error on line 6 of {house.file}:"
    assert says in what


def test_every_mistake_is_told(house, capsys):
    words = [f"Nonsense{n} 1" for n in range(15)]
    house.write(
        "event", *words, "<VirtualHost *:80>", "Nonsense 2", "</VirtualHost>", "Timeout", "Timeout"
    )
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 1
    numbers = [int(n) for n in re.findall(r"AH00526: Syntax error on line (\d+) of", err)]
    assert numbers == [*range(6, 22), 24], "the inside of what is refused says nothing more"
    assert err.endswith("(and so on line 25)\n"), "the same mistake is told once"


DEBIAN = Path("/etc/apache2/apache2.conf")


@pytest.mark.rival
def test_debians_own_file_is_refused_for_what_mpmkit_does_not_have(monkeypatch, capsys):
    """All of it at once: each line names a file, a line, and what to do."""
    if not DEBIAN.exists():
        pytest.skip("Debian's configuration is not here (package apache2)")
    for name, value in {
        "RUN_DIR": "/tmp",
        "PID_FILE": "/tmp/x.pid",
        "RUN_USER": "www-data",
        "RUN_GROUP": "www-data",
        "LOG_DIR": "/tmp",
    }.items():
        monkeypatch.setenv(f"APACHE_{name}", value)
    status, _, err = called("-d", "/etc/apache2", "-f", str(DEBIAN), "-t", capsys=capsys)
    lines = [line for line in err.splitlines() if not line.startswith("AH00111")]
    where, what = lines[::2], lines[1::2]
    assert all(
        re.fullmatch(r"AH\d+: Syntax error on line \d+ of /etc/apache2/\S+:", w) for w in where
    )
    assert any("<VirtualHost>" in line and "move" in line for line in what)
    allowed = r"take (it|the line) out|mpmkit serves one site|did you mean"
    assert all(re.search(allowed, line) for line in what), what
    assert not any("apache2.conf:" in line for line in where), "nothing of the main file itself"
    assert status == 1


def test_the_lines_of_debians_file_that_are_apaches_own_work(house):
    """Its main file, without the modules that mpmkit does not have."""
    house.write(
        "event",
        "Timeout 300",
        "KeepAlive On",
        "HostnameLookups Off",
        "User nobody",
        "<Directory />",
        "Options FollowSymLinks",
        "AllowOverride None",
        "Require all denied",
        "</Directory>",
        f"<Directory {house.root}>",
        "Options Indexes FollowSymLinks",
        "AllowOverride None",
        "Require all granted",
        "</Directory>",
        "AccessFileName .htaccess",
        '<FilesMatch "^\\.ht">',
        "Require all denied",
        "</FilesMatch>",
        r'LogFormat "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" vhost',
        "CustomLog logs/access_log vhost",
        "ServerTokens OS",
        "ServerSignature On",
        "TraceEnable Off",
    )
    done = house.run("-t")
    assert (done.returncode, done.stderr) == (0, "Syntax OK\n")


def test_T_starts_without_a_document_root(house, capsys):
    house.write("event", "DocumentRoot /does/not/exist")
    assert called("-f", str(house.file), "-t", "-T", capsys=capsys)[0] == 0


def test_what_is_corrected_is_a_warning(house, capsys):
    house.write("event", "ThreadsPerChild 4", "MaxRequestWorkers 10")
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 0
    assert re.fullmatch(r"AH00513: WARNING: MaxRequestWorkers .*\nSyntax OK\n", err)


def test_e_shows_lesser_messages_and_E_writes_them_to_a_file(house):
    quiet = house.run("-t").stderr
    assert house.run("-t", "-e", "debug", "-c", "Mutex none").stderr == quiet
    more = house.run("-t", "-e", "debug", "-c", "HostnameLookups On").stderr
    assert "HostnameLookups" in more and more.endswith(quiet)
    done = house.run("-t", "-E", str(house.root / "startup"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (house.root / "startup").read_text() == quiet


def test_directives_of_the_command_line_stand_before_and_behind_the_file(house, capsys):
    house.write("event", "<IfDefine ${NAME}>", "PidFile seen.pid", "</IfDefine>")
    args = ["-C", "Define NAME LAB", "-D", "LAB", "-S"]
    _, out, _ = called("-f", str(house.file), *args, capsys=capsys)
    assert f'PidFile: "{house.root}/seen.pid"' in out
    _, out, _ = called("-f", str(house.file), *args, "-c", "PidFile last.pid", capsys=capsys)
    assert f'PidFile: "{house.root}/last.pid"' in out
    status, _, err = called("-f", str(house.file), "-c", "Nonsense 1", "-t", capsys=capsys)
    assert status == 1 and "line 1 of -c/-C directives:" in err


def test_t_looks_into_the_certificate_as_the_start_does(house, capsys):
    """httpd's -t asks only whether the files exist, and its start fails then."""
    nothing = house.root / "nothing.pem"
    nothing.write_text("no certificate\n")
    lines = ["Listen 127.0.0.1:1 https", f"SSLCertificateFile {nothing}"]
    house.write("event", *lines)
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 1 and f"SSLCertificateFile {nothing}: no certificate in PEM: name one" in err
    assert "Syntax OK" not in err
    house.write("event", *lines, "SSLEngine Off")
    assert called("-f", str(house.file), "-t", capsys=capsys)[0] == 0, "nobody speaks TLS"


def test_the_mpm_may_come_from_the_command_line(house, capsys):
    house.file.write_text("<IfModule mpm_worker_module>\nThreadsPerChild 3\n</IfModule>\n")
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 1 and err.startswith("AH00534: ") and "LoadModule mpm_event_module" in err
    load = "LoadModule mpm_worker_module modules/mod_mpm_worker.so"
    status, out, _ = called("-f", str(house.file), "-C", load, "-V", capsys=capsys)
    assert status == 0 and "Server MPM:     worker\n" in out


def test_where_the_server_root_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf").mkdir()
    house = House(tmp_path)
    house.file.rename(tmp_path / "conf" / "httpd.conf")
    _, out, _ = called("-f", str(tmp_path / "conf/httpd.conf"), "-S", capsys=capsys)
    assert f'ServerRoot: "{tmp_path}"' in out, "the parent of conf"
    _, out, _ = called("-d", str(tmp_path), "-S", capsys=capsys)
    assert f'ServerRoot: "{tmp_path}"' in out, "-d, and conf/httpd.conf below it"
    monkeypatch.chdir(tmp_path)
    assert called("-t", capsys=capsys)[0] == 0
    _, out, _ = called("-d", str(tmp_path), "-f", "conf/httpd.conf", "-S", capsys=capsys)
    assert f'PidFile: "{house.pid_file}"' in out
    status, _, err = called("-d", str(tmp_path / "logs"), "-t", capsys=capsys)
    missing = tmp_path / "logs" / "conf" / "httpd.conf"
    assert status == 1
    assert err == f"httpd: Could not open configuration file {missing}: No such file or directory\n"


# -- a server in the background -------------------------------------------------------------------


def test_start_graceful_restart_stop(mpm, tmp_path):
    house = House(tmp_path, mpm)
    pid = house.start()
    assert house.get() == b"hello\n", "it serves when the command is done"
    assert os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1)] == ["/dev/null"] * 2
    assert os.readlink(f"/proc/{pid}/fd/2") == str(house.root / "logs" / "error_log")
    assert house.pid_file.read_text() == f"{pid}\n"
    assert house.pid_file.stat().st_mode & 0o777 == 0o644

    for word in ("start", ""):
        done = house.run(*(["-k", word] if word else []))
        assert (done.returncode, done.stdout) == (0, f"httpd (pid {pid}) already running\n")

    old = children_of(pid)
    for count, word in enumerate(("graceful", "restart"), 2):
        done = house.run("-k", word)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        poll_until(lambda: house.log.count("resuming normal operations") == count, f"after {word}")  # noqa: B023
        all_gone(old, f"the children from before {word}")
        old = children_of(pid)
        assert house.pid == pid and house.get() == b"hello\n"
    command_lines = re.findall(r"\[core:notice\] .* AH00094: Command line: '(.*)'", house.log)
    assert command_lines == [f"mpmkit httpd -f {house.file}"] * 3, "as httpd, without -k"

    children = children_of(pid)
    done = house.run("-k", "stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    all_gone([pid, *children], "parent and children")
    assert not house.pid_file.exists() and "AH00096" in house.log
    done = house.run("-k", "stop")
    assert (done.returncode, done.stdout) == (0, "httpd (no pid file) not running\n")


def test_a_graceful_stop_takes_the_pid_file_away_at_once(house):
    pid = house.start()
    with Client(house) as client:
        client.send(b"GET / HTTP/1.1\r\n")  # half a request: its worker waits
        poll_until(lambda: children_of(pid), "a child")
        assert house.run("-k", "graceful-stop").returncode == 0
        poll_until(lambda: not house.pid_file.exists(), "the PidFile is gone")
        assert alive(pid)
        client.send(b"Host: x\r\nConnection: close\r\n\r\n")
        assert client.reply().status == 200
    all_gone([pid], "the parent")


def test_restart_and_graceful_start_a_server_that_is_not_there(house):
    for word in ("restart", "graceful"):
        done = house.run("-k", word)
        assert (done.returncode, done.stdout) == (0, "httpd not running, trying to start\n")
        pid = house.pid
        assert house.run("-k", "stop").returncode == 0
        all_gone([pid], "the server")


@pytest.mark.parametrize("word", ["graceful", "restart"])
def test_a_bad_file_at_k_leaves_the_server_as_it_was(house, word):
    pid = house.start()
    before = house.log
    house.write("event", "Nonsense 1")
    done = house.run("-k", word)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"AH00526: Syntax error on line 6 of {house.file}:" in done.stderr
    assert house.get() == b"hello\n" and house.log == before, "no signal was sent"
    done = house.run("-k", "stop")  # httpd refuses this, too
    assert done.returncode == 0 and "told to stop" in done.stderr
    all_gone([pid], "the server")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_raw_signal_with_a_bad_file_is_survived_unless_httpds_way_is_wanted(house, number):
    for defines in ([], ["-D", "HTTPD_RAW_RESTART"]):
        house.write("event")
        pid = house.start(*defines)
        children = children_of(pid)
        house.write("event", "Nonsense 1")
        os.kill(pid, number)
        poll_until(
            lambda: "AH00526: the new configuration is not used" in house.log, "it is logged"
        )
        if defines:
            all_gone([pid, *children], "nobody serves any more")
            assert house.pid == pid, "and the PidFile stays"
        else:
            assert house.get() == b"hello\n"
            house.run("-k", "stop")
            all_gone([pid], "the server")
            (house.root / "logs" / "error_log").write_text("")
    house.write("event")
    assert house.run("-k", "stop").stdout == f"httpd (pid {pid}?) not running\n"
    pid, stale = house.start(), pid
    assert re.search(rf"\[core:warn\] .* AH00098: .* {stale}, ", house.log)
    house.run("-k", "stop")
    all_gone([pid], "the server")


def test_what_goes_wrong_is_told_before_the_terminal_is_left(house):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", house.port))
        sock.listen()
        done = house.run("-k", "start")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "AH00072" in lines[0] and f"127.0.0.1:{house.port}" in lines[0]
    assert lines[-1] == "AH00015: Unable to open logs"
    assert not house.pid_file.exists()

    for line, says in {
        "PidFile no/such/dir/x.pid": "AH00099: PidFile",
        "ScoreBoardFile no/such/dir/board": "AH00004",
        "ErrorLog no/such/dir/log": "(2)No such file or directory: AH02291: ErrorLog",
        "CustomLog no/such/dir/log common": "CustomLog",
    }.items():
        done = house.run("-k", "start", "-c", line)
        assert done.returncode == 1, line
        assert done.stderr.startswith(says) or says in done.stderr.splitlines()[0], done.stderr


def test_without_a_listen_there_is_nothing_to_serve(house):
    house.file.write_text("LoadModule mpm_event_module x\nServerName x\n")
    assert house.run("-t").returncode == 0
    done = house.run("-k", "start")
    assert done.returncode == 1
    assert done.stderr.startswith("no listening sockets available, shutting down\nAH00015: ")


@pytest.mark.parametrize("name", ["host", "host.example"])
def test_a_machine_without_a_full_name_is_told_of(house, name, monkeypatch, capsys):
    house.file.write_text("LoadModule mpm_event_module x\n")
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 0
    assert err.startswith("AH00558: httpd: ") is (name == "host")
    status, _, err = called("-f", str(house.file), "-t", "-c", "ServerName x", capsys=capsys)
    assert (status, err) == (0, "Syntax OK\n")


@pytest.mark.parametrize("mpm", ["worker", "event"])
def test_a_stack_size_that_cannot_be_is_told_and_done_without(mpm, tmp_path):
    house = House(tmp_path, mpm)
    house.write(mpm, "ThreadStackSize 5")
    pid = house.start()
    assert house.get() == b"hello\n"
    number = {"worker": "AH02435", "event": "AH02436"}[mpm]
    assert re.search(rf"\[mpm_{mpm}:warn\] .* {number}: ThreadStackSize 5", house.log)
    house.run("-k", "stop")
    all_gone([pid], "the server")


def test_threads_have_the_stack_that_is_asked_for(house):
    house.write("event", "ThreadStackSize 786432", "ThreadsPerChild 2", "MaxRequestWorkers 2")
    pid = house.start()
    assert house.get() == b"hello\n"
    (child,) = children_of(pid)
    sizes = re.findall(r"^Size: +(\d+) kB$", Path(f"/proc/{child}/smaps").read_text(), re.M)
    assert sizes.count("768") >= 3, "the listener's and two workers'"
    house.run("-k", "stop")
    all_gone([pid], "the server")


def test_one_address_twice_is_refused(house, capsys):
    house.write("event", f"Listen 127.0.0.1:{house.port}")
    status, _, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert status == 1 and "line 6" in err and "Listen" in err


# -- in the foreground ----------------------------------------------------------------------------


@pytest.mark.parametrize(("defines", "session"), [
    (["-D", "FOREGROUND"], False), (["-D", "NO_DETACH"], True),
])  # fmt: skip
def test_without_a_process_of_its_own(house, defines, session):
    process = subprocess.Popen(
        command("httpd", "-f", str(house.file), *defines),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    poll_until(house.pid_file.exists, "the PidFile")
    assert house.pid == process.pid
    poll_until(lambda: children_of(process.pid), "children")
    assert house.get() == b"hello\n"
    assert (os.getsid(process.pid) == process.pid) is session
    process.terminate()
    assert process.communicate(timeout=10)[1] == b"" and process.returncode == 0
    assert not house.pid_file.exists()


def test_X_is_one_process_that_any_signal_ends(mpm, tmp_path):
    house = House(tmp_path, mpm)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = subprocess.Popen(
            command("httpd", "-f", str(house.file), "-X"),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        poll_until(house.pid_file.exists, "the PidFile")
        assert house.get() == b"hello\n"
        assert house.pid == process.pid and children_of(process.pid) == []
        process.send_signal(number)
        assert process.communicate(timeout=10)[1] == b"" and process.returncode == 0
        assert not house.pid_file.exists()


# -- the PidFile ----------------------------------------------------------------------------------


def test_a_pid_file_is_whole_or_not_there(tmp_path):
    path = str(tmp_path / "x.pid")
    assert pidfile.read(path) is None and pidfile.running(path) is None
    assert pidfile.write(path) is None
    assert (tmp_path / "x.pid").read_text() == f"{os.getpid()}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["x.pid"], "nothing is left beside it"
    assert pidfile.read(path) == os.getpid()
    assert pidfile.running(path) is None, "this is us: nobody else runs"
    assert pidfile.remove(path) is True and pidfile.remove(path) is False


@pytest.mark.parametrize("text", ["", "nonsense", "12x", "-5", "0", "1" * 80, "99999999999"])
def test_a_broken_pid_file_is_an_error(tmp_path, house, text):
    house.pid_file.write_text(text)
    with pytest.raises(PidFileError, match="holds no process id"):
        pidfile.read(str(house.pid_file))


def test_a_broken_pid_file_stops_every_word(house):
    house.pid_file.write_text("nonsense\n")
    for word in ("start", "stop"):
        done = house.run("-k", word)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"AH00058: PidFile {house.pid_file} holds no process id\nAH00059"
        )


def test_a_stale_pid_file_is_overwritten_and_a_stranger_is_left_alone(house):
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        house.pid_file.write_text(f"{stranger.pid}\n")
        done = house.run("-k", "stop")
        assert done.stdout == f"httpd (pid {stranger.pid}?) not running\n"
        assert stranger.poll() is None
        pid = house.start()
        assert f"named process {stranger.pid}" in house.log
        assert stranger.poll() is None
        house.run("-k", "stop")
        all_gone([pid], "the server")
    finally:
        stranger.kill()
        stranger.wait()


def test_another_servers_pid_file_is_not_removed(house):
    pid = house.start()
    house.pid_file.write_text("4194304\n")
    os.kill(pid, signal.SIGTERM)
    all_gone([pid], "the server")
    assert house.pid == 4194304


def test_a_restart_moves_the_pid_file(house):
    pid = house.start()
    house.write("event", "PidFile logs/other.pid")
    os.kill(pid, signal.SIGUSR1)
    other = house.root / "logs" / "other.pid"
    poll_until(lambda: other.exists() and not house.pid_file.exists(), "the other PidFile")
    assert other.read_text() == f"{pid}\n"
    assert house.run("-k", "stop").returncode == 0
    all_gone([pid], "the server")
    assert not other.exists()


def test_a_graceful_restart_opens_the_logs_anew(house):
    """What a log rotation needs: move the files away, then -k graceful."""
    pid = house.start("-c", "CustomLog logs/access_log %U", "-c", "BufferedLogs On")
    logs = house.root / "logs"
    assert house.get() == b"hello\n"
    for name in ("error_log", "access_log"):
        (logs / name).rename(logs / f"{name}.1")
    assert house.run("-k", "graceful").returncode == 0
    poll_until((logs / "error_log").exists, "a new error log")
    poll_until(lambda: "resuming normal operations" in house.log, "the restart")
    poll_until(lambda: (logs / "access_log.1").read_text() == "/\n", "the old child's line")
    assert os.readlink(f"/proc/{pid}/fd/2") == str(logs / "error_log")
    assert house.get() == b"hello\n"
    house.run("-k", "stop")
    all_gone([pid], "the server")


def test_X_writes_its_buffered_lines(house):
    process = subprocess.Popen(
        command(
            "httpd",
            "-f",
            str(house.file),
            "-X",
            "-c",
            "CustomLog logs/access_log %U",
            "-c",
            "BufferedLogs On",
        ),
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    poll_until(house.pid_file.exists, "the PidFile")
    # An answer comes before its line; but a connection's next answer comes after it. (Another
    # connection's may not: this is event, with other threads.)
    with Client(house) as client:
        for close in (False, True):
            assert client.send(request("/", close=close)).reply().body == b"hello\n"
    process.terminate()
    assert process.wait(10) == 0
    assert (house.root / "logs" / "access_log").read_text() in ("/\n", "/\n/\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has children that could be somebody else")
def test_children_that_stay_root_are_told_of(house):
    for lines, told in ((), True), (("User nobody",), False):
        house.write("event", *lines)
        pid = house.start()
        assert ("[unixd:warn]" in house.log) is told
        house.run("-k", "stop")
        all_gone([pid], "the server")
        (house.root / "logs" / "error_log").unlink()


def test_restarts_leave_no_descriptors_open(house):
    pid = house.start("-c", "CustomLog logs/access_log common")
    counts = []
    for count in range(2, 5):
        os.kill(pid, signal.SIGUSR1)
        poll_until(lambda: house.log.count("AH00094") == count, "a restart")  # noqa: B023
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
    assert counts[0] == counts[1] == counts[2]
    house.run("-k", "stop")
    all_gone([pid], "the server")


# -- the files that the recorded httpd ran with ----------------------------------------------------

RECORDED = Path(__file__).parent / "data" / "conf"
STAMP = r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
ASKED = r"127\.0\.0\.1 - - " + STAMP + r' "GET / HTTP/1\.1" 200 '
LINES = {
    "access-common.log": ASKED + "6",
    "access-combined.log": ASKED + '6 "-" "-"',
    "access-lab.log": r"127\.0\.0\.1 " + STAMP
                      + r' "GET / HTTP/1\.1" 200 6 us=\d+ conn=- ka=0 pid=\d+ tid=\d+',
}  # fmt: skip


def recorded_house(tmp_path: Path, mpm: str) -> House:
    """Those of tests/data/conf, but for the place that they are in."""
    house = House(tmp_path, mpm)
    for name in ("conf", "run"):
        (tmp_path / name).mkdir()
    for path in RECORDED.glob("*.conf"):
        text = path.read_text().replace("/srv/captures", str(tmp_path))
        if os.geteuid():
            text = re.sub(r"(?m)^(User|Group) .*\n", "", text)
        (tmp_path / "conf" / path.name).write_text(text)
    open_to_all(tmp_path)  # children become www-data
    house.file = tmp_path / "conf" / f"{mpm}.conf"
    return house


def test_a_recorded_httpds_file_serves(mpm, tmp_path, monkeypatch):
    try:
        pwd.getpwnam("www-data")
    except KeyError:
        pytest.skip("this machine has no user www-data")
    house = recorded_house(tmp_path, mpm)
    monkeypatch.setenv("PORT", str(house.port))
    done = house.run("-k", "start")
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((tmp_path / "run" / f"{mpm}.pid").read_text())
    assert house.get() == b"hello\n"
    children = children_of(pid)
    assert len(children) == (3 if mpm == "prefork" else 2)
    if os.geteuid() == 0:
        poll_until(
            lambda: {Path(f"/proc/{child}").owner() for child in children} == {"www-data"},
            "children are www-data",
        )
        assert Path(f"/proc/{pid}").owner() == "root"
    for name, line in LINES.items():
        log = tmp_path / "logs" / name
        poll_until(lambda: log.read_text().endswith("\n"), f"a line in {name}")  # noqa: B023
        assert re.fullmatch(line, log.read_text().rstrip("\n")), log.read_text()
    with Client(house) as client:
        page = client.send(request("/server-status?auto", close=True)).reply()
    assert f"ServerMPM: {mpm}\n" in page.body.decode()
    assert house.run("-k", "stop").returncode == 0
    all_gone([pid, *children], "the server")
    log = (tmp_path / "logs" / f"error-{mpm}.log").read_text()
    assert f"[mpm_{mpm}:notice]" in log and ":error]" not in log and ":warn]" not in log


# -- beside the real one --------------------------------------------------------------------------

HTTPD = shutil.which("apache2", path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", ""))
MODULES = Path("/usr/lib/apache2/modules")

REQTIMEOUT = f"LoadModule reqtimeout_module {MODULES}/mod_reqtimeout.so"

# Command lines whose exit status, and shape of output, must be the same.
SAME = {
    "a right file": ["-t"],
    "a word too many": ["-t", "word"],
    "no such option": ["-q"],
    "no such word": ["-k", "bogus"],
    "two words": ["-k", "start", "-k", "stop"],
    "no such level": ["-e", "loud", "-t"],
    "help": ["-h"],
    "modules": ["-M"],
    "settings": ["-S"],
    "files": ["-t", "-D", "DUMP_INCLUDES"],
    "a directive that is none": ["-t", "-c", "Nonsense 1"],
    "no document root": ["-t", "-c", "DocumentRoot /does/not/exist"],
    "no document root, and no matter": ["-t", "-T", "-c", "DocumentRoot /does/not/exist"],
    "no listening port": ["-t", "-c", "Listen 99999"],
    "a corrected number": ["-t", "-c", "ThreadsPerChild 0"],
    "not running": ["-k", "stop"],
    "not running, gracefully": ["-k", "graceful-stop"],
    "no directory for the log": ["-t", "-c", "ErrorLog no/such/dir/log"],
    "no format for the log": ["-t", "-c", "CustomLog logs/x"],
    "a rate of nought": ["-t", "-C", REQTIMEOUT, "-c", "RequestReadTimeout header=10,MinRate=0"],
    "a bad file, and stop": ["-k", "stop", "-c", "Nonsense 1"],
}


@pytest.fixture
def both(tmp_path):
    """A command for each: ours, and the real httpd with the same file."""
    if HTTPD is None or not (MODULES / "mod_mpm_event.so").exists():
        pytest.skip("the real httpd is not installed (Debian: apache2)")
    house = House(tmp_path)
    user = ["User www-data", "Group www-data"] if os.geteuid() == 0 else []
    house.file.write_text(
        "\n".join(
            [
                f"LoadModule mpm_event_module {MODULES}/mod_mpm_event.so",
                f"LoadModule authz_core_module {MODULES}/mod_authz_core.so",
                f'ServerRoot "{tmp_path}"',
                "ServerName lab.example",
                "PidFile logs/httpd.pid",
                f"Listen 127.0.0.1:{house.port}",
                "ErrorLog logs/error_log",
                "DefaultRuntimeDir logs",
                "DocumentRoot htdocs",
                *user,
                "",
            ]
        )
    )

    def run(*args: str) -> dict[str, tuple[int, list[str], list[str]]]:
        answers = {}
        programs = {"ours": [sys.executable, "-m", "mpmkit", "httpd"], "httpd": [HTTPD]}
        for who, program in programs.items():
            done = subprocess.run(
                [*program, "-f", str(house.file), *args],
                capture_output=True,
                text=True,
                timeout=20,
                env=environment(),
                stdin=subprocess.DEVNULL,
            )
            answers[who] = (done.returncode, shape(done.stdout), shape(done.stderr))
        return answers

    run.house = house
    return run


def shape(text: str) -> list[str]:
    """What of the output is the same: the beginnings of lines, and not our wording."""
    lines = []
    for line in text.splitlines():
        if "watchdog" in line or re.match(r" \w+_module \(static\)", line):
            continue  # what one of them has built in
        line = re.sub(r"^(\S*apache2|httpd): ", "NAME: ", line)
        if line.startswith("Usage:"):
            return [*lines, "Usage:"]
        number = r"((?:\(\d+\)[^:]+: )?AH\d+: (?:WARNING: |Syntax error on line \d+ of .*)?)"
        key = r"(Mutex default|PidFile|User|Group|Define: \w+)"
        if found := re.match(number, line) or re.match(key, line):
            lines.append(found[1])
            continue
        if lines and lines[-1].startswith("AH00526: Syntax"):
            continue  # the sentence below
        lines.append(line)
    return lines


@pytest.mark.rival
@pytest.mark.parametrize("what", SAME)
def test_httpd_says_the_same(both, what):
    answers = both(*SAME[what])
    if what == "a bad file, and stop":  # nobody runs: both refuse
        assert answers["ours"][0] == answers["httpd"][0] == 1
    assert answers["ours"] == answers["httpd"]


@pytest.mark.rival
def test_httpd_says_the_same_of_its_own_life(both):
    """One after the other on the same port: each word, its exit status and what it prints."""
    house = both.house
    told = {}
    programs = {"ours": [sys.executable, "-m", "mpmkit", "httpd"], "httpd": [HTTPD]}
    for who, program in programs.items():
        said = []

        def run(*args, program=program, said=said):
            done = subprocess.run(
                [*program, "-f", str(house.file), *args],
                capture_output=True,
                text=True,
                timeout=20,
                env=environment(),
                stdin=subprocess.DEVNULL,
            )
            # httpd says "trying to start" twice
            numbers = list(dict.fromkeys(re.sub(r"\d{3,}", "N", done.stdout).splitlines()))
            said.append((args, done.returncode, numbers, shape(done.stderr)))

        run("-k", "restart")
        poll_until(house.pid_file.exists, "the PidFile")
        pid = house.pid
        poll_until(lambda: children_of(pid), "children")  # noqa: B023
        run("-k", "start")
        run()
        run("-k", "graceful")
        run("-k", "graceful", "-c", "Nonsense 1")
        poll_until(lambda: "graceful restart" in house.log.lower(), "the restart")
        run("-k", "stop")
        all_gone([pid], "the server", 15)
        poll_until(lambda: not house.pid_file.exists(), "the PidFile is gone")
        house.pid_file.write_text("4194304\n")
        run("-k", "stop")
        house.pid_file.write_text("nonsense\n")
        run("-k", "start")
        house.pid_file.unlink()
        told[who] = [(args, code, out) for args, code, out, _ in said]
        (house.root / "logs" / "error_log").unlink()
    assert told["ours"] == told["httpd"]


# -- what a whole file does -----------------------------------------------------------------------


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_a_listen_without_an_address_is_for_both_kinds(mpm, tmp_path):
    """One socket; an IPv4 client is told by its IPv4 address, in the log and to Require local."""
    house = House(tmp_path, mpm)
    house.write(
        mpm,
        r'LogFormat "%a %A %p %s" ends',
        "CustomLog logs/access_log ends",
        "<Location />",
        "Require local",
        "</Location>",
    )
    port = house.port
    text = house.file.read_text()
    house.file.write_text(text.replace("Listen 127.0.0.1:", "Listen ") + f"Listen 0.0.0.0:{port}\n")
    house.start()

    def ask() -> None:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), 10) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert b" 200 " in client.recv(4096)

    ask()
    pid = house.pid
    assert house.run("-k", "graceful").returncode == 0
    poll_until(lambda: house.log.count("resuming normal operations") == 2, "a restart")
    ask()
    log = house.root / "logs" / "access_log"
    lines = poll_until(
        lambda: len(found := log.read_text().splitlines()) == 4 and found, "four lines"
    )
    assert sorted(lines) == [f"127.0.0.1 127.0.0.1 {port} 200"] * 2 + [f"::1 ::1 {port} 200"] * 2
    assert house.run("-k", "stop").returncode == 0
    poll_until(lambda: not alive(pid), "its end")


def test_what_is_forbidden_is_told_as_an_error(house):
    """By httpd's ids: Require, and a directory without an index where mod_autoindex is loaded."""
    (house.root / "htdocs" / "docs").mkdir()
    house.write(
        "event",
        "LoadModule autoindex_module modules/mod_autoindex.so",
        "<Files index.html>",
        "Require all denied",
        "</Files>",
    )
    pid = house.start()
    for path in ("/index.html", "/docs/"):
        with Client(house) as client:
            assert client.send(request(path, close=True)).reply().status == 403
    htdocs = house.root / "htdocs"
    assert re.search(rf"\[authz_core:error\] .* AH01630: .*{htdocs}/index\.html\n", house.log)
    assert re.search(rf"\[autoindex:error\] .* AH01276: .*{htdocs}/docs/", house.log)
    house.write("event")
    assert house.run("-k", "graceful").returncode == 0
    poll_until(lambda: house.log.count("resuming normal operations") == 2, "a restart")
    with Client(house) as client:
        assert client.send(request("/docs/", close=True)).reply().status == 404
    assert house.run("-k", "stop").returncode == 0
    poll_until(lambda: not alive(pid), "its end")


def test_a_server_of_another_user_is_named(house, capsys, monkeypatch):
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    pid = house.start()
    with monkeypatch.context() as patch:
        patch.setattr(httpd.os, "kill", refuse)
        status, out, err = called("-f", str(house.file), "-k", "stop", capsys=capsys)
    assert (status, out) == (1, "")
    assert err == (
        f"httpd: the server, process {pid}, takes no signals from us: "
        "it is another user's: be that user, or root\n"
    )
    assert house.run("-k", "stop").returncode == 0
    poll_until(lambda: not alive(pid), "its end")


def test_a_file_that_may_not_be_read(house, capsys, monkeypatch):
    """One message, and no other mistakes of a file that nobody has read."""
    monkeypatch.setattr(httpd.os, "access", lambda *args, **options: False)  # root may read all
    status, out, err = called("-f", str(house.file), "-t", capsys=capsys)
    assert (status, out) == (1, "")
    assert err == f"httpd: Could not open configuration file {house.file}: Permission denied\n"
