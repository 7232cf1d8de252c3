"""`mpmkit httpd`: httpd's command line, its exit statuses and the shapes of its output, a server in
the background, its PidFile."""

import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.client import FINISH, get, half_sent, refused
from support.files import open_to_all, section, write
from support.servers import command, environment, free_ports
from support.waiting import alive, all_gone, children_of, logged, patience, poll_until

from mpmkit.cli import httpd
from mpmkit.load.connections import taken

pytestmark = pytest.mark.usefixtures("everything_ends")

Said = tuple[int, str, str]  # exit status, standard output, standard error
STARTED = "resuming normal operations"


class House:
    """A ServerRoot with a configuration, and the command that works on it."""

    def __init__(self, root: Path, mpm: str = "event") -> None:
        (self.port,) = free_ports(1)
        self.root, self.logs, self.file, self.mpm = root, root / "logs", root / "httpd.conf", mpm
        self.pid_file, self.error_log = self.logs / "httpd.pid", self.logs / "error_log"
        self.logs.mkdir()
        write(root / "htdocs" / "index.html", "hello\n")
        self.write()

    def write(self, *lines: str) -> None:
        """A file of five lines that is right, and these."""
        load = f"LoadModule mpm_{self.mpm}_module modules/mod_mpm_{self.mpm}.so"
        listen = f"Listen 127.0.0.1:{self.port}"
        right = [load, listen, "ServerName lab.example", "LogLevel info", "StartServers 1"]
        self.file.write_text("\n".join([*right, *lines, ""]))

    def command(self, *args: str) -> list[str]:
        return command("httpd", "-f", str(self.file), *args)

    def run(self, *args: str) -> Said:
        how = {"capture_output": True, "text": True, "timeout": 20, "stdin": subprocess.DEVNULL}
        done = subprocess.run(self.command(*args), env=environment(), **how)
        return done.returncode, done.stdout, done.stderr

    def do(self, *args: str) -> None:
        assert self.run(*args) == (0, "", "")

    @contextmanager
    def running(self, *args: str) -> Iterator[int]:
        """A server started by -k, and stopped by it if it still runs; its pid."""
        self.do("-k", "start", *args)
        pid = self.pid
        self.serves()
        try:
            yield pid
        finally:
            children = children_of(pid)
            if alive(pid):
                assert self.run("-k", "stop")[0] == 0
        all_gone([pid, *children], "parent and children")

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def log(self) -> str:
        return self.error_log.read_text()

    def logs_by(self, count: int, *texts: str) -> None:
        """Wait until its log has these texts so often, together."""
        poll_until(lambda: sum(map(self.log.count, texts)) == count, f"{count} times {texts}")

    def serves(self) -> None:
        assert get(self, "/").body == b"hello\n"


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path)


@pytest.fixture
def here(house, capsys) -> Callable[..., Said]:
    """The command in this process, for what starts no server; with the house's file by default."""

    def run(*args: str, file: object = house.file) -> Said:
        status = httpd.main([*(["-f", str(file)] if file else []), *args])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("args", "status", "says"), [
    ("-h", 1, r"Usage: (.|\n)* \[-k start\|restart\|graceful\|graceful-stop\|stop\]\n(.|\n)*\n  --report file "),
    ("-D LAB -t -D DUMP_RUN_CFG", 0, r'(.+\n)+Define: LAB\nDefine: DUMP_RUN_CFG\nDefine: COLOUR=red\n'
                                     r'User: name="nobody" id=\d+\n'),
    ("word", 1, r"Usage: mpmkit httpd \[-D name\]"), ("-f", 1, "httpd: option requires an argument -- f\n"),
    *((args, 1, f"httpd: illegal option -- {args[1]}\n(.|\n)*Usage: ")
      for args in ("-q", "-k", "-k bogus", "-k stop -k start", "-X")),
])  # fmt: skip
def test_what_it_prints(args, status, says, house, here):
    """Other options, line by line as httpd: tests/fidelity, area cli."""
    house.write("Define COLOUR red", "User nobody")
    found, out, err = here(*args.split(), file=house.file if status == 0 else None)
    assert found == status and (out, err)[1 - status] == ""
    assert re.match(says, out or err)


