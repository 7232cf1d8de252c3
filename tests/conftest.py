"""Fixtures for tests of running servers, of every MPM (`mpm`); a module may have FILES and OPTIONS of its own."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from misbehaving import Misbehaving
from support.files import recorded_root, tree
from support.servers import MPMS, assert_quiet, serving, take_errors
from support.waiting import nothing_left

from mpmkit.launcher import Server
from mpmkit.measure.reference_servers import NotInstalled, find_httpd

# How long an example takes says how busy the machine is. A test that needs more of them says so.
settings.register_profile(
    "busy", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")
os.environ.setdefault("MPMKIT_THEME", "light")  # whatever JupyterLab looks like here


@pytest.fixture(scope="module", params=MPMS)
def mpm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def document_root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded httpd's files and the module's FILES; a module with other needs defines its own."""
    root = recorded_root(tmp_path_factory.mktemp("htdocs"))
    return tree(root, getattr(request.module, "FILES", {}))


@pytest.fixture(scope="module")
def directives(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of the module's server beyond the small pool: its OPTIONS."""
    return getattr(request.module, "OPTIONS", {})


@pytest.fixture(scope="module")
def module_server(mpm: str, document_root: Path, directives: dict[str, Any]) -> Iterator[Server]:
    with serving(mpm, document_root=document_root, **directives) as server:
        yield server


@pytest.fixture
def server(module_server: Server) -> Iterator[Server]:
    """The module's server, one an MPM. After each test every worker is idle, and the error log has no error."""
    yield module_server
    assert module_server.running, "the server ended:\n" + module_server.error_log()
    assert_quiet(module_server)
    left = take_errors(module_server)
    assert not left, "in the error log:\n" + "\n".join(left)


@pytest.fixture
def errors(server: Server) -> Callable[[], str]:
    """Takes the errors out of the error log, as one text: for a test that expects some."""
    return lambda: "\n".join(take_errors(server))


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[Misbehaving]:
    with Misbehaving() as server:
        yield server


@pytest.fixture
def bad(misbehaving: Misbehaving) -> Misbehaving:
    """A server that misbehaves as the path asks it to, and has counted nothing yet."""
    misbehaving.counts()
    return misbehaving


@pytest.fixture(scope="session")
def httpd() -> str:
    """The path of the real httpd; the test is skipped without it."""
    try:
        return find_httpd()
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A folder that other users (httpd's www-data, php-fpm's) may enter; pytest's own is closed."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-shared-") as where:
        Path(where).chmod(0o755)
        yield Path(where).resolve()


@pytest.fixture
def everything_ends() -> Iterator[None]:
    """For tests that start servers themselves: no process that one starts outlives it."""
    with nothing_left():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_process_of_the_tests_is_patched() -> Iterator[None]:
    """Locust's gevent patches the process that imports it: tests would try what no user runs."""
    yield
    assert not {"locust", "gevent"} & set(sys.modules), "a test, or what it tried, imported it"


# -- several processes (pytest -n, by pytest-xdist; `make test`) --------------------------------------

# Those that take longest begin, so that no process works alone at the end.
LONGEST = ("browser", "site", "notebooks", "qps", "load_profiles", "errors", "fidelity", "control", "room",
           "bench", "load", "signals", "exercises", "experiment", "protocol", "memory", "demand", "tls", "pool",
           "http", "cgi", "static", "wsgi", "logs")  # fmt: skip
ALONE = ("test_notebooks.py", "test_fidelity.py", "test_errors.py")  # their tests share nothing


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, for they share servers; but for those that share nothing."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return file + test.partition("[")[2] if file.endswith(ALONE) else file

    config.option.loadscopereorder = False  # the longest first, not those with most tests
    return Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.name, len(order)))
