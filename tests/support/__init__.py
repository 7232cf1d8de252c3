"""What tests share: servers, clients, waiting, document roots, a small load; `support.rows`, `.recordings`
and `.malformed` hold data that several test modules read.

    with serving("event", ThreadsPerChild=4) as server:      a small pool; checked, stopped, checked again
        with Client(server) as client:                       one connection, byte by byte
            client.get("/file.txt").body
        with Load(server, clients=8) as load: ...            many clients in threads, until the block ends

A test never sleeps to let something happen. It waits for the thing itself, by `poll_until` or by a
read with a deadline, and fails with what it saw when that takes too long. Where something must *not*
happen, a client waits for it (`Client.silent`).
"""

# ruff: noqa: F401

from .client import (
    FINISH,
    Client,
    Incomplete,
    Lost,
    Reply,
    TlsClient,
    exchange,
    get,
    half_sent,
    parked,
    read_replies,
    read_reply,
    refused,
    request,
    trusting,
)
from .files import BIG, DATA, RECORDED, Gate, open_to_all, recorded_root, site, write
from .load import Load
from .servers import (
    MPMS,
    SMALL,
    THREADED,
    Serve,
    assert_quiet,
    bound,
    command,
    environment,
    launched,
    no_more,
    one_child,
    open_files,
    serving,
    take_errors,
)
from .waiting import alive, all_gone, children_of, marked, nothing_left, patience, poll_until
