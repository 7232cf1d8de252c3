"""What a real httpd was recorded with: requests, its answers, and how ours differ from them."""

import re
from pathlib import Path
from typing import NamedTuple

from .client import Reply
from .files import DATA
from .servers import KEPT

RAW = DATA / "raw"


class Difference(NamedTuple):
    """How our answer differs from the recorded one."""

    adds: tuple[str, ...] = ()
    status: int | None = None


# The reasons are in data/fidelity/on_purpose.txt; here, too, error pages are in our own words, which have
# another length.
DIFFERENCES = {
    "10-range-416": Difference(adds=("Content-Length",)),
    "84-413-body-over-1GiB": Difference(adds=("Content-Length",)),
    "79-expect-unknown-417": Difference(adds=("Connection",)),
    "78-expect100": Difference(status=200),
}


class Recording:
    """One request and its answer, as recorded."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.request = path.read_bytes()
        self.response = path.with_suffix(".resp").read_bytes()
        meta = path.with_suffix(".meta").read_text()
        closed = re.search(r"server closed: FIN at ([\d.]+)s", meta)
        self.closed_after = float(closed[1]) if closed else None  # None: the client gave up first

    @property
    def methods(self) -> list[str]:
        """The methods of those requests that were answered."""
        lines = re.findall(rb"(?m)^(\S+) \S+ HTTP/\d\.\d\r$", self.request)
        return ([line.decode() for line in lines] or ["GET"])[: self.response.count(b"HTTP/1.1 ")]

    def __repr__(self) -> str:
        return self.name


RECORDINGS = {path.stem: Recording(path) for path in sorted(RAW.glob("[0-9]*.req"))}
# The others were recorded with a directive more, or are not comparable answer by answer.
OTHERS = ("96", "97", "98", "99", "45-http09", "78-expect100")
REPLAYED = [one for name, one in RECORDINGS.items() if not name.startswith(OTHERS)]


def compare(ours: Reply, theirs: Reply, difference: Difference | None = None) -> None:
    """Fails where `ours` is not what httpd answered."""
    assert ours.status_line == theirs.status_line
    difference = difference or Difference()
    assert [name for name in ours.names if name not in difference.adds] == list(theirs.names)
    assert set(difference.adds) <= set(ours.names)
    page = ours["Content-Type"] == "text/html; charset=iso-8859-1" and ours.status >= 300
    for name, value in theirs.headers:
        if name in ("Date", "Server", *["Content-Length"] * page):
            continue
        if name == "Allow":
            assert set(ours[name].split(",")) == set(value.split(","))
        elif value.startswith("multipart/byteranges"):
            assert re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]{16}", ours[name])
        else:  # httpd was recorded with its default of 5 seconds
            own = re.sub(rf"^timeout={KEPT}\b", "timeout=5", ours[name] or "")
            assert (name, own) == (name, value)
    assert ours["Server"].startswith("mpmkit/")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", ours["Date"])
    if page:
        assert b"<html>" in ours.body or not theirs.body
    elif "boundary=" in (ours["Content-Type"] or ""):
        assert without_boundary(ours) == without_boundary(theirs)
    else:
        assert ours.body == theirs.body


def without_boundary(reply: Reply) -> bytes:
    return reply.body.replace(reply["Content-Type"].partition("boundary=")[2].encode(), b"B")
