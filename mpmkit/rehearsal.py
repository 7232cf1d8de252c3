"""Before the first fork, the server serves itself a few pages, for the sake of its children's memory.

A forked child shares its parent's memory until one of them writes to it; then the kernel gives the
writer a copy of the page. What runs for the first time writes a lot: Python specialises its
bytecode, fills caches of attributes and globals, makes values that are made once. If each child does
that, each child has its own copies, 0.6 MB of them. If the parent has done it, they are shared.

So this is not a measurement and not a check: the same code as in a child, on a socket of its own, with
the sample page, neither the scoreboard nor a log told of it. It takes a few ms.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace

from mpmkit.core import Handler, Service, client_text, process_request
from mpmkit.directives import Directives
from mpmkit.listen import Acceptor, Listener, ListenError, bind, configure
from mpmkit.logs import AccessLog, ErrorLog
from mpmkit.scoreboard import Scoreboard
from mpmkit.states import BUSY_KEEPALIVE, BUSY_READ, CLOSING, READY

# CPython 3.11 specialises after 8 runs, later ones sooner; some code runs once for a connection.
CONNECTIONS = 12
REQUESTS = (
    b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /index.html?%d HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: rehearsal\r\n\r\n",
)


def rehearse(
    directives: Directives, handler: Callable[[Directives, ErrorLog], Handler], document_root: str
) -> None:
    """Serve REQUESTS on each of CONNECTIONS connections, from `document_root`.

    `handler` makes the handler of given directives. None of the site's own sections and scripts take
    part: they may have effects. Without a loopback interface nothing is rehearsed.
    """
    plain = replace(
        directives, DocumentRoot=document_root, sections=(), SetHandler=None, ScoreBoardFile=None,
        ConnectionFilter=None,
        ServerLimit=1, ThreadLimit=1, CustomLog=tuple((os.devnull, f) for _, f in directives.CustomLog),
    )  # fmt: skip
    try:
        listener = bind("127.0.0.1", 0)
    except ListenError:
        return
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    access = AccessLog(plain.CustomLog) if plain.CustomLog else None
    errors = ErrorLog(null, directives.LogLevel)
    board = Scoreboard(plain)
    try:
        configure(listener, plain)
        service = Service(plain, handler(plain, errors), access, errors)
        _serve(listener, service, board)
    finally:
        listener.close()
        board.close()
        if access is not None:
            access.close()
        os.close(null)


def _serve(listener: Listener, service: Service, board: Scoreboard) -> None:
    """The clients' part first: the kernel keeps their connections and requests until they are due."""
    address = listener.getsockname()
    nobody = os.eventfd(0, os.EFD_CLOEXEC)  # in the place of the pipe of death
    acceptor = Acceptor([listener], nobody)
    slot = board.worker(0)
    for number in range(CONNECTIONS):
        with socket.create_connection(address) as client:
            client.sendall(b"".join(r % number if b"%d" in r else r for r in REQUESTS))
            slot.set(READY)
            accepted = acceptor.accept()
            assert accepted is not None
            slot.set(BUSY_READ)
            conn = service.connection(*accepted)
            slot.connected(client_text(conn.peer))
            while process_request(conn, slot, service):
                slot.set(BUSY_KEEPALIVE)
            slot.set(CLOSING)
            client.shutdown(socket.SHUT_WR)
            conn.lingering_close()
    acceptor.close()
    os.close(nobody)
