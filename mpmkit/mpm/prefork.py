"""prefork: a process for each connection.

    child    READY ──> accept ──> READ ──> handler, WRITE ──> LOG ─┬─> KEEPALIVE: wait here ─┐
               ^                    ^                              │                         │
               │                    └──────────────────────────────│─────────────────────────┘
               └───────────────────────────── CLOSING: linger <────┘

One process does everything for one client, from accept to the end of its lingering close, and
meanwhile serves no other client. There is no thread and no lock. A script need not be thread-safe,
and a crash ends only one connection. The price is a process for each
client that is served, waits in keep-alive, or is slow.

All children accept from the same socket; the kernel gives each connection to one of them.
"""

from __future__ import annotations

from mpmkit.policy import states
from mpmkit.server.child import OK, Child
from mpmkit.server.connection import Connection
from mpmkit.server.core import process_request
from mpmkit.server.listen import Acceptor


class PreforkChild(Child):
    def child_main(self) -> int:
        """Accept and serve, one connection after the other, until it is time to leave."""
        self.worker = self.board.worker(self.slot)
        self.service.leaving = self.outdated
        acceptor = Acceptor(self.listeners, self.pod.fileno())
        served = 0
        limit = self.directives.MaxConnectionsPerChild
        while not self.outdated():
            if 0 < limit <= served:
                break
            self.worker.set(states.READY)
            try:
                accepted = acceptor.accept()
            except OSError as error:
                return self.out_of_resources(error)
            if accepted is None:
                if self.pod.called():
                    break
                continue
            served += 1
            self.process_connection(self.service.connection(*accepted))
        acceptor.close()
        return OK

    def process_connection(self, conn: Connection) -> None:
        """Every request of one connection, and its close."""
        slot = self.worker
        slot.set(states.BUSY_READ)
        slot.connected(conn.peer[0])
        while process_request(conn, slot, self.service):
            slot.set(states.BUSY_KEEPALIVE)
        slot.set(states.CLOSING)
        conn.lingering_close()
