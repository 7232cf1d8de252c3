"""The parts of a load profile: one kind of request, and one stage of a load that changes."""

from dataclasses import MISSING, dataclass

from mpmkit.load.fields import choice, number, switch, text, whole

METHODS = ("GET", "HEAD", "POST")
MAX_USERS = 20_000  # each is one greenlet and one socket; a larger load needs more machines
MAX_SECONDS = 3600.0  # of a run
MAX_RATE = 1_000_000.0  # requests/s of an open loop; no generator comes near


@dataclass(frozen=True)
class RequestFields:
    """What is requested, and what a good answer is."""

    path: str = text(
        "/",
        "what to request, from / on",
        like=("/[!-~]*", "begin with '/' and be ASCII without blanks (percent-encode them)"),
    )
    method: str = choice("GET", METHODS, "of the request")
    body: str = text(
        "",
        "sent with POST, in UTF-8",
        like=(r"(?s).{0,1048576}", "be at most 1,048,576 characters"),
    )
    expect_status: int | None = whole(200, 100, 599, "the status of a good answer", none="any")
    expect_length: int | None = whole(
        None, 0, 1 << 40, "of a good answer's body", unit="bytes", none="any"
    )


@dataclass(frozen=True)
class RequestSpec(RequestFields):
    """One line of a mix: what is requested, how often, and what a good answer is."""

    weight: float = number(1.0, 1e-9, 1e9, "", "how often, in relation to the other lines")
    port: int | None = whole(None, 1, 65535, "another port of the target's host", none="its own")

    @property
    def name(self) -> str:
        """The line in statistics: its path, after ":PORT" if it has one of its own."""
        return f":{self.port}{self.path}" if self.port else self.path


@dataclass(frozen=True)
class Stage:
    """One step of a load that changes: for some seconds so many users, or such a rate."""

    seconds: float = number(MISSING, 0.01, MAX_SECONDS, "seconds", "how long")
    users: int | None = whole(None, 1, MAX_USERS, "concurrent clients", none="-", loop="closed")
    rate: float | None = number(
        None, 0.01, MAX_RATE, "requests/s", "requests due in all", none="-", loop="open"
    )
    ramp: bool = switch(False, "get there evenly over the whole time, not at once")
    line: int = whole(
        0, 0, 1_000, "open loop: of the mix, from 1, that its requests are of; 0 is by weight"
    )
