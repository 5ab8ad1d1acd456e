"""Identity by certificate: which device a client certificate names, and while it is valid."""

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID
from typing_extensions import override

from otaflux_policy.devices import InvalidDeviceId, device_id
from otaflux_server.identities import Identifier, Identity, Scope, Unidentified
from otaflux_server.refusals import Refusal
from otaflux_server.settings import NAMESPACE_PATTERN
from otaflux_server.settings.identities import CertificateField, IdentitySettings

Parse = Callable[[str], x509.Certificate]
"""Reads a certificate. Raises ValueError: it is none."""

_NAMESPACE = re.compile(NAMESPACE_PATTERN.strip("^$"))
_KNOWN = 4096
"""Certificates that are remembered, so that each is read once in a connection."""


class Names:
    """The rule by which names are those of devices: `settings.identity.certificate_pattern`."""

    def __init__(self, settings: IdentitySettings, default_namespace: str) -> None:
        self.field = settings.certificate_field
        self._pattern = re.compile(settings.certificate_pattern)
        self._has_namespace = "namespace" in self._pattern.groupindex
        self._default_namespace = default_namespace

    def identity(self, names: Sequence[str]) -> Identity:
        """The device that they name. Raises Unidentified: not exactly one of them is a device's."""
        matches = [found for name in names if (found := self._pattern.fullmatch(name))]
        if len(matches) == 1:
            device = matches[0]["device"] or ""
            namespace = self._default_namespace
            if self._has_namespace:
                namespace = matches[0]["namespace"] or ""
            if _NAMESPACE.fullmatch(namespace) and _is_device(device):
                return Identity.of_device(namespace, device)
        raise Unidentified(
            Refusal.CERTIFICATE_NAMES_NO_DEVICE, "the certificate names no device, or several"
        )


class _Holder(NamedTuple):
    """Whose a certificate is, and from when to when; in seconds since 1970, both included."""

    identity: Identity
    not_before: float
    not_after: float


class CertificateReader:
    """Whose certificates are. Each is read once, as long as it is among those seen last."""

    def __init__(
        self, names: Names, parse: Parse, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._names = names
        self._parse = parse
        self._clock = clock
        self._holder = lru_cache(_KNOWN)(self._read)

    def identity(self, text: str) -> Identity:
        """Whose the certificate is. Raises Unidentified: it is no device's, or is not valid now."""
        holder = self._holder(text)
        if not holder.not_before <= self._clock() <= holder.not_after:
            raise Unidentified(Refusal.CERTIFICATE_EXPIRED, "the certificate is not valid now")
        return holder.identity

    def _read(self, text: str) -> _Holder:
        try:
            certificate = self._parse(text)
            names = _names(certificate, self._names.field)
        except (
            ValueError,
            x509.DuplicateExtension,
            x509.InvalidVersion,
            x509.UnsupportedGeneralNameType,
        ):
            raise Unidentified(
                Refusal.CERTIFICATE_UNREADABLE, "the certificate cannot be read"
            ) from None
        return _Holder(
            self._names.identity(names),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )


class Certificates(Identifier):
    """`Certificate`: mutual TLS ends at this server, which has verified the certificate."""

    def __init__(self, names: Names) -> None:
        self._reader = CertificateReader(names, pem)

    @override
    def identify(self, scope: Scope) -> Identity:
        extension = scope.get("extensions", {}).get("tls")
        chain = extension["client_cert_chain"] if extension else ()
        if not chain:
            raise Unidentified(Refusal.NO_CERTIFICATE, "a client certificate is needed")
        return self._reader.identity(chain[0])


def pem(text: str) -> x509.Certificate:
    """The only certificate of a PEM. Raises ValueError."""
    (certificate,) = x509.load_pem_x509_certificates(text.encode())
    return certificate


def _names(certificate: x509.Certificate, field: CertificateField) -> list[str]:
    if field is CertificateField.COMMON_NAME:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [each.value for each in found if isinstance(each.value, str)]
    try:
        extension = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
    except x509.ExtensionNotFound:
        return []
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    if field is CertificateField.URI:
        return extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    return extension.value.get_values_for_type(x509.DNSName)


def _is_device(text: str) -> bool:
    try:
        device_id(text)
    except InvalidDeviceId:
        return False
    return True
