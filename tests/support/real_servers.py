"""For tests of the real httpd, nginx and Python's servers."""

from __future__ import annotations

import http.client

import pytest

from mpmkit.measure.reference_servers import NotInstalled

from .waiting import poll_until


def made(build):
    """The server, or a skip that says what is missing."""
    try:
        return build()
    except NotInstalled as missing:
        pytest.skip(str(missing))


def get(url: str, path: str = "/index.html", headers=()) -> http.client.HTTPResponse:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        response.content = response.read()
        return response
    finally:
        connection.close()


def logged(server) -> str:
    """The access log, as soon as there is something in it."""
    return poll_until((server.root / "access_log").read_text, "the access log", 3)
