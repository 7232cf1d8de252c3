"""TLS: a connection whose bytes are encrypted on their way (httpd's mod_ssl).

    socket ──> recv ──> incoming ──┐                 ┌──> what the client said, for the protocol
                                   SSLObject (OpenSSL)
    socket <── send <── outgoing ──┘                 └──< what we answer

OpenSSL never sees the socket, so a connection waits as it does without TLS. `recv` returns all that it can
decrypt, and nothing waits in OpenSSL, where no epoll would see it. The thread that reads the first request makes
the handshake, never the listener: a slow one costs a worker, for RequestReadTimeout's `handshake` and Timeout.

Sessions are resumed by tickets, whose key is made with the context, before the fork: by any child.
"""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from math import inf
from mmap import mmap
from time import monotonic

from mpmkit.config.directives import DirectiveError, Directives
from mpmkit.http.messages import Request, RequestError
from mpmkit.server.connection import Connection, Disconnected, receive

RECORD = 16384 + 512  # bytes of one read: a whole record, and what encryption adds to it

_NOW = socket.MSG_DONTWAIT


def context_for(directives: Directives) -> ssl.SSLContext:
    """What all connections have in common: certificate, key, versions, ciphers. Raises DirectiveError."""
    name, certificate = "SSLCertificateFile", directives.SSLCertificateFile
    if certificate is None:
        text = "name a certificate in PEM, or write SSLEngine Off"
        text = f"TLS needs {name}: {text} (mpmkit serve --tls makes a certificate for a lab)"
        raise DirectiveError(text, directive=name, ah="AH02572")
    key = directives.SSLCertificateKeyFile or certificate
    named = "SSLCertificateKeyFile" if directives.SSLCertificateKeyFile else name
    for owner, file, ah, kind, missing in (
        (name, certificate, "AH02561", b"CERTIFICATE", "no certificate in PEM: name one"),
        (named, key, "AH02564", b"KEY", "no private key in PEM: name the certificate's key"),
    ):
        try:
            with open(file, "rb") as opened:
                if not re.search(rb"(?m)^-----BEGIN .*%b-----\s*$" % kind, opened.read()):
                    raise _refused(owner, file, missing, ah)
        except OSError as error:
            why = f"{error.strerror}: name a file in PEM that can be read"
            raise _refused(owner, file, why, ah) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = [ssl.TLSVersion[name.replace(".", "_")] for name in directives.SSLProtocol]
    context.minimum_version, context.maximum_version = versions[0], versions[-1]
    context.set_alpn_protocols(["http/1.1"])
    # A client could ask for one handshake after the other, each of which costs the server more.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # There is no one to ask for the pass phrase of a key: the answer is an empty one.
        context.load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"the key is not that of {certificate}: name the one made with it"
            raise _refused(named, key, why, "AH02565") from None
        why = f"OpenSSL cannot use it ({error.reason or error}): a key must not be encrypted (`openssl "
        why += "pkey -in KEY -out NEW` removes the pass phrase), a certificate not cut short"
        raise _refused(named, key, why, "AH02564") from None
    if (ciphers := directives.SSLCipherSuite) is not None:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            why = "OpenSSL finds no cipher in it; `openssl ciphers -v` lists them, and HIGH is a good choice"
            raise _refused("SSLCipherSuite", ciphers, why, "AH01898") from None
    return context


def _refused(name: str, value: str, why: str, ah: str) -> DirectiveError:
    return DirectiveError(f"{name} {value}: {why}", directive=name, ah=ah)


