"""Identity by a certificate that a proxy forwards: mutual TLS ends at an ingress."""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from cryptography import x509
from typing_extensions import override

from otaflux_server.identities import Identifier, Identity, Scope, Unidentified, only_header
from otaflux_server.identities.certificates import CertificateReader, Names, pem
from otaflux_server.identities.forwarded_headers import (
    MalformedHeader,
    byte_sequence,
    escaped_pem,
    xfcc,
)
from otaflux_server.refusals import Refusal, peer
from otaflux_server.settings.identities import (
    CertificateField,
    ForwardedHeader,
    IdentitySettings,
)

_PEERS = 1024


class ForwardedCertificates(Identifier):
    """`ForwardedCertificate`: the header of a proxy at one of `settings.trusted_peers`."""

    def __init__(self, settings: IdentitySettings, names: Names) -> None:
        self._networks = settings.trusted_peers
        self._field = names.field
        self._names = names
        self._trusts = lru_cache(_PEERS)(self._is_trusted)
        forms: dict[ForwardedHeader, Callable[[Scope], Identity]] = {
            ForwardedHeader.ENVOY: self._envoy,
            ForwardedHeader.INGRESS_NGINX: self._nginx,
            ForwardedHeader.RFC9440: self._rfc9440,
        }
        self._forwarded = forms[settings.forwarded_header]
        parse = _der if settings.forwarded_header is ForwardedHeader.RFC9440 else _escaped
        self._reader = CertificateReader(names, parse)

    @override
    def identify(self, scope: Scope) -> Identity:
        if not self._trusts(peer(scope)):
            raise Unidentified(
                Refusal.UNTRUSTED_PEER, "connect by way of the proxy that knows your certificate"
            )
        try:
            return self._forwarded(scope)
        except MalformedHeader:
            raise Unidentified(
                Refusal.MALFORMED_HEADER, "the certificate's header is malformed"
            ) from None

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)

    def _envoy(self, scope: Scope) -> Identity:
        element = xfcc(self._value(scope, b"x-forwarded-client-cert"))
        if element.certificate is not None:
            return self._reader.identity(element.certificate)
        names: tuple[str, ...] = ()
        if self._field is CertificateField.URI:
            names = element.uris
        elif self._field is CertificateField.DNS and not element.uris:
            names = element.dns_names
        # Envoy does not escape names: of several, one may be made up by another, and what follows
        # a URI by that.
        return self._names.identity(names if len(names) == 1 else ())

    def _nginx(self, scope: Scope) -> Identity:
        if not _is_verified(scope):
            raise Unidentified(Refusal.NOT_VERIFIED, "the certificate was not verified")
        return self._reader.identity(self._value(scope, b"ssl-client-cert"))

    def _rfc9440(self, scope: Scope) -> Identity:
        return self._reader.identity(self._value(scope, b"client-cert"))

    def _value(self, scope: Scope, name: bytes) -> str:
        value = only_header(scope, name)
        if not value:
            raise Unidentified(Refusal.NO_CERTIFICATE, "a client certificate is needed")
        return value.decode("latin-1")


def _is_verified(scope: Scope) -> bool:
    """Whether nginx verified it; where there is none it says so, too."""
    return only_header(scope, b"ssl-client-verify") == b"SUCCESS"


def _escaped(text: str) -> x509.Certificate:
    return pem(escaped_pem(text))


def _der(text: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(byte_sequence(text))
