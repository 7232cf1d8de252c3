"""`mpmkit httpd`: httpd's command line, for a server that an administrator controls like httpd.

It serves only what the file says, with httpd's defaults. A start follows httpd's order: read the file, open the
logs, bind the sockets, leave the terminal, make the scoreboard, write the PidFile, fork. The command waits until
the server serves or has failed; its status is 0, or 1 on any failure. docs/CONTROL.md has the options.
"""

import getopt
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace as Options
from typing import Any

from mpmkit.cli.configuration import COMPILED_IN, Configuration, StartError
from mpmkit.config.directives import DirectiveError, Directives, Note, Setting
from mpmkit.config.httpd_conf import Conf, Source, read
from mpmkit.server import home
from mpmkit.server.home import PidFileError
from mpmkit.server.listen import ListenError, open_listeners
from mpmkit.server.logs import ErrorLog, LogError, not_a_file

CONFIG_FILE = "conf/httpd.conf"  # below ServerRoot, without -f

# What httpd has compiled in; a file may say otherwise. Relative names start from ServerRoot.
DEFAULTS = (
    Setting("DocumentRoot", ("htdocs",), COMPILED_IN),
    Setting("ErrorLog", ("logs/error_log",), COMPILED_IN),
    Setting("PidFile", ("logs/httpd.pid",), COMPILED_IN),
)

# -k word: the signal for a server that runs.
WORDS = {
    "start": None, "restart": signal.SIGHUP, "graceful": signal.SIGUSR1,
    "graceful-stop": signal.SIGWINCH, "stop": signal.SIGTERM,
}  # fmt: skip


# Option and argument, help, attribute of `Options`, and what that is set to or extended by, if not the argument.
# fmt: off
ROWS: tuple[tuple[str, str, str, Any], ...] = (
    ("-D name", "define a name: for <IfDefine>; FOREGROUND, NO_DETACH", "defines", None),
    ("-d directory", "ServerRoot, unless the file sets it", "server_root", None),
    ("-f file", "the configuration, instead of conf/httpd.conf", "file", None),
    ('-C "directive"', "a directive before the file", "before", None),
    ('-c "directive"', "a directive after the file", "after", None),
    ("-k word", "start a server, or signal the running one", "word", None),
    ("-v", "show the version", "print", "v"),
    ("-V", "show the version and build settings", "print", "V"),
    ("-h", "show this page", "print", "h"),
    ("--help", "the same, with exit status 0", "print", "help"),
    ("-l", "list the built-in modules", "print", "l"),
    ("-S", "show hosts and settings: -D DUMP_VHOSTS -D DUMP_RUN_CFG", "defines",
        ["DUMP_VHOSTS", "DUMP_RUN_CFG"]),
    ("-M", "show the loaded modules: -D DUMP_MODULES", "defines", ["DUMP_MODULES"]),
    ("-t", "check the file, and end; -D DUMP_INCLUDES shows all files", "test", True),
    ("-T", "start although DocumentRoot is missing", "check_root", False),
    ("--strict", "refuse what mpmkit would ignore or close", "strict", True),
    ("--report file", "show which lines are served, ignored, closed, refused", "report", None),
)
# fmt: on
TABLE = {words.split()[0]: row for words, _, *row in ROWS}
USAGE = """\
Usage: mpmkit httpd [-D name] [-d directory] [-f file]
                    [-C "directive"] [-c "directive"]
                    [-k start|restart|graceful|graceful-stop|stop]
                    [-v] [-V] [-h] [-l] [-S] [-M] [-t] [-T]
                    [--strict] [--report file]
Options:
""" + "\n".join(f"  {words:<18} : {does}" for words, does, *_ in ROWS)


class UsageError(Exception):
    """A wrong command line; the text may be empty."""


class Refusal(Exception):
    """The command can't do this; the text is printed unchanged."""


FAILURES = (DirectiveError, ListenError, LogError, PidFileError, StartError, Refusal, OSError)


def options(argv: Sequence[str]) -> Options:
    """Read the words of the command line, in httpd's way: what ROWS says of each. Raises UsageError."""
    takes = {name: ":" * (value is None) for name, (_, value) in TABLE.items()}
    short = "".join(name[1:] + mark for name, mark in takes.items() if name[1] != "-")
    long = [name[2:] + "=" * len(mark) for name, mark in takes.items() if name[1] == "-"]
    try:
        pairs, rest = getopt.getopt(list(argv), short, long)
    except getopt.GetoptError as error:
        if error.opt == "k":  # httpd takes -k out first, and knows it no more
            raise UsageError("illegal option -- k") from None
        what = "option requires an argument" if "argument" in error.msg else "illegal option"
        raise UsageError(f"{what} -- {error.opt}") from None
    # As it is logged: without -k and its word, as httpd.
    words = [word for pair in pairs if pair[0] != "-k" for word in pair if word]
    result = Options(
        file=None, server_root=None, word="", defines=[], before=[], after=[], print="", test=False,
        check_root=True, strict=False, report="", command_line=shlex.join(["mpmkit", "httpd", *words]),
    )  # fmt: skip
    for option, argument in pairs:
        if option == "-k" and (argument not in WORDS or result.word):
            raise UsageError("illegal option -- k")
        attribute, value = TABLE[option]
        if isinstance(before := getattr(result, attribute), list):
            before += value or [argument]
        else:
            setattr(result, attribute, argument if value is None else value)
        if result.print in ("v", "l", "h", "help"):  # whatever follows is not looked at
            return result
    if rest:
        raise UsageError("")
    result.file = result.report or result.file
    result.server_root = result.server_root and os.path.abspath(result.server_root)
    return result


