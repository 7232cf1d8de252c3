"""Fixtures for tests of running servers: the same tests run against every MPM.

    mpm      the MPM's name; a test that asks for it runs three times
    server   a running server, one a test module and MPM: the module may define its own
             `document_root` and `directives` fixtures (module scope) to say what it serves
    errors   what the server has written to its error log; a test that expects errors reads them
             there, for what it leaves unread fails it

After each test that used `server`, every worker must be idle again and the error log without an
error. When the module is done, no child may be left (`servers.serving`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import assert_quiet, recorded_root, serving, take_errors

from mpmkit.launcher import Server

MPMS = ("prefork", "worker", "event")


@pytest.fixture(scope="module", params=MPMS)
def mpm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def document_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded httpd's files; a module with other needs defines its own."""
    return recorded_root(tmp_path_factory.mktemp("htdocs"))


@pytest.fixture(scope="module")
def directives() -> dict[str, Any]:
    """Options of the module's server beyond the small pool."""
    return {}


@pytest.fixture(scope="module")
def module_server(mpm: str, document_root: Path, directives: dict[str, Any]) -> Iterator[Server]:
    with serving(mpm, document_root=document_root, **directives) as server:
        yield server


@pytest.fixture
def server(module_server: Server) -> Iterator[Server]:
    """The module's server, checked after each test."""
    yield module_server
    assert module_server.running, "the server ended:\n" + module_server.error_log()
    assert_quiet(module_server)
    left = take_errors(module_server)
    assert not left, "in the error log:\n" + "\n".join(left)


@pytest.fixture
def errors(server: Server) -> Callable[[], str]:
    """Takes the errors out of the error log, as one text."""
    return lambda: "\n".join(take_errors(server))