class Session:
    """The encryption of one connection."""

    __slots__ = ("_incoming", "_outgoing", "_patience", "_sock", "full", "object")

    def __init__(self, context: ssl.SSLContext, sock: socket.SocketType, patience: float) -> None:
        """patience: seconds that a record may take to come, once it has begun."""
        self._sock, self._patience = sock, patience
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.full = False  # the last read of the socket took all that it asked for

    def handshake(self, data: bytes) -> bool:
        """Take `data` from the client; True when both sides have agreed. Raises ssl.SSLError."""
        self._incoming.write(data)
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As a socket's `recv`, but all that is there and can be decrypted: `size` is no limit. Raises OSError. A
        record in many small pieces is one read: its clock runs here, for no one else sees the pieces."""
        began = 0.0
        while True:
            try:
                data = receive(self, RECORD)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # the client has said that no more is coming
                return b""
            else:
                while data and (self._incoming.pending or self.object.pending()):
                    try:
                        data += receive(self, RECORD)
                    except ssl.SSLError:  # half a record; or the next read will say it again
                        break
                return data
            # OpenSSL refuses a renegotiation; as in httpd, the connection ends.
            if began and (refusal := self.said()):
                self._sock.send(refusal, _NOW)
                raise ConnectionAbortedError("AH02042: rejecting client initiated renegotiation")
            if began and monotonic() - began > self._patience:
                raise BlockingIOError
            raw = receive(self._sock, RECORD, flags)
            began = began or monotonic()
            self.full = len(raw) == RECORD
            if raw:
                self._incoming.write(raw)
            else:
                self._incoming.write_eof()

    def recv_into(self, buffer: mmap, size: int, _: int) -> int:
        """What is decrypted, for `receive`. Raises ssl.SSLError."""
        return self.object.read(size, buffer)  # type: ignore[arg-type, return-value]

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """What to send for `data`, and what OpenSSL itself has to say. Raises Disconnected."""
        left = memoryview(data)
        try:
            while left:
                left = left[self.object.write(left) :]
        except ssl.SSLError:
            raise Disconnected from None
        return self._outgoing.read()

    def said(self) -> bytes:
        """What OpenSSL itself has to say: its part of the handshake, an alert."""
        return self._outgoing.read()


class TlsConnection(Connection):
    """A connection over TLS. session: None until the handshake is done, for answers in the clear."""

    __slots__ = ("_first_timeout", "context", "session")

    def __init__(self, *args, context: ssl.SSLContext) -> None:
        super().__init__(*args)
        self._first_timeout = self._timeout
        self.direct = False  # the kernel could only copy what is not encrypted
        self.context, self.session = context, None

    session: Session | None
    scheme = "https"

    @property
    def hint(self) -> str:  # type: ignore[override]
        """For the page of a request in the clear."""
        return "" if self.session else "This port uses TLS: write https:// before its address."

    def read_request(self) -> Request | None:
        """After the handshake. Raises RequestError 400 for HTTP in the clear, as httpd does."""
        if self.session is None:
            if not self._handshake():
                return None
            self.set_timeout(self._first_timeout)
        return super().read_request()

    def _handshake(self) -> bool:
        """False: there will be no request."""
        # For one record: a stage's seconds and what its bytes buy; without its limit, Timeout for each read.
        rule = self._directives.RequestReadTimeout
        stages = (rule["header"], rule["body"])
        patience = max(s.init + (s.rate and RECORD / s.rate) if s.init else inf for s in stages)
        session = Session(self.context, self.sock, patience)
        deadline, done = self.deadline("handshake"), False
        try:
            while not done:
                if not (data := self._read_by(deadline, RECORD)):
                    return False
                try:
                    done = session.handshake(data)
                finally:
                    if said := session.said():
                        self._send_blocking(memoryview(said))
        except (OSError, Disconnected) as error:  # ssl.SSLError is an OSError
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                raise RequestError(400, "plain HTTP to a TLS socket", ah="AH01996") from None
            return False
        self.session = session
        self.recv = session.recv
        return True

    def fill(self) -> bool:
        filled = super().fill()
        if self.session is not None and self.session.full:
            self.edge = True  # there may be more: the decrypted bytes do not show it
        return filled

    def send(self, data: bytes) -> None:
        super().send(data if self.session is None else self.session.encrypt(data))

    def _write(self, data: memoryview, flags: int = 0, more: int = 0) -> None:
        if self.session is not None:
            data = memoryview(self.session.encrypt(data))
        self._send_blocking(data, flags, more)

    def client_is_done(self) -> bool:
        return False  # its close_notify may be on its way

    def half_close(self) -> bool:
        self._say_goodbye()
        return super().half_close()

    def close(self) -> None:
        self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        """close_notify, once, if the socket takes it: the client knows that nothing was cut off."""
        session, self.session = self.session, None
        if session is not None and self.pending is None:
            with suppress(ssl.SSLError):  # the client has not said so itself: nothing waits for it
                session.object.unwrap()
            with suppress(OSError):
                self.sock.send(session.said(), _NOW)