def source(chosen: Options) -> Source:
    """Where the configuration comes from, by absolute names, for restarts. Raises Refusal if it can't be read."""
    root = chosen.server_root
    file = os.path.abspath(os.path.join(root or os.getcwd(), chosen.file or CONFIG_FILE))
    if root is None:
        root = os.path.dirname(file)
        if os.path.basename(root) == "conf":
            root = os.path.dirname(root)
    try:
        # A pipe may have no writer to wait for.
        open(file, opener=lambda name, how: os.open(name, how | os.O_NONBLOCK)).close()
    except OSError as error:
        text = f"httpd: Could not open configuration file {file}: {error.strerror}"
        raise Refusal(text) from None
    after, defines = tuple(chosen.after), tuple(chosen.defines)
    return Source(file, None, None, (*DEFAULTS, *chosen.before), after, defines, root)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        chosen = options(argv)
        if chosen.print == "h":  # httpd's one way to ask for help, and it ends with 1
            raise UsageError("")
        if chosen.print not in ("v", "l", "help"):
            return run(chosen)
        from mpmkit.cli import httpd_info

        print({"v": httpd_info.version(), "l": httpd_info.compiled_in()}.get(chosen.print, USAGE))
        return 0
    except UsageError as error:
        report(f"httpd: {error}\n{USAGE}" if str(error) else USAGE)
    except FAILURES as error:
        report_failure(error)
    return 1


def run(chosen: Options) -> int:
    """What the options ask for, as far as it needs the file. Raises what FAILURES lists."""
    given = source(chosen)
    configuration = Configuration(given, document_root=chosen.check_root, strict=chosen.strict)
    conf = read(given)
    stops = chosen.word in ("stop", "graceful-stop")
    if chosen.report or (chosen.print == "V" and conf.mpm):  # whether the file is right or not
        from mpmkit.cli import httpd_info

        settings = (conf.mpm or "", given.server_root or "")
        print(httpd_info.report(conf) if chosen.report else httpd_info.settings(*settings))
        return 0
    try:
        directives, notes = configuration.read(conf)
        # Handlers and patterns, too; and TLS as the start would have it: httpd's -t asks only for the files.
        configuration.try_out(directives, tls=chosen.test)
    except FAILURES as error:
        if stops and not chosen.test:
            report_failure(error)
            return stop_anyway(conf, chosen.word)
        raise
    shown = ErrorLog(2, directives.LogLevel)
    for note in (*notes, *name_note(directives.ServerName)):
        if shown.enabled(note.level):
            warning = "WARNING: " if note.level == "warn" and note.ah != "AH00558" else ""
            report(f"{note.ah}: {warning}{note.text}" if note.ah else f"{warning}{note.text}")
    if any(name.startswith("DUMP_") for name in chosen.defines):
        from mpmkit.cli import httpd_info

        print(httpd_info.dump(conf, directives, chosen.defines), end="")
        return 0
    if chosen.test or not stops:
        check_folders(directives)
    if chosen.test:
        report("Syntax OK")
    elif signal_server(chosen.word or "start", directives.PidFile):
        return start(chosen, configuration)
    return 0


# What is made at the start, and the id for what cannot be.
MADE = {"ErrorLog": "AH02291", "PidFile": "AH00099", "ScoreBoardFile": "AH00004"}


def check_folders(directives: Directives) -> None:
    """What the start would make has a folder to be in. Raises Refusal."""
    hosts = [host.directives for host in directives.hosts]
    files = [(name, getattr(directives, name)) for name in MADE]
    files += [("ErrorLog", host.ErrorLog) for host in hosts]
    files += [("CustomLog", log[0]) for one in (directives, *hosts) for log in one.CustomLog]
    for name, path in dict.fromkeys((name, path) for name, path in files if path):
        folder = os.path.dirname(path) or "/"
        why = not_a_file(path, name) if name.endswith("Log") else ""
        if not (why or path.startswith("|") or os.path.isdir(folder)):
            why = f"{name} {path}: there is no directory {folder}: make it"
            why = f"(2)No such file or directory: {MADE.get(name, 'AH02297')}: {why}"
        if why:
            raise Refusal(f"{why}\nAH00014: Configuration check failed")


def name_note(server_name: str) -> list[Note]:
    """What httpd says of a machine that has no full name, where no ServerName gives one."""
    if server_name:
        return []
    import socket

    name = socket.getfqdn()
    text = f"httpd: this machine's full name is unknown, {name} is used: set ServerName"
    return [] if "." in name else [Note("AH00558", "warn", text)]


