"""What queueing theory predicts of a server: pure functions, rates in 1/s, times in seconds.

    wait = mean_wait(arrivals=340, service=0.02, servers=8)     # M/M/8

    name     what                                       source
    -------  -----------------------------------------  ------------------------------------------
    little   clients there = rate x time that each stays    J. Little, Operations Research 9 (1961)
    Erlang   a client is lost / has to wait             A. K. Erlang 1917; L. Kleinrock, Queueing
                                                        Systems I (1975), chapter 3
    closed   X <= min(N / (R + Z), c / S)               P. Denning, J. Buzen, ACM Computing Surveys
                                                        10 (1978)

M/M/c: clients come at random (Poisson), each is served by one of c servers for a random time
(exponential, mean `service`), the others wait in one line, first come first served. prefork with c
processes and one listening socket is that, if the handler takes such a time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

import plotly.graph_objects as go

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress


def little(rate: float, seconds: float) -> float:
    """Clients in the system on average: those who come per second times how long each stays."""
    _check(rate=rate, seconds=seconds)
    return rate * seconds


def load(arrivals: float, service: float) -> float:
    """The offered load in Erlang: how many servers are busy on average, if there are enough."""
    return little(arrivals, service)


def erlang_b(servers: int, erlang: float) -> float:
    """The share of clients who find all servers busy and are lost (M/M/c/c), 0 to 1.

    By the recursion B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)), which needs no factorials.
    """
    _servers(servers)
    _check(erlang=erlang)
    lost = 1.0
    for k in range(1, servers + 1):
        lost = erlang * lost / (k + erlang * lost)
    return lost


def erlang_c(servers: int, erlang: float) -> float:
    """The share of clients who have to wait (M/M/c), 0 to 1; 1 if the load is all that the servers
    can do, or more: then the line grows forever.
    """
    lost = erlang_b(servers, erlang)
    if erlang >= servers:
        return 1.0
    return lost * servers / (servers - erlang * (1 - lost))


def mean_wait(arrivals: float, service: float, servers: int) -> float:
    """Mean seconds in the line (M/M/c); inf if the load is all that the servers can do, or more."""
    erlang = load(arrivals, service)
    _servers(servers)
    if erlang >= servers:
        return math.inf
    return erlang_c(servers, erlang) * service / (servers - erlang)


def mean_response(arrivals: float, service: float, servers: int) -> float:
    """Mean seconds from coming to leaving: the line and the service."""
    return mean_wait(arrivals, service, servers) + service


def spread(
    arrivals: float, service: float, servers: int, seconds: float, *, runs: int = 100, seed: int = 1
) -> tuple[float, float]:
    """Between which two values 95% of the runs of an M/M/c have their mean response, if a run takes
    so many `seconds` and begins empty: the luck that is in a measurement of that length.

    Simulated: each client takes the server that is free first. Works above the servers' limit, too.
    """
    load(arrivals, service)
    _servers(servers)
    if not (arrivals > 0 and service > 0 and 0 < arrivals * seconds * runs <= 5e6):
        raise ValueError(
            "arrivals, service, seconds: must be above 0, with 5,000,000 clients in all "
            f"at most, not {arrivals:g}/s for {seconds:g} s in {runs} runs"
        )
    chance = random.Random(seed)
    means = []
    for _ in range(runs):
        free, now, stayed, clients = [0.0] * servers, chance.expovariate(arrivals), 0.0, 0
        while now < seconds or not clients:
            end = max(now, free[0]) + chance.expovariate(1 / service)
            heapq.heapreplace(free, end)
            stayed += end - now
            clients += 1
            now += chance.expovariate(arrivals)
        means.append(stayed / clients)
    means.sort()
    outside = round(0.025 * runs)
    return means[outside], means[-1 - outside]


def closed_bound(users: int, service: float, servers: int, think: float = 0.0) -> float:
    """Requests per second that so many users, each asking again `think` seconds after its answer,
    can't exceed: the smaller of users / (service + think) and servers / service. `service` above 0.
    """
    _servers(servers)
    _check(users=users, service=service, think=think)
    if not service > 0:
        raise ValueError("service: must be above 0 seconds")
    return min(users / (service + think), servers / service)


def _servers(servers: int) -> None:
    if type(servers) is not int or servers < 1:
        raise ValueError(f"servers: must be a whole number from 1, not {servers!r}")


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0 or math.isinf(value):
            raise ValueError(f"{name}: must be 0 or more, and finite, not {value!r}")


# ---------------------------------------------------------------- the figures


def response_curve(
    service: float,
    servers: int,
    rates: Sequence[float],
    measured: Sequence[float],
    *,
    spreads: Sequence[tuple[float, float]] = (),
) -> go.Figure:
    """Mean response (ms) against arrivals: M/M/c as a line, what was measured as markers.

    spreads: for each rate the (low, high) of `spread`, drawn as a bar behind its marker."""
    highest, ink = servers / service, colours.ink()
    grid = [highest * n / 200 for n in range(193)]
    line = [1000 * mean_response(rate, service, servers) for rate in grid]
    bars = "<br>bars: 95% of simulated runs of that length" if spreads else ""
    title = f"M/M/{servers}: predicted and measured"
    below = f"line: Erlang C, service {1000 * service:.1f} ms · squares: measured{bars}"
    axes = ("arrivals, requests/s", "mean response, ms")
    ms = [1000 * seconds for seconds in measured]
    figure = _line_and_points((grid, line), (rates, ms), axes, title, below)
    for rate, ends in zip(rates, spreads, strict=bool(spreads)):
        low, high = (1000 * end for end in ends)
        figure.add_scatter(
            x=[rate, rate], y=[low, high], mode="lines", opacity=0.35, line={"color": ink, "width": 16},
            hovertemplate=f"{low:.1f} to {high:.1f} ms<extra></extra>",
        )  # fmt: skip
    figure.add_vline(
        x=highest,
        line={"color": ink, "width": 1, "dash": "dot"},
        annotation_text=f" all that {servers} can do: {highest:.0f}/s",
        annotation_position="top right",
    )
    return figure.update_xaxes(range=[0, 1.35 * highest])


def closed_curve(
    service: float, servers: int, users: Sequence[float], measured: Sequence[float]
) -> go.Figure:
    """Requests per second against users in a closed loop: the bound as a line, and what was measured."""
    grid = [1.0, float(servers), 1.1 * max(users)]
    line = [closed_bound(int(n), service, servers) for n in grid]
    axes, title = ("users", "requests per second"), "Closed loop: bound and measured"
    below = "line: min(users / service, servers / service) · squares: measured"
    return _line_and_points((grid, line), (users, measured), axes, title, below)


def _line_and_points(
    line: tuple[Sequence[float], Sequence[float]],
    points: tuple[Sequence[float], Sequence[float]],
    axes: tuple[str, str],
    title: str,
    below: str,
) -> go.Figure:

    (xs, ys), (places, measured), (x, y) = line, points, axes
    thin = {"color": colours.ink(), "width": 1.5}
    square = {"size": 12, "color": colours.colour("prefork"), "symbol": "square"}
    figure = go.Figure(go.Scatter(x=xs, y=ys, mode="lines", name="predicted", line=thin))
    figure.add_scatter(x=places, y=measured, mode="markers", name="measured", marker=square)
    pairs = (f"{v:,.4g} at {place:,.4g}" for place, v in zip(places, measured, strict=True))
    alt = f"{title}. Measured {y}: {'; '.join(pairs)}."
    dress(figure, f"{title}<br><sup>{below}</sup>", alt=alt, height=420)
    figure.update_xaxes(title_text=x, rangemode="tozero")
    return figure.update_yaxes(title_text=y, rangemode="tozero")
