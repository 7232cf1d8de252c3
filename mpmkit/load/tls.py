"""TLS on a non-blocking socket, with the few methods that the generator's loops use of a socket.

The loops handle waiting only by `BlockingIOError`. So `recv` and `send` behave like a socket's, and
raise it where they would have to wait. Nothing here waits or uses gevent.
"""

import contextlib
import ssl
from collections.abc import Callable
from typing import Any

RECORDS = 65_536


def context(ca_file: str | None, loopback: bool) -> ssl.SSLContext:
    """How certificates are checked: against `ca_file` if given; else not at all on loopback (a test server's are
    its own), and against the system's elsewhere. Raises OSError or ssl.SSLError for a file that holds no
    certificates."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is not None:
        made.load_verify_locations(ca_file)
    elif loopback:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_default_certs()
    made.set_alpn_protocols(["http/1.1"])
    return made


class TlsSocket:
    """A connected raw socket with TLS on it; `handshake` first, until it returns."""

    def __init__(self, sock: Any, how: ssl.SSLContext, host: str) -> None:
        self.raw = sock
        self.fileno, self.close = sock.fileno, sock.close
        self.setsockopt, self.getsockopt = sock.setsockopt, sock.getsockopt
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = how.wrap_bio(self._in, self._out, server_hostname=host)
        self._unsent = b""

    def handshake(self) -> None:
        """One step. Raises BlockingIOError while the server's answer is awaited, ssl.SSLError."""
        self._do(self._tls.do_handshake)
        self._flush()

    def send(self, data: bytes) -> int:
        """All of `data` is taken, or none (BlockingIOError)."""
        self._flush()
        self._tls.write(data)
        with contextlib.suppress(BlockingIOError):  # what is left goes with the next call
            self._flush()
        return len(data)

    def recv(self, size: int) -> bytes:
        """Up to a record's bytes; b"" at the end."""
        try:
            return self._do(self._tls.read, size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # An end without close_notify is the HTTP reader's to judge: it knows the length.
            return b""

    def _do(self, step: Callable[..., Any], *given: int) -> Any:
        while True:
            self._flush()
            try:
                return step(*given)
            except ssl.SSLWantReadError:
                self._flush()
            if data := self.raw.recv(RECORDS):
                self._in.write(data)
            else:
                self._in.write_eof()

    def _flush(self) -> None:
        while self._unsent or self._out.pending:
            self._unsent = self._unsent or self._out.read()
            self._unsent = self._unsent[self.raw.send(self._unsent) :]