def signal_server(word: str, path: str | None) -> bool:
    """What -k asks for. True: there is a server to start. Raises PidFileError, PermissionError."""
    pid = home.running(path) if path else None
    number = WORDS[word]
    if pid is None:
        if word == "start":
            return True
        if word in ("restart", "graceful"):
            print("httpd not running, trying to start")
            return True
        stale = home.read_pid(path) if path else None
        print(f"httpd (pid {stale}?) not running" if stale else "httpd (no pid file) not running")
    elif number is None:
        print(f"httpd (pid {pid}) already running")
    else:
        try:
            os.kill(pid, number)
        except PermissionError:
            why = "belongs to another user: run this as that user, or as root"
            raise PermissionError(f"the server, process {pid}, {why}") from None
    return False


def stop_anyway(conf: Conf, word: str) -> int:
    """-k stop with a bad file. httpd refuses, but stopping a server needs only its PidFile."""
    named = {setting.name.lower(): setting.args for setting in conf.settings if setting.args}
    path = os.path.join(*named.get("serverroot", ("",))[:1], named["pidfile"][0])
    if home.running(path) is None:
        return 1
    report(f"the file is bad, but its PidFile {path} names the server: it is stopped")
    signal_server(word, path)
    return 0


def start(chosen: Options, configuration: Configuration) -> int:
    """Make a server of what was read; returns its exit status, or its start's. Raises what FAILURES lists."""
    if {"DEBUG", "ONE_PROCESS"}.intersection(chosen.defines):
        how = "-D FOREGROUND -c 'StartServers 1' -c 'MaxRequestWorkers 1' with prefork"
        why = f"a server has a parent and children here; for a debugger write {how}"
        raise Refusal(f"-D DEBUG and -D ONE_PROCESS: {why}")
    try:
        service = configuration.service()
        listeners = open_listeners(service.directives)
    except (ListenError, LogError) as error:
        raise Refusal(f"{error}\nAH00015: Unable to open logs") from None
    if not listeners:
        why = "Unable to open logs: name an address by Listen, such as Listen 8080"
        raise Refusal(f"no listening sockets available, shutting down\nAH00015: {why}")
    if os.geteuid() == 0 and service.directives.User is None:
        why = "no User is named, so children are root: name an ordinary one, such as www-data"
        service.errors.write("warn", why, module="unixd")
    foreground = "FOREGROUND" in chosen.defines
    pipe = None if foreground else in_background(fork="NO_DETACH" not in chosen.defines)
    own: Any = {"own": [] if pipe is None else [pipe], "command_line": chosen.command_line}
    parent = configuration.parent(service, listeners, ready=lambda url: started(pipe), **own)
    parent.write_pid_file()
    if not foreground:
        # Nothing more can go wrong that anyone at a terminal could correct.
        configuration.background = True
        os.chdir("/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        sys.stdout.flush()
        os.dup2(nowhere, 1)
        os.close(nowhere)
        # A traceback of the interpreter's has nowhere else to go.
        os.dup2(service.errors.fd, 2)
    return parent.run()


def in_background(*, fork: bool) -> int:
    """Go on in a session, and if `fork`, a process of our own, while the one that was started waits. Returns the
    pipe, not for children, by which `started` ends it with 0; if we end before, it ends with our status."""
    reading, writing = os.pipe()
    pid = os.fork() if fork else 0
    if pid:
        os.close(writing)
        if os.read(reading, 1):
            raise SystemExit(0)
        _, status = os.waitpid(pid, 0)
        raise SystemExit(os.waitstatus_to_exitcode(status) or 1)
    os.close(reading)
    with suppress(PermissionError):  # we lead a process group already, and that is as good
        os.setsid()
    return writing


def started(pipe: int | None) -> None:
    if pipe is not None:
        with suppress(BrokenPipeError):  # no process waits any more
            os.write(pipe, b"!")
        os.close(pipe)


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report_failure(error: Exception) -> None:
    """In httpd's shape: where the line is, and below it what is wrong with it."""
    if isinstance(error, DirectiveError):
        alike: dict[tuple[str, str], list[DirectiveError]] = {}
        for problem in error.problems:
            alike.setdefault((problem.file, problem.text), []).append(problem)
        for (file, text), problems in alike.items():
            problem = problems[0]
            if problem.file and problem.line:
                where = "-c/-C directives" if file in ("-c", "-C") else file
                report(f"{problem.ah}: Syntax error on line {problem.line} of {where}:")
                others = ", ".join(str(one.line) for one in problems[1:])
                report(f"{text} (and so on line {others})" if others else text)
            else:
                report(f"{problem.ah}: httpd: {problem.text}")
    elif isinstance(error, PidFileError):
        report(f"{error.ah}: {error}")
        if error.ah == "AH00058":
            report("AH00059: remove it before you go on, if it is broken")
    else:
        report(f"httpd: {error}" if isinstance(error, OSError) else str(error))