@pytest.mark.parametrize(("line", "says"), [
    ("PidFile logs/none/pid", "AH00099: PidFile"), ("ScoreBoardFile logs/none/board", "AH00004"),
    ("ErrorLog logs/none/log", "(2)No such file or directory: AH02291: ErrorLog"),
    ("CustomLog logs/none/log common", "(2)No such file or directory: AH02297: CustomLog"),
    ("ErrorLog syslog", "ErrorLog syslog: logs to syslog are not supported"),
    ("CustomLog \"|'rotatelogs\" common", "CustomLog |'rotatelogs: No closing quotation"),
    ("ErrorLog \"||\"", "ErrorLog ||: no program is named"),
    # httpd's -t asks only whether the file exists.
    ("Listen 127.0.0.1:1 https\nSSLCertificateFile httpd.conf", "httpd.conf: no certificate in PEM: name one"),
])  # fmt: skip
def test_t_fails_where_the_start_would(house, line, says, here):
    house.write(line)
    for word in (("-t",), ("-k", "start")):
        status, _, err = here(*word)
        assert status == 1 and says in err and "Syntax OK" not in err


def test_every_mistake_is_reported_with_its_place(house, here):
    wrong = {
        "Nonsense on": "Nonsense", "LogFormat %y": "%y", "LoadModule nonsense_module x.so": "no such module",
        "<FilesMatch \"(\">\n</FilesMatch>": "open parenthesis", "Nonsense2 1": "Nonsense2",
        f"Listen 127.0.0.1:{house.port}": "Listen 127.0.0.1",  # it is in the file already
        "<Nonsense x>\nNonsense 2\n</Nonsense>": "Nonsense", "Timeout": "Timeout",
    }  # fmt: skip
    house.write(*wrong, "Timeout")
    status, out, err = here("-t")
    assert (status, out) == (1, "") and err.endswith("(and so on line 17)\n"), "each once"
    places = [6, 7, 8, 9, 11, 12, 13, 16]  # the inside of what is refused says nothing more
    lines = err.splitlines()
    assert lines[::2] == [f"AH00526: Syntax error on line {n} of {house.file}:" for n in places]
    assert not [
        said for said, line in zip(wrong.values(), lines[1::2], strict=True) if said not in line
    ]


def test_what_is_right_or_right_enough(house, monkeypatch, here):
    assert here("-t") == (0, "", "Syntax OK\n")
    more = here("-t", "-c", "LogLevel debug", "-c", "HostnameLookups On")[2]
    assert "HostnameLookups" in more and more.endswith("Syntax OK\n")
    house.write("DocumentRoot /does/not/exist", "Listen 127.0.0.1:1 https", "SSLEngine Off")
    assert here("-t", "-T")[0] == 0, "and no socket speaks TLS"
    house.write("ThreadsPerChild 4", "MaxRequestWorkers 10")
    status, _, err = here("-t")
    assert status == 0 and not list(house.logs.iterdir()), "nothing is made"
    assert re.fullmatch(r"AH00513: WARNING: MaxRequestWorkers .*\nSyntax OK\n", err)
    # A machine without a full name
    house.file.write_text("LoadModule mpm_event_module x\n")
    for name in ("host", "host.example"):
        monkeypatch.setattr(socket, "getfqdn", lambda: name)  # noqa: B023
        status, _, err = here("-t")
        assert status == 0 and err.startswith("AH00558: httpd: ") is (name == "host")
        assert here("-t", "-c", "ServerName x") == (0, "", "Syntax OK\n")


