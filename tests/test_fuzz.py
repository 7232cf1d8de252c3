"""A short search by chance, and everything that a long one has found (see fuzz.py)."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings

KEPT = sorted(fuzz.FOUND.glob("*.bin"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_was_found_before(path: Path):
    fuzz.check(path.read_bytes())


@pytest.mark.parametrize("number", range(0, len(fuzz.seeds()), 20))
def test_streams_to_begin_with(number):
    for stream in fuzz.seeds()[number : number + 20]:
        fuzz.check(stream)


@given(fuzz.streams())
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_however_they_are_cut(stream):
    fuzz.check(stream)


def test_the_harness_finds_what_is_wrong(monkeypatch):
    """Or it would find nothing for ever: a short way that reads too much, a cut that matters, a crash."""
    get = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    fuzz.check(get)

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="cut"):
        patch.setattr(fuzz.Connection, "fill", lambda conn: (conn.protocol.feed(b"x"), True)[1])
        fuzz.check(get * 2)

    def wrong(head):
        request = fuzz.parse_head(head, fuzz.DIRECTIVES)
        request.path = "/b"
        return request

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="path"):
        patch.setattr(fuzz, "read_plain", wrong)
        fuzz.check(get)

    with monkeypatch.context() as patch, pytest.raises(RecursionError):
        patch.setattr(fuzz.Protocol, "next_request", lambda self: self.next_request())
        fuzz.check(get)


def test_a_reader_that_never_ends_is_noticed():
    with pytest.raises(AssertionError, match="on and on"):
        sock = fuzz.Pieces([b"x"])
        while True:
            sock.recv(10)
