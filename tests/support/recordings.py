"""What a real httpd was recorded with: requests, its answers, and how ours differ from them."""

import re
from pathlib import Path

from tests.fidelity import clients
from tests.fidelity.clients import Answer, shown

from .client import Reply
from .files import DATA
from .servers import KEPT

RAW = DATA / "raw"


# What our answer adds; the reasons are in data/fidelity/on_purpose.txt.
DIFFERENCES = {
    "10-range-416": "Content-Length", "84-413-body-over-1GiB": "Content-Length",
    "79-expect-unknown-417": "Connection",
}  # fmt: skip


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


def compare(ours: Reply, theirs: Reply, added: str | None = None) -> None:
    """Fails where `ours` is not what httpd answered; `added`: a header that only we send."""
    assert added is None or added in ours.names
    assert seen(ours, added) == seen(theirs)


def seen(reply: Reply, without: str | None = None) -> str:
    """All of it but what is of the moment or each one's own; httpd was recorded with its KeepAliveTimeout of
    5 seconds."""
    pairs = [(name, value) for name, value in reply.headers if name != without]
    headers = [(name, re.sub(rf"^timeout={KEPT}\b", "timeout=5", value)) for name, value in pairs]
    body, (_, boundary, own) = reply.body, (reply["Content-Type"] or "").partition("boundary=")
    if boundary:
        assert re.fullmatch("[0-9a-f]{16}", own)
        body = body.replace(own.encode(), b"B")
    answer = Answer((clients.Reply(f"{reply.status} {reply.reason}", tuple(headers), body),))
    return f"{reply.status_line} {shown(answer)}" + repr(body) * bool(boundary)