def test_directives_of_the_command_line_stand_before_and_behind_the_file(house, here):
    house.write("<IfDefine ${NAME}>", "PidFile seen.pid", "</IfDefine>")
    args = ["-C", "Define NAME LAB", "-D", "LAB", "-S"]
    assert f'PidFile: "{house.root}/seen.pid"' in here(*args)[1]
    assert f'PidFile: "{house.root}/last.pid"' in here(*args, "-c", "PidFile last.pid")[1]
    status, _, err = here("-c", "Nonsense 1", "-t")
    assert status == 1 and "line 1 of -c/-C directives:" in err
    # The MPM may come from there.
    house.file.write_text("<IfModule mpm_worker_module>\nThreadsPerChild 3\n</IfModule>\n")
    status, _, err = here("-t")
    assert status == 1 and err.startswith("AH00534: ") and "LoadModule mpm_event_module" in err
    status, out, _ = here("-C", "LoadModule mpm_worker_module modules/mod_mpm_worker.so", "-V")
    assert status == 0 and "Server MPM:     worker\n" in out


def test_where_the_server_root_is(house, monkeypatch, here):
    root, conf = house.root, house.root / "conf"
    conf.mkdir()
    house.file.rename(conf / "httpd.conf")
    assert (found := f'ServerRoot: "{root}"') in here("-S", file=conf / "httpd.conf")[1]
    assert found in here("-d", str(root), "-S", file=None)[1], "-d, and conf/httpd.conf below it"
    monkeypatch.chdir(root)
    assert here("-t", file=None)[0] == 0
    out = here("-d", str(root), "-S", file="conf/httpd.conf")[1]
    assert f'PidFile: "{house.pid_file}"' in out
    says = f"httpd: Could not open configuration file {house.logs}/conf/httpd.conf: No such file or directory\n"
    assert here("-d", str(house.logs), "-t", file=None) == (1, "", says)
    says = f"httpd: Could not open configuration file {root}: Is a directory\n"
    assert here("-t", file=root) == (1, "", says)


def test_start_graceful_restart_stop(house, here, monkeypatch):
    """It serves when the command is done."""
    with house.running() as pid:
        assert ("[unixd:warn]" in house.log) is (os.geteuid() == 0), "children that stay root"
        assert os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/cwd") == "/"
        files = [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]
        assert files == ["/dev/null", "/dev/null", str(house.error_log)]
        assert house.pid_file.read_text() == f"{pid}\n"
        assert house.pid_file.stat().st_mode & 0o777 == 0o644
        assert {file.name for file in house.logs.iterdir()} == {"httpd.pid", "error_log"}
        for args in (["-k", "start"], []):
            assert house.run(*args) == (0, f"httpd (pid {pid}) already running\n", "")
        old = children_of(pid)
        for count, word in enumerate(("graceful", "restart"), 2):
            house.do("-k", word)
            house.logs_by(count, "AH00094")  # the last line of a restart
            all_gone(old, f"the children from before {word}")
            old = children_of(pid)
            assert house.pid == pid
            house.serves()
        lines = re.findall(r"\[core:notice\] .* AH00094: Command line: '(.*)'", house.log)
        assert lines == [f"mpmkit httpd -f {house.file}"] * 3, "as httpd, without -k"
        with monkeypatch.context() as patch:
            patch.setattr(httpd.os, "kill", Mock(side_effect=PermissionError(1, "not permitted")))
            why = "belongs to another user: run this as that user, or as root"
            assert here("-k", "stop") == (1, "", f"httpd: the server, process {pid}, {why}\n")
        house.do("-k", "stop")
        all_gone([pid, *old], "parent and children")
        assert not house.pid_file.exists() and "AH00096" in house.log
        assert house.run("-k", "stop") == (0, "httpd (no pid file) not running\n", "")
        assert house.run("-k", "graceful") == (0, "httpd not running, trying to start\n", "")
        house.serves()
        with half_sent(house) as client:  # its worker waits
            new = house.pid
            poll_until(lambda: taken(Path("/proc/net/tcp").read_text(), house.port), "it is read")
            house.do("-k", "graceful-stop")
            poll_until(lambda: not house.pid_file.exists(), "the PidFile is gone at once")
            assert alive(new) and new != pid
            assert client.ask(FINISH, "GET").status == 200
            all_gone([new], "the parent")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_no_file_ends_a_server_that_runs_or_leaves_a_descriptor(house):
    """Whatever reading it raises, and where. A <VirtualHost> of no possible name is one without an address."""
    os.mkfifo(house.root / "pipe")
    bad = ("Listen é:1", "CustomLog \"|'x\" common", f"Include {house.root}/pipe", "ErrorLog logs/\0",
           "<IfModule x>\n" * 3000 + "</IfDefine>", "Nonsense 1", "DocumentRoot /does/not/exist",
           "LoadModule mpm_worker_module x", "CustomLog logs/none/x common", "TypesConfig none",
           "Listen 192.0.2.1:1")  # fmt: skip
    right = ("LoadModule cgid_module modules/mod_cgid.so", "AddHandler cgi-script .cgi",
             "CustomLog logs/access_log common", section("VirtualHost a..b:80", "ServerName x"))  # fmt: skip
    house.write(*right)
    with house.running() as pid:
        before, most = set(children_of(pid)), descriptors(pid)
        for count, line in enumerate(bad, 1):
            house.write(*right, line)
            os.kill(pid, (signal.SIGUSR1, signal.SIGHUP)[count % 2])
            house.logs_by(count, "the new configuration is not used")
            house.serves()
            assert before <= set(children_of(pid))
        assert f"line 12 of {house.file}" in house.log or f"{house.file}:12" in house.log
        for count in range(2, 14):
            house.write(*right)
            os.kill(pid, signal.SIGUSR1)
            house.logs_by(count, STARTED)
        # What was opened for it is closed after the line.
        poll_until(lambda: descriptors(pid) <= most, "no more are open")
        # Nor does a lack of descriptors, wherever it shows.
        said = house.log.count("is not used") + house.log.count(STARTED)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        for spare in range(8):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + spare, limits[1]))
            os.kill(pid, signal.SIGUSR1)
            house.logs_by(said + spare + 1, "is not used", STARTED)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            house.serves()
        assert "Too many open files" in house.log


