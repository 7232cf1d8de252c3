"""prefork: a process for each connection.

    child    READY ──> accept ──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: wait here ─┐
               ^                    ^                              │                         │
               │                    └──────────────────────────────│─────────────────────────┘
               └───────────────────────────── CLOSING: linger <────┘

One process does everything for one client, from accept to the end of its lingering close, and
meanwhile nothing for anybody else. There is no thread and no lock. A script needs no care for its
neighbours, and one that crashes takes one connection with it. The price is a process for each
client that is served, waits in keep-alive, or is slow.

All children accept from the same socket; the kernel gives each connection to one of them.
"""

from __future__ import annotations

from mpmkit.http.messages import Request, Response
from mpmkit.policy.states import BUSY_KEEPALIVE, BUSY_READ, CLOSING, READY
from mpmkit.server.connection import Connection
from mpmkit.server.core import client_text, process_request
from mpmkit.server.listen import Acceptor
from mpmkit.server.parent import CHILD_SICK, OK, Child, Parent


def parent(*args, **options) -> Parent:
    """The control process of prefork; see `Parent`."""
    return Parent(PreforkChild, *args, **options)


class PreforkChild(Child):
    def child_main(self) -> int:
        """Accept and serve, one connection after the other, until it is time to leave."""
        self.worker = self.board.worker(self.slot)
        self.acceptor = Acceptor(self.listeners, self.pod.fileno())
        self.handler, self.service.handler = self.service.handler, self.handle
        served = 0
        limit = self.directives.MaxConnectionsPerChild
        while not self.outdated():
            if 0 < limit <= served:
                break
            self.worker.set(READY)
            try:
                accepted = self.acceptor.accept()
            except OSError as error:
                self.service.errors.write(
                    "error", f"accept: {error.strerror}; this child leaves", ah="AH02179"
                )
                return CHILD_SICK
            if accepted is None:
                if self.pod.called():
                    break
                continue
            served += 1
            self.worker.set(BUSY_READ)
            conn = self.service.connection(*accepted)
            self.worker.connected(client_text(conn.peer))
            self.process_connection(conn)
        self.drain()
        return OK

    def process_connection(self, conn: Connection) -> None:
        """Every request of one connection, and its close."""
        while process_request(conn, self.worker, self.service):
            self.worker.set(BUSY_KEEPALIVE)
        self.worker.set(CLOSING)
        conn.lingering_close()

    def handle(self, request: Request, conn: Connection) -> Response:
        """The handler, and a look up: an old generation's responses say `Connection: close`."""
        response = self.handler(request, conn)
        self.service.stopping = self.outdated()
        return response

    def drain(self) -> None:
        """Nothing is left to finish: a child looks up only between connections."""
        self.acceptor.close()
