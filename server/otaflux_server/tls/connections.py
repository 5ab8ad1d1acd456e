"""A connection on TLS: what the application is told of it, and whether it is still accepted."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime

from cryptography import x509

from otaflux_server.tls.contexts import ServerContext, chain_of
from otaflux_server.tls.generations import Generation
from otaflux_server.tls.ports import TlsPort
from otaflux_server.tls.reasons import TlsRefusal
from otaflux_server.tls.revocations import NotAccepted

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class SecureConnection:
    """`extensions`: for ASGI scopes, the TLS extension; the same objects for all its requests.

    https://asgi.readthedocs.io/en/latest/specs/tls.html
    """

    def __init__(self, port: TlsPort, transport: asyncio.BaseTransport, peer: str) -> None:
        self._port = port
        self._peer = peer
        secured: ssl.SSLObject = transport.get_extra_info("ssl_object")
        shown = chain_of(secured)
        self._chain = _read(shown)
        self._accepted_by: Generation | None = None
        self._until = 0.0
        cipher, context = secured.cipher(), secured.context
        numbers = context.cipher_suites if isinstance(context, ServerContext) else {}
        extension: dict[object, object] = {
            "server_cert": port.generation.certificate,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(content) for content in shown],
            "client_cert_name": _name(self._chain),
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(secured.version() or ""),
            "cipher_suite": numbers.get(cipher[0]) if cipher is not None else None,
        }
        self.extensions: dict[str, dict[object, object]] = {"tls": extension}

    def refusal(self) -> TlsRefusal | None:
        """Why the client's next request is not answered; None: it is.

        Files may have been replaced since the one before, or time may have passed.
        """
        generation = self._port.generation
        now = self._port.clock()
        if generation is self._accepted_by and now < self._until:
            return None
        self._accepted_by = None
        try:
            self._until = self._accepted_until(generation, now)
        except NotAccepted as error:
            self._port.refused(error.reason, self._peer, str(error))
            return error.reason
        self._accepted_by = generation
        return None

    def _accepted_until(self, generation: Generation, now: float) -> float:
        if generation.authorities is None:
            return float("inf")
        if self._chain is None:
            raise NotAccepted(TlsRefusal.CERTIFICATE_UNFIT, "it cannot be read")
        try:
            until = generation.authorities.accept(self._chain, datetime.fromtimestamp(now, UTC))
        except NotAccepted:
            raise
        except Exception as error:  # of many kinds: its parts are read only when they are looked at
            raise NotAccepted(TlsRefusal.CERTIFICATE_UNFIT, type(error).__name__) from None
        return until.timestamp()


def _read(shown: list[bytes]) -> list[x509.Certificate] | None:
    """None: one of them cannot be read. OpenSSL takes more than is a certificate for us."""
    try:
        return [x509.load_der_x509_certificate(content) for content in shown]
    except Exception:  # `x509.InvalidVersion`, for example, is no ValueError
        return None


def _name(chain: list[x509.Certificate] | None) -> str | None:
    """RFC 4514."""
    with contextlib.suppress(Exception):  # as above
        return chain[0].subject.rfc4514_string() if chain else None
    return None
