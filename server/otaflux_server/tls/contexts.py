"""The SSL context of one generation of a port's files."""

import ssl
from pathlib import Path
from typing import Protocol

from otaflux_server.settings import TlsSettings


class Watcher(Protocol):
    """Who began a connection."""

    def early(self) -> bytes:
        """What the client sent before there was TLS to take it."""
        ...

    def failed(self, error: ssl.SSLError) -> None:
        """The handshake failed with this error; the alert that says so has yet to be sent."""
        ...


_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_MOST_CHAIN_BYTES = 16 * 1024
"""OpenSSL takes 100 KiB, and keeps them in each of up to 20480 sessions. (A connection that ends
within its handshake takes its session with it, where it has one only.)"""


class ServerObject(ssl.SSLObject):
    """The server's side of a connection.

    The event loops drop a connection whose handshake failed, with the alert that OpenSSL has
    written for the client. So for them a failed one goes on, which has them send it; the watcher
    is told, and ends the connection.
    """

    incoming: ssl.MemoryBIO
    watcher: Watcher | None = None
    _has_failed = False

    def do_handshake(self) -> None:
        if not self._has_failed:
            try:
                super().do_handshake()
                self._check_size()
            except ssl.SSLWantReadError:
                raise
            except ssl.SSLError as error:
                self._has_failed = True
                if self.watcher is None:
                    raise
                self.watcher.failed(error)
            else:
                self.watcher = None
                return
        self.incoming.read()  # else what a client sends on and on would stay in memory
        raise ssl.SSLWantReadError

    def _check_size(self) -> None:
        size = sum(map(len, chain_of(self)))
        if size > _MOST_CHAIN_BYTES:
            raise _too_large(size)


class ServerContext(ssl.SSLContext):
    """`ServerContext(settings)` reads the settings' files.

    Sessions are kept in the context, never in tickets, so that they end with it, and that the
    whole chain of the client is known when one is resumed.

    Raises:
        OSError (also ssl.SSLError): a file cannot be read or used.
    """

    sslobject_class = ServerObject
    _expected: Watcher | None = None

    def __new__(cls, _settings: TlsSettings) -> "ServerContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, settings: TlsSettings) -> None:
        self.minimum_version = _VERSIONS[settings.minimum]
        self.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.num_tickets = 1  # each is a session
        self.set_alpn_protocols(["http/1.1"])
        self.load_cert_chain(_text(settings.certificate), _text(settings.key), password="")
        self.cipher_suites = {
            str(cipher["name"]): int(cipher["id"]) & 0xFFFF for cipher in self.get_ciphers()
        }
        """Their numbers (IANA), by OpenSSL's names."""
        if settings.client_ca is None:
            return
        self.load_verify_locations(cafile=_text(settings.client_ca))
        self.verify_mode = ssl.CERT_REQUIRED
        # What `client_ca` names is trusted, also where it is not the root.
        self.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        if settings.crl is not None:
            self.load_verify_locations(cafile=_text(settings.crl))
            # Those of authorities are looked at by `ClientAuthorities`, which knows where the
            # chain ends; here an authority that is trusted itself would need one, too.
            self.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF

    def expect(self, watcher: Watcher) -> None:
        """The connection that begins next is this one's."""
        self._expected = watcher

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """The server's side of a new connection, watched by who was expected."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, ServerObject)
        made.incoming, made.watcher, self._expected = incoming, self._expected, None
        if made.watcher is not None:
            incoming.write(made.watcher.early())
        return made


def chain_of(secured: ssl.SSLObject) -> list[bytes]:
    """What the client showed, in DER, its own certificate first; empty: nothing."""
    if hasattr(secured, "get_unverified_chain"):
        return list(secured.get_unverified_chain() or ())
    # Before Python 3.13 it is there, but has no public name.
    shown = secured._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in shown]


def _too_large(size: int) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, f"a client's chain of {size} bytes")
    error.reason = "EXCESSIVE_MESSAGE_SIZE"
    return error


def _text(path: Path | None) -> str:
    assert path is not None
    return str(path)