def test_what_goes_wrong_is_said_before_the_terminal_is_left(house):
    with socket.create_server(("127.0.0.1", house.port)):
        status, _, err = house.run("-k", "start")
    first, *_, last = err.splitlines()
    assert status == 1 and "AH00072" in first and f"127.0.0.1:{house.port}" in first
    assert last == "AH00015: Unable to open logs"
    assert "-D FOREGROUND" in house.run("-D", "ONE_PROCESS")[2]
    assert not house.pid_file.exists()
    house.file.write_text("LoadModule mpm_event_module x\nServerName x\n")
    assert house.run("-t")[0] == 0
    status, _, err = house.run("-k", "start")
    assert status == 1 and err.startswith("no listening sockets available, shutting down\nAH00015")


def writable(pid: int) -> int:
    """Bytes of a process's writable mappings: its stacks, not what malloc has reserved for threads. (From
    glibc 2.42 on, stacks may share a mapping.)"""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = re.findall(r"(?m)^(\w+)-(\w+) rw-p", maps)
    return sum(int(end, 16) - int(start, 16) for start, end in found)


def test_a_graceful_restart_opens_the_logs_anew_and_takes_another_stack(house):
    def write(size: int) -> None:
        house.write("ThreadsPerChild 2", "MaxRequestWorkers 2", f"ThreadStackSize {size}")

    write(786432)
    with house.running("-c", "CustomLog logs/access_log %U") as pid:
        more = writable(children_of(pid)[0]) + 3 * (33554432 - 786432) - 2**20
        write(33554432)
        for name in ("error_log", "access_log"):
            (house.logs / name).rename(house.logs / f"{name}.1")
        house.do("-k", "graceful")
        poll_until(house.error_log.exists, "a new error log")
        house.logs_by(1, STARTED)
        stacks = "the listener's and two workers'"
        poll_until(lambda: any(writable(one) > more for one in children_of(pid)), stacks)
        before = house.logs / "access_log.1"
        poll_until(lambda: before.read_text() == "/index.html\n", "the old child's line")
        assert os.readlink(f"/proc/{pid}/fd/2") == str(house.error_log)
        write(5)
        house.do("-k", "graceful")
        house.logs_by(2, STARTED)
        house.serves()
        warning = r"\[mpm_event:warn\] .* AH02436: ThreadStackSize 5"
        poll_until(lambda: re.search(warning, house.log), "the warning")


