"""Admission: may a child of event take one more connection?

Prefork and worker need no rule: a connection takes a thread, so a child accepts when a
thread is idle. Event parks connections that only wait, so a child can hold more of them than it has
threads. AsyncRequestWorkerFactor sets how many more.

The rule, as httpd 2.4 applies it (event.c): a child accepts while at least one worker is idle, and

    connections - lingering  <  ThreadsPerChild + idle * AsyncRequestWorkerFactor

In words: one connection for each thread, and the factor's number of connections for each thread
that is idle now. Connections in lingering close are ending and do not count.
A busy child thus admits fewer than an idle one, and the next connection goes to a sibling.

Worked example: ThreadsPerChild 4, one child, every client parked in keep-alive, so that all four
workers are idle. Recorded from httpd 2.4.71: 8, 12 and 16 connections for the factors 1, 2 and 3;
the next client waits in the backlog.

>>> [connection_limit(idle=4, threads_per_child=4, factor=f) for f in (1, 2, 3)]
[8, 12, 16]

The fraction of the factor is dropped, although httpd's documentation shows one:

>>> [connection_limit(idle=4, threads_per_child=4, factor=f) for f in (0.5, 1, 1.5, 2, 2.9, 3)]
[8, 8, 8, 12, 12, 16]

With three of its four workers busy the same child takes half as many:

>>> connection_limit(idle=1, threads_per_child=4, factor=2)
6

A child that stopped listening needs a little more room before it listens again, or it would
flap at the limit. So one idle worker is left out of the sum:

>>> connection_limit(idle=4, threads_per_child=4, factor=2, listening_disabled=True)
10
"""


def connection_limit(
    idle: int, threads_per_child: int, factor: float, listening_disabled: bool = False
) -> int:
    """How many connections (without those in lingering close) keep this child from accepting. `idle` is
    0..ThreadsPerChild, `factor` is AsyncRequestWorkerFactor as configured (> 0; only its integer part counts,
    and at least 1). With no idle worker the answer is 0: nothing is accepted, whatever the sum says."""
    if idle <= 0:
        return 0
    return threads_per_child + (idle - listening_disabled) * max(int(factor), 1)


def connections_above_limit(
    idle: int,
    connections: int,
    lingering: int,
    threads_per_child: int,
    factor: float,
    listening_disabled: bool,
) -> bool:
    """True if this child should not accept now. The listener asks before each accept. `connections` are all
    open ones of this child, `lingering` those of them in lingering close."""
    limit = connection_limit(idle, threads_per_child, factor, listening_disabled)
    return not limit or 0 < connections - lingering >= limit
