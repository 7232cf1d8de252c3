"""A search by chance, and everything that earlier ones have found (see fuzz.py).

FUZZ=200000 .venv/bin/python -m pytest tests/test_fuzz.py -k any_bytes       tries so many streams
"""

import os

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings

STREAMS = int(os.environ.get("FUZZ", "500"))


@pytest.mark.parametrize("number", range(0, len(fuzz.seeds()), 20))
def test_streams_to_begin_with_and_what_was_found_before(number):
    for stream in fuzz.seeds()[number : number + 20]:
        fuzz.check(stream)


@given(fuzz.streams())
@settings(max_examples=STREAMS, suppress_health_check=list(HealthCheck))
def test_any_bytes_however_they_are_cut(stream):
    try:
        fuzz.check(stream)
    except BaseException:
        if "FUZZ" in os.environ:
            print(f"kept as {fuzz.keep(stream)}")
        raise


def wrong(cache: fuzz.RequestCache, head: bytes) -> fuzz.Request:
    request = fuzz.parse_head(head, fuzz.DIRECTIVES)
    request.path = "/b"
    return request


@pytest.mark.parametrize("owner, name, value, error, said", [
    (fuzz.Connection, "fill", lambda c: (c.protocol.feed(b"x"), True)[1], AssertionError, "cut"),
    (fuzz.RequestCache, "read_plain", wrong, AssertionError, "another way"),
    (fuzz.Protocol, "next_request", lambda self: self.next_request(), RecursionError, "depth"),
])  # fmt: skip
def test_the_harness_finds_what_is_wrong(monkeypatch, owner, name, value, error, said):
    """Or it would never find anything: a cut that matters, a short way that reads too much, a crash."""
    get = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    fuzz.check(get)
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(error, match=said):
        fuzz.check(get * 2)