@pytest.mark.parametrize(("define", "session"), [("FOREGROUND", False), ("NO_DETACH", True)])
def test_without_a_process_of_its_own(house, define, session):
    how = {"env": environment(), "stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(house.command("-D", define), **how)
    poll_until(house.pid_file.exists, "the PidFile")
    assert house.pid == process.pid
    poll_until(lambda: children_of(process.pid), "children")
    house.serves()
    assert (os.getsid(process.pid) == process.pid) is session
    process.terminate()
    assert process.communicate(timeout=patience())[1] == b"" and process.returncode == 0
    assert not house.pid_file.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "12x", "-5", "0", "1" * 80, "99999999999"])
def test_a_broken_pid_file_stops_every_word(house, text, here):
    house.pid_file.write_text(f"{text}\n" if text else "")
    for word in ("start", "stop"):
        status, out, err = here("-k", word)
        assert (status, out) == (1, "")
        assert err.startswith(f"AH00058: PidFile {house.pid_file} holds no process id\nAH00059")


def test_a_stale_pid_file_is_overwritten_and_a_stranger_is_left_alone(house):
    """That of a killed server, and that of a process which is no server."""
    with house.running() as pid:
        children = children_of(pid)
        os.kill(pid, signal.SIGKILL)
        all_gone([pid, *children], "all processes")
    (log := house.root / "mpmkit").touch()
    with subprocess.Popen(["tail", "-f", log]) as stranger, ExitStack() as stack:
        stack.callback(stranger.kill)
        for stale in (pid, stranger.pid):
            house.pid_file.write_text(f"{stale}\n")
            assert house.run("-k", "stop") == (0, f"httpd (pid {stale}?) not running\n", "")
            with house.running():
                assert re.search(rf"\[core:warn\] .* AH00098: .* {stale}, ", house.log)
        assert stranger.poll() is None


def test_a_restart_moves_to_another_port_and_pid_file_and_removes_only_its_own(house):
    other, first = house.logs / "other.pid", house.port
    with house.running() as pid:
        (house.port,) = free_ports(1)
        house.write("PidFile logs/other.pid")
        os.kill(pid, signal.SIGUSR1)
        poll_until(lambda: other.exists() and not house.pid_file.exists(), "the other PidFile")
        assert other.read_text() == f"{pid}\n"
        poll_until(lambda: not refused(house.port), "the new port")
        house.serves()
        poll_until(lambda: refused(first), "the old port closed")
        other.write_text("4194304\n")
        os.kill(pid, signal.SIGTERM)
        all_gone([pid], "the server")
    assert other.read_text() == "4194304\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_children_are_the_user_that_the_file_names(mpm, shared):
    place = shared / mpm  # other users may enter it
    place.mkdir()
    house = House(place, mpm)
    house.write("User www-data", "Group www-data")
    open_to_all(place)
    with house.running() as pid:
        owners = {pid: "root"} | dict.fromkeys(children_of(pid), "www-data")
        assert len(owners) > 1
        poll_until(lambda: {one: Path(f"/proc/{one}").owner() for one in owners} == owners, "users")
        assert ":warn]" not in house.log and ":error]" not in house.log


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_a_listen_without_an_address_is_for_both_kinds(house):
    """One socket; an IPv4 client has its IPv4 address, in the log and for Require local."""
    log = ('LogFormat "%a %A %{local}p %s" ends', "CustomLog logs/access_log ends")
    house.write(*log, "<Location />", "Require local", "</Location>")
    port, text = house.port, house.file.read_text()
    house.file.write_text(text.replace("Listen 127.0.0.1:", "Listen ") + f"Listen 0.0.0.0:{port}\n")
    with house.running():  # which asks from 127.0.0.1
        assert get(("::1", port), "/").status == 200
        house.do("-k", "graceful")
        house.logs_by(2, STARTED)
        for host in ("127.0.0.1", "::1"):
            assert get((host, port), "/").status == 200
        found = logged(house.logs / "access_log", 4)
    assert sorted(found) == [f"127.0.0.1 127.0.0.1 {port} 200"] * 2 + [f"::1 ::1 {port} 200"] * 2
