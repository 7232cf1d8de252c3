"""TLS on a non-blocking socket, with the few methods that the generator's loops use of a socket.

The loops handle waiting only by `BlockingIOError`. So `recv` and `send` behave like a socket's, and
raise it where they would have to wait. Nothing here waits or uses gevent.
"""

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import ssl
from collections.abc import Callable
from typing import Any


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


class TlsSocket(_socket.socket):
    """A raw socket that has TLS on it from `secure` on; then `handshake`, until it returns."""

    def secure(self, how: Any, host: str) -> None:
        # What gevent's own ssl calls: the public wrap_socket() takes no C socket.
        self._tls = how._wrap_socket(self, False, host)

    def handshake(self) -> None:
        """One step. Raises BlockingIOError while the server's answer is awaited."""
        self._do(self._tls.do_handshake)

    def send(self, data: bytes) -> int:  # type: ignore[override]
        return self._do(self._tls.write, data)

    def recv(self, size: int) -> bytes:  # type: ignore[override]
        """Up to a record's bytes; b"" at the end."""
        try:
            return self._do(self._tls.read, size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # An end without close_notify is the HTTP reader's to judge: it knows the length.
            return b""

    def _do(self, step: Callable[..., Any], *given: Any) -> Any:
        try:
            return step(*given)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
